//! The blocking way to the simulated disk, as a log uses it at its opening and in chores.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use log::aligned::{AlignedBuf, BLOCK_BYTES};
use log::storage::{FileId, Mapped, OpenMode, Storage};

use crate::disk::files::{Entry, Files};

/// What the disk holds at most, far above what a run writes.
const CAPACITY_BYTES: u64 = 4 << 30;

/// A disk that is shared by the logs of a node and by who simulates its faults.
#[derive(Debug, Default)]
pub struct SimDisk {
    files: Mutex<Files>,
}

impl SimDisk {
    /// What stands on the disk.
    ///
    /// # Panics
    /// A panic came while it was held; the run is over then.
    pub fn files(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Storage for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode, direct: bool) -> io::Result<FileId> {
        let mut files = self.files();
        files.step(1, path.as_os_str().len() as u64)?;
        let file = match (files.entry(path), mode) {
            (Some(Entry::File(file)), _) => file,
            (Some(Entry::Folder), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (None, OpenMode::Create) => {
                let folder = path.parent().unwrap_or(Path::new(""));
                if files.entry(folder) != Some(Entry::Folder) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                files.create(path)
            }
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(FileId(files.open(file, direct)))
    }

    fn close(&self, file: FileId) {
        self.files().close(file.0);
    }

    fn read_at(&self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut files = self.files();
        files.step(2, at)?;
        let (bytes, direct) = files.bytes(file.0)?;
        check_aligned(direct, at, buf.as_ptr(), buf.len())?;
        let from = bytes.current().get(at as usize..).unwrap_or_default();
        let len = from.len().min(buf.len());
        buf[..len].copy_from_slice(&from[..len]);
        Ok(len)
    }

    fn write_at(&self, file: FileId, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut files = self.files();
        files.step(3, at ^ (u64::from(crate::trace::digest(bytes)) << 32))?;
        files.fail_if_due()?;
        let full = files.full;
        let (known, direct) = files.bytes(file.0)?;
        check_aligned(direct, at, bytes.as_ptr(), bytes.len())?;
        if full && at as usize + bytes.len() > known.current().len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        known.write(at as usize, bytes);
        Ok(())
    }

    fn sync(&self, file: FileId) -> io::Result<()> {
        let mut files = self.files();
        files.step(4, u64::from(file.0))?;
        files.fail_if_due()?;
        files.bytes(file.0)?.0.sync();
        Ok(())
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        Ok(self.files().bytes(file.0)?.0.current().len() as u64)
    }

    fn set_len(&self, file: FileId, len: u64) -> io::Result<()> {
        let mut files = self.files();
        files.step(5, len)?;
        files.bytes(file.0)?.0.set_len(len as usize);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files();
        files.step(6, to.as_os_str().len() as u64)?;
        if files.entry(from).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        files.rename(from, to);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut files = self.files();
        files.step(7, path.as_os_str().len() as u64)?;
        match files.entry(path) {
            Some(Entry::File(_)) => files.unlink(path),
            Some(Entry::Folder) if files.list(path)?.is_empty() => files.unlink(path),
            Some(Entry::Folder) => return Err(io::ErrorKind::DirectoryNotEmpty.into()),
            None => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut files = self.files();
        files.step(8, 0)?;
        files.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut files = self.files();
        files.step(9, dir.as_os_str().len() as u64)?;
        files.create_folder(dir);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut files = self.files();
        files.step(10, dir.as_os_str().len() as u64)?;
        files.sync_folder(dir);
        Ok(())
    }

    fn map(&self, file: FileId) -> io::Result<Mapped> {
        let mut files = self.files();
        files.step(11, u64::from(file.0))?;
        let (bytes, _) = files.bytes(file.0)?;
        Ok(Mapped::from_memory(AlignedBuf::copy_of(bytes.current())))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let files = self.files();
        let free = CAPACITY_BYTES.saturating_sub(files.used_bytes());
        Ok(if files.full { 0 } else { free })
    }

    fn lock(&self, path: &Path) -> io::Result<FileId> {
        let file = self.open(path, OpenMode::Create, false)?;
        let mut files = self.files();
        if files.lock(file.0) {
            return Ok(file);
        }
        files.close(file.0);
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// As a real disk refuses direct access that is not aligned, so that no such access goes unseen here.
fn check_aligned(direct: bool, at: u64, address: *const u8, len: usize) -> io::Result<()> {
    let aligned = at.is_multiple_of(BLOCK_BYTES as u64)
        && address.addr().is_multiple_of(BLOCK_BYTES)
        && len.is_multiple_of(BLOCK_BYTES);
    if direct && !aligned {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "direct access is not aligned"));
    }
    Ok(())
}
