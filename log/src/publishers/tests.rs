//! Publishers against a plain model, over crashes, checkpoints and other numbers of shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::header::BatchHeader;
use codec::ids::{Offset, Partition, Position, Timestamp, TopicId};

use super::*;
use crate::folder::{self, Folder, FolderOptions, ShardLogs};
use crate::options::LogOptions;
use crate::sim_disk::{SimDisk, SimRandom, SimStorage};

fn header(publisher: u64, partition: u16, sequence: u64, position: u64) -> BatchHeader {
    let body = sequence.to_le_bytes();
    let mut header = BatchHeader::unstamped(TopicId(1), Partition(partition), &body, 2);
    header.publisher_id = publisher;
    header.sequence = sequence;
    header.base_position = Position(position);
    header.base_offset = Offset(10 * sequence);
    header.append_time = Timestamp(position);
    header
}

/// The answers that a publisher gets decide between a loss and a duplicate: each case must be told from the others.
#[test]
fn every_sequence_is_told_apart() {
    let mut publishers = Publishers::default();
    for sequence in [1, 2, 5] {
        assert_eq!(publishers.seen(&header(7, 3, sequence, 0)), Ok(None), "{sequence} is new");
        publishers.appended(&header(7, 3, sequence, 2 * sequence));
    }
    let stored = Stored { base_offset: Offset(20), end: Position(12) };
    assert_eq!(publishers.seen(&header(7, 3, 2, 0)), Ok(Some(stored)), "with the first offset");
    let late = NoAppend::SequenceTooOld { sequence: 4, oldest: 1, newest: 5 };
    assert_eq!(publishers.seen(&header(7, 3, 4, 0)), Err(late), "it would stand behind 5");
    let mut other = header(7, 3, 5, 0);
    other.body_crc ^= 1;
    assert_eq!(publishers.seen(&other), Err(NoAppend::SequenceReused { sequence: 5 }));
    let mut elsewhere = header(7, 3, 5, 0);
    elsewhere.topic = TopicId(2);
    let reused = Err(NoAppend::SequenceReused { sequence: 5 });
    assert_eq!(
        publishers.seen(&elsewhere),
        reused,
        "the same body in another topic is another batch"
    );
    for (publisher, partition) in [(7, 4), (8, 3)] {
        assert_eq!(publishers.seen(&header(publisher, partition, 5, 0)), Ok(None), "a pair apart");
    }
}

/// A publisher that resends its whole window must find all of it, and what it cannot resend any more costs nothing.
#[test]
fn a_window_is_remembered_and_no_more() {
    let mut publishers = Publishers::default();
    let end = 3 * SEQUENCES_MAX as u64;
    for sequence in 1..=end {
        publishers.appended(&header(7, 3, sequence, sequence));
    }
    let oldest = end - SEQUENCES_MAX as u64 + 1;
    assert!(matches!(publishers.seen(&header(7, 3, oldest, 0)), Ok(Some(_))));
    assert!(publishers.seen(&header(7, 3, oldest - 1, 0)).is_err());
    let bytes = publishers.memory_bytes();
    assert!(bytes <= 2 * SEQUENCES_MAX * size_of::<Remembered>(), "{bytes} bytes");
    publishers.appended(&header(7, 3, end + 1, end + 1));
    assert_eq!(publishers.memory_bytes(), bytes, "a known publisher takes nothing more");
}

/// A few publishers may keep long windows, many may not: those who had theirs before the many came must give it up,
/// though they are never heard again.
#[test]
fn silent_windows_give_way() {
    let mut publishers = Publishers::default();
    let mut position = 0;
    for publisher in 1..=8_192 {
        let sequences = publishers.sequences_max() as u64;
        for sequence in 1..=sequences {
            position += 1;
            publishers.appended(&header(publisher, 0, sequence, position));
        }
    }
    let kept: usize = publishers.pairs.iter().map(|pair| pair.sequences.len()).sum();
    assert!(kept <= SEQUENCES_SHARED * 3 / 2, "{kept} sequences");
    let room: usize = publishers.pairs.iter().map(|pair| pair.sequences.capacity()).sum();
    assert_eq!(room, publishers.room, "what is counted is what is there");
    assert!(room <= 2 * SEQUENCES_SHARED, "{room} places");
    assert!(publishers.memory_bytes() <= 28 << 20, "{} bytes", publishers.memory_bytes());
}

