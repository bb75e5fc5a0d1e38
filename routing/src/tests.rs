//! Tests of names, filters, snapshots and the cache together; the trie is checked against [`TopicFilter::matches`].

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::ids::TopicId;

use crate::delivery_policy::DeliveryPolicy;
use crate::match_cache::MatchCache;
use crate::snapshot::{Change, RoutingSnapshot, SnapshotEditor};
use crate::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use crate::topic::{TopicError, TopicFilter, TopicName};

/// A seeded generator (SplitMix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len() as u64) as usize]
    }
}

/// Few words, so that filters share prefixes and names often match.
const WORDS: [&str; 6] = ["a", "b", "c", "A", "é", "$s"];

fn random_name(random: &mut Random) -> TopicName {
    let levels = 1 + random.below(5);
    let words: Vec<_> = (0..levels).map(|_| random.pick(&WORDS)).collect();
    TopicName::new(words.join("/")).unwrap()
}

fn random_filter(random: &mut Random) -> TopicFilter {
    let levels = 1 + random.below(5);
    let mut words: Vec<_> =
        (0..levels).map(|_| if random.below(3) == 0 { "+" } else { random.pick(&WORDS) }).collect();
    match random.below(4) {
        0 => *words.last_mut().unwrap() = "#",
        1 if random.below(30) == 0 => words = vec!["#"],
        _ => {}
    }
    TopicFilter::new(words.join("/")).unwrap()
}

fn subscription(id: u64, group: u64, filter: TopicFilter) -> Arc<Subscription> {
    Arc::new(Subscription {
        id: SubscriptionId(id),
        group: GroupId(group),
        group_name: format!("group-{group}").into(),
        filter,
        mode: Mode::Clustering,
        start: Start::Tail,
        ephemeral_client: None,
    })
}

/// What the snapshot must say, by the plain rule over a plain list.
fn expected(
    known: &BTreeMap<u64, Arc<Subscription>>,
    name: &TopicName,
) -> Vec<(GroupId, SubscriptionId)> {
    let matching = known.values().filter(|known| known.filter.matches(name));
    let mut ids: Vec<_> = matching.map(|known| (known.group, known.id)).collect();
    ids.sort_unstable();
    ids
}

fn matches(snapshot: &RoutingSnapshot, name: &TopicName) -> Vec<(GroupId, SubscriptionId)> {
    let mut out = vec![(GroupId(u64::MAX), SubscriptionId(u64::MAX))];
    snapshot.matches(name, &mut out);
    out
}

/// The rules themselves: everything else is only checked against the plain matcher, so the plain matcher is checked here.
#[test]
fn filters_follow_mqtt() {
    let table = [
        ("a/b", "a/b", true),
        ("a/b", "a/B", false),
        ("a/b", "a", false),
        ("a", "a/b", false),
        ("a/+", "a/b", true),
        ("a/+", "a", false),
        ("a/+", "a/b/c", false),
        ("+/b", "a/b", true),
        ("+", "a", true),
        ("+/+", "a/b", true),
        ("a/#", "a", true),
        ("a/#", "a/b/c", true),
        ("a/#", "ab", false),
        ("a/+/#", "a", false),
        ("a/+/#", "a/b", true),
        ("#", "a/b/c", true),
        ("#", "$sys/a", false),
        ("+/a", "$sys/a", false),
        ("+/#", "$sys/a", false),
        ("$sys/#", "$sys/a", true),
        ("$sys/#", "$sys", true),
        ("$sys/+", "$sys/a", true),
        ("a/+", "a/$b", true),
        ("a/#", "a/$b", true),
    ];
    for (filter, name, matched) in table {
        let filter = TopicFilter::new(filter).unwrap();
        let name = TopicName::new(name).unwrap();
        assert_eq!(filter.matches(&name), matched, "{filter} on {name}");
    }
}

/// Texts that would break an invariant further in: levels that the trie cannot hold, names that look like filters.
#[test]
fn malformed_names_and_filters_are_refused() {
    let long = "x".repeat(1_025);
    let deep = "x/".repeat(32) + "x";
    let both = [
        ("", TopicError::Empty),
        ("/", TopicError::EmptyLevel { level: 1 }),
        ("/a", TopicError::EmptyLevel { level: 1 }),
        ("a/", TopicError::EmptyLevel { level: 2 }),
        ("a//b", TopicError::EmptyLevel { level: 2 }),
        ("a/b\0", TopicError::Nul { level: 2 }),
        (&long, TopicError::TooLong { bytes: 1_025, bytes_max: 1_024 }),
        (&deep, TopicError::TooManyLevels { levels: 33, levels_max: 32 }),
    ];
    for (text, error) in both {
        assert_eq!(TopicName::new(text), Err(error.clone()), "name {text:?}");
        assert_eq!(TopicFilter::new(text), Err(error), "filter {text:?}");
    }
    for text in ["+", "a/#", "a/b+", "#a/b"] {
        assert!(matches!(TopicName::new(text), Err(TopicError::WildcardInName { .. })), "{text}");
    }
    for text in ["a+", "a/+b/c", "a/b#", "##", "+#"] {
        let error = TopicFilter::new(text).unwrap_err();
        assert!(matches!(error, TopicError::WildcardInLevel { .. }), "{text}: {error}");
    }
    for text in ["#/a", "a/#/b", "a/#/#"] {
        let error = TopicFilter::new(text).unwrap_err();
        assert!(matches!(error, TopicError::AllBelowNotLast { .. }), "{text}: {error}");
    }
    assert!(TopicName::new("x".repeat(1_024)).is_ok());
    assert!(TopicName::new("x/".repeat(31) + "x").is_ok());
    assert!(TopicFilter::new("x/".repeat(31) + "#").is_ok());
}

