//! One run: a node, its clients and its faults, moved on step by step by one seeded scheduler.

use std::path::Path;
use std::sync::Arc;

use codec::ack::AckLevel;
use codec::ids::Position;
use dataplane::shard::Shard;
use log::folder::{FolderOptions, ShardLogs};

use crate::audit::{self, Audit};
use crate::check::{
    acknowledged, cursors, deletion, letters, line, memory, order, owed, parked, progress, resent,
    retention, whole,
};
use crate::control::Control;
use crate::deletion::Deleter;
use crate::disk::queue::{Failure, Queue};
use crate::disk::storage::SimDisk;
use crate::faults::{Fault, Tally};
use crate::kernel::SimKernel;
use crate::ledger::{BatchId, Checked, Fate, Ledger, Place, Violation, violated};
use crate::network::Network;
use crate::node::{Node, Owner, Side};
use crate::plan::{Disaster, Plan, SLOW_DISKS_FROM};
use crate::publisher::Publisher;
use crate::random::Random;
use crate::scene::Scene;
use crate::subscriber::{self, Subscriber};
use crate::trace::Trace;

/// The folder's name on the simulated disk.
const FOLDER: &str = "/data";
/// Virtual time between the last settle and the last shutdown, in which nothing may come any more but late events.
const QUIET_US: u64 = 2_000_000;
/// What an operator's seed differs by from that of its run.
const OPERATOR_SEED: u64 = 0x0e4a_70e5;
/// The same for one who deletes topics.
const DELETER_SEED: u64 = 0xde1e_7e25;
/// The same for delivery policies.
const POLICY_SEED: u64 = 0xdead_1e77;
/// The same for groups whose keys stick.
const STICKY_SEED: u64 = 0x571c_4ed5;
/// An operator does something in one of so many steps.
const STEPS_PER_ORDER: u64 = 1_500;

/// Everything of one run.
pub struct World {
    scene: Scene,
    node: Node,
    control: Control,
    publishers: Vec<Publisher>,
    subscribers: Vec<Subscriber>,
    random: Random,
    /// An operator who pauses and moves groups; most runs have none. What it draws shifts nothing else.
    operator: Option<Random>,
    /// An operator who deletes topics; most runs have none.
    deleter: Option<Deleter>,
    disasters: Vec<Disaster>,
    /// A restart that a stopped log or control plane has made necessary.
    repair_at_cycle: Option<u64>,
    disk_full_until_us: Option<u64>,
    disk: Arc<SimDisk>,
}

