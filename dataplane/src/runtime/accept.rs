//! The accept thread: takes connections off the listeners and gives each to the shard with the fewest.
//!
//! One listener a port, without SO_REUSEPORT, so that a second server on the port is refused by the kernel instead of
//! sharing its clients. Blocking and simple: a connection is handed over once in its life.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use codec::refusal::{Code, Refusal};
use crossbeam::queue::ArrayQueue;
use tracing::{debug, warn};

use super::threads::AbortOnPanic;
use super::wake::{Doorbell, EventFd};
use crate::session::Door;

/// Connections that may wait for one shard to take them.
const ARRIVALS_MAX: usize = 1_024;
/// Connections taken off one listener before the others have their turn.
const ACCEPTS_PER_TURN: u32 = 64;
/// Connections that may wait in the kernel for the accept thread; the system's own limit may be lower. The standard
/// library asks for 128: when a fleet reconnects at once, the rest would try again only after a second.
const BACKLOG: i32 = 4_096;
/// How long to leave the listeners alone when the process is out of descriptors or memory.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection that was turned away stays open after the goodbye: closing at once, with the peer's first
/// bytes unread, would reset the connection and take the goodbye back.
const LEAVING_TIME: Duration = Duration::from_secs(1);
/// Connections that may be leaving; more are closed at once.
const LEAVING_MAX: usize = 64;

/// A connection on its way to its shard.
pub(super) struct Arrival {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) door: Arc<dyn Door>,
    pub(super) seat: Seat,
}

/// Where one shard's connections come in.
pub(super) struct Entrance {
    pub(super) arrivals: ArrayQueue<Arrival>,
    connections: AtomicU32,
    bell: Arc<Doorbell>,
}

impl Entrance {
    pub(super) fn new(bell: Arc<Doorbell>) -> Arc<Self> {
        let arrivals = ArrayQueue::new(ARRIVALS_MAX);
        Arc::new(Entrance { arrivals, connections: AtomicU32::new(0), bell })
    }

    /// Connections of this shard, those on their way to it included.
    pub(super) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// One of a shard's connections, counted until it is dropped.
pub(super) struct Seat(Arc<Entrance>);

impl Seat {
    pub(super) fn take(entrance: &Arc<Entrance>) -> Self {
        entrance.connections.fetch_add(1, Ordering::Relaxed);
        Seat(Arc::clone(entrance))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let before = self.0.connections.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a seat is given back once");
    }
}

/// The accept thread, as its owner sees it. It ends when this is dropped.
pub(super) struct Acceptor {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

struct Stop {
    is_asked: AtomicBool,
    bell: EventFd,
}

impl Acceptor {
    /// Starts to accept. `connections_max` bounds the connections of all shards together.
    pub(super) fn start(
        listeners: Vec<(TcpListener, Arc<dyn Door>)>,
        entrances: Vec<Arc<Entrance>>,
        connections_max: u32,
    ) -> io::Result<Self> {
        assert!(!entrances.is_empty(), "somebody must take the connections");
        for (listener, _) in &listeners {
            listener.set_nonblocking(true)?;
            widen_backlog(listener)?;
        }
        let bell = EventFd::new(libc::EFD_NONBLOCK)?;
        let stop = Arc::new(Stop { is_asked: AtomicBool::new(false), bell });
        let hall = Hall {
            listeners,
            entrances,
            connections_max,
            stop: Arc::clone(&stop),
            is_full: false,
            leaving: VecDeque::new(),
        };
        let thread = std::thread::Builder::new().name("accept".into());
        let thread = thread.spawn(move || hall.run())?;
        Ok(Acceptor { stop, thread: Some(thread) })
    }
}

impl Drop for Acceptor {
    /// Stops accepting and closes the listeners.
    fn drop(&mut self) {
        self.stop.is_asked.store(true, Ordering::Release);
        self.stop.bell.signal();
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            debug_assert!(joined.is_ok(), "a panic of the accept thread ends the process");
        }
    }
}

/// What the accept thread owns.
struct Hall {
    listeners: Vec<(TcpListener, Arc<dyn Door>)>,
    entrances: Vec<Arc<Entrance>>,
    connections_max: u32,
    stop: Arc<Stop>,
    /// Whether the last connection was turned away, so that the log says it once.
    is_full: bool,
    /// Connections that were turned away, and when.
    leaving: VecDeque<(Instant, TcpStream)>,
}

impl Hall {
    fn run(mut self) {
        let _fence = AbortOnPanic("the accept thread");
        let mut ready = Vec::new();
        while !self.stop.is_asked.load(Ordering::Acquire) {
            self.wait(&mut ready);
            self.close_left();
            for &listener in &ready {
                self.accept_some(listener);
            }
        }
    }

