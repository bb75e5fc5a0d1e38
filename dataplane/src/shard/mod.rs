//! One core's runtime as a synchronous state machine: it owns one log, the partitions in it, its share of every group,
//! and the sessions on its core. It shares nothing, has no lock, never suspends and never reads a clock.
//!
//! The steps, one file each: [`publish`] (admit, append, release acks: [`acks`], [`policies`], [`creation`]), [`adopt`] (snapshots), [`members`] (who is
//! there and whose credit is lent to whom), [`gate`] (generations in their order), [`deliver`] (route, send),
//! [`catch_up`] (groups that are behind), [`redeliver`] (what goes again), [`settle`] (what came back), [`bury`] (what is
//! given up), [`park`] (what waits for long), [`errands`] (what the shard appends itself), [`letters`] (dead letters, looked
//! at and worked through), [`retiring`] (members that are gone and whose deliveries may still be settled), [`deletion`]
//! (topics that operators delete).

mod acks;
mod adopt;
mod bury;
mod catch_up;
mod counting;
mod creation;
mod deletion;
mod deliver;
mod errands;
mod gate;
mod group;
mod held;
mod input;
mod letters;
mod members;
mod outbox;
mod park;
mod policies;
mod publish;
mod redeliver;
mod retiring;
mod sessions;
mod settle;
mod stats;
mod telling;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use codec::ids::{Position, Timestamp};
use log::batch::LogState;
use log::folder::ShardLogs;
use log::log::Log;
use log::reader::Reader;
use routing::match_cache::MatchCache;
use routing::snapshot::{RoutingSnapshot, Sought};
use routing::subscription::{GroupId, SubscriptionId};
use rustc_hash::FxHashMap;

use crate::group::group_log::Dispatch;
use crate::kernel::{Kernel, Now};
use crate::mail::{Mail, MemberId};
use crate::options::{SHARDS_MAX, ShardOptions};
use crate::session::{Asked, SessionEvent};

pub use counting::CountFrom;
pub(crate) use counting::Counting;
use deletion::Deleting;
pub(crate) use deletion::Measuring;
pub use deletion::TopicMeasure;
pub use held::{HomeCredit, LentCredit, ShardHeld, WaitingMail};
pub use park::parked_number;
pub use stats::{ShardMemoryUse, ShardStats};
pub(crate) use telling::TopicPage;

use acks::Acks;
use adopt::Adopting;
use creation::Questions;
use errands::Errands;
use gate::EarlyDone;
use group::Group;
use input::Input;
use letters::LetterJobs;
use members::HomeMembers;
use outbox::Outbox;
use policies::Policies;
use publish::Publishing;
use sessions::Sessions;

/// How soon a shard looks again at a queue that was full.
const FULL_QUEUE_RETRY_US: u64 = 1_000;

