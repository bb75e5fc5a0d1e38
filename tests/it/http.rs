//! The http door of the real server, with curl, the client that everybody has, and with bytes that no client would send.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::answer::{Answer, exchange};
use crate::folder;
use crate::harness::{PATIENCE, Server};

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.http())
}

/// Runs curl on a path of the door.
pub fn curl(server: &Server, path: &str, arguments: &[&str]) -> Answer {
    let mut command = Command::new("curl");
    command.args(["-sS", "-i", "--max-time", "60"]).args(arguments).arg(url(server, path));
    let output = command.output().expect("curl is there");
    assert!(output.status.success(), "{path} {arguments:?}: {output:?}");
    Answer::of(&String::from_utf8(output.stdout).expect("UTF-8"))
}

const EVENT: [&str; 8] = [
    "-H",
    "ce-specversion: 1.0",
    "-H",
    "ce-source: /test",
    "-H",
    "ce-type: test",
    "-H",
    "content-type: application/json",
];

/// Publishes one event in binary mode.
fn publish(server: &Server, topic: &str, id: &str, more: &[&str]) -> Answer {
    let (id, data) = (format!("ce-id: {id}"), format!("{{\"id\":\"{id}\"}}"));
    let event = [&EVENT[..], &["-H", &id, "-d", &data], more].concat();
    curl(server, &format!("/topics/{topic}"), &event)
}

fn poll(server: &Server, query: &str) -> Vec<Value> {
    let answer = curl(server, &format!("/poll?{query}"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["events"].as_array().expect("a list").clone()
}

fn settle(server: &Server, path: &str, events: &[Value]) -> Answer {
    let tokens: Vec<&Value> = events.iter().map(|event| &event["token"]).collect();
    curl(server, path, &["-d", &json!({ "tokens": tokens }).to_string()])
}

fn ids(events: &[Value]) -> Vec<String> {
    let id = |event: &Value| event["event"]["id"].as_str().expect("an id").to_owned();
    events.iter().map(id).collect()
}

/// A stream of events that curl reads.
pub struct Stream {
    child: Child,
    lines: Receiver<String>,
}

impl Stream {
    fn open(server: &Server, query: &str, arguments: &[&str]) -> Stream {
        Stream::open_at(server, &format!("/subscribe?{query}"), arguments)
    }

    pub fn open_at(server: &Server, path: &str, arguments: &[&str]) -> Stream {
        let mut command = Command::new("curl");
        command.args(["-sSN"]).args(arguments).arg(url(server, path));
        let mut child = command.stdout(Stdio::piped()).spawn().expect("curl is there");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let stream = Stream { child, lines };
        assert_eq!(stream.line(), ": subscribed", "the first line says that it stands");
        stream
    }

    /// The next line.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line comes")
    }

    /// The next event, with its id.
    pub fn event(&self) -> (String, Value) {
        let mut id = String::new();
        loop {
            let line = self.line();
            if let Some(found) = line.strip_prefix("id: ") {
                id = found.to_owned();
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return (id, serde_json::from_str(data).expect("JSON on one line"));
            }
        }
    }

    /// Reads to the end.
    pub fn end(mut self) {
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        let _ = self.child.wait();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a new user does first: publish, ask for it, say that it is done, and never see it again.
#[test]
fn curl_publishes_polls_and_acknowledges() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let answer = publish(&server, "orders/new", "a", &[]);
    assert_eq!(answer.status, 202, "{answer:?}");
    let answer = answer.json();
    assert_eq!((&answer["topic"], &answer["ack"]), (&json!("orders/new"), &json!("durable")));
    let keyed = ["-H", "ce-partitionkey: k"];
    let answer = publish(&server, "orders/new", "b", &keyed).json();
    // The partition that every other client and door gives this key.
    assert_eq!(answer["partition"], codec::murmur2::partition_of(b"k", 64).0);
    let query = "filter=orders/%23&group=g&from=earliest&timeout_ms=20000";
    let mut found = poll(&server, &format!("{query}&max=1"));
    // Nobody else gets what is not settled, and its key keeps no other from going.
    found.extend(poll(&server, &format!("{query}&max=1")));
    let mut seen = ids(&found);
    seen.sort();
    assert_eq!(seen, ["a", "b"]);
    assert_eq!(found[0]["topic"], "orders/new");
    assert_eq!(found[0]["attempt"], 1);
    assert!(found[0]["event"]["data"]["id"].is_string(), "{found:?}");
    // Handed back it comes again, settled it does not; by whatever connection.
    assert_eq!(settle(&server, "/nack", &found[..1]).json()["settled"], 1);
    assert_eq!(settle(&server, "/ack", &found[1..]).json()["settled"], 1);
    let again = poll(&server, query);
    assert_eq!((ids(&again), &again[0]["attempt"]), (ids(&found[..1]), &json!(2)));
    assert_eq!(settle(&server, "/ack", &again).json(), json!({ "settled": 1, "stale": [] }));
    settle(&server, "/ack", &again).is_problem(409, "stale_token");
    assert_eq!(poll(&server, "filter=orders/%23&group=g&timeout_ms=1"), Vec::<Value>::new());
    assert!(server.stop().success());
}

/// One bad event must not take the others of its batch with it, and the answer must say which is which.
#[test]
fn batches_are_answered_in_order() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let event = |id: usize, key: &str| json!({ "specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t", "partitionkey": key, "data": id });
    let batched = "content-type: application/cloudevents-batch+json";
    let events: Vec<Value> = (0..50).map(|id| event(id, &format!("k{}", id % 7))).collect();
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let body = Value::from(events.clone()).to_string();
        let answer = curl(&server, "/topics/b/x", &[version, "-H", batched, "-d", &body]);
        assert_eq!(answer.status, 202, "{answer:?}");
        let answers = answer.json();
        let answers = answers.as_array().expect("a list");
        assert_eq!(answers.len(), 50);
        for (event, answer) in events.iter().zip(answers) {
            let key = event["partitionkey"].as_str().expect("it has one");
            assert_eq!(answer["partition"], codec::murmur2::partition_of(key.as_bytes(), 64).0);
        }
    }
    let mut mixed = events[..3].to_vec();
    mixed[1] = json!({ "specversion": "1.0", "id": "x", "source": "/s" });
    let body = Value::from(mixed).to_string();
    let answer = curl(&server, "/topics/b/x", &["-H", batched, "-d", &body]);
    assert_eq!(answer.status, 207, "{answer:?}");
    let answers = answer.json();
    assert_eq!(answers[0]["ack"], "durable");
    assert_eq!(
        (&answers[1]["code"], &answers[1]["field"]),
        (&json!("malformed_event"), &json!("type"))
    );
    assert_eq!(answers[2]["ack"], "durable");
    assert_eq!(curl(&server, "/topics/b/x", &["-H", batched, "-d", "[]"]).json(), json!([]));
    // A poll answers as soon as there is something.
    let mut found = 0;
    while found < 102 {
        let some = poll(&server, "filter=b/x&group=g&from=earliest&max=1000&timeout_ms=20000");
        assert!(!some.is_empty(), "{found} of 102 events came");
        found += some.len();
        assert_eq!(settle(&server, "/ack", &some).json()["settled"], some.len());
    }
    assert_eq!(found, 102, "every event that was not refused, and no other");
    assert!(server.stop().success());
}

