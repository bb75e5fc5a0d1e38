//! A whole folder of format 1 as a crash of its second run left it: two epochs, cursors, an index, a torn tail.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use codec::header::BatchHeader;
use codec::ids::{Epoch, Offset, Partition, Position, Timestamp, TopicId};

use super::harness::small_options;
use crate::blocking_disk::BlockingDisk;
use crate::cursor::Cursor;
use crate::folder::{self, Folder};
use crate::inspect::{Verdict, inspect_file};
use crate::log::Log;
use crate::reader::{ReadStep, Reader};
use crate::seek::{OffsetSeek, Seek};
use crate::storage::file::FileStorage;

const LOG: &str = "gen-000001/log-000";
/// Of version 1 in that folder. It is derived, so a later version may replace it.
const INDEX: &str = "seg-000000000001.rmx";
const FILES: [&str; 5] =
    ["checkpoint-a", "checkpoint-b", "seg-000000000001.rms", INDEX, "seg-000000000003.rms"];
const TOPICS: [&str; 2] = ["fleet/cn/vin-7/telemetry", "orders/é"];
const GROUP: u64 = 11;
/// Batches that were whole; one more was torn.
const BATCHES: u64 = 9;

fn released() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1")
}

fn open(dir: &Path) -> (Folder, BlockingDisk) {
    let storage = Arc::new(FileStorage::new());
    let folder = folder::open(storage.clone(), dir, &small_options()).unwrap();
    (folder, BlockingDisk::new(storage))
}

fn body(batch: u64) -> Vec<u8> {
    vec![b'a' + batch as u8; 20 + 500 * batch as usize]
}

fn cursor() -> Cursor {
    let unsettled = vec![(Position(1), Position(2)), (Position(4), Position(5))];
    Cursor { next: Position(6), unsettled, starts: vec![(3, Position(0))] }
}

fn append(log: &mut Log, disk: &mut BlockingDisk, batch: u64) {
    let now = Timestamp(1_700_000_000_000_000 + batch);
    log.run(now, disk);
    disk.complete(log);
    let partition = Partition((batch % 3) as u16);
    let header = BatchHeader::unstamped(TopicId(0), partition, &body(batch), 2);
    let topic = log.create_topic(&Arc::from(TOPICS[(batch % 2) as usize])).unwrap();
    log.append(topic, partition, &header, &body(batch), now).unwrap();
    log.run(now, disk);
    disk.complete(log);
}

/// Writes the folder again, from the same input.
fn write(dir: &Path) {
    let (mut folder, mut disk) = open(dir);
    let log = &mut folder.shards[0].active;
    log.put_cursor(5, Cursor::default());
    (0..3).for_each(|batch| append(log, &mut disk, batch));
    log.put_cursor(GROUP, cursor());
    log.remove_cursor(5);
    (3..6).for_each(|batch| append(log, &mut disk, batch));
    let end = Timestamp(1_700_000_000_100_000);
    log.begin_shutdown(end);
    while !log.is_shut_down() {
        log.run(end, &mut disk);
        disk.complete(log);
    }
    drop(folder);
    let (mut folder, mut disk) = open(dir);
    let log = &mut folder.shards[0].active;
    let mut seek = OffsetSeek::new(TopicId(1), Partition(0), Offset(0));
    while log.seek_offset(&mut seek, &mut disk) == Seek::Pending {
        disk.complete(log);
    }
    (6..=BATCHES).for_each(|batch| append(log, &mut disk, batch));
    drop(folder);
    let path = dir.join(LOG).join(FILES[4]);
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes.truncate(used.next_multiple_of(4096));
    let torn = bytes.len() - 4096;
    bytes[torn..].fill(0);
    fs::write(&path, bytes).unwrap();
}

/// A folder that version 1 wrote must open for ever, with its events, offsets, cursors and epochs.
#[test]
fn the_folder_of_version_1_opens() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join(LOG)).unwrap();
    fs::copy(released().join("folder.toml"), dir.path().join("folder.toml")).unwrap();
    for name in FILES {
        let to = dir.path().join(LOG).join(name);
        fs::copy(released().join(LOG).join(name), &to).unwrap();
        let verdict = inspect_file(&to, &mut Vec::new()).unwrap().verdict;
        let torn = matches!(verdict, Verdict::TornTail { .. });
        assert!(if name == FILES[4] { torn } else { verdict == Verdict::Whole }, "{name}");
    }
    let (mut folder, mut disk) = open(dir.path());
    let report = &folder.recovered[0];
    assert_eq!((report.epoch, report.end, folder.node_id), (Epoch(3), Position(2 * BATCHES), 7));
    assert!(report.damage.is_empty() && matches!(report.cut, Some((3, _))), "{report:?}");
    let log = &mut folder.shards[0].active;
    assert_eq!((log.cursor(GROUP), log.cursor(5)), (Some(&cursor()), None));
    let mut reader = Reader::new(Position(0));
    let mut batches = 0;
    loop {
        match log.read(&mut reader, Position(2 * BATCHES), &mut |_| true, &mut disk) {
            ReadStep::Batch(batch) => {
                assert_eq!(batch.body, body(batches), "every byte as it was given");
                let name = log.topic_name(batch.header.topic).unwrap();
                assert_eq!(&**name, TOPICS[(batches % 2) as usize]);
                let header = batch.header;
                assert_eq!(header.partition, Partition((batches % 3) as u16));
                assert_eq!(header.base_offset, Offset(2 * (batches / 6)));
                assert_eq!(header.epoch, Epoch(if batches < 6 { 1 } else { 2 }));
                batches += 1;
            }
            ReadStep::Pending => disk.complete(log),
            ReadStep::More => {}
            ReadStep::End => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(batches, BATCHES);
}

/// The same input must make the same files as in version 1: no byte of the format changes by accident.
#[test]
fn the_same_input_makes_the_files_of_version_1() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    let same = |name: &str| {
        let released = fs::read(released().join(name)).unwrap();
        assert!(fs::read(dir.path().join(name)).unwrap() == released, "{name} has changed");
    };
    same("folder.toml");
    FILES.iter().filter(|name| **name != INDEX).for_each(|name| same(&format!("{LOG}/{name}")));
    let index = fs::read(dir.path().join(LOG).join(INDEX)).unwrap();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/index-2").join(INDEX);
    assert!(index == fs::read(data).unwrap(), "an index is as version 2 of it");
}
