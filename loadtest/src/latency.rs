//! Latencies of one kind: recorded in nanoseconds, told as percentiles in microseconds.

use std::time::Duration;

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

/// Percentiles of the curve that reports draw: dense where the tail is.
const CURVE: [f64; 13] =
    [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999, 0.99999, 1.0];

impl Latency {
    /// Points of the curve of percentiles: the share, and the microseconds that so many were within.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        if self.histogram.is_empty() {
            return Vec::new();
        }
        let at = |share| self.histogram.value_at_quantile(share) as f64 / 1_000.0;
        CURVE.iter().map(|&share| (share, at(share))).collect()
    }
}

/// Acks second by second, from the start of the time that counts.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// When the second under way ends, since the run began.
    next_end: Duration,
    since: Duration,
    current: Latency,
    events: u64,
    seconds: Vec<Second>,
}

/// One second of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Second {
    /// Its end, counted from the start of the time that counts.
    pub(crate) at_s: f64,
    /// Events acknowledged in it.
    pub(crate) events: u64,
    /// Median ack latency, from the intended time.
    pub(crate) p50_us: f64,
    /// 99th percentile.
    pub(crate) p99_us: f64,
    /// The longest.
    pub(crate) max_us: f64,
}

impl Series {
    /// A series that starts after the warm-up.
    pub(crate) fn new(warm_up: Duration) -> Self {
        Series {
            next_end: warm_up + Duration::from_secs(1),
            since: warm_up,
            current: Latency::new(),
            events: 0,
            seconds: Vec::new(),
        }
    }

    /// Counts the ack of a batch.
    pub(crate) fn record(&mut self, ns: u64, events: u32) {
        self.current.record_ns(ns);
        self.events += u64::from(events);
    }

    /// Ends the second under way if it is over at `now`, since the run began. Seconds without an ack are left out.
    pub(crate) fn roll(&mut self, now: Duration) {
        if now < self.next_end {
            return;
        }
        if let Some(summary) = self.current.summary() {
            self.seconds.push(Second {
                at_s: (self.next_end - self.since).as_secs_f64(),
                events: self.events,
                p50_us: summary.p50_us,
                p99_us: summary.p99_us,
                max_us: summary.max_us,
            });
            self.current.histogram.reset();
            self.events = 0;
        }
        while self.next_end <= now {
            self.next_end += Duration::from_secs(1);
        }
    }

    /// The seconds that are over.
    pub(crate) fn seconds(&self) -> &[Second] {
        &self.seconds
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
