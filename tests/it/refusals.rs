//! What the http door says no to on the real server, and that the rest goes on: a disk that is full, a disk that stands still,
//! and bytes that are not what they should be.

use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::answer::{Answer, exchange};
use crate::disks::Disk;
use crate::folder;
use crate::full::everything;
use crate::harness::{PATIENCE, Server};
use crate::http::curl;

/// A file with data, as an argument of curl.
fn data(folder: &Path, bytes: usize) -> String {
    let path = folder.join("event");
    std::fs::write(&path, vec![b'x'; bytes]).expect("it can be written");
    format!("@{}", path.display())
}

const EVENT: [&str; 8] =
    ["-H", "ce-specversion: 1.0", "-H", "ce-source: /s", "-H", "ce-type: t", "-H", "ce-id: 1"];
const PLAIN: [&str; 2] = ["-H", "content-type: application/octet-stream"];

fn publish(server: &Server, data: &str) -> Answer {
    curl(server, "/topics/full/a", &[&EVENT[..], &PLAIN, &["--data-binary", data]].concat())
}

/// Where an event stands, as `everything` says it.
fn place(answer: &Answer) -> (String, u64, u64) {
    assert_eq!(answer.status, 202, "{answer:?}");
    let answer = answer.json();
    let number = |name: &str| answer[name].as_u64().expect("a number");
    (answer["topic"].as_str().expect("a topic").to_owned(), number("partition"), number("offset"))
}

/// Publishes until the disk is full; where the acknowledged events stand.
fn fill(server: &Server, data: &str) -> Vec<(String, u64, u64)> {
    let mut places = Vec::new();
    loop {
        let answer = publish(server, data);
        if answer.status != 202 {
            answer.is_problem(507, "disk_full");
            return places;
        }
        places.push(place(&answer));
    }
}

/// Polls and acknowledges one event of a group; its id.
fn take_one(server: &Server, query: &str) -> Value {
    let answer = curl(server, &format!("/poll?filter=full/%23&group=g&max=1&{query}"), &[]);
    let events = answer.json()["events"].clone();
    assert_eq!(events.as_array().map(Vec::len), Some(1), "reading goes on: {answer:?}");
    let body = json!({ "tokens": [events[0]["token"]] }).to_string();
    assert_eq!(curl(server, "/ack", &["-d", &body]).json()["settled"], 1);
    events[0]["offset"].clone()
}

/// A full disk must cost no more than new events: reading and acknowledging go on, what was acknowledged survives a kill, and
/// service is back as soon as there is room.
#[test]
fn a_full_disk_is_507_and_nothing_else() {
    let folder = folder::new();
    let disk = Disk::in_file(folder.path(), 96 << 20);
    let data = data(folder.path(), 256 << 10);
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 40 << 20]).expect("there is room for it");
    let (dir, flags) = (disk.path().join("data"), ["--shards", "1"]);
    let mut server = Server::start_with(&dir, &flags);
    server.expect_full_disk();
    let mut acknowledged = fill(&server, &data);
    assert!(acknowledged.len() > 10, "{} events were taken", acknowledged.len());
    // The other door says the same, and a batch says it of each event.
    let event = json!({ "specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": "x".repeat(300_000) });
    let (path, batch) = (folder.path().join("batch"), json!([event, event]).to_string());
    std::fs::write(&path, batch).expect("it can be written");
    let batched = "content-type: application/cloudevents-batch+json";
    let body = format!("@{}", path.display());
    let answer = curl(&server, "/topics/full/a", &["-H", batched, "--data-binary", &body]);
    assert_eq!((answer.status, &answer.json()[1]["status"]), (207, &json!(507)), "{answer:?}");
    let mesh = curl(&server, "/events/publish-batch?topic=full/a", &["--data-binary", &body]);
    mesh.is_problem(507, "disk_full");
    take_one(&server, "from=earliest&timeout_ms=20000");
    take_one(&server, "timeout_ms=20000");
    server.kill();

    let mut server = Server::start_with(&dir, &flags);
    server.expect_full_disk();
    let kept = everything(&server);
    let lost: Vec<_> = acknowledged.iter().filter(|place| !kept.contains(place)).collect();
    assert!(lost.is_empty(), "a kill while full has lost {lost:?}");
    take_one(&server, "timeout_ms=20000");
    acknowledged.extend(fill(&server, &data));
    std::fs::remove_file(&ballast).expect("it is there");
    let deadline = Instant::now() + PATIENCE;
    let answer = loop {
        let answer = publish(&server, &data);
        if answer.status == 202 {
            break answer;
        }
        assert!(Instant::now() < deadline, "service resumes: {answer:?}");
    };
    acknowledged.push(place(&answer));
    let kept = everything(&server);
    assert!(acknowledged.iter().all(|place| kept.contains(place)), "nothing is lost");
    assert!(server.stop().success());
}

