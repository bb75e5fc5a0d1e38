//! The JSON event format of CloudEvents 1.0.2, structured and batched.
//!
//! JSON has strings, booleans and integers for attributes. The core attributes get their type back from their name;
//! an extension of another type is written as its canonical string and comes back as a string:
//!
//! | in the batch | in JSON | read back |
//! |---|---|---|
//! | extension: string, boolean, integer | string, `true`/`false`, number | the same |
//! | extension: URI, URI reference, timestamp | string | string |
//! | extension: binary | string, base64 | string |
//! | data: JSON | any value, byte for byte | the same |
//! | data: text, `datacontenttype` names another format than JSON | string | the same |
//! | data: text, `datacontenttype` absent | string | JSON, a string |
//! | data: text, `datacontenttype` is JSON | the JSON that the text is, else a string | JSON |
//! | data: binary | `data_base64` | the same |
//! | data: protobuf | `data_base64` of the message, without its type URL | binary |
//!
//! Members that are `null` are taken as absent, but not `data`, whose value may be anything. No member may stand twice in
//! the event; within `data` that is the business of whoever reads it.

mod error;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub use error::JsonError;
pub use read::{parse_batch, parse_event};
pub use write::{replace_line_ends, write_batch, write_event};

/// Media type of one event.
pub const MEDIA_TYPE: &str = "application/cloudevents+json";
/// Media type of an array of events.
pub const MEDIA_TYPE_BATCH: &str = "application/cloudevents-batch+json";
