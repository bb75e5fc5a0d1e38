//! The engine: many connections driven by one thread, open loop or by window, over a driver for each kind of server.

pub(crate) mod connection;
pub(crate) mod driver;
pub(crate) mod glance;
mod http;
#[cfg(feature = "iggy")]
mod iggy;
mod kafka;
pub(crate) mod native;
pub(crate) mod nats;
mod payloads;
pub(crate) mod publisher;
mod run;
mod schedule;
pub(crate) mod socket;
pub(crate) mod sockets;
pub(crate) mod tally;
pub(crate) mod template;
#[cfg(test)]
mod tests;

pub(crate) use run::Run;

use std::net::SocketAddr;
use std::time::Duration;

use template::EventShape;

/// Batches of a publisher without an answer while a backlog is published. NATS acknowledges nothing of what it has queued
/// before it has stored all of it, which takes minutes when each is synced and the queue is long.
const FILL_WINDOW: u32 = 16;

/// Whose protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// Ringmesh's own.
    Ringmesh,
    /// HTTP/1.1, at Ringmesh's http door.
    Http,
    /// NATS', with a JetStream stream.
    Nats,
    /// Kafka's.
    Kafka,
    /// Apache Iggy's, by its own client.
    #[cfg(feature = "iggy")]
    Iggy,
}

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// Which protocol it speaks.
    pub(crate) protocol: Protocol,
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
    /// Partitions of a topic, where a server lets one choose.
    pub(crate) partitions: u32,
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
    /// Whether one more group, with one subscriber, starts with the oldest event there is.
    pub(crate) behind: bool,
    /// Events that were published before, for that group to catch up with.
    pub(crate) backlog_events: u64,
    /// Whether batches carry their times although nobody subscribes in this run.
    pub(crate) stamped: bool,
}

impl Load {
    /// The name of topic `number`.
    pub(crate) fn topic(&self, number: u32) -> String {
        format!("loadtest/{number}")
    }

    /// The topics that publisher `index` publishes to. With fewer topics than publishers some share one.
    pub(crate) fn topics_of(&self, index: u32) -> Vec<String> {
        if self.topics <= self.publishers {
            return vec![self.topic(index % self.topics)];
        }
        (index..self.topics).step_by(self.publishers as usize).map(|it| self.topic(it)).collect()
    }

    /// The same publishers, for publishing a backlog before anybody subscribes.
    pub(crate) fn without_groups(&self) -> Self {
        let window = self.window.min(FILL_WINDOW);
        Load { subscribers: 0, groups: 1, behind: false, stamped: true, window, ..self.clone() }
    }

    /// The name of a group, new for each run: one that was left over would get its backlog first.
    pub(crate) fn group_name(&self, group: u32) -> String {
        format!("loadtest-{}-{group}", std::process::id())
    }
}

/// When batches are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// So many events a second over all publishers, whatever the server does.
    Rate(f64),
    /// A rate that rises in a straight line to a peak at half of the time that counts, and falls back.
    Rush {
        /// Events a second during the warm-up, at the start and at the end.
        base: f64,
        /// Events a second at the peak.
        peak: f64,
    },
    /// Whenever the window has room.
    Window,
}
