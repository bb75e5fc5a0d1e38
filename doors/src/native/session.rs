//! One connection of the native protocol: a state machine from bytes to requests, and from the shard's events to bytes.
//!
//! Lives on the core of its shard. Invariants: whole frames are taken straight from the runtime's scratch buffer, and
//! only a partial frame is kept (`input`), with what follows it while the shard has no room; a large publish is received
//! where it is to stay (`landing`) as soon as its length is known; every publish that was taken stands in `window` until
//! it is answered; nothing a peer sends can make this code panic.

mod feeding;

use std::sync::Arc;
use std::time::Duration;

use codec::batch::Batch;
use codec::frame::{
    self, Acked, DeliveryHead, FEATURE_REJECT, FEATURE_SEQUENCES, Frame, GoodbyeFrame, Hello, Kind,
    RefusalFrame, Settlements, Subscribe, TopicFrame, WireVerdict,
};
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::TopicId;
use codec::refusal::{Code, Refusal};
use dataplane::kernel::Now;
use dataplane::options::CREDIT_MAX;
use dataplane::outbound::Outbound;
use dataplane::selection::{Bitmap, Selection};
use dataplane::session::{
    Admission, Asked, Delivery, Feed, Landing, Session, SessionEvent, SessionKey, TopicHandle,
    Verdict,
};
use dataplane::shard::Shard;

use super::port::Port;
use super::topics::{ClientTopics, ServerTopics};
use super::window::{Unanswered, Window};
use super::{NativeOptions, checks};

/// How far the conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Only hello is understood.
    Hello,
    /// Everything goes.
    Open,
    /// The client has said goodbye; its publishes are still answered.
    Leaving,
    /// The connection closes; nothing is read any more.
    Closed,
}

/// What became of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is dealt with.
    Taken,
    /// The shard has no room: the same frame again later.
    NoRoom,
    /// The connection closes.
    Close,
}

/// One connection.
#[derive(Debug)]
pub(super) struct NativeSession {
    key: SessionKey,
    options: Arc<NativeOptions>,
    phase: Phase,
    /// The server's goodbye has been sent.
    said_goodbye: bool,
    /// The shard had no room; `input` starts with the publish it did not take.
    paused: bool,
    /// The publish in `landing` or else at the start of `input` has been checked and need not be again.
    head_checked: bool,
    /// Something came since the last look at the clock.
    heard: bool,
    /// A partial frame; while paused also what follows it.
    input: Vec<u8>,
    /// A large publish that is not whole yet, or has found no room; it comes before `input`.
    landing: Option<Landing>,
    /// Whether the shard counts bytes of `input` and `landing`.
    input_counted: bool,
    window: Window,
    client_topics: ClientTopics,
    server_topics: ServerTopics,
    /// Start and end, in the outbound bytes, of a published frame to which acks can still be added.
    acks: Option<(usize, usize)>,
    opened_us: u64,
    heard_us: u64,
    /// When the server's goodbye was first seen on the clock.
    goodbye_us: Option<u64>,
}

impl NativeSession {
    pub(super) fn new(key: SessionKey, options: Arc<NativeOptions>, now: Now) -> Self {
        NativeSession {
            key,
            options,
            phase: Phase::Hello,
            said_goodbye: false,
            paused: false,
            head_checked: false,
            heard: false,
            input: Vec::new(),
            landing: None,
            input_counted: false,
            window: Window::default(),
            client_topics: ClientTopics::default(),
            server_topics: ServerTopics::default(),
            acks: None,
            opened_us: now.mono_us,
            heard_us: now.mono_us,
            goodbye_us: None,
        }
    }

    /// Bytes from the peer.
    pub(super) fn read(&mut self, bytes: &[u8], shard: &mut impl Port, out: &mut Outbound) -> Feed {
        self.heard = true;
        self.unless_closed(out, |session, out| session.feed_counted(bytes, shard, out))
    }

