//! What an event, a batch and a topic may be at most, each with its reason.

/// Partitions of a data folder. Fixed for the life of the folder: a key's partition must never move.
pub const PARTITIONS: u16 = 64;
/// Most events one batch may carry.
///
/// Bounds the time a shard spends on a single append, and so the delay every other publisher on that core can suffer.
pub const BATCH_EVENTS_MAX: u32 = 8_192;
/// Largest batch on the wire and on disk, header included.
pub const BATCH_BYTES_MAX: u32 = 17 << 20;
/// Largest body of a batch.
pub const BODY_BYTES_MAX: u32 = BATCH_BYTES_MAX - BATCH_HEADER_BYTES;
/// Largest data of one event that a server may be configured to take. With its attributes it must fit a batch alone.
pub const EVENT_DATA_BYTES_MAX: u32 = 16 << 20;
/// Largest data of one event unless configured otherwise.
pub const EVENT_DATA_BYTES_DEFAULT: u32 = 1 << 20;
/// Attributes of one event, encoded, those shared with its batch included.
pub const ATTRIBUTES_BYTES_MAX: u32 = 64 << 10;
/// Longest name of an extension attribute: its length stands in one byte.
pub const ATTRIBUTE_NAME_BYTES_MAX: usize = 255;
/// Longest topic name in bytes of UTF-8.
pub const TOPIC_BYTES_MAX: usize = 1_024;
/// Most levels of a topic; bounds the depth of the routing trie.
pub const TOPIC_LEVELS_MAX: usize = 32;
/// Most topics a log may hold; bounds the topic dictionary.
pub const TOPICS_MAX: u32 = 1_000_000;
/// Size of a batch header.
pub const BATCH_HEADER_BYTES: u32 = 80;
/// A batch starts at a multiple of this in a commit, so that headers are aligned in memory and on disk.
pub const BATCH_ALIGN: u32 = 8;

const _: () = {
    assert!(BATCH_HEADER_BYTES.is_multiple_of(BATCH_ALIGN), "headers keep the body aligned");
    assert!(EVENT_DATA_BYTES_DEFAULT <= EVENT_DATA_BYTES_MAX);
    assert!(
        EVENT_DATA_BYTES_MAX + ATTRIBUTES_BYTES_MAX + BATCH_HEADER_BYTES + 64 <= BATCH_BYTES_MAX,
        "the largest event fits a batch of its own"
    );
    assert!(ATTRIBUTES_BYTES_MAX < 1 << 24, "the attribute length of an event has 24 bits");
};
