//! The run: one thread drives every connection of a load, publishers and subscribers alike.
//!
//! One thread, because the machine that is measured has few cores and the server needs its own. The loop: send what
//! is due, write, wait until a socket is ready or a moment comes, read. It does not spin: a client that burns its core
//! cannot tell that it is the limit.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use codec::batch::Batch;
use codec::body::Body;
use codec::frame::{
    self, Acked, DeliveryFrame, Frame, Kind, Settlement, Subscribe, TopicFrame, WireMode,
    WireStart, WireVerdict,
};
use codec::header::HeaderSeed;
use codec::ids::TopicId;
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use super::connection::Connection;
use super::publisher::Publisher;
use super::schedule::{OpenLoop, Phases};
use super::tally::Tally;
use super::template::{Templates, stamp_of};
use super::{Load, Pace};
use crate::machine;

/// The subscription's number on every subscribing connection.
const SUBSCRIPTION: u64 = 1;
/// Bytes read at a time.
const SCRATCH_BYTES: usize = 256 << 10;
/// How long the run waits for acks and deliveries after its end.
const DRAIN: Duration = Duration::from_secs(10);
/// Room for the entries of one settle frame.
const SETTLE_BYTES_MAX: usize = frame::CONTROL_BODY_BYTES_MAX as usize - 256;

/// What a connection is for.
enum Role {
    Publisher(Publisher),
    /// Entries of the settle frame under way.
    Subscriber(Vec<u8>),
    /// Says hello and is silent from then on.
    Idle,
}

struct Peer {
    connection: Connection,
    role: Role,
    /// Whether the socket is watched for room to write.
    watched_for_room: bool,
}

/// A load that is connected and subscribed, and has published nothing yet.
pub(crate) struct Run {
    load: Load,
    epoll: OwnedFd,
    peers: Vec<Peer>,
    /// The first so many peers publish.
    publishers: usize,
    open_loop: Option<OpenLoop>,
    phases: Phases,
    began: Instant,
    last_ping: Instant,
    tally: Tally,
}