    /// Something the shard says.
    pub(super) fn hear(
        &mut self,
        event: SessionEvent,
        shard: &mut impl Port,
        out: &mut Outbound,
    ) -> Feed {
        self.unless_closed(out, |session, out| {
            match event {
                SessionEvent::Published { request, partition, base_offset, count, ack } => {
                    let Unanswered { request, topic } = session.window.answered(request);
                    let acked = Acked { request, topic, partition, base_offset, count, level: ack };
                    session.on_published(&acked, out);
                    session.leave_when_answered(out);
                }
                SessionEvent::Refused { what, request, refusal } => {
                    session.on_refused(what, request, &refusal, out);
                    session.leave_when_answered(out);
                }
                SessionEvent::Subscribed { request } => {
                    frame::encode_plain(Kind::Subscribed, request, &[], session.writing(out));
                }
                SessionEvent::Unsubscribed { request } => {
                    frame::encode_plain(Kind::Unsubscribed, request, &[], session.writing(out));
                }
                SessionEvent::Delivery(delivery) => session.on_delivery(delivery, out),
                SessionEvent::CaughtUp { request } => {
                    frame::encode_caught_up(request, session.writing(out));
                }
                // Who starts at a time is not told that something stood there before: nobody knows of what time it was.
                SessionEvent::Passed { gap, .. } if gap.begins_unknown() => {}
                SessionEvent::Passed { request, gap } => {
                    frame::encode_gap(request, gap.events, session.writing(out));
                }
                // Only a settle that asks for an answer gets this one, and none here does.
                SessionEvent::Settled { .. } => {}
                SessionEvent::Room => {
                    session.paused = false;
                    return session.feed_counted(&[], shard, out);
                }
                SessionEvent::Goodbye(refusal) => {
                    session.say_goodbye(refusal.code.number(), &refusal.text, out);
                }
            }
            session.feed_now()
        })
    }

    /// Time-outs, and memory that is not needed any more.
    pub(super) fn look_at_clock(
        &mut self,
        now: Now,
        shard: &impl Port,
        out: &mut Outbound,
    ) -> Feed {
        self.unless_closed(out, |session, out| {
            if let Some(refusal) = session.timed_out(now.mono_us, shard.input_is_wanted()) {
                session.fail(0, 0, &refusal, out);
                return Feed::Close;
            }
            if session.said_goodbye {
                let since = *session.goodbye_us.get_or_insert(now.mono_us);
                let waited = u128::from(now.mono_us.saturating_sub(since));
                if waited >= session.options.goodbye_timeout.as_micros() {
                    session.phase = Phase::Closed;
                    return Feed::Close;
                }
            }
            if session.input.is_empty() {
                session.input = Vec::new();
            }
            session.window.trim();
            session.feed_now()
        })
    }

    /// Bytes of memory beyond the session's own size.
    pub(super) fn held_bytes(&self) -> usize {
        self.input.capacity()
            + self.landing.as_ref().map_or(0, Landing::memory_bytes)
            + self.window.memory_bytes()
            + self.client_topics.memory_bytes()
            + self.server_topics.memory_bytes()
    }

    fn on_frame(
        &mut self,
        request: u64,
        frame: Frame<'_>,
        shard: &mut impl Port,
        out: &mut Outbound,
    ) -> Step {
        if let (Phase::Leaving, Some(kind)) = (self.phase, new_work(&frame)) {
            let refusal = Refusal::new(Code::MalformedFrame, "nothing new may follow goodbye");
            return self.fail(request, kind.number(), &refusal, out);
        }
        match frame {
            Frame::Hello(hello) => return self.on_hello(&hello, shard, out),
            Frame::Topic(topic) => {
                let max = self.options.topics_max;
                if let Err(refusal) = self.client_topics.announced(topic.id, topic.name, max) {
                    self.refuse(request, Kind::Topic.number(), &refusal, out);
                }
            }
            Frame::Publish(batch) => return self.on_publish(request, batch, shard, out),
            Frame::Subscribe(subscribe) => {
                if let Err(refusal) = self.on_subscribe(request, &subscribe, shard) {
                    self.refuse(request, Kind::Subscribe.number(), &refusal, out);
                }
            }
            // The shard's answer would be taken for that to a publish.
            Frame::Unsubscribe { .. } if Window::is_publish(request) => {
                let refusal = Code::UnknownSubscription.into();
                self.refuse(request, Kind::Unsubscribe.number(), &refusal, out);
            }
            Frame::Unsubscribe { end } => shard.unsubscribe(self.key, request, end),
            Frame::Settle(settlements) => self.on_settle(request, settlements, shard, out),
            Frame::Credit { events } if events > CREDIT_MAX => {
                let refusal = Refusal::limit("credit", CREDIT_MAX.into(), events.into());
                self.refuse(request, Kind::Credit.number(), &refusal, out);
            }
            Frame::Credit { events } => shard.set_credit(self.key, request, events),
            Frame::Ping(bytes) => {
                frame::encode_plain(Kind::Pong, request, bytes, self.writing(out));
            }
            Frame::Goodbye(_) => {
                self.phase = Phase::Leaving;
                return self.leave_when_answered(out);
            }
            Frame::Pong(_) | Frame::Skipped => {}
            Frame::Welcome(_)
            | Frame::Published(_)
            | Frame::Subscribed
            | Frame::Unsubscribed
            | Frame::CaughtUp
            | Frame::Gap { .. }
            | Frame::Delivery(_)
            | Frame::Refusal(_) => {
                let refusal = Refusal::new(Code::MalformedFrame, "only a server sends this kind");
                return self.fail(request, 0, &refusal, out);
            }
        }
        Step::Taken
    }

