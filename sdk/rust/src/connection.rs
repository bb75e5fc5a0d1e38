//! The task of a client: one connection after the other, until the client ends.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use codec::frame::{
    self, FEATURE_REJECT, FEATURE_SEQUENCES, Frame, GoodbyeFrame, Hello, Kind, Parsed, Subscribe,
    TopicFrame, Welcome, WireMode, WireStart,
};
use codec::ids::TopicId;
use codec::refusal::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::{ConnectError, PublishError, ServerRefusal, SubscribeError};
use crate::incoming::{Broken, Incoming};
use crate::options::{ClientOptions, Mode, Start};
use crate::state::{Command, Phase, Shared, State, Subscribed};

/// The first pause between two attempts to connect; doubles.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
/// The longest such pause.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Bytes that are encoded ahead of the socket. What is beyond waits in its queue.
const OUT_BYTES_MAX: usize = 1 << 20;
/// From this size on a batch is sent from where it stands instead of being copied behind its frame header.
const COPY_BYTES_MAX: usize = 8 << 10;
/// Chunks of one vectored write.
const SLICES_MAX: usize = 64;
/// Settlements of one frame, in bytes.
const SETTLE_BYTES_MAX: usize = 60 << 10;
/// How long the server's goodbye is waited for.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that has been welcomed.
pub(crate) struct Connected {
    pub(crate) stream: TcpStream,
    pub(crate) welcome: Welcome,
    /// What came behind the welcome.
    buffer: BytesMut,
}

/// Connects and says hello.
pub(crate) async fn connect(options: &ClientOptions) -> Result<Connected, ConnectError> {
    let limit = options.connect_timeout;
    let timed_out = || ConnectError::TimedOut { server: options.server.clone(), after: limit };
    tokio::time::timeout(limit, greet(options)).await.map_err(|_| timed_out())?
}

async fn greet(options: &ClientOptions) -> Result<Connected, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { server: options.server.clone(), source };
    let mut stream = TcpStream::connect(&options.server).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    let mut out = Vec::new();
    let features = FEATURE_SEQUENCES | FEATURE_REJECT;
    Hello { features, ..Hello::new(&options.client_id) }.encode(&mut out);
    stream.write_all(&out).await.map_err(unreachable)?;
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        match frame::parse(&buffer) {
            Ok(Parsed::Incomplete { .. }) => {}
            Ok(Parsed::Frame { frame: Frame::Welcome(welcome), consumed, .. }) => {
                buffer.advance(consumed);
                return Ok(Connected { stream, welcome, buffer });
            }
            Ok(Parsed::Frame { frame: Frame::Refusal(refusal), .. }) => {
                return Err(ConnectError::Refused(ServerRefusal::from_frame(&refusal)));
            }
            Ok(_) => {
                let what = "it does not answer hello with welcome".into();
                return Err(ConnectError::Protocol { what });
            }
            Err(error) => return Err(ConnectError::Protocol { what: error.to_string() }),
        }
        if stream.read_buf(&mut buffer).await.map_err(unreachable)? == 0 {
            return Err(unreachable(io::ErrorKind::ConnectionReset.into()));
        }
    }
}

/// Ends a client with its connection, also when whoever drives the connection drops it: nobody may wait for ever.
pub(crate) struct End(pub(crate) Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if !state.has_ended() {
            let what = "the runtime that drove it has ended".to_owned();
            state.end(PublishError::Lost { what });
        }
        drop(state);
        self.0.room.notify_waiters();
    }
}

/// Keeps a client connected until it ends.
pub(crate) async fn run(end: End, first: Connected) {
    let (shared, mut connected) = (end.0.clone(), first);
    let error = loop {
        match serve(&shared, connected).await {
            Ok(()) => break PublishError::Closed,
            Err(Broken::Refused(refusal)) if !passes(&refusal) => {
                break PublishError::Refused(refusal);
            }
            Err(broken) => {
                shared.life.fetch_add(1, Ordering::AcqRel);
                begin_again(&mut shared.state());
                match reconnect(&shared, &broken).await {
                    Ok(again) => connected = again,
                    Err(error) => break error,
                }
            }
        }
    };
    shared.state().end(error);
}

