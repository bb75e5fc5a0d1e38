//! The table of keys: name, what it means, how it is read and shown, and what is allowed.

use codec::ack::AckLevel;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use codec::limits::EVENT_DATA_BYTES_MAX;
use doors::http::Cors;

use super::units::{SIZE_FORM, Size, TIME_FORM, parse_time, show_time};
use super::{Config, Idle};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const DAY: Duration = Duration::from_secs(86_400);
const MS: Duration = Duration::from_millis(1);

/// One thing that can be set.
pub(super) struct Key {
    /// The table of the file that it stands in.
    pub(super) section: &'static str,
    /// Its name there.
    pub(super) name: &'static str,
    /// What it does, as a comment of the printed file; lines are broken by hand.
    pub(super) doc: &'static str,
    /// Takes the text of a value. The error says what is allowed.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    /// The value in force, as `set` takes it.
    pub(super) show: fn(&Config) -> String,
}

impl Key {
    /// `section.name`, as `--set` and the messages have it.
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub(super) fn variable(&self) -> String {
        format!("RINGMESH_{}__{}", self.section, self.name).to_uppercase()
    }
}

macro_rules! keys {
    ($($section:ident.$name:ident: $doc:literal, $read:expr, $show:expr;)+) => {
        /// Every key, in the order in which they are printed.
        pub(super) const KEYS: &[Key] = &[$(Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: $doc,
            set: |config, text| {
                config.$section.$name = $read(text)?;
                Ok(())
            },
            show: |config| $show(&config.$section.$name),
        }),+];
    };
}

