//! One connection: polls hyper, does what requests ask of the shard, and answers them when the shard has.
//!
//! Lives on the core of its shard. Invariants: hyper is polled only here; a request that the shard works on stands in
//! `works` until it is answered or its client has gone; what a peer sends is kept within the limits of the runtime and of
//! the shard's memory for frames that are not whole.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use codec::problem::Problem;
use codec::refusal::{Code, Refusal};
use dataplane::kernel::Now;
use dataplane::options::INPUT_FREE_BYTES;
use dataplane::outbound::Outbound;
use dataplane::session::{Asked, Delivery, Feed, Session, SessionEvent, SessionKey};
use dataplane::shard::Shard;
use http::StatusCode;

use super::answers::{self, Caller};
use super::desk::{AnswerBody, Desk, Floor, Open, Order};
use super::engine::{Engine, Progress};
use super::eventmesh::{self, Joining};
use super::pipe::Pipe;
use super::poll::Polling;
use super::publish::{Publishing, Stored};
use super::rising::Rising;
use super::routes::Route;
use super::seat::hand_back;
use super::settle::Settling;
use super::stream::Streaming;
use super::{Shared, body, last_words};

/// Bytes outbound after which hyper may write no more; the runtime gives no more events then.
const OUTBOUND_BYTES_MAX: usize = 256 << 10;
/// Bytes that came and that hyper does not take, after which no more are read.
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Times that hyper is polled in one call: it yields now and then, and goes on in the next cycle.
const ROUNDS_MAX: u32 = 64;
/// Bits of a request's number that say which part of it is meant.
const PART_BITS: u32 = 16;

/// The shard's number of one part of a request.
pub(super) fn number(id: u64, part: usize) -> u64 {
    assert!(part < 1 << PART_BITS, "parts of a request are bounded");
    id << PART_BITS | part as u64
}

fn parts_of(number: u64) -> (u64, usize) {
    (number >> PART_BITS, (number & ((1 << PART_BITS) - 1)) as usize)
}

/// Set when hyper wants to be polled again.
#[derive(Debug, Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A request that the shard works on.
struct Work {
    caller: Caller,
    what: What,
}

pub(super) enum What {
    Publish(Publishing),
    Poll(Polling),
    Stream(Streaming),
    Settle(Settling),
    Join(Joining),
    /// What is done at once: the answer.
    Done(Vec<u8>),
}

/// One connection.
pub(super) struct HttpSession {
    key: SessionKey,
    shared: Arc<Shared>,
    pipe: Pipe,
    desk: Desk,
    engine: Engine,
    flag: Arc<Flag>,
    waker: Waker,
    works: Rising<Work>,
    /// Publishes that the shard had no room for, in turn.
    waiting: VecDeque<u64>,
    /// What the shard was last told of what is kept, and whether there is room for the rest.
    counted: (usize, usize),
    is_starved: bool,
    /// hyper wants to be polled, and was often enough in this cycle.
    is_restless: bool,
    is_closed: bool,
    is_draining: bool,
    /// Since when a next request's head has been coming; monotonic microseconds.
    head_since_us: Option<u64>,
    /// When the last request was answered, or the connection began.
    rest_since_us: u64,
}

impl HttpSession {
    pub(super) fn new(key: SessionKey, shared: Arc<Shared>, now: Now) -> Self {
        let flag = Arc::new(Flag::default());
        let floor = Rc::new(RefCell::new(Floor::default()));
        let desk = Desk { floor, open: Open::default(), shared: shared.clone() };
        HttpSession {
            key,
            shared,
            pipe: Pipe::default(),
            desk,
            engine: Engine::Idle,
            waker: Waker::from(flag.clone()),
            flag,
            works: Rising::default(),
            waiting: VecDeque::new(),
            counted: (0, 0),
            is_starved: false,
            is_restless: false,
            is_closed: false,
            is_draining: false,
            head_since_us: None,
            rest_since_us: now.mono_us,
        }
    }