/// Edits and looks up at random: the trie must say what the plain rule says, at every version, and every old version
/// must go on saying what it said, because shards still read it.
#[test]
fn snapshots_agree_with_the_plain_rule_and_never_change() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let mut known = BTreeMap::new();
        let mut snapshot = Arc::new(RoutingSnapshot::empty());
        let mut old = Vec::new();
        let mut next_id = 1;
        for _ in 0..30 {
            let mut editor = SnapshotEditor::new(&snapshot);
            for _ in 0..random.below(20) {
                edit(&mut random, &mut editor, &mut known, &mut next_id);
            }
            let next = Arc::new(editor.finish());
            assert_eq!(next.version(), snapshot.version() + 1);
            assert_eq!(next.len(), known.len());
            old.push((next.clone(), known.clone()));
            snapshot = next;
        }
        for (snapshot, known) in &old {
            for _ in 0..40 {
                let name = random_name(&mut random);
                assert_eq!(matches(snapshot, &name), expected(known, &name), "{name}, seed {seed}");
            }
        }
    }
}

fn edit(
    random: &mut Random,
    editor: &mut SnapshotEditor,
    known: &mut BTreeMap<u64, Arc<Subscription>>,
    next_id: &mut u64,
) {
    if random.below(3) == 0 && !known.is_empty() {
        let at = random.below(known.len() as u64) as usize;
        let id = *known.keys().nth(at).unwrap();
        assert_eq!(editor.remove(SubscriptionId(id)), known.remove(&id));
        return;
    }
    let added = subscription(*next_id, 1 + random.below(5), random_filter(random));
    if editor.find(&added.group_name, &added.filter).is_none() {
        editor.add(added.clone());
        known.insert(*next_id, added);
        *next_id += 1;
    }
}

/// Adds, then removes everything in another order: whatever stays behind would be a leak for the life of the server.
#[test]
fn removing_all_leaves_nothing() {
    let mut random = Random(5);
    let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
    let mut known = BTreeMap::new();
    let mut next_id = 1;
    for _ in 0..2_000 {
        edit(&mut random, &mut editor, &mut known, &mut next_id);
    }
    let full = editor.finish();
    let mut editor = SnapshotEditor::new(&full);
    let ids: Vec<_> = known.keys().rev().copied().collect();
    for id in ids {
        assert!(editor.remove(SubscriptionId(id)).is_some());
        assert!(editor.remove(SubscriptionId(id)).is_none(), "only once");
    }
    let bare = editor.finish();
    assert!(bare.is_bare() && bare.is_empty());
    assert!(!full.is_bare());
}

/// What the control plane and the shards ask by name and number, and the steps they are told.
#[test]
fn a_snapshot_answers_by_name_and_number() {
    let filter = |text: &str| TopicFilter::new(text).unwrap();
    let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
    let first = subscription(1, 7, filter("a/#"));
    let second = subscription(2, 7, filter("b"));
    editor.add(second.clone());
    editor.add(first.clone());
    let snapshot = editor.finish();
    assert_eq!(snapshot.subscription(SubscriptionId(1)), Some(&first));
    assert_eq!(snapshot.subscription(SubscriptionId(3)), None);
    assert_eq!(snapshot.find("group-7", &filter("b")), Some(&second));
    assert_eq!(snapshot.find("group-7", &filter("a")), None);
    assert_eq!(snapshot.find("group-8", &filter("b")), None);
    assert_eq!(snapshot.group_by_name("group-7"), Some(GroupId(7)));
    assert_eq!(snapshot.subscriptions_of(GroupId(7)), [&first, &second], "by rising number");
    assert!(snapshot.subscriptions_of(GroupId(8)).is_empty());
    assert_eq!(snapshot.changes(), [Change::Added(second.clone()), Change::Added(first.clone())]);

    let mut editor = SnapshotEditor::new(&snapshot);
    editor.remove(SubscriptionId(1));
    let snapshot = editor.finish();
    assert_eq!(snapshot.changes(), [Change::Removed(first)]);
    assert_eq!(snapshot.group_by_name("group-7"), Some(GroupId(7)), "one subscription is left");
}

