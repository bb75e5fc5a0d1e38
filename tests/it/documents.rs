//! The commands that the documents show, word for word, against a running server.
//!
//! A block that is marked `sh` is run by bash in the workspace's root. Three words are replaced, by scripts in front
//! of the path: `cargo run` runs what is built already, with the address of the test's server; `curl` asks that server's admin
//! port or http door; `npm` does nothing, because tests/all.sh has installed the packages.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::folder;
use crate::harness::{BINARY, Server};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The blocks of a document that are marked `sh`.
fn blocks(document: &str) -> Vec<String> {
    let path = Path::new(ROOT).join(document);
    let text = std::fs::read_to_string(&path).expect("the document is there");
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().expect("a split has a first part").to_owned())
        .collect()
}

/// The example's program, which `cargo test` builds beside the tests.
fn example() -> PathBuf {
    let folder = Path::new(BINARY).parent().expect("the binary stands in a folder");
    let example = folder.join("examples/github_webhooks");
    assert!(example.exists(), "run `cargo build --example github_webhooks` first");
    example
}

fn script(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/usr/bin/env bash\nset -euo pipefail\n{text}\n"))
        .expect("it is written");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("it is ours");
}

/// Runs one block against a server.
fn run(block: &str, server: &Server) -> Output {
    let shims = folder::new();
    let (address, example) = (server.address(), example());
    let cargo = format!(
        "[ \"$1\" = run ] || {{ echo \"not a run: $*\"; exit 2; }}
         case \" $* \" in *' --example github_webhooks '*) exec {} {address};; esac
         while [ \"$1\" != -- ]; do shift; done
         shift
         case \"$1\" in
             completions|man|config|doctor|context|cheat) exec {BINARY} \"$@\";;
             publish|subscribe) exec {BINARY} \"$@\" --server {address};;
             *) exec {BINARY} \"$@\" --admin {};;
         esac",
        example.display(),
        server.admin()
    );
    script(shims.path(), "cargo", &cargo);
    script(shims.path(), "npm", "true");
    let (admin, http, bash) = (server.admin(), server.http(), "\"${all[@]}\"");
    let curl = format!(
        "all=(); for word in \"$@\"; do word=\"${{word//127.0.0.1:10106/{admin}}}\"
         all+=(\"${{word//127.0.0.1:10105/{http}}}\"); done
         PATH=${{PATH#*:}} exec curl {bash}"
    );
    script(shims.path(), "curl", &curl);
    let path = std::env::var("PATH").expect("there is a path");
    // Contexts of whoever runs the tests are left alone.
    let home = shims.path().join("home");
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &format!("{block}\nwait $(jobs -p)")]);
    command.current_dir(ROOT).env("XDG_CONFIG_HOME", home);
    command.env("PATH", format!("{}:{path}", shims.path().display()));
    command.output().expect("bash is there")
}

/// What a block prints, which must end well.
fn lines_of(block: &str, server: &Server) -> Vec<String> {
    let output = run(block, server);
    assert!(output.status.success(), "{block}\n{output:?}");
    String::from_utf8(output.stdout).expect("it prints text").lines().map(str::to_owned).collect()
}

/// The blocks of a document that are marked `text`: what it says is printed.
pub fn shown(document: &str) -> Vec<String> {
    let path = Path::new(ROOT).join(document);
    let text = std::fs::read_to_string(&path).expect("the document is there");
    let blocks = text.split("```text\n").skip(1);
    blocks
        .map(|rest| rest.split("```").next().expect("a split has a first part").to_owned())
        .collect()
}

/// Whether a line is as a document shows it, where an ellipsis stands for anything.
fn is_like(shown: &str, line: &str) -> bool {
    let mut parts = shown.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What is printed must be what the document shows, line by line.
fn assert_like(shown: &str, printed: &[String]) {
    let shown: Vec<&str> = shown.lines().collect();
    let all = shown.len() == printed.len() && shown.iter().zip(printed).all(|(a, b)| is_like(a, b));
    let (shown, printed) = (shown.join("\n"), printed.join("\n"));
    assert!(all, "the document shows\n{shown}\nand it prints\n{printed}");
}

/// A first event that does not come is the last that a new user tries.
#[test]
fn readme_shows_a_first_event() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let blocks = blocks("README.md");
    assert_eq!(blocks.len(), 2, "the two commands, and the first event");
    assert_eq!(blocks[0], "cargo run --release -- serve\ntests/all.sh\n", "the two commands");
    let lines = lines_of(&blocks[1], &server);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for part in ["\"topic\":\"fleet/cn/vin-7/telemetry\"", "\"partition\":20,\"offset\":0"] {
        assert!(lines.iter().all(|line| line.contains(part)), "{part} in {lines:?}");
    }
    assert!(lines.iter().any(|line| line.contains("\"ack\":\"durable\"")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("\"data\":{\"speed\": 42}")), "{lines:?}");
    assert!(server.stop().success());
}

