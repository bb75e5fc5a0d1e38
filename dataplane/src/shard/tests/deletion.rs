//! Deleted topics, on whole shards.

use routing::topic_policy::{TopicPolicies, TopicPolicy};

use crate::control::{LogName, TopicOrder};
use crate::session::Gap;
use crate::shard::deletion::name_of;

use super::parked::{DELAY_MS, parked_one};
use super::*;

/// The control plane orders a shard to delete a topic, from these logs or all.
fn order(node: &mut Node, shard: usize, number: u64, topic: &str, logs: Option<Vec<LogName>>) {
    let order = TopicOrder { number, topic: topic.into(), logs };
    let mail = Mail::Control(ControlReply::DeleteTopic(Arc::new(order)));
    node.shards[shard].1.inbox.push_back(mail);
}

/// Deletes a topic on every shard and waits until that is durable; how many events went.
fn delete(node: &mut Node, topic: &str) -> u64 {
    (0..node.shards.len()).for_each(|shard| order(node, shard, 1, topic, None));
    for _ in 0..40 {
        node.run(5);
        if node.deleted.len() == node.shards.len() {
            let told = std::mem::take(&mut node.deleted).into_iter();
            return told.map(|(_, _, result)| result.unwrap()).sum();
        }
    }
    panic!("a deletion is not durable in 200 ms");
}

/// A member of the group `all` with room for so many events.
fn join(node: &mut Node, client: &str, credit: u32) -> SessionKey {
    let key = node.session(0, client);
    let wish = SubscribeRequest {
        request: 1,
        group: Some("all".into()),
        filter: TopicFilter::new("#").unwrap(),
        mode: Mode::Clustering,
        start: None,
        credit,
    };
    node.shards[0].0.subscribe(key, wish).unwrap();
    node.run(150);
    key
}

fn sum(node: &Node, of: impl Fn(&Shard) -> u64) -> u64 {
    node.shards.iter().map(|(shard, _)| of(shard)).sum()
}

/// Whoever deletes a topic must not see its events delivered afterwards: neither those that wait for room, nor those that
/// a member has given back. And its group goes on with all others.
#[test]
fn nothing_of_a_deleted_topic_is_delivered() {
    for shards in [1, 2] {
        let mut node = Node::open(&SimStorage::new(), shards, &[]);
        let writer = node.session(0, "writer");
        let reader = join(&mut node, "reader", 3);
        node.publish(0, writer, "gone", &KEYS);
        node.publish(0, writer, "stays", &KEYS);
        node.run(60);
        let first = node.deliveries(0, reader);
        assert!(!first.is_empty());
        let of = |deliveries: &[Delivery], topic: &str| {
            let of = deliveries.iter().filter(|delivery| &*delivery.topic == topic).cloned();
            texts(&of.collect::<Vec<_>>())
        };
        let mut kept = of(&first, "stays");
        let in_flight = of(&first, "gone").len() as u64;
        assert_eq!(delete(&mut node, "gone"), KEYS.len() as u64);
        assert_eq!(delete(&mut node, "gone"), 0, "it is gone");
        assert!(node.shards.iter().all(|(shard, _)| shard.report_topic("gone").is_none()));
        // One that was handed out is settled, the others are given back.
        for (index, delivery) in first.iter().enumerate() {
            let verdict = if index == 0 { Verdict::Done } else { Verdict::Retry };
            let token = delivery.token.0;
            if &*delivery.topic == "gone" {
                node.shards[0].0.settle(reader, 9, &token, Selection::All, verdict).unwrap();
            } else {
                node.ack(0, reader, delivery);
            }
        }
        for _ in 0..20 {
            node.run(60);
            for delivery in node.deliveries(0, reader) {
                assert_eq!(
                    &*delivery.topic,
                    "stays",
                    "{:?}",
                    texts(std::slice::from_ref(&delivery))
                );
                kept.extend(texts(std::slice::from_ref(&delivery)));
                node.ack(0, reader, &delivery);
            }
        }
        assert_eq!(sorted(kept), all_texts(), "{shards} shards");
        let told = sum(&node, |s| s.stats().passed_positions + s.stats().lost_events);
        assert!(told + in_flight >= 8, "the group is told of {told}, {in_flight} were in flight");
        assert_eq!(sum(&node, |shard| shard.held().held_batches as u64), 0);
        node.publish(0, writer, "gone", &["a"]);
        node.run(60);
        assert_eq!(texts(&node.deliveries(0, reader)), ["a 0"], "it begins again");
    }
}