impl World {
    /// The world of a seed, its node running.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(seed: u64, print: bool) -> Result<Self, Violation> {
        let (disks_are_slow, seed) = (seed >= SLOW_DISKS_FROM, seed % SLOW_DISKS_FROM);
        let mut random = Random::new(seed);
        let policies = &mut Random::new(seed ^ POLICY_SEED);
        let sticky = &mut Random::new(seed ^ STICKY_SEED);
        let plan = Plan::new(&mut random).with_policies(policies).with_sticky(sticky);
        let plan = Arc::new(if disks_are_slow { plan.with_slow_disks() } else { plan });
        let ledger = Ledger {
            topics: plan.topics.clone(),
            keys: plan.keys.iter().map(|(key, _)| key.clone()).collect(),
            policies: plan.policies.clone(),
            has_retention: plan.log.retention_bytes.is_some(),
            ..Ledger::default()
        };
        let mut scene = Scene {
            extra: Random::new(seed).fork().fork(),
            random: random.fork(),
            now_us: 1,
            wall_off_us: 0,
            trace: Trace::new(print),
            tally: Tally::default(),
            ledger,
            is_calm: false,
            log_stopped: false,
            active_logs: Vec::new(),
            sessions: 0,
            plan: plan.clone(),
        };
        let disk = Arc::new(SimDisk::default());
        disk.files().provide_folder(Path::new(FOLDER));
        let mut control = Control::new(&plan, random.fork());
        let shards = open(&disk, &plan, plan.shards)?;
        let node = start(shards, &disk, &mut control, &mut scene);
        let publishers = plan.publishers.iter().enumerate();
        let subscribers = plan.subscribers.iter().enumerate();
        let mut operator = Random::new(seed ^ OPERATOR_SEED);
        let operates = operator.chance(400);
        let mut deleter = Random::new(seed ^ DELETER_SEED);
        let deletes = deleter.chance(350);
        Ok(World {
            deleter: deletes.then(|| Deleter::new(deleter)),
            operator: operates.then_some(operator),
            publishers: publishers.map(|(number, plan)| Publisher::new(number, *plan)).collect(),
            subscribers: subscribers
                .map(|(number, plan)| Subscriber::new(number, plan.clone()))
                .collect(),
            disasters: plan.disasters.iter().rev().copied().collect(),
            repair_at_cycle: None,
            disk_full_until_us: None,
            scene,
            node,
            control,
            random,
            disk,
        })
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// A promise is broken.
    pub fn run(&mut self) -> Checked {
        while !self.storm_is_over() {
            self.storm_step()?;
        }
        self.calm_down();
        let calm_since = self.scene.now_us;
        let mut quiet_since = None;
        let mut steps = 0_u64;
        loop {
            self.step()?;
            steps += 1;
            if !steps.is_multiple_of(64) {
                continue;
            }
            self.control.resume_all();
            let calm_us = self.scene.now_us - calm_since;
            progress::check(calm_us, || self.waits())?;
            let since = *quiet_since.get_or_insert(self.scene.now_us);
            if !self.is_settled() {
                quiet_since = None;
            } else if self.scene.now_us >= since + QUIET_US {
                break;
            }
        }
        let held: Vec<_> = self.node.shards.iter().map(Shard::held).collect();
        memory::check_idle(&held)?;
        self.take_stats();
        let (told, tally) = (self.scene.tally.told_gone, &mut self.scene.tally);
        tally.add_faults(Fault::OwedExpired, retention::check_told(&self.scene.ledger, told)?);
        self.shut_down()?;
        let mut shards = open(&self.disk, &self.scene.plan, self.node.count())?;
        let audit = self.audit(&mut shards, None)?;
        owed::check_settled(&self.scene.ledger, &audit)?;
        parked::check_settled(&self.scene.ledger, &audit)?;
        owed::check_cursors(&self.scene.ledger, &audit)
    }

    /// The hash of the trace so far, with what the disk has done.
    pub fn hash(&mut self) -> u64 {
        let digest = self.disk.files().digest;
        self.scene.trace.note(format_args!("disk {digest:08x}"));
        self.scene.trace.hash()
    }

    /// What went wrong on purpose, and what was delivered.
    pub fn tally(&mut self) -> Tally {
        let mut tally = self.scene.tally.clone();
        tally.add(&self.disk.files().tally);
        tally
    }

    fn storm_is_over(&self) -> bool {
        let (tally, plan) = (&self.scene.tally, &self.scene.plan);
        tally.cycles >= plan.cycles
            && tally.published >= crate::plan::EVENTS_MIN
            && self.disasters.is_empty()
    }

    /// A step while faults go on.
    fn storm_step(&mut self) -> Checked {
        self.begin_faults();
        if let Some(random) = &mut self.operator
            && self.node.is_open
            && random.below(STEPS_PER_ORDER) == 0
        {
            self.control.operate(random, &mut self.scene.tally);
        }
        if let Some(deleter) = &mut self.deleter
            && self.node.is_open
        {
            let cut_off = deleter.act(&mut self.node, &mut self.control, &mut self.scene);
            let at = cut_off.map(|cycles| self.scene.tally.cycles + cycles);
            self.repair_at_cycle = [self.repair_at_cycle, at].into_iter().flatten().min();
        }
        let cycles = self.scene.tally.cycles;
        if self.disasters.last().is_some_and(|next| cycles >= next.at_cycle) {
            let disaster = self.disasters.pop().expect("looked at just now");
            return self.restart(disaster);
        }
        self.step()
    }