    /// Polls hyper and does what is asked until nothing is left to do but wait.
    fn drive(&mut self, shard: &mut Shard, out: &mut Outbound) -> Feed {
        if self.is_closed {
            return Feed::Close;
        }
        let now_us = shard.clock().mono_us;
        self.desk.floor.borrow_mut().now_us = now_us;
        let served = self.desk.floor.borrow().served();
        self.engine.begin(&self.pipe, &self.desk);
        let mut progress = Progress::Going;
        self.is_restless = true;
        for _ in 0..ROUNDS_MAX {
            self.flag.0.store(false, Ordering::Relaxed);
            self.refill_streams(shard);
            progress = self.poll_engine(out);
            // Who answers at once calls by itself.
            self.begin_orders(shard);
            self.forget_left(shard);
            let is_called = self.flag.0.load(Ordering::Relaxed);
            if progress == Progress::Over || !is_called {
                self.is_restless = false;
                break;
            }
        }
        self.note_time(served, now_us);
        self.count_input(shard);
        if progress == Progress::Over {
            self.is_closed = true;
            return Feed::Close;
        }
        self.feed_now()
    }

    fn poll_engine(&mut self, out: &mut Outbound) -> Progress {
        self.pipe.set_room(OUTBOUND_BYTES_MAX.saturating_sub(out.pending_bytes()));
        let mut context = Context::from_waker(&self.waker);
        let progress = self.engine.poll(&mut context);
        self.pipe.take_output(out.bytes());
        progress
    }

    fn feed_now(&self) -> Feed {
        let is_behind = self.pipe.input_len() > INPUT_BYTES_MAX;
        match self.is_closed {
            true => Feed::Close,
            false if self.is_starved || is_behind || !self.waiting.is_empty() => Feed::Paused,
            false => Feed::More,
        }
    }

    /// Begins what has been asked in whole.
    fn begin_orders(&mut self, shard: &mut Shard) {
        loop {
            let next = self.desk.floor.borrow_mut().next_order();
            let Some((id, order)) = next else { return };
            let caller = order.caller.clone();
            match self.begin(id, order, shard) {
                Ok(what) => {
                    self.works.insert(id, Work { caller, what });
                    self.advance(id, shard);
                }
                Err(problem) => self.answer(id, answers::problem(&problem, &caller)),
            }
        }
    }

    fn begin(&mut self, id: u64, mut order: Order, shard: &mut Shard) -> Result<What, Problem> {
        let (key, options) = (self.key, &self.shared.options);
        Ok(match order.route.clone() {
            Route::Publish { topic, mode } => {
                What::Publish(Publishing::new(topic, mode, &mut order, options)?)
            }
            Route::Poll(wish) => What::Poll(Polling::begin(wish, id, key, shard, options)?),
            Route::Subscribe(wish) => {
                What::Stream(Streaming::begin(wish, id, key, shard, &self.shared)?)
            }
            Route::EventMesh(ask) => {
                return eventmesh::begin(ask, order, (id, key), shard, &self.shared);
            }
            Route::Settle(verdict) => {
                let limit = options.body_bytes_max as usize;
                let bytes = body::plain(order.body, &order.headers, limit)?;
                What::Settle(Settling::begin(&bytes, verdict, options.node, (id, key), shard)?)
            }
        })
    }

    /// Goes on with a request, and answers it if it is done.
    fn advance(&mut self, id: u64, shard: &mut Shard) {
        let Some(work) = self.works.get_mut(id) else { return };
        let now_us = shard.clock().mono_us;
        let response = match &mut work.what {
            What::Publish(publishing) => {
                if !publishing.give(id, self.key, shard) {
                    let room_us = micros(self.shared.options.room_timeout);
                    publishing.room_until_us.get_or_insert(now_us + room_us);
                    if !self.waiting.contains(&id) {
                        self.waiting.push_back(id);
                    }
                    return;
                }
                if !publishing.is_over() {
                    return;
                }
                match publishing.answer() {
                    Ok((status, body)) => answers::json(status, body, &work.caller),
                    Err(problem) => answers::problem(&problem, &work.caller),
                }
            }
            What::Poll(polling) => {
                if !polling.is_over(now_us) {
                    return;
                }
                polling.retire(id, self.key, shard);
                answers::json(StatusCode::OK, polling.answer(), &work.caller)
            }
            What::Settle(settling) => {
                if !settling.is_over() {
                    return;
                }
                match settling.answer() {
                    Ok(body) => answers::json(StatusCode::OK, body, &work.caller),
                    Err(problem) => answers::problem(&problem, &work.caller),
                }
            }
            What::Stream(streaming) => {
                if streaming.is_over() {
                    self.works.remove(id);
                }
                return;
            }
            What::Join(_) => return,
            What::Done(answer) => {
                answers::json(StatusCode::OK, std::mem::take(answer), &work.caller)
            }
        };
        self.works.remove(id);
        self.answer(id, response);
    }

