//! The admin port of the real server: what it tells is true, and nothing that a client does there hurts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::answer::{Answer, exchange};
use crate::folder;
use crate::harness::{PATIENCE, Server};

/// One request on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    exchange(address, head.as_bytes())
}

pub fn get(server: &Server, path: &str) -> Answer {
    let answer = request(server.admin(), "GET", path);
    assert!(!answer.head.contains("transfer-encoding"), "bodies are read whole here: {answer:?}");
    answer
}

/// Asks until the answer is as it is to be: cursors and acknowledgements arrive a moment later.
pub fn until(server: &Server, path: &str, is_right: impl Fn(&Answer) -> bool) -> Answer {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = get(server, path);
        if is_right(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{path} does not become right: {answer:#?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Numbers that are wrong are worse than none: every one must be exactly what was done.
#[test]
fn metrics_count_what_was_done() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    server.command(&["publish", "count/a", "12345", "--count", "300", "--key", "k"]).done();
    let group = ["subscribe", "count/#", "--group", "g", "--from", "earliest"];
    let taken = server.command(&[&group[..], &["--count", "100"]].concat()).done();
    assert_eq!(taken.len(), 100);
    let metrics = until(&server, "/metrics", |answer| {
        answer.metric("ringmesh_group_lag_events{group=\"g\"}") == 200.0
            && answer.metric("ringmesh_group_members{group=\"g\"}") == 0.0
    });
    assert_eq!(metrics.sum("ringmesh_publish_events_total"), 300.0);
    assert!(metrics.sum("ringmesh_publish_bytes_total") > 300.0 * 5.0);
    assert!(metrics.sum("ringmesh_deliver_events_total") >= 100.0);
    assert_eq!(metrics.sum("ringmesh_settle_events_total"), 100.0);
    assert_eq!(metrics.sum("ringmesh_publish_refused_batches_total"), 0.0);
    assert_eq!(metrics.sum("ringmesh_log_end_position"), 300.0);
    assert_eq!(metrics.sum("ringmesh_log_durable_end_position"), 300.0);
    assert!(metrics.sum("ringmesh_log_commits_total") >= 1.0);
    let (writes, synced) = ("ringmesh_disk_writes_total", "ringmesh_disk_synced_writes_total");
    assert!(metrics.sum(synced) >= metrics.sum("ringmesh_log_commits_total"));
    assert!(metrics.sum(writes) >= metrics.sum(synced));
    let durations = "ringmesh_disk_write_seconds";
    let (count, sum) = (format!("{durations}_count"), format!("{durations}_sum"));
    assert!(metrics.sum(&count) >= 1.0 && metrics.sum(&count) <= metrics.sum(writes));
    assert!(metrics.sum(&sum) > 0.0, "a write takes time");
    assert_eq!(metrics.sum("ringmesh_connections_opened_total"), 2.0);
    assert_eq!(metrics.metric("ringmesh_ready"), 1.0);
    assert_eq!(metrics.metric("ringmesh_control_plane_up"), 1.0);
    assert_eq!(metrics.sum("ringmesh_shard_up"), 2.0);
    assert_eq!(metrics.metric("ringmesh_subscriptions"), 1.0);
    let lag = metrics.metric("ringmesh_group_lag_seconds{group=\"g\"}");
    assert!((0.0..PATIENCE.as_secs_f64()).contains(&lag), "{lag}");
    assert!(metrics.metric("ringmesh_group_lag_bytes{group=\"g\"}") > 0.0);
    assert!(metrics.metric("process_resident_memory_bytes") > 1e6);
    assert!(server.stop().success());
}

/// What reads metrics is strict about their form, and says what is not as it should be.
#[test]
fn metrics_are_as_promtool_wants_them() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    server.command(&["subscribe", "a/#", "--group", "odd \"name\\", "--until-end"]).done();
    let metrics = get(&server, "/metrics");
    assert_eq!(metrics.status, 200);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.stdout(Stdio::piped()).spawn().expect("promtool: see tests/all.sh");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(metrics.body.as_bytes()).expect("promtool reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("promtool ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:#?}");
    assert!(server.stop().success());
}

/// A load balancer must not send publishers to a server that refuses them, nor leave one out that is well.
#[test]
fn readiness_follows_the_disk() {
    let folder = folder::new();
    let event = folder.path().join("event");
    std::fs::write(&event, vec![b'x'; 64 << 10]).expect("it can be written");
    let event = format!("@{}", event.display());
    let flags = ["--shards", "1", "--set", "log.folder_bytes_max=16MiB"];
    let mut server = Server::start_with(&folder.path().join("data"), &flags);
    server.expect_full_disk();
    assert_eq!(get(&server, "/healthz").status, 200);
    let ready = get(&server, "/readyz");
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &Value::Bool(true)));
    let ended = server.command(&["publish", "full/a", &event, "--count", "1000"]).end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    let full = get(&server, "/readyz");
    assert_eq!((full.status, &full.json()["ready"]), (503, &Value::Bool(false)));
    let why = full.json()["not_ready"].to_string();
    assert!(why.contains("gen-000001/log-000") && why.contains("full"), "{why}");
    assert_eq!(get(&server, "/healthz").status, 200, "it lives");
    let metrics = get(&server, "/metrics");
    let state = |name| format!("ringmesh_log_state{{log=\"gen-000001/log-000\",state=\"{name}\"}}");
    assert_eq!(metrics.metric(&state("disk_full")), 1.0);
    assert_eq!(metrics.metric(&state("running")), 0.0);
    assert!(metrics.sum("ringmesh_publish_refused_batches_total") > 0.0);
    assert!(server.stop().success());
}

