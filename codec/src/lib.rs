//! The event in memory, on the wire and on disk: one layout for all three.
//!
//! Pure: no I/O, no clock, no threads. A [`batch`] is a fixed [`header`] and a [`body`] of events. The body is made
//! once by the client or the door, checksummed there, and never rewritten; only the header is stamped on append.
#![forbid(unsafe_code)]

pub mod ack;
pub mod attribute;
pub mod batch;
pub mod body;
pub mod builder;
#[cfg(feature = "cloudevents")]
pub mod cloudevents;
pub mod crc32c;
pub mod error;
pub mod event;
pub mod frame;
pub mod header;
pub mod ids;
pub mod limits;
pub mod murmur2;
#[cfg(feature = "cloudevents")]
pub mod problem;
pub mod refusal;

#[cfg(test)]
mod sample;
