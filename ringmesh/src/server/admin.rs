//! The admin port's part of the assembly: when it opens, and what it is given to tell of.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use ::admin::access::{Access, Token};
use ::admin::server::Admin;
use ::admin::sources::{Facts, Recovered, Setting, Sources};
use controlplane::operator::ControlHandle;
use dataplane::runtime::ShardHandle;
use log::folder::Folder;

use super::StartError;
use super::error::ADMIN_FLAG;
use super::memory::Memory;
use super::port::claim;
use crate::config::{Config, Loaded};

/// Opens the admin port, unless it is off. It answers from here on, that the server is not ready.
pub(super) fn start(config: &Config) -> Result<Option<Admin>, StartError> {
    let Some(listen) = config.admin.listen else { return Ok(None) };
    let listener = claim(ADMIN_FLAG, listen)?.open()?;
    let admin = access(config, listen)
        .and_then(|access| Admin::start(listener, config.admin.idle_timeout, access));
    let admin = admin.map_err(StartError::Admin)?;
    Ok(Some(admin))
}

/// Who may ask. On loopback a name that is not ours is a page's that was bound to this machine.
fn access(config: &Config, listen: SocketAddr) -> io::Result<Access> {
    let hosts = config.admin.hosts.clone();
    let is_strict = listen.ip().is_loopback() || !hosts.is_empty();
    let token = config.admin.token_file.as_deref().map(|path| {
        Token::read(path).map_err(|error| {
            io::Error::other(format!("the token file {}: {error}", path.display()))
        })
    });
    Ok(Access { hosts, is_strict, token: token.transpose()? })
}

/// What is known when the folder is open; where the native door listens and how long it took is still to be filled in.
pub(super) fn facts(config: &Config, memory: &Memory, folder: &Folder) -> Facts {
    let recovered = folder.recovered.iter().map(|report| Recovered {
        log: report.log.to_string(),
        bytes_read: report.bytes_read,
        is_cut: report.cut.is_some(),
        damage: report.damage.len(),
    });
    Facts {
        node_id: folder.node_id,
        data: config.server.data.clone(),
        generation: folder.generation,
        direct: folder.direct,
        native: SocketAddr::from(([0, 0, 0, 0], 0)),
        ready_after: Duration::ZERO,
        memory_bytes_max: memory.budget,
        connections_max: memory.connections_max,
        recovered: recovered.collect(),
        ack: config.delivery.ack,
        event_data_bytes_max: config.limits.event_data_bytes_max,
    }
}

/// All that the admin port tells of.
pub(super) fn sources(
    loaded: &Loaded,
    facts: Facts,
    shards: Vec<ShardHandle>,
    control: ControlHandle,
) -> Sources {
    let configuration = loaded.settings().map(|setting| {
        let (origin, set_by) = (setting.origin.kind(), setting.origin.name());
        Setting { key: setting.key, value: setting.value, origin, set_by, text: setting.text }
    });
    Sources { shards, control, facts, configuration: configuration.collect() }
}
