//! `loadtest run` and `loadtest compare` on a terminal.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

mod support;
use support::{client_cpu, server};

const BINARY: &str = env!("CARGO_BIN_EXE_loadtest");
const ROWS: u16 = 24;
const COLUMNS: u16 = 160;
const ESCAPE: u8 = 0x1b;

/// A server that acknowledges at once; gone with the test.
struct StandIn {
    child: Child,
    address: String,
}

impl StandIn {
    fn start() -> StandIn {
        let mut child =
            Command::new(BINARY).arg("stand-in").stdout(Stdio::piped()).spawn().expect("it starts");
        let mut ready = String::new();
        let stdout = child.stdout.as_mut().expect("it is piped");
        BufReader::new(stdout).read_line(&mut ready).expect("it says that it is ready");
        let address = ready.trim().rsplit(' ').next().expect("it names its address").to_owned();
        StandIn { child, address }
    }

    /// A short load on it.
    fn run(&self, flags: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        command.args(["run", "--server", &self.address, "--publishers", "3", "--in-flight", "2"]);
        command.args(["--server-pid", &self.child.id().to_string()]);
        command.args(["--warm-up", "50ms", "--duration", "700ms"]).args(flags);
        command.env("TERM", "xterm-256color").stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a terminal showed.
struct Seen {
    /// The screens before each control sequence.
    screens: Vec<String>,
    /// What is left at the end, and where the cursor stands.
    left: (String, (u16, u16)),
    bytes: usize,
}

/// Runs a command whose standard error is a terminal.
fn on_a_terminal(mut command: Command) -> (Output, Seen) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("there are terminals");
    grantpt(&master).expect("it is ours");
    unlockpt(&master).expect("it is ours");
    let path = ptsname(&master, Vec::new()).expect("it has a name").into_string();
    let path = path.expect("its name is text");
    let slave = File::options().read(true).write(true).open(path).expect("it opens");
    let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&slave, size).expect("it has a size");
    let child = command.stderr(Stdio::from(slave)).spawn().expect("it starts");
    // Its copy of the terminal; without this the end of the other one would never be read.
    drop(command);
    let reader = thread::spawn(move || watch(File::from(master)));
    let output = child.wait_with_output().expect("it ends");
    (output, reader.join().expect("it only reads"))
}

fn watch(mut master: File) -> Seen {
    let mut terminal = vt100::Parser::new(ROWS, COLUMNS, 0);
    let (mut screens, mut bytes, mut piece) = (Vec::new(), 0, [0; 4_096]);
    // The kernel says "I/O error" once nobody has the other end.
    while let Ok(count @ 1..) = master.read(&mut piece) {
        bytes += count;
        for byte in &piece[..count] {
            // What stands there before the cursor is moved, and what it moves over is taken away.
            if *byte == ESCAPE {
                screens.push(text_of(terminal.screen()));
                screens.dedup();
            }
            terminal.process(&[*byte]);
        }
    }
    let screen = terminal.screen();
    Seen { screens, left: (text_of(screen), screen.cursor_position()), bytes }
}

fn text_of(screen: &vt100::Screen) -> String {
    let rows: Vec<String> = screen.rows(0, COLUMNS).map(|row| row.trim_end().to_owned()).collect();
    rows.join("\n").trim_end().to_owned()
}

/// A view that never comes is not missed before a long run; one that leaves lines behind, or is written into a log,
/// spoils what people keep.
#[test]
fn a_run_is_shown_on_a_terminal_and_leaves_a_clean_screen() {
    let server = StandIn::start();
    let (output, seen) = on_a_terminal(server.run(&[]));
    assert!(output.status.success(), "{:?}", seen.left);
    let report = String::from_utf8(output.stdout).expect("the report is text");
    assert!(report.contains("3 publishers x 2, 1 x 100 B"), "{report}");
    // The last look is after the last answer, so it has all figures, however slow the day is.
    let parts = [
        "3 publishers x 2, 1 x 100 B\n  ",
        "  waiting for the last answers\n",
        "events/s ",
        " batches in flight, 0 errors\n",
        "ack so far p50 ",
        "server CPU ",
    ];
    let is_whole = |screen: &String| parts.iter().all(|part| screen.contains(part));
    assert!(seen.screens.iter().any(is_whole), "{:#?}", seen.screens);
    assert_eq!(seen.left, (String::new(), (0, 0)), "the screen is as it was");
}

/// A view takes the place of an open line, and must give it back: what is compared is read beside its name.
#[test]
fn a_comparison_keeps_its_lines() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder is made");
    let at = |name: &str| folder.path().join(name);
    let mut command = Command::new(BINARY);
    command.args(["compare", "--workload", "tiny", "--peers", "none", "--rounds", "1"]);
    command.args(["--warm-up", "100ms", "--duration", "400ms", "--cpu", client_cpu(), "--serve"]);
    command.arg(server()).arg("--data").arg(at("data")).arg("--out").arg(at("out"));
    command.env("TERM", "xterm-256color").stdin(Stdio::null()).stdout(Stdio::piped());
    let (output, seen) = on_a_terminal(command);
    let left = seen.left.0;
    assert!(output.status.success(), "{left}");
    let lines: Vec<&str> = left.lines().collect();
    for (line, contender) in lines.iter().zip(["ringmesh", "ringmesh-written", "file"]) {
        let start = format!("tiny, round 1 of 1, {contender}: ");
        assert!(line.strip_prefix(&start).is_some_and(|rest| rest.contains("/s")), "{left}");
        let is_seen = |screen: &String| {
            let view = screen.lines().last().is_some_and(|line| line.starts_with("  server CPU "));
            view && screen.contains(start.trim_end_matches(": "))
        };
        // The floor has no server, and no view.
        assert_eq!(seen.screens.iter().any(is_seen), contender != "file", "{:#?}", seen.screens);
    }
    assert_eq!(lines.len(), 4, "the last says where the report is: {left}");
}

/// What is read by programs, and what nobody asked to see, has none of it.
#[test]
fn quiet_runs_and_pipes_show_nothing() {
    let server = StandIn::start();
    for flag in ["--quiet", "--json"] {
        let (output, seen) = on_a_terminal(server.run(&[flag]));
        assert!(output.status.success());
        assert_eq!(seen.bytes, 0, "{flag}: {:#?}", seen.screens);
    }
    let mut dumb = server.run(&[]);
    dumb.env("TERM", "dumb");
    assert_eq!(on_a_terminal(dumb).1.bytes, 0, "it cannot move its cursor");
    let piped = server.run(&[]).stderr(Stdio::piped()).output().expect("it starts");
    assert!(piped.status.success());
    assert_eq!(String::from_utf8_lossy(&piped.stderr), "");
}
