//! The session against a shard that does exactly what a test tells it to.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use codec::ack::AckLevel;
use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::frame::{
    self, Frame, GoodbyeFrame, Hello, Kind, Parsed, Settlement, Subscribe, TopicFrame, WireMode,
    WireStart, WireVerdict, encode_plain,
};
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};
use codec::refusal::{Code, Refusal};
use dataplane::kernel::Now;
use dataplane::outbound::Outbound;
use dataplane::selection::{Bitmap, Selection};
use dataplane::session::{
    Admission, Asked, Delivery, Feed, Gap, Landing, SessionEvent, SessionKey, SubscribeRequest,
    TopicHandle, Verdict,
};
use dataplane::token::{TOKEN_BYTES, Token};
use log::batch::StoredBatch;
use log::disk::LogKey;

use super::NativeOptions;
use super::port::Port;
use super::session::NativeSession;

const KEY: SessionKey = SessionKey { slot: 3, life: 1 };

/// Notes what it is asked, and answers as it is told.
#[derive(Debug, Default)]
struct Recorder {
    calls: Vec<String>,
    /// The shard's numbers of publishes that were taken, with their data.
    taken: Vec<(u64, Vec<u8>)>,
    /// Answers to the next publishes; then all are taken.
    answers: VecDeque<Result<Admission, Refusal>>,
    /// Whether no frame that is not whole may grow.
    is_full: bool,
    /// Frames that were not whole: bytes there are, and in all.
    frames: Vec<(u64, u64)>,
    /// How often a publish was offered that was received into a place of its own.
    landed: u32,
}

impl Port for Recorder {
    fn identify(&mut self, _: SessionKey, client: Arc<str>) {
        self.calls.push(format!("identify {client}"));
    }

    fn partition(&self, _: SessionKey) -> Partition {
        Partition(17)
    }

    fn publish(
        &mut self,
        _: SessionKey,
        request: u64,
        topic: &TopicHandle,
        batch: &Batch<'_>,
    ) -> Result<Admission, Refusal> {
        let answer = self.answers.pop_front().unwrap_or(Ok(Admission::Taken));
        if let Ok(Admission::Taken) = answer {
            let data = batch.check().unwrap().event(0).unwrap().data().to_vec();
            self.calls.push(format!(
                "publish {} {} {data:?}",
                topic.name(),
                batch.header.partition
            ));
            self.taken.push((request, data));
        }
        answer
    }

    fn landing(&self, lead: usize, len: usize) -> Landing {
        Landing::detached(lead, len)
    }

    fn publish_landed(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &TopicHandle,
        header: &BatchHeader,
        landing: &mut Option<Landing>,
    ) -> Result<Admission, Refusal> {
        let landed = landing.as_ref().expect("there is one");
        let batch = Batch { header: *header, body: landed.body() };
        self.landed += 1;
        let answer = self.publish(key, request, topic, &batch);
        if let Ok(Admission::Taken) = answer {
            *landing = None;
        }
        answer
    }

    fn subscribe(&mut self, _: SessionKey, wish: SubscribeRequest) -> Result<(), Refusal> {
        self.calls.push(format!("{wish:?}"));
        Ok(())
    }

    fn unsubscribe(&mut self, _: SessionKey, subscription: u64, end: bool) {
        self.calls.push(format!("unsubscribe {subscription} {end}"));
    }

    fn settle(
        &mut self,
        _: SessionKey,
        _: u64,
        token: &[u8],
        selection: Selection,
        verdict: Verdict,
    ) -> Result<(), Refusal> {
        self.calls.push(format!("settle {token:?} {selection:?} {verdict:?}"));
        if token[0] == 0xff { Err(Code::MalformedToken.into()) } else { Ok(()) }
    }

    fn set_credit(&mut self, _: SessionKey, subscription: u64, events: u32) {
        self.calls.push(format!("credit {subscription} {events}"));
    }

    fn admit_frame(&mut self, _: SessionKey, has: u64, whole: u64) -> bool {
        self.frames.push((has, whole));
        !self.is_full
    }

    fn keep_input(&mut self, _: SessionKey, _: u64) {}

    fn input_is_wanted(&self) -> bool {
        self.is_full
    }
}

struct Rig {
    session: NativeSession,
    shard: Recorder,
    out: Outbound,
}

fn at(time: Duration) -> Now {
    Now { wall: Timestamp(0), mono_us: time.as_micros() as u64 }
}

