//! The runtime over real sockets: connections, their ends, slow and rude peers, sleep and shutdown. The protocol is an
//! echo, so that all that is tested here is the runtime's.

// An unwrap is a test's assertion.
#![allow(clippy::unwrap_used)]

extern crate ringmesh_dataplane as dataplane;

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use dataplane::runtime::RuntimeOptions;

use support::{
    BYE, BYTES_ASKED, CLOSE, FULL, HOLD, LAST_WORDS, LIVE, Node, PANIC, PUBLISH, PUBLISHED_BYTES,
    ask_for,
};

/// What a client sends comes back whole and in order, however it is cut: in single bytes, and in pieces larger than the
/// scratch buffer, the socket's buffers and the outbound limit together.
#[test]
fn bytes_come_back() {
    let node = Node::start(1, RuntimeOptions::default());
    let mut client = node.connect();
    for byte in 0..=200u8 {
        client.write_all(&[byte]).unwrap();
        let mut back = [0];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, [byte]);
    }
    let sent: Vec<u8> = (0..8 << 20).map(|at: usize| (at % 199) as u8).collect();
    let mut writer = client.try_clone().unwrap();
    let (copy, expected) = (sent.clone(), sent);
    let writing = std::thread::spawn(move || writer.write_all(&copy).unwrap());
    let mut back = vec![0; expected.len()];
    client.read_exact(&mut back).unwrap();
    writing.join().unwrap();
    assert!(back == expected, "bytes came back changed");
}

/// A thousand connections live side by side, spread evenly: a shard with most of them would be the only busy core.
#[test]
fn a_thousand_connections_are_spread_over_the_shards() {
    let node = Node::start(2, RuntimeOptions::default());
    let mut clients: Vec<_> = (0..1_000).map(|_| node.connect()).collect();
    for round in 0..3u8 {
        for client in &mut clients {
            client.write_all(&[round; 3]).unwrap();
        }
        for client in &mut clients {
            let mut back = [0; 3];
            client.read_exact(&mut back).unwrap();
            assert_eq!(back, [round; 3]);
        }
    }
    for handle in node.handles() {
        assert_eq!(handle.counters().accepted.get(), 500, "shard {}", handle.index());
    }
    drop(clients);
    node.wait_for("all connections gone", |handles| {
        handles.iter().map(|handle| handle.counters().closed.get()).sum::<u64>() == 1_000
    });
}

/// A bug in a door must cost one connection, not the node.
#[test]
fn a_panic_ends_one_session() {
    let node = Node::start(1, RuntimeOptions::default());
    let (mut rude, mut other) = (node.connect(), node.connect());
    rude.write_all(&[PANIC]).unwrap();
    assert_eq!(read_to_end(&mut rude), b"");
    support::echo_once(&mut other);
    assert_eq!(node.handles()[0].counters().panics.get(), 1);
}

/// The refusal is the only way to learn what was wrong. A close that resets the connection, because the peer's bytes lie
/// unread, takes it back.
#[test]
fn last_words_arrive_although_the_peer_goes_on_sending() {
    let node = Node::start(1, RuntimeOptions::default());
    for _ in 0..20 {
        let mut client = node.connect();
        let mut garbage = vec![CLOSE; 300_000];
        garbage[1..].fill(9);
        // The server may have closed its side before all is sent.
        let _ = client.write_all(&garbage);
        assert_eq!(read_to_end(&mut client), LAST_WORDS);
    }
}

/// A peer that asks for much and reads nothing is closed after a while, holds no more memory meanwhile than the limit,
/// and delays nobody.
#[test]
fn a_peer_that_does_not_read_is_closed() {
    let slow_peer_timeout = Duration::from_millis(500);
    let node = Node::start(1, RuntimeOptions { slow_peer_timeout, ..RuntimeOptions::default() });
    let (mut slow, mut other) = (node.connect(), node.connect());
    slow.write_all(&ask_for(100)).unwrap();
    node.wait_for("the slow peer closed", |handles| {
        support::echo_once(&mut other);
        handles[0].counters().slow_peers.get() == 1
    });
    let got = read_to_end(&mut slow).len();
    assert!(got < 100 * BYTES_ASKED, "all {got} bytes were sent to a peer that reads nothing");
}

