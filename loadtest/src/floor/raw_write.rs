//! The disk's floor: the writes that a log would do, without a log.
//!
//! `O_DIRECT` writes, one after the other, into a file that has been zero-written before, with a fixed number in
//! flight. This is what "as fast as the disk" means on this machine, at this size, now.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};

use super::ring::{AlignedBytes, BLOCK_BYTES, WriteRing};
use crate::latency::Latency;
use crate::machine;
use crate::report::Row;

/// Piece in which the file is zero-written.
const PREPARE_BYTES: usize = 1 << 20;

/// One raw loop.
#[derive(Clone, Debug)]
pub(crate) struct RawWrites {
    /// The file; made, or zero-written anew when its size is another.
    pub(crate) file: PathBuf,
    /// Its size; the loop starts over at its end.
    pub(crate) file_bytes: u64,
    /// Size of each write, a multiple of 4 KiB.
    pub(crate) write_bytes: usize,
    /// Writes in flight.
    pub(crate) in_flight: usize,
    /// Whether each write is synced.
    pub(crate) sync: bool,
    /// How long.
    pub(crate) duration: Duration,
    /// Core that writes: that of the server to be compared with. Where the disk interrupts one core only, a write from
    /// another takes half as long again.
    pub(crate) cpu: Option<usize>,
}

impl RawWrites {
    /// What a row of this loop is called.
    pub(crate) fn name(&self) -> String {
        let sync = if self.sync { "synced" } else { "not synced" };
        format!("raw write {} KiB x {} in flight, {sync}", self.write_bytes >> 10, self.in_flight)
    }

    /// Runs the loop, in a thread of its own on its core.
    pub(crate) fn run(&self) -> anyhow::Result<Row> {
        let on_its_core = || {
            if let Some(cpu) = self.cpu {
                machine::pin(cpu)?;
            }
            self.run_here()
        };
        std::thread::scope(|scope| scope.spawn(on_its_core).join())
            .map_err(|_| anyhow!("the raw loop panicked"))?
    }

    fn run_here(&self) -> anyhow::Result<Row> {
        self.check()?;
        let file = prepare(&self.file, self.file_bytes)?;
        let buffers = (0..self.in_flight)
            .map(|slot| AlignedBytes::new(self.write_bytes, incompressible(slot as u64 + 1)))
            .collect();
        let mut ring = WriteRing::new(file, buffers, self.sync)
            .context("no io_uring: the kernel or a sandbox refuses it")?;
        let (mut latency, mut next) = (Latency::new(), 0);
        let mut idle: Vec<usize> = (0..self.in_flight).collect();
        let started = Instant::now();
        while started.elapsed() < self.duration {
            for slot in idle.drain(..) {
                ring.push(slot, next);
                next += self.write_bytes as u64;
                if next + self.write_bytes as u64 > self.file_bytes {
                    next = 0;
                }
            }
            ring.wait(|slot, ns| {
                latency.record_ns(ns);
                idle.push(slot);
            })
            .context("a write failed")?;
        }
        let elapsed = started.elapsed().as_secs_f64();
        let summary = latency.summary().context("no write came back in time: run longer")?;
        let mut row = Row::new(self.name());
        row.rate_per_s = Some(summary.count as f64 / elapsed);
        row.mb_per_s = Some(summary.count as f64 * self.write_bytes as f64 / elapsed / 1e6);
        row.latency("write", Some(summary));
        Ok(row)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.write_bytes == 0 || !self.write_bytes.is_multiple_of(BLOCK_BYTES) {
            bail!("write size {} is not a multiple of {BLOCK_BYTES}", self.write_bytes);
        }
        if self.in_flight == 0 || self.in_flight > 1024 {
            bail!("{} writes in flight: give 1 to 1024", self.in_flight);
        }
        if (self.write_bytes * self.in_flight) as u64 > self.file_bytes {
            bail!("the file of {} bytes does not hold all writes in flight", self.file_bytes);
        }
        Ok(())
    }
}

