//! The commands of the binary, in the order of `ringmesh --help`.

pub mod args;
pub mod batches;
pub mod connection;
pub mod events;
pub mod failure;
pub mod output;
pub mod publish;
pub mod signals;
pub mod start;
pub mod subscribe;