    /// A log that has stopped, like a control plane, comes back only with the process.
    fn repair(&mut self) -> Checked {
        let cycles = self.scene.tally.cycles;
        // Also when nobody publishes to it any more: its cursors do not become durable.
        self.scene.log_stopped |= self.node.shards.iter().any(Shard::has_stopped_log);
        if self.scene.log_stopped && self.repair_at_cycle.is_none() {
            self.repair_at_cycle = Some(cycles + self.random.below(60));
        }
        if self.repair_at_cycle.is_some_and(|at| cycles >= at) {
            let power = self.random.chance(500);
            let shards = self.node.count();
            return self.restart(Disaster {
                at_cycle: cycles,
                power,
                shards,
                recovery_steps: None,
            });
        }
        Ok(())
    }

    /// The faults that come by chance, step by step.
    fn begin_faults(&mut self) {
        let chance = self.scene.plan.rare_fault_chance;
        let now_us = self.scene.now_us;
        if self.disk_full_until_us.is_some_and(|until| now_us >= until) {
            self.disk_full_until_us = None;
            self.disk.files().full = false;
        }
        self.begin_read_faults();
        if !self.node.is_open || self.random.below(100_000) >= chance {
            return;
        }
        let shard = self.random.index(self.node.shards.len());
        let tally = &mut self.scene.tally;
        match self.random.below(7) {
            0 => self.node.sides[shard].queue.fail_next(Failure::Write),
            1 => self.node.sides[shard].queue.fail_next(Failure::Chore),
            2 => {
                tally.hit(Fault::DiskFull);
                self.disk.files().full = true;
                self.disk_full_until_us = Some(now_us + self.random.between(50_000, 500_000));
            }
            3 => {
                tally.hit(Fault::Stall);
                self.node.sides[shard].stalled_until_us = now_us + self.random.below(80_000);
            }
            4 if self.control.queue.is_open => {
                tally.hit(Fault::ControlDown);
                self.control.stop(now_us, &mut self.node.network, tally);
                // Whoever restarts the control plane restarts the process.
                self.repair_at_cycle = Some(tally.cycles + self.random.between(50, 400));
            }
            5 => {
                tally.hit(Fault::ClockBack);
                self.scene.wall_off_us -= self.random.below(5_000_000) as i64;
            }
            _ => {
                tally.hit(Fault::ClockForward);
                self.scene.wall_off_us += self.random.below(5_000_000) as i64;
            }
        }
    }

    /// Reads fail, once or for a while: what is there is only not to be had now.
    fn begin_read_faults(&mut self) {
        let chance = self.scene.plan.read_fault_chance;
        if chance == 0 || !self.node.is_open || self.scene.extra.below(100_000) >= chance {
            return;
        }
        let shard = self.scene.extra.index(self.node.shards.len());
        let queue = &mut self.node.sides[shard].queue;
        if self.scene.extra.chance(500) {
            queue.fail_next(Failure::Read);
        } else {
            queue.fail_reads(self.scene.now_us + self.scene.extra.between(5_000, 600_000));
        }
    }

    /// One step: time goes on a little, and someone does something.
    fn step(&mut self) -> Checked {
        self.repair()?;
        self.scene.ledger.step += 1;
        self.advance();
        let clients = self.publishers.len() + self.subscribers.len();
        match self.scene.random.below(100) {
            0..55 => {
                let shard = self.scene.random.below(u64::from(self.node.count())) as u16;
                self.cycle(shard)
            }
            55..65 => {
                let (scene, network) = (&mut self.scene, &mut self.node.network);
                self.control.turn(scene.now_us, network, &mut scene.ledger, &mut scene.tally);
                self.node.is_open |= self.control.is_adopted();
                match &mut self.deleter {
                    Some(deleter) => deleter.look(&self.node, &mut self.control, scene),
                    None => Ok(()),
                }
            }
            _ if !self.node.is_open => Ok(()),
            _ => {
                let client = self.scene.random.index(clients);
                match client.checked_sub(self.publishers.len()) {
                    None => self.publishers[client].act(&mut self.node, &mut self.scene),
                    Some(number) => self.subscribers[number].act(&mut self.node, &mut self.scene),
                }
            }
        }
    }

