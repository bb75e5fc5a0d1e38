//! The driver: one task of a shard's executor that turns the kernel's news into the shard's cycles.
//!
//! The order of a cycle is what latency and safety rest on:
//! 1. take the news: sockets that are ready, disk operations that are over, connections that came;
//! 2. read each ready socket once and feed its session;
//! 3. one `run_once` of the shard;
//! 4. submit the commit, before anything is sent: the disk works while the sockets are written;
//! 5. give each session its events and write once for each that has something to send.
//!
//! When a cycle did nothing, the driver rests: it waits on its ring while work is recent or the disk is busy, and after
//! [`IDLE_US`] sleeps in its host, which watches the ring's bell meanwhile. The ring does not watch the host: but for its
//! heartbeat nothing else runs there yet, and its turns come by count and time. Both watching each other would wake each
//! other for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{debug, error, warn};

use super::accept::Entrance;
use super::clock::Clock;
use super::connections::{Connections, Step};
use super::giving_back::GivingBack;
use super::host::Host;
use super::inquiries::Inquiries;
use super::kernel::RingKernel;
use super::ring::{Done, Token};
use super::stats::Counters;
use super::threads::AbortOnPanic;
use super::wake::Doorbell;
use crate::kernel::Now;
use crate::session::SessionKey;
use crate::shard::Shard;

/// Idleness after which the driver sleeps in its host instead of on its ring.
const IDLE_US: u64 = 3_000;
/// With [`Idle::Spin`], how long after the last work the driver looks for more without sleeping.
const SPIN_US: u64 = 50;
/// The same while the disk has something to finish: a core that was halted takes longer to wake than a fast disk needs
/// for its news to be worth it. A disk that hangs must not keep the core.
const SPIN_ON_DISK_US: u64 = 1_000;
/// Cycles after which the host gets a turn.
const CYCLES_PER_TURN: u32 = 64;
/// Time after which the host gets a turn: cycles that wait for a slow trickle of work are few.
const TURN_US: u64 = 5_000;
/// Completions taken in one cycle.
const DONE_PER_CYCLE: usize = 1_024;
/// Connections taken in in one cycle.
const ARRIVALS_PER_CYCLE: usize = 64;
/// The shortest rest: a deadline that has passed without giving work must not make the driver spin.
const REST_US_MIN: u64 = 100;
/// How long to wait before mail that a full mailbox refused is tried again.
const REFUSED_RETRY_US: u64 = 200;
/// How often a shard that is being drained is looked at: it comes to rest in several steps, and not all have a deadline.
const DRAIN_LOOK_US: u64 = 1_000;
/// How long after the drain the disk may take to answer what it was asked.
const LAST_WRITES_US: u64 = 5_000_000;

/// What the driver does when there is nothing to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Idle {
    /// Sleeps at once.
    #[default]
    Park,
    /// Looks for work for 50 us after the last, and up to 1 ms while the disk is at work, before it sleeps: lower latency
    /// for a core that is nearly always busy.
    Spin,
}

/// Asks the drivers of a node to end.
#[derive(Debug, Default)]
pub(super) struct Stop(AtomicBool);

