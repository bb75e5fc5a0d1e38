//! The one table of refusals: what a peer is told when the answer is no, by every door.
//!
//! A number is never given to another meaning. `docs/errors.md` is this table for readers; a test compares them.

use std::fmt;

/// Who can do something about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The client: its bytes or its request are wrong.
    Client,
    /// Nobody: there is no room now; trying again later is right.
    Later,
    /// Whoever operates the server.
    Operator,
}

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal, $who:ident, $http:literal, $exit:literal;)+) => {
        /// Why a request is refused. Its number and its name are the same on every door.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The number on the wire.
            #[must_use]
            pub fn number(self) -> u16 {
                self as u16
            }

            /// The code with this number, if this build knows it.
            #[must_use]
            pub fn from_number(number: u16) -> Option<Code> {
                match number {
                    $($number => Some(Code::$variant),)+
                    _ => None,
                }
            }

            /// The `snake_case` name, for logs, metrics and JSON.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Code::$variant => $name,)+
                }
            }

            /// Who can do something about it.
            #[must_use]
            pub fn who(self) -> Who {
                match self {
                    $(Code::$variant => Who::$who,)+
                }
            }

            /// The HTTP status that says the same.
            #[must_use]
            pub fn http_status(self) -> u16 {
                match self {
                    $(Code::$variant => $http,)+
                }
            }

            /// The exit code of a command that ends with it: 3 refused, 4 unreachable, 5 timed out.
            #[must_use]
            pub fn exit_code(self) -> u8 {
                match self {
                    $(Code::$variant => $exit,)+
                }
            }

            /// What it means and what to do, as `docs/errors.md` prints it.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Code::$variant => concat!($($doc),+).trim_ascii_start(),)+
                }
            }
        }
    };
}

