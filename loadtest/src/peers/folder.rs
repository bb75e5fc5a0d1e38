//! The folder of one comparison, on the disk that is measured. It is removed at the end; one whose program was killed
//! is removed by the next comparison on that disk.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

const PREFIX: &str = "loadtest-compare-";
const LOCK: &str = "lock";

/// A folder with a lock in it, which goes with the process that holds it, however that ends.
pub(crate) struct RunFolder {
    folder: TempDir,
    _lock: File,
}

impl RunFolder {
    /// Makes a folder below `data`, and removes those that nobody holds any more.
    pub(crate) fn make(data: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(data)
            .with_context(|| format!("cannot make the folder {}", data.display()))?;
        remove_abandoned(data)?;
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(data)?;
        let lock = File::create(folder.path().join(LOCK))?;
        lock.lock().context("cannot lock the folder of the run")?;
        Ok(RunFolder { folder, _lock: lock })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// An empty folder for one server, removed when it is dropped.
    pub(crate) fn of_server(&self, name: &str) -> anyhow::Result<TempDir> {
        Ok(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(self.path())?)
    }
}

fn remove_abandoned(data: &Path) -> anyhow::Result<()> {
    let ours = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
    };
    for folder in fs::read_dir(data)?.flatten().map(|entry| entry.path()).filter(ours) {
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                fs::remove_dir_all(&folder)
                    .with_context(|| format!("cannot remove {}", folder.display()))?;
                eprintln!("removed {}, left over from a run that was killed", folder.display());
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", folder.display()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gigabytes of a killed run must not stay for ever, and a run beside this one must not lose its folder.
    #[test]
    fn what_was_abandoned_goes_and_what_is_held_stays() {
        let data = tempfile::tempdir().unwrap();
        let held = RunFolder::make(data.path()).unwrap();
        let abandoned = RunFolder::make(data.path()).unwrap();
        fs::write(abandoned.path().join("segment"), b"events").unwrap();
        let RunFolder { folder, _lock } = abandoned;
        let abandoned = folder.keep();
        drop(_lock);
        fs::create_dir(data.path().join("somebody-elses")).unwrap();
        let next = RunFolder::make(data.path()).unwrap();
        assert!(!abandoned.exists());
        assert!(held.path().exists() && next.path().exists());
        assert!(data.path().join("somebody-elses").exists());
    }
}
