//! What topic policies say, kept by whole shards.

use codec::ack::AckLevel;
use codec::ids::Partition;
use routing::topic_policy::{TopicOrder, TopicPolicies, TopicPolicy};

use super::*;

/// A node that goes by these policies.
fn node(shards: u16, list: &[(&str, TopicPolicy)]) -> Node {
    let mut node = Node::open(&SimStorage::new(), shards, &[]);
    set(&mut node, list);
    node
}

fn set(node: &mut Node, list: &[(&str, TopicPolicy)]) {
    let list = list.iter().map(|(text, policy)| (TopicFilter::new(*text).unwrap(), *policy));
    let mut editor = SnapshotEditor::new(&node.snapshot);
    let version = editor.topic_policies().version() + 1;
    editor.set_topic_policies(Arc::new(TopicPolicies::new(version, list.collect())));
    node.publish_snapshot(editor);
    node.run(20);
}

fn ack(level: AckLevel) -> TopicPolicy {
    TopicPolicy { ack: Some(level), ..TopicPolicy::default() }
}

/// What was answered of publishes: the level, or the code of the refusal.
fn answers(events: Vec<SessionEvent>) -> Vec<Result<(Partition, u64, AckLevel), Code>> {
    let answers = events.into_iter().filter_map(|event| match event {
        SessionEvent::Published { partition, base_offset, ack, .. } => {
            Some(Ok((partition, base_offset.0, ack)))
        }
        SessionEvent::Refused { what: Asked::Publish, refusal, .. } => Some(Err(refusal.code)),
        _ => None,
    });
    answers.collect()
}

/// A topic that nobody waits for must not wait for the disk because of another in its log; and no event may be seen before
/// one that stands before it, or before it has reached its own level.
#[test]
fn levels_mix_in_one_log() {
    let levels = [("d", ack(AckLevel::Durable)), ("r", ack(AckLevel::Received))];
    let mut node = node(1, &levels);
    let reader = node.session(0, "reader");
    assert!(node.subscribe(0, reader, Some("all"), "#", None).is_empty());
    let writer = node.session(0, "writer");
    node.shards[0].1.is_stuck = true;
    node.publish(0, writer, "r", &["a"]);
    node.run(5);
    assert_eq!(texts(&node.deliveries(0, reader)), ["a 0"], "nothing stands before it");
    node.publish(0, writer, "d", &["b"]);
    node.publish(0, writer, "r", &["c"]);
    node.run(5);
    let told = answers(node.events(0, writer));
    let told: Vec<AckLevel> = told.into_iter().map(|answer| answer.unwrap().2).collect();
    assert_eq!(told, [AckLevel::Received, AckLevel::Received], "these wait for no disk");
    assert!(node.deliveries(0, reader).is_empty(), "order in the log");
    node.shards[0].1.is_stuck = false;
    node.run(40);
    let told = answers(node.events(0, writer));
    assert!(matches!(told[..], [Ok((_, 0, AckLevel::Durable))]), "{told:?}");
    assert_eq!(texts(&node.deliveries(0, reader)), ["b 0", "c 0"]);
}

/// Whoever joins is told that it has all that was acknowledged before: also what is acknowledged and not seen yet.
#[test]
fn caught_up_is_said_after_all_that_was_acknowledged() {
    let mut node = node(1, &[("r", ack(AckLevel::Received))]);
    let (first, writer) = (node.session(0, "first"), node.session(0, "writer"));
    node.subscribe(0, first, Some("all"), "#", None);
    node.shards[0].1.is_stuck = true;
    node.publish(0, writer, "d", &["a"]);
    node.publish(0, writer, "r", &["b"]);
    node.run(5);
    assert_eq!(answers(node.events(0, writer)).len(), 1, "one is acknowledged, and none is seen");
    let second = node.session(0, "second");
    let wish = SubscribeRequest {
        request: 1,
        group: Some("all".into()),
        filter: TopicFilter::new("#").unwrap(),
        mode: Mode::Clustering,
        start: None,
        credit: 10,
    };
    node.shards[0].0.subscribe(second, wish).unwrap();
    node.run(20);
    let is_caught_up = |event: &SessionEvent| matches!(event, SessionEvent::CaughtUp { .. });
    assert!(!node.events(0, second).iter().any(is_caught_up), "what is acknowledged is not seen");
    node.shards[0].1.is_stuck = false;
    node.run(40);
    assert!(node.events(0, second).iter().any(is_caught_up));
}

/// An event beyond its topic's limit must be refused whichever shard keeps it, and begin no topic.
#[test]
fn large_events_are_refused() {
    let small = TopicPolicy { event_bytes_max: Some(2), ..TopicPolicy::default() };
    let mut node = node(2, &[("small/#", small)]);
    let writer = node.session(0, "writer");
    let refused = publish_each(&mut node, writer, "small/t");
    assert!(refused.iter().all(|answer| *answer == Err(Code::EventTooLarge)), "{refused:?}");
    let is_begun =
        |node: &Node| node.shards.iter().any(|(shard, _)| shard.report_topic("small/t").is_some());
    assert!(!is_begun(&node), "what is refused begins no topic");
    set(&mut node, &[("small/#", TopicPolicy { event_bytes_max: Some(3), ..small })]);
    assert!(publish_each(&mut node, writer, "small/t").iter().all(Result::is_ok));
    assert!(is_begun(&node));
}

