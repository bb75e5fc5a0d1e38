//! What is acknowledged is there after a kill, and what is not settled comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;

use serde_json::Value;

use crate::folder;
use crate::harness::{Server, run, serve};

/// Topic, partition, offset.
pub type Place = (String, u64, u64);

fn parse(lines: &[String]) -> Vec<Value> {
    lines.iter().map(|line| serde_json::from_str(line).expect("each line is whole")).collect()
}

fn place(line: &Value) -> Place {
    let number = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}"));
    (line["topic"].as_str().expect("a topic").to_owned(), number("partition"), number("offset"))
}

/// Reads all that the server holds, as an ephemeral subscriber.
pub fn everything(server: &Server) -> BTreeMap<Place, String> {
    let all = ["subscribe", "#", "--from", "earliest", "--until-end", "-o", "json"];
    let mut events = BTreeMap::new();
    for line in parse(&server.command(&all).done()) {
        let id = line["event"]["id"].as_str().expect("an id").to_owned();
        let before = events.insert(place(&line), id);
        assert_eq!(before, None, "one event a place: {line}");
    }
    events
}

/// Offsets have no holes: a reader that finds one thinks that events are lost.
fn check_dense(events: &BTreeMap<Place, String>) {
    let mut next: BTreeMap<(&str, u64), u64> = BTreeMap::new();
    for (topic, partition, offset) in events.keys() {
        let expected = next.entry((topic, *partition)).or_insert(0);
        assert_eq!(offset, expected, "{topic} {partition}");
        *expected += 1;
    }
}

/// One kill in the middle of publishing and delivering: every acknowledged event stands exactly where it was told,
/// and the group is given every event that it has not acknowledged.
fn kill_once(cycle: u64) {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let group = ["subscribe", "load/#", "--group", "g", "--from", "earliest", "-o", "json"];
    let mut reader = server.command(&group);
    let mut publishers: Vec<_> = ["load/a", "load/b", "load/c"]
        .iter()
        .map(|topic| {
            let mut arguments = vec!["publish", topic, "x", "--count", "1000000", "-o", "json"];
            match *topic {
                "load/a" => arguments.extend(["--batch", "1", "--window", "16"]),
                "load/b" => arguments.extend(["--key", "k"]),
                _ => {}
            }
            server.command(&arguments)
        })
        .collect();
    for publisher in &mut publishers {
        for _ in 0..=(cycle % 7) * 40 {
            publisher.line();
        }
    }
    let first_line = place(&reader.json());
    server.kill();
    let acknowledged: Vec<Value> =
        publishers.into_iter().flat_map(|run| parse(&whole(run.kill().lines))).collect();
    let mut seen: BTreeSet<Place> = parse(&whole(reader.kill().lines)).iter().map(place).collect();
    seen.insert(first_line);

    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let stored = everything(&server);
    check_dense(&stored);
    for ack in &acknowledged {
        assert_eq!(
            stored.get(&place(ack)).map(String::as_str),
            ack["id"].as_str(),
            "run {cycle}: {ack}"
        );
    }
    let rest = ["subscribe", "load/#", "--group", "g", "--until-end", "-o", "json"];
    let again: BTreeSet<Place> = parse(&server.command(&rest).done()).iter().map(place).collect();
    let never: Vec<_> =
        stored.keys().filter(|place| !seen.contains(place) && !again.contains(place)).collect();
    assert!(
        never.is_empty(),
        "run {cycle}: {} of {} events were never given to the group ({} before the kill, {} after): {:?}",
        never.len(),
        stored.len(),
        seen.len(),
        again.len(),
        &never[..never.len().min(20)]
    );
    assert!(server.stop().success());
}

/// The last line of a killed process may be cut: it was never whole, so nobody was told.
fn whole(mut lines: Vec<String>) -> Vec<String> {
    if lines.last().is_some_and(|line| !line.ends_with('}')) {
        lines.pop();
    }
    lines
}