    fn answer(&self, id: u64, response: http::Response<AnswerBody>) {
        self.desk.floor.borrow_mut().answer(id, response);
    }

    /// Ends what nobody waits for any more.
    fn forget_left(&mut self, shard: &mut Shard) {
        let left = self.desk.floor.borrow_mut().take_left();
        for id in left {
            let Some(mut work) = self.works.remove(id) else { continue };
            match &mut work.what {
                // What was given to the client before it went comes to others at once.
                What::Poll(polling) => polling.leave(id, self.key, shard),
                What::Join(joining) => joining.left(id, self.key, shard),
                What::Stream(streaming) => streaming.left(id, self.key, shard),
                // What was asked is done all the same; the answers find nobody.
                What::Publish(_) | What::Settle(_) | What::Done(_) => {}
            }
            self.waiting.retain(|waiting| *waiting != id);
        }
    }

    fn refill_streams(&mut self, shard: &mut Shard) {
        let mut over = Vec::new();
        for (id, work) in self.works.iter_mut() {
            if let What::Stream(streaming) = &mut work.what {
                streaming.refill(id, self.key, shard);
                over.extend(streaming.is_over().then_some(id));
            }
        }
        over.iter().for_each(|id| drop(self.works.remove(*id)));
    }

    /// What the shard says of a request.
    fn hear(&mut self, event: SessionEvent, shard: &mut Shard) {
        match event {
            SessionEvent::Published { request, partition, base_offset, ack, .. } => {
                self.on_published(request, Ok(Stored { partition, base_offset, ack }), shard);
            }
            SessionEvent::Refused { what: Asked::Publish, request, refusal } => {
                self.on_published(request, Err(refusal), shard);
            }
            SessionEvent::Refused { what: Asked::Subscribe, request, refusal } => {
                self.on_not_subscribed(parts_of(request), refusal, shard);
            }
            SessionEvent::Refused { what: Asked::Settle, request, .. } => {
                let (id, part) = parts_of(request);
                if let Some(Work { what: What::Settle(settling), .. }) = self.works.get_mut(id) {
                    settling.refused(part);
                    self.advance(id, shard);
                }
            }
            SessionEvent::Settled { request, events } => {
                let (id, part) = parts_of(request);
                if let Some(Work { what: What::Settle(settling), .. }) = self.works.get_mut(id) {
                    settling.settled(part, events);
                    self.advance(id, shard);
                }
            }
            SessionEvent::Subscribed { request } => self.on_subscribed(parts_of(request).0, shard),
            SessionEvent::Delivery(delivery) => self.on_delivery(delivery, shard),
            SessionEvent::Passed { request, gap } => {
                let (id, part) = parts_of(request);
                match self.works.get_mut(id).map(|work| &mut work.what) {
                    Some(What::Poll(polling)) => polling.passed(gap),
                    Some(What::Stream(streaming)) => streaming.passed(gap, part),
                    _ => {}
                }
            }
            SessionEvent::Room => {
                self.is_starved = false;
                for id in std::mem::take(&mut self.waiting) {
                    self.advance(id, shard);
                }
            }
            SessionEvent::Refused { what: Asked::Unsubscribe, .. }
            | SessionEvent::Unsubscribed { .. }
            | SessionEvent::CaughtUp { .. } => {}
            SessionEvent::Goodbye(_) => self.begin_drain(),
        }
    }

    fn on_published(&mut self, request: u64, outcome: Result<Stored, Refusal>, shard: &mut Shard) {
        let (id, part) = parts_of(request);
        if let Some(Work { what: What::Publish(publishing), .. }) = self.works.get_mut(id) {
            publishing.answered(part, outcome);
            if publishing.is_over() {
                self.advance(id, shard);
            }
        }
    }

    fn on_subscribed(&mut self, id: u64, shard: &mut Shard) {
        let Some(Work { caller, what }) = self.works.get_mut(id) else { return };
        let streaming = match what {
            What::Stream(streaming) => streaming,
            What::Join(joining) => {
                let body = joining.stands(id, self.key, shard);
                let response = answers::json(StatusCode::OK, body, caller);
                self.works.remove(id);
                return self.answer(id, response);
            }
            _ => return,
        };
        if !streaming.stands() {
            return;
        }
        let floor = self.desk.floor.clone();
        let body = AnswerBody::stream(streaming.channel.clone(), floor, id);
        let response = answers::events(body, caller);
        self.answer(id, response);
    }

