//! Latencies of one kind: recorded in nanoseconds, told as percentiles in microseconds.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart; a longer one counts as this. A minute is far beyond every time-out here.
const LONGEST_NS: u64 = 60_000_000_000;

/// A histogram of one kind of latency.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
}

impl Latency {
    /// An empty histogram: three significant digits from 1 ns to a minute.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST_NS, 3)
            .expect("the bounds are constants that the crate takes");
        Latency { histogram }
    }

    /// Counts one latency.
    pub(crate) fn record_ns(&mut self, ns: u64) {
        self.histogram.saturating_record(ns.max(1));
    }

    /// The percentiles that are told, or `None` when nothing was counted.
    pub(crate) fn summary(&self) -> Option<Summary> {
        if self.histogram.is_empty() {
            return None;
        }
        let at = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        Some(Summary {
            count: self.histogram.len(),
            mean_us: self.histogram.mean() / 1_000.0,
            p50_us: at(0.50),
            p99_us: at(0.99),
            p999_us: at(0.999),
            p9999_us: at(0.9999),
            max_us: self.histogram.max() as f64 / 1_000.0,
        })
    }
}

/// What is told of a histogram. All times are microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Summary {
    /// Latencies counted.
    pub(crate) count: u64,
    /// Their mean.
    pub(crate) mean_us: f64,
    /// Half were at most this.
    pub(crate) p50_us: f64,
    /// 99 % were at most this.
    pub(crate) p99_us: f64,
    /// 99.9 % were at most this.
    pub(crate) p999_us: f64,
    /// 99.99 % were at most this.
    pub(crate) p9999_us: f64,
    /// The longest.
    pub(crate) max_us: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the figures of every table: percentiles within the promised three digits, and a latency beyond the
    /// range counted as the longest instead of lost.
    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latency = Latency::new();
        assert!(latency.summary().is_none());
        for us in 1..=10_000u64 {
            latency.record_ns(us * 1_000);
        }
        let summary = latency.summary().unwrap();
        let near = |found: f64, expected: f64| (found - expected).abs() / expected < 0.002;
        assert_eq!(summary.count, 10_000);
        assert!(near(summary.p50_us, 5_000.0), "{summary:?}");
        assert!(near(summary.p99_us, 9_900.0), "{summary:?}");
        assert!(near(summary.p9999_us, 9_999.0), "{summary:?}");
        assert!(near(summary.max_us, 10_000.0), "{summary:?}");
        latency.record_ns(u64::MAX);
        let summary = latency.summary().unwrap();
        assert_eq!(summary.count, 10_001);
        assert!(near(summary.max_us, 60_000_000.0), "{summary:?}");
    }
}