/// A consumer on the native protocol and one on HTTP share the work of one group.
#[test]
fn groups_are_shared_with_native_members() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    for id in 0..20 {
        assert_eq!(publish(&server, "s/x", &id.to_string(), &[]).status, 202);
    }
    let query = "filter=s/%23&group=g&from=earliest&max=5&timeout_ms=20000";
    let over_http = poll(&server, query);
    assert!(!over_http.is_empty() && over_http.len() <= 5, "{over_http:?}");
    assert_eq!(settle(&server, "/ack", &over_http).json()["settled"], over_http.len());
    let rest = (20 - over_http.len()).to_string();
    let native = ["subscribe", "s/#", "--group", "g", "--count", &rest, "-o", "json"];
    let lines = server.command(&native).done();
    let mut seen = ids(&over_http);
    seen.extend(lines.iter().map(|line| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        line["event"]["id"].as_str().expect("an id").to_owned()
    }));
    seen.sort_by_key(|id| id.parse::<u32>().expect("a number"));
    assert_eq!(seen, (0..20).map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(server.stop().success());
}

/// The first thing that a new user tries to break: kill the server between publishing and reading, and read on where the
/// reader was. Nothing may be missing, and with the id of the last event nothing comes twice.
#[test]
fn a_stream_goes_on_after_a_kill() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let address = server.http().to_string();
    let stream = Stream::open(&server, "filter=live/%23", &[]);
    for id in 0..10 {
        let key = format!("ce-partitionkey: k{id}");
        assert_eq!(publish(&server, "live/x", &id.to_string(), &["-H", &key]).status, 202);
    }
    let mut seen: Vec<(String, Value)> = (0..6).map(|_| stream.event()).collect();
    let last = format!("last-event-id: {}", seen[5].0);
    drop(stream);
    server.kill();
    let listen = format!("http.listen={address}");
    let server = Server::start_with(folder.path(), &["--shards", "2", "--set", &listen]);
    for id in 10..15 {
        assert_eq!(publish(&server, "live/x", &id.to_string(), &[]).status, 202);
    }
    let stream = Stream::open(&server, "filter=live/%23", &["-H", &last]);
    seen.extend((0..9).map(|_| stream.event()));
    let mut seen = ids(&seen.into_iter().map(|(_, event)| event).collect::<Vec<_>>());
    seen.sort_by_key(|id| id.parse::<u32>().expect("a number"));
    assert_eq!(seen, (0..15).map(|id| id.to_string()).collect::<Vec<_>>());
    drop(stream);
    assert!(server.stop().success());
}

