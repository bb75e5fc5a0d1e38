//! A shard driven through the http door: bytes in, answers out. Only sockets and disk are left out.

use std::io::IoSlice;

use dataplane::outbound::Outbound;
use dataplane::session::{Door, Feed, Session, SessionKey};
use doors::http::{HttpDoor, HttpOptions};

use crate::bed::Bed;

/// Data of an event: a string of JSON.
const DATA: &str = "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\
    0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\"";
const _: () = assert!(DATA.len() == 256);

struct Client {
    key: SessionKey,
    session: Box<dyn Session>,
    out: Outbound,
    /// The request that it sends again and again.
    request: Vec<u8>,
}

/// See the module. Its clients have a request on the way at a time.
pub struct HttpNode {
    bed: Bed,
    clients: Vec<Client>,
    dirty: Vec<SessionKey>,
}

impl HttpNode {
    /// A node whose clients publish events of 256 bytes: one in binary mode, or more in a batch in JSON.
    pub fn open(clients: usize, count: u32) -> Self {
        let mut bed = Bed::open(8 << 20);
        let door = HttpDoor::new(HttpOptions::default());
        let client = |index: usize| {
            let key = bed.shard.open_session().expect("there is room for a session");
            let peer = "127.0.0.1:1".parse().expect("an address");
            let session = door.accept(key, peer, bed.now);
            let request = if count == 1 { single(index) } else { batch(index, count) };
            Client { key, session, out: Outbound::default(), request }
        };
        let clients = (0..clients).map(client).collect();
        HttpNode { bed, clients, dirty: Vec::new() }
    }

    /// Gives what is outbound to nobody. Whether it was an answer.
    fn send(&mut self, index: usize) -> bool {
        let out = &mut self.clients[index].out;
        let mut slices = [IoSlice::new(&[]); 16];
        let filled = out.fill(&mut slices);
        let bytes = slices[..filled].iter().map(|slice| slice.len()).sum();
        if bytes > 0 {
            assert!(slices[0].starts_with(b"HTTP/1.1 202 "), "what was sent is taken");
        }
        out.advance(bytes);
        bytes > 0
    }

    /// Every client sends its request, and gets its answer.
    pub fn round(&mut self) {
        for Client { session, out, request, .. } in &mut self.clients {
            assert_eq!(session.on_bytes(request, &mut self.bed.shard, out), Feed::More);
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
                owed -= usize::from(self.send(index));
            }
            self.dirty = dirty;
        }
    }
}

fn single(index: usize) -> Vec<u8> {
    let length = DATA.len();
    format!(
        "POST /topics/bench/topic HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\nce-specversion: 1.0\r\nce-source: /bench\r\nce-type: com.example.load\r\n\
         ce-id: 0000000000000001\r\nce-partitionkey: key-{index}\r\n\r\n{DATA}"
    )
    .into_bytes()
}

/// The keys are those of many partitions, as with clients that do not know them.
fn batch(index: usize, count: u32) -> Vec<u8> {
    let event = |event: u32| {
        let key = index as u32 * count + event;
        format!(
            r#"{{"specversion":"1.0","source":"/bench","type":"com.example.load","id":"{event}","partitionkey":"key-{key}","data":{DATA}}}"#
        )
    };
    let body = (0..count).map(event).collect::<Vec<_>>().join(",");
    let length = body.len() + 2;
    format!(
        "POST /topics/bench/topic HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/cloudevents-batch+json\r\ncontent-length: {length}\r\n\r\n[{body}]"
    )
    .into_bytes()
}
