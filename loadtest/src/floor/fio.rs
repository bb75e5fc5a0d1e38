//! The same writes by `fio`, to see that the raw loop is as fast as a program that everybody trusts.

use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

use super::raw_write::{RawWrites, prepare};
use crate::report::Row;

/// Rounds of each; they alternate, so that a neighbour's load hits both alike.
const ROUNDS: usize = 5;

/// Runs `writes` by fio and by the raw loop in turn and compares the best of each.
pub(crate) fn compare(writes: &RawWrites) -> anyhow::Result<Vec<Row>> {
    let (mut theirs, mut ours): (Vec<Row>, Vec<Row>) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(run_fio(writes)?);
        ours.push(writes.run()?);
    }
    let best = |rows: Vec<Row>| {
        rows.into_iter()
            .max_by(|a, b| a.rate_per_s.unwrap_or(0.0).total_cmp(&b.rate_per_s.unwrap_or(0.0)))
            .expect("there are rounds")
    };
    let (fio, mut raw) = (best(theirs), best(ours));
    let ratio = raw.rate_per_s.unwrap_or(0.0) / fio.rate_per_s.unwrap_or(f64::INFINITY);
    raw.figure("writes a second, by fio's", ratio);
    raw.notes.push(if ratio >= 0.9 {
        "reaches 90 % of fio".to_owned()
    } else {
        "BELOW 90 % of fio: the floor of this run is not to be trusted".to_owned()
    });
    Ok(vec![fio, raw])
}

fn run_fio(writes: &RawWrites) -> anyhow::Result<Row> {
    prepare(&writes.file, writes.file_bytes)?;
    let mut command = Command::new("fio");
    command
        .args(["--name=floor", "--ioengine=io_uring", "--direct=1", "--rw=write", "--overwrite=1"])
        .args(["--fallocate=none", "--time_based=1", "--output-format=json", "--thread=1"])
        .arg(format!("--filename={}", writes.file.display()))
        .arg(format!("--size={}", writes.file_bytes))
        .arg(format!("--bs={}", writes.write_bytes))
        .arg(format!("--iodepth={}", writes.in_flight))
        .arg(format!("--sync={}", if writes.sync { "dsync" } else { "none" }))
        .arg(format!("--runtime={}ms", writes.duration.as_millis()));
    if let Some(cpu) = writes.cpu {
        command.arg(format!("--cpus_allowed={cpu}"));
    }
    let output =
        command.output().context("fio does not start: install it (Debian: apt-get install fio)")?;
    if !output.status.success() {
        bail!("fio failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    // Warnings may stand in front of the JSON.
    let json: Value =
        serde_json::from_str(&text[text.find('{').context("fio printed no JSON")?..])?;
    let write = &json["jobs"][0]["write"];
    let number = |value: &Value| value.as_f64().context("fio's JSON has another shape");
    let mut row = Row::new(format!("fio: {}", writes.name()));
    row.rate_per_s = Some(number(&write["iops"])?);
    row.mb_per_s = Some(number(&write["bw_bytes"])? / 1e6);
    for (name, place) in
        [("p50 us", "50.000000"), ("p99 us", "99.000000"), ("p99.9 us", "99.900000")]
    {
        row.figure(name, number(&write["clat_ns"]["percentile"][place])? / 1e3);
    }
    Ok(row)
}
