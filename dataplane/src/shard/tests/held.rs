//! What a shard still holds once nothing is under way.

use log::storage::{OpenMode, Storage};

use super::*;

/// A client that asks and goes, again and again, must not fill the list of those who wait for the control plane: each
/// would stay on it until its time is over.
#[test]
fn a_session_takes_its_questions_along() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    for number in 0..20 {
        let session = node.session(0, "hasty");
        let wish = SubscribeRequest {
            request: number,
            group: Some("all".into()),
            filter: TopicFilter::new("#").unwrap(),
            mode: Mode::Clustering,
            start: None,
            credit: 1,
        };
        node.shards[0].0.subscribe(session, wish).unwrap();
        assert_eq!(node.shards[0].0.held().control.1, 1, "one subscribe waits for an answer");
        node.shards[0].0.close_session(session);
        assert_eq!(node.shards[0].0.held().control.1, 0, "nobody waits for an answer");
    }
}

/// Without a tail cache even routing reads from the disk. What it has read ahead must not stay for as long as nothing
/// new comes: that is memory of every shard of a node that does nothing.
#[test]
fn nothing_is_read_ahead_at_rest() {
    let log = LogOptions { segment_bytes: 1 << 20, cache_bytes: 0, ..LogOptions::default() };
    let mut node = Node::open_with(&SimStorage::new(), 1, &[], &log);
    let session = node.session(0, "client");
    node.subscribe(0, session, Some("all"), "#", None);
    node.publish(0, session, "a", &KEYS);
    node.run(40);
    let got = node.deliveries(0, session);
    assert_eq!(texts(&got).len(), KEYS.len());
    got.iter().for_each(|delivery| node.ack(0, session, delivery));
    drop(got);
    node.run(200);
    let held = node.shards[0].0.held();
    assert_eq!((held.flights, held.in_flight_bytes, held.session_events), (0, 0, 0), "{held:?}");
    assert_eq!((held.logs[0].read_bytes, held.logs[0].cached_bytes), (0, 0), "{held:?}");
}

/// A client that makes and ends subscriptions of its own while routing waits for the disk must leave nothing behind: it
/// could fill the memory of a shard whose disk does not answer.
#[test]
fn a_group_that_ends_takes_its_members_along() {
    let log = LogOptions { segment_bytes: 1 << 20, cache_bytes: 0, ..LogOptions::default() };
    let mut node = Node::open_with(&SimStorage::new(), 2, &[], &log);
    let session = node.session(1, "client");
    node.subscribe(1, session, None, "#", None);
    node.publish(0, session, "a", &KEYS);
    node.publish(1, session, "a", &KEYS);
    while !node.shards[0].0.tail_waits {
        node.run(1);
    }
    let (shard, kernel) = &mut node.shards[0];
    kernel.is_stuck = true;
    let credit = shard.held().lent[0];
    // As if it had come after these events.
    shard
        .catching_up
        .entry(credit.group)
        .or_default()
        .push((credit.member, codec::ids::Position(0)));
    let mut editor = SnapshotEditor::new(&node.snapshot);
    editor.remove(node.snapshot.subscriptions_of(credit.group)[0].id);
    let mail = Mail::Control(ControlReply::Snapshot(Arc::new(editor.finish())));
    kernel.inbox.push_back(mail);
    node.run(2);
    let held = node.shards[0].0.held();
    assert!(held.lent.is_empty(), "{held:?}");
    assert_eq!(held.catching_up, 0);
}

/// A place that the disk does not give is asked for less and less often, also while commits go on: each commit that
/// returns would otherwise ask again, thousands of times a second, on a disk that is in trouble.
#[test]
fn routing_rests_while_reads_fail() {
    let log = LogOptions { segment_bytes: 1 << 20, cache_bytes: 0, ..LogOptions::default() };
    let mut node = Node::open_with(&SimStorage::new(), 1, &[], &log);
    let session = node.session(0, "client");
    node.subscribe(0, session, Some("all"), "#", None);
    node.shards[0].1.reads_fail = true;
    for _ in 0..300 {
        node.publish(0, session, "a", &["a"]);
        node.run(1);
    }
    let stats = node.shards[0].0.stats();
    // After 40, 80 and 160 of the 300 ms.
    assert!((2..=4).contains(&stats.read_failures), "{stats:?}");
    assert_eq!(stats.stopped_readers, 0, "it has not failed for long");
    node.shards[0].1.reads_fail = false;
    node.run(400);
    assert_eq!(texts(&node.deliveries(0, session)).len(), 100, "its credit is full again");
}

