//! One line of a comparison: what the rounds of one contender came to.

use serde::Serialize;

use crate::load_row::{BACKLOG_READ, DELIVERED, EVENTS, WRITTEN};
use crate::peers::Contender;
use crate::report::Row;

/// A figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// The middle one; of an even number, the mean of the two.
    pub(crate) median: f64,
    /// The least.
    pub(crate) least: f64,
    /// The most.
    pub(crate) most: f64,
}

impl Spread {
    /// Of the values there are.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (&least, &most) = (values.first()?, values.last()?);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Some(Spread { median: f64::midpoint(low, high), least, most })
    }
}

/// Percentiles of one kind of latency, in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Percentiles {
    /// Half were at most this.
    pub(crate) p50_us: Spread,
    /// 99 %.
    pub(crate) p99_us: Spread,
    /// 99.9 %.
    pub(crate) p999_us: Spread,
    /// 99.99 %.
    pub(crate) p9999_us: Spread,
    /// The longest.
    pub(crate) max_us: Spread,
}

/// What one contender did at one point of a workload.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// The workload, and its point if it has more than one.
    pub(crate) point: String,
    /// Who.
    #[serde(flatten)]
    pub(crate) contender: Contender,
    /// What the server itself said that its acks promise, in any round.
    pub(crate) server_says: Vec<String>,
    /// What was in flight, and at which pace.
    pub(crate) in_flight: String,
    /// Events acknowledged a second.
    pub(crate) events_per_s: Option<Spread>,
    /// Events delivered a second, over all groups.
    pub(crate) delivered_per_s: Option<Spread>,
    /// Intended send to ack; of the floor, one write.
    pub(crate) ack: Option<Percentiles>,
    /// Intended send to subscriber.
    pub(crate) end_to_end: Option<Percentiles>,
    /// Events of a backlog that the group behind read a second.
    pub(crate) backlog_read_per_s: Option<Spread>,
    /// Of the floor: the loopback round trip.
    pub(crate) round_trip: Option<Percentiles>,
    /// CPU seconds of the server in the time that counts.
    pub(crate) server_cpu_s: Option<Spread>,
    /// The same for a million events, which is the same as microseconds for one.
    pub(crate) server_cpu_s_a_million: Option<Spread>,
    /// Most memory that the server had resident.
    pub(crate) server_peak_bytes: Option<Spread>,
    /// CPU seconds of the load generator in the time that counts.
    pub(crate) client_cpu_s: Option<Spread>,
    /// CPU time of the load generator by wall time.
    pub(crate) client_busy_share: Option<Spread>,
    /// Most memory that the load generator had resident meanwhile.
    pub(crate) client_peak_bytes: Option<Spread>,
    /// Bytes that the server had written to files for each event, padding and all.
    pub(crate) file_bytes_an_event: Option<Spread>,
    /// What a reader must know; and why figures are missing.
    pub(crate) notes: Vec<String>,
    /// Rounds that gave no figures.
    pub(crate) failed_rounds: u32,
    /// What was measured, round by round.
    pub(crate) rounds: Vec<Row>,
}

impl Line {
    /// A line of the rounds that came out, and of the reasons of those that did not.
    pub(crate) fn new(
        point: String,
        contender: Contender,
        in_flight: String,
        rounds: Vec<Row>,
        failures: Vec<String>,
    ) -> Self {
        let over =
            |figure: &dyn Fn(&Row) -> Option<f64>| Spread::of(rounds.iter().filter_map(figure));
        let server = |row: &Row| row.server.clone();
        let client = |row: &Row| row.client.clone();
        let by_event = |row: &Row, used: f64| Some(used / row.value(EVENTS).filter(|n| *n > 0.0)?);
        Line {
            point,
            contender,
            server_says: distinct(rounds.iter().filter_map(|row| row.server_says.clone())),
            in_flight,
            events_per_s: over(&|row| row.rate_per_s),
            delivered_per_s: over(&|row| row.value(DELIVERED)),
            ack: Percentiles::of(&rounds, "ack").or_else(|| Percentiles::of(&rounds, "write")),
            end_to_end: Percentiles::of(&rounds, "end to end"),
            backlog_read_per_s: over(&|row| row.value(BACKLOG_READ)),
            round_trip: Percentiles::of(&rounds, "round trip"),
            server_cpu_s: over(&|row| Some(server(row)?.cpu_s)),
            server_cpu_s_a_million: over(&|row| by_event(row, server(row)?.cpu_s * 1e6)),
            server_peak_bytes: over(&|row| Some(server(row)?.rss_peak_bytes as f64)),
            client_cpu_s: over(&|row| Some(client(row)?.cpu_s)),
            client_busy_share: over(&|row| Some(client(row)?.busy_share)),
            client_peak_bytes: over(&|row| Some(client(row)?.rss_peak_bytes as f64)),
            file_bytes_an_event: over(&|row| by_event(row, row.value(WRITTEN)?)),
            notes: notes(&rounds, &failures),
            failed_rounds: failures.len() as u32,
            rounds,
        }
    }
}

