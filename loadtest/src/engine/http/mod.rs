//! Ringmesh's http door as a driver: publishes by POST on connections that stay, subscribes by streams of server-sent events.
//!
//! Requests are written from templates and answers are read by `httparse`, not through a client library: client and server
//! share two cores, and a library's costs would be the first limit. A batch of one event goes in binary mode, a larger one
//! as a CloudEvents batch in JSON in one request. HTTP/1.1 answers in order, so an answer's request is the oldest one.

mod answers;
mod requests;

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::driver::{Arrival, Outgoing, What};
use super::socket::Socket;
use super::sockets::{Link, Sockets};
use super::{Load, Pace};
use answers::{Answer, EventStream};
use requests::Requests;

/// How long an answer to the first request of a connection may take before the run gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one connection without an answer, where a load asks for several: pipelined.
const PIPELINED_MAX: u32 = 256;
/// What a server answers that has stored all that it was given.
const ACCEPTED: u16 = 202;

/// What a connection is for.
enum Role {
    Publisher {
        index: usize,
        topics: Vec<String>,
        requests: Rc<Requests>,
        /// Slots of the requests without an answer, oldest first.
        asked: VecDeque<u32>,
        /// What the last answer called its ack level.
        level: Option<&'static str>,
    },
    Subscriber {
        group: u32,
        stream: EventStream,
    },
    /// Was answered once, and is silent from then on.
    Idle,
}

/// One connection to the http door.
pub(crate) struct HttpLink {
    socket: Socket,
    role: Role,
}

/// Connects everybody and subscribes. Subscribers come first: what is published is theirs.
pub(crate) fn connect(load: &Load) -> anyhow::Result<Sockets<HttpLink>> {
    ensure!(
        load.subscribers == 0 || load.subscribers == load.groups,
        "{} subscribers in {} groups: over HTTP each subscriber is a stream that gets every event; ask for as many groups",
        load.subscribers,
        load.groups
    );
    let requests = Rc::new(Requests::new(load.shape)?);
    let mut subscribers = Vec::new();
    for group in 0..load.subscribers {
        subscribers.push(HttpLink::subscriber(load, group, "latest")?);
    }
    if load.behind {
        subscribers.push(HttpLink::subscriber(load, load.groups, "earliest")?);
    }
    let mut links = Vec::new();
    for index in 0..load.publishers {
        links.push(HttpLink::publisher(load, index, &requests)?);
    }
    links.append(&mut subscribers);
    for _ in 0..load.idle {
        links.push(HttpLink::idle(load)?);
    }
    // With a rate each moment waits for the answer before, as clients of HTTP do, and counts from then all the same.
    let window_max = if load.pace == Pace::Window { PIPELINED_MAX } else { 1 };
    let pipelined = load.window.min(window_max);
    let mut sockets = Sockets::new(links, load.publishers as usize, window_max)?;
    let mode = if load.shape.batch == 1 { "binary mode" } else { "batches in JSON" };
    let asked = match pipelined {
        1 => "one request of a connection at a time".to_owned(),
        more => format!("{more} requests of a connection pipelined"),
    };
    sockets.note(&format!("HTTP/1.1: {mode}, {asked}; JSON data; ids of their own; keys mixed"));
    Ok(sockets)
}

impl HttpLink {
    fn open(load: &Load) -> anyhow::Result<Self> {
        Ok(HttpLink { socket: Socket::open(load.server, ANSWER_TIMEOUT)?, role: Role::Idle })
    }

    fn publisher(load: &Load, index: u32, requests: &Rc<Requests>) -> anyhow::Result<Self> {
        let mut link = HttpLink::open(load)?;
        link.role = Role::Publisher {
            index: index as usize,
            topics: load.topics_of(index),
            requests: requests.clone(),
            asked: VecDeque::new(),
            level: None,
        };
        Ok(link)
    }

