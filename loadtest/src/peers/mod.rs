//! The contenders of a comparison: how each is installed, configured, started, and what it promises with an ack.

pub(crate) mod folder;
mod install;
pub(crate) mod process;
mod read_back;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use crate::engine::Protocol;
use install::Package;
use process::{ServerProcess, Spawn, free_address};

const NATS: Package = Package {
    product: "nats-server-2.15.2",
    script: include_str!("../../peers/nats/install.sh"),
    files: &[],
};
const KAFKA: Package = Package {
    product: "kafka-4.3.1",
    script: include_str!("../../peers/kafka/install.sh"),
    files: &[("kafka-pom.xml", include_str!("../../peers/kafka/pom.xml"))],
};
/// What is known of Iggy where none can be measured.
pub(crate) const IGGY_PUBLISHED: &str = include_str!("../../peers/iggy/published.toml");
/// What Kafka's own start script gives the JVM.
const JVM: [&str; 7] = [
    "-Xms1g",
    "-Xmx1g",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];
/// Any name will do for a cluster of one.
const KAFKA_CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";
/// On one core the JVM still compiles what it runs most after this long; before, its tail is the compiler's.
const KAFKA_WARM_UP: Duration = Duration::from_secs(30);
/// A Go server needs as many threads as it may use cores, whatever the machine has.
const NATS_ENVIRONMENT: (&str, &str) = ("GOMAXPROCS", "1");

/// One server in one configuration.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Contender {
    /// What `--peers` and the report call it.
    pub(crate) id: &'static str,
    /// What selects it together with its other configurations.
    pub(crate) family: &'static str,
    /// The product and its version.
    pub(crate) server: &'static str,
    /// What is set that is not the default.
    pub(crate) configuration: &'static str,
    /// What an ack promises.
    pub(crate) sync: &'static str,
    /// Whether it is started and asked by this program.
    #[serde(skip)]
    pub(crate) kind: Kind,
    /// Shortest warm-up that is fair to it.
    #[serde(skip)]
    pub(crate) warm_up_least: Duration,
}