impl Line {
    /// The round whose median ack latency is the median of the rounds'.
    pub(crate) fn middle_round(&self) -> Option<&Row> {
        let mut rounds: Vec<&Row> = self.rounds.iter().collect();
        let median = |row: &Row| row.p50_us("ack").or(row.p50_us("write")).unwrap_or(0.0);
        rounds.sort_by(|a, b| median(a).total_cmp(&median(b)));
        rounds.get(rounds.len().saturating_sub(1) / 2).copied()
    }
}

impl Percentiles {
    fn of(rounds: &[Row], kind: &str) -> Option<Self> {
        let found: Vec<_> = rounds
            .iter()
            .filter_map(|row| row.latencies.iter().find(|latency| latency.kind == kind))
            .map(|latency| latency.summary)
            .collect();
        Some(Percentiles {
            p50_us: Spread::of(found.iter().map(|summary| summary.p50_us))?,
            p99_us: Spread::of(found.iter().map(|summary| summary.p99_us))?,
            p999_us: Spread::of(found.iter().map(|summary| summary.p999_us))?,
            p9999_us: Spread::of(found.iter().map(|summary| summary.p9999_us))?,
            max_us: Spread::of(found.iter().map(|summary| summary.max_us))?,
        })
    }
}

fn distinct(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut words: Vec<String> = words.collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// Each note once, with the number of rounds that it stood in when that was not all.
pub(crate) fn notes(rounds: &[Row], failures: &[String]) -> Vec<String> {
    let mut found: Vec<(String, usize)> = Vec::new();
    let failed = failures.iter().map(|reason| format!("no figures: {reason}"));
    for note in rounds.iter().flat_map(|row| row.notes.iter().cloned()).chain(failed) {
        // Figures in a note differ from round to round; what comes before them says what it is.
        let same = |known: &(String, usize)| subject(&known.0) == subject(&note);
        match found.iter_mut().find(|known| same(known)) {
            Some((_, count)) => *count += 1,
            None => found.push((note, 1)),
        }
    }
    let all = rounds.len() + failures.len();
    let told = |(note, count): (String, usize)| match count {
        count if count == all => note,
        count => format!("{note} ({count} of {all} rounds)"),
    };
    found.into_iter().map(told).collect()
}

fn subject(note: &str) -> String {
    note.chars().filter(|c| !c.is_ascii_digit()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::CONTENDERS;

    fn row(rate: f64, note: &str) -> Row {
        let mut row = Row::new("x");
        row.rate_per_s = Some(rate);
        row.figure(EVENTS, 100.0);
        row.figure(WRITTEN, 12_800.0);
        row.notes.push(note.to_owned());
        row
    }

    /// A summary that drops the round that went badly, or its reason, makes every contender look as good as its best.
    #[test]
    fn a_line_tells_median_spread_and_what_went_wrong() {
        let rounds = vec![
            row(30.0, "client-bound (91 % busy)"),
            row(10.0, "client-bound (99 % busy)"),
            row(20.0, "3 batches were never answered"),
        ];
        let failures = vec!["the server ended".to_owned()];
        let line = Line::new("p".into(), CONTENDERS[0], "1 x 1".into(), rounds, failures);
        assert_eq!(line.events_per_s, Some(Spread { median: 20.0, least: 10.0, most: 30.0 }));
        assert_eq!(line.file_bytes_an_event.map(|spread| spread.median), Some(128.0));
        assert_eq!(
            line.notes,
            [
                "client-bound (91 % busy) (2 of 4 rounds)",
                "3 batches were never answered (1 of 4 rounds)",
                "no figures: the server ended (1 of 4 rounds)"
            ]
        );
        assert_eq!(line.failed_rounds, 1);
        assert_eq!(Spread::of([4.0, 1.0]).map(|spread| spread.median), Some(2.5));
        let none = Line::new("p".into(), CONTENDERS[0], String::new(), vec![], vec!["gone".into()]);
        assert_eq!(none.events_per_s, None);
        assert_eq!(none.notes, ["no figures: gone"]);
    }
}
