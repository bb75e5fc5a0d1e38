//! `publish` and `subscribe` against a running server.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::folder;
use crate::harness::{BINARY, Run, Server, signal};
use crate::terminal::{Streams, Terminal};

/// Starts a subscriber and waits until it stands: what is published after this is printed.
fn subscriber(server: &Server, arguments: &[&str]) -> Run {
    let mut all = vec!["subscribe"];
    all.extend(arguments);
    let mut run = server.command(&all);
    run.wait_until_subscribed();
    run
}

fn place(line: &Value) -> (String, u64, u64) {
    let number = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}"));
    (line["topic"].as_str().expect("a topic").to_owned(), number("partition"), number("offset"))
}

/// The first thing anybody does, word for word as README shows it.
#[test]
fn first_event() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let mut subscriber = subscriber(&server, &["demo/#"]);
    let printed = server.command(&["publish", "demo/hello", "Hello, mesh"]).done();
    assert_eq!(printed.len(), 1, "{printed:?}");
    assert!(
        printed[0].starts_with("demo/hello ") && printed[0].ends_with(":0 durable"),
        "{printed:?}"
    );
    let line = subscriber.line();
    assert!(line.starts_with("demo/hello ") && line.ends_with(":0 Hello, mesh"), "{line}");
    signal(subscriber.id(), "INT");
    assert_eq!(subscriber.end().code, Some(0));
    assert!(server.stop().success());
}

/// What a person types in comes out as it went in, and each event is answered with where it stands.
#[test]
fn json_lines_come_out_as_they_went_in() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let mut publisher = server.command(&["publish", "fleet/vin-7", "-o", "json"]);
    publisher.write(b"{\"key\":\"vin-7\",\"type\":\"position\",\"data\":{\"lat\": 22.5}}\n");
    publisher.write(
        b"{\"id\":\"own\",\"key\":\"vin-7\",\"source\":\"/car\",\"ext\":7,\"data\":\"text\"}\n\n",
    );
    publisher.write(b"{\"key\":\"vin-7\",\"data_base64\":\"AAEC\"}");
    let acks: Vec<Value> =
        publisher.done().iter().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(acks.len(), 3);
    for (offset, ack) in acks.iter().enumerate() {
        assert_eq!((ack["offset"].as_u64(), &ack["ack"]), (Some(offset as u64), &json!("durable")));
        assert_eq!(ack["partition"], acks[0]["partition"], "one key, one partition");
    }
    assert_eq!(acks[1]["id"], "own");
    let from_start = ["subscribe", "fleet/#", "--from", "earliest", "--count", "3", "-o", "json"];
    let mut subscriber = server.command(&from_start);
    let events: Vec<Value> = (0..3).map(|_| subscriber.json()).collect();
    assert_eq!(subscriber.end().code, Some(0));
    for (event, ack) in events.iter().zip(&acks) {
        assert_eq!(place(event), place(ack));
        assert_eq!(event["event"]["id"], ack["id"]);
        assert_eq!(event["attempt"], 1);
        assert_eq!(event["event"]["specversion"], "1.0");
        assert_eq!(event["event"]["partitionkey"], "vin-7");
    }
    assert_eq!(events[0]["event"]["data"], json!({"lat": 22.5}));
    assert_eq!(events[0]["event"]["type"], "position");
    assert_eq!(
        (&events[1]["event"]["source"], &events[1]["event"]["ext"]),
        (&json!("/car"), &json!(7))
    );
    assert_eq!(events[2]["event"]["data_base64"], "AAEC");
}

/// What the server refuses ends the command with its own code, and says what to do.
#[test]
fn refusals_end_commands_with_their_code() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    subscriber(&server, &["a/#", "--group", "g", "--from", "earliest"]).kill();
    let long = "x".repeat((1 << 20) + 1);
    let file = folder.path().join("long");
    std::fs::write(&file, long).unwrap();
    let file = format!("@{}", file.display());
    let levels = vec!["l"; 33].join("/");
    let table: [(&[&str], &[&str]); 8] = [
        (&["publish", "a/+", "x"], &["malformed_topic", "+"]),
        (&["publish", "a//b", "x"], &["malformed_topic"]),
        (&["publish", "$ringmesh/x", "x"], &["reserved_topic"]),
        (&["publish", &levels, "x"], &["33", "32"]),
        (&["publish", "a", &file], &["limit_exceeded", "1048577", "1048576"]),
        (&["subscribe", "a/#/b"], &["malformed_filter"]),
        (&["subscribe", "a/#", "--from", "0:0"], &["start_needs_topic"]),
        (&["subscribe", "a/#", "--group", "g", "--from", "tail"], &["group_exists", "--from"]),
    ];
    for (arguments, texts) in table {
        let ended = server.command(arguments).end();
        assert_eq!(ended.code, Some(3), "{arguments:?}: {}", ended.stderr);
        for text in texts {
            assert!(ended.stderr.contains(text), "{arguments:?} says {text}: {}", ended.stderr);
        }
    }
}

