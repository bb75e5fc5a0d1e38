//! Groups whose members have divided the keys among them, over two shards.

use super::*;
use crate::group::keys::{KEY_PARTS, KeyShare, key_hash};

fn part(key: &str) -> usize {
    (key_hash(key) % KEY_PARTS as u64) as usize % 2
}

/// A key whose member has its credit on another shard must not wait for as long as some other member, which takes none of
/// such keys, has credit where the event is: that can be for ever.
#[test]
fn a_keys_own_member_is_asked_for_credit() {
    let mut node = Node::open(&SimStorage::new(), 2, &[]);
    let members = [0, 1].map(|home| {
        let session = node.session(home, &format!("member-{home}"));
        let wish = SubscribeRequest {
            request: 1,
            group: Some("sticky".into()),
            filter: TopicFilter::new("fleet/#").unwrap(),
            mode: Mode::Clustering,
            start: None,
            // One event at a time of the second: a shard that is not its home has none of that.
            credit: if home == 0 { 100 } else { 1 },
        };
        let share = KeyShare::new(|part| part % 2 == home);
        let client = format!("client-{home}").into();
        node.shards[home].0.subscribe_sharing(session, client, wish, share).unwrap();
        node.run(150);
        session
    });
    let publisher = node.session(0, "publisher");
    let names: Vec<String> = (0..40).map(|number| format!("car-{number}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).filter(|key| part(key) == 1).collect();
    let keys = &keys[..3];
    node.publish(0, publisher, "fleet/a", keys);
    for key in keys {
        node.run(50);
        let got = node.deliveries(1, members[1]);
        assert_eq!(got.len(), 1, "{key} waits for credit that is not used");
        node.ack(1, members[1], &got[0]);
    }
    assert!(node.deliveries(0, members[0]).is_empty(), "none of the keys is the other member's");
}
