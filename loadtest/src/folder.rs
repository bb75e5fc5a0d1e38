//! `loadtest folder`: how long a server takes to open a large folder after kill -9, caches dropped.
//!
//! The folder is made by the server itself: durable groups subscribe and leave, then events of all topics are published,
//! so that every group lags behind all of them. After each opening the server must know what it acknowledged.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use codec::ack::AckLevel;
use codec::frame::{Acked, Frame, Subscribe, TopicFrame, WireMode, WireStart};
use codec::ids::{Partition, TopicId};

use crate::args::FolderArgs;
use crate::engine::connection::{ANSWER_TIMEOUT, Connection};
use crate::engine::template::{EventShape, Templates};
use crate::machine::{self, Machine};
use crate::report::{Report, Row};
use crate::server::{Server, Start};

/// Subscriptions of one connection; a server takes 1,024.
const GROUPS_PER_CONNECTION: u32 = 1_000;
/// Batches without an answer.
const WINDOW: u64 = 64;
/// Bytes that are collected before they are sent.
const SEND_BYTES: usize = 256 << 10;
/// What a folder of this size must open in.
const OPEN_TARGET: Duration = Duration::from_secs(2);

/// Size of the folder.
#[derive(Clone, Copy, Debug)]
struct Size {
    topics: u32,
    groups: u32,
    bytes: u64,
    /// Openings that are timed, each after a kill.
    openings: u32,
}

/// The last event of a topic that nothing is published to any more.
#[derive(Clone, Copy, Debug)]
struct Witness {
    partition: Partition,
    /// Offset that its next event must get.
    next: u64,
}

/// Makes the folder, then kills the server and opens the folder again.
pub(crate) fn run(args: &FolderArgs, command: String) -> anyhow::Result<Report> {
    let machine = Machine::look();
    let size = if args.short {
        Size { topics: 1_000, groups: 100, bytes: 32 << 20, openings: 1 }
    } else {
        let FolderArgs { topics, groups, bytes, openings, .. } = *args;
        Size { topics, groups, bytes, openings }
    };
    let start = Start {
        binary: &args.start.serve,
        data: &args.start.data,
        shards: args.shards,
        cpus: (None, None),
        arguments: &args.start.server_arg,
    };
    let began = Instant::now();
    let mut server = Server::start(&start)?;
    make_groups(&server, size.groups)?;
    let (mut witness, published) = publish(&server, size)?;
    let mut made = Row::new(format!("folder of {} topics, {} groups", size.topics, size.groups));
    made.figure("published, MB", published as f64 / 1e6);
    made.figure("seconds to make it", began.elapsed().as_secs_f64());
    let mut opened = Row::new("opened after kill -9");
    let mut open_ms = Vec::new();
    for _ in 0..size.openings {
        let folder = server.kill()?;
        if !drop_caches(folder.path()) && opened.notes.is_empty() {
            opened.notes.push("the caches were not dropped: that needs root".to_owned());
        }
        server = Server::start_in(&start, folder)?;
        open_ms.push(server.ready_after.as_secs_f64() * 1e3);
        witness = check_witness(&server, witness)?;
    }
    open_ms.sort_by(f64::total_cmp);
    opened.figure("median ms to the ready line", open_ms[open_ms.len() / 2]);
    opened.figure("longest ms to the ready line", open_ms[open_ms.len() - 1]);
    let rss = machine::memory_bytes(server.pid(), "VmRSS:")? as f64 / 1e6;
    opened.figure("resident memory after it, MB", rss);
    if !args.short {
        let longest = Duration::from_secs_f64(open_ms[open_ms.len() - 1] / 1e3);
        opened.target("opens in under 2 s", longest < OPEN_TARGET);
    }
    check_group(&server)?;
    server.stop()?;
    Ok(Report { command, machine, rows: vec![made, opened] })
}

/// Makes durable groups without members: each subscribes, and its connection leaves.
fn make_groups(server: &Server, groups: u32) -> anyhow::Result<()> {
    for from in (0..groups).step_by(GROUPS_PER_CONNECTION as usize) {
        let to = groups.min(from + GROUPS_PER_CONNECTION);
        let mut connection = Connection::open(server.address, &format!("folder-groups-{from}"))?;
        for group in from..to {
            wish(&group_name(group)).encode(u64::from(group) + 1, &mut connection.out);
        }
        let mut missing = to - from;
        answers(&mut connection, "subscribe", |frame| {
            missing -= u32::from(matches!(frame, Frame::Subscribed));
            missing == 0
        })?;
    }
    Ok(())
}

fn wish(group: &str) -> Subscribe<'_> {
    Subscribe {
        group: Some(group),
        filter: "folder/#",
        mode: WireMode::Clustering,
        start: WireStart::Default,
        credit: 1,
    }
}

fn group_name(number: u32) -> String {
    format!("folder-{number}")
}

