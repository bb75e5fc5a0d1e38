//! What the machine gives: kernel, limits, cores, memory, clock.

use dataplane::runtime::checks::{self, CheckError};
use rustix::process::{Resource, getrlimit};

use super::Finding;
use crate::config::Config;
use crate::config::units::Size;
use crate::server::StartError;
use crate::server::memory::{Memory, OVERSHOOT_BYTES, machine_bytes};

/// Below this many files a server runs, and is soon full.
const OPEN_FILES_FEW: u64 = 4_096;
/// Clocks that are read by a system call or slower. A shard reads its clock in every cycle.
const CLOCKS_SLOW: [&str; 6] = ["acpi_pm", "hpet", "jiffies", "pit", "refined-jiffies", "xen"];

/// io_uring and the memory that may be locked, as a start checks them; it raises soft limits, too.
pub(super) fn limits(shards: u16) -> Vec<Finding> {
    let errors = checks::check(shards).err().unwrap_or_default();
    let find = |is_it: fn(&CheckError) -> bool| errors.iter().find(|error| is_it(error));
    let is_memlock = |error: &CheckError| matches!(error, CheckError::Memlock { .. });
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "of no version".to_owned());
    let ring = match find(|error| !matches!(error, CheckError::Memlock { .. })) {
        None => Finding::ok("io_uring", format!("Linux {kernel} has all that is needed of it")),
        Some(error) => Finding::fail("io_uring", format!("Linux {kernel}: {error}"), ""),
    };
    let memlock = match find(is_memlock) {
        None => Finding::ok("memlock", format!("{} may be locked", limit(Resource::Memlock))),
        Some(error) => Finding::fail("memlock", error.to_string(), ""),
    };
    vec![ring, memlock]
}

fn limit(resource: Resource) -> String {
    let limit = getrlimit(resource).current;
    limit.map_or_else(|| "any amount".to_owned(), |bytes| Size(bytes).to_string())
}

/// The files that may be open, each connection being one.
pub(super) fn open_files(config: &Config) -> Finding {
    match checks::raise_open_files() {
        Ok(files) => judge_files(files, config.limits.connections_max),
        Err(error) => Finding::warn(
            "open_files",
            format!("the limit cannot be read or raised: {error}"),
            "look at `ulimit -n`; each connection takes a file",
        ),
    }
}

fn judge_files(files: u64, connections: Option<u32>) -> Finding {
    let room = files / 10 * 9;
    let advice = "raise it with `ulimit -n`, LimitNOFILE= of a systemd unit or --ulimit nofile= of a container";
    match connections {
        Some(asked) if u64::from(asked) > room => Finding::warn(
            "open_files",
            format!("{files} files may be open and limits.connections_max is {asked}"),
            advice,
        ),
        _ if files < OPEN_FILES_FEW => {
            Finding::warn("open_files", format!("only {files} files may be open"), advice)
        }
        _ => Finding::ok("open_files", format!("{files} files may be open")),
    }
}

/// Whether each shard has a core.
pub(super) fn cores(shards: u16) -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    judge_cores(shards, cores)
}

fn judge_cores(shards: u16, cores: usize) -> Finding {
    let fact = format!("{} on {}", counted(usize::from(shards), "shard"), counted(cores, "core"));
    if usize::from(shards) <= cores {
        return Finding::ok("cores", fact);
    }
    Finding::warn(
        "cores",
        format!("{fact}: threads wait for each other"),
        "lower server.shards, or leave it at auto",
    )
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Whether the budget suffices, and whether the machine or container has it.
pub(super) fn memory(config: &Config, shards: u16) -> Finding {
    match Memory::divide(config, shards) {
        Ok(memory) => judge_memory(memory.budget, machine_bytes()),
        Err(error) => {
            let error = StartError::Memory(error);
            Finding::fail("memory", error.to_string(), error.advice())
        }
    }
}

fn judge_memory(budget: u64, machine: u64) -> Finding {
    let fact = format!(
        "a server may take {} of {} MiB (machine or container)",
        budget >> 20,
        machine >> 20
    );
    let advice = "lower limits.memory_bytes_max, or give the machine or its container more memory";
    if budget > machine {
        return Finding::fail("memory", format!("{fact}: the kernel would kill it"), advice);
    }
    if budget.saturating_add(OVERSHOOT_BYTES) > machine {
        let most = OVERSHOOT_BYTES >> 20;
        let fact = format!("{fact}, and {most} MiB more for the largest batches");
        return Finding::warn("memory", fact, advice);
    }
    Finding::ok("memory", fact)
}

/// How the kernel reads the time.
pub(super) fn clock() -> Finding {
    let path = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    judge_clock(read(path).as_deref())
}

fn judge_clock(source: Option<&str>) -> Finding {
    match source {
        None => Finding::ok("clock", "the kernel does not say what its clock source is"),
        Some(slow) if CLOCKS_SLOW.contains(&slow) => Finding::warn(
            "clock",
            format!("the clock source is {slow}: each look at the clock costs a microsecond or so"),
            "choose tsc, if it stands in available_clocksource beside it, with the kernel's parameter clocksource=tsc",
        ),
        Some(source) => Finding::ok("clock", format!("the clock source is {source}")),
    }
}

fn read(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    /// A wrong verdict sends an operator to change what was right, or away from what is wrong.
    #[test]
    fn verdicts_follow_from_facts() {
        use Verdict::{Fail, Ok, Warn};
        const MIB: u64 = 1 << 20;
        let table = [
            (judge_files(1_024, None), Warn),
            (judge_files(4_096, None), Ok),
            (judge_files(100_000, Some(90_000)), Ok),
            (judge_files(100_000, Some(90_001)), Warn),
            (judge_cores(2, 2), Ok),
            (judge_cores(3, 2), Warn),
            (judge_memory(512 * MIB, 2_048 * MIB), Ok),
            (judge_memory(512 * MIB, 512 * MIB), Warn),
            (judge_memory(513 * MIB, 512 * MIB), Fail),
            (judge_memory(u64::MAX, 512 * MIB), Fail),
            (judge_clock(Some("tsc")), Ok),
            (judge_clock(Some("kvm-clock")), Ok),
            (judge_clock(Some("hpet")), Warn),
            (judge_clock(None), Ok),
        ];
        for (finding, expected) in table {
            assert_eq!(finding.result, expected, "{finding:?}");
            assert_eq!(finding.advice.is_some(), expected != Ok, "{finding:?}");
        }
    }
}
