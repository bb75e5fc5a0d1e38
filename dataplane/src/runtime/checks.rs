//! What a machine must offer before shards can start, checked in one place. Each failure is one line that says what to
//! change. Whether files can be written past the page cache the log finds out as it opens its folder.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// The least locked memory that glommio asks for, in bytes.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;
/// Locked memory one shard's executor registers: 64 KiB in each of its three rings.
const MEMLOCK_BYTES_SHARD: u64 = 3 * (64 << 10);

/// Why shards cannot start on this machine.
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckError {
    /// The kernel refuses io_uring.
    NoRing {
        /// What it said.
        error: io::Error,
    },
    /// The kernel's io_uring lacks an operation.
    OldRing {
        /// Which.
        operation: &'static str,
    },
    /// Too little memory may be locked.
    Memlock {
        /// Bytes that may be locked.
        limit: u64,
        /// Bytes that are needed.
        needed: u64,
    },
}

impl std::fmt::Display for CheckError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CheckError::NoRing { error } => write!(
                f,
                "io_uring is not usable ({error}): set sysctl kernel.io_uring_disabled=0, and in a container allow \
                 io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile"
            ),
            CheckError::OldRing { operation } => {
                write!(f, "this kernel's io_uring has no {operation}: run Linux 5.18 or newer")
            }
            CheckError::Memlock { limit, needed } => write!(
                f,
                "only {} KiB of memory may be locked and {} KiB are needed: raise it with `ulimit -l {}`, \
                 LimitMEMLOCK= of a systemd unit or --ulimit memlock= of a container",
                limit >> 10,
                needed >> 10,
                needed >> 10
            ),
        }
    }
}

impl std::error::Error for CheckError {}

/// Checks that `shards` can start; raises soft limits where the hard ones allow it.
///
/// # Errors
/// All that is missing.
pub fn check(shards: u16) -> Result<(), Vec<CheckError>> {
    let mut errors = Vec::new();
    errors.extend(check_ring().err());
    errors.extend(check_memlock(shards).err());
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// Raises the soft limit of open files to the hard one and returns it.
///
/// # Errors
/// The limit cannot be read or set.
pub fn raise_open_files() -> io::Result<u64> {
    raise(libc::RLIMIT_NOFILE)
}

fn check_ring() -> Result<(), CheckError> {
    let ring = IoUring::new(8).map_err(|error| CheckError::NoRing { error })?;
    let mut probe = Probe::new();
    let probed = ring.submitter().register_probe(&mut probe);
    probed.map_err(|error| CheckError::NoRing { error })?;
    let needed = [
        (opcode::PollAdd::CODE, "poll"),
        (opcode::PollRemove::CODE, "poll removal"),
        (opcode::Read::CODE, "read"),
        (opcode::Write::CODE, "write"),
        (opcode::MsgRingData::CODE, "message to another ring"),
    ];
    match needed.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, operation)) => Err(CheckError::OldRing { operation }),
        None => Ok(()),
    }
}

fn check_memlock(shards: u16) -> Result<(), CheckError> {
    let needed = MEMLOCK_BYTES_MIN.max(MEMLOCK_BYTES_SHARD * u64::from(shards));
    // A limit that cannot be read is left to glommio, which reads it again.
    match raise(libc::RLIMIT_MEMLOCK) {
        Ok(limit) if limit < needed => Err(CheckError::Memlock { limit, needed }),
        _ => Ok(()),
    }
}

/// Raises a soft limit to the hard one and returns it.
fn raise(resource: libc::__rlimit_resource_t) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit is valid for writes.
    if unsafe { libc::getrlimit(resource, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the limit is valid for reads.
        if unsafe { libc::setrlimit(resource, &raw const limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error that does not say what to change leaves its reader with a search engine.
    #[test]
    fn every_failure_says_what_to_change() {
        let errors = [
            CheckError::NoRing { error: io::Error::from_raw_os_error(libc::EPERM) },
            CheckError::OldRing { operation: "poll" },
            CheckError::Memlock { limit: 65_536, needed: MEMLOCK_BYTES_MIN },
        ];
        for (error, advice) in errors.iter().zip(["sysctl", "run Linux", "ulimit -l 512"]) {
            let line = error.to_string();
            assert!(line.contains(advice) && !line.contains('\n'), "{line}");
        }
    }

    /// A check that fails on a machine where everything works would keep the server from starting.
    #[test]
    fn this_machine_passes() {
        check(2).unwrap();
        assert!(raise_open_files().unwrap() > 0);
    }
}
