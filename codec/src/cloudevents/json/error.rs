//! Why bytes are not an event in JSON. Every variant is the fault of whoever wrote them.

use std::fmt;

use crate::cloudevents::fault::EventFault;

/// Why bytes are not an event in JSON, or not an array of them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonError {
    /// The bytes are not UTF-8.
    NotUtf8 {
        /// The first byte that is not.
        at: usize,
    },
    /// Arrays and objects are nested too deeply.
    Depth {
        /// The deepest that is taken.
        limit: usize,
        /// How deep they are.
        value: usize,
    },
    /// The bytes are not JSON, or not an object (for a batch: an array of objects).
    Syntax {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault in bytes, from 1; 0 is the end of the line before.
        column: usize,
        /// What was expected there.
        reason: String,
    },
    /// A member stands twice in the event.
    DuplicateMember {
        /// Its name.
        name: String,
    },
    /// A member's name is not lower-case ASCII letters and digits.
    AttributeName {
        /// The name found.
        name: String,
    },
    /// A member has a JSON type that its attribute does not have.
    AttributeType {
        /// The member's name.
        name: String,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A number is not an integer of 32 bits.
    Integer {
        /// The attribute's name.
        name: String,
        /// The number, as it stands in the JSON.
        value: String,
    },
    /// `data` and `data_base64` are both there.
    DataTwice,
    /// `data_base64` is not base64.
    Base64,
    /// One event of a batch is wrong.
    InBatch {
        /// Which, from 0.
        index: usize,
        /// Why.
        error: Box<JsonError>,
    },
    /// The event itself is wrong, whatever its form.
    Event(EventFault),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotUtf8 { at } => write!(f, "event is not UTF-8 at byte {at}"),
            Self::Depth { limit, value } => {
                write!(f, "nesting depth is {value}, at most {limit} is allowed")
            }
            Self::Syntax { line, column, reason } => {
                write!(f, "event is not JSON at line {line} column {column}: {reason}")
            }
            Self::DuplicateMember { name } => write!(f, "member {name:?} stands twice"),
            Self::AttributeName { name } => {
                write!(
                    f,
                    "member {name:?} is no attribute: names are lower-case letters and digits"
                )
            }
            Self::AttributeType { name, expected, found } => {
                write!(f, "attribute {name:?} is {found}, it must be {expected}")
            }
            Self::Integer { name, value } => {
                write!(f, "attribute {name:?} is {value}, numbers must be integers of 32 bits")
            }
            Self::DataTwice => write!(f, "data and data_base64 are both there"),
            Self::Base64 => write!(f, "data_base64 is not base64"),
            Self::InBatch { index, error } => write!(f, "event {index} of the batch: {error}"),
            Self::Event(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for JsonError {}

impl From<EventFault> for JsonError {
    fn from(fault: EventFault) -> Self {
        Self::Event(fault)
    }
}
