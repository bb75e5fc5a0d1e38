//! The numbers that name things in a log. Each is its own type, so that a position is never taken for an offset.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// The number of an event in its log, dense over all topics. Never seen by clients.
    Position(u64)
}
number! {
    /// The number of an event within its topic and partition, dense, from 0. What clients see.
    Offset(u64)
}
number! {
    /// The number of a topic: local to a log on disk, local to a session on the wire. 0 is no topic.
    TopicId(u32)
}
number! {
    /// The unit of order and of offsets: `0..PARTITIONS`, or [`Partition::ANY`] from a client that leaves the choice
    /// to the server.
    Partition(u16)
}
number! {
    /// Rises at each opening of a log, so that what was cut from a tail cannot come back.
    Epoch(u32)
}
number! {
    /// Wall time in microseconds since 1970-01-01 UTC, never decreasing within a log.
    Timestamp(u64)
}

impl Partition {
    /// "Any partition": only on the wire, from a publisher whose events carry no key.
    pub const ANY: Partition = Partition(u16::MAX);
}

impl Position {
    /// The position `events` further on.
    #[must_use]
    pub fn plus(self, events: u64) -> Position {
        Position(self.0 + events)
    }
}

impl Offset {
    /// The offset `events` further on.
    #[must_use]
    pub fn plus(self, events: u64) -> Offset {
        Offset(self.0 + events)
    }
}
