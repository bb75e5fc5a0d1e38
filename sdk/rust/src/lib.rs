//! The Rust client of Ringmesh's native protocol.
//!
//! A [`Client`] is one connection, kept up by one task: it publishes with a window of unacknowledged batches, subscribes,
//! and after a lost connection connects again, sends everything unacknowledged again in its order, and subscribes
//! again. Nothing that was published is lost while the client lives, and nothing stands in the log twice: batches have a
//! publisher id and a sequence, by which the server knows one that it has stored already, also after a crash of its own.
//! Only where the client itself gave up ([`PublishError::Lost`]) or the server's disk failed (refused as `log_stopped`) is
//! it unknown whether an event stands there; publishing it anew may double it.
//!
//! ```no_run
//! use ringmesh_client::{Client, ClientOptions, Event, SubscribeOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientOptions::new("127.0.0.1:10300")).await?;
//! let mut fleet = client.subscribe(SubscribeOptions::new("fleet/#").group("billing")).await?;
//!
//! let event = Event::json(r#"{"speed": 42}"#).source("vin-7").kind("telemetry").key("vin-7");
//! let ack = client.publish("fleet/vin-7/telemetry", &event).await?.await?;
//! println!("partition {} offset {}", ack.partition, ack.offset);
//!
//! while let Some(delivery) = fleet.next().await? {
//!     for (offset, event) in delivery.events() {
//!         println!("{offset}: {} bytes", event.data().len());
//!     }
//!     delivery.ack();
//! }
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

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
pub use codec::ack::AckLevel;
pub use codec::frame::Welcome;
pub use delivery::{Delivery, Received, Subscription, Verdict};
pub use error::{ConnectError, PublishError, ServerRefusal, SubscribeError};
pub use event::Event;
pub use options::{ClientOptions, Mode, Start, SubscribeOptions};
pub use publishing::{Ack, BatchAck};
