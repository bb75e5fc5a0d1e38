//! What a shard holds at one moment, for whoever compares it with its limits: the simulator does, every few cycles.
//!
//! Everything is walked and added up anew, so a counter that a shard keeps as it goes is held against the truth.

use log::log::Log;
use log::log::held::LogHeld;
use routing::subscription::GroupId;

use crate::mail::MemberId;
use crate::shard::Shard;

/// The mail that waits for the mailbox of one other shard, by what bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitingMail {
    /// Publishes: bounded by the reservation of the way there.
    pub publishes: usize,
    /// Answers to publishes: bounded by the reservation of the other shard.
    pub answers: usize,
    /// Deliveries: bounded by credit.
    pub deliveries: usize,
    /// Settles: as many as there were deliveries.
    pub settles: usize,
    /// The rest: a few words a member, a group or a client.
    pub others: usize,
}

/// A member's credit as its home keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HomeCredit {
    /// Who.
    pub member: MemberId,
    /// Lent to nobody.
    pub free: u32,
    /// To be taken back.
    pub surplus: u32,
    /// What each shard has been lent.
    pub lent: Vec<u32>,
}

/// A member's credit as a shard that delivers to it keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LentCredit {
    /// Who.
    pub member: MemberId,
    /// Of which group.
    pub group: GroupId,
    /// Events that may still be sent.
    pub lease: u32,
    /// Events sent and not settled.
    pub in_flight: u32,
    /// Bytes of their batches.
    pub in_flight_bytes: u64,
    /// Credit to be given back as it is freed.
    pub owes: u32,
}

/// What a shard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardHeld {
    /// Bytes in flight, as the shard counts them.
    pub in_flight_bytes: u64,
    /// Batches that groups have taken and not settled, all together.
    pub flights: usize,
    /// Most of them of one group in one log.
    pub flights_most: usize,
    /// Parked events that groups owe, all together.
    pub parked: usize,
    /// Most keys that wait in one group and log.
    pub waiting_keys_most: usize,
    /// Batches that have been read and that nobody could take.
    pub held_batches: usize,
    /// Mail that waits for each shard's mailbox.
    pub mail: Vec<WaitingMail>,
    /// Batches and bytes on their way to each shard, from here until their answers have come.
    pub forwarded: Vec<(usize, usize)>,
    /// Batches and bytes of other shards' publishers that wait for room.
    pub arrived: (usize, usize),
    /// Batches that are appended and not acknowledged.
    pub unacked: usize,
    /// Sessions that are open.
    pub sessions: usize,
    /// What they have not been told, all together.
    pub session_events: usize,
    /// Sessions that wait for room.
    pub waiting_sessions: usize,
    /// Requests that wait for the control plane's queue, and subscribes that wait for its answer.
    pub control: (usize, usize),
    /// How often groups stand on the list of those that wait for the disk.
    pub waiting_io: usize,
    /// Groups that wait until fewer bytes are in flight.
    pub waiting_bytes: usize,
    /// How often groups stand on the list of those that will try to read again.
    pub read_retries: usize,
    /// Members that have not been told that they have caught up.
    pub catching_up: usize,
    /// Credit of the members whose home this is.
    pub homes: Vec<HomeCredit>,
    /// Credit that this shard has been lent.
    pub lent: Vec<LentCredit>,
    /// Its logs, the active one last.
    pub logs: Vec<LogHeld>,
}

impl Shard {
    /// What the shard holds now. Walks all of it: not for every cycle of a server.
    #[must_use]
    pub fn held(&self) -> ShardHeld {
        let places = || self.groups.values().flat_map(|group| &group.places);
        let (sessions, session_events) = self.sessions.held();
        let lent: Vec<LentCredit> = self.lent_credit().collect();
        let counted: u64 = lent.iter().map(|credit| credit.in_flight_bytes).sum();
        assert!(counted == self.in_flight_bytes, "bytes in flight are those of the members");
        ShardHeld {
            in_flight_bytes: self.in_flight_bytes,
            flights: places().map(|place| place.log.flights()).sum(),
            flights_most: places().map(|place| place.log.flights()).max().unwrap_or(0),
            parked: places().map(|place| place.log.parked_events()).sum(),
            waiting_keys_most: places().map(|place| place.log.waiting_keys()).max().unwrap_or(0),
            held_batches: places().filter(|place| place.held.is_some()).count(),
            mail: self.outbox.waiting(),
            forwarded: self.publishing.forwarded(),
            arrived: self.publishing.arrived(),
            unacked: self.acks.len(),
            sessions,
            session_events,
            waiting_sessions: self.sessions.waiting.len(),
            control: self.members.asking.waits(),
            waiting_io: self.waiting_io.len(),
            waiting_bytes: self.waiting_bytes.len(),
            read_retries: self.read_retries.len(),
            catching_up: self.catching_up.values().map(Vec::len).sum(),
            homes: self.members.credits(self.options.index),
            lent,
            logs: self.logs.iter().map(Log::held).collect(),
        }
    }

    /// The logs of the shard, the active one last: how far each has come, and what it keeps.
    pub fn logs(&self) -> impl Iterator<Item = &Log> {
        self.logs.iter()
    }

    fn lent_credit(&self) -> impl Iterator<Item = LentCredit> {
        self.groups.iter().flat_map(|(group, state)| {
            state.members.iter().map(|member| LentCredit {
                member: member.id,
                group: *group,
                lease: member.lease,
                in_flight: member.in_flight,
                in_flight_bytes: member.in_flight_bytes,
                owes: member.owes,
            })
        })
    }
}