keys! {
    server.data: "The data folder. It is made if it is missing; one server at a time may have it open.",
        folder, |path: &PathBuf| path.display().to_string();
    server.shards: "Shards: one log and one thread each. auto: one for each core that the process may use, one\nfewer from four cores up. It may change from start to start; what is in the folder stays readable.",
        |text| auto(text, 1..=64), show_auto;
    server.pin: "Whether each shard's thread stays on one core: true, false, or auto: if there are as many cores as\nshards.",
        pin, show_auto;
    server.idle: "What a shard does when it has nothing to do: park (sleep at once) or spin (look for work for\n50us first, longer while the disk is at work: shorter delays for a busy core).",
        |text| choice(text, &[("park", Idle::Park), ("spin", Idle::Spin)]), show_idle;
    server.drain_timeout: "How long a shutdown waits until what was taken is written and answered.",
        |text| time(text, MS..=Duration::from_secs(600)), |value: &Duration| show_time(*value);

    native.listen: "Where the native door listens. Port 0 picks a free one; the ready line and addresses.json in\nthe data folder say which.",
        |text| parsed(text, "an address and a port, such as 127.0.0.1:10300 or [::1]:10300"), ToString::to_string;
    native.hello_timeout: "How long a new connection may take to say hello before it is closed. As long a peer may be silent in the\nmiddle of a large frame while others wait for memory.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    native.ping_interval: "How often a client that has nothing else to say must ping. Clients are told at hello.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    native.idle_timeout: "When a connection is closed from which nothing came. Longer than ping_interval.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    native.slow_peer_timeout: "When a connection is closed that takes next to nothing (less than 16 KiB in that time) although\nthere is more for it.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    native.publish_window: "Batches that a publisher may have unacknowledged on one connection. Clients are told at hello.",
        |text| number(text, 1..=65_536), ToString::to_string;

    http.listen: "Where the http door listens: HTTP/1.1, and HTTP/2 with prior knowledge. It asks nobody who they are. Port 0\npicks a free one; off turns it off.",
        listen, show_listen;
    http.header_timeout: "How long the headers of a request may take to come before its connection is closed.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    http.body_timeout: "How long the body of a request may take to come before it is refused.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    http.idle_timeout: "When a connection is closed on which nothing is asked.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    http.body_bytes_max: "Body of one request, before and after it is inflated. Larger ones are refused unread.",
        |text| size(text, 1 << 10..=64 * MIB).and_then(narrow), |value: &u32| show_size(&u64::from(*value));
    http.cors: "Pages of which origins may ask, by the rules that browsers keep: none, any, or origins such as\nhttps://app.example, with commas between them.",
        cors, show_cors;

    admin.listen: "Where the admin port listens: health, metrics, and the API to look into the server. It asks for\nno more than admin.token_file says. Port 0 picks a free one; off turns it off.",
        listen, show_listen;
    admin.idle_timeout: "When an admin connection is closed whose next request is not whole, or that does not take its answer.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);

    admin.hosts: "Names by which clients call the admin port, with commas between; localhost and addresses need none.\nOn loopback, or where names are given, requests to other names are refused (foreign_host). none: no name.",
        hosts, show_hosts;
    admin.token_file: "A file with a token. Whoever asks for more than /healthz and /readyz must send it (authorization:\nBearer TOKEN). none: nobody needs one.",
        optional_file, show_file;

    log.segment_bytes: "Size of one file of a log. A start reads at most one of them again.",
        |text| size(text, MIB..=4 * GIB), show_size;
    log.cache_bytes: "Memory, for each shard, that holds the newest events; subscribers that keep up are served from it.",
        |text| size(text, MIB..=64 * GIB), show_size;
    log.retention_bytes: "How much each shard's log keeps at least: what is older goes, a segment at a time, whether or\nnot all groups have seen it. none keeps everything.",
        |text| optional_size(text, 4 * MIB..=u64::MAX), show_optional_size;
    log.folder_bytes_max: "How much the data folder may take. At the limit publishing is refused (disk_full); reading and\nacknowledging go on. none: as much as the disk has.",
        |text| optional_size(text, 16 * MIB..=u64::MAX), show_optional_size;

    delivery.ack: "When an event counts as taken, so that its publisher is answered and subscribers see it: durable\n(synced: survives a power loss), written (survives the process; synced some 10 ms later, so a power\nloss may take back that much) or received (in memory, on its way to the disk).",
        |text| choice(text, &[AckLevel::Durable, AckLevel::Written, AckLevel::Received].map(|level| (level.name(), level))), |value: &AckLevel| value.name().to_owned();
    delivery.ack_deadline: "When a delivery that its subscriber did not acknowledge is delivered again.",
        |text| time(text, 10 * MS..=DAY), |value: &Duration| show_time(*value);
    delivery.retry_delay: "How long a delivery that its subscriber handed back waits before it is delivered again. It doubles\nwith each attempt.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    delivery.retry_delay_max: "The longest such wait.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    delivery.park_after: "An event that waits longer until it is tried again is parked: kept, with its attempts, apart from its\ngroup's place in the logs, which goes on.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);
    delivery.in_flight_bytes_max: "How much each shard may have delivered and not settled. Beyond it, groups wait and are read from disk\nlater.",
        |text| size(text, 17 * MIB..=u64::MAX), show_size;
    delivery.ephemeral_expiry: "When the subscriptions without a group end of a client that is gone.",
        |text| time(text, MS..=DAY), |value: &Duration| show_time(*value);

    limits.connections_max: "Connections at one time. auto: 90 % of the files that the process may open, as\nfar as memory_bytes_max allows.",
        |text| auto(text, 1..=10_000_000), show_auto;
    limits.memory_bytes_max: "Memory of the whole process, divided among connections and shards; each shard divides its share among\ncache, deliveries, reading ahead, commits, frames that are not whole, publishes to other shards and\nindexes. A part that is full slows its publishers or sends readers back to the disk. auto: a quarter of\nthe machine's memory, or its container's, but what the shards need at least.",
        auto_size, show_auto_size;
    limits.event_data_bytes_max: "Data of one event. Larger ones are refused.",
        |text| size(text, 1..=u64::from(EVENT_DATA_BYTES_MAX)).and_then(narrow), |value: &u32| show_size(&u64::from(*value));

    logging.level: "The least that the server writes to standard error about itself: error, warn, info, debug or trace.",
        level, |value: &tracing::level_filters::LevelFilter| value.to_string();
}

fn folder(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path of a folder".to_owned());
    }
    Ok(PathBuf::from(text))
}

fn parsed<T: FromStr>(text: &str, allowed: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| allowed.to_owned())
}

fn listen(text: &str) -> Result<Option<SocketAddr>, String> {
    if text.trim() == "off" {
        return Ok(None);
    }
    parsed(text, "off, or an address and a port, such as 127.0.0.1:10106").map(Some)
}

fn hosts(text: &str) -> Result<Vec<String>, String> {
    if text.trim() == "none" {
        return Ok(Vec::new());
    }
    let hosts: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
    let is_name = |name: &String| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    if hosts.iter().all(is_name) {
        Ok(hosts)
    } else {
        Err("none, or names without ports".to_owned())
    }
}

fn show_hosts(hosts: &[String]) -> String {
    if hosts.is_empty() { "none".to_owned() } else { hosts.join(",") }
}

