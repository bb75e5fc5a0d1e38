//! Every frame that a client may send, spoilt in every field, against a running server.

use codec::frame::{
    Frame, GoodbyeFrame, Kind, Settlement, WireVerdict, encode_credit, encode_plain, encode_settle,
    encode_unsubscribe,
};
use codec::refusal::Code;

use crate::folder;
use crate::harness::Server;
use crate::peer::{Peer, encoded, frame_of, hello, ping, publish, subscribe, topic};

/// The ping behind each spoilt frame.
const MARK: u64 = 0x6d61_726b;
/// Bytes at the start of a frame that are spoilt one by one; behind them comes what the batch's checksums cover.
const SPOILT_BYTES: usize = 120;

/// One good frame of each kind.
fn frames() -> Vec<(Kind, Vec<u8>)> {
    let settlement = Settlement { verdict: WireVerdict::Done, token: &[7; 48], bitmap: Some(&[1]) };
    let entries = encoded(|out| settlement.encode_entry(out));
    vec![
        (Kind::Hello, hello("spoilt")),
        (Kind::Topic, topic("garbage/a")),
        (Kind::Publish, publish(5, b"some data that is long enough")),
        (Kind::Subscribe, subscribe(Some("group"), "garbage/#", 10)),
        (Kind::Unsubscribe, encoded(|out| encode_unsubscribe(7, false, out))),
        (Kind::Settle, encoded(|out| encode_settle(9, &entries, out))),
        (Kind::Credit, encoded(|out| encode_credit(7, 10, out))),
        (Kind::Ping, ping(3)),
        (Kind::Pong, encoded(|out| encode_plain(Kind::Pong, 3, b"12345678", out))),
        (Kind::Goodbye, encoded(|out| GoodbyeFrame { code: 0, text: "bye" }.encode(out))),
    ]
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 >> 33
    }
}

/// Whether a refusal with this number closes the connection. `None`: it depends.
fn closes(code: Code) -> Option<bool> {
    match code {
        Code::MalformedFrame | Code::HelloRequired | Code::UnsupportedVersion => Some(true),
        Code::Unauthenticated | Code::OutOfWindow => Some(true),
        Code::LimitExceeded | Code::NotUtf8 => None,
        _ => Some(false),
    }
}

/// What the server says to one spoilt frame. All that it says must be whole frames in the right order.
fn check_answers(what: &str, answers: &[Vec<u8>], before_hello: bool, expects_pong: bool) {
    let mut is_over = false;
    let mut is_answered = false;
    for answer in answers {
        assert!(!is_over, "{what}: something comes behind the end: {answers:?}");
        match frame_of(answer) {
            (_, Frame::Refusal(refusal)) => {
                is_over = refusal.closes;
                let code = Code::from_number(refusal.code);
                let code = code.unwrap_or_else(|| panic!("{what}: refusal {}", refusal.code));
                let expected = if before_hello { Some(true) } else { closes(code) };
                assert!(expected.is_none_or(|it| it == refusal.closes), "{what}: {refusal:?}");
            }
            (_, Frame::Goodbye(_)) => is_over = true,
            (MARK, Frame::Pong(bytes)) => is_answered = bytes == MARK.to_le_bytes(),
            _ => {}
        }
    }
    assert!(is_over || is_answered || !expects_pong, "{what}: no answer, no end: {answers:?}");
}

/// Sends one spoilt frame on a connection of its own, between good ones.
fn send_spoilt(server: &Server, kind: Kind, good: &[u8], spoilt: &[u8]) {
    let mut peer = Peer::connect(server);
    let before_hello = kind == Kind::Hello;
    let mut bytes =
        if before_hello { Vec::new() } else { [hello("x"), topic("garbage/a")].concat() };
    bytes.extend_from_slice(spoilt);
    bytes.extend(ping(MARK));
    peer.send(&bytes);
    let answers = peer.rest();
    let same_length = good[..4] == spoilt[..4];
    check_answers(&format!("{kind:?} {spoilt:?}"), &answers, before_hello, same_length);
}

/// Bytes from outside must never end the server, nor a connection without a word, nor disturb another connection.
#[test]
fn every_field_of_every_frame_may_be_spoilt() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let mut bystander = Peer::open(&server, "bystander");
    let mut random = Random(1);
    let mut sent = 0u64;
    for (kind, good) in frames() {
        for at in 0..good.len().min(SPOILT_BYTES) {
            let bit = 1 << (random.next() % 8);
            for byte in [good[at] ^ bit, 0, 0xff, random.next() as u8] {
                let mut spoilt = good.clone();
                spoilt[at] = byte;
                send_spoilt(&server, kind, &good, &spoilt);
                sent += 1;
            }
        }
        for _ in 0..60 {
            let mut spoilt = good.clone();
            for _ in 0..2 + random.next() % 6 {
                let at = random.next() as usize % spoilt.len();
                spoilt[at] = random.next() as u8;
            }
            send_spoilt(&server, kind, &good, &spoilt);
            sent += 1;
        }
        bystander.send(&ping(sent));
        let pong = bystander.next().expect("others are served");
        assert!(matches!(frame_of(&pong), (request, Frame::Pong(_)) if request == sent));
    }
    assert!(sent > 2_000, "{sent} frames were sent");
    server.command(&["publish", "garbage/a", "x"]).done();
    assert!(server.stop().success());
}

/// What docs/wire-protocol.md says of frames at the wrong time, and of too many.
#[test]
fn frames_out_of_place_are_refused() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--set", "native.publish_window=4"]);
    for (kind, frame) in frames().into_iter().skip(1) {
        let mut peer = Peer::connect(&server);
        peer.send(&frame);
        let answer = peer.next().expect("the server says why");
        let (_, Frame::Refusal(refusal)) = frame_of(&answer) else {
            panic!("{kind:?}: {answer:?}")
        };
        assert_eq!(
            (refusal.code, refusal.closes),
            (Code::HelloRequired.number(), true),
            "{kind:?}"
        );
        assert_eq!(peer.next(), None, "{kind:?}: then it closes");
    }
    for (kind, frame) in frames() {
        let mut peer =
            if kind == Kind::Hello { Peer::connect(&server) } else { Peer::open(&server, "long") };
        let mut too_long = frame[..16].to_vec();
        too_long[..4].copy_from_slice(&(kind.body_bytes_max() + 1).to_le_bytes());
        peer.send(&too_long);
        let answer = peer.next().expect("the server does not wait for the rest");
        let (_, Frame::Refusal(refusal)) = frame_of(&answer) else { panic!("{kind:?}: {frame:?}") };
        assert_eq!(
            (refusal.code, refusal.closes),
            (Code::LimitExceeded.number(), true),
            "{kind:?}"
        );
        assert_eq!(peer.next(), None, "{kind:?}: then it closes");
    }
    let mut hasty = Peer::open(&server, "hasty");
    let many: Vec<u8> = (0..1_000).flat_map(|request| publish(request, b"x")).collect();
    hasty.send(&[topic("garbage/a"), many].concat());
    let answers: Vec<Vec<u8>> = std::iter::from_fn(|| hasty.next()).collect();
    let last = answers.last().expect("the server says why");
    let (_, Frame::Refusal(refusal)) = frame_of(last) else { panic!("{last:?}") };
    assert_eq!((refusal.code, refusal.closes), (Code::OutOfWindow.number(), true));
    server.command(&["publish", "garbage/a", "x"]).done();
    assert!(server.stop().success());
}
