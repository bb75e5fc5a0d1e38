//! The simulated disk: files that lose what was not synced, tear what was being written, and answer out of order.
//!
//! [`files`] is what stands on the disk and what of it is durable; [`queue`] is the non-blocking way to it, one for
//! each shard. What is durable is what a sync or a synced write has returned for, *as seen by who asked*: a synced
//! write whose completion was not yet taken may still be lost.

pub mod bytes;
pub mod files;
pub mod queue;
pub mod storage;
