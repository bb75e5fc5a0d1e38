//! Crashes at random points, many seeds.

use super::harness::{Bench, small_options};
use crate::batch::{LogState, NoAppend};

/// A power loss anywhere may take back only what was not durable, and may leave no event in part: the promise that
/// the whole mesh stands on.
#[test]
fn what_is_durable_survives_power_loss() {
    let mut losses = crate::sim_disk::SimDiskCounts::default();
    for seed in 0..80 {
        let mut bench = Bench::new(seed, small_options());
        bench.lands = seed % 2 == 1;
        for _ in 0..3 {
            for _ in 0..bench.random.below(250) {
                match bench.random.below(10) {
                    0..5 => drop(bench.append(3_000)),
                    5 => bench.put_cursor(),
                    6 | 7 => bench.run(),
                    _ => drop(bench.complete()),
                }
            }
            bench.crash();
            bench.verify();
            assert!(bench.reports[0].damage.is_empty(), "seed {seed}: {:?}", bench.reports);
        }
        bench.settle();
        bench.verify();
        let counts = bench.storage.counts();
        losses.lost += counts.lost;
        losses.torn += counts.torn;
        losses.reordered += counts.reordered;
    }
    assert!(losses.lost > 20 && losses.torn > 20 && losses.reordered > 100, "{losses:?}");
}

/// Many segments, checkpoints and recycled files, with crashes between: what is told must hold over all of them.
#[test]
fn segments_roll_and_survive() {
    for seed in 0..5 {
        let mut bench = Bench::new(seed, small_options());
        bench.lands = seed % 2 == 1;
        for round in 0..4 {
            for _ in 0..400 {
                if bench.append(12_000) == Err(NoAppend::NoRoom) {
                    bench.run();
                    bench.complete();
                }
                if bench.random.one_in(8) {
                    bench.run();
                    bench.complete();
                }
            }
            bench.settle();
            assert_eq!(bench.log.positions().durable_end(), bench.log.positions().end());
            bench.verify();
            bench.crash();
            bench.verify();
            assert!(bench.reports[0].bytes_read <= 3 << 20, "round {round}: {:?}", bench.reports);
        }
    }
}

/// Topics that are visible once received are read from the open commit, before any disk has seen them.
#[test]
fn what_is_in_memory_can_be_read() {
    let mut bench = Bench::new(2, small_options());
    bench.settle();
    for _ in 0..30 {
        bench.append(500).unwrap();
        bench.verify();
        if bench.random.one_in(3) {
            bench.run();
        }
    }
    assert!(bench.log.positions().durable_end() < bench.log.positions().end());
    bench.settle();
    bench.verify();
}

/// A failed write may have left anything on the disk: acknowledging what comes after it, or trying again, would
/// promise what nobody knows.
#[test]
fn a_failed_write_stops_the_log() {
    for seed in 0..50 {
        let mut bench = Bench::new(seed, small_options());
        bench.settle();
        for _ in 0..20 {
            bench.append(2_000).unwrap();
        }
        bench.settle();
        let durable = bench.log.positions().durable_end();
        bench.disk.fail_writes_one_in(1);
        bench.append(2_000).unwrap();
        bench.run();
        while bench.complete() {}
        assert!(matches!(bench.log.state(), LogState::Stopped(_)), "seed {seed}");
        assert_eq!(bench.log.positions().durable_end(), durable);
        assert_eq!(bench.append(2_000), Err(NoAppend::Stopped));
        bench.disk.fail_writes_one_in(0);
        bench.crash();
        bench.verify();
    }
}

/// One batch may be larger than a segment: it must not wait for ever.
#[test]
fn a_batch_larger_than_a_segment_is_taken() {
    let mut bench = Bench::new(1, small_options());
    for len in [100, 3 << 20, 5_000, 17 << 20, 200] {
        let len = usize::min(len, codec::limits::BODY_BYTES_MAX as usize);
        let body = vec![len as u8; len];
        let mut tries = 0;
        while let Err(no) = bench.append_this("big", codec::ids::Partition(3), 2, body.clone()) {
            assert_eq!(no, NoAppend::NoRoom);
            bench.run();
            bench.complete();
            tries += 1;
            assert!(tries < 1_000, "the batch of {len} bytes is never taken");
        }
    }
    bench.settle();
    bench.verify();
    bench.crash();
    bench.verify();
}
