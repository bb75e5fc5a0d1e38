//! What the rounds came to: each aim's figure, its limit, and in how many rounds it was met.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::data::Aim;
use super::figures;
use super::{Round, Rows};
use crate::compare::summary::{self, Spread};
use crate::compare::table::whole;
use crate::machine::Machine;
use crate::peers::CONTENDERS;
use crate::report::Row;

const HEADS: [&str; 8] = [
    "measure",
    "aim",
    "got: median (least to most)",
    "met",
    "the machine itself, same run: median (least to most)",
    "peers, same run: median",
    "best peer, shipped / synced: published or measured before",
    "notes",
];

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    command: String,
    machine: Machine,
    rounds: usize,
    aims: Vec<Judged>,
    /// The machine's rows, round by round.
    machine_rows: Vec<Vec<Row>>,
    /// The loads' rows, round by round.
    rows: Vec<Vec<Row>>,
    /// The peers' rows, by their configuration, round by round.
    peer_rows: Vec<BTreeMap<&'static str, Vec<Row>>>,
    /// Peers that were asked for and cannot be measured here, and why.
    missing_peers: Vec<String>,
}

/// One aim, over the rounds.
#[derive(Debug, Serialize)]
struct Judged {
    #[serde(flatten)]
    aim: Aim,
    /// The figure.
    got: Option<Spread>,
    /// What it had to be.
    limit: Option<Spread>,
    /// Rounds in which it was met; `None` where nothing is judged.
    met_rounds: Option<usize>,
    /// Rounds that could be judged.
    judged_rounds: usize,
    /// The machine's figures that belong beside it.
    floor: BTreeMap<String, Spread>,
    /// The same figure of each peer's configuration.
    peers: BTreeMap<&'static str, Spread>,
    /// What a reader must know.
    notes: Vec<String>,
}

impl Report {
    /// Judges every aim by these rounds.
    pub(super) fn new(
        command: String,
        machine: Machine,
        aims: Vec<Aim>,
        rounds: &[Round],
        missing_peers: Vec<String>,
    ) -> Self {
        let good = |rows: &Rows| rows.values().flatten().cloned().collect();
        let of_peers =
            |round: &Round| round.peers.iter().map(|(peer, rows)| (*peer, good(rows))).collect();
        Report {
            command,
            machine,
            rounds: rounds.len(),
            aims: aims.into_iter().map(|aim| Judged::new(aim, rounds)).collect(),
            machine_rows: rounds.iter().map(|round| round.machine.clone()).collect(),
            rows: rounds.iter().map(|round| good(&round.rows)).collect(),
            peer_rows: rounds.iter().map(of_peers).collect(),
            missing_peers,
        }
    }

    /// The table.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!(
            "`{}`\n\n{}. {} round(s); an aim is met when it is in more than half of them.\n\n| {} |\n{}|\n",
            self.command,
            self.machine,
            self.rounds,
            HEADS.join(" | "),
            "|---".repeat(HEADS.len())
        );
        for judged in &self.aims {
            let cells = judged.cells().map(|cell| cell.replace('|', "\\|").replace('\n', " "));
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        for missing in &self.missing_peers {
            let _ = write!(text, "\nNot measured: {missing}.\n");
        }
        text
    }
}

impl Judged {
    fn new(aim: Aim, rounds: &[Round]) -> Self {
        let by_round: Vec<_> =
            rounds.iter().map(|round| (got(&aim, &round.rows), limit(&aim, round))).collect();
        let judged: Vec<bool> = by_round
            .iter()
            .filter_map(|(got, limit)| Some(is_met(&aim, (*got)?, (*limit)?)))
            .collect();
        let floor = |name: &str| {
            let found = rounds.iter().filter_map(|round| figures::of_machine(&round.machine, name));
            Some((name.to_owned(), Spread::of(found)?))
        };
        Judged {
            got: Spread::of(by_round.iter().filter_map(|(got, _)| *got)),
            limit: Spread::of(by_round.iter().filter_map(|(_, limit)| *limit)),
            met_rounds: (!judged.is_empty()).then(|| judged.iter().filter(|met| **met).count()),
            judged_rounds: judged.len(),
            floor: aim.floors().filter_map(floor).collect(),
            peers: of_peers(&aim, rounds),
            notes: notes(&aim, rounds),
            aim,
        }
    }

