//! The engine: many native connections driven by one thread, open loop or by window.
//!
//! It speaks the wire protocol through `codec::frame` directly, not through the Rust client: that one's futures and
//! channels cost more per event than the server does, and then only they would be measured.

mod connection;
mod publisher;
mod run;
mod schedule;
pub(crate) mod tally;
pub(crate) mod template;
#[cfg(test)]
mod tests;

pub(crate) use run::Run;

use std::net::SocketAddr;
use std::time::Duration;

use template::EventShape;

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Where it listens; always loopback.
    pub(crate) server: SocketAddr,
    /// Connections that publish.
    pub(crate) publishers: u32,
    /// Connections that subscribe.
    pub(crate) subscribers: u32,
    /// Groups that they are spread over; each group gets every event.
    pub(crate) groups: u32,
    /// Connections that say hello and nothing more.
    pub(crate) idle: u32,
    /// Topics, spread over the publishers.
    pub(crate) topics: u32,
    /// What the events look like.
    pub(crate) shape: EventShape,
    /// When they are sent.
    pub(crate) pace: Pace,
    /// Most batches of a connection without an answer.
    pub(crate) window: u32,
    /// Most events in flight of a subscriber.
    pub(crate) credit: u32,
    /// Time before anything counts.
    pub(crate) warm_up: Duration,
    /// Time that counts.
    pub(crate) duration: Duration,
}

/// When batches are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// So many events a second over all publishers, whatever the server does.
    Rate(f64),
    /// Whenever the window has room.
    Window,
}
