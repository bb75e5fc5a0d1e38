//! What runs now, on a terminal: a few lines on standard error while a measurement runs, gone when it ends.
//!
//! They are drawn by a thread that stands back for everything else and reads a [`Glance`]; the engine knows nothing of
//! them. Without a terminal, with `--json` and with `--quiet` there is no such thread.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::engine::glance::{Counts, Glance};
use crate::engine::{Load, Run};
use crate::machine;

/// Time between two looks.
const REFRESH: Duration = Duration::from_millis(250);
/// Looks that "now" is the mean of: a second. The kernel counts a process's CPU time in steps of 10 ms.
const NOW_LOOKS: usize = 4;
/// Draws a second that are let through: more than there are, so that none is left out.
const DRAWS_MAX: u8 = 20;
/// How far the drawing thread stands back, in steps of nice(2): it shares a core with the engine.
const NICE_STEPS: i32 = 19;

/// What is said of the next measurement; `None` where nothing is drawn.
static TITLE: Mutex<Option<String>> = Mutex::new(None);

/// Lets measurements be drawn from here on, if standard error is a terminal that can move its cursor.
pub(crate) fn allow() {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if std::io::stderr().is_terminal() && !is_dumb {
        *title() = Some(String::new());
    }
}

/// Begins a line that says what is measured next, and leaves it open for what comes out. A view stands in its place
/// meanwhile.
pub(crate) fn announce(what: String) {
    eprint!("{what}: ");
    if let Some(title) = &mut *title() {
        *title = what;
    }
}

fn title() -> MutexGuard<'static, Option<String>> {
    TITLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The lines of one measurement. Dropped, they are gone.
pub(crate) struct View {
    /// Ends the thread by being dropped.
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// The open line that the view took the place of.
    announced: String,
}

impl View {
    /// Draws a run that is about to begin; `None` where nothing is drawn.
    pub(crate) fn begin(name: &str, load: &Load, pid: Option<u32>, run: &mut Run) -> Option<Self> {
        let announced = std::mem::take(title().as_mut()?);
        let shown = Shown {
            title: if announced.is_empty() { name.to_owned() } else { announced.clone() },
            load: load.clone(),
            pid,
            glance: run.glance(),
            began: Instant::now(),
            looks: VecDeque::new(),
        };
        if !announced.is_empty() {
            // Back to its start, and away with it.
            eprint!("\r\x1b[K");
        }
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("live".to_owned()).spawn(move || {
            // Where that is not allowed, a drawing takes a little of the engine's core.
            let _ = rustix::process::nice(NICE_STEPS);
            draw(shown, || stopped.recv_timeout(REFRESH) == Err(RecvTimeoutError::Timeout));
        });
        // Without a thread there is nothing to see, and nothing else is lost.
        Some(View { stop: Some(stop), thread: thread.ok(), announced })
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.stop = None;
        // A panic there is on the terminal already.
        let _ = self.thread.take().map(JoinHandle::join);
        if !self.announced.is_empty() {
            eprint!("{}: ", self.announced);
        }
    }
}

/// Draws until `goes_on`, which waits between two looks, says that the run is over; then the last state, and nothing.
fn draw(mut shown: Shown, goes_on: impl Fn() -> bool) {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_MAX);
    let bar = ProgressBar::with_draw_target(None, target);
    bar.set_style(ProgressStyle::with_template("{msg}").expect("the template is a constant"));
    let mut look = || bar.set_message(shown.lines(Instant::now(), columns()).join("\n"));
    look();
    while goes_on() {
        look();
    }
    look();
    bar.finish_and_clear();
}

/// The width of the terminal, which may change at any time.
fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr());
    // A terminal without a size says 0.
    match size.map_or(0, |size| size.ws_col) {
        0 => 80,
        columns => usize::from(columns),
    }
}

/// What was seen at one moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    counts: Counts,
    /// CPU time of the server so far.
    cpu: Option<Duration>,
}

/// A run as it is told to people.
struct Shown {
    title: String,
    load: Load,
    pid: Option<u32>,
    glance: Arc<Glance>,
    began: Instant,
    /// Those of the last second, the newest last.
    looks: VecDeque<Look>,
}

