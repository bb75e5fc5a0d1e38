//! Arguments of `loadtest compare`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, value_parser};

use crate::args::{InstallArgs, StartArgs, duration};

/// Arguments of `compare`.
#[derive(Clone, Debug, Args)]
pub(crate) struct CompareArgs {
    /// Workloads: files, or names of those in loadtest/workloads.
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) workload: Vec<PathBuf>,
    /// Whom to compare with: all, none, or names (nats is both of its configurations, nats-synced is one). Ringmesh and
    /// the floor always run.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    pub(crate) peers: Vec<String>,
    /// Ringmesh.
    #[command(flatten)]
    pub(crate) start: StartArgs,
    /// Folder for the report: compare.md, compare.json, compare.html.
    #[arg(long, default_value = "target/compare")]
    pub(crate) out: PathBuf,
    /// Rounds; in each, every contender runs once.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    #[command(flatten)]
    pub(crate) install: InstallArgs,
    /// Core of the servers.
    #[arg(long, default_value_t = 0)]
    pub(crate) server_cpu: usize,
    /// Core of the load generator.
    #[arg(long, default_value_t = 1)]
    pub(crate) cpu: usize,
    /// Time that counts, instead of the workload's.
    #[arg(long, value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Time before anything counts, instead of the workload's (and of the peers' least).
    #[arg(long, value_parser = duration)]
    pub(crate) warm_up: Option<Duration>,
}
