//! The doors: one module a protocol. A door turns a peer's bytes into requests to its shard, and what the shard says
//! into bytes. Sans-I/O: the runtime, or a test, moves the bytes.
#![forbid(unsafe_code)]

pub mod http;
pub mod native;
