//! Server-sent events: a member that stays as long as its client listens.
//!
//! What a client proves. A stream goes one way: that its bytes have left, or that the peer's kernel has taken them, does not
//! say that anybody has read them. Only the client can say so, by the id of the last event that it has read: in
//! `Last-Event-ID` when it comes back, or to `POST /ack`. So
//! - without a group nothing is owed when the client has gone. Its place is in the id, and it goes on there. Deliveries are
//!   settled as they are written, which only makes room for more.
//! - in a group an event is settled by an id and by nothing else. A client that does not acknowledge is told to come
//!   back (its stream ends) before its deliveries would time out or when its window is full; every client of the standard
//!   comes back by itself, with the id.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write as _;
use std::rc::Rc;

use bytes::Bytes;
use codec::problem::Problem;
use codec::refusal::{Code, Refusal};
use dataplane::selection::{Bitmap, Selection};
use dataplane::session::{Delivery, Gap, SessionKey, Verdict};
use dataplane::shard::Shard;
use dataplane::token::TokenFields;
use routing::subscription::{Mode, Start};

use super::Shared;
use super::desk::Channel;
use super::events::{self, Form};
use super::place::{PLACES_MARK, Place, Reading};
use super::query;
use super::routes::{StreamWish, WINDOW_DEFAULT};
use super::seat::{Seat, hand_back, take_all};
use super::session::number;

/// Bytes of a stream that hyper has not taken, after which no more are made.
const PENDING_BYTES: usize = 64 << 10;
/// Events in flight to a stream without a group: what is made of them is bounded by bytes.
const CREDIT_ALONE: u32 = 1_000;
/// When a client is to come back: at once if its stream was ended to learn how far it has come, in milliseconds.
const RETRY_MS: u32 = 100;

/// What the number of a request says that settles, and whose answer nobody waits for.
const PART_SETTLE: usize = 0xffff;

/// How a stream is said, and how its client proves what it has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    pub(super) form: Form,
    /// Events that may have been said and are not known to be read.
    pub(super) window: u32,
    /// The client says by itself what it has read.
    pub(super) is_acked: bool,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Streaming {
    /// What it is a member of: one group, or for a client of EventMesh several.
    seats: Vec<Seat>,
    /// How many of them stand.
    standing: usize,
    manner: Manner,
    /// What the client had read when it came; events are passed over that stand before it.
    resumed: Option<Place>,
    /// What it has been told, by seat.
    places: Vec<Place>,
    pub(super) channel: Rc<RefCell<Channel>>,
    queue: VecDeque<Waiting>,
    /// What is gone, at most one for each log and seat, until what stands before it was said.
    gaps: Vec<(usize, Gap)>,
    phase: Phase,
    /// Events said that are not known to be read, and when the oldest was; in a group that is not acked.
    unproven: u32,
    oldest_us: u64,
    /// When something was last said; monotonic microseconds.
    said_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The control plane has not answered.
    Asked,
    Open,
    Over,
}

/// A delivery of which something is still to be said.
#[derive(Debug)]
struct Waiting {
    delivery: Delivery,
    token: TokenFields,
    seat: usize,
    next: u32,
}

impl Waiting {
    /// What of it is still to be said.
    fn unsaid(&self) -> Bitmap {
        let mut events = self.delivery.selection.to_bitmap(self.token.count);
        events.subtract(&Bitmap::all(self.next));
        events
    }
}

impl Streaming {
    /// A stream of one group, or of one reader alone. Settles what the client has read, and asks the shard to be a member.
    pub(super) fn begin(
        wish: StreamWish,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
        shared: &Shared,
    ) -> Result<Streaming, Problem> {
        let StreamWish { filter, group, from, window, is_acked, last_event_id } = wish;
        let options = &shared.options;
        let start = from.map(|text| query::start(&text, &filter, options.partitions));
        let mut start = start.transpose()?.flatten();
        let is_shared = group.is_some();
        let mut resumed = Vec::new();
        let place = match last_event_id {
            None if is_shared => Place::of_group(options.node),
            None => {
                let now_us = shard.clock().wall.0;
                Place::alone(options.node, begin_of(start.as_ref(), now_us))
            }
            Some(text) => {
                let place = resumed_at(&text, is_shared, options.node)?;
                resumed.push(place.clone());
                match is_shared {
                    true => Place::of_group(options.node),
                    false => {
                        start = place.start(options.shards);
                        place
                    }
                }
            }
        };
        let (client, mode) = (shared.new_client(), Mode::Clustering);
        let seat = Seat { client, group, filter, mode, start, share: None };
        let manner = Manner { form: Form::Line, window, is_acked };
        Streaming::open(vec![(seat, place)], manner, resumed, (id, key), shard)
    }

