//! Peers that do not do their part, and very many that do.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::{Duration, Instant};

use codec::frame::Frame;
use ringmesh_client::{Client, ClientOptions, Event, SubscribeOptions};
use tokio::time::timeout;

use crate::folder;
use crate::harness::{PATIENCE, Server, signal};
use crate::peer::{Peer, frame_of, ping, subscribe};

/// Sends pings until the server has closed the connection, without reading more than `at_a_time` bytes between them.
fn wait_until_closed(peer: &mut Peer, at_a_time: usize) {
    let deadline = Instant::now() + PATIENCE;
    let mut bytes = vec![0; at_a_time];
    loop {
        use std::io::Write;
        if peer.stream.write_all(&ping(1)).is_err() {
            return;
        }
        if at_a_time > 0 && peer.stream.read(&mut bytes).is_err() {
            return;
        }
        assert!(Instant::now() < deadline, "the server keeps a peer that takes nothing");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// A subscriber that never reads, and one that takes a byte now and then, must hold up nobody and must go: their backlog
/// is memory that others need.
#[test]
fn deaf_subscribers_cost_only_themselves() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--set", "native.slow_peer_timeout=500ms"]);
    let mut deaf = [Peer::open(&server, "deaf"), Peer::open(&server, "byte by byte")];
    for peer in &mut deaf {
        peer.send(&subscribe(None, "load/#", 8_192));
        let answer = peer.next().expect("the server answers");
        assert!(matches!(frame_of(&answer), (7, Frame::Subscribed)), "{answer:?}");
    }
    let mut other = server.command(&["subscribe", "load/#", "--count", "30", "-o", "json"]);
    other.wait_until_subscribed();
    let file = folder.path().join("half a MiB");
    std::fs::write(&file, vec![b'x'; 512 << 10]).expect("it can be written");
    let data = format!("@{}", file.display());
    server.command(&["publish", "load/a", &data, "--count", "30", "--batch", "1"]).done();
    assert_eq!(other.done().len(), 30, "others are given everything");
    let [never, now_and_then] = &mut deaf;
    wait_until_closed(never, 0);
    wait_until_closed(now_and_then, 1);
    server.command(&["publish", "load/a", "x"]).done();
    assert!(server.stop().success());
}

/// A member that vanishes without a word, with deliveries in its hands, is found out by its silence; what it held goes to
/// another member long before any deadline for acknowledging it.
#[test]
fn a_member_that_vanishes_gives_back_what_it_held() {
    let folder = folder::new();
    let flags =
        ["native.ping_interval=200ms", "native.idle_timeout=1s", "delivery.ack_deadline=1h"];
    let flags: Vec<&str> = flags.iter().flat_map(|flag| ["--set", flag]).collect();
    let server = Server::start_with(folder.path(), &flags);
    let member = ["subscribe", "work/#", "--group", "g", "-o", "json"];
    let mut stopped = server.command(&member);
    stopped.wait_until_subscribed();
    let mut silent = Peer::open(&server, "silent");
    silent.send(&subscribe(Some("g"), "work/#", 1_000));
    let answer = silent.next().expect("the server answers");
    assert!(matches!(frame_of(&answer), (7, Frame::Subscribed)), "{answer:?}");
    signal(stopped.id(), "STOP");
    server.command(&["publish", "work/a", "x", "--count", "40", "--batch", "1"]).done();
    let mut other = server.command(&member);
    let given: BTreeSet<(u64, u64)> = (0..40)
        .map(|_| {
            let line = other.json();
            let number = |name: &str| line[name].as_u64().expect("a number");
            (number("partition"), number("offset"))
        })
        .collect();
    assert_eq!(given.len(), 40, "each once");
    let last = std::iter::from_fn(|| silent.next()).last().expect("it was told why");
    assert!(matches!(frame_of(&last), (_, Frame::Refusal(refusal)) if refusal.closes), "{last:?}");
    drop(stopped);
    assert!(server.stop().success());
}

fn resident_bytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("KiB");
    kib << 10
}

/// A thousand clients that publish and subscribe at once: everybody is given everything, exactly what is theirs, and the
/// server's memory stays far from what a thousand buffers would take.
#[tokio::test]
async fn a_thousand_clients_at_once() {
    const CLIENTS: usize = 1_000;
    const EVENTS: usize = 10;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let before = resident_bytes(server.id());
    let mut clients = tokio::task::JoinSet::new();
    let all_subscribed = std::sync::Arc::new(tokio::sync::Barrier::new(CLIENTS));
    for number in 0..CLIENTS {
        let (address, barrier) = (server.address().to_string(), all_subscribed.clone());
        clients.spawn(async move {
            let options = ClientOptions::new(address).client_id(format!("client-{number}"));
            let client = Client::connect(options).await.expect("the server is there");
            let wish = SubscribeOptions::new(format!("all/{number}"));
            let mut subscription = client.subscribe(wish).await.expect("it can subscribe");
            barrier.wait().await;
            let topic = format!("all/{}", (number + 1) % CLIENTS);
            let mut acks = Vec::new();
            for event in 0..EVENTS {
                let event = Event::text(format!("{event} of {number}")).key("k");
                acks.push(client.publish(&topic, &event).await.expect("it is taken"));
            }
            let from = (number + CLIENTS - 1) % CLIENTS;
            let mut got = Vec::new();
            while got.len() < EVENTS {
                let delivery = subscription.next().await.expect("it stands").expect("it goes on");
                let texts = delivery.events();
                got.extend(
                    texts.map(|(_, event)| String::from_utf8_lossy(event.data()).into_owned()),
                );
                delivery.ack();
            }
            let expected: Vec<String> =
                (0..EVENTS).map(|event| format!("{event} of {from}")).collect();
            assert_eq!(got, expected);
            for ack in acks {
                ack.await.expect("it is acknowledged");
            }
            client
        });
    }
    let all = timeout(PATIENCE, clients.join_all()).await.expect("everybody is given everything");
    let grown = resident_bytes(server.id()).saturating_sub(before);
    assert!(grown < 256 << 20, "the server has grown by {grown} bytes");
    drop(all);
    server.command(&["publish", "a", "x"]).done();
    assert!(server.stop().success());
}