fn bytes_of(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn hello() -> Vec<u8> {
    bytes_of(|out| Hello::new("car-7").encode(out))
}

fn topic(id: u32, name: &str) -> Vec<u8> {
    bytes_of(|out| TopicFrame { id: TopicId(id), name }.encode(out))
}

fn batch(topic: u32, partition: Partition, data: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(&mut [
        (Key::Source, Value::UriReference("/s")),
        (Key::Type, Value::String("t")),
    ])
    .unwrap();
    builder.push(&mut [], DataKind::Binary, data).unwrap();
    builder.finish(TopicId(topic), partition)
}

fn publish(request: u64, data: &[u8]) -> Vec<u8> {
    let batch = batch(1, Partition::ANY, data);
    bytes_of(|out| encode_plain(Kind::Publish, request, &batch, out))
}

impl Rig {
    fn new(options: NativeOptions) -> Self {
        let session = NativeSession::new(KEY, Arc::new(options), at(Duration::ZERO));
        Rig { session, shard: Recorder::default(), out: Outbound::default() }
    }

    /// Past hello, with topic 1 announced and the welcome taken away.
    fn open(options: NativeOptions) -> Self {
        let mut rig = Rig::new(options);
        assert_eq!(rig.read(&[hello(), topic(1, "a/b")].concat()), Feed::More);
        rig.sent();
        rig.shard.calls.clear();
        rig
    }

    fn read(&mut self, bytes: &[u8]) -> Feed {
        self.session.read(bytes, &mut self.shard, &mut self.out)
    }

    fn hear(&mut self, event: SessionEvent) -> Feed {
        self.session.hear(event, &mut self.shard, &mut self.out)
    }

    fn clock(&mut self, time: Duration) -> Feed {
        self.session.look_at_clock(at(time), &self.shard, &mut self.out)
    }

    fn acked(&mut self, taken: usize, offset: u64) -> Feed {
        let request = self.shard.taken[taken].0;
        let (partition, base_offset) = (Partition(5), Offset(offset));
        let ack = AckLevel::Durable;
        self.hear(SessionEvent::Published { request, partition, base_offset, count: 1, ack })
    }

    /// Everything outbound, which leaves.
    fn sent(&mut self) -> Vec<u8> {
        let mut sent = Vec::new();
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = self.out.fill(&mut slices);
            let part: Vec<u8> = slices[..filled].iter().flat_map(|s| s.iter().copied()).collect();
            self.out.advance(part.len());
            sent.extend(part);
        }
        sent
    }

    /// The one refusal that was sent: its code, its request, and whether the connection closes.
    fn refusal(&mut self) -> (u16, u64, bool) {
        let sent = self.sent();
        match frames(&sent)[..] {
            [(request, Frame::Refusal(refusal))] => (refusal.code, request, refusal.closes),
            ref other => panic!("not one refusal: {other:?}"),
        }
    }
}

fn frames(mut bytes: &[u8]) -> Vec<(u64, Frame<'_>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let Ok(Parsed::Frame { request, frame, consumed }) = frame::parse(bytes) else {
            panic!("the server sends whole frames: {bytes:?}")
        };
        frames.push((request, frame));
        bytes = &bytes[consumed..];
    }
    frames
}

fn subscribe_frame() -> Vec<u8> {
    let (group, filter, mode) = (Some("billing"), "a/#", WireMode::Clustering);
    let wish = Subscribe { group, filter, mode, start: WireStart::Earliest, credit: 9 };
    bytes_of(|out| wish.encode(7, out))
}

/// One of everything that a client sends.
fn conversation() -> Vec<u8> {
    let settlement =
        Settlement { verdict: WireVerdict::Retry, token: &[1, 2], bitmap: Some(&[0b101]) };
    let entries = bytes_of(|out| settlement.encode_entry(out));
    [
        hello(),
        topic(1, "a/b"),
        publish(42, b"one"),
        subscribe_frame(),
        publish(42, &[7; 5_000]),
        bytes_of(|out| frame::encode_settle(8, &entries, out)),
        bytes_of(|out| frame::encode_credit(7, 99, out)),
        bytes_of(|out| encode_plain(Kind::Ping, 5, b"ping", out)),
        bytes_of(|out| frame::encode_unsubscribe(7, false, out)),
        publish(44, b"three"),
    ]
    .concat()
}

