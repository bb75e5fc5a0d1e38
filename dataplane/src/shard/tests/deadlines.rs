//! Deadlines of very many groups.

use super::*;

const GROUPS: usize = 200;

/// A node, its publisher, and as many groups as [`GROUPS`], each with one member that has all of `KEYS` in flight.
fn busy_groups() -> (Node, SessionKey, Vec<SessionKey>) {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let publisher = node.session(0, "publisher");
    let members: Vec<SessionKey> = (0..GROUPS)
        .map(|number| {
            let member = node.session(0, &format!("member-{number}"));
            node.subscribe(0, member, Some(&format!("g{number}")), "a/#", None);
            member
        })
        .collect();
    node.publish(0, publisher, "a/b", &KEYS);
    node.run(40);
    for member in &members {
        assert_eq!(texts(&node.deliveries(0, *member)).len(), KEYS.len());
    }
    (node, publisher, members)
}

/// A look at all of them at once would be a pause for everybody.
#[test]
fn a_cycle_looks_at_the_deadlines_of_few_groups() {
    let (mut node, ..) = busy_groups();
    node.now.mono_us += 31_000_000;
    let mut expired = 0;
    for cycle in 0.. {
        node.run(1);
        let before = std::mem::replace(&mut expired, node.shards[0].0.stats().expired_events);
        let groups = (expired - before) as usize / KEYS.len();
        assert!(groups <= 64, "{groups} groups in one cycle");
        if expired as usize == GROUPS * KEYS.len() {
            break;
        }
        assert!(node.shards[0].0.has_work(), "the rest is not left for later");
        assert!(cycle < 100, "each group has its turn: {expired}");
    }
}

/// What was in flight to members that are gone costs nothing until one of them returns, and is delivered then.
#[test]
fn groups_without_members_are_not_looked_at() {
    let (mut node, _, members) = busy_groups();
    assert_eq!(node.shards[0].0.watched.len(), GROUPS);
    for member in members {
        node.shards[0].0.close_session(member);
    }
    // Past the next look, and all its cycles.
    node.run(200);
    assert_eq!(node.shards[0].0.watched.len(), 0, "nobody is there to have a deadline");
    let again = node.session(0, "again");
    let owed = node.subscribe(0, again, Some("g7"), "a/#", None);
    assert_eq!(texts(&owed).len(), KEYS.len(), "what was in flight is owed");
    node.run(200);
    assert_eq!(node.shards[0].0.watched.len(), 1);
    node.now.mono_us += 31_000_000;
    node.run(200);
    assert_eq!(node.shards[0].0.stats().expired_events as usize, KEYS.len(), "it has deadlines");
}
