//! What a run has counted.

use crate::latency::Latency;

/// Counters and histograms of one run. Latencies count from the intended send time of the batch.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// From the intended to the real send.
    pub(crate) delay: Latency,
    /// To the arrival of the ack.
    pub(crate) ack: Latency,
    /// To the arrival at a subscriber.
    pub(crate) end_to_end: Latency,
    /// Batches sent, warm-up included.
    pub(crate) sent_batches: u64,
    /// Batches acknowledged, warm-up included.
    pub(crate) acked_batches: u64,
    /// Batches refused.
    pub(crate) refused_batches: u64,
    /// Events acknowledged within the time that counts.
    pub(crate) acked_events_counted: u64,
    /// Events that came to subscribers within the time that counts.
    pub(crate) delivered_events_counted: u64,
    /// Events that came to subscribers.
    pub(crate) delivered_events: u64,
    /// Of these, delivered before: attempts beyond the first.
    pub(crate) redelivered_events: u64,
    /// The first refusal, as its sender put it.
    pub(crate) first_refusal: Option<String>,
}

impl Tally {
    /// Nothing counted yet.
    pub(crate) fn new() -> Self {
        Tally {
            delay: Latency::new(),
            ack: Latency::new(),
            end_to_end: Latency::new(),
            sent_batches: 0,
            acked_batches: 0,
            refused_batches: 0,
            acked_events_counted: 0,
            delivered_events_counted: 0,
            delivered_events: 0,
            redelivered_events: 0,
            first_refusal: None,
        }
    }

    /// Batches without an answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.sent_batches - self.acked_batches - self.refused_batches
    }
}
