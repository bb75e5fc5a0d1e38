//! Every kind of fault that the simulator knows, and how often each has happened.

use std::fmt;

macro_rules! faults {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// Something that goes wrong, or merely not as one would like.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Fault {
            /// Every kind, in the order of the table.
            pub const ALL: &'static [Fault] = &[$(Fault::$name,)+];

            /// Its name in the table.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Fault::$name => $text,)+
                }
            }
        }
    };
}

faults! {
    /// Everything that was not seen to be durable may be lost.
    PowerLoss => "power loss",
    /// The process ends; what was written stays.
    Kill => "process killed",
    /// Power is lost while a folder is being recovered.
    PowerLossInRecovery => "power loss in recovery",
    /// Power is lost in the middle of a chore.
    PowerLossInChore => "power loss in a chore",
    /// A write whose end was not seen is gone after a power loss.
    WriteLost => "unseen write lost",
    /// A write whose end was not seen is there after a power loss.
    WriteKept => "unseen write kept",
    /// A write whose end was not seen is there in part.
    WriteTorn => "unseen write torn at 512 B",
    /// A change of a folder that was not synced is gone.
    EntryLost => "unsynced folder entry lost",
    /// An operation ended before one that was submitted earlier.
    OutOfOrder => "disk out of order",
    /// An operation took long.
    SlowDisk => "disk slow",
    /// A write failed.
    WriteFailed => "write failed",
    /// A sync behind commits failed.
    SyncFailed => "sync failed",
    /// A chore failed.
    ChoreFailed => "chore failed",
    /// A read failed once.
    ReadFailed => "read failed",
    /// Reads failed for a while, however often they were tried.
    ReadsFailing => "reads failing for a while",
    /// The disk was full.
    DiskFull => "disk full",
    /// A batch was received where it was to stay, in a commit of its own.
    Landed => "batch received in its place",
    /// A shard was not run for long.
    Stall => "shard stalled",
    /// Mail took long.
    SlowMail => "mail slow",
    /// A mailbox was full.
    MailboxFull => "mailbox full",
    /// A mailbox was full when a batch was to go to the shard of its partition.
    PublishHeldUp => "mailbox full for a publish",
    /// The control plane's queue was full.
    ControlFull => "control queue full",
    /// The control plane was not there.
    ControlDown => "control plane down",
    /// The wall clock was set back.
    ClockBack => "wall clock set back",
    /// The wall clock was set forward.
    ClockForward => "wall clock set forward",
    /// A publisher's session ended with publishes under way.
    PublisherLost => "publisher lost",
    /// A subscriber's session ended with deliveries unsettled.
    SubscriberLost => "subscriber lost",
    /// A subscriber was there again after its session had ended.
    SubscriberBack => "subscriber back",
    /// A member left its group with deliveries unsettled.
    MemberLeft => "member left in mid-flow",
    /// A member asked for the end of its ephemeral subscription, with all that it still owed.
    SubscriptionEnded => "subscription ended by its client",
    /// An operator moved a group to another place in the logs.
    GroupSought => "group moved by an operator",
    /// An operator paused a group.
    GroupPaused => "group paused by an operator",
    /// A subscriber kept deliveries beyond the deadline.
    SlowSubscriber => "subscriber slow",
    /// A subscriber handed a delivery back.
    HandedBack => "delivery handed back",
    /// A subscriber rejected events for good.
    Rejected => "delivery rejected",
    /// An event came to a member of a group whose keys stick to their members.
    Stuck => "event of a sticky group",
    /// A subscriber handed back what nobody has been shown.
    Unseen => "delivery handed back unseen",
    /// A subscriber settled a part of a delivery.
    SettledInPart => "delivery settled in part",
    /// A subscriber settled something twice.
    SettledTwice => "delivery settled twice",
    /// Events that were acknowledged as `received` are gone, as that level allows.
    ReceivedLost => "acknowledged as received, lost",
    /// Events that were acknowledged as `written` are gone with the power, as that level allows.
    WrittenLost => "acknowledged as written, lost",
    /// A batch without an answer was sent again, the very same.
    SentAgain => "batch sent again",
    /// A batch that its publisher knew to be acknowledged was sent again.
    AckedSentAgain => "acknowledged batch sent again",
    /// Retention let events go.
    Expired => "event gone by retention",
    /// Retention let events go that a group had still to get; the group was told how far the gap is.
    OwedExpired => "owed event gone by retention",
    /// An operator was told that a topic is deleted.
    TopicDeleted => "topic deleted by an operator",
    /// A start found the deletion of a topic begun and not finished.
    DeletionResumed => "deletion finished by a start",
    /// The deletion of its topic took an event.
    Deleted => "event gone by deletion",
    /// A topic's own retention let events go whose segment was kept.
    TopicExpired => "event gone by its topic's retention",
    /// A publish found no room.
    NoRoom => "no room",
    /// The node came back with more shards.
    MoreShards => "restarted with more shards",
    /// The node came back with fewer shards.
    FewerShards => "restarted with fewer shards",
}

