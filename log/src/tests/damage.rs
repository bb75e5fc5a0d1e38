//! Damage, told apart from a torn tail; generations, retention, a full disk.

use std::path::PathBuf;

use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use super::harness::{Bench, DIR, small_options};
use crate::batch::{LogState, NoAppend};
use crate::reader::{ReadStep, Reader};
use crate::seek::{OffsetSeek, Seek};

fn filled(seed: u64, batches: usize) -> Bench {
    let mut bench = Bench::new(seed, small_options());
    while bench.sent.len() < batches {
        if bench.append(4_000).is_err() || bench.random.one_in(4) {
            bench.run();
            bench.complete();
        }
    }
    bench.settle();
    bench
}

fn segment(bench: &Bench, nth: usize) -> PathBuf {
    let paths = bench.storage.paths().into_iter();
    paths.filter(|p| p.extension().is_some_and(|e| e == "rms")).nth(nth).expect("segments exist")
}

/// A bit that rots in bytes that were durable must be reported, never cut as if it were a torn tail, and must cost
/// no more than the batches it hit.
#[test]
fn a_flipped_bit_in_durable_bytes_is_damage() {
    for seed in 0..25 {
        let mut bench = filled(seed, 120);
        let path = segment(&bench, 0);
        let at = 4096 + bench.random.below(150_000);
        let bit = bench.random.below(8) as u8;
        bench.storage.flip_bit(&path, at, bit);
        let end = bench.log.positions().end();
        bench.reopen();
        assert!(bench.log.positions().end() == end, "seed {seed}: nothing is cut");
        let mut reader = Reader::new(Position(0));
        let (mut lost, mut read) = (0, 0);
        loop {
            match bench.log.read(&mut reader, end, &mut |_| true, &mut bench.disk) {
                ReadStep::Batch(batch) => {
                    let sent = bench.sent.iter().find(|s| s.position == batch.header.base_position);
                    assert_eq!(sent.expect("sent").body, batch.body, "seed {seed}");
                    read += batch.header.count as u64;
                }
                ReadStep::Damaged { start, end } => lost += end.0 - start.0,
                ReadStep::Pending => assert!(bench.complete(), "seed {seed}"),
                ReadStep::More => {}
                ReadStep::End => break,
                other => panic!("nothing else comes here: {other:?}"),
            }
        }
        assert_eq!(read + lost, end.0, "seed {seed}: every position is read or reported");
        let reported: u64 = bench.reports[0].damage.iter().map(|d| d.end.0 - d.start.0).sum();
        if lost > 0 {
            // What recovery did not replay is found when it is read.
            assert!(reported <= lost, "seed {seed}: {:?}", bench.reports);
            assert!(lost < 150, "seed {seed}: one commit at most, not {lost}");
        }
        for damage in &bench.reports[0].damage {
            let report = format!("seg-{:012}.damaged", damage.segment);
            assert!(bench.storage.paths().iter().any(|p| p.ends_with(&report)), "seed {seed}");
        }
    }
}

/// Either checkpoint, and any index, may be lost: the other files say the same.
#[test]
fn a_damaged_checkpoint_or_index_costs_nothing() {
    for seed in 0..20 {
        let mut bench = filled(seed, 400);
        let names: Vec<PathBuf> = bench.storage.paths();
        let derived: Vec<&PathBuf> = names
            .iter()
            .filter(|p| {
                p.to_string_lossy().contains("checkpoint-a")
                    || p.extension().is_some_and(|e| e == "rmx")
            })
            .collect();
        assert!(!derived.is_empty(), "seed {seed}: {names:?}");
        for path in derived {
            let at = bench.random.below(60);
            bench.storage.flip_bit(path, at, 3);
        }
        let end = bench.log.positions().end();
        bench.reopen();
        assert_eq!(bench.log.positions().end(), end, "seed {seed}");
        bench.verify();
    }
}

/// Offsets are what clients hold: each must lead to its event, from every segment, by index or from memory.
#[test]
fn every_offset_is_found() {
    let mut bench = filled(3, 400);
    for reopened in [false, true] {
        if reopened {
            bench.reopen();
        }
        for sent in bench.sent.clone().iter().step_by(7) {
            let topic = bench.log.topic_id(&sent.topic).unwrap();
            let position = loop {
                let mut seek = OffsetSeek::new(topic, sent.partition, sent.offset);
                match bench.log.seek_offset(&mut seek, &mut bench.disk) {
                    Seek::At(position) => break position,
                    Seek::Pending => assert!(bench.complete()),
                    other => panic!("{other:?} for {sent:?}"),
                }
            };
            let read = bench.read_all(position);
            let found = read.iter().position(|r| r == sent).expect("the batch is read");
            assert!(found < 100, "a seek leads near to what is sought, not {found} batches before");
        }
    }
    let topic = bench.log.topic_id("t/1").unwrap();
    let end = bench.log.next_offset(topic, Partition(1));
    for mut seek in [
        OffsetSeek::new(topic, Partition(1), end),
        OffsetSeek::new(TopicId(99), Partition(1), Offset(0)),
    ] {
        assert_eq!(bench.log.seek_offset(&mut seek, &mut bench.disk), Seek::End);
    }
}

