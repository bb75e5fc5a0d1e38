//! `loadtest core`: the figures that the core is judged by, each beside the floor of the same run.
//!
//! Every load gets a server of its own on an empty folder, so that none inherits another's log, cache or memory.

use std::time::Duration;

use anyhow::Context;

use crate::args::CoreArgs;
use crate::engine::template::EventShape;
use crate::engine::{Load, Pace, Protocol};
use crate::floor::raw_write::{self, RawWrites};
use crate::floor::{self, Pace as RoundTripPace};
use crate::load_row::{self, Watched};
use crate::machine::{self, Machine, ProcessMeter};
use crate::report::{Report, Row};
use crate::server::{Server, Start};

/// Size of the file of the raw loop: one segment.
const FLOOR_FILE_BYTES: u64 = 256 << 20;
/// The same in the short form, which must not spend its seconds on writing zeros.
const FLOOR_FILE_BYTES_SHORT: u64 = 32 << 20;
/// Commits that a log has in flight at most.
const COMMITS_IN_FLIGHT: usize = 2;
/// Makes a log that recycles its segments after a few hundred MB.
pub(crate) const RECYCLING: [&str; 4] =
    ["--set", "log.segment_bytes=64MiB", "--set", "log.retention_bytes=256MiB"];
/// Starts on an empty folder that are timed.
pub(crate) const STARTS: usize = 5;
/// Names of figures that others are made from.
pub(crate) const START_MEDIAN: &str = "median ms to the ready line";
pub(crate) const RESIDENT: &str = "resident memory, MB";
/// Events a second of the end to end measurements.
const RATES: [f64; 2] = [1_000.0, 10_000.0];

/// Runs what is asked for and puts it in one report.
pub(crate) fn run(args: &CoreArgs, command: String) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let mut core = Core::new(args)?;
    core.floor()?;
    core.starts()?;
    core.idle()?;
    core.single_events()?;
    core.end_to_end()?;
    core.durable_append()?;
    core.connections()?;
    core.streams()?;
    Ok(Report { command, machine, rows: core.rows })
}

/// What is measured with, and what was.
pub(crate) struct Core {
    args: CoreArgs,
    rows: Vec<Row>,
}

impl Core {
    /// Nothing measured yet; from here on this thread is on its core.
    pub(crate) fn new(args: &CoreArgs) -> anyhow::Result<Self> {
        machine::pin(args.cpu)?;
        let mut args = args.clone();
        if args.short {
            args.duration = Duration::from_millis(300);
        }
        Ok(Core { args, rows: Vec::new() })
    }

    /// Waits until a load before has left the disk at rest; the short form does not.
    pub(crate) fn settle(&self) -> anyhow::Result<()> {
        if self.args.short { Ok(()) } else { raw_write::settle(&self.args.start.data) }
    }

    fn wanted(&self, name: &str) -> bool {
        self.args.only.as_deref().is_none_or(|part| name.contains(part))
    }

    fn push(&mut self, row: Row) {
        // The long form takes minutes: who waits sees that it goes on.
        eprint!("{row}");
        self.rows.push(row);
    }

    fn server(&self, shards: u16) -> anyhow::Result<Server> {
        self.server_with(shards, &self.args.start.server_arg)
    }

    pub(crate) fn server_with(&self, shards: u16, arguments: &[String]) -> anyhow::Result<Server> {
        Server::start(&self.start(shards, arguments))
    }

    /// How a server is started.
    pub(crate) fn start<'a>(&'a self, shards: u16, arguments: &'a [String]) -> Start<'a> {
        // Two shards on one core would share it; idleness is measured on any.
        let server_cpu = (shards == 1).then_some(self.args.server_cpu);
        Start {
            binary: &self.args.start.serve,
            data: &self.args.start.data,
            shards,
            cpus: (server_cpu, Some(self.args.cpu)),
            arguments,
        }
    }

