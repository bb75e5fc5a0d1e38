//! What is asked of a broker before a load: topics, and where their partitions begin and end.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::kafka_error;
use super::wire::{Answer, Api, Request};
use crate::engine::Load;
use crate::engine::socket::Socket;

/// Asks for the end of a partition.
pub(super) const LATEST: i64 = -1;
/// Asks for its oldest event.
pub(super) const EARLIEST: i64 = -2;
/// How long a broker may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a broker that listens may need until it makes topics and leads their partitions.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Pause before it is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Topics made with one request.
const TOPICS_AT_ONCE: usize = 100;
/// Partitions that one broker with default settings takes in reasonable time; each costs it four files.
const PARTITIONS_MAX: u64 = 20_000;
const TOPIC_EXISTS: i16 = 36;
/// Kafka's number for a topic, where configurations are asked for.
const RESOURCE_TOPIC: i8 = 2;
/// After how many messages a topic is synced.
const FLUSH: &str = "flush.messages";

/// Where one partition is read from.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The topic.
    pub(super) topic: String,
    /// The partition.
    pub(super) partition: i32,
    /// The next offset to be read.
    pub(super) next: i64,
}

/// A connection that asks one thing after the other.
pub(super) struct Control {
    socket: Socket,
    next_request: i32,
}

/// A connection to the broker of a load.
pub(super) fn open(load: &Load) -> anyhow::Result<Socket> {
    Socket::open(load.server, Duration::from_secs(10))
}

impl Control {
    pub(super) fn open(load: &Load) -> anyhow::Result<Self> {
        Ok(Control { socket: open(load)?, next_request: 0 })
    }

    /// Makes what is not there. A broker that has just started refuses for a while; it is asked again.
    pub(super) fn make_topics(&mut self, names: &[String], partitions: u32) -> anyhow::Result<()> {
        let asked = names.len() as u64 * u64::from(partitions);
        ensure!(
            asked <= PARTITIONS_MAX,
            "{asked} partitions, and this driver asks Kafka for at most {PARTITIONS_MAX}: a broker keeps files for each"
        );
        for names in names.chunks(TOPICS_AT_ONCE) {
            self.until_good("make the topics", |control| control.try_make(names, partitions))?;
        }
        Ok(())
    }

    fn try_make(&mut self, names: &[String], partitions: u32) -> anyhow::Result<i16> {
        self.ask(
            Api::CreateTopics,
            |request| {
                request.i32(names.len() as i32);
                for name in names {
                    request.text(Some(name)).i32(partitions as i32).i16(1).i32(0).i32(0);
                }
                request.i32(ANSWER_TIMEOUT.as_millis() as i32).i8(0);
            },
            |answer| {
                let _throttled = answer.i32()?;
                let mut worst = 0;
                for _ in 0..answer.count()? {
                    let (_name, error, _message) = (answer.text()?, answer.i16()?, answer.text()?);
                    if error != 0 && error != TOPIC_EXISTS {
                        worst = error;
                    }
                }
                Ok(worst)
            },
        )
    }

    /// After how many messages the broker syncs a topic, in the broker's words.
    pub(super) fn flush_policy(&mut self, topic: &str) -> anyhow::Result<String> {
        let mut found = None;
        self.until_good("read the configuration", |control| {
            found = None;
            control.try_flush_policy(topic, &mut found)
        })?;
        let value = found.with_context(|| format!("the broker does not tell {FLUSH}"))?;
        Ok(format!("{FLUSH}={value}"))
    }