    fn cells(&self) -> [String; HEADS.len()] {
        let Aim { measure, unit, peer, .. } = &self.aim;
        let of = self.judged_rounds;
        let met = match self.met_rounds {
            None => "-".to_owned(),
            Some(met) if 2 * met > of => format!("yes ({met} of {of})"),
            Some(met) => format!("**no** ({met} of {of})"),
        };
        let floor: Vec<String> =
            self.floor.iter().map(|(name, it)| format!("{name} {} us", spread(*it))).collect();
        let shown_peer =
            |(name, it): (&&str, &Spread)| format!("{name} {}", with_unit(shown(it.median), unit));
        let peers: Vec<String> = self.peers.iter().map(shown_peer).collect();
        let or_none = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        [
            measure.clone(),
            self.wording(),
            self.got.map_or("-".to_owned(), |got| with_unit(spread(got), unit)),
            met,
            or_none(floor.join("; ")),
            or_none(peers.join("; ")),
            or_none(peer.clone().unwrap_or_default()),
            self.notes.join("; "),
        ]
    }

    /// What the aim asks, with what that came to.
    fn wording(&self) -> String {
        let Aim { at_most, at_least, plus, below, unit, .. } = &self.aim;
        let limit = self.limit.map(|limit| shown(limit.median));
        if let Some(family) = below {
            let limit =
                limit.map_or(String::new(), |limit| format!(": {}", with_unit(limit, unit)));
            return format!("below {family}, each configuration{limit}");
        }
        match (at_most, at_least, limit) {
            (None, Some(_), Some(limit)) => format!("at least {}", with_unit(limit, unit)),
            (Some(_), None, Some(limit)) if plus.is_empty() => {
                format!("at most {}", with_unit(limit, unit))
            }
            (Some(rest), None, limit) => {
                let limit = limit.map_or("-".to_owned(), |limit| with_unit(limit, unit));
                let mut parts: Vec<String> =
                    plus.iter().map(|(name, times)| part(name, *times)).collect();
                if *rest != 0.0 {
                    parts.push(with_unit(shown(*rest), unit));
                }
                format!("at most {limit}: {}", parts.join(" + "))
            }
            _ => "beside the machine's".to_owned(),
        }
    }
}

/// The figure that an aim is of, in these rows.
fn got(aim: &Aim, rows: &Rows) -> Option<f64> {
    let of = |load: &str| figures::of_row(rows.get(load)?.as_ref().ok()?, &aim.figure);
    match &aim.by {
        None => of(&aim.of),
        Some(by) => Some(of(&aim.of)? / of(by).filter(|by| *by > 0.0)?),
    }
}

/// The same figure of every peer that has it.
fn of_peers(aim: &Aim, rounds: &[Round]) -> BTreeMap<&'static str, Spread> {
    let names: BTreeSet<&str> =
        rounds.iter().flat_map(|round| round.peers.keys().copied()).collect();
    let spread = |name| {
        let found = rounds.iter().filter_map(|round| got(aim, round.peers.get(name)?));
        Some((name, Spread::of(found)?))
    };
    names.into_iter().filter_map(spread).collect()
}

/// What the figure had to be in a round.
fn limit(aim: &Aim, round: &Round) -> Option<f64> {
    if let Some(family) = &aim.below {
        let mut limit: Option<f64> = None;
        for configuration in CONTENDERS.iter().filter(|it| it.family == family) {
            let rows = round.peers.get(configuration.id)?;
            rows.get(&aim.of)?.as_ref().ok()?;
            // None where it ran and nothing was answered in time: nobody is judged by that.
            let theirs = got(aim, rows);
            limit = limit.into_iter().chain(theirs).min_by(f64::total_cmp);
        }
        return limit;
    }
    let mut limit = aim.at_most.or(aim.at_least)?;
    for (name, times) in &aim.plus {
        limit += times * figures::of_machine(&round.machine, name)?;
    }
    Some(limit)
}

fn is_met(aim: &Aim, got: f64, limit: f64) -> bool {
    match (aim.at_least, &aim.below) {
        (Some(_), _) => got >= limit,
        (None, Some(_)) => got < limit,
        (None, None) => got <= limit,
    }
}

/// What the rows that it was made from say, and why rows are missing.
fn notes(aim: &Aim, rounds: &[Round]) -> Vec<String> {
    let needed = rounds.iter().flat_map(|round| &round.rows).filter(|(name, _)| aim.needs(name));
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (_, row) in needed {
        match row {
            Ok(row) => rows.push(row.clone()),
            Err(why) => failures.push(why.clone()),
        }
    }
    let mut notes = summary::notes(&rows, &failures);
    notes.extend(peer_notes(aim, rounds));
    notes
}