/// A line that is no event stops the input there; what came before is published, and the line is named.
#[test]
fn bad_input_names_the_line() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let mut publisher = server.command(&["publish", "a", "-o", "json"]);
    publisher.write(b"{\"data\":1}\n{\"data\":2}\n{\"data\":\n{\"data\":4}\n");
    let ended = publisher.end();
    assert_eq!(ended.code, Some(2), "{}", ended.stderr);
    assert!(ended.stderr.contains("line 3 of standard input"), "{}", ended.stderr);
    assert_eq!(ended.lines.len(), 2, "the lines before are published and answered");
}

/// A group is one reader in many places: each event goes to one member. Without a group each gets all.
#[test]
fn groups_share_and_others_get_all() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let share = ["work/#", "--group", "g", "-o", "json"];
    let mut members = [subscriber(&server, &share), subscriber(&server, &share)];
    let mut alone = [
        subscriber(&server, &["work/#", "-o", "json"]),
        subscriber(&server, &["work/+", "-o", "json"]),
    ];
    let mut publisher = server.command(&["publish", "work/a", "-o", "json"]);
    for n in 0..200 {
        publisher.write(format!("{{\"key\":\"k{}\",\"data\":{n}}}\n", n % 20).as_bytes());
    }
    let acks = publisher.done();
    let mut expected: Vec<_> =
        acks.iter().map(|l| place(&serde_json::from_str(l).unwrap())).collect();
    expected.sort();
    for run in &mut alone {
        let mut seen: Vec<_> = (0..200).map(|_| place(&run.json())).collect();
        seen.sort();
        assert_eq!(seen, expected, "an ephemeral subscriber gets every event once");
    }
    let mut shared = Vec::new();
    while shared.len() < 200 {
        for run in &mut members {
            shared.extend(run.line_within(Duration::from_millis(20)));
        }
    }
    let mut seen = BTreeMap::new();
    for line in &shared {
        let line: Value = serde_json::from_str(line).unwrap();
        *seen.entry(place(&line)).or_insert(0) += 1;
    }
    assert_eq!(seen, expected.iter().map(|place| (place.clone(), 1)).collect());
    for run in members.into_iter().chain(alone) {
        signal(run.id(), "TERM");
        let ended = run.end();
        assert_eq!((ended.code, ended.lines.len()), (Some(0), 0), "no event comes twice");
    }
    assert!(server.stop().success());
}

/// `--count` takes so many and no more: the rest is for those who come after.
#[test]
fn count_leaves_the_rest_to_the_group() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    server.command(&["publish", "a", "x", "--count", "10", "--key", "k"]).done();
    let first =
        ["subscribe", "a", "--group", "g", "--from", "earliest", "--count", "3", "-o", "json"];
    let mut seen: Vec<Value> = Vec::new();
    let read = |lines: Vec<String>| {
        lines.iter().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<Value>>()
    };
    seen.extend(read(server.command(&first).done()));
    assert_eq!(seen.len(), 3);
    let rest = ["subscribe", "a", "--group", "g", "--count", "7", "-o", "json"];
    seen.extend(read(server.command(&rest).done()));
    let offsets: Vec<_> = seen.iter().map(|line| line["offset"].as_u64().unwrap()).collect();
    assert_eq!(offsets, (0..10).collect::<Vec<_>>());
}

/// Each way to say where to begin begins there.
#[test]
fn starts_begin_where_told() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let acks =
        server.command(&["publish", "a", "x", "--count", "5", "--key", "k", "-o", "json"]).done();
    let partition = serde_json::from_str::<Value>(&acks[0]).unwrap()["partition"].clone();
    let from_two = format!("{partition}:2");
    let long_ago = "2020-01-01T00:00:00Z";
    for (start, count) in [("earliest", 5), (&from_two, 3), (long_ago, 5)] {
        let arguments =
            ["subscribe", "a", "--from", start, "--count", &count.to_string(), "-o", "json"];
        let lines = server.command(&arguments).done();
        let first: Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(first["offset"], 5 - count, "--from {start}");
    }
    let mut tail = subscriber(&server, &["a", "-o", "json"]);
    server.command(&["publish", "a", "y", "--key", "k"]).done();
    assert_eq!(tail.json()["offset"], 5);
}

