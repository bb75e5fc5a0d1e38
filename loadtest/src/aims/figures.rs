//! Figures by the names that aims call them by: of a load's row, and of the machine's.

use crate::latency::Summary;
use crate::load_row::{EVENTS, WRITTEN};
use crate::report::Row;

/// The machine's rows, in the order in which they are measured, and the kind of latency that each is about.
const MACHINE: [(&str, &str); 4] = [
    ("raw", "write"),
    ("trip", "round trip"),
    ("trip at 1000/s", "round trip"),
    ("trip at 10000/s", "round trip"),
];
/// A percentile by its name.
type Percentile = (&'static str, fn(&Summary) -> f64);
const PERCENTILES: [Percentile; 3] = [
    ("p50", |summary| summary.p50_us),
    ("p99", |summary| summary.p99_us),
    ("p99.9", |summary| summary.p999_us),
];

/// Whether the machine has a figure of this name.
pub(super) fn is_known(name: &str) -> bool {
    let has = |(row, percentile): (&str, &str)| {
        MACHINE.iter().any(|(known, _)| *known == row)
            && PERCENTILES.iter().any(|(known, _)| *known == percentile)
    };
    name.rsplit_once(' ').is_some_and(has)
}

/// A figure of the machine's rows (`raw p50`), in microseconds.
pub(super) fn of_machine(rows: &[Row], name: &str) -> Option<f64> {
    let (row, percentile) = name.rsplit_once(' ')?;
    let index = MACHINE.iter().position(|(known, _)| *known == row)?;
    latency(rows.get(index)?, MACHINE[index].1, percentile)
}

/// A figure of a row: a rate, a latency (`ack p50`), what is made of several, or one of its own by its name.
pub(super) fn of_row(row: &Row, name: &str) -> Option<f64> {
    match name {
        "events/s" => row.rate_per_s,
        "bytes written an event" => {
            Some(row.value(WRITTEN)? / row.value(EVENTS).filter(|events| *events > 0.0)?)
        }
        "server memory, MB" => Some(row.server.as_ref()?.rss_peak_bytes as f64 / 1e6),
        name => row
            .value(name)
            .or_else(|| name.rsplit_once(' ').and_then(|(kind, at)| latency(row, kind, at))),
    }
}

fn latency(row: &Row, kind: &str, percentile: &str) -> Option<f64> {
    let found = row.latencies.iter().find(|latency| latency.kind == kind)?;
    let (_, at) = PERCENTILES.iter().find(|(name, _)| *name == percentile)?;
    Some(at(&found.summary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    /// A name that is read as another figure judges the wrong thing.
    #[test]
    fn figures_are_found_by_their_names() {
        let mut latency = Latency::new();
        (1..=1_000).for_each(|us| latency.record_ns(us * 1_000));
        let mut row = Row::new("x");
        row.latency("ack", latency.summary());
        row.rate_per_s = Some(7.0);
        row.figure(EVENTS, 10.0);
        row.figure(WRITTEN, 1_280.0);
        row.figure("server CPU us an event", 3.0);
        let near = |name, expected: f64| {
            of_row(&row, name).is_some_and(|found| (found - expected).abs() < expected / 100.0)
        };
        for (name, expected) in [
            ("events/s", 7.0),
            ("bytes written an event", 128.0),
            ("server CPU us an event", 3.0),
            ("ack p50", 500.0),
            ("ack p99.9", 999.0),
        ] {
            assert!(near(name, expected), "{name}: {:?}", of_row(&row, name));
        }
        assert_eq!(of_row(&row, "end to end p50"), None);
        assert!(is_known("trip at 1000/s p99.9") && !is_known("trip at 2000/s p50"));
        assert_eq!(of_machine(&[row], "raw p50"), None, "a row without writes");
    }
}