/// The state machine of one core.
pub struct Shard {
    options: ShardOptions,
    /// Logs of earlier generations that this shard serves, then the active one. Their order is the order of a group's
    /// places.
    logs: Vec<Log>,
    snapshot: Arc<RoutingSnapshot>,
    /// Versions whose new subscriptions' starts are not yet fixed.
    adopting: VecDeque<Adopting>,
    /// What matched, for each log, since topic ids are the log's own.
    caches: Vec<MatchCache>,
    /// The place in the active log up to which events have been routed to the groups at the tail.
    tail: Reader,
    /// Its order reaches what is sent, so it must not change from run to run: the hasher has no random keys. It need not
    /// resist anyone either, since the control plane gives the numbers.
    groups: FxHashMap<GroupId, Group>,
    /// Groups that are behind in some log and may be given more, in turn.
    lagging: VecDeque<GroupId>,
    /// Groups with idle events that may be sent again now.
    idle: VecDeque<GroupId>,
    /// Groups with events that are to go to the dead letters now.
    dying: VecDeque<GroupId>,
    /// What the shard appends for itself.
    errands: Errands,
    /// Who looks at dead letters, or works through them.
    letters: LetterJobs,
    /// Groups whose cursors have moved since they were last handed to the log.
    moved: Vec<GroupId>,
    sessions: Sessions,
    input: Input,
    members: HomeMembers,
    publishing: Publishing,
    acks: Acks,
    /// What holds for the topics of the active log.
    policies: Policies,
    /// Topics that other shards are asked about.
    questions: Questions,
    outbox: Outbox,
    now: Now,
    /// When the runtime last looked at the clock: what sessions go by.
    seen: Now,
    /// Bytes of deliveries in flight, over all members.
    in_flight_bytes: u64,
    /// Whether there are fewer of them since groups that wait for that have tried.
    is_in_flight_freed: bool,
    /// Until when delays of retries may still have to be watched; 0 when none is.
    idle_until_us: u64,
    /// Whether the log may have room, for all this shard knows: an append has not found it full since the disk last
    /// finished something.
    may_have_room: bool,
    /// Groups that wait for the disk.
    waiting_io: Vec<GroupId>,
    /// Credit that members' homes have asked back in this cycle.
    recalled: Vec<(MemberId, GroupId, u32)>,
    /// Groups that wait until fewer bytes are in flight.
    waiting_bytes: BTreeSet<GroupId>,
    /// Whether routing from the tail waits for the disk.
    tail_waits: bool,
    /// When routing from the tail is tried again although no completion has come.
    tail_retry_us: Option<u64>,
    /// When groups try again to read what the disk has failed to give, or what there was no memory for.
    read_retries: BTreeSet<(u64, GroupId)>,
    /// Before then no more is said of reads that fail, on the monotonic clock.
    quiet_until_us: u64,
    /// The same of groups that have stopped for their parked events.
    parked_quiet_until_us: u64,
    /// What other shards have said about groups before this one knew them.
    early_older_done: HashMap<GroupId, EarlyDone>,
    /// Groups that were moved, and whose members still wait until every shard knows.
    moving: Vec<Arc<Sought>>,
    /// Deletions of topics that the control plane has not been told the end of.
    deletions: Vec<Deleting>,
    /// By group, members that have joined and have not been told that it has caught up.
    /// With each what was acknowledged before it joined ends.
    catching_up: FxHashMap<GroupId, Vec<(MemberId, Position)>>,
    /// Groups of these that may have caught up since they were last looked at.
    advanced: Vec<GroupId>,
    /// Groups that may have something in flight or idle: their deadlines are looked at in turn.
    watched: VecDeque<GroupId>,
    /// How many of them the round that is under way has not been at.
    watched_left: usize,
    /// Lists that are used again, so that a cycle allocates nothing.
    matched: Vec<(GroupId, SubscriptionId)>,
    dispatches: Vec<Dispatch>,
    next_expiry_check_us: u64,
    next_cursor_flush_us: u64,
    draining: bool,
    stats: ShardStats,
}

