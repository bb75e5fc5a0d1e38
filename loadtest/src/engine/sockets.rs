//! A driver for protocols that this program speaks itself: one thread watches every connection by epoll.
//!
//! It does not spin: a client that burns its core cannot tell that it is the limit.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::event::epoll;
use rustix::fd::OwnedFd;
use rustix::time::Timespec;

use super::driver::{Arrival, Driver, Outgoing, What};

/// Bytes read at a time.
const SCRATCH_BYTES: usize = 256 << 10;
/// Sockets looked at for one wait.
const READY_MAX: usize = 256;

/// One connection of one protocol.
pub(crate) trait Link {
    /// The socket, to be watched.
    fn stream(&self) -> &TcpStream;
    /// Whether the socket takes nothing for now.
    fn is_blocked(&self) -> bool;
    /// Writes what the socket takes.
    fn flush(&mut self) -> io::Result<()>;
    /// Appends a batch to what is to be sent.
    fn publish(&mut self, batch: Outgoing);
    /// Reads once, tells what came and queues the answers to it. Returns false when the server has closed.
    fn receive(&mut self, scratch: &mut [u8], arrivals: &mut Vec<Arrival>) -> anyhow::Result<bool>;
    /// Sends a ping if it is time for one.
    fn ping(&mut self);
    /// Queues the protocol's goodbye.
    fn leave(&mut self);
    /// What the acks that came here promise, where acks tell.
    fn acks_say(&self) -> Option<&'static str> {
        None
    }
}

struct Watched<L> {
    link: L,
    /// Whether the socket is watched for room to write.
    for_room: bool,
}

/// All connections to one server; the first so many publish.
pub(crate) struct Sockets<L> {
    epoll: OwnedFd,
    links: Vec<Watched<L>>,
    publishers: usize,
    window_max: u32,
    ready: Vec<epoll::Event>,
    scratch: Vec<u8>,
    /// How often links are asked whether a ping is due, and when next.
    next_ping: std::time::Instant,
    notes: Vec<String>,
    /// What the server said of its configuration.
    says: Option<String>,
}

impl<L: Link> Sockets<L> {
    /// Watches these links, of which the first `publishers` publish.
    pub(crate) fn new(links: Vec<L>, publishers: usize, window_max: u32) -> anyhow::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, link) in links.iter().enumerate() {
            link.stream().set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, link.stream(), data, epoll::EventFlags::IN)?;
        }
        Ok(Sockets {
            epoll,
            links: links.into_iter().map(|link| Watched { link, for_room: false }).collect(),
            publishers,
            window_max,
            ready: Vec::with_capacity(READY_MAX),
            scratch: vec![0; SCRATCH_BYTES],
            next_ping: std::time::Instant::now(),
            notes: Vec::new(),
            says: None,
        })
    }

    /// Adds what a reader must know of this client.
    pub(crate) fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    /// Keeps what the server said of its configuration.
    pub(crate) fn server_said(&mut self, text: String) {
        self.says = Some(text);
    }

    fn flush_link(&mut self, index: usize) -> anyhow::Result<()> {
        let watched = &mut self.links[index];
        watched.link.flush().context("the connection broke")?;
        if watched.link.is_blocked() != watched.for_room {
            watched.for_room = watched.link.is_blocked();
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, watched.for_room);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, watched.link.stream(), data, flags)?;
        }
        Ok(())
    }
}

impl<L: Link> Driver for Sockets<L> {
    fn window_max(&self) -> u32 {
        self.window_max
    }

    fn publish(&mut self, publisher: usize, batch: Outgoing) -> anyhow::Result<()> {
        self.links[publisher].link.publish(batch);
        Ok(())
    }

    fn flush(&mut self, publisher: usize) -> anyhow::Result<()> {
        self.flush_link(publisher)
    }

    fn is_blocked(&self, publisher: usize) -> bool {
        self.links[publisher].link.is_blocked()
    }

    fn wait(&mut self, timeout: Duration) -> anyhow::Result<usize> {
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        self.ready.clear();
        let room = rustix::buffer::spare_capacity(&mut self.ready);
        match epoll::wait(&self.epoll, room, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => Ok(0),
            result => {
                result?;
                Ok(self.ready.len())
            }
        }
    }

    fn receive(&mut self, ready: usize, arrivals: &mut Vec<Arrival>) -> anyhow::Result<()> {
        let (index, flags) = (self.ready[ready].data.u64() as usize, self.ready[ready].flags);
        if flags.contains(epoll::EventFlags::OUT) {
            self.flush_link(index)?;
            if index < self.publishers {
                let what = What::Room { publisher: index };
                arrivals.push(Arrival { at: std::time::Instant::now(), what });
            }
        }
        if flags != epoll::EventFlags::OUT {
            let Sockets { links, scratch, .. } = self;
            if !links[index].link.receive(scratch, arrivals)? {
                bail!("the server closed a connection in the middle of the run");
            }
            // A publisher is flushed by the engine, after it has refilled the window.
            if index >= self.publishers {
                self.flush_link(index)?;
            }
        }
        Ok(())
    }

    fn on_time(&mut self) -> anyhow::Result<()> {
        if std::time::Instant::now() < self.next_ping {
            return Ok(());
        }
        self.next_ping = std::time::Instant::now() + Duration::from_secs(1);
        for index in 0..self.links.len() {
            self.links[index].link.ping();
            self.flush_link(index)?;
        }
        Ok(())
    }

    fn leave(&mut self) {
        for Watched { link, .. } in &mut self.links {
            link.leave();
            // A server that has gone meanwhile needs no goodbye.
            let _ = link.flush();
            let _ = link.stream().shutdown(std::net::Shutdown::Write);
        }
    }

    fn server_says(&self) -> Option<String> {
        let mut acks: Vec<&str> =
            self.links.iter().filter_map(|watched| watched.link.acks_say()).collect();
        acks.sort_unstable();
        acks.dedup();
        let acks = (!acks.is_empty()).then(|| format!("acks: {}", acks.join(" and ")));
        self.says.clone().or(acks)
    }

    fn notes(&self) -> Vec<String> {
        self.notes.clone()
    }
}
