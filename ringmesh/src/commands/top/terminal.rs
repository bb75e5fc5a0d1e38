//! The terminal: taken whole, drawn on, read from, and given back as it was.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::screen::View;

/// What a person wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Sort,
    Up,
    Down,
    PageUp,
    PageDown,
}

/// The terminal while it is ours. Dropped, it is as it was.
pub(super) struct Terminal {
    before: Termios,
    drawn: (usize, usize),
}

/// Whether there is one: for reading keys and for drawing.
pub(super) fn is_there() -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    io::stdin().is_terminal() && io::stdout().is_terminal() && !is_dumb
}

impl Terminal {
    /// Takes the whole screen, and every key as it is pressed.
    pub(super) fn take() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        let terminal = Terminal { before, drawn: (0, 0) };
        // Another screen, so that what stood there comes back; and no cursor on it.
        write("\x1b[?1049h\x1b[?25l")?;
        Ok(terminal)
    }

    /// Draws the view over what is there.
    pub(super) fn draw(&mut self, view: &View) -> io::Result<()> {
        let (columns, rows) = size();
        self.drawn = (columns, rows);
        let mut out = String::from("\x1b[H");
        for (index, line) in view.lines(columns, rows).iter().enumerate() {
            if index > 0 {
                out.push_str("\r\n");
            }
            match line.is_chosen {
                true => out.push_str(&format!("\x1b[7m{}\x1b[0m\x1b[K", line.text)),
                false => out.push_str(&format!("{}\x1b[K", line.text)),
            }
        }
        out.push_str("\x1b[J");
        write(&out)
    }

    /// Whether the terminal has another size than when it was drawn on.
    pub(super) fn has_changed(&self) -> bool {
        size() != self.drawn
    }

    /// The keys that are pressed within a time.
    pub(super) fn keys(&mut self, patience: Duration) -> io::Result<Vec<Key>> {
        let stdin = io::stdin();
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
        let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
            ready => ready?,
        };
        let mut bytes = [0; 64];
        match rustix::io::read(&stdin, &mut bytes)? {
            // The terminal is gone.
            0 => Ok(vec![Key::Quit]),
            count => Ok(keys_of(&bytes[..count])),
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = write("\x1b[?25h\x1b[?1049l");
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Columns and rows; a terminal that does not know says 0.
fn size() -> (usize, usize) {
    let size = tcgetwinsize(io::stdout()).ok();
    let known =
        |count: Option<u16>, usual| count.filter(|count| *count > 0).map_or(usual, usize::from);
    (known(size.map(|size| size.ws_col), 80), known(size.map(|size| size.ws_row), 24))
}

/// Keys as terminals send them. What means nothing is passed over.
fn keys_of(bytes: &[u8]) -> Vec<Key> {
    let (mut keys, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let known: [(&[u8], Key); 12] = [
            (b"\x1b[A", Key::Up),
            (b"\x1bOA", Key::Up),
            (b"\x1b[B", Key::Down),
            (b"\x1bOB", Key::Down),
            (b"\x1b[5~", Key::PageUp),
            (b"\x1b[6~", Key::PageDown),
            (b"k", Key::Up),
            (b"j", Key::Down),
            (b"s", Key::Sort),
            (b"q", Key::Quit),
            (b"Q", Key::Quit),
            // Ctrl-C, which is a key like others here.
            (b"\x03", Key::Quit),
        ];
        let found = known.iter().find(|(bytes, _)| rest.starts_with(bytes));
        let taken = found.map_or(1, |(bytes, _)| bytes.len());
        keys.extend(found.map(|(_, key)| *key));
        rest = &rest[taken..];
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that come together are as many, and a key of another kind is none of ours.
    #[test]
    fn keys_are_told_apart() {
        assert_eq!(keys_of(b"\x1b[A\x1b[Bsq"), [Key::Up, Key::Down, Key::Sort, Key::Quit]);
        assert_eq!(
            keys_of(b"\x1bOA\x1b[5~\x1b[6~\x03"),
            [Key::Up, Key::PageUp, Key::PageDown, Key::Quit]
        );
        assert_eq!(keys_of(b"\x1b[1;5Hxyz\xff"), []);
    }
}
