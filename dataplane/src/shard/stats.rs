//! What a shard counts. Counted a batch or a cycle at a time, read by whoever exports it.

/// Counters since the shard's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Events appended to this shard's log.
    pub appended_events: u64,
    /// Batches appended to this shard's log.
    pub appended_batches: u64,
    /// Batches that went to another shard.
    pub forwarded_batches: u64,
    /// Publishes that found no room.
    pub no_room: u64,
    /// Deliveries made.
    pub deliveries: u64,
    /// Events in them.
    pub delivered_events: u64,
    /// Events in deliveries that were not the first attempt.
    pub redelivered_events: u64,
    /// Events whose delivery was not settled in time.
    pub expired_events: u64,
    /// Events settled as done.
    pub settled_events: u64,
    /// Events that retention took, or damage, before they were settled.
    pub lost_events: u64,
    /// Reads that the disk has failed to do.
    pub read_failures: u64,
    /// How often a reader has stopped at what the disk does not give, however often it is asked.
    pub stopped_readers: u64,
    /// Positions that groups have passed because retention or damage had taken the events, whether they wanted these
    /// or not.
    pub passed_positions: u64,
    /// Settles of deliveries that were over.
    pub stale_settles: u64,
}
