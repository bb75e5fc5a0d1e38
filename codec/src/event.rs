//! One event, read where it stands in a body.

use std::cmp::Ordering;

use crate::attribute::{Key, Section, Value};

/// How an event's data was given, which decides how it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DataKind {
    /// The event has no data.
    None = 0,
    /// Bytes; `data_base64` in JSON.
    Binary = 1,
    /// UTF-8 text; a JSON string in JSON.
    Text = 2,
    /// One JSON value, kept byte for byte.
    Json = 3,
    /// An encoded `google.protobuf.Any`.
    Protobuf = 4,
}

impl DataKind {
    /// The kind with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            0 => DataKind::None,
            1 => DataKind::Binary,
            2 => DataKind::Text,
            3 => DataKind::Json,
            4 => DataKind::Protobuf,
            _ => return None,
        })
    }

    /// Whether `data` may stand in a batch under this kind: text and JSON are UTF-8, and no data is no bytes. That
    /// JSON is JSON is not checked here; who writes it into other JSON does.
    #[must_use]
    pub fn allows(self, data: &[u8]) -> bool {
        match self {
            DataKind::None => data.is_empty(),
            DataKind::Text | DataKind::Json => std::str::from_utf8(data).is_ok(),
            DataKind::Binary | DataKind::Protobuf => true,
        }
    }
}

/// One event of a body. Borrowed: reading an attribute copies and allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub(crate) shared: Section<'a>,
    pub(crate) own: Section<'a>,
    pub(crate) kind: DataKind,
    pub(crate) data: &'a [u8],
}

impl<'a> Event<'a> {
    /// The value of an attribute. The event's own wins over the one its batch shares.
    #[must_use]
    #[inline]
    pub fn get(&self, key: &Key<'_>) -> Option<Value<'a>> {
        self.own.get(key).or_else(|| self.shared.get(key))
    }

    /// The text of a textual attribute.
    #[must_use]
    #[inline]
    pub fn text(&self, key: &Key<'_>) -> Option<&'a str> {
        self.get(key).and_then(|value| value.text())
    }

    /// The key that orders this event, if it has one.
    #[must_use]
    #[inline]
    pub fn partition_key(&self) -> Option<&'a str> {
        self.text(&Key::PartitionKey)
    }

    /// All attributes in the order of their keys, the event's own and those of its batch that it does not override.
    pub fn attributes(&self) -> impl Iterator<Item = (Key<'a>, Value<'a>)> + use<'a> {
        let (mut own, mut shared) = (self.own.peekable(), self.shared.peekable());
        std::iter::from_fn(move || {
            let order = match (own.peek(), shared.peek()) {
                (Some((a, _)), Some((b, _))) => a.order(b),
                (_, None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
            };
            if order == Ordering::Equal {
                shared.next();
            }
            if order == Ordering::Greater { shared.next() } else { own.next() }
        })
    }

    /// How the data was given.
    #[must_use]
    pub fn data_kind(&self) -> DataKind {
        self.kind
    }

    /// The data, as given to the publisher.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        self.data
    }
}