/// In a group an event is settled when its reader proves that it has read it, and not when its bytes have left: what a
/// reader has not named comes again, what it has named does not.
#[test]
fn a_group_s_stream_settles_what_its_reader_names() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let query = "filter=p/%23&group=g&from=earliest&window=4";
    for id in 0..10 {
        let key = format!("ce-partitionkey: k{id}");
        assert_eq!(publish(&server, "p/x", &id.to_string(), &["-H", &key]).status, 202);
    }
    // Four are in flight, and the stream ends for its reader to say how far it has come.
    let stream = Stream::open(&server, query, &[]);
    let first: Vec<(String, Value)> = (0..4).map(|_| stream.event()).collect();
    stream.end();
    // It has read two of them.
    let stream = Stream::open(&server, query, &["-H", &format!("last-event-id: {}", first[1].0)]);
    let second: Vec<(String, Value)> = (0..4).map(|_| stream.event()).collect();
    let id = second[3].0.clone();
    stream.end();
    let answer = curl(&server, "/ack", &["-d", &json!({ "tokens": [id] }).to_string()]);
    assert_eq!(answer.json()["settled"], 4, "what this stream has said: {answer:?}");
    let read = first[..2].iter().chain(&second).map(|(_, event)| event.clone());
    let mut seen = ids(&read.collect::<Vec<_>>());
    // The rest comes to whoever is in the group, as soon as what the first reader did not name is given up.
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < 10 && Instant::now() < deadline {
        let found = poll(&server, "filter=p/%23&group=g&timeout_ms=5000");
        assert_eq!(settle(&server, "/ack", &found).status, 200);
        seen.extend(ids(&found));
    }
    seen.sort_by_key(|id| id.parse::<u32>().expect("a number"));
    assert_eq!(seen, (0..10).map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(server.stop().success());
}

