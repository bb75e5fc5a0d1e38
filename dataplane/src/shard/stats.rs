//! What a shard counts. Counted a batch or a cycle at a time, read by whoever exports it.

/// Counters since the shard's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    /// Events appended to this shard's log.
    pub appended_events: u64,
    /// Batches appended to this shard's log.
    pub appended_batches: u64,
    /// Bytes of their bodies.
    pub appended_bytes: u64,
    /// Batches that their publishers sent again and that stood in this shard's log already.
    pub resent_batches: u64,
    /// Batches that went to another shard.
    pub forwarded_batches: u64,
    /// Publishes that found no room.
    pub no_room: u64,
    /// Publishes that were refused by this shard, be it for one of its own sessions or for another shard.
    pub refused_publishes: u64,
    /// Deliveries made.
    pub deliveries: u64,
    /// Events in them.
    pub delivered_events: u64,
    /// Bytes of the bodies of the batches they stand in.
    pub delivered_bytes: u64,
    /// Events in deliveries that were not the first attempt.
    pub redelivered_events: u64,
    /// Events whose delivery was not settled in time.
    pub expired_events: u64,
    /// Events settled as done.
    pub settled_events: u64,
    /// Events that members handed back.
    pub retried_events: u64,
    /// Events that members rejected.
    pub rejected_events: u64,
    /// Events that were given up and stand, durable, among the dead letters.
    pub dead_letter_events: u64,
    /// Events that were given up and are gone, since their group keeps no dead letters.
    pub dropped_events: u64,
    /// How often dead letters were refused by the log, for want of disk space say; they are tried again.
    pub refused_dead_letters: u64,
    /// Events that were parked, and stand, durable, in their group's topic for that.
    pub parked_events: u64,
    /// Dead letters that were redriven.
    pub redriven_events: u64,
    /// Dead letters that were purged.
    pub purged_events: u64,
    /// Events that retention took, or damage, before they were settled.
    pub lost_events: u64,
    /// Reads that the disk has failed to do.
    pub read_failures: u64,
    /// How often a reader has stopped at what the disk does not give, however often it is asked.
    pub stopped_readers: u64,
    /// Positions that groups have passed because retention or damage had taken the events, whether they wanted these
    /// or not.
    pub passed_positions: u64,
    /// Deliveries that got a copy of their events, because others keep too much of the log's buffers in use.
    pub copied_deliveries: u64,
    /// Frames that were read on only when others were whole, for want of memory.
    pub frames_held_up: u64,
    /// Settles of deliveries that were over.
    pub stale_settles: u64,
}

/// What a shard's parts keep in memory, in bytes; pairs are what is kept and the limit, which the largest batch may
/// pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardMemoryUse {
    /// All that the logs hold, lent buffers included.
    pub log_bytes: u64,
    /// Read ahead for groups that are behind, and asked for.
    pub read_ahead: (u64, u64),
    /// Buffers that are in use only because deliveries refer to them.
    pub lent: (u64, u64),
    /// Events in flight to members.
    pub in_flight: (u64, u64),
    /// What sessions keep of their peers' bytes.
    pub input: (u64, u64),
}
