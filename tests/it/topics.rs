//! Topic policies on the real server: what is set holds, on every shard and after a kill, and is told as it is.

use serde_json::Value;

use crate::folder;
use crate::harness::{Ended, Server, run};

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
