//! `loadtest compare` against the real servers, installed from the package registries. Without them these tests fail:
//! `tests/all.sh` installs what their installation needs. How fast anybody is, is not asserted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

mod support;
use support::{client_cpu, server};

/// What `tiny` asks in the second that counts: 500 events in batches of 5, to two groups.
const BATCHES: u64 = 100;
const GROUPS: u64 = 2;
/// Above this share of its core a client must be marked.
const CLIENT_BOUND_SHARE: f64 = 0.85;
/// Each contender with a server, and what that server itself must say of its acks.
const SAID: [(&str, &str); 6] = [
    ("ringmesh", "acks: durable"),
    ("ringmesh-written", "acks: written"),
    ("nats", "sync_interval=120s"),
    ("nats-synced", "sync_always=true"),
    ("kafka", "flush.messages=9223372036854775807"),
    ("kafka-synced", "flush.messages=1"),
];

/// Runs a comparison under `tiny`, and returns its report.
fn compare(installed: &Path, peers: &str, path: &OsStr) -> Value {
    // Not in the system's folder for temporary files, which may be a tmpfs without O_DIRECT.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |name: &str| folder.path().join(name);
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["--json", "compare", "--workload", "tiny", "--peers", peers, "--rounds", "1"])
        .args(["--warm-up", "500ms", "--duration", "1s", "--cpu", client_cpu(), "--serve"])
        .arg(server())
        .args([Path::new("--data"), &at("data"), Path::new("--out"), &at("out")])
        .args([Path::new("--installed"), installed])
        .env("PATH", path)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn lines(report: &Value) -> Vec<Value> {
    report["lines"].as_array().unwrap().clone()
}

fn line<'a>(lines: &'a [Value], id: &str) -> &'a Value {
    lines.iter().find(|line| line["id"] == id).unwrap_or_else(|| panic!("{id} has no line"))
}

fn notes(line: &Value) -> Vec<&str> {
    line["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect()
}

/// How many latencies of a kind were counted in the only round.
fn counted(line: &Value, kind: &str) -> u64 {
    let latencies = line["rounds"][0]["latencies"].as_array();
    let latencies = latencies.unwrap_or_else(|| panic!("no figures: {:?}", notes(line)));
    let found = latencies.iter().find(|latency| latency["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {line:#}"))["count"].as_u64().unwrap()
}

/// Every batch that was meant to be sent was acknowledged, and came to every group, by the end of the run: a driver that
/// loses or invents some would make its server look fast.
fn check_figures(line: &Value) {
    assert_eq!(counted(line, "ack"), BATCHES, "{line:#}");
    assert_eq!(counted(line, "end to end"), BATCHES * GROUPS, "{line:#}");
    for note in notes(line) {
        let bad =
            ["never answered", "were refused", "did not come", "delivered again", "no figures"];
        assert!(!bad.iter().any(|bad| note.contains(bad)), "{line:#}");
    }
    for figure in ["server_cpu_s", "server_peak_bytes", "client_cpu_s", "client_peak_bytes"] {
        assert!(
            line[figure]["median"].as_f64().is_some_and(|used| used > 0.0),
            "{figure}: {line:#}"
        );
    }
    let busy = line["client_busy_share"]["median"].as_f64().unwrap();
    let is_marked = notes(line).iter().any(|note| note.starts_with("client-bound"));
    assert_eq!(busy > CLIENT_BOUND_SHARE, is_marked, "{line:#}");
}

/// A driver that no real server answers any more, a pin that the registries no longer hold, and a row that is called synced
/// by a server that does not sync: each would first be seen by whoever reads the next report.
#[test]
fn every_peer_runs_and_does_what_its_row_says() {
    let installed = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
    let report = compare(&installed, "all", &std::env::var_os("PATH").unwrap());
    let lines = lines(&report);
    for (id, expected) in SAID {
        let line = line(&lines, id);
        check_figures(line);
        assert_eq!(line["server_says"], Value::from(vec![expected]), "{line:#}");
    }
    assert!(counted(line(&lines, "file"), "write") > 0);
    assert_eq!(lines.len(), SAID.len() + 2, "{lines:#?}");
    assert!(notes(line(&lines, "iggy"))[0].contains("no server in the registries"));
    assert_eq!(report["published"][0]["server"], "Apache Iggy");
    check_aims_beside(&installed);
}

/// An aim that is told beside a peer of another load, or beside none, compares nothing.
fn check_aims_beside(installed: &Path) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["--json", "aims", "--short", "--peers", "nats,iggy", "--no-install"])
        .args(["--only", "8 producers", "--cpu", client_cpu(), "--serve"])
        .arg(server())
        .args([Path::new("--data"), folder.path(), Path::new("--installed"), installed])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let missing = report["missing_peers"][0].as_str().unwrap();
    assert!(missing.starts_with("iggy: no server in the registries"), "{missing}");
    let aims = report["aims"].as_array().unwrap();
    assert!(aims.len() >= 2, "{report:#}");
    for (aim, peer) in aims.iter().flat_map(|aim| ["nats", "nats-synced"].map(|peer| (aim, peer))) {
        let median = aim["peers"][peer]["median"].as_f64();
        assert!(median.is_some_and(|median| median > 0.0), "{peer}: {aim:#}");
        let loads = report["peer_rows"][0][peer].as_array().unwrap();
        assert!(loads.iter().any(|row| row["name"] == "8 x 1"), "{loads:#?}");
    }
}

/// Who has neither Go nor Java must read in the report that a peer is missing, and why; the others are measured.
#[test]
fn a_peer_that_cannot_be_installed_has_a_row_that_says_so() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let programs = folder.path().join("bin");
    std::fs::create_dir(&programs).unwrap();
    for program in ["bash", "rm", "timeout"] {
        symlink(found(program), programs.join(program)).unwrap();
    }
    let report = compare(&folder.path().join("peers"), "nats-synced,kafka", programs.as_os_str());
    let lines = lines(&report);
    check_figures(line(&lines, "ringmesh"));
    for (id, missing) in [("nats-synced", "go 1.26"), ("kafka", "java")] {
        let line = line(&lines, id);
        let note = notes(line)[0];
        assert!(note.contains("cannot be installed") && note.contains(missing), "{line:#}");
        assert!(line["events_per_s"].is_null(), "{line:#}");
    }
}

/// Where a program stands.
fn found(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).map(|folder| folder.join(program));
    places.find(|place| place.is_file()).unwrap_or_else(|| panic!("there is no {program}"))
}
