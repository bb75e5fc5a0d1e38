//! What a command has measured: rows for people (a table) and for programs (one JSON value).

use std::borrow::Cow;

use serde::Serialize;

use crate::latency::{Second, Summary};
use crate::machine::{Machine, ProcessUse};

/// Above this share of its core a client measures itself, not the server.
const CLIENT_BOUND_SHARE: f64 = 0.85;
/// Above this share of its time spent waiting for a core, others were measured too.
const DISTURBED_SHARE: f64 = 0.05;

/// One report: the machine and the rows measured on it.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What was run.
    pub(crate) command: String,
    /// Where it was run, and how busy the machine was before.
    pub(crate) machine: Machine,
    /// What was measured, in order.
    pub(crate) rows: Vec<Row>,
}

/// One measurement.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Row {
    /// What was measured, with its parameters.
    pub(crate) name: String,
    /// Events, operations or round trips a second.
    pub(crate) rate_per_s: Option<f64>,
    /// Bytes of data a second, in 10^6.
    pub(crate) mb_per_s: Option<f64>,
    /// Each kind of latency that was measured.
    pub(crate) latencies: Vec<Kind>,
    /// What the load generator used.
    pub(crate) client: Option<ProcessUse>,
    /// What the server used.
    pub(crate) server: Option<ProcessUse>,
    /// Time of the server's core that others had, by wall time, if the server has only that core.
    pub(crate) others_share: Option<f64>,
    /// Further figures by name.
    pub(crate) figures: Vec<Figure>,
    /// Acks by percentile: share and microseconds. For plots; not in the table.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) ack_curve: Vec<(f64, f64)>,
    /// Deliveries by percentile, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) end_to_end_curve: Vec<(f64, f64)>,
    /// Acks second by second, likewise.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) seconds: Vec<Second>,
    /// What the server itself says that its acks promise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_says: Option<String>,
    /// How the client asked, where that could matter.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) client_notes: Vec<String>,
    /// What a reader must know: client-bound, missing acks, a target that was or was not met.
    pub(crate) notes: Vec<String>,
}

/// One kind of latency.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Kind {
    /// `ack`, `end to end`, `publish delay`, `write`, ...
    pub(crate) kind: &'static str,
    /// Its percentiles.
    #[serde(flatten)]
    pub(crate) summary: Summary,
}

/// One figure that is neither a rate nor a latency.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    /// What it is, with its unit.
    pub(crate) name: Cow<'static, str>,
    /// Its value.
    pub(crate) value: f64,
}

impl Row {
    /// A row without figures yet.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Row { name: name.into(), ..Row::default() }
    }

    /// Adds a kind of latency, if any was recorded.
    pub(crate) fn latency(&mut self, kind: &'static str, summary: Option<Summary>) {
        self.latencies.extend(summary.map(|summary| Kind { kind, summary }));
    }

    /// Adds a figure.
    pub(crate) fn figure(&mut self, name: impl Into<Cow<'static, str>>, value: f64) {
        self.figures.push(Figure { name: name.into(), value });
    }

    /// Says whether a target was met.
    pub(crate) fn target(&mut self, what: &str, met: bool) {
        self.notes.push(format!("{what}: {}", if met { "met" } else { "NOT MET" }));
    }

    /// The value of a figure, if it is there.
    pub(crate) fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// The median of one kind of latency, in microseconds.
    pub(crate) fn p50_us(&self, kind: &str) -> Option<f64> {
        self.latencies.iter().find(|known| known.kind == kind).map(|known| known.summary.p50_us)
    }

    /// Says so when the client was the limit, or when client or server had to wait for somebody else's work.
    pub(crate) fn mark_limits(&mut self) {
        if let Some(client) = &self.client
            && client.busy_share > CLIENT_BOUND_SHARE
        {
            self.notes.push(format!("client-bound ({:.0} % busy)", 100.0 * client.busy_share));
        }
        let disturbed = |who: &str, used: &ProcessUse| {
            let share = 100.0 * used.waited_share;
            format!("disturbed: the {who} waited for its core {share:.0} % of the time")
        };
        let waited = |used: &&ProcessUse| used.waited_share > DISTURBED_SHARE;
        self.notes
            .extend(self.client.as_ref().filter(waited).map(|used| disturbed("client", used)));
        match self.others_share {
            // A server of many threads on one core waits for itself; what counts is who else had the core.
            Some(share) if share > DISTURBED_SHARE => self.notes.push(format!(
                "disturbed: others had the server's core {:.0} % of the time",
                100.0 * share
            )),
            Some(_) => {}
            None => self
                .notes
                .extend(self.server.as_ref().filter(waited).map(|used| disturbed("server", used))),
        }
    }
}