impl Shard {
    /// A shard over logs that have been recovered. Until its first snapshot it routes nothing.
    #[must_use]
    pub fn new(options: ShardOptions, logs: ShardLogs) -> Self {
        assert!(options.index < options.shards, "a shard is one of the node's");
        assert!(options.shards <= SHARDS_MAX, "each shard owns a partition");
        assert!(
            logs.older
                .iter()
                .map(Log::key)
                .is_sorted_by(|one, next| one.generation <= next.generation),
            "older generations come first: the order of keys rests on it"
        );
        assert!(
            logs.older.iter().all(|older| older.key().generation < logs.active.key().generation),
            "only the newest generation takes events"
        );
        let ShardLogs { mut active, mut older } = logs;
        active.keep_tail(false);
        let end = active.positions().end();
        let tail = Reader::new(end);
        older.push(active);
        older.iter_mut().for_each(Log::await_topic_rules);
        let wall = older.iter().map(Log::clock).max().unwrap_or_default();
        Shard {
            caches: older.iter().map(|_| MatchCache::new()).collect(),
            logs: older,
            snapshot: Arc::new(RoutingSnapshot::empty()),
            adopting: VecDeque::new(),
            tail,
            groups: FxHashMap::default(),
            lagging: VecDeque::new(),
            idle: VecDeque::new(),
            dying: VecDeque::new(),
            errands: Errands::default(),
            letters: LetterJobs::default(),
            moved: Vec::new(),
            sessions: Sessions::default(),
            input: Input::default(),
            members: HomeMembers::default(),
            publishing: Publishing::new(options.shards, options.remote_publish_bytes_max),
            acks: Acks::new(end),
            policies: Policies::default(),
            questions: Questions::default(),
            outbox: Outbox::new(options.shards),
            now: Now { wall, mono_us: 0 },
            seen: Now { wall: Timestamp(0), mono_us: 0 },
            in_flight_bytes: 0,
            is_in_flight_freed: false,
            idle_until_us: 0,
            may_have_room: true,
            waiting_io: Vec::new(),
            recalled: Vec::new(),
            waiting_bytes: BTreeSet::new(),
            tail_waits: false,
            tail_retry_us: None,
            read_retries: BTreeSet::new(),
            quiet_until_us: 0,
            parked_quiet_until_us: 0,
            early_older_done: HashMap::new(),
            moving: Vec::new(),
            deletions: Vec::new(),
            catching_up: FxHashMap::default(),
            advanced: Vec::new(),
            watched: VecDeque::new(),
            watched_left: 0,
            matched: Vec::new(),
            dispatches: Vec::new(),
            next_expiry_check_us: 0,
            next_cursor_flush_us: 0,
            draining: false,
            stats: ShardStats::default(),
            options,
        }
    }

    /// Runs one duty cycle: all that a shard does between two looks at the kernel. Never suspends.
    ///
    /// The order of the steps is the life of an event. Only `reap_io` may move `durable_end`, so `release_acks` cannot
    /// tell a publisher of an event that a crash could still take back.
    pub fn run_once<K: Kernel>(&mut self, now: Now, kernel: &mut K) -> u32 {
        assert!(now.mono_us >= self.now.mono_us, "the monotonic clock never steps back");
        self.seen = now;
        self.now = Now { wall: self.wall_at(now), mono_us: now.mono_us };
        let mut work = 0;
        work += self.receive(kernel); //      snapshots, and what other shards want
        work += self.reap_io(kernel); //      what the disk has finished since
        work += self.admit(); //              from other shards, and sessions that wait for room
        work += self.append(kernel); //       one commit for the whole cycle
        work += self.release_acks(); //       publishers whose events are durable
        work += self.adopt(kernel); //        starts of new subscriptions that are fixed by now
        work += self.deliver(kernel); //      to subscribers, within their credit
        work += self.redeliver(kernel); //    what was handed back, lost, or not settled in time
        work += self.bury(kernel); //         what is given up, to the dead letters
        work += self.run_letter_jobs(kernel); // what operators want of these
        self.return_recalled();
        work += self.flush_cursors();
        work += self.end_retired();
        if self.members.next_client_expiry().is_some_and(|at| at <= now.mono_us) {
            self.expire_clients();
        }
        if !self.deletions.is_empty() {
            work += self.tell_deleted();
        }
        if !self.members.asking.is_idle() || !self.moving.is_empty() {
            work += self.ask_control(kernel);
        }
        work += self.outbox.flush(kernel);
        self.check();
        work
    }

    /// The wall time that the shard and its logs go by. A step back of the wall clock must not make append times fall, and must
    /// not hold up what is due some milliseconds later: the shard's clock goes on at half the speed until the other has
    /// come up with it.
    fn wall_at(&self, now: Now) -> Timestamp {
        let elapsed_us = match self.now.mono_us {
            // The first cycle.
            0 => 0,
            before => now.mono_us - before,
        };
        now.wall.max(Timestamp(self.now.wall.0.saturating_add(elapsed_us / 2)))
    }

    /// Tells sessions the time at which the bytes came that they are about to be given. The shard's own work goes by the
    /// time of its cycle.
    pub fn look_at_clock(&mut self, now: Now) {
        assert!(now.mono_us >= self.seen.mono_us, "the monotonic clock never steps back");
        self.seen = now;
    }

