//! The assembled server, over real sockets, with real clients.
