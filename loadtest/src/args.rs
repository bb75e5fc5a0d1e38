//! The command line. Every count and time is bounded, and only loopback is loaded: a typing error must not become an
//! attack.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::compare::arguments::CompareArgs;
use crate::engine::Protocol;

/// Longest time that one measurement may take.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Loads a Ringmesh server and says what it does, beside what the machine can do.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON value instead of a table.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Show no live view while a measurement runs (there is none without a terminal, and with --json).
    #[arg(long, global = true)]
    pub(crate) quiet: bool,
}

/// What the load generator can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The floor: raw synced writes and the loopback round trip, without a server.
    Floor(FloorArgs),
    /// One load: publishers and subscribers against a server.
    Run(RunArgs),
    /// The figures of the core, each beside the floor of the same run.
    Core(CoreArgs),
    /// Ringmesh, its peers and the floor under the same workloads, in turn, in the same run.
    Compare(CompareArgs),
    /// Every aim: what it asks, what this machine gives, and what the machine itself does, over several rounds.
    Aims(AimsArgs),
    /// How long a server takes to open a large folder after kill -9.
    Folder(FolderArgs),
    /// Connections with ephemeral subscriptions that all drop and return while events flow: is anything missed, and what
    /// do the others feel?
    Churn(ChurnArgs),
    /// A stand-in for a server, which acknowledges at once and stores nothing: what the load generator itself can do.
    StandIn(StandInArgs),
    /// Becomes a server that ends when whoever started it does.
    #[command(hide = true)]
    ExecServer(ExecServerArgs),
}

/// Arguments of `floor`.
#[derive(Debug, Args)]
pub(crate) struct FloorArgs {
    /// Folder on the disk to be measured; a file is written there and removed.
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Sizes of a write (4KiB, 64KiB, ...), each measured.
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64KiB,1MiB", value_parser = bytes)]
    pub(crate) write_bytes: Vec<usize>,
    /// Writes in flight, each measured.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    pub(crate) in_flight: Vec<usize>,
    /// Whether each write is synced (RWF_DSYNC).
    #[arg(long, value_enum, default_value = "on")]
    pub(crate) sync: Sync,
    /// Size of the file, written with zeros first.
    #[arg(long, default_value = "256MiB", value_parser = file_bytes)]
    pub(crate) file_bytes: u64,
    /// Rates of the paced round trip, a second.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000", value_parser = rate)]
    pub(crate) rate: Vec<f64>,
    /// How long each measurement runs.
    #[arg(long, default_value = "3s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Run fio on the same file with the same sizes, depth and sync, in turn with the raw loop, and compare.
    #[arg(long)]
    pub(crate) against_fio: bool,
    /// Core that asks, in the round trip; it writes, too, without --server-cpu.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Core of the server to compare with: it writes, and it answers in the round trip.
    #[arg(long)]
    pub(crate) server_cpu: Option<usize>,
}

/// Which writes are measured.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Sync {
    /// Synced ones.
    On,
    /// Not synced ones.
    Off,
    /// One after the other.
    Both,
}

impl Sync {
    /// The values to measure.
    pub(crate) fn values(self) -> Vec<bool> {
        match self {
            Sync::On => vec![true],
            Sync::Off => vec![false],
            Sync::Both => vec![true, false],
        }
    }
}

/// Arguments of `run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) server: ServerArgs,
    /// The protocol that is spoken. A server that is started here speaks ringmesh and http.
    #[arg(long, value_enum, default_value = "ringmesh")]
    pub(crate) driver: Protocol,
    /// The load as a file (loadtest/workloads/*.toml) instead of as arguments.
    #[arg(long, conflicts_with_all = ["publishers", "subscribers", "groups", "idle", "topics", "size", "batch", "keys",
        "rate", "in_flight", "credit", "duration", "warm_up", "count_calls", "floor"])]
    pub(crate) workload: Option<PathBuf>,
    /// Connections that publish.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(0..=60_000))]
    pub(crate) publishers: u32,
    /// Connections that subscribe.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=60_000))]
    pub(crate) subscribers: u32,
    /// Groups that they are spread over; each group gets every event.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=60_000))]
    pub(crate) groups: u32,
    /// Connections that say hello and are silent.
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u32).range(0..=60_000))]
    pub(crate) idle: u32,
    /// Topics, spread over the publishers.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) topics: u32,
    /// Bytes of data of an event.
    #[arg(long, default_value = "100", value_parser = bytes)]
    pub(crate) size: usize,
    /// Events of a batch.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=8_192))]
    pub(crate) batch: u32,
    /// Distinct keys; 0 publishes without keys.
    #[arg(long, default_value_t = 1_000, value_parser = value_parser!(u32).range(0..=1_000_000))]
    pub(crate) keys: u32,
    /// Events a second over all publishers (open loop). Without it: whenever the window has room.
    #[arg(long, value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Most batches of a connection without an answer (default: 1, with --rate 1024).
    #[arg(long, value_parser = value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: Option<u32>,
    /// Most events in flight of a subscriber.
    #[arg(long, default_value_t = 4_096, value_parser = value_parser!(u32).range(1..))]
    pub(crate) credit: u32,
    /// Time that counts.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Time before anything counts.
    #[arg(long, default_value = "1s", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// Count the server's system calls and allocations for each event. It slows the server: no other figure counts.
    /// Needs root, perf, and a server that was started here or --server-pid.
    #[arg(long)]
    pub(crate) count_calls: bool,
    /// Measure the floor before, in this folder (with --data: in that one).
    #[arg(long)]
    pub(crate) floor: bool,
}

