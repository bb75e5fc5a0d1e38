//! Events that a group cannot be given: to the dead letters, from there to the group again, or away.

use std::sync::mpsc;

use routing::delivery_policy::DeliveryPolicy;

use super::*;
use crate::letter::{LetterAct, LetterFilter, LetterKind, LetterOrder, LetterPage};

impl Node {
    pub(super) fn say(
        &mut self,
        shard: usize,
        key: SessionKey,
        delivery: &Delivery,
        verdict: Verdict,
    ) {
        let token = delivery.token.0;
        self.shards[shard].0.settle(key, 9, &token, Selection::All, verdict).unwrap();
    }

    /// What a member is given while time goes on; each delivery is answered so.
    fn answer_all(&mut self, shard: usize, key: SessionKey, verdict: Verdict) -> Vec<String> {
        let mut got = Vec::new();
        for _ in 0..60 {
            self.run(10);
            let deliveries = self.deliveries(shard, key);
            got.extend(texts(&deliveries));
            deliveries.iter().for_each(|delivery| self.say(shard, key, delivery, verdict));
        }
        got
    }

    pub(super) fn set_policy(&mut self, group: &str, policy: DeliveryPolicy) {
        let mut editor = SnapshotEditor::new(&self.snapshot);
        editor.set_policy(&group.into(), Some(Arc::new(policy)));
        self.publish_snapshot(editor);
        self.run(5);
    }

    /// One page of work on each shard.
    pub(super) fn letters(&mut self, group: &str, act: LetterAct) -> Vec<LetterPage> {
        let (sender, pages) = mpsc::channel();
        for (shard, _) in &mut self.shards {
            let sender = sender.clone();
            let filter = LetterFilter::default();
            let (group, act) = (group.into(), act.clone());
            let kind = LetterKind::Dead;
            let order = LetterOrder { group, kind, act, filter, from: None, count: 1_000 };
            shard.begin_letters(order, Box::new(move |page| sender.send(page).unwrap()));
        }
        self.run(200);
        let pages: Vec<LetterPage> = pages.try_iter().collect();
        assert_eq!(pages.len(), self.shards.len(), "every order is answered");
        for page in &pages {
            assert_eq!((&page.next, &page.stopped), (&None, &None));
        }
        pages
    }

    pub(super) fn count_letters(&mut self, group: &str) -> u64 {
        self.letters(group, LetterAct::Count).iter().map(|page| page.letters).sum()
    }
}

/// What is rejected must stand among the dead letters, whichever shard it came from, also from a log of an earlier
/// generation, whose partition is another shard's now; and be gone for the group, for ever.
#[test]
fn rejected_events_are_dead_letters_on_any_shard() {
    for shards in [1, 2, 4] {
        let storage = SimStorage::new();
        let mut node = Node::open(&storage, 1, &[]);
        let member = node.session(0, "member");
        node.subscribe(0, member, Some("g"), "fleet/#", None);
        let publisher = node.session(0, "publisher");
        node.publish(0, publisher, "fleet/1", &KEYS);
        node.run(200);
        let known: Vec<_> =
            node.snapshot.subscriptions_of(GroupId(1)).into_iter().cloned().collect();
        drop(node);

        let mut node = Node::open(&storage, shards, &known);
        let last = usize::from(shards) - 1;
        let watcher = node.session(0, "watcher");
        node.subscribe(0, watcher, None, "$dead/g", None);
        let member = node.session(last, "member");
        let got = node.subscribe(last, member, Some("g"), "fleet/#", None);
        got.iter().for_each(|delivery| node.say(last, member, delivery, Verdict::Reject));
        let mut all = texts(&got);
        all.extend(node.answer_all(last, member, Verdict::Reject));
        assert_eq!(sorted(all), all_texts(), "{shards} shards: each was delivered once");
        let dead = node.deliveries(0, watcher);
        assert_eq!(sorted(texts(&dead)), all_texts(), "{shards} shards");
        assert!(dead.iter().all(|delivery| &*delivery.topic == "$dead/g"));
        assert_eq!(node.count_letters("g"), 8);
        let given_up: u64 =
            node.shards.iter().map(|(shard, _)| shard.stats().dead_letter_events).sum();
        assert_eq!(given_up, 8);
    }
}

