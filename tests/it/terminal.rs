//! A terminal for commands that draw: a pair of pseudo-terminals, and who reads the screen.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::harness::PATIENCE;

/// Which of a command's streams are the terminal. The others stay as the command has them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Standard input and output.
    Screen,
    /// Standard error.
    Errors,
}

/// A command on a terminal.
pub struct Terminal {
    child: Child,
    master: File,
    seen: Arc<Mutex<Seen>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

/// What the terminal showed.
struct Seen {
    parser: vt100::Parser,
    screens: Vec<String>,
}

impl Terminal {
    /// Starts a command on a terminal of this size.
    pub fn start(mut command: Command, streams: Streams, rows: u16, columns: u16) -> Terminal {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let path = ptsname(&master, Vec::new()).expect("it has a name").into_string();
        let path = path.expect("its name is text");
        let slave = || File::options().read(true).write(true).open(&path).expect("it opens");
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(slave(), size).expect("it has a size");
        command.env("TERM", "xterm-256color");
        match streams {
            Streams::Screen => command.stdin(slave()).stdout(slave()),
            Streams::Errors => command.stdin(Stdio::null()).stderr(slave()),
        };
        let child = command.spawn().expect("the binary starts");
        // Its copies of the terminal; without this the end of the other one would never be read.
        drop(command);
        let parser = vt100::Parser::new(rows, columns, 0);
        let seen = Arc::new(Mutex::new(Seen { parser, screens: Vec::new() }));
        let mut from = File::from(master);
        let master = from.try_clone().expect("it can be shared");
        let shared = Arc::clone(&seen);
        let reader = std::thread::spawn(move || {
            let mut piece = [0; 4_096];
            // The kernel says "I/O error" once nobody has the other end.
            while let Ok(count @ 1..) = from.read(&mut piece) {
                let mut seen = shared.lock().expect("nobody panics with it");
                for byte in &piece[..count] {
                    // What stands there before the cursor is moved.
                    if *byte == 0x1b {
                        seen.look();
                    }
                    seen.parser.process(&[*byte]);
                }
                seen.look();
            }
        });
        Terminal { child, master, seen, reader: Some(reader) }
    }

    /// Waits until the screen is so, and gives it.
    pub fn wait_for(&self, what: &str, is_so: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            {
                let seen = self.seen.lock().expect("nobody panics with it");
                if let Some(screen) = seen.screens.iter().rev().find(|screen| is_so(screen)) {
                    return screen.clone();
                }
                assert!(Instant::now() < deadline, "no {what}: {:#?}", seen.screens.last());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Forgets what was seen so far, so that [`Terminal::wait_for`] waits for what comes.
    pub fn forget(&self) {
        self.seen.lock().expect("nobody panics with it").screens.clear();
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the command reads");
    }

    /// Waits for the end: how it ended, what it showed, and what is left on the screen.
    pub fn end(mut self) -> (ExitStatus, Vec<String>, String) {
        let status = self.child.wait().expect("it is our child");
        self.reader.take().expect("it ends once").join().expect("it only reads");
        let seen = self.seen.lock().expect("nobody panics with it");
        (status, seen.screens.clone(), text_of(seen.parser.screen()))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Seen {
    fn look(&mut self) {
        let text = text_of(self.parser.screen());
        if self.screens.last() != Some(&text) {
            self.screens.push(text);
        }
    }
}

fn text_of(screen: &vt100::Screen) -> String {
    let (_, columns) = screen.size();
    let rows: Vec<String> = screen.rows(0, columns).map(|row| row.trim_end().to_owned()).collect();
    rows.join("\n").trim_end().to_owned()
}
