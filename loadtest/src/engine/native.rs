//! Ringmesh's own protocol as a driver.
//!
//! It speaks through `codec::frame` directly, not through the Rust client: that one's futures and channels cost more
//! per event than the server does, and then only they would be measured.

use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use codec::ack::AckLevel;
use codec::batch::Batch;
use codec::body::Body;
use codec::frame::{
    self, DeliveryFrame, Frame, Kind, Settlement, Subscribe, TopicFrame, WireMode, WireStart,
    WireVerdict,
};
use codec::header::HeaderSeed;
use codec::ids::TopicId;

use super::Load;
use super::connection::Connection;
use super::driver::{Arrival, Outgoing, What};
use super::sockets::{Link, Sockets};
use super::template::{Templates, stamp_of};

/// The subscription's number on every subscribing connection.
const SUBSCRIPTION: u64 = 1;
/// Room for the entries of one settle frame.
const SETTLE_BYTES_MAX: usize = frame::CONTROL_BODY_BYTES_MAX as usize - 256;

/// What a connection is for.
enum Role {
    Publisher {
        index: usize,
        templates: Rc<Templates>,
        /// Topics of this connection are numbered from 1 to this.
        topics: u32,
        /// The weakest promise of an ack so far.
        weakest: Option<AckLevel>,
    },
    Subscriber {
        group: u32,
        /// Entries of the settle frame under way.
        entries: Vec<u8>,
    },
    /// Says hello and is silent from then on.
    Idle,
}

/// One native connection of a load.
pub(crate) struct NativeLink {
    connection: Connection,
    role: Role,
    last_ping: Instant,
}

/// Connects everybody and subscribes. Subscribers come first: what is published is theirs.
pub(crate) fn connect(load: &Load) -> anyhow::Result<Sockets<NativeLink>> {
    let stamped = load.subscribers > 0 || load.stamped;
    let templates = Rc::new(Templates::new(load.shape, stamped)?);
    let mut subscribers = Vec::new();
    for index in 0..load.subscribers {
        let group = index % load.groups;
        subscribers.push(NativeLink::subscriber(load, index, group, WireStart::Default)?);
    }
    if load.behind {
        let start = WireStart::Earliest;
        subscribers.push(NativeLink::subscriber(load, load.subscribers, load.groups, start)?);
    }
    let mut links = Vec::new();
    let mut window_max = u32::MAX;
    for index in 0..load.publishers {
        let link = NativeLink::publisher(load, index, &templates)?;
        window_max = window_max.min(link.connection.welcome.window_batches_max);
        links.push(link);
    }
    links.append(&mut subscribers);
    for index in 0..load.idle {
        let connection = Connection::open(load.server, &format!("loadtest-idle-{index}"))?;
        links.push(NativeLink::new(connection, Role::Idle));
    }
    Sockets::new(links, load.publishers as usize, window_max)
}

impl NativeLink {
    fn new(connection: Connection, role: Role) -> Self {
        NativeLink { connection, role, last_ping: Instant::now() }
    }

    fn publisher(load: &Load, index: u32, templates: &Rc<Templates>) -> anyhow::Result<Self> {
        let mut connection = Connection::open(load.server, &format!("loadtest-publisher-{index}"))?;
        let names = load.topics_of(index);
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
        let role = Role::Publisher {
            index: index as usize,
            templates: templates.clone(),
            topics: names.len() as u32,
            weakest: None,
        };
        Ok(NativeLink::new(connection, role))
    }

    fn subscriber(
        load: &Load,
        index: u32,
        group: u32,
        start: WireStart<'_>,
    ) -> anyhow::Result<Self> {
        let mut connection =
            Connection::open(load.server, &format!("loadtest-subscriber-{index}"))?;
        let credit = load.credit.min(connection.welcome.credit_max);
        let name = load.group_name(group);
        let wish = Subscribe {
            group: Some(&name),
            filter: "loadtest/#",
            mode: WireMode::Clustering,
            start,
            credit,
        };
        connection.subscribe(SUBSCRIPTION, &wish)?;
        Ok(NativeLink::new(connection, Role::Subscriber { group, entries: Vec::new() }))
    }
}

impl Link for NativeLink {
    fn stream(&self) -> &TcpStream {
        self.connection.stream()
    }

    fn is_blocked(&self) -> bool {
        self.connection.blocked
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection.flush()
    }

    fn publish(&mut self, batch: Outgoing) {
        let Role::Publisher { templates, topics, .. } = &self.role else {
            unreachable!("the engine publishes on publishers only");
        };
        let topic = TopicId(1 + (batch.number % u64::from(*topics)) as u32);
        let slot = u64::from(batch.slot);
        templates.encode(batch.number, slot, topic, batch.stamp_ns, &mut self.connection.out);
    }

