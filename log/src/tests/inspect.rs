//! `inspect` against recovery, crashes and every kind of broken file.

use std::path::{Path, PathBuf};

use super::harness::{Bench, small_options};
use crate::checkpoint::checkpoint_path;
use crate::inspect::{FileKind, InspectError, InspectSummary, Verdict, inspect, inspect_file};
use crate::segment::segment_number;
use crate::sim_disk::SimStorage;
use crate::storage::Storage;

const FIXTURE: &str = "tests/data/format-1";

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURE).join(name);
    std::fs::read(path).unwrap()
}

/// Inspects `bytes` under `name` in a folder of their own.
fn inspected(name: &str, bytes: &[u8]) -> Result<InspectSummary, InspectError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    inspect_file(&path, &mut Vec::new())
}

fn filled(seed: u64, batches: usize) -> Bench {
    let mut bench = Bench::new(seed, small_options());
    while bench.sent.len() < batches {
        if bench.append(4_000).is_err() || bench.random.one_in(4) {
            bench.put_cursor();
            bench.run();
            bench.complete();
        }
    }
    bench
}

fn segments(storage: &SimStorage) -> Vec<(u64, PathBuf)> {
    let number = |path: &PathBuf| segment_number(path.file_name()?.to_str()?);
    storage.paths().into_iter().filter_map(|path| Some((number(&path)?, path))).collect()
}

fn verdicts(storage: &SimStorage) -> Vec<(u64, Verdict)> {
    let one = |(number, path): (u64, PathBuf)| {
        let summary = inspect(storage, &path, &mut Vec::new()).unwrap();
        (number, summary.verdict)
    };
    segments(storage).into_iter().map(one).collect()
}

/// Makes recovery read all: it starts at the first segment when there is no checkpoint.
fn remove_checkpoints(storage: &SimStorage) {
    let dir = segments(storage)[0].1.parent().unwrap().to_path_buf();
    for sequence in 0..2 {
        let _ = storage.remove(&checkpoint_path(&dir, sequence));
    }
}

/// What recovery then found must be what `inspect` said.
fn assert_agrees(bench: &Bench, said: &[(u64, Verdict)], context: &str) {
    let report = &bench.reports[0];
    let cut = report.cut;
    for (number, verdict) in said {
        // Behind a cut recovery looks at nothing.
        if cut.is_some_and(|(segment, _)| segment < *number) {
            continue;
        }
        let damage = report.damage.iter().find(|damage| damage.segment == *number);
        match (verdict, damage) {
            // A segment without commits is prepared; its first block is not what recovery goes by.
            (Verdict::Whole | Verdict::TornTail { at: 0 }, None) => {}
            (Verdict::TornTail { at }, None) => assert_eq!(cut, Some((*number, *at)), "{context}"),
            (Verdict::Damaged { at }, Some(damage)) => assert_eq!(*at, damage.at, "{context}"),
            other => panic!("{context}: segment {number}: {other:?} in {said:?}, {report:?}"),
        }
    }
}

/// Whoever is told "damaged" takes a backup out of the cupboard: no crash may look like it, and recovery must agree.
#[test]
fn what_a_crash_leaves_is_not_damage() {
    let mut torn = 0;
    for seed in 0..30 {
        let mut bench = filled(seed, 30 + seed as usize * 9);
        bench.disk.power_loss();
        remove_checkpoints(&bench.storage);
        let said = verdicts(&bench.storage);
        let damaged = said.iter().any(|(_, verdict)| matches!(verdict, Verdict::Damaged { .. }));
        assert!(!damaged, "seed {seed}: {said:?}");
        torn += said.iter().filter(|(_, v)| matches!(v, Verdict::TornTail { .. })).count();
        bench.reopen();
        assert_agrees(&bench, &said, &format!("seed {seed}"));
    }
    assert!(torn > 0, "some crash tears a commit");
}

/// A rotten bit must be named at the same byte as recovery names it, in any segment, also across a change of segment.
#[test]
fn a_flipped_bit_is_judged_as_by_recovery() {
    let mut damaged = 0;
    for seed in 100..125 {
        let mut bench = filled(seed, 500);
        bench.settle();
        bench.now += 2_000_000;
        bench.settle();
        let segments = segments(&bench.storage);
        let (number, path) = &segments[bench.random.below(segments.len() as u64) as usize];
        let at = 4096 + bench.random.below(500_000);
        bench.storage.flip_bit(path, at, 5);
        remove_checkpoints(&bench.storage);
        let said = verdicts(&bench.storage);
        damaged += said.iter().filter(|(_, v)| matches!(v, Verdict::Damaged { .. })).count();
        bench.reopen();
        assert_agrees(&bench, &said, &format!("seed {seed}, segment {number} byte {at}"));
    }
    assert!(damaged > 5, "most bits belong to a batch: {damaged}");
}

