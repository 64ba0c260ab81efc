//! How values spread over fixed steps: two atomic additions for each, where other histograms take a lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Values by step. Kept in millionths, so that seconds are counted in microseconds. Clones are one.
#[derive(Clone)]
pub struct Spread {
    /// Upper ends in millionths, rising.
    steps: &'static [u64],
    /// One for each step, and one for what lies beyond the last.
    counts: Arc<[AtomicU64]>,
    sum: Arc<AtomicU64>,
}

/// A millionth of a unit, in a unit.
const MILLION: u64 = 1_000_000;

impl Spread {
    /// Nothing yet. `steps`: their upper ends in millionths, rising.
    #[must_use]
    pub fn new(steps: &'static [u64]) -> Self {
        let counts = (0..=steps.len()).map(|_| AtomicU64::new(0)).collect();
        Self { steps, counts, sum: Arc::default() }
    }

    /// Adds a time.
    pub fn took(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds a number of things.
    pub fn counted(&self, things: usize) {
        self.add(u64::try_from(things).unwrap_or(u64::MAX).saturating_mul(MILLION));
    }

    fn add(&self, millionths: u64) {
        let step = self.steps.partition_point(|end| *end < millionths);
        if let Some(count) = self.counts.get(step) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(millionths, Ordering::Relaxed);
    }

    /// How many values were added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().fold(0, |sum, one| sum.saturating_add(one.load(Ordering::Relaxed)))
    }
}

fn units(millionths: u64) -> f64 {
    Duration::from_micros(millionths).as_secs_f64()
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spread").finish_non_exhaustive()
    }
}

impl EncodeMetric for Spread {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let ends = self.steps.iter().map(|end| units(*end)).chain([f64::INFINITY]);
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        let steps: Vec<(f64, u64)> = ends.zip(counts).collect();
        // The count is that of the steps, so that a page agrees with itself whatever is added meanwhile.
        let count = steps.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
        let sum = units(self.sum.load(Ordering::Relaxed));
        encoder.encode_histogram::<NoLabelSet>(sum, count, &steps, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_step_that_holds_it() {
        let spread = Spread::new(&[1_000, 1_000_000]);
        for (millis, expect) in [(0, 0), (1, 0), (2, 1), (1_000, 1), (1_001, 2), (u64::MAX, 2)] {
            let before: Vec<u64> = read(&spread);
            spread.took(Duration::from_millis(millis));
            let after = read(&spread);
            let grown: Vec<usize> = (0..3).filter(|at| after[*at] > before[*at]).collect();
            assert_eq!(grown, [expect], "{millis} ms");
        }
        assert_eq!(spread.count(), 6);
    }

    fn read(spread: &Spread) -> Vec<u64> {
        spread.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}
