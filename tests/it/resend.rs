//! A batch whose answer was lost is sent again, and stands in the log once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::frame::{FEATURE_SEQUENCES, Frame, Hello, Kind, encode_header};
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::Partition;
use codec::murmur2::partition_of;
use codec::refusal::Code;
use ringmesh_client::{Ack, Client, ClientOptions, Event, PublishHandle};

use crate::durability::{Place, everything};
use crate::folder;
use crate::harness::{PATIENCE, Server};
use crate::peer::{Peer, TOPIC, encoded, frame_of, topic};

const PUBLISHER: u64 = 0xb0b5_0000_0000_0001;

/// One connection of a client that numbers its batches itself.
struct Publisher {
    peer: Peer,
    /// Where the server would have events without a key.
    near: Partition,
    requests: u64,
}

impl Publisher {
    fn connect(server: &Server) -> Publisher {
        let mut peer = Peer::connect(server);
        let hello = Hello { features: FEATURE_SEQUENCES, ..Hello::new("resender") };
        peer.send(&encoded(|out| hello.encode(out)));
        let welcome = peer.next().expect("the server answers");
        let (_, Frame::Welcome(welcome)) = frame_of(&welcome) else { panic!("{welcome:?}") };
        assert_eq!(welcome.features, FEATURE_SEQUENCES);
        peer.send(&topic("load/own"));
        Publisher { peer, near: Partition(welcome.partition), requests: 0 }
    }

    fn send(&mut self, partition: Partition, sequence: u64, data: &str) {
        let mut builder = BatchBuilder::new(&mut []).expect("no attributes");
        builder.push(&mut [], DataKind::Text, data.as_bytes()).expect("it fits");
        let mut batch = builder.finish(TOPIC, partition);
        let header = Batch::parse(&batch, HeaderSeed::WIRE).expect("made here").header;
        let header = BatchHeader { publisher_id: PUBLISHER, sequence, ..header };
        batch[..HEADER_BYTES].copy_from_slice(&header.encode(HeaderSeed::WIRE));
        self.requests += 1;
        let frame = encoded(|out| {
            encode_header(Kind::Publish, self.requests, batch.len(), out);
            out.extend_from_slice(&batch);
        });
        self.peer.send(&frame);
    }

    /// Sends a batch and tells its partition and offset, or the refusal's number.
    fn publish(&mut self, partition: Partition, sequence: u64, data: &str) -> Result<u64, u16> {
        self.send(partition, sequence, data);
        let answer = self.peer.next().expect("the server answers");
        match frame_of(&answer) {
            (_, Frame::Published(acks)) => {
                let acked: Vec<_> = acks.collect();
                assert_eq!((acked.len(), acked[0].request), (1, self.requests));
                assert_eq!((acked[0].partition, acked[0].topic), (partition, TOPIC));
                Ok(acked[0].base_offset.0)
            }
            (request, Frame::Refusal(refusal)) if request == self.requests => Err(refusal.code),
            other => panic!("{other:?}"),
        }
    }
}

/// A publisher that lost its connection, or its server, must be told the first place for all times, whichever shard
/// takes the partition and its connection next; and what it must not do must not be taken for a resend.
#[test]
fn a_resend_is_answered_with_its_first_place() {
    let folder = folder::new();
    let mut server = Server::start_with(folder.path(), &["--shards", "2"]);
    let first = Publisher::connect(&server).near;
    let places = BTreeSet::from([first, Partition(20), Partition(33)]);
    for (round, shards) in ["1", "4", "2", "2"].into_iter().enumerate() {
        let newest = 1 + round as u64;
        for partition in places.iter().copied() {
            for _ in 0..3 {
                let mut publisher = Publisher::connect(&server);
                for sequence in 1..=newest {
                    let data = format!("{partition} {sequence}");
                    let told = publisher.publish(partition, 10 * sequence, &data);
                    assert_eq!(told, Ok(sequence - 1), "round {round}, {data}");
                }
                let too_old = publisher.publish(partition, 10 * newest - 1, "a gap");
                assert_eq!(too_old, Err(Code::SequenceTooOld.number()));
                let reused = publisher.publish(partition, 10 * newest, "another body");
                assert_eq!(reused, Err(Code::SequenceReused.number()));
            }
        }
        server.kill();
        server = Server::start_with(folder.path(), &["--shards", shards]);
    }
    assert_eq!(everything(&server).len(), places.len() * 4, "each batch stands once");
}

