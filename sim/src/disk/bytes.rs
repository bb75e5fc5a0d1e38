//! The bytes of one file: as they are read now, and as a power loss may leave them.

use std::collections::VecDeque;

use crate::random::Random;

/// What a disk writes as one: larger writes can be torn between two of these.
pub const SECTOR_BYTES: usize = 512;

/// A change that is not known to be durable, or that stands behind one that is not.
#[derive(Clone, Debug)]
struct Change {
    number: u64,
    kind: ChangeKind,
    /// Its end was seen: it survives.
    confirmed: bool,
}

#[derive(Clone, Debug)]
enum ChangeKind {
    Write { at: usize, bytes: Vec<u8> },
    SetLen(usize),
}

/// How much of what was not confirmed a power loss leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    All,
    /// Everything.
    Nothing,
    /// Each write by chance: all, nothing, or some sectors.
    Some,
}

/// What became of unconfirmed changes in a power loss.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fates {
    /// Gone.
    pub lost: u64,
    /// There as a whole.
    pub kept: u64,
    /// There in part.
    pub torn: u64,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub struct FileBytes {
    current: Vec<u8>,
    durable: Vec<u8>,
    pending: VecDeque<Change>,
    next_number: u64,
}

impl FileBytes {
    /// The bytes as they are read now.
    #[must_use]
    pub fn current(&self) -> &[u8] {
        &self.current
    }

    /// Writes; returns the change's number, to confirm it by.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> u64 {
        overwrite(&mut self.current, at, bytes);
        self.push(ChangeKind::Write { at, bytes: bytes.to_vec() })
    }

    /// Cuts or extends.
    pub fn set_len(&mut self, len: usize) {
        self.current.resize(len, 0);
        self.push(ChangeKind::SetLen(len));
    }

    /// Everything so far is durable.
    pub fn sync(&mut self) {
        for change in &mut self.pending {
            change.confirmed = true;
        }
        self.compact();
    }

    /// One change is durable.
    pub fn confirm(&mut self, number: u64) {
        if let Some(change) = self.pending.iter_mut().find(|change| change.number == number) {
            change.confirmed = true;
        }
        self.compact();
    }

    /// Bytes that are not durable.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// What is left after a power loss.
    pub fn lose_power(&mut self, loss: Loss, random: &mut Random) -> Fates {
        let mut fates = Fates::default();
        let mut left = std::mem::take(&mut self.durable);
        for change in std::mem::take(&mut self.pending) {
            let survives = change.confirmed || loss == Loss::Nothing;
            match change.kind {
                ChangeKind::SetLen(len)
                    if survives || (loss == Loss::Some && random.chance(500)) =>
                {
                    left.resize(len, 0);
                }
                ChangeKind::SetLen(_) => {}
                ChangeKind::Write { at, bytes } if change.confirmed => {
                    overwrite(&mut left, at, &bytes);
                }
                ChangeKind::Write { at, bytes } => {
                    leave_part(&mut left, (at, &bytes), loss, random, &mut fates);
                }
            }
        }
        self.current.clone_from(&left);
        self.durable = left;
        fates
    }

    fn push(&mut self, kind: ChangeKind) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.pending.push_back(Change { number, kind, confirmed: false });
        number
    }

    /// Applies confirmed changes at the front for good. One behind an unconfirmed change waits, so that the order of
    /// changes to the same bytes stays as it was.
    fn compact(&mut self) {
        while self.pending.front().is_some_and(|change| change.confirmed) {
            let change = self.pending.pop_front().expect("looked at just now");
            match change.kind {
                ChangeKind::Write { at, bytes } => overwrite(&mut self.durable, at, &bytes),
                ChangeKind::SetLen(len) => self.durable.resize(len, 0),
            }
        }
    }
}

/// Leaves of a write what chance leaves of it.
fn leave_part(
    left: &mut Vec<u8>,
    (at, bytes): (usize, &[u8]),
    loss: Loss,
    random: &mut Random,
    fates: &mut Fates,
) {
    let choice = match loss {
        Loss::All => 0,
        Loss::Nothing => 1,
        Loss::Some => random.below(4),
    };
    let sectors = bytes.len().div_ceil(SECTOR_BYTES);
    match choice {
        0 => fates.lost += 1,
        1 => {
            overwrite(left, at, bytes);
            fates.kept += 1;
        }
        // A prefix, and any combination: a disk with a cache of its own may keep either.
        _ => {
            let prefix = random.below(sectors as u64 + 1) as usize;
            for sector in 0..sectors {
                let keep = if choice == 2 { sector < prefix } else { random.chance(500) };
                if keep {
                    let from = sector * SECTOR_BYTES;
                    let to = bytes.len().min(from + SECTOR_BYTES);
                    overwrite(left, at + from, &bytes[from..to]);
                }
            }
            fates.torn += 1;
        }
    }
}

fn overwrite(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A simulator whose disk keeps what it should lose finds nothing: what was synced must stay, whatever follows, and
    /// what was not must be seen to go, to stay, and to tear between sectors but never within one.
    #[test]
    fn loses_only_what_was_not_confirmed() {
        let (mut lost, mut kept, mut torn) = (0, 0, 0);
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut file = FileBytes::default();
            file.write(0, &[1; 4096]);
            file.sync();
            let first = file.write(4096, &[2; 4096]);
            file.write(8192, &[3; 4096]);
            let last = file.write(0, &[4; 512]);
            file.confirm(last);
            if seed % 2 == 0 {
                file.confirm(first);
            }
            let fates = file.lose_power(Loss::Some, &mut random);
            lost += fates.lost;
            kept += fates.kept;
            torn += fates.torn;
            assert_eq!(&file.current()[..512], &[4; 512], "a confirmed write stays");
            assert_eq!(&file.current()[512..4096], &[1; 3584], "a synced write stays");
            if seed % 2 == 0 {
                assert_eq!(&file.current()[4096..8192], &[2; 4096], "confirmed, seed {seed}");
            }
            for sector in file.current().chunks(SECTOR_BYTES) {
                assert!(sector.iter().all(|byte| *byte == sector[0]), "torn within a sector");
            }
        }
        assert!(lost > 0 && kept > 0 && torn > 0, "{lost} lost, {kept} kept, {torn} torn");
    }
}
