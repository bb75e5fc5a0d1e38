//! Shards and logs under a seeded clock, disk and network that tear, lose, delay and reorder; and checkers that hold
//! them to what they promise.
//!
//! Read in this order: [`plan`] (what a seed means), [`world`] (one run), [`node`], [`kernel`], [`network`], [`disk`]
//! (what shards stand on), [`control`], [`publisher`], [`subscriber`] (who uses them), [`ledger`] (what clients know),
//! [`verdicts`] (what they said of it), [`audit`] (what stands in the logs), [`copies`] (what the server made of events),
//! [`check`] (what must hold). Everything that happens follows from the seed.
#![forbid(unsafe_code)]

pub mod audit;
pub mod check;
pub mod control;
pub mod copies;
pub mod deletion;
pub mod disk;
pub mod faults;
pub mod kernel;
pub mod ledger;
pub mod network;
pub mod node;
pub mod numbering;
pub mod plan;
pub mod policies;
pub mod publisher;
pub mod random;
pub mod run;
pub mod scenarios;
pub mod scene;
pub mod subscriber;
pub mod trace;
pub mod verdicts;
pub mod world;