/// How a contender is started.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// This build's server, with further arguments.
    Ringmesh(&'static [&'static str]),
    /// NATS with this configuration file.
    Nats(&'static str),
    /// Kafka with these properties.
    Kafka(&'static str),
    /// No server: the raw loops on the same disk and cores.
    Floor,
    /// Not to be had; the reason.
    Absent(&'static str),
}

/// Everybody, in the order of the report.
pub(crate) const CONTENDERS: [Contender; 8] = [
    Contender {
        id: "ringmesh",
        family: "ringmesh",
        server: concat!("Ringmesh ", env!("CARGO_PKG_VERSION")),
        configuration: "as shipped",
        sync: "synced before each ack, in groups",
        kind: Kind::Ringmesh(&[]),
        warm_up_least: Duration::ZERO,
    },
    Contender {
        id: "ringmesh-written",
        family: "ringmesh",
        server: concat!("Ringmesh ", env!("CARGO_PKG_VERSION")),
        configuration: "delivery.ack=written",
        sync: "written, not synced; synced each 10 ms",
        kind: Kind::Ringmesh(&["--set", "delivery.ack=written"]),
        warm_up_least: Duration::ZERO,
    },
    Contender {
        id: "nats",
        family: "nats",
        server: "NATS JetStream 2.15.2",
        configuration: "as shipped",
        sync: "page cache; synced each 2 minutes",
        kind: Kind::Nats(include_str!("../../peers/nats/shipped.conf")),
        warm_up_least: Duration::ZERO,
    },
    Contender {
        id: "nats-synced",
        family: "nats",
        server: "NATS JetStream 2.15.2",
        configuration: "sync_interval: always",
        sync: "synced before each ack",
        kind: Kind::Nats(include_str!("../../peers/nats/synced.conf")),
        warm_up_least: Duration::ZERO,
    },
    Contender {
        id: "kafka",
        family: "kafka",
        server: "Apache Kafka 4.3.1 (KRaft)",
        configuration: "as shipped",
        sync: "page cache; never synced",
        kind: Kind::Kafka(include_str!("../../peers/kafka/shipped.properties")),
        warm_up_least: KAFKA_WARM_UP,
    },
    Contender {
        id: "kafka-synced",
        family: "kafka",
        server: "Apache Kafka 4.3.1 (KRaft)",
        configuration: "log.flush.interval.messages=1",
        sync: "synced before each ack",
        kind: Kind::Kafka(include_str!("../../peers/kafka/synced.properties")),
        warm_up_least: KAFKA_WARM_UP,
    },
    Contender {
        id: "iggy",
        family: "iggy",
        server: "Apache Iggy",
        configuration: "-",
        sync: "-",
        kind: Kind::Absent(
            "no server in the registries that this program installs from; the report has figures published before",
        ),
        warm_up_least: Duration::ZERO,
    },
    Contender {
        id: "file",
        family: "file",
        server: "none: the floor",
        configuration: "raw loop, O_DIRECT",
        sync: "synced each (RWF_DSYNC)",
        kind: Kind::Floor,
        warm_up_least: Duration::ZERO,
    },
];

/// The contenders that `--peers` asks for. Ringmesh and the floor always run: the others are read against them.
pub(crate) fn chosen(wanted: &[String]) -> anyhow::Result<Vec<Contender>> {
    let names = |contender: &Contender, word: &str| {
        word == "all" || word == contender.id || word == contender.family
    };
    for word in wanted {
        let known = word == "none" || CONTENDERS.iter().any(|contender| names(contender, word));
        let ids: Vec<&str> = CONTENDERS.iter().map(|contender| contender.id).collect();
        anyhow::ensure!(known, "--peers {word}: there are all, none, {}", ids.join(", "));
    }
    let is_chosen = |contender: &Contender| wanted.iter().any(|word| names(contender, word));
    Ok(CONTENDERS.into_iter().filter(|it| !it.is_peer() || is_chosen(it)).collect())
}

/// Where things are, for starting any contender.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Ringmesh's binary.
    pub(crate) ringmesh: PathBuf,
    /// Further arguments for it.
    pub(crate) ringmesh_arguments: Vec<String>,
    /// Where peers are installed.
    pub(crate) installed: PathBuf,
    /// Whether what is missing there may be installed.
    pub(crate) may_install: bool,
    /// The servers' core.
    pub(crate) cpu: Option<usize>,
}

/// A contender's server that takes connections.
pub(crate) struct Running {
    /// Its process.
    pub(crate) process: ServerProcess,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What it says that its acks promise, where only its monitoring tells.
    pub(crate) says: Option<String>,
}

impl Contender {
    /// The protocol that it is asked by; `None` for the floor and for what is absent.
    pub(crate) fn protocol(&self) -> Option<Protocol> {
        match self.kind {
            Kind::Ringmesh(_) => Some(Protocol::Ringmesh),
            Kind::Nats(_) => Some(Protocol::Nats),
            Kind::Kafka(_) => Some(Protocol::Kafka),
            Kind::Floor | Kind::Absent(_) => None,
        }
    }

    /// Whether it is neither Ringmesh nor the floor.
    pub(crate) fn is_peer(&self) -> bool {
        !matches!(self.family, "ringmesh" | "file")
    }

    /// Figures of it that were published before, where it cannot be measured.
    pub(crate) fn published(&self) -> Option<&'static str> {
        matches!(self.kind, Kind::Absent(_)).then_some(IGGY_PUBLISHED)
    }

    /// Makes sure that it can be started. An error is the reason for the report.
    pub(crate) fn prepare(&self, place: &Place) -> anyhow::Result<()> {
        match self.kind {
            Kind::Ringmesh(_) => {
                let found = place.ringmesh.is_file();
                anyhow::ensure!(found, "there is no {}", place.ringmesh.display());
            }
            Kind::Nats(_) => drop(NATS.find(&place.installed, place.may_install)?),
            Kind::Kafka(_) => drop(KAFKA.find(&place.installed, place.may_install)?),
            Kind::Floor => {}
            Kind::Absent(why) => anyhow::bail!("{why}"),
        }
        Ok(())
    }

    /// Starts its server on the empty folder `folder`.
    pub(crate) fn start(&self, place: &Place, folder: &Path) -> anyhow::Result<Running> {
        let (address, monitor) = (free_address()?, free_address()?);
        let (spawn, ready_within) = match self.kind {
            Kind::Ringmesh(more) => {
                (ringmesh(place, folder, address, more), Duration::from_secs(10))
            }
            Kind::Nats(config) => {
                (nats(place, folder, (address, monitor), config)?, Duration::from_secs(10))
            }
            Kind::Kafka(properties) => {
                (kafka(place, folder, address, properties)?, Duration::from_secs(60))
            }
            Kind::Floor | Kind::Absent(_) => anyhow::bail!("{} has no server", self.id),
        };
        let process = ServerProcess::start(&spawn, address, ready_within)?;
        let says = match self.kind {
            Kind::Nats(_) => Some(read_back::of_nats(monitor)?),
            _ => None,
        };
        Ok(Running { process, address, says })
    }
}

