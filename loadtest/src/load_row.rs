//! One load as a row of the report: the run itself, and what client, server and disk used meanwhile.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::calls::CallCounter;
use crate::engine::tally::Tally;
use crate::engine::{Load, Pace, Run};
use crate::live::View;
use crate::machine::{self, CpuTime, DiskCounters, ProcessMeter};
use crate::report::Row;

/// Names of the figures that other parts of a report are made from.
pub(crate) const EVENTS: &str = "events acknowledged";
pub(crate) const DELIVERED: &str = "delivered events a second";
pub(crate) const BACKLOG_READ: &str = "backlog read, events a second";
pub(crate) const WRITTEN: &str = "bytes written by the server";

/// A server that acknowledges less than this share of what an open loop asks does not keep up: its latencies only tell how
/// long the run was.
const KEPT_UP_SHARE: f64 = 0.95;

/// Whom to watch during a load.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Watched<'a> {
    /// The server's process, if it is known.
    pub(crate) pid: Option<u32>,
    /// The folder whose disk is watched.
    pub(crate) folder: Option<&'a Path>,
    /// The server's core, if it has only that one.
    pub(crate) cpu: Option<usize>,
}

/// What was used between two moments.
struct Meters {
    began: Instant,
    client_cpu: CpuTime,
    server: Option<ProcessMeter>,
    disk: Option<DiskCounters>,
    written_bytes: Option<u64>,
    core: Option<Duration>,
}

impl Meters {
    fn start(watched: &Watched<'_>) -> anyhow::Result<Self> {
        machine::reset_peak_memory();
        Ok(Meters {
            began: Instant::now(),
            client_cpu: CpuTime::of_thread(),
            server: watched.pid.map(ProcessMeter::start).transpose()?,
            disk: watched.folder.map(DiskCounters::of).transpose()?.flatten(),
            written_bytes: watched.pid.map(machine::written_bytes).transpose()?,
            core: watched.cpu.and_then(machine::core_time),
        })
    }

    fn read(&self, watched: &Watched<'_>, row: &mut Row) -> anyhow::Result<()> {
        let pid = std::process::id();
        let client = CpuTime::of_thread().since(self.client_cpu, self.began.elapsed(), pid)?;
        row.client = Some(client);
        row.server = self.server.as_ref().map(ProcessMeter::read).transpose()?;
        let core = watched.cpu.and_then(machine::core_time);
        if let (Some(before), Some(after), Some(server)) = (self.core, core, &row.server) {
            let others_s = (after - before).as_secs_f64() - server.cpu_s;
            row.others_share = Some(others_s.max(0.0) / self.began.elapsed().as_secs_f64());
        }
        let after = watched.folder.map(DiskCounters::of).transpose()?.flatten();
        if let (Some(before), Some(after)) = (self.disk, after) {
            row.figure("disk flushes", (after.flushes - before.flushes) as f64);
        }
        if let (Some(before), Some(pid)) = (self.written_bytes, watched.pid) {
            let written = machine::written_bytes(pid)? - before;
            row.figure(WRITTEN, written as f64);
        }
        Ok(())
    }
}

/// Runs a load and tells it as a row.
pub(crate) fn measure(name: &str, load: &Load, watched: Watched<'_>) -> anyhow::Result<Row> {
    measure_with(name, load, watched, || Ok(()))
}

