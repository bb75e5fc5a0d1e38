//! `loadtest churn`: many connections with ephemeral subscriptions drop at once and return, while events flow.
//!
//! Two questions. Is anything missed: every event that was sent after a subscribe was answered must come to its subscriber,
//! those that were sent while it was away included, since an ephemeral subscription outlives its connection. And what do the
//! others feel: the end-to-end latency of a subscriber that stays, before the drop and from the drop on.

mod clients;
mod ledger;

use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::args::ChurnArgs;
use crate::latency::Latency;
use crate::machine::{self, CpuTime, Machine, ProcessMeter};
use crate::report::{Report, Row};
use crate::server::{Server, Start};
use clients::{Clients, MARK_BYTES};

/// How long what is owed may take to come after the last event was sent.
const DRAIN: Duration = Duration::from_secs(60);
/// Members that drop in one turn. The kernel takes some 20 us to close a socket; those who drop run on machines of their own
/// in life, so whoever publishes and watches waits neither for thousands of closes nor for a thread that makes them.
const DROPPING_MAX: u32 = 4;
/// Members that connect in one turn, so that those who come back do not delay what is published.
const RETURNING_MAX: u32 = 16;
/// The tail may be this much longer from the drop on.
const TAIL_FACTOR: f64 = 2.0;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Size {
    connections: u32,
    subscriptions: u32,
    publishers: u32,
    data_bytes: usize,
}

impl Size {
    fn topics(&self) -> u32 {
        self.connections * self.subscriptions
    }

    fn topic(&self, number: u32) -> String {
        format!("churn/{}/{}", number / self.subscriptions, number % self.subscriptions)
    }

    /// The topic of event `number`: all in turn, neighbours far from each other.
    fn topic_of(&self, number: u64) -> u32 {
        let topics = u64::from(self.topics());
        // A step without a common divisor visits every topic before any a second time.
        let step = (topics * 3 / 8..).find(|step| gcd(*step, topics) == 1).unwrap_or(1);
        (number % topics * step % topics) as u32
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// When what happens, in ns since the run began.
#[derive(Clone, Copy, Debug)]
struct Times {
    steady_ns: u64,
    drop_ns: u64,
    end_ns: u64,
}

/// When it had happened to everybody, in ns since the run began.
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    gone_ns: Option<u64>,
    back_ns: Option<u64>,
}

/// Latencies before the drop and from the drop on, by the moment that an event was meant to be sent.
struct Tails {
    times: Option<Times>,
    ack: [Latency; 2],
    watcher: [Latency; 2],
    member: [Latency; 2],
}

impl Tails {
    fn new() -> Self {
        let two = || [Latency::new(), Latency::new()];
        Tails { times: None, ack: two(), watcher: two(), member: two() }
    }

    fn phase(&self, stamp_ns: u64) -> Option<usize> {
        let times = self.times?;
        match stamp_ns {
            stamp if stamp < times.steady_ns || stamp >= times.end_ns => None,
            stamp => Some(usize::from(stamp >= times.drop_ns)),
        }
    }

    fn acked(&mut self, stamp_ns: u64, now_ns: u64) {
        if let Some(phase) = self.phase(stamp_ns) {
            self.ack[phase].record_ns(now_ns.saturating_sub(stamp_ns));
        }
    }

    fn came_to_watcher(&mut self, stamp_ns: u64, now_ns: u64) {
        if let Some(phase) = self.phase(stamp_ns) {
            self.watcher[phase].record_ns(now_ns.saturating_sub(stamp_ns));
        }
    }

    /// What was sent while a member was away took as long as that was, which says nothing.
    fn came_to_member(&mut self, stamp_ns: u64, now_ns: u64, answered_ns: u64) {
        if let Some(phase) = self.phase(stamp_ns).filter(|_| stamp_ns >= answered_ns) {
            self.member[phase].record_ns(now_ns.saturating_sub(stamp_ns));
        }
    }
}

/// Starts a server, lets everybody subscribe, drop and return, and tells what was missed and felt.
pub(crate) fn run(args: &ChurnArgs, command: String) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let args = if args.short { short(args) } else { args.clone() };
    ensure!((0.0..=1.0).contains(&args.return_over), "--return-over: give 0 to 1");
    ensure!(args.size >= MARK_BYTES, "--size {}: {MARK_BYTES} at least", args.size);
    let size = Size {
        connections: args.connections,
        subscriptions: args.subscriptions,
        publishers: args.publishers,
        data_bytes: args.size,
    };
    let server = Server::start(&Start {
        binary: &args.start.serve,
        data: &args.start.data,
        shards: args.shards,
        cpus: (args.server_cpu, args.cpu),
        arguments: &args.start.server_arg,
    })?;
    machine::wake_on_time();
    let mut churn = Churn { clients: Clients::connect(server.address, size)?, args, server };
    let rows = churn.rows(size)?;
    churn.server.stop()?;
    Ok(Report { command, machine, rows })
}

