//! Starts the real binary in folders of its own, waits for its ready line, kills it, and reads what it says.
//!
//! A server that wrote a WARN or ERROR line which the test did not announce fails the test when it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_ringmesh");
/// Nothing in these tests takes longer than this unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running server.
pub struct Server {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
    admin: SocketAddr,
    http: SocketAddr,
    said: Arc<Mutex<Vec<String>>>,
    expected: Vec<&'static str>,
    is_over: bool,
}

impl Server {
    /// Starts a server on `folder` with a free port, and waits until it is ready.
    pub fn start(folder: &Path) -> Server {
        Self::start_with(folder, &[])
    }

    /// The same with more flags.
    pub fn start_with(folder: &Path, flags: &[&str]) -> Server {
        Self::wait_until_ready(folder, serve(folder, flags))
    }

    /// The same on a given address: where a killed server was.
    pub fn start_at(folder: &Path, address: &str, flags: &[&str]) -> Server {
        let mut command = serve(folder, flags);
        command.args(["--set", &format!("native.listen={address}")]);
        Self::wait_until_ready(folder, command)
    }

    /// Starts the server of a command line on `folder`, and waits until it is ready.
    pub fn wait_until_ready(folder: &Path, mut command: Command) -> Server {
        let mut child = command.spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let said = Arc::new(Mutex::new(Vec::new()));
        let lines = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                lines.lock().expect("nobody panics with it").push(line);
            }
        });
        let stdout = lines_of(child.stdout.take().expect("it is piped"));
        let ready = match stdout.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                panic!("no ready line; it said {:#?}", said.lock().expect("whole"));
            }
        };
        let address = |of: &str| {
            let rest = ready.split(of).nth(1).unwrap_or_else(|| panic!("{of} in {ready}"));
            let word = rest.split([' ', ',']).next().unwrap_or_default();
            word.parse().unwrap_or_else(|_| panic!("an address behind {of} in {ready}"))
        };
        let (admin, http) = (address("admin port on "), address("http door on "));
        let address = address("native door on ");
        let (folder, expected) = (folder.to_owned(), Vec::new());
        Server { child, folder, address, admin, http, said, expected, is_over: false }
    }

    /// A WARN or ERROR line with this text is part of the test.
    pub fn expect_line(&mut self, text: &'static str) {
        self.expected.push(text);
    }

    /// The disk becomes full: events are refused, and what the log writes beside them may fail until there is room.
    pub fn expect_full_disk(&mut self) {
        self.expect_line("no space: events are refused");
        self.expect_line("writing a checkpoint failed");
        self.expect_line("making a segment's index failed");
    }

    /// Where the native door listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the admin port listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where the http door listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A plain connection to the native door.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the door is open");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out can be set");
        stream
    }

    /// A command of the binary with `--server` of this server.
    pub fn command(&self, arguments: &[&str]) -> Run {
        let mut all = arguments.to_vec();
        let address = self.address.to_string();
        all.extend(["--server", &address]);
        run(&all)
    }

    /// What it wrote to standard error so far.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().expect("nobody panics with it").clone()
    }

    /// Kills the server as a power cut would, but for what the kernel holds.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
        self.end();
    }

    /// Shuts the server down by SIGTERM and returns how it ended.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        let status = wait(&mut self.child, PATIENCE);
        let status =
            status.unwrap_or_else(|| panic!("no end after SIGTERM; it said {:#?}", self.said()));
        assert!(
            !self.folder.join("addresses.json").exists(),
            "addresses.json goes with the server"
        );
        self.end();
        status
    }

    fn end(&mut self) {
        self.is_over = true;
        for line in self.said() {
            let is_bad = [" WARN ", " ERROR ", "panicked"].iter().any(|word| line.contains(word));
            let is_expected = self.expected.iter().any(|text| line.contains(text));
            assert!(!is_bad || is_expected, "the server said: {line}");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the server said {:#?}", self.said());
        } else {
            self.end();
        }
    }
}

