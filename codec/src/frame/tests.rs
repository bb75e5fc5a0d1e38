//! The frames against the byte examples of `tests/data/wire`, and against bytes from hostile peers.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::*;
use crate::ack::AckLevel;
use crate::batch::Batch;
use crate::header::HeaderSeed;
use crate::ids::{Offset, Partition, Timestamp, TopicId};

const NAMES: [&str; 25] = [
    "hello",
    "welcome",
    "topic",
    "publish",
    "published",
    "subscribe",
    "subscribe-time",
    "subscribed",
    "unsubscribe",
    "unsubscribed",
    "delivery",
    "settle",
    "credit",
    "ping",
    "pong",
    "goodbye",
    "refusal",
    "unknown-skipped",
    "unknown-refused",
    "hello-sequences",
    "welcome-sequences",
    "publish-sequence",
    "caught-up",
    "gap",
    "gap-unknown",
];

fn example(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data/wire")
        .join(format!("{name}.hex"));
    let text = std::fs::read_to_string(&path).expect("the example is in the repository");
    let digits = text.lines().flat_map(|line| line.split('#').next().unwrap_or("").split(' '));
    digits.filter(|d| !d.is_empty()).map(|d| u8::from_str_radix(d, 16).unwrap()).collect()
}

fn whole(bytes: &[u8]) -> (u64, Frame<'_>) {
    match parse(bytes) {
        Ok(Parsed::Frame { request, frame, consumed }) if consumed == bytes.len() => {
            (request, frame)
        }
        other => panic!("not one whole frame: {other:?}"),
    }
}

/// Writes the frame again with this build's encoder.
fn encode_again(request: u64, frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match frame {
        Frame::Hello(hello) => hello.encode(&mut out),
        Frame::Welcome(welcome) => welcome.encode(&mut out),
        Frame::Topic(topic) => topic.encode(&mut out),
        Frame::Publish(batch) => encode_plain(Kind::Publish, request, batch, &mut out),
        Frame::Published(acks) => {
            for (index, acked) in acks.enumerate() {
                if index == 0 {
                    acked.encode(&mut out);
                } else {
                    assert!(acked.extend(0, &mut out), "the frame has room");
                }
            }
        }
        Frame::Subscribe(subscribe) => subscribe.encode(request, &mut out),
        Frame::CaughtUp => encode_caught_up(request, &mut out),
        Frame::Gap { events } => encode_gap(request, *events, &mut out),
        Frame::Subscribed => encode_plain(Kind::Subscribed, request, &[], &mut out),
        Frame::Unsubscribe { end } => encode_unsubscribe(request, *end, &mut out),
        Frame::Unsubscribed => encode_plain(Kind::Unsubscribed, request, &[], &mut out),
        Frame::Delivery(delivery) => {
            delivery.head.encode(request, delivery.batch.len(), &mut out);
            assert_eq!(out.len(), delivery.batch_at);
            out.extend_from_slice(delivery.batch);
        }
        Frame::Settle(settlements) => {
            let mut entries = Vec::new();
            for settlement in *settlements {
                settlement.encode_entry(&mut entries);
            }
            encode_settle(request, &entries, &mut out);
        }
        Frame::Credit { events } => encode_credit(request, *events, &mut out),
        Frame::Ping(bytes) => encode_plain(Kind::Ping, request, bytes, &mut out),
        Frame::Pong(bytes) => encode_plain(Kind::Pong, request, bytes, &mut out),
        Frame::Goodbye(goodbye) => goodbye.encode(&mut out),
        Frame::Refusal(refusal) => refusal.encode(request, &mut out),
        Frame::Skipped => {}
    }
    out
}

/// The examples are what other languages' clients are written against: this build must write the very same bytes for
/// what it reads from them.
#[test]
fn examples_round_trip() {
    for name in NAMES {
        let bytes = example(name);
        match parse(&bytes) {
            Err(error) => {
                assert_eq!(name, "unknown-refused", "{error}");
                assert_eq!(error.refusal().code, Code::UnknownFrame);
                assert_eq!(error.consumed, Some(bytes.len()), "the connection goes on behind it");
            }
            Ok(Parsed::Frame { frame: Frame::Skipped, consumed, .. }) => {
                assert_eq!((name, consumed), ("unknown-skipped", bytes.len()));
            }
            Ok(_) => {
                let (request, frame) = whole(&bytes);
                assert_eq!(encode_again(request, &frame), bytes, "{name}");
            }
        }
    }
}

/// A frame without an example is one that other clients get wrong, and an example that is not read may say anything.
#[test]
fn every_kind_has_an_example_that_is_read() {
    let kinds: BTreeSet<u8> = NAMES.iter().map(|name| example(name)[4]).collect();
    let reserved = [Kind::Request, Kind::Reply, Kind::Redirect];
    for kind in KINDS.iter().filter(|kind| !reserved.contains(kind)) {
        assert!(kinds.contains(&kind.number()), "{kind:?}");
    }
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/data/wire");
    for entry in std::fs::read_dir(folder).expect("the examples are in the repository") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        assert!(NAMES.contains(&name), "{name} is not read");
    }
}