    fn receive(&mut self, scratch: &mut [u8], arrivals: &mut Vec<Arrival>) -> anyhow::Result<bool> {
        let at = Instant::now();
        let NativeLink { connection, role, .. } = self;
        let open = connection.receive(scratch, |out, request, frame| {
            on_frame(role, out, request, frame, |what| arrivals.push(Arrival { at, what }))
        })?;
        if let Role::Subscriber { entries, .. } = role {
            settle(entries, &mut connection.out);
        }
        Ok(open)
    }

    fn ping(&mut self) {
        let interval_ms = self.connection.welcome.ping_interval_ms.max(1_000);
        // Only between frames that are wholly sent; a blocked connection is not silent anyway.
        if self.last_ping.elapsed() >= Duration::from_millis(u64::from(interval_ms))
            && self.connection.out.is_empty()
        {
            self.last_ping = Instant::now();
            frame::encode_plain(Kind::Ping, 0, &[], &mut self.connection.out);
        }
    }

    fn leave(&mut self) {
        if matches!(self.role, Role::Subscriber { .. }) {
            frame::encode_unsubscribe(SUBSCRIPTION, true, &mut self.connection.out);
        }
        frame::GoodbyeFrame { code: 0, text: "" }.encode(&mut self.connection.out);
    }

    fn acks_say(&self) -> Option<&'static str> {
        match self.role {
            Role::Publisher { weakest, .. } => weakest.map(AckLevel::name),
            _ => None,
        }
    }
}

fn on_frame(
    role: &mut Role,
    out: &mut Vec<u8>,
    request: u64,
    frame: Frame<'_>,
    mut tell: impl FnMut(What),
) -> anyhow::Result<()> {
    match frame {
        Frame::Published(mut acks) => acks.try_for_each(|acked| {
            let (publisher, slot) = answered(role, acked.request)?;
            if let Role::Publisher { weakest, .. } = role {
                *weakest = Some(weakest.map_or(acked.level, |known| known.min(acked.level)));
            }
            tell(What::Acked { publisher, slot, events: acked.count });
            Ok(())
        }),
        Frame::Delivery(delivery) => on_delivery(role, out, &delivery, tell),
        Frame::Ping(bytes) => {
            frame::encode_plain(Kind::Pong, request, bytes, out);
            Ok(())
        }
        Frame::Refusal(refusal) if refusal.kind == Kind::Publish.number() && !refusal.closes => {
            let (publisher, slot) = answered(role, request)?;
            tell(What::Refused { publisher, slot, text: refusal.text.to_owned() });
            Ok(())
        }
        Frame::Refusal(refusal) => bail!("refused ({}): {}", refusal.code, refusal.text),
        Frame::Goodbye(goodbye) => bail!("the server says goodbye: {}", goodbye.text),
        _ => Ok(()),
    }
}

fn answered(role: &Role, request: u64) -> anyhow::Result<(usize, u32)> {
    let Role::Publisher { index, .. } = role else {
        bail!("an answer came to a connection that has published nothing");
    };
    let slot = u32::try_from(request).context("an answer came to a request that nobody made")?;
    Ok((*index, slot))
}

fn on_delivery(
    role: &mut Role,
    out: &mut Vec<u8>,
    delivery: &DeliveryFrame<'_>,
    mut tell: impl FnMut(What),
) -> anyhow::Result<()> {
    let batch =
        Batch::parse(delivery.batch, HeaderSeed::WIRE).context("a delivery is malformed")?;
    batch.verify_body().context("a delivery is damaged")?;
    let body =
        Body::checked_before(batch.body, batch.header.count).context("a delivery is malformed")?;
    let events = match delivery.head.bitmap {
        None => u64::from(batch.header.count),
        Some(bitmap) => bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum(),
    };
    let stamp_ns =
        stamp_of(&body).context("a delivery has no stamp: is somebody else publishing?")?;
    let Role::Subscriber { group, entries } = role else {
        bail!("a delivery came to a connection that does not subscribe");
    };
    let again = delivery.head.attempt > 1;
    tell(What::Delivered { group: *group, events, again, stamp_ns });
    Settlement { verdict: WireVerdict::Done, token: delivery.head.token, bitmap: None }
        .encode_entry(entries);
    if entries.len() > SETTLE_BYTES_MAX {
        settle(entries, out);
    }
    Ok(())
}

/// Sends the entries so far as one settle frame.
fn settle(entries: &mut Vec<u8>, out: &mut Vec<u8>) {
    if !entries.is_empty() {
        frame::encode_settle(0, entries, out);
        entries.clear();
    }
}
