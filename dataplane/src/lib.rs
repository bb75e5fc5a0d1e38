//! The shard: one core's synchronous state machine, and the thread-per-core runtime that drives it.
//!
//! Read in this order: [`session`] (what a door sees), [`control`] (what the control plane sees), [`inquiry`] (what a shard tells of itself), [`kernel`] (what a
//! shard stands on), [`shard`] (the machine), [`group`] (who gets what), [`runtime`] (the real kernel).
#![deny(unsafe_code)]

pub mod control;
pub mod dead_letter;
pub mod fence;
pub mod group;
pub mod inquiry;
pub mod kernel;
pub mod letter;
pub mod mail;
pub mod mailbox;
pub mod options;
pub mod outbound;
pub mod parked;
pub mod runtime;
pub mod selection;
pub mod session;
pub mod shard;
pub mod token;