    /// Waits until a listener has connections, the end is asked for, or somebody has been leaving for long enough.
    fn wait(&self, ready: &mut Vec<usize>) {
        let fds = self.listeners.iter().map(|(listener, _)| listener.as_raw_fd());
        let fds = fds.chain([self.stop.bell.as_fd().as_raw_fd()]);
        let mut fds: Vec<_> =
            fds.map(|fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 }).collect();
        let timeout_ms = if self.leaving.is_empty() { -1 } else { LEAVING_TIME.as_millis() as i32 };
        // SAFETY: the array is valid for its own length, and its descriptors are open.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
        ready.clear();
        ready.extend((0..self.listeners.len()).filter(|&at| fds[at].revents != 0));
    }

    fn accept_some(&mut self, listener: usize) {
        for _ in 0..ACCEPTS_PER_TURN {
            let (listener, door) = &self.listeners[listener];
            match listener.accept() {
                Ok((stream, peer)) => {
                    let door = Arc::clone(door);
                    self.seat(stream, peer, door);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The peer gave up before its turn came.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    warn!(%error, door = door.name(), "cannot accept: raise the limit of open files");
                    std::thread::sleep(SHORTAGE_PAUSE);
                    return;
                }
            }
        }
    }

    fn seat(&mut self, stream: TcpStream, peer: SocketAddr, door: Arc<dyn Door>) {
        let connections: u32 = self.entrances.iter().map(|entrance| entrance.connections()).sum();
        if connections >= self.connections_max {
            return self.turn_away(stream, &*door);
        }
        self.is_full = false;
        if let Err(error) = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true)) {
            return debug!(%error, %peer, "a connection ended before it began");
        }
        let entrance = self.entrances.iter().min_by_key(|entrance| entrance.connections());
        let entrance = Arc::clone(entrance.expect("there is a shard"));
        let arrival = Arrival { stream, peer, door, seat: Seat::take(&entrance) };
        match entrance.arrivals.push(arrival) {
            Ok(()) => entrance.bell.ring(),
            Err(arrival) => self.refuse(arrival.stream, &*arrival.door, &Code::Overloaded.into()),
        }
    }

    fn turn_away(&mut self, stream: TcpStream, door: &dyn Door) {
        if !self.is_full {
            warn!(
                limit = self.connections_max,
                "connections are turned away: raise connections_max and nofile"
            );
        }
        self.is_full = true;
        let text = format!("connections_max is {}", self.connections_max);
        self.refuse(stream, door, &Refusal::new(Code::TooManyConnections, text));
    }

    fn refuse(&mut self, mut stream: TcpStream, door: &dyn Door, refusal: &Refusal) {
        say_no(&mut stream, door, refusal);
        if self.leaving.len() == LEAVING_MAX {
            self.leaving.pop_front();
        }
        self.leaving.push_back((Instant::now(), stream));
    }

    fn close_left(&mut self) {
        let is_over = |(since, _): &(Instant, TcpStream)| since.elapsed() >= LEAVING_TIME;
        while self.leaving.front().is_some_and(is_over) {
            self.leaving.pop_front();
        }
    }
}

fn widen_backlog(listener: &TcpListener) -> io::Result<()> {
    // SAFETY: takes no pointer; the descriptor is open and listens already, which listen(2) allows.
    let result = unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Says no, without waiting for the peer.
pub(super) fn say_no(stream: &mut TcpStream, door: &dyn Door, refusal: &Refusal) {
    // What does not fit an empty send buffer, or a peer that is gone, makes no difference: it is closed soon.
    let _ = stream.set_nonblocking(true);
    let _ = stream.write_all(&door.refuse(refusal));
    let _ = stream.shutdown(Shutdown::Write);
}