    /// Time goes on: a little, or in the calm to the next thing that is due.
    fn advance(&mut self) {
        let scene = &mut self.scene;
        let step = 1 + scene.random.below(scene.plan.step_us_max);
        scene.now_us += if scene.is_calm { step.min(200) } else { step };
        if scene.is_calm && scene.random.chance(100) {
            scene.now_us += scene.random.below(20_000);
        }
    }

    fn is_woken(&self, shard: usize) -> bool {
        let now_us = self.scene.now_us;
        let is_due = |at: Option<u64>| at.is_some_and(|at| at <= now_us);
        let side = &self.node.sides[shard];
        side.has_input
            || self.node.shards[shard].has_work()
            || is_due(side.queue.next_end())
            || is_due(self.node.network.next_arrival(shard as u16))
            || is_due(self.node.shards[shard].next_wakeup())
    }

    /// Runs a shard once, and brings what it says to the clients.
    fn cycle(&mut self, number: u16) -> Checked {
        let index = usize::from(number);
        let now = self.scene.now();
        if now.mono_us < self.node.sides[index].stalled_until_us {
            return Ok(());
        }
        if self.scene.plan.waits_for_wake && !self.is_woken(index) {
            return Ok(());
        }
        let side = &mut self.node.sides[index];
        side.has_input = false;
        self.scene.tally.cycles += 1;
        let mut kernel = SimKernel {
            shard: number,
            now_us: now.mono_us,
            queue: &mut side.queue,
            disk: &self.disk,
            network: &mut self.node.network,
            control: &mut self.control.queue,
            trace: &mut self.scene.trace,
            tally: &mut self.scene.tally,
            deleted: Vec::new(),
        };
        let work = self.node.shards[index].run_once(now, &mut kernel);
        let deleted = std::mem::take(&mut kernel.deleted);
        if let Some(deleter) = &self.deleter {
            deleter.executed(&self.node, number, &deleted, &mut self.scene);
        }
        self.scene.ledger.note_time(now);
        self.scene.trace.note(format_args!("{} shard {number} did {work}", now.mono_us));
        for (home, owner, event) in self.node.take_events(number) {
            match owner {
                Owner::Publisher(number) => {
                    self.publishers[number].on_event(event, &mut self.scene)?;
                }
                Owner::Subscriber(number) => self.subscribers[number].on_event(
                    home,
                    event,
                    &self.node,
                    &self.control,
                    &mut self.scene,
                )?,
            }
        }
        memory::check_operations(self.node.sides[index].queue.most())?;
        memory::check_mailboxes(self.node.network.longest())?;
        for log in self.node.shards[index].logs() {
            retention::note_gone(
                &mut self.scene.ledger,
                log,
                &self.scene.plan,
                &mut self.scene.tally,
            )?;
        }
        self.check_memory(index)
    }

    /// Every few cycles: what a shard holds, against its limits.
    fn check_memory(&mut self, shard: usize) -> Checked {
        if !self.scene.tally.cycles.is_multiple_of(memory::CYCLES_BETWEEN) {
            return Ok(());
        }
        let publishers = &self.scene.plan.publishers;
        let has_policies = !self.scene.plan.policies.is_empty();
        let errands = if has_policies { memory::ERRANDS_MAX } else { 0 };
        let copies = if has_policies { memory::COPY_BYTES_MAX } else { 0 };
        let load = memory::Load {
            // A window that was wider before may still be in flight.
            credit: self.subscribers.iter().map(Subscriber::credit_max).sum(),
            // Those of sessions that have gone are answered to nobody.
            publishes: publishers.iter().map(|plan| plan.window).sum::<usize>()
                * (1 + self.scene.tally.count(Fault::PublisherLost) as usize)
                + errands,
            batch_bytes: self.scene.ledger.batch_bytes_max + copies,
            sessions: self.publishers.len() + self.subscribers.len(),
        };
        let held = self.node.shards[shard].held();
        memory::check_shard(&held, &self.scene.plan.shard, &load)
    }

