//! Readers that want some topics only, against readers that look at everything.

use std::collections::BTreeSet;
use std::sync::Arc;

use codec::ids::{Offset, Partition, Position, Timestamp};

use super::harness::{Bench, Sent, small_options};
use crate::disk::{Disk, DiskOp, LogKey};
use crate::reader::{ReadStep, Reader, Wanted};
use crate::seek::StartSeek;
use crate::segments::{Sealed, SegmentIndex};
use crate::sim_disk::{SimDisk, SimRandom};

/// Counts what is read.
struct Counting<'a> {
    disk: &'a mut SimDisk,
    bytes: u64,
    in_flight: i64,
    in_flight_max: i64,
}

impl Disk for Counting<'_> {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        if let DiskOp::Read { len, .. } = &op {
            self.bytes += u64::from(*len);
            self.in_flight += 1;
            self.in_flight_max = self.in_flight_max.max(self.in_flight);
        }
        self.disk.submit(log, op);
    }
}

/// What a reader of some topics got, and how it got it.
#[derive(Debug, Default)]
struct Told {
    batches: Vec<Sent>,
    read_bytes: u64,
    in_flight_max: i64,
    /// Reads that were asked for while there was something to hand out.
    ahead: u32,
    end: Position,
}

/// Reads `from..end` for the topics of `wanted`. Every few steps `disturb` may do something else with the bench.
fn read_wanted(
    bench: &mut Bench,
    (from, end): (Position, Position),
    version: Option<u64>,
    wanted: &BTreeSet<String>,
    disturb: &mut dyn FnMut(&mut Bench, &mut Reader),
) -> Told {
    let mut reader = Reader::new(from);
    let mut told = Told::default();
    for step in 0..1_000_000 {
        if step % 7 == 6 {
            disturb(bench, &mut reader);
        }
        let mut disk = Counting { disk: &mut bench.disk, bytes: 0, in_flight: 0, in_flight_max: 0 };
        let mut topic = |_, name: &Arc<str>| wanted.contains(&**name);
        let only = wanted.first().filter(|_| wanted.len() == 1).map(|only| &**only);
        let mut wants = Wanted { version, only, topic: &mut topic };
        let step = bench.log.read_wanted(&mut reader, end, &mut wants, &mut disk);
        told.read_bytes += disk.bytes;
        told.in_flight_max = told.in_flight_max.max(disk.in_flight_max);
        let is_ahead = disk.in_flight > 0 && matches!(step, ReadStep::Batch(_));
        told.ahead += u32::from(is_ahead);
        match step {
            ReadStep::Batch(batch) => {
                let name = bench.log.topic_name(batch.header.topic).expect("topics have names");
                assert!(wanted.contains(&**name), "nobody gets what he does not want");
                told.batches.push(Sent::of(name, &batch));
            }
            ReadStep::Pending => assert!(bench.complete(), "someone completes what is pending"),
            ReadStep::More => {}
            ReadStep::End => {
                told.end = reader.position();
                return told;
            }
            other => panic!("{other:?} of {reader:?}"),
        }
    }
    panic!("the reader does not come to the end");
}

fn undisturbed(_: &mut Bench, _: &mut Reader) {}

/// A log of several segments. Topics differ in how often they come, so that an index saves much, little or nothing.
pub(super) fn random_log(seed: u64) -> Bench {
    random_log_after(seed, &mut |_| {})
}

/// The same, with something done to the bench before each append.
fn random_log_after(seed: u64, prepare: &mut dyn FnMut(&mut Bench)) -> Bench {
    let mut options = small_options();
    options.log.commit_bytes_max = if seed.is_multiple_of(2) { 512 << 10 } else { 64 << 10 };
    let mut bench = Bench::new(seed, options);
    let bytes_max = [300, 3_000, 20_000][seed as usize % 3];
    let batches = 6_000_000 / bytes_max.max(2_000);
    for _ in 0..batches {
        let rare = bench.random.below(40);
        let topic = match rare {
            0 => format!("rare/{}", bench.random.below(3)),
            1..5 => format!("some/{}", bench.random.below(4)),
            _ => format!("often/{}", bench.random.below(8)),
        };
        let partition = Partition(bench.random.below(3) as u16);
        let count = 1 + bench.random.below(4) as u32;
        let body = vec![bench.random.next_u64() as u8; bench.random.below(bytes_max) as usize];
        prepare(&mut bench);
        while bench.append_this(&topic, partition, count, body.clone()).is_err() {
            bench.run();
            assert!(bench.complete(), "an append waits for the disk");
        }
        if bench.random.one_in(60) {
            bench.run();
            bench.complete();
        }
        if bench.random.one_in(batches * 2 / 3) {
            bench.crash();
        }
    }
    bench.settle();
    bench
}

