//! Workloads as TOML files: what is asked of every contender alike.
//!
//! A file says all of it; there are no hidden defaults but those named here. A key that is unknown, missing or out of
//! range is refused by its name, with its value and what is allowed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use toml::{Table, Value};

use crate::args;
use crate::engine::template::{EventShape, STAMP_BYTES};
use crate::engine::{Load, Pace, Protocol};

/// Batches in flight of a publisher in an open loop: enough that only the server or its back-pressure limits.
const OPEN_LOOP_WINDOW: u32 = 1_024;
/// Partitions of a topic, where a server lets one choose and nobody has.
pub(crate) const DEFAULT_PARTITIONS: u32 = 16;
/// Events in flight of a subscriber.
const CREDIT: u32 = 65_536;

/// Where the file of a workload that is ours stands.
pub(crate) fn shipped(name: &Path) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads").join(name).with_extension("toml")
}

/// One workload, as its file says it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Workload {
    /// The file's name without its ending.
    pub(crate) name: String,
    /// What it asks, in a sentence.
    pub(crate) about: String,
    /// Connections that publish.
    pub(crate) publishers: u32,
    /// Groups; each gets every event. More than one number: the workload runs once for each.
    pub(crate) groups: Vec<u32>,
    /// Connections of each group.
    pub(crate) subscribers_per_group: u32,
    /// Topics. More than one number: the workload runs once for each.
    pub(crate) topics: Vec<u32>,
    /// Partitions of a topic, where the server lets one choose (Kafka).
    pub(crate) partitions: u32,
    /// Bytes of data of an event.
    pub(crate) data_bytes: u32,
    /// Events of a batch.
    pub(crate) batch: u32,
    /// Distinct keys; 0 is events without a key.
    pub(crate) keys: u32,
    /// Events a second over all publishers; without it by the window.
    pub(crate) rate: Option<f64>,
    /// The rate rises to this and falls back.
    pub(crate) peak_rate: Option<f64>,
    /// Most batches of a publisher without an answer.
    pub(crate) in_flight: u32,
    /// Bytes of data that are published before, for one more group to catch up with during the run.
    pub(crate) backlog_bytes: u64,
    /// Time before anything counts, in seconds.
    pub(crate) warm_up_s: f64,
    /// Time that counts, in seconds.
    pub(crate) duration_s: f64,
}

/// One run of a workload: the numbers chosen from its lists.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// What tells it from the workload's other points; empty when there is only one.
    pub(crate) name: String,
    /// Groups.
    pub(crate) groups: u32,
    /// Topics.
    pub(crate) topics: u32,
}

