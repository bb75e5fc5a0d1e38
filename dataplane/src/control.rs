//! What the control plane and the shards say to each other. They meet in values: requests go up a bounded queue,
//! replies and snapshots come down as mail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use codec::refusal::Refusal;
use crossbeam::queue::ArrayQueue;
use routing::snapshot::{RoutingSnapshot, Sought};
use routing::subscription::{Mode, Start, Subscription, SubscriptionId};
use routing::topic::TopicFilter;

use crate::session::SessionKey;

/// Requests that may wait for the control plane; the next is answered `unavailable`.
pub const CONTROL_REQUESTS_MAX: usize = 4_096;

/// A shard to the control plane.
#[derive(Clone, Debug)]
pub enum ControlRequest {
    /// A client wants a subscription. Answered by [`ControlReply::Subscribed`] once all shards have adopted it.
    Subscribe {
        /// Shard of the session, where the answer goes.
        shard: u16,
        /// The session that asked.
        session: SessionKey,
        /// The client's number of the request.
        request: u64,
        /// Group to join; without one the subscription is ephemeral.
        group: Option<Arc<str>>,
        /// What to match.
        filter: TopicFilter,
        /// Share the work, or each member everything.
        mode: Mode,
        /// Where to begin; `None` is the tail for a new group, and the group's own place for a known one.
        start: Option<Start>,
        /// The client's id; owns the subscription if it is ephemeral or broadcasting.
        client: Arc<str>,
    },
    /// A client ends a subscription, for all its members.
    Unsubscribe {
        /// Shard of the session, where the answer goes.
        shard: u16,
        /// The session that asked.
        session: SessionKey,
        /// The client's number of the subscription.
        request: u64,
        /// Which subscription.
        id: SubscriptionId,
    },
    /// A client has been gone for `ephemeral_expiry`: its ephemeral subscriptions end.
    EndClient {
        /// The client's id.
        client: Arc<str>,
    },
    /// A shard routes by this version, and the start of each new subscription is fixed in its log.
    Adopted {
        /// Which shard.
        shard: u16,
        /// The version.
        version: u64,
    },
    /// What came of a [`ControlReply::DeleteTopic`] on one shard.
    TopicDeleted {
        /// Which shard.
        shard: u16,
        /// The deletion.
        number: u64,
        /// How many events went, durably in all its logs; or which of them still keep the topic.
        result: Result<u64, LogsLeft>,
    },
}

/// A log, by its generation and its number there: what the control plane keeps of it.
pub type LogName = (u32, u16);

/// A topic that is to be deleted from the logs of every shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOrder {
    /// The deletion; the answer names it.
    pub number: u64,
    /// Which topic.
    pub topic: Arc<str>,
    /// The only logs that it is to be deleted from; none: all.
    pub logs: Option<Vec<LogName>>,
}

/// Logs of which a topic could not be deleted, durably.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogsLeft {
    /// Which.
    pub logs: Vec<LogName>,
    /// Why.
    pub refusal: Refusal,
}

/// The control plane to a shard.
#[derive(Clone, Debug)]
pub enum ControlReply {
    /// A new version of the routing table.
    Snapshot(Arc<RoutingSnapshot>),
    /// The answer to a subscribe.
    Subscribed {
        /// The session that asked.
        session: SessionKey,
        /// The client's number of the request.
        request: u64,
        /// The subscription, adopted by all shards; or why not.
        result: Result<Arc<Subscription>, Refusal>,
    },
    /// The answer to an unsubscribe.
    Unsubscribed {
        /// The session that asked.
        session: SessionKey,
        /// The client's number of the subscription.
        request: u64,
        /// Whether it is gone.
        result: Result<(), Refusal>,
    },
    /// Every shard has adopted this move of a group: its members go over.
    Sought(Arc<Sought>),
    /// A topic is to be deleted: at once for every reader. Answered by [`ControlRequest::TopicDeleted`] once that is durable.
    DeleteTopic(Arc<TopicOrder>),
}

/// The queue from all shards to the control plane. Shared; the waker tells the other side that something came.
pub struct ControlLink {
    requests: ArrayQueue<ControlRequest>,
    open: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl ControlLink {
    /// A link whose receiving side is woken by `wake`.
    #[must_use]
    pub fn new(wake: Box<dyn Fn() + Send + Sync>) -> Arc<Self> {
        let requests = ArrayQueue::new(CONTROL_REQUESTS_MAX);
        Arc::new(ControlLink { requests, open: AtomicBool::new(true), wake })
    }

    /// Puts a request before the control plane, which hears of it by [`ControlLink::wake`]: once for all that a cycle
    /// sends, since each wake may cost the sender its core for a moment.
    ///
    /// # Errors
    /// The queue is full or the control plane has closed the link.
    pub fn send(&self, request: ControlRequest) -> Result<(), ControlRequest> {
        if !self.is_open() {
            return Err(request);
        }
        self.requests.push(request)
    }

    /// Tells the control plane that something was sent.
    pub fn wake(&self) {
        (self.wake)();
    }

    /// The oldest request. For the control plane only.
    pub fn receive(&self) -> Option<ControlRequest> {
        self.requests.pop()
    }

    /// Whether the control plane takes requests.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// Called by the control plane as it ends: later requests are refused at once instead of waiting for nobody.
    pub fn close(&self) {
        self.open.store(false, Ordering::Release);
    }
}
