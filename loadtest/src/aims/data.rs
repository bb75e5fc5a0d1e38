//! The aims as their file says them: loads to be run, and what is judged of each.

use std::collections::BTreeMap;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::figures::is_known;
use crate::args::AimsArgs;
use crate::peers::CONTENDERS;
use crate::workload::{self, Workload};

/// What is measured besides loads.
pub(super) const IDLE: &str = "idle";
pub(super) const START: &str = "start";
pub(super) const START_FULL: &str = "start on 300,000 events";

/// Bounds of the short form.
const SHORT_CONNECTIONS: u32 = 100;
const SHORT_TOPICS: u32 = 1_000;
const SHORT_GROUPS: u32 = 5;
const SHORT_RATE: f64 = 1_000.0;
const SHORT_WARM_UP_S: f64 = 0.1;
const SHORT_DURATION_S: f64 = 0.3;

/// All of it.
#[derive(Clone, Debug)]
pub(super) struct Aims {
    /// What is run, in order.
    pub(super) loads: Vec<AimLoad>,
    /// What is judged, in the order of the report.
    pub(super) aims: Vec<Aim>,
}

/// One load, on a server of its own.
#[derive(Clone, Debug)]
pub(super) struct AimLoad {
    /// What aims call it.
    pub(super) name: String,
    /// What is asked.
    pub(super) workload: Workload,
    /// Whether the log is small enough to use its segments again.
    pub(super) recycling: bool,
    /// Further arguments of the server.
    pub(super) server: Vec<String>,
    /// Families of peers that can be asked the same.
    pub(super) peers: Vec<String>,
}

/// One aim.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Aim {
    /// What is measured, for people.
    pub(super) measure: String,
    /// The load, or one of [`IDLE`], [`START`], [`START_FULL`].
    pub(super) of: String,
    /// The figure of it.
    pub(super) figure: String,
    /// Its unit.
    pub(super) unit: String,
    /// The load whose same figure it is divided by.
    pub(super) by: Option<String>,
    /// Met by at most this, and `plus`.
    pub(super) at_most: Option<f64>,
    /// Met by at least this.
    pub(super) at_least: Option<f64>,
    /// So many times these figures of the machine, in the same round.
    #[serde(default)]
    pub(super) plus: BTreeMap<String, f64>,
    /// Met by less than each configuration of this family of peers, in the same round.
    pub(super) below: Option<String>,
    /// Figures of the machine that are only shown.
    #[serde(default)]
    pub(super) beside: Vec<String>,
    /// The best peer, shipped / synced, as published or measured before.
    pub(super) peer: Option<String>,
}

impl Aim {
    /// Whether its figures come from this load.
    pub(super) fn needs(&self, load: &str) -> bool {
        self.of == load || self.by.as_deref() == Some(load)
    }

    /// The machine's figures that belong beside it.
    pub(super) fn floors(&self) -> impl Iterator<Item = &str> {
        self.plus.keys().chain(&self.beside).map(String::as_str)
    }
}

impl Aims {
    /// Reads the text of the file, and keeps what `args` ask for.
    pub(super) fn chosen(text: &str, args: &AimsArgs) -> anyhow::Result<Self> {
        let mut chosen = Self::parse(text)?;
        if let Some(part) = &args.only {
            chosen.aims.retain(|aim| aim.measure.contains(part));
            ensure!(!chosen.aims.is_empty(), "--only {part}: no aim's measure has this in it");
        }
        let Aims { loads, aims } = &mut chosen;
        loads.retain(|load| aims.iter().any(|aim| aim.needs(&load.name)));
        for workload in loads.iter_mut().map(|load| &mut load.workload) {
            if let Some(duration) = args.duration {
                workload.duration_s = duration.as_secs_f64();
            }
            if args.short {
                shorten(workload);
            }
        }
        Ok(chosen)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut table: Table = text.parse()?;
        let common = match table.remove("common") {
            Some(Value::Table(common)) => common,
            _ => Table::new(),
        };
        let loads = tables(&mut table, "load")?
            .into_iter()
            .map(|own| AimLoad::parse(&common, own))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let aims = tables(&mut table, "aim")?
            .into_iter()
            .map(|own| Ok(own.try_into()?))
            .collect::<anyhow::Result<Vec<Aim>>>()?;
        ensure!(table.is_empty(), "there are common, load and aim, and no {table}");
        let aims = Aims { loads, aims };
        aims.check()?;
        Ok(aims)
    }

