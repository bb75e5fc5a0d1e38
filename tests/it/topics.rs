//! Topic policies on the real server: what is set holds, on every shard and after a kill, and is told as it is.

use serde_json::Value;

use crate::folder;
use crate::harness::{Ended, Server, run};

/// How a server says that a group has come too late.
const TOLD: &str = "took events before a group came to them";

/// A command with the admin port of this server.
fn ask(server: &Server, arguments: &[&str]) -> Ended {
    let admin = server.admin().to_string();
    run(&[arguments, &["--admin", &admin]].concat()).end()
}

/// The one JSON object that a command prints.
fn json(server: &Server, arguments: &[&str]) -> Value {
    let ended = ask(server, &[arguments, &["-o", "json"]].concat());
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    let [line] = &ended.lines[..] else { panic!("one line: {ended:?}") };
    serde_json::from_str(line).expect("an object")
}

/// An operator who has set a policy relies on it: publishers are held to it, a dry run changes nothing, and a kill takes
/// nothing of it.
#[test]
fn policies_hold_over_a_kill() {
    let folder = folder::new();
    let flags = ["--shards", "2"];
    let server = Server::start_with(folder.path(), &flags);
    server.command(&["publish", "shop/old", "x", "--key", "k"]).done();
    let dry = json(
        &server,
        &["topic", "set", "shop/#", "--create", "no", "--ack", "written", "--dry-run"],
    );
    assert_eq!((&dry["dry_run"], &dry["topics"][0]["name"]), (&true.into(), &"shop/old".into()));
    assert_eq!(dry["topics"][0]["after"]["ack"], "written", "{dry}");
    let kept = json(&server, &["topic", "show", "shop/old"]);
    assert_eq!(kept["policy"]["ack"]["value"], "durable", "a dry run changes nothing: {kept}");

    json(&server, &["topic", "set", "shop/#", "--create", "no", "--ack", "written"]);
    json(&server, &["topic", "set", "shop/old", "--event-bytes-max", "8", "--order", "topic"]);
    server.kill();
    let server = Server::start_with(folder.path(), &flags);
    let shown = json(&server, &["topic", "show", "shop/old"]);
    let policy = &shown["policy"];
    assert_eq!(
        (&policy["ack"]["value"], &policy["ack"]["pattern"]),
        (&"written".into(), &"shop/#".into())
    );
    assert_eq!(policy["event_bytes_max"]["pattern"], "shop/old", "{policy}");
    let refused = server.command(&["publish", "shop/new", "x"]).end();
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("topic_not_found (141)"), "{refused:?}");
    let refused = server.command(&["publish", "shop/old", "nine bytes"]).end();
    assert!(refused.stderr.contains("event_too_large (140)"), "{refused:?}");
    let mut places = Vec::new();
    for key in ["a", "b", "c", "d"] {
        let lines = server.command(&["publish", "shop/old", "x", "--key", key]).done();
        assert!(lines[0].ends_with(" written"), "{lines:?}");
        places.push(lines[0].split([' ', ':']).nth(1).map(str::to_owned));
    }
    places.dedup();
    assert_eq!(places.len(), 1, "one partition: {places:?}");

    let gone = json(&server, &["topic", "unset", "shop/#"]);
    assert_eq!(gone["after"]["create"], Value::Null, "{gone}");
    server.command(&["publish", "shop/new", "x"]).done();
    let again = ask(&server, &["topic", "unset", "shop/#"]);
    assert_eq!(again.code, Some(3), "{again:?}");
    assert!(server.stop().success());
}

/// Whoever deletes a topic was told what goes; it goes on every shard, stays gone after a kill, and takes nothing else with
/// it. Who had still to read it is told.
#[test]
fn a_deleted_topic_is_gone_over_a_kill() {
    let folder = folder::new();
    let flags = ["--shards", "2"];
    let mut server = Server::start_with(folder.path(), &flags);
    server.expect_line(TOLD);
    let publish = |server: &Server, topic: &str, count: &str| {
        let key = ["--key", "k{{count}}", "--count", count, "--quiet"];
        server.command(&[&["publish", topic, "event {{count}}"], &key[..]].concat()).done();
    };
    publish(&server, "del/gone", "40");
    publish(&server, "del/kept", "20");
    let group = ["subscribe", "del/gone", "--group", "late", "--from", "earliest", "--count", "10"];
    server.command(&group).done();

    let dry = json(&server, &["topic", "delete", "del/gone", "--dry-run"]);
    assert_eq!((&dry["dry_run"], &dry["events"]), (&true.into(), &40.into()), "{dry}");
    assert!(dry["bytes"].as_u64().is_some_and(|bytes| bytes > 2_000), "{dry}");
    assert_eq!(dry["subscriptions"][0]["name"], "late", "{dry}");
    let (owed, is_exact) =
        (&dry["subscriptions"][0]["events"], &dry["subscriptions"][0]["is_exact"]);
    assert!(
        owed.as_u64().is_some_and(|n| n == 30 || (30..=40).contains(&n) && *is_exact == false),
        "{dry}"
    );
    let kept = json(&server, &["topic", "show", "del/gone"]);
    assert_eq!(kept["events"], 40, "a dry run changes nothing: {kept}");
    let unsure = ask(&server, &["topic", "delete", "del/gone"]);
    assert_eq!(unsure.code, Some(2), "nobody sits there to be asked: {unsure:?}");
    assert!(unsure.stderr.contains("--yes"), "{unsure:?}");
    for (name, code) in [("$dead/late", "reserved_topic (111)"), ("del/other", "not_found (129)")] {
        let refused = ask(&server, &["topic", "delete", name, "--yes"]);
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains(code), "{refused:?}");
    }

    let done = json(&server, &["topic", "delete", "del/gone", "--yes"]);
    assert_eq!((&done["dry_run"], &done["events"]), (&false.into(), &40.into()), "{done}");
    server.kill();
    let mut server = Server::start_with(folder.path(), &flags);
    server.expect_line(TOLD);
    assert_eq!(ask(&server, &["topic", "list"]).lines, ["topic", "del/kept"]);
    assert_eq!(ask(&server, &["topic", "show", "del/gone"]).code, Some(3));
    let all = ["subscribe", "del/#", "--from", "earliest", "--until-end", "--format", "%t\\n"];
    let read = server.command(&all).done();
    assert_eq!(read, vec!["del/kept"; 20]);
    let rest = ["subscribe", "del/gone", "--group", "late", "--until-end", "--format", "%v\\n"];
    let Ended { code, lines, stderr } = server.command(&rest).end();
    assert_eq!((code, lines), (Some(0), Vec::new()), "{stderr}");
    let is_known =
        |line: &str| line.starts_with("subscribed to ") || line.contains(" events are gone ");
    assert!(stderr.lines().all(is_known), "{stderr}");
    publish(&server, "del/gone", "40");
    let again = json(&server, &["topic", "show", "del/gone"]);
    let partitions = again["partitions"].as_array().expect("a list");
    let offsets =
        |field: &str| -> u64 { partitions.iter().filter_map(|p| p[field].as_u64()).sum() };
    assert_eq!((offsets("first_offset"), offsets("next_offset")), (40, 80), "they go on: {again}");
    assert_eq!(server.command(&all).done().len(), 60);
    assert!(server.stop().success());
}