/// A peer that takes a byte now and then holds memory for ever if any byte counts as progress.
#[test]
fn a_peer_that_takes_a_byte_now_and_then_is_closed() {
    let slow_peer_timeout = Duration::from_millis(500);
    let node = Node::start(1, RuntimeOptions { slow_peer_timeout, ..RuntimeOptions::default() });
    let mut slow = node.connect();
    slow.write_all(&ask_for(100)).unwrap();
    node.wait_for("the slow peer closed", |handles| {
        let _ = slow.read_exact(&mut [0]);
        handles[0].counters().slow_peers.get() == 1
    });
}

/// A peer that reads, but late, gets everything: back-pressure is not loss.
#[test]
fn a_peer_that_reads_late_gets_everything() {
    let node = Node::start(1, RuntimeOptions::default());
    let mut client = node.connect();
    client.write_all(&ask_for(60)).unwrap();
    // The server is full when it has sent something and then nothing more for a while.
    let mut sent = 0;
    node.wait_for("the server to be stopped", |handles| {
        let before = std::mem::replace(&mut sent, handles[0].counters().bytes_out.get());
        before > 0 && before == sent
    });
    let mut back = vec![0; 60 * BYTES_ASKED];
    client.read_exact(&mut back).unwrap();
    assert!(back.iter().all(|byte| *byte == 7));
    support::echo_once(&mut client);
}

/// Over the limit a client is told so, in the protocol's words; when somebody leaves there is room again.
#[test]
fn too_many_connections_are_told_so() {
    let node =
        Node::start(2, RuntimeOptions { connections_max: Some(2), ..RuntimeOptions::default() });
    let (mut first, mut second) = (node.connect(), node.connect());
    support::echo_once(&mut first);
    support::echo_once(&mut second);
    let mut third = node.connect();
    let _ = third.write_all(b"hello");
    assert_eq!(read_to_end(&mut third), FULL);
    drop(first);
    node.wait_for("the first connection gone", |handles| {
        handles.iter().map(|handle| handle.counters().closed.get()).sum::<u64>() == 1
    });
    support::echo_once(&mut node.connect());
    support::echo_once(&mut second);
}

/// A connection that is reset, and one whose peer has shut its side down, must both be given up: else they fill the node.
#[test]
fn dead_peers_are_given_up() {
    let node = Node::start(1, RuntimeOptions::default());
    let mut reset = node.connect();
    support::echo_once(&mut reset);
    // Closing with bytes unread resets the connection.
    reset.write_all(&[1; 10]).unwrap();
    reset.peek(&mut [0]).unwrap();
    drop(reset);
    let mut half = node.connect();
    half.write_all(&[5; 5]).unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_end(&mut half), [5; 5], "what was asked before the end is still answered");
    node.wait_for("both connections gone", |handles| handles[0].counters().closed.get() == 2);
}

/// Hundreds of peers that go at once, as behind a proxy, each with much to clean up: who stays is not behind all of them.
#[test]
fn who_stays_does_not_wait_for_who_leaves() {
    let node = Node::start(1, RuntimeOptions::default());
    let mut leaving: Vec<_> = (0..500).map(|_| node.connect()).collect();
    leaving.iter_mut().for_each(support::echo_once);
    let (mut holds, mut stays) = (node.connect(), node.connect());
    support::echo_once(&mut holds);
    support::echo_once(&mut stays);
    holds.write_all(&[HOLD]).unwrap();
    node.gate().wait();
    // What comes while the shard holds still lies before it in this order.
    drop(leaving);
    stays.write_all(&[LIVE]).unwrap();
    node.gate().wait();
    let mut live = [0; 4];
    stays.read_exact(&mut live).unwrap();
    let live = u32::from_le_bytes(live);
    assert!(live > 400, "{live} sessions were left when it was the turn of the one that stays");
    node.wait_for("all who left are gone", |handles| handles[0].counters().closed.get() == 500);
}

/// A shard that sleeps in its host must be woken by the first byte, by a new connection, and to end.
#[test]
fn a_sleeping_shard_wakes() {
    let mut node = Node::start(2, RuntimeOptions::default());
    let mut client = node.connect();
    for _ in 0..5 {
        support::echo_once(&mut client);
        // A shard that sleeps runs no cycle.
        let mut cycles = Vec::new();
        node.wait_for("both shards asleep", |handles| {
            let now = handles.iter().map(|handle| handle.counters().cycles.get()).collect();
            let before = std::mem::replace(&mut cycles, now);
            before == cycles && handles.iter().all(|handle| handle.counters().sleeps.get() > 0)
        });
        support::echo_once(&mut node.connect());
    }
    node.end();
}