    fn try_flush_policy(&mut self, topic: &str, found: &mut Option<String>) -> anyhow::Result<i16> {
        self.ask(
            Api::DescribeConfigs,
            |request| {
                request.i32(1).i8(RESOURCE_TOPIC).text(Some(topic)).i32(1).text(Some(FLUSH)).i8(0);
            },
            |answer| {
                let (_throttled, mut worst) = (answer.i32()?, 0);
                for _ in 0..answer.count()? {
                    let (error, _message) = (answer.i16()?, answer.text()?);
                    let (_kind, _name) = (answer.i8()?, answer.text()?);
                    worst = if error == 0 { worst } else { error };
                    for _ in 0..answer.count()? {
                        let (name, value) = (answer.text()?, answer.text()?);
                        let (_read_only, _source, _secret) =
                            (answer.i8()?, answer.i8()?, answer.i8()?);
                        for _ in 0..answer.count()? {
                            let (_name, _value, _source) =
                                (answer.text()?, answer.text()?, answer.i8()?);
                        }
                        if name == FLUSH {
                            *found = Some(value.to_owned());
                        }
                    }
                }
                Ok(worst)
            },
        )
    }

    /// Every partition with its end or its start, when the broker leads them all.
    pub(super) fn offsets(
        &mut self,
        names: &[String],
        partitions: u32,
        wish: i64,
    ) -> anyhow::Result<Vec<Place>> {
        let mut places = Vec::new();
        for names in names.chunks(TOPICS_AT_ONCE) {
            let mut found = Vec::new();
            self.until_good("find the partitions", |control| {
                found.clear();
                control.try_offsets(names, partitions, wish, &mut found)
            })?;
            places.append(&mut found);
        }
        places.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        Ok(places)
    }

    fn try_offsets(
        &mut self,
        names: &[String],
        partitions: u32,
        wish: i64,
        found: &mut Vec<Place>,
    ) -> anyhow::Result<i16> {
        self.ask(
            Api::ListOffsets,
            |request| {
                request.i32(-1).i32(names.len() as i32);
                for name in names {
                    request.text(Some(name)).i32(partitions as i32);
                    (0..partitions).for_each(|partition| {
                        request.i32(partition as i32).i64(wish);
                    });
                }
            },
            |answer| {
                let mut worst = 0;
                for _ in 0..answer.count()? {
                    let topic = answer.text()?.to_owned();
                    for _ in 0..answer.count()? {
                        let (partition, error) = (answer.i32()?, answer.i16()?);
                        let (_time, next) = (answer.i64()?, answer.i64()?);
                        worst = if error == 0 { worst } else { error };
                        found.push(Place { topic: topic.clone(), partition, next });
                    }
                }
                Ok(worst)
            },
        )
    }

    fn until_good(
        &mut self,
        what: &str,
        mut attempt: impl FnMut(&mut Self) -> anyhow::Result<i16>,
    ) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            match attempt(self)? {
                0 => return Ok(()),
                error if began.elapsed() > READY_TIMEOUT => {
                    bail!("cannot {what} in {READY_TIMEOUT:?}: {}", kafka_error(error));
                }
                _ => std::thread::sleep(AGAIN_AFTER),
            }
        }
    }

    fn ask<T>(
        &mut self,
        api: Api,
        write: impl FnOnce(&mut Request<'_>),
        mut read: impl FnMut(&mut Answer<'_>) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let number = self.next_request;
        self.next_request += 1;
        let mut request = Request::start(api, number, &mut self.socket.out);
        write(&mut request);
        request.finish();
        self.socket.flush().context("cannot write to the Kafka broker")?;
        let (asked, mut got) = (Instant::now(), None);
        let mut scratch = vec![0; 64 << 10];
        while got.is_none() {
            let open = self.socket.receive(&mut scratch, |bytes, _| {
                let Some((found, mut answer, used)) = Answer::parse(bytes)? else { return Ok(0) };
                ensure!(found == number, "the answer to request {found} came to {number}");
                got = Some(read(&mut answer)?);
                Ok(used)
            })?;
            if !open || (got.is_none() && asked.elapsed() > ANSWER_TIMEOUT) {
                bail!("no answer to {api:?} from the Kafka broker");
            }
        }
        got.context("an answer was read")
    }
}
