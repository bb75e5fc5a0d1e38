//! What is shipped beside the binary: the unit for systemd.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ringmesh::commands::failure::Exit;
use ringmesh::config::Config;
use ringmesh::config::units::Size;

use crate::folder;
use crate::harness::BINARY;

const UNIT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd/ringmesh.service"));

/// The value of a setting of the unit that stands there once.
fn value(name: &str) -> &'static str {
    let mut values = values(name);
    let value = values.next().unwrap_or_else(|| panic!("{name} in the unit"));
    assert_eq!(values.next(), None, "{name} stands there once");
    value
}

fn values(name: &str) -> impl Iterator<Item = &'static str> {
    UNIT.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
}

/// A unit that systemd does not read is found out by the first who installs it. The exposure that systemd computes of its
/// hardening (0 to 10) may not grow unnoticed.
#[test]
fn unit_is_valid_and_hardened() {
    let folder = folder::new();
    let path = folder.path().join("ringmesh.service");
    std::fs::write(&path, UNIT.replace("/usr/local/bin/ringmesh", BINARY)).unwrap();
    let analyze = |arguments: &[&str]| {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(arguments).arg(&path).stdin(Stdio::null()).output();
        let output = output.expect("tests/all.sh installs systemd");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert_eq!(analyze(&["verify", "--man=no"]), "");
    analyze(&["security", "--offline=yes", "--threshold=20"]);
}

/// A service that is killed while it drains has drained nothing; one that restarts over damage hides it.
#[test]
fn unit_fits_the_server() {
    let stop = value("TimeoutStopSec").strip_suffix('s').unwrap().parse().unwrap();
    assert!(Duration::from_secs(stop) > Config::default().server.drain_timeout);
    let restarts_not = format!("{} {}", Exit::Usage as u8, Exit::Damaged as u8);
    assert_eq!(value("RestartPreventExitStatus"), restarts_not);
    assert_eq!((value("KillSignal"), value("Restart")), ("SIGTERM", "on-failure"));

    let mut command = Command::new(BINARY);
    command.args(["config", "show"]);
    for (name, value) in values("Environment").map(|pair| pair.split_once('=').unwrap()) {
        command.env(name, value.replace("%S", "/var/lib"));
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "the server knows its variables: {output:?}");
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(shown.contains("/var/lib/ringmesh"), "{shown}");
    assert_eq!(value("StateDirectory"), "ringmesh", "the folder that it may write is that one");
    assert!(Path::new(value("ExecStart").split(' ').next().unwrap()).is_absolute());
}

/// A limit that does not suffice for the most shards is met on the largest machine, by whoever can least use it.
#[test]
fn unit_lets_the_most_shards_lock_their_memory() {
    let ask = format!(
        "ulimit -l 64 && exec {BINARY} doctor -o json --shards 64 --listen 127.0.0.1:0 --http off --admin off --data /tmp"
    );
    let output = Command::new("bash").args(["-c", &ask]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let needed = text.split(" KiB are needed").next().unwrap().rsplit(' ').next().unwrap();
    let needed: u64 = needed.parse().unwrap_or_else(|_| panic!("the need in {text}"));
    let limit = value("LimitMEMLOCK").replace('M', "MiB");
    assert!(Size::parse(&limit).unwrap() >= Size(needed << 10), "{limit} for {needed} KiB");
}
