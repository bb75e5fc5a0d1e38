//! The admin port: health, metrics, and the API by which people and programs look into a server and change it.
//!
//! Lives on a thread of its own, which stands back for the shards. It shares nothing with them: a shard answers a question
//! with a value of its own making, a bounded step at a time ([`dataplane::inquiry`]), and one that does not answer in
//! [`limits::ANSWER_TIMEOUT`] is told of as such. So neither a slow client nor many of them can keep a shard from its
//! work.
//!
//! Read in this order: [`sources`] (what the server gives it), [`server`] (the thread, connections and their limits),
//! [`problem`] (every error), `ask` (questions to shards and control plane), `health`, [`metrics`], [`api`].
#![forbid(unsafe_code)]

pub mod access;
pub mod api;
mod ask;
mod clock;
mod health;
pub mod limits;
pub mod metrics;
pub mod problem;
pub mod server;
pub mod sources;
