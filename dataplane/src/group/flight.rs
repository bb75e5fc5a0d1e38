//! Batches that are not yet settled for a group: which of their events are in flight, and which are idle.

use std::collections::{BTreeMap, VecDeque};

use codec::ids::Position;

use crate::group::keys::KeyHash;
use crate::mail::MemberId;
use crate::selection::{Bitmap, Selection};

/// Events of one batch that went to one member as one delivery.
#[derive(Clone, Debug)]
pub struct Piece {
    /// The number of this delivery of the batch.
    pub delivery: u32,
    /// To whom.
    pub member: MemberId,
    /// How often these events have been delivered; some of them less often, see `fewer`.
    pub attempt: u32,
    /// Events that have been delivered less often, and how often: what became idle for different reasons goes together.
    /// Mostly empty; may name settled events, too.
    pub fewer: Vec<(Bitmap, u32)>,
    /// Those of them that are not yet settled.
    pub events: Selection,
    /// Keys of the unsettled events that have one, by index; `None` if keys were not looked at, since the group had
    /// one member.
    pub keys: Option<Vec<(u32, KeyHash)>>,
    /// Bytes of the batch, counted against the member until the piece is settled.
    pub bytes: u32,
    /// When it was sent.
    pub sent_us: u64,
}

/// Events of one batch that are owed and in flight to nobody.
#[derive(Clone, Debug)]
pub struct Idle {
    /// Which.
    pub events: Bitmap,
    /// How often they will have been delivered after the next time.
    pub attempt: u32,
    /// Not to be sent before.
    pub not_before_us: u64,
    /// Keys of those that have one, by index; `None` until the batch has been read again.
    pub keys: Option<Vec<(u32, KeyHash)>>,
    /// Who had them last: others come first.
    pub avoid: Option<MemberId>,
}

impl Idle {
    /// Both as one, with the greater number of attempts. Their keys must be known.
    #[must_use]
    pub fn join(mut self, other: Idle) -> Idle {
        assert!(self.keys.is_some() && other.keys.is_some(), "keys are learned before");
        assert!(self.events.common(&other.events).is_empty(), "an event is idle once");
        self.events.add(&other.events);
        let keys = self.keys.get_or_insert_default();
        keys.extend(other.keys.into_iter().flatten());
        keys.sort_unstable_by_key(|(index, _)| *index);
        self.attempt = self.attempt.max(other.attempt);
        self.avoid = other.avoid.or(self.avoid);
        self
    }
}

/// Why an event is not delivered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A member said that it will never be able to take it.
    Rejected,
    /// Its last attempt was handed back.
    HandedBack,
    /// Its last attempt was not settled in time.
    TimedOut,
    /// The member of its last attempt went away.
    Disconnected,
    /// It is older than the group wants.
    TooOld,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 5] = [
        Reason::Rejected,
        Reason::HandedBack,
        Reason::TimedOut,
        Reason::Disconnected,
        Reason::TooOld,
    ];

    /// The word for it, in the dead letter's attributes and in the API.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Reason::Rejected => "rejected",
            Reason::HandedBack => "handed_back",
            Reason::TimedOut => "timed_out",
            Reason::Disconnected => "disconnected",
            Reason::TooOld => "too_old",
        }
    }
}

/// What becomes of events that leave their batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They are not delivered any more: they go to the dead letters.
    Dead(Reason),
    /// They wait among the parked events, and are tried again at a time on the monotonic clock.
    Parked {
        /// When.
        due_us: u64,
        /// The keys of those that have one, by index.
        keys: Vec<(u32, KeyHash)>,
    },
}

/// Events of one batch that go elsewhere, and are owed here until they stand there.
#[derive(Clone, Debug)]
pub struct Dying {
    /// Which.
    pub events: Bitmap,
    /// How often they have been delivered.
    pub attempts: u32,
    /// Where they go.
    pub fate: Fate,
    /// The number of the append that brings them there; `None` until it is under way.
    pub burial: Option<u64>,
}

