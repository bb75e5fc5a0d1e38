//! What the admin port tells at one moment, and what two such moments tell of the time between.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::super::admin::AdminPort;
use super::super::failure::Failure;

/// Most subscriptions that are asked for: those beyond are in `ringmesh lag`.
const SUBSCRIPTIONS_MAX: usize = 1_000;

/// The answers at one moment.
pub(super) struct Reading {
    at: Instant,
    address: String,
    server: Value,
    shards: Vec<Value>,
    logs: Vec<Value>,
    subscriptions: Vec<Value>,
    metrics: String,
}

/// A server at a moment, with rates since the one before.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Snapshot {
    pub(super) server: ServerPart,
    /// What the rates are the mean of; 0 of a first reading, whose rates are 0.
    pub(super) interval_seconds: f64,
    pub(super) rates: Rates,
    pub(super) latencies: Latencies,
    pub(super) connections: u64,
    pub(super) memory_bytes: u64,
    pub(super) memory_bytes_max: u64,
    pub(super) shards: Vec<ShardRow>,
    pub(super) subscriptions: Vec<SubscriptionRow>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct ServerPart {
    pub(super) version: String,
    /// The admin port that was asked.
    pub(super) admin: String,
    pub(super) native: String,
    pub(super) ready: bool,
    pub(super) up_seconds: f64,
}

/// Of a second each.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Rates {
    pub(super) published_events: f64,
    pub(super) published_bytes: f64,
    pub(super) delivered_events: f64,
    pub(super) delivered_bytes: f64,
    pub(super) redelivered_events: f64,
    pub(super) settled_events: f64,
    pub(super) disk_writes: f64,
    /// Cores that were busy.
    pub(super) cpu_cores: f64,
}

/// Null when nothing was written in the interval.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Latencies {
    pub(super) disk_write_p50_seconds: Option<f64>,
    pub(super) disk_write_p99_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct ShardRow {
    pub(super) shard: u64,
    pub(super) connections: u64,
    pub(super) connections_waiting: u64,
    pub(super) published_events_per_second: f64,
    pub(super) delivered_events_per_second: f64,
    pub(super) published_bytes_per_second: f64,
    pub(super) in_flight_bytes: u64,
    pub(super) log_bytes: u64,
    /// State of the log that is written.
    pub(super) log_state: String,
}

#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct SubscriptionRow {
    pub(super) name: String,
    pub(super) members: u64,
    pub(super) in_flight_events: u64,
    pub(super) lag_events: u64,
    pub(super) lag_bytes: u64,
    pub(super) lag_seconds: f64,
    /// Below 0 when it catches up.
    pub(super) lag_change_per_second: f64,
}

impl Reading {
    /// Asks for everything.
    pub(super) fn take(port: &AdminPort<'_>) -> Result<Self, Failure> {
        let list = |name: &str| {
            let page = port.get(&format!("{name}?limit={SUBSCRIPTIONS_MAX}"));
            page.map(|page| page["items"].as_array().cloned().unwrap_or_default())
        };
        Ok(Reading {
            address: port.address()?,
            server: port.get("server")?,
            shards: list("shards")?,
            logs: list("logs")?,
            subscriptions: list("subscriptions")?,
            metrics: port.metrics()?,
            at: Instant::now(),
        })
    }

    /// The sum of a metric over its labels.
    fn sum(&self, name: &str) -> f64 {
        samples(&self.metrics, name).map(|(_, value)| value).sum()
    }

    /// How many writes took at most each bound, in seconds, over all shards.
    fn writes(&self) -> Vec<(f64, f64)> {
        let mut bounds: Vec<(f64, f64)> = Vec::new();
        for (labels, count) in samples(&self.metrics, "ringmesh_disk_write_seconds_bucket") {
            let bound = labels.split("le=\"").nth(1).and_then(|rest| rest.split('"').next());
            let bound = bound.and_then(|bound| bound.parse().ok()).unwrap_or(f64::INFINITY);
            match bounds.iter_mut().find(|(other, _)| *other == bound) {
                Some((_, sum)) => *sum += count,
                None => bounds.push((bound, count)),
            }
        }
        bounds
    }
}

/// The samples of a metric: what stands in braces, and the value.
fn samples<'a>(text: &'a str, name: &str) -> impl Iterator<Item = (&'a str, f64)> {
    let name = name.to_owned();
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(name.as_str())?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        Some((labels, value.parse().ok()?))
    })
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// How fast a count has risen. A server that was started anew counts from 0, which is no rate.
fn rate(before: f64, after: f64, seconds: f64) -> f64 {
    if seconds > 0.0 && after >= before { (after - before) / seconds } else { 0.0 }
}

impl Snapshot {
    /// The later of two readings, with what changed since the earlier.
    pub(super) fn between(before: &Reading, after: &Reading) -> Self {
        let interval = after.at.saturating_duration_since(before.at);
        let seconds = interval.as_secs_f64();
        let since_1970 = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
        Snapshot {
            server: ServerPart {
                version: text(&after.server["version"]),
                admin: after.address.clone(),
                native: text(&after.server["native"]),
                ready: after.sum("ringmesh_ready") > 0.0,
                up_seconds: since_1970.as_secs_f64() - after.sum("process_start_time_seconds"),
            },
            interval_seconds: seconds,
            rates: rates(before, after, seconds),
            latencies: latencies(&before.writes(), &after.writes()),
            connections: after.shards.iter().map(|shard| number(&shard["connections"])).sum(),
            memory_bytes: after.sum("process_resident_memory_bytes") as u64,
            memory_bytes_max: number(&after.server["memory_bytes_max"]),
            shards: after
                .shards
                .iter()
                .map(|shard| shard_row(before, after, shard, seconds))
                .collect(),
            subscriptions: after
                .subscriptions
                .iter()
                .map(|subscription| subscription_row(before, subscription, seconds))
                .collect(),
        }
    }
}