/// The command line of a server on `folder`.
pub fn serve(folder: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.arg("serve").arg("--data").arg(folder).args(["--set", "native.listen=127.0.0.1:0"]);
    command.args(["--admin", "127.0.0.1:0", "--set", "http.listen=127.0.0.1:0"]);
    command.args(["--set", "log.segment_bytes=4MiB"]);
    command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A command that runs beside the test.
pub struct Run {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: Arc<Mutex<String>>,
    stderr_reader: Option<std::thread::JoinHandle<()>>,
    is_over: bool,
}

/// What a command that is over has left.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The lines of standard output that were not taken before.
    pub lines: Vec<String>,
    /// Standard error.
    pub stderr: String,
}

/// Starts the binary with these arguments.
pub fn run(arguments: &[&str]) -> Run {
    let mut command = Command::new(BINARY);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let lines = lines_of(child.stdout.take().expect("it is piped"));
    let pipe = BufReader::new(child.stderr.take().expect("it is piped"));
    let stderr = Arc::new(Mutex::new(String::new()));
    let text = Arc::clone(&stderr);
    let reader = std::thread::spawn(move || {
        for line in pipe.lines().map_while(Result::ok) {
            let mut text = text.lock().expect("nobody panics with it");
            text.push_str(&line);
            text.push('\n');
        }
    });
    let stdin = child.stdin.take();
    Run { child, stdin, lines, stderr, stderr_reader: Some(reader), is_over: false }
}

impl Run {
    /// Writes to its standard input.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("it is open");
        stdin.write_all(bytes).expect("the command reads");
    }

    /// The next line of standard output.
    pub fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(_) => panic!("no line; {:?}", self.collect()),
        }
    }

    /// The next line, read as JSON.
    pub fn json(&mut self) -> serde_json::Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"))
    }

    /// Waits until a subscriber says on standard error that it stands.
    pub fn wait_until_subscribed(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.stderr().contains("subscribed to ") {
            let is_running = self.child.try_wait().expect("it is our child").is_none();
            assert!(
                is_running && Instant::now() < deadline,
                "it does not stand; {:?}",
                self.collect()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether a line comes within `time`; takes it.
    pub fn line_within(&mut self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as a power cut would.
    pub fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        self.collect()
    }

    /// Closes its standard input and waits for its end, for as long as it goes on saying something.
    pub fn end(mut self) -> Ended {
        self.stdin = None;
        let mut lines = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            lines.push(line);
        }
        let hangs = wait(&mut self.child, PATIENCE).is_none();
        let _ = self.child.kill();
        let rest = self.collect();
        lines.extend(rest.lines);
        let last = lines.last();
        let count = lines.len();
        assert!(
            !hangs,
            "the command hangs after {count} lines; the last: {last:?}; {}",
            rest.stderr
        );
        Ended { lines, ..rest }
    }

    /// Waits for its end, which must be exit code 0.
    pub fn done(self) -> Vec<String> {
        let ended = self.end();
        let mut said = ended.stderr.lines().filter(|line| !line.starts_with("subscribed to "));
        assert_eq!((ended.code, said.next()), (Some(0), None), "{ended:#?}");
        ended.lines
    }

    fn stderr(&self) -> String {
        self.stderr.lock().expect("nobody panics with it").clone()
    }

    fn collect(&mut self) -> Ended {
        self.is_over = true;
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    let _ = self.child.kill();
                }
            }
        }
        let code = self.child.wait().expect("it is our child").code();
        if let Some(reader) = self.stderr_reader.take() {
            reader.join().expect("it only reads");
        }
        Ended { code, lines, stderr: self.stderr() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends a signal by its name.
pub fn signal(id: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
    assert!(status.expect("kill is there").success(), "process {id} takes {name}");
}

fn lines_of(stdout: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Waits for the end of a child. Polls, because the standard library has no wait with a time-out.
fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}
