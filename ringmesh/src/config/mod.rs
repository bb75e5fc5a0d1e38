//! The server's configuration: flags over environment over file over default.
//!
//! [`keys`] is the one table of what can be set; the file, the environment, `--set`, `--print-config` and
//! docs/configuration.md all follow it. What is not in it is refused by name, from every source.

mod explain;
mod keys;
mod print;
mod sources;
pub mod suggest;
#[cfg(test)]
mod tests;
pub mod units;

use codec::ack::AckLevel;
use doors::http::{BODY_BYTES_DEFAULT, Cors};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use explain::{Explained, explain};
pub use print::print;
pub use sources::{ConfigError, Loaded, Origin, Setting, Sources};

/// Everything that a server can be told. Each field is a key of the table, named `section.field`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The process: folder, cores.
    pub server: ServerConfig,
    /// The native door.
    pub native: NativeConfig,
    /// The http door.
    pub http: HttpConfig,
    /// The admin port.
    pub admin: AdminConfig,
    /// The log of each shard.
    pub log: LogConfig,
    /// How events reach subscribers.
    pub delivery: DeliveryConfig,
    /// What peers may ask for.
    pub limits: LimitsConfig,
    /// What the server writes to standard error about itself.
    pub logging: LoggingConfig,
}

/// The process: folder, cores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// The data folder; made if it is missing.
    pub data: PathBuf,
    /// Shards, one log and one thread each; `None` is one a core, less one from four cores up.
    pub shards: Option<u16>,
    /// Whether each shard stays on one core; `None` is yes if there are as many cores as shards.
    pub pin: Option<bool>,
    /// What a shard does when nothing is to do.
    pub idle: Idle,
    /// How long a shutdown waits for events in flight.
    pub drain_timeout: Duration,
}

/// What a shard does when nothing is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Sleep at once.
    Park,
    /// Look for work for 50 us more before it sleeps: lower delays for a core that is nearly always busy.
    Spin,
}

/// The native door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeConfig {
    /// Where it listens; port 0 picks a free one.
    pub listen: SocketAddr,
    /// How long a new connection may take to say hello.
    pub hello_timeout: Duration,
    /// How often a silent client must say something.
    pub ping_interval: Duration,
    /// When a silent connection is closed.
    pub idle_timeout: Duration,
    /// When a connection is closed that takes next to nothing (less than 16 KiB) although there is more for it.
    pub slow_peer_timeout: Duration,
    /// Batches that a publisher may have unacknowledged on one connection.
    pub publish_window: u32,
}

/// The http door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it listens; port 0 picks a free one, `None` turns it off.
    pub listen: Option<SocketAddr>,
    /// How long the headers of a request may take to come.
    pub header_timeout: Duration,
    /// How long the body of a request may take to come.
    pub body_timeout: Duration,
    /// When a connection is closed on which nothing is asked.
    pub idle_timeout: Duration,
    /// Body of one request, before and after it is inflated.
    pub body_bytes_max: u32,
    /// Which pages of other origins may ask.
    pub cors: Cors,
}

/// The admin port: health, metrics, API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminConfig {
    /// Where it listens; port 0 picks a free one, `None` turns it off.
    pub listen: Option<SocketAddr>,
    /// When a connection is closed whose next request is not whole, or that does not take its answer.
    pub idle_timeout: Duration,
    /// Names of this server, beside localhost and every address.
    pub hosts: Vec<String>,
    /// The file with the token that who asks must have; `None` asks for none.
    pub token_file: Option<PathBuf>,
}

/// The log of each shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// Memory for the newest events of a log, from which subscribers at the tail are served.
    pub cache_bytes: u64,
    /// What a log keeps; `None` keeps everything.
    pub retention_bytes: Option<u64>,
    /// What the folder may take; `None` is what the disk has.
    pub folder_bytes_max: Option<u64>,
}

/// How events reach subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// When an event counts as taken: publishers are answered and subscribers see it.
    pub ack: AckLevel,
    /// When a delivery that nobody acknowledged is given to another member.
    pub ack_deadline: Duration,
    /// The delay before a delivery that was handed back is tried again; doubles with each attempt.
    pub retry_delay: Duration,
    /// The longest such delay.
    pub retry_delay_max: Duration,
    /// What waits longer until it is tried again is parked.
    pub park_after: Duration,
    /// Bytes that each shard may have delivered and not settled.
    pub in_flight_bytes_max: u64,
    /// When the subscriptions of a client without a session end.
    pub ephemeral_expiry: Duration,
}

/// What peers may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Connections at one time; `None` is 90 % of the open files that the process may have, as far as memory allows.
    pub connections_max: Option<u32>,
    /// Memory of the whole process; `None` is a quarter of the machine's, or of its container's.
    pub memory_bytes_max: Option<u64>,
    /// Data of one event.
    pub event_data_bytes_max: u32,
}

/// What the server writes to standard error about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggingConfig {
    /// The least that is written.
    pub level: tracing::level_filters::LevelFilter,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            server: ServerConfig {
                data: PathBuf::from("ringmesh-data"),
                shards: None,
                pin: None,
                idle: Idle::Park,
                drain_timeout: Duration::from_secs(10),
            },
            native: NativeConfig {
                listen: SocketAddr::from(([127, 0, 0, 1], 10300)),
                hello_timeout: Duration::from_secs(10),
                ping_interval: Duration::from_secs(20),
                idle_timeout: Duration::from_secs(60),
                slow_peer_timeout: Duration::from_secs(60),
                publish_window: 1_024,
            },
            http: HttpConfig {
                listen: Some(SocketAddr::from(([127, 0, 0, 1], 10105))),
                header_timeout: Duration::from_secs(10),
                body_timeout: Duration::from_secs(30),
                idle_timeout: Duration::from_secs(60),
                body_bytes_max: BODY_BYTES_DEFAULT,
                cors: Cors::None,
            },
            admin: AdminConfig {
                listen: Some(SocketAddr::from(([127, 0, 0, 1], 10106))),
                idle_timeout: Duration::from_secs(30),
                hosts: Vec::new(),
                token_file: None,
            },
            log: LogConfig {
                segment_bytes: 256 << 20,
                cache_bytes: 64 << 20,
                retention_bytes: None,
                folder_bytes_max: None,
            },
            delivery: DeliveryConfig {
                ack: AckLevel::Durable,
                ack_deadline: Duration::from_secs(30),
                retry_delay: Duration::from_millis(100),
                retry_delay_max: Duration::from_secs(10),
                park_after: Duration::from_secs(30),
                in_flight_bytes_max: 256 << 20,
                ephemeral_expiry: Duration::from_secs(60),
            },
            limits: LimitsConfig {
                connections_max: None,
                memory_bytes_max: None,
                event_data_bytes_max: codec::limits::EVENT_DATA_BYTES_DEFAULT,
            },
            logging: LoggingConfig { level: tracing::level_filters::LevelFilter::INFO },
        }
    }
}