/// The same, with a look at something else when the time that counts begins, and when it ends.
pub(crate) fn measure_with(
    name: &str,
    load: &Load,
    watched: Watched<'_>,
    mut at_border: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Row> {
    let mut run = Run::connect(load)?;
    let _view = View::begin(name, load, watched.pid, &mut run);
    let mut row = Row::new(name);
    let mut meters: Option<Meters> = None;
    let tally = run.drive(|| {
        match meters.take() {
            None => meters = Some(Meters::start(&watched)?),
            Some(started) => started.read(&watched, &mut row)?,
        }
        at_border()
    })?;
    tell(&tally, load, &mut row);
    Ok(row)
}

/// Runs a load, and tells only how often the server called kernel and allocator meanwhile.
pub(crate) fn count_calls(name: &str, load: &Load, watched: Watched<'_>) -> anyhow::Result<Row> {
    let pid = watched.pid.context("--count-calls needs --server-pid, or --serve")?;
    let run = Run::connect(load)?;
    let (mut counter, mut calls) = (None, Vec::new());
    let tally = run.drive(|| {
        match counter.take() {
            // perf opens its counters while the load goes on; the first part of the time is not counted.
            None => counter = Some(CallCounter::start(pid)?),
            Some(counting) => calls = CallCounter::stop(counting)?,
        }
        Ok(())
    })?;
    let mut row = Row::new(name);
    row.notes
        .push("counted by perf, which slows the server: only the counts mean something".into());
    row.figure("events", tally.acked_events_counted as f64);
    for (call, count) in calls {
        row.figure(
            format!("{call}, each event"),
            count as f64 / tally.acked_events_counted.max(1) as f64,
        );
    }
    Ok(row)
}

fn tell(tally: &Tally, load: &Load, row: &mut Row) {
    let seconds = load.duration.as_secs_f64();
    let events = tally.acked_events_counted;
    if load.publishers > 0 {
        row.rate_per_s = Some(events as f64 / seconds);
        row.figure(EVENTS, events as f64);
        row.mb_per_s = Some(events as f64 * load.shape.data_bytes as f64 / seconds / 1e6);
    }
    let asked = match load.pace {
        Pace::Rate(rate) => Some(rate),
        Pace::Rush { base, peak } => Some(f64::midpoint(base, peak)),
        Pace::Window => None,
    };
    if let Some(asked) = asked
        && (events as f64) < KEPT_UP_SHARE * asked * seconds
    {
        let got = events as f64 / seconds;
        row.notes.push(format!("over capacity: {got:.0}/s of the {asked:.0}/s that were asked"));
    }
    row.latency("ack", tally.ack.summary());
    row.latency("end to end", tally.end_to_end.summary());
    row.latency("publish delay", tally.delay.summary());
    row.ack_curve = tally.ack.curve();
    row.end_to_end_curve = tally.end_to_end.curve();
    row.seconds = tally.series.seconds().to_vec();
    if load.subscribers > 0 {
        row.figure(DELIVERED, tally.delivered_events_counted as f64 / seconds);
    }
    if let Some(server) = &row.server
        && load.publishers > 0
    {
        let cpu_us = server.cpu_s * 1e6 / (events as f64).max(1.0);
        row.figure("server CPU us an event", cpu_us);
    }
    if tally.unanswered() > 0 {
        row.notes.push(format!("{} batches were never answered", tally.unanswered()));
    } else if load.publishers > 0 && events == 0 && tally.refused_batches == 0 {
        // A disk that others keep busy may stand still for longer than a short run.
        row.notes.push(format!("disturbed: all answers came after the {seconds} s that count"));
    }
    if tally.refused_batches > 0 {
        let first = tally.first_refusal.as_deref().unwrap_or_default();
        row.notes.push(format!("{} batches were refused: {first}", tally.refused_batches));
    }
    row.server_says.clone_from(&tally.server_says);
    row.client_notes.clone_from(&tally.notes);
    if tally.backlog_events > 0 {
        row.figure("backlog, events", tally.backlog_events as f64);
        row.figure(BACKLOG_READ, tally.backlog_events as f64 / (tally.backlog_ns as f64 / 1e9));
    }
    let missing = tally.missing_deliveries(load);
    if missing > 0 {
        let got = tally.delivered_events();
        row.notes.push(format!("{missing} deliveries did not come ({got} did)"));
    }
    if tally.redelivered_events > 0 {
        row.notes.push(format!("{} events were delivered again", tally.redelivered_events));
    }
    row.mark_limits();
}