/// A peer's packets never respect our frame borders: wherever they are cut, the shard must be asked the same things, once
/// and in the same order, and the peer must be told the same.
#[test]
fn every_cut_means_the_same() {
    let bytes = conversation();
    let mut whole = Rig::new(NativeOptions::default());
    assert_eq!(whole.read(&bytes), Feed::More);
    let (calls, sent) = (whole.shard.calls.clone(), whole.sent());
    assert_eq!(calls.len(), 8, "{calls:?}");
    for cut in 1..bytes.len() {
        let mut rig = Rig::new(NativeOptions::default());
        assert_eq!(rig.read(&bytes[..cut]), Feed::More);
        assert_eq!(rig.read(&bytes[cut..]), Feed::More);
        assert_eq!(rig.sent(), sent, "cut at {cut}");
        assert_eq!(rig.shard.calls, calls, "cut at {cut}");
    }
    let mut rig = Rig::new(NativeOptions::default());
    for byte in &bytes {
        assert_eq!(rig.read(std::slice::from_ref(byte)), Feed::More);
    }
    assert_eq!(rig.sent(), sent);
    assert_eq!(rig.shard.calls, calls);
}

/// The byte examples of the document must open the door as the document says.
#[test]
fn documented_examples_are_taken() {
    let example = |name: &str| -> Vec<u8> {
        let path = format!("{}/../tests/data/wire/{name}.hex", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(path).expect("the example is in the repository");
        let digits = text.lines().flat_map(|line| line.split('#').next().unwrap_or("").split(' '));
        digits.filter(|d| !d.is_empty()).map(|d| u8::from_str_radix(d, 16).unwrap()).collect()
    };
    let mut rig = Rig::new(NativeOptions { node_id: 0x1122_3344_5566_7788, ..Default::default() });
    assert_eq!(rig.read(&example("hello")), Feed::More);
    assert_eq!(rig.sent(), example("welcome"));
    for name in ["topic", "publish", "credit", "settle", "unsubscribe", "unknown-skipped"] {
        assert_eq!(rig.read(&example(name)), Feed::More, "{name}");
        assert!(rig.out.is_empty(), "{name} needs no answer: {:?}", rig.sent());
    }
    assert_eq!(rig.shard.taken.len(), 1);
    assert!(rig.shard.calls[1].starts_with("publish fleet/vin-7 20"), "{:?}", rig.shard.calls);
    assert_eq!(rig.read(&example("publish-sequence")), Feed::More);
    assert_eq!(rig.shard.taken.len(), 2);
    let mut other =
        Rig::new(NativeOptions { node_id: 0x1122_3344_5566_7788, ..Default::default() });
    assert_eq!(other.read(&example("hello-sequences")), Feed::More);
    assert_eq!(other.sent(), example("welcome-sequences"));
    // Offsets need an exact topic; the example's filter is one with a wildcard.
    assert_eq!(rig.read(&example("subscribe")), Feed::More);
    assert_eq!(rig.refusal(), (Code::StartNeedsTopic.number(), 7, false));
    assert_eq!(rig.read(&example("subscribe-time")), Feed::More);
    assert_eq!(rig.read(&example("unknown-refused")), Feed::More);
    assert_eq!(rig.refusal(), (Code::UnknownFrame.number(), 3, false));
    assert_eq!(rig.read(&example("ping")), Feed::More);
    assert_eq!(rig.sent(), example("pong"));
}

/// Back-pressure must neither lose, repeat nor reorder a batch, wherever it sets in and however bytes go on coming.
#[test]
fn no_room_keeps_every_batch_once_and_in_order() {
    let data: Vec<Vec<u8>> = (0..6).map(|n| vec![n; 10]).collect();
    let frames: Vec<u8> =
        data.iter().enumerate().flat_map(|(n, data)| publish(n as u64, data)).collect();
    for refused_at in 0..6 {
        for cut in (0..frames.len()).step_by(7) {
            // The window is as large as the batches are many: a place that "no room" kept would be missed.
            let mut rig = Rig::open(NativeOptions { window_batches_max: 6, ..Default::default() });
            rig.shard.answers = (0..refused_at).map(|_| Ok(Admission::Taken)).collect();
            rig.shard.answers.extend([Ok(Admission::NoRoom), Ok(Admission::NoRoom)]);
            let _ = rig.read(&frames[..cut]);
            let _ = rig.read(&frames[cut..]);
            assert_eq!(rig.shard.taken.len(), refused_at, "nothing behind it is taken");
            assert_eq!(rig.clock(Duration::from_secs(900)), Feed::Paused, "our silence, not its");
            assert_eq!(rig.hear(SessionEvent::Room), Feed::Paused, "there still is none");
            assert_eq!(rig.hear(SessionEvent::Room), Feed::More);
            let taken: Vec<_> = rig.shard.taken.iter().map(|(_, data)| data.clone()).collect();
            assert_eq!(taken, data, "no room at {refused_at}, cut at {cut}");
            assert!(rig.out.is_empty(), "back-pressure is no refusal");
        }
    }
}

/// Acks go to the request that the client chose, in any order, many in one frame; never into bytes that have left.
#[test]
fn acks_name_the_clients_numbers_and_share_a_frame() {
    let mut rig = Rig::open(NativeOptions::default());
    for request in [42, 42, u64::MAX] {
        assert_eq!(rig.read(&publish(request, b"x")), Feed::More);
    }
    assert_eq!(rig.acked(2, 100), Feed::More);
    assert_eq!(rig.acked(0, 7), Feed::More);
    let sent = rig.sent();
    let [(0, Frame::Published(acks))] = frames(&sent)[..] else { panic!("one frame") };
    let acks: Vec<_> = acks.map(|a| (a.request, a.base_offset.0, a.topic, a.level)).collect();
    let level = AckLevel::Durable;
    assert_eq!(acks, [(u64::MAX, 100, TopicId(1), level), (42, 7, TopicId(1), level)]);
    assert_eq!(rig.acked(1, 8), Feed::More);
    let sent = rig.sent();
    assert!(matches!(frames(&sent)[..], [(0, Frame::Published(acks))] if acks.count() == 1));

    // A refusal of the shard finds its publish too, and a frame between two acks parts them.
    for request in [1, 2, 3] {
        assert_eq!(rig.read(&publish(request, b"x")), Feed::More);
    }
    assert_eq!(rig.acked(3, 9), Feed::More);
    let (request, refusal) = (rig.shard.taken[4].0, Code::DiskFull.into());
    assert_eq!(
        rig.hear(SessionEvent::Refused { what: Asked::Publish, request, refusal }),
        Feed::More
    );
    assert_eq!(rig.acked(5, 10), Feed::More);
    let sent = rig.sent();
    let [(0, Frame::Published(_)), (2, Frame::Refusal(refusal)), (0, Frame::Published(_))] =
        frames(&sent)[..]
    else {
        panic!("{:?}", frames(&sent))
    };
    assert_eq!((refusal.code, refusal.kind), (Code::DiskFull.number(), Kind::Publish.number()));
}

/// A pong can be made as long as the acks that have just left: the next ack must not be added to it, which would tear
/// both frames, or end the process.
#[test]
fn acks_are_never_added_to_another_frame() {
    let mut rig = Rig::open(NativeOptions::default());
    assert_eq!(rig.read(&[publish(1, b"x"), publish(2, b"x")].concat()), Feed::More);
    assert_eq!(rig.acked(0, 0), Feed::More);
    let acks_len = rig.sent().len();
    let echo = vec![0; acks_len - frame::FRAME_HEADER_BYTES];
    assert_eq!(rig.read(&bytes_of(|out| encode_plain(Kind::Ping, 5, &echo, out))), Feed::More);
    assert_eq!(rig.acked(1, 1), Feed::More);
    let sent = rig.sent();
    assert!(matches!(frames(&sent)[..], [(5, Frame::Pong(_)), (0, Frame::Published(_))]));
}

/// What a peer does wrong: each is told with its number, and the connection goes on exactly where the document says.
#[test]
fn wrong_frames_are_refused_as_documented() {
    let plain = |kind, body: &[u8]| bytes_of(|out| encode_plain(kind, 6, body, out));
    let with_header = |change: fn(&mut BatchHeader)| {
        let mut bytes = batch(1, Partition::ANY, b"x");
        let mut header = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().header;
        change(&mut header);
        bytes[..HEADER_BYTES].copy_from_slice(&header.encode(HeaderSeed::WIRE));
        plain(Kind::Publish, &bytes)
    };
    let mut damaged = batch(1, Partition::ANY, b"x");
    *damaged.last_mut().unwrap() ^= 1;
    let trailing = [batch(1, Partition::ANY, b"x"), vec![0]].concat();
    let subscription = |filter, group| {
        let (mode, start) = (WireMode::Clustering, WireStart::Default);
        bytes_of(|out| Subscribe { group, filter, mode, start, credit: 1 }.encode(6, out))
    };
    let bad_token = Settlement { verdict: WireVerdict::Done, token: &[0xff], bitmap: None };
    let bad_token = bytes_of(|out| bad_token.encode_entry(out));
    let cases = [
        ("second hello", hello(), Code::MalformedFrame, true),
        ("server's kind", plain(Kind::Subscribed, &[]), Code::MalformedFrame, true),
        ("torn body", plain(Kind::Credit, &[1]), Code::MalformedFrame, true),
        ("reserved kind", plain(Kind::Request, &[]), Code::UnknownFrame, false),
        ("damaged body", plain(Kind::Publish, &damaged), Code::MalformedBatch, false),
        ("trailing bytes", plain(Kind::Publish, &trailing), Code::MalformedBatch, false),
        ("unknown topic", with_header(|h| h.topic = TopicId(2)), Code::UnknownTopic, false),
        ("partition", with_header(|h| h.partition = Partition(64)), Code::UnknownPartition, false),
        ("epoch", with_header(|h| h.epoch.0 = 1), Code::MalformedBatch, false),
        ("offset", with_header(|h| h.base_offset.0 = 1), Code::MalformedBatch, false),
        ("sequence alone", with_header(|h| h.sequence = 1), Code::MalformedBatch, false),
        ("publisher alone", with_header(|h| h.publisher_id = 1), Code::MalformedBatch, false),
        (
            "sequence without a partition",
            with_header(|h| (h.publisher_id, h.sequence, h.partition) = (1, 1, Partition::ANY)),
            Code::MalformedBatch,
            false,
        ),
        ("data", publish(6, &[0; 101]), Code::LimitExceeded, false),
        ("filter", subscription("a/#/b", None), Code::MalformedFilter, false),
        ("group", subscription("a", Some("$x")), Code::MalformedGroup, false),
        (
            "credit",
            bytes_of(|out| frame::encode_credit(6, 65_537, out)),
            Code::LimitExceeded,
            false,
        ),
        ("token", plain(Kind::Settle, &bad_token), Code::MalformedToken, false),
    ];
    for (what, bytes, code, closes) in cases {
        let mut rig = Rig::open(NativeOptions { event_data_bytes_max: 100, ..Default::default() });
        let feed = rig.read(&bytes);
        assert_eq!(feed, if closes { Feed::Close } else { Feed::More }, "{what}");
        let request = if what == "second hello" { 0 } else { 6 };
        assert_eq!(rig.refusal(), (code.number(), request, closes), "{what}");
        assert!(rig.shard.taken.is_empty(), "{what}");
        assert_eq!(rig.read(&publish(9, b"next")), feed, "{what}: what follows");
        assert_eq!(rig.shard.taken.len(), usize::from(!closes), "{what}: what follows");
    }
}

/// Before hello nothing is believed: not even how long a frame claims to be.
#[test]
fn nothing_goes_before_hello() {
    let mut old = Hello::new("car-7");
    (old.version_lowest, old.version_highest) = (2, 9);
    let mut secret = Hello::new("car-7");
    (secret.credentials_kind, secret.credentials) = (1, b"secret");
    let mut tenant = Hello::new("car-7");
    tenant.tenant_kind = 1;
    let cases = [
        (publish(1, b"x"), Code::HelloRequired),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Code::HelloRequired),
        ([255, 255, 255, 0, 4].to_vec(), Code::HelloRequired),
        (bytes_of(|out| old.encode(out)), Code::UnsupportedVersion),
        (bytes_of(|out| secret.encode(out)), Code::Unauthenticated),
        (bytes_of(|out| tenant.encode(out)), Code::Unauthenticated),
    ];
    for (bytes, code) in cases {
        let mut rig = Rig::new(NativeOptions::default());
        assert_eq!(rig.read(&bytes), Feed::Close, "{code:?}");
        let (found, _, closes) = rig.refusal();
        assert_eq!((found, closes), (code.number(), true));
        assert!(rig.shard.calls.is_empty(), "{:?}", rig.shard.calls);
    }
}