    /// A stream of its own, which has said that it stands.
    fn subscriber(load: &Load, group: u32, from: &str) -> anyhow::Result<Self> {
        let mut link = HttpLink::open(load)?;
        let path = format!("/subscribe?filter=loadtest/%23&from={from}");
        let mut stream = EventStream::default();
        link.ask(&requests::get("GET", &path), "subscribe", |bytes| {
            let used = stream.take(bytes, |_| Ok(()))?;
            Ok((used, stream.is_open()))
        })?;
        link.role = Role::Subscriber { group, stream };
        Ok(link)
    }

    fn idle(load: &Load) -> anyhow::Result<Self> {
        let mut link = HttpLink::open(load)?;
        link.ask(&requests::get("OPTIONS", "/poll"), "OPTIONS", |bytes| {
            Ok(answers::parse(bytes)?.map_or((0, false), |(_, used)| (used, true)))
        })?;
        Ok(link)
    }

    /// Sends a request and reads until `consume` has what it waits for; it returns how many bytes it has used. Only before the
    /// socket is watched.
    fn ask(
        &mut self,
        request: &[u8],
        what: &str,
        mut consume: impl FnMut(&[u8]) -> anyhow::Result<(usize, bool)>,
    ) -> anyhow::Result<()> {
        self.socket.out.extend_from_slice(request);
        self.socket.flush().with_context(|| format!("cannot send {what}"))?;
        let (mut scratch, mut has, asked) = (vec![0; 64 << 10], false, Instant::now());
        while !has {
            let open = self.socket.receive(&mut scratch, |bytes, _| {
                let used;
                (used, has) = consume(bytes)?;
                Ok(used)
            })?;
            if !open || (!has && asked.elapsed() > ANSWER_TIMEOUT) {
                bail!("no answer to {what} from the http door");
            }
        }
        Ok(())
    }
}

impl Link for HttpLink {
    fn stream(&self) -> &TcpStream {
        self.socket.stream()
    }

    fn is_blocked(&self) -> bool {
        self.socket.blocked
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }

    fn publish(&mut self, batch: Outgoing) {
        let Role::Publisher { index, topics, requests, asked, .. } = &mut self.role else {
            unreachable!("the engine publishes on publishers only");
        };
        let topic = &topics[(batch.number % topics.len() as u64) as usize];
        requests.append(*index, batch, topic, &mut self.socket.out);
        asked.push_back(batch.slot);
    }

    fn receive(&mut self, scratch: &mut [u8], arrivals: &mut Vec<Arrival>) -> anyhow::Result<bool> {
        let at = Instant::now();
        let HttpLink { socket, role } = self;
        socket.receive(scratch, |bytes, _| match role {
            Role::Publisher { index, asked, level, .. } => {
                let mut used = 0;
                while let Some((answer, consumed)) = answers::parse(&bytes[used..])? {
                    used += consumed;
                    let slot = asked.pop_front().context("an answer came to no request")?;
                    *level = answers::ack_level(answer.body).or(*level);
                    arrivals.push(Arrival { at, what: told(*index, slot, &answer) });
                }
                Ok(used)
            }
            Role::Subscriber { group, stream } => stream.take(bytes, |event| {
                let again = event.attempt > 1;
                let (group, stamp_ns) = (*group, event.stamp_ns);
                let what = What::Delivered { group, events: 1, again, stamp_ns };
                arrivals.push(Arrival { at, what });
                Ok(())
            }),
            Role::Idle => bail!("something came to a connection that has asked nothing"),
        })
    }

    fn ping(&mut self) {
        // A request keeps its connection, a stream says something by itself, and what is idle shall be.
    }

    fn leave(&mut self) {
        // The end of its sending side is all that HTTP/1.1 knows of a goodbye.
    }

    fn acks_say(&self) -> Option<&'static str> {
        match self.role {
            Role::Publisher { level, .. } => level,
            _ => None,
        }
    }
}

/// What an answer to a publish says. An answer that some events were refused is a refusal: the load asks for all.
fn told(publisher: usize, slot: u32, answer: &Answer<'_>) -> What {
    if answer.status == ACCEPTED {
        return What::Acked { publisher, slot, events: answers::stored(answer.body) };
    }
    let body: String = String::from_utf8_lossy(answer.body).chars().take(300).collect();
    What::Refused { publisher, slot, text: format!("{} {body}", answer.status) }
}
