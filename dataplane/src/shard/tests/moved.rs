//! Groups that an operator pauses, or moves to another place in the logs.

use super::*;

impl Node {
    fn group(&self, name: &str) -> GroupId {
        self.snapshot.group_by_name(name).expect("the group is there")
    }

    /// Publishes that a group has moved; the shards hear of it as they run.
    fn seek(&mut self, name: &str, start: Start) -> Vec<Arc<Subscription>> {
        self.next_id += 1;
        let mut editor = SnapshotEditor::new(&self.snapshot);
        let sought = editor.seek(self.group(name), GroupId(1_000 + self.next_id), &start).unwrap();
        self.publish_snapshot(editor);
        for shard in 0..self.shards.len() as u16 {
            let reply = ControlReply::Sought(sought.clone());
            self.waiting.push((self.snapshot.version(), shard, reply));
        }
        sought.after.clone()
    }

    pub(super) fn pause(&mut self, name: &str, is_paused: bool) {
        let mut editor = SnapshotEditor::new(&self.snapshot);
        editor.set_paused(self.group(name), is_paused);
        self.publish_snapshot(editor);
        self.run(5);
    }

    /// What comes while time goes on, each delivery settled at once.
    fn drain(&mut self, shard: usize, key: SessionKey) -> Vec<String> {
        let mut got = Vec::new();
        for _ in 0..40 {
            self.run(5);
            let deliveries = self.deliveries(shard, key);
            got.extend(texts(&deliveries));
            deliveries.iter().for_each(|delivery| self.ack(shard, key, delivery));
        }
        got
    }

    fn stale(&self) -> u64 {
        self.shards.iter().map(|(shard, _)| shard.stats().stale_settles).sum()
    }
}

/// A member that is connected must get what its group is moved to, and must not settle the new delivery of an event with
/// the token of the old one: the event would be lost for the group.
#[test]
fn members_go_along_and_old_tokens_are_stale() {
    for shards in [1, 2, 4] {
        let mut node = Node::open(&SimStorage::new(), shards, &[]);
        let publisher = node.session(0, "publisher");
        let last = usize::from(shards) - 1;
        let member = node.session(last, "member");
        node.subscribe(last, member, Some("g"), "fleet/#", None);
        node.publish(0, publisher, "fleet/1", &KEYS);
        node.run(40);
        let before = node.deliveries(last, member);
        assert_eq!(texts(&before).len(), KEYS.len());
        before[..3].iter().for_each(|delivery| node.ack(last, member, delivery));
        node.run(5);

        node.seek("g", Start::Earliest);
        // The cursors get a commit of their own after 100 ms.
        node.run(150);
        let again = node.deliveries(last, member);
        assert_eq!(sorted(texts(&again)), sorted(all_texts()), "{shards} shards: all of it again");
        assert!(again.iter().all(|delivery| delivery.attempt == 1), "a group begins anew");
        let stale = node.stale();
        before.iter().for_each(|delivery| node.ack(last, member, delivery));
        node.run(5);
        assert_eq!(node.stale() - stale, before.len() as u64, "what was before is over");
        again.iter().for_each(|delivery| node.ack(last, member, delivery));
        node.run(200);
        assert!(node.deliveries(last, member).is_empty(), "each is settled");

        node.publish(0, publisher, "fleet/1", &KEYS);
        node.run(40);
        let owed = node.deliveries(last, member);
        assert_eq!(owed.len(), KEYS.len());
        node.seek("g", Start::Tail);
        node.run(200);
        assert!(node.deliveries(last, member).is_empty(), "what was owed is passed over");
        node.publish(0, publisher, "fleet/1", &KEYS[..2]);
        assert_eq!(node.drain(last, member).len(), 2, "what is new comes");
        for (shard, _) in &node.shards {
            let held = shard.held();
            assert_eq!((held.flights, held.in_flight_bytes), (0, 0), "{held:?}");
            let lent: u32 = held.lent.iter().map(|credit| credit.in_flight).sum();
            assert_eq!(lent, 0, "{held:?}");
        }
    }
}