/// The window bounds what a connection makes the server remember.
#[test]
fn one_publish_over_the_window_closes() {
    let mut rig = Rig::open(NativeOptions { window_batches_max: 2, ..Default::default() });
    assert_eq!(rig.read(&[publish(1, b"x"), publish(2, b"x")].concat()), Feed::More);
    assert_eq!(rig.acked(0, 0), Feed::More);
    assert_eq!(rig.read(&publish(3, b"x")), Feed::More, "an answer makes room");
    rig.sent();
    assert_eq!(rig.read(&publish(4, b"x")), Feed::Close);
    assert_eq!(rig.refusal(), (Code::OutOfWindow.number(), 4, true));
}

fn delivery(name: &Arc<str>, body: &Bytes, selection: Selection) -> SessionEvent {
    let bytes = batch(77, Partition(5), b"data");
    let mut header = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap().header;
    header.base_offset = Offset(1_000);
    SessionEvent::Delivery(Delivery {
        subscription: 7,
        token: Token([9; TOKEN_BYTES]),
        attempt: 2,
        log: LogKey { generation: 1, log: 0 },
        topic: name.clone(),
        batch: StoredBatch { header, body: body.clone() },
        selection,
    })
}

/// A delivery carries the body from where it stands, under the topic's number on this connection, announced once.
#[test]
fn deliveries_share_the_body_and_announce_the_topic() {
    let mut rig = Rig::open(NativeOptions::default());
    let body = Bytes::from(batch(77, Partition(5), b"data")[HEADER_BYTES..].to_vec());
    let name: Arc<str> = "fleet/x".into();
    assert_eq!(rig.hear(delivery(&name, &body, Selection::All)), Feed::More);
    let mut slices = [IoSlice::new(&[]); 8];
    let filled = rig.out.fill(&mut slices);
    assert_eq!(filled, 2, "small bytes, then the body");
    assert_eq!(slices[1].as_ptr(), body.as_ptr(), "the body is not copied");

    let mut second = Bitmap::none(1);
    second.set(0);
    assert_eq!(rig.hear(delivery(&name, &body, Selection::Some(second))), Feed::More);
    assert_eq!(rig.hear(SessionEvent::CaughtUp { request: 7 }), Feed::More);
    // What stood before a start at a time is no news; what is gone from the midst of a subscription is.
    let gap = |from, events| {
        let log = LogKey { generation: 1, log: 0 };
        let gap = Gap { log, from: Position(from), to: Position(9), events };
        SessionEvent::Passed { request: 7, gap }
    };
    for (from, events) in [(0, None), (3, None), (0, Some(9))] {
        assert_eq!(rig.hear(gap(from, events)), Feed::More);
    }
    let sent = rig.sent();
    let [
        (_, Frame::Topic(topic)),
        (7, Frame::Delivery(first)),
        (7, Frame::Delivery(again)),
        (7, Frame::CaughtUp),
        (7, Frame::Gap { events: None }),
        (7, Frame::Gap { events: Some(9) }),
    ] = frames(&sent)[..]
    else {
        panic!("{:?}", frames(&sent))
    };
    assert_eq!((topic.id, topic.name), (TopicId(1), "fleet/x"));
    let found = Batch::parse(first.batch, HeaderSeed::WIRE).unwrap();
    found.check().unwrap();
    assert_eq!((found.header.topic, found.header.base_offset), (TopicId(1), Offset(1_000)));
    assert_eq!((first.head.attempt, first.head.bitmap, first.head.token.len()), (2, None, 48));
    assert_eq!(again.head.bitmap, Some(&[1][..]));
}

