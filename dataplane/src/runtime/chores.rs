//! Slow work on files, off the shard: a helper thread for each shard that runs the log's chores one after the other.
//!
//! Chores block for as long as the disk likes. They are niced, so that zero-writing the next segment never takes the
//! core from the shard it is done for. How many wait is bounded by the log, which submits only a few ahead. Between them
//! the helper looks after the shard's heartbeat (`host::Watch`).

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use crossbeam::queue::SegQueue;
use log::disk::{Chore, Completed, Completion, LogKey, Ticket};
use log::storage::Storage;

use super::host::{WATCH_PERIOD, Watch};
use super::threads::{AbortOnPanic, stand_back};
use super::wake::Doorbell;

/// How far the helper stands back for the shards, in steps of nice(2).
const NICE: i32 = 10;

/// A chore and where its result belongs.
struct Errand {
    log: LogKey,
    ticket: Ticket,
    chore: Chore,
}

/// The shard's side of its helper thread.
pub(super) struct Chores {
    errands: Option<Sender<Errand>>,
    done: Arc<SegQueue<Completion>>,
    thread: Option<JoinHandle<()>>,
}

impl Chores {
    /// Starts the helper of shard `index`, which rings `bell` when a chore is done, and looks at `watch`.
    pub(super) fn start(
        index: u16,
        storage: Arc<dyn Storage>,
        bell: Arc<Doorbell>,
        watch: Arc<Watch>,
    ) -> io::Result<Self> {
        let (errands, inbox) = unbounded();
        let done = Arc::new(SegQueue::new());
        let out = Arc::clone(&done);
        let helper = std::thread::Builder::new().name(format!("disk-{index}"));
        let thread = helper.spawn(move || run(&inbox, &*storage, &out, &bell, &watch))?;
        Ok(Chores { errands: Some(errands), done, thread: Some(thread) })
    }

    /// Hands a chore over.
    pub(super) fn submit(&mut self, log: LogKey, ticket: Ticket, chore: Chore) {
        let errands = self.errands.as_ref().expect("chores are submitted before the end");
        let sent = errands.send(Errand { log, ticket, chore });
        assert!(sent.is_ok(), "the helper lives as long as this side");
    }

    /// The next chore that is done.
    pub(super) fn next_done(&mut self) -> Option<Completion> {
        self.done.pop()
    }

    /// Whether [`Chores::next_done`] would find one.
    pub(super) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }
}

impl Drop for Chores {
    /// Waits for what was handed over: a chore half done is worse than a late exit.
    fn drop(&mut self) {
        self.errands = None;
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "a chore that panics ends the process");
        }
    }
}

fn run(
    inbox: &Receiver<Errand>,
    storage: &dyn Storage,
    done: &SegQueue<Completion>,
    bell: &Doorbell,
    watch: &Watch,
) {
    let _fence = AbortOnPanic("a disk chore");
    stand_back(NICE);
    let (mut beats, mut looked) = (0, Instant::now());
    loop {
        match inbox.recv_timeout(WATCH_PERIOD) {
            Ok(Errand { log, ticket, chore }) => {
                let result = Completed::Chore(chore(storage));
                done.push(Completion { log, ticket, result });
                bell.ring();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if looked.elapsed() >= WATCH_PERIOD {
            (beats, looked) = (watch.look(beats), Instant::now());
        }
    }
}
