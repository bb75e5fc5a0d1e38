//! Events that wait for long: copied to their group's parked events, over restarts, in the order of their key.

use std::collections::BTreeMap;
use std::sync::mpsc;

use routing::delivery_policy::DeliveryPolicy;

use super::*;
use crate::group::group_log::parking::PARKED_KEYS_MAX;
use crate::inquiry::PlaceReport;
use crate::letter::{LetterAct, LetterFilter, LetterKind, LetterOrder};

pub(super) const DELAY_MS: u64 = 60_000;

/// Whoever hands back waits for a minute; the third time is the last.
fn slow() -> DeliveryPolicy {
    DeliveryPolicy {
        attempts_max: Some(3),
        retry_delay_ms: Some(DELAY_MS),
        retry_delay_max_ms: Some(DELAY_MS),
        ..DeliveryPolicy::default()
    }
}

impl Node {
    pub(super) fn pass(&mut self, ms: u64) {
        self.now.mono_us += ms * 1_000;
        self.now.wall.0 += ms * 1_000;
        self.run(220);
    }

    pub(super) fn report(&self, shard: usize) -> PlaceReport {
        let mut reports = Vec::new();
        assert_eq!(self.shards[shard].0.report_groups(&[GroupId(1)], 0, &mut reports), None);
        *reports[0].places.last().expect("the active log")
    }

    /// What is parked on the first shard now, page by page: each event, and how it waits.
    fn parked_now(&mut self) -> Vec<String> {
        let (mut told, mut from) = (Vec::new(), None);
        loop {
            let (sender, page) = mpsc::channel();
            let filter = LetterFilter::default();
            let (kind, act) = (LetterKind::Parked, LetterAct::Browse);
            let order = LetterOrder { group: "g".into(), kind, act, filter, from, count: 300 };
            let answer = Box::new(move |page| sender.send(page).unwrap());
            self.shards[0].0.begin_letters(order, answer);
            self.run(40);
            let page = page.try_recv().expect("every order is answered");
            assert_eq!(page.stopped, None);
            for batch in &page.batches {
                assert_eq!(batch.events.len() as usize, batch.waiting.len(), "each is told why");
                let body = Body::checked_before(&batch.body, batch.count).unwrap();
                for (index, waiting) in batch.events.iter().zip(&batch.waiting) {
                    let event = body.event(index).unwrap();
                    let text = std::str::from_utf8(event.data()).unwrap();
                    told.push(format!("{text} {}", waiting.word()));
                }
            }
            from = page.next;
            if from.is_none() {
                return told;
            }
        }
    }

    fn known(&self) -> Vec<Arc<Subscription>> {
        self.snapshot.subscriptions_of(GroupId(1)).into_iter().cloned().collect()
    }
}

/// What comes while time goes on is settled; what comes is told.
fn drain(node: &mut Node, key: SessionKey) -> Vec<Delivery> {
    let mut got = Vec::new();
    for _ in 0..30 {
        node.run(10);
        let deliveries = node.deliveries(0, key);
        deliveries.iter().for_each(|delivery| node.ack(0, key, delivery));
        got.extend(deliveries);
    }
    got
}

/// A node on which "a 0" was handed back for a minute and parked, and all else is settled.
pub(super) fn parked_one(storage: &SimStorage) -> (Node, SessionKey, SessionKey, Delivery) {
    let mut node = Node::open(storage, 1, &[]);
    let (member, publisher) = (node.session(0, "member"), node.session(0, "publisher"));
    node.subscribe(0, member, Some("g"), "fleet/#", None);
    node.set_policy("g", slow());
    node.publish(0, publisher, "fleet/1", &KEYS);
    node.run(40);
    let mut first = None;
    for delivery in node.deliveries(0, member) {
        if texts(std::slice::from_ref(&delivery)) == ["a 0"] {
            node.say(0, member, &delivery, Verdict::Retry);
            first = Some(delivery);
        } else {
            node.ack(0, member, &delivery);
        }
    }
    node.run(400);
    assert_eq!(node.shards[0].0.stats().parked_events, 1);
    (node, member, publisher, first.expect("it was delivered"))
}

