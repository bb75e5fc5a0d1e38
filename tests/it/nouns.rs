//! `topic`, `subscription` and `lag` against a real server.

use serde_json::Value;

use crate::folder;
use crate::harness::{Ended, Server, run};

/// A command with the admin port of this server.
fn ask(server: &Server, arguments: &[&str]) -> Ended {
    let admin = server.admin().to_string();
    run(&[arguments, &["--admin", &admin]].concat()).end()
}

/// What a command prints, which must end well.
fn lines(server: &Server, arguments: &[&str]) -> Vec<String> {
    let ended = ask(server, arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    ended.lines
}

/// The words of a line.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

/// People go by the tables and scripts by the JSON: both must say what there is.
#[test]
fn nouns_tell_what_there_is() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    server.command(&["publish", "noun/a b", "x", "--count", "9", "--key", "k"]).done();
    let group = ["subscribe", "noun/#", "--group", "team/1", "--from", "earliest"];
    server.command(&[&group[..], &["--count", "4"]].concat()).done();

    assert_eq!(lines(&server, &["topic", "list"]), ["topic", "noun/a b"]);
    let json = lines(&server, &["topic", "list", "-o", "json"]);
    assert_eq!(json, [r#"{"name":"noun/a b"}"#]);
    let topic = lines(&server, &["topic", "show", "noun/a b"]);
    assert_eq!(words(&topic[0]), ["partition", "first", "next", "logs"]);
    assert_eq!(words(&topic[1])[1..3], ["0", "9"], "{topic:?}");

    let is_settled = |line: &String| words(line).get(1) == Some(&"5");
    let lag = (0..2_000).map(|_| lines(&server, &["lag"])).find(|lag| is_settled(&lag[1]));
    let lag = lag.expect("four events are settled soon");
    assert_eq!(words(&lag[1])[0], "team/1", "{lag:?}");
    let list = lines(&server, &["subscription", "list"]);
    assert_eq!(
        words(&list[1]),
        ["team/1", "0", "5", "running", "clustering", "noun/#"],
        "{list:?}"
    );
    let shown = lines(&server, &["subscription", "show", "team/1"]);
    assert_eq!(shown[0], "durable, clustering, filters noun/#");
    let json = lines(&server, &["subscription", "show", "team/1", "-o", "json"]);
    let json: Value = serde_json::from_str(&json[0]).expect("one object");
    assert_eq!(json["lag_events"], 5, "{json}");

    let delete = ["subscription", "delete", "team/1"];
    let dry = lines(&server, &[&delete[..], &["--dry-run"]].concat());
    assert_eq!(dry, [r#""team/1" would be deleted: 0 members, 5 events not settled"#]);
    let done = lines(&server, &delete);
    assert_eq!(done, [r#""team/1" is deleted: 0 members, 5 events not settled"#]);
    let gone = ask(&server, &delete);
    assert_eq!(gone.code, Some(3), "{gone:?}");
    assert!(gone.stderr.contains("not_found (129)"), "{gone:?}");
    assert_eq!(lines(&server, &["lag", "-o", "json"]), Vec::<String>::new());

    // The native door is no admin port, and nobody is at port 1.
    let native = server.address().to_string();
    let wrong = run(&["lag", "--admin", &native]).end();
    assert_eq!(wrong.code, Some(1), "{wrong:?}");
    assert!(wrong.stderr.contains("no admin port of Ringmesh"), "{wrong:?}");
    let nobody = run(&["topic", "list", "--admin", "127.0.0.1:1"]).end();
    assert_eq!(nobody.code, Some(4), "{nobody:?}");
    assert!(nobody.stderr.contains("--admin"), "{nobody:?}");
    assert!(server.stop().success());
}