/// What the peers' rows say, each with its name.
fn peer_notes(aim: &Aim, rounds: &[Round]) -> Vec<String> {
    let mut by_peer: BTreeMap<&str, (Vec<Row>, Vec<String>)> = BTreeMap::new();
    for (peer, rows) in rounds.iter().flat_map(|round| &round.peers) {
        let (good, failed) = by_peer.entry(peer).or_default();
        for (_, row) in rows.iter().filter(|(name, _)| aim.needs(name)) {
            match row {
                Ok(row) => good.push(row.clone()),
                Err(why) => failed.push(why.clone()),
            }
        }
    }
    let told = |(peer, (good, failed)): (&str, (Vec<Row>, Vec<String>))| {
        let notes = summary::notes(&good, &failed);
        notes.into_iter().map(|note| format!("{peer}: {note}")).collect::<Vec<_>>()
    };
    by_peer.into_iter().flat_map(told).collect()
}

fn part(name: &str, times: f64) -> String {
    if times == 1.0 { name.to_owned() } else { format!("{times} x {name}") }
}

fn with_unit(number: String, unit: &str) -> String {
    let space = if unit.starts_with('/') { "" } else { " " };
    format!("{number}{space}{unit}")
}

fn spread(spread: Spread) -> String {
    format!("{} ({} to {})", shown(spread.median), shown(spread.least), shown(spread.most))
}

/// Three digits at least, and none that pretend.
fn shown(value: f64) -> String {
    match value.abs() {
        100.0.. => whole(value),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;

    fn row(kind: &'static str, us: u64) -> Row {
        let mut latency = Latency::new();
        latency.record_ns(us * 1_000);
        let mut row = Row::new("x");
        row.latency(kind, latency.summary());
        row
    }

    fn round(raw_us: u64, trip_us: u64, ack: Result<Row, String>) -> Round {
        let machine = vec![row("write", raw_us), row("round trip", trip_us)];
        let rows = Rows::from([("load".to_owned(), ack)]);
        Round { machine, rows, peers: BTreeMap::new() }
    }

    fn with_peer(mut round: Round, peer: &'static str, us: u64) -> Round {
        let rows = Rows::from([("load".to_owned(), Ok(row("ack", us)))]);
        round.peers.insert(peer, rows);
        round
    }

    fn aim(limits: &str) -> Aim {
        let text = format!("measure = 'm'\nof = 'load'\nfigure = 'ack p50'\nunit = 'us'\n{limits}");
        toml::from_str(&text).unwrap()
    }

    /// A limit taken from another round's machine excuses a slow server, or blames a good one; and a round without figures
    /// must not count as one that met the aim.
    #[test]
    fn each_round_is_judged_by_its_own_machine() {
        let rounds = [
            round(100, 50, Ok(row("ack", 160))),
            round(200, 50, Ok(row("ack", 240))),
            round(100, 50, Ok(row("ack", 240))),
            round(100, 50, Err("the server ended".to_owned())),
        ];
        let judged =
            Judged::new(aim("at_most = 15\nplus = { 'raw p50' = 1, 'trip p50' = 1 }"), &rounds);
        assert_eq!((judged.met_rounds, judged.judged_rounds), (Some(2), 3));
        let cells = judged.cells();
        assert!(cells[1].starts_with("at most 165 us: raw p50 + trip p50 + 15"), "{cells:?}");
        assert_eq!(cells[2], "240 (160 to 240) us");
        assert_eq!(cells[3], "yes (2 of 3)");
        assert!(cells[7].contains("no figures: the server ended (1 of 4 rounds)"), "{cells:?}");

        let judged = Judged::new(aim("at_least = 200"), &rounds[..2]);
        assert_eq!(judged.cells()[3], "**no** (1 of 2)");
        let judged = Judged::new(aim("beside = ['raw p50']"), &rounds);
        assert_eq!((judged.met_rounds, &*judged.cells()[3]), (None, "-"));
        assert!(judged.cells()[4].starts_with("raw p50 100 (100 to 200) us"), "{judged:?}");
    }
    /// A peer that is judged by another round, or by its slower configuration, is beaten on paper only.
    #[test]
    fn below_a_peer_is_below_all_its_configurations_in_each_round() {
        let ours = |us| round(100, 50, Ok(row("ack", us)));
        let both = |us, shipped, synced| {
            with_peer(with_peer(ours(us), "kafka", shipped), "kafka-synced", synced)
        };
        let rounds = [
            both(100, 200, 900),
            both(300, 200, 900),
            both(100, 90, 900),
            with_peer(ours(100), "kafka-synced", 900),
        ];
        let judged = Judged::new(aim("below = 'kafka'"), &rounds);
        assert_eq!((judged.met_rounds, judged.judged_rounds), (Some(1), 3));
        let cells = judged.cells();
        assert!(cells[1].starts_with("below kafka, each configuration: 200"), "{cells:?}");
        assert!(cells[5].contains("kafka 200 us; kafka-synced 900 us"), "{cells:?}");
    }
}
