//! What the machine itself can do: the raw write-and-sync loop and the loopback round trip.
//!
//! A figure of the server means little alone. These are measured in the same run, on the same cores and disk, so that
//! the share of the server's own work is what is left.

pub(crate) mod fio;
pub(crate) mod raw_write;
mod ring;
pub(crate) mod round_trip;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use crate::args::FloorArgs;
use crate::machine::{self, Machine};
use crate::report::{Report, Row};
use raw_write::RawWrites;
use round_trip::RoundTrips;

/// Name of the file that the raw loop writes, in the folder that was given.
const FILE_NAME: &str = "loadtest-floor.bin";

/// Runs `loadtest floor`.
pub(crate) fn run(args: &FloorArgs, command: String) -> anyhow::Result<Report> {
    let machine = Machine::look();
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot make the folder {}", args.dir.display()))?;
    if let Some(cpu) = args.cpu {
        machine::pin(cpu)?;
    }
    let mut rows = Vec::new();
    for &write_bytes in &args.write_bytes {
        for &in_flight in &args.in_flight {
            for sync in args.sync.values() {
                let writes = RawWrites {
                    file: file_in(&args.dir),
                    file_bytes: args.file_bytes,
                    write_bytes,
                    in_flight,
                    sync,
                    duration: args.duration,
                    cpu: args.server_cpu.or(args.cpu),
                };
                if args.against_fio {
                    rows.extend(fio::compare(&writes)?);
                } else {
                    rows.push(writes.run()?);
                }
            }
        }
    }
    if !args.against_fio {
        let pace = Pace { rates: args.rate.clone(), duration: args.duration };
        rows.extend(round_trips(&pace, args.server_cpu, args.cpu)?);
    }
    let _ = std::fs::remove_file(file_in(&args.dir));
    Ok(Report { command, machine, rows })
}

/// How the round trip is measured.
pub(crate) struct Pace {
    /// Paced rates, each a row, after the one back to back.
    pub(crate) rates: Vec<f64>,
    /// How long each.
    pub(crate) duration: Duration,
}

/// The round trip back to back and at each rate.
pub(crate) fn round_trips(
    pace: &Pace,
    server_cpu: Option<usize>,
    client_cpu: Option<usize>,
) -> anyhow::Result<Vec<Row>> {
    let free = RoundTrips {
        message_bytes: 64,
        rate: None,
        duration: pace.duration,
        server_cpu,
        client_cpu,
    };
    let paced = pace.rates.iter().map(|&rate| RoundTrips { rate: Some(rate), ..free });
    std::iter::once(free).chain(paced).map(|trips| trips.run()).collect()
}

/// The file of the raw loop in `folder`.
pub(crate) fn file_in(folder: &std::path::Path) -> PathBuf {
    folder.join(FILE_NAME)
}
