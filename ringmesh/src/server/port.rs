//! A port that is claimed early and opened late.
//!
//! A server whose port is taken must say so before it spends time on recovery, but nobody may connect before it is
//! over: a bound socket that does not listen yet does both.

use std::io;
use std::net::{SocketAddr, TcpListener};

use super::StartError;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait for the accept thread.
const BACKLOG: i32 = 1_024;

/// A claimed port.
#[derive(Debug)]
pub(crate) struct Port {
    socket: Socket,
    flag: &'static str,
    listen: SocketAddr,
}

/// Claims the address that `flag` sets. A port that somebody listens on is refused here.
pub(crate) fn claim(flag: &'static str, listen: SocketAddr) -> Result<Port, StartError> {
    let bound = Port::bind(listen);
    let socket = bound.map_err(|error| StartError::Port { flag, listen, error })?;
    Ok(Port { socket, flag, listen })
}

impl Port {
    fn bind(address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // Connections of the server before may linger for a minute; they must not keep this one from starting.
        // SO_REUSEPORT stays off: two servers on one port would split its clients.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    }

    /// Opens it: from here on connections come in.
    pub(super) fn open(self) -> Result<TcpListener, StartError> {
        let Port { socket, flag, listen } = self;
        socket.listen(BACKLOG).map_err(|error| StartError::Port { flag, listen, error })?;
        Ok(socket.into())
    }

    /// The same, and where that is: port 0 becomes a number.
    pub(super) fn open_at(self) -> Result<(TcpListener, SocketAddr), StartError> {
        let (flag, listen) = (self.flag, self.listen);
        let listener = self.open()?;
        let address = listener.local_addr();
        let address = address.map_err(|error| StartError::Port { flag, listen, error })?;
        Ok((listener, address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two servers on one port would each get half of the clients.
    #[test]
    fn a_port_is_claimed_once() {
        let port = claim("--listen", SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = port.socket.local_addr().unwrap().as_socket().unwrap();
        let error = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "claimed is not open");
        let listener = port.open().unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        std::net::TcpStream::connect(address).unwrap();
        let refused = claim("--admin", address).unwrap_err();
        let StartError::Port { flag, error, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((flag, error.kind()), ("--admin", io::ErrorKind::AddrInUse));
    }
}