/// A log that has stopped takes nothing until the server is restarted: whoever watches must hear of it, and why.
#[test]
fn readiness_tells_of_a_stopped_log() {
    let folder = folder::new();
    let data = folder.path().join("data");
    let event = folder.path().join("event");
    std::fs::write(&event, vec![b'x'; 64 << 10]).expect("it can be written");
    let event = format!("@{}", event.display());
    let mut server = Server::start_with(&data, &["--shards", "2"]);
    server.expect_line("log stopped");
    // A checkpoint or an index may fall due between the folder's loss and the stop.
    server.expect_line("failed log=gen-000001/log-000");
    assert_eq!(get(&server, "/readyz").status, 200);
    // The next segment cannot be made where the log's folder was.
    let log = data.join("gen-000001/log-000");
    std::fs::rename(&log, data.join("gen-000001/moved")).expect("it can be moved");
    let ended = server.command(&["publish", "stop/a", &event, "--count", "1000"]).end();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("log_stopped (301)"), "{}", ended.stderr);
    let stopped = get(&server, "/readyz");
    assert_eq!((stopped.status, &stopped.json()["ready"]), (503, &Value::Bool(false)));
    let why = stopped.json()["not_ready"].to_string();
    assert!(why.contains("log gen-000001/log-000 has stopped: "), "{why}");
    assert_eq!(get(&server, "/healthz").status, 200, "it lives, and the other shard serves");
    let metrics = get(&server, "/metrics");
    let series = r#"ringmesh_log_state{log="gen-000001/log-000",state="stopped"}"#;
    assert_eq!(metrics.metric(series), 1.0);
    server.kill();
}

/// Every error says the same in the same form, so that a program can tell them apart.
#[test]
fn errors_are_problems() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    get(&server, "/").is_problem(404, "not_found");
    get(&server, "/nowhere").is_problem(404, "not_found");
    let wrong = request(server.admin(), "POST", "/metrics");
    wrong.is_problem(405, "method_not_allowed");
    assert!(wrong.head.contains("allow: get"), "{wrong:?}");

    let head = "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let large = format!("{head}x: {}\r\n\r\n", "x".repeat(70 << 10));
    exchange(server.admin(), large.as_bytes()).is_problem(431, "headers_too_large");
    let many: String = (0..150).map(|index| format!("x-{index}: 1\r\n")).collect();
    let many = format!("{head}{many}\r\n");
    exchange(server.admin(), many.as_bytes()).is_problem(431, "headers_too_large");
    let body = format!("{head}content-length: 70000\r\n\r\n");
    exchange(server.admin(), body.as_bytes()).is_problem(413, "limit_exceeded");
    let chunked =
        format!("{head}transfer-encoding: chunked\r\n\r\n12000\r\n{}", "x".repeat(0x12000));
    exchange(server.admin(), chunked.as_bytes()).is_problem(413, "limit_exceeded");
    assert_eq!(get(&server, "/healthz").body, "alive\n");
    assert!(server.stop().success());
}