pub(super) fn random_topics(random: &mut SimRandom) -> BTreeSet<String> {
    let mut topics = BTreeSet::new();
    match random.below(4) {
        0 => topics.extend([format!("rare/{}", random.below(3))]),
        1 => topics.extend((0..3).map(|topic| format!("rare/{topic}"))),
        2 => topics.extend((0..2).map(|_| format!("some/{}", random.below(4)))),
        _ => topics.extend((0..5).map(|_| format!("often/{}", random.below(8)))),
    }
    if random.one_in(4) {
        topics.insert("nobody/publishes/this".to_owned());
    }
    topics
}

fn compare(bench: &mut Bench, random: &mut SimRandom, context: &str) {
    let log_end = bench.log.positions().end();
    for _ in 0..8 {
        let topics = random_topics(random);
        let end = if random.one_in(2) {
            log_end
        } else {
            // Readers are given ends that stand between batches.
            bench.sent[random.below(bench.sent.len() as u64) as usize].position
        };
        let from = Position(random.below(end.0 + 1));
        let kept = |sent: &&Sent| {
            let last = sent.position.plus(u64::from(sent.count));
            last > from && sent.position < end && topics.contains(&sent.topic)
        };
        let expected: Vec<Sent> = bench.sent.iter().filter(kept).cloned().collect();
        let scan = read_wanted(bench, (from, end), None, &topics, &mut undisturbed);
        let mut version = 1;
        let mut loosen = |bench: &mut Bench, reader: &mut Reader| {
            if random.one_in(5) {
                bench.log.release_memory(reader);
            }
            bench.run();
        };
        let steered = read_wanted(bench, (from, end), Some(version), &topics, &mut loosen);
        version += 1;
        let again = read_wanted(bench, (from, end), Some(version), &topics, &mut undisturbed);
        for told in [&scan, &steered, &again] {
            assert_eq!(told.end, end, "{context}: {topics:?} from {from} to {end}");
            assert!(
                told.batches == expected,
                "{context}: {topics:?} from {from} to {end}: {} batches instead of {}",
                told.batches.len(),
                expected.len()
            );
        }
    }
}

/// A reader that goes by the index gives exactly what one gives that looks at everything: an event that an index
/// hides is lost to its group for ever. Over random logs and topics, active, sealed and recovered segments.
#[test]
fn readers_by_index_and_by_scan_agree() {
    for seed in 0..12 {
        let mut bench = random_log(seed);
        let mut random = SimRandom::new(seed ^ 0xc0de);
        compare(&mut bench, &mut random, &format!("seed {seed}"));
        // Recovered: every segment is sealed, and indexes are mapped from files or rebuilt.
        bench.crash();
        compare(&mut bench, &mut random, &format!("seed {seed}, recovered"));
        for path in bench.storage.paths() {
            if path.extension().is_some_and(|kind| kind == "rmx") && random.one_in(2) {
                bench.storage.flip_bit(&path, random.below(100), 3);
            }
        }
        bench.reopen();
        compare(&mut bench, &mut random, &format!("seed {seed}, indexes damaged"));
    }
}

