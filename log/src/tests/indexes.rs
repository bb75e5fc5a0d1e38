//! Indexes of sealed segments: an old one, one that cannot be made, one that is made twice.

use std::path::{Path, PathBuf};

use codec::ids::{Offset, Partition, Position, TopicId};

use super::harness::{Bench, small_options};
use crate::active_index::RunEntry;
use crate::seek::{OffsetSeek, Seek};
use crate::segments::SegmentIndex;
use crate::storage::{OpenMode, Storage};

fn filled(seed: u64) -> Bench {
    let mut bench = Bench::new(seed, small_options());
    while bench.sent.len() < 1_800 {
        if bench.append(4_000).is_err() || bench.random.one_in(4) {
            bench.settle();
        }
    }
    bench.settle();
    bench
}

fn indexes(bench: &Bench) -> Vec<PathBuf> {
    let is_index = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "rmx");
    bench.storage.paths().into_iter().filter(is_index).collect()
}

fn bytes(bench: &Bench, path: &Path) -> Vec<u8> {
    crate::recovery::read_file(&bench.storage, path).unwrap().unwrap()
}

/// Every event that was sent, by its offset: what needs the index of each segment.
fn seek_all(bench: &mut Bench) {
    for sent in bench.sent.clone() {
        let topic = bench.log.topic_id(&sent.topic).unwrap();
        let mut seek = OffsetSeek::new(topic, sent.partition, sent.offset);
        let found = loop {
            match bench.log.seek_offset(&mut seek, &mut bench.disk) {
                Seek::Pending => assert!(bench.complete(), "an index comes"),
                found => break found,
            }
        };
        let Seek::At(at) = found else { panic!("{sent:?}: {found:?}") };
        assert!(at <= sent.position, "{sent:?}: {found:?}");
    }
}

/// An update of the server must go by without a word about the indexes that an earlier version left, and what a walk
/// through a segment makes must be, byte for byte, what was in memory when the segment was sealed.
#[test]
fn an_index_of_an_earlier_version_is_made_again() {
    let mut bench = filled(21);
    bench.kill();
    let paths = indexes(&bench);
    assert!(paths.len() > 1, "several segments were sealed");
    let before: Vec<Vec<u8>> = paths.iter().map(|path| bytes(&bench, path)).collect();
    for (path, whole) in paths.iter().zip(&before) {
        assert_eq!(whole[4..8], [2, 0, 0, 0], "the version that this build writes");
        let mut old = whole.clone();
        old[4] = 1;
        old[32..36].copy_from_slice(&codec::crc32c::crc32c(&whole[64..]).to_le_bytes());
        let crc = codec::crc32c::crc32c(&old[..36]);
        old[32..36].copy_from_slice(&crc.to_le_bytes());
        let file = bench.storage.open(path, OpenMode::ReadWrite, false).unwrap();
        bench.storage.write_at(file, 0, &old).unwrap();
        bench.storage.close(file);
    }
    bench.reopen();
    seek_all(&mut bench);
    bench.settle();
    let failures: u32 = bench.log.segments.sealed.iter().map(|sealed| sealed.index_failures).sum();
    assert_eq!(failures, 0, "nothing failed on the way");
    for (path, whole) in paths.iter().zip(&before) {
        assert!(bytes(&bench, path) == *whole, "{} is as it was", path.display());
    }
    bench.verify();
}

/// Numbers of 32 bits that do not hold a place must end in no index at all: a wrong one would hide events from their groups.
/// Nor may what cannot be indexed be tried for ever and keep the indexes behind it in memory.
#[test]
fn a_segment_that_cannot_be_indexed_is_read_without() {
    let mut bench = filled(22);
    let number = bench.log.segments.active.as_ref().map(|active| active.number).unwrap();
    bench.append(100).unwrap();
    let index = bench.log.segments.active_index();
    let far = RunEntry {
        topic: TopicId(1_000),
        partition: Partition(0),
        at: 8,
        end: 16,
        position: Position(1 << 40),
        offset: Offset(0),
        offset_end: Offset(1),
        previous: 0,
    };
    index.appended(far, &mut 0);
    while bench.log.segments.active.as_ref().is_none_or(|active| active.number < number + 2) {
        let _ = bench.append(4_000);
        bench.settle();
    }
    let state = |of: u64| match bench.log.segments.sealed_index(of) {
        Some(SegmentIndex::Mapped(_)) => "mapped",
        Some(SegmentIndex::Unmapped) => "none",
        Some(SegmentIndex::Memory(_)) | None => "in memory",
    };
    assert_eq!((state(number), state(number + 1)), ("none", "mapped"));
    assert!(bench.log.index_is_lacking(number), "readers do without");
    bench.verify();
}

/// The rows of a segment with few topics and of one with very many are sorted in different ways: to the same end.
#[test]
fn every_event_is_found_whatever_the_topics() {
    for topics in [1, 40, 3_000] {
        let mut bench = Bench::new(topics, small_options());
        let names: Vec<String> = (0..topics).map(|topic| format!("many/{topic}")).collect();
        for number in 0..4_000 {
            let name = &names[bench.random.below(topics) as usize];
            let partition = Partition(bench.random.below(3) as u16);
            if bench.append_this(name, partition, 1, vec![number as u8; 300]).is_err() {
                bench.settle();
            }
            if bench.random.one_in(50) {
                bench.settle();
            }
        }
        bench.settle();
        bench.crash();
        seek_all(&mut bench);
        bench.verify();
    }
}