/// A disk that stands still: who finds no room is told when to come back, and nobody who was told 202 loses anything; what
/// was taken before is answered once the disk goes on.
#[test]
fn a_disk_that_stands_still_is_429() {
    const CLIENTS: usize = 64;
    let folder = folder::new();
    let disk = Disk::in_file(folder.path(), 256 << 20);
    let data = data(folder.path(), 1 << 20);
    let server = Server::start_with(&disk.path().join("data"), &["--shards", "1"]);
    let mut acknowledged = vec![place(&publish(&server, &data))];
    disk.freeze();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let (sender, answers) = mpsc::channel();
        for _ in 0..CLIENTS {
            let (sender, server, data) = (sender.clone(), &server, &data);
            scope.spawn(move || sender.send(publish(server, data)).expect("it is awaited"));
        }
        let first = answers.recv_timeout(PATIENCE);
        disk.thaw();
        let rest = (1..CLIENTS).map(|_| answers.recv_timeout(PATIENCE).expect("all are answered"));
        first.into_iter().chain(rest).collect()
    });
    let refused = &answers[0];
    refused.is_problem(429, "overloaded");
    assert!(refused.head.contains("retry-after: 1"), "{refused:?}");
    for answer in &answers {
        match answer.status {
            202 => acknowledged.push(place(answer)),
            _ => drop(answer.is_problem(429, "overloaded")),
        }
    }
    assert!(acknowledged.len() > 1, "what was taken is acknowledged");
    let kept = everything(&server);
    let lost: Vec<_> = acknowledged.iter().filter(|place| !kept.contains(place)).collect();
    assert!(lost.is_empty(), "{lost:?} were acknowledged");
    assert_eq!(kept.len(), acknowledged.len(), "who was told to come back was not stored");
    assert!(server.stop().success());
}

/// One request, as bytes; the door must answer it and serve the next connection.
fn raw(server: &Server, head: &str, body: &[u8]) -> Answer {
    let length = body.len();
    let head = format!("{head}host: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    // Latin-1, so that a test can say any byte in a header.
    let mut bytes: Vec<u8> =
        head.chars().map(|byte| u8::try_from(byte).expect("Latin-1")).collect();
    bytes.extend_from_slice(body);
    exchange(server.http(), &bytes)
}

/// Text that is no UTF-8 must be refused by name wherever it may stand: kept, it would break every reader of the event.
#[test]
fn text_that_is_not_utf8_is_refused_wherever_it_stands() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    let event = "POST /topics/a HTTP/1.1\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\n";
    let refused = |head: &str, body: &[u8]| {
        let answer = raw(&server, head, body);
        answer.is_problem(400, "not_utf8")["field"].as_str().expect("a field").to_owned()
    };
    assert_eq!(refused(&event.replace("/a ", "/a%ff "), b"x"), "url");
    assert_eq!(refused(&format!("{event}ce-colour: \u{ff}\r\n"), b"x"), "ce-colour");
    assert_eq!(refused(&format!("{event}ce-colour: %ff\r\n"), b"x"), "ce-colour");
    assert_eq!(refused(&format!("{event}content-type: text/\u{e4}\r\n"), b"x"), "content-type");
    let json = format!("{event}content-type: application/json\r\n");
    assert_eq!(refused(&json, b"\"\xff\""), "data");
    let bad = b"{\"specversion\":\"1.0\",\"id\":\"\xff\",\"source\":\"/s\",\"type\":\"t\"}";
    let structured = "POST /topics/a HTTP/1.1\r\ncontent-type: application/cloudevents+json\r\n";
    assert_eq!(refused(structured, bad), "body");
    let batched = "POST /topics/a HTTP/1.1\r\ncontent-type: application/cloudevents-batch+json\r\n";
    assert_eq!(refused(batched, &[b"[", &bad[..], b"]"].concat()), "body");
    for path in ["/ack", "/nack", "/events/ack", "/events/subscribe", "/events/unsubscribe"] {
        let head = format!("POST {path} HTTP/1.1\r\n");
        assert_eq!(refused(&head, b"{\"tokens\":[\"\xff\"]}"), "body", "{path}");
    }
    for path in
        ["/poll?filter=%ff&group=g", "/subscribe?filter=a&group=%ff", "/events/poll?clientId=%ff"]
    {
        assert_eq!(refused(&format!("GET {path} HTTP/1.1\r\n"), b""), "url", "{path}");
    }
    let stream = "GET /subscribe?filter=a HTTP/1.1\r\nlast-event-id: \u{ff}\r\n";
    assert_eq!(refused(stream, b""), "last-event-id");
    // Bytes that no URL may have end the connection before there is a request.
    assert_eq!(raw(&server, "GET /poll?filter=\u{1} HTTP/1.1\r\n", b"").status, 400);
    assert_eq!(raw(&server, event, b"\xff\xfe").status, 202, "data without a type is any bytes");
    assert!(server.stop().success());
}

