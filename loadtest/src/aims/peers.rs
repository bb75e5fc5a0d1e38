//! The peers under the loads of the aims that they are asked as well, in the same rounds.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::data::{AimLoad, Aims, IDLE, START};
use super::{Rows, point};
use crate::args::AimsArgs;
use crate::core_figures::{RESIDENT, START_MEDIAN};
use crate::floor::raw_write::settle;
use crate::load_row::{self, Watched};
use crate::machine;
use crate::peers::folder::RunFolder;
use crate::peers::{self, Contender, Place, Running};
use crate::report::Row;

/// How long a server is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_secs(2);

/// What each peer did, or why it did not, by the name of its configuration.
pub(super) type PeerRows = BTreeMap<&'static str, Rows>;

/// The peers that are asked.
pub(super) struct Peers {
    folder: RunFolder,
    place: Place,
    /// Each with the reason why it cannot run, if it cannot.
    contenders: Vec<(Contender, Option<String>)>,
}

impl Peers {
    /// Installs those that `--peers` names.
    pub(super) fn prepare(args: &AimsArgs) -> anyhow::Result<Self> {
        let place = Place {
            ringmesh: args.start.serve.clone(),
            ringmesh_arguments: Vec::new(),
            installed: args.install.installed.clone(),
            may_install: !args.install.no_install,
            cpu: Some(args.server_cpu),
        };
        let mut contenders = peers::chosen(&args.peers)?;
        contenders.retain(Contender::is_peer);
        let with_reason = |contender: Contender| {
            let reason = contender.prepare(&place).err().map(|error| format!("{error:#}"));
            (contender, reason)
        };
        let contenders = contenders.into_iter().map(with_reason).collect();
        Ok(Peers { folder: RunFolder::make(&args.start.data)?, place, contenders })
    }

    /// Who cannot be measured here, and why.
    pub(super) fn missing(&self) -> Vec<String> {
        let told = |(contender, reason): &(Contender, Option<String>)| {
            Some(format!("{}: {}", contender.id, reason.as_ref()?))
        };
        self.contenders.iter().filter_map(told).collect()
    }

    /// Every load that each of them is asked. Those that cannot run have none.
    pub(super) fn round(&self, aims: &Aims, backwards: bool) -> PeerRows {
        let can_run = |(contender, missing): &'_ (Contender, Option<String>)| {
            missing.is_none().then_some(*contender)
        };
        let mut order: Vec<Contender> = self.contenders.iter().filter_map(can_run).collect();
        if backwards {
            order.reverse();
        }
        let mut found = PeerRows::new();
        for contender in order {
            let asks = |load: &&AimLoad| load.peers.iter().any(|it| it == contender.family);
            let mut loads: Vec<&AimLoad> = aims.loads.iter().filter(asks).collect();
            if backwards {
                loads.reverse();
            }
            found.insert(contender.id, self.ask(&contender, &loads));
        }
        found
    }

    /// A server for each load. One that has to be warmed up for long serves all of the round: it would not be measured
    /// otherwise, but its start.
    fn ask(&self, contender: &Contender, loads: &[&AimLoad]) -> Rows {
        let is_slow = !contender.warm_up_least.is_zero();
        let mut rows = Rows::new();
        let per_server = if is_slow { loads.len().max(1) } else { 1 };
        for loads in loads.chunks(per_server) {
            if let Err(error) = self.on_one_server(contender, loads, &mut rows) {
                let why = format!("{error:#}");
                eprintln!("{}: {why}", contender.id);
                // Those that it did not come to.
                for load in loads {
                    rows.entry(load.name.clone()).or_insert_with(|| Err(why.clone()));
                }
            }
        }
        rows
    }

    fn on_one_server(
        &self,
        contender: &Contender,
        loads: &[&AimLoad],
        rows: &mut Rows,
    ) -> anyhow::Result<()> {
        let folder = self.folder.of_server(contender.id)?;
        let mut running = contender.start(&self.place, folder.path())?;
        if !rows.contains_key(IDLE) {
            std::thread::sleep(SETTLE);
            let resident = machine::memory_bytes(running.process.pid(), "VmRSS:")? as f64 / 1e6;
            let mut idle = Row::new(IDLE);
            idle.figure(RESIDENT, resident);
            let mut start = Row::new(START);
            start.figure(START_MEDIAN, running.process.ready_after().as_secs_f64() * 1e3);
            rows.extend([(IDLE.to_owned(), Ok(idle)), (START.to_owned(), Ok(start))]);
        }
        for (index, load) in loads.iter().enumerate() {
            let warm_up = if index == 0 { contender.warm_up_least } else { Duration::ZERO };
            let row = self.load(contender, &mut running, load, warm_up, folder.path());
            match &row {
                Ok(row) => eprint!("{}: {row}", contender.id),
                Err(error) => eprintln!("{}: {}: {error:#}", contender.id, load.name),
            }
            rows.insert(load.name.clone(), row.map_err(|error| format!("{error:#}")));
        }
        running.process.stop()
    }

    fn load(
        &self,
        contender: &Contender,
        running: &mut Running,
        load: &AimLoad,
        warm_up_least: Duration,
        folder: &Path,
    ) -> anyhow::Result<Row> {
        settle(self.folder.path())?;
        let protocol = contender.protocol().context("it has no server")?;
        let mut asked = load.workload.load(&point(&load.workload), protocol, running.address);
        asked.warm_up = asked.warm_up.max(warm_up_least);
        let watched =
            Watched { pid: Some(running.process.pid()), folder: Some(folder), cpu: self.place.cpu };
        load_row::measure(&load.name, &asked, watched)
            .map_err(|error| running.process.explain(error))
    }
}
