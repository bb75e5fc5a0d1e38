//! From the configuration to what each component is told.

use std::sync::Arc;
use std::time::Duration;

use codec::ack::AckLevel;
use dataplane::options::ShardOptions;
use dataplane::runtime::{Idle as RuntimeIdle, RuntimeOptions};
use doors::http::HttpOptions;
use doors::native::NativeOptions;
use log::folder::FolderOptions;
use log::options::{LogOptions, Sync};

use super::memory::Memory;
use crate::config::{Config, Idle};

/// What the folder is told.
pub(super) fn folder(
    config: &Config,
    shards: u16,
    memory: &Memory,
    node_id_if_new: u64,
) -> FolderOptions {
    let bytes = |share: u64| usize::try_from(share).unwrap_or(usize::MAX);
    let log = LogOptions {
        segment_bytes: config.log.segment_bytes,
        cache_bytes: bytes(memory.shard.cache),
        read_bytes_max: bytes(memory.shard.read_ahead),
        // The buffer of a commit is the next power of two above it.
        commit_bytes_max: bytes(memory.shard.commit),
        index_bytes_max: bytes(memory.shard.index),
        indexes_mapped_bytes_max: bytes(memory.shard.mapped),
        topics_bytes_max: bytes(memory.shard.topics),
        checkpoint_every_bytes: config.log.segment_bytes / 2,
        retention_bytes: config.log.retention_bytes,
        sync: match config.delivery.ack {
            AckLevel::Durable => Sync::EachWrite,
            // Nobody waits for the sync, so nobody pays for one of his own.
            AckLevel::Written | AckLevel::Received => Sync::Behind,
        },
        ..LogOptions::default()
    };
    FolderOptions {
        shards,
        log,
        node_id_if_new,
        folder_bytes_max: config.log.folder_bytes_max,
        // While one waits for the disk, another checks what it has read.
        recover_at_once: 2 * cores(),
    }
}

/// What the native door is told.
pub(super) fn native(config: &Config, node_id: u64) -> NativeOptions {
    NativeOptions {
        node_id,
        event_data_bytes_max: config.limits.event_data_bytes_max,
        window_batches_max: config.native.publish_window,
        hello_timeout: config.native.hello_timeout,
        ping_interval: config.native.ping_interval,
        idle_timeout: config.native.idle_timeout,
        ..NativeOptions::default()
    }
}

/// What the http door is told.
pub(super) fn http(config: &Config, shards: u16, node_id: u64) -> HttpOptions {
    HttpOptions {
        shards,
        node: node_id as u32,
        event_data_bytes_max: config.limits.event_data_bytes_max,
        body_bytes_max: config.http.body_bytes_max,
        header_timeout: config.http.header_timeout,
        body_timeout: config.http.body_timeout,
        idle_timeout: config.http.idle_timeout,
        ack_deadline: config.delivery.ack_deadline,
        cors: config.http.cors.clone(),
        ..HttpOptions::default()
    }
}

/// What the runtime and its shards are told; the listeners are still to be given.
pub(super) fn runtime(
    config: &Config,
    memory: &Memory,
    node_id: u64,
    older_owners: u64,
) -> RuntimeOptions {
    let defaults = ShardOptions::default();
    RuntimeOptions {
        shard: ShardOptions {
            // Tokens hold the low half: enough to tell that a token is another node's.
            node: node_id as u32,
            older_owners,
            ack: config.delivery.ack,
            folder: Arc::from(config.server.data.as_path()),
            ack_deadline_us: micros(config.delivery.ack_deadline),
            retry_delay_us: micros(config.delivery.retry_delay),
            retry_delay_max_us: micros(config.delivery.retry_delay_max),
            park_after_us: micros(config.delivery.park_after),
            ephemeral_expiry_us: micros(config.delivery.ephemeral_expiry),
            event_data_bytes_max: config.limits.event_data_bytes_max,
            in_flight_bytes_max: memory.shard.deliveries,
            lent_bytes_max: memory.shard.deliveries / 2,
            remote_publish_bytes_max: memory.shard.remote,
            input_bytes_max: memory.shard.input,
            ..defaults
        },
        pin: config.server.pin,
        idle: match config.server.idle {
            Idle::Park => RuntimeIdle::Park,
            Idle::Spin => RuntimeIdle::Spin,
        },
        // The binary's allocator. Where it is another one, as in a test that starts a server in its own process, this does nothing.
        collect: Some(libmimalloc_sys::mi_collect),
        connections_max: Some(memory.connections_max),
        slow_peer_timeout: config.native.slow_peer_timeout,
        drain_timeout: config.server.drain_timeout,
        ..RuntimeOptions::default()
    }
}

/// Shards unless configured: one for each core that the process may use, one fewer from four up, which leaves a core to
/// the kernel's work and the control plane.
pub(crate) fn shards(config: &Config) -> u16 {
    let cores = cores();
    let derived = if cores >= 4 { cores - 1 } else { cores };
    let most = usize::from(dataplane::options::SHARDS_MAX);
    config.server.shards.unwrap_or(derived.min(most) as u16)
}

/// Cores that the process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