/// Settled before its letter is durable, an event would be gone with the next power cut.
#[test]
fn an_event_is_owed_until_its_letter_is_durable() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let member = node.session(0, "member");
    node.subscribe(0, member, Some("g"), "fleet/#", None);
    let publisher = node.session(0, "publisher");
    node.publish(0, publisher, "fleet/1", &["a"]);
    node.run(40);
    let got = node.deliveries(0, member);
    node.shards[0].1.is_stuck = true;
    node.say(0, member, &got[0], Verdict::Reject);
    node.run(200);
    let owed = |node: &Node| {
        let mut reports = Vec::new();
        assert_eq!(node.shards[0].0.report_groups(&[GroupId(1)], 0, &mut reports), None);
        reports[0].places.iter().map(|place| place.unsettled).sum::<u64>()
    };
    assert_eq!(node.shards[0].0.stats().dead_letter_events, 0);
    assert_eq!(owed(&node), 1);
    node.shards[0].1.is_stuck = false;
    node.run(200);
    assert_eq!(node.shards[0].0.stats().dead_letter_events, 1);
    assert_eq!(owed(&node), 0);
}

/// An operator who redrives after a mended handler relies on it: the group gets every letter, nobody else does, and none
/// is left; and attempts are those of the policy.
#[test]
fn letters_come_again_to_their_group_alone() {
    for shards in [1, 3] {
        let mut node = Node::open(&SimStorage::new(), shards, &[]);
        let (member, other) = (node.session(0, "member"), node.session(0, "other"));
        node.subscribe(0, member, Some("g"), "fleet/#", None);
        node.subscribe(0, other, Some("other"), "#", None);
        let policy = DeliveryPolicy {
            attempts_max: Some(3),
            retry_delay_ms: Some(1),
            retry_delay_max_ms: Some(1),
            ..DeliveryPolicy::default()
        };
        node.set_policy("g", policy);
        let publisher = node.session(0, "publisher");
        node.publish(0, publisher, "fleet/1", &KEYS);
        let tried = node.answer_all(0, member, Verdict::Retry);
        assert_eq!(tried.len(), 3 * KEYS.len(), "three attempts each");
        assert_eq!(sorted(node.answer_all(0, other, Verdict::Done)), all_texts());
        assert_eq!(node.count_letters("g"), 8);

        let topic = routing::internal_topics::redrive_topic("g").unwrap();
        let pages = node.letters("g", LetterAct::Redrive(topic));
        assert_eq!(pages.iter().map(|page| page.letters).sum::<u64>(), 8);
        node.run(10);
        let again = node.deliveries(0, member);
        assert!(again.iter().all(|delivery| &*delivery.topic == "fleet/1"), "its own topic");
        again.iter().for_each(|delivery| node.say(0, member, delivery, Verdict::Done));
        let mut all = texts(&again);
        all.extend(node.answer_all(0, member, Verdict::Done));
        assert_eq!(sorted(all), all_texts(), "{shards} shards");
        assert!(node.answer_all(0, other, Verdict::Done).is_empty(), "nobody else gets them");
        assert_eq!(node.count_letters("g"), 0, "none is left");
    }
}

/// What was purged must stay gone after a restart, and what dies later must not go with it.
#[test]
fn purged_letters_stay_gone() {
    let storage = SimStorage::new();
    let mut node = Node::open(&storage, 2, &[]);
    let member = node.session(0, "member");
    node.subscribe(0, member, Some("g"), "fleet/#", None);
    let publisher = node.session(0, "publisher");
    node.publish(0, publisher, "fleet/1", &KEYS);
    node.answer_all(0, member, Verdict::Reject);
    let purged: u64 = node.letters("g", LetterAct::Purge).iter().map(|page| page.letters).sum();
    assert_eq!(purged, 8);
    node.publish(0, publisher, "fleet/1", &KEYS[..3]);
    node.answer_all(0, member, Verdict::Reject);
    assert_eq!(node.count_letters("g"), 3);
    node.run(200);
    let known: Vec<_> = node.snapshot.subscriptions_of(GroupId(1)).into_iter().cloned().collect();
    drop(node);
    let mut node = Node::open(&storage, 2, &known);
    assert_eq!(node.count_letters("g"), 3);
    let told: u32 = node
        .letters("g", LetterAct::Browse)
        .iter()
        .flat_map(|page| &page.batches)
        .map(|batch| batch.events.len())
        .sum();
    assert_eq!(told, 3);
}

