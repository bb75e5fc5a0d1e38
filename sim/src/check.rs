//! The checkers: each holds the node to one promise. They know what clients know, and what stands in the logs.

pub mod acknowledged;
pub mod cursors;
pub mod deletion;
pub mod letters;
pub mod line;
pub mod matched;
pub mod memory;
pub mod order;
pub mod owed;
pub mod parked;
pub mod progress;
pub mod resent;
pub mod rests;
pub mod retention;
pub mod sticky;
pub mod whole;
