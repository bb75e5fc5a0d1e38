//! One budget for the process's memory, divided among the shards and what each of them keeps.
//!
//! ```text
//!   limits.memory_bytes_max
//!     - 32 MiB            the process itself: program, control plane
//!     - connections       4 KiB each
//!     = shares            equal for each shard: an eighth for names of topics; of the rest tail cache, deliveries, read
//!                         ahead, commit buffers, publishes on their way to other shards, frames that are not whole,
//!                         indexes
//! ```
//!
//! Each share is a limit that its owner keeps by itself: a full one slows its publisher, refuses a new topic or sends a
//! reader back to the disk. What one batch needs beyond its share is the stated constant [`OVERSHOOT_BYTES`]. Tables of
//! subscriptions and of groups' places are not in it: they have limits of their own, by number.

use std::fmt;
use std::path::{Path, PathBuf};

use codec::limits::BATCH_BYTES_MAX;

use crate::config::Config;
use crate::config::units::Size;

/// What the process takes apart from shards and connections.
const PROCESS_BYTES: u64 = 32 << 20;
/// What a connection takes while it is open.
const CONNECTION_BYTES: u64 = 4 << 10;
/// The least a shard runs with: each of its shares holds a few ordinary batches.
const SHARD_BYTES_MIN: u64 = 64 << 20;
/// Connections that a budget which nobody has set has room for at least.
const CONNECTIONS_AUTO_MIN: u32 = 1_024;
/// Used when the machine does not tell.
const MACHINE_BYTES_UNKNOWN: u64 = 2 << 30;
/// Most that a process takes beyond its budget: the largest batch in each of the places that let one through at any
/// size (a commit, a read, a delivery, a partial frame).
pub const OVERSHOOT_BYTES: u64 = 4 * BATCH_BYTES_MAX as u64;

/// What one shard may keep in memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShardMemory {
    pub(crate) cache: u64,
    /// Deliveries that were made and not settled; half of it also bounds the log's buffers that they keep in use.
    pub(crate) deliveries: u64,
    pub(crate) read_ahead: u64,
    /// The largest commit; several are in memory at one time.
    pub(crate) commit: u64,
    /// Batches on their way to other shards, for each of these.
    pub(crate) remote: u64,
    /// What sessions keep of their peers' bytes: frames that are not whole.
    pub(crate) input: u64,
    /// The index of the active segment, in memory.
    pub(crate) index: u64,
    /// Indexes of sealed segments that are mapped.
    pub(crate) mapped: u64,
    /// Names of topics, and where each of their partitions stands.
    pub(crate) topics: u64,
}

/// The process's memory, divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) budget: u64,
    pub(crate) connections_max: u32,
    pub(crate) shard: ShardMemory,
}

/// The budget does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLittle {
    budget: u64,
    needed: u64,
    shards: u16,
    connections: u32,
}

impl fmt::Display for TooLittle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooLittle { budget, needed, shards, connections } = *self;
        let (budget, needed) = (Size(budget), Size(needed.next_multiple_of(1 << 20)));
        write!(
            f,
            "limits.memory_bytes_max is {budget}; {shards} shards and {connections} connections need {needed}"
        )
    }
}

impl Memory {
    /// Divides the budget of a configuration.
    pub(crate) fn divide(config: &Config, shards: u16) -> Result<Memory, TooLittle> {
        assert!(shards > 0, "a server has a shard");
        let shares = u64::from(shards) * SHARD_BYTES_MIN;
        let auto = || {
            let connections = config.limits.connections_max.unwrap_or(CONNECTIONS_AUTO_MIN);
            let least = PROCESS_BYTES + shares + 2 * u64::from(connections) * CONNECTION_BYTES;
            (machine_bytes() / 4).max(least)
        };
        let budget = config.limits.memory_bytes_max.unwrap_or_else(auto);
        let room = budget.saturating_sub(PROCESS_BYTES + shares) / CONNECTION_BYTES;
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        // Half of what is left may go to connections unless they are asked for by number.
        let connections = config.limits.connections_max.unwrap_or((room / 2).min(files_max()));
        let connection_bytes = u64::from(connections) * CONNECTION_BYTES;
        let needed = PROCESS_BYTES + shares + connection_bytes;
        if budget < needed || connections == 0 {
            let needed = needed.max(PROCESS_BYTES + shares + 2 * CONNECTION_BYTES);
            return Err(TooLittle { budget, needed, shards, connections: connections.max(1) });
        }
        let share = (budget - PROCESS_BYTES - connection_bytes) / u64::from(shards);
        assert!(share >= SHARD_BYTES_MIN, "checked above");
        let shard = ShardMemory::divide(share, shards, config);
        assert!(shard.sum(shards) <= share, "the shares fit: {shard:?} of {share}");
        Ok(Memory { budget, connections_max: connections, shard })
    }
}

