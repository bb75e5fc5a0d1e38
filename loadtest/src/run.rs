//! `loadtest run`: one load, beside the floor if asked.

use anyhow::{Context, bail};

use crate::args::{RunArgs, ServerArgs};
use crate::engine::template::{EventShape, STAMP_BYTES};
use crate::engine::{Load, Pace, Run};
use crate::floor;
use crate::floor::raw_write::RawWrites;
use crate::load_row::{self, Watched};
use crate::machine::{self, Machine};
use crate::report::{Report, Row};
use crate::server::{Server, Start};
use crate::workload::{DEFAULT_PARTITIONS, Point, Workload};

/// Batches in flight of a connection in an open loop: enough that only the server or its back-pressure limits.
const OPEN_LOOP_WINDOW: u32 = 1_024;
/// Size of the file of the floor.
const FLOOR_FILE_BYTES: u64 = 256 << 20;

/// Runs the load.
pub(crate) fn run(args: &RunArgs, command: String) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let mut rows = Vec::new();
    if args.floor {
        rows.extend(floor_rows(args)?);
    }
    if let Some(cpu) = args.server.cpu {
        machine::pin(cpu)?;
    }
    if let Some(path) = &args.workload {
        let workload = Workload::read(path)?;
        for point in workload.points() {
            rows.push(run_point(args, &workload, &point)?);
        }
        return Ok(Report { command, machine, rows });
    }
    let name = name(args);
    let measure = if args.count_calls { load_row::count_calls } else { load_row::measure };
    let row = if let Some(address) = args.server.server {
        let load = load(args, address)?;
        let watched = Watched {
            pid: args.server.server_pid,
            folder: args.server.data.as_deref(),
            ..Watched::default()
        };
        measure(&name, &load, watched)?
    } else {
        let server = start(&args.server)?;
        let load = load(args, server.door(args.driver)?)?;
        let watched = Watched {
            pid: Some(server.pid()),
            folder: Some(server.folder()),
            ..Watched::default()
        };
        let row = measure(&name, &load, watched)?;
        server.stop()?;
        row
    };
    rows.push(row);
    Ok(Report { command, machine, rows })
}

/// One point of a workload, on a server of its own if one is to be started.
fn run_point(args: &RunArgs, workload: &Workload, point: &Point) -> anyhow::Result<Row> {
    let server = args.server.serve.is_some().then(|| start(&args.server)).transpose()?;
    let started = server.as_ref().map(|server| server.door(args.driver)).transpose()?;
    let address = started.or(args.server.server);
    let address = address.context("give --server, or --serve with --data")?;
    let load = workload.load(point, args.driver, address);
    if load.behind {
        Run::connect(&load.without_groups())?.fill(workload.backlog_batches())?;
    }
    let watched = match &server {
        Some(server) => {
            Watched { pid: Some(server.pid()), folder: Some(server.folder()), ..Watched::default() }
        }
        None => Watched {
            pid: args.server.server_pid,
            folder: args.server.data.as_deref(),
            ..Watched::default()
        },
    };
    let name = format!("{} {}", workload.name, point.name);
    let row = load_row::measure(name.trim_end(), &load, watched)?;
    server.map_or(Ok(()), Server::stop)?;
    Ok(row)
}

fn start(args: &ServerArgs) -> anyhow::Result<Server> {
    let (Some(binary), Some(data)) = (&args.serve, &args.data) else {
        bail!("give --server, or --serve with --data");
    };
    Server::start(&Start {
        binary,
        data,
        shards: args.shards,
        cpus: (args.server_cpu, args.cpu),
        arguments: &args.server_arg,
    })
}

fn load(args: &RunArgs, server: std::net::SocketAddr) -> anyhow::Result<Load> {
    if args.subscribers > 0 && args.size < STAMP_BYTES {
        bail!("--size {}: subscribers need {STAMP_BYTES} bytes for the time of sending", args.size);
    }
    if args.subscribers > 0 && args.groups > args.subscribers {
        bail!("{} groups for {} subscribers", args.groups, args.subscribers);
    }
    let batch_bytes = args.batch as usize * (args.size + 64);
    if batch_bytes > codec::limits::BODY_BYTES_MAX as usize {
        bail!("--batch {} x --size {} is more than a batch holds", args.batch, args.size);
    }
    let window = if args.rate.is_some() { OPEN_LOOP_WINDOW } else { 1 };
    Ok(Load {
        protocol: args.driver,
        server,
        publishers: args.publishers,
        subscribers: args.subscribers,
        groups: args.groups,
        idle: args.idle,
        topics: args.topics,
        partitions: DEFAULT_PARTITIONS,
        shape: EventShape { data_bytes: args.size, batch: args.batch, keys: args.keys },
        pace: args.rate.map_or(Pace::Window, Pace::Rate),
        window: args.in_flight.unwrap_or(window),
        credit: args.credit,
        warm_up: args.warm_up,
        duration: args.duration,
        behind: false,
        backlog_events: 0,
        stamped: false,
    })
}

fn name(args: &RunArgs) -> String {
    let mut name = format!("{} publishers", args.publishers);
    match args.rate {
        Some(rate) => name.push_str(&format!(" at {rate:.0}/s")),
        None => name.push_str(&format!(" x {}", args.in_flight.unwrap_or(1))),
    }
    name.push_str(&format!(", {} x {} B", args.batch, args.size));
    if args.subscribers > 0 {
        name.push_str(&format!(", {} subscribers", args.subscribers));
    }
    name
}

fn floor_rows(args: &RunArgs) -> anyhow::Result<Vec<Row>> {
    let dir = args.server.data.as_deref().context("--floor needs --data, a folder on the disk")?;
    std::fs::create_dir_all(dir)?;
    let write_bytes = (args.batch as usize * (args.size + 64)).next_multiple_of(4096);
    let raw = RawWrites {
        file: floor::file_in(dir),
        file_bytes: FLOOR_FILE_BYTES,
        write_bytes,
        in_flight: 1,
        sync: true,
        duration: args.duration,
        cpu: args.server.server_cpu.or(args.server.cpu),
    };
    let mut rows = vec![raw.run()?];
    std::fs::remove_file(&raw.file)?;
    let pace = floor::Pace { rates: args.rate.into_iter().collect(), duration: args.duration };
    rows.extend(floor::round_trips(&pace, args.server.server_cpu, args.server.cpu)?);
    Ok(rows)
}
