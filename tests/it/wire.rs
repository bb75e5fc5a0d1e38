//! Peers that are not our client: too many, silent, or speaking something else.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use codec::frame::{self, Frame, Kind, Parsed, Settlement, WireVerdict, parse};
use codec::refusal::Code;

use crate::folder;
use crate::harness::Server;
use crate::peer::{Peer, encoded, frame_of, ping, publish, subscribe, topic};

/// All that the server says until it closes.
fn rest(stream: &mut std::net::TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A reset after unread garbage is a close too.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn refusal(bytes: &[u8]) -> Option<u16> {
    match parse(bytes).ok()? {
        Parsed::Frame { frame: Frame::Refusal(refusal), .. } => Some(refusal.code),
        Parsed::Frame { frame: Frame::Goodbye(goodbye), .. } => Some(goodbye.code),
        _ => None,
    }
}

/// Bytes of strangers: each is answered with a refusal or a close, and the server goes on for others.
#[test]
fn garbage_is_refused_and_the_server_goes_on() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let mut seed = 1u64;
    for length in [1, 15, 16, 17, 64, 1_000, 70_000] {
        for _ in 0..5 {
            let garbage: Vec<u8> = (0..length)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 33) as u8
                })
                .collect();
            let mut stream = server.connect();
            let _ = stream.write_all(&garbage);
            let _ = stream.shutdown(Shutdown::Write);
            rest(&mut stream);
        }
    }
    let mut http = server.connect();
    http.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let answer = rest(&mut http);
    assert!(refusal(&answer).is_some(), "a browser is told no: {answer:?}");
    server.command(&["publish", "a", "x"]).done();
    assert!(server.stop().success());
}

/// A connection that never says hello must not be held for ever.
#[test]
fn half_open_connections_are_closed() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--set", "native.hello_timeout=300ms"]);
    let before = Instant::now();
    let mut silent = server.connect();
    let mut half = server.connect();
    half.write_all(&[24, 0, 0, 0, 1, 0, 0, 0]).unwrap();
    for stream in [&mut silent, &mut half] {
        let answer = rest(stream);
        assert_eq!(refusal(&answer), Some(Code::HelloTimeout.number()), "{answer:?}");
    }
    let took = before.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(10), "{took:?}");
    assert!(server.stop().success());
}

/// A frame that claims more than any frame may have must be refused at its header, not waited for.
#[test]
fn frames_too_long_are_refused_at_once() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let mut stream = server.connect();
    stream.write_all(&[0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
    let answer = rest(&mut stream);
    let code = refusal(&answer);
    let expected = [Code::LimitExceeded.number(), Code::HelloRequired.number()];
    assert!(code.is_some_and(|code| expected.contains(&code)), "{answer:?}");
}

/// A thousand idle connections must not stand in the way of one that works, nor of the shutdown.
#[test]
fn a_thousand_connections() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let streams: Vec<_> = (0..1_000).map(|_| server.connect()).collect();
    server.command(&["publish", "a", "x", "--count", "100"]).done();
    drop(streams);
    assert!(server.stop().success());
}

/// One connection over the limit is told so, and the next is taken when there is room again.
#[test]
fn connections_over_the_limit_are_told() {
    let folder = folder::new();
    let mut server = Server::start_with(folder.path(), &["--set", "limits.connections_max=3"]);
    server.expect_line("connections are turned away");
    let held: Vec<_> = (0..3).map(|_| server.connect()).collect();
    let mut fourth = server.connect();
    let answer = rest(&mut fourth);
    assert_eq!(refusal(&answer), Some(Code::TooManyConnections.number()), "{answer:?}");
    drop(held);
    let deadline = Instant::now() + Duration::from_secs(10);
    while server.command(&["publish", "a", "x"]).end().code != Some(0) {
        assert!(Instant::now() < deadline, "room comes back");
    }
}

/// Takes frames until a delivery comes; its token and attempt.
fn delivery(peer: &mut Peer) -> (Vec<u8>, u32) {
    loop {
        let bytes = peer.next().expect("the connection stands");
        if let (7, Frame::Delivery(delivery)) = frame_of(&bytes) {
            return (delivery.head.token.to_vec(), delivery.head.attempt);
        }
    }
}

/// A client that answers too late works for nothing, and should hear so: by a refusal that keeps its connection, not by
/// silence.
#[test]
fn a_late_settle_is_told_that_it_is_stale() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--set", "delivery.ack_deadline=200ms"]);
    let mut peer = Peer::open(&server, "late");
    peer.send(&subscribe(Some("g"), "a/#", 10));
    let subscribed = peer.next().expect("the server answers");
    assert!(matches!(frame_of(&subscribed), (7, Frame::Subscribed)), "{subscribed:?}");
    peer.send(&[topic("a/b"), publish(1, b"x")].concat());
    let (first, attempt) = delivery(&mut peer);
    assert_eq!(attempt, 1);
    let (_, attempt) = delivery(&mut peer);
    assert_eq!(attempt, 2, "it has timed out");
    let verdict = WireVerdict::Done;
    let settlement = Settlement { verdict, token: &first, bitmap: None };
    let entry = encoded(|out| settlement.encode_entry(out));
    peer.send(&encoded(|out| frame::encode_settle(42, &entry, out)));
    peer.send(&ping(43));
    let mut refused = false;
    loop {
        let bytes = peer.next().expect("the connection stands");
        match frame_of(&bytes) {
            (request, Frame::Refusal(refusal)) => {
                assert_eq!((request, refusal.code), (42, Code::StaleToken.number()));
                assert!(refusal.kind == Kind::Settle.number() && !refusal.closes, "{refusal:?}");
                refused = true;
            }
            (43, Frame::Pong(_)) => {}
            (_, Frame::Delivery(_)) => {}
            other => panic!("{other:?}"),
        }
        if refused {
            break;
        }
    }
    assert!(server.stop().success());
}
