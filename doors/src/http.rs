//! The http door, port 10105: HTTP/1.1 and HTTP/2 with prior knowledge. docs/http.md is what it speaks.
//!
//! hyper knows HTTP; it reads and writes memory ([`pipe`]) and is polled by the session, so that this door is a state
//! machine as every other ([decision 15](../../docs/decisions/0015-http-is-a-session-too.md)).
//!
//! In reading order: [`session`] is one connection; [`engine`] is hyper and [`desk`] what stands between it and the
//! session; [`routes`] says what a request asks for, [`query`] and [`body`] read its parts; [`publish`], [`poll`], [`stream`]
//! and [`settle`] do it, as members that [`seat`] describes, and [`eventmesh`] for clients of EventMesh; [`place`] and [`tokens`]
//! are what a client sends back; [`answers`] is what it is told.

mod answers;
mod body;
mod cors;
mod desk;
mod engine;
mod eventmesh;
mod events;
mod pipe;
mod place;
mod poll;
mod publish;
mod query;
mod rising;
mod routes;
mod seat;
mod session;
mod settle;
mod stream;
mod tokens;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use codec::limits::{EVENT_DATA_BYTES_DEFAULT, EVENT_DATA_BYTES_MAX, PARTITIONS};
use codec::problem::{MEDIA_TYPE, Problem};
use codec::refusal::Refusal;
use dataplane::kernel::Now;
use dataplane::session::{Door, Session, SessionKey};

pub use cors::Cors;

use eventmesh::clients::Clients;
use session::HttpSession;

/// Bytes of a request's path and headers, names and values.
pub const HEADER_BYTES_MAX: usize = 64 << 10;
/// Headers of a request.
pub const HEADERS_MAX: usize = 128;
/// Largest body of a request unless configured, before and after it is inflated.
pub const BODY_BYTES_DEFAULT: u32 = 4 << 20;
/// Requests that one HTTP/2 connection may have open.
pub const STREAMS_MAX: u32 = 128;

/// How the http door behaves.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Partitions of the folder.
    pub partitions: u16,
    /// Logs that take events: one a shard.
    pub shards: u16,
    /// Low half of the node's id: what clients bring back must be this node's.
    pub node: u32,
    /// Largest data of one event that is taken.
    pub event_data_bytes_max: u32,
    /// Largest body of a request, before and after it is inflated.
    pub body_bytes_max: u32,
    /// How long the headers of a request may take to come.
    pub header_timeout: Duration,
    /// How long the body of a request may take to come.
    pub body_timeout: Duration,
    /// When a connection is closed on which nothing is asked.
    pub idle_timeout: Duration,
    /// How long a publish waits for room before it is answered 429.
    pub room_timeout: Duration,
    /// How often a stream says something although there is nothing to say.
    pub comment_interval: Duration,
    /// When a delivery that was not settled goes to another: a stream whose reader does not say how far it has come is
    /// ended before that.
    pub ack_deadline: Duration,
    /// Which pages of other origins may ask.
    pub cors: Cors,
}

impl Default for HttpOptions {
    fn default() -> Self {
        HttpOptions {
            partitions: PARTITIONS,
            shards: 1,
            node: 0,
            event_data_bytes_max: EVENT_DATA_BYTES_DEFAULT,
            body_bytes_max: BODY_BYTES_DEFAULT,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            room_timeout: Duration::from_secs(2),
            comment_interval: Duration::from_secs(15),
            ack_deadline: Duration::from_secs(30),
            cors: Cors::None,
        }
    }
}

/// What all connections of the door share.
#[derive(Debug)]
struct Shared {
    options: HttpOptions,
    /// Names given to clients that have none.
    names: AtomicU64,
    /// What clients of EventMesh have subscribed to.
    eventmesh: Clients,
}

impl Shared {
    /// A name that no other client of this process has.
    fn new_client(&self) -> Arc<str> {
        format!("$http/{}", self.names.fetch_add(1, Ordering::Relaxed)).into()
    }
}

/// Makes an http session for each connection.
#[derive(Debug)]
pub struct HttpDoor {
    shared: Arc<Shared>,
}

impl HttpDoor {
    /// A door with these options.
    #[must_use]
    pub fn new(options: HttpOptions) -> Self {
        assert!(options.partitions > 0 && options.shards > 0, "a folder has partitions");
        assert!(options.event_data_bytes_max <= EVENT_DATA_BYTES_MAX, "an event fits a batch");
        HttpDoor {
            shared: Arc::new(Shared {
                options,
                names: AtomicU64::new(0),
                eventmesh: Clients::default(),
            }),
        }
    }
}

impl Door for HttpDoor {
    fn name(&self) -> &'static str {
        "http"
    }

    fn accept(&self, key: SessionKey, _peer: SocketAddr, now: Now) -> Box<dyn Session> {
        Box::new(HttpSession::new(key, self.shared.clone(), now))
    }

    fn refuse(&self, refusal: &Refusal) -> Vec<u8> {
        last_words(&Problem::from(refusal.clone()))
    }
}

/// An answer of HTTP/1.1 outside of any request, and the last on its connection.
fn last_words(problem: &Problem) -> Vec<u8> {
    let mut body = Vec::new();
    problem.write(&mut body);
    let status = http::StatusCode::from_u16(problem.status());
    let status = status.unwrap_or(http::StatusCode::SERVICE_UNAVAILABLE);
    let reason = status.canonical_reason().unwrap_or_default();
    let (code, length) = (status.as_u16(), body.len());
    let mut out = format!(
        "HTTP/1.1 {code} {reason}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {length}\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
    )
    .into_bytes();
    out.extend_from_slice(&body);
    out
}
