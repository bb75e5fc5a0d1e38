//! A copy of the folder of a running server, as docs/operations.md has it.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::folder;
use crate::harness::{Server, run, signal};

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp is there");
    assert!(status.success(), "the folder can be copied while its server runs");
}

/// A backup that does not open is none, and it is found out when it is too late. What was acknowledged before the copy
/// began must be in it, with the groups' places, also while others publish; and the running server must not notice.
#[test]
fn a_copy_of_a_running_folder_opens() {
    let (folder, copies) = (folder::new(), folder::new());
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let publish = ["publish", "kept/a", "{{count}}", "--key", "{{random 1 50}}", "-q"];
    server.command(&[&publish[..], &["--count", "3000"]].concat()).done();
    let group = ["subscribe", "kept/#", "--group", "billing", "--from", "earliest", "-o", "json"];
    server.command(&[&group[..], &["--count", "1000"]].concat()).done();
    let meanwhile = ["publish", "meanwhile/a", "{{random_string 300}}", "--key", "{{random 1 50}}"];
    let mut publisher = server.command(&[&meanwhile[..], &["--count", "10000000", "-q"]].concat());
    for round in 0..3 {
        copy(folder.path(), &copies.path().join(round.to_string()));
    }
    assert!(publisher.line_within(std::time::Duration::ZERO).is_none(), "it goes on meanwhile");
    signal(publisher.id(), "INT");
    assert_eq!(publisher.end().code, Some(0));
    for round in 0..3 {
        let mut copied =
            Server::start_with(&copies.path().join(round.to_string()), &["--shards", "2"]);
        // What was written while it was copied may have a hole; it is set aside, and told.
        copied.expect_line("damage");
        let read = ["subscribe", "kept/#", "--from", "earliest", "--until-end", "--format", "%v\n"];
        let mut numbers: Vec<u64> =
            copied.command(&read).done().iter().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=3_000).collect::<Vec<_>>(), "copy {round}");
        let admin = copied.admin().to_string();
        let show =
            run(&["subscription", "show", "billing", "-o", "json", "--admin", &admin]).done();
        let show: Value = serde_json::from_str(&show[0]).unwrap();
        assert!(show["lag_events"].as_u64().unwrap() >= 2_000, "its place is kept: {show}");
        copied.command(&["publish", "kept/b", "x"]).done();
        assert!(copied.stop().success());
    }
    assert!(server.stop().success());
}
