//! Retention by topic: with small segments and a fast clock the disk stays within what topics are kept by, whatever else is
//! in the log, and readers below a start get nothing that has expired.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::ids::{Offset, Partition, Position, Timestamp};

use super::harness::{Bench, small_options};
use crate::log::retention::{Keep, TopicRetention};
use crate::reader::{ReadStep, Reader};

/// What topics are kept by, by name.
#[derive(Debug)]
struct Rules(u64, BTreeMap<&'static str, Keep>);

impl TopicRetention for Rules {
    fn version(&self) -> u64 {
        self.0
    }

    fn of(&self, topic: &str) -> Option<Keep> {
        self.1.get(topic).copied()
    }

    fn shortest_age_us(&self) -> Option<u64> {
        self.1.values().map(|keep| keep.age_us).filter(|age| *age > 0).min()
    }
}

const SECOND: u64 = 1_000_000;

fn age(seconds: u64) -> Keep {
    Keep { age_us: seconds * SECOND, bytes: 0 }
}

fn keep(bench: &mut Bench, version: u64, rules: &[(&'static str, Keep)]) {
    let rules = Rules(version, rules.iter().copied().collect());
    bench.log.keep_topics_by(Some(Arc::new(rules)));
}

/// Publishes 200 batches of 20,000 bytes to each topic in turn, in `seconds`.
fn publish(bench: &mut Bench, topics: &[&str], seconds: u64) {
    for _ in 0..200 {
        for topic in topics {
            while bench.append_this(topic, Partition(1), 1, vec![7; 20_000]).is_err() {
                bench.settle();
            }
        }
        bench.now += seconds * SECOND / 200;
        bench.run();
        bench.complete();
    }
    bench.settle();
}

/// Lets chores, passes and checkpoints come to rest.
fn rest(bench: &mut Bench) {
    for _ in 0..200 {
        bench.now += 50_000;
        bench.run();
        while bench.complete() {}
    }
}

/// Offsets that a reader of everything gets of a topic, and how many it is told have expired.
fn offsets(bench: &mut Bench, topic: &str) -> (Vec<Offset>, u64) {
    let id = bench.log.topic_id(topic).expect("it was published to");
    let (end, mut found, mut expired) = (bench.log.positions().durable_end(), Vec::new(), 0);
    let mut reader = Reader::new(Position(0));
    loop {
        let step = bench.log.read(&mut reader, end, &mut |topic| topic == id, &mut bench.disk);
        expired += reader.take_expired();
        match step {
            ReadStep::Batch(batch) => found.push(batch.header.base_offset),
            ReadStep::Pending | ReadStep::More | ReadStep::Expired { .. } => {
                while bench.complete() {}
            }
            ReadStep::End => return (found, expired),
            other => panic!("{other:?}"),
        }
    }
}

/// The aim of a policy is that the disk does not fill. All that is older goes, and what is younger stays.
#[test]
fn old_segments_go_and_young_ones_stay() {
    let mut bench = Bench::new(3, small_options());
    keep(&mut bench, 1, &[("a", age(60)), ("b", age(60))]);
    for _ in 0..6 {
        publish(&mut bench, &["a", "b"], 60);
        rest(&mut bench);
        let bytes = bench.log.allocated_bytes();
        assert!(bytes < 28 << 20, "two minutes of 16 MB each, and what is prepared: {bytes}");
    }
    let (kept, expired) = offsets(&mut bench, "a");
    assert!(kept.len() >= 150, "most of a minute is kept: {}", kept.len());
    assert_eq!(expired, 0, "what expires goes with its segment");
    let id = bench.log.topic_id("a").unwrap();
    assert_eq!(kept.first(), Some(&bench.log.logical_start(id, Partition(1))));
    assert!(bench.log.expired_events() > 1_000);
    bench.now += 600 * SECOND;
    publish(&mut bench, &["c"], 1);
    rest(&mut bench);
    assert!(offsets(&mut bench, "a").0.len() < 100, "what is left stands in the last segments");
}

/// A topic that is kept for long must not keep the events of its neighbours readable; and no rule of theirs may take its
/// own, nor those of topics without a rule.
#[test]
fn each_topic_is_kept_by_its_own_rule() {
    let mut bench = Bench::new(4, small_options());
    let long = Keep { age_us: 0, bytes: 0 };
    keep(&mut bench, 1, &[("short", age(10)), ("long", long)]);
    publish(&mut bench, &["short", "long", "usual"], 60);
    rest(&mut bench);
    let all = |count: u64| (0..count).map(Offset).collect::<Vec<_>>();
    assert_eq!(offsets(&mut bench, "long"), (all(200), 0));
    assert_eq!(offsets(&mut bench, "usual"), (all(200), 0), "nothing is said of it");
    let (kept, expired) = offsets(&mut bench, "short");
    assert!(expired > 100 && kept.len() as u64 + expired == 200, "{expired} are told");
    let id = bench.log.topic_id("short").unwrap();
    assert_eq!(bench.log.logical_start(id, Partition(1)).0, expired);
    bench.crash();
    bench.now += SECOND;
    assert_eq!(offsets(&mut bench, "long").0.len(), 200, "a restart takes nothing");
    keep(&mut bench, 1, &[("short", age(10)), ("long", long)]);
    rest(&mut bench);
    let start = bench.log.logical_start(id, Partition(1)).0;
    assert!(start >= expired, "what has expired stays so");
    assert_eq!(offsets(&mut bench, "short").0.len() as u64, 200 - start);
    keep(&mut bench, 2, &[("short", age(10)), ("long", age(10)), ("usual", age(10))]);
    bench.now += 60 * SECOND;
    rest(&mut bench);
    assert!(bench.log.allocated_bytes() < 8 << 20, "then the segments go");
}

/// A log that is opened does not know yet what topics are kept by. What the log itself keeps no longer, and a topic does,
/// must be there when it does.
#[test]
fn a_start_takes_nothing_before_the_rules_are_known() {
    let mut options = small_options();
    options.log.retention_bytes = Some(2 << 20);
    let mut bench = Bench::new(6, options);
    let for_ever = [("a", Keep { age_us: 0, bytes: 0 })];
    keep(&mut bench, 1, &for_ever);
    publish(&mut bench, &["a"], 1);
    rest(&mut bench);
    assert_eq!(offsets(&mut bench, "a").0.len(), 200);
    bench.crash();
    bench.now += SECOND;
    bench.log.await_topic_rules();
    rest(&mut bench);
    keep(&mut bench, 1, &for_ever);
    rest(&mut bench);
    assert_eq!(offsets(&mut bench, "a").0.len(), 200);
    bench.log.keep_topics_by(None);
    rest(&mut bench);
    assert!(offsets(&mut bench, "a").0.len() < 200, "without a rule the log's own holds");
}

/// At least what was promised is kept of each partition, and not much more.
#[test]
fn bytes_are_kept_by_partition() {
    let mut bench = Bench::new(5, small_options());
    keep(&mut bench, 1, &[("a", Keep { age_us: 0, bytes: 2 << 20 })]);
    publish(&mut bench, &["a", "b"], 1);
    rest(&mut bench);
    let (kept, expired) = offsets(&mut bench, "a");
    let bytes = kept.len() as u64 * 20_000;
    assert!(bytes >= 2 << 20, "{bytes} bytes are kept");
    assert!(bytes < 4 << 20, "{bytes} bytes are kept");
    assert_eq!(kept.len() as u64 + expired, 200);
    assert_eq!(offsets(&mut bench, "b").0.len(), 200);
    bench.crash();
    keep(&mut bench, 1, &[("a", Keep { age_us: 0, bytes: 2 << 20 })]);
    publish(&mut bench, &["a"], 1);
    rest(&mut bench);
    let (kept, _) = offsets(&mut bench, "a");
    assert!(
        (2 << 20..4 << 20).contains(&(kept.len() * 20_000)),
        "after a restart, too: {}",
        kept.len()
    );
    assert!(bench.log.next_wakeup().is_some_and(|at| at > Timestamp(bench.now)), "it rests");
}

/// A commit that waits for the disk takes events long after it was begun: none of them may go by the age of the first.
#[test]
fn an_event_goes_by_its_own_age_and_not_by_that_of_its_commit() {
    let mut bench = Bench::new(7, small_options());
    let rules = [("a", age(10))];
    keep(&mut bench, 1, &rules);
    let mut appended = Vec::new();
    let mut expired = 0;
    for round in 1..=100 {
        for seconds in [0, 9] {
            bench.now += seconds * SECOND;
            bench.append_this("a", Partition(1), 1, vec![7; 20_000]).unwrap();
            appended.push(bench.now);
        }
        bench.settle();
        if round % 30 == 0 {
            expired += bench.log.expired_events();
            bench.kill();
            keep(&mut bench, 1, &rules);
        }
        for _ in 0..50 {
            bench.now += 50_000;
            bench.run();
            while bench.complete() {}
        }
        let id = bench.log.topic_id("a").unwrap();
        let start = bench.log.logical_start(id, Partition(1)).0 as usize;
        let kept_from = appended.iter().position(|at| at + 10 * SECOND > bench.now);
        assert!(
            kept_from.is_none_or(|from| start <= from),
            "round {round}: {start} events went, {kept_from:?} of them were old"
        );
    }
    expired += bench.log.expired_events();
    assert!(expired > 150, "old ones go all the same: {expired}");
}

/// A clock that was set back over a restart makes later segments look older than those before them. Gone before those, they would
/// take the younger-looking events before them along, since what is kept of a partition has one start.
#[test]
fn a_clock_set_back_takes_no_event_before_its_time() {
    let mut bench = Bench::new(8, small_options());
    let rules = [("a", age(100))];
    keep(&mut bench, 1, &rules);
    bench.now += 1_000 * SECOND;
    publish(&mut bench, &["a"], 10);
    let (first_end, published_by) = (offsets(&mut bench, "a").0.len() as u64, bench.now);
    bench.log.begin_shutdown(Timestamp(bench.now));
    bench.settle();
    bench.kill();
    bench.now -= 500 * SECOND;
    keep(&mut bench, 1, &rules);
    publish(&mut bench, &["a"], 10);
    let later_aged = bench.now + 110 * SECOND;
    let start = |bench: &Bench| {
        let id = bench.log.topic_id("a").unwrap();
        bench.log.logical_start(id, Partition(1)).0
    };
    for now in [later_aged, published_by + 80 * SECOND] {
        bench.now = now;
        rest(&mut bench);
        assert_eq!(start(&bench), 0, "the first events are younger than their topic's age");
    }
    bench.now = published_by + 110 * SECOND;
    rest(&mut bench);
    assert!(start(&bench) > first_end, "then all go that are old: {}", start(&bench));
}
