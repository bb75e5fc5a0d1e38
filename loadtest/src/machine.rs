//! The machine under the measurement: what it is, who runs on which core, and what a process has used of it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::CpuSet;
use serde::Serialize;

/// The named place that figures belong to.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// The processor's own name.
    pub(crate) processor: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Load of the last minute before the measurement: above a few tenths somebody else was measured too.
    pub(crate) load_before: String,
}

impl Machine {
    /// Looks around.
    pub(crate) fn look() -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = line("/proc/cpuinfo");
        let processor = cpuinfo
            .lines()
            .find_map(|l| {
                l.strip_prefix("model name")?.split_once(':').map(|(_, name)| name.trim())
            })
            .unwrap_or("unknown processor");
        Machine {
            processor: processor.to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: line("/proc/sys/kernel/osrelease"),
            load_before: line("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, cores, kernel, load_before } = self;
        write!(f, "{processor}, {cores} cores, Linux {kernel}, load before: {load_before}")
    }
}

/// Moves the calling thread, and the threads and processes that it starts from here on, to core `cpu`.
pub(crate) fn pin(cpu: usize) -> anyhow::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        bail!("core {cpu} does not exist: the highest number is {}", CpuSet::MAX_CPU - 1);
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set)
        .with_context(|| format!("cannot run on core {cpu}: name one of the cores of this machine"))
}

/// Lets the calling thread wake on time: the kernel otherwise rounds sleeps up by 50 us to save wake-ups.
pub(crate) fn wake_on_time() {
    // Without it paced latencies only get worse, which the publish delay shows.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// Waits until `stream` has something to read, at most until `moment`; whether it has.
pub(crate) fn readable_before(stream: &TcpStream, moment: Instant) -> io::Result<bool> {
    loop {
        let left = moment.saturating_duration_since(Instant::now());
        let timeout = left.try_into().expect("a wait of seconds fits the kernel's time");
        match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Raises the soft limit of open files to the hard one, and returns it.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let held = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    held.current.unwrap_or(u64::MAX)
}

/// What the scheduler has counted of one or more threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CpuTime {
    /// Time on a core.
    pub(crate) ran: Duration,
    /// Time ready to run, while others had the core.
    pub(crate) waited: Duration,
}

impl CpuTime {
    /// Of the calling thread.
    pub(crate) fn of_thread() -> Self {
        Self::parse(&fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default())
    }

    fn parse(schedstat: &str) -> Self {
        let mut ns = schedstat.split(' ').map(|number| number.parse::<u64>().unwrap_or(0));
        let mut next = || Duration::from_nanos(ns.next().unwrap_or(0));
        CpuTime { ran: next(), waited: next() }
    }

    /// What was used since `before`, over `wall`, with the memory of process `pid`.
    pub(crate) fn since(
        self,
        before: Self,
        wall: Duration,
        pid: u32,
    ) -> anyhow::Result<ProcessUse> {
        let wall_s = wall.as_secs_f64().max(1e-9);
        let cpu_s = self.ran.saturating_sub(before.ran).as_secs_f64();
        let waited_s = self.waited.saturating_sub(before.waited).as_secs_f64();
        Ok(ProcessUse {
            cpu_s,
            busy_share: cpu_s / wall_s,
            waited_share: waited_s / wall_s,
            rss_peak_bytes: memory_bytes(pid, "VmHWM:")?,
        })
    }
}

/// What a process used over a while.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessUse {
    /// CPU time of all its threads, in seconds.
    pub(crate) cpu_s: f64,
    /// CPU time by wall time: 1.0 is one whole core.
    pub(crate) busy_share: f64,
    /// Time in which it was ready to run and others had the core, by wall time.
    pub(crate) waited_share: f64,
    /// Most memory it ever had resident.
    pub(crate) rss_peak_bytes: u64,
}

/// What a difference of [`ticks`] may be wrong by: user and system time are each cut off to 10 ms.
const TICKS_ERROR: Duration = Duration::from_millis(20);

/// Follows what a process uses from one moment on.
///
/// By thread, in ns, because `/proc/PID/stat` only knows ticks of 10 ms; but that one also knows of threads that have
/// ended (a JVM's compilers come and go), so it counts where it knows of more than its ticks may be wrong by.
#[derive(Clone, Debug)]
pub(crate) struct ProcessMeter {
    pid: u32,
    since: Instant,
    before: HashMap<OsString, CpuTime>,
    ticks_before: Duration,
}

impl ProcessMeter {
    /// Starts to follow process `pid`.
    pub(crate) fn start(pid: u32) -> anyhow::Result<Self> {
        let (before, ticks_before) = (threads(pid)?, ticks(pid)?);
        Ok(ProcessMeter { pid, since: Instant::now(), before, ticks_before })
    }

