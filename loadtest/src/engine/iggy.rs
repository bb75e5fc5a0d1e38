//! Apache Iggy as a driver, through its published client.
//!
//! Unlike the other drivers it does not speak the protocol itself: Iggy's changes from version to version, and its client
//! is how it is used. So the client library's costs are in the figures. It runs on this thread, on a runtime
//! that only turns while the engine waits. The client has one request in flight on a connection; what has to wait follows in
//! order. A subscriber polls: at once after it got something, else after [`POLL_PAUSE`]. Not tried against a server by this
//! project: no package registry has one.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use iggy::prelude::{
    Client, Consumer, ConsumerGroupClient, Identifier, IggyClient, IggyMessage, MessageClient,
    Partitioning, PollingStrategy, StreamClient, TopicClient, TopicCreateOptions,
};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::LocalSet;

use super::Load;
use super::driver::{Arrival, Driver, Outgoing, STAMP_NONE, What};
use super::payloads::Payloads;

/// The stream that holds every topic of a load.
const STREAM: &str = "loadtest";
/// Whom a server with default credentials knows.
const CREDENTIALS: &str = "iggy:iggy";
/// How long connecting and each answer before the load may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Batches of a publisher without an ack, in the one request or waiting for it.
const WINDOW_MAX: u32 = 65_536;
/// Messages asked for by one poll.
const POLL_MESSAGES: u32 = 1_000;
/// Pause after a poll that found nothing: without it, one idle subscriber would take the whole core.
const POLL_PAUSE: Duration = Duration::from_millis(1);
/// Topics of a load with subscribers, each of which polls one after the other.
const POLLED_TOPICS_MAX: u32 = 100;

/// What a task tells the engine; an error ends the run.
type Told = anyhow::Result<Arrival>;

/// All connections to one Iggy server.
pub(crate) struct IggyDriver {
    runtime: Runtime,
    /// The connections at work.
    tasks: LocalSet,
    publishers: Vec<UnboundedSender<Outgoing>>,
    told: UnboundedReceiver<Told>,
    /// Taken from `told`, and not yet received by the engine.
    taken: Vec<Told>,
    /// Wakes on time: the runtime's own clock only knows milliseconds.
    timer: AsyncFd<OwnedFd>,
    control: IggyClient,
}

/// Makes the stream and its topics anew, and connects everybody.
pub(crate) fn connect(load: &Load) -> anyhow::Result<IggyDriver> {
    ensure!(!load.behind, "this driver publishes no backlog");
    ensure!(load.idle == 0, "this driver opens no idle connections");
    ensure!(
        load.subscribers == 0 || load.topics <= POLLED_TOPICS_MAX,
        "{} topics: a subscriber of this driver polls at most {POLLED_TOPICS_MAX}",
        load.topics
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    let (tell, told) = unbounded_channel();
    let control = tasks.block_on(&runtime, async {
        let control = open(load).await?;
        make_topics(&control, load).await?;
        Ok::<_, anyhow::Error>(control)
    })?;
    for index in 0..load.subscribers {
        let group = index % load.groups;
        let client = tasks.block_on(&runtime, join(load, group))?;
        tasks.spawn_local(subscribe(client, load.clone(), group, tell.clone()));
    }
    let payloads = Rc::new(Payloads::new(load.shape.data_bytes));
    let mut publishers = Vec::new();
    for index in 0..load.publishers {
        let client = tasks.block_on(&runtime, open(load))?;
        let (send, sends) = unbounded_channel();
        let publisher = Publisher {
            index: index as usize,
            client,
            topics: load
                .topics_of(index)
                .iter()
                .map(|name| topic_id(name))
                .collect::<Result<_, _>>()?,
            keys: load.shape.keys,
            batch: load.shape.batch,
            payloads: payloads.clone(),
        };
        tasks.spawn_local(publisher.run(sends, tell.clone()));
        publishers.push(send);
    }
    let timer = {
        let _inside = runtime.enter();
        timer()?
    };
    Ok(IggyDriver { runtime, tasks, publishers, told, taken: Vec::new(), timer, control })
}

/// A clock that the runtime watches. The function is deprecated for what does not own its descriptor for as long as it is watched;
/// an [`OwnedFd`] does, and this crate has no unsafe code to say so.
#[expect(deprecated, reason = "its successor is unsafe")]
fn timer() -> anyhow::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    Ok(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?)
}

