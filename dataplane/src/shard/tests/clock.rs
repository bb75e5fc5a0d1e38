//! A wall clock that is set back.

use super::*;

const HOUR_US: u64 = 3_600_000_000;

/// A group's subscribe waits until its cursor is durable, which nobody hurries on a server where nothing else happens: while
/// the clock stands still it would wait for as long as that was set back.
#[test]
fn a_clock_set_back_holds_nobody_up() {
    let storage = SimStorage::new();
    let mut node = Node::open(&storage, 1, &[]);
    let early = node.now.wall;
    node.now.wall.0 += 2 * HOUR_US;
    let writer = node.session(0, "writer");
    node.publish(0, writer, "a", &KEYS);
    node.run(40);
    assert_eq!(node.events(0, writer).len(), KEYS.len());
    node.now.wall.0 -= HOUR_US;
    assert!(is_answered(&mut node, "running"));
    drop(node);
    let mut node = Node::open(&storage, 1, &[]);
    assert!(node.now.wall.0 < early.0 + HOUR_US, "the machine has started with an old clock");
    assert!(is_answered(&mut node, "restarted"));
}

/// Whether a group's first subscribe is answered within half a second.
fn is_answered(node: &mut Node, group: &str) -> bool {
    let session = node.session(0, group);
    let wish = SubscribeRequest {
        request: 1,
        group: Some(group.into()),
        filter: TopicFilter::new("#").unwrap(),
        mode: Mode::Clustering,
        start: None,
        credit: 1,
    };
    node.shards[0].0.subscribe(session, wish).unwrap();
    node.run(500);
    let heard = node.events(0, session);
    heard.iter().any(|event| matches!(event, SessionEvent::Subscribed { request: 1 }))
}

/// Append times must not fall, or seeking by time would lose its way; and an event must not seem older than it is.
#[test]
fn append_times_rise_and_never_faster_than_time() {
    let mut node = Node::open(&SimStorage::new(), 1, &[]);
    let writer = node.session(0, "writer");
    let reader = node.session(0, "reader");
    node.subscribe(0, reader, Some("all"), "#", None);
    let mut times = Vec::new();
    for step in 0..20 {
        if step == 5 {
            node.now.wall.0 -= 60_000;
        }
        node.publish(0, writer, "a", &["k"]);
        let published_us = node.now.mono_us;
        node.run(20);
        for delivery in node.deliveries(0, reader) {
            times.push((delivery.batch.header.append_time.0, published_us));
            node.ack(0, reader, &delivery);
        }
    }
    assert_eq!(times.len(), 20);
    for pair in times.windows(2) {
        let [(before, before_us), (after, after_us)] = pair else { unreachable!() };
        assert!(before < after && after - before <= after_us - before_us, "{pair:?}");
    }
    let last = times.last().expect("some came");
    assert!(node.now.wall.0 - last.0 <= 40_000, "it has come up with the wall clock");
}