/// Whether a refusal that closed the connection says "later" rather than "never".
fn passes(refusal: &ServerRefusal) -> bool {
    let passing = [
        Code::ShuttingDown,
        Code::TooManyConnections,
        Code::IdleTimeout,
        Code::SlowPeer,
        Code::Unavailable,
        Code::Overloaded,
    ];
    refusal.code().is_some_and(|code| passing.contains(&code))
}

/// What is unacknowledged waits again, and subscriptions are asked for again; the rest of the lost connection is void.
fn begin_again(state: &mut State) {
    state.publishing.connection_lost();
    state.settlements.clear();
    state.commands.clear();
    let ended: Vec<u64> = state
        .subscriptions
        .iter()
        .filter(|(_, subscribed)| subscribed.ending.is_some())
        .map(|(number, _)| *number)
        .collect();
    for number in ended {
        let Some(ended) = state.subscriptions.remove(&number) else { continue };
        let lost = || SubscribeError::Lost { what: "the subscription may stand".to_owned() };
        let result = if ended.ends_for_all { Err(lost()) } else { Ok(()) };
        ended.ending.map(|answer| answer.send(result));
    }
    state.commands.extend(state.subscriptions.keys().map(|number| Command::Subscribe(*number)));
}

async fn reconnect(shared: &Arc<Shared>, broken: &Broken) -> Result<Connected, PublishError> {
    let until = Instant::now() + shared.options.reconnect_timeout;
    let mut pause = RECONNECT_FIRST;
    let mut what = match broken {
        Broken::Lost(what) => what.clone(),
        Broken::Refused(refusal) => refusal.to_string(),
    };
    loop {
        let phase = shared.state().phase.clone();
        match phase {
            Phase::Ended(error) => return Err(error),
            Phase::Closing if shared.state_is_settled() => return Err(PublishError::Closed),
            _ => {}
        }
        if Instant::now() >= until {
            return Err(PublishError::Lost { what });
        }
        tokio::time::sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
        pause = (2 * pause).min(RECONNECT_MAX);
        match connect(&shared.options).await {
            Ok(connected) => return Ok(connected),
            Err(ConnectError::Refused(refusal)) if !passes(&refusal) => {
                return Err(PublishError::Refused(refusal));
            }
            Err(error) => what = error.to_string(),
        }
    }
}

/// What is encoded and not yet sent on one connection.
#[derive(Default)]
struct Out {
    chunks: VecDeque<Bytes>,
    /// Small frames that follow the last chunk.
    open: Vec<u8>,
    bytes: usize,
}

impl Out {
    fn share(&mut self, chunk: Bytes) {
        self.close_open();
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
    }

    fn close_open(&mut self) {
        if !self.open.is_empty() {
            self.bytes += self.open.len();
            self.chunks.push_back(Bytes::from(std::mem::take(&mut self.open)));
        }
    }

    fn is_full(&self) -> bool {
        self.bytes + self.open.len() >= OUT_BYTES_MAX
    }

