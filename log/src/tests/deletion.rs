//! Deleting topics: nothing of a deleted one is read again, whatever comes between, and all of the others is.

use std::collections::BTreeMap;

use codec::ids::{Offset, Partition, Position, Timestamp};

use super::harness::{Bench, small_options};
use crate::control::Record;
use crate::cursor::{Cursor, CursorMark};
use crate::folder::FolderOptions;
use crate::reader::{ReadStep, Reader};
use crate::size::SizeStep;

/// Deletes a topic of a bench and waits until that is durable.
fn delete(bench: &mut Bench, topic: &str) {
    let mark = begin(bench, topic);
    rest(bench);
    assert!(mark <= bench.log.durable_cursor_mark(), "a deletion is written in a while");
}

fn begin(bench: &mut Bench, topic: &str) -> CursorMark {
    let id = bench.log.topic_id(topic).expect("it is there");
    bench.log.delete_topic(id)
}

/// Lets chores, passes and checkpoints come to rest.
fn rest(bench: &mut Bench) {
    for _ in 0..60 {
        bench.now += 50_000;
        bench.run();
        while bench.complete() {}
    }
}

/// Publishes a batch of 20,000 bytes to each topic in turn, so often.
fn publish(bench: &mut Bench, topics: &[&str], times: u32) {
    for _ in 0..times {
        for topic in topics {
            while bench.append_this(topic, Partition(1), 1, vec![7; 20_000]).is_err() {
                bench.settle();
            }
        }
        bench.run();
        bench.complete();
    }
    bench.settle();
}

/// Offsets that a reader of everything gets, by topic.
fn offsets(bench: &mut Bench) -> BTreeMap<String, Vec<Offset>> {
    let end = bench.log.positions().durable_end();
    let (mut reader, mut found) = (Reader::new(Position(0)), BTreeMap::<String, Vec<_>>::new());
    loop {
        match bench.log.read(&mut reader, end, &mut |_| true, &mut bench.disk) {
            ReadStep::Batch(batch) => {
                let name = bench.log.topic_name(batch.header.topic).unwrap().to_string();
                found.entry(name).or_default().push(batch.header.base_offset);
            }
            ReadStep::Pending | ReadStep::More | ReadStep::Expired { .. } => {
                while bench.complete() {}
            }
            ReadStep::End => return found,
            other => panic!("{other:?}"),
        }
    }
}

fn range(from: u64, to: u64) -> Vec<Offset> {
    (from..to).map(Offset).collect()
}

/// A deletion that a crash, a checkpoint or a late reader takes back shows people what they were told is gone; one that
/// takes a neighbour's event loses it.
#[test]
fn a_deleted_topic_stays_deleted_and_its_neighbours_stay() {
    let mut bench = Bench::new(11, small_options());
    publish(&mut bench, &["a", "b"], 30);
    delete(&mut bench, "a");
    assert_eq!(bench.log.topic_id("a"), None);
    assert_eq!(bench.log.live_topic_count(), 1);
    let only_b = BTreeMap::from([("b".to_owned(), range(0, 30))]);
    assert_eq!(offsets(&mut bench), only_b);
    for crashes in 0..3 {
        bench.crash();
        bench.now += 1;
        assert_eq!(bench.log.topic_id("a"), None, "after {crashes} crashes");
        assert_eq!(offsets(&mut bench), only_b);
        assert!(bench.reports.iter().all(|report| report.damage.is_empty()));
    }
    publish(&mut bench, &["a"], 3);
    let all = BTreeMap::from([("a".to_owned(), range(30, 33)), ("b".to_owned(), range(0, 30))]);
    assert_eq!(offsets(&mut bench), all, "it begins again, and no offset means two events");
    for _ in 0..3 {
        bench.crash();
        bench.now += 1;
        publish(&mut bench, &["c"], 40);
        let mut found = offsets(&mut bench);
        found.remove("c");
        assert_eq!(found, all, "whatever checkpoints have been written");
    }
}

