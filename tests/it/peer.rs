//! A client that speaks the native protocol frame by frame, and may do so badly.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::frame::{
    self, Frame, Hello, Kind, Parsed, Subscribe, TopicFrame, WireMode, WireStart, encode_header,
};
use codec::ids::{Partition, TopicId};

use crate::harness::Server;

/// The topic number that these clients use.
pub const TOPIC: TopicId = TopicId(1);

/// One connection.
pub struct Peer {
    pub stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    /// A connection on which nothing was said.
    pub fn connect(server: &Server) -> Peer {
        let stream = server.connect();
        stream.set_nodelay(true).expect("it is a socket");
        Peer { stream, input: Vec::new() }
    }

    /// One that has said hello and was welcomed.
    pub fn open(server: &Server, client_id: &str) -> Peer {
        let mut peer = Peer::connect(server);
        peer.send(&hello(client_id));
        let welcome = peer.next().expect("the server answers");
        assert!(matches!(frame_of(&welcome), (_, Frame::Welcome(_))), "{welcome:?}");
        peer
    }

    /// Sends bytes. The server may have closed already: then they are lost.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next whole frame, `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match frame::parse(&self.input).expect("the server sends whole frames") {
                Parsed::Frame { consumed, .. } => {
                    return Some(self.input.drain(..consumed).collect());
                }
                Parsed::Incomplete { .. } => {
                    let mut bytes = [0; 65_536];
                    match self.stream.read(&mut bytes) {
                        Ok(0) => return None,
                        Ok(read) => self.input.extend_from_slice(&bytes[..read]),
                        Err(error) => {
                            // A reset after bytes that nobody read is an end too; a time-out is none.
                            let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
                            assert!(reset, "the server says nothing: {error}");
                            return None;
                        }
                    }
                }
            }
        }
    }

    /// Says that nothing more comes, and takes all that the server still says.
    pub fn rest(mut self) -> Vec<Vec<u8>> {
        let _ = self.stream.shutdown(Shutdown::Write);
        std::iter::from_fn(|| self.next()).collect()
    }
}

/// A frame that was received, read again: its request and what it says.
pub fn frame_of(bytes: &[u8]) -> (u64, Frame<'_>) {
    match frame::parse(bytes) {
        Ok(Parsed::Frame { request, frame, .. }) => (request, frame),
        other => panic!("{other:?} of {bytes:?}"),
    }
}

pub fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    bytes
}

pub fn hello(client_id: &str) -> Vec<u8> {
    encoded(|out| Hello::new(client_id).encode(out))
}

/// Announces [`TOPIC`].
pub fn topic(name: &str) -> Vec<u8> {
    encoded(|out| TopicFrame { id: TOPIC, name }.encode(out))
}

/// One event to [`TOPIC`], in whatever partition.
pub fn publish(request: u64, data: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(&mut []).expect("no attributes");
    builder.push(&mut [], DataKind::Binary, data).expect("it fits");
    let batch = builder.finish(TOPIC, Partition::ANY);
    encoded(|out| {
        encode_header(Kind::Publish, request, batch.len(), out);
        out.extend_from_slice(&batch);
    })
}

/// A clustering subscription from the tail, as number 7.
pub fn subscribe(group: Option<&str>, filter: &str, credit: u32) -> Vec<u8> {
    let (mode, start) = (WireMode::Clustering, WireStart::Default);
    encoded(|out| Subscribe { group, filter, mode, start, credit }.encode(7, out))
}

pub fn ping(request: u64) -> Vec<u8> {
    encoded(|out| frame::encode_plain(Kind::Ping, request, &request.to_le_bytes(), out))
}
