//! Publisher id and sequences: what a batch is known by, however often it is sent.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::Partition;

/// The identity of one client as a publisher, for its whole life.
#[derive(Debug)]
pub(crate) struct Sequences {
    publisher_id: u64,
    /// Where events without a key go: near the connection that there is now.
    unkeyed: Partition,
    newest: HashMap<Partition, u64>,
}

impl Sequences {
    /// A publisher that has sent nothing, under an id that no other has.
    pub(crate) fn new(unkeyed: Partition) -> Self {
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
        // The keys of a `RandomState` come from the system.
        let publisher_id = RandomState::new().hash_one((std::process::id(), now)).max(1);
        Sequences { publisher_id, unkeyed, newest: HashMap::new() }
    }

    /// Another connection has begun. What was sent before keeps its partition.
    pub(crate) fn connected(&mut self, unkeyed: Partition) {
        self.unkeyed = unkeyed;
    }

    /// Gives a batch its place in the order of its partition. One that has an identity of its own keeps it.
    pub(crate) fn stamp(&mut self, batch: &mut [u8]) {
        let head = batch.first_chunk_mut::<HEADER_BYTES>().expect("a batch starts with a header");
        let mut header = BatchHeader::decode(head, HeaderSeed::WIRE).expect("it was made here");
        if header.publisher_id != 0 {
            return;
        }
        if header.partition == Partition::ANY {
            header.partition = self.unkeyed;
        }
        let newest = self.newest.entry(header.partition).or_default();
        *newest += 1;
        (header.publisher_id, header.sequence) = (self.publisher_id, *newest);
        *head = header.encode(HeaderSeed::WIRE);
    }
}

#[cfg(test)]
mod tests {
    use codec::ids::TopicId;

    use super::*;

    fn batch(partition: Partition) -> Vec<u8> {
        let header = BatchHeader::unstamped(TopicId(1), partition, b"body", 1);
        header.encode(HeaderSeed::WIRE).to_vec()
    }

    fn stamped(sequences: &mut Sequences, partition: Partition) -> (u64, u16, u64) {
        let mut bytes = batch(partition);
        sequences.stamp(&mut bytes);
        let head = bytes.first_chunk::<HEADER_BYTES>().unwrap();
        let header = BatchHeader::decode(head, HeaderSeed::WIRE).unwrap();
        (header.publisher_id, header.partition.0, header.sequence)
    }

    /// A sequence that is given twice makes the server take one batch for another, and lose it.
    #[test]
    fn sequences_rise_in_each_partition() {
        let mut sequences = Sequences::new(Partition(9));
        let id = sequences.publisher_id;
        assert_eq!(stamped(&mut sequences, Partition(3)), (id, 3, 1));
        assert_eq!(stamped(&mut sequences, Partition(9)), (id, 9, 1));
        assert_eq!(stamped(&mut sequences, Partition::ANY), (id, 9, 2), "one count a partition");
        sequences.connected(Partition(4));
        assert_eq!(stamped(&mut sequences, Partition::ANY), (id, 4, 1), "near the new connection");
        assert_eq!(stamped(&mut sequences, Partition(3)), (id, 3, 2));
    }

    /// Two clients with one id would answer each other's batches.
    #[test]
    fn publishers_have_ids_of_their_own() {
        let ids: std::collections::BTreeSet<u64> =
            (0..1_000).map(|_| Sequences::new(Partition(0)).publisher_id).collect();
        assert_eq!((ids.len(), ids.contains(&0)), (1_000, false));
    }
}