/// What an event of a batch of parked events stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// Its key, or what stands for it.
    pub key: KeyHash,
    /// Where it was appended first.
    pub place: Position,
}

/// One batch that a group has taken and not settled.
#[derive(Clone, Debug)]
pub struct Flight {
    /// Position of the batch's first event.
    pub base: Position,
    /// Events in the batch.
    pub count: u32,
    /// The number the next delivery of this batch gets.
    pub next_delivery: u32,
    /// The first piece stands apart: nearly all flights have just one.
    first: Option<Piece>,
    more: Vec<Piece>,
    /// What is in flight to nobody.
    pub idle: Vec<Idle>,
    /// What is on its way elsewhere: to the dead letters, to the parked events.
    pub dying: Vec<Dying>,
    /// What each of its events stands for, if they are parked ones.
    pub parked: Option<Box<[Parked]>>,
}

impl Flight {
    /// A batch of which nothing is sent yet.
    #[must_use]
    pub fn new(base: Position, count: u32) -> Self {
        assert!(count > 0, "a batch holds an event");
        let (more, idle, dying) = (Vec::new(), Vec::new(), Vec::new());
        Flight { base, count, next_delivery: 0, first: None, more, idle, dying, parked: None }
    }

    /// A batch of parked events, none of them sent yet.
    #[must_use]
    pub fn of_parked(base: Position, parked: Box<[Parked]>) -> Self {
        let count = u32::try_from(parked.len()).expect("a batch has so many events");
        Flight { parked: Some(parked), ..Flight::new(base, count) }
    }

    /// An event's place in the line of its key.
    #[must_use]
    pub fn place(&self, index: u32) -> Position {
        match &self.parked {
            Some(parked) => parked[index as usize].place,
            None => self.base.plus(u64::from(index)),
        }
    }

    /// Adds a piece and numbers it.
    pub fn send(&mut self, mut piece: Piece) -> u32 {
        assert!(piece.events.len(self.count) > 0, "a delivery has events");
        assert!(piece.attempt > 0, "attempts count from 1");
        piece.delivery = self.next_delivery;
        self.next_delivery += 1;
        let number = piece.delivery;
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.more.push(piece);
        }
        number
    }

    /// The piece of this delivery.
    pub fn piece_mut(&mut self, delivery: u32) -> Option<&mut Piece> {
        self.first.iter_mut().chain(&mut self.more).find(|piece| piece.delivery == delivery)
    }

    /// Takes a piece out.
    pub fn take(&mut self, delivery: u32) -> Option<Piece> {
        if self.first.as_ref().is_some_and(|piece| piece.delivery == delivery) {
            return self.first.take();
        }
        let index = self.more.iter().position(|piece| piece.delivery == delivery)?;
        Some(self.more.swap_remove(index))
    }

    /// The pieces in flight.
    pub fn pieces_mut(&mut self) -> impl Iterator<Item = &mut Piece> {
        self.first.iter_mut().chain(&mut self.more)
    }

    /// The pieces in flight.
    pub fn pieces(&self) -> impl Iterator<Item = &Piece> {
        self.first.iter().chain(&self.more)
    }

    /// Whether every event of the batch that was owed is settled.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.first.is_none()
            && self.more.is_empty()
            && self.idle.is_empty()
            && self.dying.is_empty()
    }

    /// Looks at each event: for debug builds.
    pub fn check(&self) {
        assert!(self.owed().end() <= self.count, "only events of the batch are owed");
        assert!(self.idle.iter().all(|idle| !idle.events.is_empty()), "idle means some event");
        assert!(self.dying.iter().all(|dying| !dying.events.is_empty()), "some event dies");
    }

    /// How many events are owed.
    #[must_use]
    pub fn owed_events(&self) -> u32 {
        let sent: u32 = self.pieces().map(|piece| piece.events.len(self.count)).sum();
        let idle = self.idle.iter().map(|idle| idle.events.len()).sum::<u32>();
        let owed = sent + idle + self.dying.iter().map(|dying| dying.events.len()).sum::<u32>();
        assert!(owed <= self.count, "an event is in flight once, or idle once, or dies once");
        owed
    }

    /// The events that are owed.
    #[must_use]
    pub fn owed(&self) -> Bitmap {
        let mut owed = Bitmap::none(self.count);
        for piece in self.pieces() {
            owed.add(&piece.events.to_bitmap(self.count));
        }
        for idle in &self.idle {
            owed.add(&idle.events);
        }
        for dying in &self.dying {
            owed.add(&dying.events);
        }
        assert!(owed.len() == self.owed_events(), "no event is in flight twice");
        owed
    }
}