/// A disk that gives nothing for a while holds routing up, and what it has not come to may be gone by then. Routing passes that
/// for all groups at the tail, which would take what follows for the next: they must hear of the gap.
#[test]
fn what_goes_before_it_is_routed_is_told() {
    let log = LogOptions { segment_bytes: 1 << 20, cache_bytes: 0, ..LogOptions::default() };
    let mut node = Node::open_with(&SimStorage::new(), 1, &[], &log);
    let writer = node.session(0, "writer");
    let reader = join(&mut node, "reader", 100);
    let other = node.session(0, "other");
    node.subscribe(0, other, Some("other"), "stays", None);
    node.events(0, reader);
    node.shards[0].1.reads_fail = true;
    for topic in ["stays", "gone", "stays"] {
        node.publish(0, writer, topic, &["a", "b"]);
        node.run(60);
    }
    assert_eq!(delete(&mut node, "gone"), 2);
    assert!(node.deliveries(0, reader).is_empty(), "nothing was routed yet");
    node.shards[0].1.reads_fail = false;
    node.run(2_500);
    let heard = node.events(0, reader);
    let gaps = heard.iter().filter_map(|event| match event {
        SessionEvent::Passed { gap, .. } => Some(*gap),
        _ => None,
    });
    let gaps: Vec<Gap> = gaps.collect();
    let events: u64 = gaps.iter().map(|gap| gap.events.expect("they are counted")).sum();
    assert_eq!(events, 2, "what it would have got, and no more: {gaps:?}");
    let got: Vec<Delivery> = heard.into_iter().filter_map(only_delivery).collect();
    assert_eq!(texts(&got).len(), 4, "the others come, each once");
    assert_eq!(sum(&node, |shard| shard.stats().passed_positions), 2);
    let heard = node.events(0, other);
    assert!(!heard.iter().any(|event| matches!(event, SessionEvent::Passed { .. })), "{heard:?}");
    assert_eq!(heard.into_iter().filter_map(only_delivery).count(), 4);
}

/// An event that waits for long stands under another topic by then: it must go with its own all the same.
#[test]
fn a_parked_event_goes_with_its_topic() {
    let (mut node, member, publisher, _) = parked_one(&SimStorage::new());
    delete(&mut node, "fleet/1");
    node.publish(0, publisher, "fleet/1", &["a"]);
    node.pass(DELAY_MS);
    let again = node.deliveries(0, member);
    assert_eq!(texts(&again), ["a 0"]);
    assert_eq!(again[0].attempt, 1, "only what was published since");
    assert_eq!(node.report(0).parked, 0);
    assert_eq!(sum(&node, |shard| shard.stats().lost_events), 1, "the group is told");
}

/// Rejected events of a batch whose topic is deleted before their letters are written: the search for them must end where
/// they are gone, or it reads the disk for ever, the group owes them for ever, and no member hears that it has caught up.
#[test]
fn what_was_to_be_a_dead_letter_goes_with_its_topic() {
    let log = LogOptions { segment_bytes: 1 << 20, cache_bytes: 0, ..LogOptions::default() };
    let mut node = Node::open_with(&SimStorage::new(), 1, &[], &log);
    let writer = node.session(0, "writer");
    let reader = join(&mut node, "reader", 100);
    // More than one read gets, so that the reader has passed it when it waits for what stands behind it.
    for (topic, bytes) in [("gone", 300 << 10), ("stays", 10)] {
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        builder.push(&mut [], DataKind::Text, &vec![b'x'; bytes]).unwrap();
        let bytes = builder.finish(TopicId(1), codec::ids::Partition(3));
        let batch = Batch::parse(&bytes, HeaderSeed::WIRE).unwrap();
        let admitted = node.shards[0].0.publish(writer, 1, &topic.into(), &batch).unwrap();
        assert_eq!(admitted, Admission::Taken);
        node.run(60);
    }
    let got = node.deliveries(0, reader);
    node.say(0, reader, &got[0], Verdict::Reject);
    node.ack(0, reader, &got[1]);
    assert_eq!(delete(&mut node, "gone"), 1);
    node.run(200);
    assert_eq!(sum(&node, |shard| shard.held().flights as u64), 0, "nothing is owed");
    assert_eq!(sum(&node, |shard| shard.stats().lost_events), 1, "the group is told");
    assert_eq!(node.count_letters("all"), 0);
    let late = join(&mut node, "late", 1);
    let heard = node.events(0, late);
    assert!(heard.iter().any(|event| matches!(event, SessionEvent::CaughtUp { .. })), "{heard:?}");
}

