//! For publishers that make their batches themselves: events that stand together, in one partition, in their order.
//!
//! ```no_run
//! use ringmesh_client::batch::{BatchBuilder, TopicId};
//! use ringmesh_client::{Client, DataKind, Key, Partition, Value};
//!
//! # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
//! // What all events share is written once.
//! let mut builder = BatchBuilder::new(&mut [(Key::Source, Value::UriReference("vin-7"))])?;
//! for speed in ["41", "42", "43"] {
//!     builder.push(&mut [(Key::Type, Value::String("speed"))], DataKind::Json, speed.as_bytes())?;
//! }
//! // The topic's number is the client's to set; the partition may be the server's choice.
//! let batch = builder.finish(TopicId(0), Partition::ANY);
//! let ack = client.publish_batch("fleet/vin-7", batch).await?.await?;
//! println!("{} events from offset {}", ack.count, ack.base_offset);
//! # Ok(()) }
//! ```

pub use codec::builder::BatchBuilder;
pub use codec::ids::TopicId;
pub use codec::murmur2::partition_of;