codes! {
    /// The bytes are not a frame of the protocol. The connection closes.
    MalformedFrame = 100, "malformed_frame", Client, 400, 3;
    /// No protocol version is spoken by both sides. Use a client of a version that the answer names.
    UnsupportedVersion = 101, "unsupported_version", Client, 400, 3;
    /// The first frame must be hello. The connection closes.
    HelloRequired = 102, "hello_required", Client, 400, 3;
    /// No hello came in time. The connection closes.
    HelloTimeout = 103, "hello_timeout", Client, 408, 5;
    /// The frame kind is unknown and may not be ignored. Use a client of the server's version.
    UnknownFrame = 104, "unknown_frame", Client, 400, 3;
    /// A field is over its limit; the text names field, limit and value.
    LimitExceeded = 105, "limit_exceeded", Client, 413, 3;
    /// The batch is not laid out as its version says, or its checksum does not match.
    MalformedBatch = 106, "malformed_batch", Client, 400, 3;
    /// A text field is not UTF-8; the text names it.
    NotUtf8 = 107, "not_utf8", Client, 400, 3;
    /// The topic is not a topic name; the text says why.
    MalformedTopic = 108, "malformed_topic", Client, 400, 3;
    /// The filter is not a topic filter; the text says why.
    MalformedFilter = 109, "malformed_filter", Client, 400, 3;
    /// The topic id was not announced on this connection.
    UnknownTopic = 110, "unknown_topic", Client, 404, 3;
    /// Topics that start with `$` belong to the server.
    ReservedTopic = 111, "reserved_topic", Client, 403, 3;
    /// More batches are unacknowledged than the window allows. The connection closes.
    OutOfWindow = 112, "out_of_window", Client, 429, 3;
    /// The partition does not exist; the text names the count.
    UnknownPartition = 113, "unknown_partition", Client, 400, 3;
    /// The subscription is not known on this connection.
    UnknownSubscription = 114, "unknown_subscription", Client, 404, 3;
    /// The subscription's number is in use on this connection.
    SubscriptionInUse = 115, "subscription_in_use", Client, 409, 3;
    /// The group exists, so it keeps its place: a start can only be given with a new group.
    GroupExists = 116, "group_exists", Client, 409, 3;
    /// The group has the other mode; clustering and broadcasting cannot be mixed.
    ModeMismatch = 117, "mode_mismatch", Client, 409, 3;
    /// A list of offsets starts an exact topic only, not a filter with wildcards.
    StartNeedsTopic = 118, "start_needs_topic", Client, 409, 3;
    /// What was asked for is below the start that retention has left; the text names the first offset there is.
    Expired = 119, "expired", Client, 410, 3;
    /// The token is not one of this server's, or it is malformed.
    MalformedToken = 120, "malformed_token", Client, 400, 3;
    /// The token is of a delivery that is over: timed out and delivered again, or of an earlier life of the server.
    StaleToken = 121, "stale_token", Client, 409, 3;
    /// The event is malformed; the text says why.
    MalformedEvent = 122, "malformed_event", Client, 400, 3;
    /// The group name is empty, too long or reserved.
    MalformedGroup = 123, "malformed_group", Client, 400, 3;
    /// The credentials are missing or not accepted. The native door takes none: send kind 0 and no bytes. The admin port takes the token of `admin.token_file`.
    Unauthenticated = 124, "unauthenticated", Client, 401, 3;
    /// The frame or the subscription is for a feature that this server does not have.
    Unsupported = 125, "unsupported", Client, 501, 3;
    /// The batch's sequence is below the newest one that its publisher has stored in the partition, and not among those remembered. It was not stored now; the text says whether it may have been before.
    SequenceTooOld = 126, "sequence_too_old", Client, 409, 3;
    /// The batch's sequence stands for another batch of its publisher in the partition: another body or another topic. A sequence is used once.
    SequenceReused = 127, "sequence_reused", Client, 409, 3;
    /// The subscription was ended for all its members. Subscribe again to begin a new one.
    SubscriptionEnded = 128, "subscription_ended", Client, 410, 3;
    /// Nothing of this name, or nothing at this path.
    NotFound = 129, "not_found", Client, 404, 3;
    /// What is at this path does not take this method; the answer's header `allow` lists those that it takes.
    MethodNotAllowed = 130, "method_not_allowed", Client, 405, 3;
    /// A parameter of the request is not one that is known, or not as it must be; the text names it.
    MalformedRequest = 131, "malformed_request", Client, 400, 3;
    /// The headers of the request are too large or too many; the text says how large they may be.
    HeadersTooLarge = 132, "headers_too_large", Client, 431, 3;
    /// The subscription is ephemeral: it cannot be paused or moved, for it ends with its client. Subscribe with a group for one that can.
    NotDurable = 135, "not_durable", Client, 409, 3;
    /// The request's host is no name of this server, so it may come from a page that was bound to its address. Use the address or localhost, or list the name in `admin.hosts`.
    ForeignHost = 136, "foreign_host", Client, 421, 3;
    /// The request comes from a page of another origin: such may look, and order nothing.
    ForeignOrigin = 137, "foreign_origin", Client, 403, 3;
    /// An event's data is larger than the topic's policy allows; the text names the limit and the value.
    EventTooLarge = 140, "event_too_large", Client, 413, 3;
    /// There is no topic of this name, and the topic's policy does not let a publish begin one.
    TopicNotFound = 141, "topic_not_found", Client, 404, 3;
    /// The body is in a format or an encoding that is not taken here; the text names it.
    UnsupportedMediaType = 150, "unsupported_media_type", Client, 415, 3;
    /// The subscription mode is one that this server does not have.
    UnsupportedMode = 151, "unsupported_mode", Client, 400, 3;

    /// There is no room at the moment; the server has refused before it took anything. Try again.
    Overloaded = 200, "overloaded", Later, 429, 3;
    /// The control plane does not answer. What runs goes on; new subscriptions must wait.
    Unavailable = 201, "unavailable", Later, 503, 4;
    /// The server is shutting down. Connect again when it is back.
    ShuttingDown = 202, "shutting_down", Later, 503, 4;
    /// The server has as many connections as it may have.
    TooManyConnections = 203, "too_many_connections", Later, 503, 3;
    /// Nothing came from this peer for too long. The connection closes.
    IdleTimeout = 204, "idle_timeout", Client, 408, 5;
    /// This peer took nothing for too long although there was something for it. The connection closes.
    SlowPeer = 205, "slow_peer", Client, 408, 5;

    /// The disk, or the folder's limit, is full. Publishing resumes by itself when there is room.
    DiskFull = 300, "disk_full", Operator, 507, 3;
    /// The log has stopped after a failed write. Look at the server's log and restart it on a healthy disk.
    LogStopped = 301, "log_stopped", Operator, 503, 3;
    /// The server has as many topics as it may have, or as its memory has room for. Those that are there go on.
    TooManyTopics = 302, "too_many_topics", Operator, 507, 3;
    /// The server has as many subscriptions as it may have.
    TooManySubscriptions = 303, "too_many_subscriptions", Operator, 507, 3;
    /// What was asked for is damaged on disk; `ringmesh inspect` tells more.
    Damaged = 304, "damaged", Operator, 500, 6;
}

/// A typed "no" to a peer: the code, and a sentence with the field, the limit and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which refusal.
    pub code: Code,
    /// What is wrong, in lower case and without a full stop; empty when the code says all.
    pub text: Box<str>,
}

impl Refusal {
    /// A refusal with its own sentence.
    #[must_use]
    pub fn new(code: Code, text: impl Into<Box<str>>) -> Self {
        Refusal { code, text: text.into() }
    }

    /// The refusal of a value that is over a limit.
    #[must_use]
    pub fn limit(field: &str, limit: u64, value: u64) -> Self {
        Self::new(Code::LimitExceeded, format!("{field} is {value}, at most {limit} is allowed"))
    }
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Refusal { code, text: Box::default() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            return write!(f, "{} ({})", self.code.name(), self.code.number());
        }
        write!(f, "{} ({}): {}", self.code.name(), self.code.number(), self.text)
    }
}

impl std::error::Error for Refusal {}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number on the wire means one thing for ever: two codes with one number, or one name, would be told apart by
    /// no client.
    #[test]
    fn numbers_and_names_are_unique() {
        for (i, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            for other in &Code::ALL[..i] {
                assert_ne!(code.number(), other.number());
                assert_ne!(code.name(), other.name());
            }
        }
    }
}
