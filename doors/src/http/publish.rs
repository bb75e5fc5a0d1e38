//! Publishing: events become a batch for each partition, and the answer waits until all of them are answered.

use std::io::Write as _;
use std::sync::Arc;

use codec::ack::AckLevel;
use codec::attribute::Key;
use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::cloudevents::http::ContentMode;
use codec::cloudevents::parsed::ParsedEvent;
use codec::error::BuildError;
use codec::header::HeaderSeed;
use codec::ids::{Offset, Partition, TopicId};
use codec::murmur2::partition_of;
use codec::problem::Problem;
use codec::refusal::{Code, Refusal};
use dataplane::session::{Admission, SessionKey, TopicHandle};
use dataplane::shard::Shard;
use http::StatusCode;

use super::HttpOptions;
use super::body::{self, Events};
use super::desk::Order;
use super::events;

/// A publish under way.
#[derive(Debug)]
pub(super) struct Publishing {
    topic: TopicHandle,
    is_batch: bool,
    /// Whether the client is one of EventMesh, and told only that it is taken.
    is_eventmesh: bool,
    /// What becomes of each event, in the order given.
    fates: Vec<Fate>,
    parts: Vec<Part>,
    /// The first part that the shard has not taken.
    next: usize,
    /// Parts that it has taken and not answered.
    unanswered: usize,
    /// Until when it waits for room; monotonic microseconds. `None` as long as it has not had to.
    pub(super) room_until_us: Option<u64>,
}

#[derive(Debug)]
enum Fate {
    /// Event `index` of a part.
    In {
        part: usize,
        index: u32,
    },
    Refused(Problem),
}

/// Events of one partition.
#[derive(Debug)]
struct Part {
    partition: Partition,
    /// Takes its events, until the batch is made.
    builder: BatchBuilder,
    /// The batch, until it is taken.
    batch: Vec<u8>,
    outcome: Option<Result<Stored, Refusal>>,
}

/// Where a part stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stored {
    pub(super) partition: Partition,
    pub(super) base_offset: Offset,
    pub(super) ack: AckLevel,
}

impl Publishing {
    /// Reads the events of a request and makes batches of them.
    pub(super) fn new(
        topic: Arc<str>,
        mode: ContentMode,
        order: &mut Order,
        options: &HttpOptions,
    ) -> Result<Publishing, Problem> {
        let bytes = std::mem::take(&mut order.body);
        let bytes = body::plain(bytes, &order.headers, options.body_bytes_max as usize)?;
        let is_batch = matches!(mode, ContentMode::BatchedJson | ContentMode::BatchedProtobuf);
        let mut events = body::events(mode, &order.headers, &bytes)?;
        if !is_batch && let Some(event) = events.pop() {
            events.push(Ok(event?));
        }
        let mut publishing = Publishing::of_events(topic, is_batch, events, options);
        match publishing.fates.pop() {
            Some(Fate::Refused(problem)) if !is_batch => return Err(problem),
            last => publishing.fates.extend(last),
        }
        Ok(publishing)
    }

    /// Makes batches, one for each partition that the events' keys name.
    fn of_events(
        topic: Arc<str>,
        is_batch: bool,
        events: Events<'_>,
        options: &HttpOptions,
    ) -> Publishing {
        let mut fates = Vec::with_capacity(events.len());
        let mut parts: Vec<Part> = Vec::new();
        for event in events {
            let added = event.and_then(|event| {
                check_size(&event, options)?;
                add(&event, &mut parts, options.partitions)
            });
            fates.push(match added {
                Ok((part, index)) => Fate::In { part, index },
                Err(problem) => Fate::Refused(problem),
            });
        }
        for part in &mut parts {
            // The number stands for no topic here: the shard is given the name.
            part.batch = part.builder.finish(TopicId(1), part.partition);
            part.builder = BatchBuilder::default();
        }
        let (next, unanswered, room_until_us) = (0, 0, None);
        let is_eventmesh = false;
        let topic = TopicHandle::from(topic);
        Publishing { topic, is_batch, is_eventmesh, fates, parts, next, unanswered, room_until_us }
    }

    /// The same for a client of EventMesh. Its answer has no place for single events, so none is taken unless all can be.
    pub(super) fn for_eventmesh(self) -> Result<Publishing, Problem> {
        let refused = self.fates.iter().enumerate().find_map(|(index, fate)| match fate {
            Fate::Refused(problem) => Some((index, problem.clone())),
            Fate::In { .. } => None,
        });
        if let Some((index, mut problem)) = refused {
            problem.refusal.text = format!("event {index}: {}", problem.refusal.text).into();
            return Err(problem);
        }
        Ok(Publishing { is_eventmesh: true, ..self })
    }

    /// Gives the shard what it takes. `false`: it has no room for the rest now.
    pub(super) fn give(&mut self, id: u64, key: SessionKey, shard: &mut Shard) -> bool {
        while let Some(part) = self.parts.get_mut(self.next) {
            let batch = Batch::parse(&part.batch, HeaderSeed::WIRE).expect("it was made here");
            match shard.publish(key, super::session::number(id, self.next), &self.topic, &batch) {
                Ok(Admission::NoRoom) => return false,
                Ok(Admission::Taken) => self.unanswered += 1,
                Err(refusal) => part.outcome = Some(Err(refusal)),
            }
            part.batch = Vec::new();
            self.next += 1;
        }
        true
    }

