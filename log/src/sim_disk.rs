//! A disk in memory that behaves as badly as a disk may, from a seed.
//!
//! What was synced and returned survives a power loss: a synced write, and with a sync those writes to its file that had
//! returned before it was submitted, and no other. Everything else may, in any combination, survive whole, be
//! lost, or be torn at 512 bytes. Changes of folders survive in order up to some point. Operations complete in any
//! order, and may fail.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::aligned::AlignedBuf;
use crate::disk::{Completed, Completion, Disk, DiskOp, LogKey};
use crate::storage::{FileId, Mapped, OpenMode, Storage};

/// Unit in which a write is torn.
pub const SECTOR_BYTES: usize = 512;

/// A small generator of numbers: the same seed, the same numbers, on every machine.
#[derive(Clone, Debug)]
pub struct SimRandom(u64);

impl SimRandom {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        SimRandom(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// The next number (splitmix64).
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        self.next_u64() % end
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug)]
struct Unsynced {
    /// Rises with each write that returns without being durable.
    number: u64,
    at: usize,
    /// What the sectors held before.
    before: Vec<u8>,
    after_len: usize,
}

#[derive(Clone, Debug, Default)]
struct SimFile {
    bytes: Vec<u8>,
    unsynced: Vec<Unsynced>,
    durable_len: usize,
}

#[derive(Clone, Debug)]
enum DirChange {
    Made { path: PathBuf, inode: u64 },
    Renamed { from: PathBuf, to: PathBuf },
    Removed { path: PathBuf },
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, SimFile>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    dirs: BTreeSet<PathBuf>,
    changes: Vec<DirChange>,
    open: Vec<Option<u64>>,
    locked: BTreeSet<PathBuf>,
    lock_files: BTreeMap<u32, PathBuf>,
    next_inode: u64,
    next_write: u64,
    /// Most bytes that all files may take.
    capacity: Option<u64>,
    /// After so many more changes the power is gone: everything fails.
    changes_left: Option<u64>,
    counts: SimDiskCounts,
}

/// How often each fault happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimDiskCounts {
    /// Power losses.
    pub power_losses: u64,
    /// Writes that were lost whole.
    pub lost: u64,
    /// Writes that survived in part.
    pub torn: u64,
    /// Unsynced writes that survived.
    pub kept: u64,
    /// Operations that were made to fail.
    pub failed: u64,
    /// Completions that overtook an earlier operation.
    pub reordered: u64,
    /// Operations refused for lack of space.
    pub no_space: u64,
    /// Syncs that returned.
    pub syncs: u64,
}

/// Files in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct SimStorage {
    state: Arc<Mutex<State>>,
}

impl SimStorage {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        SimStorage::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Limits the disk's size; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The power goes after `changes` more changes: from then on everything fails until [`SimStorage::power_loss`].
    pub fn fail_after(&self, changes: Option<u64>) {
        self.state().changes_left = changes;
    }

    /// What has gone wrong so far.
    #[must_use]
    pub fn counts(&self) -> SimDiskCounts {
        self.state().counts
    }

