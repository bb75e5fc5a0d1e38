//! One connection: its socket, what is on its way out, and what of a frame has come so far.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use codec::frame::{self, Frame, Hello, Kind, Parsed, Subscribe, Welcome};

/// How long an answer to hello or subscribe may take before the run gives up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that has been welcomed.
pub(crate) struct Connection {
    stream: TcpStream,
    /// What the server said about limits.
    pub(crate) welcome: Welcome,
    /// Bytes to be sent; those before `sent` are.
    pub(crate) out: Vec<u8>,
    sent: usize,
    /// The start of a frame whose end has not come.
    inbox: Vec<u8>,
    /// Whether the socket takes nothing more for now.
    pub(crate) blocked: bool,
}

impl Connection {
    /// Connects and says hello as `client_id`.
    pub(crate) fn open(server: SocketAddr, client_id: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, ANSWER_TIMEOUT)
            .with_context(|| format!("no server at {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut connection = Connection {
            stream,
            welcome: Welcome::default(),
            out: Vec::new(),
            sent: 0,
            inbox: Vec::new(),
            blocked: false,
        };
        Hello::new(client_id).encode(&mut connection.out);
        connection.welcome = connection.ask("hello", |_, frame| match frame {
            Frame::Welcome(welcome) => Some(welcome),
            _ => None,
        })?;
        Ok(connection)
    }

    /// Subscribes under number `number`, and waits until every event acknowledged from here on will be delivered.
    pub(crate) fn subscribe(&mut self, number: u64, wish: &Subscribe<'_>) -> anyhow::Result<()> {
        wish.encode(number, &mut self.out);
        self.ask("subscribe", |request, frame| {
            (request == number && matches!(frame, Frame::Subscribed)).then_some(())
        })
    }

    /// From here on reads and writes return instead of waiting.
    pub(crate) fn go(&self) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }

    /// The socket, to be watched.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Writes what the socket takes. What it does not take stays, and `blocked` says so.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.blocked = false;
        while self.sent < self.out.len() {
            match self.stream.write(&self.out[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Reads once and calls `on_frame` with the request and the content of each whole frame. Returns false when the
    /// server has closed.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut on_frame: impl FnMut(&mut Vec<u8>, u64, Frame<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let found = match self.stream.read(scratch) {
            Ok(0) => return Ok(false),
            Ok(found) => found,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(true);
            }
            Err(error) => return Err(error).context("the connection broke"),
        };
        let fresh = &scratch[..found];
        if self.inbox.is_empty() {
            let used = each_frame(fresh, &mut self.out, &mut on_frame)?;
            self.inbox.extend_from_slice(&fresh[used..]);
        } else {
            self.inbox.extend_from_slice(fresh);
            let used = each_frame(&self.inbox, &mut self.out, &mut on_frame)?;
            self.inbox.drain(..used);
        }
        Ok(true)
    }

    /// Sends what stands in `out` and waits for the frame that `pick` takes. Only before [`Connection::go`].
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
