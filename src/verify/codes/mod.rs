//! Every stable code with its meaning and remedy: the one source of `docs/errors.md` and `protem explain-error`.

pub mod caller;
pub mod check;
pub mod fault;
pub mod law;
pub mod policy;
pub mod tool;
pub mod wire;

/// A stable code. It never changes its meaning; a retired one is not given again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `PT-0101`.
    pub id: &'static str,
    /// What happened, in a few words.
    pub title: &'static str,
    /// Why it happens.
    pub why: &'static str,
    /// What to do next.
    pub remedy: &'static str,
}

/// All codes, by number.
#[must_use]
pub fn all() -> Vec<Code> {
    let ranges = [law::ALL, wire::ALL, policy::ALL, check::ALL, fault::ALL, caller::ALL, tool::ALL];
    let mut all = ranges.concat();
    all.sort_by_key(|code| code.id);
    all
}

/// The entry of a code: `PT-0101`, in any case.
#[must_use]
pub fn find(id: &str) -> Option<Code> {
    all().into_iter().find(|code| code.id.eq_ignore_ascii_case(id))
}

/// Declares a range of codes and `ALL` of them.
#[macro_export]
macro_rules! codes {
    ($($name:ident = $id:literal, $title:literal, $why:literal, $remedy:literal;)*) => {
        $(
            #[doc = $title]
            pub const $name: $crate::codes::Code =
                $crate::codes::Code { id: $id, title: $title, why: $why, remedy: $remedy };
        )*
        /// All codes of this range.
        pub const ALL: &[$crate::codes::Code] = &[$($name),*];
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn codes_are_unique_and_find_themselves() {
        let mut ids: Vec<_> = super::all().iter().map(|code| code.id).collect();
        let count = ids.len();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count);
        assert!(ids.iter().all(|id| super::find(&id.to_lowercase()).is_some()));
    }
}
