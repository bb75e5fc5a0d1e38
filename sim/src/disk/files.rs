//! The name space of the simulated disk, and what of it a power loss leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::bytes::{FileBytes, Loss};
use crate::faults::{Fault, Tally};
use crate::random::Random;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Folder,
    /// A file, by its number.
    File(u32),
}

/// A change of a folder.
#[derive(Clone, Debug)]
enum Step {
    Link(PathBuf, Entry),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

/// All files, open handles and locks.
#[derive(Debug, Default)]
pub struct Files {
    now: BTreeMap<PathBuf, Entry>,
    durable: BTreeMap<PathBuf, Entry>,
    /// Changes of folders that are not synced, oldest first.
    steps: Vec<Step>,
    contents: BTreeMap<u32, FileBytes>,
    handles: BTreeMap<u32, (u32, bool)>,
    locked: BTreeSet<u32>,
    next_file: u32,
    next_handle: u32,
    /// Operations that still have an effect; then the power is gone. `None`: no end.
    pub steps_left: Option<u64>,
    /// The next write or sync fails.
    pub fail_next: bool,
    /// Whether no file can grow.
    pub full: bool,
    /// What has happened, for the trace.
    pub digest: u32,
    /// Faults that the disk has injected.
    pub tally: Tally,
}

impl Files {
    /// Counts one operation, with what it did.
    ///
    /// # Errors
    /// The power is gone.
    pub fn step(&mut self, what: u64, number: u64) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => return Err(io::Error::other("the power is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        let mut line = [0; 20];
        line[..4].copy_from_slice(&self.digest.to_le_bytes());
        line[4..12].copy_from_slice(&what.to_le_bytes());
        line[12..].copy_from_slice(&number.to_le_bytes());
        self.digest = crate::trace::digest(&line);
        Ok(())
    }

    /// Fails if a failure is due.
    ///
    /// # Errors
    /// It was.
    pub fn fail_if_due(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.fail_next) {
            return Err(io::Error::other("the disk failed"));
        }
        Ok(())
    }

    /// What a name stands for now.
    #[must_use]
    pub fn entry(&self, path: &Path) -> Option<Entry> {
        self.now.get(path).copied()
    }

    /// Names in a folder, sorted.
    ///
    /// # Errors
    /// There is no such folder.
    pub fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        if self.entry(folder) != Some(Entry::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let inside = self.now.keys().filter(|path| path.parent() == Some(folder));
        let names = inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Ok(names.collect())
    }

    /// Makes a file and a name for it.
    pub fn create(&mut self, path: &Path) -> u32 {
        let file = self.next_file;
        self.next_file += 1;
        self.contents.insert(file, FileBytes::default());
        self.change(Step::Link(path.to_owned(), Entry::File(file)));
        file
    }

    /// Makes a folder and those above it.
    pub fn create_folder(&mut self, path: &Path) {
        let above: Vec<&Path> = path.ancestors().collect();
        for folder in above.into_iter().rev() {
            if self.entry(folder).is_none() && !folder.as_os_str().is_empty() {
                self.change(Step::Link(folder.to_owned(), Entry::Folder));
            }
        }
    }

    /// Makes a folder that is durable from the start, as an operator makes it.
    pub fn provide_folder(&mut self, path: &Path) {
        self.create_folder(path);
        for step in std::mem::take(&mut self.steps) {
            step.apply(&mut self.durable);
        }
    }

    /// Takes a name away.
    pub fn unlink(&mut self, path: &Path) {
        self.change(Step::Unlink(path.to_owned()));
    }

    /// Gives a file or folder another name.
    pub fn rename(&mut self, from: &Path, to: &Path) {
        self.change(Step::Rename(from.to_owned(), to.to_owned()));
    }

    /// Makes the entries of a folder durable.
    pub fn sync_folder(&mut self, folder: &Path) {
        for step in std::mem::take(&mut self.steps) {
            if step.folder() == Some(folder) {
                step.apply(&mut self.durable);
            } else {
                self.steps.push(step);
            }
        }
    }

    /// A handle of a file.
    pub fn open(&mut self, file: u32, direct: bool) -> u32 {
        self.next_handle += 1;
        self.handles.insert(self.next_handle, (file, direct));
        self.next_handle
    }

    /// Lets a handle go, and the lock that it may hold.
    pub fn close(&mut self, handle: u32) {
        self.handles.remove(&handle);
        self.locked.remove(&handle);
    }

