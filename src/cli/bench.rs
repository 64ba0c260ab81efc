//! `protem bench`: what a broker reaches here and now, beside probes of the machine in the same run.

use std::time::Duration;

use protem_clock::clock::{Clock, SystemClock};
use serde::Serialize;

use crate::cli::args::Global;
use crate::cli::args_operate::BenchCommand;
use crate::cli::client::screen;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{Screen, columns};
use crate::cli::{bench_fanout, bench_flood, bench_load, bench_login, bench_start, bench_verify};

/// Measures.
///
/// # Errors
/// When the broker does not start, or a call that must succeed fails.
pub async fn bench(global: &Global, command: &BenchCommand) -> Result<Exit, Failure> {
    let screen = screen(global)?;
    let report = match command {
        BenchCommand::Issue(args) => bench_load::issue(global, &screen, args).await?,
        BenchCommand::Revoke(args) => bench_load::revoke(global, &screen, args).await?,
        BenchCommand::Fanout(args) => bench_fanout::fanout(global, &screen, args).await?,
        BenchCommand::Flood(args) => bench_flood::flood(global, &screen, args).await?,
        BenchCommand::Login(args) => bench_login::login(&screen, args).await?,
        BenchCommand::Verify(args) => bench_verify::verify(&screen, args).await?,
        BenchCommand::Start(args) => bench_start::start(&screen, args).await?,
    };
    report.show(&screen);
    Ok(Exit::Done)
}

/// What was measured, and what the machine itself reaches.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was measured.
    pub bench: &'static str,
    /// With how many at once.
    pub concurrency: usize,
    /// The product.
    pub result: Figures,
    /// The machine, in the same run.
    pub probes: Vec<Figures>,
    /// Product to probe, where the two can be compared.
    pub ratios: Vec<(String, f64)>,
}

/// The figures of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// What.
    pub name: String,
    /// Operations that were measured.
    pub operations: u64,
    /// Operations that failed; none of them is among the others.
    pub failed: u64,
    /// A second.
    pub per_second: f64,
    /// Median, in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, in milliseconds.
    pub p99_ms: f64,
    /// Processor time of the server for each, in microseconds; absent where there is no server of ours.
    pub server_cpu_us: Option<f64>,
}

impl Figures {
    /// From latencies in microseconds, over a stretch of time.
    #[must_use]
    pub fn of(name: &str, micros: Vec<u64>, failed: u64, over: Duration) -> Self {
        let nanos = micros.into_iter().map(|micros| micros.saturating_mul(1_000)).collect();
        Self::of_nanos(name, nanos, failed, over)
    }

    /// From latencies in nanoseconds.
    #[must_use]
    pub fn of_nanos(name: &str, mut nanos: Vec<u64>, failed: u64, over: Duration) -> Self {
        nanos.sort_unstable();
        let count = u32::try_from(nanos.len()).unwrap_or(u32::MAX);
        let operations = u64::from(count);
        let seconds = over.as_secs_f64().max(1e-9);
        Self {
            name: name.to_owned(),
            operations,
            failed,
            per_second: f64::from(count) / seconds,
            p50_ms: percentile(&nanos, 50),
            p99_ms: percentile(&nanos, 99),
            server_cpu_us: None,
        }
    }

    /// With the server's processor time over all operations.
    #[must_use]
    pub fn cpu(mut self, cpu: Option<Duration>) -> Self {
        let count = u32::try_from(self.operations).unwrap_or(u32::MAX).max(1);
        self.server_cpu_us = cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / f64::from(count));
        self
    }
}

fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let at = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    let nanos = Duration::from_nanos(sorted.get(at).copied().unwrap_or(0));
    // Whole nanoseconds first, so that the figure is the one that was measured, without a tail of nines.
    (nanos.as_secs_f64() * 1e9).round() / 1e6
}

impl Report {
    fn show(&self, screen: &Screen) {
        if screen.json {
            screen.print(serde_json::to_string_pretty(self).unwrap_or_default());
            return;
        }
        let rows: Vec<Vec<String>> =
            std::iter::once(&self.result).chain(&self.probes).map(row).collect();
        let heads = ["WHAT", "PER SECOND", "P50 MS", "P99 MS", "SERVER CPU US", "COUNT", "FAILED"];
        screen.print(columns(&heads, &rows));
        for (name, ratio) in &self.ratios {
            screen.print(format!("{name}: {ratio:.2}"));
        }
    }
}

fn row(figures: &Figures) -> Vec<String> {
    vec![
        figures.name.clone(),
        format!("{:.0}", figures.per_second),
        format!("{:.3}", figures.p50_ms),
        format!("{:.3}", figures.p99_ms),
        figures.server_cpu_us.map_or("-".to_owned(), |cpu| format!("{cpu:.0}")),
        figures.operations.to_string(),
        figures.failed.to_string(),
    ]
}

/// Microseconds since the machine started.
#[must_use]
pub fn now_us() -> u64 {
    u64::try_from(SystemClock.boot().as_micros()).unwrap_or(u64::MAX)
}

/// The processor time that a process has used.
#[must_use]
pub fn cpu_of(pid: Option<u32>) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid?)).ok()?;
    parse_stat(&stat)
}

/// proc_pid_stat(5): fields 14 and 15, counted after the name's closing parenthesis, in ticks of 10 ms.
fn parse_stat(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(user.saturating_add(system).saturating_mul(10)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted() {
        let figures = Figures::of("x", (1..=1_000).rev().collect(), 0, Duration::from_secs(2));
        assert_eq!((figures.p50_ms, figures.p99_ms), (0.501, 0.991));
        assert_eq!(figures.per_second, 500.0);
        let figures = figures.cpu(Some(Duration::from_millis(50)));
        assert_eq!(figures.server_cpu_us, Some(50.0));
    }

    #[test]
    fn no_operations_are_no_division() {
        let figures = Figures::of("x", Vec::new(), 3, Duration::ZERO);
        assert_eq!((figures.p50_ms, figures.per_second, figures.failed), (0.0, 0.0, 3));
    }

    #[test]
    fn processor_time_is_user_and_system() {
        let stat = "77 (a (b) c) S 1 77 77 0 -1 4194304 1 0 0 0 150 50 0 0 20 0 9 0 1 1 1";
        assert_eq!(parse_stat(stat), Some(Duration::from_secs(2)));
    }
}
