//! One budget bounds the server's memory, whatever its clients do.

use std::fmt::Write as _;
use std::io::Write;

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use codec::frame::{Hello, Kind, Subscribe, WireMode, WireStart};

use crate::folder;
use crate::harness::{Server, run};

const EVENTS: usize = 8_000;
const EVENT_BYTES: usize = 20_000;
const BUDGET_MIB: u64 = 100;
const HALF_FRAMES: usize = 300;
const FRAME_BYTES: usize = 1 << 20;

/// The most memory that a process had, in bytes.
fn most_memory(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes =
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.expect("the kernel tells") << 10
}

/// A peer that wants everything and takes nothing.
fn stuck(server: &Server, number: u32) -> std::net::TcpStream {
    let mut stream = server.connect();
    let mut bytes = Vec::new();
    Hello::new(&format!("stuck-{number}")).encode(&mut bytes);
    let group = format!("stuck-{number}");
    let wish = Subscribe {
        group: Some(&group),
        filter: "load/#",
        mode: WireMode::Clustering,
        start: WireStart::Default,
        credit: 10_000,
    };
    wish.encode(1, &mut bytes);
    stream.write_all(&bytes).expect("the server reads");
    stream
}

/// Slow subscribers and heavy publishing must not add up: memory stays within the budget and the stated rest, all is
/// taken, and whoever takes what comes gets all of it.
#[test]
fn memory_stays_within_its_budget() {
    let folder = folder::new();
    let budget = format!("limits.memory_bytes_max={BUDGET_MIB}MiB");
    let mut flags = vec!["--shards", "1", "--set", &budget];
    flags.extend(["--set", "limits.connections_max=100", "--set", "native.slow_peer_timeout=1s"]);
    let server = Server::start_with(folder.path(), &flags);
    let count = EVENTS.to_string();
    let mut good = server.command(&["subscribe", "load/#", "--group", "good", "--count", &count]);
    good.wait_until_subscribed();
    let peers: Vec<_> = (0..40).map(|number| stuck(&server, number)).collect();
    let data = folder.path().join("data.txt");
    let mut text = String::new();
    while text.len() < EVENT_BYTES {
        write!(text, "line {} ", text.len()).expect("memory takes it");
    }
    std::fs::write(&data, &text).expect("the folder takes it");
    let data = format!("@{}", data.display());
    server.command(&["publish", "load/x", &data, "--count", &count, "--batch", "4"]).done();
    let got = good.done();
    assert!(got.len() == EVENTS, "{} of {EVENTS} events came", got.len());
    let most = most_memory(server.id());
    let limit = (BUDGET_MIB << 20) + ringmesh::server::memory::OVERSHOOT_BYTES;
    assert!(most < limit, "{} MiB, more than {} MiB", most >> 20, limit >> 20);
    drop(peers);
    let after = ["publish", "load/x", "after", "--count", "100"];
    server.command(&after).done();
    let late = server.command(&["subscribe", "load/#", "--group", "good", "--count", "100"]);
    assert_eq!(late.done().len(), 100, "whoever comes after them is served");
    assert!(server.stop().success());
}

/// Sends a publish but for its last byte, says so, and ends it when `go` is set; waits for the answer.
fn half_a_frame(mut stream: std::net::TcpStream, begun: &mpsc::Sender<()>, go: &AtomicBool) {
    let mut bytes = Vec::new();
    Hello::new("half").encode(&mut bytes);
    let body = vec![0; FRAME_BYTES];
    codec::frame::encode_plain(Kind::Publish, 7, &body, &mut bytes);
    let last = bytes.pop().expect("it has a body");
    stream.write_all(&bytes).expect("the server reads, in turn");
    // The test may have seen enough before this one came to its end.
    let _ = begun.send(());
    while !go.load(Ordering::Acquire) {
        std::thread::park();
    }
    stream.write_all(&[last]).expect("the server reads");
    // A batch of zeros is none: the refusal comes behind the welcome.
    let mut answer = [0; 16 + 72 + 16];
    stream.read_exact(&mut answer).expect("every frame is answered");
    assert_eq!(answer[16 + 72 + 4], Kind::Refusal.number());
}

/// Peers that begin large frames and do not end them: each costs little by itself, and together they must not take the
/// memory of the others. Whoever has to wait comes through once they end.
#[test]
fn half_frames_stay_within_the_budget() {
    let folder = folder::new();
    let budget = format!("limits.memory_bytes_max={BUDGET_MIB}MiB");
    let flags = [
        "--shards",
        "1",
        "--set",
        &budget,
        "--set",
        "limits.connections_max=400",
        "--set",
        "native.hello_timeout=1m",
    ];
    let server = Server::start_with(folder.path(), &flags);
    let go = Arc::new(AtomicBool::new(false));
    let (sender, begun) = mpsc::channel();
    let peers: Vec<_> = (0..HALF_FRAMES)
        .map(|_| {
            let (stream, sender, go) = (server.connect(), sender.clone(), go.clone());
            std::thread::spawn(move || half_a_frame(stream, &sender, &go))
        })
        .collect();
    for _ in 0..2 {
        begun.recv().expect("two frames are read at once");
    }
    server.command(&["publish", "load/x", "small", "--count", "1000"]).done();
    go.store(true, Ordering::Release);
    peers.iter().for_each(|peer| peer.thread().unpark());
    for peer in peers {
        peer.join().expect("its frame is answered");
    }
    let most = most_memory(server.id());
    let limit = (BUDGET_MIB << 20) + ringmesh::server::memory::OVERSHOOT_BYTES;
    assert!(most < limit, "{} MiB, more than {} MiB", most >> 20, limit >> 20);
    assert!(server.stop().success());
}

/// A budget that cannot hold what is configured is refused at the start, with what would do.
#[test]
fn a_budget_that_is_too_small_is_refused() {
    let folder = folder::new();
    let path = folder.path().join("data");
    let path = path.to_str().expect("its name is text");
    let flags = ["--shards", "4", "--set", "limits.memory_bytes_max=128MiB"];
    let mut arguments = vec!["serve", "--data", path, "--set", "native.listen=127.0.0.1:0"];
    arguments.extend(["--admin", "off", "--http", "off"]);
    arguments.extend(flags);
    let ended = run(&arguments).end();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    for part in ["memory_bytes_max is 128MiB", "4 shards", "raise limits.memory_bytes_max"] {
        assert!(ended.stderr.contains(part), "{part:?} is not in {}", ended.stderr);
    }
}
