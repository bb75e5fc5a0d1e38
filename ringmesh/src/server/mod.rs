//! The assembled server: start order, drain order.
//!
//! ```text
//! start   checks -> ports claimed, admin port answers "not ready" -> folder opened, logs recovered -> port opened,
//!         shards running -> control plane: every shard routes by the catalog -> addresses.json -> ready
//! end     addresses.json removed, not ready -> port closed, clients told -> what was taken is written and answered ->
//!         logs closed -> control plane stopped -> admin port closed -> folder unlocked
//! ```
//!
//! Nobody can connect before publishing works, and a port or a folder that another server has is refused before
//! anything is read.

mod addresses;
mod admin;
pub(crate) mod error;
pub mod memory;
pub(crate) mod options;
pub(crate) mod port;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ::admin::server::Admin;
use controlplane::control_plane::{ControlOptions, ControlPlane, Inbox};
use dataplane::control::ControlLink;
use dataplane::runtime::{Runtime, RuntimeOptions};
use dataplane::session::Door;
use doors::http::HttpDoor;
use doors::native::NativeDoor;
use log::folder::{Folder, FolderLock};
use log::storage::file::FileStorage;
use tracing::{info, warn};

pub use error::StartError;

use crate::config::{Config, Loaded};
use addresses::{Addresses, AddressesFile};
use error::{HTTP_FLAG, LISTEN_FLAG};
use memory::Memory;
use port::{Port, claim};

/// A running server. Dropped, it shuts down as [`Server::shut_down`] does.
pub struct Server {
    address: SocketAddr,
    http: Option<SocketAddr>,
    shards: u16,
    // In the order in which they end.
    addresses: AddressesFile,
    runtime: Runtime,
    control: Option<ControlPlane>,
    admin: Option<Admin>,
    _lock: FolderLock,
}

impl Server {
    /// Starts a server and returns when it is ready: clients can connect, publish and subscribe.
    ///
    /// # Errors
    /// The machine, the port or the folder does not allow it. What had started is ended.
    pub fn start(config: &Config) -> Result<Server, StartError> {
        Self::start_loaded(&Loaded::of(config.clone()))
    }

    /// The same, of a configuration that knows where its values came from: the admin port tells it.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_loaded(loaded: &Loaded) -> Result<Server, StartError> {
        let began = Instant::now();
        let config = &loaded.config;
        let shards = options::shards(config);
        Runtime::check(shards).map_err(StartError::Runtime)?;
        let memory = Memory::divide(config, shards).map_err(StartError::Memory)?;
        let (budget, connections) = (memory.budget, memory.connections_max);
        tracing::info!(
            memory_bytes_max = budget,
            connections_max = connections,
            "memory is divided"
        );
        let port = claim(LISTEN_FLAG, config.native.listen)?;
        let http = config.http.listen.map(|listen| claim(HTTP_FLAG, listen)).transpose()?;
        let admin = admin::start(config)?;

        let storage = Arc::new(FileStorage::new());
        let folder = open_folder(config, shards, &memory, &storage)?;
        let data = &config.server.data;
        let cannot_tell = |error| StartError::Addresses { data: data.clone(), error };
        AddressesFile::clear(data).map_err(cannot_tell)?;

        let inbox = Inbox::new();
        let mut facts = admin::facts(config, &memory, &folder);
        let Folder { node_id, shards: logs, lock, .. } = folder;
        let older = logs.iter().zip(0..).filter(|(logs, _)| !logs.older.is_empty());
        let older_owners = older.fold(0, |owners, (_, shard)| owners | 1 << shard);
        let mut options = options::runtime(config, &memory, node_id, older_owners);
        let door = Arc::new(NativeDoor::new(options::native(config, node_id)));
        let address = listen(port, door, &mut options)?;
        let door = Arc::new(HttpDoor::new(options::http(config, shards, node_id)));
        let http = http.map(|port| listen(port, door, &mut options)).transpose()?;
        let link: Arc<ControlLink> = inbox.link();
        let runtime = Runtime::start(options, logs, storage, link).map_err(StartError::Runtime)?;
        let catalog = ControlOptions { catalog: data.join("catalog.redb") };
        let replies: Vec<_> =
            runtime.handles().into_iter().map(|shard| move |reply| shard.reply(reply)).collect();
        let control = ControlPlane::start(&catalog, replies, inbox).map_err(StartError::Control)?;
        let told = Addresses {
            native: address,
            http,
            admin: admin.as_ref().map(Admin::address),
            process_id: std::process::id(),
        };
        let addresses = AddressesFile::write(data, told).map_err(cannot_tell)?;
        if let Some(admin) = &admin {
            (facts.native, facts.ready_after) = (address, began.elapsed());
            admin.open(admin::sources(loaded, facts, runtime.handles(), control.handle()));
        }
        let control = Some(control);
        Ok(Server { address, http, shards, addresses, runtime, control, admin, _lock: lock })
    }

    /// Where the native door listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the http door listens, unless it is off.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Where the admin port listens, unless it is off.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.shards
    }

    /// Ends the control plane and leaves the shards running: what they route goes on, new subscriptions are refused as
    /// unavailable. For tests of just that.
    pub fn stop_control_plane(&mut self) {
        if let Some(control) = self.control.take() {
            control.join();
        }
    }

    /// Shuts down in order: clients are told, what was taken is written and answered, the logs are closed.
    pub fn shut_down(self) {
        let Server { addresses, mut runtime, control, admin, _lock: lock, .. } = self;
        drop(addresses);
        admin.iter().for_each(Admin::begin_shutdown);
        runtime.shutdown();
        runtime.join();
        if let Some(control) = control {
            control.join();
        }
        drop(admin);
        drop(lock);
    }
}

/// Opens a port for a door. Where it listens.
fn listen(
    port: Port,
    door: Arc<dyn Door>,
    options: &mut RuntimeOptions,
) -> Result<SocketAddr, StartError> {
    let (listener, address) = port.open_at()?;
    options.listen.push((listener, door));
    Ok(address)
}

fn open_folder(
    config: &Config,
    shards: u16,
    memory: &Memory,
    storage: &Arc<FileStorage>,
) -> Result<Folder, StartError> {
    let data = &config.server.data;
    let node_id = getrandom::u64().map_err(StartError::NodeId)?.max(1);
    let options = options::folder(config, shards, memory, node_id);
    let storage: Arc<FileStorage> = Arc::clone(storage);
    let folder = log::folder::open(storage, data, &options)
        .map_err(|error| StartError::Folder { data: data.clone(), error })?;
    report(&folder, data);
    Ok(folder)
}

/// What an operator would want to know tomorrow.
fn report(folder: &Folder, data: &Path) {
    if !folder.direct {
        info!(
            data = %data.display(),
            "the folder's file system has no O_DIRECT: commits go through the page cache and are slower; use ext4 or xfs"
        );
    }
    for log in &folder.recovered {
        if let Some((segment, byte)) = log.cut {
            info!(log = ?log.log, segment, byte, "an unfinished tail was cut; nothing acknowledged was in it");
        }
        for damage in &log.damage {
            warn!(log = ?log.log, ?damage, "damage was found and set aside");
        }
    }
    info!(
        data = %data.display(),
        generation = folder.generation,
        logs = folder.recovered.len(),
        "folder opened"
    );
}
