//! The seam between the engine and a server's protocol.
//!
//! The engine owns time: when a batch is meant to be sent, windows, histograms. A driver owns bytes: it sends what it
//! is told, and tells what came. So every server is measured by the same clock.

use std::time::{Duration, Instant};

/// The stamp of an event that only counts: its batch carries the time in another event.
pub(crate) const STAMP_NONE: u64 = u64::MAX - 1;
/// The stamp of what was published before the run, to be caught up with.
pub(crate) const STAMP_BACKLOG: u64 = u64::MAX;

/// One batch to be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing {
    /// Place in the publisher's window; the ack names it.
    pub(crate) slot: u32,
    /// Number of the batch on this publisher; chooses topic, keys and data.
    pub(crate) number: u64,
    /// Intended send time in ns since the run began; travels in the batch.
    pub(crate) stamp_ns: u64,
}

/// What came from a server.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    /// When it was read.
    pub(crate) at: Instant,
    /// What it is.
    pub(crate) what: What,
}

/// The kinds of arrivals.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// All events of the batch in this slot are acknowledged.
    Acked {
        /// Which publisher.
        publisher: usize,
        /// Which place of its window.
        slot: u32,
        /// How many events.
        events: u32,
    },
    /// The batch in this slot is refused.
    Refused {
        /// Which publisher.
        publisher: usize,
        /// Which place of its window.
        slot: u32,
        /// The server's words.
        text: String,
    },
    /// Events came to a subscriber, all of one batch.
    Delivered {
        /// Which group.
        group: u32,
        /// How many events.
        events: u64,
        /// Whether they had been delivered before.
        again: bool,
        /// Intended send time, or one of the two special stamps.
        stamp_ns: u64,
    },
    /// The publisher's socket takes bytes again.
    Room {
        /// Which publisher.
        publisher: usize,
    },
}

/// All connections to one server.
pub(crate) trait Driver {
    /// Most batches that a publisher may have without an answer.
    fn window_max(&self) -> u32;
    /// Takes a batch; `flush` sends it.
    fn publish(&mut self, publisher: usize, batch: Outgoing) -> anyhow::Result<()>;
    /// Sends what was taken.
    fn flush(&mut self, publisher: usize) -> anyhow::Result<()>;
    /// Whether the publisher's socket takes nothing for now: back-pressure.
    fn is_blocked(&self, publisher: usize) -> bool;
    /// Waits until something came, at most `timeout`. Returns how many sources have something.
    fn wait(&mut self, timeout: Duration) -> anyhow::Result<usize>;
    /// Reads from the `ready`th of these sources, and answers what the protocol asks to be answered.
    fn receive(&mut self, ready: usize, arrivals: &mut Vec<Arrival>) -> anyhow::Result<()>;
    /// Called often; sends what the protocol wants from time to time (pings).
    fn on_time(&mut self) -> anyhow::Result<()>;
    /// Ends subscriptions and connections in an orderly way, as far as the server takes it.
    fn leave(&mut self);
    /// What the server itself says that its acks promise, where its protocol tells.
    fn server_says(&self) -> Option<String> {
        None
    }
    /// What a reader of the figures must know of this client.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
