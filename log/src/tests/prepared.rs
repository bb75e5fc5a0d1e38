//! Segments that are prepared before they are needed.

use super::harness::{Bench, small_options};
use crate::folder::FolderOptions;
use crate::segments::Active;

const MIB: u64 = 1 << 20;

fn bench(seed: u64) -> Bench {
    let mut options: FolderOptions = small_options();
    options.log.segment_bytes = 64 * MIB;
    let mut bench = Bench::new(seed, options);
    bench.settle();
    bench
}

fn active(bench: &Bench) -> &Active {
    bench.log.segments.active.as_ref().expect("the log is open")
}

/// Commits until the active segment is `part` sixteenths full or another one.
fn fill(bench: &mut Bench, part: u64) {
    let (number, until) = (active(bench).number, active(bench).capacity / 16 * part);
    while active(bench).number == number && active(bench).tail < until {
        let body = vec![7; 60_000];
        // No room: it comes with what is being prepared.
        let _ = bench.append_this("t/0", codec::ids::Partition(0), 1, body);
        bench.settle();
    }
}

/// A synced write into a file whose blocks are being prepared waits for the file system's journal: no segment after a
/// start's first one may be written while it is not whole.
#[test]
fn segments_are_whole_before_they_are_written() {
    let mut bench = bench(3);
    let mut sizes = Vec::new();
    for _ in 0..4 {
        fill(&mut bench, 1);
        assert!(bench.log.segments.next.is_none(), "what is hardly used has one segment");
        assert_eq!(active(&bench).prepared_end, active(&bench).capacity, "segment {sizes:?}");
        sizes.push(active(&bench).capacity / MIB);
        fill(&mut bench, 8);
        let next = bench.log.segments.next.expect("it is being prepared");
        assert!(next.prepared_end < next.capacity, "not all at once");
        fill(&mut bench, 17);
    }
    assert_eq!(sizes, [16, 32, 64, 64], "twice as large each, up to what is configured");
    bench.crash();
    bench.verify();
}

/// What is not urgent is not synced before it is whole. A power loss may take any part of it: the log must open, and
/// hold what was acknowledged.
#[test]
fn a_power_loss_while_the_next_segment_is_prepared_loses_nothing() {
    for seed in 0..20 {
        let mut bench = bench(seed);
        fill(&mut bench, 3 + seed % 12);
        bench.crash();
        bench.verify();
        fill(&mut bench, 2);
        bench.verify();
    }
}
