//! What a shard may be told at its start, and the limits that are its own.

use std::path::Path;
use std::sync::Arc;

use codec::ack::AckLevel;

/// Most shards of a node: each owns at least one partition.
pub const SHARDS_MAX: u16 = codec::limits::PARTITIONS;
/// Batches one shard may have on the way to another. Bounds the outbox.
pub const REMOTE_PUBLISHES_MAX: usize = 1_024;
/// Bytes a session may append in one turn while others wait for room: the quantum of deficit round robin.
pub const ADMISSION_QUANTUM_BYTES: u64 = 256 << 10;
/// Bytes a lagging group may be given in one turn: the quantum of deficit round robin over groups.
pub const DELIVERY_QUANTUM_BYTES: u64 = 256 << 10;
/// Batches that one cycle may route from the tail. Bounds the time of a cycle.
pub const TAIL_BATCHES_PER_CYCLE: u32 = 1_024;
/// Batches between a group's oldest unsettled one and its newest delivered one, per log. When an event is not
/// settled for so long that the window is full, the group stops there.
pub const FLIGHTS_MAX: usize = 65_536;
/// Most credit one member may ask for.
pub const CREDIT_MAX: u32 = 65_536;
/// Bytes one shard may have in flight to one member; one batch of any size always goes out.
pub const MEMBER_BYTES_MAX: u64 = 16 << 20;
/// What a delivery takes beside the body that it shares: its event, its frame's header, its place among the flights.
pub const DELIVERY_BYTES: u32 = 512;
/// Bytes of a frame that is not whole which a session keeps without asking; they are part of what a connection costs.
pub const INPUT_FREE_BYTES: u64 = 4 << 10;
/// Subscriptions of one session.
pub const SESSION_SUBSCRIPTIONS_MAX: usize = 1_024;
/// After so many failures in a row to read the same place, its reader stops there and says so.
pub const READ_FAILURES_MAX: u32 = 6;
/// How often changed cursors are handed to the log.
pub const CURSOR_FLUSH_US: u64 = 50_000;
/// How long a subscribe waits for the control plane before it is answered `unavailable`.
pub const CONTROL_TIMEOUT_US: u64 = 10_000_000;

/// How one shard of a node is set up.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// This shard, from 0.
    pub index: u16,
    /// Shards of the node.
    pub shards: u16,
    /// The data folder, for what is said to people.
    pub folder: Arc<Path>,
    /// Low half of the node's id, for tokens.
    pub node: u32,
    /// Shards that own logs of earlier generations, a bit each.
    pub older_owners: u64,
    /// When a publish is acknowledged and its events become visible.
    pub ack: AckLevel,
    /// How long a member may keep a delivery unsettled before it goes to another.
    pub ack_deadline_us: u64,
    /// The delay before a delivery that was handed back is tried again; doubles with each attempt.
    pub retry_delay_us: u64,
    /// The longest such delay.
    pub retry_delay_max_us: u64,
    /// An event that waits longer until it is tried again is parked.
    pub park_after_us: u64,
    /// How long the ephemeral subscriptions of a client outlive its last session.
    pub ephemeral_expiry_us: u64,
    /// Sessions this shard may hold.
    pub sessions_max: u32,
    /// Largest data of one event.
    pub event_data_bytes_max: u32,
    /// Bytes of deliveries in flight, over all members. Beyond it groups fall behind and are read from disk later.
    pub in_flight_bytes_max: u64,
    /// Bytes of a log's buffers that deliveries may keep in use. Beyond it they get copies of their own: one small
    /// event that a slow client has not taken would otherwise keep megabytes.
    pub lent_bytes_max: u64,
    /// Bytes of batches that may be on the way to one other shard; one batch of any size always goes.
    pub remote_publish_bytes_max: u64,
    /// Bytes that sessions may keep of what their peers have sent and nobody has taken; one frame of any size always
    /// comes through.
    pub input_bytes_max: u64,
}

impl Default for ShardOptions {
    fn default() -> Self {
        ShardOptions {
            index: 0,
            shards: 1,
            folder: Arc::from(Path::new("")),
            node: 0,
            older_owners: 0,
            ack: AckLevel::Durable,
            ack_deadline_us: 30_000_000,
            retry_delay_us: 100_000,
            retry_delay_max_us: 10_000_000,
            park_after_us: 30_000_000,
            ephemeral_expiry_us: 60_000_000,
            sessions_max: 65_536,
            event_data_bytes_max: codec::limits::EVENT_DATA_BYTES_DEFAULT,
            in_flight_bytes_max: 256 << 20,
            lent_bytes_max: 128 << 20,
            remote_publish_bytes_max: 32 << 20,
            input_bytes_max: 64 << 20,
        }
    }
}

const _: () = {
    assert!(CREDIT_MAX as usize <= FLIGHTS_MAX, "a member's credit fits the window");
};
