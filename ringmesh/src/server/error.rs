//! Why a server does not start, and what to do about it.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use log::folder::OpenError;

use super::memory::TooLittle;

/// The flag that sets where the native door listens.
pub(crate) const LISTEN_FLAG: &str = "--listen";
/// The flag that sets where the http door listens.
pub(crate) const HTTP_FLAG: &str = "--http";
/// The flag that sets where the admin port listens.
pub(crate) const ADMIN_FLAG: &str = "--admin";

/// Why a server does not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The port cannot be had.
    Port {
        /// The flag that sets it.
        flag: &'static str,
        /// Where it was to listen.
        listen: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// The data folder cannot be opened.
    Folder {
        /// Which.
        data: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// The memory that it may take does not suffice.
    Memory(TooLittle),
    /// The admin port has no thread.
    Admin(io::Error),
    /// The shards cannot run on this machine.
    Runtime(dataplane::runtime::StartError),
    /// The control plane cannot run.
    Control(controlplane::control_plane::StartError),
    /// The machine gives no random number for the id of a new folder.
    NodeId(getrandom::Error),
    /// The addresses file cannot be written.
    Addresses {
        /// The data folder.
        data: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl StartError {
    /// What to do about it; empty where the message says it.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            StartError::Port { flag, error, .. } => {
                let is_taken = error.kind() == io::ErrorKind::AddrInUse;
                let is_denied = error.kind() == io::ErrorKind::PermissionDenied;
                match *flag {
                    ADMIN_FLAG if is_taken => {
                        "end the other one, or choose another address with --admin; port 0 picks a free one, off turns it off"
                    }
                    ADMIN_FLAG if is_denied => {
                        "ports below 1024 are for root; choose another with --admin"
                    }
                    ADMIN_FLAG => "choose an address of this machine with --admin",
                    HTTP_FLAG if is_taken => {
                        "end the other one, or choose another address with --http; port 0 picks a free one, off turns it off"
                    }
                    HTTP_FLAG if is_denied => {
                        "ports below 1024 are for root; choose another with --http"
                    }
                    HTTP_FLAG => "choose an address of this machine with --http",
                    _ if is_taken => {
                        "end the other one, or choose another address with --listen; port 0 picks a free one"
                    }
                    _ if is_denied => "ports below 1024 are for root; choose another with --listen",
                    _ => "choose an address of this machine with --listen",
                }
            }
            StartError::Folder { error, .. } => match error {
                OpenError::Locked { .. } => {
                    "end the other one, or choose another folder with --data"
                }
                OpenError::Io(_) => {
                    "look at the path and its permissions, or choose another folder with --data"
                }
                OpenError::Version { .. } => {
                    "start the version of ringmesh that wrote it, or a newer one"
                }
                _ => "restore the folder from a copy, or start with an empty one with --data",
            },
            StartError::Addresses { .. } => {
                "look at the folder's permissions and at the space on its disk"
            }
            StartError::Memory(_) => {
                "raise limits.memory_bytes_max, or lower server.shards or limits.connections_max"
            }
            StartError::Runtime(_)
            | StartError::Control(_)
            | StartError::Admin(_)
            | StartError::NodeId(_) => "",
        }
    }

    /// Whether it is the data on disk that is at fault.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        let StartError::Folder { error, .. } = self else { return false };
        matches!(error, OpenError::NoCheckpoint { .. } | OpenError::Description { .. })
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Port { listen, error, .. } if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "the address {listen} is taken: something listens there already")
            }
            StartError::Port { listen, error, .. } => {
                write!(f, "nothing can listen on {listen}: {error}")
            }
            StartError::Folder { data, error } => {
                write!(f, "the data folder {} cannot be opened: ", data.display())?;
                chain(error, f)
            }
            StartError::Memory(error) => error.fmt(f),
            StartError::Admin(error) => write!(f, "the admin port cannot be served: {error}"),
            StartError::Runtime(error) => chain(error, f),
            StartError::Control(error) => chain(error, f),
            StartError::NodeId(error) => write!(f, "the machine gives no random number: {error}"),
            StartError::Addresses { data, error } => {
                write!(f, "addresses.json cannot be written in {}: {error}", data.display())
            }
        }
    }
}

impl Error for StartError {}

/// An error and what stands behind it, on one line.
fn chain(error: &dyn Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{error}")?;
    let mut source = error.source();
    while let Some(error) = source {
        write!(f, ": {error}")?;
        source = error.source();
    }
    Ok(())
}