    /// The node goes down and comes back.
    fn restart(&mut self, disaster: Disaster) -> Checked {
        let Disaster { mut power, shards, mut recovery_steps, .. } = disaster;
        let before = self.node.count();
        self.scene.trace.note(format_args!(
            "{} the node goes down, power lost {power}, comes back with {shards} shards",
            self.scene.now_us
        ));
        self.go_down(power);
        let logs = loop {
            self.disk.files().steps_left = recovery_steps;
            let opened = open(&self.disk, &self.scene.plan, shards);
            self.disk.files().steps_left = None;
            match (opened, recovery_steps.take()) {
                (Ok(logs), _) => break logs,
                (Err(violation), None) => return Err(violation),
                (Err(_), Some(_)) => {
                    self.scene.tally.hit(Fault::PowerLossInRecovery);
                    power = true;
                    self.disk.files().lose_power(&mut self.random);
                }
            }
        };
        match shards.cmp(&before) {
            std::cmp::Ordering::Greater => self.scene.tally.hit(Fault::MoreShards),
            std::cmp::Ordering::Less => self.scene.tally.hit(Fault::FewerShards),
            std::cmp::Ordering::Equal => {}
        }
        let mut logs = logs;
        self.audit(&mut logs, Some(power))?;
        self.node = start(logs, &self.disk, &mut self.control, &mut self.scene);
        if let Some(deleter) = &mut self.deleter {
            deleter.resume(&self.node, &self.control, &mut self.scene);
        }
        Ok(())
    }

    /// What the shards have counted in this life.
    fn take_stats(&mut self) {
        let tally = &mut self.scene.tally;
        for stats in self.node.shards.iter().map(Shard::stats) {
            tally.copied += stats.copied_deliveries;
            tally.stopped_readers += stats.stopped_readers;
            tally.dead += stats.dead_letter_events;
            tally.dropped += stats.dropped_events;
            tally.parked += stats.parked_events;
            tally.told_gone += stats.passed_positions + stats.lost_events;
        }
    }

    fn go_down(&mut self, power: bool) {
        self.take_stats();
        self.scene.tally.hit(if power { Fault::PowerLoss } else { Fault::Kill });
        for side in &mut self.node.sides {
            side.queue.cut(&self.disk, power, &mut self.scene.tally);
        }
        // The shards let go of their files as the process ends.
        self.node.shards.clear();
        let mut files = self.disk.files();
        files.full = false;
        if power {
            files.lose_power(&mut self.random);
        } else {
            files.end_process();
        }
        drop(files);
        if let Some(deleter) = &mut self.deleter {
            deleter.node_down(&mut self.scene);
        }
        self.scene.ledger.expired_events.clear();
        self.scene.ledger.life += 1;
        self.disk_full_until_us = None;
        self.repair_at_cycle = None;
        self.scene.log_stopped = false;
        for publisher in &mut self.publishers {
            publisher.lost(&mut self.scene);
        }
        for subscriber in &mut self.subscribers {
            subscriber.lost(&mut self.scene);
        }
        for book in self.scene.ledger.groups.values_mut() {
            book.holds.clear();
            book.is_over |= !book.is_durable;
        }
    }