/// Everything that is wrong with a request is told in words, with what a program needs to act on it.
#[test]
fn bad_input_is_refused_in_words() {
    let folder = folder::new();
    let limits =
        ["--set", "http.body_bytes_max=64KiB", "--set", "limits.event_data_bytes_max=1KiB"];
    let server = Server::start_with(folder.path(), &limits);
    let structured = "content-type: application/cloudevents+json";
    let event = |data: &str| {
        format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{data}}}"#)
    };
    let post = |body: &str| curl(&server, "/topics/a", &["-H", structured, "-d", body]);
    assert_eq!(post(&event("1")).status, 202);
    for (body, code, field) in [
        (r#"{"id":"1","source":"/s","type":"t"}"#, "malformed_event", "specversion"),
        (
            r#"{"specversion":"0.3","id":"1","source":"/s","type":"t"}"#,
            "malformed_event",
            "specversion",
        ),
        (r#"{"specversion":"1.0","source":"/s","type":"t"}"#, "malformed_event", "id"),
        (r#"{"specversion":"1.0","id":"1","type":"t"}"#, "malformed_event", "source"),
        (r#"{"specversion":"1.0","id":"1","source":"/s"}"#, "malformed_event", "type"),
        (
            r#"{"specversion":"1.0","id":"1","id":"2","source":"/s","type":"t"}"#,
            "malformed_event",
            "id",
        ),
        ("nonsense", "malformed_event", "body"),
    ] {
        assert_eq!(post(body).is_problem(400, code)["field"], field, "{body}");
    }
    let deep = event(&format!("{}{}", "[".repeat(128), "]".repeat(128)));
    assert_eq!(post(&deep).is_problem(400, "malformed_event")["limit"], 128);
    let large =
        post(&event(&format!("\"{}\"", "x".repeat(2_000)))).is_problem(413, "limit_exceeded");
    assert_eq!((&large["limit"], &large["value"]), (&json!(1_024), &json!(2_002)));
    let typed = |kind: &str| curl(&server, "/topics/a", &["-H", kind, "-d", "x"]);
    typed("content-type: application/cloudevents+avro").is_problem(415, "unsupported_media_type");
    typed("content-encoding: br").is_problem(415, "unsupported_media_type");
    let twice = [&EVENT[..], &["-H", "ce-id: 1", "-H", "ce-id: 2", "-d", "1"]].concat();
    assert_eq!(
        curl(&server, "/topics/a", &twice).is_problem(400, "malformed_event")["field"],
        "ce-id"
    );
    publish(&server, "a/%23", "1", &[]).is_problem(400, "malformed_topic");
    publish(&server, "a//b", "1", &[]).is_problem(400, "malformed_topic");
    publish(&server, "a%2Fb", "1", &[]).is_problem(400, "malformed_topic");
    publish(&server, "a%ff", "1", &[]).is_problem(400, "not_utf8");
    publish(&server, "$sys/a", "1", &[]).is_problem(403, "reserved_topic");
    curl(&server, "/nothing", &[]).is_problem(404, "not_found");
    let answer = curl(&server, "/topics/a", &[]);
    answer.is_problem(405, "method_not_allowed");
    assert!(answer.head.contains("allow: post, options"), "{answer:?}");
    for (query, field) in [
        ("group=g", "filter"),
        ("filter=a", "group"),
        ("filter=a&group=g&max=0", "max"),
        ("filter=a&group=g&maximum=1", "maximum"),
        ("filter=a&group=g&from=yesterday", "from"),
    ] {
        let problem = curl(&server, &format!("/poll?{query}"), &[]);
        assert_eq!(problem.is_problem(400, "malformed_request")["field"], field, "{query}");
    }
    curl(&server, "/poll?filter=a/%23/b&group=g", &[]).is_problem(400, "malformed_filter");
    curl(&server, "/poll?filter=a&group=$g", &[]).is_problem(400, "malformed_group");
    for body in ["", "[]", "{\"tokens\":[1]}", "{\"token\":[]}"] {
        curl(&server, "/ack", &["-d", body]).is_problem(400, "malformed_request");
    }
    curl(&server, "/ack", &["-d", r#"{"tokens":["dAAAA"]}"#]).is_problem(400, "malformed_token");
    curl(&server, "/subscribe?filter=a", &["-H", "last-event-id: pAAAA"])
        .is_problem(400, "malformed_token");
    assert!(server.stop().success());
}

/// A client that sends too much, too slowly, or what is no HTTP must be answered or cut off, and keep nobody else waiting.
#[test]
fn hostile_clients_are_cut_off() {
    let folder = folder::new();
    let limits = [
        ["--set", "http.body_bytes_max=64KiB"],
        ["--set", "http.header_timeout=300ms"],
        ["--set", "http.body_timeout=300ms"],
        ["--set", "http.idle_timeout=300ms"],
    ];
    let server = Server::start_with(folder.path(), &limits.concat());
    let address = server.http();
    let head = "POST /topics/a HTTP/1.1\r\nhost: x\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\n";
    // The answer comes although not a byte of the body does.
    let announced = format!("{head}content-length: 65537\r\n\r\n");
    let problem = exchange(address, announced.as_bytes()).is_problem(413, "limit_exceeded");
    assert_eq!((&problem["limit"], &problem["value"]), (&json!(65_536), &json!(65_537)));
    let chunk = format!("{head}transfer-encoding: chunked\r\n\r\n10001\r\n{}", "x".repeat(65_537));
    exchange(address, chunk.as_bytes()).is_problem(413, "limit_exceeded");
    let wide = format!("{head}x-wide: {}\r\n\r\n", "y".repeat(65_536));
    exchange(address, wide.as_bytes()).is_problem(431, "headers_too_large");
    let many = format!("{head}{}\r\n", "x-many: 1\r\n".repeat(200));
    exchange(address, many.as_bytes()).is_problem(431, "headers_too_large");
    // Slowly: half a head, half a body, nothing at all.
    exchange(address, head.as_bytes()).is_problem(408, "idle_timeout");
    let half = format!("{head}content-length: 10\r\n\r\nhalf");
    exchange(address, half.as_bytes()).is_problem(408, "idle_timeout");
    assert_eq!(exchange(address, b"").status, 0, "it is closed without a word");
    assert_eq!(exchange(address, b"\x16\x03\x01 no HTTP\r\n\r\n").status, 400);
    let no_frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n no frames at all, and more";
    assert_eq!(exchange(address, no_frames).status, 0, "it is closed in HTTP/2's words");
    let twice = format!("{head}content-length: 1\r\ncontent-length: 2\r\n\r\nx");
    assert_eq!(exchange(address, twice.as_bytes()).status, 400);
    assert_eq!(publish(&server, "a", "1", &[]).status, 202, "others are served");
    assert!(server.stop().success());
}

/// A body in gzip is taken, and a bomb costs no more than the limit.
#[test]
fn gzip_is_inflated_up_to_the_limit() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--set", "http.body_bytes_max=64KiB"]);
    let files = folder::new();
    let send = |name: &str, bytes: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, bytes).expect("it is written");
        let packed = Command::new("gzip").arg(&path).status().expect("gzip is there");
        assert!(packed.success());
        let data = format!("@{}.gz", path.display());
        let more = ["-H", "content-encoding: gzip", "--data-binary", &data];
        curl(&server, "/topics/z", &[&EVENT[..], &["-H", "ce-id: 1"], &more].concat())
    };
    assert_eq!(send("small", b"{\"a\":1}").status, 202);
    let problem = send("bomb", &vec![b'0'; 8 << 20]).is_problem(413, "limit_exceeded");
    assert_eq!(problem["limit"], 65_536);
    let found = poll(&server, "filter=z&group=g&from=earliest&timeout_ms=20000");
    assert_eq!(found[0]["event"]["data"], json!({ "a": 1 }));
    assert!(server.stop().success());
}

/// A page of another origin may ask only if it was let.
#[test]
fn pages_of_other_origins_need_leave() {
    let folder = folder::new();
    let leave = ["--set", "http.cors=https://good.example"];
    let server = Server::start_with(folder.path(), &leave);
    let ask = |origin: &str| {
        let origin = format!("origin: {origin}");
        let method = "access-control-request-method: POST";
        let headers = "access-control-request-headers: ce-id, content-type";
        let flags = ["-X", "OPTIONS", "-H", &origin, "-H", method, "-H", headers];
        curl(&server, "/topics/a", &flags)
    };
    let good = ask("https://good.example");
    assert_eq!(good.status, 204, "{good:?}");
    for line in [
        "access-control-allow-origin: https://good.example",
        "access-control-allow-methods: post, options",
        "access-control-allow-headers: ce-id, content-type",
        "vary: origin",
        "allow: post, options",
    ] {
        assert!(good.head.contains(line), "{line} in {good:?}");
    }
    let bad = ask("https://bad.example");
    assert_eq!(bad.status, 204);
    assert!(!bad.head.contains("access-control-allow"), "{bad:?}");
    let answer = publish(&server, "a", "1", &["-H", "origin: https://good.example"]);
    assert!(
        answer.head.contains("access-control-allow-origin: https://good.example"),
        "{answer:?}"
    );
    assert!(server.stop().success());
}

/// A stream whose reader has stopped must cost a bounded buffer and hold up nobody.
#[test]
fn a_stopped_reader_costs_a_bounded_buffer() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    let mut stopped = TcpStream::connect(server.http()).expect("the door is open");
    stopped.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let request = "GET /subscribe?filter=big/%23 HTTP/1.1\r\nhost: x\r\n\r\n";
    stopped.write_all(request.as_bytes()).expect("it is sent");
    let mut head = [0; 12];
    stopped.read_exact(&mut head).expect("it is answered");
    assert_eq!(&head, b"HTTP/1.1 200");
    let data = "x".repeat(100_000);
    server.command(&["publish", "big/x", &data, "--count", "300"]).done();
    let found = poll(&server, "filter=big/%23&group=g&from=earliest&max=1&timeout_ms=20000");
    assert_eq!(found.len(), 1, "others are served");
    let deadline = Instant::now() + PATIENCE;
    let report = loop {
        let answer = crate::admin::get(&server, "/api/v1/connections");
        let connections = answer.json();
        let list = connections["items"].as_array().expect("a list").iter();
        let is_held =
            |connection: &&Value| connection["door"] == "http" && connection["outbound_bytes"] != 0;
        let of_stream = list.clone().find(is_held);
        if let Some(report) = of_stream {
            break report.clone();
        }
        assert!(Instant::now() < deadline, "{connections}");
        std::thread::sleep(Duration::from_millis(5));
    };
    let waiting = report["outbound_bytes"].as_u64().expect("a number");
    assert!(waiting < 1 << 20, "30 MB were published, {waiting} bytes wait");
    drop(stopped);
    assert!(server.stop().success());
}
