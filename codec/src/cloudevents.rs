//! The forms in which CloudEvents 1.0.2 come in and go out: JSON, HTTP binary mode, protobuf.
//!
//! In: a form is parsed into a [`parsed::ParsedEvent`], which is pushed into a batch. Out: an event is written from
//! where it stands in its batch. What the batch leaves out because it can be derived is added on the way out: an
//! event whose publisher gave no id has [`derived_id`].

pub mod fault;
pub mod http;
pub mod json;
pub mod parsed;
pub mod protobuf;
pub mod rules;

use std::fmt;

use crate::ids::{Offset, Partition};

/// The only version of CloudEvents a batch of this version holds.
pub const SPEC_VERSION: &str = "1.0";
/// The `source` that an event gets on its way out if its publisher gave none. Only the native protocol admits such.
pub const SOURCE_IF_ABSENT: &str = "/";
/// The `type` that an event gets on its way out if its publisher gave none. Only the native protocol admits such.
pub const TYPE_IF_ABSENT: &str = "event";

/// How much a publisher must say about an event.
#[derive(Clone, Copy, Debug)]
pub enum Mode<'d> {
    /// As CloudEvents demands: `specversion`, `id`, `source` and `type` are there.
    Strict,
    /// As a person types: what is absent is taken from the defaults, and `key` stands for `partitionkey`.
    Lenient(&'d Defaults<'d>),
}

/// What [`Mode::Lenient`] gives to an event that does not say it itself.
#[derive(Clone, Copy, Debug)]
pub struct Defaults<'d> {
    /// `id`; `None` leaves the event without, so that its id derives from its place.
    pub id: Option<&'d str>,
    /// `source`, a URI reference.
    pub source: &'d str,
    /// `type`
    pub event_type: &'d str,
}

/// Where an event stands: what a client needs to name it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Partition within the topic.
    pub partition: Partition,
    /// Offset within topic and partition.
    pub offset: Offset,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// The id of an event whose publisher gave none: `{topic}/{partition}/{offset}`. Unique in a data folder, and the
/// same at every delivery, so a subscriber can recognise a redelivery by it.
#[must_use]
pub fn derived_id(place: &Place<'_>) -> String {
    place.to_string()
}