    fn on_hello(&mut self, hello: &Hello<'_>, shard: &mut impl Port, out: &mut Outbound) -> Step {
        let refusal = match checks::check_hello(hello) {
            _ if self.phase != Phase::Hello => {
                Refusal::new(Code::MalformedFrame, "hello was said before")
            }
            Err(refusal) => refusal,
            Ok(()) => {
                self.phase = Phase::Open;
                shard.identify(self.key, hello.client_id.into());
                let mut welcome = self.options.welcome();
                welcome.features = hello.features & (FEATURE_SEQUENCES | FEATURE_REJECT);
                if welcome.features & FEATURE_SEQUENCES != 0 {
                    welcome.partition = shard.partition(self.key).0;
                }
                welcome.encode(self.writing(out));
                return Step::Taken;
            }
        };
        self.fail(0, Kind::Hello.number(), &refusal, out)
    }

    fn on_publish(
        &mut self,
        request: u64,
        bytes: &[u8],
        shard: &mut impl Port,
        out: &mut Outbound,
    ) -> Step {
        let batch = match self.checked_publish(request, bytes, out) {
            Ok(batch) => batch,
            Err(step) => return step,
        };
        self.publish(request, batch.header.topic, out, |key, number, topic| {
            shard.publish(key, number, topic, &batch)
        })
    }