fn rates(before: &Reading, after: &Reading, seconds: f64) -> Rates {
    let rate = |name: &str| rate(before.sum(name), after.sum(name), seconds);
    Rates {
        published_events: rate("ringmesh_publish_events_total"),
        published_bytes: rate("ringmesh_publish_bytes_total"),
        delivered_events: rate("ringmesh_deliver_events_total"),
        delivered_bytes: rate("ringmesh_deliver_bytes_total"),
        redelivered_events: rate("ringmesh_redeliver_events_total"),
        settled_events: rate("ringmesh_settle_events_total"),
        disk_writes: rate("ringmesh_disk_writes_total"),
        cpu_cores: rate("process_cpu_seconds_total"),
    }
}

fn latencies(before: &[(f64, f64)], after: &[(f64, f64)]) -> Latencies {
    let earlier = |bound: f64| before.iter().find(|(other, _)| *other == bound);
    let counts: Vec<(f64, f64)> = after
        .iter()
        .map(|(bound, count)| (*bound, count - earlier(*bound).map_or(0.0, |(_, count)| *count)))
        .collect();
    Latencies {
        disk_write_p50_seconds: quantile(&counts, 0.5),
        disk_write_p99_seconds: quantile(&counts, 0.99),
    }
}

/// A quantile of counts up to bounds, rising; within a bound's reach as if all lay evenly. `None` without any.
fn quantile(counts: &[(f64, f64)], share: f64) -> Option<f64> {
    let total = counts.last()?.1;
    if total <= 0.0 {
        return None;
    }
    let wanted = share * total;
    let mut lower = (0.0, 0.0);
    for (bound, count) in counts {
        if *count >= wanted {
            let reach = if bound.is_finite() { bound - lower.0 } else { 0.0 };
            let within = (wanted - lower.1) / (count - lower.1).max(1.0);
            return Some(lower.0 + reach * within);
        }
        lower = (*bound, *count);
    }
    None
}

fn shard_row(before: &Reading, after: &Reading, shard: &Value, seconds: f64) -> ShardRow {
    let earlier = before.shards.iter().find(|other| other["shard"] == shard["shard"]);
    let rate = |field: &str| {
        let then = earlier.map_or(0, |earlier| number(&earlier[field]));
        rate(then as f64, number(&shard[field]) as f64, seconds)
    };
    let log = after.logs.iter().find(|log| log["shard"] == shard["shard"] && log["active"] == true);
    ShardRow {
        shard: number(&shard["shard"]),
        connections: number(&shard["connections"]),
        connections_waiting: number(&shard["connections_waiting"]),
        published_events_per_second: rate("published_events"),
        delivered_events_per_second: rate("delivered_events"),
        published_bytes_per_second: rate("published_bytes"),
        in_flight_bytes: number(&shard["memory"]["in_flight_bytes"]),
        log_bytes: log.map_or(0, |log| number(&log["allocated_bytes"])),
        log_state: log.map_or_else(String::new, |log| text(&log["state"])),
    }
}

fn subscription_row(before: &Reading, subscription: &Value, seconds: f64) -> SubscriptionRow {
    let earlier = before.subscriptions.iter().find(|other| other["name"] == subscription["name"]);
    let lag = number(&subscription["lag_events"]);
    let then = earlier.map_or(lag, |earlier| number(&earlier["lag_events"]));
    let change = if seconds > 0.0 { (lag as f64 - then as f64) / seconds } else { 0.0 };
    SubscriptionRow {
        name: text(&subscription["name"]),
        members: number(&subscription["members"]),
        in_flight_events: number(&subscription["in_flight_events"]),
        lag_events: lag,
        lag_bytes: number(&subscription["lag_bytes"]),
        lag_seconds: subscription["lag_seconds"].as_f64().unwrap_or(0.0),
        lag_change_per_second: change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A figure that is read out of the wrong line is believed.
    #[test]
    fn samples_are_read() {
        let metrics =
            "# TYPE a counter\na{shard=\"0\"} 3\na{shard=\"1\",x=\"} 9\"} 4\na_total 7\nb 1.5\n";
        let sum = |name| samples(metrics, name).map(|(_, value)| value).sum::<f64>();
        assert_eq!((sum("a"), sum("b"), sum("a_total"), sum("c")), (7.0, 1.5, 7.0, 0.0));
    }

    /// The slowest of a hundred writes must show, and no writes are no latency of 0.
    #[test]
    fn quantiles_come_from_what_was_written_since() {
        let before = [(0.001, 100.0), (0.01, 100.0), (f64::INFINITY, 100.0)];
        let after = [(0.001, 190.0), (0.01, 200.0), (f64::INFINITY, 200.0)];
        let told = latencies(&before, &after);
        assert!((told.disk_write_p50_seconds.unwrap() - 0.001 * 50.0 / 90.0).abs() < 1e-9);
        assert!((told.disk_write_p99_seconds.unwrap() - (0.001 + 0.009 * 0.9)).abs() < 1e-9);
        assert_eq!(latencies(&after, &after).disk_write_p50_seconds, None);
        assert_eq!(quantile(&[(1.0, 0.0), (f64::INFINITY, 4.0)], 0.5), Some(1.0));
        assert_eq!(rate(10.0, 4.0, 1.0), 0.0, "a restart is no rate");
    }
}