impl ShardMemory {
    /// What is configured for one of them is a limit of its own, below its share.
    fn divide(share: u64, shards: u16, config: &Config) -> ShardMemory {
        let topics = share / 8;
        let part = |of_32: u64| (share - topics) / 32 * of_32;
        // At most eight buffers of the power of two above the largest commit: one open, two closed, two in flight, three
        // kept.
        let commit = (part(6) / 8 / 2).next_power_of_two() / 2;
        ShardMemory {
            cache: part(7).min(config.log.cache_bytes),
            deliveries: part(6).min(config.delivery.in_flight_bytes_max),
            read_ahead: part(3).min(64 << 20),
            commit: commit.min(4 << 20),
            input: part(2).min(64 << 20),
            remote: (part(3) / u64::from(shards.max(2) - 1)).min(32 << 20),
            index: part(1).min(32 << 20),
            mapped: part(1).min(512 << 20),
            topics,
        }
    }

    /// The most that all of it takes. Deliveries count one and a half times: themselves, and buffers kept in use.
    fn sum(&self, shards: u16) -> u64 {
        let remote = self.remote * u64::from(shards.max(2) - 1);
        let lent = self.deliveries / 2;
        self.cache
            + self.deliveries
            + lent
            + self.read_ahead
            + 16 * self.commit
            + remote
            + self.input
            + self.index
            + self.mapped
            + self.topics
    }
}

/// The memory that the process may take: the machine's, or its container's if that is less.
pub(crate) fn machine_bytes() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
    });
    let version_1 = PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    let group = read("/proc/self/cgroup").unwrap_or_default();
    let files = limit_files(&group).into_iter().chain([version_1]);
    let container =
        files.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok()).min();
    machine.into_iter().chain(container).min().unwrap_or(MACHINE_BYTES_UNKNOWN)
}

/// The files that limit the memory of the process's cgroup (version 2) and of those above it, from what
/// /proc/self/cgroup says. In a container its own is the root; a unit of systemd has one further down.
fn limit_files(group: &str) -> Vec<PathBuf> {
    let own = group.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let folders = Path::new(own).ancestors();
    folders.map(|folder| Path::new("/sys/fs/cgroup").join(folder).join("memory.max")).collect()
}

/// 90 % of the files that the process may open.
fn files_max() -> u32 {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limit.maximum.or(limit.current).unwrap_or(u64::from(u32::MAX));
    u32::try_from(files / 10 * 9).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(budget: u64, connections: Option<u32>) -> Config {
        let mut config = Config::default();
        config.limits.memory_bytes_max = Some(budget);
        config.limits.connections_max = connections;
        config
    }

    /// A division that promises more than there is bounds nothing: over budgets, shards and connections the sum must
    /// fit, and a budget that does not suffice must be refused with what would.
    #[test]
    fn shares_fit_the_budget() {
        for shards in [1, 2, 3, 8, 64] {
            for budget in (1..48).map(|step| step * step * (5 << 20)) {
                for connections in [None, Some(1), Some(1_000), Some(100_000)] {
                    let config = config(budget, connections);
                    match Memory::divide(&config, shards) {
                        Ok(memory) => {
                            let all = PROCESS_BYTES
                                + u64::from(memory.connections_max) * CONNECTION_BYTES
                                + memory.shard.sum(shards) * u64::from(shards);
                            assert!(all <= budget, "{memory:?} of {shards} shards");
                            assert!(memory.shard.commit >= 64 << 10, "{memory:?}");
                        }
                        Err(error) => {
                            assert!(error.needed > budget, "{error}");
                            let enough = super::Memory::divide(
                                &Config {
                                    limits: crate::config::LimitsConfig {
                                        memory_bytes_max: Some(error.needed),
                                        ..config.limits.clone()
                                    },
                                    ..config
                                },
                                shards,
                            );
                            assert!(enough.is_ok(), "{error}: {enough:?}");
                        }
                    }
                }
            }
        }
    }

    /// Without a word about memory a server must start on a small machine, and what is configured must stay a limit.
    #[test]
    fn configured_limits_hold() {
        let memory = Memory::divide(&config(8 << 30, None), 2).expect("it is plenty");
        assert_eq!(memory.shard.cache, Config::default().log.cache_bytes);
        assert_eq!(memory.shard.commit, 4 << 20);
        assert!(Memory::divide(&Config::default(), 1).is_ok(), "this machine runs a shard");
    }

    /// A unit's own limit that is overlooked lets the server take what the kernel kills it for.
    #[test]
    fn limits_of_all_groups_above_count() {
        let paths = |group: &str| {
            let files = limit_files(group).into_iter();
            files.map(|file| file.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            paths("0::/system.slice/ringmesh.service\n"),
            [
                "/sys/fs/cgroup/system.slice/ringmesh.service/memory.max",
                "/sys/fs/cgroup/system.slice/memory.max",
                "/sys/fs/cgroup/memory.max",
            ]
        );
        let root = ["/sys/fs/cgroup/memory.max"];
        for group in ["0::/\n", "4:memory:/x\n", ""] {
            assert_eq!(paths(group), root, "{group:?}");
        }
    }
}