    /// Power is lost and comes back: what was not synced survives, is lost or is torn. All files are closed.
    pub fn power_loss(&self, random: &mut SimRandom) {
        let mut state = self.state();
        let state = &mut *state;
        state.changes_left = None;
        state.open.clear();
        state.locked.clear();
        state.lock_files.clear();
        state.counts.power_losses += 1;
        let kept = random.below(state.changes.len() as u64 + 1) as usize;
        let changes: Vec<DirChange> = state.changes.drain(..).take(kept).collect();
        for change in changes {
            apply(&change, &mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        // An empty folder does not survive: whoever needs it makes it again.
        let parents = state.names.keys().flat_map(|path| path.ancestors().skip(1));
        state.dirs = parents.map(Path::to_path_buf).collect();
        let live: BTreeSet<u64> = state.names.values().copied().collect();
        state.files.retain(|inode, _| live.contains(inode));
        for file in state.files.values_mut() {
            lose_unsynced(file, random, &mut state.counts);
        }
        state.check();
    }

    /// Changes one bit of a file, as a rotten disk would.
    pub fn flip_bit(&self, path: &Path, at: u64, bit: u8) {
        let mut state = self.state();
        let inode = *state.names.get(path).expect("the file is there");
        let file = state.files.get_mut(&inode).expect("named files exist");
        file.bytes[at as usize] ^= 1 << (bit & 7);
    }

    /// All paths of files, sorted.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state().names.keys().cloned().collect()
    }
}

fn apply(change: &DirChange, names: &mut BTreeMap<PathBuf, u64>) {
    match change {
        DirChange::Made { path, inode } => {
            names.insert(path.clone(), *inode);
        }
        DirChange::Removed { path } => {
            names.remove(path);
        }
        DirChange::Renamed { from, to } => {
            let moved: Vec<(PathBuf, u64)> = names
                .iter()
                .filter(|(path, _)| path.starts_with(from))
                .map(|(path, inode)| (path.clone(), *inode))
                .collect();
            for (path, inode) in moved {
                names.remove(&path);
                let rest = path.strip_prefix(from).expect("filtered by the prefix");
                let renamed = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                names.insert(renamed, inode);
            }
        }
    }
}

fn lose_unsynced(file: &mut SimFile, random: &mut SimRandom, counts: &mut SimDiskCounts) {
    assert!(file.durable_len <= file.bytes.len(), "what is durable is there");
    let writes = std::mem::take(&mut file.unsynced);
    // Newest first, so that what an older write held before comes back below a newer one that is lost too.
    for write in writes.into_iter().rev() {
        match random.below(3) {
            0 => counts.kept += 1,
            1 => {
                counts.lost += 1;
                restore(file, &write, |_| true);
            }
            _ => {
                counts.torn += 1;
                restore(file, &write, |_| random.one_in(2));
            }
        }
    }
    if file.bytes.len() > file.durable_len && random.one_in(2) {
        file.bytes.truncate(file.durable_len);
    }
    assert!(file.durable_len <= file.bytes.len(), "what was durable has stayed");
    file.durable_len = file.bytes.len();
}

fn restore(file: &mut SimFile, write: &Unsynced, mut lost: impl FnMut(usize) -> bool) {
    let mut at = 0;
    while at < write.after_len {
        // Sectors of the disk, not of the write.
        let end = (at + SECTOR_BYTES - (write.at + at) % SECTOR_BYTES).min(write.after_len);
        if lost(at) {
            for byte in at..end {
                if let Some(slot) = file.bytes.get_mut(write.at + byte) {
                    *slot = write.before.get(byte).copied().unwrap_or(0);
                }
            }
        }
        at = end;
    }
}

impl State {
    /// Every name, also one that would come back after a power loss, is a file's.
    fn check(&self) {
        let mut inodes = self.names.values().chain(self.durable_names.values());
        assert!(inodes.all(|inode| self.files.contains_key(inode)), "every name has its file");
    }

    fn changing(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn inode(&self, file: FileId) -> io::Result<u64> {
        let open = self.open.get(file.0 as usize).copied().flatten();
        open.ok_or_else(|| io::Error::other("the file is not open"))
    }

    fn file(&mut self, file: FileId) -> io::Result<&mut SimFile> {
        let inode = self.inode(file)?;
        self.files.get_mut(&inode).ok_or_else(|| io::Error::other("the file is gone"))
    }

    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|inode| self.files.get(inode))
            .map(|f| f.bytes.len() as u64)
            .sum()
    }

    fn keep_open(&mut self, inode: u64) -> FileId {
        self.open.push(Some(inode));
        FileId(self.open.len() as u32 - 1)
    }