/// A group that is moved twice while its members wait must end with all of them where it stands, with all their credit.
#[test]
fn a_second_move_overtakes_the_first() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let publisher = node.session(0, "publisher");
    let members = [node.session(0, "one"), node.session(1, "two")];
    node.subscribe(0, members[0], Some("g"), "fleet/#", None);
    node.subscribe(1, members[1], Some("g"), "fleet/#", None);
    node.publish(0, publisher, "fleet/1", &KEYS);
    node.run(40);
    members.iter().enumerate().for_each(|(shard, key)| drop(node.deliveries(shard, *key)));
    node.seek("g", Start::Tail);
    node.seek("g", Start::Earliest);
    let mut got = node.drain(0, members[0]);
    got.extend(node.drain(1, members[1]));
    assert_eq!(sorted(got), sorted(all_texts()));
    let homes: Vec<_> = node.shards.iter().flat_map(|(shard, _)| shard.held().homes).collect();
    assert_eq!(homes.len(), 2);
    for home in homes {
        assert_eq!(home.free + home.lent.iter().sum::<u32>(), 100, "{home:?}");
    }
}

/// A kill leaves the catalog as it was before a move or after it; whatever the logs have written of it, the group must
/// stand at the one place or the other in all of them.
#[test]
fn a_kill_leaves_one_place_or_the_other() {
    for (cycles, shards) in [(0, 2), (1, 2), (2, 2), (5, 2), (60, 2), (200, 2), (60, 1), (3, 4)] {
        for is_after in [false, true] {
            let storage = SimStorage::new();
            let mut node = Node::open(&storage, 2, &[]);
            let publisher = node.session(0, "publisher");
            let member = node.session(0, "member");
            node.subscribe(0, member, Some("g"), "fleet/#", None);
            let before: Vec<_> =
                node.snapshot.subscriptions_of(node.group("g")).into_iter().cloned().collect();
            node.publish(0, publisher, "fleet/1", &KEYS);
            assert_eq!(node.drain(0, member).len(), KEYS.len());
            node.run(300);
            let after = node.seek("g", Start::Earliest);
            if !is_after && cycles > 0 {
                // The shards never heard of it: the catalog is written before.
                continue;
            }
            node.run(cycles);
            drop(node);
            let known = if is_after { after } else { before };
            let mut node = Node::open(&storage, shards, &known);
            // The clock goes on where it was.
            node.now.wall.0 += 60_000_000;
            node.run(200);
            let member = node.session(0, "again");
            let mut got = texts(&node.subscribe(0, member, Some("g"), "fleet/#", None));
            got.extend(node.drain(0, member));
            let expected = if is_after { sorted(all_texts()) } else { Vec::new() };
            let got: std::collections::BTreeSet<_> = got.into_iter().collect();
            assert_eq!(Vec::from_iter(got), expected, "after {cycles} cycles, {shards} shards");
        }
    }
}

/// Offsets and times choose events by partition and by batch: a group that is moved to one gets those from there on, in
/// the order of their keys, and none before.
#[test]
fn moves_to_offsets_and_times_are_exact() {
    let storage = SimStorage::new();
    let mut node = Node::open(&storage, 2, &[]);
    let publisher = node.session(0, "publisher");
    let member = node.session(1, "member");
    node.subscribe(1, member, Some("g"), "fleet/1", None);
    node.publish(0, publisher, "fleet/1", &["k"; 10]);
    node.run(40);
    let time = node.now.wall;
    node.run(5);
    node.publish(0, publisher, "fleet/1", &["k"; 10]);
    assert_eq!(node.drain(1, member).len(), 20);
    let partition = partition_of(b"k", 64);
    node.seek("g", Start::Offsets(vec![(partition, codec::ids::Offset(7))]));
    let tail: Vec<String> = (7..10).chain(0..10).map(|index| format!("k {index}")).collect();
    assert_eq!(node.drain(1, member), tail);
    node.seek("g", Start::Time(time));
    assert_eq!(node.drain(1, member), tail[3..]);
}

