//! `loadtest compare`: Ringmesh, its peers and the floor under the same workload, in turn, in the same run.
//!
//! Every round of every contender gets a server of its own on an empty folder. Within a round they follow each other,
//! and every other round goes backwards, so that a machine that grows slower or busier does so for all of them.

pub(crate) mod arguments;
mod html;
mod plot;
mod published;
pub(crate) mod summary;
pub(crate) mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;

use crate::engine::{Load, Run};
use crate::floor;
use crate::floor::raw_write::{self, RawWrites};
use crate::live;
use crate::load_row::{self, Watched};
use crate::machine::{self, Machine};
use crate::peers::folder::RunFolder;
use crate::peers::{self, Contender, Kind, Place, Running};
use crate::report::Row;
use crate::workload::{self, Point, Workload};
use arguments::CompareArgs;
use published::Published;
use summary::Line;

/// Size of the file of the floor, and the same for runs of less than a second, which must not spend more on zeros.
const FLOOR_FILE_BYTES: u64 = 256 << 20;
const FLOOR_FILE_BYTES_SHORT: u64 = 32 << 20;
/// Longest time that the floor is measured in a round.
const FLOOR_LONGEST: Duration = Duration::from_secs(5);

/// All that a comparison has found.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    /// What was run.
    pub(crate) command: String,
    /// Where.
    pub(crate) machine: Machine,
    /// Rounds of each contender.
    pub(crate) rounds: u32,
    /// What was asked.
    pub(crate) workloads: Vec<Workload>,
    /// What each contender did, point by point.
    pub(crate) lines: Vec<Line>,
    /// Figures of peers that were asked for and cannot be measured here.
    pub(crate) published: Vec<Published>,
}

impl Comparison {
    /// What the workload of a point asks, in its own words. One workload's name may begin like another's.
    fn about(&self, point: &str) -> &str {
        let is_of = |workload: &&Workload| {
            point
                .strip_prefix(&*workload.name)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.workloads.iter().find(is_of).map_or("", |workload| &workload.about)
    }

    /// How the clients asked, each once.
    fn client_notes(&self) -> Vec<&str> {
        let rounds = self.lines.iter().flat_map(|line| &line.rounds);
        let mut notes: Vec<&str> =
            rounds.flat_map(|row| &row.client_notes).map(String::as_str).collect();
        notes.sort_unstable();
        notes.dedup();
        notes
    }
}

/// Runs it, prints the table and writes the report.
pub(crate) fn run(args: &CompareArgs, command: String, as_json: bool) -> anyhow::Result<()> {
    let contenders = peers::chosen(&args.peers)?;
    let workloads = read_workloads(args)?;
    let compare = Compare {
        folder: RunFolder::make(&args.start.data)?,
        place: Place {
            ringmesh: args.start.serve.clone(),
            ringmesh_arguments: args.start.server_arg.clone(),
            installed: args.install.installed.clone(),
            may_install: !args.install.no_install,
            cpu: Some(args.server_cpu),
        },
        args,
    };
    let ready: Vec<Option<String>> =
        contenders.iter().map(|contender| compare.missing(contender)).collect();
    let mut comparison = Comparison {
        command,
        machine: Machine::look(),
        rounds: args.rounds,
        workloads,
        lines: Vec::new(),
        published: contenders
            .iter()
            .filter_map(|contender| contender.published())
            .map(Published::parse)
            .collect::<anyhow::Result<_>>()?,
    };
    machine::pin(args.cpu)?;
    for workload in comparison.workloads.clone() {
        for point in workload.points() {
            let lines = compare.point(&workload, &point, &contenders, &ready);
            comparison.lines.extend(lines);
            // What is measured is kept, whatever comes after.
            write(&comparison, &args.out)?;
        }
    }
    if as_json {
        println!("{}", serde_json::to_string(&comparison)?);
    } else {
        println!("{}", table::markdown(&comparison));
        eprintln!("report: {}/compare.md, compare.json, compare.html", args.out.display());
    }
    let failed = |line: &&Line| line.contender.family == "ringmesh" && line.failed_rounds > 0;
    match comparison.lines.iter().find(failed) {
        Some(line) => bail!("Ringmesh gave no figures: {}", line.notes.join("; ")),
        None => Ok(()),
    }
}

fn read_workloads(args: &CompareArgs) -> anyhow::Result<Vec<Workload>> {
    let path = |name: &PathBuf| match name.exists() {
        true => name.clone(),
        false => workload::shipped(name),
    };
    let read = |name: &PathBuf| {
        let mut workload = Workload::read(&path(name))?;
        workload.duration_s = args.duration.map_or(workload.duration_s, |it| it.as_secs_f64());
        workload.warm_up_s = args.warm_up.map_or(workload.warm_up_s, |it| it.as_secs_f64());
        Ok(workload)
    };
    args.workload.iter().map(read).collect()
}

fn write(comparison: &Comparison, out: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    std::fs::write(out.join("compare.md"), table::markdown(comparison))?;
    std::fs::write(out.join("compare.html"), html::page(comparison))?;
    std::fs::write(out.join("compare.json"), serde_json::to_vec_pretty(comparison)?)?;
    Ok(())
}

struct Compare<'a> {
    args: &'a CompareArgs,
    folder: RunFolder,
    place: Place,
}