/// Segments are sealed faster than their indexes are written, and a hundred thousand groups that come back want a topic each
/// of these: every look at all that the indexes hold would be a pause for everybody.
#[test]
fn runs_lead_back_through_the_segments_in_memory() {
    for seed in [5, 11, 14] {
        let mut hold = |bench: &mut Bench| {
            bench.log.upkeep.index_retry_at = Some(Timestamp(u64::MAX));
        };
        let mut bench = random_log_after(seed, &mut hold);
        let sealed = &bench.log.segments.sealed;
        let in_memory = |sealed: &Sealed| matches!(sealed.index, SegmentIndex::Memory(_));
        assert!(sealed.len() > 2 && sealed.iter().all(in_memory), "no index is written");
        compare(&mut bench, &mut SimRandom::new(seed), &format!("seed {seed}, in memory"));

        let end = bench.log.positions().end();
        let mut asked = 0;
        let mut reader = Reader::new(Position(0));
        loop {
            let mut topic = |_, name: &Arc<str>| {
                asked += 1;
                &**name == "rare/1"
            };
            let only = Some("rare/1");
            let mut wants = Wanted { version: Some(1), only, topic: &mut topic };
            match bench.log.read_wanted(&mut reader, end, &mut wants, &mut bench.disk) {
                ReadStep::Pending => assert!(bench.complete(), "a read comes back"),
                ReadStep::Batch(_) | ReadStep::More => {}
                ReadStep::End => break,
                other => panic!("{other:?}"),
            }
        }
        let batches = bench.sent.len();
        assert!(asked * 4 < batches, "asked about {asked} of {batches} batches");
    }
}

/// Who wants few topics of many must not pay for the others' bytes, and nothing for segments without them.
#[test]
fn an_index_saves_reads() {
    let mut bench = random_log(13);
    bench.crash();
    let all = (Position(0), bench.log.positions().end());
    let rare = BTreeSet::from(["rare/1".to_owned()]);
    let scan = read_wanted(&mut bench, all, None, &rare, &mut undisturbed);
    let steered = read_wanted(&mut bench, all, Some(1), &rare, &mut undisturbed);
    assert_eq!(scan.batches, steered.batches, "the same batches");
    assert!(!steered.batches.is_empty(), "something is wanted");
    let (by_scan, by_index) = (scan.read_bytes, steered.read_bytes);
    assert!(by_index * 3 < by_scan, "{by_index} bytes by index, {by_scan} by scan");
    assert!(steered.in_flight_max > 1, "small pieces are asked for together");
    assert!(scan.ahead > 0, "the next window is on its way while one is read from");
    let nothing = BTreeSet::from(["nobody".to_owned()]);
    let skipped = read_wanted(&mut bench, all, Some(2), &nothing, &mut undisturbed);
    assert_eq!((skipped.read_bytes, skipped.end), (0, all.1), "nothing is read for nobody");
}

/// A start at a time or at offsets must not miss what it is to give, nor read the whole log before it.
#[test]
fn starts_lead_to_what_they_need() {
    for seed in [1, 4, 7] {
        let mut bench = random_log(seed);
        bench.crash();
        let end = bench.log.positions().end();
        let batches = bench.sent.clone();
        for at in (0..batches.len()).step_by(batches.len() / 9) {
            let sent = &batches[at];
            let partitions = (0..3).map(Partition);
            let wished: Vec<(Partition, Offset)> = partitions
                .map(|partition| {
                    let behind = batches[at..].iter();
                    let mut behind =
                        behind.filter(|b| b.topic == sent.topic && b.partition == partition);
                    let topic = bench.log.topic_id(&sent.topic).unwrap();
                    let next = bench.log.next_offset(topic, partition);
                    (partition, behind.next().map_or(next, |batch| batch.offset))
                })
                .collect();
            let mut seek = StartSeek::new(end);
            bench.log.add_offsets(&mut seek, &sent.topic, &wished);
            let found = sought(&mut bench, seek);
            assert!(found <= sent.position, "seed {seed}: {found} is behind {sent:?}");
            let between =
                batches.iter().filter(|b| b.position >= found && b.position < sent.position);
            let bytes: usize = between.map(|b| b.body.len()).sum();
            // A seek leads to the commit.
            let few = bench.options.log.commit_bytes_max;
            assert!(bytes < few, "seed {seed}: {bytes} bytes before what is sought");
        }
    }
}

