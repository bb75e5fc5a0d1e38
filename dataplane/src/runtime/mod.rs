//! The runtime: a thread and a glommio executor for each shard, hosting a driver that owns one raw io_uring.
//!
//! In reading order: [`checks`] (may it start here), `executor` (a shard's thread), `driver` (the cycle), `connections`
//! (sockets and sessions), `kernel` and `disk` (what stands under a shard), `chores` (slow work), `accept` (where
//! connections come from), `wake` (how a shard is woken), `inquiries` (what it is asked), `giving_back` (what a rest is used for), `host` (what it takes to live in glommio), `ring`.
//!
//! The only module of this crate with `unsafe`: system calls that have no safe wrapper, and memory lent to the kernel.
#![allow(unsafe_code)]

mod accept;
pub mod checks;
mod chores;
mod clock;
mod connection;
mod connections;
mod disk;
mod driver;
mod executor;
mod giving_back;
mod host;
mod inquiries;
mod kernel;
mod ring;
mod start;
mod stats;
mod threads;
mod wake;

use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam::queue::ArrayQueue;

use self::accept::Acceptor;
use self::driver::Stop;
use self::wake::Doorbell;
use crate::control::ControlReply;
use crate::inquiry::Inquiry;

pub use self::driver::Idle;
pub use self::giving_back::Collect;
pub use self::start::{RuntimeOptions, StartError};
pub use self::stats::{BOUNDS_US, Counter, Counters, Durations};

/// The way of other threads to one shard.
#[derive(Clone)]
pub struct ShardHandle {
    index: u16,
    replies: Arc<ArrayQueue<ControlReply>>,
    inquiries: Arc<ArrayQueue<Inquiry>>,
    bell: Arc<Doorbell>,
    counters: Arc<Counters>,
}

impl ShardHandle {
    /// Which shard.
    #[must_use]
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Gives the shard a reply of the control plane and wakes it.
    ///
    /// # Errors
    /// The shard has not taken the replies before; this one comes back, to be given again later.
    pub fn reply(&self, reply: ControlReply) -> Result<(), ControlReply> {
        self.replies.push(reply)?;
        self.bell.ring();
        Ok(())
    }

    /// Asks the shard something and wakes it.
    ///
    /// # Errors
    /// Too many questions wait, or the shard has ended and nobody takes them; this one comes back.
    pub fn ask(&self, inquiry: Inquiry) -> Result<(), Inquiry> {
        self.inquiries.push(inquiry)?;
        self.bell.ring();
        Ok(())
    }

    /// What the shard's runtime has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}

/// The running shards of a node. Dropping it ends them, as [`Runtime::shutdown`] and [`Runtime::join`] do.
pub struct Runtime {
    handles: Vec<ShardHandle>,
    threads: Vec<JoinHandle<()>>,
    acceptor: Option<Acceptor>,
    stop: Arc<Stop>,
}

impl Runtime {
    /// The way to each shard, in order.
    #[must_use]
    pub fn handles(&self) -> Vec<ShardHandle> {
        self.handles.clone()
    }

    /// Asks all to end: accepts no more, says goodbye to every session, and lets the shards come to rest. Returns at
    /// once; [`Runtime::join`] waits.
    pub fn shutdown(&mut self) {
        self.acceptor = None;
        self.stop.ask();
        self.handles.iter().for_each(|handle| handle.bell.ring());
    }

    /// Waits until every shard has ended, which they do only after [`Runtime::shutdown`].
    pub fn join(mut self) {
        self.join_threads();
    }

    fn join_threads(&mut self) {
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "a shard that panics ends the process");
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.shutdown();
            self.join_threads();
        }
    }
}
