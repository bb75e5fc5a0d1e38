//! A workload from a file, run by the built program against its stand-in: what the file asks for is what is measured.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A stand-in of its own process, which goes with the test.
struct StandIn {
    child: Child,
    address: String,
}

impl StandIn {
    fn start() -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_loadtest"))
            .arg("stand-in")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().rsplit(' ').next().unwrap().to_owned();
        StandIn { child, address }
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(workload: &Path, server: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["--json", "run", "--server", server, "--workload"])
        .arg(workload)
        .output()
        .unwrap()
}

fn workload_in(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("short.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// A file whose numbers do not reach the engine measures something else than its name says; one point that is passed
/// over makes a table with a hole that nobody sees.
#[test]
fn each_point_of_a_workload_is_a_row_with_what_was_asked() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload_in(
        folder.path(),
        "about = 'two points'\npublishers = 2\ngroups = [1, 3]\ntopics = 4\ndata_bytes = 100\nbatch = 5\nkeys = 10\n\
         rate = 2_000\nwarm_up = '100ms'\nduration = '1s'\n",
    );
    let server = StandIn::start();
    let output = run(&workload, &server.address);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2, "{report:#}");
    for (row, (name, groups)) in rows.iter().zip([("short 1 groups", 1), ("short 3 groups", 3)]) {
        assert_eq!(row["name"], name);
        let latency = |kind: &str| {
            let kinds = row["latencies"].as_array().unwrap();
            let found = kinds.iter().find(|latency| latency["kind"] == kind);
            found.unwrap_or_else(|| panic!("no {kind} in {row:#}"))["count"].as_u64().unwrap()
        };
        // 2,000 a second in batches of 5 for the one second that counts, whatever the day.
        assert_eq!(latency("ack"), 400, "{row:#}");
        assert_eq!(latency("end to end"), 400 * groups, "{row:#}");
        assert!(row["ack_curve"].as_array().unwrap().len() > 10, "{row:#}");
        assert!(!row["seconds"].as_array().unwrap().is_empty(), "{row:#}");
        let lost = |note: &Value| note.as_str().unwrap().contains("did not come");
        assert!(!row["notes"].as_array().unwrap().iter().any(lost), "{row:#}");
    }
}

/// A workload that cannot be read must stop the command and say which file and which key, not measure the defaults.
#[test]
fn a_bad_workload_is_refused_by_file_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload_in(folder.path(), "about = 'x'\npublishers = 0\n");
    let output = run(&workload, "127.0.0.1:1");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("short.toml") && error.contains("publishers = 0"), "{error}");
}
