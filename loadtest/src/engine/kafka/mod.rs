//! Kafka as a driver, over its own protocol.
//!
//! Not through librdkafka or the Java client: over the same sockets and on the same thread as the other drivers, so that
//! the clients cost alike. It does what those clients do where it matters to the broker: at most
//! [`REQUESTS_MAX`] requests without an answer on a connection; what has to wait is put together by partition into one
//! request (that is librdkafka with `linger.ms=0`); `acks=all`; keys choose partitions by murmur2; a subscriber
//! fetches with a session. Groups read by assignment and commit no offsets, which spares the broker that work.

mod records;
mod setup;
mod subscriber;
mod wire;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use codec::ids::Partition;

use super::Load;
use super::driver::{Arrival, Outgoing, STAMP_NONE, What};
use super::payloads::Payloads;
use super::socket::Socket;
use super::sockets::{Link, Sockets};
use super::template::keys_by_partition;
use records::BatchWriter;
use setup::Control;
use subscriber::Subscriber;
use wire::{Answer, Api, Request};

/// Produce requests of a connection without an answer (`max.in.flight.requests.per.connection`).
const REQUESTS_MAX: usize = 5;
/// Bytes of data that are put together for one request (librdkafka's `batch.size`).
const REQUEST_BYTES_MAX: usize = 1_000_000;
/// Batches of a publisher without an ack, in requests or waiting for one.
const WINDOW_MAX: u32 = 65_536;
/// How long the broker may wait for its own replicas; there are none.
const PRODUCE_TIMEOUT_MS: i32 = 30_000;

/// What a connection is for.
enum Role {
    Publisher(Publisher),
    Subscriber(Subscriber),
    Idle,
}

/// One connection to a Kafka broker.
pub(crate) struct KafkaLink {
    socket: Socket,
    role: Role,
}

/// Makes the topics, and connects everybody.
pub(crate) fn connect(load: &Load) -> anyhow::Result<Sockets<KafkaLink>> {
    let mut control = Control::open(load)?;
    let names: Vec<String> = (0..load.topics).map(|topic| topic_name(&load.topic(topic))).collect();
    control.make_topics(&names, load.partitions)?;
    let says = control.flush_policy(&names[0])?;
    let tail = control.offsets(&names, load.partitions, setup::LATEST)?;
    let mut subscribers = Vec::new();
    for index in 0..load.subscribers {
        let (group, member) = (index % load.groups, index / load.groups);
        let members = (load.subscribers - group).div_ceil(load.groups);
        let own = tail.iter().skip(member as usize).step_by(members as usize).cloned();
        subscribers.push(KafkaLink::subscriber(load, Subscriber::new(group, own.collect()))?);
    }
    if load.behind {
        let start = control.offsets(&names, load.partitions, setup::EARLIEST)?;
        subscribers.push(KafkaLink::subscriber(load, Subscriber::new(load.groups, start))?);
    }
    let payloads = Rc::new(Payloads::new(load.shape.data_bytes));
    let keys = Rc::new(keys_by_partition(load.shape.keys, load.partitions as u16));
    let mut links = Vec::new();
    for index in 0..load.publishers {
        let topics = load.topics_of(index).iter().map(|name| topic_name(name)).collect();
        let role = Role::Publisher(Publisher {
            index: index as usize,
            topics,
            partitions: load.partitions,
            keys: keys.clone(),
            payloads: payloads.clone(),
            batch: load.shape.batch,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_request: 0,
        });
        links.push(KafkaLink { socket: setup::open(load)?, role });
    }
    links.append(&mut subscribers);
    for _ in 0..load.idle {
        links.push(KafkaLink { socket: setup::open(load)?, role: Role::Idle });
    }
    let mut sockets = Sockets::new(links, load.publishers as usize, WINDOW_MAX)?;
    sockets.server_said(says);
    sockets.note(&format!(
        "Kafka: raw protocol, linger 0, acks=all, at most {REQUESTS_MAX} requests in flight of a connection, not \
         idempotent; groups by assignment, no offset commits"
    ));
    Ok(sockets)
}

/// Kafka's names hold no slash.
fn topic_name(name: &str) -> String {
    name.replace('/', ".")
}

impl KafkaLink {
    fn subscriber(load: &Load, mut subscriber: Subscriber) -> anyhow::Result<Self> {
        let mut socket = setup::open(load)?;
        subscriber.fetch(&mut socket.out);
        socket.flush().context("cannot write to the Kafka broker")?;
        Ok(KafkaLink { socket, role: Role::Subscriber(subscriber) })
    }
}

impl Link for KafkaLink {
    fn stream(&self) -> &TcpStream {
        self.socket.stream()
    }

    fn is_blocked(&self) -> bool {
        self.socket.blocked
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Role::Publisher(publisher) = &mut self.role {
            publisher.request(&mut self.socket.out);
        }
        self.socket.flush()
    }

