//! What stands in all logs of a folder, read back through the log's own readers after a recovery.

use std::collections::BTreeMap;

use codec::ids::Position;
use dataplane::shard::parked_number;
use log::cursor::Cursor;
use log::disk::LogKey;
use log::folder::ShardLogs;
use log::log::Log;
use log::reader::{ReadStep, Reader};
use routing::subscription::GroupId;

use crate::copies::{self, Copies, Letter, ParkedCopy};
use crate::disk::queue::AtOnce;
use crate::disk::storage::SimDisk;
use crate::ledger::{BatchId, Ledger, Place, Violation, violated};

/// A batch that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// Which attempt it is.
    pub id: BatchId,
}

/// What was found in a folder.
#[derive(Debug, Default)]
pub struct Audit {
    /// All batches, by generation, log and position.
    pub found: Vec<Found>,
    /// All cursors that shards will go on from.
    pub cursors: BTreeMap<(GroupId, LogKey), Cursor>,
    /// Those of parked events.
    pub parked_cursors: BTreeMap<(GroupId, LogKey), Cursor>,
    /// All dead letters.
    pub letters: Vec<Letter>,
    /// All parked events, also those that are not owed any more; by generation, log and position.
    pub copies: Vec<ParkedCopy>,
    /// The end of each log.
    pub ends: BTreeMap<LogKey, Position>,
}

/// Reads everything.
///
/// # Errors
/// Something cannot be read, or is not as it was sent.
pub fn audit(
    shards: &mut [ShardLogs],
    disk: &SimDisk,
    ledger: &Ledger,
) -> Result<Audit, Violation> {
    let mut audit = Audit::default();
    for shard in shards.iter_mut() {
        for log in shard.older.iter_mut().chain([&mut shard.active]) {
            read_log(log, disk, ledger, &mut audit)?;
        }
        for log in shard.older.iter().chain([&shard.active]) {
            for group in ledger.groups.keys() {
                if let Some(cursor) = log.cursor(group.0) {
                    audit.cursors.insert((*group, log.key()), cursor.clone());
                }
                if let Some(cursor) = log.cursor(parked_number(*group)) {
                    audit.parked_cursors.insert((*group, log.key()), cursor.clone());
                }
            }
        }
    }
    audit.found.sort_unstable();
    audit.copies.sort_unstable_by_key(|copy| copy.at);
    Ok(audit)
}

fn read_log(
    log: &mut Log,
    disk: &SimDisk,
    ledger: &Ledger,
    audit: &mut Audit,
) -> Result<(), Violation> {
    const CHECK: &str = "readable";
    let (start, end) = (log.positions().start(), log.positions().end());
    let key = log.key();
    audit.ends.insert(key, end);
    let mut reader = Reader::new(start);
    let mut at_once = AtOnce::new(disk);
    let mut expected = start;
    loop {
        let step = log.read(&mut reader, end, &mut |_| true, &mut at_once);
        // What topics have let go is passed, and told.
        expected = expected.plus(reader.take_expired());
        match step {
            ReadStep::Batch(batch) => {
                let header = &batch.header;
                if header.base_position != expected {
                    violated!(CHECK, "{key}: {} follows {expected}", header.base_position);
                }
                expected = header.end_position();
                let Some(topic) = log.topic_name(header.topic) else {
                    violated!(CHECK, "{key}: topic {} has no name", header.topic);
                };
                match copies::read(ledger, &batch, topic, key)? {
                    Some(Copies::Letters(letters)) => {
                        audit.letters.extend(letters);
                        continue;
                    }
                    Some(Copies::Parked(parked)) => {
                        audit.copies.extend(parked);
                        continue;
                    }
                    None => {}
                }
                let id = ledger.identify(&batch, topic)?;
                let place = Place {
                    log: key,
                    base: header.base_position,
                    partition: header.partition,
                    offset: header.base_offset,
                    append_time: header.append_time,
                };
                audit.found.push(Found { place, id });
            }
            ReadStep::Pending => {
                let Some(done) = at_once.next_completion() else {
                    violated!(CHECK, "{key}: a read at {expected} waits for nothing");
                };
                log.on_completion(done.ticket, done.result, &mut at_once);
            }
            ReadStep::More => {}
            ReadStep::End if expected == end => {
                // What was read ahead must not stay in flight: the log is served after this.
                while let Some(done) = at_once.next_completion() {
                    log.on_completion(done.ticket, done.result, &mut at_once);
                }
                return Ok(());
            }
            step => violated!(CHECK, "{key}: {step:?} at {expected}, the end is {end}"),
        }
    }
}
