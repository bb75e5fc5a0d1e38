//! Subscriptions, their catalog, and the snapshots compiled from them.
//!
//! Read in this order: [`control_plane`] (the thread and how it is started), [`plane`] (what it does with a request),
//! [`subscribing`] (who may have which subscription), [`catalog`] (what outlives the process), [`shards`] (the way
//! down), [`operator`] (who looks in). The shards never wait for any of it: when the thread has ended they route on with the snapshot they have.
#![forbid(unsafe_code)]

pub mod catalog;
pub mod control_plane;
mod ids;
pub mod limits;
pub mod operator;
mod outbox;
pub mod plane;
pub mod shards;
mod subscribing;
