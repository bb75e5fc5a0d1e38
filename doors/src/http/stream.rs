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
use std::sync::Arc;

use bytes::Bytes;
use codec::problem::Problem;
use codec::refusal::{Code, Refusal};
use dataplane::selection::Selection;
use dataplane::session::{Delivery, SessionKey, SubscribeRequest, Verdict};
use dataplane::shard::Shard;
use dataplane::token::TokenFields;
use routing::subscription::{Mode, Start};

use super::Shared;
use super::desk::Channel;
use super::events::{self, Form};
use super::place::{Place, Reading};
use super::query;
use super::routes::StreamWish;
use super::session::number;

/// Bytes of a stream that hyper has not taken, after which no more are made.
const PENDING_BYTES: usize = 64 << 10;
/// Events in flight to a stream without a group: what is made of them is bounded by bytes.
const CREDIT_ALONE: u32 = 1_000;
/// When a client is to come back: at once if its stream was ended to learn how far it has come, in milliseconds.
const RETRY_MS: u32 = 100;

/// One stream.
#[derive(Debug)]
pub(super) struct Streaming {
    wish: StreamWish,
    client: Arc<str>,
    start: Option<Start>,
    /// What the client had read when it came; events are passed over that stand before it.
    resumed: Option<Place>,
    place: Place,
    pub(super) channel: Rc<RefCell<Channel>>,
    queue: VecDeque<Waiting>,
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
    next: u32,
}

impl Streaming {
    /// Settles what the client has read, and asks the shard to be a member.
    pub(super) fn begin(
        wish: StreamWish,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
        shared: &Shared,
    ) -> Result<Streaming, Problem> {
        let options = &shared.options;
        let resumed = match &wish.last_event_id {
            Some(text) => Some(resumed(text, &wish, options.node)?),
            None => None,
        };
        let from = wish.from.as_deref();
        let start = from.map(|text| query::start(text, &wish.filter, options.partitions));
        let mut start = start.transpose()?.flatten();
        let now = shard.clock();
        let place = match (&wish.group, &resumed) {
            (Some(_), _) => Place::of_group(options.node),
            (None, Some(place)) => {
                start = place.start(options.shards);
                place.clone()
            }
            (None, None) => Place::alone(options.node, begin_of(start.as_ref(), now.wall.0)),
        };
        if let Some(Place { read: Reading::Group { group, logs }, .. }) = &resumed {
            for (log, runs) in logs {
                shard.settle_read(key, number(id, 1), *group, *log, runs.clone());
            }
        }
        let streaming = Streaming {
            client: shared.new_client(),
            wish,
            start,
            resumed: resumed.filter(|place| matches!(place.read, Reading::Alone { .. })),
            place,
            channel: Rc::default(),
            queue: VecDeque::new(),
            phase: Phase::Asked,
            unproven: 0,
            oldest_us: 0,
            said_us: now.mono_us,
        };
        streaming.subscribe(id, key, shard)?;
        Ok(streaming)
    }

    fn subscribe(&self, id: u64, key: SessionKey, shard: &mut Shard) -> Result<(), Refusal> {
        let wish = SubscribeRequest {
            request: number(id, 0),
            group: self.wish.group.clone(),
            filter: self.wish.filter.clone(),
            mode: Mode::Clustering,
            start: self.start.clone(),
            credit: if self.wish.group.is_some() { self.wish.window } else { CREDIT_ALONE },
        };
        shard.subscribe_as(key, self.client.clone(), wish)
    }

    /// The subscription stands.
    pub(super) fn opened(&mut self) {
        self.phase = Phase::Open;
        self.say(format!(": subscribed\nretry: {RETRY_MS}\n\n").into());
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
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
    ) -> Result<(), Refusal> {
        if self.phase == Phase::Asked
            && refusal.code == Code::GroupExists
            && self.start.take().is_some()
        {
            return self.subscribe(id, key, shard);
        }
        Err(refusal)
    }

