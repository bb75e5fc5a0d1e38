//! The order of generations: a group takes events of a log only when every log of an earlier generation, on whichever
//! shard it is, owes it nothing more. So the order of a key survives changes of the shard count.
//!
//! Each shard with logs of earlier generations says how far a group has come in them ([`Mail::OlderDone`]); nothing of
//! it is kept on disk, since after a restart the cursors say it again.

use codec::ids::Position;
use routing::subscription::GroupId;

use crate::mail::Mail;
use crate::shard::Shard;
use crate::shard::group::Place;

/// What a group waits for before it takes events of a generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Shards that may still owe something of an earlier generation than the active one, each with the oldest
    /// generation of which it may. Shards that owe nothing more are not in it.
    owing: Vec<(u16, u32)>,
    /// The oldest generation of which this shard may owe something, as all shards have been told.
    told: u32,
}

impl Gate {
    /// The shards whose bits are set in `owners` may owe something of any generation.
    pub fn new(owners: u64) -> Self {
        let owning = (0..u64::BITS as u16).filter(|shard| owners & (1 << shard) != 0);
        Gate { owing: owning.map(|shard| (shard, 0)).collect(), told: 0 }
    }

    /// Whether events of logs of `generation` may be taken.
    pub fn is_open(&self, generation: u32) -> bool {
        self.owing.iter().all(|(_, oldest)| *oldest >= generation)
    }

    /// Whether nothing of any generation before the active one is owed.
    pub fn is_wide_open(&self) -> bool {
        self.owing.is_empty()
    }

    /// A shard owes nothing of generations below `oldest` any more; `active` is the generation that takes events.
    fn passed(&mut self, shard: u16, oldest: u32, active: u32) {
        let Some(index) = self.owing.iter().position(|(owes, _)| *owes == shard) else { return };
        let known = &mut self.owing[index].1;
        assert!(*known <= oldest, "what is done with does not come back");
        assert!(oldest <= active, "no shard is past the generation that takes events");
        *known = oldest;
        if oldest >= active {
            self.owing.swap_remove(index);
        }
    }
}

/// What other shards have said about a group that this one does not know yet.
#[derive(Debug)]
pub struct EarlyDone {
    /// The sender's routing version: when this shard has adopted it and still does not know the group, it has ended.
    version: u64,
    said: Vec<(u16, u32)>,
}

impl Shard {
    pub(super) fn on_older_done(&mut self, from: u16, id: GroupId, oldest: u32, version: u64) {
        let active = self.active().key().generation;
        if let Some(group) = self.groups.get_mut(&id) {
            group.gate.passed(from, oldest, active);
            self.wake_lagging(id);
            self.note_advanced(id);
        } else if version > self.snapshot.version() {
            let known = self.early_older_done.entry(id);
            let early = known.or_insert(EarlyDone { version, said: Vec::new() });
            early.version = early.version.max(version);
            early.said.push((from, oldest));
        }
    }

    /// The gate of a group that this shard learns of.
    pub(super) fn new_gate(&mut self, id: GroupId) -> Gate {
        let active = self.active().key().generation;
        let mut gate = Gate::new(self.options.older_owners);
        let early = self.early_older_done.remove(&id);
        for (shard, oldest) in early.into_iter().flat_map(|early| early.said) {
            gate.passed(shard, oldest, active);
        }
        gate
    }

    /// Forgets what was said about groups that this shard will never know.
    pub(super) fn forget_early(&mut self) {
        let version = self.snapshot.version();
        self.early_older_done.retain(|_, early| early.version > version);
    }

    /// When a group is through with older logs of this shard, every shard is told.
    pub(super) fn tell_older_done(&mut self, id: GroupId) {
        let active = self.active().key().generation;
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.gate.told >= active || self.logs.len() == 1 {
            return;
        }
        let is_done = |place: &Place, end: Position| {
            place.log.is_empty() && place.parked.is_known() && place.next() >= end
        };
        let open = self.logs.iter().zip(&group.places).find(|(log, place)| {
            log.key().generation < active && !is_done(place, log.positions().end())
        });
        let oldest = open.map_or(active, |(log, _)| log.key().generation);
        assert!(oldest >= group.gate.told, "what is done with does not come back");
        if oldest == group.gate.told {
            return;
        }
        group.gate.told = oldest;
        let (from, version) = (self.options.index, self.snapshot.version());
        for shard in 0..self.options.shards {
            self.post(shard, Mail::OlderDone { from, group: id, oldest, version });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event of a newer log that passes one of an older log breaks the order of its key for ever.
    #[test]
    fn opens_generation_by_generation() {
        let mut gate = Gate::new(0b101);
        assert!(gate.is_open(0) && !gate.is_open(1));
        gate.passed(0, 2, 4);
        assert!(!gate.is_open(1), "shard 2 may owe something of generation 0");
        gate.passed(2, 1, 4);
        assert!(gate.is_open(1) && !gate.is_open(2));
        gate.passed(2, 4, 4);
        assert!(gate.is_open(2) && !gate.is_open(3) && !gate.is_wide_open());
        gate.passed(0, 4, 4);
        assert!(gate.is_wide_open() && gate.is_open(4));
        assert!(Gate::new(0).is_wide_open(), "one generation waits for nothing");
    }
}