/// As above, for times: the middle of the log by its clock, whatever segments are mapped.
#[test]
fn times_lead_to_the_commit_before_them() {
    let mut bench = random_log(2);
    bench.crash();
    let end = bench.log.positions().end();
    let mut times = Vec::new();
    let mut reader = Reader::new(Position(0));
    loop {
        match bench.log.read(&mut reader, end, &mut |_| true, &mut bench.disk) {
            ReadStep::Batch(batch) => {
                times.push((batch.header.append_time, batch.header.base_position));
            }
            ReadStep::Pending => assert!(bench.complete()),
            ReadStep::More => {}
            _ => break,
        }
    }
    let mut moved = 0;
    for (time, _) in times.iter().step_by(times.len() / 12) {
        let mut seek = StartSeek::new(end);
        seek.add_time(*time);
        let found = sought(&mut bench, seek);
        let first = times.iter().find(|(at, _)| at >= time).unwrap().1;
        assert!(found <= first, "nothing at or after the time is before {found}");
        moved += u32::from(found > Position(0));
    }
    assert!(moved > 8, "seeks lead into the log, not to its start");
    let mut seek = StartSeek::new(end);
    seek.add_time(Timestamp(0));
    assert_eq!(sought(&mut bench, seek), Position(0));
}

fn sought(bench: &mut Bench, mut seek: StartSeek) -> Position {
    loop {
        match bench.log.seek_start(&mut seek, &mut bench.disk) {
            Some(position) => return position,
            None => assert!(bench.complete(), "someone completes what a seek waits for"),
        }
    }
}

/// A read that fails must be told, must not be passed over, and must end well once the disk is well again.
#[test]
fn a_read_that_fails_is_told_and_passes_nothing() {
    let mut bench = random_log(3);
    bench.crash();
    let end = bench.log.positions().end();
    let mut reader = Reader::new(Position(0));
    bench.disk.fail_reads_one_in(1);
    let mut told = 0;
    for _ in 0..50 {
        match bench.log.read(&mut reader, end, &mut |_| true, &mut bench.disk) {
            ReadStep::Failed { start, end, failures } => {
                told += 1;
                assert_eq!(
                    (start, failures),
                    (Position(0), told),
                    "counted, and nothing is passed"
                );
                assert!(end > start, "the range is not empty");
            }
            ReadStep::Pending => assert!(bench.complete()),
            ReadStep::More => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(told > 10, "each failure is told");
    bench.disk.fail_reads_one_in(0);
    bench.verify();
    let topics = BTreeSet::from(["some/1".to_owned()]);
    bench.disk.fail_reads_one_in(3);
    let mut got = 0;
    loop {
        let mut topic = |_, name: &Arc<str>| topics.contains(&**name);
        let mut wants = Wanted { version: Some(1), only: None, topic: &mut topic };
        match bench.log.read_wanted(&mut reader, end, &mut wants, &mut bench.disk) {
            ReadStep::Batch(_) => got += 1,
            ReadStep::Pending => assert!(bench.complete()),
            ReadStep::More | ReadStep::Failed { .. } => {}
            ReadStep::End => break,
            other => panic!("{other:?}"),
        }
    }
    let expected = bench.sent.iter().filter(|sent| topics.contains(&sent.topic)).count();
    assert_eq!(got, expected, "nothing is lost to failures that pass");
}

/// Readers beyond the limit are told so, and all of them come to the end once others let go.
#[test]
fn readers_stay_within_their_memory() {
    let mut options = small_options();
    options.log.read_bytes_max = 256 << 10;
    let mut bench = Bench::new(9, options);
    while bench.sent.len() < 1_500 {
        if bench.append(4_000).is_err() || bench.random.one_in(6) {
            bench.run();
            bench.complete();
        }
    }
    bench.settle();
    let end = bench.log.positions().end();
    let mut readers: Vec<(Reader, usize)> =
        (0..20).map(|_| (Reader::new(Position(0)), 0)).collect();
    let mut refused = 0;
    while readers.iter().any(|(reader, _)| reader.position() < end) {
        for (reader, got) in &mut readers {
            match bench.log.read(reader, end, &mut |_| true, &mut bench.disk) {
                ReadStep::Batch(_) => *got += 1,
                ReadStep::NoRoom => refused += 1,
                ReadStep::End => bench.log.release_memory(reader),
                _ => {}
            }
            let (held, held_max) = bench.log.read_ahead_bytes();
            assert!(held <= held_max, "{held} bytes are held");
        }
        bench.complete();
    }
    assert!(refused > 0, "twenty readers do not fit");
    assert!(readers.iter().all(|(_, got)| *got == bench.sent.len()), "everybody gets everything");
}
