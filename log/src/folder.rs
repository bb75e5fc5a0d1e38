//! A data folder: its lock, what it is, its generations of logs.
//!
//! ```text
//! DIR/lock                       held by the server that uses the folder
//! DIR/folder.toml                format version, node id, partitions
//! DIR/gen-000001/log-000/        segments, indexes, two checkpoints of one log
//! ```
//!
//! A change of the number of shards seals the logs of the newest generation and makes a new one, whose logs begin with
//! a checkpoint that carries topics, next offsets and what publishers stored over. A generation is made under another name and renamed when
//! it is whole.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{panic, thread};

use codec::ids::{Epoch, Partition, Position};
use codec::limits::PARTITIONS;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{CheckpointStart, Contents, write_checkpoint};
use crate::cursor::Cursors;
use crate::disk::LogKey;
use crate::log::Log;
use crate::options::LogOptions;
use crate::publishers::Publishers;
use crate::recovery::{RecoveryReport, RecoveryTask, merge_topics, read_file};
use crate::segment::FORMAT_VERSION;
use crate::storage::{FileId, OpenMode, Storage, probe_direct};
use crate::topics::Topics;

/// How a folder is opened.
#[derive(Clone, Debug)]
pub struct FolderOptions {
    /// Logs of the newest generation: one a shard.
    pub shards: u16,
    /// Options of each log.
    pub log: LogOptions,
    /// Node id of a folder that is made now. Not 0.
    pub node_id_if_new: u64,
    /// Most bytes that all logs together may take; each shard gets an equal share.
    pub folder_bytes_max: Option<u64>,
    /// Logs that are recovered at once, each by a thread. Not 0.
    pub recover_at_once: usize,
}

/// An open folder. The lock is held until it is dropped.
pub struct Folder {
    /// Who wrote the folder.
    pub node_id: u64,
    /// The newest generation.
    pub generation: u32,
    /// Segments are read and written past the page cache. Without it: buffered writes, each synced.
    pub direct: bool,
    /// What opening each log found.
    pub recovered: Vec<RecoveryReport>,
    /// The logs, dealt out to the shards. Take them from here.
    pub shards: Vec<ShardLogs>,
    /// Keeps other servers out of the folder.
    pub lock: FolderLock,
}

/// The logs of one shard.
#[derive(Debug)]
pub struct ShardLogs {
    /// Takes the shard's events.
    pub active: Log,
    /// Logs of earlier generations, oldest first: they are read, and keep cursors, but take no events.
    pub older: Vec<Log>,
}

/// Holds the lock of a folder until it is dropped.
pub struct FolderLock {
    storage: Arc<dyn Storage>,
    file: FileId,
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        self.storage.close(self.file);
    }
}

impl fmt::Debug for FolderLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FolderLock({:?})", self.file)
    }
}

/// Why a folder cannot be opened.
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// Another server uses it.
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// A file has a version of the format that this build does not know.
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The highest that this build knows.
        known: u32,
    },
    /// `folder.toml` cannot be read.
    Description {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The folder was made with another number of partitions.
    Partitions {
        /// The number in `folder.toml`.
        found: u16,
    },
    /// Both checkpoints of a log are damaged and its first segments are gone: its topics' names are lost.
    NoCheckpoint {
        /// The log's folder.
        dir: PathBuf,
    },
    /// The disk failed.
    Io(io::Error),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        OpenError::Io(error)
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked { dir } => {
                write!(f, "data folder {} is in use by another server", dir.display())
            }
            Self::Version { path, found, known } => {
                write!(f, "{} has format version {found}, this build knows {known}", path.display())
            }
            Self::Description { path, why } => write!(f, "{} is not valid: {why}", path.display()),
            Self::Partitions { found } => {
                write!(f, "the folder has {found} partitions, this build uses {PARTITIONS}")
            }
            Self::NoCheckpoint { dir } => write!(
                f,
                "both checkpoints in {} are damaged and its first segments are gone",
                dir.display()
            ),
            Self::Io(_) => write!(f, "the disk failed while the data folder was opened"),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format_version: u32,
    node_id: u64,
    partitions: u16,
}

#[derive(Deserialize)]
struct DescriptionVersion {
    format_version: u32,
}