impl Workload {
    /// Reads the file.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the workload {}", path.display()))?;
        let name = path.file_stem().map_or(String::new(), |stem| stem.to_string_lossy().into());
        Self::parse(name, &text).with_context(|| format!("workload {}", path.display()))
    }

    /// Reads the text of a file.
    pub(crate) fn parse(name: String, text: &str) -> anyhow::Result<Self> {
        Self::of(name, text.parse::<Table>()?)
    }

    /// Reads the keys of a file.
    pub(crate) fn of(name: String, table: Table) -> anyhow::Result<Self> {
        let mut fields = Fields { table };
        let rate = fields.optional_rate("rate")?;
        let window = if rate.is_some() { OPEN_LOOP_WINDOW } else { 0 };
        let workload = Workload {
            name,
            about: fields.text("about")?,
            publishers: fields.count("publishers", 1..=10_000)?,
            groups: fields.counts("groups", 0..=1_000)?,
            subscribers_per_group: fields.count_or("subscribers_per_group", 1..=64, 1)?,
            topics: fields.counts("topics", 1..=1_000_000)?,
            partitions: fields.count_or("partitions", 1..=1_000, DEFAULT_PARTITIONS)?,
            data_bytes: fields.bytes("data_bytes", STAMP_BYTES as u64..=1 << 20)? as u32,
            batch: fields.count("batch", 1..=8_192)?,
            keys: fields.count("keys", 0..=1_000_000)?,
            rate,
            peak_rate: fields.optional_rate("peak_rate")?,
            in_flight: fields.count_or("in_flight", 1..=65_536, window)?,
            backlog_bytes: fields.optional_bytes("backlog", 1 << 20..=16 << 30)?.unwrap_or(0),
            warm_up_s: fields.seconds("warm_up", 0.0)?,
            duration_s: fields.seconds("duration", 0.1)?,
        };
        fields.nothing_left()?;
        workload.check()?;
        Ok(workload)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            self.in_flight > 0,
            "in_flight: missing; without rate it says how many batches a publisher has in flight"
        );
        if let Some(peak) = self.peak_rate {
            let rate = self.rate.context("peak_rate: needs rate, from which it rises")?;
            ensure!(peak > rate, "peak_rate = {peak}: must be above rate = {rate}");
        }
        let bytes = u64::from(self.batch) * (u64::from(self.data_bytes) + 64);
        let most = u64::from(codec::limits::BODY_BYTES_MAX);
        ensure!(
            bytes <= most,
            "batch = {}: with data_bytes = {} it is {bytes} bytes, and at most {most} go in a batch",
            self.batch,
            self.data_bytes
        );
        let subscribers = self.groups.iter().max().copied().unwrap_or(0);
        ensure!(
            subscribers * self.subscribers_per_group <= 10_000,
            "subscribers_per_group = {}: with {subscribers} groups more than 10000 connections",
            self.subscribers_per_group
        );
        Ok(())
    }

    /// Its runs: every combination of its lists.
    pub(crate) fn points(&self) -> Vec<Point> {
        let mut points = Vec::new();
        for &groups in &self.groups {
            for &topics in &self.topics {
                let mut words = Vec::new();
                if self.groups.len() > 1 {
                    words.push(format!("{groups} groups"));
                }
                if self.topics.len() > 1 {
                    words.push(format!("{topics} topics"));
                }
                points.push(Point { name: words.join(", "), groups, topics });
            }
        }
        points
    }

    /// The load of one point, against a server.
    pub(crate) fn load(&self, point: &Point, protocol: Protocol, server: SocketAddr) -> Load {
        let pace = match (self.rate, self.peak_rate) {
            (Some(base), Some(peak)) => Pace::Rush { base, peak },
            (Some(rate), None) => Pace::Rate(rate),
            (None, _) => Pace::Window,
        };
        Load {
            protocol,
            server,
            publishers: self.publishers,
            subscribers: point.groups * self.subscribers_per_group,
            groups: point.groups,
            idle: 0,
            topics: point.topics,
            partitions: self.partitions,
            shape: EventShape {
                data_bytes: self.data_bytes as usize,
                batch: self.batch,
                keys: self.keys,
            },
            pace,
            window: self.in_flight,
            credit: CREDIT,
            warm_up: Duration::from_secs_f64(self.warm_up_s),
            duration: Duration::from_secs_f64(self.duration_s),
            behind: self.backlog_bytes > 0,
            backlog_events: self.backlog_batches() * u64::from(self.batch),
            stamped: false,
        }
    }

    /// Batches that are published before the run.
    pub(crate) fn backlog_batches(&self) -> u64 {
        let batch_bytes = u64::from(self.data_bytes) * u64::from(self.batch);
        self.backlog_bytes.div_ceil(batch_bytes)
    }
}

/// The keys of a file that are not yet read.
struct Fields {
    table: Table,
}

impl Fields {
    fn required(&mut self, key: &str, allowed: &str) -> anyhow::Result<Value> {
        self.table.remove(key).with_context(|| format!("{key}: missing; give {allowed}"))
    }

    fn text(&mut self, key: &str) -> anyhow::Result<String> {
        match self.required(key, "a sentence in quotes")? {
            Value::String(text) if !text.is_empty() => Ok(text),
            other => bail!("{key} = {other}: give a sentence in quotes"),
        }
    }

    fn count(&mut self, key: &str, range: std::ops::RangeInclusive<u32>) -> anyhow::Result<u32> {
        let value = self.required(key, &numbers(&range))?;
        count(key, &value, &range)
    }

    fn count_or(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
        default: u32,
    ) -> anyhow::Result<u32> {
        self.table.remove(key).map_or(Ok(default), |value| count(key, &value, &range))
    }

    /// One number, or a list of numbers.
    fn counts(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> anyhow::Result<Vec<u32>> {
        match self.required(key, &format!("{} or a list of such", numbers(&range)))? {
            Value::Array(values) if (1..=16).contains(&values.len()) => {
                values.iter().map(|value| count(key, value, &range)).collect()
            }
            Value::Array(values) => bail!("{key}: {} numbers; give 1 to 16", values.len()),
            value => Ok(vec![count(key, &value, &range)?]),
        }
    }

    fn optional_rate(&mut self, key: &str) -> anyhow::Result<Option<f64>> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let rate = value.as_float().or(value.as_integer().map(|number| number as f64));
        match rate {
            Some(rate) if (1.0..=1e8).contains(&rate) => Ok(Some(rate)),
            _ => bail!("{key} = {value}: give 1 to 100000000 events a second"),
        }
    }

