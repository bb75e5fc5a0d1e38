//! Commits that are written first and synced behind that: what is written outlives the process, what is durable the power,
//! and neither is told of anything else.

use std::time::Duration;

use codec::ack::AckLevel;

use super::harness::{Bench, small_options};
use crate::batch::{LogState, NoAppend};
use crate::folder::FolderOptions;
use crate::options::Sync;

fn behind() -> FolderOptions {
    let mut options = small_options();
    options.log.sync = Sync::Behind;
    options
}

/// Options with which nothing is synced before time goes on.
fn only_by_time() -> FolderOptions {
    let mut options = behind();
    options.log.cache_bytes = 64 << 20;
    options.log.commits_in_flight_max = 8;
    options.log.sync_after = Duration::from_secs(60);
    options.log.sync_bytes = u64::MAX;
    options
}

/// Appends one batch and submits it as a commit of its own.
fn commit(bench: &mut Bench, bytes_max: u64) {
    while let Err(no) = bench.append(bytes_max) {
        assert_eq!(no, NoAppend::NoRoom);
        bench.now += 1;
        bench.run();
        assert!(bench.complete(), "room comes with a completion");
    }
    bench.now += 1;
    bench.run();
}

/// A power loss anywhere may take back what was only written, never what was called durable, and a kill not even that.
/// What a killed process left is synced before it is built upon.
#[test]
fn what_is_durable_survives_power_and_what_is_written_a_kill() {
    let (mut taken_back, mut syncs) = (0, 0);
    for seed in 0..80 {
        let mut options = behind();
        options.log.sync_after = Duration::from_micros([0, 200, 5_000][seed as usize % 3]);
        let mut bench = Bench::new(seed, options);
        for _ in 0..4 {
            for _ in 0..bench.random.below(250) {
                match bench.random.below(10) {
                    0..5 => drop(bench.append(3_000)),
                    5 => bench.put_cursor(),
                    6 | 7 => bench.run(),
                    _ => drop(bench.complete()),
                }
            }
            let written_end = bench.log.positions().written_end();
            if bench.random.one_in(3) {
                bench.kill();
            } else {
                bench.crash();
                taken_back += u64::from(bench.log.positions().end() < written_end);
            }
            bench.verify();
            assert!(bench.reports[0].damage.is_empty(), "seed {seed}: {:?}", bench.reports);
        }
        bench.settle();
        let positions = bench.log.positions();
        assert_eq!(
            positions.durable_end(),
            positions.end(),
            "seed {seed}: all comes to be durable"
        );
        bench.verify();
        syncs += bench.storage.counts().syncs;
    }
    assert!(taken_back > 10, "written events were lost with the power {taken_back} times");
    assert!(syncs > 100, "{syncs} syncs");
}

/// A write that returns while a sync is under way may have missed it: to count it would promise what a power loss takes.
#[test]
fn a_sync_covers_only_writes_that_had_returned() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed, only_by_time());
        bench.settle();
        commit(&mut bench, 2_000);
        assert!(bench.complete_newest(false), "the first is written");
        let first_end = bench.log.positions().end();
        commit(&mut bench, 2_000);
        bench.now += 61_000_000;
        bench.run();
        commit(&mut bench, 2_000);
        while bench.complete_newest(false) {}
        assert_eq!(bench.log.positions().written_end(), bench.log.positions().end());
        assert!(bench.log.positions().durable_end() < first_end, "its sync has not returned");
        assert!(bench.complete_newest(true), "a sync is under way");
        assert_eq!(bench.log.positions().durable_end(), first_end, "seed {seed}");
        bench.crash();
        bench.verify();
    }
}

/// Commits become written in their order, whatever order their writes return in: a reader would be shown events behind
/// a hole, and a restart would cut them.
#[test]
fn what_returned_behind_a_hole_is_not_written() {
    let mut bench = Bench::new(3, only_by_time());
    bench.settle();
    let before = bench.log.positions().written_end();
    commit(&mut bench, 2_000);
    let end = bench.log.positions().end();
    commit(&mut bench, 2_000);
    assert!(bench.complete_newest(false), "the second returns first");
    assert_eq!(bench.log.positions().written_end(), before);
    assert!(bench.complete_newest(false), "then the first");
    assert!(bench.log.positions().written_end() > end, "both are written");
    bench.kill();
    bench.verify();
}

/// A log that rolls leaves bytes in the former segment that nothing has synced. A sync of the new one says nothing of
/// them: durable must not reach into the new segment before the former is synced.
#[test]
fn a_rolled_segment_is_synced_first() {
    for seed in 0..10 {
        let mut bench = Bench::new(seed, only_by_time());
        bench.settle();
        let active = |bench: &Bench| bench.log.segments.active.as_ref().map(|active| active.number);
        let first = active(&bench);
        while active(&bench) == first {
            commit(&mut bench, 60_000);
            while bench.complete_newest(false) {}
        }
        commit(&mut bench, 60_000);
        while bench.complete_newest(false) {}
        let rolled_at = bench.log.segments.active.as_ref().expect("it is there").base_position;
        assert!(bench.log.positions().durable_end() < rolled_at, "nothing was synced yet");
        bench.now += 61_000_000;
        bench.run();
        assert!(bench.complete_newest(true), "the first sync returns");
        assert_eq!(bench.log.positions().durable_end(), rolled_at, "seed {seed}");
        assert!(!bench.complete_newest(true), "one sync at a time");
        bench.run();
        assert!(bench.complete_newest(true), "the second follows at once");
        assert_eq!(bench.log.positions().durable_end(), bench.log.positions().end());
        bench.crash();
        bench.verify();
    }
}

