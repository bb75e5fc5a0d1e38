//! Sync is real: durable publishes are counted against what the disk says it flushed.
//!
//! A test binary of its own, because cargo runs those one after the other: the counters are the machine's, and other
//! tests beside this one would flush too.

// Not everything that the other tests need is needed here.
#[allow(dead_code)]
#[path = "../it/harness.rs"]
mod harness;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use harness::Server;

/// The counters are the machine's: one test at a time.
static DISKS: Mutex<()> = Mutex::new(());

/// What all disks of the machine have done since it started.
#[derive(Clone, Copy, Debug)]
struct Disks {
    sectors_written: u64,
    flushes: u64,
}

fn disks() -> Disks {
    let text = std::fs::read_to_string("/proc/diskstats").expect("Linux counts");
    let mut sum = Disks { sectors_written: 0, flushes: 0 };
    for line in text.lines() {
        // Major, minor and name; then reads 4, writes 4, in flight, two times, discards 4, flushes 2.
        let fields: Vec<u64> =
            line.split_whitespace().skip(3).map_while(|f| f.parse().ok()).collect();
        sum.sectors_written += fields.get(6).copied().unwrap_or(0);
        sum.flushes += fields.get(15).copied().unwrap_or(0);
    }
    sum
}

/// Whether a synced write on this folder's disk shows as a flush. Disks without a volatile cache have none to flush.
fn flushes_are_counted(folder: &Path) -> bool {
    let mut file = File::create(folder.join("probe")).expect("the folder can be written");
    let before = disks().flushes;
    for _ in 0..20 {
        file.write_all(&[1; 4096]).expect("the disk takes it");
        file.sync_data().expect("the disk takes it");
    }
    disks().flushes >= before + 20
}

fn publish(server: &Server, count: u64, window: &str, level: &str) -> Disks {
    let before = disks();
    let count_text = count.to_string();
    let arguments =
        ["publish", "sync/test", "x", "--batch", "1", "--count", &count_text, "--window", window];
    let acks = server.command(&arguments).done();
    assert_eq!(acks.len() as u64, count);
    let level = format!(" {level}");
    assert!(acks.iter().all(|line| line.ends_with(&level)), "each is acknowledged as{level}");
    let after = disks();
    Disks {
        sectors_written: after.sectors_written - before.sectors_written,
        flushes: after.flushes - before.flushes,
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build folder can be written")
}

/// An acknowledgement before the disk has flushed is a lie that only a power cut shows; a flush for each of many
/// publishes under way is time for nothing.
#[test]
fn durable_publishes_flush_the_disk_and_share_flushes() {
    let _alone = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let counted = flushes_are_counted(folder.path());
    let server = Server::start(&folder.path().join("data"));

    let alone = publish(&server, 1_000, "1", "durable");
    // A commit is at least one block of 8 sectors.
    assert!(alone.sectors_written >= 8_000, "1,000 commits were written: {alone:?}");
    let together = publish(&server, 64_000, "64", "durable");
    assert!(together.sectors_written >= 64_000 / 8_192 * 8, "they were written: {together:?}");
    println!("1,000 alone: {alone:?}; 64,000 in a window of 64: {together:?}");
    if counted {
        assert!(alone.flushes >= 1_000, "1,000 publishes one after the other: {alone:?}");
        assert!(together.flushes <= 16_000, "64,000 publishes, 64 under way: {together:?}");
        assert!(together.flushes >= 64_000 / 8_192, "some flushes there are: {together:?}");
    } else {
        println!("this disk shows no flushes: only that the commits were written is checked");
    }
    assert!(server.stop().success());
}

/// Whoever is content with `written` pays for no flush of his own, or the level is a word without a meaning; and what was
/// written is flushed soon after, with nobody asking, or a power loss would take all there ever was.
#[test]
fn written_publishes_share_flushes_that_come_behind() {
    let _alone = DISKS.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder();
    let counted = flushes_are_counted(folder.path());
    let flags = ["--set", "delivery.ack=written", "--shards", "1"];
    let server = Server::start_with(&folder.path().join("data"), &flags);
    // Its first segments are prepared, with flushes of their own.
    publish(&server, 100, "1", "written");

    let mut fewest = f64::INFINITY;
    // Others may flush beside this test. A server that flushes for each publish is not among the fewer in any round.
    for _ in 0..5 {
        let began = std::time::Instant::now();
        let alone = publish(&server, 1_000, "1", "written");
        let took_ms = began.elapsed().as_millis() as u64;
        assert!(alone.sectors_written >= 8_000, "1,000 commits were written: {alone:?}");
        println!("1,000 written, alone, in {took_ms} ms: {alone:?}");
        assert!(!counted || alone.flushes >= 1, "what is written is flushed behind: {alone:?}");
        // A sync begins 10 ms after what it covers was written: the slower the machine, the more of them there are.
        let most = (200 + took_ms / 5).min(700);
        fewest = fewest.min(alone.flushes as f64 / most as f64);
        if fewest <= 1.0 || !counted {
            break;
        }
    }
    if counted {
        assert!(fewest <= 1.0, "far fewer flushes than publishes: {fewest:.1} times the bound");
    } else {
        println!("this disk shows no flushes: only that the commits were written is checked");
    }
    assert!(server.stop().success());
}