    fn publish(&mut self, batch: Outgoing) {
        let Role::Publisher(publisher) = &mut self.role else {
            unreachable!("the engine publishes on publishers only");
        };
        publisher.waiting.push_back(batch);
    }

    fn receive(&mut self, scratch: &mut [u8], arrivals: &mut Vec<Arrival>) -> anyhow::Result<bool> {
        let at = Instant::now();
        let KafkaLink { socket, role } = self;
        socket.receive(scratch, |bytes, out| {
            let mut used = 0;
            while let Some((number, answer, consumed)) = Answer::parse(&bytes[used..])? {
                used += consumed;
                let tell = |what| arrivals.push(Arrival { at, what });
                match role {
                    Role::Publisher(publisher) => publisher.on_answer(number, answer, tell)?,
                    Role::Subscriber(subscriber) => {
                        subscriber.on_answer(answer, tell)?;
                        subscriber.fetch(out);
                    }
                    Role::Idle => bail!("an answer came to a connection that asked nothing"),
                }
            }
            Ok(used)
        })
    }

    fn ping(&mut self) {
        // A broker closes what is silent for ten minutes, and no run is that long.
    }

    fn leave(&mut self) {
        // Kafka's protocol has no goodbye.
    }
}

/// A publisher's batches on their way.
struct Publisher {
    index: usize,
    topics: Vec<String>,
    partitions: u32,
    /// By partition, those with keys; empty when events carry none.
    keys: Rc<Vec<(Partition, Vec<String>)>>,
    payloads: Rc<Payloads>,
    batch: u32,
    /// Batches for which no request has been made.
    waiting: VecDeque<Outgoing>,
    /// Requests without an answer, in order: a broker answers a connection in order.
    in_flight: VecDeque<Sent>,
    next_request: i32,
}

/// One request.
struct Sent {
    number: i32,
    parts: Vec<Part>,
}

/// What goes into one partition with one request: one record batch.
struct Part {
    topic: usize,
    partition: u32,
    batches: Vec<Outgoing>,
}

impl Publisher {
    /// Makes requests of what waits, as far as there may be more without an answer.
    fn request(&mut self, out: &mut Vec<u8>) {
        while self.in_flight.len() < REQUESTS_MAX && !self.waiting.is_empty() {
            let parts = self.gather();
            let number = self.next_request;
            self.next_request = self.next_request.wrapping_add(1);
            self.encode(number, &parts, out);
            self.in_flight.push_back(Sent { number, parts });
        }
        assert!(self.in_flight.len() <= REQUESTS_MAX, "the broker is asked in measure");
    }

    /// The batches of the next request, by topic and partition.
    fn gather(&mut self) -> Vec<Part> {
        let batch_bytes = self.batch as usize * (self.payloads.data_bytes() + 16);
        let (mut parts, mut bytes): (Vec<Part>, usize) = (Vec::new(), 0);
        while let Some(&batch) = self.waiting.front() {
            if bytes > 0 && bytes + batch_bytes > REQUEST_BYTES_MAX {
                break;
            }
            bytes += batch_bytes;
            self.waiting.pop_front();
            let topic = (batch.number % self.topics.len() as u64) as usize;
            let partition = self.partition(batch.number);
            let same = |part: &&mut Part| part.topic == topic && part.partition == partition;
            match parts.iter_mut().find(same) {
                Some(part) => part.batches.push(batch),
                None => parts.push(Part { topic, partition, batches: vec![batch] }),
            }
        }
        parts.sort_by_key(|part| part.topic);
        parts
    }

    /// A batch's events all go to one partition: its keys are chosen so, as the drivers for the others do.
    fn partition(&self, number: u64) -> u32 {
        match self.keys.len() as u64 {
            0 => (number % u64::from(self.partitions)) as u32,
            count => u32::from(self.keys[(number % count) as usize].0.0),
        }
    }

    fn encode(&self, number: i32, parts: &[Part], out: &mut Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_ms = now.as_millis() as i64;
        let mut request = Request::start(Api::Produce, number, out);
        request.text(None).i16(-1).i32(PRODUCE_TIMEOUT_MS);
        let topics: Vec<&[Part]> = parts.chunk_by(|a, b| a.topic == b.topic).collect();
        request.i32(topics.len() as i32);
        for parts in topics {
            request.text(Some(&self.topics[parts[0].topic])).i32(parts.len() as i32);
            for part in parts {
                request.i32(part.partition as i32);
                request.bytes(|out| self.encode_records(part, now_ms, out));
            }
        }
        request.finish();
    }

    fn encode_records(&self, part: &Part, now_ms: i64, out: &mut Vec<u8>) {
        let mut writer = BatchWriter::start(now_ms, out);
        let length = self.payloads.data_bytes();
        for batch in &part.batches {
            let keys = match self.keys.len() as u64 {
                0 => None,
                count => Some(&self.keys[(batch.number % count) as usize].1),
            };
            for event in 0..u64::from(self.batch) {
                let number = batch.number + event;
                let key = keys.map(|keys| keys[(number % keys.len() as u64) as usize].as_bytes());
                let is_last = event + 1 == u64::from(self.batch);
                let stamp_ns =
                    if is_last { batch.stamp_ns } else { batch.stamp_ns.max(STAMP_NONE) };
                writer.push(key, length, |out| self.payloads.append(number, stamp_ns, out), out);
            }
        }
        writer.finish(out);
    }

