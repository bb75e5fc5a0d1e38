//! Starts a shard: a thread, an executor on it, and the driver as its first task.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement};
use log::folder::ShardLogs;
use log::storage::file::FileStorage;
use tracing::{debug, warn};

use super::StartError;
use super::accept::Entrance;
use super::chores::Chores;
use super::clock::Clock;
use super::connections::{Connections, Patience};
use super::disk::InFlight;
use super::driver::{Driver, Idle, Pace, Stop};
use super::giving_back::{Collect, GivingBack};
use super::host::Host;
use super::inquiries::Inquiries;
use super::kernel::RingKernel;
use super::ring::Ring;
use super::stats::Counters;
use super::threads::{AbortOnPanic, pin_to};
use super::wake::Doorbell;
use crate::control::{ControlLink, ControlReply};
use crate::inquiry::Inquiry;
use crate::mail::Mail;
use crate::mailbox::Desk;
use crate::options::ShardOptions;
use crate::shard::Shard;

/// Memory that glommio registers for its own disk buffers; it rounds up to this. The log's buffers are not its.
const IO_MEMORY_BYTES: usize = 64 << 10;
/// Depth of glommio's rings: tasks of http and grpc doors wait there, one entry a socket operation in flight.
const HOST_RING_DEPTH: usize = 128;

/// All that a shard's thread is given.
pub(super) struct ShardSeed {
    pub(super) options: ShardOptions,
    pub(super) logs: ShardLogs,
    pub(super) storage: Arc<FileStorage>,
    pub(super) control: Arc<ControlLink>,
    pub(super) desk: Desk<Mail>,
    pub(super) replies: Arc<ArrayQueue<ControlReply>>,
    pub(super) inquiries: Arc<ArrayQueue<Inquiry>>,
    pub(super) bells: Arc<[Arc<Doorbell>]>,
    pub(super) entrance: Arc<Entrance>,
    pub(super) stop: Arc<Stop>,
    pub(super) clock: Clock,
    pub(super) idle: Idle,
    pub(super) collect: Option<Collect>,
    pub(super) patience: Patience,
    pub(super) drain_us: u64,
    pub(super) core: Option<usize>,
    pub(super) counters: Arc<Counters>,
}

/// Says whether a shard runs.
pub(super) type Ready = SyncSender<Result<(), StartError>>;

/// Starts the thread.
pub(super) fn start(seed: ShardSeed, ready: Ready) -> Result<JoinHandle<()>, StartError> {
    let thread = std::thread::Builder::new().name(format!("shard-{}", seed.options.index));
    thread.spawn(move || run(seed, &ready)).map_err(StartError::Thread)
}

fn run(seed: ShardSeed, ready: &Ready) {
    let _fence = AbortOnPanic("a shard's thread");
    let executor = match make_executor() {
        Ok(executor) => executor,
        Err(error) => return tell(ready, Err(error)),
    };
    if let Some(core) = seed.core {
        // After the executor is made, so that its own helper thread may run anywhere.
        match pin_to(core) {
            Ok(()) => debug!(shard = seed.options.index, core, "pinned"),
            Err(error) => warn!(shard = seed.options.index, core, %error, "not pinned"),
        }
    }
    executor.run(async move {
        match plant(seed) {
            Ok((driver, host)) => {
                tell(ready, Ok(()));
                driver.run(host).await;
            }
            Err(error) => tell(ready, Err(error)),
        }
    });
}

/// An executor on this thread.
fn make_executor() -> Result<LocalExecutor, StartError> {
    let builder = LocalExecutorBuilder::new(Placement::Unbound);
    let made = builder.io_memory(IO_MEMORY_BYTES).ring_depth(HOST_RING_DEPTH).make();
    made.map_err(|error| StartError::Executor(error.to_string().into()))
}

/// The shard's own ring, which rings the host's bell and is known to the shard's doorbell.
fn make_ring(host: &Host, bell: &Doorbell) -> std::io::Result<Ring> {
    let mut ring = Ring::new()?;
    ring.register_bell(host.bell())?;
    ring.announce(false);
    bell.install(ring.share()?);
    Ok(ring)
}

/// Makes the shard and all it stands on. On the executor.
fn plant(seed: ShardSeed) -> Result<(Driver, Host), StartError> {
    let index = seed.options.index;
    let bell = Arc::clone(&seed.bells[usize::from(index)]);
    let host = Host::new().map_err(StartError::Ring)?;
    let ring = make_ring(&host, &bell).map_err(StartError::Ring)?;
    let storage = Arc::clone(&seed.storage);
    let chores = Chores::start(index, storage, Arc::clone(&bell), host.watch());
    let chores = chores.map_err(StartError::Thread)?;
    let kernel = RingKernel {
        ring,
        desk: seed.desk,
        chores,
        storage: seed.storage,
        control: seed.control,
        replies: seed.replies,
        bells: seed.bells,
        in_flight: InFlight::new(Arc::clone(&seed.counters)),
        counters: Arc::clone(&seed.counters),
        completions: VecDeque::new(),
        written_to: 0,
        asked_control: false,
        was_refused: false,
    };
    let driver = Driver {
        shard: Shard::new(seed.options, seed.logs),
        kernel,
        connections: Connections::new(seed.patience),
        entrance: seed.entrance,
        inquiries: Inquiries::new(seed.inquiries),
        bell,
        stop: seed.stop,
        idle: seed.idle,
        drain_us: seed.drain_us,
        counters: seed.counters,
        pace: Pace::new(seed.clock.mono_us()),
        giving_back: GivingBack::new(seed.collect),
        clock: seed.clock,
        done: Vec::new(),
        dirty: Vec::new(),
    };
    Ok((driver, host))
}

fn tell(ready: &Ready, result: Result<(), StartError>) {
    // Nobody listens any more when another shard has failed already.
    let _ = ready.send(result);
}