async fn open(load: &Load) -> anyhow::Result<IggyClient> {
    let server = load.server;
    let client = IggyClient::from_connection_string(&format!("iggy://{CREDENTIALS}@{server}"))?;
    in_time(client.connect())
        .await
        .with_context(|| format!("cannot log in to Iggy at {server}"))?;
    Ok(client)
}

async fn make_topics(control: &IggyClient, load: &Load) -> anyhow::Result<()> {
    let stream = Identifier::named(STREAM)?;
    if in_time(control.get_stream(&stream)).await?.is_some() {
        in_time(control.delete_stream(&stream)).await?;
    }
    in_time(control.create_stream(STREAM)).await?;
    let options =
        TopicCreateOptions { partitions_count: Some(load.partitions), ..Default::default() };
    for topic in 0..load.topics {
        let name = topic_name(&load.topic(topic));
        in_time(control.create_topic(&stream, &name, &options)).await?;
        for group in 0..if load.subscribers > 0 { load.groups } else { 0 } {
            let name = load.group_name(group);
            let topic = topic_id(&load.topic(topic))?;
            in_time(control.create_consumer_group(&stream, &topic, &name)).await?;
        }
    }
    Ok(())
}

/// A connection that is a member of a group on every topic.
async fn join(load: &Load, group: u32) -> anyhow::Result<IggyClient> {
    let client = open(load).await?;
    let (stream, group) = (Identifier::named(STREAM)?, Identifier::named(&load.group_name(group))?);
    for topic in 0..load.topics {
        let topic = topic_id(&load.topic(topic))?;
        in_time(client.join_consumer_group(&stream, &topic, &group)).await?;
    }
    Ok(client)
}

async fn in_time<T>(
    answer: impl Future<Output = Result<T, iggy::prelude::IggyError>>,
) -> anyhow::Result<T> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => bail!("no answer from Iggy in {ANSWER_TIMEOUT:?}"),
    }
}

/// Iggy's names hold no slash.
fn topic_name(name: &str) -> String {
    name.replace('/', ".")
}

fn topic_id(name: &str) -> anyhow::Result<Identifier> {
    Ok(Identifier::named(&topic_name(name))?)
}

/// One publishing connection.
struct Publisher {
    index: usize,
    client: IggyClient,
    topics: Vec<Identifier>,
    keys: u32,
    batch: u32,
    payloads: Rc<Payloads>,
}

impl Publisher {
    /// Sends batch after batch, each when the one before is answered.
    async fn run(self, mut sends: UnboundedReceiver<Outgoing>, tell: UnboundedSender<Told>) {
        while let Some(batch) = sends.recv().await {
            let told = self.send(batch).await.map(|what| Arrival { at: Instant::now(), what });
            if tell.send(told).is_err() {
                return;
            }
        }
    }

    async fn send(&self, batch: Outgoing) -> anyhow::Result<What> {
        let Outgoing { slot, number, stamp_ns } = batch;
        let mut messages = Vec::with_capacity(self.batch as usize);
        for event in 0..self.batch {
            let is_last = event + 1 == self.batch;
            let stamp_ns = if is_last { stamp_ns } else { stamp_ns.max(STAMP_NONE) };
            let mut data = Vec::with_capacity(self.payloads.data_bytes());
            self.payloads.append(number + u64::from(event), stamp_ns, &mut data);
            messages.push(IggyMessage::builder().payload(data.into()).build()?);
        }
        // A batch goes to one partition, as with the other drivers: that of one of the keys.
        let partitioning = match u64::from(self.keys) {
            0 => Partitioning::balanced(),
            keys => Partitioning::messages_key_u64(number % keys),
        };
        let topic = &self.topics[(number % self.topics.len() as u64) as usize];
        let stream = Identifier::named(STREAM)?;
        let sent = self.client.send_messages(&stream, topic, &partitioning, &mut messages).await;
        let publisher = self.index;
        Ok(match sent {
            Ok(_) => What::Acked { publisher, slot, events: self.batch },
            Err(error) => What::Refused { publisher, slot, text: error.to_string() },
        })
    }
}