/// Opens a folder, makes it if it is new, recovers every log of it.
///
/// # Errors
/// Another server holds it, its format is unknown, or the disk fails. Damage in a log is no error: it is reported.
pub fn open(
    storage: Arc<dyn Storage>,
    dir: &Path,
    options: &FolderOptions,
) -> Result<Folder, OpenError> {
    assert!(options.shards >= 1 && options.node_id_if_new != 0, "a folder has a shard and a node");
    assert!(options.recover_at_once > 0, "somebody recovers the logs");
    storage.create_dir(dir)?;
    let file = match storage.lock(&dir.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(OpenError::Locked { dir: dir.into() });
        }
        result => result?,
    };
    let lock = FolderLock { storage: Arc::clone(&storage), file };
    let description = describe(&*storage, dir, options.node_id_if_new)?;
    let direct = probe_direct(&*storage, dir)?;
    let opening =
        Opening { storage: &*storage, dir, options, node_id: description.node_id, direct };
    let (generation, recovered, shards) = opening.run()?;
    assert_eq!(shards.len(), usize::from(options.shards), "every shard has a log");
    assert!(recovered.len() >= shards.len(), "every log says what was found");
    Ok(Folder { node_id: description.node_id, generation, direct, recovered, shards, lock })
}

/// Reads `folder.toml`, or writes it.
fn describe(storage: &dyn Storage, dir: &Path, node_id: u64) -> Result<Description, OpenError> {
    let path = dir.join("folder.toml");
    let Some(bytes) = read_file(storage, &path)? else {
        let made = Description { format_version: FORMAT_VERSION, node_id, partitions: PARTITIONS };
        let text = toml::to_string(&made).map_err(|error| OpenError::Description {
            path: path.clone(),
            why: error.to_string(),
        })?;
        let new = dir.join("folder.toml.new");
        let file = storage.open(&new, OpenMode::Create, false)?;
        storage.set_len(file, 0)?;
        storage.write_at(file, 0, text.as_bytes())?;
        storage.sync(file)?;
        storage.close(file);
        storage.rename(&new, &path)?;
        storage.sync_dir(dir)?;
        return Ok(made);
    };
    let bad = |why: String| OpenError::Description { path: path.clone(), why };
    let text = String::from_utf8(bytes).map_err(|error| bad(error.to_string()))?;
    let version: DescriptionVersion = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
    if version.format_version != FORMAT_VERSION {
        let found = version.format_version;
        return Err(OpenError::Version { path, found, known: FORMAT_VERSION });
    }
    let found: Description = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
    if found.partitions != PARTITIONS {
        return Err(OpenError::Partitions { found: found.partitions });
    }
    Ok(found)
}

struct Opening<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    options: &'a FolderOptions,
    node_id: u64,
    direct: bool,
}

