//! What shards send each other. From one shard to another, mail arrives in the order sent.
//!
//! Nothing here can pile up without bound: a publish is sent only below a count and a sum of bytes, a delivery only
//! within the credit leased to the sender, a settle answers a delivery, and the rest is a few words a member.

use std::sync::Arc;

use bytes::Bytes;
use codec::ack::AckLevel;
use codec::header::BatchHeader;
use codec::ids::{Offset, Partition, Position};
use codec::refusal::Refusal;
use log::disk::LogKey;
use log::landing::{Landing, Source};
use routing::subscription::{GroupId, SubscriptionId};

use crate::control::ControlReply;
use crate::group::members::Presence;
use crate::selection::Selection;
use crate::session::{Delivery, Gap, SessionKey, TopicHandle, Verdict};
use crate::token::TokenFields;

/// Names a member wherever it is: its home shard and its place there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId {
    /// The shard of its session.
    pub shard: u16,
    /// Index into that shard's members.
    pub slot: u32,
    /// Rises each time the slot is given away.
    pub life: u32,
}

/// A batch on its way to the shard that owns its partition.
#[derive(Debug)]
pub struct RemotePublish {
    /// Shard of the publisher's session.
    pub from: u16,
    /// The publisher's session there.
    pub session: SessionKey,
    /// The publisher's number of the publish.
    pub request: u64,
    /// The topic, by its name: each log numbers its topics itself.
    pub topic: TopicHandle,
    /// A partition that the receiver owns.
    pub partition: Partition,
    /// The publisher's header.
    pub header: BatchHeader,
    /// The body.
    pub body: RemoteBody,
    /// Another shard knows the topic, so that it exists although the receiver may not.
    pub is_known: bool,
}

/// A body on its way to another shard.
#[derive(Debug)]
pub enum RemoteBody {
    /// Copied out of the receive buffer: the one copy more that crossing a core costs.
    Copied(Bytes),
    /// Received into the commit that it is to be; there until it is appended.
    Landed(Option<Landing>),
}

impl RemotePublish {
    /// Bytes of the body.
    #[must_use]
    pub fn body_bytes(&self) -> u32 {
        self.header.body_len
    }
}

impl RemoteBody {
    /// Where a log finds the body.
    pub(crate) fn source(&mut self) -> Source<'_> {
        match self {
            RemoteBody::Copied(bytes) => Source::Bytes(bytes),
            RemoteBody::Landed(landing) => Source::Landing(landing),
        }
    }
}

impl From<Source<'_>> for RemoteBody {
    /// Copies what cannot be taken along.
    fn from(source: Source<'_>) -> Self {
        match source {
            Source::Bytes(body) => RemoteBody::Copied(Bytes::copy_from_slice(body)),
            Source::Landing(landing) => RemoteBody::Landed(landing.take()),
        }
    }
}

/// What became of a [`RemotePublish`].
#[derive(Clone, Debug)]
pub struct PublishOutcome {
    /// The publisher's session.
    pub session: SessionKey,
    /// The publisher's number of the publish.
    pub request: u64,
    /// Where the events went.
    pub partition: Partition,
    /// Events in the batch.
    pub count: u32,
    /// Bytes that the reservation held.
    pub bytes: u32,
    /// What can be relied on, unless it is refused.
    pub ack: AckLevel,
    /// Offset of the first event, or why there is none.
    pub result: Result<Offset, Refusal>,
}

/// What a subscriber said of a delivery, on its way to the shard of its log.
#[derive(Clone, Debug)]
pub struct Settle {
    /// The shard of the session.
    pub from: u16,
    /// The session, wherever the delivery went.
    pub session: SessionKey,
    /// The client's number of the settle.
    pub request: u64,
    /// Which delivery.
    pub token: TokenFields,
    /// Which of its events.
    pub selection: Selection,
    /// What became of them.
    pub verdict: Verdict,
    /// Whether the session is told when it is done, and not only when it is not.
    pub is_answered: bool,
}

/// What a subscriber has read, by where it stands: to the shard that owns the log. Unlike a token a place stays true when
/// its delivery is over.
#[derive(Clone, Debug)]
pub struct Read {
    /// The shard of the session.
    pub from: u16,
    /// The session that says so.
    pub session: SessionKey,
    /// The client's number of the settle.
    pub request: u64,
    /// Which group's reader.
    pub group: GroupId,
    /// Which log.
    pub log: LogKey,
    /// Runs of positions, end exclusive, rising.
    pub runs: Vec<(Position, Position)>,
}