/// A killed process leaves several segments written and not synced. They are served after the restart as if all of them
/// were durable, so they must be: also the older ones.
#[test]
fn what_a_killed_process_left_in_two_segments_is_synced() {
    for seed in 0..40 {
        let mut bench = Bench::new(seed, only_by_time());
        bench.settle();
        let first = bench.log.segments.active.as_ref().map(|active| active.number);
        while bench.log.segments.active.as_ref().map(|active| active.number) == first {
            commit(&mut bench, 60_000);
            while bench.complete_newest(false) {}
        }
        commit(&mut bench, 60_000);
        while bench.complete_newest(false) {}
        bench.kill();
        let end = bench.log.positions().end();
        assert_eq!(bench.log.positions().durable_end(), end, "what is served is durable");
        bench.crash();
        assert!(bench.reports[0].damage.is_empty(), "seed {seed}: {:?}", bench.reports);
        bench.verify();
    }
}

/// After a sync that failed the system may have dropped what it could not write: another one returns and means nothing.
#[test]
fn a_failed_sync_stops_the_log() {
    for seed in 0..30 {
        let mut bench = Bench::new(seed, behind());
        bench.settle();
        for _ in 0..20 {
            bench.append(2_000).unwrap();
        }
        bench.settle();
        let durable = bench.log.positions().durable_end();
        bench.disk.fail_syncs_one_in(1);
        commit(&mut bench, 2_000);
        while bench.complete_newest(false) {}
        bench.now += 1_000_000;
        bench.run();
        commit(&mut bench, 2_000);
        while bench.complete() {}
        assert!(matches!(bench.log.state(), LogState::Stopped(_)), "seed {seed}");
        bench.disk.fail_syncs_one_in(0);
        bench.now += 1_000_000;
        bench.run();
        assert_eq!(bench.disk.pending(), 0, "nothing is tried again");
        assert_eq!(bench.log.positions().durable_end(), durable);
        assert_eq!(bench.append(2_000), Err(NoAppend::Stopped));
        bench.crash();
        bench.verify();
    }
}

/// A shutdown that leaves written events to the next power loss would lose what a clean end has promised to keep.
#[test]
fn a_shutdown_syncs() {
    for seed in 0..20 {
        let mut bench = Bench::new(seed, only_by_time());
        for _ in 0..30 {
            commit(&mut bench, 4_000);
        }
        bench.put_cursor();
        bench.log.begin_shutdown(codec::ids::Timestamp(bench.now));
        for _ in 0..1_000 {
            bench.now += 1;
            bench.run();
            bench.complete();
            if bench.log.is_shut_down() {
                break;
            }
        }
        assert!(bench.log.is_shut_down(), "seed {seed}: it ends");
        let positions = bench.log.positions();
        assert_eq!(positions.durable_end(), positions.end(), "seed {seed}");
        let sent = bench.sent.len();
        bench.crash();
        assert_eq!(bench.sent.len(), sent, "seed {seed}: nothing is lost");
        bench.verify();
    }
}

/// A disk that syncs slowly must slow the publishers: what is written and not durable stays in memory, and a power loss
/// takes it.
#[test]
fn what_is_not_durable_is_bounded() {
    let mut options = only_by_time();
    options.log.unsynced_bytes_max = 256 << 10;
    let mut bench = Bench::new(4, options);
    bench.settle();
    let held = |bench: &Bench| bench.log.held();
    let mut found_no_room = false;
    for _ in 0..400 {
        found_no_room |= bench.append(20_000) == Err(NoAppend::NoRoom);
        bench.now += 1;
        bench.run();
        while bench.complete_newest(false) {}
        let bytes = held(&bench).unsynced_bytes as u64;
        // Beside what is written: what waits, closed or open.
        assert!(bytes <= (256 << 10) + 3 * (64 << 10), "{bytes} bytes are not durable");
    }
    assert!(found_no_room, "appends find no room");
    assert!(bench.complete_newest(true), "then a sync is due, whatever the time");
    bench.settle();
    assert_eq!(held(&bench).unsynced_bytes, 0);
    bench.append(20_000).expect("there is room again");
    bench.verify();
}