impl Run {
    /// Connects everybody and subscribes. Subscribers come first: what is published is theirs.
    pub(crate) fn connect(load: &Load) -> anyhow::Result<Self> {
        let stamped = load.subscribers > 0;
        let templates = Rc::new(Templates::new(load.shape, stamped)?);
        let mut subscribers = Vec::new();
        for index in 0..load.subscribers {
            subscribers.push(subscriber(load, index)?);
        }
        let mut peers = Vec::new();
        for index in 0..load.publishers {
            peers.push(publisher(load, index, &templates)?);
        }
        peers.append(&mut subscribers);
        for index in 0..load.idle {
            let connection = Connection::open(load.server, &format!("loadtest-idle-{index}"))?;
            peers.push(Peer { connection, role: Role::Idle, watched_for_room: false });
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, peer) in peers.iter().enumerate() {
            peer.connection.go()?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, peer.connection.stream(), data, epoll::EventFlags::IN)?;
        }
        let publishers = load.publishers as usize;
        let open_loop = match load.pace {
            Pace::Rate(rate) if publishers > 0 => {
                Some(OpenLoop::new(rate / f64::from(load.shape.batch), publishers))
            }
            _ => None,
        };
        Ok(Run {
            load: load.clone(),
            epoll,
            peers,
            publishers,
            open_loop,
            phases: Phases::new(load.warm_up, load.duration),
            began: Instant::now(),
            last_ping: Instant::now(),
            tally: Tally::new(),
        })
    }

    /// Publishes for the whole time and waits for what is owed. `at_border` is called when the time that counts
    /// begins, and when it ends.
    pub(crate) fn drive(
        mut self,
        mut at_border: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Tally> {
        let mut scratch = vec![0; SCRATCH_BYTES];
        self.began = Instant::now();
        machine::wake_on_time();
        if self.open_loop.is_none() {
            for index in 0..self.publishers {
                self.refill(index, 0);
                self.flush(index)?;
            }
        }
        for border_ns in [self.phases.warm_ns, self.phases.end_ns] {
            while self.now_ns() < border_ns {
                self.turn(border_ns, &mut scratch)?;
            }
            at_border()?;
        }
        let drain_end = self.phases.end_ns + DRAIN.as_nanos() as u64;
        while !self.is_drained() && self.now_ns() < drain_end {
            self.turn(drain_end, &mut scratch)?;
        }
        self.leave();
        Ok(self.tally)
    }

    /// One turn of the loop; waits at most until `until_ns`.
    fn turn(&mut self, until_ns: u64, scratch: &mut [u8]) -> anyhow::Result<()> {
        self.send_due();
        self.ping_at_times()?;
        let mut wait_ns = until_ns.saturating_sub(self.now_ns());
        if let Some(open_loop) = &self.open_loop
            && open_loop.next_ns() < self.phases.end_ns
        {
            wait_ns = wait_ns.min(open_loop.next_ns().saturating_sub(self.now_ns()));
        }
        let timeout = Timespec {
            tv_sec: (wait_ns / 1_000_000_000) as i64,
            tv_nsec: (wait_ns % 1_000_000_000) as i64,
        };
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))
        {
            Err(rustix::io::Errno::INTR) => {}
            result => {
                result?;
            }
        }
        for event in &events {
            let (index, flags) = (event.data.u64() as usize, event.flags);
            if flags.contains(epoll::EventFlags::OUT) {
                self.flush(index)?;
                self.refill(index, self.now_ns());
                self.flush(index)?;
            }
            if flags != epoll::EventFlags::OUT {
                self.receive(index, scratch)?;
            }
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

impl Run {
    fn send_due(&mut self) {
        let now_ns = self.now_ns();
        // What was meant to be sent before the end is sent, however late.
        let until_ns = now_ns.min(self.phases.end_ns - 1);
        while let Some(index) = self.open_loop.as_mut().and_then(|open| open.next_due(until_ns)) {
            self.refill(index, now_ns);
            // A failed write shows when the socket is read next.
            let _ = self.flush(index);
        }
    }

    /// Sends what `index` may and should send now.
    fn refill(&mut self, index: usize, now_ns: u64) {
        let Peer { connection, role: Role::Publisher(publisher), .. } = &mut self.peers[index]
        else {
            return;
        };
        // A socket that takes nothing is back-pressure: what is due waits with its intended time.
        while publisher.has_room() && !connection.blocked {
            let moment = match &mut self.open_loop {
                Some(open_loop) => open_loop.take(index),
                None => (now_ns < self.phases.end_ns).then_some(now_ns),
            };
            let Some(intended_ns) = moment else { return };
            publisher.publish(intended_ns, &mut connection.out);
            self.tally.sent_batches += 1;
            if self.phases.counts(intended_ns) {
                self.tally.delay.record_ns(now_ns.saturating_sub(intended_ns));
            }
        }
    }

    fn flush(&mut self, index: usize) -> anyhow::Result<()> {
        let peer = &mut self.peers[index];
        peer.connection.flush().context("the connection broke")?;
        if peer.connection.blocked != peer.watched_for_room {
            peer.watched_for_room = peer.connection.blocked;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, peer.watched_for_room);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, peer.connection.stream(), data, flags)?;
        }
        Ok(())
    }

    fn receive(&mut self, index: usize, scratch: &mut [u8]) -> anyhow::Result<()> {
        let now_ns = self.now_ns();
        let Peer { connection, role, .. } = &mut self.peers[index];
        let mut arrivals = Arrivals {
            role,
            tally: &mut self.tally,
            phases: self.phases,
            now_ns,
            events: self.load.shape.batch,
        };
        let open = connection
            .receive(scratch, |out, request, frame| arrivals.on_frame(out, request, frame))?;
        if let Role::Subscriber(entries) = role {
            settle(entries, &mut connection.out);
        }
        if !open {
            bail!("the server closed a connection in the middle of the run");
        }
        self.refill(index, now_ns);
        self.flush(index)
    }

    fn ping_at_times(&mut self) -> anyhow::Result<()> {
        let Some(peer) = self.peers.first() else { return Ok(()) };
        let interval =
            Duration::from_millis(u64::from(peer.connection.welcome.ping_interval_ms.max(1_000)));
        if self.last_ping.elapsed() < interval {
            return Ok(());
        }
        self.last_ping = Instant::now();
        for index in 0..self.peers.len() {
            let connection = &mut self.peers[index].connection;
            // Only between frames that are wholly sent; a blocked connection is not silent anyway.
            if connection.out.is_empty() {
                frame::encode_plain(Kind::Ping, 0, &[], &mut connection.out);
                self.flush(index)?;
            }
        }
        Ok(())
    }

    /// Whether every batch is answered, and every group has what was acknowledged.
    fn is_drained(&self) -> bool {
        let groups = if self.load.subscribers == 0 { 0 } else { u64::from(self.load.groups) };
        let owed = self.tally.acked_batches * u64::from(self.load.shape.batch) * groups;
        let behind = self.open_loop.as_ref().map_or(0, OpenLoop::behind);
        behind == 0 && self.tally.unanswered() == 0 && self.tally.delivered_events >= owed
    }

    /// Ends the subscriptions and the connections in an orderly way, as far as the server takes it.
    fn leave(&mut self) {
        for index in 0..self.peers.len() {
            let Peer { connection, role, .. } = &mut self.peers[index];
            if matches!(role, Role::Subscriber(_)) {
                frame::encode_unsubscribe(SUBSCRIPTION, true, &mut connection.out);
            }
            frame::GoodbyeFrame { code: 0, text: "" }.encode(&mut connection.out);
            let _ = connection.flush();
            let _ = connection.stream().shutdown(std::net::Shutdown::Write);
        }
    }
}