/// The logs of another number of shards number their topics anew, and one log of theirs takes publishers of several:
/// what came last must stay, whichever log it stood in.
#[test]
fn a_new_generation_takes_over_what_came_last() {
    let older: Vec<Publishers> = (0..2u64)
        .map(|log| {
            let mut publishers = Publishers::default();
            for number in 0..40_000 {
                let (publisher, position) = (1 + 2 * number + log, 2 * number + log);
                publishers.appended(&header(publisher, log as u16, 3, position));
            }
            publishers
        })
        .collect();
    let topics = [vec![TopicId(0), TopicId(5)], vec![TopicId(0), TopicId(6)]];
    let all: Vec<_> = older.iter().zip(topics).collect();
    let merged = Publishers::merged(&all, |_| true);
    assert_eq!(merged.len(), PAIRS_MAX);
    for (publisher, partition, topic) in [(80_000, 1, 6), (79_999, 0, 5), (20_000, 1, 6)] {
        let mut header = header(publisher, partition, 3, 0);
        header.topic = TopicId(topic);
        let stored = Stored { base_offset: Offset(30), end: Position(0) };
        assert_eq!(merged.seen(&header), Ok(Some(stored)), "{publisher}");
    }
    assert_eq!(merged.seen(&header(1, 0, 3, 0)), Ok(None), "the oldest of both are forgotten");
    let half = Publishers::merged(&all, |partition| partition == Partition(1));
    assert_eq!(half.len(), 40_000);
}

/// Whoever sends made-up publisher ids must neither fill the memory nor push out those who are heard.
#[test]
fn a_flood_of_publishers_is_bounded() {
    let mut publishers = Publishers::default();
    for stranger in 0..3 * PAIRS_MAX as u64 {
        publishers.appended(&header(1 << 32 | stranger, 0, 1, stranger));
        if stranger % 1_000 == 0 {
            publishers.appended(&header(7, 3, stranger / 1_000 + 1, stranger));
        }
    }
    assert_eq!(publishers.len(), PAIRS_MAX);
    assert!(publishers.memory_bytes() <= 16 << 20, "{} bytes", publishers.memory_bytes());
    let newest = 3 * PAIRS_MAX as u64 / 1_000;
    assert!(matches!(publishers.seen(&header(7, 3, newest, 0)), Ok(Some(_))), "it was heard");
    assert_eq!(publishers.seen(&header(1 << 32, 0, 1, 0)), Ok(None), "the oldest are forgotten");
}

/// Publishers that end are not kept for ever: an idle server's memory must not grow with its years.
#[test]
fn the_silent_are_forgotten() {
    let mut publishers = Publishers::default();
    for publisher in 1..=100 {
        publishers.appended(&header(publisher, 0, 1, publisher));
    }
    for publisher in 101..=150 {
        let mut later = header(publisher, 0, 1, publisher);
        later.append_time = Timestamp(SILENT_MAX_US + 1_000);
        publishers.appended(&later);
    }
    assert_eq!(publishers.len(), 50);
}