    fn write(&mut self, file: FileId, at: u64, bytes: &[u8], synced: bool) -> io::Result<()> {
        self.changing()?;
        let end = at as usize + bytes.len();
        let grows = end.saturating_sub(self.file(file)?.bytes.len()) as u64;
        if grows > 0 && self.capacity.is_some_and(|capacity| self.used() + grows > capacity) {
            self.counts.no_space += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let number = self.next_write;
        self.next_write += 1;
        let file = self.file(file)?;
        let at = at as usize;
        let before = file.bytes.get(at..end.min(file.bytes.len()).max(at)).unwrap_or(&[]).to_vec();
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[at..end].copy_from_slice(bytes);
        if synced {
            file.durable_len = file.durable_len.max(end);
        } else {
            file.unsynced.push(Unsynced { number, at, before, after_len: bytes.len() });
        }
        Ok(())
    }

    /// Makes the writes to a file durable that returned before write `before` did.
    fn sync_before(&mut self, file: FileId, before: u64) -> io::Result<()> {
        self.changing()?;
        self.counts.syncs += 1;
        let file = self.file(file)?;
        let is_covered = |write: &Unsynced| write.number < before;
        let ends = file.unsynced.iter().filter(|write| is_covered(write));
        let end = ends.map(|write| write.at + write.after_len).max();
        file.durable_len = file.durable_len.max(end.unwrap_or(0)).min(file.bytes.len());
        file.unsynced.retain(|write| !is_covered(write));
        Ok(())
    }
}

impl Storage for SimStorage {
    fn open(&self, path: &Path, mode: OpenMode, _direct: bool) -> io::Result<FileId> {
        let mut state = self.state();
        if let Some(inode) = state.names.get(path).copied() {
            return Ok(state.keep_open(inode));
        }
        if mode != OpenMode::Create {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.changing()?;
        state.next_inode += 1;
        let inode = state.next_inode;
        state.files.insert(inode, SimFile::default());
        state.names.insert(path.into(), inode);
        state.changes.push(DirChange::Made { path: path.into(), inode });
        Ok(state.keep_open(inode))
    }

    fn close(&self, file: FileId) {
        let mut state = self.state();
        if let Some(path) = state.lock_files.remove(&file.0) {
            state.locked.remove(&path);
        }
        if let Some(slot) = state.open.get_mut(file.0 as usize) {
            *slot = None;
        }
    }

    fn read_at(&self, file: FileId, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        let file = state.file(file)?;
        let rest = file.bytes.get(at as usize..).unwrap_or(&[]);
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn write_at(&self, file: FileId, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.state().write(file, at, bytes, false)
    }

    fn sync(&self, file: FileId) -> io::Result<()> {
        let mut state = self.state();
        state.changing()?;
        let file = state.file(file)?;
        file.unsynced.clear();
        file.durable_len = file.bytes.len();
        Ok(())
    }

    fn len(&self, file: FileId) -> io::Result<u64> {
        Ok(self.state().file(file)?.bytes.len() as u64)
    }

    fn set_len(&self, file: FileId, len: u64) -> io::Result<()> {
        let mut state = self.state();
        state.changing()?;
        let file = state.file(file)?;
        let len = len as usize;
        file.durable_len = file.durable_len.min(len);
        file.bytes.resize(len, 0);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.changing()?;
        let is_dir = state.dirs.contains(from);
        if !is_dir && !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let change = DirChange::Renamed { from: from.into(), to: to.into() };
        apply(&change, &mut state.names);
        let moved: Vec<PathBuf> =
            state.dirs.iter().filter(|dir| dir.starts_with(from)).cloned().collect();
        for dir in moved {
            let rest = dir.strip_prefix(from).expect("filtered by the prefix");
            let renamed = if rest.as_os_str().is_empty() { to.into() } else { to.join(rest) };
            state.dirs.remove(&dir);
            state.dirs.insert(renamed);
        }
        state.check();
        state.changes.push(change);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.changing()?;
        if state.names.remove(path).is_some() {
            state.changes.push(DirChange::Removed { path: path.into() });
            return Ok(());
        }
        if state.dirs.remove(path) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        let mut names = BTreeSet::new();
        for path in state.names.keys().chain(state.dirs.iter()) {
            if let Ok(rest) = path.strip_prefix(dir)
                && let Some(first) = rest.components().next()
            {
                names.insert(first.as_os_str().to_string_lossy().into_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.changing()?;
        // One journal for the whole file system: what came before is durable too.
        state.durable_names = state.names.clone();
        state.changes.clear();
        state.check();
        Ok(())
    }

    fn map(&self, file: FileId) -> io::Result<Mapped> {
        Ok(Mapped::from_memory(AlignedBuf::copy_of(&self.state().file(file)?.bytes)))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.state();
        Ok(state.capacity.map_or(1 << 50, |capacity| capacity.saturating_sub(state.used())))
    }

    fn lock(&self, path: &Path) -> io::Result<FileId> {
        let file = self.open(path, OpenMode::Create, false)?;
        let mut state = self.state();
        if !state.locked.insert(path.into()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.lock_files.insert(file.0, path.into());
        Ok(file)
    }
}

/// Operations on their way to a [`SimStorage`].
#[derive(Debug)]
pub struct SimDisk {
    storage: SimStorage,
    random: SimRandom,
    queue: Vec<Queued>,
    /// One write in so many fails; 0: none.
    write_fails_one_in: u64,
    /// The same for reads.
    read_fails_one_in: u64,
    /// The same for syncs.
    sync_fails_one_in: u64,
}

#[derive(Debug)]
struct Queued {
    log: LogKey,
    op: DiskOp,
    /// Writes from this one on had not returned as it was submitted.
    write_end: u64,
}

impl SimDisk {
    /// A disk whose behaviour follows from `seed`.
    #[must_use]
    pub fn new(storage: SimStorage, seed: u64) -> Self {
        SimDisk {
            storage,
            random: SimRandom::new(seed),
            queue: Vec::new(),
            write_fails_one_in: 0,
            read_fails_one_in: 0,
            sync_fails_one_in: 0,
        }
    }

    /// Makes one write in `n` fail from now on; 0: none.
    pub fn fail_writes_one_in(&mut self, n: u64) {
        self.write_fails_one_in = n;
    }

    /// Makes one read in `n` fail from now on; 0: none.
    pub fn fail_reads_one_in(&mut self, n: u64) {
        self.read_fails_one_in = n;
    }

    /// Makes one sync in `n` fail from now on; 0: none.
    pub fn fail_syncs_one_in(&mut self, n: u64) {
        self.sync_fails_one_in = n;
    }

    /// Operations that have not completed.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    /// Completes one operation, any of them.
    pub fn complete_one(&mut self) -> Option<Completion> {
        if self.queue.is_empty() {
            return None;
        }
        let at = self.random.below(self.queue.len() as u64) as usize;
        if at > 0 {
            self.storage.state().counts.reordered += 1;
        }
        Some(self.complete(at))
    }

    /// Completes the operation that was submitted last, if it is one of these.
    pub fn complete_last(&mut self, is: impl Fn(&DiskOp) -> bool) -> Option<Completion> {
        let at = self.queue.iter().rposition(|queued| is(&queued.op))?;
        Some(self.complete(at))
    }

    fn complete(&mut self, at: usize) -> Completion {
        let Queued { log, op, write_end } = self.queue.remove(at);
        let ticket = op.ticket();
        let result = match op {
            DiskOp::Write { file, at, bytes, durable, .. } => {
                Completed::Written(self.write(file, at, &bytes.joined(), durable))
            }
            DiskOp::Read { file, at, len, .. } => Completed::Read(self.read(file, at, len)),
            DiskOp::Sync { file, .. } => Completed::Synced(self.sync(file, write_end)),
            DiskOp::Chore { chore, .. } => Completed::Chore(chore(&self.storage)),
        };
        Completion { log, ticket, result }
    }

    /// Power is lost: what is on its way may have reached the disk, or not, or in part.
    pub fn power_loss(&mut self) {
        for queued in self.queue.drain(..) {
            if let DiskOp::Write { file, at, bytes, .. } = queued.op {
                let _ = self.storage.state().write(file, at, &bytes.joined(), false);
            }
        }
        self.storage.power_loss(&mut self.random);
    }

    fn write(&mut self, file: FileId, at: u64, bytes: &Bytes, durable: bool) -> io::Result<()> {
        assert!(at.is_multiple_of(4096) && bytes.len().is_multiple_of(4096), "whole blocks");
        assert!((bytes.as_ptr() as usize).is_multiple_of(4096), "aligned memory");
        if self.write_fails_one_in > 0 && self.random.one_in(self.write_fails_one_in) {
            let mut state = self.storage.state();
            state.counts.failed += 1;
            let _ = state.write(file, at, bytes, false);
            return Err(io::Error::other("the simulated disk failed"));
        }
        self.storage.state().write(file, at, bytes, durable)
    }

    fn sync(&mut self, file: FileId, write_end: u64) -> io::Result<()> {
        let mut state = self.storage.state();
        if self.sync_fails_one_in > 0 && self.random.one_in(self.sync_fails_one_in) {
            state.counts.failed += 1;
            return Err(io::Error::other("the simulated disk failed"));
        }
        state.sync_before(file, write_end)
    }

    /// The process is killed: what was under way has happened or not, and what was written stays.
    pub fn kill(&mut self) {
        for queued in std::mem::take(&mut self.queue) {
            if let DiskOp::Write { file, at, bytes, .. } = queued.op
                && self.random.one_in(2)
            {
                let _ = self.storage.state().write(file, at, &bytes.joined(), false);
            }
        }
    }

    fn read(&mut self, file: FileId, at: u64, len: u32) -> io::Result<Bytes> {
        if self.read_fails_one_in > 0 && self.random.one_in(self.read_fails_one_in) {
            self.storage.state().counts.failed += 1;
            return Err(io::Error::other("the simulated disk failed"));
        }
        let mut buf = AlignedBuf::zeroed(len as usize);
        let got = self.storage.read_at(file, at, buf.as_mut_slice())?;
        buf.truncate(got);
        Ok(buf.into())
    }
}

impl Disk for SimDisk {
    fn submit(&mut self, log: LogKey, op: DiskOp) {
        op.check();
        let known =
            self.queue.iter().any(|other| other.log == log && other.op.ticket() == op.ticket());
        assert!(!known, "a ticket is unique while its operation runs");
        let write_end = self.storage.state().next_write;
        self.queue.push(Queued { log, op, write_end });
    }
}
