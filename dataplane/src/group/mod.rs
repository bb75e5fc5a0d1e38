//! Who gets what: the members of a group as one shard sees them, and, per log, what is in flight to whom.
//!
//! Pure state: no log, no mailbox, no clock. A shard offers batches and reports what was settled; this module says who
//! is to get them. Invariants: an event is owed until it is settled, and an owed event is either in flight to exactly
//! one member, or idle, or dying: on its way to the dead letters; events of one key are in flight to one member at a time.

pub mod flight;
pub mod group_log;
pub mod keys;
pub mod members;
pub mod rules;

#[cfg(test)]
mod tests;
