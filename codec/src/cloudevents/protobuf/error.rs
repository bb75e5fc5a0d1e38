//! Why bytes are not an event in protobuf. Every variant is the fault of whoever wrote them.

use std::fmt;

use crate::cloudevents::fault::EventFault;

/// Why bytes are not an event in protobuf, or not several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtobufError {
    /// The bytes are not the message.
    Decode {
        /// What the decoder says.
        reason: String,
    },
    /// The name of an attribute is not lower-case ASCII letters and digits, or it has a field of its own.
    AttributeName {
        /// The name found.
        name: String,
    },
    /// An attribute has a type other than CloudEvents gives it, or no value at all.
    AttributeType {
        /// The attribute's name.
        name: String,
    },
    /// One event of a batch is wrong.
    InBatch {
        /// Which, from 0.
        index: usize,
        /// Why.
        error: Box<ProtobufError>,
    },
    /// The event itself is wrong, whatever its form.
    Event(EventFault),
}

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode { reason } => write!(f, "event is not protobuf: {reason}"),
            Self::AttributeName { name } => write!(
                f,
                "{name:?} is no attribute of its own: names are lower-case letters and digits, required ones have a field"
            ),
            Self::AttributeType { name } => {
                write!(f, "attribute {name:?} has no value of its type")
            }
            Self::InBatch { index, error } => write!(f, "event {index} of the batch: {error}"),
            Self::Event(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for ProtobufError {}

impl From<EventFault> for ProtobufError {
    fn from(fault: EventFault) -> Self {
        Self::Event(fault)
    }
}

impl From<prost::DecodeError> for ProtobufError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Decode { reason: error.to_string() }
    }
}