impl Stop {
    pub(super) fn ask(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// All that one shard's thread owns.
pub(super) struct Driver {
    pub(super) shard: Shard,
    pub(super) kernel: RingKernel,
    pub(super) connections: Connections,
    pub(super) entrance: Arc<Entrance>,
    pub(super) inquiries: Inquiries,
    pub(super) bell: Arc<Doorbell>,
    pub(super) stop: Arc<Stop>,
    pub(super) clock: Clock,
    pub(super) idle: Idle,
    pub(super) drain_us: u64,
    pub(super) counters: Arc<Counters>,
    pub(super) pace: Pace,
    pub(super) giving_back: GivingBack,
    /// Filled and emptied in one cycle; kept for their memory.
    pub(super) done: Vec<Done>,
    pub(super) dirty: Vec<SessionKey>,
}

/// When what was last done.
pub(super) struct Pace {
    /// The last cycle that found work.
    last_work_us: u64,
    last_turn_us: u64,
    cycles_since_turn: u32,
    /// When the drain ends at the latest, once it has begun.
    drain_until_us: Option<u64>,
    is_closing: bool,
}

impl Pace {
    pub(super) fn new(now_us: u64) -> Self {
        Pace {
            last_work_us: now_us,
            last_turn_us: now_us,
            cycles_since_turn: 0,
            drain_until_us: None,
            is_closing: false,
        }
    }
}

impl Driver {
    /// Runs until the shard is asked to stop and has come to rest.
    pub(super) async fn run(mut self, mut host: Host) {
        let _fence = AbortOnPanic("a shard");
        self.kernel.ring.watch_readable(self.bell.fd(), Token::Bell);
        loop {
            let now = self.clock.now();
            let worked = self.cycle(now);
            if worked {
                self.pace.last_work_us = now.mono_us;
            }
            if self.stop.is_asked() && self.drain(now) {
                break;
            }
            if self.is_turn_due(now.mono_us) {
                self.give_turn(&host).await;
            } else if !worked {
                self.rest(&mut host).await;
            }
        }
        self.finish_writes();
        host.end().await;
    }

    /// One cycle; whether it found work.
    fn cycle(&mut self, now: Now) -> bool {
        assert!(self.dirty.is_empty(), "every session that had something to hear was served");
        self.counters.cycles.add(1);
        self.pace.cycles_since_turn += 1;
        self.kernel.was_refused = false;
        let mut work = self.take_news();
        let Driver { shard, kernel, connections, counters, entrance, .. } = self;
        shard.look_at_clock(now);
        let mut step = Step { shard, ring: &mut kernel.ring, counters, now };
        for _ in 0..ARRIVALS_PER_CYCLE {
            let Some(arrival) = entrance.arrivals.pop() else { break };
            connections.open(arrival, &mut step);
            work += 1;
        }
        connections.tell_time(&mut step);
        work += connections.read_ready(&mut step);
        work += self.shard.run_once(now, &mut self.kernel);
        self.kernel.wake_others();
        self.shard.take_dirty(&mut self.dirty);
        let is_to_send = !self.dirty.is_empty() || self.connections.has_unsent();
        // Before a wait what is asked goes with it, in one system call; else the disk must not wait for this thread.
        if is_to_send || self.has_news() {
            self.submit();
        }
        if is_to_send {
            let Driver { shard, kernel, connections, counters, dirty, .. } = self;
            let mut step = Step { shard, ring: &mut kernel.ring, counters, now };
            work += connections.deliver(dirty, &mut step);
            work += connections.flush(&mut step);
            dirty.clear();
        }
        // Last, so that nothing that was published or is to be delivered waits for who only looks.
        let Driver { shard, kernel, connections, inquiries, .. } = self;
        work += inquiries.step(shard, kernel, connections, now);
        work > 0 || self.connections.has_work()
    }

    /// Takes completions and marks what they are about. Returns how many were work by themselves.
    fn take_news(&mut self) -> u32 {
        let mut work = 0;
        let mut done = std::mem::take(&mut self.done);
        self.kernel.ring.drain(&mut done, DONE_PER_CYCLE);
        for Done { token, result, more } in done.drain(..) {
            match token {
                Token::Readable(index, life) => {
                    self.connections.on_readable(index, life, result, more, &mut self.kernel.ring);
                }
                Token::Writable(index, life) => self.connections.on_writable(index, life),
                Token::Disk(index) => {
                    self.kernel.on_disk(index, result);
                    work += 1;
                }
                Token::Bell => {
                    self.bell.hush();
                    if !more {
                        self.kernel.ring.watch_readable(self.bell.fd(), Token::Bell);
                    }
                }
                Token::Mail | Token::Nobody => {}
                Token::MailFailed(shard) => self.kernel.on_mail_failed(shard),
            }
        }
        self.done = done;
        work
    }

    fn is_turn_due(&self, now_us: u64) -> bool {
        self.pace.cycles_since_turn >= CYCLES_PER_TURN
            || now_us.saturating_sub(self.pace.last_turn_us) >= TURN_US
    }

    /// Lets the executor's other tasks run. What the kernel was asked is submitted first, so that it works meanwhile.
    async fn give_turn(&mut self, host: &Host) {
        self.submit();
        host.give_turn().await;
        self.counters.turns.add(1);
        self.turn_is_over();
    }

    /// Waits for work: on the ring while some is recent or on the disk, in the host when all is idle.
    async fn rest(&mut self, host: &mut Host) {
        let now_us = self.clock.mono_us();
        let idle_us = now_us.saturating_sub(self.pace.last_work_us);
        if self.idle == Idle::Spin && self.spin(idle_us) {
            return;
        }
        let until = |at: u64| at.saturating_sub(now_us).max(REST_US_MIN);
        let rest_us = if self.kernel.was_refused {
            Some(REFUSED_RETRY_US)
        } else {
            self.next_deadline_us().map(until)
        };
        // A shard that has work but did none waits for the disk, or for what the next cycle must see.
        let has_work = self.shard.has_work();
        let rest_us = if has_work { Some(REST_US_MIN) } else { rest_us };
        let is_draining = self.pace.drain_until_us.is_some();
        let rest_us = if is_draining {
            Some(rest_us.unwrap_or(u64::MAX).min(DRAIN_LOOK_US))
        } else {
            rest_us
        };
        let is_busy = has_work || self.kernel.in_flight.count() > 0 || self.kernel.was_refused;
        if idle_us >= IDLE_US && !is_busy {
            let free_spare = || self.shard.free_spare_memory();
            let next_us = self.giving_back.rest(now_us, self.pace.last_work_us, free_spare);
            let next_us = next_us.map(until);
            let rest_us = [rest_us, next_us].into_iter().flatten().min();
            return self.sleep_in_host(host, rest_us).await;
        }
        // Not past the host's next turn, for its timers run only then.
        let turn_us = until(self.pace.last_turn_us + TURN_US);
        let idle_left_us = if is_busy { turn_us } else { IDLE_US - idle_us };
        self.wait(rest_us.unwrap_or(turn_us).min(turn_us).min(idle_left_us));
    }

    /// Looks for news without sleeping while work is recent; whether there is some.
    fn spin(&mut self, idle_us: u64) -> bool {
        let is_on_disk = self.kernel.in_flight.count() > 0;
        let spin_us = if is_on_disk { SPIN_ON_DISK_US } else { SPIN_US };
        if idle_us >= spin_us {
            return false;
        }
        self.submit();
        let until_us = self.clock.mono_us() + (spin_us - idle_us);
        while self.clock.mono_us() < until_us {
            if self.kernel.ring.is_ready() || self.has_queued() {
                return true;
            }
            std::hint::spin_loop();
        }
        false
    }

    /// Sleeps on the ring.
    fn wait(&mut self, timeout_us: u64) {
        self.bell.announce_sleep();
        if self.has_queued() {
            self.submit();
        } else {
            self.counters.waits.add(1);
            let waited = self.kernel.ring.wait(Duration::from_micros(timeout_us));
            waited.expect("a ring that was set up can be waited on");
        }
        self.bell.awake();
    }

    /// Sleeps in the host, after looking at everything once more.
    async fn sleep_in_host(&mut self, host: &mut Host, timeout_us: Option<u64>) {
        self.kernel.ring.announce(true);
        self.bell.announce_sleep();
        self.submit();
        let work = self.take_news();
        let has_work = work > 0 || self.kernel.ring.is_ready() || self.connections.has_work();
        if !has_work && !self.has_queued() {
            self.submit();
            self.counters.sleeps.add(1);
            host.sleep(timeout_us.map(Duration::from_micros)).await;
        }
        self.bell.awake();
        self.kernel.ring.announce(false);
        self.turn_is_over();
    }

    /// The host has had its turn.
    fn turn_is_over(&mut self) {
        self.pace.cycles_since_turn = 0;
        self.pace.last_turn_us = self.clock.mono_us();
    }

    /// Whether the next cycle has something to begin with.
    fn has_news(&mut self) -> bool {
        let has_more = self.shard.has_work() || self.connections.has_work();
        has_more || self.kernel.ring.is_ready() || self.has_queued()
    }

    /// Whether something lies in one of this shard's queues. The other side of every sender's "put, then ring".
    fn has_queued(&self) -> bool {
        let must_stop = self.stop.is_asked() && self.pace.drain_until_us.is_none();
        must_stop
            || self.kernel.has_queued()
            || self.inquiries.has_queued()
            || !self.entrance.arrivals.is_empty()
    }

    fn next_deadline_us(&self) -> Option<u64> {
        let deadlines =
            [self.shard.next_wakeup(), self.connections.next_round(), self.pace.drain_until_us];
        deadlines.into_iter().flatten().min()
    }

    fn submit(&mut self) {
        if self.kernel.ring.has_unsubmitted() {
            self.kernel.ring.submit().expect("a ring that was set up takes submissions");
        }
    }

    /// Brings the shard to rest, a step at each call; whether it has.
    fn drain(&mut self, now: Now) -> bool {
        let Driver { shard, kernel, connections, counters, pace, .. } = self;
        let mut step = Step { shard, ring: &mut kernel.ring, counters, now };
        let Some(until_us) = pace.drain_until_us else {
            connections.begin_drain(&mut step);
            step.shard.begin_drain();
            pace.drain_until_us = Some(now.mono_us + self.drain_us);
            return false;
        };
        let is_late = now.mono_us >= until_us;
        if (is_late || step.shard.is_drained()) && !pace.is_closing {
            connections.close_all(&mut step);
            pace.is_closing = true;
        }
        if is_late {
            let (is_drained, open) = (step.shard.is_drained(), connections.count());
            warn!(is_drained, open, "the drain took too long; what is open is cut off");
        }
        let is_over = is_late || (pace.is_closing && connections.count() == 0);
        if is_over {
            debug!("the shard is at rest");
        }
        is_over
    }

    /// Waits for the disk operations in flight: their buffers belong to the kernel until then.
    fn finish_writes(&mut self) {
        let until_us = self.clock.mono_us() + LAST_WRITES_US;
        while self.kernel.in_flight.count() > 0 && self.clock.mono_us() < until_us {
            let waited = self.kernel.ring.wait(Duration::from_micros(LAST_WRITES_US / 10));
            waited.expect("a ring that was set up can be waited on");
            self.take_news();
        }
        let left = self.kernel.in_flight.count();
        if left > 0 {
            error!(left, "the disk has not answered; its last writes may be lost");
        }
    }
}