    fn check(&self) -> anyhow::Result<()> {
        let measured = |name: &str| {
            [IDLE, START, START_FULL].contains(&name)
                || self.loads.iter().any(|load| load.name == name)
        };
        for aim in &self.aims {
            let measure = &aim.measure;
            for of in [Some(&aim.of), aim.by.as_ref()].into_iter().flatten() {
                ensure!(measured(of), "{measure}: there is no load {of}");
            }
            let limits = [aim.at_most.is_some(), aim.at_least.is_some(), aim.below.is_some()];
            ensure!(
                limits.into_iter().filter(|it| *it).count() <= 1,
                "{measure}: more than one of at_most, at_least and below"
            );
            if let Some(family) = &aim.below {
                let asks = |load: &AimLoad| load.name == aim.of && load.peers.contains(family);
                ensure!(self.loads.iter().any(asks), "{measure}: {family} is not asked {}", aim.of);
            }
            ensure!(
                aim.plus.is_empty() || aim.at_most.is_some(),
                "{measure}: plus without at_most"
            );
            for floor in aim.floors() {
                ensure!(is_known(floor), "{measure}: the machine has no {floor}");
            }
        }
        for load in &self.loads {
            let is_needed = self.aims.iter().any(|aim| aim.needs(&load.name));
            ensure!(is_needed, "load {}: no aim is of it", load.name);
        }
        Ok(())
    }
}

impl AimLoad {
    fn parse(common: &Table, mut own: Table) -> anyhow::Result<Self> {
        let Some(Value::String(name)) = own.remove("name") else { bail!("a load without name") };
        let recycling = own.remove("recycling").is_some_and(|it| it == Value::Boolean(true));
        let server = own.remove("server").map_or(Ok(Vec::new()), Value::try_into)?;
        let peers: Vec<String> = own.remove("peers").map_or(Ok(Vec::new()), Value::try_into)?;
        for peer in &peers {
            let is_known = CONTENDERS.iter().any(|it| it.is_peer() && it.family == peer);
            ensure!(is_known, "load {name}: there is no peer {peer}");
        }
        let mut keys = match own.remove("like") {
            None => common.clone(),
            Some(like) => {
                let path = workload::shipped(like.as_str().unwrap_or_default().as_ref());
                let text = std::fs::read_to_string(&path)
                    .with_context(|| format!("load {name}: cannot read {}", path.display()))?;
                text.parse()?
            }
        };
        keys.extend(own);
        let workload = Workload::of(name.clone(), keys).with_context(|| format!("load {name}"))?;
        ensure!(workload.points().len() == 1, "load {name}: a list where a number is meant");
        Ok(AimLoad { name, workload, recycling, server, peers })
    }
}

fn tables(table: &mut Table, key: &str) -> anyhow::Result<Vec<Table>> {
    let found = table.remove(key).with_context(|| format!("there is no [[{key}]]"))?;
    found.try_into().with_context(|| format!("[[{key}]] is no list of tables"))
}

fn shorten(workload: &mut Workload) {
    let Workload { publishers, topics, groups, rate, peak_rate, warm_up_s, duration_s, .. } =
        workload;
    *publishers = SHORT_CONNECTIONS.min(*publishers);
    topics.iter_mut().for_each(|topics| *topics = SHORT_TOPICS.min(*topics));
    groups.iter_mut().for_each(|groups| *groups = SHORT_GROUPS.min(*groups));
    *rate = rate.map(|rate| SHORT_RATE.min(rate));
    *peak_rate = peak_rate.map(|_| 2.0 * SHORT_RATE);
    (*warm_up_s, *duration_s) = (SHORT_WARM_UP_S, SHORT_DURATION_S);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aims::TEXT;

    /// An aim whose load or figure has another name is never judged, and looks like one that nobody has.
    #[test]
    fn the_file_is_good_and_what_is_wrong_is_named() {
        let aims = Aims::parse(TEXT).unwrap();
        assert!(aims.aims.len() >= 25, "{} aims", aims.aims.len());
        for (from, to, expected) in [
            ("of = \"8 x 1\"", "of = \"9 x 1\"", "no load 9 x 1"),
            ("\"raw p50\" = 2.5", "\"row p50\" = 2.5", "the machine has no row p50"),
            ("peer = \"NATS 15 ms", "pear = \"NATS 15 ms", "pear"),
            ("at_least = 50_000", "at_least = 50_000\nat_most = 1", "more than one of"),
            ("below = \"kafka\"", "below = \"iggy\"", "iggy is not asked"),
            ("peers = [\"nats\", \"kafka\"]", "peers = [\"nets\"]", "no peer nets"),
            ("publishers = 64\nin_flight = 16", "publisher = 64\nin_flight = 16", "publisher"),
            ("like = \"rush-hour\"", "like = \"rush\"", "cannot read"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = format!("{:#}", Aims::parse(&TEXT.replacen(from, to, 1)).unwrap_err());
            assert!(error.contains(expected), "{from}: {error}");
        }
    }
}