    fn on_not_subscribed(&mut self, (id, part): (u64, usize), refusal: Refusal, shard: &mut Shard) {
        let Some(work) = self.works.get_mut(id) else { return };
        let result = match &mut work.what {
            What::Poll(polling) => polling.refused(refusal, (id, part), self.key, shard),
            What::Join(joining) => {
                joining.refused(&self.shared);
                Err(refusal)
            }
            What::Stream(streaming) if streaming.is_open() => {
                return streaming.end_with(&refusal, id, self.key, shard);
            }
            What::Stream(streaming) => streaming.refused(refusal, (id, part), self.key, shard),
            What::Publish(_) | What::Settle(_) | What::Done(_) => return,
        };
        if let Err(refusal) = result {
            let response = answers::problem(&refusal.into(), &work.caller);
            match self.works.remove(id).map(|work| work.what) {
                Some(What::Poll(mut polling)) => polling.leave(id, self.key, shard),
                Some(What::Stream(mut streaming)) => streaming.left(id, self.key, shard),
                _ => {}
            }
            self.answer(id, response);
        }
    }

    fn on_delivery(&mut self, delivery: Delivery, shard: &mut Shard) {
        let (id, part) = parts_of(delivery.subscription);
        match self.works.get_mut(id).map(|work| &mut work.what) {
            Some(What::Poll(polling)) => {
                polling.take(&delivery, id, self.key, shard);
                self.advance(id, shard);
            }
            Some(What::Stream(streaming)) if !streaming.is_over() => streaming.take(delivery, part),
            // It came as its request was answered: it goes to another.
            _ => {
                hand_back(&delivery.token, delivery.selection, self.key, shard);
            }
        }
    }

    /// Remembers since when what is awaited.
    fn note_time(&mut self, served_before: u64, now_us: u64) {
        let has_served = self.desk.floor.borrow().served() != served_before;
        let is_open = self.desk.open.get() > 0;
        if is_open || has_served {
            self.head_since_us = None;
            self.rest_since_us = now_us;
        }
    }

    /// Tells the shard how much is kept of what the peer has sent, and asks for room for the rest.
    fn count_input(&mut self, shard: &mut Shard) {
        let (has, whole) = self.desk.floor.borrow().gathering_bytes();
        let is_gathering = whole > 0;
        let waiting = self.waiting.iter().filter_map(|id| match &self.works.get(*id)?.what {
            What::Publish(publishing) => Some(publishing.waiting_bytes()),
            _ => None,
        });
        let kept = self.pipe.input_len() + waiting.sum::<usize>();
        let (has, whole) = (kept + has, kept + whole.max(has));
        if whole as u64 <= INPUT_FREE_BYTES {
            if self.counted != (0, 0) {
                shard.keep_input(self.key, 0);
            }
            (self.counted, self.is_starved) = ((0, 0), false);
        } else if self.counted != (has, whole) || self.is_starved {
            self.counted = (has, whole);
            self.is_starved =
                is_gathering && !shard.admit_frame(self.key, has as u64, whole as u64);
            if !is_gathering {
                shard.keep_input(self.key, has as u64);
            }
        }
    }

    /// Ends waits that are over.
    fn end_waits(&mut self, shard: &mut Shard) {
        let now_us = shard.clock().mono_us;
        let mut due = Vec::new();
        for (id, work) in self.works.iter_mut() {
            match &mut work.what {
                What::Publish(publishing)
                    if publishing.room_until_us.is_some_and(|until| until <= now_us) =>
                {
                    publishing.room_until_us = None;
                    publishing.give_up();
                    due.push(id);
                }
                What::Poll(polling) if polling.is_over(now_us) => due.push(id),
                _ => {}
            }
        }
        for id in due {
            self.waiting.retain(|waiting| *waiting != id);
            self.advance(id, shard);
        }
    }

    /// Why the connection is to be closed, if a peer has taken too long to ask.
    fn timed_out(&self, now_us: u64) -> Option<Problem> {
        if self.desk.open.get() > 0 {
            return None;
        }
        let options = &self.shared.options;
        let over =
            |since_us: u64, limit: Duration| now_us.saturating_sub(since_us) >= micros(limit);
        let problem = |what: &str, limit: Duration| {
            let detail = format!("{what} for {} ms", limit.as_millis());
            Some(Problem::new(Code::IdleTimeout, detail))
        };
        match self.head_since_us {
            Some(since_us) if over(since_us, options.header_timeout) => {
                problem("no whole request came", options.header_timeout)
            }
            None if over(self.rest_since_us, options.idle_timeout) => {
                problem("nothing was asked", options.idle_timeout)
            }
            _ => None,
        }
    }