/// Numbers from 2^63 on are the session's own, for publishes: a client that unsubscribes with one once ended its session
/// by a panic, and could have had another publish's answer.
#[test]
fn unsubscribe_with_a_publish_number_is_refused() {
    let mut rig = Rig::open(NativeOptions::default());
    for number in [1 << 63, (1 << 63) + 7, u64::MAX] {
        let frame = bytes_of(|out| frame::encode_unsubscribe(number, false, out));
        assert_eq!(rig.read(&[publish(1, b"x"), frame].concat()), Feed::More);
        assert_eq!(rig.refusal().0, Code::UnknownSubscription.number(), "{number}");
    }
}

/// Silent and half-open peers must not hold a place for ever; a peer that does its part must keep it.
#[test]
fn time_outs_close_only_those_who_earn_it() {
    let second = Duration::from_secs(1);
    let code = |mut rig: Rig| rig.refusal().0;
    let mut rig = Rig::new(NativeOptions::default());
    assert_eq!(rig.clock(9 * second), Feed::More);
    assert_eq!(rig.clock(10 * second), Feed::Close);
    assert_eq!(code(rig), Code::HelloTimeout.number());

    let mut rig = Rig::open(NativeOptions::default());
    assert_eq!(rig.clock(59 * second), Feed::More);
    assert_eq!(rig.clock(118 * second), Feed::More, "it was heard before second 59");
    assert_eq!(rig.clock(119 * second), Feed::Close);
    assert_eq!(code(rig), Code::IdleTimeout.number());

    // Ten seconds a step: pings come, and nothing is taken. Whether that is too slow is not for the session to say.
    let mut rig = Rig::open(NativeOptions::default());
    let ping = bytes_of(|out| encode_plain(Kind::Ping, 5, b"12345678", out));
    for step in 1..=30 {
        assert_eq!(rig.read(&ping), Feed::More);
        assert_eq!(rig.clock(step * 10 * second), Feed::More, "step {step}");
    }
}