/// Round trips alone would not notice two fields that changed places in encoder and decoder together.
#[test]
fn examples_mean_what_they_say() {
    let (bytes, welcome) = (example("hello"), example("welcome"));
    assert!(matches!(whole(&bytes).1, Frame::Hello(hello) if hello == Hello::new("car-7")));
    let (gap, unknown) = (example("gap"), example("gap-unknown"));
    assert!(matches!(whole(&gap), (7, Frame::Gap { events: Some(300) })));
    assert!(matches!(whole(&unknown), (7, Frame::Gap { events: None })));
    let Frame::Welcome(welcome) = whole(&welcome).1 else { panic!("welcome") };
    assert_eq!((welcome.features, welcome.partition), (0, 0));
    let (hello, sequences) = (example("hello-sequences"), example("welcome-sequences"));
    let Frame::Hello(hello) = whole(&hello).1 else { panic!("hello") };
    let Frame::Welcome(sequences) = whole(&sequences).1 else { panic!("welcome") };
    assert_eq!((hello.features, sequences.features), (FEATURE_SEQUENCES, FEATURE_SEQUENCES));
    assert_eq!((sequences.partition, welcome.window_batches_max), (17, 1_024));
    let publish = example("publish-sequence");
    let Frame::Publish(batch) = whole(&publish).1 else { panic!("publish") };
    let header = Batch::parse(batch, HeaderSeed::WIRE).unwrap().header;
    assert_eq!((header.publisher_id, header.sequence), (0x1122_3344_5566_7788, 3));
    assert_eq!(header.partition.0, 20);
    assert_eq!((welcome.version, welcome.partitions, welcome.ping_interval_ms), (1, 64, 20_000));
    assert_eq!((welcome.window_batches_max, welcome.topics_max), (1_024, 4_096));
    assert_eq!((welcome.credit_max, welcome.idle_timeout_ms), (65_536, 60_000));

    let bytes = example("topic");
    let topic = TopicFrame { id: TopicId(1), name: "fleet/vin-7" };
    assert!(matches!(whole(&bytes).1, Frame::Topic(found) if found == topic));

    let bytes = example("published");
    let Frame::Published(acks) = whole(&bytes).1 else { panic!("published") };
    let acks: Vec<_> = acks.map(|a| (a.request, a.base_offset.0, a.count, a.level)).collect();
    assert_eq!(acks, [(42, 1_000, 2, AckLevel::Durable), (43, 7, 1, AckLevel::Written)]);

    let bytes = example("subscribe");
    let (7, Frame::Subscribe(subscribe)) = whole(&bytes) else { panic!("subscribe") };
    let WireStart::Offsets(offsets) = subscribe.start else { panic!("{:?}", subscribe.start) };
    let offsets: Vec<_> = offsets.iter().collect();
    assert_eq!(offsets, [(Partition(3), Offset(100)), (Partition(9), Offset(0))]);
    assert_eq!((subscribe.group, subscribe.filter), (Some("billing"), "fleet/#"));
    let bytes = example("subscribe-time");
    let Frame::Subscribe(subscribe) = whole(&bytes).1 else { panic!("subscribe") };
    assert_eq!(subscribe.start, WireStart::Time(Timestamp(1_767_225_600_000_000)));
    assert_eq!((subscribe.group, subscribe.mode), (None, WireMode::Broadcasting));
}

/// The batches inside the examples: a client that follows the document must get past the server's checks.
#[test]
fn example_batches_verify() {
    let (publish, delivery) = (example("publish"), example("delivery"));
    let (42, Frame::Publish(published)) = whole(&publish) else { panic!("publish") };
    let Frame::Delivery(delivered) = whole(&delivery).1 else { panic!("delivery") };
    assert_eq!(delivered.head.bitmap, Some(&[2][..]));
    for (bytes, base) in [(published, 0), (delivered.batch, 1_000)] {
        let batch = Batch::parse(bytes, HeaderSeed::WIRE).unwrap();
        let body = batch.check().unwrap();
        assert_eq!((body.count(), batch.header.base_offset), (2, Offset(base)));
        let first = body.event(0).unwrap();
        assert_eq!(first.data(), br#"{"speed":7}"#);
        let partition = crate::murmur2::partition_of(first.partition_key().unwrap().as_bytes(), 64);
        assert_eq!(partition, batch.header.partition);
    }
}

/// A peer's packets never respect our frame borders: no cut may be an error, none may yield a frame, and the number of
/// missing bytes must never be more than really follow, or a reader would wait for ever.
#[test]
fn every_cut_waits() {
    for name in NAMES {
        let bytes = example(name);
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                Ok(Parsed::Incomplete { missing }) => {
                    assert!((1..=bytes.len() - cut).contains(&missing), "{name} cut at {cut}");
                }
                other => panic!("{name} cut at {cut}: {other:?}"),
            }
        }
    }
}