/// Events that are appended while the record of a deletion waits for its commit are of the new topic: they must not be
/// taken, nor bring back what was deleted.
#[test]
fn what_comes_after_a_deletion_is_kept_though_its_record_is_written_later() {
    let mut bench = Bench::new(12, small_options());
    publish(&mut bench, &["a"], 4);
    let mark = begin(&mut bench, "a");
    publish(&mut bench, &["a"], 2);
    rest(&mut bench);
    assert!(mark <= bench.log.durable_cursor_mark());
    let expected = BTreeMap::from([("a".to_owned(), range(4, 6))]);
    assert_eq!(offsets(&mut bench), expected);
    bench.crash();
    bench.now += 1;
    assert_eq!(offsets(&mut bench), expected);
    assert!(bench.log.topic_id("a").is_some(), "it has begun again");
}

/// Power that goes at any time leaves the topic whole or deleted, never a part of it; and once told, deleted.
#[test]
fn power_loss_leaves_a_topic_whole_or_deleted() {
    for seed in 0..60 {
        let mut bench = Bench::new(seed, small_options());
        publish(&mut bench, &["a", "b"], 5);
        let mark = begin(&mut bench, "a");
        for _ in 0..seed {
            bench.now += 10_000;
            bench.run();
            bench.complete();
        }
        let is_told = mark <= bench.log.durable_cursor_mark();
        bench.crash();
        bench.now += 1;
        let found = offsets(&mut bench);
        assert_eq!(found["b"], range(0, 5), "seed {seed}");
        match found.get("a") {
            Some(all) => assert!(!is_told && *all == range(0, 5), "seed {seed}: {all:?}"),
            None => assert_eq!(bench.log.topic_id("a"), None, "seed {seed}"),
        }
    }
}

/// Who deletes a topic wants its bytes back; and a topic without any retention must not lose a segment to its neighbour's
/// end.
#[test]
fn segments_of_deleted_topics_are_freed() {
    let mut bench = Bench::new(13, small_options());
    publish(&mut bench, &["kept"], 2);
    publish(&mut bench, &["gone"], 200);
    publish(&mut bench, &["kept"], 60);
    rest(&mut bench);
    let before = bench.log.allocated_bytes();
    delete(&mut bench, "gone");
    rest(&mut bench);
    assert!(bench.log.allocated_bytes() >= before - (2 << 20), "the first segment is kept");
    delete(&mut bench, "kept");
    publish(&mut bench, &["next"], 60);
    rest(&mut bench);
    let after = bench.log.allocated_bytes();
    assert!(after <= before - (3 << 20), "{after} of {before} bytes are left");
    assert_eq!(offsets(&mut bench), BTreeMap::from([("next".to_owned(), range(0, 60))]));
    bench.crash();
    bench.now += 1;
    rest(&mut bench);
    assert_eq!(offsets(&mut bench), BTreeMap::from([("next".to_owned(), range(0, 60))]));
    let wakeup = bench.log.next_wakeup();
    let later = Timestamp(bench.now + 1_000);
    assert!(wakeup.is_none_or(|at| at > later), "it rests: {wakeup:?}");
}

/// Logs of an earlier number of shards take no events, but topics in them are deleted, too.
#[test]
fn deletion_reaches_older_generations() {
    let mut bench = Bench::new(14, small_options());
    publish(&mut bench, &["a", "b"], 30);
    bench.options.shards = 2;
    bench.reopen();
    bench.now += 1;
    assert_eq!(bench.log.kept_events(bench.log.topic_id("a").unwrap()), 0, "its offsets go on");
    delete(&mut bench, "a");
    std::mem::swap(&mut bench.log, &mut bench.older[0]);
    delete(&mut bench, "a");
    assert_eq!(offsets(&mut bench).keys().collect::<Vec<_>>(), ["b"]);
    bench.disk.power_loss();
    bench.reopen();
    bench.now += 1;
    assert_eq!((bench.log.topic_id("a"), bench.older[0].topic_id("a")), (None, None));
    std::mem::swap(&mut bench.log, &mut bench.older[0]);
    assert_eq!(offsets(&mut bench).keys().collect::<Vec<_>>(), ["b"]);
    std::mem::swap(&mut bench.log, &mut bench.older[0]);
    publish(&mut bench, &["a"], 1);
    assert_eq!(offsets(&mut bench)["a"], range(30, 31));
}

