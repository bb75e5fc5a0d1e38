//! A server's process: started on its core, with its output in a file, and never left behind.
//!
//! It is started through `loadtest exec-server`, which takes the core, asks the kernel to be killed when this program
//! dies (even by kill -9), and becomes the server. So the server's process is the one that is watched.

use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};

use crate::args::ExecServerArgs;
use crate::machine;

/// How long a server may take to end after it was asked to.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long until a server that starts or ends is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Lines of a server's output that an error shows.
const LAST_LINES: usize = 6;

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct Spawn {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<OsString>,
    /// What it finds in its environment, besides ours.
    pub(crate) environment: Vec<(&'static str, String)>,
    /// Its core.
    pub(crate) cpu: Option<usize>,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

impl Spawn {
    fn command(&self) -> anyhow::Result<Command> {
        let output = File::create(&self.log)
            .with_context(|| format!("cannot make {}", self.log.display()))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["exec-server", "--parent", &std::process::id().to_string()]);
        if let Some(cpu) = self.cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        command.arg("--").arg(&self.program).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stderr(output.try_clone()?).stdout(output);
        Ok(command)
    }

    /// Runs it to its end; what it says is in the error when it fails.
    pub(crate) fn run_to_end(&self) -> anyhow::Result<()> {
        let status = self.command()?.status()?;
        if !status.success() {
            bail!("{} ended with {status}: {}", self.program.display(), last_lines(&self.log));
        }
        Ok(())
    }
}

/// A server that runs. Dropping it kills it.
pub(crate) struct ServerProcess {
    child: Child,
    log: PathBuf,
    ready_after: Duration,
}

impl ServerProcess {
    /// Starts it, and waits until it takes connections at `address`.
    pub(crate) fn start(
        spawn: &Spawn,
        address: SocketAddr,
        ready_within: Duration,
    ) -> anyhow::Result<Self> {
        let began = Instant::now();
        let child = spawn.command()?.spawn().context("cannot start the server")?;
        let mut server =
            ServerProcess { child, log: spawn.log.clone(), ready_after: Duration::ZERO };
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            if let Some(status) = server.child.try_wait()? {
                bail!("the server ended with {status}: {}", last_lines(&server.log));
            }
            if began.elapsed() > ready_within {
                bail!(
                    "nobody listens on {address} in {ready_within:?}: {}",
                    last_lines(&server.log)
                );
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        server.ready_after = began.elapsed();
        Ok(server)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How long it took from its start until it took connections.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// An error of its client, with the server's last words if it has ended: then they are the reason.
    pub(crate) fn explain(&mut self, error: anyhow::Error) -> anyhow::Error {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                error.context(format!("the server ended with {status}: {}", last_lines(&self.log)))
            }
            _ => error,
        }
    }

    /// Asks it to end and waits. Servers differ in the status they end with after SIGTERM; it is not looked at.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        if self.child.try_wait()?.is_some() {
            bail!("the server ended in the middle of the run: {}", last_lines(&self.log));
        }
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > STOP_TIMEOUT {
                bail!("the server does not end in {STOP_TIMEOUT:?} after SIGTERM; it was killed");
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// `loadtest exec-server`: becomes the program that is named. Returns only when it cannot.
pub(crate) fn exec(args: &ExecServerArgs) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the kernel was asked.
    if getppid().map(|parent| parent.as_raw_nonzero().get()) != i32::try_from(args.parent).ok() {
        bail!("whoever started this has gone");
    }
    if let Some(cpu) = args.cpu {
        machine::pin(cpu)?;
    }
    let (program, arguments) = args.program.split_first().context("no program is named")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot run {}", Path::new(program).display()))
}

/// A loopback address on which nobody listens for now.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join(" | ")
}
