//! A server under test: one that this program starts on an empty folder, or one that runs already.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::engine::Protocol;
use crate::machine;

/// How long a server may take to end after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// How a server is started.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    /// The binary.
    pub(crate) binary: &'a Path,
    /// Where its folder is made.
    pub(crate) data: &'a Path,
    /// Its shards.
    pub(crate) shards: u16,
    /// Its core, and the core of this process afterwards.
    pub(crate) cpus: (Option<usize>, Option<usize>),
    /// Further arguments.
    pub(crate) arguments: &'a [String],
}

/// A server that was started here. Dropping it kills it; its folder goes with it.
pub(crate) struct Server {
    child: Child,
    // Kept open: a server whose ready line has nowhere to go may end.
    _stdout: BufReader<ChildStdout>,
    /// Where the native door listens.
    pub(crate) address: SocketAddr,
    /// Where the http door listens, unless it is off.
    pub(crate) http: Option<SocketAddr>,
    /// From the start of the process to its ready line.
    pub(crate) ready_after: Duration,
    /// Removed with its last holder.
    folder: Rc<TempDir>,
}

impl Server {
    /// Starts a server on an empty folder and waits for its ready line.
    pub(crate) fn start(start: &Start<'_>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(start.data)
            .with_context(|| format!("cannot make the folder {}", start.data.display()))?;
        let folder = tempfile::Builder::new().prefix("loadtest-").tempdir_in(start.data)?;
        Self::start_in(start, Rc::new(folder))
    }

    /// Starts a server on a folder that another one has left, and waits for its ready line.
    pub(crate) fn start_in(start: &Start<'_>, folder: Rc<TempDir>) -> anyhow::Result<Self> {
        // A process starts on the core of the thread that starts it, before any of its threads can run elsewhere.
        if let Some(cpu) = start.cpus.0 {
            machine::pin(cpu)?;
        }
        let began = Instant::now();
        let mut child = Command::new(start.binary)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
                "--http",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(folder.path().join("data"))
            .args(["--shards", &start.shards.to_string()])
            .args(start.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", start.binary.display()))?;
        if let Some(cpu) = start.cpus.1 {
            machine::pin(cpu)?;
        }
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is a pipe")?);
        match ready_line(&mut stdout) {
            Ok((address, http)) => {
                let ready_after = began.elapsed();
                Ok(Server { child, _stdout: stdout, address, http, ready_after, folder })
            }
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Where it is asked in this protocol.
    pub(crate) fn door(&self, protocol: Protocol) -> anyhow::Result<SocketAddr> {
        match protocol {
            Protocol::Ringmesh => Ok(self.address),
            Protocol::Http => self.http.context("the ready line names no http door"),
            other => bail!("a server that is started here speaks ringmesh and http, not {other:?}"),
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its folder, on the disk that is measured.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Kills it (SIGKILL), and returns its folder.
    pub(crate) fn kill(mut self) -> anyhow::Result<Rc<TempDir>> {
        self.child.kill().context("cannot kill the server")?;
        let status = self.child.wait()?;
        if status.code().is_some() {
            bail!("the server ended with {status} before it could be killed");
        }
        Ok(Rc::clone(&self.folder))
    }

    /// Asks it to end, and waits. A server that must be killed is an error.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, Signal::TERM)?;
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                if !status.success() {
                    bail!("the server ended with {status}");
                }
                return Ok(());
            }
            if asked.elapsed() > STOP_TIMEOUT {
                bail!("the server does not end in {STOP_TIMEOUT:?} after SIGTERM; it was killed");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The first loopback address on stdout, and the http door's: the ready line names the doors.
fn ready_line(stdout: &mut impl BufRead) -> anyhow::Result<(SocketAddr, Option<SocketAddr>)> {
    let mut seen = String::new();
    let mut line = String::new();
    while stdout.by_ref().take(16 << 10).read_line(&mut line)? > 0 {
        if let Some(address) = address_in(&line) {
            return Ok((
                address,
                line.split_once("http door on ").and_then(|(_, it)| address_in(it)),
            ));
        }
        seen.push_str(&line);
        line.clear();
    }
    bail!("the server ended before it was ready; it said: {}", seen.trim())
}

fn address_in(line: &str) -> Option<SocketAddr> {
    line.split(|c: char| c.is_whitespace() || "\"',()=/".contains(c))
        .filter_map(|word| word.trim_end_matches(['.', ';']).parse::<SocketAddr>().ok())
        .find(|address| address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wording of the ready line that is not understood would stop every measurement.
    #[test]
    fn the_address_is_found_in_the_ready_line() {
        let expected = Some("127.0.0.1:4711".parse().unwrap());
        for line in [
            "ready: native on 127.0.0.1:4711, 2 shards\n",
            "ringmesh 0.1.0 is ready (native 127.0.0.1:4711)",
            r#"{"ready":true,"native":"127.0.0.1:4711"}"#,
            "listening native=127.0.0.1:4711.",
        ] {
            assert_eq!(address_in(line), expected, "{line}");
        }
        assert_eq!(address_in("recovering /data, 10.0.0.1:80"), None);
        let mut output = &b"warming up\nready native 127.0.0.1:4711\n"[..];
        assert_eq!(ready_line(&mut output).ok(), expected.map(|address| (address, None)));
        let doors =
            "native door on 127.0.0.1:4711, http door on 127.0.0.1:4712, admin port on [::1]:1\n";
        let http = "127.0.0.1:4712".parse().ok();
        let found = ready_line(&mut doors.as_bytes()).ok();
        assert_eq!(found, expected.map(|address| (address, http)));
        assert!(ready_line(&mut &b"error: no disk\n"[..]).is_err());
    }
}
