//! Hello and its answer.
//!
//! ```text
//! hello                                   welcome
//!  0 [4] "RMSH"                            0 u16 version
//!  4 u16 lowest version                    2 u16 partitions
//!  6 u16 highest version                   4 u32 ping interval, ms
//!  8 u64 feature bits                      8 u64 node id
//! 16 u8  credentials kind                 16 u64 feature bits
//! 17 u8  tenant kind                      24 u32 batch bytes, most
//! 18 u16 bytes of the client id           28 u32 batch events, most
//! 20 u16 bytes of the credentials         32 u32 event data bytes, most
//! 22 u16 bytes of the tenant              36 u32 event attribute bytes, most
//! 24 client id, credentials, tenant       40 u32 topic bytes, most
//!                                         44 u32 topic levels, most
//!                                         48 u32 unacknowledged batches, most
//!                                         52 u32 topics announced at a time, most
//!                                         56 u32 subscriptions, most
//!                                         60 u32 credit of a subscription, most
//!                                         64 u32 idle time-out, ms
//!                                         68 u16 partition for events without a key, or 0
//!                                         70 u16 reserved, 0
//! ```

use super::reader::{Reader, limit};
use super::{Kind, encode_header};
use crate::error::DecodeError;

/// Lowest protocol version this build speaks.
pub const VERSION_LOWEST: u16 = 1;
/// Highest protocol version this build speaks.
pub const VERSION_HIGHEST: u16 = 1;
/// Feature bit 0: batches have a publisher id and a sequence, so that one that is sent again is stored once.
pub const FEATURE_SEQUENCES: u64 = 1;
/// A settle may say that events are never to come again ([`super::WireVerdict::Reject`]).
pub const FEATURE_REJECT: u64 = 2;
/// Longest client id: it stands in group names and in every listing.
pub const CLIENT_ID_BYTES_MAX: usize = 256;
/// Longest credentials: a signed token with its chain fits.
pub const CREDENTIALS_BYTES_MAX: usize = 16 << 10;
/// Longest name of a tenant.
pub const TENANT_BYTES_MAX: usize = 1_024;

const MAGIC: [u8; 4] = *b"RMSH";
const HELLO_FIXED_BYTES: usize = 24;
const WELCOME_BYTES: usize = 72;

/// The first frame of a client. Its layout is the same in every version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Lowest version the client speaks.
    pub version_lowest: u16,
    /// Highest version the client speaks.
    pub version_highest: u16,
    /// What the client can do beyond the version; unknown bits are ignored.
    pub features: u64,
    /// Who the client is: 1 to [`CLIENT_ID_BYTES_MAX`] bytes without control characters.
    pub client_id: &'a str,
    /// How to read the credentials; 0 is none.
    pub credentials_kind: u8,
    /// The credentials.
    pub credentials: &'a [u8],
    /// How to read the tenant; 0 is none.
    pub tenant_kind: u8,
    /// The tenant.
    pub tenant: &'a [u8],
}

impl<'a> Hello<'a> {
    /// A hello of version 1, without features, credentials and tenant.
    #[must_use]
    pub fn new(client_id: &'a str) -> Self {
        Hello {
            version_lowest: VERSION_LOWEST,
            version_highest: VERSION_HIGHEST,
            features: 0,
            client_id,
            credentials_kind: 0,
            credentials: &[],
            tenant_kind: 0,
            tenant: &[],
        }
    }

    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        if reader.bytes(4, "hello")? != MAGIC {
            return Err(DecodeError::Malformed { field: "hello magic" });
        }
        let version_lowest = reader.u16("hello")?;
        let version_highest = reader.u16("hello")?;
        let features = reader.u64("hello")?;
        let credentials_kind = reader.u8("hello")?;
        let tenant_kind = reader.u8("hello")?;
        let client_id_len = usize::from(reader.u16("hello")?);
        let credentials_len = usize::from(reader.u16("hello")?);
        let tenant_len = usize::from(reader.u16("hello")?);
        limit("client id bytes", CLIENT_ID_BYTES_MAX, client_id_len)?;
        limit("credentials bytes", CREDENTIALS_BYTES_MAX, credentials_len)?;
        limit("tenant bytes", TENANT_BYTES_MAX, tenant_len)?;
        let client_id = reader.text(client_id_len, "client id")?;
        let credentials = reader.bytes(credentials_len, "credentials")?;
        let tenant = reader.bytes(tenant_len, "tenant")?;
        reader.end()?;
        if client_id.is_empty() || client_id.chars().any(char::is_control) {
            return Err(DecodeError::Malformed { field: "client id" });
        }
        if version_lowest > version_highest {
            return Err(DecodeError::Malformed { field: "hello versions" });
        }
        Ok(Hello {
            version_lowest,
            version_highest,
            features,
            client_id,
            credentials_kind,
            credentials,
            tenant_kind,
            tenant,
        })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (id, credentials, tenant) = (self.client_id, self.credentials, self.tenant);
        assert!(id.len() <= CLIENT_ID_BYTES_MAX, "the client's options are checked");
        assert!(credentials.len() <= CREDENTIALS_BYTES_MAX && tenant.len() <= TENANT_BYTES_MAX);
        let body = HELLO_FIXED_BYTES + id.len() + credentials.len() + tenant.len();
        encode_header(Kind::Hello, 0, body, out);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.version_lowest.to_le_bytes());
        out.extend_from_slice(&self.version_highest.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        out.extend_from_slice(&[self.credentials_kind, self.tenant_kind]);
        for len in [id.len(), credentials.len(), tenant.len()] {
            out.extend_from_slice(&(len as u16).to_le_bytes());
        }
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(credentials);
        out.extend_from_slice(tenant);
    }
}

