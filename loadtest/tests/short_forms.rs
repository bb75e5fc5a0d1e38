//! The short forms of the long commands, run against the server of this build: they must run, and report every row with
//! values that can be true. How fast it is, is not asserted: no test here fails on a slow day.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

use serde_json::Value;

mod support;
use support::{client_cpu, server};

/// Every row of `loadtest core`, by the start of its name.
const CORE_ROWS: [&str; 15] = [
    "raw write 4 KiB x 1 in flight, synced",
    "loopback round trip 64 B, back to back",
    "loopback round trip 64 B, 1000/s",
    "loopback round trip 64 B, 10000/s",
    "start on an empty folder, 2 shards",
    "idle, 2 shards",
    "1 producers x 1 in flight",
    "8 producers x 1 in flight",
    "64 producers x 1 in flight",
    "64 producers x 16 in flight",
    "end to end at 1000/s",
    "end to end at 10000/s",
    "append 4 x 4 in flight, 100 x 1 KB",
    "500 idle connections",
    "100 streams of server-sent events",
];

/// Runs a command of the load generator, and returns the rows of its report.
fn rows(command: &str, more: &[&str]) -> Vec<Value> {
    report(command, more)["rows"].as_array().expect("a report has rows").clone()
}

/// Runs a command of the load generator, and returns its report.
fn report(command: &str, more: &[&str]) -> Value {
    // Not in the system's folder for temporary files, which may be a tmpfs without O_DIRECT.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args([command, "--short", "--json", "--serve"])
        .arg(server())
        .arg("--data")
        .arg(folder.path())
        .args(more)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "loadtest {command}: {errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    let named = |row: &&Value| row["name"].as_str().is_some_and(|found| found.starts_with(name));
    rows.iter().find(named).unwrap_or_else(|| panic!("no row {name:?} in {rows:#?}"))
}

fn figure(row: &Value, name: &str) -> f64 {
    let figures = row["figures"].as_array().expect("a row has figures");
    let figure = figures.iter().find(|figure| figure["name"] == name);
    let figure = figure.unwrap_or_else(|| panic!("no figure {name:?} in {row:#}"));
    figure["value"].as_f64().expect("a figure is a number")
}

/// Whether others had the cores meanwhile: then a third of a second may pass without anything to measure.
fn is_disturbed(row: &Value) -> bool {
    let notes = row["notes"].as_array().expect("a row has notes");
    notes.iter().any(|note| note.as_str().is_some_and(|note| note.starts_with("disturbed")))
}

/// Percentiles in their order, rates above nothing, nothing lost and nothing refused.
fn check_values(row: &Value) {
    if let Some(rate) = row["rate_per_s"].as_f64() {
        assert!(rate > 0.0 || is_disturbed(row), "{row:#}");
    }
    for latency in row["latencies"].as_array().expect("a row has latencies") {
        let at = |name: &str| latency[name].as_f64().expect("a percentile is a number");
        assert!(at("count") > 0.0 || is_disturbed(row), "{row:#}");
        let percentiles = ["p50_us", "p99_us", "p999_us", "p9999_us"].map(at);
        assert!(percentiles.is_sorted(), "{row:#}");
    }
    for note in row["notes"].as_array().expect("a row has notes") {
        let note = note.as_str().expect("a note is text");
        for bad in ["never answered", "were refused", "did not come", "delivered again"] {
            assert!(!note.contains(bad), "{row:#}");
        }
    }
}

/// A command that nobody runs rots: then the figures of the core cannot be taken when they are wanted.
#[test]
fn the_figures_of_the_core_are_all_there() {
    let rows = rows("core", &["--server-cpu", "0", "--cpu", client_cpu()]);
    rows.iter().for_each(check_values);
    for name in CORE_ROWS {
        row(&rows, name);
    }
    for name in ["1 producers x 1", "64 producers x 16", "append 4 x 4"] {
        let row = row(&rows, name);
        assert!(row["rate_per_s"].as_f64().is_some(), "{row:#}");
        assert!(is_disturbed(row) || figure(row, "server CPU us an event") > 0.0);
    }
    let single = row(&rows, "1 producers x 1");
    assert!(is_disturbed(single) || figure(single, "ack p50, by that floor") > 0.0);
    assert!(figure(row(&rows, "idle, 2 shards"), "resident memory, MB") > 1.0);
}

/// The same for the aims: each must have a figure, and the machine's beside it, or it can never be judged.
#[test]
fn every_aim_has_its_figure() {
    let report = report("aims", &["--server-cpu", "0", "--cpu", client_cpu()]);
    let rows = report["rows"][0].as_array().expect("a round has rows");
    rows.iter().for_each(check_values);
    let is_calm = !rows.iter().any(is_disturbed);
    let aims = report["aims"].as_array().expect("there are aims");
    assert!(aims.len() >= 25, "{report:#}");
    for aim in aims {
        let got = aim["got"]["median"].as_f64();
        assert!(got.is_some_and(|got| got > 0.0) || !is_calm, "{aim:#}");
        let is_judged = !aim["at_most"].is_null() || !aim["at_least"].is_null();
        assert_eq!(aim["met_rounds"].is_u64(), is_judged && got.is_some(), "{aim:#}");
        for floor in aim["plus"].as_object().expect("plus is a table").keys() {
            assert!(aim["floor"][floor]["median"].as_f64().is_some_and(|us| us > 0.0), "{aim:#}");
        }
    }
}

/// The same for the large folder; and what it checks itself, that a killed server's folder opens with every offset that
/// was acknowledged and every group, holds on any day.
#[test]
fn a_folder_opens_after_a_kill() {
    let rows = rows("folder", &[]);
    rows.iter().for_each(check_values);
    let made = row(&rows, "folder of 1000 topics, 100 groups");
    assert!(figure(made, "published, MB") >= 32.0);
    assert!(figure(row(&rows, "opened after kill -9"), "longest ms to the ready line") > 0.0);
}

/// What an ephemeral subscription is for: connections that drop and return miss nothing that was sent after their subscribe
/// was answered, in whichever shard it is stored, and neither does who comes back as another.
#[test]
fn nothing_is_missed_by_those_who_drop_and_return() {
    let returns: [&[&str]; 3] =
        [&["--shards", "2"], &["--shards", "1", "--return-over", "0"], &["--as-others"]];
    for more in returns {
        let rows = rows("churn", more);
        let churned = row(&rows, "drop and return");
        for what in [
            "events missed by who drops",
            "events missed by who stays",
            "events never acknowledged",
        ] {
            assert_eq!(figure(churned, what), 0.0, "{more:?}: {churned:#}");
        }
        assert!(figure(churned, "seconds until all were back").is_finite());
        let steady = row(&rows, "steady")["latencies"].as_array().expect("latencies").clone();
        let counts = steady.iter().map(|latency| latency["count"].as_u64().unwrap_or(0));
        // An event a millisecond for a second, to who publishes and who stays; who drops gets some of them after the return.
        assert_eq!(counts.take(2).collect::<Vec<_>>(), [1_000; 2], "{more:?}: {steady:#?}");
    }
}