    /// The time, as far as a session may know it: when the runtime last looked.
    #[must_use]
    pub fn clock(&self) -> Now {
        self.seen
    }

    /// When to run again although nothing has happened, on the monotonic clock. `None`: only when something happens.
    #[must_use]
    pub fn next_wakeup(&self) -> Option<u64> {
        let mono = |wall: Timestamp| self.now.mono_us + wall.0.saturating_sub(self.now.wall.0);
        let log = self.logs.iter().filter_map(Log::next_wakeup).map(mono).min();
        let owed = self.in_flight_bytes > 0 || self.idle_until_us > self.now.mono_us;
        let expiry = owed.then_some(self.next_expiry_check_us);
        let cursors = (!self.moved.is_empty()).then_some(self.next_cursor_flush_us);
        let clients = self.members.next_client_expiry();
        let waiting = self.members.asking.next_timeout();
        // A full queue tells nobody when it has room again.
        let is_held_up = !self.outbox.is_empty()
            || !self.adopting.is_empty()
            || !self.moving.is_empty()
            || self.members.asking.has_requests()
            || !self.letters.is_empty();
        let retry = is_held_up.then_some(self.now.mono_us + FULL_QUEUE_RETRY_US);
        let reads = self.next_read_retry_us();
        let retired = self.members.next_retired_end();
        [log, expiry, cursors, clients, waiting, retry, reads, retired].into_iter().flatten().min()
    }

    /// Whether the next cycle has something to do that it need not wait for.
    #[must_use]
    pub fn has_work(&self) -> bool {
        !self.lagging.is_empty()
            || !self.idle.is_empty()
            || self.watched_left > 0
            || (!self.dying.is_empty() && !self.draining)
            || self.letters.can_go_on()
            || self.sessions.has_dirty()
            || self.tail_is_behind()
    }

    /// Refuses new publishes from now on, and brings cursors and log to rest.
    pub fn begin_drain(&mut self) {
        if self.draining {
            return;
        }
        self.draining = true;
        self.next_cursor_flush_us = 0;
        let moved = self.moved.len();
        self.flush_cursors();
        assert!(moved == 0 || self.moved.len() < moved, "cursors that have moved are written");
    }

