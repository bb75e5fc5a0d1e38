//! The run: one thread sends what is due, over any driver, and counts what comes back.
//!
//! One thread, because the machine that is measured has few cores and the server needs its own. The loop: send what
//! is due, wait until something came or a moment comes, count it. It does not spin: a client that burns its core
//! cannot tell that it is the limit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::driver::{Arrival, Driver, Outgoing, STAMP_BACKLOG, STAMP_NONE, What};
use super::glance::Glance;
use super::publisher::Publisher;
use super::schedule::{OpenLoop, Phases};
use super::tally::Tally;
use super::{Load, Protocol, http, kafka, native, nats};
use crate::machine;

/// How long the run waits for acks and deliveries after its end.
const DRAIN: Duration = Duration::from_secs(10);
/// How long publishing a backlog may go on without a single ack.
const FILL_STALLED: Duration = Duration::from_secs(60);

/// A load that is connected and subscribed, and has published nothing yet.
pub(crate) struct Run {
    load: Load,
    driver: Box<dyn Driver>,
    publishers: Vec<Publisher>,
    open_loop: Option<OpenLoop>,
    phases: Phases,
    began: Instant,
    tally: Tally,
    /// For who looks on.
    glance: Option<Arc<Glance>>,
    /// What came with the last read; empty between reads, kept for its room.
    arrivals: Vec<Arrival>,
    /// Publishers with an answer or with room since the last read.
    touched: Vec<usize>,
}

impl Run {
    /// Connects everybody to the server and subscribes.
    pub(crate) fn connect(load: &Load) -> anyhow::Result<Self> {
        let driver: Box<dyn Driver> = match load.protocol {
            Protocol::Ringmesh => Box::new(native::connect(load)?),
            Protocol::Http => Box::new(http::connect(load)?),
            Protocol::Nats => Box::new(nats::connect(load)?),
            Protocol::Kafka => Box::new(kafka::connect(load)?),
            #[cfg(feature = "iggy")]
            Protocol::Iggy => Box::new(super::iggy::connect(load)?),
        };
        Ok(Run::over(driver, load))
    }

    /// A run over connections that stand.
    pub(crate) fn over(driver: Box<dyn Driver>, load: &Load) -> Self {
        let window = load.window.min(driver.window_max());
        let phases = Phases::new(load.warm_up, load.duration);
        // Publishers start at different data, so that they do not all take the same keys at a time.
        let publishers =
            (0..load.publishers).map(|index| Publisher::new(window, u64::from(index) * 7));
        Run {
            publishers: publishers.collect(),
            open_loop: OpenLoop::of(load, phases),
            load: load.clone(),
            driver,
            phases,
            began: Instant::now(),
            tally: Tally::new(load),
            glance: None,
            arrivals: Vec::new(),
            touched: Vec::new(),
        }
    }

    /// What another thread may see of this run while it is driven.
    pub(crate) fn glance(&mut self) -> Arc<Glance> {
        Arc::clone(self.glance.get_or_insert_with(|| Arc::new(Glance::new())))
    }

    /// Publishes for the whole time and waits for what is owed. `at_border` is called when the time that counts
    /// begins, and when it ends.
    pub(crate) fn drive(
        mut self,
        mut at_border: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Tally> {
        self.began = Instant::now();
        machine::wake_on_time();
        if self.open_loop.is_none() {
            for index in 0..self.publishers.len() {
                self.refill(index, 0)?;
                self.driver.flush(index)?;
            }
        }
        for border_ns in [self.phases.warm_ns, self.phases.end_ns] {
            while self.now_ns() < border_ns {
                self.turn(border_ns)?;
            }
            at_border()?;
        }
        let drain_end = self.phases.end_ns + DRAIN.as_nanos() as u64;
        while !self.is_drained() && self.now_ns() < drain_end {
            self.turn(drain_end)?;
        }
        // The last turn may have ended just before the second did.
        self.tally.series.roll(Duration::from_nanos(self.phases.end_ns));
        self.driver.leave();
        self.tally.server_says = self.driver.server_says();
        self.tally.notes = self.driver.notes();
        Ok(self.tally)
    }

    /// Publishes `batches` batches as fast as the window allows, marked as backlog, and waits for every ack.
    pub(crate) fn fill(mut self, batches: u64) -> anyhow::Result<()> {
        self.began = Instant::now();
        let (mut acked, mut acked_at) = (0, Instant::now());
        while self.tally.acked_batches < batches {
            for index in 0..self.publishers.len() {
                while self.tally.sent_batches < batches
                    && self.publishers[index].has_room()
                    && !self.driver.is_blocked(index)
                {
                    let batch = self.publishers[index].next(0);
                    self.driver.publish(index, Outgoing { stamp_ns: STAMP_BACKLOG, ..batch })?;
                    self.tally.sent_batches += 1;
                }
                self.driver.flush(index)?;
            }
            self.driver.on_time()?;
            for ready in 0..self.driver.wait(Duration::from_millis(100))? {
                self.receive(ready)?;
            }
            self.touched.clear();
            if self.tally.refused_batches > 0 {
                let first = self.tally.first_refusal.as_deref().unwrap_or_default();
                bail!("the backlog is refused: {first}");
            }
            if self.tally.acked_batches > acked {
                (acked, acked_at) = (self.tally.acked_batches, Instant::now());
            } else if acked_at.elapsed() > FILL_STALLED {
                bail!("no ack in {FILL_STALLED:?}: {acked} of {batches} batches of the backlog");
            }
        }
        self.driver.leave();
        Ok(())
    }

    /// One turn of the loop; waits at most until `until_ns`.
    fn turn(&mut self, until_ns: u64) -> anyhow::Result<()> {
        self.send_due()?;
        self.driver.on_time()?;
        let mut wait_ns = until_ns.saturating_sub(self.now_ns());
        if let Some(open_loop) = &self.open_loop
            && open_loop.next_ns() < self.phases.end_ns
        {
            wait_ns = wait_ns.min(open_loop.next_ns().saturating_sub(self.now_ns()));
        }
        for ready in 0..self.driver.wait(Duration::from_nanos(wait_ns))? {
            self.receive(ready)?;
            self.refill_touched()?;
        }
        self.tally.series.roll(self.began.elapsed());
        if let Some(glance) = &self.glance {
            glance.show(&self.tally);
        }
        Ok(())
    }

    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }
}