/// Which server, and who runs on which core.
#[derive(Clone, Debug, Args)]
pub(crate) struct ServerArgs {
    /// A server that runs already. Only loopback is loaded.
    #[arg(long, value_parser = loopback, required_unless_present = "serve")]
    pub(crate) server: Option<SocketAddr>,
    /// Its process, for its CPU time and memory.
    #[arg(long, requires = "server")]
    pub(crate) server_pid: Option<u32>,
    /// The server's binary, to be started with an empty folder below --data.
    #[arg(long, requires = "data", conflicts_with = "server")]
    pub(crate) serve: Option<PathBuf>,
    /// Folder in which the server's folder is made, and removed afterwards.
    #[arg(long)]
    pub(crate) data: Option<PathBuf>,
    /// Shards of a server that is started.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..=64))]
    pub(crate) shards: u16,
    /// Core of a server that is started.
    #[arg(long)]
    pub(crate) server_cpu: Option<usize>,
    /// Core of the load generator.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// Further arguments of a server that is started, one each (`--server-arg=--pin=off`).
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) server_arg: Vec<String>,
}

/// What servers are started from.
#[derive(Clone, Debug, Args)]
pub(crate) struct StartArgs {
    /// The server's binary.
    #[arg(long)]
    pub(crate) serve: PathBuf,
    /// Folder on the disk to be measured; each server gets an empty folder in it, which is removed afterwards.
    #[arg(long)]
    pub(crate) data: PathBuf,
    /// Further arguments of the server, one each.
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) server_arg: Vec<String>,
}

/// Arguments of `core`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CoreArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) start: StartArgs,
    /// Core of the server.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// Core of the load generator.
    #[arg(long, default_value_t = 1)]
    pub(crate) cpu: usize,
    /// How long each measurement runs.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) duration: Duration,
    /// The short form, for CI: a third of a second each, 500 idle connections. Shows that it runs, not how fast.
    #[arg(long)]
    pub(crate) short: bool,
    /// Only the measurements whose name has this in it.
    #[arg(long)]
    pub(crate) only: Option<String>,
}

/// Arguments of `aims`.
#[derive(Clone, Debug, Args)]
pub(crate) struct AimsArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) start: StartArgs,
    /// Rounds; in each, everything is measured once.
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Core of the server.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// Core of the load generator.
    #[arg(long, default_value_t = 1)]
    pub(crate) cpu: usize,
    /// How long each load runs, instead of what it says itself (5 seconds, most of them).
    #[arg(long, value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// The short form, for CI: one round of a third of a second each, smaller. Shows that it runs, and judges nothing.
    #[arg(long)]
    pub(crate) short: bool,
    /// Only the aims whose measure has this in it.
    #[arg(long)]
    pub(crate) only: Option<String>,
    /// Whom to measure beside it, under every load that `aims.toml` says they can be asked: none, all, or names as of `compare`.
    #[arg(long, value_delimiter = ',', default_value = "none")]
    pub(crate) peers: Vec<String>,
    #[command(flatten)]
    pub(crate) install: InstallArgs,
}

/// Where peers come from.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstallArgs {
    /// Folder that peers are installed in, once.
    #[arg(long, default_value = "target/peers")]
    pub(crate) installed: PathBuf,
    /// Install nothing: a peer that is missing is reported as missing.
    #[arg(long)]
    pub(crate) no_install: bool,
}

/// Arguments of `exec-server`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ExecServerArgs {
    /// The process that it must not outlive.
    #[arg(long)]
    pub(crate) parent: u32,
    /// Its core.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    pub(crate) program: Vec<std::ffi::OsString>,
}

/// Arguments of `folder`.
#[derive(Clone, Debug, Args)]
pub(crate) struct FolderArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) start: StartArgs,
    /// Topics, an event at least in each.
    #[arg(long, default_value_t = 100_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) topics: u32,
    /// Durable groups, each behind all events.
    #[arg(long, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) groups: u32,
    /// Bytes of batches in the log.
    #[arg(long, default_value = "5GiB", value_parser = file_bytes)]
    pub(crate) bytes: u64,
    /// Openings that are timed, each after a kill and with caches dropped.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) openings: u32,
    /// Shards of the server.
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u16).range(1..=64))]
    pub(crate) shards: u16,
    /// The short form, for CI: 1,000 topics, 100 groups, 32 MiB, one opening. Shows that it runs, not how fast.
    #[arg(long)]
    pub(crate) short: bool,
}

