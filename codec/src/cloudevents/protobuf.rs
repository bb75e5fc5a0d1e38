//! The protobuf format of CloudEvents 1.0.2 (`io.cloudevents.v1`), one event and batched.
//!
//! | in protobuf | in the batch | written again |
//! |---|---|---|
//! | `ce_boolean`, `ce_integer`, `ce_string`, `ce_bytes`, `ce_uri`, `ce_uri_ref` | the same type | the same |
//! | `ce_timestamp` | RFC 3339 in UTC | the same |
//! | `binary_data` whose `datacontenttype` says JSON or text, and it is | JSON, text | `text_data` |
//! | other `binary_data` | binary | the same |
//! | `text_data` | JSON if its `datacontenttype` says so and it is, else text | the same |
//! | `proto_data` | the `Any`, encoded | the same |
//!
//! A timestamp of another form keeps its instant, not its letters: `...+02:00` becomes `...Z`, digits beyond the ninth are
//! cut off. One that `google.protobuf.Timestamp` cannot hold (year 0) goes as `ce_string`.

mod error;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use error::ProtobufError;
pub use read::{parse_batch, parse_event};
pub(crate) use write::plain_data;
pub use write::{write_batch, write_event};

/// Media type of one event.
pub const MEDIA_TYPE: &str = "application/cloudevents+protobuf";
/// Media type of several events.
pub const MEDIA_TYPE_BATCH: &str = "application/cloudevents-batch+protobuf";