    fn load(&self, server: &Server) -> Load {
        let warm_up = if self.args.short { 100 } else { 1_000 };
        Load {
            protocol: Protocol::Ringmesh,
            server: server.address,
            publishers: 1,
            subscribers: 0,
            groups: 1,
            idle: 0,
            topics: 1,
            partitions: 16,
            shape: EventShape { data_bytes: 100, batch: 1, keys: 1_000 },
            pace: Pace::Window,
            window: 1,
            credit: 65_536,
            warm_up: Duration::from_millis(warm_up),
            duration: self.args.duration,
            behind: false,
            backlog_events: 0,
            stamped: false,
        }
    }

    /// Runs one load on a server of its own.
    fn measure(&mut self, name: &str, change: impl FnOnce(&mut Load)) -> anyhow::Result<Row> {
        self.settle()?;
        let server = self.server(1)?;
        self.measure_on(server, name, change)
    }

    fn measure_on(
        &mut self,
        server: Server,
        name: &str,
        change: impl FnOnce(&mut Load),
    ) -> anyhow::Result<Row> {
        let mut load = self.load(&server);
        change(&mut load);
        let watched = Watched {
            pid: Some(server.pid()),
            folder: Some(server.folder()),
            ..Watched::default()
        };
        let row = load_row::measure(name, &load, watched).with_context(|| name.to_owned())?;
        server.stop()?;
        Ok(row)
    }

    fn floor_file_bytes(&self) -> u64 {
        if self.args.short { FLOOR_FILE_BYTES_SHORT } else { FLOOR_FILE_BYTES }
    }

    fn raw(&self, write_bytes: usize, in_flight: usize) -> anyhow::Result<Row> {
        std::fs::create_dir_all(&self.args.start.data)?;
        let file = floor::file_in(&self.args.start.data);
        let row = RawWrites {
            file: file.clone(),
            file_bytes: self.floor_file_bytes(),
            write_bytes,
            in_flight,
            sync: true,
            duration: self.args.duration,
            cpu: Some(self.args.server_cpu),
        }
        .run()?;
        std::fs::remove_file(file)?;
        Ok(row)
    }

    fn floor(&mut self) -> anyhow::Result<()> {
        for row in self.floor_rows()? {
            self.push(row);
        }
        Ok(())
    }

    /// What the machine itself does: a synced write of 4 KiB, then the round trip back to back and at each of [`RATES`].
    pub(crate) fn floor_rows(&self) -> anyhow::Result<Vec<Row>> {
        let mut rows = vec![self.raw(4096, 1)?];
        let pace = RoundTripPace { rates: RATES.to_vec(), duration: self.args.duration };
        rows.extend(floor::round_trips(&pace, Some(self.args.server_cpu), Some(self.args.cpu))?);
        Ok(rows)
    }

    fn starts(&mut self) -> anyhow::Result<()> {
        let name = "start on an empty folder, 2 shards";
        if !self.wanted(name) {
            return Ok(());
        }
        let mut row = self.start_row(name)?;
        let median_ms = row.value(START_MEDIAN).context("the starts were timed")?;
        row.target("ready in under 200 ms", median_ms < 200.0);
        self.push(row);
        Ok(())
    }

    /// Starts on empty folders.
    pub(crate) fn start_row(&self, name: &str) -> anyhow::Result<Row> {
        let mut after_ms = Vec::new();
        for _ in 0..STARTS {
            let server = self.server(2)?;
            after_ms.push(server.ready_after.as_secs_f64() * 1e3);
            server.stop()?;
        }
        Ok(starts_row(name, after_ms))
    }

    fn idle(&mut self) -> anyhow::Result<()> {
        let name = "idle, 2 shards";
        if !self.wanted(name) {
            return Ok(());
        }
        let mut row = self.idle_row(name)?;
        let busy_share = row.server.as_ref().map_or(f64::INFINITY, |used| used.busy_share);
        row.target("under 0.5 % of a core", busy_share < 0.005);
        let rss_mb = row.value(RESIDENT).unwrap_or(f64::INFINITY);
        row.target("under 30 MB", rss_mb < 30.0);
        self.push(row);
        Ok(())
    }

