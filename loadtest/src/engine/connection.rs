//! One native connection: a socket on which frames come and go.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use codec::frame::{self, Frame, Hello, Kind, Parsed, Subscribe, Welcome};

use super::socket::Socket;

/// How long an answer to hello or subscribe may take before the run gives up.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that has been welcomed. It is its socket, with the frames understood.
pub(crate) struct Connection {
    socket: Socket,
    /// What the server said about limits.
    pub(crate) welcome: Welcome,
}

impl Deref for Connection {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl DerefMut for Connection {
    fn deref_mut(&mut self) -> &mut Socket {
        &mut self.socket
    }
}

impl Connection {
    /// Connects and says hello as `client_id`.
    pub(crate) fn open(server: SocketAddr, client_id: &str) -> anyhow::Result<Self> {
        let socket = Socket::open(server, ANSWER_TIMEOUT)?;
        let mut connection = Connection { socket, welcome: Welcome::default() };
        Hello::new(client_id).encode(&mut connection.out);
        connection.welcome = connection.ask("hello", |_, frame| match frame {
            Frame::Welcome(welcome) => Some(welcome),
            _ => None,
        })?;
        Ok(connection)
    }

    /// Connects and sends hello with what `write` puts behind it, without waiting for the welcome.
    pub(crate) fn begin(
        server: SocketAddr,
        client_id: &str,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> anyhow::Result<Self> {
        let socket = Socket::open(server, ANSWER_TIMEOUT)?;
        let mut connection = Connection { socket, welcome: Welcome::default() };
        Hello::new(client_id).encode(&mut connection.out);
        write(&mut connection.out);
        connection.flush().context("cannot send hello")?;
        Ok(connection)
    }

    /// Subscribes under number `number`, and waits until every event acknowledged from here on will be delivered.
    pub(crate) fn subscribe(&mut self, number: u64, wish: &Subscribe<'_>) -> anyhow::Result<()> {
        wish.encode(number, &mut self.out);
        self.ask("subscribe", |request, frame| {
            (request == number && matches!(frame, Frame::Subscribed)).then_some(())
        })
    }

    /// Reads once and calls `on_frame` with the request and the content of each whole frame. Returns false when the
    /// server has closed.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut on_frame: impl FnMut(&mut Vec<u8>, u64, Frame<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        self.socket.receive(scratch, |bytes, out| each_frame(bytes, out, &mut on_frame))
    }

    /// Sends what stands in `out` and waits for the frame that `pick` takes. Only before the socket is watched.
    fn ask<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(u64, Frame<'_>) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.flush().with_context(|| format!("cannot send {what}"))?;
        let mut scratch = [0; 4096];
        let (asked, mut picked) = (Instant::now(), None);
        while picked.is_none() {
            let open = self.receive(&mut scratch, |out, request, frame| {
                match frame {
                    Frame::Refusal(refusal) => bail!("{what} is refused: {}", refusal.text),
                    Frame::Ping(bytes) => frame::encode_plain(Kind::Pong, request, bytes, out),
                    frame => picked = picked.take().or_else(|| pick(request, frame)),
                }
                Ok(())
            })?;
            if !open {
                bail!("the server closed the connection instead of answering {what}");
            }
            if picked.is_none() && asked.elapsed() > ANSWER_TIMEOUT {
                bail!("no answer to {what} in {ANSWER_TIMEOUT:?}");
            }
        }
        picked.context("an answer was picked")
    }
}

fn each_frame(
    bytes: &[u8],
    out: &mut Vec<u8>,
    on_frame: &mut impl FnMut(&mut Vec<u8>, u64, Frame<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<usize> {
    let mut used = 0;
    while let Parsed::Frame { request, frame, consumed } =
        frame::parse(&bytes[used..]).context("the server sent something else than frames")?
    {
        on_frame(out, request, frame)?;
        used += consumed;
    }
    Ok(used)
}