    fn advance(&mut self, mut sent: usize) {
        self.bytes -= sent;
        while sent > 0 {
            let chunk = self.chunks.front_mut().expect("bytes count the chunks");
            let part = sent.min(chunk.len());
            chunk.advance(part);
            sent -= part;
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

/// One connection's own state.
struct Link<'a> {
    shared: &'a Arc<Shared>,
    welcome: Welcome,
    out: Out,
    announced: HashMap<TopicId, Arc<str>>,
    incoming: Incoming,
    heard: Instant,
    said: Instant,
    pinged: bool,
    goodbye: Option<Instant>,
    life: u64,
}

/// Serves one connection. `Ok`: the client has ended in order.
async fn serve(shared: &Arc<Shared>, connected: Connected) -> Result<(), Broken> {
    let Connected { mut stream, welcome, mut buffer } = connected;
    let (mut read, mut write) = stream.split();
    shared.state().publishing.connected(&welcome);
    let now = Instant::now();
    let mut link = Link {
        shared,
        welcome,
        out: Out::default(),
        announced: HashMap::new(),
        incoming: Incoming::default(),
        heard: now,
        said: now,
        pinged: false,
        goodbye: None,
        life: shared.life.load(Ordering::Acquire),
    };
    loop {
        link.incoming.take(&mut buffer, shared, link.life)?;
        shared.room.notify_waiters();
        if link.fill()? {
            return Ok(());
        }
        link.out.close_open();
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        for (slice, chunk) in slices.iter_mut().zip(&link.out.chunks) {
            *slice = IoSlice::new(chunk);
        }
        let count = link.out.chunks.len().min(SLICES_MAX);
        let (deadline, lost) =
            (link.next_timer(), |error: io::Error| Broken::Lost(error.to_string()));
        tokio::select! {
            got = read.read_buf(&mut buffer) => {
                if got.map_err(lost)? == 0 {
                    return link.closed_by_peer();
                }
                link.heard = Instant::now();
                link.pinged = false;
            }
            sent = write.write_vectored(&slices[..count]), if count > 0 => {
                let sent = sent.map_err(lost)?;
                link.out.advance(sent);
                link.said = Instant::now();
            }
            () = shared.wake.notified() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
}

impl Link<'_> {
    /// Encodes what may be sent now. `true`: nothing more is to be done.
    fn fill(&mut self) -> Result<bool, Broken> {
        let now = Instant::now();
        self.check_silence(now)?;
        let shared = self.shared;
        let mut state = shared.state();
        if let Phase::Ended(_) = state.phase {
            return Ok(true);
        }
        self.out.open.append(&mut self.incoming.pongs);
        self.send_settlements(&mut state);
        if self.goodbye.is_none() {
            self.send_commands(&mut state);
        }
        if !self.incoming.goodbye {
            self.send_batches(&mut state, now);
        }
        let over = state.phase == Phase::Closing && state.publishing.is_empty();
        if (over || self.incoming.goodbye) && self.goodbye.is_none() {
            GoodbyeFrame { code: 0, text: "" }.encode(&mut self.out.open);
            self.goodbye = Some(now);
        }
        if self.goodbye.is_some_and(|since| now - since > GOODBYE_TIMEOUT) {
            return if over {
                Ok(true)
            } else {
                Err(Broken::Lost("the server said goodbye".into()))
            };
        }
        Ok(false)
    }

    fn closed_by_peer(&self) -> Result<(), Broken> {
        let state = self.shared.state();
        if self.goodbye.is_some() && state.phase == Phase::Closing && state.publishing.is_empty() {
            return Ok(());
        }
        Err(Broken::Lost("the server closed the connection".into()))
    }

    /// Pings a silent server, and gives up one that stays silent.
    fn check_silence(&mut self, now: Instant) -> Result<(), Broken> {
        let interval = self.ping_interval();
        if self.pinged && now - self.heard > 3 * interval {
            return Err(Broken::Lost("the server is silent".into()));
        }
        let quiet = now - self.said >= interval || now - self.heard >= interval;
        if quiet && !self.pinged {
            frame::encode_plain(Kind::Ping, 0, &[], &mut self.out.open);
            self.pinged = true;
            self.said = now;
        }
        Ok(())
    }

    fn ping_interval(&self) -> Duration {
        Duration::from_millis(u64::from(self.welcome.ping_interval_ms.max(100)))
    }

    fn next_timer(&self) -> Instant {
        let interval = self.ping_interval();
        let ping = if self.pinged {
            self.heard + 3 * interval
        } else {
            self.said.min(self.heard) + interval
        };
        let mut next = ping;
        if let Some(since) = self.goodbye {
            next = next.min(since + GOODBYE_TIMEOUT);
        }
        let linger = self.shared.options.linger;
        if !linger.is_zero()
            && let Some(oldest) = self.shared.state().publishing.oldest_open()
        {
            next = next.min(oldest + linger);
        }
        next + Duration::from_millis(1)
    }

    fn send_settlements(&mut self, state: &mut State) {
        let mut entries = std::mem::take(&mut state.settlements);
        if entries.len() <= SETTLE_BYTES_MAX {
            if !entries.is_empty() {
                frame::encode_settle(0, &entries, &mut self.out.open);
            }
            // The allocation serves again.
            entries.clear();
            state.settlements = entries;
            return;
        }
        let mut rest = entries.as_slice();
        while !rest.is_empty() {
            let mut end = 0;
            while end < rest.len() {
                let bitmap = usize::from(u16::from_le_bytes([rest[end + 2], rest[end + 3]]));
                let next = end + 8 + usize::from(rest[end + 1]) + bitmap;
                if next > SETTLE_BYTES_MAX {
                    break;
                }
                end = next;
            }
            frame::encode_settle(0, &rest[..end], &mut self.out.open);
            rest = &rest[end..];
        }
    }

    fn send_commands(&mut self, state: &mut State) {
        for command in std::mem::take(&mut state.commands) {
            match command {
                Command::Subscribe(number) => {
                    if let Some(subscribed) = state.subscriptions.get(&number) {
                        encode_subscribe(number, subscribed, &mut self.out.open);
                    }
                }
                Command::Unsubscribe { subscription, end } => {
                    frame::encode_unsubscribe(subscription, end, &mut self.out.open);
                }
                Command::Credit { subscription, events } => {
                    frame::encode_credit(subscription, events, &mut self.out.open);
                }
            }
        }
    }

    fn send_batches(&mut self, state: &mut State, now: Instant) {
        let options = &self.shared.options;
        let window = options.window_batches.clamp(1, self.welcome.window_batches_max.max(1));
        let linger = options.linger;
        let closing = state.phase != Phase::Running;
        state.publishing.seal_due(|since| closing || now - since >= linger);
        while !self.out.is_full() {
            let Some((request, sealed)) = state.publishing.send_next(window as usize) else {
                return;
            };
            if self.announced.get(&sealed.number) != Some(&sealed.topic) {
                let topic = TopicFrame { id: sealed.number, name: &sealed.topic };
                topic.encode(&mut self.out.open);
                self.announced.insert(sealed.number, sealed.topic.clone());
            }
            frame::encode_header(Kind::Publish, request, sealed.batch.len(), &mut self.out.open);
            if sealed.batch.len() <= COPY_BYTES_MAX {
                self.out.open.extend_from_slice(&sealed.batch);
            } else {
                self.out.share(sealed.batch.clone());
            }
        }
    }
}

fn encode_subscribe(number: u64, subscribed: &Subscribed, out: &mut Vec<u8>) {
    let options = &subscribed.options;
    // A subscription that stood before keeps its place.
    let start = options.start.as_ref().filter(|_| !subscribed.stands);
    let wire = Subscribe {
        group: options.group.as_deref(),
        filter: &options.filter,
        mode: match options.mode {
            Mode::Clustering => WireMode::Clustering,
            Mode::Broadcasting => WireMode::Broadcasting,
        },
        start: match start {
            None => WireStart::Default,
            Some(Start::Tail) => WireStart::Tail,
            Some(Start::Earliest) => WireStart::Earliest,
            Some(Start::Time(at)) => WireStart::Time(*at),
            Some(Start::Offsets(list)) => WireStart::Offsets(frame::WireOffsets::new(list)),
        },
        credit: options.credit,
    };
    wire.encode(number, out);
}