/// Loss and doubling show only under load, at a kill, with more than one shard. `IT_KILLS=50` is the long form.
#[test]
fn kills_lose_nothing_acknowledged() {
    let kills =
        std::env::var("IT_KILLS").map_or(1, |text| text.parse().expect("IT_KILLS is a number"));
    for cycle in 0..kills {
        kill_once(cycle);
    }
}

/// A subscriber that dies with events in its hands must not take them along.
#[test]
fn what_is_not_settled_comes_again() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    server.command(&["publish", "a", "x", "--count", "50", "--key", "k"]).done();
    // It prints until its output is full, and acknowledges what it printed; then it is killed.
    let mut first =
        server.command(&["subscribe", "a", "--group", "g", "--from", "earliest", "-o", "json"]);
    let first_line = place(&first.json());
    let mut seen: BTreeSet<Place> = parse(&whole(first.kill().lines)).iter().map(place).collect();
    seen.insert(first_line);
    // Until the server has noticed the death, what was in those hands counts as delivered; it comes right after.
    let mut second = server.command(&["subscribe", "a", "--group", "g", "-o", "json"]);
    while seen.len() < 50 {
        seen.insert(place(&second.json()));
    }
}

/// A group keeps its place over a shutdown, and the folder opens with another number of shards.
#[test]
fn folder_opens_with_other_shards() {
    let folder = folder::new();
    for (round, shards) in ["1", "2", "4", "1"].into_iter().enumerate() {
        let server = Server::start_with(folder.path(), &["--shards", shards]);
        for topic in ["a", "b"] {
            server.command(&["publish", topic, "x", "--count", "100"]).done();
        }
        let stored = everything(&server);
        check_dense(&stored);
        assert_eq!(stored.len(), (round + 1) * 200);
        let start: &[&str] = if round == 0 { &["--from", "earliest"] } else { &[] };
        let group =
            [&["subscribe", "#", "--group", "g", "--until-end", "-o", "json"], start].concat();
        assert_eq!(
            server.command(&group).done().len(),
            200,
            "the group has seen the rounds before"
        );
        assert!(server.stop().success());
    }
}

/// Two servers in one folder would write over each other; two on one port would split its clients.
#[test]
fn second_server_is_refused() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let data = folder.path().to_str().expect("UTF-8");
    let free = "127.0.0.1:0";
    let ended =
        run(&["serve", "--data", data, "--listen", free, "--http", free, "--admin", free]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    for text in [data, "another server", "--data"] {
        assert!(ended.stderr.contains(text), "says {text}: {}", ended.stderr);
    }
    let other = folder::new();
    let other = other.path().to_str().expect("UTF-8");
    let (native, admin) = (server.address().to_string(), server.admin().to_string());
    let http = server.http().to_string();
    for (flags, taken, flag) in [
        (["--listen", &native, "--http", free, "--admin", free], &native, "--listen"),
        (["--listen", free, "--http", &http, "--admin", free], &http, "--http"),
        (["--listen", free, "--http", free, "--admin", &admin], &admin, "--admin"),
    ] {
        let ended = run(&[&["serve", "--data", other][..], &flags].concat()).end();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        for text in [taken.as_str(), "taken", flag] {
            assert!(ended.stderr.contains(text), "says {text}: {}", ended.stderr);
        }
    }
    server.command(&["publish", "a", "x"]).done();
    assert!(server.stop().success());
}

/// A script that reads addresses.json as soon as it is there must find the server behind it.
#[test]
fn addresses_stand_in_the_folder() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let text = std::fs::read_to_string(folder.path().join("addresses.json")).expect("it is there");
    let addresses: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(addresses["native"], server.address().to_string());
    assert_eq!(addresses["process_id"], server.id());
    assert!(server.stop().success());
}

/// Nobody may wait for a server that could not start.
#[test]
fn folder_that_cannot_be_is_refused() {
    let folder = folder::new();
    let file = folder.path().join("file");
    std::fs::write(&file, "x").expect("it can be written");
    let output = serve(&file, &[]).stdin(Stdio::null()).output().expect("the binary starts");
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(file.to_str().expect("UTF-8")), "{stderr}");
    assert!(output.stdout.is_empty(), "no ready line");
}