/// Synced writes in a row, none of them slow, after which the disk counts as at rest; and what is slow.
const CALM_WRITES: u32 = 500;
const SLOW: Duration = Duration::from_millis(3);
/// Longest wait for that.
const SETTLE_LONGEST: Duration = Duration::from_secs(5);

/// Waits until the disk has done with what a load before has left: bytes of the page cache, and the blocks of removed files,
/// which file systems mounted with `discard` give back to the disk. Both slow synced writes down for a second and longer.
pub(crate) fn settle(dir: &Path) -> anyhow::Result<()> {
    rustix::fs::sync();
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join("loadtest-settle");
    let file = prepare(&path, BLOCK_BYTES as u64)?;
    let block = AlignedBytes::new(BLOCK_BYTES, |_| 0);
    let began = Instant::now();
    let mut calm = 0;
    while calm < CALM_WRITES && began.elapsed() < SETTLE_LONGEST {
        let write_began = Instant::now();
        file.write_all_at(block.bytes(), 0)?;
        file.sync_data()?;
        calm = if write_began.elapsed() < SLOW { calm + 1 } else { 0 };
    }
    std::fs::remove_file(path)?;
    Ok(())
}

/// The file, open for direct writing, every block of it written once and synced.
pub(crate) fn prepare(path: &Path, bytes: u64) -> anyhow::Result<File> {
    let known = std::fs::metadata(path).map_or(0, |found| found.len());
    let file = open_direct(path)?;
    if known != bytes {
        file.set_len(0)?;
        let zeros = AlignedBytes::new(PREPARE_BYTES, |_| 0);
        let mut at = 0;
        while at < bytes {
            let len = (bytes - at).min(PREPARE_BYTES as u64) as usize;
            file.write_all_at(&zeros.bytes()[..len], at)
                .with_context(|| format!("cannot write {bytes} bytes to {}", path.display()))?;
            at += len as u64;
        }
        file.sync_all()?;
    }
    Ok(file)
}

fn open_direct(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => anyhow::anyhow!(
                "{} is on a file system without O_DIRECT (tmpfs?): give a folder on a disk",
                path.display()
            ),
            _ => anyhow::Error::new(error).context(format!("cannot open {}", path.display())),
        })
}

/// Bytes that no compression shortens (xorshift), so that no layer below can cheat.
pub(crate) fn incompressible(seed: u64) -> impl FnMut(usize) -> u8 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The floor is only a floor if the bytes really reach the file, at every depth and with sync on and off.
    #[test]
    fn the_loop_writes_what_it_counts() {
        // Not in the system's folder for temporary files, which may be a tmpfs without O_DIRECT.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        for (in_flight, sync) in [(1, true), (4, true), (4, false)] {
            let file = folder.path().join(format!("raw-{in_flight}-{sync}"));
            let writes = RawWrites {
                file: file.clone(),
                file_bytes: 64 << 10,
                write_bytes: 4096,
                in_flight,
                sync,
                duration: Duration::from_millis(100),
                cpu: None,
            };
            let row = writes.run().unwrap();
            assert!(row.rate_per_s.unwrap() > 0.0, "{row:?}");
            let mut expected = incompressible(1);
            let first: Vec<u8> = (0..4096).map(&mut expected).collect();
            let written = std::fs::read(file).unwrap();
            assert_eq!(written.len(), 64 << 10);
            assert!(written.chunks(4096).any(|block| block == first), "slot 0 was written");
        }
    }

    /// A typing error must not become a figure.
    #[test]
    fn impossible_loops_are_refused() {
        let good = RawWrites {
            file: PathBuf::from("unused"),
            file_bytes: 1 << 20,
            write_bytes: 4096,
            in_flight: 1,
            sync: true,
            duration: Duration::from_millis(1),
            cpu: None,
        };
        assert!(good.check().is_ok());
        for bad in [
            RawWrites { write_bytes: 1000, ..good.clone() },
            RawWrites { write_bytes: 0, ..good.clone() },
            RawWrites { in_flight: 0, ..good.clone() },
            RawWrites { write_bytes: 1 << 20, in_flight: 2, ..good.clone() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
