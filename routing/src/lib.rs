//! Topic filters, topic policies, the persistent trie and the routing snapshot. Pure: no I/O, no clock, no log lines.
//!
//! A [`snapshot::RoutingSnapshot`] is an immutable value that the control plane makes and every shard reads. A
//! [`snapshot::SnapshotEditor`] makes the next one by path copying: the two share all that did not change, so an edit
//! costs the levels of its filter and a shard that still reads the old value sees nothing of it.

#![forbid(unsafe_code)]

pub mod delivery_policy;
mod filters;
pub mod internal_topics;
pub mod match_cache;
mod persistent_map;
pub mod snapshot;
pub mod subscription;
pub mod topic;
pub mod topic_policy;

#[cfg(test)]
mod tests;