impl Shown {
    /// The lines at `now`, cut to a terminal's width.
    fn lines(&mut self, now: Instant, width: usize) -> Vec<String> {
        let cpu = self.pid.and_then(|pid| machine::ticks(pid).ok());
        self.looks.push_back(Look { at: now, counts: self.glance.counts(), cpu });
        if self.looks.len() > NOW_LOOKS + 1 {
            self.looks.pop_front();
        }
        let mut lines = vec![self.title.clone(), self.phase(now), self.rates(now)];
        lines.extend(self.latencies());
        lines.extend(self.server());
        // A line that is wrapped would be two, and the cursor would not find back.
        lines.iter().map(|line| line.chars().take(width.saturating_sub(1)).collect()).collect()
    }

    fn phase(&self, now: Instant) -> String {
        let elapsed = now.saturating_duration_since(self.began);
        let Load { warm_up, duration, .. } = self.load;
        match elapsed.checked_sub(warm_up) {
            None => {
                let (at, end) = (elapsed.as_secs_f64(), warm_up.as_secs_f64());
                format!("  warming up {at:.1} of {end:.1} s")
            }
            Some(counted) if counted < duration => {
                let (at, end) = (counted.as_secs_f64(), duration.as_secs_f64());
                format!("  measuring {at:.1} of {end:.1} s")
            }
            Some(_) => "  waiting for the last answers".to_owned(),
        }
    }

    fn rates(&self, now: Instant) -> String {
        let (first, last) = self.ends();
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        let a_second = |before: u64, after: u64| match seconds {
            0.0 => 0.0,
            seconds => after.saturating_sub(before) as f64 / seconds,
        };
        let (before, counts) = (first.counts, last.counts);
        let batch = f64::from(self.load.shape.batch);
        let acked = a_second(before.acked_batches, counts.acked_batches) * batch;
        let elapsed = now.saturating_duration_since(self.began);
        let counted = elapsed.saturating_sub(self.load.warm_up).min(self.load.duration);
        let mean = match counted.as_secs_f64() {
            0.0 => 0.0,
            seconds => counts.acked_events_counted as f64 / seconds,
        };
        let mut line = format!("  events/s {} now, {} mean", thousands(acked), thousands(mean));
        if self.load.subscribers > 0 {
            let delivered = a_second(before.delivered_events, counts.delivered_events);
            line.push_str(&format!(", {} delivered", thousands(delivered)));
        }
        let (in_flight, errors) = (counts.in_flight as f64, counts.refused_batches as f64);
        line.push_str(&format!(
            "; {} batches in flight, {} errors",
            thousands(in_flight),
            thousands(errors)
        ));
        line
    }

    fn latencies(&self) -> Option<String> {
        let [p50, p99, p999] = self.glance.quantiles([0.5, 0.99, 0.999])?.map(time);
        Some(format!("  ack so far p50 {p50}, p99 {p99}, p99.9 {p999}"))
    }

    /// The server's CPU over the last second and its memory, if its process is known and lives.
    fn server(&self) -> Option<String> {
        let (first, last) = self.ends();
        let memory = machine::memory_bytes(self.pid?, "VmRSS:").ok()?;
        let used = last.cpu?.saturating_sub(first.cpu?).as_secs_f64();
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        let percent = if seconds > 0.0 { 100.0 * used / seconds } else { 0.0 };
        Some(format!("  server CPU {percent:.0} %, memory {:.1} MiB", memory as f64 / 1048576.0))
    }

    fn ends(&self) -> (Look, Look) {
        let ends = self.looks.front().zip(self.looks.back());
        let (first, last) = ends.expect("every call of `lines` looks first");
        (*first, *last)
    }
}

/// A number with its thousands set apart.
fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in the unit that suits it.
fn time(ns: u64) -> String {
    match ns as f64 {
        ns if ns < 1e6 => format!("{:.0} us", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.1} s", ns / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A figure that is read wrongly by a digit is worse than none.
    #[test]
    fn numbers_are_easy_to_read() {
        let told = [0.0, 999.4, 1_000.0, 104_233.0, 1_234_567.0].map(thousands);
        assert_eq!(told, ["0", "999", "1,000", "104,233", "1,234,567"]);
        let told = [850, 212_000, 1_250_000, 3_400_000_000].map(time);
        assert_eq!(told, ["1 us", "212 us", "1.2 ms", "3.4 s"]);
    }
}