/// A group that is moved must be found under its new number alone, keep its pause and its filters, and leave nothing
/// behind when it ends.
#[test]
fn a_moved_group_is_one_group() {
    let filter = |text: &str| TopicFilter::new(text).unwrap();
    let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
    editor.add(subscription(1, 7, filter("a/#")));
    editor.add(subscription(2, 7, filter("b")));
    editor.set_paused(GroupId(7), true);
    editor.set_paused(GroupId(7), true);
    let first = editor.finish();
    assert_eq!(first.changes().len(), 3, "what is so already is no change");
    assert!(first.is_paused(GroupId(7)));

    let mut editor = SnapshotEditor::new(&first);
    assert!(editor.seek(GroupId(9), GroupId(10), &Start::Tail).is_none(), "there is no such group");
    let sought = editor.seek(GroupId(7), GroupId(8), &Start::Earliest).unwrap();
    assert_eq!((sought.from(), sought.to()), (GroupId(7), GroupId(8)));
    let moved = editor.finish();
    let expected =
        [Change::Sought(sought.clone()), Change::Paused { group: GroupId(8), is_paused: true }];
    assert_eq!(moved.changes(), expected);
    assert!(moved.subscriptions_of(GroupId(7)).is_empty() && !moved.is_paused(GroupId(7)));
    assert_eq!(moved.group_by_name("group-7"), Some(GroupId(8)));
    assert!(first.is_paused(GroupId(7)), "the version before is as it was");
    let name = TopicName::new("a/x").unwrap();
    assert_eq!(matches(&moved, &name), [(GroupId(8), SubscriptionId(1))]);
    assert_eq!(moved.subscription(SubscriptionId(2)).unwrap().start, Start::Earliest);

    let mut editor = SnapshotEditor::new(&moved);
    editor.remove(SubscriptionId(1));
    editor.remove(SubscriptionId(2));
    let bare = editor.finish();
    assert!(bare.is_bare() && !bare.is_paused(GroupId(8)));
}

/// A policy that goes with its group's subscriptions, or that another version sees, would change what was not asked for.
#[test]
fn policies_stand_by_the_groups_name() {
    let name: Arc<str> = "group-7".into();
    let policy = Arc::new(DeliveryPolicy { attempts_max: Some(3), ..DeliveryPolicy::default() });
    let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
    editor.set_policy(&name, Some(policy.clone()));
    assert!(!editor.is_unchanged());
    let first = editor.finish();
    assert_eq!(first.policy("group-7"), Some(&policy), "before the group is there");
    assert_eq!(first.changes(), [Change::Policy(name.clone())]);

    let mut editor = SnapshotEditor::new(&first);
    editor.add(subscription(1, 7, TopicFilter::new("a").unwrap()));
    editor.remove(SubscriptionId(1));
    let second = editor.finish();
    assert_eq!(second.policy("group-7"), Some(&policy), "after the group is gone");

    let mut editor = SnapshotEditor::new(&second);
    editor.set_policy(&name, None);
    let third = editor.finish();
    assert_eq!(third.changes(), [Change::Policy(name)]);
    assert!(third.is_bare());
    assert_eq!(second.policy("group-7"), Some(&policy), "an older version is as it was");
}

/// Names and filters at the limit of levels fill the look-up's fixed array: one level lost there would match too much.
#[test]
fn the_deepest_filters_match() {
    let deep = "x/".repeat(31) + "x";
    let name = TopicName::new(deep.clone()).unwrap();
    let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
    let filters = [deep, "+/".repeat(31) + "+", "x/".repeat(31) + "#", "#".to_owned()];
    for (index, text) in filters.iter().enumerate() {
        let filter = TopicFilter::new(text.as_str()).unwrap();
        editor.add(subscription(1 + index as u64, 1, filter));
    }
    assert_eq!(matches(&editor.finish(), &name).len(), 4);
}

/// Asks a small cache for many topics over many versions: a stale or a foreign answer would send events to the wrong
/// group or to none.
#[test]
fn the_cache_says_what_the_snapshot_says() {
    let mut random = Random(3);
    let names: Vec<_> = (0..64).map(|_| random_name(&mut random)).collect();
    let mut snapshot = RoutingSnapshot::empty();
    let mut known = BTreeMap::new();
    let mut next_id = 1;
    for (topics_max, matches_max) in [(16, 1 << 20), (64, 100), (1, 0)] {
        let mut cache = MatchCache::with_limits(topics_max, matches_max);
        for _ in 0..50 {
            let mut editor = SnapshotEditor::new(&snapshot);
            edit(&mut random, &mut editor, &mut known, &mut next_id);
            snapshot = editor.finish();
            for _ in 0..100 {
                let at = random.below(names.len() as u64) as usize;
                let topic = TopicId(1 + at as u32);
                let expected = matches(&snapshot, &names[at]);
                assert_eq!(cache.get(&snapshot, topic, || names[at].clone()), expected);
            }
        }
        // One topic alone may exceed the limit; each match takes 16 bytes, an entry 40.
        let bytes_max = topics_max.next_power_of_two() * 64 + 4 * 16 * (matches_max + known.len());
        assert!(cache.memory_bytes() <= bytes_max, "{} > {bytes_max}", cache.memory_bytes());
    }
}