/// `--until-end` prints what was acknowledged before it began, and then ends by itself.
#[test]
fn until_end_ends_with_what_was_acknowledged() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let everything = ["subscribe", "#", "--from", "earliest", "--until-end", "-o", "json"];
    assert_eq!(server.command(&everything).done().len(), 0, "nothing is there");
    for topic in ["a", "b/c", "d"] {
        server.command(&["publish", topic, "x", "--count", "300"]).done();
    }
    assert_eq!(server.command(&everything).done().len(), 900);
    let one = ["subscribe", "b/#", "--from", "earliest", "--until-end", "-o", "json"];
    assert_eq!(server.command(&one).done().len(), 300);
    let group =
        ["subscribe", "a", "--group", "g", "--from", "earliest", "--until-end", "-o", "json"];
    assert_eq!(server.command(&group).done().len(), 300);
    let again = ["subscribe", "a", "--group", "g", "--until-end", "-o", "json"];
    assert_eq!(server.command(&again).done().len(), 0, "the group has seen it all");
}

/// `--rate` is what a person measures with; twice the rate would be measured as half the delay.
#[test]
fn rate_paces() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let before = std::time::Instant::now();
    server.command(&["publish", "a", "x", "--count", "100", "--rate", "200"]).done();
    let took = before.elapsed();
    assert!(took >= Duration::from_millis(490), "99 gaps of 5 ms took {took:?}");
}

/// Made-up events are what people try a mesh with: each must be one of its own, at its own topic, and printed as asked.
#[test]
fn templates_make_events_and_formats_print_them() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let words = ["publish", "fleet/vin-{{count}}", "{\"n\": {{count}}}", "--key", "vin-{{count}}"];
    let more =
        ["--type", "position", "--attribute", "region=eu", "--count", "40", "--id", "i-{{count}}"];
    let acks = server.command(&[&words[..], &more].concat()).done();
    assert_eq!(acks.len(), 40);
    let format = "%t|%k|%{type}|%{region}|%{id}|%v|%n\\n";
    let read = ["subscribe", "fleet/#", "--from", "earliest", "--until-end", "--format", format];
    let mut lines = server.command(&read).done();
    lines.sort_unstable();
    let mut expected: Vec<String> = (1..=40)
        .map(|n| format!("fleet/vin-{n}|vin-{n}|position|eu|i-{n}|{{\"n\": {n}}}|1"))
        .collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);

    // What a line of standard input says itself wins.
    let mut publisher =
        server.command(&["publish", "in/{{count}}", "--type", "t{{count}}", "--key", "k"]);
    publisher.write(b"{\"data\":1}\n{\"type\":\"own\",\"data\":\"{{count}}\"}\n");
    publisher.done();
    let read = [
        "subscribe",
        "in/#",
        "--from",
        "earliest",
        "--until-end",
        "--format",
        "%t %{type} %k %v\\n",
    ];
    let mut lines = server.command(&read).done();
    lines.sort_unstable();
    assert_eq!(lines, ["in/1 t1 k 1", "in/2 own k \"{{count}}\""]);

    let wrong = server.command(&["publish", "t", "{{cuont}}"]).end();
    assert_eq!(wrong.code, Some(2));
    assert!(wrong.stderr.contains("did you mean count?"), "{wrong:?}");
    assert!(server.stop().success());
}

/// Who publishes much wants to know how far it is, on the terminal alone; and what a script reads stays as it was.
#[test]
fn long_work_shows_its_progress_on_a_terminal() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let address = server.address().to_string();
    let publish = |flags: &[&str]| {
        let mut command = Command::new(BINARY);
        command
            .args(["publish", "a", "x", "--count", "160", "--rate", "100", "--server", &address]);
        command.args(flags).stdout(Stdio::piped());
        command
    };
    let terminal = Terminal::start(publish(&["-q"]), Streams::Errors, 24, 80);
    let shown = terminal.wait_for("bar", |screen| screen.contains(" of 160 events, "));
    assert!(shown.contains("/s, ") && shown.contains(" left"), "{shown}");
    let (status, _, left) = terminal.end();
    assert!(status.success() && left.is_empty(), "the line is gone: {left}");

    let sum = server.command(&["publish", "a", "x", "--count", "500", "-q"]).done();
    assert!(sum.len() == 1 && sum[0].starts_with("500 events in "), "{sum:?}");
    let sum = server.command(&["publish", "a", "x", "--count", "5", "-q", "-o", "json"]).done();
    let sum: Value = serde_json::from_str(&sum[0]).unwrap();
    assert_eq!(sum["events"], 5);
    assert!(server.stop().success());
}