fn short(args: &ChurnArgs) -> ChurnArgs {
    ChurnArgs {
        connections: 50,
        subscriptions: 20,
        rate: 1_000.0,
        publishers: 4,
        steady: Duration::from_secs(1),
        within: Duration::from_secs(2),
        ..args.clone()
    }
}

struct Churn {
    clients: Clients,
    args: ChurnArgs,
    server: Server,
}

impl Churn {
    fn rows(&mut self, size: Size) -> anyhow::Result<Vec<Row>> {
        let (topics, pid) = (size.topics(), self.server.pid());
        let before = machine::memory_bytes(pid, "VmRSS:")?;
        let mut subscribed = self.metered(
            format!("{topics} subscriptions on {} connections", size.connections),
            |churn| churn.clients.subscribe_all(),
        )?;
        let each = machine::memory_bytes(pid, "VmRSS:")?.saturating_sub(before);
        subscribed.figure("server memory a subscription, bytes", each as f64 / f64::from(topics));
        let ns = |seconds: f64| (seconds * 1e9) as u64;
        let now_ns = self.clients.now_ns();
        let mut flow = Flow { rate: self.args.rate, began_ns: now_ns, sent: 0 };
        let steady_ns = now_ns + ns(f64::from(topics) / self.args.rate);
        let drop_ns = steady_ns + self.args.steady.as_nanos() as u64;
        let end_ns = drop_ns + self.args.within.as_nanos() as u64;
        self.clients.tails.times = Some(Times { steady_ns, drop_ns, end_ns });
        self.publish(&mut flow, steady_ns, |_, _| Ok(()))?;
        let steady = self.metered("steady".to_owned(), |churn| {
            churn.publish(&mut flow, drop_ns, |_, _| Ok(()))
        })?;
        let mut moments = Moments::default();
        let churned = self.metered("drop and return".to_owned(), |churn| {
            churn.drop_and_return(&mut flow, drop_ns, end_ns, &mut moments)
        })?;
        let late_s = self.drain(&mut moments)?;
        let mut rows = vec![subscribed, steady, churned];
        self.tell(&mut rows, drop_ns, moments, late_s);
        Ok(rows)
    }

