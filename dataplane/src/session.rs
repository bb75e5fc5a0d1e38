//! What a door sees of a shard: requests, events, and the traits by which the runtime drives a door's sessions.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;

use codec::ack::AckLevel;
use codec::ids::{Offset, Partition, Position, TopicId};
use codec::refusal::Refusal;
use log::batch::StoredBatch;
use log::disk::LogKey;
pub use log::landing::Landing;
use routing::subscription::{Mode, Start};
use routing::topic::TopicFilter;

use crate::kernel::Now;
use crate::outbound::Outbound;
use crate::selection::Selection;
use crate::shard::Shard;
use crate::token::Token;

/// Names a session on its shard. `life` tells a slot's former tenants apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    /// Index into the shard's sessions.
    pub slot: u32,
    /// Rises each time the slot is given away.
    pub life: u32,
}

/// A topic to publish to, by its name. Keeps where the shard found it, so that who publishes to it again need not have it
/// searched for.
#[derive(Clone, Debug)]
pub struct TopicHandle {
    name: Arc<str>,
    /// Its id in the log that it was last appended to; 0 before that.
    found: Cell<TopicId>,
}

impl TopicHandle {
    /// The topic's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn found(&self) -> TopicId {
        self.found.get()
    }

    pub(crate) fn found_at(&self, id: TopicId) {
        self.found.set(id);
    }
}

impl From<Arc<str>> for TopicHandle {
    fn from(name: Arc<str>) -> Self {
        TopicHandle { name, found: Cell::new(TopicId(0)) }
    }
}

impl From<&str> for TopicHandle {
    fn from(name: &str) -> Self {
        Arc::<str>::from(name).into()
    }
}

/// What became of a publish that was not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// Taken; a [`SessionEvent::Published`] or [`SessionEvent::Refused`] follows.
    Taken,
    /// No room now. Nothing was taken: keep the bytes, read no more, and try again at [`SessionEvent::Room`].
    NoRoom,
}

/// A client's wish to subscribe.
#[derive(Clone, Debug)]
pub struct SubscribeRequest {
    /// Chosen by the client; the subscription's number on this session from now on.
    pub request: u64,
    /// Group to share with; without one the subscription is ephemeral.
    pub group: Option<Arc<str>>,
    /// What to match.
    pub filter: TopicFilter,
    /// Share the work, or each member everything.
    pub mode: Mode,
    /// Where a new group begins; `None` is the tail. Refused for a group that exists.
    pub start: Option<Start>,
    /// Most events in flight to this member; at least 1. 0 is for [`Shard::subscribe_as`]: a member that gets nothing, for
    /// who only wants the subscription to stand.
    pub credit: u32,
}

/// What a subscriber says of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Done with: never deliver again.
    Done,
    /// Not done: deliver again, to whoever can.
    Retry,
    /// Not done, and never will be: do not deliver again.
    Reject,
    /// Never shown to the client: deliver to whoever can, as if it had not been delivered.
    Unseen,
}

/// Events for a member of a group.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The client's number of the subscription.
    pub subscription: u64,
    /// Names this delivery when it is settled.
    pub token: Token,
    /// 1 at first, one more at each redelivery.
    pub attempt: u32,
    /// The log it comes from; with the batch's topic id it names the topic in short.
    pub log: LogKey,
    /// The topic.
    pub topic: Arc<str>,
    /// The batch, body shared with the tail cache.
    pub batch: StoredBatch,
    /// Which of the batch's events are meant.
    pub selection: Selection,
}

/// What a refusal answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A publish.
    Publish,
    /// A subscribe; also when its subscription stood and was ended by another.
    Subscribe,
    /// An unsubscribe; the subscription is as it was.
    Unsubscribe,
    /// A settle: its delivery was over.
    Settle,
}

/// Events that are gone before their group came to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Where they stood.
    pub log: LogKey,
    /// The first position that may be gone.
    pub from: Position,
    /// What stands from here on is not.
    pub to: Position,
    /// How many of them the group wanted; `None` if nobody knows any more, and there may have been none.
    pub events: Option<u64>,
}

impl Gap {
    /// Whether it is all that was freed before a start at a time, of which nobody knows how much is of that time or later.
    #[must_use]
    pub fn begins_unknown(&self) -> bool {
        self.from == Position(0) && self.events.is_none()
    }

    /// More was passed of the same log before anybody was told.
    pub fn add(&mut self, more: Gap) {
        assert!(self.log == more.log, "a gap is in one log");
        (self.from, self.to) = (self.from.min(more.from), self.to.max(more.to));
        self.events = self.events.zip(more.events).map(|(known, more)| known + more);
    }
}

