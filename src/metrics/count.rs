//! Counts and levels, one for each value of a label whose values are all known when the program is built.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// A label and all the values that it can have: texts of the program, so that nothing a caller sends becomes one
/// (CVE-2026-49835), and a series is never added while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name; empty: there is one series, without a label.
    pub name: &'static str,
    /// Its values.
    pub values: &'static [&'static str],
}

impl Label {
    /// No label: one series.
    pub const NONE: Self = Self { name: "", values: &[""] };

    /// The place of a value.
    #[must_use]
    pub fn place(&self, value: &str) -> Option<usize> {
        self.values.iter().position(|known| *known == value)
    }
}

/// Counts that only rise. Clones are one.
#[derive(Clone, Debug)]
pub struct Counts(Series);

/// Levels that rise and fall; unknown until they are set. Clones are one.
#[derive(Clone, Debug)]
pub struct Levels(Series);

#[derive(Clone)]
struct Series {
    label: Label,
    values: Arc<[AtomicU64]>,
}

impl Counts {
    /// Zero for each value of the label.
    #[must_use]
    pub fn new(label: Label) -> Self {
        Self(Series::new(label, 0))
    }

    /// One that is not labelled.
    #[must_use]
    pub fn one() -> Self {
        Self::new(Label::NONE)
    }

    /// Adds `by` at a place of the label; a place that is none changes nothing.
    pub fn add(&self, place: usize, by: u64) {
        if let Some(count) = self.0.values.get(place) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Adds `by` to the one that is not labelled.
    pub fn rise(&self, by: u64) {
        self.add(0, by);
    }

    /// Adds one for this value of the label; one that it does not have changes nothing.
    pub fn count(&self, value: &str) {
        if let Some(place) = self.0.label.place(value) {
            self.add(place, 1);
        }
    }

    /// What is counted at a place.
    #[must_use]
    pub fn at(&self, place: usize) -> u64 {
        self.0.values.get(place).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl Levels {
    /// Unknown for each value of the label.
    #[must_use]
    pub fn new(label: Label) -> Self {
        Self(Series::new(label, f64::NAN.to_bits()))
    }

    /// One that is not labelled.
    #[must_use]
    pub fn one() -> Self {
        Self::new(Label::NONE)
    }

    /// Sets the level at a place of the label.
    pub fn set(&self, place: usize, to: f64) {
        if let Some(level) = self.0.values.get(place) {
            level.store(to.to_bits(), Ordering::Relaxed);
        }
    }

    /// Sets the one that is not labelled; `None`: it is unknown now.
    pub fn put(&self, to: Option<f64>) {
        self.set(0, to.unwrap_or(f64::NAN));
    }
}

impl Series {
    fn new(label: Label, value: u64) -> Self {
        Self { label, values: label.values.iter().map(|_| AtomicU64::new(value)).collect() }
    }

    fn each(
        &self,
        encoder: &mut MetricEncoder<'_>,
        write: impl Fn(&mut MetricEncoder<'_>, u64) -> fmt::Result,
    ) -> fmt::Result {
        for (name, value) in self.label.values.iter().zip(self.values.iter()) {
            let value = value.load(Ordering::Relaxed);
            if self.label.name.is_empty() {
                write(encoder, value)?;
            } else {
                write(&mut encoder.encode_family(&[(self.label.name, *name)])?, value)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Series").field("label", &self.label.name).finish_non_exhaustive()
    }
}

impl EncodeMetric for Counts {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let write = |encoder: &mut MetricEncoder<'_>, value: u64| {
            encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
        };
        self.0.each(&mut encoder, write)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

impl EncodeMetric for Levels {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let write =
            |encoder: &mut MetricEncoder<'_>, value| encoder.encode_gauge(&f64::from_bits(value));
        self.0.each(&mut encoder, write)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIDES: Label = Label { name: "side", values: &["left", "right"] };

    #[test]
    fn only_known_values_are_counted() {
        let counts = Counts::new(SIDES);
        counts.count("right");
        counts.count("payments/agent");
        counts.add(0, 3);
        counts.add(2, 9);
        assert_eq!((counts.at(0), counts.at(1), counts.at(2)), (3, 1, 0));
        assert_eq!(counts.0.values.len(), 2);
    }
}
