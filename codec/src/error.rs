//! Why bytes are not what they should be. Every variant is the fault of whoever made the bytes, never ours.

use std::fmt;

use crate::event::DataKind;

/// Why bytes are not a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// The first bytes are not [`crate::header::MAGIC`].
    Magic {
        /// The two bytes found there.
        found: u16,
    },
    /// The version is not one this build speaks.
    Version {
        /// The version found.
        found: u8,
    },
    /// The content kind is unknown.
    Content {
        /// The number found.
        found: u8,
    },
    /// Reserved bits are set, or a compression this build does not know.
    Flags {
        /// The flags found.
        found: u16,
    },
    /// The header does not match its checksum.
    HeaderChecksum,
    /// The body does not match its checksum.
    BodyChecksum {
        /// Checksum of the body as received.
        found: u32,
        /// Checksum the header claims.
        expected: u32,
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
    /// The bytes end before what they announce.
    Truncated {
        /// What was being read.
        field: &'static str,
    },
    /// A field has a value that its layout does not allow.
    Malformed {
        /// What is malformed.
        field: &'static str,
    },
    /// A text field is not UTF-8.
    NotUtf8 {
        /// Which field.
        field: &'static str,
    },
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic { found } => write!(f, "not a batch: it starts with {found:#06x}"),
            Self::Version { found } => {
                write!(f, "batch version {found} is not spoken here, only 1")
            }
            Self::Content { found } => write!(f, "batch content kind {found} is unknown"),
            Self::Flags { found } => write!(f, "batch flags {found:#06x} have reserved bits set"),
            Self::HeaderChecksum => write!(f, "batch header does not match its checksum"),
            Self::BodyChecksum { found, expected } => {
                write!(f, "batch body has checksum {found:#010x}, its header says {expected:#010x}")
            }
            Self::Limit { field, limit, value } => {
                write!(f, "{field} is {value}, at most {limit} is allowed")
            }
            Self::Truncated { field } => write!(f, "bytes end within {field}"),
            Self::Malformed { field } => write!(f, "{field} is malformed"),
            Self::NotUtf8 { field } => write!(f, "{field} is not UTF-8"),
        }
    }
}

impl std::error::Error for DecodeError {}

/// Why an event cannot be put into a batch. The batch is as it was before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// The batch is full; send it and start another.
    Full,
    /// A field of the event is over its limit; no batch can take it.
    Limit {
        /// What is too large.
        field: &'static str,
        /// The most it may be.
        limit: u64,
        /// What was given.
        value: u64,
    },
    /// An extension's name is not lower-case ASCII letters and digits, or it is the name of a core attribute.
    AttributeName {
        /// The name given.
        name: String,
    },
    /// The same attribute was given twice.
    DuplicateAttribute {
        /// Its name.
        name: String,
    },
    /// A core attribute has another type than CloudEvents gives it, or a text holds a control character or a
    /// noncharacter.
    AttributeValue {
        /// The attribute's name.
        name: String,
    },
    /// The data is not what its kind says: text or JSON that is not UTF-8, or data where there is said to be none.
    DataKind {
        /// The kind given.
        kind: DataKind,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => write!(f, "the batch is full"),
            Self::Limit { field, limit, value } => {
                write!(f, "{field} is {value}, at most {limit} is allowed")
            }
            Self::AttributeName { name } => write!(
                f,
                "attribute name {name:?} must be 1 to 255 lower-case letters and digits and not a reserved name"
            ),
            Self::DuplicateAttribute { name } => write!(f, "attribute {name:?} is given twice"),
            Self::AttributeValue { name } => {
                write!(
                    f,
                    "attribute {name:?} has a value of the wrong type or with characters that are not allowed"
                )
            }
            Self::DataKind { kind: DataKind::None } => write!(f, "an event without data has data"),
            Self::DataKind { .. } => write!(f, "event data is not UTF-8, its kind says it is"),
        }
    }
}

impl std::error::Error for BuildError {}
