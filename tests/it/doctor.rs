//! `doctor` on this machine: what runs here must be told so, and what cannot must not.

use std::net::TcpListener;

use serde_json::Value;

use crate::folder;
use crate::harness::{Ended, Server, run};

/// What it finds, by check. The flags come on top of any two free ports.
fn findings(flags: &[&str]) -> (Ended, Vec<Value>) {
    let ended = run(&[&["doctor", "-o", "json"], flags].concat()).end();
    let findings = ended.lines.iter().map(|line| serde_json::from_str(line).expect("JSON"));
    let findings = findings.collect();
    (ended, findings)
}

/// The result of one check, and what it says.
fn of<'a>(findings: &'a [Value], check: &str) -> (&'a str, &'a str) {
    let finding = findings.iter().find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("{check} in {findings:?}"));
    let text = |name: &str| finding[name].as_str().unwrap_or_else(|| panic!("{name} in {finding}"));
    (text("result"), text("finding"))
}

/// The tests start servers on this machine, so a doctor who says that it cannot run one is wrong. Nothing may be left in
/// the folder that was only asked about.
#[test]
fn a_machine_that_runs_servers_is_well() {
    let folder = folder::new();
    let data = folder.path().join("data");
    let flags = [
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--http",
        "off",
        "--admin",
        "off",
    ];
    let (ended, found) = findings(&flags);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{found:?}");
    for check in ["io_uring", "memlock", "native_port"] {
        assert_eq!(of(&found, check).0, "ok", "{found:?}");
    }
    assert!(found.iter().all(|finding| finding["check"] != "admin_port"), "it is off: {found:?}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let text = run(&[&["doctor"], &flags[..]].concat()).done().join("\n");
    for finding in &found {
        assert!(text.contains(finding["check"].as_str().unwrap()), "{finding} in {text}");
    }
}

/// A port that somebody else has must be told from one where the server runs already.
#[test]
fn ports_of_a_server_are_told_from_taken_ones() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let (native, admin) = (server.address().to_string(), server.admin().to_string());
    let http = server.http().to_string();
    let data = folder.path().to_str().unwrap();
    let of_server = [
        "--data",
        data,
        "--listen",
        &native,
        "--http",
        &http,
        "--admin",
        &admin,
        "--timeout",
        "60s",
    ];
    let (ended, found) = findings(&of_server);
    assert_eq!(ended.code, Some(0), "{found:?}");
    for check in ["native_port", "http_port", "admin_port"] {
        let (result, finding) = of(&found, check);
        assert_eq!(result, "ok", "{finding}");
        assert!(finding.starts_with("a Ringmesh server answers at "), "{finding}");
    }
    assert!(server.stop().success());

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = silent.local_addr().unwrap().to_string();
    let of_other = [
        "--data",
        data,
        "--listen",
        &taken,
        "--http",
        "off",
        "--admin",
        &taken,
        "--timeout",
        "200ms",
    ];
    let (ended, found) = findings(&of_other);
    assert_eq!(ended.code, Some(1), "{found:?}");
    assert!(ended.stderr.contains("2 of 10 checks fail"), "{}", ended.stderr);
    for check in ["native_port", "admin_port"] {
        let (result, finding) = of(&found, check);
        assert_eq!(result, "fail", "{finding}");
        assert!(finding.contains("is taken"), "{finding}");
    }
}

/// What a start refuses, the doctor must refuse: too little memory, and a folder that cannot be.
#[test]
fn what_a_start_refuses_fails() {
    let ports = ["--listen", "127.0.0.1:0", "--http", "off", "--admin", "off"];
    let wrong = ["--data", "/proc/ringmesh", "--shards", "4"];
    let memory = ["--set", "limits.memory_bytes_max=64MiB"];
    let (ended, found) = findings(&[&ports[..], &wrong, &memory].concat());
    assert_eq!(ended.code, Some(1), "{found:?}");
    let (result, finding) = of(&found, "memory");
    assert_eq!(result, "fail", "{finding}");
    assert!(finding.contains("limits.memory_bytes_max is 64MiB"), "{finding}");
    assert_eq!(of(&found, "folder").0, "fail", "{found:?}");
}
