//! A shard driven through the native door: bytes in, answers out. Only sockets and disk are left out.

use std::io::IoSlice;

use codec::frame::{self, FRAME_HEADER_BYTES, Hello, Kind, TopicFrame};
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::{Partition, TopicId};
use dataplane::outbound::Outbound;
use dataplane::session::{Door, Feed, Session, SessionKey};
use doors::native::{NativeDoor, NativeOptions};

use crate::bed::{Bed, batches};

struct Client {
    key: SessionKey,
    session: Box<dyn Session>,
    out: Outbound,
    /// The frame that it publishes again and again.
    publish: Vec<u8>,
}

/// See the module. Its clients publish a batch at a time.
pub struct WireNode {
    bed: Bed,
    clients: Vec<Client>,
    dirty: Vec<SessionKey>,
    /// The sequence of the round before; `None`: batches have none.
    sequence: Option<u64>,
}

impl WireNode {
    /// A node whose clients have said hello. Each publishes `count` events of `bytes` bytes in a batch.
    pub fn open(clients: usize, count: u32, bytes: usize) -> Self {
        let bed = Bed::open(8 << 20);
        let mut node = WireNode { bed, clients: Vec::new(), dirty: Vec::new(), sequence: None };
        let door = NativeDoor::new(NativeOptions::default());
        for (index, batch) in batches(count, bytes).iter().cycle().take(clients).enumerate() {
            let key = node.bed.shard.open_session().expect("there is room for a session");
            let peer = "127.0.0.1:1".parse().expect("an address");
            let session = door.accept(key, peer, node.bed.now);
            let mut publish = Vec::new();
            frame::encode_plain(Kind::Publish, index as u64, batch, &mut publish);
            node.clients.push(Client { key, session, out: Outbound::default(), publish });
            let mut hello = Vec::new();
            Hello::new(&format!("publisher-{index}")).encode(&mut hello);
            TopicFrame { id: TopicId(1), name: "bench/topic" }.encode(&mut hello);
            node.feed(index, &hello);
            node.send(index);
        }
        node
    }

    /// The same, and each batch has a publisher id and a sequence.
    pub fn open_numbered(clients: usize, count: u32, bytes: usize) -> Self {
        WireNode { sequence: Some(0), ..Self::open(clients, count, bytes) }
    }

    /// Gives a client's frame its sequence, as the client does.
    fn number(&mut self, index: usize, sequence: u64) {
        let batch = &mut self.clients[index].publish[FRAME_HEADER_BYTES..];
        let head = batch.first_chunk_mut::<HEADER_BYTES>().expect("a batch starts with a header");
        let mut header = BatchHeader::decode(head, HeaderSeed::WIRE).expect("it was made here");
        if header.partition == Partition::ANY {
            header.partition = Partition(0);
        }
        (header.publisher_id, header.sequence) = (1 + index as u64, sequence);
        *head = header.encode(HeaderSeed::WIRE);
    }

    fn feed(&mut self, index: usize, bytes: &[u8]) {
        let Client { session, out, .. } = &mut self.clients[index];
        assert_eq!(session.on_bytes(bytes, &mut self.bed.shard, out), Feed::More);
    }

    /// Gives what is outbound to nobody. Returns how much that was.
    fn send(&mut self, index: usize) -> usize {
        let out = &mut self.clients[index].out;
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = out.fill(&mut slices);
        let bytes = slices[..filled].iter().map(|slice| slice.len()).sum();
        out.advance(bytes);
        bytes
    }

    /// Every client publishes one batch, and gets its answer.
    pub fn round(&mut self) {
        self.sequence = self.sequence.map(|sequence| sequence + 1);
        for index in 0..self.clients.len() {
            if let Some(sequence) = self.sequence {
                self.number(index, sequence);
            }
            let publish = std::mem::take(&mut self.clients[index].publish);
            self.feed(index, &publish);
            self.clients[index].publish = publish;
        }
        let mut owed = self.clients.len();
        while owed > 0 {
            self.bed.cycle();
            let mut dirty = std::mem::take(&mut self.dirty);
            self.bed.shard.take_dirty(&mut dirty);
            for key in dirty.drain(..) {
                let index = self.clients.iter().position(|client| client.key == key);
                let index = index.expect("only clients are dirty");
                while let Some(event) = self.bed.shard.next_event(key) {
                    let Client { session, out, .. } = &mut self.clients[index];
                    assert_eq!(session.on_event(event, &mut self.bed.shard, out), Feed::More);
                }
                assert!(self.send(index) > 0, "an answer was given");
                owed -= 1;
            }
            self.dirty = dirty;
        }
    }
}
