//! What a run has counted.

use super::Load;
use crate::latency::{Latency, Series};

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
    /// Events that came to subscribers, by group; the last is the one that started behind.
    pub(crate) delivered_by_group: Vec<u64>,
    /// Events of the backlog that came to the group behind.
    pub(crate) backlog_events: u64,
    /// When the last of them came, in ns since the run began.
    pub(crate) backlog_ns: u64,
    /// Of these, delivered before: attempts beyond the first.
    pub(crate) redelivered_events: u64,
    /// The first refusal, as its sender put it.
    pub(crate) first_refusal: Option<String>,
    /// Acks second by second.
    pub(crate) series: Series,
    /// What the server itself says that its acks promise.
    pub(crate) server_says: Option<String>,
    /// What the driver says of itself.
    pub(crate) notes: Vec<String>,
}

impl Tally {
    /// Nothing counted yet.
    pub(crate) fn new(load: &Load) -> Self {
        Tally {
            delay: Latency::new(),
            ack: Latency::new(),
            end_to_end: Latency::new(),
            sent_batches: 0,
            acked_batches: 0,
            refused_batches: 0,
            acked_events_counted: 0,
            delivered_events_counted: 0,
            delivered_by_group: vec![0; load.groups as usize + 1],
            backlog_events: 0,
            backlog_ns: 0,
            redelivered_events: 0,
            first_refusal: None,
            series: Series::new(load.warm_up),
            server_says: None,
            notes: Vec::new(),
        }
    }

    /// Batches without an answer.
    pub(crate) fn unanswered(&self) -> u64 {
        self.sent_batches - self.acked_batches - self.refused_batches
    }

    /// Events that came to subscribers, over all groups.
    pub(crate) fn delivered_events(&self) -> u64 {
        self.delivered_by_group.iter().sum()
    }

    /// Deliveries that groups are owed and have not got: each group gets all that was acknowledged, and the group
    /// behind the backlog as well.
    pub(crate) fn missing_deliveries(&self, load: &Load) -> u64 {
        let acked = self.acked_batches * u64::from(load.shape.batch);
        let groups = if load.subscribers == 0 { 0 } else { load.groups as usize };
        let mut owed = vec![0; self.delivered_by_group.len()];
        owed[..groups].fill(acked);
        if load.behind {
            owed[load.groups as usize] = acked + load.backlog_events;
        }
        owed.iter().zip(&self.delivered_by_group).map(|(owed, got)| owed.saturating_sub(*got)).sum()
    }
}