    /// Notes that a handle holds the lock of its file. `false`: another does.
    pub fn lock(&mut self, handle: u32) -> bool {
        let file = self.handles.get(&handle).map(|(file, _)| *file);
        let taken =
            self.locked.iter().any(|other| self.handles.get(other).map(|(file, _)| *file) == file);
        !taken && self.locked.insert(handle)
    }

    /// The bytes behind a handle, and whether it is open for direct access.
    ///
    /// # Errors
    /// There is no such handle.
    pub fn bytes(&mut self, handle: u32) -> io::Result<(&mut FileBytes, bool)> {
        let bad = || io::Error::other("no such handle");
        let (file, direct) = self.handles.get(&handle).copied().ok_or_else(bad)?;
        let bytes = self.contents.get_mut(&file).ok_or_else(bad)?;
        Ok((bytes, direct))
    }

    /// Bytes of all files that have a name.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let files = self.now.values().filter_map(|entry| match entry {
            Entry::File(file) => self.contents.get(file),
            Entry::Folder => None,
        });
        files.map(|bytes| bytes.current().len() as u64).sum()
    }

    /// The process has ended: its handles and locks are gone.
    pub fn end_process(&mut self) {
        self.handles.clear();
        self.locked.clear();
        self.steps_left = None;
        self.fail_next = false;
        // A file whose removal is not durable may come back.
        let unsynced = self.steps.iter().filter_map(|step| match step {
            Step::Link(_, Entry::File(file)) => Some(*file),
            _ => None,
        });
        let named = self.named(&self.now).chain(self.named(&self.durable)).chain(unsynced);
        let named: BTreeSet<u32> = named.collect();
        self.contents.retain(|file, _| named.contains(file));
    }

    /// The power was lost: what was not durable goes as `random` says.
    pub fn lose_power(&mut self, random: &mut Random) {
        let loss = match random.below(6) {
            0 => Loss::All,
            1 => Loss::Nothing,
            _ => Loss::Some,
        };
        let mut cut: BTreeSet<PathBuf> = BTreeSet::new();
        for step in std::mem::take(&mut self.steps) {
            let folder = step.folder().map(Path::to_owned).unwrap_or_default();
            let keep = match loss {
                Loss::All => false,
                Loss::Nothing => true,
                Loss::Some => random.chance(600),
            };
            // Within one folder changes become durable in order, so the first loss takes what follows with it.
            if keep && !cut.contains(&folder) {
                step.apply(&mut self.durable);
            } else {
                self.tally.hit(Fault::EntryLost);
                cut.insert(folder);
            }
        }
        // A folder stands before what is in it; what is in a folder that is gone is gone as well.
        let mut kept: BTreeMap<PathBuf, Entry> = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut self.durable) {
            if path.parent().is_none_or(|up| kept.contains_key(up)) {
                kept.insert(path, entry);
            }
        }
        self.durable = kept;
        self.now.clone_from(&self.durable);
        for bytes in self.contents.values_mut() {
            let fates = bytes.lose_power(loss, random);
            self.tally.add_faults(Fault::WriteLost, fates.lost);
            self.tally.add_faults(Fault::WriteKept, fates.kept);
            self.tally.add_faults(Fault::WriteTorn, fates.torn);
        }
        self.end_process();
    }

    fn named<'a>(&self, names: &'a BTreeMap<PathBuf, Entry>) -> impl Iterator<Item = u32> + 'a {
        names.values().filter_map(|entry| match entry {
            Entry::File(file) => Some(*file),
            Entry::Folder => None,
        })
    }

    fn change(&mut self, step: Step) {
        step.apply(&mut self.now);
        self.steps.push(step);
    }
}

impl Step {
    /// The folder whose sync makes the change durable.
    fn folder(&self) -> Option<&Path> {
        match self {
            Step::Link(path, _) | Step::Unlink(path) | Step::Rename(_, path) => path.parent(),
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Entry>) {
        match self {
            Step::Link(path, entry) => {
                names.insert(path.clone(), *entry);
            }
            Step::Unlink(path) => {
                names.remove(path);
            }
            Step::Rename(from, to) => {
                let moved: Vec<PathBuf> =
                    names.keys().filter(|path| path.starts_with(from)).cloned().collect();
                for path in moved {
                    let entry = names.remove(&path).expect("listed just now");
                    let rest = path.strip_prefix(from).expect("it starts with it");
                    let target =
                        if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    names.insert(target, entry);
                }
            }
        }
    }
}
