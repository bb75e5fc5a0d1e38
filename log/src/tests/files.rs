//! Real files: direct access, the lock, versions, a folder of the released format.

use std::path::Path;
use std::sync::Arc;

use codec::header::BatchHeader;
use codec::ids::{Partition, Position, Timestamp, TopicId};

use super::harness::{Bench, DIR, small_options};
use crate::blocking_disk::BlockingDisk;
use crate::folder::{self, OpenError};
use crate::inspect::{Verdict, inspect_file};
use crate::log::Log;
use crate::reader::{ReadStep, Reader};
use crate::segment::segment_path;
use crate::storage::file::FileStorage;
use crate::storage::{OpenMode, Storage};

const BATCHES: u32 = 40;

fn write_some(dir: &Path) {
    let storage = Arc::new(FileStorage::new());
    let mut folder = folder::open(storage.clone(), dir, &small_options()).unwrap();
    let mut disk = BlockingDisk::new(storage);
    let log = &mut folder.shards[0].active;
    for number in 0..BATCHES {
        let body = vec![number as u8; 500];
        let header = BatchHeader::unstamped(TopicId(0), Partition(2), &body, 3);
        let topic = log.create_topic(&Arc::from(format!("a/{}", number % 4))).unwrap();
        log.append(topic, Partition(2), &header, &body, Timestamp(1_000 + u64::from(number)))
            .unwrap();
        log.run(Timestamp(2_000), &mut disk);
        disk.complete(log);
    }
    log.begin_shutdown(Timestamp(3_000));
    for _ in 0..50 {
        log.run(Timestamp(3_000), &mut disk);
        disk.complete(log);
    }
    assert!(log.is_shut_down(), "a clean end is reached");
}

fn read_everything(log: &mut Log, disk: &mut BlockingDisk) -> u32 {
    let mut reader = Reader::new(Position(0));
    let end = log.positions().end();
    let mut batches = 0;
    loop {
        match log.read(&mut reader, end, &mut |_| true, disk) {
            ReadStep::Batch(batch) => {
                assert_eq!(batch.body, vec![batches as u8; 500], "every byte as it was given");
                assert_eq!(batch.header.base_position, Position(3 * u64::from(batches)));
                batches += 1;
            }
            ReadStep::Pending => disk.complete(log),
            ReadStep::More => {}
            ReadStep::End => return batches,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// What was written to real files comes back from them; a second server is kept out; `inspect` finds all whole.
#[test]
fn a_folder_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    write_some(dir.path());
    let storage = Arc::new(FileStorage::new());
    let mut folder = folder::open(storage.clone(), dir.path(), &small_options()).unwrap();
    let second = folder::open(storage.clone(), dir.path(), &small_options());
    assert!(matches!(second, Err(OpenError::Locked { .. })), "one server a folder");
    let mut disk = BlockingDisk::new(storage);
    assert_eq!(read_everything(&mut folder.shards[0].active, &mut disk), BATCHES);
    let log = dir.path().join("gen-000001/log-000");
    let mut text = Vec::new();
    for entry in std::fs::read_dir(&log).unwrap() {
        let summary = inspect_file(&entry.unwrap().path(), &mut text).unwrap();
        assert_eq!(summary.verdict, Verdict::Whole, "{}", String::from_utf8_lossy(&text));
    }
    assert!(String::from_utf8(text).unwrap().contains("topic 4 \"a/3\""));
}

/// A format that this build does not know may mean anything: it is refused, not guessed at.
#[test]
fn an_unknown_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_some(dir.path());
    let path = dir.path().join("folder.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("format_version = 1", "format_version = 2")).unwrap();
    let opened = folder::open(Arc::new(FileStorage::new()), dir.path(), &small_options());
    assert!(matches!(opened, Err(OpenError::Version { found: 2, .. })), "{:?}", opened.err());
}

/// `inspect` must tell rotten bytes from an unfinished end: the one needs a person, the other does not.
#[test]
fn inspect_tells_damage_from_a_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    write_some(dir.path());
    let segment = dir.path().join("gen-000001/log-000/seg-000000000001.rms");
    let whole = std::fs::read(&segment).unwrap();
    let summary = inspect_file(&segment, &mut Vec::new()).unwrap();
    assert_eq!((summary.verdict, summary.batches), (Verdict::Whole, u64::from(BATCHES)));
    let mut flipped = whole.clone();
    flipped[4096 * 5 + 300] ^= 4;
    std::fs::write(&segment, &flipped).unwrap();
    let summary = inspect_file(&segment, &mut Vec::new()).unwrap();
    assert!(matches!(summary.verdict, Verdict::Damaged { .. }), "{summary:?}");
    // The last commit is the durable mark; the one before it holds the last batch.
    let last = whole.chunks(4096).rposition(|block| block.iter().any(|b| *b != 0)).unwrap();
    let mut torn = whole[..last * 4096].to_vec();
    let cut = torn.len() - 4096 + 200;
    torn[cut..].fill(0);
    std::fs::write(&segment, &torn).unwrap();
    let summary = inspect_file(&segment, &mut Vec::new()).unwrap();
    assert!(matches!(summary.verdict, Verdict::TornTail { .. }), "{summary:?}");
}

/// A folder that version 1 wrote must open for ever.
#[test]
fn the_folder_of_format_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("gen-000001/log-000");
    std::fs::create_dir_all(&log).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-1");
    std::fs::copy(data.join("folder.toml"), dir.path().join("folder.toml")).unwrap();
    for name in ["seg-000000000001.rms", "checkpoint-a", "checkpoint-b"] {
        std::fs::copy(data.join(name), log.join(name)).unwrap();
    }
    let storage = Arc::new(FileStorage::new());
    let mut folder = folder::open(storage.clone(), dir.path(), &small_options()).unwrap();
    assert!(folder.recovered.iter().all(|report| report.damage.is_empty()));
    let mut disk = BlockingDisk::new(storage);
    let log = &mut folder.shards[0].active;
    assert_eq!(read_everything(log, &mut disk), BATCHES);
    assert_eq!(log.topic_count(), 4, "the dictionary is there");
}

