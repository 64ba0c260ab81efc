//! A small chart of lags: bars on one scale, drawn here, so that no script is needed; each is told in words as well.

use std::time::Duration;

use crate::serve::ui::words::brief;

/// The chart.
#[derive(Debug, Default)]
pub struct Chart {
    /// Its bars.
    pub bars: Vec<Bar>,
    /// What the right edge stands for.
    pub scale: String,
}

/// One gateway's lag.
#[derive(Debug, PartialEq, Eq)]
pub struct Bar {
    /// Whose.
    pub label: String,
    /// Half of the time it is at most this.
    pub p50: String,
    /// 99 of 100 times it is at most this.
    pub p99: String,
    /// The bars' lengths, in thousandths of the scale.
    pub half: u64,
    /// The same of `p99`.
    pub most: u64,
}

impl Chart {
    /// Of labels with their two lags.
    #[must_use]
    pub fn of(lags: &[(String, Duration, Duration)]) -> Self {
        let longest = lags.iter().map(|(_, p50, p99)| (*p50).max(*p99)).max();
        let Some(longest) = longest else { return Self::default() };
        let scale = scale(longest);
        let bar = |(label, p50, p99): &(String, Duration, Duration)| Bar {
            label: label.clone(),
            p50: brief(*p50),
            p99: brief(*p99),
            half: share(*p50, scale),
            most: share(*p99, scale),
        };
        Self { bars: lags.iter().map(bar).collect(), scale: brief(scale) }
    }
}

/// The next of 1, 2, 5, 10 … milliseconds that holds the longest.
fn scale(longest: Duration) -> Duration {
    let mut step: u64 = 1;
    loop {
        for times in [1, 2, 5] {
            let scale = Duration::from_millis(step.saturating_mul(times));
            if scale >= longest || step >= STEP_MAX {
                return scale;
            }
        }
        step = step.saturating_mul(10);
    }
}

/// Never nothing: a bar that cannot be seen looks like one that is missing.
fn share(of: Duration, scale: Duration) -> u64 {
    let share = of.as_micros().saturating_mul(1_000) / scale.as_micros().max(1);
    u64::try_from(share).unwrap_or(1_000).clamp(6, 1_000)
}

/// Beyond eleven days nobody reads a lag off a chart.
const STEP_MAX: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_a_round_scale() {
        let ms = Duration::from_millis;
        let lags = [("a".to_owned(), ms(2), ms(30)), ("b".to_owned(), ms(0), ms(50))];
        let chart = Chart::of(&lags);
        assert_eq!(chart.scale, "50 ms");
        let drawn: Vec<_> = chart.bars.iter().map(|bar| (bar.half, bar.most)).collect();
        assert_eq!(drawn, [(40, 600), (6, 1_000)]);
        assert_eq!((&*chart.bars[1].p50, &*chart.bars[1].p99), ("under 1 ms", "50 ms"));
        assert!(Chart::of(&[]).bars.is_empty());
        assert_eq!(scale(Duration::MAX), ms(STEP_MAX));
    }
}
