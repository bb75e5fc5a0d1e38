//! Deletions of topics: in the catalog before a shard hears of one, forgotten when the last of them holds it.

use std::sync::mpsc::{Receiver, channel};

use dataplane::control::{LogsLeft, TopicOrder};

use super::*;
use crate::limits::CATALOG_RETRY;
use crate::operator::Order;

impl Rig {
    fn delete(&mut self, topic: &str) -> Receiver<Result<u64, Refusal>> {
        let (sender, answers) = channel();
        let answer = Box::new(move |result| drop(sender.send(result)));
        self.plane.on_order(Order::DeleteTopic { topic: topic.into(), answer });
        self.turn();
        answers
    }

    fn deleted(&mut self, shard: u16, number: u64, result: Result<u64, LogsLeft>) {
        self.send(ControlRequest::TopicDeleted { shard, number, result });
    }

    /// What a shard is told to delete, and what else it is told after that.
    fn take_deletion(&self, shard: u16) -> (Arc<TopicOrder>, Vec<ControlReply>) {
        let mut mail = self.take(shard);
        match mail.pop_front() {
            Some(ControlReply::DeleteTopic(order)) => (order, mail.into()),
            other => panic!("a deletion, found {other:?}"),
        }
    }
}

/// A deletion that a kill cuts off between two shards would hold on some of them for ever. The order is in the catalog before
/// the first shard hears of it; a start hands it to all shards before their first snapshot, after which clients publish;
/// and it is answered, and forgotten, when the last of them holds it.
#[test]
fn a_deletion_is_finished_by_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let answers = rig.delete("a/b");
    let (order, rest) = rig.take_deletion(0);
    let expected = TopicOrder { number: order.number, topic: "a/b".into(), logs: None };
    assert_eq!((&*order, rest.len()), (&expected, 0));
    rig.deleted(0, order.number, Ok(3));
    assert!(answers.try_recv().is_err(), "shard 1 may keep it");
    drop(rig);

    let mut rig = Rig::start_unadopted(&catalog_in(&folder), 3, 64);
    for shard in 0..3 {
        let (again, rest) = rig.take_deletion(shard);
        assert_eq!(again.topic, order.topic);
        assert!(matches!(rest[..], [ControlReply::Snapshot(_)]), "before the first version");
        rig.deleted(shard, again.number, Ok(0));
    }
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    rig.take_snapshot(0);
}

/// A log that takes nothing any more keeps the topic: its client must hear so, and the next start must finish it there and
/// nowhere else, where events may have been published since.
#[test]
fn what_a_stopped_log_keeps_is_deleted_there_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    for _ in 0..2 {
        let answers = rig.delete("a/b");
        let (order, _) = rig.take_deletion(0);
        rig.take(1);
        let left = LogsLeft { logs: vec![(4, 1)], refusal: Code::LogStopped.into() };
        rig.deleted(1, order.number, Err(left));
        rig.deleted(0, order.number, Ok(3));
        assert_eq!(answers.try_recv().unwrap().unwrap_err().code, Code::LogStopped);
    }
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    let (order, rest) = rig.take_deletion(0);
    assert_eq!(order.logs, Some(vec![(4, 1)]));
    assert!(matches!(rest[..], [ControlReply::Snapshot(_)]), "asked twice, it is one deletion");
}

/// An order that the catalog could not take is refused, so it must be executed neither now nor by a start. One whose end it
/// could not take is answered when it has: until then a start would execute it once more, on what is published since.
#[test]
fn a_deletion_waits_for_the_catalog() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    rig.plane.catalog.fail_next = true;
    assert_eq!(rig.delete("a/b").try_recv().unwrap().unwrap_err().code, Code::Unavailable);
    assert!(rig.take(0).is_empty());
    assert!(!rig.plane.catalog.are_deletions_doubtful(), "what the file may hold is taken back");

    let answers = rig.delete("c");
    let (order, _) = rig.take_deletion(0);
    rig.plane.catalog.fail_next = true;
    rig.deleted(0, order.number, Ok(3));
    assert!(answers.try_recv().is_err());
    assert_eq!(rig.turn(), Some(CATALOG_RETRY));
    rig.now += CATALOG_RETRY;
    rig.turn();
    assert_eq!(answers.try_recv(), Ok(Ok(3)));
    let cut_off = rig.delete("d");
    rig.plane.close();
    assert_eq!(cut_off.try_recv().unwrap().unwrap_err().code, Code::Unavailable);
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    assert_eq!(&*rig.take_deletion(0).0.topic, "d");
}