    /// Reads all that stands in the logs and holds it against what clients know. After a disaster, in which power was lost
    /// or not, what was acknowledged at a level below `durable` may be gone.
    fn audit(&mut self, shards: &mut [ShardLogs], power: Option<bool>) -> Result<Audit, Violation> {
        let audit = audit::audit(shards, &self.disk, &self.scene.ledger)?;
        for log in shards.iter().flat_map(|shard| shard.older.iter().chain([&shard.active])) {
            let (key, start) = (log.key(), log.positions().start());
            let known = self.scene.ledger.starts.get(&key).copied().unwrap_or_default();
            retention::note_lost_offsets(&mut self.scene.ledger, log);
            retention::note_gone(
                &mut self.scene.ledger,
                log,
                &self.scene.plan,
                &mut self.scene.tally,
            )?;
            if start > known {
                retention::note_freed_unseen(&mut self.scene.ledger, key, &audit);
            }
        }
        let (ledger, plan) = (&mut self.scene.ledger, &self.scene.plan);
        let allowed = |topic| match (power, plan.ack_of(topic)) {
            (None, _) | (_, AckLevel::Durable) => None,
            (Some(power), AckLevel::Written) => power.then_some(Fault::WrittenLost),
            (Some(_), AckLevel::Received) => Some(Fault::ReceivedLost),
        };
        for (fault, lost) in whole::note_absent(ledger, &audit, allowed) {
            self.scene.tally.add_faults(fault, lost);
        }
        resent::check(ledger, &audit)?;
        whole::check(ledger, &audit)?;
        acknowledged::check(ledger, &audit)?;
        order::check_logs(ledger, &audit)?;
        letters::check(ledger, &audit)?;
        parked::check(ledger, &audit)?;
        cursors::check(ledger, &audit)?;
        deletion::check(ledger, &audit)?;
        // What was not seen before this end was lost with it, and its place may be another's now.
        ledger.places = audit.found.iter().map(|found| (found.id, found.place)).collect();
        line::note_recovered(ledger, &audit);
        ledger.moved.clear();
        for ((group, log), cursor) in &audit.cursors {
            self.scene.trace.note(format_args!("  group {group} in {log}: {cursor:?}"));
        }
        let (batches, cursors) = (audit.found.len(), audit.cursors.len());
        self.scene.trace.note(format_args!("{batches} batches and {cursors} cursors are there"));
        Ok(audit)
    }

    /// Faults stop; everybody comes back and behaves.
    fn calm_down(&mut self) {
        let scene = &mut self.scene;
        scene.is_calm = true;
        scene.trace.note(format_args!("{} faults stop", scene.now_us));
        self.node.network.calm();
        self.control.calm();
        self.disk.files().full = false;
        for side in &mut self.node.sides {
            side.queue.calm();
            side.stalled_until_us = 0;
        }
        // A stopped log, or control plane, stays stopped: the node is restarted once more.
        if scene.log_stopped || !self.control.queue.is_open || self.repair_at_cycle.is_some() {
            self.repair_at_cycle = Some(0);
        }
    }

    /// Whether everybody has what is due, as far as clients know.
    fn is_settled(&self) -> bool {
        let ledger = &self.scene.ledger;
        self.publishers.iter().all(Publisher::is_done)
            && self.subscribers.iter().all(Subscriber::is_done)
            && self.control.is_idle()
            && self.first_unsettled(ledger).is_none()
            && self.node.shards.iter().all(is_at_rest)
    }

    /// An acknowledged batch that a group has not settled.
    fn first_unsettled(&self, ledger: &Ledger) -> Option<(u64, BatchId)> {
        for (index, sent) in ledger.sent.iter().enumerate() {
            let id = BatchId(index as u32);
            let Some(place) = place_of(ledger, id, sent.fate) else { continue };
            for (group, book) in &ledger.groups {
                let settled = book.settled.get(&id).copied().unwrap_or(0);
                let settled = settled | ledger.may_be_given_up(book, id);
                if ledger.must_get(book, id, &place) & !settled != 0 {
                    return Some((group.0, id));
                }
            }
        }
        None
    }

    /// What is still waited for, in words.
    fn waits(&self) -> String {
        let mut lines: Vec<String> = self
            .publishers
            .iter()
            .filter(|publisher| !publisher.is_done())
            .map(Publisher::waits)
            .collect();
        lines.extend(subscriber::waiting(&self.subscribers).into_values());
        if let Some((group, batch)) = self.first_unsettled(&self.scene.ledger) {
            lines.push(format!("group {group} has not settled batch {}", batch.0));
        }
        if !self.control.is_idle() {
            lines.push("the control plane is busy".to_owned());
        }
        for (number, shard) in self.node.shards.iter().enumerate() {
            if !is_at_rest(shard) {
                lines.push(format!("shard {number} is not at rest: {:?}", shard.held()));
            }
        }
        lines.join("; ")
    }