/// An event that waits must not hold the cursor of its group, must come again when its time has come, as what it was
/// published as, and before all that came behind it of its key.
#[test]
fn what_waits_for_long_is_parked() {
    let (mut node, member, publisher, first) = parked_one(&SimStorage::new());
    let place = node.report(0);
    assert_eq!((place.unsettled, place.parked, place.is_stopped), (0, 1, false));
    assert_eq!(place.low, place.next, "the cursor goes on");
    node.publish(0, publisher, "fleet/1", &["b", "a", "c"]);
    assert_eq!(sorted(texts(&drain(&mut node, member))), ["b 0", "c 2"], "a key waits, no other");
    node.pass(DELAY_MS);
    let again = node.deliveries(0, member);
    assert_eq!(texts(&again), ["a 0"]);
    assert_eq!((again[0].attempt, &*again[0].topic), (2, "fleet/1"));
    let (was, is) = (&first.batch.header, &again[0].batch.header);
    assert_eq!((was.partition, was.base_offset), (is.partition, is.base_offset));
    assert_eq!(was.append_time, is.append_time);
    node.ack(0, member, &again[0]);
    assert_eq!(texts(&drain(&mut node, member)), ["a 1"], "then what stood behind it");
    let place = node.report(0);
    assert_eq!((place.unsettled, place.parked, place.low), (0, 0, place.next));
}

/// A restart must neither lose a parked event, nor shorten its wait, nor give it more attempts, nor let what stands behind it
/// in the line of its key pass; and what was settled must not come again.
#[test]
fn a_wait_goes_on_after_a_restart() {
    let storage = SimStorage::new();
    let (mut node, member, publisher, _) = parked_one(&storage);
    node.publish(0, publisher, "fleet/1", &["a"; 3]);
    node.run(300);
    assert!(node.deliveries(0, member).is_empty());
    let known = node.known();
    let now = node.now;
    drop(node);

    let mut node = Node::open(&storage, 1, &known);
    node.set_policy("g", slow());
    node.now.wall = now.wall;
    let place = node.report(0);
    assert_eq!(place.parked, 1, "also before a member comes");
    let member = node.session(0, "member");
    assert!(node.subscribe(0, member, Some("g"), "fleet/#", None).is_empty());
    assert!(drain(&mut node, member).is_empty(), "its time has not come");
    node.pass(DELAY_MS);
    let again = node.deliveries(0, member);
    assert_eq!((texts(&again), again[0].attempt), (vec!["a 0".to_owned()], 2));
    node.say(0, member, &again[0], Verdict::Retry);
    node.run(400);
    assert_eq!(node.shards[0].0.stats().parked_events, 1, "with its new number of attempts");
    let known = node.known();
    let now = node.now;
    drop(node);

    let mut node = Node::open(&storage, 1, &known);
    node.set_policy("g", slow());
    node.now.wall = now.wall;
    let member = node.session(0, "member");
    assert!(node.subscribe(0, member, Some("g"), "fleet/#", None).is_empty());
    node.pass(DELAY_MS);
    let again = node.deliveries(0, member);
    assert_eq!((texts(&again), again[0].attempt), (vec!["a 0".to_owned()], 3));
    node.say(0, member, &again[0], Verdict::Retry);
    assert_eq!(texts(&drain(&mut node, member)), ["a 0", "a 1", "a 2"], "it was the last attempt");
    assert_eq!(node.report(0).parked, 0);
    let pages = node.letters("g", LetterAct::Browse);
    let letter = &pages[0].batches[0];
    let body = Body::checked_before(&letter.body, letter.count).unwrap();
    let event = body.event(0).unwrap();
    let text = |name| event.text(&Key::Extension(name)).map(str::to_owned);
    assert_eq!(text("deadtopic").as_deref(), Some("fleet/1"));
    assert_eq!(text("deadreason").as_deref(), Some("handed_back"));
    assert_eq!(event.get(&Key::Extension("deadattempts")), Some(Value::Integer(3)));
    assert_eq!(text("parktopic"), None, "a letter says what the event was");
    let known = node.known();
    node.run(300);
    drop(node);

    let mut node = Node::open(&storage, 1, &known);
    let member = node.session(0, "member");
    assert!(node.subscribe(0, member, Some("g"), "fleet/#", None).is_empty());
    node.pass(DELAY_MS);
    assert!(drain(&mut node, member).is_empty(), "nothing comes again");
}