impl Report {
    /// Prints the table, or the JSON.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            println!("{}", serde_json::to_string(self)?);
            return Ok(());
        }
        println!("# {}\n# {}", self.command, self.machine);
        println!(
            "{:<46} {:>11} {:>8}  {:<13} {:>9} {:>9} {:>9} {:>9} {:>9}  {:>6} {:>6} {:>7}",
            "what",
            "per s",
            "MB/s",
            "us",
            "p50",
            "p99",
            "p99.9",
            "p99.99",
            "max",
            "client",
            "server",
            "RSS MiB"
        );
        for row in &self.rows {
            print!("{row}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = |used: &Option<ProcessUse>| {
            used.as_ref().map_or(String::new(), |used| format!("{:.0} %", 100.0 * used.busy_share))
        };
        let rss = self.server.as_ref().map_or(String::new(), |used| {
            format!("{:.1}", used.rss_peak_bytes as f64 / f64::from(1 << 20))
        });
        let head = format!(
            "{:<46} {:>11} {:>8}",
            self.name,
            self.rate_per_s.map_or(String::new(), |rate| format!("{rate:.0}")),
            self.mb_per_s.map_or(String::new(), |rate| format!("{rate:.1}")),
        );
        let tail = format!("{:>6} {:>6} {:>7}", share(&self.client), share(&self.server), rss);
        for (index, Kind { kind, summary }) in self.latencies.iter().enumerate() {
            let (head, tail) = if index == 0 { (&*head, &*tail) } else { ("", "") };
            writeln!(
                f,
                "{head:<67}  {kind:<13} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>9.1}  {tail}",
                summary.p50_us, summary.p99_us, summary.p999_us, summary.p9999_us, summary.max_us
            )?;
        }
        if self.latencies.is_empty() {
            writeln!(f, "{head:<67}  {:<13} {:>49}  {tail}", "", "")?;
        }
        for Figure { name, value } in &self.figures {
            writeln!(f, "  = {name}: {}", shown(*value))?;
        }
        for note in self.client_notes.iter().chain(&self.notes) {
            writeln!(f, "  ! {note}")?;
        }
        Ok(())
    }
}

/// A figure with three digits or more, and none that pretend.
fn shown(value: f64) -> String {
    if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server of many threads waits for itself: marked as disturbed it would be excused, and one that was really
    /// disturbed, and is not marked, would be blamed.
    #[test]
    fn a_row_is_marked_by_who_had_the_core() {
        let used = |busy_share, waited_share| {
            Some(ProcessUse { cpu_s: 1.0, busy_share, waited_share, rss_peak_bytes: 1 })
        };
        let notes = |client, server, others_share| {
            let mut row = Row { client, server, others_share, ..Row::new("x") };
            row.mark_limits();
            row.notes
        };
        assert!(notes(used(0.5, 0.0), used(0.9, 2.0), Some(0.01)).is_empty());
        for (found, expected) in [
            (notes(used(0.9, 0.0), used(0.1, 0.0), None), "client-bound (90 % busy)"),
            (notes(used(0.1, 0.2), None, None), "disturbed: the client waited"),
            (notes(None, used(0.1, 0.2), None), "disturbed: the server waited"),
            (
                notes(None, used(0.1, 0.0), Some(0.3)),
                "disturbed: others had the server's core 30 %",
            ),
        ] {
            assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}: {expected}");
        }
    }
}