    /// A publish that the window and the batch itself allow; else what became of it.
    fn checked_publish<'b>(
        &mut self,
        request: u64,
        bytes: &'b [u8],
        out: &mut Outbound,
    ) -> Result<Batch<'b>, Step> {
        let limit = self.options.window_batches_max;
        if self.window.len() >= limit as usize {
            let text = format!("{} publishes wait for an answer, at most {limit} may", limit + 1);
            let refusal = Refusal::new(Code::OutOfWindow, text);
            return Err(self.fail(request, Kind::Publish.number(), &refusal, out));
        }
        let checked = std::mem::take(&mut self.head_checked);
        self.check_batch(bytes, checked).map_err(|refusal| {
            self.refuse(request, Kind::Publish.number(), &refusal, out);
            Step::Taken
        })
    }

    /// Puts a publish into the window and gives it to the shard, which `give` does with the number that it has there.
    fn publish(
        &mut self,
        request: u64,
        topic: TopicId,
        out: &mut Outbound,
        give: impl FnOnce(SessionKey, u64, &TopicHandle) -> Result<Admission, Refusal>,
    ) -> Step {
        let number = self.window.opened(Unanswered { request, topic });
        let topic = self.client_topics.get(topic).expect("it was checked");
        let admission = give(self.key, number, topic);
        if !matches!(admission, Ok(Admission::Taken)) {
            self.window.answered(number);
        }
        match admission {
            Ok(Admission::Taken) => {}
            Ok(Admission::NoRoom) => {
                self.head_checked = true;
                return Step::NoRoom;
            }
            Err(refusal) => self.refuse(request, Kind::Publish.number(), &refusal, out),
        }
        Step::Taken
    }

    /// Everything about a batch that needs no shard. `checked`: its body has been looked at before.
    fn check_batch<'a>(&self, bytes: &'a [u8], checked: bool) -> Result<Batch<'a>, Refusal> {
        let batch = checks::batch_of(bytes, &self.options)?;
        if self.client_topics.get(batch.header.topic).is_none() {
            let text = format!("topic number {} was not announced", batch.header.topic);
            return Err(Refusal::new(Code::UnknownTopic, text));
        }
        if !checked {
            checks::check_body(&batch, &self.options)?;
        }
        Ok(batch)
    }

    fn on_subscribe(
        &mut self,
        request: u64,
        wish: &Subscribe<'_>,
        shard: &mut impl Port,
    ) -> Result<(), Refusal> {
        let wish = checks::subscribe_of(request, wish, &self.options)?;
        shard.subscribe(self.key, wish)
    }

    /// An entry that is refused does not keep the others from holding.
    fn on_settle(
        &mut self,
        request: u64,
        settlements: Settlements<'_>,
        shard: &mut impl Port,
        out: &mut Outbound,
    ) {
        for settlement in settlements {
            let selection = settlement.bitmap.map_or(Some(Selection::All), |bytes| {
                // The shard knows from the token how many events there are, and refuses bits beyond them.
                Bitmap::from_bytes(bytes, 8 * bytes.len() as u32).map(Selection::Some)
            });
            let verdict = match settlement.verdict {
                WireVerdict::Done => Verdict::Done,
                WireVerdict::Retry => Verdict::Retry,
                WireVerdict::Reject => Verdict::Reject,
            };
            let result = match selection {
                Some(selection) => {
                    shard.settle(self.key, request, settlement.token, selection, verdict)
                }
                None => Err(Refusal::new(Code::MalformedFrame, "the bitmap is malformed")),
            };
            if let Err(refusal) = result {
                self.refuse(request, Kind::Settle.number(), &refusal, out);
            }
        }
    }

    fn on_published(&mut self, acked: &Acked, out: &mut Outbound) {
        let bytes = out.bytes();
        let extended = match self.acks {
            Some((at, end)) if end == bytes.len() => acked.extend(at, bytes).then_some(at),
            _ => None,
        };
        let at = extended.unwrap_or_else(|| {
            let at = bytes.len();
            acked.encode(bytes);
            at
        });
        self.acks = Some((at, bytes.len()));
    }

    fn on_delivery(&mut self, delivery: Delivery, out: &mut Outbound) {
        let (topic, announce) = self.server_topics.number(&delivery.topic, self.options.topics_max);
        let bytes = self.writing(out);
        if announce {
            TopicFrame { id: topic, name: &delivery.topic }.encode(bytes);
        }
        let header = BatchHeader { topic, ..delivery.batch.header };
        let body = delivery.batch.body;
        let mut bitmap_bytes = Vec::new();
        let bitmap = match &delivery.selection {
            Selection::All => None,
            Selection::Some(bitmap) => {
                bitmap.write_to(header.count, &mut bitmap_bytes);
                Some(bitmap_bytes.as_slice())
            }
        };
        let head = DeliveryHead { attempt: delivery.attempt, token: &delivery.token.0, bitmap };
        head.encode(delivery.subscription, HEADER_BYTES + body.len(), bytes);
        bytes.extend_from_slice(&header.encode(HeaderSeed::WIRE));
        out.share(body);
    }

    fn on_refused(&mut self, what: Asked, number: u64, refusal: &Refusal, out: &mut Outbound) {
        let (request, kind) = match what {
            Asked::Publish => (self.window.answered(number).request, Kind::Publish),
            Asked::Subscribe => (number, Kind::Subscribe),
            Asked::Unsubscribe => (number, Kind::Unsubscribe),
            Asked::Settle => (number, Kind::Settle),
        };
        self.refuse(request, kind.number(), refusal, out);
    }

    /// The client has said goodbye: the connection closes when its last publish is answered.
    fn leave_when_answered(&mut self, out: &mut Outbound) -> Step {
        if self.phase != Phase::Leaving || self.window.len() > 0 {
            return Step::Taken;
        }
        self.say_goodbye(0, "", out);
        self.phase = Phase::Closed;
        Step::Close
    }

    fn say_goodbye(&mut self, code: u16, text: &str, out: &mut Outbound) {
        if !self.said_goodbye {
            self.said_goodbye = true;
            GoodbyeFrame { code, text }.encode(self.writing(out));
        }
    }

    /// The outbound bytes, for anything but acks: what is written next ends the frame that acks are added to.
    fn writing<'o>(&mut self, out: &'o mut Outbound) -> &'o mut Vec<u8> {
        self.acks = None;
        out.bytes()
    }

    fn refuse(&mut self, request: u64, kind: u8, refusal: &Refusal, out: &mut Outbound) {
        tracing::debug!(%refusal, kind, request, "refused");
        RefusalFrame::new(refusal, kind, false).encode(request, self.writing(out));
    }

    fn fail(&mut self, request: u64, kind: u8, refusal: &Refusal, out: &mut Outbound) -> Step {
        tracing::debug!(%refusal, kind, request, "refused, closing");
        RefusalFrame::new(refusal, kind, true).encode(request, self.writing(out));
        self.phase = Phase::Closed;
        self.input = Vec::new();
        self.landing = None;
        Step::Close
    }

    /// Runs `work` unless the connection closes already.
    fn unless_closed(
        &mut self,
        out: &mut Outbound,
        work: impl FnOnce(&mut Self, &mut Outbound) -> Feed,
    ) -> Feed {
        if self.phase == Phase::Closed {
            return Feed::Close;
        }
        work(self, out)
    }

    fn feed_now(&self) -> Feed {
        match (self.phase, self.paused) {
            (Phase::Closed, _) => Feed::Close,
            (_, true) => Feed::Paused,
            (_, false) => Feed::More,
        }
    }

    /// The refusal of a connection that has been silent or without hello for too long. Who takes too little is the
    /// runtime's affair: it sees the socket.
    fn timed_out(&mut self, now_us: u64, input_is_wanted: bool) -> Option<Refusal> {
        if std::mem::take(&mut self.heard) || self.paused {
            // A session that waits for room does not read, so its silence is ours.
            self.heard_us = now_us;
        }
        let over = |since: u64, limit: Duration| {
            u128::from(now_us.saturating_sub(since)) >= limit.as_micros()
        };
        let refusal = |code, what: &str, limit: Duration| {
            Some(Refusal::new(code, format!("{what} for {} ms", limit.as_millis())))
        };
        let options = &self.options;
        if self.phase == Phase::Hello && over(self.opened_us, options.hello_timeout) {
            return refusal(Code::HelloTimeout, "no hello", options.hello_timeout);
        }
        // Others wait for the memory that its frame was promised.
        let is_stuck = self.input_counted && over(self.heard_us, options.hello_timeout);
        if is_stuck && input_is_wanted {
            return refusal(Code::IdleTimeout, "nothing came of a frame", options.hello_timeout);
        }
        if over(self.heard_us, options.idle_timeout) {
            return refusal(Code::IdleTimeout, "nothing came", options.idle_timeout);
        }
        None
    }
}

