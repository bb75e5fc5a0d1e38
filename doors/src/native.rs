//! The native protocol's door, port 10300. `docs/wire-protocol.md` is the truth; `codec::frame` knows the frames.
//!
//! [`session`] is one connection's state machine, [`window`] its publishes without an answer, [`topics`] what the
//! numbers of topics stand for in each direction, [`checks`] what must hold of a request, [`port`] what is asked of the shard.

mod checks;
mod port;
mod session;
#[cfg(test)]
mod tests;
mod topics;
mod window;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use codec::frame::{RefusalFrame, VERSION_HIGHEST, Welcome};
use codec::limits::{
    ATTRIBUTES_BYTES_MAX, BATCH_BYTES_MAX, BATCH_EVENTS_MAX, EVENT_DATA_BYTES_DEFAULT,
    EVENT_DATA_BYTES_MAX, PARTITIONS, TOPIC_BYTES_MAX, TOPIC_LEVELS_MAX,
};
use codec::refusal::Refusal;
use dataplane::kernel::Now;
use dataplane::options::{CREDIT_MAX, SESSION_SUBSCRIPTIONS_MAX};
use dataplane::session::{Door, Session, SessionKey};

use session::NativeSession;

/// Most publishes of one connection without an answer, unless configured. Enough to fill two commits of small batches;
/// bounds what a session keeps for its answers to 16 KiB.
pub const WINDOW_BATCHES_DEFAULT: u32 = 1_024;
/// Most topic numbers of one connection in each direction, unless configured. Bounds the names that a session holds to
/// 4 MiB; a client with more topics announces its numbers again.
pub const TOPICS_DEFAULT: u32 = 4_096;

/// How the native door behaves.
#[derive(Clone, Debug)]
pub struct NativeOptions {
    /// The node's id, told in welcome.
    pub node_id: u64,
    /// Partitions of the folder, told in welcome.
    pub partitions: u16,
    /// Largest data of one event that is taken.
    pub event_data_bytes_max: u32,
    /// Most publishes of a connection without an answer.
    pub window_batches_max: u32,
    /// Most topic numbers of a connection, in each direction.
    pub topics_max: u32,
    /// How long a connection may take to say hello, and be silent within a frame while others wait for memory.
    pub hello_timeout: Duration,
    /// How often a silent client is asked to ping.
    pub ping_interval: Duration,
    /// A connection from which nothing came for so long is closed.
    pub idle_timeout: Duration,
    /// How long the client has to answer the server's goodbye.
    pub goodbye_timeout: Duration,
}

impl Default for NativeOptions {
    fn default() -> Self {
        NativeOptions {
            node_id: 0,
            partitions: PARTITIONS,
            event_data_bytes_max: EVENT_DATA_BYTES_DEFAULT,
            window_batches_max: WINDOW_BATCHES_DEFAULT,
            topics_max: TOPICS_DEFAULT,
            hello_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(60),
            goodbye_timeout: Duration::from_secs(5),
        }
    }
}

impl NativeOptions {
    /// The answer to a hello.
    fn welcome(&self) -> Welcome {
        let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        Welcome {
            version: VERSION_HIGHEST,
            partitions: self.partitions,
            ping_interval_ms: ms(self.ping_interval),
            node_id: self.node_id,
            features: 0,
            batch_bytes_max: BATCH_BYTES_MAX,
            batch_events_max: BATCH_EVENTS_MAX,
            event_data_bytes_max: self.event_data_bytes_max,
            attributes_bytes_max: ATTRIBUTES_BYTES_MAX,
            topic_bytes_max: TOPIC_BYTES_MAX as u32,
            topic_levels_max: TOPIC_LEVELS_MAX as u32,
            window_batches_max: self.window_batches_max,
            topics_max: self.topics_max,
            subscriptions_max: SESSION_SUBSCRIPTIONS_MAX as u32,
            credit_max: CREDIT_MAX,
            partition: 0,
            idle_timeout_ms: ms(self.idle_timeout),
        }
    }
}

/// Makes a native session for each connection.
#[derive(Debug)]
pub struct NativeDoor {
    options: Arc<NativeOptions>,
}

impl NativeDoor {
    /// A door with these options.
    #[must_use]
    pub fn new(options: NativeOptions) -> Self {
        assert!(options.partitions > 0, "a folder has partitions");
        assert!(options.event_data_bytes_max <= EVENT_DATA_BYTES_MAX, "an event fits a batch");
        assert!(options.window_batches_max > 0 && options.topics_max > 0, "limits leave room");
        assert!(options.ping_interval < options.idle_timeout, "a client that pings is not idle");
        NativeDoor { options: Arc::new(options) }
    }
}

impl Door for NativeDoor {
    fn name(&self) -> &'static str {
        "native"
    }

    fn accept(&self, key: SessionKey, _peer: SocketAddr, now: Now) -> Box<dyn Session> {
        Box::new(NativeSession::new(key, self.options.clone(), now))
    }

    fn refuse(&self, refusal: &Refusal) -> Vec<u8> {
        let mut out = Vec::new();
        RefusalFrame::new(refusal, 0, true).encode(0, &mut out);
        out
    }
}
