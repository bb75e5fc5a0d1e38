//! What an operator asks of the control plane, from any thread. Bounded: a question that finds no room is refused.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use codec::refusal::Refusal;
use routing::delivery_policy::DeliveryPolicy;
use routing::subscription::{GroupId, Start};
use routing::topic::TopicFilter;
use routing::topic_policy::{TopicPolicies, TopicPolicy};
use tokio::sync::Notify;

/// Questions that may wait for the control plane.
const ORDERS_MAX: usize = 64;

/// Takes an answer. Called on the control thread.
pub type Answer<T> = Box<dyn FnOnce(T) + Send>;

/// A question of an operator.
pub enum Order {
    /// How it is doing.
    Status(Answer<PlaneStatus>),
    /// All subscriptions of a group are to end, for all its members; its place in every log is forgotten.
    EndGroup {
        /// Which group.
        group: GroupId,
        /// Takes the answer once every shard has dropped the group.
        answer: Answer<Result<(), Refusal>>,
    },
    /// A durable group that shares its work is to begin, without a member: from its start on events are kept for it.
    CreateGroup {
        /// What is to begin.
        new: NewGroup,
        /// Only whether it could.
        dry_run: bool,
        /// Takes the answer once the start is fixed on every shard.
        answer: Answer<Result<(), Refusal>>,
    },
    /// A durable group is to rest, or to go on. What is in flight may be settled all the same.
    PauseGroup {
        /// Which group.
        group: GroupId,
        /// Whether it rests from now on.
        is_paused: bool,
        /// Takes the answer once every shard does so.
        answer: Answer<Result<(), Refusal>>,
    },
    /// A durable group is to go on at another place. What is in flight is over.
    SeekGroup {
        /// Which group; one that was moved meanwhile has another number, and is left alone.
        group: GroupId,
        /// Where it goes on.
        start: Start,
        /// Takes the answer once the place is fixed on every shard.
        answer: Answer<Result<(), Refusal>>,
    },
    /// A group is to have another delivery policy, whether or not the group is there.
    SetPolicy {
        /// The group, as clients name it.
        group: Arc<str>,
        /// None: the default.
        policy: Option<DeliveryPolicy>,
        /// Takes the answer once every shard delivers by it.
        answer: Answer<Result<(), Refusal>>,
    },
    /// What holds for topics, as of the last order.
    TopicPolicies(Answer<Arc<TopicPolicies>>),
    /// What a pattern says of topics is to be another; nothing, and the pattern is gone.
    SetTopicPolicy {
        /// Of which topics.
        pattern: TopicFilter,
        /// Makes what the pattern says from what it has said.
        change: Box<dyn FnOnce(TopicPolicy) -> TopicPolicy + Send>,
        /// Takes the answer once it is in the catalog and every shard goes by it.
        answer: Answer<Result<(), Refusal>>,
    },
    /// A topic is to be deleted from all logs. Once it was begun a start finishes it, answered or not.
    DeleteTopic {
        /// Which.
        topic: Arc<str>,
        /// Takes how many events went, once that is durable in each log.
        answer: Answer<Result<u64, Refusal>>,
    },
}

/// A durable group that is to begin.
#[derive(Clone, Debug)]
pub struct NewGroup {
    /// Its name.
    pub name: Arc<str>,
    /// What it gets.
    pub filters: Vec<TopicFilter>,
    /// Where it begins.
    pub start: Start,
}

/// How the control plane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlaneStatus {
    /// Subscriptions, ephemeral ones included.
    pub subscriptions: usize,
    /// The newest version of the routing table that was published.
    pub version: u64,
    /// The newest version that every shard routes by.
    pub adopted_version: u64,
    /// Requests that wait until every shard has adopted what they asked for.
    pub waiting_answers: usize,
}

/// The way to the control plane.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    orders: SyncSender<Order>,
    wake: Arc<Notify>,
}

impl ControlHandle {
    /// A way, and where it ends. `wake` tells the other side that something came.
    pub(crate) fn new(wake: Arc<Notify>) -> (ControlHandle, Receiver<Order>) {
        let (orders, receiver) = sync_channel(ORDERS_MAX);
        (ControlHandle { orders, wake }, receiver)
    }

    /// Asks. The answer may never come: the control plane may end before.
    ///
    /// # Errors
    /// Too many wait, or the control plane has ended.
    pub fn ask(&self, order: Order) -> Result<(), Busy> {
        self.orders.try_send(order).map_err(|_| Busy)?;
        self.wake.notify_one();
        Ok(())
    }
}

/// The control plane has ended or does not come to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;
