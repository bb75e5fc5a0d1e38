//! What the control plane bounds, each with its reason.

use std::time::Duration;

/// Most subscriptions of a node. Bounds the memory of the routing table: about 1 KiB each.
pub const SUBSCRIPTIONS_MAX: usize = 1_000_000;
/// Most ephemeral subscriptions of one client. They cost their owner nothing, so nothing else would bound them.
pub const CLIENT_SUBSCRIPTIONS_MAX: usize = 1_024;
/// Most filters of a group that is created at once. A name that is given more belongs to several groups.
pub const GROUP_FILTERS_MAX: usize = 64;
/// Most groups with a delivery policy of their own: each takes about 200 bytes of the routing table.
pub const POLICIES_MAX: usize = 65_536;
/// Longest name of a group, in bytes. Names stand in the catalog, in logs and in metrics.
pub const GROUP_NAME_BYTES_MAX: usize = 255;
/// Changes within this time are published as one snapshot, so that a storm of subscribers costs each shard at most 200
/// adoptions a second.
pub const PUBLISH_INTERVAL: Duration = Duration::from_millis(5);
/// Snapshots that some shard has not adopted yet. When a shard is slow, later changes gather in the next one instead of
/// queueing up as many.
pub const SNAPSHOTS_AHEAD_MAX: usize = 16;
/// Answers that wait for an adoption. Beyond it a request is refused as overloaded.
pub const ANSWERS_MAX: usize = 65_536;
/// Replies that wait for room in the shards' mailboxes. Beyond it no request is taken, and the shards' queue fills.
pub const REPLIES_MAX: usize = 65_536;
/// When replies that found a mailbox full are tried again.
pub const REPLY_RETRY: Duration = Duration::from_millis(1);
/// Numbers of subscriptions and groups that one write to the catalog reserves. Those not used when the process ends
/// are skipped for ever; an ephemeral subscription costs no write of its own.
pub const IDS_RESERVED: u64 = 4_096;
/// Deletions of topics that some log does not hold yet. Each is written with all others.
pub const DELETIONS_MAX: usize = 64;
/// When a write of the catalog that nobody asks for again is tried again.
pub const CATALOG_RETRY: Duration = Duration::from_secs(1);
/// How long a start waits for the shards to adopt the first snapshot.
pub const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Memory that the catalog caches of its file. It is read once, at the start.
pub const CATALOG_CACHE_BYTES: usize = 4 << 20;

const _: () = {
    assert!(CLIENT_SUBSCRIPTIONS_MAX < SUBSCRIPTIONS_MAX, "one client cannot take them all");
    assert!(SNAPSHOTS_AHEAD_MAX < REPLIES_MAX, "snapshots leave room for answers");
};
