//! Starting a node's shards: options, checks, threads, and then the connections.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use log::folder::ShardLogs;
use log::storage::file::FileStorage;

use super::accept::{Acceptor, Entrance};
use super::checks::{self, CheckError};
use super::clock::Clock;
use super::connections::Patience;
use super::driver::{Idle, Stop};
use super::executor::{self, ShardSeed};
use super::giving_back::Collect;
use super::kernel::REPLIES_MAX;
use super::threads::allowed_cores;
use super::wake::Doorbell;
use super::{Runtime, ShardHandle};
use crate::control::ControlLink;
use crate::inquiry::INQUIRIES_MAX;
use crate::mailbox;
use crate::options::{SHARDS_MAX, ShardOptions};
use crate::session::Door;

/// The part of the limit of open files that connections may take by default; the rest is for the log's files.
const CONNECTIONS_PERCENT: u64 = 90;

/// How a node's runtime is set up.
pub struct RuntimeOptions {
    /// What is accepted where.
    pub listen: Vec<(TcpListener, Arc<dyn Door>)>,
    /// What every shard is told; index and count are filled in.
    pub shard: ShardOptions,
    /// Whether each shard keeps to one core, in turn over those allowed. `None`: if there are enough cores.
    pub pin: Option<bool>,
    /// What a shard does when there is nothing to do.
    pub idle: Idle,
    /// How the process's allocator gives free memory back, if it has to be called for it; a shard at rest does.
    pub collect: Option<Collect>,
    /// Most connections of all doors together. `None`: 90 % of the limit of open files.
    pub connections_max: Option<u32>,
    /// How long a peer may take next to nothing (less than 16 KiB) although there is more for it.
    pub slow_peer_timeout: Duration,
    /// How long a closing connection may take to send what is outbound.
    pub close_flush_timeout: Duration,
    /// How long a shutdown may take.
    pub drain_timeout: Duration,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        RuntimeOptions {
            listen: Vec::new(),
            shard: ShardOptions::default(),
            pin: None,
            idle: Idle::Park,
            collect: None,
            connections_max: None,
            slow_peer_timeout: Duration::from_secs(30),
            close_flush_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Why a runtime does not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The machine does not offer what is needed.
    Checks(Vec<CheckError>),
    /// There are more shards than can own a partition each, or none.
    Shards {
        /// How many were asked for.
        count: usize,
    },
    /// A limit or a thread could not be had.
    Thread(io::Error),
    /// glommio did not start; its own words.
    Executor(Box<str>),
    /// A shard's ring could not be set up.
    Ring(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Checks(errors) => {
                for (at, error) in errors.iter().enumerate() {
                    write!(f, "{}{error}", if at == 0 { "" } else { "\n" })?;
                }
                Ok(())
            }
            StartError::Shards { count } => {
                write!(f, "{count} shards asked for, 1 to {SHARDS_MAX} are possible")
            }
            StartError::Thread(error) => write!(f, "a thread or a limit could not be had: {error}"),
            StartError::Executor(text) => write!(f, "glommio did not start: {text}"),
            StartError::Ring(error) => write!(f, "a shard's io_uring could not be set up: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Runtime {
    /// Checks that `shards` can start on this machine; raises soft limits where the hard ones allow it.
    ///
    /// # Errors
    /// All that is missing, one line each.
    pub fn check(shards: u16) -> Result<(), StartError> {
        checks::check(shards).map_err(StartError::Checks)
    }

    /// Starts a shard for each of `logs`, then accepts connections.
    ///
    /// # Errors
    /// Something is missing on this machine; what had started is ended.
    pub fn start(
        options: RuntimeOptions,
        logs: Vec<ShardLogs>,
        storage: Arc<FileStorage>,
        control: Arc<ControlLink>,
    ) -> Result<Runtime, StartError> {
        let count = u16::try_from(logs.len()).ok().filter(|count| (1..=SHARDS_MAX).contains(count));
        let shards = count.ok_or(StartError::Shards { count: logs.len() })?;
        Self::check(shards)?;
        let open_files = checks::raise_open_files().map_err(StartError::Thread)?;
        let derived = u32::try_from(open_files * CONNECTIONS_PERCENT / 100).unwrap_or(u32::MAX);
        let connections_max = options.connections_max.unwrap_or(derived);
        let ground = Ground::lay(&options, shards, storage, control)?;
        let mut runtime = ground.start(logs)?;
        if !options.listen.is_empty() {
            let acceptor = Acceptor::start(options.listen, ground.entrances, connections_max);
            runtime.acceptor = Some(acceptor.map_err(StartError::Thread)?);
        }
        Ok(runtime)
    }
}

/// What all shards of a node share.
struct Ground {
    shard: ShardOptions,
    storage: Arc<FileStorage>,
    control: Arc<ControlLink>,
    bells: Arc<[Arc<Doorbell>]>,
    entrances: Vec<Arc<Entrance>>,
    stop: Arc<Stop>,
    clock: Clock,
    idle: Idle,
    collect: Option<Collect>,
    patience: Patience,
    drain_us: u64,
    /// The cores to pin shards to, in turn; none when they are not pinned.
    cores: Vec<usize>,
}

impl Ground {
    fn lay(
        options: &RuntimeOptions,
        shards: u16,
        storage: Arc<FileStorage>,
        control: Arc<ControlLink>,
    ) -> Result<Self, StartError> {
        let bells =
            (0..shards).map(|_| Doorbell::new().map(Arc::new)).collect::<io::Result<Vec<_>>>();
        let bells: Arc<[_]> = bells.map_err(StartError::Thread)?.into();
        let cores = allowed_cores().unwrap_or_default();
        let pin = options.pin.unwrap_or(usize::from(shards) <= cores.len());
        Ok(Ground {
            shard: ShardOptions { shards, ..options.shard.clone() },
            storage,
            control,
            entrances: bells.iter().map(|bell| Entrance::new(Arc::clone(bell))).collect(),
            bells,
            stop: Arc::default(),
            clock: Clock::new(),
            idle: options.idle,
            collect: options.collect,
            patience: Patience {
                slow_peer_us: options.slow_peer_timeout.as_micros() as u64,
                close_flush_us: options.close_flush_timeout.as_micros() as u64,
            },
            drain_us: options.drain_timeout.as_micros() as u64,
            cores: if pin { cores } else { Vec::new() },
        })
    }

    /// Starts a thread for each shard and waits until all run.
    fn start(&self, logs: Vec<ShardLogs>) -> Result<Runtime, StartError> {
        let (handles, threads, stop) = (Vec::new(), Vec::new(), Arc::clone(&self.stop));
        let mut runtime = Runtime { handles, threads, acceptor: None, stop };
        let (ready, started) = mpsc::sync_channel(logs.len());
        let desks = mailbox::office(self.shard.shards);
        for (index, (logs, desk)) in logs.into_iter().zip(desks).enumerate() {
            let handle = ShardHandle {
                index: index as u16,
                replies: Arc::new(ArrayQueue::new(REPLIES_MAX)),
                inquiries: Arc::new(ArrayQueue::new(INQUIRIES_MAX)),
                bell: Arc::clone(&self.bells[index]),
                counters: Arc::default(),
            };
            let seed = ShardSeed {
                options: ShardOptions { index: index as u16, ..self.shard.clone() },
                logs,
                storage: Arc::clone(&self.storage),
                control: Arc::clone(&self.control),
                desk,
                replies: Arc::clone(&handle.replies),
                inquiries: Arc::clone(&handle.inquiries),
                bells: Arc::clone(&self.bells),
                entrance: Arc::clone(&self.entrances[index]),
                stop: Arc::clone(&self.stop),
                clock: self.clock,
                idle: self.idle,
                collect: self.collect,
                patience: self.patience,
                drain_us: self.drain_us,
                core: self.cores.get(index % self.cores.len().max(1)).copied(),
                counters: Arc::clone(&handle.counters),
            };
            runtime.handles.push(handle);
            runtime.threads.push(executor::start(seed, ready.clone())?);
        }
        drop(ready);
        // A shard that cannot start says why; those that could are ended as the runtime is dropped.
        for _ in 0..runtime.threads.len() {
            started.recv().unwrap_or_else(|_| {
                Err(StartError::Executor("a shard ended as it began".into()))
            })?;
        }
        Ok(runtime)
    }
}