/// The same input must make the same bytes as in the released version: a change of the format is never by accident.
#[test]
fn a_fresh_folder_is_like_the_released_one() {
    let dir = tempfile::tempdir().unwrap();
    write_some(dir.path());
    let log = dir.path().join("gen-000001/log-000");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/format-1");
    let fresh = std::fs::read(log.join("seg-000000000001.rms")).unwrap();
    let released = std::fs::read(data.join("seg-000000000001.rms")).unwrap();
    let used = released.len();
    assert!(
        fresh.len() >= used && fresh[..used] == released[..],
        "same input, same bytes, for ever"
    );
    assert!(fresh[used..].iter().all(|byte| *byte == 0), "only prepared zeros follow");
}

/// A log at rest, with so many batches.
fn settled(batches: usize) -> Bench {
    let mut bench = Bench::new(11, small_options());
    while bench.sent.len() < batches {
        if bench.append(4_000).is_err() {
            bench.settle();
        }
    }
    bench.settle();
    bench
}

fn shut_down(bench: &mut Bench) {
    bench.log.begin_shutdown(Timestamp(bench.now));
    bench.settle();
    assert!(bench.log.is_shut_down(), "a clean end is reached");
}

/// Prepared room behind the last commit is what a stop may leave. Called a tail that was cut, it would make an operator
/// look for a crash after each clean start, and hide the one that follows a real one.
#[test]
fn prepared_room_is_no_tail_to_cut() {
    for (batches, is_clean) in [0, 1, 40, 400].into_iter().flat_map(|n| [(n, true), (n, false)]) {
        let mut bench = settled(batches);
        if is_clean {
            shut_down(&mut bench);
        }
        bench.kill();
        assert_eq!(bench.reports[0].cut, None, "{batches} batches, clean: {is_clean}");
        bench.verify();
    }
}

/// The next start must look through everything that stands behind the last commit, as much as two segments: after a clean stop
/// nothing may stand there.
#[test]
fn a_shutdown_gives_prepared_room_back() {
    for batches in [0, 1, 40, 400] {
        let mut bench = settled(batches);
        assert!(bench.log.segments.has_room_behind_tail(), "{batches} batches: commits need it");
        shut_down(&mut bench);
        let dir = Path::new(DIR).join("gen-000001/log-000");
        let active = bench.log.segments.active.as_ref().expect("commits went to it");
        assert_eq!(bench.storage.len(active.file).unwrap(), active.tail, "{batches} batches");
        for number in active.number + 1..=bench.log.segments.last_number {
            let path = segment_path(&dir, number);
            let behind = bench.storage.open(&path, OpenMode::Read, false).unwrap();
            assert_eq!(bench.storage.len(behind).unwrap(), 0, "{batches} batches: {path:?}");
            bench.storage.close(behind);
        }
        // A cursor that is put only now finds room all the same.
        bench.log.put_cursor(7, crate::cursor::Cursor::default());
        bench.settle();
        assert!(bench.log.is_shut_down(), "it ends once more");
        assert!(!bench.log.segments.has_room_behind_tail());
        bench.kill();
        bench.verify();
    }
}

/// A commit that was begun and is not whole is the one thing that the word stands for: torn within its last batch, or gone
/// with one behind it that is there.
#[test]
fn a_commit_that_was_begun_is_a_tail_that_was_cut() {
    for zeroed in [1, 4] {
        let mut bench = Bench::new(5, small_options());
        bench.append(4_000).unwrap();
        bench.settle();
        let (end, active) = (bench.log.positions().end(), bench.log.segments.active.as_ref());
        let (number, torn) = active.map(|active| (active.number, active.tail)).unwrap();
        // Two commits of four blocks on their way together, so that neither knows of the other's end.
        for _ in 0..2 {
            bench.append_this("t/torn", Partition(0), 1, vec![7; 13_000]).unwrap();
            bench.run();
        }
        while bench.complete() {}
        bench.disk.kill();
        let path = segment_path(&Path::new(DIR).join("gen-000001/log-000"), number);
        let file = bench.storage.open(&path, OpenMode::ReadWrite, false).unwrap();
        let at = torn + 4096 * (4 - zeroed);
        bench.storage.write_at(file, at, &vec![0; 4096 * zeroed as usize]).unwrap();
        bench.storage.close(file);
        bench.reopen();
        let report = &bench.reports[0];
        assert!(report.end == end && report.damage.is_empty(), "{zeroed} blocks: {report:?}");
        let cut = report.cut.expect("a tail was cut");
        assert!(cut.0 == number && (torn..=at).contains(&cut.1), "{zeroed} blocks: {report:?}");
    }
}