    /// What it has used since.
    pub(crate) fn read(&self) -> anyhow::Result<ProcessUse> {
        let mut used = CpuTime::default();
        for (thread, now) in threads(self.pid)? {
            let before = self.before.get(&thread).copied().unwrap_or_default();
            used.ran += now.ran.saturating_sub(before.ran);
            used.waited += now.waited.saturating_sub(before.waited);
        }
        let by_ticks = ticks(self.pid)?.saturating_sub(self.ticks_before);
        if by_ticks > used.ran + TICKS_ERROR {
            used.ran = by_ticks;
        }
        used.since(CpuTime::default(), self.since.elapsed(), self.pid)
    }
}

/// What each thread of a process has used so far.
fn threads(pid: u32) -> anyhow::Result<HashMap<OsString, CpuTime>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} is gone"))?;
    let used = |task: fs::DirEntry| {
        // A thread may end between the listing and this.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        (task.file_name(), CpuTime::parse(&text))
    };
    Ok(tasks.flatten().map(used).collect())
}

/// CPU time of a process, ended threads included, in steps of 10 ms.
pub(crate) fn ticks(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // The second field is the command in parentheses, which may hold spaces.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let field = |index: usize| after.split(' ').nth(index)?.parse::<u64>().ok();
    let (user, system) = (field(11).unwrap_or(0), field(12).unwrap_or(0));
    Ok(Duration::from_millis(10 * (user + system)))
}

/// Memory of a process: `VmRSS:` now, `VmHWM:` at its peak.
pub(crate) fn memory_bytes(pid: u32, field: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.trim().split(' ').next()?.parse::<u64>().ok())
        .with_context(|| format!("/proc/{pid}/status has no {field}"))?;
    Ok(kib << 10)
}

/// Lets this process's peak of resident memory start anew, so that one measurement does not show another's.
pub(crate) fn reset_peak_memory() {
    // Without it the peak is that of the whole program, which is only too much.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes that a process has handed to disks so far.
pub(crate) fn written_bytes(pid: u32) -> anyhow::Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))
        .with_context(|| format!("/proc/{pid}/io cannot be read: run as the server's user"))?;
    io.lines()
        .find_map(|line| line.strip_prefix("write_bytes:")?.trim().parse().ok())
        .with_context(|| format!("/proc/{pid}/io has no write_bytes"))
}

/// Time that processes have had core `cpu` so far, in steps of 10 ms; `None` where there is no such core.
pub(crate) fn core_time(cpu: usize) -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let name = format!("cpu{cpu} ");
    let line = stat.lines().find_map(|line| line.strip_prefix(&name))?;
    let fields: Vec<u64> = line.split_whitespace().flat_map(str::parse).collect();
    // user, nice, system; steal is the eighth. Interrupts are left out: they bring the server's own packets.
    let ticks = fields.get(..3)?.iter().sum::<u64>() + fields.get(7)?;
    Some(Duration::from_millis(10 * ticks))
}

/// Counters of the disk under a folder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiskCounters {
    /// Flushes that completed: one for each synced write on a disk without FUA.
    pub(crate) flushes: u64,
}

impl DiskCounters {
    /// Reads the counters of the disk that holds `folder`, or `None` where it has none (tmpfs, overlays).
    pub(crate) fn of(folder: &Path) -> anyhow::Result<Option<Self>> {
        let device = fs::metadata(folder)
            .with_context(|| format!("cannot look at {}", folder.display()))?
            .dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stats = fs::read_to_string("/proc/diskstats").unwrap_or_default();
        Ok(stats.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
            (number(0)? == u64::from(major) && number(1)? == u64::from(minor)).then_some(())?;
            // Since Linux 5.5 the 16th statistic counts flushes.
            Some(DiskCounters { flushes: number(18)? })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A meter that reads the wrong field or the wrong unit would call every server idle, or every client bound.
    #[test]
    fn a_busy_process_is_seen_as_busy() {
        // A process of its own: in this one the threads of other tests end, and their time goes with them.
        let began = Instant::now();
        let mut busy =
            std::process::Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        // The kernel may count what ran just before this only after it; never what ran before the process began.
        let meter = ProcessMeter::start(busy.id()).unwrap();
        let used = loop {
            std::thread::sleep(Duration::from_millis(5));
            let used = meter.read().unwrap();
            if used.cpu_s >= 0.05 || began.elapsed() > Duration::from_secs(60) {
                break used;
            }
        };
        let wall_s = began.elapsed().as_secs_f64();
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(used.cpu_s >= 0.05 && used.cpu_s <= wall_s, "{used:?} in {wall_s} s");
        assert!(used.rss_peak_bytes > 100 << 10, "{used:?}");
    }
}