impl Compare<'_> {
    /// Why this contender cannot run, if it cannot.
    fn missing(&self, contender: &Contender) -> Option<String> {
        let reason = contender.prepare(&self.place).err().map(|error| format!("{error:#}"));
        if let Some(reason) = &reason {
            eprintln!("{}: {reason}", contender.id);
        }
        reason
    }

    /// All rounds of all contenders at one point.
    fn point(
        &self,
        workload: &Workload,
        point: &Point,
        contenders: &[Contender],
        missing: &[Option<String>],
    ) -> Vec<Line> {
        let name = format!("{} {}", workload.name, point.name).trim_end().to_owned();
        let mut found: Vec<(Vec<Row>, Vec<String>)> =
            missing.iter().map(|why| (Vec::new(), why.iter().cloned().collect())).collect();
        for round in 0..self.args.rounds {
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for index in order.into_iter().filter(|&index| missing[index].is_none()) {
                let contender = &contenders[index];
                let rounds = self.args.rounds;
                live::announce(format!(
                    "{name}, round {} of {rounds}, {}",
                    round + 1,
                    contender.id
                ));
                match self.measure(workload, point, contender) {
                    Ok(row) => {
                        eprintln!("{}", progress(&row));
                        found[index].0.push(row);
                    }
                    Err(error) => {
                        eprintln!("no figures: {error:#}");
                        found[index].1.push(format!("{error:#}"));
                    }
                }
            }
        }
        let line = |(contender, (rows, failures)): (&Contender, _)| {
            let in_flight = in_flight(workload, contender);
            Line::new(name.clone(), *contender, in_flight, rows, failures)
        };
        contenders.iter().zip(found).map(line).collect()
    }

    /// One round of one contender.
    fn measure(
        &self,
        workload: &Workload,
        point: &Point,
        contender: &Contender,
    ) -> anyhow::Result<Row> {
        raw_write::settle(self.folder.path())?;
        if let Kind::Floor = contender.kind {
            return self.floor(workload);
        }
        let protocol = contender.protocol().context("it has no server")?;
        let folder = self.folder.of_server(contender.id)?;
        let Running { mut process, address, says } = contender.start(&self.place, folder.path())?;
        let mut load = workload.load(point, protocol, address);
        if self.args.warm_up.is_none() {
            load.warm_up = load.warm_up.max(contender.warm_up_least);
        }
        let watched =
            Watched { pid: Some(process.pid()), folder: Some(folder.path()), cpu: self.place.cpu };
        let mut row = under_load(contender.id, workload, &load, watched)
            .map_err(|error| process.explain(error))?;
        row.server_says = row.server_says.or(says);
        process.stop()?;
        Ok(row)
    }

    /// The raw loop with the size of the workload's batches, and the loopback round trip at its pace.
    fn floor(&self, workload: &Workload) -> anyhow::Result<Row> {
        let duration = Duration::from_secs_f64(workload.duration_s).min(FLOOR_LONGEST);
        let is_short = duration < Duration::from_secs(1);
        let bytes = workload.batch as usize * (workload.data_bytes as usize + 64);
        let raw = RawWrites {
            file: floor::file_in(self.folder.path()),
            file_bytes: if is_short { FLOOR_FILE_BYTES_SHORT } else { FLOOR_FILE_BYTES },
            write_bytes: bytes.next_multiple_of(4096),
            in_flight: 1,
            sync: true,
            duration,
            cpu: Some(self.args.server_cpu),
        };
        let mut row = raw.run()?;
        row.rate_per_s = row.rate_per_s.map(|writes| writes * f64::from(workload.batch));
        let rates = workload.rate.map(|rate| rate / f64::from(workload.batch));
        let pace = floor::Pace { rates: rates.into_iter().collect(), duration };
        let trips = floor::round_trips(&pace, Some(self.args.server_cpu), Some(self.args.cpu))?;
        // The paced one if there is a pace: a core that sleeps between two sends is slower to answer.
        row.latencies
            .extend(trips.into_iter().last().map(|trip| trip.latencies).unwrap_or_default());
        machine::pin(self.args.cpu)?;
        Ok(row)
    }
}

fn under_load(
    name: &str,
    workload: &Workload,
    load: &Load,
    watched: Watched<'_>,
) -> anyhow::Result<Row> {
    if load.behind {
        Run::connect(&load.without_groups())?.fill(workload.backlog_batches())?;
    }
    load_row::measure(name, load, watched)
}

/// What a reader needs to read a rate: what may be in flight at a time, and whether anything waits for it.
fn in_flight(workload: &Workload, contender: &Contender) -> String {
    match contender.kind {
        Kind::Floor => return "1".to_owned(),
        Kind::Absent(_) => return "-".to_owned(),
        _ => {}
    }
    let Workload { publishers, in_flight, batch, .. } = workload;
    let unit = if *batch == 1 { "events".to_owned() } else { format!("batches of {batch}") };
    let window = format!("{publishers} x {in_flight} {unit}");
    match (workload.rate, workload.peak_rate) {
        (None, _) => window,
        (Some(rate), None) => format!("open loop, {rate:.0}/s; at most {window}"),
        (Some(rate), Some(peak)) => {
            format!("open loop, {rate:.0} to {peak:.0}/s; at most {window}")
        }
    }
}

fn progress(row: &Row) -> String {
    let mut text = format!("{:.0}/s", row.rate_per_s.unwrap_or(0.0));
    for latency in &row.latencies {
        let summary = latency.summary;
        let kind = latency.kind;
        text.push_str(&format!(", {kind} p50 {:.0} p99 {:.0} us", summary.p50_us, summary.p99_us));
    }
    text
}