/// A policy under which one attempt is all there is.
fn one_attempt() -> DeliveryPolicy {
    DeliveryPolicy { attempts_max: Some(1), ..DeliveryPolicy::default() }
}

/// A member whose connection is lost may have been killed by what it had: that counts, or such an event would kill one
/// member after the other for ever. One that leaves in good order has not failed: restarting a handler must bury nothing.
#[test]
fn only_a_lost_member_spends_attempts() {
    for is_lost in [true, false] {
        let mut node = Node::open(&SimStorage::new(), 2, &[]);
        let (member, other) = (node.session(1, "member"), node.session(0, "other"));
        node.subscribe(1, member, Some("g"), "fleet/#", None);
        node.set_policy("g", one_attempt());
        let publisher = node.session(0, "publisher");
        node.publish(0, publisher, "fleet/1", &KEYS);
        node.run(40);
        assert_eq!(texts(&node.deliveries(1, member)).len(), KEYS.len());
        match is_lost {
            true => node.shards[1].0.close_session(member),
            false => node.shards[1].0.unsubscribe(member, 1, false),
        }
        node.run(200);
        let mut again = node.subscribe(0, other, Some("g"), "fleet/#", None);
        again.extend(node.deliveries(0, other));
        if is_lost {
            assert!(again.is_empty(), "its only attempt was spent");
            assert_eq!(node.count_letters("g"), 8);
        } else {
            assert!(again.iter().all(|delivery| delivery.attempt == 1), "none was spent");
            again.iter().for_each(|delivery| node.ack(0, other, delivery));
            let mut all = texts(&again);
            all.extend(node.answer_all(0, other, Verdict::Done));
            assert_eq!(sorted(all), all_texts());
            assert_eq!(node.count_letters("g"), 0);
        }
    }
}

/// A pause lasts as long as it takes to mend what is broken: what times out or is lost meanwhile must not be buried, also
/// when it was the last attempt.
#[test]
fn a_pause_buries_nothing() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let (slow, lost) = (node.session(1, "slow"), node.session(0, "lost"));
    node.subscribe(1, slow, Some("g"), "fleet/#", None);
    node.subscribe(0, lost, Some("g"), "fleet/#", None);
    node.set_policy("g", one_attempt());
    let publisher = node.session(0, "publisher");
    node.publish(0, publisher, "fleet/1", &KEYS);
    node.run(40);
    let held = (node.deliveries(1, slow).len(), node.deliveries(0, lost).len());
    assert!(held.0 > 0 && held.1 > 0 && held.0 + held.1 == KEYS.len(), "both have some: {held:?}");
    node.pause("g", true);
    node.shards[0].0.close_session(lost);
    node.now.mono_us += 2 * ShardOptions::default().ack_deadline_us;
    node.now.wall.0 += 2 * ShardOptions::default().ack_deadline_us;
    node.run(500);
    assert_eq!(node.count_letters("g"), 0);
    assert!(node.deliveries(1, slow).is_empty(), "it rests");
    node.pause("g", false);
    node.run(50);
    let again = node.deliveries(1, slow);
    assert!(again.iter().all(|delivery| delivery.attempt == 1), "a pause spends no attempt");
    assert_eq!(sorted(texts(&again)), all_texts(), "all of them go on");
    again.iter().for_each(|delivery| node.ack(1, slow, delivery));
    node.run(50);
    assert_eq!(node.count_letters("g"), 0);
}