/// A copy that broke off anywhere must be read as far as it goes: no panic, no damage where nothing tells of any.
#[test]
fn a_segment_cut_anywhere_is_read_up_to_there() {
    let whole = fixture("seg-000000000001.rms");
    let mut batches = 0;
    for len in (0..=whole.len()).step_by(512) {
        let summary = inspected("seg-000000000001.rms", &whole[..len]).unwrap();
        assert!(summary.batches >= batches, "more bytes never hold fewer batches: {len}");
        assert!(!matches!(summary.verdict, Verdict::Damaged { .. }), "{len}: {summary:?}");
        batches = summary.batches;
    }
    let summary = inspected("copied-elsewhere.bin", &whole).unwrap();
    let (kind, verdict) = (FileKind::Segment, Verdict::Whole);
    assert_eq!(summary, InspectSummary { kind, batches: 40, events: 120, verdict });
}

/// An unfinished checkpoint is what a crash leaves; a finished one that has changed is not. Neither is ever whole.
#[test]
fn a_broken_checkpoint_is_never_whole() {
    let whole = fixture("checkpoint-a");
    let verdict = |bytes: &[u8]| inspected("checkpoint-a", bytes).unwrap().verdict;
    assert_eq!(verdict(&whole), Verdict::Whole);
    for len in 0..whole.len() {
        assert!(matches!(verdict(&whole[..len]), Verdict::TornTail { .. }), "cut at {len}");
    }
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        let found = verdict(&flipped);
        assert_ne!(found, Verdict::Whole, "byte {at}");
        let outside = (8..16).contains(&at) || at >= whole.len() - 40;
        assert!(outside || matches!(found, Verdict::Damaged { .. }), "byte {at}: {found:?}");
    }
}

/// An index is only ever renamed into place when it is whole: anything else in it is damage.
#[test]
fn a_broken_index_is_damaged() {
    let mut bench = filled(7, 700);
    bench.settle();
    let paths = bench.storage.paths();
    let is_index = |path: &&PathBuf| path.extension().is_some_and(|e| e == "rmx");
    let path = paths.iter().find(is_index).expect("a sealed segment has an index");
    let mut text = Vec::new();
    let summary = inspect(&bench.storage, path, &mut text).unwrap();
    assert_eq!((summary.kind, summary.verdict), (FileKind::Index, Verdict::Whole));
    assert!(String::from_utf8(text).unwrap().contains("up to offset"));
    for at in (0..36).chain([64, 200]) {
        bench.storage.flip_bit(path, at, 2);
        let summary = inspect(&bench.storage, path, &mut Vec::new()).unwrap();
        assert_eq!(summary.verdict, Verdict::Damaged { at: 0 }, "byte {at}");
        bench.storage.flip_bit(path, at, 2);
    }
}

/// A wrong path must be told as such, not as damage; and a newer format must not be guessed at.
#[test]
fn other_files_are_refused() {
    for (name, bytes) in [("notes.txt", &b"not a log"[..]), ("empty", b""), ("zeros", &[0; 9000])] {
        let refused = inspected(name, bytes);
        assert!(matches!(refused, Err(InspectError::NotOurs { .. })), "{name}: {refused:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_path_buf(), dir.path().join("seg-000000000001.rms")] {
        let refused = inspect_file(&path, &mut Vec::new());
        assert!(matches!(refused, Err(InspectError::Io(_))), "{refused:?}");
    }
    let mut newer = fixture("seg-000000000001.rms");
    newer[4] = 2;
    let crc = codec::crc32c::crc32c(&newer[..72]);
    newer[72..76].copy_from_slice(&crc.to_le_bytes());
    let refused = inspected("seg-000000000001.rms", &newer);
    assert!(matches!(refused, Err(InspectError::Version { found: 2 })), "{refused:?}");
}

/// A segment that is only prepared holds nothing yet: that is no damage, and neither is a former life in its file.
#[test]
fn a_prepared_segment_is_whole() {
    let prepared = inspected("seg-000000000002.rms", &[0; 1 << 16]).unwrap();
    let recycled = inspected("seg-000000000009.rms", &fixture("seg-000000000001.rms")).unwrap();
    for summary in [prepared, recycled] {
        assert_eq!((summary.verdict, summary.batches), (Verdict::Whole, 0));
    }
    let mut junk = vec![0; 1 << 16];
    junk[100] = 1;
    let lost = inspected("seg-000000000002.rms", &junk).unwrap();
    assert_eq!(lost.verdict, Verdict::Damaged { at: 0 });
}

/// A person reads the lines at three in the morning: they must name what is there, and the last one the verdict.
#[test]
fn the_lines_say_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("seg-000000000001.rms");
    std::fs::write(&path, fixture("seg-000000000001.rms")).unwrap();
    let mut text = Vec::new();
    inspect_file(&path, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for line in [
        "segment 1 of gen-000001/log-000",
        "the first of its log",
        "topic   1 \"a/0\"",
        "events  position 0 topic 1 partition 2 offset 0 count 3 bytes 500 at 1970-01-01T00:00:00.001Z",
        "40 batches, 120 events",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
    assert!(text.ends_with("verdict: sound\n"), "{text}");
}
