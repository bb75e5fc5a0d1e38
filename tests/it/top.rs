//! `top` on a terminal of 80 by 24, and as JSON.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::documents::shown;
use crate::folder;
use crate::harness::{BINARY, Server, run};
use crate::terminal::{Streams, Terminal};

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;

/// A server with two groups that are behind.
fn server(folder: &std::path::Path) -> Server {
    let server = Server::start_with(folder, &["--shards", "2"]);
    server.command(&["publish", "orders/new", "x", "--count", "1500", "--key", "k", "-q"]).done();
    for (group, count) in [("billing", "1200"), ("audit", "100")] {
        let group = ["subscribe", "orders/#", "--group", group, "--from", "earliest", "-o", "json"];
        server.command(&[&group[..], &["--count", count]].concat()).done();
    }
    server
}

fn top(server: &Server, flags: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(["top", "--interval", "100ms", "--admin", &server.admin().to_string()]);
    command.args(flags);
    command
}

/// Lines without their figures: these, and their units, are others at each look.
fn shape<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let units = ["B", "KiB", "MiB", "GiB", "us", "ms", "s", "%"];
    let word = |word: &'a str| match word.contains(|c: char| c.is_ascii_digit()) || word == "-" {
        true => "#",
        false => word,
    };
    let is_kept = |word: &&str| !units.contains(word);
    lines
        .map(|line| line.split_whitespace().filter(is_kept).map(word).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Whoever looks at a server in trouble has a small terminal and no time: what is documented is what is there, keys do
/// what they say, and the terminal is left as it was.
#[test]
fn a_server_is_shown_on_a_small_terminal() {
    let folder = folder::new();
    let server = server(folder.path());
    let mut terminal = Terminal::start(top(&server, &[]), Streams::Screen, ROWS, COLUMNS);
    // The groups' last settles arrive a moment later.
    let settled = |screen: &str| screen.contains(" 1,400 ") && screen.contains(" 300 ");
    let screen =
        terminal.wait_for("lag", |screen| settled(screen) && screen.contains("s sorted by lag"));
    let lines: Vec<String> = screen.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), usize::from(ROWS), "{screen}");
    let documented = shown("docs/cli.md");
    let documented = documented.iter().find(|block| block.contains("sorted by lag"));
    let documented = documented.expect("docs/cli.md shows the screen");
    assert_eq!(shape(documented.lines()), shape(lines.iter().map(String::as_str)), "{screen}");

    terminal.forget();
    terminal.press("s\x1b[B");
    terminal.wait_for("another order", |screen| screen.contains("s sorted by seconds"));
    terminal.press("sss");
    let by_name = terminal.wait_for("names", |screen| screen.contains("s sorted by name"));
    let place = |name: &str| by_name.find(name).expect("it is shown");
    assert!(place("audit") < place("billing"), "{by_name}");
    terminal.press("q");
    let (status, _, left) = terminal.end();
    assert!(status.success(), "{status}");
    assert_eq!(left, "", "the screen is as it was");
    assert!(server.stop().success());
}

/// A server that goes away is told of on the screen, which stays; the terminal comes back also after Ctrl-C.
#[test]
fn a_server_that_is_gone_is_told_of() {
    let folder = folder::new();
    let server = server(folder.path());
    let mut terminal =
        Terminal::start(top(&server, &["--timeout", "1s"]), Streams::Screen, ROWS, COLUMNS);
    terminal.wait_for("a screen", |screen| screen.contains("billing"));
    server.kill();
    let gone =
        terminal.wait_for("no answer", |screen| screen.starts_with("no answer: no admin port"));
    assert!(gone.contains("billing"), "what was known stays: {gone}");
    terminal.press("\x03");
    let (status, _, left) = terminal.end();
    assert!(status.success() && left.is_empty(), "{status}: {left}");
}

/// Scripts get one object, and whoever has no terminal is told how.
#[test]
fn a_snapshot_is_one_object() {
    let folder = folder::new();
    let server = server(folder.path());
    let admin = server.admin().to_string();
    let json = run(&["top", "-o", "json", "--interval", "100ms", "--admin", &admin]).done();
    assert_eq!(json.len(), 1);
    let snapshot: Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(snapshot["server"]["ready"], true, "{snapshot}");
    assert!(snapshot["interval_seconds"].as_f64().unwrap() >= 0.1);
    assert_eq!(snapshot["shards"].as_array().map(Vec::len), Some(2));
    let subscriptions = snapshot["subscriptions"].as_array().unwrap();
    let names: Vec<&str> = subscriptions.iter().filter_map(|row| row["name"].as_str()).collect();
    assert_eq!(names, ["audit", "billing"]);
    assert!(snapshot["rates"]["published_events"].is_number());
    assert!(snapshot["latencies"].get("disk_write_p99_seconds").is_some());
    assert!(snapshot["memory_bytes"].as_u64().unwrap() > 1 << 20);

    let mut piped = top(&server, &[]);
    let output = piped.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("no terminal") && said.contains("top -o json"), "{said}");
    let nobody = run(&["top", "-o", "json", "--admin", "127.0.0.1:1"]).end();
    assert_eq!(nobody.code, Some(4), "{nobody:?}");
    assert!(server.stop().success());
}