/// A group that rests must be given nothing, lose nothing and spend no attempt, however long; what its members hold may
/// be settled.
#[test]
fn a_paused_group_rests() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let publisher = node.session(0, "publisher");
    let member = node.session(1, "member");
    node.subscribe(1, member, Some("g"), "fleet/#", None);
    node.publish(0, publisher, "fleet/1", &KEYS);
    node.run(40);
    let held = node.deliveries(1, member);
    assert_eq!(held.len(), KEYS.len());
    node.pause("g", true);
    node.publish(0, publisher, "fleet/1", &KEYS[..4]);
    node.run(100);
    held[..5].iter().for_each(|delivery| node.ack(1, member, delivery));
    let retry = held[5].token.0;
    node.shards[1].0.settle(member, 9, &retry, Selection::All, Verdict::Retry).unwrap();
    // Also those who come later get nothing, and time-outs send nothing again.
    let late = node.session(0, "late");
    assert!(node.subscribe(0, late, Some("g"), "fleet/#", None).is_empty());
    node.now.mono_us += 2 * ShardOptions::default().ack_deadline_us;
    node.now.wall.0 += 2 * ShardOptions::default().ack_deadline_us;
    node.run(500);
    assert!(node.deliveries(1, member).is_empty() && node.deliveries(0, late).is_empty());
    let rests = |shard: &Shard| shard.lagging.is_empty() && shard.idle.is_empty();
    assert!(node.shards.iter().all(|(shard, _)| rests(shard)), "who rests costs nothing");
    let settled: u64 = node.shards.iter().map(|(shard, _)| shard.stats().settled_events).sum();
    assert_eq!(settled, 5, "what was in flight could be settled");

    node.pause("g", false);
    let mut deliveries = Vec::new();
    for _ in 0..100 {
        node.run(5);
        for (shard, key) in [(0, late), (1, member)] {
            let got = node.deliveries(shard, key);
            got.iter().for_each(|delivery| node.ack(shard, key, delivery));
            deliveries.extend(got);
        }
    }
    let expected: Vec<String> = all_texts()[5..].iter().chain(&all_texts()[..4]).cloned().collect();
    assert_eq!(sorted(texts(&deliveries)), sorted(expected), "each once, none is missing");
    assert!(deliveries.iter().all(|delivery| delivery.attempt <= 2), "a rest spends no attempt");
}

/// A group that is moved while it rests stays at rest, and goes on from the new place.
#[test]
fn a_paused_group_can_be_moved() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let publisher = node.session(0, "publisher");
    let member = node.session(1, "member");
    node.subscribe(1, member, Some("g"), "fleet/#", None);
    node.publish(0, publisher, "fleet/1", &KEYS);
    assert_eq!(node.drain(1, member).len(), KEYS.len());
    node.pause("g", true);
    node.seek("g", Start::Earliest);
    assert!(node.drain(1, member).is_empty(), "it rests");
    node.pause("g", false);
    assert_eq!(sorted(node.drain(1, member)), sorted(all_texts()));
}

/// A control plane that stops in the middle of a move must not leave members that wait for ever.
#[test]
fn members_hear_when_a_move_is_not_finished() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let member = node.session(0, "member");
    node.subscribe(0, member, Some("g"), "fleet/#", None);
    node.seek("g", Start::Earliest);
    node.shards[0].1.control_is_open = false;
    node.run(5);
    let heard = node.events(0, member);
    let is_told = |event: &SessionEvent| {
        matches!(event, SessionEvent::Refused { what: Asked::Subscribe, refusal, .. }
            if refusal.code == Code::Unavailable)
    };
    assert!(heard.iter().any(is_told), "{heard:?}");
}