    /// A server that nobody talks to.
    pub(crate) fn idle_row(&self, name: &str) -> anyhow::Result<Row> {
        let server = self.server(2)?;
        // The durable mark, a second after the start, belongs to the start.
        std::thread::sleep(Duration::from_secs(2));
        let meter = ProcessMeter::start(server.pid())?;
        std::thread::sleep(self.args.duration);
        let used = meter.read()?;
        let rss_mb = machine::memory_bytes(server.pid(), "VmRSS:")? as f64 / 1e6;
        let mut row = Row::new(name);
        row.figure("CPU, % of a core", 100.0 * used.busy_share);
        row.figure(RESIDENT, rss_mb);
        row.server = Some(used);
        server.stop()?;
        Ok(row)
    }

    fn single_events(&mut self) -> anyhow::Result<()> {
        for (publishers, window) in [(1, 1), (8, 1), (64, 1), (64, 16)] {
            let name = format!("{publishers} producers x {window} in flight, 100 B");
            if !self.wanted(&name) {
                continue;
            }
            let mut row = self.measure(&name, |load| {
                load.publishers = publishers;
                load.window = window;
            })?;
            if publishers == 1 {
                self.compare_with_floor(&mut row);
            }
            self.push(row);
        }
        Ok(())
    }

    /// One event's ack cannot be faster than one synced write and one round trip.
    fn compare_with_floor(&self, row: &mut Row) {
        let floor = self
            .rows
            .iter()
            .find_map(|row| row.p50_us("write"))
            .zip(self.rows.iter().find_map(|row| row.p50_us("round trip")));
        if let (Some((write_us, trip_us)), Some(ack_us)) = (floor, row.p50_us("ack")) {
            row.figure("raw sync p50 + round trip p50, us", write_us + trip_us);
            row.figure("ack p50, by that floor", ack_us / (write_us + trip_us));
        }
    }

    fn end_to_end(&mut self) -> anyhow::Result<()> {
        for rate in RATES {
            let name = format!("end to end at {rate:.0}/s, 100 B");
            if !self.wanted(&name) {
                continue;
            }
            let row = self.measure(&name, |load| {
                load.pace = Pace::Rate(rate);
                load.window = 1_024;
                load.subscribers = 1;
            })?;
            self.push(row);
        }
        Ok(())
    }

    /// Batches of 100 x 1 KB, and then the raw loop with the write size that the server really used.
    ///
    /// The log is small enough to be full after the warm-up, so that segments are recycled, as in a server that has
    /// run for a while; before that every byte is written twice, once as zeros.
    fn durable_append(&mut self) -> anyhow::Result<()> {
        for (publishers, window) in [(1, 1), (1, 4), (4, 4)] {
            let name = format!("append {publishers} x {window} in flight, 100 x 1 KB");
            if !self.wanted(&name) {
                continue;
            }
            let mut arguments = self.args.start.server_arg.clone();
            arguments.extend(RECYCLING.map(str::to_owned));
            let server = self.server_with(1, &arguments)?;
            let warm_up = if self.args.short { 200 } else { 4_000 };
            let mut row = self.measure_on(server, &name, |load| {
                load.publishers = publishers;
                load.window = window;
                load.shape = EventShape { data_bytes: 1_000, batch: 100, keys: 1_000 };
                load.warm_up = Duration::from_millis(warm_up);
            })?;
            let Some(commit) = mean_commit_bytes(&row) else {
                row.notes.push("the disk does not count its flushes: no floor to compare".into());
                self.push(row);
                continue;
            };
            row.figure("mean commit, KiB", commit as f64 / 1024.0);
            let in_flight = if publishers * window == 1 { 1 } else { COMMITS_IN_FLIGHT };
            let raw = self.raw(commit, in_flight)?;
            // Only the events' data counts as ours: headers, attributes and padding are not what a user appends.
            let share = row.mb_per_s.unwrap_or(0.0) / raw.mb_per_s.unwrap_or(f64::INFINITY);
            row.figure("data appended, by the raw loop's bytes", share);
            if publishers > 1 {
                row.target("at least 80 % of the raw loop", share >= 0.8);
            }
            self.push(raw);
            self.push(row);
        }
        Ok(())
    }

