//! Checkpoints that came to nothing, and what a crash makes of them.

use std::path::Path;

use codec::ids::{Offset, Timestamp};

use super::harness::{Bench, DIR, Sent, small_options};
use crate::checkpoint::{Checkpoint, checkpoint_path};
use crate::recovery::read_file;

/// A log at rest, whose next checkpoint goes over one that is whole.
fn filled(seed: u64) -> Bench {
    let mut bench = Bench::new(seed, small_options());
    for _ in 0..3 {
        for _ in 0..10 {
            bench.append(2_000).unwrap();
            bench.run();
        }
        bench.log.checkpointer.wanted();
        bench.settle();
    }
    bench
}

/// Ends the pieces of a checkpoint one after the other; the last one fails after `changes` changes of the disk.
fn fail_last_piece(bench: &mut Bench, changes: u64) {
    bench.log.checkpointer.wanted();
    bench.run();
    let mut pieces = 0;
    while !bench.log.upkeep.is_idle() {
        bench.storage.fail_after((pieces > 0).then_some(changes));
        assert!(bench.complete_chore(), "a piece is under way");
        pieces += 1;
    }
    bench.storage.fail_after(None);
    assert!(pieces >= 4, "start, topics, cursors and end: {pieces}");
    assert!(!bench.log.checkpointer.is_done(), "it is to be tried again");
}

fn newest_checkpoint(bench: &Bench) -> Option<Checkpoint> {
    let dir = Path::new(DIR).join("gen-000001/log-000");
    let read = |sequence| read_file(&bench.storage, &checkpoint_path(&dir, sequence)).unwrap();
    let whole = (0..2).filter_map(read).filter_map(|bytes| Checkpoint::decode(&bytes).ok());
    whole.max_by_key(|checkpoint| checkpoint.sequence)
}

/// The end of an attempt says what was durable then. Found behind the frames of a later attempt under the same sequence, it
/// would vouch for events that a crash has taken: their offsets would stay used, and their sequences known, so that a
/// publisher who sends them again would be told that they are stored.
#[test]
fn an_attempt_that_failed_does_not_end_a_later_one() {
    let mut lost = 0;
    for seed in 0..20 {
        let mut bench = filled(seed);
        // Written, cut, and not synced.
        fail_last_piece(&mut bench, 2);
        bench.now += 1_000_000;
        let Sent { topic, partition, .. } = bench.sent[0].clone();
        bench.append_this(&topic, partition, 1, vec![7; 100]).unwrap();
        bench.run();
        let mut pieces = 0;
        while bench.complete_chore() {
            pieces += 1;
        }
        assert!(pieces >= 3, "seed {seed}: all but the end are written: {pieces}");
        let count = bench.sent.len();
        bench.kill();
        lost += count - bench.sent.len();
        let of_key = |sent: &&Sent| sent.topic == topic && sent.partition == partition;
        let last = bench.sent.iter().rev().find(of_key);
        let end = last.map(|last| last.offset.plus(u64::from(last.count)));
        let id = bench.log.topic_id(&topic).expect("it has events");
        let next = bench.log.next_offset(id, partition);
        assert_eq!(next, end.unwrap_or(Offset(0)), "seed {seed}: offsets leave no gap");
        bench.verify();
    }
    assert!(lost > 3, "crashes take what was not durable: {lost}");
}

/// A process that is killed may leave a checkpoint whole that no sync has reached. The next one goes over the other: were power
/// lost then, there would be none, and a log whose first segments have expired could not be opened.
#[test]
fn a_checkpoint_that_a_start_goes_by_is_durable() {
    for seed in 0..20 {
        let mut bench = filled(seed);
        let before = newest_checkpoint(&bench).unwrap().sequence;
        // Written, and the process gone.
        fail_last_piece(&mut bench, 1);
        bench.disk.kill();
        bench.reopen();
        let found = newest_checkpoint(&bench).unwrap().sequence;
        assert_eq!(found, before + 1, "seed {seed}: it is whole");
        bench.disk.power_loss();
        let left = newest_checkpoint(&bench).map(|checkpoint| checkpoint.sequence);
        assert_eq!(left, Some(found), "seed {seed}: it is still there");
        bench.reopen();
        bench.log.begin_shutdown(Timestamp(bench.now));
        bench.settle();
        bench.verify();
    }
}