/// Whatever is sent, the port goes on answering, and the native door does not notice.
#[test]
fn garbage_is_survived() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    let enormous = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let garbage: [&[u8]; 7] = [
        b"\0\0\0\0\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        enormous.as_bytes(),
    ];
    for bytes in garbage {
        let answer = exchange(server.admin(), bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        assert!(matches!(answer.status, 0 | 400..=505), "{shown:?}: {answer:?}");
        assert_ne!(answer.status, 500, "{shown:?}: {answer:?}");
    }
    assert_eq!(get(&server, "/healthz").status, 200);
    server.command(&["publish", "a", "x"]).done();
    assert!(server.stop().success());
}

/// Clients that send half a request hold a place only for a while, and keep no shard from its work meanwhile.
#[test]
fn slow_clients_are_closed() {
    let folder = folder::new();
    let flags = ["--shards", "1", "--set", "admin.idle_timeout=300ms"];
    let server = Server::start_with(folder.path(), &flags);
    let mut slow: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(server.admin()).expect("it is open");
            stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
            stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n").expect("it is read");
            stream
        })
        .collect();
    server.command(&["publish", "a", "x", "--count", "10"]).done();
    for stream in &mut slow {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = stream.read_to_end(&mut rest);
        let rest = String::from_utf8_lossy(&rest);
        assert!(rest.is_empty() || rest.contains("408"), "{rest}");
    }
    assert_eq!(get(&server, "/healthz").status, 200, "there is room again");
    assert!(server.stop().success());
}

/// A client that asks for ever and takes no answer must not hold its place, nor memory for what it was answered.
#[test]
fn clients_that_take_nothing_are_closed() {
    let folder = folder::new();
    let flags = ["--shards", "1", "--set", "admin.idle_timeout=300ms"];
    let server = Server::start_with(folder.path(), &flags);
    let mut deaf = TcpStream::connect(server.admin()).expect("it is open");
    deaf.set_write_timeout(Some(PATIENCE)).expect("a time-out can be set");
    let asked = b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    let end = loop {
        if let Err(error) = deaf.write_all(&asked) {
            break error;
        }
    };
    assert_ne!(end.kind(), std::io::ErrorKind::WouldBlock, "it is still open");
    assert_eq!(get(&server, "/healthz").status, 200);
    assert!(server.stop().success());
}

