//! Files of the operating system.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::{FileId, Mapped, OpenMode, Storage};

/// [`Storage`] over the file system. Shared by all shards and helper threads of a process.
///
/// Its lock guards only the table of open files; no read or write happens under it.
#[derive(Debug, Default)]
pub struct FileStorage {
    files: Mutex<Vec<Option<Arc<File>>>>,
}

impl FileStorage {
    /// No file is open yet.
    #[must_use]
    pub fn new() -> Self {
        FileStorage::default()
    }

    /// The descriptor of an open file, for the shard's ring. It stays valid until the file is closed.
    #[must_use]
    pub fn raw_fd(&self, file: FileId) -> RawFd {
        self.file(file).map_or(-1, |file| file.as_raw_fd())
    }

    fn file(&self, file: FileId) -> io::Result<Arc<File>> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let found = files.get(file.0 as usize).and_then(Option::as_ref);
        found.cloned().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    fn keep(&self, file: File) -> FileId {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let free = files.iter().position(Option::is_none);
        let slot = free.unwrap_or_else(|| {
            files.push(None);
            files.len() - 1
        });
        assert!(files[slot].is_none(), "a file's number is its own while it is open");
        files[slot] = Some(Arc::new(file));
        FileId(u32::try_from(slot).expect("the system allows fewer than 2^32 open files"))
    }
}

impl Storage for FileStorage {
    fn open(&self, path: &Path, mode: OpenMode, direct: bool) -> io::Result<FileId> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create(true);
            }
        }
        if direct {
            options.custom_flags(libc::O_DIRECT);
        }
        Ok(self.keep(options.open(path)?))
    }

    fn close(&self, file: FileId) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = files.get_mut(file.0 as usize);
        assert!(slot.as_ref().is_some_and(|slot| slot.is_some()), "a file is closed once");
        if let Some(slot) = slot {
            *slot = None;
        }
    }

    fn read_at(&self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let file = self.file(file)?;
        loop {
            match file.read_at(buf, at) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_at(&self, file: FileId, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(file)?.write_all_at(bytes, at)
    }

    fn sync(&self, file: FileId) -> io::Result<()> {
        self.file(file)?.sync_data()
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        Ok(self.file(file)?.metadata()?.len())
    }

    fn set_len(&self, file: FileId, len: u64) -> io::Result<()> {
        self.file(file)?.set_len(len)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let is_new = |above: &&Path| !above.as_os_str().is_empty() && !above.exists();
        let made: Vec<&Path> = dir.ancestors().take_while(is_new).collect();
        fs::create_dir_all(dir)?;
        // The names of new folders must survive a loss of power as what is written into them does.
        for above in made.iter().filter_map(|made| made.parent()) {
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            self.sync_dir(above)?;
        }
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn map(&self, file: FileId) -> io::Result<Mapped> {
        let file = self.file(file)?;
        let mut options = memmap2::MmapOptions::new();
        options.populate();
        // SAFETY: only sealed indexes are mapped. They are written under another name, renamed when whole, and never
        // changed afterwards; the folder's lock keeps other servers away.
        let map = unsafe { options.map(&*file) }?;
        Ok(Mapped::from_map(map))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: `statvfs` is plain numbers, for which all zeros is a value.
        let mut stats: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: the path ends with a NUL and `stats` outlives the call.
        let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut stats) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // Some network file systems report sizes without bound.
        Ok(stats.f_bavail.saturating_mul(stats.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<FileId> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(self.keep(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}
