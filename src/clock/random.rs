//! Randomness from the operating system.

/// Fills a fresh array with random bytes.
///
/// # Panics
/// Never returns without randomness: a machine that has none cannot make a safe id or key, so the process ends here.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one door to the system's randomness")]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if getrandom::fill(&mut bytes).is_err() {
        std::process::abort();
    }
    bytes
}