impl Session for NativeSession {
    fn on_bytes(&mut self, bytes: &[u8], shard: &mut Shard, out: &mut Outbound) -> Feed {
        self.read(bytes, shard, out)
    }

    fn place(&mut self) -> Option<&mut [u8]> {
        self.place()
    }

    fn on_placed(&mut self, bytes: usize, shard: &mut Shard, out: &mut Outbound) -> Feed {
        self.placed(bytes, shard, out)
    }

    fn on_event(&mut self, event: SessionEvent, shard: &mut Shard, out: &mut Outbound) -> Feed {
        self.hear(event, shard, out)
    }

    fn on_time(&mut self, now: Now, shard: &mut Shard, out: &mut Outbound) -> Feed {
        self.look_at_clock(now, shard, out)
    }

    fn on_drain(&mut self, out: &mut Outbound) {
        let code = Code::ShuttingDown.number();
        // The runtime goes on with this session as before; only what is new is refused.
        let _ = self.unless_closed(out, |session, out| {
            session.say_goodbye(code, "the server is shutting down", out);
            session.feed_now()
        });
    }

    fn memory_bytes(&self) -> usize {
        self.held_bytes()
    }
}

/// The kind of a frame that asks for something new, which may not follow goodbye.
fn new_work(frame: &Frame<'_>) -> Option<Kind> {
    Some(match frame {
        Frame::Topic(_) => Kind::Topic,
        Frame::Publish(_) => Kind::Publish,
        Frame::Subscribe(_) => Kind::Subscribe,
        _ => return None,
    })
}