/// Polls every topic in turn until the run has ended.
async fn subscribe(client: IggyClient, load: Load, group: u32, tell: UnboundedSender<Told>) {
    if let Err(error) = poll(&client, &load, group, &tell).await {
        // The engine may have gone, and then nobody asks.
        let _ = tell.send(Err(error));
    }
}

async fn poll(
    client: &IggyClient,
    load: &Load,
    group: u32,
    tell: &UnboundedSender<Told>,
) -> anyhow::Result<()> {
    let stream = Identifier::named(STREAM)?;
    let topics: Vec<Identifier> =
        (0..load.topics).map(|topic| topic_id(&load.topic(topic))).collect::<Result<_, _>>()?;
    let consumer = Consumer::group(Identifier::named(&load.group_name(group))?);
    let next = PollingStrategy::next();
    loop {
        let mut is_idle = true;
        for topic in &topics {
            let polled = client
                .poll_messages(&stream, topic, None, &consumer, &next, POLL_MESSAGES, true)
                .await?;
            let at = Instant::now();
            for message in polled.messages {
                is_idle = false;
                let stamp = message.payload.first_chunk().context("a delivery has no stamp")?;
                let stamp_ns = u64::from_le_bytes(*stamp);
                let what = What::Delivered { group, events: 1, again: false, stamp_ns };
                if tell.send(Ok(Arrival { at, what })).is_err() {
                    return Ok(());
                }
            }
        }
        if is_idle {
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
}

impl Driver for IggyDriver {
    fn window_max(&self) -> u32 {
        WINDOW_MAX
    }

    fn publish(&mut self, publisher: usize, batch: Outgoing) -> anyhow::Result<()> {
        self.publishers[publisher].send(batch).ok().context("a connection to Iggy has ended")
    }

    fn flush(&mut self, _publisher: usize) -> anyhow::Result<()> {
        // Sent when the runtime turns, which is whenever the engine waits.
        Ok(())
    }

    fn is_blocked(&self, _publisher: usize) -> bool {
        // The client takes everything; what has to wait, waits in it.
        false
    }

    fn wait(&mut self, timeout: Duration) -> anyhow::Result<usize> {
        // Zero would stop the clock instead of letting it ring at once.
        let timeout = timeout.max(Duration::from_nanos(1));
        let it_value = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(self.timer.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        let IggyDriver { runtime, tasks, told, taken, timer, .. } = self;
        tasks.block_on(runtime, async {
            tokio::select! {
                biased;
                arrival = told.recv() => taken.extend(arrival),
                rang = timer.readable() => rang?.clear_ready(),
            }
            Ok::<_, anyhow::Error>(())
        })?;
        while let Ok(arrival) = told.try_recv() {
            taken.push(arrival);
        }
        Ok(usize::from(!taken.is_empty()))
    }

    fn receive(&mut self, _ready: usize, arrivals: &mut Vec<Arrival>) -> anyhow::Result<()> {
        for told in self.taken.drain(..) {
            arrivals.push(told?);
        }
        Ok(())
    }

    fn on_time(&mut self) -> anyhow::Result<()> {
        // The client pings by itself.
        Ok(())
    }

    fn leave(&mut self) {
        let IggyDriver { runtime, tasks, control, .. } = self;
        // What is left over is removed by the next run.
        let _ = tasks.block_on(runtime, async {
            in_time(control.delete_stream(&Identifier::named(STREAM)?)).await
        });
    }

    fn notes(&self) -> Vec<String> {
        vec![format!(
            "Iggy: its published Rust client, one request in flight of a connection; groups poll, each {POLL_PAUSE:?} when \
             idle, and commit by themselves; what an ack means is the server's default"
        )]
    }
}
