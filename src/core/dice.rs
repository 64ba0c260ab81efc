//! Chance, as an argument.

use protem_verify::ids::GrantId;
use protem_verify::time::Time;

/// Where random bytes come from: the system's, or a simulation's seed.
pub trait Dice {
    /// 16 fresh random bytes.
    fn bytes(&mut self) -> [u8; 16];
}

/// A fresh grant id: a UUIDv7 (RFC 9562 §5.7), so ids sort by creation.
pub(crate) fn grant_id(now: Time, dice: &mut dyn Dice) -> GrantId {
    let [_, _, a, b, c, d, e, f] = now.as_millis().to_be_bytes();
    let [.., g, h, i, j, k, l, m, n, o, p] = dice.bytes();
    GrantId([a, b, c, d, e, f, (g & 0x0f) | 0x70, h, (i & 0x3f) | 0x80, j, k, l, m, n, o, p])
}
