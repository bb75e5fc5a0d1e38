//! The connections: those that publish, one that watches everything, and those that drop and return.
//!
//! One thread and one epoll, as in the engine. The watcher subscribes to all topics and never drops: what it sees is what a
//! bystander feels.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::body::Body;
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::frame::{
    self, DeliveryFrame, Frame, Kind, Settlement, Subscribe, TopicFrame, WireMode, WireStart,
    WireVerdict,
};
use codec::header::HeaderSeed;
use codec::ids::{Partition, TopicId};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use super::ledger::Ledger;
use super::{Size, Tails};
use crate::engine::connection::Connection;
use crate::engine::publisher::Publisher;
use crate::floor::raw_write::incompressible;

/// Stamp, topic and number: what the data of an event begins with.
pub(super) const MARK_BYTES: usize = 16;
/// Connections that may wait for their answers while all subscribe for the first time.
const SUBSCRIBING_MAX: usize = 64;
/// Batches of a publisher without an answer.
const WINDOW: u32 = 4_096;
/// Events in flight of a subscription that drops, and of the watcher's.
const CREDIT: u32 = 64;
const WATCHER_CREDIT: u32 = 65_536;
/// Sockets looked at for one wait.
const READY_MAX: usize = 256;
/// How long a silent connection may be so before it pings.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// What the events of one subscriber say: when each was meant to be sent, its topic, and its number there.
#[derive(Clone, Copy)]
struct Mark {
    stamp_ns: u64,
    topic: u32,
    number: u32,
}

impl Mark {
    fn write(self, data: &mut [u8]) {
        data[..8].copy_from_slice(&self.stamp_ns.to_le_bytes());
        data[8..12].copy_from_slice(&self.topic.to_le_bytes());
        data[12..16].copy_from_slice(&self.number.to_le_bytes());
    }

    fn read(data: &[u8]) -> Option<Self> {
        let (stamp, rest) = data.split_first_chunk()?;
        let (topic, rest) = rest.split_first_chunk()?;
        Some(Mark {
            stamp_ns: u64::from_le_bytes(*stamp),
            topic: u32::from_le_bytes(*topic),
            number: u32::from_le_bytes(*rest.first_chunk()?),
        })
    }
}

/// One connection that publishes, and what it has in flight.
struct Publishing {
    window: Publisher,
    has_unsent: bool,
}

/// A connection that drops and returns.
#[derive(Clone, Copy, Debug, Default)]
struct Member {
    /// Subscriptions whose answer has not come.
    unanswered: u32,
}

/// All connections and what they know. Links stand in the order publishers, watcher, members.
pub(super) struct Clients {
    server: std::net::SocketAddr,
    size: Size,
    epoll: OwnedFd,
    links: Vec<Option<Connection>>,
    publishing: Vec<Publishing>,
    members: Vec<Member>,
    /// Members that have all their answers.
    pub(super) standing: u32,
    /// When each topic's subscriber was last answered, in ns since the run began.
    answered_ns: Vec<u64>,
    /// What the members are owed, and what the watcher is.
    pub(super) owed: Ledger,
    pub(super) watched: Ledger,
    pub(super) tails: Tails,
    pub(super) unacked: u64,
    /// Events sent so far; chooses topics.
    events: u64,
    data: Vec<u8>,
    began: Instant,
    scratch: Vec<u8>,
    /// Pings that were due so far.
    pinged: u64,
}

impl Clients {
    /// Publishers and the watcher are connected, members are not.
    pub(super) fn connect(server: std::net::SocketAddr, size: Size) -> anyhow::Result<Self> {
        let topics = size.topics();
        let mut clients = Clients {
            server,
            size,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            links: Vec::new(),
            publishing: Vec::new(),
            members: vec![Member::default(); size.connections as usize],
            standing: 0,
            answered_ns: vec![0; topics as usize],
            owed: Ledger::new(topics),
            watched: Ledger::new(topics),
            tails: Tails::new(),
            unacked: 0,
            events: 0,
            data: (0..size.data_bytes).map(incompressible(1)).collect(),
            began: Instant::now(),
            scratch: vec![0; 256 << 10],
            pinged: 0,
        };
        for publisher in 0..size.publishers {
            let connection = clients.publisher(publisher)?;
            let window = WINDOW.min(connection.welcome.window_batches_max);
            let window = Publisher::new(window, 0);
            clients.publishing.push(Publishing { window, has_unsent: false });
            clients.watch(connection)?;
        }
        let mut watcher = Connection::open(server, "churn-watcher")?;
        let credit = WATCHER_CREDIT.min(watcher.welcome.credit_max);
        watcher.subscribe(1, &wish("churn/#", credit))?;
        clients.watch(watcher)?;
        (0..topics).for_each(|topic| clients.watched.subscribed(topic));
        clients.links.resize_with(clients.links.len() + size.connections as usize, || None);
        Ok(clients)
    }