    /// A stream of all that a client of EventMesh has subscribed to.
    pub(super) fn of_seats(
        seats: Vec<Seat>,
        last_event_id: Option<&str>,
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
        node: u32,
    ) -> Result<Streaming, Problem> {
        let texts = last_event_id.into_iter().flat_map(|text| text.split(PLACES_MARK));
        let resumed = texts.map(|text| resumed_at(text, true, node)).collect::<Result<_, _>>()?;
        let seats = seats.into_iter().map(|seat| (seat, Place::of_group(node))).collect();
        let manner = Manner { form: Form::Bare, window: WINDOW_DEFAULT, is_acked: false };
        Streaming::open(seats, manner, resumed, (id, key), shard)
    }

    fn open(
        seats: Vec<(Seat, Place)>,
        manner: Manner,
        resumed: Vec<Place>,
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
    ) -> Result<Streaming, Problem> {
        assert!(seats.len() < PART_SETTLE, "a client's subscriptions have a bound");
        for place in &resumed {
            let Reading::Group { group, logs } = &place.read else { continue };
            for (log, runs) in logs {
                let request = number(id, PART_SETTLE);
                shard.settle_read(key, request, *group, *log, runs.clone());
            }
        }
        let alone = resumed.into_iter().find(|place| matches!(place.read, Reading::Alone { .. }));
        let (seats, places) = seats.into_iter().unzip();
        let mut streaming = Streaming {
            seats,
            standing: 0,
            manner,
            resumed: alone,
            places,
            channel: Rc::default(),
            queue: VecDeque::new(),
            gaps: Vec::new(),
            phase: Phase::Asked,
            unproven: 0,
            oldest_us: 0,
            said_us: shard.clock().mono_us,
        };
        if let Err(refusal) = take_all(&streaming.seats, id, streaming.credit(), key, shard) {
            streaming.left(id, key, shard);
            return Err(refusal.into());
        }
        Ok(streaming)
    }

    /// Most events in flight to each seat.
    fn credit(&self) -> u32 {
        if self.is_alone() { CREDIT_ALONE } else { self.manner.window }
    }

    /// Whether its reader shares with nobody, and keeps its place by itself.
    fn is_alone(&self) -> bool {
        self.seats.first().is_some_and(|seat| seat.group.is_none())
    }

    /// A subscription stands. Whether all do now, so that the stream begins.
    pub(super) fn stands(&mut self) -> bool {
        self.standing += 1;
        assert!(self.standing <= self.seats.len(), "each stands once");
        if self.standing < self.seats.len() {
            return false;
        }
        self.phase = Phase::Open;
        self.say(format!(": subscribed\nretry: {RETRY_MS}\n\n").into());
        true
    }

    /// Whether the head of the answer has been sent.
    pub(super) fn is_open(&self) -> bool {
        self.phase != Phase::Asked
    }

    /// Whether nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// The subscribe is refused, or the subscription has ended. `Ok`: it was asked for again, without the start, which a
    /// client that comes back to its group repeats.
    pub(super) fn refused(
        &mut self,
        refusal: Refusal,
        (id, part): (u64, usize),
        key: SessionKey,
        shard: &mut Shard,
    ) -> Result<(), Refusal> {
        let credit = self.credit();
        let seat = self.seats.get_mut(part).filter(|_| self.phase == Phase::Asked);
        match seat {
            Some(seat) => seat.take_again(refusal, number(id, part), credit, key, shard),
            None => Err(refusal),
        }
    }

    /// Says why it ends, and ends.
    pub(super) fn end_with(
        &mut self,
        refusal: &Refusal,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
    ) {
        let mut out = b"event: end\ndata: ".to_vec();
        Problem::from(refusal.clone()).write(&mut out);
        out.extend_from_slice(b"\n\n");
        self.say(out.into());
        self.left(id, key, shard);
    }

    fn end(&mut self) {
        self.phase = Phase::Over;
        self.queue.clear();
        self.channel.borrow_mut().end();
    }

    fn say(&mut self, piece: Bytes) {
        self.channel.borrow_mut().push(piece);
    }

