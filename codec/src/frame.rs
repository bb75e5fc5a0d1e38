//! The frames of the native protocol: bytes to typed values and back.
//!
//! Used by the server's door and by the clients alike, so that the two cannot drift apart. Encoders append to a
//! `Vec<u8>`; decoders borrow from the receive buffer. `docs/wire-protocol.md` draws every frame and says what each
//! side may send when; this module knows only how one frame looks.
//!
//! ```text
//!  0 u32 bytes of the body    4 u8 kind    5 u8 flags    6 u16 reserved, 0
//!  8 u64 request
//! 16 body
//! ```

mod close;
mod delivery;
mod hello;
mod publish;
mod reader;
mod subscribe;
#[cfg(test)]
mod tests;

pub use close::{GoodbyeFrame, RefusalFrame};
pub use delivery::{
    DeliveryFrame, DeliveryHead, Settlement, Settlements, TOKEN_BYTES_MAX, WireVerdict,
    encode_settle,
};
pub use hello::{
    CLIENT_ID_BYTES_MAX, CREDENTIALS_BYTES_MAX, FEATURE_REJECT, FEATURE_SEQUENCES, Hello,
    TENANT_BYTES_MAX, VERSION_HIGHEST, VERSION_LOWEST, Welcome,
};
pub use publish::{Acked, Acks, PUBLISHED_ENTRY_BYTES, TopicFrame};
pub use subscribe::{GROUP_BYTES_MAX, Subscribe, WireMode, WireOffsets, WireStart};

use std::fmt;

use crate::error::DecodeError;
use crate::limits::{BATCH_BYTES_MAX, BATCH_EVENTS_MAX, BATCH_HEADER_BYTES};
use crate::refusal::{Code, Refusal};

/// Bytes in front of every body.
pub const FRAME_HEADER_BYTES: usize = 16;
/// Flag bit 0: a receiver that does not know the kind skips the frame instead of refusing it.
pub const FLAG_MAY_IGNORE: u8 = 1;
/// Largest body of every kind but publish and delivery. Bounds what a peer can make us hold for one small request.
pub const CONTROL_BODY_BYTES_MAX: u32 = 64 << 10;
/// Largest body of a ping, which comes back as pong.
pub const PING_BYTES_MAX: usize = 64;
/// Longest text of a refusal or goodbye; a longer one is cut by its writer.
pub const TEXT_BYTES_MAX: usize = 1_024;
/// Largest body of a delivery: its head, the longest token, the longest bitmap, the largest batch.
pub const DELIVERY_BODY_BYTES_MAX: u32 =
    8 + TOKEN_BYTES_MAX as u32 + BATCH_EVENTS_MAX / 8 + BATCH_BYTES_MAX;

/// What a frame is. The numbers are never given to another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Client to server, first: who I am and which versions I speak.
    Hello = 1,
    /// Server to client: the answer to hello.
    Welcome = 2,
    /// Both ways: this number stands for this topic from here on.
    Topic = 3,
    /// Client to server: one batch.
    Publish = 4,
    /// Server to client: batches that reached their ack level.
    Published = 5,
    /// Client to server: become a member of a subscription.
    Subscribe = 6,
    /// Server to client: every event acknowledged after this is delivered.
    Subscribed = 7,
    /// Client to server: leave a subscription, or end it.
    Unsubscribe = 8,
    /// Server to client: no more deliveries for that subscription.
    Unsubscribed = 9,
    /// Server to client: one batch, or some of its events.
    Delivery = 10,
    /// Client to server: what became of deliveries.
    Settle = 11,
    /// Client to server: how many events may be in flight for a subscription.
    Credit = 12,
    /// Both ways: are you there.
    Ping = 13,
    /// Both ways: I am.
    Pong = 14,
    /// Both ways: nothing new comes from me.
    Goodbye = 15,
    /// Server to client: no, and why.
    Refusal = 16,
    /// Reserved for request and reply.
    Request = 17,
    /// Reserved for request and reply.
    Reply = 18,
    /// Reserved: connect to another node.
    Redirect = 19,
    /// Server to client: all that was there when this client subscribed has been delivered.
    CaughtUp = 20,
    /// Server to client: events are gone before the subscription came to them.
    Gap = 21,
}

