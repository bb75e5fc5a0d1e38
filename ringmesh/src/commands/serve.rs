//! `ringmesh serve`: reads the configuration, runs a server until it is told to stop.

use std::io::IsTerminal;

use tracing::info;

use super::args::ServeArgs;
use super::failure::{Exit, Failure};
use super::output::print;
use super::signals::Stop;
use crate::config::{self, Config};
use crate::server::{Server, StartError};

/// Runs the command.
///
/// # Errors
/// The configuration is wrong, or the server cannot start or shut down as it should.
pub fn run(arguments: ServeArgs) -> Result<(), Failure> {
    let print_only = arguments.print_config;
    let loaded = arguments.configuration.load()?;
    if print_only {
        return print(config::print(&loaded).as_bytes());
    }
    write_logs(&loaded.config);
    keep_memory_small();
    let mut stop = Stop::listen().map_err(|error| {
        Failure::new(Exit::Failed, format!("the process cannot listen for signals: {error}"), "")
    })?;
    let server = Server::start_loaded(&loaded).map_err(|error| not_started(&error))?;
    // The folder may be told as a relative path; the line is for a person who may be elsewhere by now.
    let folder = loaded.config.server.data.canonicalize();
    let folder = folder.unwrap_or(loaded.config.server.data);
    let shards = server.shards();
    let http = server.http().map_or_else(String::new, |http| format!(", http door on {http}"));
    let admin = server.admin().map_or_else(String::new, |admin| format!(", admin port on {admin}"));
    let ready = format!(
        "ringmesh {} is ready: {shards} shard{} on {}, native door on {}{http}{admin}\n",
        env!("CARGO_PKG_VERSION"),
        if shards == 1 { "" } else { "s" },
        folder.display(),
        server.address(),
    );
    print(ready.as_bytes())?;
    stop.wait_for_signal();
    info!("shutting down: what was taken is written and answered");
    server.shut_down();
    Ok(())
}

/// Buffers are touched here and there as they are needed. Huge pages would make each touch cost 2 MiB: an idle server
/// with two shards took 35 MB with them and takes 11 MB without. The allocator asks for none, but a kernel that is set
/// to `always` gives them unasked.
fn keep_memory_small() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        info!(%error, "huge pages stay on; the server will take more memory than it needs");
    }
}

fn not_started(error: &StartError) -> Failure {
    let exit = if error.is_damage() { Exit::Damaged } else { Exit::Failed };
    Failure::new(exit, format!("the server does not start: {error}"), error.advice())
}

/// Lines about the server itself go to standard error; standard output has only the ready line.
fn write_logs(config: &Config) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(config.logging.level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(true)
        .finish();
    // Only a second server in one process finds one set, and then it shares the first one's.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
