//! What a server itself says of its configuration, so that a report need not trust its own configuration files.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

/// How long an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// No answer is longer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// When NATS JetStream syncs, as its monitoring at `monitor` says.
pub(super) fn of_nats(monitor: SocketAddr) -> anyhow::Result<String> {
    let answer = get(monitor, "/varz").context("cannot ask NATS for its configuration")?;
    sync_policy(&answer)
}

fn get(server: SocketAddr, path: &str) -> anyhow::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&server, ANSWER_TIMEOUT)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    let answer = String::from_utf8(answer)?;
    let (head, body) =
        answer.split_once("\r\n\r\n").context("the answer has no end of its head")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{path}: {status}");
    serde_json::from_str(body).context("the answer is no JSON")
}

fn sync_policy(varz: &Value) -> anyhow::Result<String> {
    let config = varz.pointer("/jetstream/config").context("NATS runs without JetStream")?;
    if config["sync_always"] == true {
        return Ok("sync_always=true".to_owned());
    }
    let interval_ns = config["sync_interval"].as_u64().context("NATS tells no sync_interval")?;
    Ok(format!("sync_interval={}s", interval_ns / 1_000_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that syncs each message also has an interval: read alone, it would be called unsynced.
    #[test]
    fn who_always_syncs_is_told_from_who_does_so_at_times() {
        let says = |config: &str| {
            let varz = format!(r#"{{"jetstream":{{"config":{config}}}}}"#);
            sync_policy(&serde_json::from_str(&varz).unwrap()).ok()
        };
        let interval = r#"{"sync_interval":120000000000}"#;
        assert_eq!(says(interval).as_deref(), Some("sync_interval=120s"));
        let always = r#"{"sync_interval":120000000000,"sync_always":true}"#;
        assert_eq!(says(always).as_deref(), Some("sync_always=true"));
        assert_eq!(says("{}"), None);
        assert!(sync_policy(&Value::Null).is_err());
    }
}
