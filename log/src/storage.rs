//! Files as the log sees them: numbered, read and written at places, synced. Blocking.
//!
//! Used while a folder is opened, and by chores on a helper thread while a shard runs. A shard itself never calls a
//! [`Storage`]; it submits a [`crate::disk::DiskOp`]. Two back ends: [`file::FileStorage`], and the simulated disk.

pub mod file;

use std::fmt;
use std::io;
use std::ops::Deref;
use std::path::Path;

use crate::aligned::{AlignedBuf, BLOCK_BYTES};

/// The number of an open file. Both ways to the disk, blocking and not, know a file by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// It must exist and is only read.
    Read,
    /// It must exist.
    ReadWrite,
    /// It is made if it does not exist, and otherwise opened with its bytes as they are.
    Create,
}

/// Blocking access to files.
pub trait Storage: Send + Sync {
    /// Opens a file. With `direct`, reads and writes go past the page cache and must be aligned to
    /// [`BLOCK_BYTES`] in memory, place and length.
    fn open(&self, path: &Path, mode: OpenMode, direct: bool) -> io::Result<FileId>;
    /// Closes a file. Its number may be given to another file afterwards.
    fn close(&self, file: FileId);
    /// Reads up to `buf.len()` bytes at byte `at`; fewer only at the end of the file.
    fn read_at(&self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `bytes` at byte `at`. Not durable until [`Storage::sync`] returns.
    fn write_at(&self, file: FileId, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the bytes and the length of a file durable.
    fn sync(&self, file: FileId) -> io::Result<()>;
    /// Length of a file in bytes.
    fn len(&self, file: FileId) -> io::Result<u64>;
    /// Cuts a file, or extends it by zeros.
    fn set_len(&self, file: FileId, len: u64) -> io::Result<()>;
    /// Renames a file or folder, over what may be there. Durable after [`Storage::sync_dir`] of the folder it is in.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Storage::sync_dir`].
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Names of all entries of a folder, sorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a folder and those above it. No error if it is there. [`file::FileStorage`] makes their names durable at
    /// once; with the simulated storage that takes [`Storage::sync_dir`] of the parent.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the entries of a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Maps a whole file for reading, its pages loaded, so that reading it later does not wait for the disk.
    fn map(&self, file: FileId) -> io::Result<Mapped>;
    /// Bytes that can still be written to the disk that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Opens (and makes) a file and locks it for this process alone, until it is closed or the process ends.
    ///
    /// Fails with [`io::ErrorKind::WouldBlock`] when another process holds the lock.
    fn lock(&self, path: &Path) -> io::Result<FileId>;
}

/// The bytes of a mapped file.
pub struct Mapped(MappedBytes);

enum MappedBytes {
    Map(memmap2::Mmap),
    Memory(AlignedBuf),
}

impl Mapped {
    /// A file mapped by the operating system. It must not change while it is mapped: only sealed indexes are.
    #[must_use]
    pub fn from_map(map: memmap2::Mmap) -> Self {
        Mapped(MappedBytes::Map(map))
    }

    /// A copy of a file's bytes, as the simulated disk hands out.
    #[must_use]
    pub fn from_memory(bytes: AlignedBuf) -> Self {
        Mapped(MappedBytes::Memory(bytes))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            MappedBytes::Map(map) => map,
            MappedBytes::Memory(bytes) => bytes.as_slice(),
        }
    }
}

impl fmt::Debug for Mapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapped({} bytes)", self.len())
    }
}

/// Reads `len` bytes at `at` of a file that may be open for direct access; what is past the end of the file is zero.
///
/// # Errors
/// As [`Storage::read_at`].
pub(crate) fn read_blocks(
    storage: &dyn Storage,
    file: FileId,
    at: u64,
    len: usize,
) -> io::Result<AlignedBuf> {
    assert!(at.is_multiple_of(BLOCK_BYTES as u64), "direct reads start at a block");
    assert!(len.is_multiple_of(BLOCK_BYTES), "direct reads take whole blocks");
    let mut buf = AlignedBuf::zeroed(len);
    let mut filled = 0;
    while filled < len {
        let got = storage.read_at(file, at + filled as u64, &mut buf.as_mut_slice()[filled..])?;
        filled += got;
        assert!(filled <= len, "a read gives no more than there is room for");
        if got == 0 || !got.is_multiple_of(BLOCK_BYTES) {
            break;
        }
    }
    Ok(buf)
}

/// Whether files in `dir` can be opened for direct access. Some overlays and older tmpfs cannot.
///
/// # Errors
/// The folder cannot be written at all.
pub fn probe_direct(storage: &dyn Storage, dir: &Path) -> io::Result<bool> {
    let path = dir.join("direct.probe");
    let file = match storage.open(&path, OpenMode::Create, true) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            let _ = storage.remove(&path);
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let written = storage.write_at(file, 0, AlignedBuf::zeroed(BLOCK_BYTES).as_slice());
    storage.close(file);
    storage.remove(&path)?;
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
        Err(error) => Err(error),
    }
}