const KINDS: [Kind; 21] = [
    Kind::Hello,
    Kind::Welcome,
    Kind::Topic,
    Kind::Publish,
    Kind::Published,
    Kind::Subscribe,
    Kind::Subscribed,
    Kind::Unsubscribe,
    Kind::Unsubscribed,
    Kind::Delivery,
    Kind::Settle,
    Kind::Credit,
    Kind::Ping,
    Kind::Pong,
    Kind::Goodbye,
    Kind::Refusal,
    Kind::Request,
    Kind::Reply,
    Kind::Redirect,
    Kind::CaughtUp,
    Kind::Gap,
];

impl Kind {
    /// The kind with this number, if this build knows it.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Kind> {
        usize::from(number).checked_sub(1).and_then(|index| KINDS.get(index)).copied()
    }

    /// The number on the wire.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The largest body a frame of this kind may have.
    #[must_use]
    pub fn body_bytes_max(self) -> u32 {
        match self {
            Kind::Publish => BATCH_BYTES_MAX,
            Kind::Delivery => DELIVERY_BODY_BYTES_MAX,
            _ => CONTROL_BODY_BYTES_MAX,
        }
    }
}

/// One frame, typed. Borrows from the receive buffer.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    /// See [`Kind::Hello`].
    Hello(Hello<'a>),
    /// See [`Kind::Welcome`].
    Welcome(Welcome),
    /// See [`Kind::Topic`].
    Topic(TopicFrame<'a>),
    /// See [`Kind::Publish`]: the bytes of a batch, not yet looked at but for their least length.
    Publish(&'a [u8]),
    /// See [`Kind::Published`].
    Published(Acks<'a>),
    /// See [`Kind::Subscribe`]; the frame's request is the subscription's number.
    Subscribe(Subscribe<'a>),
    /// See [`Kind::Subscribed`]; the frame's request is the subscription's number.
    Subscribed,
    /// See [`Kind::Unsubscribe`]; the frame's request is the subscription's number.
    Unsubscribe {
        /// Ends the subscription itself, for all its members, instead of only leaving it.
        end: bool,
    },
    /// See [`Kind::Unsubscribed`]; the frame's request is the subscription's number.
    Unsubscribed,
    /// See [`Kind::Delivery`]; the frame's request is the subscription's number.
    Delivery(DeliveryFrame<'a>),
    /// See [`Kind::Settle`].
    Settle(Settlements<'a>),
    /// See [`Kind::Credit`]; the frame's request is the subscription's number.
    Credit {
        /// Most events that may be in flight from now on; replaces the value before.
        events: u32,
    },
    /// See [`Kind::Ping`].
    Ping(&'a [u8]),
    /// See [`Kind::Pong`].
    Pong(&'a [u8]),
    /// See [`Kind::Goodbye`].
    Goodbye(GoodbyeFrame<'a>),
    /// See [`Kind::Refusal`].
    Refusal(RefusalFrame<'a>),
    /// See [`Kind::CaughtUp`]; the frame's request is the subscription's number.
    CaughtUp,
    /// See [`Kind::Gap`]; the frame's request is the subscription's number.
    Gap {
        /// How many; `None` if nobody knows.
        events: Option<u64>,
    },
    /// A frame of a kind this build does not know, which its sender allows to be skipped.
    Skipped,
}

/// What the start of a receive buffer holds.
#[derive(Clone, Copy, Debug)]
pub enum Parsed<'a> {
    /// One whole frame.
    Frame {
        /// The number its sender gave it.
        request: u64,
        /// What it says.
        frame: Frame<'a>,
        /// Bytes of the buffer it takes.
        consumed: usize,
    },
    /// Not enough bytes yet. Not an error: the peer is still sending.
    Incomplete {
        /// Bytes that must come before it is worth looking again.
        missing: usize,
    },
}

/// Why bytes are not a frame this build takes. Always the peer's fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The kind's number as it stands in the frame.
    pub kind: u8,
    /// The request as it stands in the frame.
    pub request: u64,
    /// Bytes of the frame when its end is known and what follows can still be understood; `None` when the connection
    /// must close.
    pub consumed: Option<usize>,
    /// What is wrong.
    pub cause: FrameErrorCause,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FrameErrorCause {
    /// The body is longer than its kind allows.
    TooLong {
        /// The most it may be.
        limit: u32,
        /// What the header claims.
        length: u32,
    },
    /// Reserved bits of the frame header are set.
    ReservedBits,
    /// The kind is unknown, or reserved, and its sender does not allow it to be skipped.
    UnknownKind,
    /// The body is not as its kind is laid out.
    Body(DecodeError),
}

impl FrameError {
    /// The refusal that tells the peer.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match &self.cause {
            FrameErrorCause::TooLong { limit, length } => {
                Refusal::limit("frame body bytes", u64::from(*limit), u64::from(*length))
            }
            FrameErrorCause::Body(error @ DecodeError::Limit { .. }) => {
                Refusal::new(Code::LimitExceeded, error.to_string())
            }
            FrameErrorCause::Body(error @ DecodeError::NotUtf8 { .. }) => {
                Refusal::new(Code::NotUtf8, error.to_string())
            }
            FrameErrorCause::UnknownKind => Refusal::new(Code::UnknownFrame, self.to_string()),
            FrameErrorCause::ReservedBits | FrameErrorCause::Body(_) => {
                Refusal::new(Code::MalformedFrame, self.to_string())
            }
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            FrameErrorCause::TooLong { limit, length } => {
                write!(f, "frame body of kind {} has {length} bytes, at most {limit}", self.kind)
            }
            FrameErrorCause::ReservedBits => write!(f, "frame header has reserved bits set"),
            FrameErrorCause::UnknownKind => {
                write!(f, "frame kind {} is not spoken here", self.kind)
            }
            FrameErrorCause::Body(error) => write!(f, "frame of kind {}: {error}", self.kind),
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes one frame from the start of `bytes`.
///
/// # Errors
/// The first frame is not one this build takes. Its header is judged as soon as it is there, so that nobody waits for
/// a body that would be refused.
pub fn parse(bytes: &[u8]) -> Result<Parsed<'_>, FrameError> {
    let Some(header) = bytes.first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(Parsed::Incomplete { missing: FRAME_HEADER_BYTES - bytes.len() });
    };
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let (number, flags) = (header[4], header[5]);
    let mut request = [0; 8];
    request.copy_from_slice(&header[8..]);
    let request = u64::from_le_bytes(request);
    let error = |consumed, cause| FrameError { kind: number, request, consumed, cause };

    let kind = Kind::from_number(number);
    let limit = kind.map_or(CONTROL_BODY_BYTES_MAX, Kind::body_bytes_max);
    if length > limit {
        return Err(error(None, FrameErrorCause::TooLong { limit, length }));
    }
    if flags & !FLAG_MAY_IGNORE != 0 || header[6..8] != [0, 0] {
        return Err(error(None, FrameErrorCause::ReservedBits));
    }
    let consumed = FRAME_HEADER_BYTES + length as usize;
    let Some(body) = bytes.get(FRAME_HEADER_BYTES..consumed) else {
        return Ok(Parsed::Incomplete { missing: consumed - bytes.len() });
    };
    let frame = match kind {
        None | Some(Kind::Request | Kind::Reply | Kind::Redirect) => {
            if flags & FLAG_MAY_IGNORE == 0 {
                return Err(error(Some(consumed), FrameErrorCause::UnknownKind));
            }
            Frame::Skipped
        }
        Some(kind) => decode_body(kind, body).map_err(|cause| {
            let goes_on = matches!(cause, DecodeError::Limit { .. } | DecodeError::NotUtf8 { .. });
            error(goes_on.then_some(consumed), FrameErrorCause::Body(cause))
        })?,
    };
    Ok(Parsed::Frame { request, frame, consumed })
}

fn decode_body(kind: Kind, body: &[u8]) -> Result<Frame<'_>, DecodeError> {
    Ok(match kind {
        Kind::Hello => Frame::Hello(Hello::decode(body)?),
        Kind::Welcome => Frame::Welcome(Welcome::decode(body)?),
        Kind::Topic => Frame::Topic(TopicFrame::decode(body)?),
        Kind::Publish if body.len() < BATCH_HEADER_BYTES as usize => {
            return Err(DecodeError::Truncated { field: "batch header" });
        }
        Kind::Publish => Frame::Publish(body),
        Kind::Published => Frame::Published(Acks::decode(body)?),
        Kind::Subscribe => Frame::Subscribe(Subscribe::decode(body)?),
        Kind::Subscribed => empty(body, Frame::Subscribed)?,
        Kind::Unsubscribe => Frame::Unsubscribe { end: subscribe::decode_unsubscribe(body)? },
        Kind::Unsubscribed => empty(body, Frame::Unsubscribed)?,
        Kind::Delivery => Frame::Delivery(DeliveryFrame::decode(body)?),
        Kind::Settle => Frame::Settle(Settlements::decode(body)?),
        Kind::Credit => Frame::Credit { events: subscribe::decode_credit(body)? },
        Kind::Ping => Frame::Ping(echo(body)?),
        Kind::Pong => Frame::Pong(echo(body)?),
        Kind::Goodbye => Frame::Goodbye(GoodbyeFrame::decode(body)?),
        Kind::Refusal => Frame::Refusal(RefusalFrame::decode(body)?),
        Kind::CaughtUp => empty(body, Frame::CaughtUp)?,
        Kind::Gap => Frame::Gap { events: subscribe::decode_gap(body)? },
        Kind::Request | Kind::Reply | Kind::Redirect => Frame::Skipped,
    })
}

fn empty<'a>(body: &[u8], frame: Frame<'a>) -> Result<Frame<'a>, DecodeError> {
    if body.is_empty() { Ok(frame) } else { Err(DecodeError::Malformed { field: "frame length" }) }
}

fn echo(body: &[u8]) -> Result<&[u8], DecodeError> {
    if body.len() <= PING_BYTES_MAX {
        return Ok(body);
    }
    let (limit, value) = (PING_BYTES_MAX as u64, body.len() as u64);
    Err(DecodeError::Limit { field: "ping bytes", limit, value })
}

/// Appends a frame header for a body of `body_len` bytes, which the caller appends or sends next.
pub fn encode_header(kind: Kind, request: u64, body_len: usize, out: &mut Vec<u8>) {
    assert!(body_len <= kind.body_bytes_max() as usize, "writers keep frames within their limit");
    out.extend_from_slice(&(body_len as u32).to_le_bytes());
    out.extend_from_slice(&[kind.number(), 0, 0, 0]);
    out.extend_from_slice(&request.to_le_bytes());
}

/// Appends a frame whose body is `body` as it is: publish, ping, pong, and those without a body.
pub fn encode_plain(kind: Kind, request: u64, body: &[u8], out: &mut Vec<u8>) {
    encode_header(kind, request, body.len(), out);
    out.extend_from_slice(body);
}

/// Appends a caught-up frame. A client that does not know it skips it.
pub fn encode_caught_up(subscription: u64, out: &mut Vec<u8>) {
    let flags_at = out.len() + 5;
    encode_header(Kind::CaughtUp, subscription, 0, out);
    out[flags_at] = FLAG_MAY_IGNORE;
}

/// Appends a gap frame: so many events are gone, or nobody knows how many. A client that does not know it skips it.
pub fn encode_gap(subscription: u64, events: Option<u64>, out: &mut Vec<u8>) {
    assert!(events != Some(subscribe::GAP_UNKNOWN), "more than were ever published");
    let flags_at = out.len() + 5;
    let events = events.unwrap_or(subscribe::GAP_UNKNOWN);
    encode_plain(Kind::Gap, subscription, &events.to_le_bytes(), out);
    out[flags_at] = FLAG_MAY_IGNORE;
}

/// Appends an unsubscribe frame.
pub fn encode_unsubscribe(subscription: u64, end: bool, out: &mut Vec<u8>) {
    encode_plain(Kind::Unsubscribe, subscription, &[u8::from(end)], out);
}

/// Appends a credit frame.
pub fn encode_credit(subscription: u64, events: u32, out: &mut Vec<u8>) {
    encode_plain(Kind::Credit, subscription, &events.to_le_bytes(), out);
}
