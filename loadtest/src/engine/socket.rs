//! One client socket: what is on its way out, and what has come of a message whose end has not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// A connected socket with its two buffers. Knows nothing of any protocol.
pub(crate) struct Socket {
    stream: TcpStream,
    /// Bytes to be sent; those before `sent` are.
    pub(crate) out: Vec<u8>,
    sent: usize,
    /// The start of a message whose end has not come.
    inbox: Vec<u8>,
    /// Whether the socket takes nothing more for now.
    pub(crate) blocked: bool,
}

impl Socket {
    /// Connects; reads and writes wait at most `timeout` until the driver makes them return at once.
    pub(crate) fn open(server: SocketAddr, timeout: Duration) -> anyhow::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, timeout)
            .with_context(|| format!("no server at {server}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Socket { stream, out: Vec::new(), sent: 0, inbox: Vec::new(), blocked: false })
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

    /// Reads once. `consume` gets all bytes that were not consumed before and the out buffer, and returns how many
    /// bytes it has used. Returns false when the server has closed.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut [u8],
        mut consume: impl FnMut(&[u8], &mut Vec<u8>) -> anyhow::Result<usize>,
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
            let used = consume(fresh, &mut self.out)?;
            self.inbox.extend_from_slice(&fresh[used..]);
        } else {
            self.inbox.extend_from_slice(fresh);
            let used = consume(&self.inbox, &mut self.out)?;
            self.inbox.drain(..used);
        }
        Ok(true)
    }
}
