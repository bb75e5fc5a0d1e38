//! A line on the terminal while much is under way: how much is done, how fast, how long it still takes.
//!
//! It stands on standard error, and only where nothing else is written to that terminal: results that are printed to the
//! same one are progress enough. Short work is over before it is drawn.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How long work takes before it is worth a line.
const LONG: Duration = Duration::from_millis(500);
/// Most draws a second.
const DRAWS_MAX: u8 = 10;

/// Work under way.
#[derive(Debug)]
pub struct Progress {
    began: Instant,
    done: u64,
    total: Option<u64>,
    is_shown: bool,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins; `total` is `None` if nobody knows. With `quiet`, standard output has no results meanwhile.
    #[must_use]
    pub fn begin(total: Option<u64>, quiet: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let is_free = quiet || !std::io::stdout().is_terminal();
        let is_shown = std::io::stderr().is_terminal() && !is_dumb && is_free;
        Progress { began: Instant::now(), done: 0, total, is_shown, bar: None }
    }

    /// So many more are done.
    pub fn advance(&mut self, count: u64) {
        self.done += count;
        if self.is_shown && self.bar.is_none() && self.began.elapsed() >= LONG {
            self.bar = Some(bar(self.total, self.began.elapsed()));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }

    /// Takes the line away.
    pub fn end(&mut self) {
        self.is_shown = false;
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn bar(total: Option<u64>, elapsed: Duration) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(DRAWS_MAX);
    let form = match total {
        Some(_) => "{bar:24} {human_pos} of {human_len} events, {per_sec}, {eta} left",
        None => "{human_pos} events, {per_sec}",
    };
    let style = ProgressStyle::with_template(form).expect("the template is a constant");
    let bar = ProgressBar::with_draw_target(total, target).with_elapsed(elapsed);
    bar.set_style(style.progress_chars("=> "));
    bar
}