/// The topic keeps every wait there was: who asks what waits now must be told of each event once, with its newest wait, also
/// after a restart, and of none that is over.
#[test]
fn only_what_still_waits_is_told() {
    let storage = SimStorage::new();
    let (mut node, member, publisher, _) = parked_one(&storage);
    assert_eq!(node.parked_now(), ["a 0 delayed"]);
    // So many of its key wait behind it that they are parked, too.
    for _ in 0..40 {
        node.publish(0, publisher, "fleet/1", &["a"; 60]);
        node.run(110);
        node.events(0, publisher);
    }
    node.run(300);
    let told = node.parked_now();
    assert_eq!(told[0], "a 0 delayed");
    let is_behind = |text: &String| text.ends_with(" behind_key");
    assert!(told.len() > 900 && told[1..].iter().all(is_behind), "{:?}", &told[..3]);
    assert_eq!(told.len() as u64, node.report(0).parked, "as many as are counted");
    node.pass(DELAY_MS);
    let first = node.deliveries(0, member);
    assert_eq!(texts(&first), ["a 0"]);
    assert_eq!(node.parked_now()[0], "a 0 in_flight");
    node.say(0, member, &first[0], Verdict::Retry);
    node.run(400);
    assert_eq!(node.parked_now().iter().filter(|text| text.starts_with("a 0 d")).count(), 1);
    let (known, now) = (node.known(), node.now);
    drop(node);

    let mut node = Node::open(&storage, 1, &known);
    node.set_policy("g", slow());
    node.now.wall = now.wall;
    let member = node.session(0, "member");
    node.subscribe(0, member, Some("g"), "fleet/#", None);
    node.run(400);
    assert_eq!(node.parked_now().iter().filter(|text| text.starts_with("a 0 d")).count(), 1);
    node.pass(DELAY_MS);
    for _ in 0..8_000 {
        node.run(1);
        for delivery in node.deliveries(0, member) {
            node.ack(0, member, &delivery);
        }
    }
    assert_eq!((node.report(0).parked, node.parked_now()), (0, Vec::new()), "all waits are over");
}

/// A kill between the copy and the cursor that settles its original: the event may come twice, and none is missing or
/// overtaken.
#[test]
fn a_kill_loses_no_parked_event() {
    for cycles in [1, 3, 10, 30, 60, 120, 160, 200] {
        let storage = SimStorage::new();
        let mut node = Node::open(&storage, 1, &[]);
        let (member, publisher) = (node.session(0, "member"), node.session(0, "publisher"));
        node.subscribe(0, member, Some("g"), "fleet/#", None);
        node.set_policy("g", slow());
        node.publish(0, publisher, "fleet/1", &["a", "b", "a", "b", "a"]);
        node.run(40);
        for delivery in node.deliveries(0, member) {
            node.say(0, member, &delivery, Verdict::Retry);
        }
        node.run(cycles);
        let (known, now) = (node.known(), node.now);
        drop(node);
        let mut node = Node::open(&storage, 1, &known);
        node.now.wall = now.wall;
        let member = node.session(0, "member");
        let mut got = node.subscribe(0, member, Some("g"), "fleet/#", None);
        got.iter().for_each(|delivery| node.ack(0, member, delivery));
        got.extend(drain(&mut node, member));
        node.pass(DELAY_MS);
        got.extend(drain(&mut node, member));
        let mut firsts: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts(&got) {
            let of_key = firsts.entry(text[..1].to_owned()).or_default();
            if !of_key.contains(&text) {
                of_key.push(text);
            }
        }
        assert_eq!(firsts["a"], ["a 0", "a 2", "a 4"], "after {cycles} cycles");
        assert_eq!(firsts["b"], ["b 1", "b 3"], "after {cycles} cycles");
        assert!(got.len() <= 10, "after {cycles} cycles each came twice at most");
        assert_eq!(node.report(0).parked, 0);
    }
}

