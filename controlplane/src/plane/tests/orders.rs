//! What operators order: groups, and the policies of groups and of topics.

use std::sync::mpsc::{Receiver, channel};

use routing::delivery_policy::DeliveryPolicy;
use routing::subscription::GroupId;
use routing::topic::TopicName;
use routing::topic_policy::TopicPolicy;

use super::*;
use crate::operator::{Answer, NewGroup, Order};

/// What an operator waits for.
type Answers = Receiver<Result<(), Refusal>>;

/// Gives an order and lets the version of it out.
fn order(rig: &mut Rig, order: impl FnOnce(Answer<Result<(), Refusal>>) -> Order) -> Answers {
    let (sender, answers) = channel();
    rig.plane.on_order(order(Box::new(move |result| drop(sender.send(result)))));
    rig.next_interval();
    answers
}

fn new_group(name: &str, filters: &[&str], start: Start) -> NewGroup {
    let filters = filters.iter().map(|filter| TopicFilter::new(*filter).unwrap()).collect();
    NewGroup { name: name.into(), filters, start }
}

/// A policy that is confirmed holds on every shard and after a restart; one that could not be written holds nowhere.
#[test]
fn a_policy_is_in_the_catalog_then_adopted_then_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let (sender, answers) = channel();
    let set = |rig: &mut Rig, group: &str, policy: Option<DeliveryPolicy>| {
        let (sender, group) = (sender.clone(), group.into());
        let answer = Box::new(move |result| sender.send(result).unwrap());
        rig.plane.on_order(Order::SetPolicy { group, policy, answer });
        rig.next_interval();
    };
    let policy = DeliveryPolicy { attempts_max: Some(5), ..DeliveryPolicy::default() };
    rig.plane.catalog.fail_next = true;
    set(&mut rig, "workers", Some(policy));
    assert_eq!(answers.try_recv().unwrap().unwrap_err().code, Code::Unavailable);
    assert!(rig.take(0).is_empty(), "no version says so");

    set(&mut rig, "workers", Some(policy));
    let snapshot = rig.take_snapshot(0);
    assert_eq!(snapshot.policy("workers").map(|policy| **policy), Some(policy));
    rig.adopt(0, snapshot.version());
    assert!(answers.try_recv().is_err(), "one shard has the old one still");
    rig.adopt(1, snapshot.version());
    assert_eq!(answers.try_recv().unwrap(), Ok(()));

    let bad = DeliveryPolicy { attempts_max: Some(0), ..DeliveryPolicy::default() };
    set(&mut rig, "workers", Some(bad));
    assert_eq!(answers.try_recv().unwrap().unwrap_err().code, Code::LimitExceeded);
    set(&mut rig, "$mine", Some(policy));
    assert_eq!(answers.try_recv().unwrap().unwrap_err().code, Code::MalformedGroup);
    drop(rig);
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    assert_eq!(rig.plane.snapshot.policy("workers").map(|policy| **policy), Some(policy));
    set(&mut rig, "workers", None);
    let snapshot = rig.take_snapshot(0);
    assert_eq!(snapshot.policy("workers"), None);
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    assert_eq!(rig.take_snapshot(0).policy("workers"), None);
}

/// An operator who is told that a group is gone relies on it: on every shard, in the catalog, with all its filters; and
/// one who is told that it failed finds it as it was.
#[test]
fn an_operator_ends_a_whole_group() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let one = rig.subscribe(&DURABLE).unwrap();
    let other = rig.subscribe(&Ask { filter: "b", ..DURABLE }).unwrap();
    let stays = rig.subscribe(&Ask { group: Some("others"), ..DURABLE }).unwrap();
    (0..2).for_each(|shard| drop(rig.take(shard)));
    let (sender, answers) = channel();
    let end = |rig: &mut Rig| {
        let sender = sender.clone();
        let answer = Box::new(move |result| sender.send(result).unwrap());
        rig.plane.on_order(Order::EndGroup { group: one.group, answer });
        rig.next_interval();
    };

    rig.plane.catalog.fail_next = true;
    end(&mut rig);
    assert_eq!(answers.try_recv().unwrap().unwrap_err().code, Code::Unavailable);
    assert!(rig.take(0).is_empty(), "no version says that it ended");
    assert_eq!(rig.subscribe(&DURABLE).unwrap().id, one.id, "the group is known as before");

    end(&mut rig);
    let snapshot = rig.take_snapshot(0);
    assert_eq!(snapshot.changes(), [Change::Removed(one.clone()), Change::Removed(other)]);
    rig.adopt(0, snapshot.version());
    assert!(answers.try_recv().is_err(), "one shard still has it");
    rig.adopt(1, snapshot.version());
    assert_eq!(answers.try_recv().unwrap(), Ok(()));
    end(&mut rig);
    assert_eq!(answers.try_recv().unwrap(), Ok(()), "gone is gone");
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    assert_eq!(rig.take_snapshot(0).changes(), [Change::Added(stays)]);
}