/// The answer to hello: what holds on this connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Welcome {
    /// The version both sides speak from here on.
    pub version: u16,
    /// Partitions of the server's folder; keys hash into them.
    pub partitions: u16,
    /// A client that has nothing to send pings this often, in milliseconds.
    pub ping_interval_ms: u32,
    /// The server's node.
    pub node_id: u64,
    /// Features of the client's hello that the server has too.
    pub features: u64,
    /// Largest batch, header included.
    pub batch_bytes_max: u32,
    /// Most events of a batch.
    pub batch_events_max: u32,
    /// Largest data of one event.
    pub event_data_bytes_max: u32,
    /// Largest attributes of one event, those shared with its batch included.
    pub attributes_bytes_max: u32,
    /// Longest topic.
    pub topic_bytes_max: u32,
    /// Most levels of a topic.
    pub topic_levels_max: u32,
    /// Most published batches that wait for their ack or refusal.
    pub window_batches_max: u32,
    /// Topic numbers are `1..=topics_max`, in each direction.
    pub topics_max: u32,
    /// Most subscriptions of the connection.
    pub subscriptions_max: u32,
    /// Most events in flight of a subscription.
    pub credit_max: u32,
    /// The server closes a connection from which nothing came for so long, in milliseconds.
    pub idle_timeout_ms: u32,
    /// The partition that serves this connection's events without a key best. 0 without [`FEATURE_SEQUENCES`].
    pub partition: u16,
}

impl Welcome {
    pub(super) fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let field = "welcome";
        let welcome = Welcome {
            version: reader.u16(field)?,
            partitions: reader.u16(field)?,
            ping_interval_ms: reader.u32(field)?,
            node_id: reader.u64(field)?,
            features: reader.u64(field)?,
            batch_bytes_max: reader.u32(field)?,
            batch_events_max: reader.u32(field)?,
            event_data_bytes_max: reader.u32(field)?,
            attributes_bytes_max: reader.u32(field)?,
            topic_bytes_max: reader.u32(field)?,
            topic_levels_max: reader.u32(field)?,
            window_batches_max: reader.u32(field)?,
            topics_max: reader.u32(field)?,
            subscriptions_max: reader.u32(field)?,
            credit_max: reader.u32(field)?,
            idle_timeout_ms: reader.u32(field)?,
            partition: reader.u16(field)?,
        };
        reader.reserved::<2>()?;
        reader.end()?;
        let has_zero =
            welcome.partitions == 0 || welcome.window_batches_max == 0 || welcome.topics_max == 0;
        if has_zero || welcome.partition >= welcome.partitions {
            return Err(DecodeError::Malformed { field });
        }
        Ok(welcome)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_header(Kind::Welcome, 0, WELCOME_BYTES, out);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.partitions.to_le_bytes());
        out.extend_from_slice(&self.ping_interval_ms.to_le_bytes());
        out.extend_from_slice(&self.node_id.to_le_bytes());
        out.extend_from_slice(&self.features.to_le_bytes());
        let limits = [
            self.batch_bytes_max,
            self.batch_events_max,
            self.event_data_bytes_max,
            self.attributes_bytes_max,
            self.topic_bytes_max,
            self.topic_levels_max,
            self.window_batches_max,
            self.topics_max,
            self.subscriptions_max,
            self.credit_max,
            self.idle_timeout_ms,
            u32::from(self.partition),
        ];
        for limit in limits {
            out.extend_from_slice(&limit.to_le_bytes());
        }
    }
}