/// A log of an earlier number of shards that nobody writes to gives its bytes back, too.
#[test]
fn an_older_log_without_anything_to_write_frees_its_segments() {
    let mut bench = Bench::new(15, small_options());
    publish(&mut bench, &["a"], 300);
    bench.options.shards = 2;
    bench.options.log.retention_bytes = Some(1 << 20);
    bench.reopen();
    bench.now += 1;
    let (older, end) = (0, bench.older[0].positions().end());
    std::mem::swap(&mut bench.log, &mut bench.older[older]);
    let before = bench.log.allocated_bytes();
    rest(&mut bench);
    let after = bench.log.allocated_bytes();
    assert!(before > 5 << 20 && after < 3 << 20, "{after} of {before} bytes are left");
    let kept = offsets(&mut bench)["a"].len() as u64;
    for _ in 0..2 {
        bench.disk.power_loss();
        bench.reopen();
        bench.now += 1;
        std::mem::swap(&mut bench.log, &mut bench.older[older]);
        assert_eq!(bench.log.positions().end(), end, "positions go on");
        assert!(bench.reports.iter().all(|report| report.damage.is_empty()));
        assert_eq!(offsets(&mut bench)["a"].len() as u64, kept);
        rest(&mut bench);
        // What is written later is found again, though the checkpoint's replay began in a segment that was not there.
        let cursor = Cursor { next: end, ..Cursor::default() };
        let mark = bench.log.put_cursor(9, cursor.clone());
        rest(&mut bench);
        assert!(mark <= bench.log.durable_cursor_mark());
        bench.disk.power_loss();
        bench.reopen();
        bench.now += 1;
        assert_eq!(bench.older[older].cursor(9), Some(&cursor));
        std::mem::swap(&mut bench.log, &mut bench.older[older]);
    }
}

/// A record that is cut short or whose length lies must be refused, and a whole one read as it was written.
#[test]
fn the_record_of_a_deletion_is_read_as_written() {
    let ends = vec![(Partition(0), Offset(7)), (Partition(63), Offset(u64::MAX))];
    let record = Record::TopicDeleted { id: codec::ids::TopicId(5), end: Position(9), ends };
    let mut bytes = Vec::new();
    record.encode(&mut bytes);
    let mut rest = &bytes[..];
    assert_eq!(Record::decode(&mut rest), Ok(record));
    assert!(rest.is_empty());
    for cut in 0..bytes.len() {
        assert!(Record::decode(&mut &bytes[..cut]).is_err(), "cut at {cut}");
    }
    for bit in 0..32 {
        let mut broken = bytes.clone();
        broken[12 + bit / 8] ^= 1 << (bit % 8);
        assert!(Record::decode(&mut &broken[..]).is_err(), "another count of partitions: {bit}");
    }
}

/// People decide by the number of bytes that a topic takes: it must be near to what it was given.
#[test]
fn a_topic_is_measured() {
    let options = FolderOptions { ..small_options() };
    let mut bench = Bench::new(16, options);
    publish(&mut bench, &["a", "b", "b", "b"], 60);
    for (topic, sent) in [("a", 60), ("b", 180)] {
        let id = bench.log.topic_id(topic).unwrap();
        let mut size = bench.log.measure(id);
        let bytes = loop {
            match bench.log.measure_step(&mut size, &mut bench.disk) {
                SizeStep::Done(bytes) => break bytes,
                SizeStep::More => {}
                SizeStep::Pending => assert!(bench.complete()),
            }
        };
        let sent = sent * 20_000;
        assert!((sent * 9 / 10..sent * 13 / 10).contains(&bytes), "{topic}: {bytes} of {sent}");
    }
}