    fn begin_drain(&mut self) {
        self.is_draining = true;
        self.engine.begin_shutdown();
        for (_, work) in self.works.iter_mut() {
            if let What::Stream(streaming) = &mut work.what {
                streaming.drain();
            }
        }
    }

    /// Gives back what an idle connection does not need.
    fn rest(&mut self) {
        let is_idle = self.desk.open.get() == 0 && self.works.is_empty();
        if is_idle && self.pipe.input_len() == 0 && self.head_since_us.is_none() {
            if self.engine.is_http1() {
                self.engine.rest(&self.pipe);
            }
            self.pipe.trim();
            self.works.trim();
            self.desk.floor.borrow_mut().trim();
            if self.waiting.is_empty() {
                self.waiting = VecDeque::new();
            }
        }
    }
}

impl Session for HttpSession {
    fn on_bytes(&mut self, bytes: &[u8], shard: &mut Shard, out: &mut Outbound) -> Feed {
        self.pipe.put(bytes);
        if self.desk.open.get() == 0 {
            self.head_since_us.get_or_insert(shard.clock().mono_us);
        }
        self.drive(shard, out)
    }

    fn on_event(&mut self, event: SessionEvent, shard: &mut Shard, out: &mut Outbound) -> Feed {
        self.hear(event, shard);
        self.drive(shard, out)
    }

    fn on_time(&mut self, now: Now, shard: &mut Shard, out: &mut Outbound) -> Feed {
        if self.is_closed {
            return Feed::Close;
        }
        let body_us = micros(self.shared.options.body_timeout);
        self.desk.floor.borrow_mut().give_up_slow(now.mono_us.saturating_sub(body_us));
        let (key, shared) = (self.key, self.shared.clone());
        for (id, work) in self.works.iter_mut() {
            if let What::Stream(streaming) = &mut work.what {
                streaming.look_at_clock(id, key, shard, &shared);
            }
        }
        self.end_waits(shard);
        let feed = self.drive(shard, out);
        if feed == Feed::Close {
            return feed;
        }
        if let Some(problem) = self.timed_out(now.mono_us) {
            if self.engine.is_http2() {
                self.engine.begin_shutdown();
                self.poll_engine(out);
            } else if self.head_since_us.is_some() {
                out.bytes().extend_from_slice(&last_words(&problem));
            }
            self.is_closed = true;
            return Feed::Close;
        }
        self.rest();
        feed
    }

    fn deadline_us(&self) -> Option<u64> {
        if self.is_closed {
            return None;
        }
        if self.is_restless {
            return Some(0);
        }
        let waits = self.works.iter().filter_map(|(_, work)| match &work.what {
            What::Publish(publishing) => publishing.room_until_us,
            What::Poll(polling) => Some(polling.until_us),
            What::Stream(_) | What::Settle(_) | What::Join(_) | What::Done(_) => None,
        });
        waits.min()
    }

    fn on_deadline(&mut self, _now: Now, shard: &mut Shard, out: &mut Outbound) -> Feed {
        self.end_waits(shard);
        self.drive(shard, out)
    }

    fn on_sent(&mut self, shard: &mut Shard, out: &mut Outbound) -> Option<Feed> {
        Some(self.drive(shard, out))
    }

    fn on_drain(&mut self, out: &mut Outbound) {
        self.begin_drain();
        if !self.is_closed && self.poll_engine(out) == Progress::Over {
            self.is_closed = true;
        }
    }

    fn memory_bytes(&self) -> usize {
        let works = self.works.iter().map(|(_, work)| match &work.what {
            What::Publish(publishing) => publishing.waiting_bytes(),
            What::Poll(polling) => polling.memory_bytes(),
            What::Stream(streaming) => streaming.memory_bytes(),
            What::Settle(_) | What::Join(_) | What::Done(_) => 0,
        });
        let gathered = self.desk.floor.borrow().gathering_bytes().0;
        self.pipe.memory_bytes() + self.engine.memory_bytes() + gathered + works.sum::<usize>()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