/// What stands twice, is of another version or too deep must be refused by name, in every mode: which of two would count?
#[test]
fn what_stands_twice_or_too_deep_is_refused() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    let event = "POST /topics/a HTTP/1.1\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\n";
    let refused = |head: &str, body: &str, code: &str| {
        let problem = raw(&server, head, body.as_bytes()).is_problem(400, code);
        problem["field"].as_str().expect("a field").to_owned()
    };
    for name in ["ce-id", "ce-specversion", "ce-colour"] {
        let twice = format!("{event}{name}: 1.0\r\n{name}: 1.0\r\n");
        assert_eq!(refused(&twice, "x", "malformed_event"), name);
    }
    let one = format!("{event}content-type: text/plain\r\n");
    let twice = format!("{one}content-type: text/plain\r\n");
    assert_eq!(refused(&twice, "x", "malformed_request"), "content-type");
    let twice = format!("{one}content-encoding: gzip\r\ncontent-encoding: identity\r\n");
    assert_eq!(refused(&twice, "x", "malformed_request"), "content-encoding");
    let twice = "GET /subscribe?filter=a HTTP/1.1\r\nlast-event-id: a\r\nlast-event-id: b\r\n";
    assert_eq!(refused(twice, "", "malformed_request"), "last-event-id");
    let twice = "GET /poll?filter=a&filter=b&group=g HTTP/1.1\r\n";
    assert_eq!(refused(twice, "", "malformed_request"), "filter");
    for version in ["0.3", "1.1", "", "1"] {
        let head = event.replace("specversion: 1.0", &format!("specversion: {version}"));
        assert_eq!(refused(&head, "x", "malformed_event"), "specversion", "{version}");
    }
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let json = format!("{event}content-type: application/json\r\n");
    assert_eq!(refused(&json, &deep(129), "malformed_event"), "nesting depth");
    assert_eq!(raw(&server, &json, deep(128).as_bytes()).status, 202);
    let whole = |depth| {
        format!(
            r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{}}}"#,
            deep(depth)
        )
    };
    let structured = "POST /topics/a HTTP/1.1\r\ncontent-type: application/cloudevents+json\r\n";
    assert_eq!(refused(structured, &whole(128), "malformed_event"), "nesting depth");
    assert_eq!(raw(&server, structured, whole(127).as_bytes()).status, 202);
    let mesh = "POST /events/publish?topic=a HTTP/1.1\r\n";
    assert_eq!(refused(mesh, &whole(128), "malformed_event"), "nesting depth");
    // Of a batch the deep one alone.
    let batched = "POST /topics/a HTTP/1.1\r\ncontent-type: application/cloudevents-batch+json\r\n";
    let body = format!("[{},{}]", whole(127), whole(128));
    let answer = raw(&server, batched, body.as_bytes());
    assert_eq!((answer.status, answer.json()[1]["limit"].clone()), (207, json!(128)), "{answer:?}");
    let tokens = format!("{{\"tokens\":{}}}", deep(200));
    assert_eq!(refused("POST /ack HTTP/1.1\r\n", &tokens, "malformed_request"), "tokens");
    assert!(server.stop().success());
}
