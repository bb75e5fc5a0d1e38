//! The delivery policies of a run's groups, and the events that no member will ever take. Drawn from numbers of their own:
//! a run without policies is as it would be without this module.

use std::collections::BTreeMap;
use std::sync::Arc;

use routing::delivery_policy::{DeliveryPolicy, OnExhausted};

use crate::ledger::BatchId;
use crate::random::Random;

/// How every member fails at an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poison {
    /// It rejects it.
    Rejected,
    /// It hands it back, each time.
    HandedBack,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// By the group's name, as clients give it.
    by_group: BTreeMap<Arc<str>, DeliveryPolicy>,
    /// What waits longer is parked; none: as without policies.
    pub park_after_us: Option<u64>,
    /// How many in a thousand events no member takes.
    poison_per_mille: u64,
    /// How many in a thousand deliveries any member hands back while faults go on.
    pub returned_per_mille: u64,
    salt: u64,
}

impl Policies {
    /// The policies of a run with these groups.
    #[must_use]
    pub fn new(random: &mut Random, groups: impl Iterator<Item = Arc<str>>) -> Policies {
        if !random.chance(450) {
            return Policies::default();
        }
        let park_after_us = [None, Some(500), Some(3_000), Some(20_000), Some(60_000)];
        let mut policies = Policies {
            by_group: BTreeMap::new(),
            park_after_us: random.pick(&park_after_us),
            poison_per_mille: random.pick(&[0, 20, 60]),
            returned_per_mille: random.pick(&[20, 100, 250]),
            salt: random.next_u64(),
        };
        for group in groups {
            let policy = policy(random);
            policies.by_group.entry(group).or_insert(policy);
        }
        policies
    }

    /// Whether a run has any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_group.is_empty()
    }

    /// The policy of the group that clients name so.
    #[must_use]
    pub fn of(&self, group: &str) -> Option<&DeliveryPolicy> {
        self.by_group.get(group)
    }

    /// Every policy with its group's name.
    pub fn each(&self) -> impl Iterator<Item = (&Arc<str>, &DeliveryPolicy)> {
        self.by_group.iter()
    }

    /// How every member of a group fails at an event: the same each time it comes, in every life of the node.
    #[must_use]
    pub fn poison(&self, group: &str, id: BatchId, index: u32) -> Option<Poison> {
        if self.poison_per_mille == 0 {
            return None;
        }
        let name = u64::from(codec::crc32c::crc32c(group.as_bytes()));
        let event = u64::from(id.0) << 8 | u64::from(index);
        let mut random = Random::new(self.salt ^ name << 32 ^ event.wrapping_mul(0x9e37_79b9));
        if !random.chance(self.poison_per_mille) {
            return None;
        }
        // Without a last attempt it would be handed back for ever.
        let has_last = self.of(group).is_some_and(|policy| policy.attempts_max.is_some());
        let is_returned = has_last && random.chance(500);
        Some(if is_returned { Poison::HandedBack } else { Poison::Rejected })
    }
}

fn policy(random: &mut Random) -> DeliveryPolicy {
    let drops = random.chance(150);
    DeliveryPolicy {
        attempts_max: random.pick(&[None, None, Some(1), Some(2), Some(3), Some(5)]),
        retry_delay_ms: random.pick(&[None, Some(1), Some(5), Some(30), Some(80)]),
        retry_delay_max_ms: random.pick(&[None, Some(50), Some(150)]),
        jitter_percent: random.pick(&[0, 30]),
        ack_timeout_ms: random.pick(&[None, None, Some(200), Some(800)]),
        in_flight_max: random.pick(&[None, None, Some(1), Some(10)]),
        age_max_ms: random.pick(&[None, None, None, None, Some(1_000), Some(3_000)]),
        on_exhausted: if drops { OnExhausted::Drop } else { OnExhausted::DeadLetter },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event that only some of its deliveries fail at would be settled, and nothing would be learned of dead letters.
    #[test]
    fn poison_stays_poison() {
        let groups = || ["g".into(), "h".into()].into_iter();
        let with = |seed| Policies::new(&mut Random::new(seed), groups());
        let seed = (0..100).find(|seed| with(*seed).poison_per_mille > 0).expect("most have some");
        let (policies, again) = (with(seed), with(seed));
        let all = || (0..1_000).flat_map(|id| (0..3).map(move |index| (BatchId(id), index)));
        let bad = |policies: &Policies, group| -> Vec<_> {
            all().filter(|(id, index)| policies.poison(group, *id, *index).is_some()).collect()
        };
        assert_eq!(bad(&policies, "g"), bad(&again, "g"));
        assert!((20..400).contains(&bad(&policies, "g").len()), "{}", bad(&policies, "g").len());
        assert_ne!(bad(&policies, "g"), bad(&policies, "h"), "each group fails at its own");
    }
}