impl Run {
    fn send_due(&mut self) -> anyhow::Result<()> {
        let now_ns = self.now_ns();
        // What was meant to be sent before the end is sent, however late.
        let until_ns = now_ns.min(self.phases.end_ns - 1);
        while let Some(index) = self.open_loop.as_mut().and_then(|open| open.next_due(until_ns)) {
            self.refill(index, now_ns)?;
            self.driver.flush(index)?;
        }
        Ok(())
    }

    /// Sends what `index` may and should send now.
    fn refill(&mut self, index: usize, now_ns: u64) -> anyhow::Result<()> {
        let publisher = &mut self.publishers[index];
        // A socket that takes nothing is back-pressure: what is due waits with its intended time.
        while publisher.has_room() && !self.driver.is_blocked(index) {
            let moment = match &mut self.open_loop {
                Some(open_loop) => open_loop.take(index),
                None => (now_ns < self.phases.end_ns).then_some(now_ns),
            };
            let Some(intended_ns) = moment else { return Ok(()) };
            self.driver.publish(index, publisher.next(intended_ns))?;
            self.tally.sent_batches += 1;
            if self.phases.counts(intended_ns) {
                self.tally.delay.record_ns(now_ns.saturating_sub(intended_ns));
            }
        }
        Ok(())
    }

    fn refill_touched(&mut self) -> anyhow::Result<()> {
        let now_ns = self.now_ns();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for index in touched.drain(..) {
            self.refill(index, now_ns)?;
            self.driver.flush(index)?;
        }
        self.touched = touched;
        Ok(())
    }

    /// Reads from one source and counts what came.
    fn receive(&mut self, ready: usize) -> anyhow::Result<()> {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        self.driver.receive(ready, &mut arrivals)?;
        for arrival in arrivals.drain(..) {
            self.on_arrival(arrival)?;
        }
        self.arrivals = arrivals;
        Ok(())
    }

    fn on_arrival(&mut self, Arrival { at, what }: Arrival) -> anyhow::Result<()> {
        let now_ns = at.saturating_duration_since(self.began).as_nanos() as u64;
        match what {
            What::Acked { publisher, slot, events } => {
                self.on_acked(publisher, slot, events, now_ns)?;
            }
            What::Refused { publisher, slot, text } => {
                self.answered(publisher, slot)?;
                self.tally.refused_batches += 1;
                self.tally.first_refusal.get_or_insert(text);
            }
            What::Delivered { group, events, again, stamp_ns } => {
                self.on_delivered(group, events, again, stamp_ns, now_ns);
            }
            What::Room { publisher } => self.touched.push(publisher),
        }
        Ok(())
    }

    fn answered(&mut self, publisher: usize, slot: u32) -> anyhow::Result<u64> {
        let intended_ns = self.publishers[publisher].on_answer(slot);
        self.touched.push(publisher);
        intended_ns.context("an answer came to a batch that nobody sent")
    }

    fn on_acked(
        &mut self,
        publisher: usize,
        slot: u32,
        events: u32,
        now_ns: u64,
    ) -> anyhow::Result<()> {
        let intended_ns = self.answered(publisher, slot)?;
        let asked = self.load.shape.batch;
        if events != asked {
            bail!("{events} of {asked} events of a batch were acknowledged");
        }
        self.tally.acked_batches += 1;
        if self.phases.counts(intended_ns) {
            let ack_ns = now_ns.saturating_sub(intended_ns);
            self.tally.ack.record_ns(ack_ns);
            self.tally.series.record(ack_ns, events);
            if let Some(glance) = &self.glance {
                glance.acked(ack_ns);
            }
        }
        if self.phases.counts(now_ns) {
            self.tally.acked_events_counted += u64::from(events);
        }
        Ok(())
    }

    fn on_delivered(&mut self, group: u32, events: u64, again: bool, stamp_ns: u64, now_ns: u64) {
        self.tally.delivered_by_group[group as usize] += events;
        if again {
            self.tally.redelivered_events += events;
        }
        let is_behind = group >= self.load.groups;
        if is_behind {
            if stamp_ns == STAMP_BACKLOG {
                self.tally.backlog_events += events;
                self.tally.backlog_ns = now_ns;
            }
            return;
        }
        if stamp_ns < STAMP_NONE && self.phases.counts(stamp_ns) {
            self.tally.end_to_end.record_ns(now_ns.saturating_sub(stamp_ns));
        }
        if self.phases.counts(now_ns) {
            self.tally.delivered_events_counted += events;
        }
    }

    /// Whether all that was meant to be sent is sent and answered, and every group has what was acknowledged.
    fn is_drained(&self) -> bool {
        // On a slow day the end may come before the last moments were even handed out.
        let owes = |open: &OpenLoop| open.behind() > 0 || open.next_ns() < self.phases.end_ns;
        !self.open_loop.as_ref().is_some_and(owes)
            && self.tally.unanswered() == 0
            && self.tally.missing_deliveries(&self.load) == 0
    }
}