fn ringmesh(place: &Place, folder: &Path, address: SocketAddr, more: &[&str]) -> Spawn {
    let listen = address.to_string();
    let mut arguments: Vec<_> = [
        "serve", "--shards", "1", "--listen", &listen, "--admin", "off", "--http", "off", "--data",
    ]
    .map(Into::into)
    .into();
    arguments.push(folder.join("data").into());
    arguments.extend(more.iter().map(Into::into));
    arguments.extend(place.ringmesh_arguments.iter().map(Into::into));
    Spawn {
        program: place.ringmesh.clone(),
        arguments,
        environment: Vec::new(),
        cpu: place.cpu,
        log: folder.join("server.log"),
    }
}

fn nats(
    place: &Place,
    folder: &Path,
    (address, monitor): (SocketAddr, SocketAddr),
    config: &str,
) -> anyhow::Result<Spawn> {
    let file = folder.join("nats.conf");
    let config = config
        .replace("MONITOR", &monitor.to_string())
        .replace("ADDRESS", &address.to_string())
        .replace("FOLDER", &folder.join("data").to_string_lossy());
    std::fs::write(&file, config).context("cannot write the configuration")?;
    let (name, value) = NATS_ENVIRONMENT;
    Ok(Spawn {
        program: NATS.find(&place.installed, place.may_install)?,
        arguments: vec!["-c".into(), file.into()],
        environment: vec![(name, value.to_owned())],
        cpu: place.cpu,
        log: folder.join("server.log"),
    })
}

/// Formats the folder, and says how the broker is started on it.
fn kafka(place: &Place, folder: &Path, address: SocketAddr, text: &str) -> anyhow::Result<Spawn> {
    let file = folder.join("server.properties");
    let text = text
        .replace("BROKER_ADDRESS", &address.to_string())
        .replace("CONTROLLER_ADDRESS", &free_address()?.to_string())
        .replace("FOLDER", &folder.join("data").to_string_lossy());
    std::fs::write(&file, text).context("cannot write the properties")?;
    let jars = KAFKA.find(&place.installed, place.may_install)?.join("*");
    let java = |class: &str, more: &[&str], log: &str| {
        let mut arguments: Vec<OsString> = vec!["-cp".into(), jars.clone().into()];
        arguments.extend(JVM.map(Into::into));
        arguments.push(class.into());
        arguments.extend(more.iter().map(Into::into));
        arguments.push(file.clone().into());
        Spawn {
            program: "java".into(),
            arguments,
            environment: Vec::new(),
            cpu: place.cpu,
            log: folder.join(log),
        }
    };
    let format = ["format", "-t", KAFKA_CLUSTER, "-c"];
    java("kafka.tools.StorageTool", &format, "format.log").run_to_end()?;
    Ok(java("kafka.Kafka", &[], "server.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that is left out by a typing error looks like one that lost.
    #[test]
    fn peers_are_chosen_by_name_and_never_silently_left_out() {
        let ids = |words: &[&str]| -> Vec<&str> {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            chosen(&words).unwrap().iter().map(|contender| contender.id).collect()
        };
        assert_eq!(ids(&["none"]), ["ringmesh", "ringmesh-written", "file"]);
        assert_eq!(ids(&["nats-synced"]), ["ringmesh", "ringmesh-written", "nats-synced", "file"]);
        assert_eq!(ids(&["all"]).len(), CONTENDERS.len());
        let both = ids(&["nats"]);
        assert!(both.contains(&"nats") && both.contains(&"nats-synced"), "{both:?}");
        let error = chosen(&["natz".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("natz") && error.contains("nats-synced"), "{error}");
    }
}