/// A first program that does not compile is the last, too: README's is part of an example, which `cargo test` builds.
#[test]
fn readme_shows_a_program_that_compiles() {
    let read = |path: &str| std::fs::read_to_string(Path::new(ROOT).join(path)).expect(path);
    let (readme, program) = (read("README.md"), read("examples/readme.rs"));
    let block = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    // Lines may be broken elsewhere; nothing else may differ.
    let packed = |text: &str| text.split_whitespace().collect::<String>();
    let program = packed(&program);
    for part in block.expect("README.md has a program").split("\n\n") {
        assert!(program.contains(&packed(part)), "examples/readme.rs has\n{part}");
    }
}

/// The documented example on real input must say what the document says it does.
#[test]
fn real_input_is_as_documented() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let document = std::fs::read_to_string(Path::new(ROOT).join("docs/real-input.md"));
    let document = document.expect("the document is there");
    let blocks = blocks("docs/real-input.md");
    let table = lines_of(&blocks[0], &server).join("\n");
    assert!(document.contains(&table), "docs/real-input.md shows what it prints:\n{table}");
    let read_later = lines_of(&blocks[1], &server);
    let counts: Vec<usize> =
        ["opened", "issues"].iter().map(|group| count(&table, group)).collect();
    assert_eq!(read_later.len(), counts.iter().sum::<usize>(), "what is read later");
    assert!(server.stop().success());
}

/// Whoever looks for a command looks here; and what the document shows must work.
#[test]
fn command_line_is_as_documented() {
    use clap::CommandFactory;
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/cli.md"));
    let text = text.expect("the document is there");
    for command in ringmesh::commands::args::Cli::command().get_subcommands() {
        let row = format!("\n| `{}", command.get_name());
        assert!(text.contains(&row), "docs/cli.md has a row that begins with {row:?}");
    }
    let folder = folder::new();
    let server = Server::start(folder.path());
    let blocks = blocks("docs/cli.md");
    let checks = lines_of(&blocks[0], &server).join("\n");
    for check in
        ["io_uring", "memlock", "open_files", "cores", "memory", "clock", "folder", "space"]
    {
        assert!(checks.contains(&format!(" {check} ")), "{check} in {checks}");
        assert!(text.contains(&format!("\n| `{check}` | ")), "{check} is documented");
    }
    let made = blocks.iter().find(|block| block.contains("man target/man1"));
    assert_eq!(lines_of(made.expect("pages are made"), &server), Vec::<String>::new());
    let page = std::fs::read_to_string(Path::new(ROOT).join("target/man1/ringmesh-publish.1"));
    assert!(page.expect("it is written").contains("Partition key"), "a page of the command");
    assert!(server.stop().success());
}

/// The first page of the book must work as it stands.
#[test]
fn start_is_as_documented() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let (blocks, shown) = (blocks("docs/start.md"), shown("docs/start.md"));
    assert_eq!((blocks.len(), shown.len()), (1, 1));
    assert_like(&shown[0], &lines_of(&blocks[0], &server));
    assert!(server.stop().success());
}

/// What stands for anything must not stand for everything.
#[test]
fn likeness_is_told() {
    assert!(is_like("a … c", "a b c") && is_like("a", "a") && is_like("…", ""));
    assert!(is_like("a…b…c", "a1b2c"));
    assert!(!is_like("a", "ab") && !is_like("a … c", "a b d") && !is_like("a…b…c", "a1c"));
}

/// Templates, formats and contexts are learned from their examples: these must work and print what is shown.
#[test]
fn examples_of_the_command_line_are_as_documented() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/cli.md"));
    let text = text.expect("the document is there");
    for (function, _) in ringmesh::commands::template::FUNCTIONS {
        assert!(text.contains(&format!("\n| `{{{{{function}}}}}` | ")), "{function} is documented");
    }
    for (directive, _) in ringmesh::commands::format::DIRECTIVES {
        assert!(text.contains(&format!("\n| `{directive}` | ")), "{directive} is documented");
    }
    let examples = [
        ("publish 'fleet/vin-", "fleet/vin-1"),
        ("context add", "context \""),
        ("cheat", "ringmesh cheat start"),
    ];
    for (command, line) in examples {
        let block = blocks("docs/cli.md").into_iter().find(|block| block.contains(command));
        let mut printed = lines_of(&block.expect(command), &server);
        if command.starts_with("publish") {
            // The partitions' events come in any order.
            printed[1..].sort_unstable();
        }
        let shown = shown("docs/cli.md").into_iter().find(|block| block.contains(line));
        assert_like(&shown.expect(line), &printed);
    }
    assert!(server.stop().success());
}