/// What a shard says to a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A publish has reached the ack level.
    Published {
        /// The client's number of the publish.
        request: u64,
        /// Where the events stand.
        partition: Partition,
        /// Offset of the first.
        base_offset: Offset,
        /// How many there are.
        count: u32,
        /// What can be relied on.
        ack: AckLevel,
    },
    /// A request is refused, or what it began has ended.
    Refused {
        /// What was asked for.
        what: Asked,
        /// The client's number of the request.
        request: u64,
        /// Why.
        refusal: Refusal,
    },
    /// The subscription stands: every event acknowledged from now on that matches will be delivered.
    Subscribed {
        /// The client's number of the request.
        request: u64,
    },
    /// The subscription is over on this session.
    Unsubscribed {
        /// The client's number of the subscription.
        request: u64,
    },
    /// Events.
    Delivery(Delivery),
    /// Events of a delivery are settled: the answer to [`Shard::settle_and_tell`] and [`Shard::settle_read`].
    Settled {
        /// The client's number of the settle.
        request: u64,
        /// How many events that were owed are owed no longer.
        events: u32,
    },
    /// All that was there when the subscription was answered has been delivered. Said once.
    CaughtUp {
        /// The client's number of the subscription.
        request: u64,
    },
    /// What stood in `from..to` of a log and that the group wanted is gone before it came to it: retention took it, or a
    /// deletion, or damage. It is said before what comes behind it.
    Passed {
        /// The client's number of the subscription.
        request: u64,
        /// What was passed.
        gap: Gap,
    },
    /// There may be room again for what [`Admission::NoRoom`] left.
    Room,
    /// The server ends this session.
    Goodbye(Refusal),
}

/// What the runtime does with a connection next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Feed {
    /// Go on reading.
    More,
    /// Read no more until an event answers [`Feed::More`].
    Paused,
    /// Flush what is outbound, then close.
    Close,
}

/// One connection's protocol, without I/O. Implemented by doors, driven by the runtime.
pub trait Session {
    /// Bytes from the peer. The session takes all of them and keeps a partial frame itself, within its limits.
    fn on_bytes(&mut self, bytes: &[u8], shard: &mut Shard, out: &mut Outbound) -> Feed;

    /// Where the peer's next bytes are to go, if the session has a place for them: [`Session::on_placed`] says how many
    /// there are, what came beyond them goes to [`Session::on_bytes`].
    fn place(&mut self) -> Option<&mut [u8]> {
        None
    }

    /// Bytes from the peer, at the start of [`Session::place`].
    fn on_placed(&mut self, _bytes: usize, _shard: &mut Shard, _out: &mut Outbound) -> Feed {
        Feed::More
    }

    /// Something the shard says.
    fn on_event(&mut self, event: SessionEvent, shard: &mut Shard, out: &mut Outbound) -> Feed;

    /// About once a second: time-outs and pings.
    fn on_time(&mut self, now: Now, shard: &mut Shard, out: &mut Outbound) -> Feed;

    /// When [`Session::on_deadline`] is to be called next, on the monotonic clock. Asked after each call of the others.
    fn deadline_us(&self) -> Option<u64> {
        None
    }

    /// The time of [`Session::deadline_us`] has come. Unlike after [`Session::on_time`], [`Feed::More`] ends a pause.
    fn on_deadline(&mut self, _now: Now, _shard: &mut Shard, _out: &mut Outbound) -> Feed {
        Feed::More
    }

    /// So much was outbound that nothing more was said to the session; now there is room again. `None`: all is as it was.
    fn on_sent(&mut self, _shard: &mut Shard, _out: &mut Outbound) -> Option<Feed> {
        None
    }

    /// The server is shutting down: say goodbye. What is unacknowledged is still acknowledged before the close.
    fn on_drain(&mut self, out: &mut Outbound);

    /// Bytes of memory this session holds beyond its own size.
    fn memory_bytes(&self) -> usize;
}

/// Speaks one protocol: makes a session for each connection.
pub trait Door: Send + Sync {
    /// The name in logs and metrics.
    fn name(&self) -> &'static str;

    /// A session for a connection that has just been accepted.
    fn accept(&self, key: SessionKey, peer: SocketAddr, now: Now) -> Box<dyn Session>;

    /// What to send before closing a connection that cannot be taken.
    fn refuse(&self, refusal: &Refusal) -> Vec<u8>;
}
