//! Retention on the real server, with small segments and short lives: the disk takes no more than the policy says and what
//! docs/topics.md says comes to it, and whoever comes too late begins at the first event that is kept, and is told.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;

use crate::admin::get;
use crate::answer::exchange;
use crate::folder;
use crate::harness::{PATIENCE, Server, run};
use crate::http::Stream;

const SEGMENT: u64 = 4 << 20;
/// How much of the topic is kept.
const KEPT: u64 = 4 << 20;
/// One segment that is over in part, the active one, the next, two spare ones; indexes, checkpoints and the catalog.
const SLACK: u64 = 5 * SEGMENT + (2 << 20);
/// Bytes of an event.
const EVENT: usize = 64 << 10;

/// A command with the admin port of this server, which must end well.
fn ask(server: &Server, arguments: &[&str]) -> Value {
    let admin = server.admin().to_string();
    let lines = run(&[arguments, &["--admin", &admin, "-o", "json"]].concat()).done();
    serde_json::from_str(&lines[0]).expect("an object")
}

/// Bytes that the files below a folder take on the disk.
fn taken(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("it is a folder");
    let size = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.expect("it can be listed").path();
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() => taken(&path),
            Ok(found) => found.blocks() * 512,
            // It went meanwhile.
            Err(_) => 0,
        }
    };
    entries.map(size).sum()
}

/// What a client of the http door gets in one poll, and acknowledges: the offset of the event, and what it is told of a
/// gap.
fn poll(server: &Server) -> (Option<u64>, Value) {
    let request = "GET /poll?filter=kept%2Ft&group=web&from=earliest&max=1&timeout_ms=5000 HTTP/1.1\r\n\
                   host: localhost\r\nconnection: close\r\n\r\n";
    let answer = exchange(server.http(), request.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    let polled = answer.json();
    let event = &polled["events"][0];
    let body = format!("{{\"tokens\":[{}]}}", event["token"]);
    let request = format!(
        "POST /ack HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = exchange(server.http(), request.as_bytes());
    assert_eq!(answer.status, 200, "{answer:?} to {body}");
    (event["offset"].as_u64(), polled["gap"].clone())
}

/// A stream of its own reader, which was given this id when it was here last.
fn stream(server: &Server, last_event_id: Option<&str>) -> Stream {
    let came_back = last_event_id.map(|id| format!("last-event-id: {id}"));
    let header: Vec<&str> = came_back.iter().flat_map(|header| ["-H", header]).collect();
    Stream::open_at(server, "/subscribe?filter=kept%2Ft&from=earliest", &header)
}

/// The next line that is not empty and not the time of the next try.
fn line(stream: &Stream) -> String {
    let mut lines = std::iter::repeat_with(|| stream.line());
    let said = lines.find(|line| !line.is_empty() && !line.starts_with("retry:"));
    said.expect("it goes on")
}

/// The aim of a retention is that the disk does not fill, and that nobody takes a gap for the whole.
#[test]
fn disk_stays_within_the_policy_and_late_readers_are_told() {
    let folder = folder::new();
    let data = folder.path().join("data");
    let event = folder.path().join("event");
    fs::write(&event, vec![b'x'; EVENT]).expect("it can be written");
    let event = format!("@{}", event.display());
    let mut server = Server::start_with(&data, &["--shards", "1"]);
    server.expect_line("took events before a group came to them");
    ask(&server, &["topic", "set", "kept/#", "--retention-bytes", "4MiB"]);
    ask(&server, &["topic", "set", "brief/#", "--retention-age", "1s"]);
    server.command(&["publish", "kept/t", "first", "--key", "k"]).done();
    ask(&server, &["subscription", "create", "slow", "--filter", "kept/t", "--from", "earliest"]);
    assert_eq!(poll(&server), (Some(0), Value::Null));
    let (id, read) = stream(&server, None).event();
    assert_eq!(read["offset"], 0);

    for round in 0..3 {
        // What is kept would keep what comes behind it.
        for (topic, count) in [("brief/t", "100"), ("kept/t", "300")] {
            let publish = ["publish", topic, &event, "--key", "k", "--count", count, "--quiet"];
            server.command(&publish).done();
        }
        let until = Instant::now() + PATIENCE;
        while taken(&data) > KEPT + SLACK {
            assert!(Instant::now() < until, "{} bytes in round {round}", taken(&data));
            assert_eq!(get(&server, "/readyz").status, 200);
        }
    }
    let shown = ask(&server, &["topic", "show", "kept/t"]);
    let place = &shown["partitions"][0];
    let (first, next) = (place["first_offset"].as_u64(), place["next_offset"].as_u64());
    let (first, next) = (first.expect("a number"), next.expect("a number"));
    assert_eq!(next, 901);
    assert!((next - first) * EVENT as u64 >= KEPT, "no less is kept than was said: {shown}");
    assert!(first > 600, "and not much more: {shown}");

    let late = ["subscribe", "kept/t", "--group", "slow", "--until-end", "--format", "%o\\n"];
    let offsets: Vec<u64> =
        server.command(&late).done().iter().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(offsets, (first..next).collect::<Vec<_>>(), "from the first that is kept");
    let (offset, gap) = poll(&server);
    assert_eq!(offset, Some(first), "by http, too");
    assert!(gap.get("events").is_some(), "and told: {gap}");
    let resumed = stream(&server, Some(&id));
    assert_eq!(line(&resumed), "event: gap");
    assert!(line(&resumed).starts_with("data: {\"events\":"));
    let (id, next) = resumed.event();
    assert_eq!(next["offset"], first, "what is kept comes behind the gap");
    // Who has missed nothing, or begins, is told of nothing.
    for last_event_id in [Some(&*id), None] {
        let told = line(&stream(&server, last_event_id));
        assert!(told.starts_with("id: "), "{told}");
    }
    let metrics = get(&server, "/metrics");
    assert!(metrics.sum("ringmesh_read_passed_positions_total") > 0.0, "groups were told");
    assert!(server.said().iter().any(|line| line.contains("took events before a group")));
    assert!(server.stop().success());
}