/// A key that is explained wrongly is set wrongly.
#[test]
fn configuration_is_as_documented() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/configuration.md"));
    let text = text.expect("the document is there");
    let folder = folder::new();
    let server = Server::start(folder.path());
    let printed = lines_of(&blocks("docs/configuration.md")[0], &server).join("\n");
    assert!(text.contains(&format!("```text\n{printed}\n```")), "it prints:\n{printed}");
    assert!(server.stop().success());
}

/// What the document shows must be what an operator gets.
#[test]
fn admin_port_is_as_documented() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let blocks = blocks("docs/admin.md");
    let health = lines_of(&blocks[0], &server);
    assert_eq!(health[0], "alive", "{health:?}");
    assert!(health[1].starts_with("{\"ready\":true"), "{health:?}");
    let counters = health.iter().filter(|line| line.starts_with("ringmesh_publish_events_total{"));
    assert_eq!(counters.count(), 2, "a series for each shard: {health:?}");
    let api = lines_of(&blocks[1], &server);
    let (topic, subscription) = (&api[api.len() - 2], &api[api.len() - 1]);
    assert!(topic.starts_with("{\"name\":\"demo/hello\",\"events\":10,"), "{topic}");
    assert!(subscription.starts_with("{\"name\":\"billing\",\"durable\":true"), "{subscription}");
    assert!(subscription.contains("\"filters\":[\"demo/#\"]"), "{subscription}");
    let [dry, done, gone] = &lines_of(&blocks[2], &server)[..] else { panic!("three answers") };
    assert!(dry.starts_with("{\"dry_run\":true,\"subscription\":{\"name\":\"billing\""), "{dry}");
    assert!(
        done.starts_with("{\"dry_run\":false,\"subscription\":{\"name\":\"billing\""),
        "{done}"
    );
    assert!(gone.contains("\"code\":\"not_found\""), "{gone}");
    let commands = lines_of(&blocks[3], &server);
    assert!(commands.iter().any(|line| line == "demo/hello"), "{commands:?}");
    assert!(commands.iter().any(|line| line.starts_with("partition  first")), "{commands:?}");
    assert!(commands.iter().any(|line| line.starts_with("subscription")), "{commands:?}");
    assert!(server.stop().success());
}

/// Whoever moves a subscription by this document must get what it says.
#[test]
fn subscriptions_are_as_documented() {
    let text = std::fs::read_to_string(Path::new(ROOT).join("docs/subscriptions.md"));
    let text = text.expect("the document is there");
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let blocks = blocks("docs/subscriptions.md");
    let is_shown = |lines: &[String], kind: &str| {
        let shown = format!("```{kind}\n{}\n```", lines.join("\n"));
        assert!(text.contains(&shown), "it prints:\n{}", lines.join("\n"));
    };
    is_shown(&lines_of(&blocks[0], &server), "text");
    // What was settled last arrives a moment later.
    let is_settled = |answer: &crate::answer::Answer| answer.json()["lag_events"] == 6;
    crate::admin::until(&server, "/api/v1/subscriptions/billing", is_settled);
    let paused = lines_of(&blocks[1], &server);
    assert!(paused[0].starts_with("\"billing\" is paused: "), "{paused:?}");
    assert!(paused.iter().any(|line| line.contains(" paused ")), "{paused:?}");
    assert!(paused.iter().any(|line| line.starts_with("\"billing\" is resumed: ")), "{paused:?}");
    let (first, last) = blocks[2].trim_end().rsplit_once('\n').expect("several commands");
    let mut moved = lines_of(first, &server);
    let is_settled = |answer: &crate::answer::Answer| answer.json()["lag_events"] == 0;
    crate::admin::until(&server, "/api/v1/subscriptions/billing", is_settled);
    moved.extend(lines_of(last, &server));
    is_shown(&moved, "text");
    let http = lines_of(&blocks[3], &server);
    is_shown(&http[..2], "json");
    assert!(http[2].starts_with("{\"dry_run\":false,\"events_before\":10,"), "{http:?}");
}

