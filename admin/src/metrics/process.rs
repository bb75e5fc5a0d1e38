//! What the kernel tells of this process.

use std::fs;

use rustix::param::{clock_ticks_per_second, page_size};

/// What the kernel told; 0 where it did not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Process {
    pub(crate) cpu_seconds: f64,
    pub(crate) resident_bytes: u64,
    pub(crate) virtual_bytes: u64,
    /// Since 1970-01-01 UTC.
    pub(crate) start_seconds: f64,
    pub(crate) open_files: u64,
    pub(crate) open_files_max: u64,
}

impl Process {
    pub(crate) fn look() -> Process {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let booted = fs::read_to_string("/proc/stat").unwrap_or_default();
        let mut process = Process::parse(&stat, boot_seconds(&booted));
        process.open_files = fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        process.open_files_max = limit.current.unwrap_or(u64::MAX);
        process
    }

    /// Reads proc(5)'s `stat`. The name of the process may hold anything, so fields are counted from its end.
    fn parse(stat: &str, boot_seconds: u64) -> Process {
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let fields: Vec<u64> =
            fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        // Numbered from the state of the process, which is field 3.
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0);
        let ticks = clock_ticks_per_second() as f64;
        Process {
            cpu_seconds: (field(14) + field(15)) as f64 / ticks,
            start_seconds: boot_seconds as f64 + field(22) as f64 / ticks,
            virtual_bytes: field(23),
            resident_bytes: field(24) * page_size() as u64,
            ..Process::default()
        }
    }
}

fn boot_seconds(stat: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process may be called anything; a parenthesis in its name must not shift the fields.
    #[test]
    fn names_do_not_shift_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 0 1 2 3 4 250 150 0 0 20 0 3 0 1000 4096 5 99 0";
        let process = Process::parse(stat, 100);
        let ticks = clock_ticks_per_second() as f64;
        assert_eq!(process.cpu_seconds, 400.0 / ticks);
        assert_eq!(process.start_seconds, 100.0 + 1000.0 / ticks);
        assert_eq!(process.virtual_bytes, 4096);
        assert_eq!(process.resident_bytes, 5 * page_size() as u64);
    }

    /// The real files must be readable as this expects, or all of it is zero.
    #[test]
    fn this_process_is_known() {
        let process = Process::look();
        assert!(process.resident_bytes > 0 && process.virtual_bytes > 0, "{process:?}");
        assert!(process.start_seconds > 1e9 && process.open_files > 2, "{process:?}");
    }
}
