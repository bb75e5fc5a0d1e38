//! Why something did not work; one type an operation. `Display` leaves the cause out: it is the error's `source`.

use std::fmt;
use std::io;
use std::time::Duration;

use codec::error::{BuildError, DecodeError};
use codec::frame::RefusalFrame;
use codec::refusal::Code;

/// The server's "no".
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerRefusal {
    /// The number on the wire; a later server may have numbers that this build does not know.
    pub number: u16,
    /// The sentence that came with it; may be empty.
    pub text: String,
}

impl ServerRefusal {
    /// The code, if this build knows it.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        Code::from_number(self.number)
    }

    pub(crate) fn from_frame(frame: &RefusalFrame<'_>) -> Self {
        ServerRefusal { number: frame.code, text: frame.text.to_owned() }
    }
}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code() {
            Some(code) => write!(f, "{} ({})", code.name(), self.number)?,
            None => write!(f, "refusal {}", self.number)?,
        }
        if self.text.is_empty() { Ok(()) } else { write!(f, ": {}", self.text) }
    }
}

impl std::error::Error for ServerRefusal {}

/// Why there is no connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server cannot be reached.
    Unreachable {
        /// Its address.
        server: String,
        /// What the machine says.
        source: io::Error,
    },
    /// The server did not answer in time.
    TimedOut {
        /// Its address.
        server: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The server refuses this client.
    Refused(ServerRefusal),
    /// What answers does not speak the protocol.
    Protocol {
        /// What is wrong with its bytes.
        what: String,
    },
    /// The machine gives no thread for the connection ([`crate::blocking`] alone).
    Thread {
        /// What it says.
        source: io::Error,
    },
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { server, .. } => write!(f, "cannot reach {server}"),
            Self::TimedOut { server, after } => write!(f, "{server} did not answer in {after:?}"),
            Self::Refused(_) => write!(f, "the server refuses this client"),
            Self::Protocol { what } => write!(f, "the peer is not a Ringmesh server: {what}"),
            Self::Thread { .. } => write!(f, "the thread of the connection cannot be started"),
        }
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } | Self::Thread { source } => Some(source),
            Self::Refused(refusal) => Some(refusal),
            Self::TimedOut { .. } | Self::Protocol { .. } => None,
        }
    }
}

/// Why events were not published, or it is not known whether they were.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The server refuses the batch.
    Refused(ServerRefusal),
    /// The event cannot be put into a batch.
    Event(BuildError),
    /// The bytes are not a batch.
    Batch(DecodeError),
    /// The connection was lost and could not be made again in time. The events may or may not have been appended.
    Lost {
        /// Why not.
        what: String,
    },
    /// The client has been closed.
    Closed,
}

impl PublishError {
    pub(crate) fn is_shutting_down(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code() == Some(Code::ShuttingDown))
    }

    pub(crate) fn is_unknown_topic(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.code() == Some(Code::UnknownTopic))
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(_) => write!(f, "the server refuses the batch"),
            Self::Event(_) => write!(f, "the event cannot be put into a batch"),
            Self::Batch(_) => write!(f, "the bytes are not a batch"),
            Self::Lost { what } => write!(f, "the connection is lost: {what}"),
            Self::Closed => write!(f, "the client is closed"),
        }
    }
}

impl std::error::Error for PublishError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::Event(error) => Some(error),
            Self::Batch(error) => Some(error),
            Self::Lost { .. } | Self::Closed => None,
        }
    }
}

/// Why a subscription does not stand, or has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The server refuses it.
    Refused(ServerRefusal),
    /// The server did not answer in time.
    TimedOut,
    /// The connection was lost and could not be made again in time.
    Lost {
        /// Why not.
        what: String,
    },
    /// The client has been closed.
    Closed,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(_) => write!(f, "the server refuses the subscription"),
            Self::TimedOut => write!(f, "the server did not answer in time"),
            Self::Lost { what } => write!(f, "the connection is lost: {what}"),
            Self::Closed => write!(f, "the client is closed"),
        }
    }
}

impl std::error::Error for SubscribeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            Self::TimedOut | Self::Lost { .. } | Self::Closed => None,
        }
    }
}