/// Who sets a policy by the document must get what it says.
#[test]
fn topics_are_as_documented() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let blocks = blocks("docs/topics.md");
    let first = lines_of(&blocks[0], &server).join("\n");
    for part in [
        "orders/# says: ack durable, age 7d; it has said: nothing",
        "orders/+ would say: event 64KiB, order topic; it has said: nothing",
        "orders/+ says: event 64KiB, order topic; it has said: nothing",
    ] {
        assert!(first.contains(part), "{part} in {first}");
    }
    let row = |name: &str, text: &str| {
        let row = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        row.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("retention-age", &first), "7d orders/#");
    assert_eq!(row("order ", &first), "topic orders/+");
    assert_eq!(row("retention-bytes", &first), "as log.retention_bytes says (configuration)");
    let begun = lines_of(&blocks[1], &server);
    assert!(begun.contains(&"refused".to_owned()), "{begun:?}");
    assert!(begun.last().is_some_and(|line| line.starts_with("billing/invoices ")), "{begun:?}");
    let deleted = lines_of(&blocks[2], &server).join("\n");
    for part in [
        r#""billing/invoices" would be deleted: 1 events, about "#,
        r#""billing/invoices" is deleted: 1 events, about "#,
        "no subscription has still to get any of them",
    ] {
        assert!(deleted.contains(part), "{part} in {deleted}");
    }
    let unset = lines_of(&blocks[3], &server).join("\n");
    assert!(unset.contains("orders/+ says: event 64KiB; it has said: event 64KiB, order topic"));
    assert!(unset.contains("orders/+ would say: nothing; it has said: event 64KiB"), "{unset}");
    assert!(server.stop().success());
}

/// The commands that a new user copies must do what stands below them.
#[test]
fn http_door_is_as_documented() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let document = std::fs::read_to_string(Path::new(ROOT).join("docs/http.md"));
    let document = document.expect("the document is there");
    let blocks = blocks("docs/http.md");
    let [stored, polled, settled] = &lines_of(&blocks[0], &server)[..] else {
        panic!("three answers")
    };
    assert!(stored.starts_with("{\"topic\":\"orders/new\",\"partition\":"), "{stored}");
    assert!(stored.ends_with(",\"offset\":0,\"ack\":\"durable\"}"), "{stored}");
    assert!(polled.starts_with("{\"events\":[{\"token\":\"d"), "{polled}");
    assert!(polled.ends_with(",\"data\":{\"item\": \"book\"}}}]}"), "{polled}");
    assert_eq!(settled, "{\"settled\":1,\"stale\":[]}");
    let [subscribed, accepted, polled, acked] = &lines_of(&blocks[1], &server)[..] else {
        panic!("four answers")
    };
    for answer in [subscribed, accepted, acked] {
        assert!(document.contains(&format!("\n{answer}\n")), "it answers: {answer}");
    }
    let event = polled.split_once(",\"event\":").expect("an event").1;
    assert!(
        document.contains(&format!("[{{\"deliveryId\":\"d…\",\"event\":{event}\n")),
        "{polled}"
    );
    let refused = lines_of(&blocks[2], &server).join("\n");
    assert!(document.contains(&format!("```text\n{refused}\n```")), "it answers: {refused}");
    assert!(server.stop().success());
}

/// A guide to events that failed is read in a hurry: each of its commands must do what it says.
#[test]
fn delivery_is_as_documented() {
    use ringmesh_client::blocking::Client;
    use ringmesh_client::{ClientOptions, SubscribeOptions};
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let blocks = blocks("docs/delivery.md");
    let set = lines_of(&blocks[0], &server);
    for row in ["attempts_max", "retry_delay_ms", "retry_delay_max_ms", "jitter_percent"] {
        assert!(set.iter().any(|line| line.starts_with(row)), "{row} in {set:?}");
    }
    let client = Client::connect(ClientOptions::new(server.address().to_string()));
    let client = client.expect("the server is there");
    let wish = SubscribeOptions::new("orders/#").group("billing");
    let mut subscription = client.subscribe(wish).expect("the server answers");
    server.command(&["publish", "orders/new", "x", "--key", "k"]).done();
    let delivery = subscription.next(crate::harness::PATIENCE).expect("it stands");
    delivery.expect("it is delivered").reject();
    let is_settled = |answer: &crate::answer::Answer| answer.json()["lag_events"] == 0;
    crate::admin::until(&server, "/api/v1/subscriptions/billing", is_settled);
    let worked = lines_of(&blocks[1], &server);
    assert!(worked[1].contains(" rejected ") && worked[1].contains(" orders/new "), "{worked:?}");
    assert_eq!(worked[2], "1 dead letters of \"billing\" would be redriven to the group");
    assert_eq!(worked[3], "1 dead letters of \"billing\" are redriven to the group");
    assert_eq!(worked[4], "0 dead letters of \"billing\" are purged");
    let parked = lines_of(&blocks[2], &server);
    assert!(parked.len() == 1 && parked[0].starts_with("until "), "a table of nothing: {parked:?}");
    let again = subscription.next(crate::harness::PATIENCE).expect("it stands");
    let again = again.expect("what was redriven is delivered");
    assert_eq!(&**again.topic(), "orders/new");
    again.ack();
    drop((subscription, client));
    assert!(server.stop().success());
}

/// The count in a group's row.
fn count(table: &str, group: &str) -> usize {
    let row = table.lines().find(|line| line.starts_with(group)).expect("the group has a row");
    row.split_whitespace()
        .last()
        .and_then(|word| word.parse().ok())
        .expect("a row ends with a count")
}