/// Members that fail at everything must not have memory grow without end: beyond a number of keys the group stops, says so,
/// and goes on by itself.
#[test]
fn a_group_stops_when_too_many_keys_are_parked() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let (member, publisher) = (node.session(0, "member"), node.session(0, "publisher"));
    node.subscribe(0, member, Some("g"), "fleet/#", None);
    node.shards[0].0.set_credit(member, 1, 65_536);
    node.set_policy("g", slow());
    let keys: Vec<String> = (0..PARKED_KEYS_MAX + 500).map(|number| format!("k{number}")).collect();
    let mut offered = 0;
    for keys in keys.chunks(50) {
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        node.publish(0, publisher, "fleet/1", &keys);
        node.run(20);
        for delivery in node.deliveries(0, member) {
            offered += 1;
            node.say(0, member, &delivery, Verdict::Retry);
        }
        node.run(20);
        node.events(0, publisher);
    }
    let place = node.report(0);
    assert!(place.is_stopped, "{place:?}");
    assert!(place.parked <= PARKED_KEYS_MAX as u64, "{place:?}");
    assert!(offered < keys.len(), "nothing more is taken");
    node.pass(DELAY_MS);
    let mut settled = 0;
    for _ in 0..400 {
        node.run(10);
        for delivery in node.deliveries(0, member) {
            settled += texts(std::slice::from_ref(&delivery)).len();
            node.ack(0, member, &delivery);
        }
    }
    let place = node.report(0);
    assert_eq!((settled, place.parked, place.is_stopped), (keys.len(), 0, false), "{place:?}");
}

/// A key with very many events behind a parked one must not keep the other keys back, and its own must come in their order,
/// without a look at each of them whenever something is settled.
#[test]
fn a_busy_key_waits_alone() {
    let (mut node, member, publisher, _) = parked_one(&SimStorage::new());
    let mut others = 0;
    for _ in 0..40 {
        node.publish(0, publisher, "fleet/1", &["a"; 60]);
        node.publish(0, publisher, "fleet/1", &["b", "c"]);
        node.run(110);
        node.events(0, publisher);
        for delivery in node.deliveries(0, member) {
            others += 1;
            assert_ne!(&texts(std::slice::from_ref(&delivery))[0][..1], "a");
            node.ack(0, member, &delivery);
        }
    }
    node.run(300);
    assert_eq!(others, 80, "all of the other keys have come");
    assert!(node.report(0).parked > 1_000, "{:?}", node.report(0));
    node.pass(DELAY_MS);
    let mut got = Vec::new();
    for _ in 0..5_000 {
        node.run(1);
        for delivery in node.deliveries(0, member) {
            got.extend(texts(std::slice::from_ref(&delivery)));
            node.ack(0, member, &delivery);
        }
    }
    let round = (0..60).map(|number| format!("a {number}"));
    let expected: Vec<String> =
        std::iter::once("a 0".to_owned()).chain((0..40).flat_map(|_| round.clone())).collect();
    assert_eq!(got, expected);
    assert_eq!(node.report(0).parked, 0);
}