    /// Says why it ends, and ends.
    pub(super) fn end_with(&mut self, refusal: &Refusal) {
        let mut out = b"event: end\ndata: ".to_vec();
        Problem::from(refusal.clone()).write(&mut out);
        out.extend_from_slice(b"\n\n");
        self.say(out.into());
        self.end();
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
    pub(super) fn take(&mut self, delivery: Delivery) {
        if let Some(token) = TokenFields::decode(&delivery.token.0) {
            self.queue.push_back(Waiting { delivery, token, next: 0 });
        }
    }

    /// Says what there is room for.
    pub(super) fn refill(&mut self, id: u64, key: SessionKey, shard: &mut Shard) {
        if self.phase != Phase::Open {
            return;
        }
        while self.channel.borrow().len() < PENDING_BYTES {
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
            } else if self.wish.group.is_none() {
                // The answer can only be that it was too late, and then it is said again: that is passed over.
                let (token, selection) =
                    (&waiting.delivery.token.0, waiting.delivery.selection.clone());
                let _ = shard.settle(key, number(id, 2), token, selection, Verdict::Done);
            } else if !self.wish.is_acked {
                self.unproven += waiting.delivery.selection.len(waiting.token.count);
            }
        }
        let is_full = self.unproven >= self.wish.window && self.queue.is_empty();
        if is_full && self.wish.group.is_some() && !self.wish.is_acked {
            self.ask_to_come_back(id, key, shard);
        }
    }

    /// Says the next event of a delivery, if it is meant and new.
    fn say_event(&mut self, waiting: &mut Waiting, out: &mut Vec<u8>) {
        let Waiting { delivery, token, next } = waiting;
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
        let mut place = if self.wish.is_acked {
            // Who acknowledges says of each event that it is read.
            Place::of_group(self.place.node)
        } else {
            std::mem::replace(&mut self.place, Place::of_group(0))
        };
        place.said(delivery, token, index);
        out.extend_from_slice(b"id: ");
        place.write(out);
        out.extend_from_slice(b"\ndata: ");
        if !self.wish.is_acked {
            self.place = place;
        }
        if events::write(delivery, index, Form::Line, out) {
            out.extend_from_slice(b"\n\n");
        } else {
            out.truncate(start);
        }
    }

    /// Ends the stream so that the client tells how far it has come. What it was given stays reserved meanwhile.
    fn ask_to_come_back(&mut self, id: u64, key: SessionKey, shard: &mut Shard) {
        self.say(Bytes::from_static(b": come back with the id of the last event\n\n"));
        shard.retire(key, number(id, 0));
        self.end();
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
        if self.unproven > 0 && since(self.oldest_us) >= half_us {
            return self.ask_to_come_back(id, key, shard);
        }
        if since(self.said_us) >= shared.options.comment_interval.as_micros() {
            self.said_us = now_us;
            self.say(Bytes::from_static(b":\n\n"));
        }
    }

    /// The server is shutting down.
    pub(super) fn drain(&mut self) {
        if self.phase == Phase::Open {
            self.end();
        }
    }

    /// The client has gone.
    pub(super) fn left(&mut self, id: u64, key: SessionKey, shard: &mut Shard) {
        if self.phase != Phase::Over {
            shard.lose_subscription(key, number(id, 0));
            self.end();
        }
    }

    /// Bytes of memory that it holds; bodies of deliveries are the shard's.
    pub(super) fn memory_bytes(&self) -> usize {
        self.channel.borrow().len()
            + self.queue.capacity() * size_of::<Waiting>()
            + size_of::<Self>()
    }
}

/// The place that a client comes back to; it must be one that such a stream has given.
fn resumed(text: &str, wish: &StreamWish, node: u32) -> Result<Place, Problem> {
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
    match (&place.read, &wish.group) {
        (Reading::Group { .. }, Some(_)) | (Reading::Alone { .. }, None) => Ok(place),
        (Reading::Group { .. }, None) => Err(bad("is of a stream with a group")),
        (Reading::Alone { .. }, Some(_)) => Err(bad("is of a stream without a group")),
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