/// What frames of one connection lead to.
struct Arrivals<'a> {
    role: &'a mut Role,
    tally: &'a mut Tally,
    phases: Phases,
    now_ns: u64,
    /// Events of a batch.
    events: u32,
}

impl Arrivals<'_> {
    fn on_frame(
        &mut self,
        out: &mut Vec<u8>,
        request: u64,
        frame: Frame<'_>,
    ) -> anyhow::Result<()> {
        match frame {
            Frame::Published(mut acks) => acks.try_for_each(|acked| self.on_acked(&acked)),
            Frame::Delivery(delivery) => self.on_delivery(out, &delivery),
            Frame::Ping(bytes) => {
                frame::encode_plain(Kind::Pong, request, bytes, out);
                Ok(())
            }
            Frame::Refusal(refusal)
                if refusal.kind == Kind::Publish.number() && !refusal.closes =>
            {
                self.answered(request)?;
                self.tally.refused_batches += 1;
                self.tally.first_refusal.get_or_insert_with(|| refusal.text.to_owned());
                Ok(())
            }
            Frame::Refusal(refusal) => bail!("refused ({}): {}", refusal.code, refusal.text),
            Frame::Goodbye(goodbye) => bail!("the server says goodbye: {}", goodbye.text),
            _ => Ok(()),
        }
    }

    fn answered(&mut self, request: u64) -> anyhow::Result<u64> {
        let Role::Publisher(publisher) = self.role else {
            bail!("an answer came to a connection that has published nothing");
        };
        publisher.on_answer(request).context("an answer came to a request that nobody made")
    }

    fn on_acked(&mut self, acked: &Acked) -> anyhow::Result<()> {
        let intended_ns = self.answered(acked.request)?;
        if acked.count != self.events {
            bail!("{} of {} events of a batch were acknowledged", acked.count, self.events);
        }
        self.tally.acked_batches += 1;
        if self.phases.counts(intended_ns) {
            self.tally.ack.record_ns(self.now_ns.saturating_sub(intended_ns));
        }
        if self.phases.counts(self.now_ns) {
            self.tally.acked_events_counted += u64::from(acked.count);
        }
        Ok(())
    }

    fn on_delivery(
        &mut self,
        out: &mut Vec<u8>,
        delivery: &DeliveryFrame<'_>,
    ) -> anyhow::Result<()> {
        let batch =
            Batch::parse(delivery.batch, HeaderSeed::WIRE).context("a delivery is malformed")?;
        batch.verify_body().context("a delivery is damaged")?;
        let body = Body::checked_before(batch.body, batch.header.count)
            .context("a delivery is malformed")?;
        let events = match delivery.head.bitmap {
            None => u64::from(batch.header.count),
            Some(bitmap) => bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum(),
        };
        let stamp_ns =
            stamp_of(&body).context("a delivery has no stamp: is somebody else publishing?")?;
        self.tally.delivered_events += events;
        if delivery.head.attempt > 1 {
            self.tally.redelivered_events += events;
        }
        if self.phases.counts(stamp_ns) {
            self.tally.end_to_end.record_ns(self.now_ns.saturating_sub(stamp_ns));
        }
        if self.phases.counts(self.now_ns) {
            self.tally.delivered_events_counted += events;
        }
        let Role::Subscriber(entries) = self.role else {
            bail!("a delivery came to a connection that does not subscribe");
        };
        Settlement { verdict: WireVerdict::Done, token: delivery.head.token, bitmap: None }
            .encode_entry(entries);
        if entries.len() > SETTLE_BYTES_MAX {
            settle(entries, out);
        }
        Ok(())
    }
}

