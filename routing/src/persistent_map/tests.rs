use std::collections::HashMap;

use super::{BRANCH_SLOTS, LEAF_ENTRIES_MAX, PersistentMap, Slot};
use crate::tests::Random;

/// Hashes of a few kinds, so that leaves split deep, not at all, or never: equal, low digits equal, spread.
fn hashes(key: u64) -> [u64; 4] {
    [7, key << 56, key % 3, key.wrapping_mul(0x9e37_79b9_7f4a_7c15)]
}

/// Edits a map and a plain one in the same way: a split, a prune or a colliding hash that loses an entry would make a
/// subscription disappear.
#[test]
fn agrees_with_a_plain_map_whatever_the_hashes() {
    for kind in 0..4 {
        let mut random = Random(11 + kind as u64);
        let mut map = PersistentMap::<u64, u64>::default();
        let mut plain = HashMap::new();
        for step in 0..4_000 {
            let key = random.below(200);
            let hash = hashes(key)[kind];
            if random.below(3) == 0 {
                assert_eq!(map.remove(hash, &key), plain.remove(&key));
            } else {
                *map.get_or_insert_with(hash, &key, || (key, 0)) = step;
                plain.insert(key, step);
            }
            assert_eq!(map.get(hash, &key), plain.get(&key));
        }
        let mut seen = HashMap::new();
        map.for_each(&mut |key, value| assert!(seen.insert(*key, *value).is_none(), "once"));
        assert_eq!(seen, plain, "hash kind {kind}");
        for key in 0..200 {
            map.remove(hashes(key)[kind], &key);
        }
        assert!(map.is_empty(), "an emptied map holds nothing, hash kind {kind}");
    }
}

/// Changes a copy in every way: shards read the old copy while it happens.
#[test]
fn edits_of_a_copy_leave_the_original_alone() {
    let mut original = PersistentMap::<u64, u64>::default();
    for key in 0..1_000 {
        original.insert_new(hashes(key)[3], key, key);
    }
    let mut copy = original.clone();
    for key in 0..1_000 {
        match key % 3 {
            0 => assert_eq!(copy.remove(hashes(key)[3], &key), Some(key)),
            _ => *copy.get_mut(hashes(key)[3], &key).expect("not removed") = 0,
        }
    }
    for key in 0..1_000 {
        assert_eq!(original.get(hashes(key)[3], &key), Some(&key));
    }
}

/// Grows a map and empties it but for one entry: what is left must be small again, or a server whose subscribers come
/// and go grows for ever.
#[test]
fn removing_prunes_the_branches() {
    let mut map = PersistentMap::<u64, ()>::default();
    let many = (BRANCH_SLOTS * LEAF_ENTRIES_MAX * 4) as u64;
    for key in 0..many {
        map.insert_new(hashes(key)[3], key, ());
    }
    assert!(matches!(map.0, Slot::Branch(_)));
    for key in 1..many {
        map.remove(hashes(key)[3], &key);
    }
    assert!(matches!(&map.0, Slot::Leaf { entries, .. } if entries.len() == 1));
}
