//! What was reached at least once: a fault that never happens proves nothing.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    pub fn add(&mut self, what: &'static str) {
        self.many(what, 1);
    }

    pub fn many(&mut self, what: &'static str, count: u64) {
        *self.0.entry(what).or_default() += count;
    }

    pub fn all(&mut self, others: &Self) {
        others.0.iter().for_each(|(what, count)| self.many(what, *count));
    }

    /// Those of `wanted` that never happened.
    pub fn missing<'a>(&self, wanted: &[&'a str]) -> Vec<&'a str> {
        wanted
            .iter()
            .filter(|what| self.0.get(**what).is_none_or(|count| *count == 0))
            .copied()
            .collect()
    }
}
