//! `loadtest compare` in its short form: Ringmesh and the floor, with peers that are not there or do not start. The report
//! must hold a line for each of them. How fast anybody is, is not asserted.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

mod support;
use support::{client_cpu, server};

/// How long a process may take to be gone after its parent was killed. It takes a millisecond.
const GONE_WITHIN: Duration = Duration::from_secs(60);

fn number(line: &Value, path: &str) -> f64 {
    line.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {line:#}"))
}

/// A comparison that nobody runs rots; and a peer that is left out of the table because it could not be installed
/// looks like one that was never asked.
#[test]
fn the_report_has_a_line_for_everybody() {
    // Not in the system's folder for temporary files, which may be a tmpfs without O_DIRECT.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let at = |name: &str| folder.path().join(name);
    // One peer is not there, the other cannot start.
    std::fs::create_dir(at("installed")).unwrap();
    let nats = at("installed/nats-server-2.15.2");
    std::fs::write(&nats, "#!/bin/sh\necho the moon is full\nexit 7\n").unwrap();
    std::fs::set_permissions(&nats, PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["compare", "--workload", "tiny", "--no-install"])
        .args(["--peers", "nats-synced,kafka-synced"])
        .args(["--rounds", "1", "--warm-up", "100ms", "--duration", "400ms"])
        .args(["--cpu", client_cpu(), "--serve"])
        .arg(server())
        .args([Path::new("--data"), &at("data"), Path::new("--out"), &at("out")])
        .args([Path::new("--installed"), &at("installed")])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let report: Value =
        serde_json::from_slice(&std::fs::read(at("out/compare.json")).unwrap()).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let ids: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(
        ids,
        ["ringmesh", "ringmesh-written", "nats-synced", "kafka-synced", "file"],
        "{report:#}"
    );
    for line in &lines[..2] {
        assert!(number(line, "/events_per_s/median") > 0.0);
        assert!(number(line, "/ack/p50_us/median") <= number(line, "/ack/p9999_us/median"));
        assert!(number(line, "/end_to_end/p50_us/median") > 0.0);
        assert!(number(line, "/server_cpu_s/median") > 0.0);
        assert!(number(line, "/client_cpu_s/median") > 0.0);
        for memory in ["/server_peak_bytes/median", "/client_peak_bytes/median"] {
            assert!(number(line, memory) > 1e6, "{line:#}");
        }
        assert!(number(line, "/file_bytes_an_event/median") >= 100.0, "{line:#}");
        assert!(line["in_flight"].as_str().unwrap().contains("500/s"), "{line:#}");
        let lost = |note: &Value| note.as_str().unwrap().contains("did not come");
        assert!(!line["notes"].as_array().unwrap().iter().any(lost), "{line:#}");
    }
    for (line, why) in [(&lines[2], "the moon is full"), (&lines[3], "not installed")] {
        assert!(line["events_per_s"].is_null());
        assert!(line["notes"][0].as_str().unwrap().contains(why), "{report:#}");
    }
    assert!(number(&lines[4], "/ack/p50_us/median") > 0.0);
    assert!(number(&lines[4], "/round_trip/p50_us/median") > 0.0);

    let table = std::fs::read_to_string(at("out/compare.md")).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), table.trim());
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).collect();
    assert_eq!(rows.len(), 1 + lines.len(), "{table}");
    let columns = rows[0].matches('|').count();
    assert!(rows.iter().all(|row| row.matches('|').count() == columns), "{table}");
    assert!(table.contains("synced before each ack, in groups"), "{table}");

    let page = std::fs::read_to_string(at("out/compare.html")).unwrap();
    assert!(page.contains("Ack latency by percentile"), "{page}");
    assert!(page.contains("CPU seconds a million events") && page.contains("not installed"));
    assert_eq!(page.matches("<tr>").count(), 1 + lines.len());
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    let fetched = ["<script", "src=", "href=", "url(", "@import"];
    assert!(!fetched.iter().any(|part| page.contains(part)), "the page fetches something");
    let left: Vec<_> = std::fs::read_dir(at("data")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A peer's server that outlives a comparison that was killed takes a core from every measurement after it.
#[test]
fn a_server_dies_with_whoever_started_it() {
    let script = format!(
        "{} exec-server --parent $$ -- sh -c 'echo up; exec sleep 3600' & wait",
        env!("CARGO_BIN_EXE_loadtest")
    );
    let mut parent =
        Command::new("sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(parent.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "up\n");
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The pipe ends when the last process that holds it has gone.
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let mut rest = Vec::new();
        let _ = tell.send(stdout.read_to_end(&mut rest));
    });
    let end = told.recv_timeout(GONE_WITHIN).expect("the server lives on");
    assert_eq!(end.unwrap(), 0);
}

/// Whoever was killed before the kernel was asked to tell of it must not leave a server either.
#[test]
fn a_server_does_not_start_for_an_orphan() {
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(["exec-server", "--parent", "4194304", "--", "echo", "started"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(output.stdout.is_empty(), "{output:?}");
}