/// Retention waits for checkpoints, and a log of an earlier generation that has nothing to write may begin none: a
/// server that waits for it at its end never ends.
#[test]
fn a_shard_drains_whatever_retention_wants() {
    let storage = SimStorage::new();
    let log =
        LogOptions { segment_bytes: 1 << 20, retention_bytes: Some(0), ..LogOptions::default() };
    for shards in [2, 1] {
        let mut node = Node::open_with(&storage, shards, &[], &log);
        let session = node.session(0, "client");
        node.publish(0, session, "a", &KEYS);
        node.run(200);
        node.shards.iter_mut().for_each(|(shard, _)| shard.begin_drain());
        node.run(2_000);
        assert!(node.shards.iter().all(|(shard, _)| shard.is_drained()), "{shards} shards");
    }
}

/// An event that is to be sent again and that the disk has lost is given up. What waited for it, for its key, must go on
/// then: nothing else may ever happen that would remind the group of it.
#[test]
fn what_waited_for_a_lost_event_goes_on() {
    let storage = SimStorage::new();
    let log = LogOptions { segment_bytes: 1 << 20, cache_bytes: 0, ..LogOptions::default() };
    let mut node = Node::open_with(&storage, 1, &[], &log);
    let session = node.session(0, "client");
    node.subscribe(0, session, Some("all"), "#", None);
    node.publish(0, session, "a", &["a"]);
    node.run(40);
    let got = node.deliveries(0, session);
    assert_eq!(texts(&got), ["a 0"]);
    let token = got[0].token.0;
    let at = got[0].batch.header.base_position;
    drop(got);
    node.shards[0].0.settle(session, 9, &token, Selection::All, Verdict::Retry).unwrap();
    node.publish(0, session, "a", &["a"]);
    node.run(40);
    assert!(node.deliveries(0, session).is_empty(), "the second waits for the first");
    spoil(&storage, b"a 0");
    node.run(400);
    let stats = node.shards[0].0.stats();
    assert_eq!((at.0, stats.lost_events), (0, 1), "{stats:?}");
    assert_eq!(texts(&node.deliveries(0, session)), ["a 0"]);
}

/// Damage that routing is the first to find is a gap for every group at the tail: one that is not told takes what follows for
/// the next.
#[test]
fn damage_that_routing_finds_is_told() {
    let storage = SimStorage::new();
    let log = LogOptions { segment_bytes: 1 << 20, cache_bytes: 0, ..LogOptions::default() };
    let mut node = Node::open_with(&storage, 1, &[], &log);
    let session = node.session(0, "client");
    node.subscribe(0, session, Some("all"), "#", None);
    node.shards[0].1.reads_fail = true;
    for key in ["a", "b"] {
        node.publish(0, session, "a", &[key]);
        node.run(60);
    }
    spoil(&storage, b"a 0");
    node.shards[0].1.reads_fail = false;
    node.run(2_500);
    let heard = node.events(0, session);
    let is_told = |event: &SessionEvent| matches!(event, SessionEvent::Passed { .. });
    assert_eq!(heard.iter().filter(|event| is_told(event)).count(), 1, "{heard:?}");
    let got: Vec<Delivery> = heard.into_iter().filter_map(only_delivery).collect();
    assert_eq!(texts(&got), ["b 0"]);
    assert_eq!(node.shards[0].0.stats().passed_positions, 1);
}

/// Damages the first event that holds these words.
fn spoil(storage: &SimStorage, words: &[u8]) {
    let mut paths = storage.paths().into_iter();
    let path = paths.find(|path| path.extension().is_some_and(|name| name == "rms")).unwrap();
    let file = storage.open(&path, OpenMode::Read, false).unwrap();
    let mut bytes = vec![0; storage.len(file).unwrap() as usize];
    storage.read_at(file, 0, &mut bytes).unwrap();
    storage.close(file);
    let at = bytes.windows(words.len()).position(|found| found == words).unwrap();
    storage.flip_bit(&path, at as u64, 0);
}

/// Members that settle nothing keep what they were given, and groups of such may have all together that may be in flight.
/// Others must go on all the same: they would wait for as long as nobody's time is over.
#[test]
fn members_that_settle_nothing_starve_nobody() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    node.shards[0].0.options.in_flight_bytes_max = 4_096;
    for number in 0..16 {
        let name = format!("stuck-{number}");
        let stuck = node.session(0, &name);
        node.subscribe(0, stuck, Some(&name), "#", None);
    }
    let good = node.session(0, "good");
    node.subscribe(0, good, Some("good"), "#", None);
    let (rounds, mut got) = (60, 0);
    for _ in 0..rounds {
        node.publish(0, good, "a", &["x"]);
        node.run(3);
        for delivery in node.deliveries(0, good) {
            got += texts(std::slice::from_ref(&delivery)).len();
            node.ack(0, good, &delivery);
        }
    }
    let held = node.shards[0].0.held();
    assert!(held.in_flight_bytes >= 4_096, "the others have it all: {}", held.in_flight_bytes);
    assert!(got >= rounds - 2, "{got} of {rounds} events");
}