/// A goodbye must not cost an ack, nor leave a connection open for ever.
#[test]
fn goodbye_waits_for_what_was_published() {
    let goodbye = bytes_of(|out| GoodbyeFrame { code: 0, text: "" }.encode(out));
    let mut rig = Rig::open(NativeOptions::default());
    assert_eq!(rig.read(&[publish(1, b"x"), goodbye.clone()].concat()), Feed::More);
    assert!(rig.out.is_empty(), "one publish is not answered");
    assert_eq!(rig.acked(0, 4), Feed::Close);
    let sent = rig.sent();
    assert!(matches!(frames(&sent)[..], [(_, Frame::Published(_)), (_, Frame::Goodbye(_))]));

    let mut rig = Rig::open(NativeOptions::default());
    assert_eq!(
        rig.read(&[publish(1, b"x"), goodbye.clone(), publish(2, b"x")].concat()),
        Feed::Close
    );
    assert_eq!(rig.refusal(), (Code::MalformedFrame.number(), 2, true));

    // The server leaves: the client answers, or time runs out.
    let shutdown = || SessionEvent::Goodbye(Code::ShuttingDown.into());
    let mut rig = Rig::open(NativeOptions::default());
    assert_eq!(rig.hear(shutdown()), Feed::More);
    assert_eq!(rig.hear(shutdown()), Feed::More);
    let sent = rig.sent();
    let [(_, Frame::Goodbye(said))] = frames(&sent)[..] else { panic!("said once") };
    assert_eq!(said.code, Code::ShuttingDown.number());
    assert_eq!(rig.read(&goodbye), Feed::Close);
    let mut rig = Rig::open(NativeOptions::default());
    assert_eq!(rig.hear(shutdown()), Feed::More);
    rig.sent();
    assert_eq!(rig.clock(Duration::from_secs(1)), Feed::More);
    assert_eq!(rig.clock(Duration::from_secs(6)), Feed::Close);
}

