//! How often a server asks the kernel, and how often its allocator, for each event: counted by `perf` while a load runs.
//!
//! Counting in the kernel slows the server (a uprobe costs about a microsecond), so a run that counts gives no other
//! figures. Needs root and perf (Debian: apt-get install linux-perf).

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Functions of the allocator that give memory. Frees are as many, in the long run.
const ALLOCATIONS: [&str; 3] = ["mi_malloc_aligned", "mi_zalloc_aligned", "mi_realloc_aligned"];
/// The kernel's counters for calls: one for each system call.
const SYSCALLS: &str = "syscalls:sys_enter_*";
/// perf says nothing when it is ready; opening all counters takes less than this.
const SETTLE: Duration = Duration::from_millis(700);

/// Counts while it lives.
pub(crate) struct CallCounter {
    perf: Child,
    output: tempfile::NamedTempFile,
    probes: Probes,
}

/// What was called, and how often.
pub(crate) type Calls = Vec<(String, u64)>;

impl CallCounter {
    /// Starts to count the calls of process `pid`.
    pub(crate) fn start(pid: u32) -> anyhow::Result<Self> {
        let probes = Probes::add(pid)?;
        let output = tempfile::NamedTempFile::new()?;
        let events = format!("{SYSCALLS},{}", probes.events.join(","));
        let perf = Command::new("perf")
            .args(["stat", "-x,", "-e", &events, "-p", &pid.to_string(), "-o"])
            .arg(output.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("perf does not start")?;
        std::thread::sleep(SETTLE);
        Ok(CallCounter { perf, output, probes })
    }

    /// Stops and returns what was called at all, most often first.
    pub(crate) fn stop(mut self) -> anyhow::Result<Calls> {
        kill_process(Pid::from_child(&self.perf), Signal::INT)?;
        self.perf.wait()?;
        let text = std::fs::read_to_string(self.output.path())?;
        let calls = parse(&text);
        if calls.is_empty() {
            bail!("perf counted nothing: it needs root and the kernel's tracepoints");
        }
        drop(self.probes);
        Ok(calls)
    }
}

/// Probes at the allocator's functions, removed when dropped.
struct Probes {
    events: Vec<String>,
}

impl Probes {
    fn add(pid: u32) -> anyhow::Result<Self> {
        let binary: PathBuf = std::fs::read_link(format!("/proc/{pid}/exe"))
            .with_context(|| format!("process {pid} is gone"))?;
        let mut probes = Probes { events: Vec::new() };
        for function in ALLOCATIONS {
            let event = format!("loadtest_{}:{function}", std::process::id());
            if probe(&["-x", path_text(&binary)?, "-a", &format!("{event}={function}")])? {
                probes.events.push(event);
            }
        }
        if probes.events.is_empty() {
            bail!("no probe at {}: is this root, and is the allocator mimalloc?", binary.display());
        }
        Ok(probes)
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for event in &self.events {
            // What stays is listed by `perf probe -l`.
            let _ = probe(&["-d", event]);
        }
    }
}

fn probe(arguments: &[&str]) -> anyhow::Result<bool> {
    let output = Command::new("perf").args(["probe", "-q"]).args(arguments).output();
    Ok(output.context("perf does not start: Debian: apt-get install linux-perf")?.status.success())
}

fn path_text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the server's path is not UTF-8")
}

/// Lines of `perf stat -x,`: count, unit, event, ...
fn parse(text: &str) -> Calls {
    let mut calls: Calls = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(',');
            let count = fields.next()?.parse::<u64>().ok().filter(|count| *count > 0)?;
            let event = fields.nth(1)?.split(':').nth(1)?;
            Some((event.trim_start_matches("sys_enter_").to_owned(), count))
        })
        .collect();
    calls.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A count read from the wrong column would call a chatty server quiet.
    #[test]
    fn counts_are_read_from_perfs_lines() {
        let text = "# started on Sat\n\n4646,,loadtest_7:mi_malloc_aligned,289009720,100.00,,\n\
            0,,syscalls:sys_enter_close,1,100.00,,\n<not counted>,,syscalls:sys_enter_x,0,0,,\n\
            26920,,syscalls:sys_enter_recvfrom,284337647,100.00,,\n";
        let expected = [("recvfrom".to_owned(), 26_920), ("mi_malloc_aligned".to_owned(), 4_646)];
        assert_eq!(parse(text), expected);
    }
}