    fn bytes(&mut self, key: &str, range: std::ops::RangeInclusive<u64>) -> anyhow::Result<u64> {
        self.optional_bytes(key, range.clone())?
            .with_context(|| format!("{key}: missing; give {}", sizes(&range)))
    }

    fn optional_bytes(
        &mut self,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> anyhow::Result<Option<u64>> {
        let Some(value) = self.table.remove(key) else { return Ok(None) };
        let bytes = match &value {
            Value::Integer(bytes) => u64::try_from(*bytes).ok(),
            Value::String(text) => args::sized(text).ok(),
            _ => None,
        };
        match bytes {
            Some(bytes) if range.contains(&bytes) => Ok(Some(bytes)),
            _ => bail!("{key} = {value}: give {}", sizes(&range)),
        }
    }

    fn seconds(&mut self, key: &str, least: f64) -> anyhow::Result<f64> {
        let allowed = format!("a time of {least}s to 60m, like \"500ms\", \"10s\" or \"2m\"");
        let value = self.required(key, &allowed)?;
        let seconds = value.as_str().and_then(|text| args::duration(text).ok());
        match seconds.map(|time| time.as_secs_f64()) {
            Some(seconds) if seconds >= least => Ok(seconds),
            _ => bail!("{key} = {value}: give {allowed}"),
        }
    }

    fn nothing_left(&self) -> anyhow::Result<()> {
        match self.table.iter().next() {
            None => Ok(()),
            Some((key, value)) => bail!(
                "{key} = {value}: no such key; there are about, publishers, groups, \
                 subscribers_per_group, topics, partitions, data_bytes, batch, keys, rate, peak_rate, \
                 in_flight, backlog, warm_up, duration"
            ),
        }
    }
}

fn count(key: &str, value: &Value, range: &std::ops::RangeInclusive<u32>) -> anyhow::Result<u32> {
    match value.as_integer().and_then(|number| u32::try_from(number).ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => bail!("{key} = {value}: give {}", numbers(range)),
    }
}

fn numbers(range: &std::ops::RangeInclusive<u32>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

fn sizes(range: &std::ops::RangeInclusive<u64>) -> String {
    format!("a size from {} to {} bytes, like 1024 or \"1KiB\"", range.start(), range.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "about = 'x'\npublishers = 2\ngroups = [1, 10]\ntopics = 3\ndata_bytes = '1KiB'\n\
        batch = 1\nkeys = 10\nrate = 100\nwarm_up = '1s'\nduration = '10s'\n";

    /// A workload that ships and cannot be read is found by the first user who tries it.
    #[test]
    fn every_shipped_workload_is_good() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let mut found = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let workload = Workload::read(&entry.unwrap().path()).unwrap();
            assert!(!workload.points().is_empty());
            found += 1;
        }
        assert!(found >= 10, "{found} workloads");
    }

    /// A typing error that is passed over measures another workload than its name says. The message must name the
    /// key, its value and what is allowed.
    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(Workload::parse("good".into(), GOOD).unwrap().points().len(), 2);
        for (line, expected) in [
            ("publishers = 0", "publishers = 0: give a number from 1 to 10000"),
            ("publishers = 'two'", "publishers = \"two\": give a number from 1 to 10000"),
            ("groups = [1, -1]", "groups = -1: give a number from 0 to 1000"),
            ("groups = []", "groups: 0 numbers; give 1 to 16"),
            ("data_bytes = '4KB'", "data_bytes = \"4KB\": give a size from 8 to 1048576 bytes"),
            ("rate = 0", "rate = 0: give 1 to 100000000 events a second"),
            ("duration = '5'", "duration = \"5\": give a time of 0.1s to 60m"),
            ("batch = 8192", "batch = 8192: with data_bytes = 1048576 it is"),
            ("peak_rate = 50", "peak_rate = 50: must be above rate = 100"),
            ("speed = 7", "speed = 7: no such key; there are about, publishers"),
        ] {
            let key = line.split(' ').next().unwrap();
            let mut kept: Vec<&str> =
                GOOD.lines().filter(|kept| !kept.starts_with(&format!("{key} "))).collect();
            if key == "batch" {
                kept.retain(|kept| !kept.starts_with("data_bytes"));
                kept.push("data_bytes = '1MiB'");
            }
            kept.push(line);
            let error = Workload::parse("bad".into(), &kept.join("\n")).unwrap_err();
            assert!(format!("{error:#}").starts_with(expected), "{line}: {error:#}");
        }
        let without = GOOD.replace("keys = 10\n", "");
        let error = Workload::parse("bad".into(), &without).unwrap_err();
        assert!(error.to_string().starts_with("keys: missing; give a number"), "{error}");
    }
}
