#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs, missing_debug_implementations)]

pub mod batch;
pub mod blocking;
mod client;
mod connection;
mod delivery;
mod error;
mod event;
mod incoming;
mod options;
mod publishing;
mod sequences;
mod state;

pub use client::{BatchHandle, Client, PublishHandle};
pub use delivery::{Delivery, Received, Subscription, Verdict};
pub use error::{ConnectError, PublishError, ServerRefusal, SubscribeError};
pub use event::Event;
pub use options::{ClientOptions, Mode, Start, SubscribeOptions};
pub use publishing::{Ack, BatchAck};

// What the calls above take and give that is the protocol's own.
pub use codec::ack::AckLevel;
pub use codec::attribute::{Key, Value};
pub use codec::error::{BuildError, DecodeError};
pub use codec::event::{DataKind, Event as ReceivedEvent};
pub use codec::frame::Welcome;
pub use codec::ids::{Offset, Partition, Timestamp};
pub use codec::refusal::{Code, Who};
