//! What another thread may see of a run while it goes on.
//!
//! Written by the engine's thread alone, with plain loads and stores: no instruction here waits for another core. Who
//! looks may see one count a moment before another.

use std::sync::atomic::{AtomicU64, Ordering};

use super::tally::Tally;

/// Steps of each doubling of a latency: a quantile is told within one in 32.
const STEPS_BITS: u32 = 5;
const STEPS: usize = 1 << STEPS_BITS;
/// The last bucket begins beyond a minute.
const BUCKETS: usize = (37 - STEPS_BITS as usize) * STEPS;

/// Counts of one run, and how long acks took, coarsely.
#[derive(Debug)]
pub(crate) struct Glance {
    sent_batches: AtomicU64,
    acked_batches: AtomicU64,
    refused_batches: AtomicU64,
    acked_events_counted: AtomicU64,
    delivered_events: AtomicU64,
    acks: Box<[AtomicU64]>,
}

/// The counts at one moment, warm-up included.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Batches acknowledged.
    pub(crate) acked_batches: u64,
    /// Batches without an answer.
    pub(crate) in_flight: u64,
    /// Batches refused.
    pub(crate) refused_batches: u64,
    /// Events acknowledged within the time that counts.
    pub(crate) acked_events_counted: u64,
    /// Events that came to subscribers.
    pub(crate) delivered_events: u64,
}

impl Glance {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        let zero = AtomicU64::default;
        Glance {
            sent_batches: zero(),
            acked_batches: zero(),
            refused_batches: zero(),
            acked_events_counted: zero(),
            delivered_events: zero(),
            acks: (0..BUCKETS).map(|_| zero()).collect(),
        }
    }

    /// Shows the counts of a tally: once a turn of the engine, not once an event.
    pub(crate) fn show(&self, tally: &Tally) {
        let set = |counter: &AtomicU64, count| counter.store(count, Ordering::Relaxed);
        set(&self.sent_batches, tally.sent_batches);
        set(&self.acked_batches, tally.acked_batches);
        set(&self.refused_batches, tally.refused_batches);
        set(&self.acked_events_counted, tally.acked_events_counted);
        set(&self.delivered_events, tally.delivered_events());
    }

    /// Shows how long an ack took.
    pub(crate) fn acked(&self, ns: u64) {
        let bucket = &self.acks[bucket_of(ns)];
        // There is one writer, so this loses nothing.
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// The counts now.
    pub(crate) fn counts(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (acked_batches, refused_batches) =
            (get(&self.acked_batches), get(&self.refused_batches));
        let answered = acked_batches + refused_batches;
        Counts {
            acked_batches,
            in_flight: get(&self.sent_batches).saturating_sub(answered),
            refused_batches,
            acked_events_counted: get(&self.acked_events_counted),
            delivered_events: get(&self.delivered_events),
        }
    }

    /// The ns within which each of these shares of the acks came so far; `None` without any. The shares rise.
    pub(crate) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[u64; N]> {
        let counts: Vec<u64> =
            self.acks.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let all: u64 = counts.iter().sum();
        if all == 0 {
            return None;
        }
        let (mut bucket, mut within) = (0, counts[0]);
        Some(shares.map(|share| {
            let wanted = ((all as f64 * share).ceil() as u64).clamp(1, all);
            while within < wanted {
                bucket += 1;
                within += counts[bucket];
            }
            bucket_last_ns(bucket)
        }))
    }
}

/// The bucket of a latency: its highest bit, and the next few.
fn bucket_of(ns: u64) -> usize {
    let ns = ns.max(1);
    let doublings = ns.ilog2().saturating_sub(STEPS_BITS);
    let step = (ns >> doublings) as usize;
    (doublings as usize * STEPS + step).min(BUCKETS - 1)
}

/// The longest latency of a bucket.
fn bucket_last_ns(bucket: usize) -> u64 {
    let doublings = (bucket / STEPS).saturating_sub(1);
    let step = bucket - doublings * STEPS;
    ((step as u64 + 1) << doublings) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A view that tells other latencies than the report makes people stop runs that are well, or trust ones that are
    /// not.
    #[test]
    fn quantiles_are_within_a_thirty_second() {
        assert_eq!(Glance::new().quantiles([0.5]), None);
        let glance = Glance::new();
        let mut latencies: Vec<u64> =
            (0..100_000_u64).map(|n| (n * 2_654_435_761) % 1_000 * (n % 7_919) + n % 90).collect();
        latencies.iter().for_each(|ns| glance.acked(*ns));
        latencies.sort_unstable();
        let shares = [0.01, 0.5, 0.99, 0.999, 1.0];
        let told = glance.quantiles(shares).expect("there are acks");
        for (share, told) in shares.iter().zip(told) {
            let exact = latencies[(latencies.len() as f64 * share).ceil() as usize - 1];
            assert!((exact..=exact + exact / 32 + 1).contains(&told), "{share}: {told}, {exact}");
        }
        glance.acked(u64::MAX);
        assert!(glance.quantiles([1.0]).is_some_and(|[longest]| longest > 60_000_000_000));
    }

    /// Each latency belongs to one bucket, which ends at or after it.
    #[test]
    fn buckets_meet() {
        for bucket in 1..BUCKETS - 1 {
            let last = bucket_last_ns(bucket);
            assert_eq!((bucket_of(last), bucket_of(last + 1)), (bucket, bucket + 1), "{last}");
        }
    }
}