    fn on_answer(
        &mut self,
        number: i32,
        mut answer: Answer<'_>,
        mut tell: impl FnMut(What),
    ) -> anyhow::Result<()> {
        let sent = self.in_flight.pop_front().context("an answer came to no request")?;
        if sent.number != number {
            bail!("the answer to request {} came before that to {}", number, sent.number);
        }
        let mut answered = 0;
        for _ in 0..answer.count()? {
            let topic = answer.text()?;
            for _ in 0..answer.count()? {
                let (partition, error) = (answer.i32()?, answer.i16()?);
                let (_base_offset, _time, _log_start) =
                    (answer.i64()?, answer.i64()?, answer.i64()?);
                let is_same = |part: &&Part| {
                    part.partition as i32 == partition && self.topics[part.topic] == topic
                };
                let part = sent.parts.iter().find(is_same).context("nobody published there")?;
                answered += 1;
                for batch in &part.batches {
                    let (publisher, slot) = (self.index, batch.slot);
                    tell(match error {
                        0 => What::Acked { publisher, slot, events: self.batch },
                        _ => What::Refused { publisher, slot, text: kafka_error(error) },
                    });
                }
            }
        }
        if answered != sent.parts.len() {
            bail!("{answered} of {} partitions were answered", sent.parts.len());
        }
        Ok(())
    }
}

/// A broker's error in words, for those that a load meets.
fn kafka_error(code: i16) -> String {
    let name = match code {
        3 => "no such topic or partition",
        5 | 6 => "not the leader",
        7 => "timed out",
        10 => "message too large",
        38 => "no broker is ready for a replica",
        56 => "storage error",
        _ => "see Kafka's protocol",
    };
    format!("Kafka error {code}: {name}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publisher() -> Publisher {
        Publisher {
            index: 3,
            topics: vec!["loadtest.0".into(), "loadtest.1".into()],
            partitions: 4,
            keys: Rc::new(keys_by_partition(100, 4)),
            payloads: Rc::new(Payloads::new(100)),
            batch: 2,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_request: 0,
        }
    }

    /// What waits must go together and none be left out, and no more requests be made than Kafka's clients make: either
    /// would measure another load than a Kafka client's.
    #[test]
    fn what_waits_goes_with_the_next_request_and_is_answered_by_partition() {
        let mut publisher = publisher();
        let mut out = Vec::new();
        let batch = |number: u64| Outgoing { slot: number as u32, number, stamp_ns: number };
        for number in 0..5 {
            publisher.waiting.push_back(batch(number));
            publisher.request(&mut out);
        }
        let sent = out.len();
        for number in 5..25 {
            publisher.waiting.push_back(batch(number));
            publisher.request(&mut out);
        }
        assert_eq!((publisher.in_flight.len(), publisher.waiting.len()), (REQUESTS_MAX, 20));
        assert_eq!(out.len(), sent, "a sixth request was made");
        let mut acked = Vec::new();
        for number in 0..6 {
            let answer = answer_to(&publisher, number);
            let (found, parsed, _) = Answer::parse(&answer).unwrap().unwrap();
            publisher
                .on_answer(found, parsed, |what| match what {
                    What::Acked { publisher: 3, slot, events: 2 } => acked.push(slot),
                    other => panic!("{other:?}"),
                })
                .unwrap();
            publisher.request(&mut out);
        }
        assert!(publisher.in_flight.is_empty() && publisher.waiting.is_empty());
        acked.sort_unstable();
        assert_eq!(acked, (0..25).collect::<Vec<u32>>());
    }

    /// A broker's good answer to the oldest request.
    fn answer_to(publisher: &Publisher, number: i32) -> Vec<u8> {
        let parts = &publisher.in_flight.front().unwrap().parts;
        let mut body = number.to_be_bytes().to_vec();
        let topics: Vec<&[Part]> = parts.chunk_by(|a, b| a.topic == b.topic).collect();
        body.extend_from_slice(&(topics.len() as i32).to_be_bytes());
        for parts in topics {
            let name = &publisher.topics[parts[0].topic];
            body.extend_from_slice(&(name.len() as i16).to_be_bytes());
            body.extend_from_slice(name.as_bytes());
            body.extend_from_slice(&(parts.len() as i32).to_be_bytes());
            for part in parts {
                body.extend_from_slice(&(part.partition as i32).to_be_bytes());
                body.extend_from_slice(&[0; 2 + 3 * 8]);
            }
        }
        [&(body.len() as i32).to_be_bytes()[..], &body].concat()
    }
}
