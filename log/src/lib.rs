//! Segments, commits, index, recovery and cursors on disk. Knows bytes, positions, offsets and topics' ids; knows no
//! protocol.
//!
//! A shard owns a [`log::Log`] and drives it: it appends, runs, and hands in completions. Everything that blocks is
//! done by the runtime behind [`disk::Disk`], or before the shard runs, by [`folder::open`]. The format of every file
//! is in docs/log-format.md.

pub mod aligned;
pub mod batch;
pub mod count;
pub mod cursor;
pub mod disk;
pub mod folder;
pub mod inspect;
pub mod landing;
pub mod log;
pub mod options;
pub mod positions;
pub mod publishers;
pub mod reader;
pub mod recovery;
pub mod seek;
pub mod segment;
#[cfg(any(test, feature = "sim"))]
pub mod sim_disk;
pub mod size;
pub mod storage;

pub mod blocking_disk;

mod active_index;
mod cache;
mod checkpoint;
mod chores;
mod control;
mod index;
mod scan;
mod segments;
#[cfg(test)]
mod tests;
mod topics;
