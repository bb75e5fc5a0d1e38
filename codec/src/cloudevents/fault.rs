//! What is wrong with an event whatever form it came in. Every variant is the fault of whoever wrote it.

use std::fmt;

use crate::cloudevents::rules::TextFault;

/// Why something is not an event of CloudEvents 1.0 that this server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventFault {
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
        /// The version found; at most 32 characters of it.
        found: String,
    },
    /// An attribute's text is not what the attribute has to be.
    AttributeValue {
        /// The attribute's name.
        name: String,
        /// What the text is not.
        fault: TextFault,
    },
}

impl fmt::Display for EventFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit { field, limit, value } => {
                write!(f, "{field} is {value}, at most {limit} is allowed")
            }
            Self::Missing { attribute } => write!(f, "attribute {attribute:?} is absent"),
            Self::SpecVersion { found } => {
                write!(f, "specversion is {found:?}, only \"1.0\" is taken")
            }
            Self::AttributeValue { name, fault } => {
                write!(f, "attribute {name:?} {}", fault.what())
            }
        }
    }
}

impl std::error::Error for EventFault {}
