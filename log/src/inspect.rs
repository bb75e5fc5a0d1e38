//! Prints a file of a log and verifies it: for `ringmesh inspect`, and for people at three in the morning.
//!
//! Whether bad bytes are damage or what a crash leaves is judged as recovery judges it. Nothing is changed. A segment
//! is read through a window of a few MiB; a checkpoint or an index is read whole, as a start reads it.

mod derived;
mod segment;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::aligned::{AlignedBuf, BLOCK_BYTES};
use crate::checkpoint::{CHECKPOINT_MAGIC, FRAME_HEADER_BYTES};
use crate::index::INDEX_MAGIC;
use crate::segment::{FORMAT_VERSION, SEGMENT_MAGIC, segment_number};
use crate::storage::file::FileStorage;
use crate::storage::{FileId, OpenMode, Storage, read_blocks};

/// The files of a log that can be inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// `seg-N.rms`, or a former one that waits to be used again.
    Segment,
    /// `checkpoint-a` or `checkpoint-b`.
    Checkpoint,
    /// `seg-N.rmx`.
    Index,
}

/// What a file was found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything in it is as it was written.
    Whole,
    /// It ends with something unfinished, as a crash leaves it. Nobody was told that this is durable.
    TornTail {
        /// First byte that is not whole.
        at: u64,
    },
    /// Bytes that were whole once are not any more.
    Damaged {
        /// First bad byte.
        at: u64,
    },
}

/// What [`inspect_file`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InspectSummary {
    /// What the file is.
    pub kind: FileKind,
    /// Good batches of events in a segment; 0 for the other kinds.
    pub batches: u64,
    /// Events in them.
    pub events: u64,
    /// Whether the file is sound.
    pub verdict: Verdict,
}

impl InspectSummary {
    fn new(kind: FileKind) -> Self {
        InspectSummary { kind, batches: 0, events: 0, verdict: Verdict::Whole }
    }

    /// The first thing that is wrong is the verdict.
    fn judge(&mut self, verdict: Verdict) {
        if self.verdict == Verdict::Whole {
            self.verdict = verdict;
        }
    }
}

/// Why a file cannot be inspected.
#[derive(Debug)]
#[non_exhaustive]
pub enum InspectError {
    /// Neither its first bytes nor its name are those of a log's file.
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// It has a version of the format that this build does not know.
    Version {
        /// Its version.
        found: u32,
    },
    /// The disk, or the output, failed.
    Io(io::Error),
}

impl From<io::Error> for InspectError {
    fn from(error: io::Error) -> Self {
        InspectError::Io(error)
    }
}

impl fmt::Display for InspectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOurs { path } => write!(
                f,
                "{} is not a log's file: expected seg-N.rms, seg-N.rmx, checkpoint-a or checkpoint-b",
                path.display()
            ),
            Self::Version { found } => {
                write!(f, "format version {found} is not known here, only {FORMAT_VERSION}")
            }
            Self::Io(error) => write!(f, "inspecting failed: {error}"),
        }
    }
}

impl std::error::Error for InspectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Segment => "segment",
            Self::Checkpoint => "checkpoint",
            Self::Index => "index",
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => write!(f, "sound"),
            Self::TornTail { at } => write!(f, "torn tail at byte {at} (what a crash leaves)"),
            Self::Damaged { at } => write!(f, "damaged at byte {at}"),
        }
    }
}

/// Prints what is in a segment, an index or a checkpoint, verifies every checksum, and ends with a line that says
/// what came out. Segments that lie beside a segment are looked at to tell damage from a torn tail.
///
/// # Errors
/// It is no such file, or cannot be read. Damage is no error: it is in the summary.
pub fn inspect_file(path: &Path, out: &mut dyn Write) -> Result<InspectSummary, InspectError> {
    inspect(&FileStorage::new(), path, out)
}

pub(crate) fn inspect(
    storage: &dyn Storage,
    path: &Path,
    out: &mut dyn Write,
) -> Result<InspectSummary, InspectError> {
    let file = OpenFile::open(storage, path)?;
    let block = file.first_block()?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(kind) = kind_of(block.as_slice(), name) else {
        return Err(InspectError::NotOurs { path: path.into() });
    };
    let summary = match kind {
        FileKind::Segment => segment::inspect_segment(&file, path, out)?,
        FileKind::Checkpoint => derived::inspect_checkpoint(storage, path, out)?,
        FileKind::Index => derived::inspect_index(&file, out)?,
    };
    assert_eq!(summary.kind, kind, "the summary is this file's");
    writeln!(out, "verdict: {}", summary.verdict)?;
    Ok(summary)
}

/// What a file is by its first bytes; if they are damaged or not written yet, by its name.
fn kind_of(block: &[u8], name: &str) -> Option<FileKind> {
    if u32_at(block, 0) == SEGMENT_MAGIC {
        Some(FileKind::Segment)
    } else if u32_at(block, 0) == INDEX_MAGIC {
        Some(FileKind::Index)
    } else if u32_at(block, FRAME_HEADER_BYTES) == CHECKPOINT_MAGIC {
        Some(FileKind::Checkpoint)
    } else if segment_number(name).is_some() {
        Some(FileKind::Segment)
    } else if name == "checkpoint-a" || name == "checkpoint-b" {
        Some(FileKind::Checkpoint)
    } else if name.starts_with("seg-") && name.ends_with(".rmx") {
        Some(FileKind::Index)
    } else {
        None
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let found = bytes.get(at..at + 4).and_then(|found| found.try_into().ok());
    found.map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let found = bytes.get(at..at + 8).and_then(|found| found.try_into().ok());
    found.map_or(0, u64::from_le_bytes)
}

/// A file that is closed when it is not needed any more.
struct OpenFile<'a> {
    storage: &'a dyn Storage,
    id: FileId,
}

impl<'a> OpenFile<'a> {
    fn open(storage: &'a dyn Storage, path: &Path) -> io::Result<Self> {
        Ok(OpenFile { storage, id: storage.open(path, OpenMode::Read, false)? })
    }

    /// The first block; zeros where the file is shorter.
    fn first_block(&self) -> io::Result<AlignedBuf> {
        read_blocks(self.storage, self.id, 0, BLOCK_BYTES)
    }
}

impl Drop for OpenFile<'_> {
    fn drop(&mut self) {
        self.storage.close(self.id);
    }
}
