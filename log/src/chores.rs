//! Blocking work of a log that a helper thread does: preparing, indexing, retiring segments; writing checkpoints.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use codec::ids::{Offset, Partition, TopicId};

use crate::aligned::BLOCK_BYTES;
use crate::disk::{Chore, ChoreDone};
use crate::index::SealedIndex;
use crate::segment::{damage_path, index_path, segment_path};
use crate::segments::Spare;
use crate::storage::{FileId, OpenMode, Storage};

/// How much is written by one call: a commit may have to wait for one of them.
pub(crate) const ZEROS_BYTES: usize = 256 << 10;

/// Aligned for direct writes.
#[repr(align(4096))]
struct Zeros([u8; ZEROS_BYTES]);

static ZEROS: Zeros = Zeros([0; ZEROS_BYTES]);

/// What a chore came to.
#[derive(Debug)]
pub(crate) enum ChoreOutcome {
    /// Zeros stand up to `prepared_end`.
    Prepared { file: FileId, number: u64, prepared_end: u64 },
    /// The index of a segment is mapped and checked.
    Indexed { number: u64, index: Arc<SealedIndex> },
    /// A segment is gone; from which offset on its topics and partitions go on.
    Retired { number: u64, spare: Option<Spare>, starts: Vec<(TopicId, Partition, Offset)> },
    /// A piece of a checkpoint is written.
    Checkpointed { file: Option<FileId> },
    /// Nothing stands behind the log's last commit.
    Trimmed,
}

/// What is to be prepared.
#[derive(Debug)]
pub(crate) struct PrepareTask {
    pub(crate) dir: PathBuf,
    pub(crate) number: u64,
    /// `None`: the file is to be made, or `recycle` becomes it.
    pub(crate) file: Option<FileId>,
    pub(crate) recycle: Option<Spare>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    pub(crate) direct: bool,
    /// Bytes that must stay free on the disk.
    pub(crate) keep_free: u64,
    /// Whether what was written is synced: only then does a commit into it change nothing but its own bytes.
    pub(crate) sync: bool,
}

impl PrepareTask {
    pub(crate) fn into_chore(self) -> Chore {
        Box::new(move |storage| ChoreDone(self.run(storage)))
    }

    /// Writes zeros.
    pub(crate) fn run(self, storage: &dyn Storage) -> io::Result<ChoreOutcome> {
        assert!(self.from < self.to, "preparation moves forward");
        assert!(self.file.is_some() == (self.from > 0), "the first piece makes the file");
        assert!(self.recycle.is_none() || self.from == 0, "a former segment is taken whole");
        let path = segment_path(&self.dir, self.number);
        if let Some(spare) = self.recycle {
            storage.rename(&spare.path, &path)?;
            storage.sync_dir(&self.dir)?;
            let (file, prepared_end) = (spare.file, spare.len);
            assert!(prepared_end.is_multiple_of(BLOCK_BYTES as u64), "segments are whole blocks");
            return Ok(ChoreOutcome::Prepared { file, number: self.number, prepared_end });
        }
        if storage.free_bytes(&self.dir)? < self.to - self.from + self.keep_free {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file = match self.file {
            Some(file) => file,
            None => storage.open(&path, OpenMode::Create, self.direct)?,
        };
        let written = write_zeros(storage, file, self.from, self.to)
            .and_then(|()| if self.sync { storage.sync(file) } else { Ok(()) })
            .and_then(|()| if self.file.is_none() { storage.sync_dir(&self.dir) } else { Ok(()) });
        if let Err(error) = written {
            if self.file.is_none() {
                storage.close(file);
                let _ = storage.remove(&path);
            }
            return Err(error);
        }
        Ok(ChoreOutcome::Prepared { file, number: self.number, prepared_end: self.to })
    }
}

fn write_zeros(storage: &dyn Storage, file: FileId, from: u64, to: u64) -> io::Result<()> {
    let block = BLOCK_BYTES as u64;
    assert!(from.is_multiple_of(block) && to.is_multiple_of(block), "whole blocks are prepared");
    let mut at = from;
    while at < to {
        let len = ((to - at) as usize).min(ZEROS_BYTES);
        storage.write_at(file, at, &ZEROS.0[..len])?;
        at += len as u64;
    }
    assert_eq!(at, to, "every byte of the piece is written");
    Ok(())
}

/// Takes a segment out of the log: kept as a spare if it is of the usual size, else removed.
#[derive(Debug)]
pub(crate) struct RetireTask {
    pub(crate) dir: PathBuf,
    pub(crate) number: u64,
    pub(crate) file: FileId,
    pub(crate) recycle: bool,
    pub(crate) segment_bytes: u64,
    pub(crate) index: Arc<SealedIndex>,
}

impl RetireTask {
    pub(crate) fn into_chore(self) -> Chore {
        Box::new(move |storage| ChoreDone(self.run(storage)))
    }

    fn run(self, storage: &dyn Storage) -> io::Result<ChoreOutcome> {
        let starts = self.index.offset_ends();
        let path = segment_path(&self.dir, self.number);
        let len = storage.len(self.file)?;
        let spare = if self.recycle && len == self.segment_bytes {
            let spare = self.dir.join(format!("spare-{:012}.rms", self.number));
            storage.rename(&path, &spare)?;
            Some(Spare { path: spare, file: self.file, len })
        } else {
            storage.remove(&path)?;
            storage.close(self.file);
            None
        };
        remove_if_there(storage, &index_path(&self.dir, self.number))?;
        storage.sync_dir(&self.dir)?;
        Ok(ChoreOutcome::Retired { number: self.number, spare, starts })
    }
}

/// Gives back what was prepared behind the log's last commit, so that the next start need not look for commits there.
#[derive(Debug)]
pub(crate) struct TrimTask {
    /// The active segment and where its last commit ends.
    pub(crate) active: Option<(FileId, u64)>,
    /// The segment after it, which nothing was written to.
    pub(crate) next: Option<FileId>,
}

impl TrimTask {
    pub(crate) fn into_chore(self) -> Chore {
        Box::new(move |storage| ChoreDone(self.run(storage)))
    }

    fn run(self, storage: &dyn Storage) -> io::Result<ChoreOutcome> {
        if let Some((file, end)) = self.active {
            storage.set_len(file, end)?;
        }
        if let Some(file) = self.next {
            // Its name stays, so that its number is not given again before the next start has seen it.
            let emptied = storage.set_len(file, 0);
            storage.close(file);
            emptied?;
        }
        Ok(ChoreOutcome::Trimmed)
    }
}

pub(crate) fn remove_if_there(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether a report about damage lies beside a segment.
pub(crate) fn is_quarantined(names: &[String], dir: &Path, number: u64) -> bool {
    let report = damage_path(dir, number);
    names.iter().any(|name| report.ends_with(name))
}