/// A group that is made without a member must stand as one made by its first member: adopted before it is answered, kept,
/// joined by who comes; and nothing of one that is refused may stay.
#[test]
fn an_operator_creates_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let create = |rig: &mut Rig, new: NewGroup, dry_run| {
        order(rig, |answer| Order::CreateGroup { new, dry_run, answer })
    };
    let wanted = || new_group("workers", &["a/#", "b"], Start::Earliest);
    assert_eq!(create(&mut rig, wanted(), true).try_recv(), Ok(Ok(())));
    assert!(rig.take(0).is_empty(), "a dry run changes nothing");
    let long = "x".repeat(256);
    let offsets = Start::Offsets(vec![(Partition(1), Offset(1))]);
    for (new, code) in [
        (new_group("$a", &["a"], Start::Tail), Code::MalformedGroup),
        (new_group(&long, &["a"], Start::Tail), Code::MalformedGroup),
        (new_group("a", &[], Start::Tail), Code::MalformedRequest),
        (new_group("a", &["b", "b"], Start::Tail), Code::MalformedRequest),
        (new_group("a", &["b", "c/#"], offsets), Code::StartNeedsTopic),
    ] {
        let refusal = create(&mut rig, new, false).try_recv().unwrap().unwrap_err();
        assert_eq!(refusal.code, code);
        assert!(rig.take(0).is_empty(), "nothing of it stays");
    }
    rig.plane.catalog.fail_next = true;
    let failed = create(&mut rig, wanted(), false).try_recv().unwrap();
    assert_eq!(failed.unwrap_err().code, Code::Unavailable);
    assert_eq!(rig.plane.next.len(), 0, "what the catalog does not hold is not there");

    let answers = create(&mut rig, wanted(), false);
    let snapshot = rig.take_snapshot(0);
    assert_eq!(snapshot.len(), 2);
    rig.adopt(0, snapshot.version());
    assert!(answers.try_recv().is_err(), "one shard has no start for it");
    rig.adopt(1, snapshot.version());
    assert_eq!(answers.try_recv(), Ok(Ok(())));
    let again = create(&mut rig, wanted(), false).try_recv().unwrap();
    assert_eq!(again.unwrap_err().code, Code::GroupExists);
    (0..2).for_each(|shard| drop(rig.take(shard)));
    let joined = rig.subscribe(&DURABLE).unwrap();
    assert_eq!(snapshot.subscription(joined.id), Some(&joined), "its first member finds it");
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    assert_eq!(rig.take_snapshot(0).len(), 2);
}

/// A seek that a crash or a full disk could leave half done would skip events on some shards: the catalog has all of the
/// move or nothing, the shards hear of it after, and its members when the last of them has.
#[test]
fn an_operator_moves_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let one = rig.subscribe(&DURABLE).unwrap();
    let other = rig.subscribe(&Ask { filter: "b", ..DURABLE }).unwrap();
    let ephemeral = rig.subscribe(&EPHEMERAL).unwrap();
    (0..2).for_each(|shard| drop(rig.take(shard)));
    let seek = |rig: &mut Rig, group, start: Start| {
        order(rig, |answer| Order::SeekGroup { group, start, answer })
    };
    let refused = |answers: Answers| answers.try_recv().unwrap().unwrap_err().code;
    assert_eq!(refused(seek(&mut rig, ephemeral.group, Start::Tail)), Code::NotDurable);
    assert_eq!(refused(seek(&mut rig, GroupId(9_999), Start::Tail)), Code::NotFound);
    let offsets = Start::Offsets(vec![(Partition(1), Offset(1))]);
    assert_eq!(refused(seek(&mut rig, one.group, offsets)), Code::StartNeedsTopic);
    rig.plane.catalog.fail_next = true;
    assert_eq!(refused(seek(&mut rig, one.group, Start::Earliest)), Code::Unavailable);
    assert!(rig.take(0).is_empty(), "no version says that it has moved");
    assert_eq!(rig.subscribe(&DURABLE).unwrap(), one, "the group is as before");

    let answers = seek(&mut rig, one.group, Start::Earliest);
    let snapshot = rig.take_snapshot(0);
    rig.take(1);
    let [Change::Sought(sought)] = snapshot.changes() else { panic!("{:?}", snapshot.changes()) };
    assert_eq!(sought.before, [one.clone(), other.clone()]);
    let moved = sought.after.iter().map(|after| (after.id, after.group, after.start.clone()));
    let to = sought.to();
    assert_ne!(to, one.group);
    let expected = [(one.id, to, Start::Earliest), (other.id, to, Start::Earliest)];
    assert_eq!(Vec::from_iter(moved), expected);
    assert_eq!(refused(seek(&mut rig, one.group, Start::Tail)), Code::NotFound, "it has moved");
    rig.adopt(0, snapshot.version());
    // Who joins meanwhile is answered when its group is everywhere.
    rig.ask(&Ask { request: 7, client: "c2", ..DURABLE });
    assert!(rig.take(0).is_empty() && answers.try_recv().is_err(), "shard 1 has not moved it");
    rig.adopt(1, snapshot.version());
    assert_eq!(answers.try_recv(), Ok(Ok(())));
    assert!(matches!(&Vec::from(rig.take(1))[..], [ControlReply::Sought(told)] if told == sought));
    match &Vec::from(rig.take(0))[..] {
        [ControlReply::Sought(_), ControlReply::Subscribed { result: Ok(joined), .. }] => {
            assert_eq!(joined.group, to);
        }
        other => panic!("{other:?}"),
    }
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    let kept = rig.take_snapshot(0);
    assert_eq!(kept.subscriptions_of(to).len(), 2);
    assert_eq!(kept.len(), 2);
}