/// Ten thousand idle connections must fit: a session that has nothing to do holds next to nothing.
#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<NativeSession>() <= 512, "{}", size_of::<NativeSession>());
    let mut rig = Rig::new(NativeOptions::default());
    assert_eq!(rig.read(&hello()), Feed::More);
    assert_eq!(rig.session.held_bytes(), 0);
    // After work, all but the topic's name is given back.
    assert_eq!(rig.read(&topic(1, "a/b")), Feed::More);
    let named = rig.session.held_bytes();
    let large = publish(1, &[0; 1 << 19]);
    assert_eq!(rig.read(&large[..large.len() - 1]), Feed::More);
    assert!(rig.session.held_bytes() >= large.len() - 1, "a partial frame is counted");
    assert_eq!(rig.read(&large[large.len() - 1..]), Feed::More);
    assert_eq!(rig.acked(0, 0), Feed::More);
    rig.sent();
    assert_eq!(rig.clock(Duration::from_secs(1)), Feed::More);
    assert_eq!(rig.session.held_bytes(), named);
}

/// Bytes from outside may be anything: no input may panic the server, and none may make it send what is no frame.
#[test]
fn mutated_conversations_never_panic() {
    let whole = conversation();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let (mut closed, mut open) = (0, 0);
    for _ in 0..100_000 {
        let mut rig = Rig::new(NativeOptions::default());
        // The large publish is left out of most inputs: its bytes would take nearly all mutations.
        let mut bytes = whole[..240 + next() % 200].to_vec();
        let spare = usize::from(next() % 4 != 0) * hello().len();
        for _ in 0..1 + next() % 3 {
            let place = spare + next() % (bytes.len() - spare);
            bytes[place] = next() as u8;
        }
        let cut = next() % bytes.len();
        let feed = match rig.read(&bytes[..cut]) {
            Feed::More => rig.read(&bytes[cut..]),
            feed => feed,
        };
        frames(&rig.sent());
        match feed {
            Feed::Close => closed += 1,
            _ => open += 1,
        }
    }
    assert!(closed > 5_000 && open > 5_000, "closed {closed}, open {open}");
}