/// One event to every topic, then batches until there are enough bytes, then the witness.
fn publish(server: &Server, size: Size) -> anyhow::Result<(Witness, u64)> {
    let one = Templates::new(EventShape { data_bytes: 100, batch: 1, keys: 1_000 }, false)?;
    let many = Templates::new(EventShape { data_bytes: 1_000, batch: 100, keys: 1_000 }, false)?;
    let mut bytes = 0;
    let mut from = 0;
    let mut last = None;
    while from < size.topics {
        let connection = Connection::open(server.address, &format!("folder-{from}"))?;
        let to = size.topics.min(from + connection.welcome.topics_max);
        let mut filler = Filler { connection, sent: 0, answered: 0, last_ack: None };
        for topic in from..to {
            filler.announce(topic - from, topic);
            bytes += filler.send(&one, TopicId(topic - from + 1))?;
        }
        filler.finish()?;
        last = Some((filler, to - from));
        from = to;
    }
    let (mut filler, topics) = last.context("there are topics")?;
    while bytes < size.bytes {
        let topic = TopicId(1 + (filler.sent % u64::from(topics)) as u32);
        bytes += filler.send(&many, topic)?;
    }
    filler.finish()?;
    filler.announce_witness(topics);
    let witness = filler.witness(&one, TopicId(topics))?;
    Ok((witness, bytes))
}

/// The next event of the witness's topic must get the offset after the last one that was acknowledged.
fn check_witness(server: &Server, before: Witness) -> anyhow::Result<Witness> {
    let one = Templates::new(EventShape { data_bytes: 100, batch: 1, keys: 1_000 }, false)?;
    let connection = Connection::open(server.address, "folder-witness")?;
    let mut filler = Filler { connection, sent: 0, answered: 0, last_ack: None };
    filler.announce_witness(1);
    let now = filler.witness(&one, TopicId(1))?;
    ensure!(
        (now.partition, now.next) == (before.partition, before.next + 1),
        "before the kill the topic was at {before:?}, and an event later it is at {now:?}"
    );
    Ok(now)
}

/// A group that was made before the kill must still be owed what was published.
fn check_group(server: &Server) -> anyhow::Result<()> {
    let mut connection = Connection::open(server.address, "folder-member")?;
    wish(&group_name(0)).encode(1, &mut connection.out);
    answers(&mut connection, "a delivery", |frame| matches!(frame, Frame::Delivery(_)))
}

/// Sends what stands in `out` and waits until `is_last` has seen the frame that it waits for.
fn answers(
    connection: &mut Connection,
    what: &str,
    mut is_last: impl FnMut(&Frame<'_>) -> bool,
) -> anyhow::Result<()> {
    let (mut scratch, mut is_over) = (vec![0; SEND_BYTES], false);
    connection.flush().with_context(|| format!("cannot ask for {what}"))?;
    let asked = Instant::now();
    while !is_over {
        let open = connection.receive(&mut scratch, |_, _, frame| {
            if let Frame::Refusal(refusal) = frame {
                bail!("{what} is refused: {}", refusal.text);
            }
            is_over |= is_last(&frame);
            Ok(())
        })?;
        ensure!(open, "the server closed the connection instead of answering {what}");
        ensure!(is_over || asked.elapsed() < 6 * ANSWER_TIMEOUT, "no answer to {what}");
    }
    Ok(())
}

/// A publishing connection with a window.
struct Filler {
    connection: Connection,
    sent: u64,
    answered: u64,
    last_ack: Option<Acked>,
}

impl Filler {
    /// Announces topic `number` of the folder as the connection's `index`th.
    fn announce(&mut self, index: u32, number: u32) {
        let name = format!("folder/{}/{number}", number % 100);
        TopicFrame { id: TopicId(index + 1), name: &name }.encode(&mut self.connection.out);
    }

    /// Announces the topic of the witness under number `id`.
    fn announce_witness(&mut self, id: u32) {
        TopicFrame { id: TopicId(id), name: "folder/witness" }.encode(&mut self.connection.out);
    }

    /// Publishes one batch, and waits while the window is full. Returns its bytes.
    fn send(&mut self, templates: &Templates, topic: TopicId) -> anyhow::Result<u64> {
        while self.sent - self.answered >= WINDOW {
            self.take_answers()?;
        }
        let before = self.connection.out.len();
        templates.encode(self.sent, self.sent, topic, 0, &mut self.connection.out);
        self.sent += 1;
        let bytes = self.connection.out.len() - before;
        if self.connection.out.len() >= SEND_BYTES {
            self.connection.flush().context("cannot publish")?;
        }
        Ok(bytes as u64)
    }

    /// Waits until everything is answered.
    fn finish(&mut self) -> anyhow::Result<()> {
        while self.answered < self.sent {
            self.take_answers()?;
        }
        Ok(())
    }

    /// Publishes the first template to `topic`, and returns where that topic and partition stand now.
    fn witness(&mut self, templates: &Templates, topic: TopicId) -> anyhow::Result<Witness> {
        templates.encode(0, self.sent, topic, 0, &mut self.connection.out);
        self.sent += 1;
        self.finish()?;
        let acked = self.last_ack.context("the witness was answered")?;
        ensure!(acked.topic == topic, "the answer is of another topic: {acked:?}");
        let next = acked.base_offset.0 + u64::from(acked.count);
        Ok(Witness { partition: acked.partition, next })
    }

    fn take_answers(&mut self) -> anyhow::Result<()> {
        let Filler { connection, answered, last_ack, .. } = self;
        let before = *answered;
        answers(connection, "publish", |frame| {
            if let Frame::Published(acks) = frame {
                for acked in *acks {
                    *answered += u64::from(acked.level == AckLevel::Durable);
                    *last_ack = Some(acked);
                }
            }
            *answered > before
        })
    }
}

/// Has the kernel forget what it holds of files; whether it could be told to.
fn drop_caches(folder: &Path) -> bool {
    // What the killed server has written but not synced is written first, or the kernel keeps it.
    let synced = std::fs::File::open(folder).is_ok_and(|folder| rustix::fs::syncfs(folder).is_ok());
    synced && std::fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}