/// A group that was paused by hand must not wake by itself: not by a restart, not by a move; and a group that begins later
/// under its name is another.
#[test]
fn an_operator_pauses_a_group() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    let durable = rig.subscribe(&DURABLE).unwrap();
    let ephemeral = rig.subscribe(&EPHEMERAL).unwrap();
    let pause = |rig: &mut Rig, group, is_paused| {
        order(rig, |answer| Order::PauseGroup { group, is_paused, answer })
    };
    let refused = |answers: Answers| answers.try_recv().unwrap().unwrap_err().code;
    assert_eq!(refused(pause(&mut rig, ephemeral.group, true)), Code::NotDurable);
    rig.plane.catalog.fail_next = true;
    assert_eq!(refused(pause(&mut rig, durable.group, true)), Code::Unavailable);
    let answers = pause(&mut rig, durable.group, true);
    let snapshot = rig.take_snapshot(0);
    assert_eq!(snapshot.changes(), [Change::Paused { group: durable.group, is_paused: true }]);
    assert!(answers.try_recv().is_err(), "the shard has not heard of it");
    rig.adopt(0, snapshot.version());
    assert_eq!(answers.try_recv(), Ok(Ok(())));
    assert_eq!(pause(&mut rig, durable.group, true).try_recv(), Ok(Ok(())), "it is, already");
    drop(order(&mut rig, |answer| Order::SeekGroup {
        group: durable.group,
        start: Start::Earliest,
        answer,
    }));
    drop(rig);

    let mut rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    let first = rig.take_snapshot(0);
    let group = first.group_by_name("workers").unwrap();
    assert!(first.is_paused(group) && group != durable.group);
    rig.adopt(0, 1);
    drop(order(&mut rig, |answer| Order::EndGroup { group, answer }));
    rig.adopt_all(2);
    drop(rig);
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    let anew = rig.subscribe(&DURABLE).unwrap();
    assert!(!rig.plane.snapshot.is_paused(anew.group), "another group of that name");
}

/// An operator who is told that a policy holds relies on it: on every shard, and after a restart. One that was refused must
/// hold nowhere, and a version that is made again, since a subscription could not be written, must not lose one.
#[test]
fn topic_policies_are_written_then_adopted_then_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let (sender, answers) = channel();
    let set = |rig: &mut Rig, bytes: Option<u64>| {
        let sender = sender.clone();
        rig.plane.on_order(Order::SetTopicPolicy {
            pattern: TopicFilter::new("a/#").unwrap(),
            change: Box::new(move |policy| TopicPolicy { retention_bytes: bytes, ..policy }),
            answer: Box::new(move |result| sender.send(result).unwrap()),
        });
    };
    let name = TopicName::new("a/b").unwrap();

    rig.plane.catalog.fail_next = true;
    set(&mut rig, Some(1));
    assert_eq!(answers.try_recv().unwrap().unwrap_err().code, Code::Unavailable);
    rig.next_interval();
    assert!(rig.take(0).is_empty(), "no version says so");

    set(&mut rig, Some(2));
    rig.plane.catalog.fail_next = true;
    rig.ask(&DURABLE);
    rig.next_interval();
    let mail = rig.take(0);
    let snapshots = mail.iter().filter_map(|mail| match mail {
        ControlReply::Snapshot(snapshot) => Some(Arc::clone(snapshot)),
        _ => None,
    });
    let [snapshot] = &snapshots.collect::<Vec<_>>()[..] else { panic!("one version: {mail:?}") };
    assert_eq!(snapshot.topic_policies().resolve(&name).retention_bytes, Some(2));
    assert!(snapshot.is_empty(), "the subscription was taken back");
    rig.adopt(0, snapshot.version());
    assert!(answers.try_recv().is_err(), "one shard does not go by it");
    rig.adopt(1, snapshot.version());
    assert_eq!(answers.try_recv().unwrap(), Ok(()));
    set(&mut rig, Some(2));
    rig.turn();
    assert_eq!(answers.try_recv().unwrap(), Ok(()), "it is so already");
    drop(rig);

    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    let held = Arc::clone(rig.plane.snapshot.topic_policies());
    assert_eq!(held.resolve(&name).retention_bytes, Some(2));
    set(&mut rig, None);
    rig.next_interval();
    assert!(rig.take_snapshot(0).topic_policies().is_empty());
}