    fn publisher(&self, publisher: u32) -> anyhow::Result<Connection> {
        let name = format!("churn-publisher-{publisher}");
        let mut connection = Connection::open(self.server, &name)?;
        let topics = (publisher..self.size.topics()).step_by(self.size.publishers as usize);
        let most = connection.welcome.topics_max as usize;
        ensure!(topics.len() <= most, "a connection takes {most} topics: give more --publishers");
        for (id, topic) in topics.enumerate() {
            let name = self.size.topic(topic);
            TopicFrame { id: TopicId(id as u32 + 1), name: &name }.encode(&mut connection.out);
        }
        connection.flush().context("cannot announce the topics")?;
        Ok(connection)
    }

    fn watch(&mut self, connection: Connection) -> anyhow::Result<()> {
        let index = self.links.len();
        self.links.push(None);
        self.put(index, connection)
    }

    fn put(&mut self, index: usize, connection: Connection) -> anyhow::Result<()> {
        connection.stream().set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.epoll, connection.stream(), data, epoll::EventFlags::IN)?;
        self.links[index] = Some(connection);
        Ok(())
    }

    fn first_member(&self) -> usize {
        self.size.publishers as usize + 1
    }

    /// Nanoseconds since the run began.
    pub(super) fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Every member connects and subscribes, some at a time. Returns when all are answered.
    pub(super) fn subscribe_all(&mut self) -> anyhow::Result<()> {
        let mut begun = 0;
        let mut heard = Instant::now();
        while self.standing < self.size.connections {
            let before = self.standing;
            while begun < self.size.connections
                && ((begun - self.standing) as usize) < SUBSCRIBING_MAX
            {
                self.begin_member(begun, false)?;
                begun += 1;
            }
            self.turn(Duration::from_millis(100))?;
            if self.standing > before {
                heard = Instant::now();
            }
            ensure!(heard.elapsed() < Duration::from_secs(60), "no subscribe is answered");
        }
        Ok(())
    }

    /// A member connects and asks for all its subscriptions in one go.
    pub(super) fn begin_member(&mut self, member: u32, as_other: bool) -> anyhow::Result<()> {
        let (size, again) = (self.size, if as_other { "-again" } else { "" });
        let connection =
            Connection::begin(self.server, &format!("churn-{member}{again}"), |out| {
                for index in 0..size.subscriptions {
                    let topic = size.topic(member * size.subscriptions + index);
                    wish(&topic, CREDIT).encode(u64::from(index) + 1, out);
                }
            })?;
        self.members[member as usize].unanswered = size.subscriptions;
        self.put(self.first_member() + member as usize, connection)
    }

    /// A member's socket is closed, without a word and with whatever was on its way. `for_ever`: it comes back as another.
    pub(super) fn drop_member(&mut self, member: u32, for_ever: bool) {
        let link = self.first_member() + member as usize;
        self.links[link] = None;
        self.standing -= 1;
        if for_ever {
            let topics = member * self.size.subscriptions..(member + 1) * self.size.subscriptions;
            topics.for_each(|topic| self.owed.left(topic));
        }
    }

    /// Sends one event that was meant to be sent at `moment_ns`. False: its publisher's window is full.
    pub(super) fn send(&mut self, moment_ns: u64) -> anyhow::Result<bool> {
        let topic = self.size.topic_of(self.events);
        let publisher = (topic % self.size.publishers) as usize;
        if !self.publishing[publisher].window.has_room() {
            return Ok(false);
        }
        let outgoing = self.publishing[publisher].window.next(moment_ns);
        let number = self.owed.sent(topic);
        assert_eq!(self.watched.sent(topic), number, "both count the same events");
        Mark { stamp_ns: moment_ns, topic, number }.write(&mut self.data);
        let mut shared = [
            (Key::Source, Value::UriReference("/loadtest")),
            (Key::Type, Value::String("com.example.load")),
        ];
        let mut builder = BatchBuilder::new(&mut shared)?;
        builder.push(&mut [], DataKind::Binary, &self.data)?;
        let id = TopicId(1 + topic / self.size.publishers);
        let batch = builder.finish(id, Partition::ANY);
        let connection = self.links[publisher].as_mut().context("publishers stay")?;
        let slot = u64::from(outgoing.slot);
        frame::encode_plain(Kind::Publish, slot, &batch, &mut connection.out);
        self.publishing[publisher].has_unsent = true;
        (self.events, self.unacked) = (self.events + 1, self.unacked + 1);
        Ok(true)
    }

    /// Writes what publishers have to send.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        for (publishing, link) in self.publishing.iter_mut().zip(&mut self.links) {
            if publishing.has_unsent {
                let connection = link.as_mut().context("publishers stay")?;
                connection.flush().context("a publisher's connection broke")?;
                publishing.has_unsent = connection.blocked;
            }
        }
        Ok(())
    }

    /// Waits until something comes, at most `timeout`, and hears all of it.
    pub(super) fn turn(&mut self, timeout: Duration) -> anyhow::Result<()> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let mut ready = Vec::with_capacity(READY_MAX);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut ready), Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            result => drop(result?),
        }
        for event in &ready {
            self.hear(event.data.u64() as usize)?;
        }
        self.ping()
    }

    /// Servers close connections from which nothing comes: everybody pings once an interval, each at a moment of its own,
    /// so that nothing that is measured waits for thousands of pings.
    fn ping(&mut self) -> anyhow::Result<()> {
        let count = self.links.len() as u128;
        let intervals = self.began.elapsed().as_nanos() * count / PING_INTERVAL.as_nanos();
        let due = u64::try_from(intervals).context("the run has lasted for years")?;
        for turn in self.pinged..due {
            let link = self.links[(u128::from(turn) % count) as usize].as_mut();
            let Some(connection) = link.filter(|link| link.out.is_empty()) else { continue };
            frame::encode_plain(Kind::Ping, 0, &[], &mut connection.out);
            connection.flush().context("a connection broke")?;
        }
        self.pinged = self.pinged.max(due);
        Ok(())
    }

    fn hear(&mut self, index: usize) -> anyhow::Result<()> {
        // It may have been dropped since the wait.
        let Some(mut connection) = self.links[index].take() else { return Ok(()) };
        let (mut scratch, mut entries) = (std::mem::take(&mut self.scratch), Vec::new());
        let now_ns = self.now_ns();
        let open = connection.receive(&mut scratch, |out, request, frame| {
            self.on_frame(index, (out, &mut entries), (request, frame), now_ns)
        })?;
        self.scratch = scratch;
        ensure!(open, "the server closed a connection in the middle of the run");
        if !entries.is_empty() {
            frame::encode_settle(0, &entries, &mut connection.out);
        }
        connection.flush().context("a connection broke")?;
        self.links[index] = Some(connection);
        Ok(())
    }

    fn on_frame(
        &mut self,
        index: usize,
        (out, entries): (&mut Vec<u8>, &mut Vec<u8>),
        (request, frame): (u64, Frame<'_>),
        now_ns: u64,
    ) -> anyhow::Result<()> {
        match frame {
            Frame::Published(mut acks) => acks.try_for_each(|acked| {
                let publishing = self.publishing.get_mut(index).context("an ack came to nobody")?;
                let slot = u32::try_from(acked.request).context("an ack came to no request")?;
                let sent = publishing.window.on_answer(slot);
                let sent_ns = sent.context("an ack came to a batch that nobody sent")?;
                self.unacked -= 1;
                self.tails.acked(sent_ns, now_ns);
                Ok(())
            }),
            Frame::Subscribed => self.on_subscribed(index, request, now_ns),
            Frame::Delivery(delivery) => self.on_delivery(index, entries, &delivery, now_ns),
            Frame::Ping(bytes) => {
                frame::encode_plain(Kind::Pong, request, bytes, out);
                Ok(())
            }
            Frame::Refusal(refusal) => bail!("refused ({}): {}", refusal.code, refusal.text),
            Frame::Goodbye(goodbye) => bail!("the server says goodbye: {}", goodbye.text),
            _ => Ok(()),
        }
    }

    fn on_subscribed(&mut self, index: usize, request: u64, now_ns: u64) -> anyhow::Result<()> {
        let member = index.checked_sub(self.first_member()).context("only members subscribe")?;
        let asked = 1..=u64::from(self.size.subscriptions);
        ensure!(asked.contains(&request), "an answer came to a subscribe that nobody sent");
        let topic = member as u32 * self.size.subscriptions + request as u32 - 1;
        self.owed.subscribed(topic);
        self.answered_ns[topic as usize] = now_ns;
        let member = &mut self.members[member];
        ensure!(member.unanswered > 0, "a subscribe was answered twice");
        member.unanswered -= 1;
        self.standing += u32::from(member.unanswered == 0);
        Ok(())
    }

    fn on_delivery(
        &mut self,
        index: usize,
        entries: &mut Vec<u8>,
        delivery: &DeliveryFrame<'_>,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let batch = Batch::parse(delivery.batch, HeaderSeed::WIRE).context("malformed delivery")?;
        batch.verify_body().context("a delivery is damaged")?;
        let body = Body::checked_before(batch.body, batch.header.count).context("malformed")?;
        // Every batch has one event, so there is nothing to select.
        let data = body.event(0).context("a batch has an event")?.data();
        let mark = Mark::read(data).context("an event of somebody else came")?;
        let is_member = index >= self.first_member();
        let ledger = if is_member { &mut self.owed } else { &mut self.watched };
        let known = ledger.delivered(mark.topic, mark.number);
        ensure!(known, "event {} of topic {} was never sent", mark.number, mark.topic);
        if is_member {
            let owner = (mark.topic / self.size.subscriptions) as usize + self.first_member();
            ensure!(owner == index, "an event came to a member that did not ask for it");
            let answered_ns = self.answered_ns[mark.topic as usize];
            self.tails.came_to_member(mark.stamp_ns, now_ns, answered_ns);
        } else {
            self.tails.came_to_watcher(mark.stamp_ns, now_ns);
        }
        let token = delivery.head.token;
        Settlement { verdict: WireVerdict::Done, token, bitmap: None }.encode_entry(entries);
        Ok(())
    }
}

fn wish(filter: &str, credit: u32) -> Subscribe<'_> {
    let (mode, start) = (WireMode::Clustering, WireStart::Default);
    Subscribe { group: None, filter, mode, start, credit }
}