/// Retention recycles whole segments; reads below it are told so, and offsets go on as before.
#[test]
fn retention_recycles_the_oldest_segments() {
    let mut options = small_options();
    options.log.retention_bytes = Some(2 << 20);
    let mut bench = Bench::new(5, options);
    while bench.sent.len() < 4_000 {
        if bench.append(4_000).is_err() || bench.random.one_in(6) {
            bench.run();
            bench.complete();
        }
    }
    bench.settle();
    let start = bench.log.positions().start();
    assert!(start > Position(0), "the oldest segments are gone");
    let sealed: u64 = bench.log.segments.sealed.iter().map(|sealed| sealed.end_bytes).sum();
    let kept = sealed + bench.log.segments.active.as_ref().map_or(0, |active| active.tail);
    assert!((2 << 20..5 << 20).contains(&kept), "no less is kept than was promised: {kept}");
    let mut reader = Reader::new(Position(0));
    let end = bench.log.positions().end();
    let step = bench.log.read(&mut reader, end, &mut |_| true, &mut bench.disk);
    assert!(matches!(step, ReadStep::Expired { start: told } if told == start), "{step:?}");
    bench.verify();
    let first = bench.sent[0].clone();
    let topic = bench.log.topic_id(&first.topic).unwrap();
    let mut seek = OffsetSeek::new(topic, first.partition, first.offset);
    let seek = loop {
        match bench.log.seek_offset(&mut seek, &mut bench.disk) {
            Seek::Pending => assert!(bench.complete()),
            other => break other,
        }
    };
    assert!(
        matches!(seek, Seek::Expired { first, at: Some(at) } if first > Offset(0) && at >= start)
    );
    bench.crash();
    bench.settle();
    bench.verify();
}

/// A full disk refuses events, still writes cursors, and serves again by itself when there is space.
#[test]
fn a_full_disk_refuses_and_resumes() {
    let mut bench = filled(8, 50);
    bench.storage.set_capacity(Some(0));
    let mut refused = false;
    for _ in 0..20_000 {
        match bench.append(4_000) {
            Err(NoAppend::DiskFull) => {
                refused = true;
                break;
            }
            Ok(()) => {}
            Err(_) => {
                bench.run();
                bench.complete();
            }
        }
    }
    assert!(refused && bench.log.state() == LogState::DiskFull, "{:?}", bench.log.state());
    bench.settle();
    bench.put_cursor();
    let mark = bench.cursors[0].2;
    bench.now += 2_000_000;
    bench.settle();
    bench.now += 2_000_000;
    bench.settle();
    assert!(bench.log.durable_cursor_mark() >= mark, "cursors are written when the disk is full");
    bench.verify();
    bench.storage.set_capacity(None);
    bench.now += 2_000_000;
    bench.settle();
    assert_eq!(bench.append(4_000), Ok(()), "service resumes by itself");
    bench.settle();
    bench.verify();
    bench.crash();
    bench.verify();
}

/// A checkpoint that cannot be written is tried again after a while, not at once and for ever: the disk is full, and
/// each attempt takes the helper thread and a line of the log.
#[test]
fn a_failed_checkpoint_is_not_tried_at_once() {
    let mut bench = filled(4, 200);
    bench.storage.set_capacity(Some(0));
    bench.log.checkpointer.wanted();
    let before = bench.storage.counts().no_space;
    for _ in 0..200 {
        bench.run();
        bench.complete();
    }
    let failed = bench.storage.counts().no_space - before;
    assert!((1..4).contains(&failed), "{failed} attempts");
    bench.storage.set_capacity(None);
    bench.now += 1_000_000;
    bench.settle();
    assert!(bench.log.checkpointer.is_done(), "it is written once there is space");
}

/// A change of the shard count must lose neither events nor offsets, and a group must finish the older logs. Logs that are
/// recovered at once must not be mixed up.
#[test]
fn a_folder_reopens_with_other_shard_counts() {
    let mut bench = filled(11, 200);
    bench.log.begin_shutdown(Timestamp(bench.now));
    bench.settle();
    assert!(bench.log.is_shut_down(), "a clean end is reached");
    let sent = bench.sent.clone();
    let offsets: Vec<(String, Partition, Offset)> = sent
        .iter()
        .map(|s| {
            let topic = bench.log.topic_id(&s.topic).unwrap();
            (s.topic.clone(), s.partition, bench.log.next_offset(topic, s.partition))
        })
        .collect();
    for (shards, at_once) in [(2, 1), (4, 3), (4, 16), (1, 2)] {
        bench.options.shards = shards;
        bench.options.recover_at_once = at_once;
        bench.reopen();
        let keys: Vec<_> = bench.reports.iter().map(|report| report.log).collect();
        assert!(keys.is_sorted() && keys.len() > usize::from(shards), "{keys:?}");
        for (name, partition, next) in &offsets {
            let topic = bench.log.topic_id(name).expect("topics are carried over");
            assert_eq!(bench.log.next_offset(topic, *partition), *next, "offsets go on");
        }
        let first = bench.older.iter().position(|log| log.key().generation == 1);
        let first = first.expect("the first generation is still read");
        std::mem::swap(&mut bench.log, &mut bench.older[first]);
        bench.verify();
        assert_eq!(bench.append(10), Err(NoAppend::Stopped), "an older log takes no events");
        bench.put_cursor();
        let (group, cursor, _) = bench.cursors[0].clone();
        for _ in 0..4 {
            bench.now += 500_000;
            bench.settle();
        }
        assert!(bench.cursors.is_empty(), "an older log keeps cursors");
        assert_eq!(bench.log.cursor(group), Some(&cursor));
        assert!(bench.storage.paths().iter().all(|p| p.starts_with(DIR)));
    }
}