/// The flights of one group in one log, by rising position; those of parked events apart, since these come and go in any
/// order and must not hold what stands between them.
#[derive(Debug, Default)]
pub struct Flights {
    list: VecDeque<Flight>,
    parked: BTreeMap<Position, Flight>,
    /// Batches of parked events that were changed and may be settled.
    touched: Vec<Position>,
}

impl Flights {
    /// Adds a batch. Mostly it is the newest; a batch that is delivered again keeps its place.
    pub fn push(&mut self, flight: Flight) {
        if flight.parked.is_some() {
            let base = flight.base;
            let before = self.parked.insert(base, flight);
            assert!(before.is_none(), "a batch is taken once");
            return;
        }
        if self.list.back().is_none_or(|last| last.base < flight.base) {
            self.list.push_back(flight);
            return;
        }
        let index = self.list.partition_point(|other| other.base < flight.base);
        assert!(self.list[index].base != flight.base, "a batch is taken once");
        self.list.insert(index, flight);
    }

    /// The flight of the batch at `base`.
    #[must_use]
    pub fn get(&self, base: Position) -> Option<&Flight> {
        let index = self.list.partition_point(|flight| flight.base < base);
        let found = self.list.get(index).filter(|flight| flight.base == base);
        found.or_else(|| self.parked.get(&base))
    }

    /// The flight of the batch at `base`.
    pub fn get_mut(&mut self, base: Position) -> Option<&mut Flight> {
        let index = self.list.partition_point(|flight| flight.base < base);
        let is_it = self.list.get(index).is_some_and(|flight| flight.base == base);
        if is_it {
            return self.list.get_mut(index);
        }
        let found = self.parked.get_mut(&base)?;
        if self.touched.last() != Some(&base) {
            self.touched.push(base);
        }
        Some(found)
    }

    /// Forgets settled flights at the front; those behind an unsettled one keep their place until it is settled.
    pub fn pop_settled(&mut self) {
        if !self.touched.is_empty() {
            for base in std::mem::take(&mut self.touched) {
                if self.parked.get(&base).is_some_and(Flight::is_settled) {
                    self.parked.remove(&base);
                }
            }
        }
        while let Some(settled) = self.list.front().filter(|front| front.is_settled()) {
            let base = settled.base;
            self.list.pop_front();
            assert!(self.list.front().is_none_or(|next| base < next.base), "flights rise");
        }
        if self.list.is_empty() && self.list.capacity() > 256 {
            self.list = VecDeque::new();
        }
    }

    /// All flights, also settled ones behind an unsettled one.
    pub fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.list.iter().chain(self.parked.values())
    }

    /// Those that are not of parked events.
    pub fn unparked(&self) -> impl Iterator<Item = &Flight> {
        self.list.iter()
    }

    /// Those of parked events.
    pub fn parked(&self) -> impl Iterator<Item = &Flight> {
        self.parked.values()
    }

    /// All flights.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flight> {
        // Whoever walks over all of them may settle any.
        self.touched.clear();
        self.touched.extend(self.parked.keys());
        self.list.iter_mut().chain(self.parked.values_mut())
    }

    /// How many there are, settled ones behind an unsettled one included, and parked ones not: the window.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether nothing is owed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.parked.is_empty()
    }
}