/// The same sequence for the same body in another topic is a mistake of the publisher, and must not be acknowledged: the
/// event would be lost unseen.
#[test]
fn a_resend_to_another_topic_is_refused() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let mut publisher = Publisher::connect(&server);
    assert_eq!(publisher.publish(Partition(3), 1, "x"), Ok(0));
    for other in ["load/never", "load/other"] {
        publisher.peer.send(&topic(other));
        let told = publisher.publish(Partition(3), 1, "x");
        assert_eq!(told, Err(Code::SequenceReused.number()), "{other}");
        assert_eq!(publisher.publish(Partition(4), 1, "x").is_ok(), other == "load/never");
    }
}

const EVENTS: usize = 12_000;
const KILLS: usize = 4;

fn event(number: usize) -> (String, Event) {
    let event = Event::text("x".repeat(number % 200)).id(format!("event-{number}"));
    let event = event.source("/it").kind("it");
    let topic = format!("load/{}", number % 3);
    match number % 4 {
        0 | 1 => (topic, event),
        rest => (topic, event.attribute("partitionkey", format!("vin-{}", number % (7 * rest)))),
    }
}

/// Publishes all events, tells of each that is acknowledged, and returns where each was said to stand.
async fn publish_all(
    client: Client,
    progress: tokio::sync::mpsc::UnboundedSender<usize>,
) -> Vec<Ack> {
    let mut waiting: Vec<PublishHandle> = Vec::with_capacity(EVENTS);
    let (handles, mut answered) = tokio::sync::mpsc::unbounded_channel::<PublishHandle>();
    let answers = tokio::spawn(async move {
        let mut acks = Vec::with_capacity(EVENTS);
        while let Some(handle) = answered.recv().await {
            acks.push(handle.await.expect("every event is acknowledged in the end"));
            let _ = progress.send(acks.len());
        }
        acks
    });
    for number in 0..EVENTS {
        let (topic, event) = event(number);
        waiting.push(client.publish(&topic, &event).await.expect("the buffer has room in the end"));
        for handle in waiting.drain(..) {
            handles.send(handle).expect("the answers are awaited");
        }
    }
    drop(handles);
    answers.await.expect("it counts")
}

/// The promise as a user sees it: the server is killed again and again in the middle of publishing, comes back with
/// other shards, and every event stands exactly once, where its publisher was told.
#[test]
fn kills_double_nothing() {
    let folder = folder::new();
    let mut server = Server::start_with(folder.path(), &["--shards", "2"]);
    let address = server.address().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let acks = runtime.expect("a runtime starts").block_on(async {
        let mut options = ClientOptions::new(&address).client_id("resender");
        (options.batch_events, options.window_batches, options.buffer_bytes) = (3, 128, 64 << 10);
        options.reconnect_timeout = PATIENCE;
        let client = Client::connect(options).await.expect("the server is there");
        let (progress, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
        let publishing = tokio::spawn(publish_all(client.clone(), progress));
        for (kill, shards) in ["1", "4", "2", "1"].into_iter().enumerate() {
            let until = EVENTS * (kill + 1) / (KILLS + 1);
            while acknowledged.recv().await.expect("events are acknowledged") < until {}
            let (folder, address) = (folder.path().to_owned(), address.clone());
            server = tokio::task::spawn_blocking(move || {
                server.kill();
                Server::start_at(&folder, &address, &["--shards", shards])
            })
            .await
            .expect("the server starts again");
        }
        let acks = publishing.await.expect("all is published");
        client.close(Duration::from_secs(5)).await;
        (acks, server)
    });
    let (acks, server) = acks;
    let stored = everything(&server);
    let mut places: BTreeMap<String, Vec<&Place>> = BTreeMap::new();
    for (place, id) in &stored {
        places.entry(id.clone()).or_default().push(place);
    }
    for (number, ack) in acks.iter().enumerate() {
        let place = (ack.topic.to_string(), u64::from(ack.partition.0), ack.offset.0);
        let found = places.get(&format!("event-{number}")).cloned().unwrap_or_default();
        assert_eq!(found, [&place], "event {number} stands once, where it was told");
        let key = event(number).1.partition_key().map(str::to_owned);
        assert!(key.is_none_or(|key| partition_of(key.as_bytes(), 64) == ack.partition));
    }
    assert_eq!((acks.len(), stored.len()), (EVENTS, EVENTS));
    assert!(server.stop().success());
}