/// Publishes an event with each key, some of which other shards keep; the answers.
fn publish_each(
    node: &mut Node,
    writer: SessionKey,
    topic: &str,
) -> Vec<Result<(Partition, u64, AckLevel), Code>> {
    let mut all = Vec::new();
    for (request, name) in KEYS.iter().enumerate() {
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        builder.push(&mut [], DataKind::Text, b"abc").unwrap();
        let batch = builder.finish(TopicId(1), partition_of(name.as_bytes(), 64));
        let batch = Batch::parse(&batch, HeaderSeed::WIRE).unwrap();
        let (shard, topic) = (&mut node.shards[0].0, topic.into());
        match shard.publish(writer, 100 + request as u64, &topic, &batch) {
            Ok(admission) => assert_eq!(admission, Admission::Taken),
            Err(refusal) => all.push(Err(refusal.code)),
        }
    }
    node.run(20);
    all.extend(answers(node.events(0, writer)));
    assert_eq!(all.len(), KEYS.len(), "each is answered once");
    all
}

/// Where topics may not be begun, one that is there on any shard is there on all: events with other keys must not be refused
/// because their shard's log has none of the topic yet; and a name with a slip of the pen begins nothing.
#[test]
fn topics_that_may_not_be_begun_are_known_on_all_shards() {
    let closed = TopicPolicy { create: Some(false), ..TopicPolicy::default() };
    for shards in [1, 2, 4] {
        let mut node = node(shards, &[]);
        let writer = node.session(0, "writer");
        node.publish(0, writer, "t/known", &["a"]);
        node.run(20);
        assert_eq!(answers(node.events(0, writer)).len(), 1);
        set(&mut node, &[("t/#", closed)]);
        let unknown = publish_each(&mut node, writer, "t/knwon");
        assert!(unknown.iter().all(|answer| *answer == Err(Code::TopicNotFound)), "{unknown:?}");
        let known = publish_each(&mut node, writer, "t/known");
        assert!(known.iter().all(Result::is_ok), "{shards} shards: {known:?}");
        let open = TopicPolicy { create: Some(true), ..TopicPolicy::default() };
        set(&mut node, &[("t/#", closed), ("t/knwon", open)]);
        assert!(publish_each(&mut node, writer, "t/knwon").iter().all(Result::is_ok));
        for (shard, _) in &node.shards {
            assert!(shard.held().forwarded.iter().all(|forwarded| *forwarded == (0, 0)));
        }
    }
}

/// While other shards are asked for a topic, what its publisher sends to others must not be stored first: the batch that waits
/// would be refused as too old, though it was never sent before.
#[test]
fn what_waits_for_its_topic_is_not_overtaken_by_its_publisher() {
    let closed = TopicPolicy { create: Some(false), ..TopicPolicy::default() };
    // Of the writer's own shard, and of another one.
    for partition in [8, 9, 10, 11] {
        let mut node = node(4, &[]);
        let (first, writer) = (node.session(0, "first"), node.session(0, "writer"));
        let elsewhere = (partition + 1) % 4;
        node.publish_numbered(0, first, "t/one", (elsewhere, 1));
        node.publish_numbered(0, first, "t/two", (elsewhere, 2));
        node.run(20);
        set(&mut node, &[("t/#", closed)]);
        let topics =
            ["t/one", "free", "t/none", "t/two", "free", "t/one", "t/two", "t/none", "free"];
        for (topic, sequence) in topics.iter().zip(1..) {
            node.publish_numbered(0, writer, topic, (partition, sequence));
            if sequence % 4 == 0 {
                node.run(1);
            }
        }
        node.run(40);
        let told = node.events(0, writer).into_iter().filter_map(|event| match event {
            SessionEvent::Published { request, .. } => Some((request, None)),
            SessionEvent::Refused { request, refusal, .. } => Some((request, Some(refusal.code))),
            _ => None,
        });
        let mut told: Vec<_> = told.collect();
        told.sort_by_key(|(request, _)| *request);
        let expected = topics
            .iter()
            .zip(1..)
            .map(|(topic, request)| (request, (*topic == "t/none").then_some(Code::TopicNotFound)));
        assert_eq!(told, expected.collect::<Vec<_>>(), "partition {partition}");
        for (shard, _) in &node.shards {
            assert!(shard.held().forwarded.iter().all(|forwarded| *forwarded == (0, 0)));
        }
    }
}

/// A topic in order is in one partition: with two, nobody could tell what came first.
#[test]
fn a_topic_in_order_is_in_one_partition() {
    let order = TopicPolicy { order: Some(TopicOrder::Topic), ..TopicPolicy::default() };
    for shards in [1, 2, 4] {
        let mut node = node(shards, &[("in/+", order)]);
        let writer = node.session(0, "writer");
        let told = publish_each(&mut node, writer, "in/order");
        let place = partition_of(b"in/order", 64);
        let offsets: Vec<_> = told.into_iter().map(|answer| answer.unwrap()).collect();
        let expected = (0..8).map(|offset| (place, offset, AckLevel::Durable));
        assert_eq!(offsets, expected.collect::<Vec<_>>());
        let spread = publish_each(&mut node, writer, "other");
        assert!(spread.iter().any(|answer| answer.as_ref().unwrap().0 != place));
    }
}