    /// A delivery has come.
    pub(super) fn take(&mut self, delivery: Delivery, seat: usize) {
        if let Some(token) = TokenFields::decode(&delivery.token.0) {
            self.queue.push_back(Waiting { delivery, token, seat, next: 0 });
        }
    }

    /// Events are gone that it was to be given.
    pub(super) fn passed(&mut self, gap: Gap, seat: usize) {
        let Some(gap) = self.places.get(seat).and_then(|place| place.unread(gap)) else { return };
        let known = self.gaps.iter_mut();
        match known.filter(|(of, _)| *of == seat).find(|(_, known)| known.log == gap.log) {
            Some((_, known)) => known.add(gap),
            None => self.gaps.push((seat, gap)),
        }
    }

    /// Says of gaps that nothing which stands before them waits to be said.
    fn say_gaps(&mut self) {
        if self.gaps.is_empty() {
            return;
        }
        let queue = &self.queue;
        let is_next = |gap: &Gap| {
            let waiting = queue.iter().filter(|waiting| waiting.delivery.log == gap.log);
            waiting.into_iter().all(|waiting| waiting.token.base_position >= gap.to)
        };
        let mut out = Vec::new();
        for (_, gap) in self.gaps.extract_if(.., |(_, gap)| is_next(gap)) {
            events::write_gap(&gap, self.manner.form, &mut out);
        }
        if !out.is_empty() {
            self.say(out.into());
        }
    }

    /// Says what there is room for.
    pub(super) fn refill(&mut self, id: u64, key: SessionKey, shard: &mut Shard) {
        if self.phase != Phase::Open {
            return;
        }
        while self.channel.borrow().len() < PENDING_BYTES {
            self.say_gaps();
            let Some(mut waiting) = self.queue.pop_front() else { break };
            let mut piece = Vec::new();
            while piece.len() < PENDING_BYTES / 2 && waiting.next < waiting.token.count {
                self.say_event(&mut waiting, &mut piece);
            }
            if !piece.is_empty() {
                self.said_us = shard.clock().mono_us;
                if self.unproven == 0 {
                    self.oldest_us = self.said_us;
                }
                self.say(piece.into());
            }
            if waiting.next < waiting.token.count {
                self.queue.push_front(waiting);
            } else if self.is_alone() {
                // The answer can only be that it was too late, and then it is said again: that is passed over.
                let (token, selection) =
                    (&waiting.delivery.token.0, waiting.delivery.selection.clone());
                let request = number(id, PART_SETTLE);
                let _ = shard.settle(key, request, token, selection, Verdict::Done);
            } else if !self.manner.is_acked {
                self.unproven += waiting.delivery.selection.len(waiting.token.count);
            }
        }
        let is_full = self.unproven >= self.manner.window && self.queue.is_empty();
        if is_full && !self.is_alone() && !self.manner.is_acked {
            self.ask_to_come_back(id, key, shard);
        }
    }

    /// Says the next event of a delivery, if it is meant and new.
    fn say_event(&mut self, waiting: &mut Waiting, out: &mut Vec<u8>) {
        let Waiting { delivery, token, seat, next } = waiting;
        let index = *next;
        *next += 1;
        let is_meant = match &delivery.selection {
            Selection::All => true,
            Selection::Some(events) => events.contains(index),
        };
        let at = token.base_position.plus(u64::from(index));
        let is_old = self.resumed.as_ref().is_some_and(|place| place.has_read(delivery, at));
        if !is_meant || is_old {
            return;
        }
        let start = out.len();
        out.extend_from_slice(b"id: ");
        let place = &mut self.places[*seat];
        if self.manner.is_acked {
            // Who acknowledges says of each event that it is read.
            let mut place = Place::of_group(place.node);
            place.said(delivery, token, index);
            place.write(out);
        } else {
            place.said(delivery, token, index);
            self.write_places(out);
        }
        out.extend_from_slice(b"\ndata: ");
        if events::write(delivery, index, self.manner.form, out) {
            out.extend_from_slice(b"\n\n");
        } else {
            out.truncate(start);
        }
    }

    /// The id of what was said last: the places of all that something was said of.
    fn write_places(&self, out: &mut Vec<u8>) {
        let said = self.places.iter().filter(|place| !place.is_empty());
        for (index, place) in said.enumerate() {
            if index > 0 {
                out.push(PLACES_MARK as u8);
            }
            place.write(out);
        }
    }