/// A shutdown says goodbye to everyone, sends what is outbound, stops listening and ends.
#[test]
fn shutdown_says_goodbye() {
    let mut node = Node::start(2, RuntimeOptions::default());
    let mut clients: Vec<_> = (0..20).map(|_| node.connect()).collect();
    clients.iter_mut().for_each(support::echo_once);
    let address = node.address();
    let asked = Instant::now();
    let ending = std::thread::spawn(move || node.end());
    for client in &mut clients {
        assert_eq!(read_to_end(client), BYE);
    }
    drop(clients);
    ending.join().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(9), "the shutdown waited for its time limit");
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

/// A node that sleeps, with nobody connected, must end at once: no event comes that would take its shards through the
/// steps of their drain.
#[test]
fn a_sleeping_node_ends_at_once() {
    let mut node = Node::start(2, RuntimeOptions::default());
    let mut client = node.connect();
    client.write_all(&[PUBLISH, 0, PUBLISH, 1]).unwrap();
    (0..2).for_each(|_| assert_eq!(read_published(&mut client).1, 0));
    drop(client);
    // Long enough that the logs have written their idle marks and want nothing more.
    let (mut cycles, mut quiet_looks) = (Vec::new(), 0);
    node.wait_for("both shards asleep for good", |handles| {
        let now = handles.iter().map(|handle| handle.counters().cycles.get()).collect();
        let before = std::mem::replace(&mut cycles, now);
        quiet_looks = if before == cycles { quiet_looks + 1 } else { 0 };
        quiet_looks == 150
    });
    let asked = Instant::now();
    node.end();
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

/// A peer that does not close its side must not keep the server from ending.
#[test]
fn shutdown_does_not_wait_for_ever() {
    let drain_timeout = Duration::from_millis(300);
    let mut node = Node::start(1, RuntimeOptions { drain_timeout, ..RuntimeOptions::default() });
    let mut stuck = node.connect();
    support::echo_once(&mut stuck);
    stuck.write_all(&ask_for(100)).unwrap();
    let asked = Instant::now();
    node.end();
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
}

/// More shards than cores share the cores; a looking shard must not starve the others.
#[test]
fn more_shards_than_cores_work() {
    let idle = dataplane::runtime::Idle::Spin;
    let node = Node::start(8, RuntimeOptions { idle, ..RuntimeOptions::default() });
    let mut clients: Vec<_> = (0..32).map(|_| node.connect()).collect();
    for _ in 0..50 {
        clients.iter_mut().for_each(support::echo_once);
    }
}

/// A publish is acknowledged when it is on the disk, whichever shard owns its partition: by the ring's synced write, and
/// for the other shard's by mail there and back. After a restart the offsets go on where they were.
#[test]
fn publishes_are_durable_on_both_shards() {
    const EACH: u64 = 50;
    let mut node = Node::start(2, RuntimeOptions::default());
    for first in [0, EACH] {
        let mut client = node.connect();
        for offset in first..first + EACH {
            for partition in 0..4 {
                client.write_all(&[PUBLISH, partition]).unwrap();
                assert_eq!(read_published(&mut client), (partition, offset));
            }
        }
        drop(client);
        node = node.restart(2, RuntimeOptions::default());
    }
    // Many at once, for both shards: the commits carry several and the acks come together.
    let mut client = node.connect();
    let sent: Vec<u8> = (0..400).flat_map(|at| [PUBLISH, (at % 4) as u8]).collect();
    client.write_all(&sent).unwrap();
    let mut next = [2 * EACH; 4];
    for _ in 0..400 {
        let (partition, offset) = read_published(&mut client);
        assert_eq!(offset, next[usize::from(partition)]);
        next[usize::from(partition)] += 1;
    }
    assert_eq!(next, [2 * EACH + 100; 4]);
}

fn read_published(client: &mut TcpStream) -> (u8, u64) {
    let mut answer = [0; PUBLISHED_BYTES];
    client.read_exact(&mut answer).unwrap();
    (answer[0], u64::from_le_bytes(answer[1..].try_into().unwrap()))
}

/// All that comes until the end; a reset counts as one.
fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match client.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    all
}