    /// Whether everything taken is acknowledged, every cursor is durable and every log is at rest.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining
            && self.is_publishing_idle()
            && self.outbox.is_empty()
            && self.logs.iter().all(Log::is_shut_down)
    }

    /// Whether a log of this shard, of whichever generation, has stopped after a failed write. Only a restart helps:
    /// until then a stopped log takes no events, and cursors in it stay where they are.
    #[must_use]
    pub fn has_stopped_log(&self) -> bool {
        self.logs.iter().any(|log| matches!(log.state(), LogState::Stopped(_)))
    }

    /// What the shard has counted since its start.
    #[must_use]
    pub fn stats(&self) -> ShardStats {
        self.stats
    }

    /// What the shard's parts keep in memory, each beside its limit.
    #[must_use]
    pub fn memory(&self) -> ShardMemoryUse {
        let sum = |of: &dyn Fn(&Log) -> usize| self.logs.iter().map(of).sum::<usize>() as u64;
        ShardMemoryUse {
            log_bytes: sum(&Log::memory_bytes),
            read_ahead: (
                sum(&|log| log.read_ahead_bytes().0),
                sum(&|log| log.read_ahead_bytes().1),
            ),
            lent: (sum(&Log::lent_bytes), self.options.lent_bytes_max * self.logs.len() as u64),
            in_flight: (self.in_flight_bytes, self.options.in_flight_bytes_max),
            input: (self.input_bytes(), self.options.input_bytes_max),
        }
    }

    /// Frees what is kept only to be used again, of a shard that is at rest.
    pub fn free_spare_memory(&mut self) {
        self.logs.iter_mut().for_each(Log::free_spare_memory);
    }

    /// The end of what subscribers may see in the active log.
    fn visible_end(&self) -> Position {
        self.acks.visible_end()
    }

    /// Whether every publish is answered.
    fn is_publishing_idle(&self) -> bool {
        self.publishing.is_idle() && self.acks.len() == 0 && self.questions.is_empty()
    }

    fn active(&self) -> &Log {
        self.logs.last().expect("a shard has an active log")
    }

    fn active_mut(&mut self) -> &mut Log {
        self.logs.last_mut().expect("a shard has an active log")
    }

    fn active_index(&self) -> usize {
        self.logs.len() - 1
    }

    fn receive<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let mut work = 0;
        // Bounded by the mailboxes; what comes while this runs waits for the next cycle.
        for _ in 0..publish::MAIL_PER_CYCLE {
            let Some(mail) = kernel.receive() else { break };
            work += 1;
            self.on_mail(mail);
        }
        work
    }

    fn on_mail(&mut self, mail: Mail) {
        match mail {
            Mail::Control(reply) => self.on_control(reply),
            Mail::Publish(publish) => self.on_publish(*publish),
            Mail::Published { from, outcome } => self.on_published(from, *outcome),
            Mail::TopicAsked { from, number, topic } => self.on_topic_asked(from, number, topic),
            Mail::TopicTold { number, topic, is_known } => {
                self.on_topic_told(number, &topic, is_known);
            }
            Mail::Join { member, group, subscription, lease, presence } => {
                self.on_join(member, group, subscription, (lease, presence));
            }
            Mail::Leave { member, group, is_lost } => self.on_leave(member, group, is_lost),
            Mail::Lease { member, group, events } => self.on_lease(member, group, events),
            Mail::Recall { member, group, events } => self.on_recall(member, group, events),
            Mail::LeaseReturned { from, member, events } => {
                self.on_lease_returned(from, member, events);
            }
            Mail::LeaseWanted { from, member } => self.on_lease_wanted(from, member),
            Mail::Deliver { member, delivery } => self.on_deliver(member, *delivery),
            Mail::CaughtUp { member } => self.on_caught_up(member),
            Mail::Passed { member, gap } => self.on_passed(member, gap),
            Mail::Settle(settle) => self.on_settle(&settle),
            Mail::Read(read) => self.on_read(&read),
            Mail::Settled { session, request, events } => {
                self.sessions.say(session, SessionEvent::Settled { request, events });
            }
            Mail::Stale { session, request, refusal } => {
                let what = Asked::Settle;
                self.sessions.say(session, SessionEvent::Refused { what, request, refusal });
            }
            Mail::OlderDone { from, group, oldest, version } => {
                self.on_older_done(from, group, oldest, version);
            }
            Mail::ClientUp { client } => self.on_client_up(client),
            Mail::ClientDown { client } => self.on_client_down(&client),
        }
    }

    /// Sends mail to a shard; to itself at once.
    fn post(&mut self, shard: u16, mail: Mail) {
        assert!(shard < self.options.shards, "mail goes to a shard of this node");
        if shard == self.options.index {
            self.on_mail(mail);
        } else {
            self.outbox.push(shard, mail);
        }
    }

    fn reap_io<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let mut work = 0;
        while let Some(completion) = kernel.next_completion() {
            work += 1;
            let log = self.logs.iter_mut().find(|log| log.key() == completion.log);
            let log = log.expect("a shard's kernel completes its own operations");
            log.on_completion(completion.ticket, completion.result, kernel);
            self.io_woke();
        }
        work
    }

    fn append<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let draining = self.draining && self.is_publishing_idle() && self.moved.is_empty();
        let wall = self.now.wall;
        let mut work = 0;
        for log in &mut self.logs {
            if draining {
                log.begin_shutdown(wall);
            }
            work += log.run(wall, kernel).min(1);
        }
        work
    }

    /// The invariants that join the parts; each part checks its own.
    fn check(&self) {
        assert!(
            self.tail.position() <= self.visible_end(),
            "nothing is routed before it may be seen"
        );
        assert!(self.snapshot.version() >= self.adopted_version(), "versions only rise");
    }
}