/// One message between shards, or from the control plane to a shard.
#[derive(Debug)]
pub enum Mail {
    /// From the control plane.
    Control(ControlReply),
    /// A batch for a partition of the receiver.
    Publish(Box<RemotePublish>),
    /// The answer to a publish.
    Published {
        /// The shard that answers.
        from: u16,
        /// What became of it.
        outcome: Box<PublishOutcome>,
    },
    /// Does the receiver know a topic? The sender may only publish to one that exists.
    TopicAsked {
        /// Who asks.
        from: u16,
        /// The sender's number of the question.
        number: u64,
        /// Which topic.
        topic: Arc<str>,
    },
    /// The answer to [`Mail::TopicAsked`].
    TopicTold {
        /// The number of the question.
        number: u64,
        /// Which topic.
        topic: Arc<str>,
        /// Whether the shard that answers knows it.
        is_known: bool,
    },
    /// A member of a group has come; `lease` of its credit is the receiver's to use.
    Join {
        /// Who.
        member: MemberId,
        /// Which group.
        group: GroupId,
        /// Which of the group's subscriptions it came by.
        subscription: SubscriptionId,
        /// Events the receiver may have in flight to it.
        lease: u32,
        /// How it takes part.
        presence: Presence,
    },
    /// A member has gone; all that is in flight to it goes to others.
    Leave {
        /// Who.
        member: MemberId,
        /// Which group.
        group: GroupId,
        /// Whether it was lost: what it had counts as an attempt then, since one of these events may be what ended it.
        /// Who leaves in good order hands back what it has not worked on.
        is_lost: bool,
    },
    /// More credit for the receiver.
    Lease {
        /// Whose credit.
        member: MemberId,
        /// Which group.
        group: GroupId,
        /// How many events.
        events: u32,
    },
    /// Another shard wants credit: give back what is not in use.
    Recall {
        /// Whose credit.
        member: MemberId,
        /// Which group.
        group: GroupId,
        /// How many events at most.
        events: u32,
    },
    /// Credit that comes back to the member's home.
    LeaseReturned {
        /// The shard that gives it back.
        from: u16,
        /// Whose credit.
        member: MemberId,
        /// How many events.
        events: u32,
    },
    /// A shard has events for a member and no credit left.
    LeaseWanted {
        /// The shard that wants it.
        from: u16,
        /// Whose credit.
        member: MemberId,
    },
    /// Events for a member, to its home.
    Deliver {
        /// Who.
        member: MemberId,
        /// What.
        delivery: Box<Delivery>,
    },
    /// The sender has delivered all that was there when a member joined its group.
    CaughtUp {
        /// Who joined.
        member: MemberId,
    },
    /// The sender has passed what is gone of its logs.
    Passed {
        /// A member of the group.
        member: MemberId,
        /// What was passed.
        gap: Gap,
    },
    /// A delivery is settled, to the shard that owns its log.
    Settle(Box<Settle>),
    /// Events are settled that a subscriber has read, to the shard that owns their log.
    Read(Box<Read>),
    /// The answer to a settle that asked for one.
    Settled {
        /// The session that settled.
        session: SessionKey,
        /// The client's number of the settle.
        request: u64,
        /// How many events are owed no longer.
        events: u32,
    },
    /// The answer to a settle whose delivery was over.
    Stale {
        /// The session that settled.
        session: SessionKey,
        /// The client's number of the settle.
        request: u64,
        /// What was stale.
        refusal: Refusal,
    },
    /// A shard owes a group nothing more of some earlier generations.
    OlderDone {
        /// Which shard.
        from: u16,
        /// Which group.
        group: GroupId,
        /// The oldest generation of which it may still owe something; the active one if of none before it.
        oldest: u32,
        /// The routing version of the sender, which knows the group.
        version: u64,
    },
    /// A session of a client with ephemeral subscriptions has come, to the client's home shard.
    ClientUp {
        /// The client's id.
        client: Arc<str>,
    },
    /// A session of a client with ephemeral subscriptions has gone.
    ClientDown {
        /// The client's id.
        client: Arc<str>,
    },
}
