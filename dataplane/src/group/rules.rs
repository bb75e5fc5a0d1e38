//! What a group's delivery policy means on a shard: what it leaves open is filled in from the shard's options.

use routing::delivery_policy::{DeliveryPolicy, OnExhausted};

use crate::options::{CREDIT_MAX, ShardOptions};

/// By which a group delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Attempts after which an event is exhausted; `u32::MAX`: never.
    pub attempts_max: u32,
    /// The delay before the second attempt of an event that was handed back; doubles from there.
    pub retry_delay_us: u64,
    /// The longest such delay.
    pub retry_delay_max_us: u64,
    /// By how many hundredths a delay may be shorter.
    pub jitter_percent: u8,
    /// What waits longer is parked.
    pub park_after_us: u64,
    /// How long a member may keep a delivery unsettled.
    pub ack_timeout_us: u64,
    /// Most events in flight to one member.
    pub in_flight_max: u32,
    /// Age from which an event is not delivered any more; `u64::MAX`: none.
    pub age_max_us: u64,
    /// Whether what is exhausted is gone, instead of standing among the group's dead letters.
    pub drops: bool,
}

impl Rules {
    /// The rules of a group. What an ephemeral one cannot be given ends with it, so it has no dead letters.
    #[must_use]
    pub fn new(options: &ShardOptions, policy: Option<&DeliveryPolicy>, is_durable: bool) -> Self {
        let policy = policy.copied().unwrap_or_default();
        let us = |ms: u64| ms.saturating_mul(1_000);
        let retry_delay_us = policy.retry_delay_ms.map_or(options.retry_delay_us, us);
        let delay_max_us = policy.retry_delay_max_ms.map_or(options.retry_delay_max_us, us);
        Rules {
            attempts_max: policy.attempts_max.unwrap_or(u32::MAX),
            retry_delay_us,
            retry_delay_max_us: delay_max_us.max(retry_delay_us),
            jitter_percent: policy.jitter_percent.min(100),
            park_after_us: options.park_after_us,
            ack_timeout_us: policy.ack_timeout_ms.map_or(options.ack_deadline_us, us),
            in_flight_max: policy.in_flight_max.unwrap_or(CREDIT_MAX).clamp(1, CREDIT_MAX),
            age_max_us: policy.age_max_ms.map_or(u64::MAX, us),
            drops: policy.on_exhausted == OnExhausted::Drop || !is_durable,
        }
    }

    /// How long an event that was handed back at this attempt rests. Jitter is drawn from `seed`, so that a run can be
    /// had again.
    #[must_use]
    pub fn retry_delay(&self, attempt: u32, seed: u64) -> u64 {
        let doubled = self.retry_delay_us.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        let delay = doubled.min(self.retry_delay_max_us);
        let spread = delay / 100 * u64::from(self.jitter_percent);
        let delay = delay - if spread == 0 { 0 } else { mixed(seed) % (spread + 1) };
        assert!(delay <= self.retry_delay_max_us, "jitter only shortens a delay");
        delay
    }
}

/// A number that tells nothing of `seed` (SplitMix64).
fn mixed(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A delay that overflows, passes its cap or does not grow would retry at once, or never again.
    #[test]
    fn delays_double_up_to_their_cap() {
        let policy = DeliveryPolicy {
            retry_delay_ms: Some(100),
            retry_delay_max_ms: Some(1_000),
            ..DeliveryPolicy::default()
        };
        let rules = Rules::new(&ShardOptions::default(), Some(&policy), true);
        let delays: Vec<u64> = (1..7).map(|attempt| rules.retry_delay(attempt, 0)).collect();
        assert_eq!(delays, [100_000, 200_000, 400_000, 800_000, 1_000_000, 1_000_000]);
        assert_eq!(rules.retry_delay(u32::MAX, 0), 1_000_000);
        let half = Rules { jitter_percent: 50, ..rules };
        let drawn: Vec<u64> = (0..1_000).map(|seed| half.retry_delay(9, seed)).collect();
        assert!(drawn.iter().all(|delay| (500_000..=1_000_000).contains(delay)));
        assert!(drawn.iter().any(|delay| *delay < 550_000), "{drawn:?}");
        assert!(drawn.iter().any(|delay| *delay > 950_000), "{drawn:?}");
    }

    /// A policy that says nothing must change nothing.
    #[test]
    fn no_policy_is_the_servers_own() {
        let options = ShardOptions::default();
        let rules = Rules::new(&options, None, true);
        assert_eq!((rules.attempts_max, rules.age_max_us), (u32::MAX, u64::MAX));
        assert_eq!(rules.ack_timeout_us, options.ack_deadline_us);
        assert_eq!(rules.retry_delay_us, options.retry_delay_us);
        assert_eq!(rules.retry_delay_max_us, options.retry_delay_max_us);
        assert_eq!((rules.in_flight_max, rules.drops), (CREDIT_MAX, false));
        assert!(Rules::new(&options, None, false).drops, "an ephemeral group has no dead letters");
        let slow = DeliveryPolicy { retry_delay_ms: Some(60_000), ..DeliveryPolicy::default() };
        let rules = Rules::new(&options, Some(&slow), true);
        assert_eq!(rules.retry_delay(1, 0), 60_000_000, "the server's cap does not cut it");
    }
}