/// Sends the entries so far as one settle frame.
fn settle(entries: &mut Vec<u8>, out: &mut Vec<u8>) {
    if !entries.is_empty() {
        frame::encode_settle(0, entries, out);
        entries.clear();
    }
}

fn publisher(load: &Load, index: u32, templates: &Rc<Templates>) -> anyhow::Result<Peer> {
    let mut connection = Connection::open(load.server, &format!("loadtest-publisher-{index}"))?;
    let names = topics_of(load, index);
    if names.len() > connection.welcome.topics_max as usize {
        bail!(
            "{} topics for one connection, and the server takes {}",
            names.len(),
            connection.welcome.topics_max
        );
    }
    for (id, name) in names.iter().enumerate() {
        TopicFrame { id: TopicId(id as u32 + 1), name }.encode(&mut connection.out);
    }
    connection.flush().context("cannot announce the topics")?;
    let window = load.window.min(connection.welcome.window_batches_max);
    // Publishers start at different templates, so that they do not all take the same keys at a time.
    let publisher =
        Publisher::new(templates.clone(), names.len() as u32, window, u64::from(index) * 7);
    Ok(Peer { connection, role: Role::Publisher(publisher), watched_for_room: false })
}

fn subscriber(load: &Load, index: u32) -> anyhow::Result<Peer> {
    let mut connection = Connection::open(load.server, &format!("loadtest-subscriber-{index}"))?;
    // A group of its own for each run: one that was left over would get its backlog first.
    let group = format!("loadtest-{}-{}", std::process::id(), index % load.groups);
    let credit = load.credit.min(connection.welcome.credit_max);
    let wish = Subscribe {
        group: Some(&group),
        filter: "loadtest/#",
        mode: WireMode::Clustering,
        start: WireStart::Default,
        credit,
    };
    connection.subscribe(SUBSCRIPTION, &wish)?;
    Ok(Peer { connection, role: Role::Subscriber(Vec::new()), watched_for_room: false })
}

/// The topics that publisher `index` publishes to. With fewer topics than publishers some share one.
fn topics_of(load: &Load, index: u32) -> Vec<String> {
    let name = |topic| format!("loadtest/{topic}");
    if load.topics <= load.publishers {
        return vec![name(index % load.topics)];
    }
    (index..load.topics).step_by(load.publishers as usize).map(name).collect()
}
