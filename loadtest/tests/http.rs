//! The http driver against the server of this build: every request answered, every event streamed. How fast is not asserted.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

use serde_json::Value;

mod support;
use support::{client_cpu, server};

/// Runs a load over HTTP on a server of its own, and returns its row.
fn run(more: &[&str]) -> Value {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["--json", "run", "--driver", "http", "--serve"])
        .arg(server())
        .arg("--data")
        .arg(folder.path())
        .args(["--server-cpu", "0", "--cpu", client_cpu(), "--warm-up", "100ms"])
        .args(more)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let mut report: Value = serde_json::from_slice(&output.stdout).unwrap();
    report["rows"][0].take()
}

fn count(row: &Value, kind: &str) -> u64 {
    let latencies = row["latencies"].as_array().unwrap();
    let found = latencies.iter().find(|latency| latency["kind"] == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {row:#}"))["count"].as_u64().unwrap()
}

/// What stands in the notes when something was refused or lost.
fn check_nothing_lost(row: &Value) {
    for note in row["notes"].as_array().unwrap() {
        let note = note.as_str().unwrap();
        for bad in ["never answered", "were refused", "did not come", "delivered again"] {
            assert!(!note.contains(bad), "{row:#}");
        }
    }
    assert_eq!(row["server_says"], "acks: durable");
}

/// A driver that takes another answer for an ack, or loses one among pipelined requests, measures nothing: single events by
/// window, in both forms, each answered.
#[test]
fn single_events_are_answered() {
    for in_flight in ["1", "8"] {
        let load = ["--publishers", "8", "--size", "256", "--duration", "400ms", "--in-flight"];
        let row = run(&[&load[..], &[in_flight]].concat());
        check_nothing_lost(&row);
        assert!(row["rate_per_s"].as_f64().is_some_and(|rate| rate > 0.0), "{row:#}");
        assert!(count(&row, "ack") > 0, "{row:#}");
    }
}

/// An open loop sends what it was asked, and what comes by the streams is what was sent: all of each batch to every stream.
#[test]
fn batches_are_answered_and_streamed_in_full() {
    let shape = ["--publishers", "4", "--topics", "3", "--size", "256", "--batch", "100"];
    let load = ["--rate", "5000", "--duration", "1s", "--subscribers", "3", "--groups", "3"];
    let row = run(&[&shape[..], &load].concat());
    check_nothing_lost(&row);
    // 50 requests in the second that counts, each of whose last event says when it was meant to be sent.
    assert_eq!(count(&row, "ack"), 50, "{row:#}");
    assert_eq!(count(&row, "end to end"), 3 * 50, "{row:#}");
}