impl Opening<'_> {
    fn run(&self) -> Result<(u32, Vec<RecoveryReport>, Vec<ShardLogs>), OpenError> {
        let generations = self.generations()?;
        let newest = generations.last().copied();
        let of =
            |(generation, logs): (u32, u16)| (0..logs).map(move |log| LogKey { generation, log });
        let is_active = |key: LogKey| newest == Some((key.generation, self.options.shards));
        let keys: Vec<LogKey> = generations.iter().copied().flat_map(of).collect();
        let recovered = self.recover_all(&keys, |key| !is_active(key))?;
        let (logs, mut reports): (Vec<_>, Vec<_>) = recovered.into_iter().unzip();
        let (mut active, mut older): (Vec<_>, Vec<_>) =
            logs.into_iter().partition(|log: &Log| is_active(log.key()));
        let mut generation = newest.map_or(0, |(generation, _)| generation);
        assert!(active.is_empty() || generation > 0, "generations are numbered from 1");
        if active.is_empty() {
            generation += 1;
            self.make_generation(generation, &older)?;
            let keys: Vec<LogKey> = of((generation, self.options.shards)).collect();
            for (log, report) in self.recover_all(&keys, |_| false)? {
                reports.push(report);
                active.push(log);
            }
        }
        // The newest generation has taken over what the older ones knew of publishers.
        older.iter_mut().for_each(|log: &mut Log| log.publishers = Publishers::default());
        let mut shards: Vec<ShardLogs> =
            active.into_iter().map(|active| ShardLogs { active, older: Vec::new() }).collect();
        for log in older {
            let shard = usize::from(log.key().log) % shards.len();
            shards[shard].older.push(log);
        }
        self.share_limit(&mut shards);
        for (index, shard) in shards.iter().enumerate() {
            let key = shard.active.key();
            assert!(usize::from(key.log) == index, "a shard serves the log of its own number");
            assert!(
                key.generation == generation && !shard.active.sealed,
                "events go to the newest"
            );
            assert!(shard.older.iter().all(|log| log.sealed), "older logs take no events");
        }
        Ok((generation, reports, shards))
    }

    /// Generations that are whole, oldest first, with the number of their logs.
    fn generations(&self) -> Result<Vec<(u32, u16)>, OpenError> {
        let mut generations = Vec::new();
        for name in self.storage.list(self.dir)? {
            let Some(number) = name.strip_prefix("gen-") else { continue };
            let path = self.dir.join(&name);
            let entries = self.storage.list(&path)?;
            if let Ok(number) = number.parse::<u32>() {
                let logs = entries.iter().filter(|entry| entry.starts_with("log-")).count();
                generations.push((number, logs as u16));
            } else if name.ends_with(".new") {
                // A generation that was not finished. Nothing was ever written to it.
                for entry in entries {
                    let log = path.join(entry);
                    for file in self.storage.list(&log)? {
                        self.storage.remove(&log.join(file))?;
                    }
                    self.storage.remove(&log)?;
                }
                self.storage.remove(&path)?;
            }
        }
        generations.sort_unstable();
        Ok(generations)
    }

    /// Recovers logs, several at once, and gives them in the order of their keys.
    fn recover_all(
        &self,
        keys: &[LogKey],
        is_sealed: impl Fn(LogKey) -> bool + Sync,
    ) -> Result<Vec<(Log, RecoveryReport)>, OpenError> {
        let at_once = self.options.recover_at_once.min(keys.len());
        let next = AtomicUsize::new(0);
        let work = || {
            let mut recovered = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                let Some(key) = keys.get(index) else { return Ok(recovered) };
                recovered.push((index, self.recover(*key, is_sealed(*key))?));
            }
        };
        let mut recovered = thread::scope(|scope| {
            let others: Vec<_> = (1..at_once).map(|_| scope.spawn(work)).collect();
            let mut all: Vec<(usize, (Log, RecoveryReport))> = work()?;
            for other in others {
                let of_other: Result<_, OpenError> =
                    other.join().unwrap_or_else(|panic| panic::resume_unwind(panic));
                all.extend(of_other?);
            }
            Ok::<_, OpenError>(all)
        })?;
        recovered.sort_unstable_by_key(|(index, _)| *index);
        assert_eq!(recovered.len(), keys.len(), "every log is recovered once");
        Ok(recovered.into_iter().map(|(_, recovered)| recovered).collect())
    }

    fn recover(&self, key: LogKey, sealed: bool) -> Result<(Log, RecoveryReport), OpenError> {
        let dir = self.log_dir(key);
        let task = RecoveryTask {
            storage: self.storage,
            dir: &dir,
            key,
            node_id: self.node_id,
            options: &self.options.log,
            direct: self.direct,
            sealed,
        };
        task.run()
    }

    fn log_dir(&self, key: LogKey) -> PathBuf {
        self.dir.join(key.to_string())
    }

    /// Makes a generation whose logs go on where `older` ones ended.
    fn make_generation(&self, generation: u32, older: &[Log]) -> Result<(), OpenError> {
        assert!(generation >= 1, "generations are numbered from 1");
        assert!(older.iter().all(|log| log.key().generation < generation), "generations rise");
        let name = format!("gen-{generation:06}");
        let new = self.dir.join(format!("{name}.new"));
        let (mut topics, cursors) = (Topics::new(), Cursors::default());
        let publishers: Vec<_> = older
            .iter()
            .map(|log| (&log.publishers, merge_topics(&mut topics, &log.topics)))
            .collect();
        for log in 0..self.options.shards {
            let dir = new.join(format!("log-{log:03}"));
            self.storage.create_dir(&dir)?;
            let start = CheckpointStart {
                node_id: self.node_id,
                log: LogKey { generation, log },
                epoch: Epoch(0),
                sealed: false,
                segment: 0,
                at: 0,
                commit: 1,
                position: Position(0),
            };
            let owns = |partition: Partition| partition.0 % self.options.shards == log;
            let publishers = Publishers::merged(&publishers, owns);
            let state = Contents { topics: &topics, cursors: &cursors, publishers: &publishers };
            write_checkpoint(self.storage, &dir, start, 1, &state)?;
        }
        self.storage.sync_dir(&new)?;
        self.storage.rename(&new, &self.dir.join(name))?;
        self.storage.sync_dir(self.dir)?;
        Ok(())
    }

    /// Gives each log its share of the folder's limit. Older logs keep what they take.
    fn share_limit(&self, shards: &mut [ShardLogs]) {
        let Some(max) = self.options.folder_bytes_max else { return };
        let older = shards.iter().flat_map(|shard| shard.older.iter());
        let taken: u64 = older.map(|log| log.segments.allocated()).sum();
        let share = max.saturating_sub(taken) / shards.len() as u64;
        assert!(share <= max, "no log may take more than all of them");
        for shard in shards {
            shard.active.options.bytes_max = Some(share);
        }
    }
}