/// Damaged bytes may say anything: they are refused, and never an assertion.
#[test]
fn entries_survive_and_damaged_ones_are_refused() {
    let mut publishers = Publishers::default();
    for publisher in [9, 7, 8] {
        for sequence in [1, 2, 5] {
            publishers.appended(&header(publisher, 3, sequence, 10 * publisher + sequence));
        }
    }
    let mut bytes = Vec::new();
    let rest = publishers.encode(0, 1, &mut bytes);
    assert_eq!(rest, Some(1), "a frame is ended with the entry that fills it");
    assert_eq!(publishers.encode(1, usize::MAX, &mut bytes), None);
    let mut again = Publishers::default();
    again.decode(&bytes).unwrap();
    again.decoded();
    let stored = Stored { base_offset: Offset(50), end: Position(0) };
    assert_eq!(again.seen(&header(8, 3, 5, 0)), Ok(Some(stored)), "durable since it was read");
    assert_eq!(again.pairs[again.oldest as usize].publisher, 7, "the order of time is kept");
    for cut in 1..bytes.len() {
        let whole = cut.is_multiple_of(24 * 4);
        assert_eq!(Publishers::default().decode(&bytes[..cut]).is_ok(), whole, "cut at {cut}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let mut publishers = Publishers::default();
            if publishers.decode(&flipped).is_ok() {
                publishers.decoded();
            }
        }
    }
}

/// Publisher, partition, sequence.
type Identity = (u64, u16, u64);

/// Shards with their logs on one simulated disk, and what a publisher knows of each of its batches.
struct Mesh {
    storage: SimStorage,
    disk: SimDisk,
    random: SimRandom,
    logs: Vec<ShardLogs>,
    lock: Option<folder::FolderLock>,
    options: FolderOptions,
    now: u64,
    /// Batches that are durable, with the offset that was told.
    durable: BTreeMap<Identity, Offset>,
    /// Batches that are not: also the position after each.
    on_the_way: Vec<(Identity, Offset, Position, usize)>,
    next: BTreeMap<(u64, u16), u64>,
}

impl Mesh {
    fn new(seed: u64) -> Self {
        let storage = SimStorage::new();
        let log = LogOptions {
            segment_bytes: 1 << 20,
            checkpoint_every_bytes: 256 << 10,
            ..LogOptions::default()
        };
        let options = FolderOptions {
            shards: 1,
            log,
            node_id_if_new: 7,
            folder_bytes_max: None,
            recover_at_once: 1,
        };
        let disk = SimDisk::new(storage.clone(), seed);
        let random = SimRandom::new(seed);
        let mut mesh = Mesh {
            storage,
            disk,
            random,
            logs: Vec::new(),
            lock: None,
            options,
            now: 1_000,
            durable: BTreeMap::new(),
            on_the_way: Vec::new(),
            next: BTreeMap::new(),
        };
        mesh.open();
        mesh
    }

    fn open(&mut self) {
        self.lock = None;
        let dir = std::path::Path::new("/data");
        let Folder { shards, lock, .. } =
            folder::open(Arc::new(self.storage.clone()), dir, &self.options).unwrap();
        self.logs = shards;
        self.lock = Some(lock);
    }

    /// Sends a batch, new or again; checks the answer against what its publisher knows.
    fn send(&mut self, key: Identity) {
        let (publisher, partition, sequence) = key;
        self.now += 1;
        let shard = usize::from(partition % self.options.shards);
        let log = &mut self.logs[shard].active;
        let body = vec![sequence as u8; 100 + 37 * (sequence as usize % 50)];
        let mut header = BatchHeader::unstamped(TopicId(0), Partition(partition), &body, 2);
        (header.publisher_id, header.sequence) = (publisher, sequence);
        let known = self.durable.get(&key).copied();
        let mut on_the_way = self.on_the_way.iter();
        let known = known.or_else(|| on_the_way.find(|sent| sent.0 == key).map(|sent| sent.1));
        let topic = log.topic_id("t");
        match (log.stored(topic, header.partition, &header), known) {
            (Ok(Some(stored)), Some(offset)) => {
                assert_eq!(stored.base_offset, offset, "{key:?} stands where it was told first");
                return;
            }
            (Ok(None), None) => {}
            other => panic!("{key:?}: {other:?}"),
        }
        let topic = log.create_topic(&Arc::from("t")).and_then(|topic| {
            log.append(topic, Partition(partition), &header, &body, Timestamp(self.now))
        });
        let Ok(appended) = topic else { return };
        let end = appended.base_position.plus(2);
        self.on_the_way.push((key, appended.base_offset, end, shard));
        self.next.insert((publisher, partition), sequence + 1);
    }

