//! What the control plane knows about a subscription, and what shards route by.

use std::fmt;
use std::sync::Arc;

use codec::ids::{Offset, Partition, Timestamp};

use crate::topic::TopicFilter;

/// Names a subscription for ever; never used again, also after the subscription ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// Names a group, and the way that it goes through the logs: never used again, also after its last subscription ended,
/// because cursors in the logs carry it. A group that is moved to another place keeps its name and gets a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// Where a new subscription begins to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// With what is published after the subscribe was answered.
    Tail,
    /// With the oldest event that is still there.
    Earliest,
    /// With the first event appended at this time or later.
    Time(Timestamp),
    /// With these offsets; other partitions start at their first. Only for a filter without wildcards.
    Offsets(Vec<(Partition, Offset)>),
}

/// How the members of a group divide its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each event to one member.
    Clustering,
    /// Each event to every client; each client is a group of its own.
    Broadcasting,
}

/// Stands between the name that clients give a broadcasting group and the client that a part of it belongs to. No client
/// may use it in a name.
pub const BROADCAST_MARK: &str = "/$client/";

/// The name of the group that meets a client's wish. The kinds of group are told apart by it, and a client can never
/// choose a name that looks like another kind:
/// - `NAME`: durable, its members share the work;
/// - `NAME/$client/CLIENT`: durable, broadcasting, one for each client of the group NAME;
/// - `$ephemeral/CLIENT`, a zero and the filter: one for each filter of a client without a group.
///
/// It depends on the wish alone, so that a shard finds what it knows also while the control plane is down.
#[must_use]
pub fn group_name(
    group: Option<&Arc<str>>,
    mode: Mode,
    client: &str,
    filter: &TopicFilter,
) -> Arc<str> {
    match (group, mode) {
        (Some(group), Mode::Clustering) => group.clone(),
        (Some(group), Mode::Broadcasting) => format!("{group}{BROADCAST_MARK}{client}").into(),
        (None, _) => format!("$ephemeral/{client}\0{}", filter.as_str()).into(),
    }
}

/// One filter of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The subscription's own number.
    pub id: SubscriptionId,
    /// The group that shares the work. A seek gives it a new number.
    pub group: GroupId,
    /// The group's name; one name is one [`GroupId`] within a snapshot.
    pub group_name: Arc<str>,
    /// Which topics.
    pub filter: TopicFilter,
    /// How its members divide the events.
    pub mode: Mode,
    /// Where it began; shards fix it as positions when they first adopt it, and then only the cursor counts.
    pub start: Start,
    /// The client that the subscription belongs to and ends with; none for a durable one.
    pub ephemeral_client: Option<Arc<str>>,
}

impl Subscription {
    /// Whether the subscription outlives its client and the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.ephemeral_client.is_none()
    }

    /// The group as clients name it: a broadcasting group without its client. An ephemeral one has no such name; then
    /// this is nobody's.
    #[must_use]
    pub fn named_group(&self) -> &str {
        let name = &*self.group_name;
        match self.mode {
            Mode::Clustering => name,
            Mode::Broadcasting => name.split(BROADCAST_MARK).next().unwrap_or(name),
        }
    }
}

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