/// Where topics may not be begun, a deleted one must not come back by a late publisher.
#[test]
fn a_deleted_topic_is_begun_only_where_that_is_allowed() {
    for shards in [1, 2] {
        let mut node = Node::open(&SimStorage::new(), shards, &[]);
        let writer = node.session(0, "writer");
        node.publish(0, writer, "t", &KEYS);
        node.run(40);
        let closed = TopicPolicy { create: Some(false), ..TopicPolicy::default() };
        let list = vec![(TopicFilter::new("#").unwrap(), closed)];
        let mut editor = SnapshotEditor::new(&node.snapshot);
        editor.set_topic_policies(Arc::new(TopicPolicies::new(1, list)));
        node.publish_snapshot(editor);
        node.run(20);
        node.events(0, writer);
        delete(&mut node, "t");
        node.publish(0, writer, "t", &KEYS);
        node.run(40);
        let codes = node.events(0, writer).into_iter().filter_map(|event| match event {
            SessionEvent::Refused { refusal, .. } => Some(refusal.code),
            _ => None,
        });
        let codes: Vec<Code> = codes.collect();
        assert_eq!(codes, [Code::TopicNotFound; KEYS.len()], "{shards} shards");
        assert!(node.shards.iter().all(|(shard, _)| shard.report_topic("t").is_none()));
    }
}

/// A publisher that was not answered sends its batch again: what was stored and deleted since was stored once, and must
/// neither come back nor be refused as another batch.
#[test]
fn a_batch_that_is_sent_again_stays_deleted() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let writer = node.session(0, "writer");
    let send = |node: &mut Node, sequence: u64| {
        node.publish_numbered(0, writer, "t", (3, sequence));
        node.run(40);
        node.events(0, writer).into_iter().find_map(|event| match event {
            SessionEvent::Published { base_offset, .. } => Some(base_offset.0),
            _ => None,
        })
    };
    assert_eq!((send(&mut node, 1), send(&mut node, 2)), (Some(0), Some(1)));
    assert_eq!(delete(&mut node, "t"), 2);
    assert_eq!(send(&mut node, 2), Some(1), "its first place is told");
    assert!(node.shards[0].0.report_topic("t").is_none(), "and nothing has begun");
    assert_eq!(send(&mut node, 3), Some(2), "offsets go on");
    assert_eq!(delete(&mut node, "t"), 1);
}

/// Whoever asks again because no answer came must not be told that it is done while a loss of power would bring the topic
/// back.
#[test]
fn a_second_order_waits_for_the_first() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let writer = node.session(0, "writer");
    node.publish(0, writer, "t", &["a"]);
    node.run(40);
    node.shards[0].1.is_stuck = true;
    order(&mut node, 0, 1, "t", None);
    node.run(20);
    order(&mut node, 0, 2, "t", None);
    node.run(20);
    assert_eq!(node.deleted, []);
    node.shards[0].1.is_stuck = false;
    node.run(150);
    assert_eq!(node.deleted, [(0, 1, Ok(1)), (0, 2, Ok(0))]);
}

/// What a start finishes must be finished where it was not, and take nothing that was published elsewhere since; and a
/// shard that can take no order must say which logs keep the topic, or nobody ever asks again.
#[test]
fn an_order_is_finished_in_the_logs_that_are_left() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let writer = node.session(0, "writer");
    node.publish(0, writer, "t", &KEYS);
    node.run(40);
    let kept = |node: &Node, shard: usize| node.shards[shard].0.report_topic("t").is_some();
    assert!(kept(&node, 0) && kept(&node, 1));
    let left = node.shards[1].0.logs().map(name_of).collect::<Vec<_>>();
    (0..2).for_each(|shard| order(&mut node, shard, 1, "t", Some(left.clone())));
    node.run(150);
    assert!(kept(&node, 0) && !kept(&node, 1), "only the logs that are named");
    assert!(matches!(node.deleted[..], [(_, 1, Ok(_)), (_, 1, Ok(_))]), "{:?}", node.deleted);
    node.deleted.clear();
    node.shards[0].0.begin_drain();
    order(&mut node, 0, 2, "t", None);
    node.run(20);
    let names = node.shards[0].0.logs().map(name_of).collect::<Vec<_>>();
    let refused = LogsLeft { logs: names, refusal: Code::ShuttingDown.into() };
    assert_eq!(node.deleted, [(0, 2, Err(refused))]);
    assert!(kept(&node, 0), "what is refused changes nothing");
}
