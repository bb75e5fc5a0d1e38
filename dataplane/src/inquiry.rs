//! What a shard tells of itself when it is asked: owned values, made in bounded steps between two cycles, so that who
//! asks never keeps a shard from its work and needs no lock.
//!
//! A question carries the way of its answer. An answer is called on the shard's thread and must only hand the value on.

use std::net::SocketAddr;
use std::sync::Arc;

use codec::ids::{Offset, Partition, Position, Timestamp};
use log::batch::LogState;
use log::count::Counted;
use log::disk::LogKey;
use routing::snapshot::RoutingSnapshot;
use routing::subscription::{GroupId, SubscriptionId};
use routing::topic::TopicFilter;

use crate::letter::{LetterOrder, LetterPage};
use crate::mail::MemberId;
use crate::shard::{CountFrom, ShardMemoryUse, ShardStats, TopicMeasure};

/// Questions that may wait for one shard; the next is refused.
pub const INQUIRIES_MAX: usize = 64;
/// Most groups of one question, most topics and connections of one answer.
pub const PAGE_MAX: usize = 1_000;
/// Most members that are told of one group.
pub const MEMBERS_MAX: usize = 1_000;

/// Takes an answer. Called on the shard's thread.
pub type Answer<T> = Box<dyn FnOnce(T) + Send>;

/// A question to one shard.
pub enum Inquiry {
    /// How it is doing.
    Shard(Answer<ShardReport>),
    /// What it routes by.
    Routing(Answer<Arc<RoutingSnapshot>>),
    /// How far groups have come in its logs; at most [`PAGE_MAX`].
    Groups {
        /// Which. Those that the shard does not know are left out.
        groups: Arc<[GroupId]>,
        /// Takes a report for each that it knows, in the order asked.
        answer: Answer<Vec<GroupReport>>,
    },
    /// How many events stand there for a group; see [`CountFrom`].
    Count {
        /// What it gets.
        filters: Arc<[TopicFilter]>,
        /// From where on.
        from: CountFrom,
        /// Takes the sum over the shard's logs. It may take many steps, for some of which the disk is read.
        answer: Answer<Counted>,
    },
    /// Who the members of a group are.
    Members {
        /// Which group.
        group: GroupId,
        /// Takes what the shard knows of them.
        answer: Answer<MembersReport>,
    },
    /// Names of topics, in their order.
    Topics {
        /// Only those behind this one.
        after: Option<Arc<str>>,
        /// How many; at most [`PAGE_MAX`].
        count: usize,
        /// Takes the names.
        answer: Answer<Vec<Arc<str>>>,
    },
    /// The partitions of a topic that this shard owns.
    Topic {
        /// Which.
        name: Arc<str>,
        /// Takes the partitions; `None` when the shard's active log has no such topic.
        answer: Answer<Option<Vec<PartitionReport>>>,
    },
    /// How much of a topic stands in the shard's logs.
    Measure {
        /// Which.
        topic: Arc<str>,
        /// Takes the sum over the shard's logs. It may take many steps, for some of which the disk is read.
        answer: Answer<TopicMeasure>,
    },
    /// A page's worth of work on the dead letters of a group.
    Letters {
        /// What to do.
        order: Box<LetterOrder>,
        /// Takes what was done.
        answer: Answer<LetterPage>,
    },
    /// The shard's connections, in the order of their slots.
    Connections {
        /// The first slot.
        from: u32,
        /// How many; at most [`PAGE_MAX`].
        count: usize,
        /// Takes them.
        answer: Answer<Vec<ConnectionReport>>,
    },
}

/// How a shard is doing.
#[derive(Clone, Debug)]
pub struct ShardReport {
    /// Which shard.
    pub shard: u16,
    /// What it has counted.
    pub stats: ShardStats,
    /// What its parts keep in memory.
    pub memory: ShardMemoryUse,
    /// Its logs, the active one last.
    pub logs: Vec<LogReport>,
    /// Sessions that are open.
    pub sessions: usize,
    /// Sessions that wait for room.
    pub waiting_sessions: usize,
    /// Groups that it knows.
    pub groups: usize,
    /// The version of the routing table it routes by.
    pub routing_version: u64,
    /// Whether it takes no more.
    pub is_draining: bool,
}