    /// Drains the node and ends it.
    fn shut_down(&mut self) -> Checked {
        for shard in &mut self.node.shards {
            shard.begin_drain();
        }
        let since = self.scene.now_us;
        for side in &mut self.node.sides {
            side.has_input = true;
        }
        while !self.node.shards.iter().all(Shard::is_drained) {
            self.scene.ledger.step += 1;
            self.advance();
            let shard = self.scene.random.below(u64::from(self.node.count())) as u16;
            self.cycle(shard)?;
            let waited_us = self.scene.now_us - since;
            progress::check(waited_us, || "a shard does not drain".to_owned())?;
        }
        let count = self.node.count();
        self.scene.trace.note(format_args!("{} drained {count} shards", self.scene.now_us));
        self.disk.files().end_process();
        Ok(())
    }
}

/// Whether a shard has nothing more to do by itself: a log writes marks and cursors in its own time, and a reader that
/// has failed too often looks only now and then whether the disk is well again.
fn is_at_rest(shard: &Shard) -> bool {
    let held = shard.held();
    let owes = held.flights > 0 || held.parked > 0;
    !owes && held.read_retries == 0 && held.logs.iter().all(|log| log.is_idle)
}

/// Where a batch stands, as far as it is known that it does.
fn place_of(ledger: &Ledger, id: BatchId, fate: Fate) -> Option<Place> {
    if let Some(place) = ledger.places.get(&id) {
        return Some(*place);
    }
    let Fate::Acknowledged { partition, offset, log, .. } = fate else { return None };
    Some(Place { log, base: Position(0), partition, offset, append_time: codec::ids::Timestamp(0) })
}

/// Opens the folder and takes its logs out.
fn open(disk: &Arc<SimDisk>, plan: &Plan, shards: u16) -> Result<Vec<ShardLogs>, Violation> {
    let options = FolderOptions {
        shards,
        log: plan.log.clone(),
        node_id_if_new: 7,
        folder_bytes_max: None,
        recover_at_once: 1,
    };
    match log::folder::open(disk.clone(), Path::new(FOLDER), &options) {
        Ok(folder) => Ok(folder.shards),
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            violated!("the folder opens", "{error}: {}", cause.unwrap_or_default())
        }
    }
}

/// Starts a node over logs that have been recovered.
fn start(
    logs: Vec<ShardLogs>,
    disk: &Arc<SimDisk>,
    control: &mut Control,
    scene: &mut Scene,
) -> Node {
    let count = logs.len() as u16;
    let older_owners = logs.iter().enumerate().filter(|(_, shard)| !shard.older.is_empty());
    let older_owners = older_owners.fold(0, |bits, (index, _)| bits | 1 << index);
    let plan = scene.plan.clone();
    scene.active_logs = logs.iter().map(|shard| shard.active.key()).collect();
    let mut network = Network::new(count, plan.network, scene.random.fork());
    let mut sides: Vec<Side> = (0..count)
        .map(|_| Side {
            queue: Queue::new(plan.queue, scene.random.fork()),
            stalled_until_us: 0,
            has_input: true,
        })
        .collect();
    if scene.is_calm {
        network.calm();
        sides.iter_mut().for_each(|side| side.queue.calm());
    }
    let shards = logs.into_iter().enumerate().map(|(index, logs)| {
        let options = dataplane::options::ShardOptions {
            index: index as u16,
            shards: count,
            older_owners,
            ..plan.shard.clone()
        };
        Shard::new(options, logs)
    });
    let shards = shards.collect();
    control.start(count, scene.now_us, &mut network, &mut scene.tally);
    let sessions = std::collections::BTreeMap::new();
    Node { shards, sides, network, disk: disk.clone(), sessions, is_open: false }
}