    fn connections(&mut self) -> anyhow::Result<()> {
        let count = if self.args.short { 500 } else { 10_000 };
        let name = format!("{count} idle connections");
        if !self.wanted(&name) {
            return Ok(());
        }
        let server = self.server(1)?;
        let mut load = self.load(&server);
        load.publishers = 0;
        load.idle = count;
        let (mut row, each) = memory_of_each(&name, &load, &server, count)?;
        row.figure("server memory a connection, bytes", each);
        row.target("at most 8 KiB a connection", each <= 8192.0);
        self.push(row);
        server.stop()
    }
}

impl Core {
    /// What a subscriber by server-sent events costs the server's memory.
    fn streams(&mut self) -> anyhow::Result<()> {
        let counts: &[u32] = if self.args.short { &[100] } else { &[1_000, 5_000] };
        for &count in counts {
            let name = format!("{count} streams of server-sent events");
            if !self.wanted(&name) {
                continue;
            }
            let server = self.server(1)?;
            let mut load = self.load(&server);
            (load.protocol, load.server) = (Protocol::Http, server.door(Protocol::Http)?);
            (load.publishers, load.subscribers, load.groups) = (0, count, count);
            let (mut row, each) = memory_of_each(&name, &load, &server, count)?;
            row.figure("server memory a stream, bytes", each);
            self.push(row);
            server.stop()?;
        }
        Ok(())
    }
}

/// Starts that took so many milliseconds each.
pub(crate) fn starts_row(name: &str, mut after_ms: Vec<f64>) -> Row {
    after_ms.sort_by(f64::total_cmp);
    let mut row = Row::new(name);
    row.figure(START_MEDIAN, after_ms[after_ms.len() / 2]);
    row.figure("longest ms to the ready line", after_ms[after_ms.len() - 1]);
    row
}

/// Runs a load and gives its row, and the server's memory for each of its `count` connections, in bytes.
fn memory_of_each(
    name: &str,
    load: &Load,
    server: &Server,
    count: u32,
) -> anyhow::Result<(Row, f64)> {
    let pid = server.pid();
    let before = machine::memory_bytes(pid, "VmRSS:")?;
    let mut after = before;
    let watched = Watched { pid: Some(pid), ..Watched::default() };
    let row = load_row::measure_with(name, load, watched, || {
        after = machine::memory_bytes(pid, "VmRSS:")?;
        Ok(())
    })?;
    Ok((row, after.saturating_sub(before) as f64 / f64::from(count)))
}

/// Mean size of a commit, as whole blocks: what the disk was given between two flushes.
fn mean_commit_bytes(row: &Row) -> Option<usize> {
    let (bytes, flushes) = (row.value("bytes written by the server")?, row.value("disk flushes")?);
    if flushes < 1.0 {
        return None;
    }
    Some(
        ((bytes / flushes) as usize)
            .next_multiple_of(4096)
            .min(FLOOR_FILE_BYTES_SHORT as usize / 4),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A floor with other write sizes than the server's is another floor.
    #[test]
    fn the_mean_commit_is_whole_blocks() {
        let row = |bytes, flushes| {
            let mut row = Row::new("append");
            row.figure("bytes written by the server", bytes);
            row.figure("disk flushes", flushes);
            mean_commit_bytes(&row)
        };
        assert_eq!(row(8_192_000.0, 1_000.0), Some(8_192));
        assert_eq!(row(8_193_000.0, 1_000.0), Some(12_288));
        assert_eq!(row(1_000.0, 0.0), None);
        assert_eq!(mean_commit_bytes(&Row::new("elsewhere")), None);
    }
}
