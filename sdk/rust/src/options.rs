//! What a client and a subscription may be told.

use std::time::Duration;

use codec::ids::{Offset, Partition, Timestamp};

/// How a client connects and publishes.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClientOptions {
    /// The server's native door, `host:port`.
    pub server: String,
    /// Names the client over all its connections. Ephemeral subscriptions belong to it.
    pub client_id: String,
    /// How long the first connection may take, hello included.
    pub connect_timeout: Duration,
    /// How long a lost connection is tried again before everything that waits fails.
    pub reconnect_timeout: Duration,
    /// How long subscribe and unsubscribe wait for their answer.
    pub request_timeout: Duration,
    /// Most batches without an answer; the server's own limit holds too.
    pub window_batches: u32,
    /// A batch is sent when it would grow beyond this.
    pub batch_bytes: usize,
    /// A batch is sent when it has so many events.
    pub batch_events: u32,
    /// How long an event may wait for others. 0: it is sent as soon as the window has room.
    pub linger: Duration,
    /// Bytes that may wait or be unacknowledged; publish waits while there are more.
    pub buffer_bytes: usize,
}

impl ClientOptions {
    /// The defaults, for the server at `server`.
    #[must_use]
    pub fn new(server: impl Into<String>) -> Self {
        // Unique enough for one that is not given: two clients with one id would share their ephemeral subscriptions.
        let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        ClientOptions {
            server: server.into(),
            client_id: format!("rust-{}-{nanos:x}", std::process::id()),
            connect_timeout: Duration::from_secs(5),
            reconnect_timeout: Duration::from_secs(60),
            request_timeout: Duration::from_secs(15),
            window_batches: 256,
            batch_bytes: 256 << 10,
            batch_events: 1_000,
            linger: Duration::ZERO,
            buffer_bytes: 32 << 20,
        }
    }

    /// With this client id.
    #[must_use]
    pub fn client_id(mut self, client_id: impl Into<String>) -> Self {
        self.client_id = client_id.into();
        self
    }

    /// With so long for the first connection, hello included.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// With so long for making a lost connection again, before everything that waits fails.
    #[must_use]
    pub fn reconnect_timeout(mut self, limit: Duration) -> Self {
        self.reconnect_timeout = limit;
        self
    }

    /// With so long for the answers to subscribe and unsubscribe.
    #[must_use]
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// With so many batches without an answer at most.
    #[must_use]
    pub fn window_batches(mut self, batches: u32) -> Self {
        self.window_batches = batches;
        self
    }

    /// With batches of so many bytes at most.
    #[must_use]
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// With batches of so many events at most.
    #[must_use]
    pub fn batch_events(mut self, events: u32) -> Self {
        self.batch_events = events;
        self
    }

    /// With events that wait so long for others to share a batch.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// With so many bytes that may wait or be unacknowledged.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }
}

/// How the members of a group divide its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Each event goes to one member.
    Clustering,
    /// Each client gets every event.
    Broadcasting,
}

/// Where a new subscription begins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Start {
    /// With what is acknowledged after the answer.
    Tail,
    /// With the oldest event there is.
    Earliest,
    /// With the first event appended at or after a time.
    Time(Timestamp),
    /// At an offset in each partition named, of an exact topic; all others from their first event.
    Offsets(Vec<(Partition, Offset)>),
}

/// A wish to subscribe.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Which topics.
    pub filter: String,
    /// Group to share with; without one the subscription is ephemeral.
    pub group: Option<String>,
    /// Share the work, or everything for each client.
    pub mode: Mode,
    /// Where a new subscription begins; `None`: at the tail, or where the group stands.
    pub start: Option<Start>,
    /// Most events delivered and not settled.
    pub credit: u32,
}

impl SubscribeOptions {
    /// An ephemeral subscription to `filter`, from the tail.
    #[must_use]
    pub fn new(filter: impl Into<String>) -> Self {
        SubscribeOptions {
            filter: filter.into(),
            group: None,
            mode: Mode::Clustering,
            start: None,
            credit: 8_192,
        }
    }

    /// As a member of a group.
    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// With this mode.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// From this start. Refused for a group that exists.
    #[must_use]
    pub fn start(mut self, start: Start) -> Self {
        self.start = Some(start);
        self
    }

    /// With so many events in flight at most.
    #[must_use]
    pub fn credit(mut self, events: u32) -> Self {
        self.credit = events;
        self
    }
}
