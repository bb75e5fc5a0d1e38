//! NATS JetStream as a driver, over NATS' own text protocol.
//!
//! Not through a client library: over the same sockets and on the same thread as Ringmesh's driver, so that the two
//! clients cost alike and neither is the limit first. A batch is `batch` messages in one write, acknowledged when the
//! last of their acks has come: JetStream acknowledges each message. Events carry no key: a stream keeps the order of
//! all its events, and a key would only cost bytes.

use std::io::{self, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::Load;
use super::driver::{Arrival, Outgoing, STAMP_NONE, What};
use super::payloads::Payloads;
use super::socket::Socket;
use super::sockets::{Link, Sockets};

/// How long an answer to a request may take before the run gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The stream that holds every topic of a load.
const STREAM: &str = "LOADTEST";
/// Batches in flight of one publisher: JetStream itself names no limit.
const WINDOW_MAX: u32 = 65_536;
/// Bytes on their way to one subscriber. A server closes who has 64 MiB waiting (`max_pending`), and a push consumer sends all that it
/// may at once.
const PENDING_BYTES_MAX: usize = 16 << 20;
/// What a delivery has besides its data: subjects, and the reply that names stream and place.
const DELIVERY_HEAD_BYTES: usize = 200;
/// How long a message may stay without an ack before it is delivered again (JetStream's default).
const ACK_WAIT_NS: u64 = 30_000_000_000;

/// What a connection is for.
enum Role {
    Publisher {
        index: usize,
        subjects: Vec<String>,
        payloads: Rc<Payloads>,
        batch: u32,
        /// What is still to come, by slot.
        owed: Vec<Owed>,
    },
    Subscriber {
        group: u32,
    },
    Idle,
}

/// What one batch still waits for.
#[derive(Clone, Debug, Default)]
struct Owed {
    acks: u32,
    /// The server's words, if an event of it was refused.
    refusal: Option<String>,
}

/// One connection to a NATS server.
pub(crate) struct NatsLink {
    socket: Socket,
    role: Role,
}

/// Connects everybody, makes the stream and a durable push consumer with explicit acks for each group.
pub(crate) fn connect(load: &Load) -> anyhow::Result<Sockets<NatsLink>> {
    let mut control = NatsLink::open(load)?;
    let stream = format!(
        r#"{{"name":"{STREAM}","subjects":["loadtest.>"],"storage":"file","retention":"limits","num_replicas":1}}"#
    );
    control.ask(&format!("$JS.API.STREAM.CREATE.{STREAM}"), &stream)?;
    let mut subscribers = Vec::new();
    for index in 0..load.subscribers {
        subscribers.push(NatsLink::subscriber(load, index % load.groups)?);
    }
    let groups = if load.subscribers > 0 { load.groups } else { 0 };
    for group in 0..groups {
        control.make_consumer(load, group, "new")?;
    }
    if load.behind {
        subscribers.push(NatsLink::subscriber(load, load.groups)?);
        control.make_consumer(load, load.groups, "all")?;
    }
    let payloads = Rc::new(Payloads::new(load.shape.data_bytes));
    let mut links = Vec::new();
    for index in 0..load.publishers {
        links.push(NatsLink::publisher(load, index, &payloads)?);
    }
    links.append(&mut subscribers);
    for _ in 0..load.idle {
        links.push(NatsLink::open(load)?);
    }
    let mut sockets = Sockets::new(links, load.publishers as usize, WINDOW_MAX)?;
    sockets.note("NATS: raw protocol; each message acknowledged by itself; no keys");
    Ok(sockets)
}

impl NatsLink {
    fn open(load: &Load) -> anyhow::Result<Self> {
        let mut link =
            NatsLink { socket: Socket::open(load.server, ANSWER_TIMEOUT)?, role: Role::Idle };
        let hello = r#"CONNECT {"verbose":false,"pedantic":false,"lang":"loadtest","version":"1"}"#;
        link.send(&format!("{hello}\r\nPING\r\n"))?;
        link.wait_for("the connection", |message| {
            matches!(message, Message::Pong).then_some(Ok(()))
        })?;
        Ok(link)
    }

    fn publisher(load: &Load, index: u32, payloads: &Rc<Payloads>) -> anyhow::Result<Self> {
        let mut link = NatsLink::open(load)?;
        let subjects = load.topics_of(index).iter().map(|name| name.replace('/', ".")).collect();
        link.send(&format!("SUB _ACK.{index}.* 1\r\n"))?;
        link.role = Role::Publisher {
            index: index as usize,
            subjects,
            payloads: payloads.clone(),
            batch: load.shape.batch,
            owed: vec![Owed::default(); load.window.min(WINDOW_MAX) as usize],
        };
        Ok(link)
    }

    fn subscriber(load: &Load, group: u32) -> anyhow::Result<Self> {
        let mut link = NatsLink::open(load)?;
        let name = load.group_name(group);
        // The pong says that the server has the subscription, before the consumer is made that sends to it.
        link.send(&format!("SUB _DELIVER.{name} {name} 1\r\nPING\r\n"))?;
        link.wait_for("the subscription", |message| {
            matches!(message, Message::Pong).then_some(Ok(()))
        })?;
        link.role = Role::Subscriber { group };
        Ok(link)
    }

    fn make_consumer(&mut self, load: &Load, group: u32, policy: &str) -> anyhow::Result<()> {
        let name = load.group_name(group);
        let pending = PENDING_BYTES_MAX / (load.shape.data_bytes + DELIVERY_HEAD_BYTES);
        let config = serde_json::json!({
            "stream_name": STREAM,
            "config": {
                "name": name,
                "durable_name": name,
                "deliver_subject": format!("_DELIVER.{name}"),
                "deliver_group": name,
                "deliver_policy": policy,
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_NS,
                "max_ack_pending": pending.min(load.credit as usize),
            },
        });
        self.ask(&format!("$JS.API.CONSUMER.CREATE.{STREAM}.{name}"), &config.to_string())
    }

    fn send(&mut self, text: &str) -> anyhow::Result<()> {
        self.socket.out.extend_from_slice(text.as_bytes());
        self.socket.flush().context("cannot write to the NATS server")
    }

    /// One request of JetStream's API, before the socket is watched.
    fn ask(&mut self, subject: &str, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        self.send(&format!(
            "SUB _ASK 9\r\nUNSUB 9 1\r\nPUB {subject} _ASK {length}\r\n{body}\r\n"
        ))?;
        self.wait_for(subject, |message| {
            let Message::Data { subject: b"_ASK", payload, .. } = message else { return None };
            let answer = String::from_utf8_lossy(payload);
            let refused = answer.contains(r#""error":"#);
            Some(if refused { Err(answer.into_owned()) } else { Ok(()) })
        })
    }

    fn wait_for(
        &mut self,
        what: &str,
        mut pick: impl FnMut(&Message<'_>) -> Option<Result<(), String>>,
    ) -> anyhow::Result<()> {
        let (asked, mut picked) = (Instant::now(), None);
        let mut scratch = vec![0; 64 << 10];
        while picked.is_none() {
            let open = self.socket.receive(&mut scratch, |bytes, _| {
                let mut used = 0;
                while let Some((message, consumed)) = parse(&bytes[used..])? {
                    used += consumed;
                    picked = picked.take().or_else(|| pick(&message));
                }
                Ok(used)
            })?;
            if !open || (picked.is_none() && asked.elapsed() > ANSWER_TIMEOUT) {
                bail!("no answer to {what} from the NATS server");
            }
        }
        match picked {
            Some(Err(text)) => bail!("NATS refuses {what}: {text}"),
            _ => Ok(()),
        }
    }
}

impl Link for NatsLink {
    fn stream(&self) -> &TcpStream {
        self.socket.stream()
    }

    fn is_blocked(&self) -> bool {
        self.socket.blocked
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }

    fn publish(&mut self, outgoing: Outgoing) {
        let Role::Publisher { index, subjects, payloads, batch, owed } = &mut self.role else {
            unreachable!("the engine publishes on publishers only");
        };
        let out = &mut self.socket.out;
        let subject = &subjects[(outgoing.number % subjects.len() as u64) as usize];
        let Outgoing { slot, number, stamp_ns } = outgoing;
        owed[slot as usize] = Owed { acks: *batch, refusal: None };
        let length = payloads.data_bytes();
        for event in 0..*batch {
            write!(out, "PUB {subject} _ACK.{index}.{slot} {length}\r\n")
                .expect("a Vec takes every write");
            let stamp_ns = if event + 1 == *batch { stamp_ns } else { stamp_ns.max(STAMP_NONE) };
            payloads.append(number + u64::from(event), stamp_ns, out);
            out.extend_from_slice(b"\r\n");
        }
    }

    fn receive(&mut self, scratch: &mut [u8], arrivals: &mut Vec<Arrival>) -> anyhow::Result<bool> {
        let at = Instant::now();
        let NatsLink { socket, role } = self;
        socket.receive(scratch, |bytes, out| {
            let mut used = 0;
            while let Some((message, consumed)) = parse(&bytes[used..])? {
                used += consumed;
                match message {
                    Message::Ping => out.extend_from_slice(b"PONG\r\n"),
                    Message::Data { subject, reply, payload } => {
                        let what = role.on_message(subject, reply, payload, out)?;
                        arrivals.extend(what.map(|what| Arrival { at, what }));
                    }
                    Message::Failed(text) => bail!("the NATS server says: {text}"),
                    Message::Pong | Message::Nothing => {}
                }
            }
            Ok(used)
        })
    }

    fn ping(&mut self) {
        // The server pings each two minutes, and is answered; a client owes nothing.
    }

    fn leave(&mut self) {
        if matches!(self.role, Role::Subscriber { .. }) {
            self.socket.out.extend_from_slice(b"UNSUB 1\r\n");
        }
    }
}

impl Role {
    fn on_message(
        &mut self,
        subject: &[u8],
        reply: &[u8],
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> anyhow::Result<Option<What>> {
        match self {
            Role::Publisher { index, batch, owed, .. } => {
                let slot = slot_of(subject).context("an ack came for nothing")?;
                let owed = owed.get_mut(slot as usize).context("an ack came for no batch")?;
                owed.acks = owed.acks.checked_sub(1).context("an ack came twice")?;
                if payload.starts_with(br#"{"error":"#) {
                    owed.refusal = Some(String::from_utf8_lossy(payload).into_owned());
                }
                let (publisher, events) = (*index, *batch);
                // One event that is refused makes the batch refused, when the last answer has come.
                Ok((owed.acks == 0).then(|| match owed.refusal.take() {
                    None => What::Acked { publisher, slot, events },
                    Some(text) => What::Refused { publisher, slot, text },
                }))
            }
            Role::Subscriber { group } => {
                out.extend_from_slice(b"PUB ");
                out.extend_from_slice(reply);
                out.extend_from_slice(b" 4\r\n+ACK\r\n");
                let stamp = payload.first_chunk().context("a delivery has no stamp")?;
                Ok(Some(What::Delivered {
                    group: *group,
                    events: 1,
                    again: delivered_times(reply) > 1,
                    stamp_ns: u64::from_le_bytes(*stamp),
                }))
            }
            Role::Idle => Ok(None),
        }
    }
}

/// The slot that an ack's subject names: `_ACK.PUBLISHER.SLOT`.
fn slot_of(subject: &[u8]) -> Option<u32> {
    let text = std::str::from_utf8(subject).ok()?;
    text.strip_prefix("_ACK.")?.split('.').nth(1)?.parse().ok()
}

/// How often a message was delivered: `$JS.ACK.STREAM.CONSUMER.TIMES...`, with two more words in front in the long form.
fn delivered_times(reply: &[u8]) -> u64 {
    let text = std::str::from_utf8(reply).unwrap_or_default();
    let place = if text.split('.').count() >= 11 { 6 } else { 4 };
    text.split('.').nth(place).and_then(|word| word.parse().ok()).unwrap_or(1)
}

/// One line of the protocol, with what belongs to it.
#[derive(Debug, PartialEq)]
enum Message<'a> {
    Data {
        subject: &'a [u8],
        reply: &'a [u8],
        payload: &'a [u8],
    },
    Ping,
    Pong,
    Failed(String),
    /// INFO, +OK, and whatever else needs no answer.
    Nothing,
}

/// The first message of `bytes` and its length, or `None` while it is not whole.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Message<'_>, usize)>> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line = bytes[..end].trim_ascii_end();
    let after = end + 1;
    if let Some(arguments) = line.strip_prefix(b"MSG ") {
        let mut words: Vec<&[u8]> = Vec::with_capacity(4);
        words.extend(arguments.split(|byte| *byte == b' ').filter(|word| !word.is_empty()));
        let (subject, reply, length) = match words[..] {
            [subject, _, length] => (subject, &b""[..], length),
            [subject, _, reply, length] => (subject, reply, length),
            _ => bail!("the server sent a strange line: {}", String::from_utf8_lossy(line)),
        };
        let length: usize = std::str::from_utf8(length)?.parse().context("MSG has a length")?;
        let Some(payload) = bytes.get(after..after + length + 2) else { return Ok(None) };
        let payload = &payload[..length];
        return Ok(Some((Message::Data { subject, reply, payload }, after + length + 2)));
    }
    let message = match line {
        b"PING" => Message::Ping,
        b"PONG" => Message::Pong,
        line if line.starts_with(b"-ERR") => {
            Message::Failed(String::from_utf8_lossy(line).into_owned())
        }
        _ => Message::Nothing,
    };
    Ok(Some((message, after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server's packets never respect message borders: no cut may be an error, or change what is read.
    #[test]
    fn messages_wait_at_every_cut() {
        let bytes = b"INFO {}\r\nPING\r\nMSG loadtest.3 1 $JS.ACK.S.C.2.7.7.1.0 4\r\na\r\nb\r\nMSG _ACK.4.17 1 2\r\n{}\r\n+OK\r\n";
        let read = |bytes: &[u8]| {
            let (mut found, mut used) = (Vec::new(), 0);
            while let Some((message, consumed)) = parse(&bytes[used..]).unwrap() {
                found.push(format!("{message:?}"));
                used += consumed;
            }
            (found, used)
        };
        let (whole, used) = read(bytes);
        assert_eq!((whole.len(), used), (5, bytes.len()));
        for cut in 0..bytes.len() {
            let (mut first, used) = read(&bytes[..cut]);
            first.extend(read(&bytes[used..]).0);
            assert_eq!(first, whole, "cut at {cut}");
        }
        assert_eq!(slot_of(b"_ACK.4.17"), Some(17));
        assert_eq!(delivered_times(b"$JS.ACK.S.C.2.7.7.1.0"), 2);
        assert_eq!(delivered_times(b"$JS.ACK._.HASH.S.C.3.7.7.1.0"), 3);
    }

    /// Half a batch acknowledged is not a batch acknowledged, and an ack too many hides one too few.
    #[test]
    fn a_batch_is_acknowledged_by_its_last_event() {
        let mut role = Role::Publisher {
            index: 2,
            subjects: vec!["loadtest.0".into()],
            payloads: Rc::new(Payloads::new(100)),
            batch: 3,
            owed: vec![Owed { acks: 3, refusal: None }, Owed::default()],
        };
        let good = &b"{\"stream\":\"LOADTEST\",\"seq\":1}"[..];
        let bad = &b"{\"error\":{\"code\":503},\"stream\":\"LOADTEST\"}"[..];
        for (answers, refused) in [([good; 3], false), ([good, bad, good], true)] {
            let Role::Publisher { owed, .. } = &mut role else { unreachable!() };
            owed[0].acks = 3;
            let mut answer = |payload| role.on_message(b"_ACK.2.0", b"", payload, &mut Vec::new());
            assert!(answer(answers[0]).unwrap().is_none());
            assert!(answer(answers[1]).unwrap().is_none());
            match answer(answers[2]).unwrap() {
                Some(What::Acked { publisher: 2, slot: 0, events: 3 }) => assert!(!refused),
                Some(What::Refused { publisher: 2, slot: 0, .. }) => assert!(refused),
                other => panic!("{other:?}"),
            }
            assert!(answer(good).is_err());
        }
    }
}
