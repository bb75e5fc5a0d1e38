//! Where a server would stand: its ports and its folder.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::storage::file::FileStorage;
use log::storage::{Storage, probe_direct};

use super::super::admin::{AdminPort, List};
use super::super::args::{AdminArgs, Output};
use super::super::connection::{self, Target};
use super::super::contexts::{Address, Origin};
use super::super::failure::{Exit, Failure};
use super::Finding;
use crate::config::Config;
use crate::config::units::Size;
use crate::server::error::{ADMIN_FLAG, HTTP_FLAG, LISTEN_FLAG};
use crate::server::port;

/// Names of paused subscriptions that are told.
const PAUSED_SHOWN_MAX: usize = 3;

/// The native door's port: free, or a Ringmesh answers there.
pub(super) fn native_port(config: &Config, timeout: Duration) -> Finding {
    let listen = config.native.listen;
    judge_port("native_port", LISTEN_FLAG, listen, || {
        let (text, origin) = (listen.to_string(), Origin::Flag(LISTEN_FLAG));
        let target = Target { address: Address { text, origin, token_file: None }, timeout };
        connection::block_on(async {
            connection::connect(target.options(), &target).await.map(drop)
        })
    })
}

/// The http door's port in the same way, unless it is off.
pub(super) fn http_port(config: &Config, timeout: Duration) -> Option<Finding> {
    let listen = config.http.listen?;
    Some(judge_port("http_port", HTTP_FLAG, listen, || {
        // The door has no such path and says so in Ringmesh's words.
        AdminPort::new(&asking(listen, timeout)).get("nothing").map(drop)
    }))
}

/// The admin port in the same way, unless it is off.
pub(super) fn admin_port(config: &Config, timeout: Duration) -> Option<Finding> {
    let listen = config.admin.listen?;
    Some(judge_port("admin_port", ADMIN_FLAG, listen, || {
        // Of all there is it needs no shard and no control plane to answer, so a busy server answers, too.
        let document = AdminPort::new(&asking(listen, timeout)).get("openapi.json")?;
        if document["info"]["title"] == "Ringmesh admin API" {
            return Ok(());
        }
        Err(Failure::new(Exit::Failed, "what answers has another API", ""))
    }))
}

/// What asks whoever listens there in the way of the admin port.
fn asking(listen: SocketAddr, timeout: Duration) -> AdminArgs {
    let admin = Some(listen.to_string());
    AdminArgs { admin, context: None, token_file: None, timeout, output: Output::Json }
}

/// Subscriptions that are paused on a server that runs already, or have stopped for their parked events: who wonders why
/// nothing comes looks here.
pub(super) fn paused(config: &Config, timeout: Duration) -> Option<Finding> {
    let listen = config.admin.listen?;
    let (mut paused, mut stopped) = (Vec::new(), Vec::new());
    let (asking, list) = (asking(listen, timeout), List::whole("subscriptions"));
    let listed = AdminPort::new(&asking).each(&list, |item| {
        let name = || item["name"].as_str().unwrap_or_default().to_owned();
        if item["paused"] == true {
            paused.push(name());
        }
        if item["stopped"] == true {
            stopped.push(name());
        }
        Ok(())
    });
    match listed {
        Ok(()) => {}
        Err(failure) if failure.exit == Exit::Refused => {
            let advice = "ask again when it is less busy";
            return Some(Finding::warn(
                "paused",
                format!("not known: {}", failure.message),
                advice,
            ));
        }
        // No server, or another one: the check of the admin port tells that.
        Err(_) => return None,
    }
    if let Some(first) = stopped.first() {
        let count = stopped.len();
        return Some(Finding::warn(
            "paused",
            format!(
                "{count} subscriptions have stopped for their parked events, among them {first}"
            ),
            "mend their handlers, or give them fewer attempts: `ringmesh subscription set NAME --attempts N`",
        ));
    }
    if paused.is_empty() {
        return Some(Finding::ok("paused", "no subscription is paused"));
    }
    let shown = paused.iter().take(PAUSED_SHOWN_MAX).map(String::as_str).collect::<Vec<_>>();
    let (count, shown) = (paused.len(), shown.join(", "));
    Some(Finding::warn(
        "paused",
        format!("{count} subscriptions are paused, among them {shown}"),
        "their members get nothing: `ringmesh subscription resume NAME` when they are to",
    ))
}

fn judge_port(
    check: &'static str,
    flag: &'static str,
    listen: SocketAddr,
    ask: impl FnOnce() -> Result<(), Failure>,
) -> Finding {
    let Err(error) = port::claim(flag, listen) else {
        return Finding::ok(check, format!("{listen} is free"));
    };
    match ask() {
        Err(failure) if failure.exit != Exit::Refused => {
            let finding = format!("{error}, and not Ringmesh: {}", failure.message);
            Finding::fail(check, finding, error.advice())
        }
        // Whoever refuses in its words is one, too.
        _ => Finding::ok(check, format!("a Ringmesh server answers at {listen}")),
    }
}

/// Whether the folder can be written, and past the page cache.
pub(super) fn folder(config: &Config) -> Finding {
    let data = &config.server.data;
    let folder = existing(data);
    let shown = folder.display();
    match probe_direct(&FileStorage::new(), &folder) {
        Ok(true) => Finding::ok("folder", format!("{shown} can be written, with O_DIRECT")),
        Ok(false) => Finding::warn(
            "folder",
            format!(
                "the file system of {shown} has no O_DIRECT: commits go through the page cache"
            ),
            "use ext4 or xfs: commits are faster there",
        ),
        Err(error) => Finding::fail(
            "folder",
            format!("{shown} cannot be written: {error}"),
            "look at the path, its owner and its permissions, or choose another folder with --data",
        ),
    }
}

/// Whether the disk has room for the files that the logs write next.
pub(super) fn space(config: &Config, shards: u16) -> Finding {
    let folder = existing(&config.server.data);
    match FileStorage::new().free_bytes(&folder) {
        Ok(free) => judge_space(free, 2 * u64::from(shards) * config.log.segment_bytes),
        Err(error) => Finding::warn(
            "space",
            format!("the disk of {} does not say how much is free: {error}", folder.display()),
            "look at it with `df`",
        ),
    }
}

fn judge_space(free: u64, next: u64) -> Finding {
    let fact = format!("{} MiB are free", free >> 20);
    if free >= next {
        return Finding::ok("space", fact);
    }
    Finding::warn(
        "space",
        format!("only {fact}; the next two files of each log take {}", Size(next)),
        "give the folder a larger disk, or lower log.segment_bytes or log.retention_bytes: a full disk refuses events",
    )
}

/// The folder, or the nearest one above it that is there.
fn existing(data: &Path) -> PathBuf {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let there = data.ancestors().find(|folder| folder.exists());
    there.unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    /// A disk that is nearly full must be told of before events are refused.
    #[test]
    fn little_space_is_told() {
        assert_eq!(judge_space(512 << 20, 512 << 20).result, Verdict::Ok);
        assert_eq!(judge_space((512 << 20) - 1, 512 << 20).result, Verdict::Warn);
    }

    /// The check must leave the folder as it was, and not make one that is only asked about.
    #[test]
    fn nothing_is_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.server.data = folder.path().join("not/yet");
        let finding = super::folder(&config);
        assert_ne!(finding.result, Verdict::Fail, "{finding:?}");
        assert!(finding.finding.contains(&folder.path().display().to_string()), "{finding:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        config.server.data = PathBuf::from("/proc/ringmesh");
        assert_eq!(super::folder(&config).result, Verdict::Fail);
    }
}