/// What the API tells must be what was done, to the event.
#[test]
fn api_tells_what_there_is() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    server.command(&["publish", "api/a/b", "x", "--count", "30", "--key", "k"]).done();
    server.command(&["publish", "api/a/c", "x", "--count", "5", "--key", "k"]).done();
    let group = ["subscribe", "api/a/#", "--group", "team/one", "--from", "earliest"];
    server.command(&[&group[..], &["--count", "10"]].concat()).done();
    let mut member = server.command(&["subscribe", "api/+/c", "--group", "second"]);
    member.wait_until_subscribed();

    let topics = get(&server, "/api/v1/topics").json();
    assert_eq!(
        topics.to_string(),
        r#"{"items":[{"name":"api/a/b"},{"name":"api/a/c"}],"next":null}"#
    );
    let topic = get(&server, "/api/v1/topics/api%2Fa%2Fb").json();
    let partitions = topic["partitions"].as_array().expect("a list");
    assert_eq!((partitions.len(), &topic["events"]), (1, &Value::from(30)), "{topic}");
    assert_eq!(partitions[0]["first_offset"], 0, "{topic}");
    assert_eq!(partitions[0]["next_offset"], 30, "{topic}");

    let path = "/api/v1/subscriptions/team%2Fone";
    let one = until(&server, path, |answer| answer.json()["lag_events"] == 25).json();
    assert_eq!((&one["durable"], &one["mode"]), (&Value::Bool(true), &Value::from("clustering")));
    assert_eq!(one["filters"].to_string(), r#"["api/a/#"]"#);
    let cursors = one["cursors"].as_array().expect("a list");
    assert_eq!(cursors.len(), 2, "one a log: {one}");
    let owed = |cursor: &Value| {
        cursor["unsettled_events"].as_u64().unwrap_or(0)
            + cursor["unread_events"].as_u64().unwrap_or(0)
    };
    assert_eq!(cursors.iter().map(owed).sum::<u64>(), 25, "{one}");

    let second = get(&server, "/api/v1/subscriptions/second").json();
    assert_eq!((&second["members"], &second["lag_events"]), (&Value::from(1), &Value::from(0)));
    let members = second["member_list"].as_array().expect("a list");
    assert_eq!((members.len(), &members[0]["filter"]), (1, &Value::from("api/+/c")), "{second}");
    let connections = get(&server, "/api/v1/connections").json();
    let connection = &connections["items"][0];
    assert_eq!(connection["client"], members[0]["client"], "{connections}");
    assert_eq!((&connection["door"], &connection["subscriptions"]), (&"native".into(), &1.into()));
    let shards = get(&server, "/api/v1/shards").json();
    let published = shards["items"].as_array().expect("a list").iter();
    let published: u64 = published.filter_map(|shard| shard["published_events"].as_u64()).sum();
    assert_eq!(published, 35, "{shards}");
    let logs = get(&server, "/api/v1/logs").json();
    assert_eq!(logs["items"].as_array().map(Vec::len), Some(2), "{logs}");
    let settings = get(&server, "/api/v1/configuration?limit=1000").json();
    let settings = settings["items"].as_array().expect("a list").clone();
    let setting = settings.iter().find(|setting| setting["key"] == "server.shards");
    let setting = setting.expect("it is listed");
    assert_eq!((&setting["value"], &setting["set_by"]), (&"2".into(), &"--shards".into()));
    drop(member);
    assert!(server.stop().success());
}

/// A reader that follows `next` must see every thing once, whatever the size of its pages.
#[test]
fn lists_are_whole_over_pages() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    for index in 0..7 {
        server
            .command(&["publish", &format!("page/{index}"), "x", "--key", &index.to_string()])
            .done();
        let group = format!("g{index}");
        server.command(&["subscribe", "page/#", "--group", &group, "--until-end"]).done();
    }
    let members: Vec<_> = (0..5).map(|_| server.command(&["subscribe", "page/#"])).collect();
    until(&server, "/api/v1/connections", |answer| {
        answer.json()["items"].as_array().map(Vec::len) == Some(members.len())
    });
    for list in ["topics", "subscriptions", "connections", "configuration", "logs", "shards"] {
        let all = get(&server, &format!("/api/v1/{list}?limit=1000")).json();
        assert_eq!(all["next"], Value::Null, "{list}");
        let all = all["items"].as_array().expect("a list").clone();
        for limit in [1, 2, 3] {
            let (mut count, mut after) = (0, String::new());
            loop {
                let page = get(&server, &format!("/api/v1/{list}?limit={limit}{after}")).json();
                let items = page["items"].as_array().expect("a list");
                assert!(items.len() <= limit, "{list}: {page}");
                for item in items {
                    let key = ["name", "id", "key", "log", "shard"]
                        .iter()
                        .find(|key| item[**key] != Value::Null);
                    let key = key.expect("things have names");
                    assert_eq!(item[*key], all[count][*key], "{list}, {limit} a page");
                    count += 1;
                }
                let Some(next) = page["next"].as_str() else { break };
                after = format!("&after={}", next.replace('/', "%2F").replace('$', "%24"));
            }
            assert_eq!(count, all.len(), "{list}, {limit} a page");
        }
    }
    drop(members);
    for wrong in ["limit=0", "limit=1001", "limit=x", "limits=1", "limit=1&limit=2"] {
        get(&server, &format!("/api/v1/topics?{wrong}")).is_problem(400, "malformed_request");
    }
    get(&server, "/api/v1/connections?after=x").is_problem(400, "malformed_request");
    get(&server, "/api/v1/topics/nowhere").is_problem(404, "not_found");
    get(&server, "/api/v1/subscriptions/nobody").is_problem(404, "not_found");
    get(&server, "/api/v1/topics/%ff").is_problem(400, "not_utf8");
    assert!(server.stop().success());
}