/// A peer that begins a large frame when memory is scarce must be read no further, be let in later, and not sit on what
/// it was given for ever while others wait.
#[test]
fn a_large_frame_waits_until_it_is_admitted() {
    let options = NativeOptions::default();
    let timeout = options.hello_timeout;
    let mut rig = Rig::open(options);
    let data = vec![7; 64 << 10];
    let frame = publish(5, &data);
    rig.shard.is_full = true;
    assert_eq!(rig.read(&frame[..5_000]), Feed::Paused);
    assert_eq!(rig.shard.frames, [(5_000, frame.len() as u64)]);
    rig.shard.is_full = false;
    assert_eq!(rig.hear(SessionEvent::Room), Feed::More);
    assert_eq!(rig.clock(timeout), Feed::More, "nobody waits for what it keeps");
    assert_eq!(rig.read(&frame[5_000..6_000]), Feed::More);
    rig.shard.is_full = true;
    assert_eq!(rig.clock(2 * timeout), Feed::More, "it goes on");
    assert_eq!(rig.read(&frame[6_000..]), Feed::More);
    assert_eq!(rig.shard.taken.len(), 1, "it is whole");
    assert_eq!(rig.clock(3 * timeout), Feed::More);
    assert_eq!(rig.clock(4 * timeout), Feed::More, "between two frames it may be silent");
    rig.shard.is_full = false;
    assert_eq!(rig.read(&frame[..5_000]), Feed::More);
    rig.shard.is_full = true;
    assert_eq!(rig.clock(5 * timeout), Feed::More, "it was heard");
    assert_eq!(rig.clock(6 * timeout), Feed::Close, "others wait for what it does not end");
}

/// A large publish is received where it is to stay, whatever the pieces in which it comes and whoever has them: its data
/// must arrive as they were sent, and what comes behind it must not be lost.
#[test]
fn a_large_publish_lands_in_pieces() {
    let mut rig = Rig::open(NativeOptions::default());
    let data: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    let frame = publish(5, &data);
    let two = [&frame[..], &frame[..]].concat();
    for piece in [4_100, 70_000, frame.len() - 1] {
        let (taken, landed) = (rig.shard.taken.len(), rig.shard.landed);
        for piece in two.chunks(piece) {
            assert_eq!(rig.read(piece), Feed::More);
        }
        assert_eq!((rig.shard.taken.len() - taken, rig.shard.landed - landed), (2, 2), "{piece}");
    }
    // As a runtime does that reads to the place which the session names.
    assert_eq!(rig.read(&frame[..5_000]), Feed::More);
    let mut at = 5_000;
    while let Some(place) = rig.session.place() {
        let len = place.len().min(30_000);
        place[..len].copy_from_slice(&frame[at..at + len]);
        at += len;
        let Rig { session, shard, out } = &mut rig;
        assert_eq!(session.placed(len, shard, out), Feed::More);
    }
    assert_eq!((at, rig.shard.taken.len()), (frame.len(), 7));
    assert!(rig.shard.taken.iter().all(|(_, taken)| *taken == data), "as they were sent");
}

/// A large publish without room stays where it is, is offered again, and once only when there is room; what followed it
/// comes after it.
#[test]
fn a_large_publish_without_room_stays() {
    let mut rig = Rig::open(NativeOptions::default());
    let (large, small) = (publish(5, &[7; 64 << 10]), publish(6, b"behind"));
    rig.shard.answers.extend([Ok(Admission::NoRoom), Ok(Admission::NoRoom)]);
    assert_eq!(rig.read(&large[..5_000]), Feed::More);
    assert_eq!(rig.read(&[&large[5_000..], &small[..10]].concat()), Feed::Paused);
    assert!(rig.session.place().is_none(), "it is whole");
    assert_eq!(rig.hear(SessionEvent::Room), Feed::Paused);
    assert_eq!(rig.shard.taken.len(), 0);
    assert_eq!(rig.hear(SessionEvent::Room), Feed::More);
    assert_eq!(rig.read(&small[10..]), Feed::More);
    let taken: Vec<usize> = rig.shard.taken.iter().map(|(_, data)| data.len()).collect();
    assert_eq!((taken, rig.shard.landed), (vec![64 << 10, 6], 3));
}

/// A large publish that is refused must not end the connection, nor hold its memory.
#[test]
fn a_large_publish_is_refused_like_any_other() {
    let mut rig = Rig::open(NativeOptions::default());
    let mut large = publish(5, &[7; 64 << 10]);
    *large.last_mut().unwrap() ^= 1;
    assert_eq!(rig.read(&large[..5_000]), Feed::More);
    assert!(rig.session.held_bytes() >= large.len(), "memory for all of it");
    assert_eq!(rig.read(&large[5_000..]), Feed::More);
    assert!(rig.session.held_bytes() < 8 << 10, "{} bytes", rig.session.held_bytes());
    assert_eq!(rig.read(&publish(6, b"behind")), Feed::More);
    assert_eq!((rig.shard.taken.len(), rig.shard.landed), (1, 0));
}