/// How one log is doing.
#[derive(Clone, Debug)]
pub struct LogReport {
    /// Which log.
    pub log: LogKey,
    /// Whether events go to it.
    pub is_active: bool,
    /// Whether it takes what it is given.
    pub state: LogState,
    /// Rises at each opening.
    pub epoch: u32,
    /// The first position that is kept.
    pub start: Position,
    /// Everything before it survives a power loss.
    pub durable_end: Position,
    /// Everything before it is written.
    pub written_end: Position,
    /// Everything before it may be seen by subscribers.
    pub visible_end: Position,
    /// The position of the next event.
    pub end: Position,
    /// Topics.
    pub topics: u32,
    /// Segments.
    pub segments: usize,
    /// Bytes that they take on the disk, prepared and spare ones included.
    pub allocated_bytes: u64,
    /// Commits that have become durable since the start, each by one synced write.
    pub commits: u64,
}

/// How far a group has come in the logs of one shard.
#[derive(Clone, Debug)]
pub struct GroupReport {
    /// Which group.
    pub group: GroupId,
    /// Its members, of all shards.
    pub members: usize,
    /// Events that are in flight from this shard.
    pub in_flight: u64,
    /// Its place in each log.
    pub places: Vec<PlaceReport>,
}

/// A group's place in one log.
#[derive(Clone, Copy, Debug)]
pub struct PlaceReport {
    /// Which log.
    pub log: LogKey,
    /// Everything before it is settled.
    pub low: Position,
    /// Everything before it was read for the group.
    pub next: Position,
    /// Everything before it may be seen.
    pub visible_end: Position,
    /// Events before `next` that are not settled.
    pub unsettled: u64,
    /// Events that are parked; they are not among `unsettled`.
    pub parked: u64,
    /// Keys that these block.
    pub blocked_keys: u64,
    /// Whether parked events block so many keys that the group takes nothing more of this log.
    pub is_stopped: bool,
    /// Events from `next` to `visible_end`, whether or not the group wants them.
    pub unread: u64,
    /// Bytes of the log from `low` on; see [`log::log::place::Behind`].
    pub bytes: u64,
    /// When the oldest commit that it owes something of was begun.
    pub since: Option<Timestamp>,
}

impl PlaceReport {
    /// Events that the group has not settled; at most: of what was not read, some may not be for it.
    #[must_use]
    pub fn lag(&self) -> u64 {
        self.unsettled + self.parked + self.unread
    }
}

/// What one shard knows of a group's members.
#[derive(Clone, Debug, Default)]
pub struct MembersReport {
    /// Those whose sessions are on this shard; at most [`MEMBERS_MAX`].
    pub home: Vec<MemberReport>,
    /// Events in flight from this shard to each member that has any; at most [`MEMBERS_MAX`].
    pub in_flight: Vec<(MemberId, u32)>,
}

/// A member, as its home knows it.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// Which.
    pub member: MemberId,
    /// Its client.
    pub client: Arc<str>,
    /// The subscription it came by.
    pub subscription: SubscriptionId,
    /// Most events that may be in flight to it.
    pub credit: u32,
}

/// One partition of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionReport {
    /// Which.
    pub partition: Partition,
    /// The log in which these events stand.
    pub log: LogKey,
    /// The first offset that is kept.
    pub first: Offset,
    /// The offset that the next event gets.
    pub next: Offset,
}

/// One connection.
#[derive(Clone, Debug)]
pub struct ConnectionReport {
    /// Its slot on its shard.
    pub slot: u32,
    /// Who.
    pub peer: SocketAddr,
    /// By which door it came.
    pub door: &'static str,
    /// Its client, once it has said so.
    pub client: Option<Arc<str>>,
    /// For how long it has been open, in microseconds.
    pub open_us: u64,
    /// Subscriptions that it is a member of.
    pub subscriptions: usize,
    /// Bytes that were sent to it.
    pub sent_bytes: u64,
    /// Bytes that wait for it.
    pub outbound_bytes: usize,
    /// Whether it is not read from, because there is no room for what it sends.
    pub waits_for_room: bool,
    /// Whether it is being closed.
    pub is_closing: bool,
}
