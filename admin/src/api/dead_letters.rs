//! Dead letters of a subscription: looked at, redriven, purged. Page by page: each request does a bounded piece of the
//! work and says where the next begins.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::body::Body;
use codec::cloudevents::{Place, json};
use codec::ids::{Position, Timestamp};
use codec::refusal::Code;
use dataplane::group::flight::Reason;
use dataplane::inquiry::Inquiry;
use dataplane::letter::{
    LETTERS_MAX, LetterAct, LetterBatch, LetterFilter, LetterKind, LetterOrder, LetterPlace,
};
use log::disk::LogKey;
use routing::internal_topics::{dead_topic, redrive_topic};
use routing::topic::{TopicFilter, TopicName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::info;

use super::{AskedName, AskedQuery, checked};
use crate::ask;
use crate::clock::wall_now;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

/// Letters of a page when the request does not say.
const LETTERS_DEFAULT: u32 = 100;

/// Which letters, and how much of the work.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LetterQuery {
    pub(crate) limit: Option<u32>,
    pub(crate) after: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) topic: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) until_us: Option<u64>,
    /// Only say how many it would be.
    #[serde(default)]
    pub(crate) dry_run: bool,
    /// The topic to redrive to; absent: to the group.
    pub(crate) to: Option<String>,
}

/// One letter.
#[derive(Serialize)]
pub(crate) struct Letter {
    /// Its partition among the dead letters, which is that of its original.
    partition: u16,
    /// Its offset there.
    offset: u64,
    /// The event, and in its attributes why, when, how often and from where.
    event: Box<RawValue>,
}

/// A page of letters.
#[derive(Serialize)]
pub(crate) struct Letters {
    items: Vec<Letter>,
    /// Given as `after`, the next page; null at the end.
    next: Option<String>,
    /// Letters that came later are not told; to be given with the next page.
    until_us: u64,
}

/// A piece of work that was done, or would be.
#[derive(Serialize)]
pub(crate) struct LettersDone {
    dry_run: bool,
    /// How many letters it was about.
    letters: u64,
    /// Given as `after`, the next piece; null at the end.
    next: Option<String>,
    /// Letters that came later are left alone; to be given with the next piece.
    until_us: u64,
}

/// What came of a page over the shards.
pub(crate) struct Worked {
    letters: u64,
    pub(crate) batches: Vec<LetterBatch>,
    pub(crate) next: Option<String>,
    pub(crate) until_us: u64,
}

pub(crate) async fn browse(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<LetterQuery>,
) -> Result<Json<Letters>, Problem> {
    let (name, query) = (super::name(name)?, checked(query)?);
    if query.dry_run || query.to.is_some() {
        let text = "dry_run and to are of redrive and purge";
        return Err(Problem::new(Code::MalformedRequest, text));
    }
    let sources = desk.sources()?;
    let worked = work(&sources, &name, query, (LetterKind::Dead, LetterAct::Browse)).await?;
    let topic = dead_topic(&name);
    let items = worked.batches.iter().flat_map(|batch| told(&topic, batch)).collect();
    Ok(Json(Letters { items, next: worked.next, until_us: worked.until_us }))
}

/// Gives letters to their group again, or to another topic, and takes them out of the dead letters.
pub(crate) async fn redrive(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<LetterQuery>,
) -> Result<Json<LettersDone>, Problem> {
    let (name, query) = (super::name(name)?, checked(query)?);
    let sources = desk.sources()?;
    let topic = match &query.to {
        Some(topic) => open_topic(topic)?,
        None => topic_of_group(&sources, &name).await?,
    };
    change(&sources, &name, query, (LetterAct::Redrive(topic), "redriven")).await
}

/// Throws letters away.
pub(crate) async fn purge(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<LetterQuery>,
) -> Result<Json<LettersDone>, Problem> {
    let (name, query) = (super::name(name)?, checked(query)?);
    if query.to.is_some() {
        return Err(Problem::new(Code::MalformedRequest, "to is of redrive"));
    }
    let sources = desk.sources()?;
    change(&sources, &name, query, (LetterAct::Purge, "purged")).await
}

/// A page of what takes letters away, or only counts them.
async fn change(
    sources: &Sources,
    name: &str,
    query: LetterQuery,
    (act, done): (LetterAct, &str),
) -> Result<Json<LettersDone>, Problem> {
    let dry_run = query.dry_run;
    let act = if dry_run { LetterAct::Count } else { act };
    let Worked { letters, next, until_us, .. } =
        work(sources, name, query, (LetterKind::Dead, act)).await?;
    if !dry_run && letters > 0 {
        info!(subscription = name, letters, "dead letters {done} by an operator");
    }
    Ok(Json(LettersDone { dry_run, letters, next, until_us }))
}

