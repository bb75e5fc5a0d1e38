//! Why bytes are not an event in protobuf. Every variant is the fault of whoever wrote them.

use std::fmt;

use crate::cloudevents::parsed::Incomplete;
use crate::cloudevents::rules::TextFault;

/// Why bytes are not an event in protobuf, or not several of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtobufError {
    /// The bytes are not the message.
    Decode {
        /// What the decoder says.
        reason: String,
    },
    /// A field is over its limit.
    Limit {
        /// What is too large.
        field: &'static str,
        /// The most it may be.
        limit: u64,
        /// What was found.
        value: u64,
    },
    /// A required attribute is absent or empty.
    Missing {
        /// Its name.
        attribute: &'static str,
    },
    /// The event is of a version of CloudEvents other than 1.0.
    SpecVersion {
        /// The version found.
        found: String,
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
    /// An attribute's text is not what the attribute has to be.
    AttributeValue {
        /// The attribute's name.
        name: String,
        /// What the text is not.
        fault: TextFault,
    },
    /// One event of a batch is wrong.
    InBatch {
        /// Which, from 0.
        index: usize,
        /// Why.
        error: Box<ProtobufError>,
    },
}

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Decode { reason } => write!(f, "event is not protobuf: {reason}"),
            Self::Limit { field, limit, value } => {
                write!(f, "{field} is {value}, at most {limit} is allowed")
            }
            Self::Missing { attribute } => write!(f, "attribute {attribute:?} is absent"),
            Self::SpecVersion { found } => {
                write!(f, "specversion is {found:?}, only \"1.0\" is taken")
            }
            Self::AttributeName { name } => write!(
                f,
                "{name:?} is no attribute of its own: names are lower-case letters and digits, required ones have a field"
            ),
            Self::AttributeType { name } => {
                write!(f, "attribute {name:?} has no value of its type")
            }
            Self::AttributeValue { name, fault } => {
                write!(f, "attribute {name:?} {}", fault.what())
            }
            Self::InBatch { index, error } => write!(f, "event {index} of the batch: {error}"),
        }
    }
}

impl std::error::Error for ProtobufError {}

impl From<Incomplete> for ProtobufError {
    fn from(incomplete: Incomplete) -> Self {
        match incomplete {
            Incomplete::Missing { attribute } => Self::Missing { attribute },
            Incomplete::SpecVersion { found } => Self::SpecVersion { found },
        }
    }
}

impl From<prost::DecodeError> for ProtobufError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Decode { reason: error.to_string() }
    }
}