    /// There was no room for too long: what was not taken is refused.
    pub(super) fn give_up(&mut self) {
        for part in &mut self.parts[self.next..] {
            part.batch = Vec::new();
            part.outcome = Some(Err(Code::Overloaded.into()));
        }
        self.next = self.parts.len();
    }

    /// The shard has answered a part.
    pub(super) fn answered(&mut self, part: usize, outcome: Result<Stored, Refusal>) {
        let Some(part) = self.parts.get_mut(part).filter(|part| part.outcome.is_none()) else {
            return;
        };
        assert!(self.unanswered > 0, "what is answered was taken");
        self.unanswered -= 1;
        part.outcome = Some(outcome);
    }

    /// Whether nothing more is to come.
    pub(super) fn is_over(&self) -> bool {
        self.next == self.parts.len() && self.unanswered == 0
    }

    /// Bytes that wait for room.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.parts[self.next.min(self.parts.len())..].iter().map(|part| part.batch.len()).sum()
    }

    /// The answer, once nothing more is to come.
    pub(super) fn answer(&self) -> Result<(StatusCode, Vec<u8>), Problem> {
        if self.is_eventmesh {
            for fate in &self.fates {
                self.stored(fate)?;
            }
            return Ok((StatusCode::ACCEPTED, b"{\"status\":\"accepted\"}".to_vec()));
        }
        let mut out = Vec::with_capacity(96 * self.fates.len().max(1));
        if !self.is_batch {
            let fate = self.fates.first().expect("there is an event");
            self.stored(fate)?.write(self.topic.name(), &mut out);
            return Ok((StatusCode::ACCEPTED, out));
        }
        let mut status = StatusCode::ACCEPTED;
        out.push(b'[');
        for (index, fate) in self.fates.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            match self.stored(fate) {
                Ok(stored) => stored.write(self.topic.name(), &mut out),
                Err(problem) => {
                    status = StatusCode::MULTI_STATUS;
                    problem.write(&mut out);
                }
            }
        }
        out.push(b']');
        Ok((status, out))
    }

    /// Where one event stands.
    fn stored(&self, fate: &Fate) -> Result<Stored, Problem> {
        match fate {
            Fate::Refused(problem) => Err(problem.clone()),
            Fate::In { part, index } => match &self.parts[*part].outcome {
                Some(Ok(stored)) => {
                    let base_offset = stored.base_offset.plus(u64::from(*index));
                    Ok(Stored { base_offset, ..*stored })
                }
                Some(Err(refusal)) => Err(refusal.clone().into()),
                None => Err(Code::Overloaded.into()),
            },
        }
    }
}

impl Stored {
    fn write(&self, topic: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"topic\":");
        events::string(topic, out);
        let Stored { partition, base_offset, ack } = self;
        let ack = ack.name();
        let rest =
            format_args!(",\"partition\":{partition},\"offset\":{base_offset},\"ack\":\"{ack}\"}}");
        out.write_fmt(rest).expect("writing to memory cannot fail");
    }
}

fn check_size(event: &ParsedEvent<'_>, options: &HttpOptions) -> Result<(), Problem> {
    let (limit, value) = (u64::from(options.event_data_bytes_max), event.data().len() as u64);
    if value > limit { Err(Problem::limit("event data bytes", limit, value)) } else { Ok(()) }
}

/// Adds an event to the batch of its partition. Returns which batch that is, and its place in it.
fn add(
    event: &ParsedEvent<'_>,
    parts: &mut Vec<Part>,
    partitions: u16,
) -> Result<(usize, u32), Problem> {
    let key = event.partition_key();
    let partition = key.map_or(Partition::ANY, |key| partition_of(key.as_bytes(), partitions));
    // The last one of a partition is the one that may have room.
    if let Some(part) = parts.iter().rposition(|part| part.partition == partition) {
        let builder = &mut parts[part].builder;
        match event.push_to(builder) {
            Ok(()) => return Ok((part, builder.count() - 1)),
            Err(BuildError::Full) => {}
            Err(error) => return Err(build_problem(&error)),
        }
    }
    let mut builder = BatchBuilder::default();
    event.push_to(&mut builder).map_err(|error| build_problem(&error))?;
    parts.push(Part { partition, builder, batch: Vec::new(), outcome: None });
    Ok((parts.len() - 1, 0))
}

fn build_problem(error: &BuildError) -> Problem {
    match error {
        BuildError::Limit { field, limit, value } => Problem::limit(field, *limit, *value),
        BuildError::AttributeName { name }
        | BuildError::DuplicateAttribute { name }
        | BuildError::AttributeValue { name } => {
            Problem::of(name, Code::MalformedEvent, error.to_string())
        }
        _ => Problem::of(Key::Id.name(), Code::MalformedEvent, error.to_string()),
    }
}