fn optional_file(text: &str) -> Result<Option<PathBuf>, String> {
    match text.trim() {
        "" => Err("none, or the path of a file".to_owned()),
        "none" => Ok(None),
        path => Ok(Some(PathBuf::from(path))),
    }
}

fn show_file(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
}

fn show_listen(value: &Option<SocketAddr>) -> String {
    value.map_or_else(|| "off".to_owned(), |address| address.to_string())
}

fn cors(text: &str) -> Result<Cors, String> {
    let allowed =
        || "none, any, or origins such as https://app.example with commas between them".to_owned();
    let is_origin = |origin: &&str| {
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        !host.is_empty() && !host.contains(['/', ' ', '"'])
    };
    let origins: Vec<&str> = text.split(',').map(str::trim).collect();
    match origins[..] {
        ["none"] => Ok(Cors::None),
        ["any"] => Ok(Cors::Any),
        _ if origins.iter().all(is_origin) => {
            Ok(Cors::Origins(origins.into_iter().map(str::to_owned).collect()))
        }
        _ => Err(allowed()),
    }
}

fn show_cors(value: &Cors) -> String {
    match value {
        Cors::None => "none".to_owned(),
        Cors::Any => "any".to_owned(),
        Cors::Origins(origins) => origins.join(","),
    }
}

fn pin(text: &str) -> Result<Option<bool>, String> {
    choice(text, &[("auto", None), ("true", Some(true)), ("false", Some(false))])
}

fn number<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let allowed = || format!("a whole number from {} to {}", range.start(), range.end());
    let value = text.trim().parse().map_err(|_| allowed())?;
    if range.contains(&value) { Ok(value) } else { Err(allowed()) }
}

fn auto<T>(text: &str, range: RangeInclusive<T>) -> Result<Option<T>, String>
where
    T: FromStr + PartialOrd + Display,
{
    if text.trim() == "auto" {
        return Ok(None);
    }
    number(text, range).map(Some).map_err(|allowed| format!("auto or {allowed}"))
}

fn show_auto<T: Display>(value: &Option<T>) -> String {
    value.as_ref().map_or_else(|| "auto".to_owned(), ToString::to_string)
}

fn size(text: &str, range: RangeInclusive<u64>) -> Result<u64, String> {
    let least = Size(*range.start());
    let allowed = match *range.end() {
        u64::MAX => format!("at least {least}"),
        most => format!("from {least} to {}", Size(most)),
    };
    match Size::parse(text) {
        Some(Size(bytes)) if range.contains(&bytes) => Ok(bytes),
        Some(_) => Err(allowed),
        None => Err(format!("{SIZE_FORM}, {allowed}")),
    }
}

fn narrow(bytes: u64) -> Result<u32, String> {
    u32::try_from(bytes).map_err(|_| format!("at most {}", Size(u64::from(u32::MAX))))
}

fn show_size(bytes: &u64) -> String {
    Size(*bytes).to_string()
}

fn auto_size(text: &str) -> Result<Option<u64>, String> {
    if text.trim() == "auto" {
        return Ok(None);
    }
    size(text, 64 * MIB..=u64::MAX).map(Some).map_err(|allowed| format!("auto or {allowed}"))
}

fn show_auto_size(bytes: &Option<u64>) -> String {
    bytes.as_ref().map_or_else(|| "auto".to_owned(), show_size)
}

fn optional_size(text: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, String> {
    if text.trim() == "none" {
        return Ok(None);
    }
    size(text, range).map(Some).map_err(|allowed| format!("none or {allowed}"))
}

fn show_optional_size(bytes: &Option<u64>) -> String {
    bytes.as_ref().map_or_else(|| "none".to_owned(), show_size)
}

fn time(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let allowed = format!("from {} to {}", show_time(*range.start()), show_time(*range.end()));
    match parse_time(text) {
        Some(value) if range.contains(&value) => Ok(value),
        Some(_) => Err(allowed),
        None => Err(format!("{TIME_FORM}, {allowed}")),
    }
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text.trim());
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let (last, first) = names.split_last().expect("a choice has names");
        format!("{} or {last}", first.join(", "))
    })
}

fn show_idle(value: &Idle) -> String {
    match value {
        Idle::Park => "park",
        Idle::Spin => "spin",
    }
    .to_owned()
}

fn level(text: &str) -> Result<tracing::level_filters::LevelFilter, String> {
    use tracing::level_filters::LevelFilter;
    choice(
        text,
        &[
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
        ],
    )
}