/// A client that is made from the document must get on with the server: whatever the document allows is answered as it
/// says, and whatever it does not allow is refused.
#[test]
fn api_is_as_its_document_says() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    // The names that the document gives as examples.
    server.command(&["publish", "demo/hello", "x", "--count", "20"]).done();
    let group = ["subscribe", "demo/#", "--group", "billing", "--from", "earliest"];
    server.command(&[&group[..], &["--count", "5"]].concat()).done();
    let mut member = server.command(&["subscribe", "demo/#"]);
    member.wait_until_subscribed();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let url = format!("http://{}", server.admin());
    let output = Command::new(format!("{root}/target/schemathesis/bin/schemathesis"))
        .args(["run", &format!("{url}/api/v1/openapi.json"), "--url", &url])
        .args(["--checks", "all", "--phases", "examples,coverage,fuzzing"])
        .args(["--max-examples", "10", "--seed", "1", "--no-color"])
        // Most random names are no segment of a path; that they are thrown away is as it should be.
        .args(["--suppress-health-check", "filter_too_much"])
        .env("HYPOTHESIS_STORAGE_DIRECTORY", folder.path().join("hypothesis"))
        .current_dir(folder.path())
        .output()
        .expect("schemathesis: see tests/all.sh");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let document = get(&server, "/api/v1/openapi.json").json();
    let paths = document["paths"].as_object().expect("paths").values();
    let operations: usize = paths.filter_map(Value::as_object).map(serde_json::Map::len).sum();
    // All but the one that gives the document, which was asked to begin with.
    let tested = format!("Tested: {}", operations - 1);
    assert!(said.contains(&tested), "every operation: {said}");
    drop(member);
    assert!(server.stop().success());
}

/// A group that is deleted by mistake has lost its place: a dry run must say what would go and change nothing; the real
/// one must end the group everywhere, for ever, and tell its members.
#[test]
fn deleting_a_subscription_ends_its_group() {
    let folder = folder::new();
    let flags = ["--shards", "2"];
    let server = Server::start_with(folder.path(), &flags);
    server.command(&["publish", "end/a", "x", "--count", "12", "--key", "k"]).done();
    let group = ["subscribe", "end/#", "--group", "g"];
    let first = [&group[..], &["--from", "earliest", "--count", "4"]].concat();
    assert_eq!(server.command(&first).done().len(), 4);
    let path = "/api/v1/subscriptions/g";
    until(&server, path, |answer| answer.json()["lag_events"] == 8);

    let delete = |query: &str| request(server.admin(), "DELETE", &format!("{path}{query}"));
    let dry = delete("?dry_run=true");
    assert_eq!((dry.status, &dry.json()["dry_run"]), (200, &Value::Bool(true)), "{dry:?}");
    let would = &dry.json()["subscription"];
    assert_eq!(would["filters"].to_string(), r#"["end/#"]"#, "{would}");
    assert_eq!((&would["lag_events"], &would["members"]), (&8.into(), &0.into()), "{would}");
    assert_eq!(get(&server, path).json()["lag_events"], 8, "a dry run deletes nothing");
    delete("?dry_run=maybe").is_problem(400, "malformed_request");
    delete("?dryrun=true").is_problem(400, "malformed_request");
    assert_eq!(get(&server, path).status, 200);

    // What the group owes goes to any member, by whichever filter it came.
    let mut member = server.command(&["subscribe", "other/#", "--group", "g"]);
    (0..8).for_each(|_| drop(member.line()));
    let done = delete("");
    let gone = &done.json()["subscription"];
    assert_eq!(gone["filters"].to_string(), r#"["end/#","other/#"]"#, "{gone}");
    assert_eq!(gone["members"], 1, "{gone}");
    assert_eq!((done.status, &done.json()["dry_run"]), (200, &Value::Bool(false)), "{done:?}");
    get(&server, path).is_problem(404, "not_found");
    delete("").is_problem(404, "not_found");
    let ended = member.end();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("subscription_ended"), "{ended:?}");
    server.kill();
    let server = Server::start_with(folder.path(), &flags);
    get(&server, path).is_problem(404, "not_found");
    let again = [&group[..], &["--from", "earliest", "--until-end"]].concat();
    assert_eq!(server.command(&again).done().len(), 12, "a new group of that name begins anew");
    assert!(server.stop().success());
}