/// How often each fault has happened, and what was delivered in spite of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    faults: Vec<u64>,
    /// Shard cycles run.
    pub cycles: u64,
    /// Syncs behind commits that returned.
    pub syncs: u64,
    /// Events published, each attempt counted.
    pub published: u64,
    /// Events whose publisher was told that they are durable.
    pub acknowledged: u64,
    /// Events whose publisher was told that they are written.
    pub acknowledged_written: u64,
    /// Events whose publisher was told that they are received.
    pub acknowledged_received: u64,
    /// Events that came to a subscriber for the first time in its group.
    pub delivered: u64,
    /// Events that came to a group again.
    pub redelivered: u64,
    /// Deliveries whose attempt number was above 1.
    pub attempts_above_one: u64,
    /// Deliveries that got a copy of their events, because others kept too much of a log's buffers.
    pub copied: u64,
    /// Readers that stopped at what the disk did not give.
    pub stopped_readers: u64,
    /// Events that stand among dead letters.
    pub dead: u64,
    /// Events that were given up and dropped.
    pub dropped: u64,
    /// Events that were parked.
    pub parked: u64,
    /// Deliveries of parked events.
    pub unparked: u64,
    /// Positions that groups were told they have passed, and events that were given up, since they are gone.
    pub told_gone: u64,
}

impl Tally {
    /// Counts a fault.
    pub fn hit(&mut self, fault: Fault) {
        self.add_faults(fault, 1);
    }

    /// Counts a fault `times` times.
    pub fn add_faults(&mut self, fault: Fault, times: u64) {
        self.faults.resize(Fault::ALL.len(), 0);
        self.faults[fault as usize] += times;
    }

    /// How often a fault has happened.
    #[must_use]
    pub fn count(&self, fault: Fault) -> u64 {
        self.faults.get(fault as usize).copied().unwrap_or(0)
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Tally) {
        for fault in Fault::ALL {
            self.add_faults(*fault, other.count(*fault));
        }
        self.cycles += other.cycles;
        self.syncs += other.syncs;
        self.published += other.published;
        self.acknowledged += other.acknowledged;
        self.acknowledged_written += other.acknowledged_written;
        self.acknowledged_received += other.acknowledged_received;
        self.delivered += other.delivered;
        self.redelivered += other.redelivered;
        self.attempts_above_one += other.attempts_above_one;
        self.copied += other.copied;
        self.stopped_readers += other.stopped_readers;
        self.dead += other.dead;
        self.dropped += other.dropped;
        self.parked += other.parked;
        self.unparked += other.unparked;
        self.told_gone += other.told_gone;
    }

    /// The rows of the closing table.
    #[must_use]
    pub fn rows(&self) -> Vec<(&'static str, u64)> {
        let mut rows: Vec<_> =
            Fault::ALL.iter().map(|fault| (fault.name(), self.count(*fault))).collect();
        rows.push(("syncs behind commits", self.syncs));
        rows.push(("events published", self.published));
        rows.push(("events acknowledged as durable", self.acknowledged));
        rows.push(("events acknowledged as written", self.acknowledged_written));
        rows.push(("events acknowledged as received", self.acknowledged_received));
        rows.push(("events delivered", self.delivered));
        rows.push(("events redelivered", self.redelivered));
        rows.push(("deliveries of attempt 2 and more", self.attempts_above_one));
        rows.push(("deliveries with a copy of their own", self.copied));
        rows.push(("readers stopped by failing reads", self.stopped_readers));
        rows.push(("events given up as dead letters", self.dead));
        rows.push(("events given up and dropped", self.dropped));
        rows.push(("events parked", self.parked));
        rows.push(("deliveries of parked events", self.unparked));
        rows.push(("positions told to be gone", self.told_gone));
        rows
    }

    /// What has never happened. A simulator that never injects a fault proves nothing about it.
    #[must_use]
    pub fn zeros(&self) -> Vec<&'static str> {
        self.rows().into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, count) in self.rows() {
            writeln!(f, "{name:<36} {count:>12}")?;
        }
        Ok(())
    }
}