/// A batch that does not fit beside what is written must not wait for the next sync's time.
#[test]
fn a_commit_that_waits_for_a_sync_makes_it_due() {
    let mut options = only_by_time();
    options.log.unsynced_bytes_max = 256 << 10;
    let mut bench = Bench::new(7, options);
    bench.settle();
    bench.append_this("t", codec::ids::Partition(1), 1, vec![7; 50_000]).expect("it fits");
    bench.now += 1;
    bench.run();
    while bench.complete_newest(false) {}
    bench.append_this("t", codec::ids::Partition(1), 1, vec![7; 252 << 10]).expect("it fits");
    bench.now += 1;
    bench.run();
    assert!(!bench.complete_newest(false), "it is not written yet");
    assert!(bench.complete_newest(true), "a sync makes room");
    bench.run();
    assert!(bench.complete_newest(false), "now it is");
    bench.crash();
    bench.verify();
}

/// The wall clock may be set back, and then stands still for the log until it is where it was. Nothing would become
/// durable all that time: cursors would not, and a subscribe would not be answered.
#[test]
fn a_clock_that_stands_still_does_not_put_a_sync_off() {
    let mut bench = Bench::new(5, only_by_time());
    bench.settle();
    commit(&mut bench, 2_000);
    while bench.complete_newest(false) {}
    assert!(!bench.complete_newest(true), "time goes on: it is not due");
    bench.run();
    assert!(bench.complete_newest(true), "time stands still: it is due");
    assert_eq!(bench.log.positions().durable_end(), bench.log.positions().end());
}

/// A log that is not woken for its sync leaves what it has written to the next power loss for as long as nobody publishes.
#[test]
fn a_log_wakes_for_its_sync() {
    let mut options = behind();
    options.log.sync_after = Duration::from_millis(3);
    let mut bench = Bench::new(6, options);
    bench.settle();
    commit(&mut bench, 2_000);
    while bench.complete_newest(false) {}
    let due = bench.log.next_wakeup().expect("a sync is due some time");
    assert!(due.0 <= bench.now + 3_000, "in time: {due:?}, now {}", bench.now);
    bench.now = due.0;
    bench.run();
    assert!(bench.complete_newest(true), "and then it begins");
}

/// Topics of different levels share a log. A commit for which somebody waits must be durable soon, also behind commits for
/// which nobody does; its own synced write says nothing of these; and what nobody waits for must cost no sync of its own.
#[test]
fn commits_with_and_without_syncs_mix() {
    for seed in 0..20 {
        let mut options = only_by_time();
        options.log.sync = Sync::EachWrite;
        let mut bench = Bench::new(seed, options);
        bench.settle();
        bench.commit_for(AckLevel::Durable);
        assert!(bench.complete_newest(false) && !bench.complete_newest(true), "one synced write");
        let durable = bench.log.positions().durable_end();
        assert_eq!(durable, bench.log.positions().end(), "nothing else is needed");

        bench.commit_for(AckLevel::Written);
        assert!(bench.complete_newest(false) && !bench.complete_newest(true), "nobody waits");
        let positions = bench.log.positions();
        assert_eq!((positions.written_end(), positions.durable_end()), (positions.end(), durable));

        bench.commit_for(AckLevel::Durable);
        assert!(bench.complete_newest(false));
        assert_eq!(bench.log.positions().durable_end(), durable, "what is before it is not synced");
        bench.run();
        if seed % 2 == 0 {
            assert!(bench.complete_newest(true), "so it is synced at once");
            assert_eq!(bench.log.positions().durable_end(), bench.log.positions().end());
        }
        bench.commit_for(AckLevel::Written);
        bench.crash();
        assert!(bench.reports[0].damage.is_empty(), "seed {seed}: {:?}", bench.reports);
        bench.verify();
    }
}

/// An event for which nobody waits must not cost a write of its own, nor wait for long, nor keep others waiting, nor be
/// forgotten at a shutdown.
#[test]
fn what_nobody_waits_for_shares_a_write() {
    let held_back = |seed| {
        let mut bench = Bench::new(seed, only_by_time());
        bench.settle();
        for _ in 0..10 {
            bench.commit_for(AckLevel::Received);
        }
        assert!(!bench.complete_newest(false), "it is held back");
        bench
    };
    let is_one_write = |bench: &mut Bench| {
        assert!(bench.complete_newest(false) && !bench.complete_newest(false), "one write");
        let positions = bench.log.positions();
        assert_eq!(positions.written_end(), positions.end(), "of all that there is");
    };

    let mut bench = held_back(1);
    let due = bench.log.next_wakeup().expect("it is due some time");
    assert!(bench.now < due.0 && due.0 <= bench.now + 1_000, "{due:?}, now {}", bench.now);
    bench.now = due.0;
    bench.run();
    is_one_write(&mut bench);

    let mut bench = held_back(2);
    bench.commit_for(AckLevel::Written);
    is_one_write(&mut bench);

    let mut bench = held_back(3);
    bench.append_this("t", codec::ids::Partition(1), 1, vec![7; 64]).expect("it fits");
    bench.now += 1;
    bench.run();
    is_one_write(&mut bench);

    let mut bench = held_back(4);
    bench.log.begin_shutdown(codec::ids::Timestamp(bench.now));
    bench.settle();
    assert_eq!(bench.log.positions().durable_end(), bench.log.positions().end());
    bench.crash();
    bench.verify();

    let mut bench = held_back(5);
    bench.run();
    is_one_write(&mut bench);
}