    /// Ends the stream so that the client tells how far it has come. What it was told stays reserved meanwhile.
    fn ask_to_come_back(&mut self, id: u64, key: SessionKey, shard: &mut Shard) {
        self.say(Bytes::from_static(b": come back with the id of the last event\n\n"));
        (0..self.seats.len()).for_each(|part| shard.retire(key, number(id, part)));
        self.hand_back_unsaid(key, shard);
        self.end();
    }

    /// What was not said goes to others.
    fn hand_back_unsaid(&mut self, key: SessionKey, shard: &mut Shard) {
        for waiting in self.queue.drain(..) {
            let events = waiting.unsaid();
            if !events.is_empty() {
                hand_back(&waiting.delivery.token, Selection::Some(events), key, shard);
            }
        }
    }

    /// A look at the clock: says something if nothing was said for long, and asks a client that does not acknowledge how far
    /// it has come.
    pub(super) fn look_at_clock(
        &mut self,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
        shared: &Shared,
    ) {
        if self.phase != Phase::Open {
            return;
        }
        let now_us = shard.clock().mono_us;
        let since = |at_us: u64| u128::from(now_us.saturating_sub(at_us));
        let half_us = shared.options.ack_deadline.as_micros() / 2;
        let is_late = self.unproven > 0 && since(self.oldest_us) >= half_us;
        if is_late || !self.is_current(shared, now_us) {
            return self.ask_to_come_back(id, key, shard);
        }
        if since(self.said_us) >= shared.options.comment_interval.as_micros() {
            self.said_us = now_us;
            self.say(Bytes::from_static(b":\n\n"));
        }
    }

    /// Whether a client of EventMesh has still subscribed to what it listens to, and to nothing else.
    fn is_current(&self, shared: &Shared, now_us: u64) -> bool {
        let is_eventmesh = self.manner.form == Form::Bare;
        let client = self.seats.first().filter(|_| is_eventmesh).map(|seat| &seat.client);
        client.is_none_or(|client| shared.eventmesh.is_current(client, &self.seats, now_us))
    }

    /// The server is shutting down.
    pub(super) fn drain(&mut self) {
        if self.phase == Phase::Open {
            self.end();
        }
    }

    /// The client has gone.
    pub(super) fn left(&mut self, id: u64, key: SessionKey, shard: &mut Shard) {
        if self.phase == Phase::Over {
            return;
        }
        if !self.is_alone() {
            self.hand_back_unsaid(key, shard);
        }
        for part in 0..self.seats.len() {
            match self.phase {
                // It may stand or not: who is retired is no member either way.
                Phase::Asked => shard.retire(key, number(id, part)),
                _ => shard.lose_subscription(key, number(id, part)),
            }
        }
        self.end();
    }

    /// Bytes of memory that it holds; bodies of deliveries are the shard's.
    pub(super) fn memory_bytes(&self) -> usize {
        self.channel.borrow().len()
            + self.queue.capacity() * size_of::<Waiting>()
            + self.gaps.capacity() * size_of::<(usize, Gap)>()
            + self.seats.capacity() * (size_of::<Seat>() + size_of::<Place>())
            + size_of::<Self>()
    }
}

/// The place that a client comes back to; it must be one that such a stream has given.
fn resumed_at(text: &str, is_shared: bool, node: u32) -> Result<Place, Problem> {
    let bad = |why: &str| {
        let mut detail = Vec::new();
        let _ = write!(detail, "last-event-id {why}");
        let detail = String::from_utf8_lossy(&detail).into_owned();
        Problem::of("last-event-id", Code::MalformedToken, detail)
    };
    let place = Place::read(text).ok_or_else(|| bad("is not one of this server's"))?;
    if place.node != node {
        return Err(bad("is another node's"));
    }
    match (&place.read, is_shared) {
        (Reading::Group { .. }, true) | (Reading::Alone { .. }, false) => Ok(place),
        (Reading::Group { .. }, false) => Err(bad("is of a stream with a group")),
        (Reading::Alone { .. }, true) => Err(bad("is of a stream without a group")),
    }
}

/// Since when events are meant, in wall time; 0 is the beginning of all.
fn begin_of(start: Option<&Start>, now_us: u64) -> u64 {
    match start {
        None | Some(Start::Tail) => now_us,
        Some(Start::Time(time)) => time.0,
        Some(Start::Earliest | Start::Offsets(_)) => 0,
    }
}
