//! What a shard appends for itself: dead letters, and letters that are redriven. They go the way of every publish, to the
//! shard that owns their partition, but are done only when they are durable, whatever the ack level: something is
//! settled for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::batch::Batch;
use codec::header::HeaderSeed;
use codec::ids::Position;
use codec::refusal::Refusal;
use log::batch::NoAppend;
use routing::subscription::GroupId;

use crate::session::SessionKey;
use crate::shard::Shard;

/// Errands that one shard may have under way. Bounds the bookkeeping.
const ERRANDS_MAX: usize = 1_024;
/// Stands for the shard itself where a publish names its session. No session has this slot.
pub(super) const OWN: SessionKey = SessionKey { slot: u32::MAX, life: u32::MAX };

/// What an append was made for.
#[derive(Debug)]
pub(super) enum Errand {
    /// Dead letters of a group: their originals are settled.
    Burial {
        /// Whose.
        group: GroupId,
        /// Index of the log that the originals stand in.
        log: usize,
        /// The batch they are of.
        base: Position,
    },
    /// Copies of parked events of a group: their originals are settled, and the copies owed.
    Parking {
        /// Whose.
        group: GroupId,
        /// Index of the log that the originals stand in, and the copies.
        log: usize,
        /// The batch they are of.
        base: Position,
    },
    /// Letters that were redriven: they are taken out of the dead letters.
    Redrive,
}

/// The errands under way.
#[derive(Debug, Default)]
pub(super) struct Errands {
    under_way: BTreeMap<u64, Errand>,
    last: u64,
}

impl Errands {
    /// The number of the next errand.
    pub(super) fn next(&self) -> u64 {
        self.last + 1
    }

    /// Whether another may be begun.
    pub(super) fn has_room(&self) -> bool {
        self.under_way.len() < ERRANDS_MAX
    }

    fn begin(&mut self, errand: Errand) {
        assert!(self.has_room(), "errands are bounded");
        self.last += 1;
        self.under_way.insert(self.last, errand);
    }
}

impl Shard {
    /// Appends a batch of the shard's own making as errand number [`Errands::next`].
    pub(super) fn append_own(
        &mut self,
        topic: &Arc<str>,
        bytes: &[u8],
        errand: Errand,
    ) -> Result<(), NoAppend> {
        if self.draining || !self.errands.has_room() {
            return Err(NoAppend::NoRoom);
        }
        let batch = Batch::parse(bytes, HeaderSeed::WIRE).expect("it was just built");
        self.publish_own(self.errands.next(), topic, &batch)?;
        self.errands.begin(errand);
        Ok(())
    }

    /// An errand's batch is durable, or has come to nothing. `at`: its first event's position, if its log is here.
    pub(super) fn errand_done(
        &mut self,
        number: u64,
        refusal: Option<Refusal>,
        at: Option<Position>,
    ) {
        let errand = self.errands.under_way.remove(&number).expect("an errand is answered once");
        match errand {
            Errand::Burial { group, log, base } => {
                self.burial_done((group, log, base), number, refusal);
            }
            Errand::Parking { group, log, base } => {
                let copy = if refusal.is_none() { at } else { None };
                self.parking_done((group, log, base), number, copy);
            }
            Errand::Redrive => self.redrive_done(number, refusal),
        }
    }
}