/// Any flipped bit is either refused, or a frame that is written exactly as it was read: nothing is silently ignored.
#[test]
fn flipped_bits_are_refused_or_read() {
    for name in NAMES {
        let bytes = example(name);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(Parsed::Frame { request, frame, consumed }) = parse(&flipped)
                && !matches!(frame, Frame::Skipped)
                && flipped[5] == bytes[5]
            {
                let again = encode_again(request, &frame);
                let expected = canonical_request(&frame, &flipped[..consumed]);
                assert_eq!(again, expected, "{name} bit {bit}");
            }
        }
    }
}

/// Frames whose request means nothing are written with a fixed one.
fn canonical_request(frame: &Frame<'_>, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let fixed = match frame {
        Frame::Hello(_) | Frame::Welcome(_) | Frame::Published(_) | Frame::Goodbye(_) => Some(0),
        Frame::Topic(topic) => Some(u64::from(topic.id.0)),
        _ => None,
    };
    if let Some(fixed) = fixed {
        bytes[8..16].copy_from_slice(&u64::to_le_bytes(fixed));
    }
    bytes
}

/// Bytes from outside may hold anything: no input may panic, and none may make the parser claim bytes that are not
/// there.
#[test]
fn mutated_frames_never_panic() {
    let examples: Vec<_> = NAMES.map(example).into();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize
    };
    let mut frames = 0;
    for round in 0..100_000 {
        let mut bytes = examples[round % examples.len()].clone();
        for _ in 0..next() % 4 {
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
        }
        bytes.truncate(bytes.len() - (next() % 8) / 6 * (next() % bytes.len()));
        // Most mutations must reach the bodies, so the length is made right again in half of the inputs.
        if next() % 2 == 0 && bytes.len() >= FRAME_HEADER_BYTES {
            let body = (bytes.len() - FRAME_HEADER_BYTES) as u32;
            bytes[..4].copy_from_slice(&body.to_le_bytes());
        }
        match parse(&bytes) {
            Ok(Parsed::Frame { consumed, frame, request }) => {
                assert!(consumed <= bytes.len());
                encode_again(request, &frame);
                frames += 1;
            }
            Ok(Parsed::Incomplete { missing }) => assert!(missing > 0),
            Err(error) => {
                assert!(error.consumed.is_none_or(|consumed| consumed <= bytes.len()));
                assert!(!error.refusal().text.is_empty());
            }
        }
    }
    assert!(frames > 10_000, "the mutations leave enough whole frames: {frames}");
}

/// A limit that only a document states is no limit: each one over it is refused with field, limit and value.
#[test]
fn limits_are_refused_by_name() {
    let mut long_topic = Vec::new();
    TopicFrame { id: TopicId(1), name: &"t".repeat(1_025) }.encode(&mut long_topic);
    let mut long_ping = Vec::new();
    encode_plain(Kind::Ping, 1, &[0; 65], &mut long_ping);
    let mut long_filter = Vec::new();
    let subscribe = Subscribe {
        group: None,
        filter: &"f".repeat(1_025),
        mode: WireMode::Clustering,
        start: WireStart::Default,
        credit: 1,
    };
    subscribe.encode(1, &mut long_filter);
    let mut long_group = Vec::new();
    Subscribe { group: Some(&"g".repeat(257)), filter: "a", ..subscribe }
        .encode(1, &mut long_group);
    let mut huge = example("publish");
    huge[..4].copy_from_slice(&(BATCH_BYTES_MAX + 1).to_le_bytes());
    let mut huge_control = example("ping");
    huge_control[..4].copy_from_slice(&(CONTROL_BODY_BYTES_MAX + 1).to_le_bytes());
    let cases = [
        (long_topic, "topic bytes is 1025, at most 1024 is allowed", true),
        (long_ping, "ping bytes is 65, at most 64 is allowed", true),
        (long_filter, "filter bytes is 1025, at most 1024 is allowed", true),
        (long_group, "group bytes is 257, at most 256 is allowed", true),
        (huge, "frame body bytes is 17825793, at most 17825792 is allowed", false),
        (huge_control, "frame body bytes is 65537, at most 65536 is allowed", false),
    ];
    for (bytes, text, goes_on) in cases {
        let error = parse(&bytes).unwrap_err();
        assert_eq!((error.refusal().code, &*error.refusal().text), (Code::LimitExceeded, text));
        assert_eq!(error.consumed.is_some(), goes_on, "{text}");
    }
}

/// Texts come from errors and may be long: a cut within a character would make a frame that its reader refuses.
#[test]
fn long_texts_are_cut_between_characters() {
    let refusal = Refusal::new(Code::MalformedTopic, "é".repeat(600) + "x");
    let mut out = Vec::new();
    RefusalFrame::new(&refusal, 3, false).encode(9, &mut out);
    let (9, Frame::Refusal(found)) = whole(&out) else { panic!("refusal") };
    assert_eq!(found.text, "é".repeat(512));
}

/// The list of kinds is indexed by number: one out of place would decode one frame as another.
#[test]
fn kinds_stand_at_their_numbers() {
    for (index, kind) in KINDS.iter().enumerate() {
        assert_eq!(usize::from(kind.number()), index + 1);
        assert_eq!(Kind::from_number(kind.number()), Some(*kind));
    }
    assert_eq!(Kind::from_number(0), None);
    assert_eq!(Kind::from_number(22), None);
}
