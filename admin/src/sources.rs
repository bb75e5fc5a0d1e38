//! What the server gives the admin port to tell of.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use codec::ack::AckLevel;
use controlplane::operator::ControlHandle;
use dataplane::runtime::ShardHandle;

/// All that a ready server is asked through, and what does not change while it runs.
pub struct Sources {
    /// The way to each shard, in order.
    pub shards: Vec<ShardHandle>,
    /// The way to the control plane.
    pub control: ControlHandle,
    /// What was fixed at the start.
    pub facts: Facts,
    /// Every key of the configuration, in the order of its table.
    pub configuration: Vec<Setting>,
}

/// What was fixed at the start.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Who wrote the folder.
    pub node_id: u64,
    /// The data folder.
    pub data: PathBuf,
    /// The newest generation of logs.
    pub generation: u32,
    /// Segments are read and written past the page cache.
    pub direct: bool,
    /// Where the native door listens.
    pub native: SocketAddr,
    /// From the start of the server until it was ready.
    pub ready_after: Duration,
    /// The memory that the process may take.
    pub memory_bytes_max: u64,
    /// Connections at one time.
    pub connections_max: u32,
    /// What opening each log found.
    pub recovered: Vec<Recovered>,
    /// When an event counts as taken, unless its topic's policy says otherwise.
    pub ack: AckLevel,
    /// Largest data of one event.
    pub event_data_bytes_max: u32,
}

/// What opening a log found.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Which log.
    pub log: String,
    /// Bytes of segments that were read.
    pub bytes_read: u64,
    /// Whether an unfinished tail was cut.
    pub is_cut: bool,
    /// Pieces of damage that were set aside.
    pub damage: usize,
}

/// One key of the configuration.
#[derive(Clone, Debug)]
pub struct Setting {
    /// `section.name`.
    pub key: String,
    /// The value in force, as the file has it.
    pub value: String,
    /// `default`, `file`, `environment` or `flag`.
    pub origin: &'static str,
    /// Which file, variable or flag it was.
    pub set_by: Option<String>,
    /// What it does.
    pub text: &'static str,
}