    /// Does something and says what client and server used for it.
    fn metered(
        &mut self,
        name: String,
        act: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<Row> {
        let (began, cpu) = (Instant::now(), CpuTime::of_thread());
        let meter = ProcessMeter::start(self.server.pid())?;
        act(self)?;
        let mut row = Row::new(name);
        let client = CpuTime::of_thread().since(cpu, began.elapsed(), std::process::id())?;
        (row.client, row.server) = (Some(client), Some(meter.read()?));
        row.figure("seconds", began.elapsed().as_secs_f64());
        Ok(row)
    }

    /// Publishes what is due until a moment, with something else to do in each turn; it says when it wants the next.
    fn publish(
        &mut self,
        flow: &mut Flow,
        until_ns: u64,
        mut besides: impl FnMut(&mut Clients, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        loop {
            let now_ns = self.clients.now_ns();
            if now_ns >= until_ns && flow.moment_ns() >= until_ns {
                return Ok(());
            }
            while flow.moment_ns() <= now_ns.min(until_ns - 1) {
                if !self.clients.send(flow.moment_ns())? {
                    break;
                }
                flow.sent += 1;
            }
            self.clients.flush()?;
            besides(&mut self.clients, now_ns)?;
            let wait_ns = flow.moment_ns().saturating_sub(self.clients.now_ns());
            // Who returns does so at moments of its own; a millisecond is near enough.
            self.clients.turn(Duration::from_nanos(wait_ns.min(1_000_000)))?;
        }
    }

    fn drop_and_return(
        &mut self,
        flow: &mut Flow,
        drop_ns: u64,
        end_ns: u64,
        moments: &mut Moments,
    ) -> anyhow::Result<()> {
        let (count, as_others) = (self.args.connections, self.args.as_others);
        let over_ns = (end_ns - drop_ns) as f64 * self.args.return_over;
        let (mut gone, mut begun) = (0, 0);
        self.publish(flow, end_ns, |clients, now_ns| {
            let few = DROPPING_MAX.min(count - gone);
            (gone..gone + few).for_each(|member| clients.drop_member(member, as_others));
            gone += few;
            if gone == count {
                moments.gone_ns.get_or_insert_with(|| clients.now_ns());
            }
            let passed = now_ns.saturating_sub(drop_ns) as f64 / over_ns.max(1.0);
            let due = ((passed * f64::from(count)) as u32).min(gone);
            let few = due.saturating_sub(begun).min(RETURNING_MAX);
            for member in begun..begun + few {
                clients.begin_member(member, as_others)?;
            }
            begun += few;
            if clients.standing == count {
                moments.back_ns.get_or_insert_with(|| clients.now_ns());
            }
            Ok(())
        })?;
        (gone..count).for_each(|member| self.clients.drop_member(member, as_others));
        for member in begun..count {
            self.clients.begin_member(member, as_others)?;
        }
        Ok(())
    }

    /// Waits until everything is acknowledged and everybody has what is owed. Returns how long that took, in seconds.
    fn drain(&mut self, moments: &mut Moments) -> anyhow::Result<f64> {
        let began = Instant::now();
        let clients = &mut self.clients;
        while began.elapsed() < DRAIN {
            let is_back = clients.standing == self.args.connections;
            if is_back {
                moments.back_ns.get_or_insert_with(|| clients.now_ns());
            }
            let owed = clients.unacked + clients.owed.missing() + clients.watched.missing();
            if is_back && owed == 0 {
                break;
            }
            clients.flush()?;
            clients.turn(Duration::from_millis(10))?;
        }
        Ok(began.elapsed().as_secs_f64())
    }

    fn tell(&self, rows: &mut [Row], drop_ns: u64, moments: Moments, late_s: f64) {
        let after_s =
            |at_ns: Option<u64>| at_ns.map_or(f64::INFINITY, |at| (at - drop_ns) as f64 / 1e9);
        let (gone_s, back_s) = (after_s(moments.gone_ns), after_s(moments.back_ns));
        let clients = &self.clients;
        for (phase, row) in rows[1..].iter_mut().enumerate() {
            let tails = &clients.tails;
            row.latency("ack", tails.ack[phase].summary());
            row.latency("end to end, who stays", tails.watcher[phase].summary());
            row.latency("end to end, who drops", tails.member[phase].summary());
            row.mark_limits();
        }
        let p99 = |phase: usize| {
            clients.tails.watcher[phase].summary().map_or(f64::INFINITY, |summary| summary.p99_us)
        };
        let factor = p99(1) / p99(0);
        let row = &mut rows[2];
        row.figure("p99 of who stays, by its steady one", factor);
        row.figure("seconds until all had dropped", gone_s);
        row.figure("seconds until all were back", back_s);
        row.figure("seconds until everything owed had come", late_s);
        row.figure("events missed by who drops", clients.owed.missing() as f64);
        row.figure("events missed by who stays", clients.watched.missing() as f64);
        row.figure("events never acknowledged", clients.unacked as f64);
        row.figure("events delivered again", clients.owed.repeated() as f64);
        let missed = clients.owed.missing() + clients.watched.missing() + clients.unacked;
        row.target("nothing is missed", missed == 0);
        if !self.args.short {
            let within_s = self.args.within.as_secs_f64();
            row.target("all are back in time", back_s <= within_s);
            row.target("the tail at most doubles", factor <= TAIL_FACTOR);
        }
    }
}

/// Events at a steady rate.
struct Flow {
    rate: f64,
    began_ns: u64,
    sent: u64,
}

impl Flow {
    /// When the next event is meant to be sent.
    fn moment_ns(&self) -> u64 {
        self.began_ns + (self.sent as f64 * 1e9 / self.rate) as u64
    }
}
