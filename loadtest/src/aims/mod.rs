//! `loadtest aims`: every aim of `aims.toml`, over several rounds, each beside what the machine itself did in the same round.
//!
//! In a round the machine comes first, then each load, on a server of its own on an empty folder, then the same loads on the
//! peers that are asked for; every other round goes backwards, so that a machine that grows slower or busier does so for all of them.

mod data;
mod figures;
mod judged;
mod peers;

use std::collections::BTreeMap;

use anyhow::{Context, bail};

use crate::args::{AimsArgs, CoreArgs};
use crate::core_figures::{Core, RECYCLING, STARTS, starts_row};
use crate::engine::{Protocol, Run};
use crate::load_row::{self, Watched};
use crate::machine::{self, Machine};
use crate::report::Row;
use crate::server::Server;
use crate::workload::{Point, Workload};
use data::{AimLoad, Aims, IDLE, START, START_FULL};
use judged::Report;
use peers::{PeerRows, Peers};

/// The aims.
const TEXT: &str = include_str!("../../aims.toml");
/// Events of 100 B that a server starts on.
const START_EVENTS: u32 = 300_000;
/// More than [`RECYCLING`] keeps, so that segments are used again from then on; and the same for the short form.
const FILL_BYTES: u32 = 512 << 20;
const FILL_BYTES_SHORT: u32 = 8 << 20;
/// Events of a batch, and bytes of data of an event, that the log is filled with.
const FILL_BATCH: u32 = 100;
const FILL_DATA_BYTES: u32 = 1_000;
/// How long each floor is measured: long enough for its p99.9.
const FLOOR: std::time::Duration = std::time::Duration::from_secs(3);

/// Of each load by its name, its row or why there is none.
type Rows = BTreeMap<String, Result<Row, String>>;

/// One round: what the machine itself did, Ringmesh, and its peers.
struct Round {
    machine: Vec<Row>,
    rows: Rows,
    peers: PeerRows,
}

/// Runs every round, prints the table, and fails when Ringmesh gave no figures somewhere.
pub(crate) fn run(args: &AimsArgs, command: String, as_json: bool) -> anyhow::Result<()> {
    let aims = Aims::chosen(TEXT, args)?;
    // Before this thread is on one core, and sees no other.
    let machine = Machine::look();
    let peers = Peers::prepare(args)?;
    let core = Core::new(&core_args(args))?;
    let fill_bytes = if args.short { FILL_BYTES_SHORT } else { FILL_BYTES };
    let measure = Measure { core, server_arg: &args.start.server_arg, fill_bytes };
    let rounds = if args.short { 1 } else { args.rounds };
    let mut found = Vec::new();
    for round in 0..rounds {
        eprintln!("round {} of {rounds}", round + 1);
        let backwards = round % 2 == 1;
        let before = backwards.then(|| peers.round(&aims, backwards));
        let mut round = measure.round(&aims, backwards)?;
        round.peers = before.unwrap_or_else(|| peers.round(&aims, backwards));
        found.push(round);
    }
    let report = Report::new(command, machine, aims.aims, &found, peers.missing());
    if as_json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.markdown());
    }
    let failed = |(name, row): (&String, &Result<Row, String>)| {
        row.as_ref().err().map(|why| format!("{name}: {why}"))
    };
    match found.iter().flat_map(|round| &round.rows).find_map(failed) {
        Some(why) => bail!("no figures of {why}"),
        None => Ok(()),
    }
}

fn core_args(args: &AimsArgs) -> CoreArgs {
    CoreArgs {
        start: args.start.clone(),
        server_cpu: args.server_cpu,
        cpu: args.cpu,
        duration: args.duration.unwrap_or(FLOOR).min(FLOOR),
        short: args.short,
        only: None,
    }
}

struct Measure<'a> {
    core: Core,
    server_arg: &'a [String],
    /// Data published before a load that is to find the log full.
    fill_bytes: u32,
}

impl Measure<'_> {
    fn round(&self, aims: &Aims, backwards: bool) -> anyhow::Result<Round> {
        let machine = self.core.floor_rows().context("the machine itself")?;
        let mut names: Vec<&str> = aims.loads.iter().map(|load| &*load.name).collect();
        let others = [IDLE, START, START_FULL];
        names.extend(others.iter().filter(|other| aims.aims.iter().any(|aim| aim.needs(other))));
        if backwards {
            names.reverse();
        }
        let mut rows = Rows::new();
        for name in names {
            self.core.settle()?;
            let row = match aims.loads.iter().find(|load| load.name == name) {
                Some(load) => self.load(load),
                None if name == IDLE => self.core.idle_row(IDLE),
                None if name == START => self.core.start_row(START),
                None => self.start_full(),
            };
            match &row {
                Ok(row) => eprint!("{row}"),
                Err(error) => eprintln!("{name}: {error:#}"),
            }
            rows.insert(name.to_owned(), row.map_err(|error| format!("{error:#}")));
        }
        Ok(Round { machine, rows, peers: PeerRows::new() })
    }

    fn load(&self, load: &AimLoad) -> anyhow::Result<Row> {
        let mut arguments = self.server_arg.to_vec();
        if load.recycling {
            arguments.extend(RECYCLING.map(str::to_owned));
        }
        arguments.extend(load.server.iter().cloned());
        let server = self.core.server_with(1, &arguments)?;
        if load.recycling {
            fill(&server, FILL_DATA_BYTES, self.fill_bytes / FILL_DATA_BYTES)?;
        }
        let asked = load.workload.load(&point(&load.workload), Protocol::Ringmesh, server.address);
        let watched = Watched {
            pid: Some(server.pid()),
            folder: Some(server.folder()),
            ..Watched::default()
        };
        let mut resident = Vec::new();
        let mut row = load_row::measure_with(&load.name, &asked, watched, || {
            resident.push(machine::memory_bytes(server.pid(), "VmRSS:")? as f64);
            Ok(())
        })?;
        if let [beginning, end] = resident[..] {
            row.figure("server memory, end by beginning", end / beginning.max(1.0));
        }
        server.stop()?;
        Ok(row)
    }

    /// Starts on a folder with events in it, each after a kill.
    fn start_full(&self) -> anyhow::Result<Row> {
        let start = self.core.start(2, self.server_arg);
        let mut server = Server::start(&start)?;
        fill(&server, 100, START_EVENTS)?;
        let mut after_ms = Vec::new();
        for _ in 0..STARTS {
            server = Server::start_in(&start, server.kill()?)?;
            after_ms.push(server.ready_after.as_secs_f64() * 1e3);
        }
        server.stop()?;
        Ok(starts_row(START_FULL, after_ms))
    }
}

/// Publishes so many events as fast as the server takes them.
fn fill(server: &Server, data_bytes: u32, events: u32) -> anyhow::Result<()> {
    let text = format!(
        "about = 'what is there before'\npublishers = 4\ngroups = 0\ntopics = 100\ndata_bytes = {data_bytes}\n\
         batch = {FILL_BATCH}\nkeys = 1000\nin_flight = 16\nwarm_up = '0s'\nduration = '1s'\n"
    );
    let workload = Workload::parse("before".to_owned(), &text)?;
    let load = workload.load(&point(&workload), Protocol::Ringmesh, server.address);
    Run::connect(&load.without_groups())?.fill(u64::from(events / FILL_BATCH))
}

/// The only point of a workload without lists.
fn point(workload: &Workload) -> Point {
    workload.points().swap_remove(0)
}