/// Arguments of `churn`.
#[derive(Clone, Debug, Args)]
pub(crate) struct ChurnArgs {
    /// The server.
    #[command(flatten)]
    pub(crate) start: StartArgs,
    /// Connections that drop and return.
    #[arg(long, default_value_t = 5_000, value_parser = value_parser!(u32).range(1..=15_000))]
    pub(crate) connections: u32,
    /// Ephemeral subscriptions of each, every one to a topic of its own.
    #[arg(long, default_value_t = 20, value_parser = value_parser!(u32).range(1..=1_024))]
    pub(crate) subscriptions: u32,
    /// Events a second, over all topics in turn.
    #[arg(long, default_value = "10000", value_parser = rate)]
    pub(crate) rate: f64,
    /// Bytes of data of an event.
    #[arg(long, default_value = "100", value_parser = bytes)]
    pub(crate) size: usize,
    /// Connections that publish; they stay. One announces 4,096 topics at most.
    #[arg(long, default_value_t = 32, value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) publishers: u32,
    /// Time that counts before the drop; before it every topic gets an event.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) steady: Duration,
    /// Time from the drop in which all must be back.
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) within: Duration,
    /// Over which part of that time they return, one after the other (0 to 1; 0: all at once).
    #[arg(long, default_value_t = 0.8)]
    pub(crate) return_over: f64,
    /// They come back as other clients than they were, with new subscriptions; the old ones stay until they expire.
    #[arg(long)]
    pub(crate) as_others: bool,
    /// Shards of the server.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u16).range(1..=64))]
    pub(crate) shards: u16,
    /// Core of the server.
    #[arg(long)]
    pub(crate) server_cpu: Option<usize>,
    /// Core of the load generator.
    #[arg(long)]
    pub(crate) cpu: Option<usize>,
    /// The short form, for CI: 50 connections with 20 subscriptions, 1,000 events a second, 3 seconds. Shows that nothing is
    /// missed, not how fast it is.
    #[arg(long)]
    pub(crate) short: bool,
}

/// Arguments of `stand-in`.
#[derive(Clone, Debug, Args)]
pub(crate) struct StandInArgs {
    /// Core of the stand-in.
    #[arg(long)]
    pub(crate) server_cpu: Option<usize>,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0", value_parser = loopback)]
    pub(crate) listen: SocketAddr,
}

/// A size with its unit: `4096`, `4KiB`, `1MiB`, `1GiB`.
pub(crate) fn sized(text: &str) -> Result<u64, String> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("{unit} is no unit: use B, KiB, MiB or GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no size"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text} is too large"))
}

fn bytes(text: &str) -> Result<usize, String> {
    match sized(text)? {
        bytes @ 0..=0x100_0000 => Ok(bytes as usize),
        bytes => Err(format!("{bytes} bytes, at most 16MiB")),
    }
}

fn file_bytes(text: &str) -> Result<u64, String> {
    match sized(text)? {
        bytes @ 0x10_0000..=0x4_0000_0000 => Ok(bytes),
        bytes => Err(format!("{bytes} bytes: give 1MiB to 16GiB")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if (0.1..=1e8).contains(&rate) => Ok(rate),
        _ => Err(format!("{text}: give 0.1 to 100000000 a second")),
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no time"))?;
    let duration = match unit {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(format!("{text} needs a unit: ms, s or m")),
    };
    if duration > LONGEST {
        return Err(format!("{text}: at most 60m"));
    }
    Ok(duration)
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| format!("{text} is no ADDRESS:PORT"))?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err(format!("{address} is not loopback: run the load generator where the server is"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A load generator that can be pointed at somebody else's machine is a weapon.
    #[test]
    fn only_loopback_is_loaded() {
        for good in ["127.0.0.1:10300", "127.8.8.8:1", "[::1]:10300"] {
            assert!(loopback(good).is_ok(), "{good}");
        }
        for bad in ["10.0.0.1:10300", "0.0.0.0:10300", "[::]:1", "example.com:80", "127.0.0.1"] {
            assert!(loopback(bad).is_err(), "{bad}");
        }
    }

    /// A unit that is read wrongly makes every figure of that run wrong.
    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(bytes("4KiB"), Ok(4096));
        assert_eq!(bytes("16MiB"), Ok(16 << 20));
        assert_eq!(file_bytes("1GiB"), Ok(1 << 30));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["17MiB", "4KB", "x", "", "99999999999999999999", "18446744073709551615GiB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        for bad in ["5", "61m", "5h", "-1s", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    /// clap finds conflicts between arguments only when it is asked.
    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