    fn step(&mut self) {
        for shard in &mut self.logs {
            shard.active.run(Timestamp(self.now), &mut self.disk);
        }
        if let Some(done) = self.disk.complete_one() {
            let mut logs = self.logs.iter_mut();
            let shard = logs.find(|shard| shard.active.key() == done.log).unwrap();
            shard.active.on_completion(done.ticket, done.result, &mut self.disk);
        }
        let logs = &self.logs;
        let ends = |shard: usize| logs[shard].active.positions().durable_end();
        let (durable, later) =
            self.on_the_way.drain(..).partition(|(_, _, end, shard)| *end <= ends(*shard));
        self.on_the_way = later;
        let durable: Vec<_> = durable;
        self.durable.extend(durable.into_iter().map(|(key, offset, ..)| (key, offset)));
    }

    /// Power loss, and a start with another number of shards. What was not durable may be there or not: the publisher
    /// sends it again, in its order, and is told one place for all times.
    fn crash(&mut self) {
        self.disk.power_loss();
        self.options.shards = [1, 2, 3, 4][self.random.below(4) as usize];
        self.open();
        for (key, ..) in std::mem::take(&mut self.on_the_way) {
            let (publisher, partition, sequence) = key;
            let log = &self.logs[usize::from(partition % self.options.shards)].active;
            let body = vec![sequence as u8; 100 + 37 * (sequence as usize % 50)];
            let mut header = BatchHeader::unstamped(TopicId(0), Partition(partition), &body, 2);
            (header.publisher_id, header.sequence) = (publisher, sequence);
            match log.stored(log.topic_id("t"), header.partition, &header) {
                Ok(Some(stored)) => drop(self.durable.insert(key, stored.base_offset)),
                Ok(None) => {
                    let next = self.next.get_mut(&(publisher, partition)).unwrap();
                    *next = sequence.min(*next);
                }
                Err(error) => panic!("{key:?}: {error:?}"),
            }
        }
    }
}

/// Whatever is lost on the way, and whichever log takes the partition next, a batch stands once and its publisher is
/// told one place.
#[test]
fn a_batch_stands_once_over_crashes_and_shards() {
    for seed in 0..60 {
        let mut mesh = Mesh::new(seed);
        for _ in 0..5 {
            for _ in 0..mesh.random.below(400) {
                let key = (1 + mesh.random.below(4), mesh.random.below(6) as u16);
                let next = mesh.next.get(&key).copied().unwrap_or(1);
                let back = mesh.random.below(5).min(next - 1);
                // Mostly new ones, else one of the last; refused sequences are known only as gaps.
                let sequence = if mesh.random.one_in(3) { next - back } else { next };
                mesh.send((key.0, key.1, sequence));
                if mesh.random.one_in(3) {
                    mesh.step();
                }
            }
            mesh.crash();
        }
        let told: Vec<_> = mesh.durable.clone().into_iter().collect();
        for (key, _) in &told {
            let newest = told.iter().filter(|(k, _)| (k.0, k.1) == (key.0, key.1)).count();
            assert!(newest <= SEQUENCES_MAX, "the model stays within what is remembered");
            mesh.send(*key);
        }
        let mut offsets: Vec<_> = told.iter().map(|(key, offset)| (key.1, *offset)).collect();
        offsets.sort_unstable();
        offsets.dedup();
        assert_eq!(offsets.len(), told.len(), "seed {seed}: every batch has a place of its own");
    }
}