/// One page, shard after shard.
pub(crate) async fn work(
    sources: &Sources,
    name: &str,
    query: LetterQuery,
    (kind, act): (LetterKind, LetterAct),
) -> Result<Worked, Problem> {
    let limit = query.limit.unwrap_or(LETTERS_DEFAULT);
    if limit == 0 || limit > LETTERS_MAX {
        let text = format!("limit is {limit}, 1 to {LETTERS_MAX} are allowed");
        return Err(Problem::new(Code::MalformedRequest, text));
    }
    let until_us = query.until_us.unwrap_or_else(|| wall_now().0);
    if until_us > i64::MAX as u64 {
        let text = format!("until_us is {until_us}, at most {} is allowed", i64::MAX);
        return Err(Problem::new(Code::MalformedRequest, text));
    }
    let (mut shard, mut from) = query.after.as_deref().map_or(Ok((0, None)), place_of)?;
    let filter = filter(query, until_us)?;
    let group: Arc<str> = name.into();
    let mut worked = Worked { letters: 0, batches: Vec::new(), next: None, until_us };
    while let Some(handle) = sources.shards.get(usize::from(shard)) {
        let count = limit - worked.letters.min(u64::from(limit)) as u32;
        if count == 0 {
            worked.next = Some(told_place(shard, from));
            return Ok(worked);
        }
        let (act, filter, group) = (act.clone(), filter.clone(), Arc::clone(&group));
        let order = Box::new(LetterOrder { group, kind, act, filter, from, count });
        let page = ask::shard(handle, |answer| Inquiry::Letters { order, answer }).await?;
        worked.letters += page.letters;
        worked.batches.extend(page.batches);
        match (page.stopped, page.next) {
            (Some(refusal), _) if worked.letters == 0 => return Err(refusal.into()),
            // What is done is told; who goes on from here is told why it stopped.
            (Some(_), _) => {
                worked.next = Some(told_place(shard, from));
                return Ok(worked);
            }
            (None, Some(next)) => {
                worked.next = Some(told_place(shard, Some(next)));
                return Ok(worked);
            }
            (None, None) => (shard, from) = (shard + 1, None),
        }
    }
    Ok(worked)
}

fn filter(query: LetterQuery, until_us: u64) -> Result<LetterFilter, Problem> {
    let malformed = |text: String| Problem::new(Code::MalformedRequest, text);
    if let Some(reason) = &query.reason
        && !Reason::ALL.iter().any(|known| known.word() == reason)
    {
        let known: Vec<&str> = Reason::ALL.iter().map(|reason| reason.word()).collect();
        let text = format!("reason is {reason:?}, known are {}", known.join(", "));
        return Err(malformed(text));
    }
    let topic = query.topic.map(|topic| {
        TopicFilter::new(topic.as_str())
            .map_err(|error| Problem::new(Code::MalformedFilter, format!("topic: {error}")))
    });
    Ok(LetterFilter {
        reason: query.reason.map(Arc::from),
        topic: topic.transpose()?,
        key: query.key.map(Arc::from),
        id: query.id.map(Arc::from),
        until: Some(Timestamp(until_us)),
    })
}

/// A topic that letters may be sent to: one that clients may publish to.
fn open_topic(topic: &str) -> Result<Arc<str>, Problem> {
    let name = TopicName::new(topic)
        .map_err(|error| Problem::new(Code::MalformedTopic, format!("to: {error}")))?;
    if name.is_reserved() {
        return Err(Code::ReservedTopic.into());
    }
    Ok(Arc::clone(name.text()))
}

/// The topic that the group alone gets.
async fn topic_of_group(sources: &Sources, name: &str) -> Result<Arc<str>, Problem> {
    let routing = ask::shard(&sources.shards[0], Inquiry::Routing).await?;
    if routing.group_by_name(name).is_none() {
        let text = format!("there is no subscription {name:?}: redrive to a topic");
        return Err(Problem::new(Code::NotFound, text));
    }
    let too_long = || Problem::new(Code::NotFound, "its name is too long: redrive to a topic");
    redrive_topic(name).ok_or_else(too_long)
}

/// `SHARD`, or `SHARD-GENERATION-LOG-POSITION`.
fn told_place(shard: u16, place: Option<LetterPlace>) -> String {
    match place {
        None => shard.to_string(),
        Some(LetterPlace { log: LogKey { generation, log }, position }) => {
            format!("{shard}-{generation}-{log}-{position}")
        }
    }
}

fn place_of(text: &str) -> Result<(u16, Option<LetterPlace>), Problem> {
    let parse = || {
        let mut parts = text.split('-');
        let shard = parts.next()?.parse().ok()?;
        let Some(generation) = parts.next() else { return Some((shard, None)) };
        let (generation, log) = (generation.parse().ok()?, parts.next()?.parse().ok()?);
        let position = Position(parts.next()?.parse().ok()?);
        let place = LetterPlace { log: LogKey { generation, log }, position };
        parts.next().is_none().then_some((shard, Some(place)))
    };
    let text = "after must be next of the page before";
    parse().ok_or_else(|| Problem::new(Code::MalformedRequest, text))
}

fn told(topic: &str, batch: &LetterBatch) -> Vec<Letter> {
    let letter = |index| {
        let (partition, offset) = (batch.partition, batch.base_offset.plus(u64::from(index)));
        let event = event_as_json(topic, batch, index)?;
        Some(Letter { partition: partition.0, offset: offset.0, event })
    };
    batch.events.iter().filter_map(letter).collect()
}

/// One event of a batch of copies in `topic`; none: the batch holds no such event.
pub(crate) fn event_as_json(topic: &str, batch: &LetterBatch, index: u32) -> Option<Box<RawValue>> {
    let body = Body::checked_before(&batch.body, batch.count).ok()?;
    let (partition, offset) = (batch.partition, batch.base_offset.plus(u64::from(index)));
    let mut event = Vec::new();
    json::write_event(&body.event(index)?, &Place { topic, partition, offset }, &mut event);
    let event = String::from_utf8(event).ok()?;
    // Data that says it is JSON and is not would make the whole page unreadable.
    Some(RawValue::from_string(event).unwrap_or_else(|_| RawValue::NULL.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place that comes back as another would skip letters, or take some twice.
    #[test]
    fn places_come_back() {
        let log = LogKey { generation: 3, log: 7 };
        let places = [None, Some(LetterPlace { log, position: Position(u64::MAX) })];
        for place in places {
            assert_eq!(place_of(&told_place(9, place)).unwrap(), (9, place));
        }
        for wrong in ["", "x", "1-2", "1-2-3", "1-2-3-4-5", "-1", "70000", "1-2-3-"] {
            assert!(place_of(wrong).is_err(), "{wrong}");
        }
    }
}
