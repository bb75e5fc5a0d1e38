//! Counts by the index, against the model.

use std::collections::BTreeSet;

use codec::ids::{Offset, Partition, Position, Timestamp};

use super::harness::Bench;
use super::wanted::{random_log, random_topics};
use crate::count::{CountStep, Counted, EventCount};

/// Counts topics from a position on. Offsets below `floor` do not count.
fn count(bench: &mut Bench, from: Position, topics: &BTreeSet<String>, floor: Offset) -> Counted {
    let mut count = EventCount::new(from, false);
    for topic in topics {
        let Some(id) = bench.log.topic_id(topic) else { continue };
        for partition in (0..3).map(Partition) {
            count.add(id, partition, floor);
        }
    }
    for _ in 0..1_000_000 {
        match bench.log.count(&mut count, &mut bench.disk) {
            CountStep::Done(counted) => return counted,
            CountStep::Pending => assert!(bench.complete(), "someone completes what is pending"),
            CountStep::More => {}
        }
    }
    panic!("the count does not come to its end");
}

/// An operator who is told of fewer events than come, or of a number that is exact and wrong, makes the wrong move.
#[test]
fn counts_are_what_stands_there() {
    let (mut exact, mut bounds) = (0, 0);
    for seed in 0..6 {
        let mut bench = random_log(seed);
        for round in 0..60 {
            if round % 20 == 19 {
                // What was in memory is unmapped now, and some of it is read again.
                bench.crash();
            }
            let topics = random_topics(&mut bench.random);
            let at = bench.random.below(bench.sent.len() as u64) as usize;
            let from = match round % 4 {
                0 => Position(0),
                1 => bench.log.positions().end(),
                _ => bench.sent[at].position,
            };
            let floor = Offset(if bench.random.one_in(4) { bench.random.below(400) } else { 0 });
            let wanted = bench.sent.iter().filter(|sent| topics.contains(&sent.topic));
            let events = |sent: &super::harness::Sent| {
                let first = sent.offset.0.max(floor.0).min(sent.offset.0 + u64::from(sent.count));
                sent.offset.0 + u64::from(sent.count) - first
            };
            let there: u64 = wanted.filter(|sent| sent.position >= from).map(events).sum();
            let counted = count(&mut bench, from, &topics, floor);
            assert!(counted.events >= there, "seed {seed}: {counted:?}, {there} there");
            if counted.is_exact {
                assert_eq!(counted.events, there, "seed {seed} from {from}");
                exact += 1;
            } else {
                bounds += 1;
            }
        }
    }
    assert!(exact > 3 * bounds && bounds > 0, "{exact} exact, {bounds} bounds");
}

/// From a time on: commits that were begun before it count for as far as nothing better is known, and never too few.
#[test]
fn counts_from_a_time_miss_nothing() {
    let mut bench = random_log(1);
    let topics: BTreeSet<String> = (0..8).map(|topic| format!("often/{topic}")).collect();
    for round in 0..20 {
        let time = Timestamp(1_000_000 + bench.random.below(bench.now - 1_000_000));
        let position = loop {
            match bench.log.seek_time(time, &mut bench.disk) {
                crate::seek::Seek::At(position) => break position,
                _ => assert!(bench.complete(), "someone completes what is pending"),
            }
        };
        let wanted = bench.sent.iter().filter(|sent| topics.contains(&sent.topic));
        let behind = wanted.filter(|sent| sent.position >= position);
        let there: u64 = behind.map(|sent| u64::from(sent.count)).sum();
        let mut count = EventCount::new(position, true);
        for topic in &topics {
            let id = bench.log.topic_id(topic).expect("it is published to");
            (0..3).for_each(|partition| count.add(id, Partition(partition), Offset(0)));
        }
        let counted = loop {
            match bench.log.count(&mut count, &mut bench.disk) {
                CountStep::Done(counted) => break counted,
                CountStep::Pending => assert!(bench.complete(), "someone completes it"),
                CountStep::More => {}
            }
        };
        assert_eq!(counted.events, there, "round {round}: the commit that holds it counts whole");
    }
}
