//! What a subscription has parked and still owes: which events wait long before they are tried again, why and until when.
//! Pages, as those of dead letters.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::attribute::Key;
use codec::body::Body;
use codec::event::Event;
use codec::ids::Timestamp;
use codec::refusal::Code;
use dataplane::dead_letter::rfc3339;
use dataplane::inquiry::Inquiry;
use dataplane::letter::{LetterAct, LetterBatch, LetterKind, Waiting};
use dataplane::parked;
use routing::internal_topics::parking_topic;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::dead_letters::{LetterQuery, event_as_json, work};
use super::{AskedName, AskedQuery, checked};
use crate::ask;
use crate::problem::Problem;
use crate::server::Desk;

/// Which parked events.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ParkedQuery {
    limit: Option<u32>,
    after: Option<String>,
    topic: Option<String>,
    key: Option<String>,
    id: Option<String>,
    until_us: Option<u64>,
}

/// One parked event.
#[derive(Serialize)]
pub(crate) struct ParkedEvent {
    /// Where it was published.
    topic: String,
    partition: u16,
    offset: u64,
    /// When, in RFC 3339.
    published: String,
    key: Option<String>,
    id: Option<String>,
    /// How often it has been delivered.
    attempts: u32,
    /// Why it is not with a member now.
    why: &'static str,
    /// Not to be tried again before, in RFC 3339; what stands behind another event of its key may have to wait longer.
    until: String,
    /// The event, with the attributes of its wait.
    event: Box<RawValue>,
}

/// A page of parked events.
#[derive(Serialize)]
pub(crate) struct ParkedEvents {
    items: Vec<ParkedEvent>,
    /// Given as `after`, the next page; null at the end.
    next: Option<String>,
    /// What was parked later is not told; to be given with the next page.
    until_us: u64,
}

pub(crate) async fn browse(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<ParkedQuery>,
) -> Result<Json<ParkedEvents>, Problem> {
    let (name, query) = (super::name(name)?, checked(query)?);
    let sources = desk.sources()?;
    // They are the group's: without it nothing waits any more.
    let routing = ask::shard(&sources.shards[0], Inquiry::Routing).await?;
    if routing.group_by_name(&name).is_none() {
        return Err(Problem::new(Code::NotFound, format!("there is no subscription {name:?}")));
    }
    let ParkedQuery { limit, after, topic, key, id, until_us } = query;
    let query = LetterQuery { limit, after, topic, key, id, until_us, ..LetterQuery::default() };
    let worked = work(&sources, &name, query, (LetterKind::Parked, LetterAct::Browse)).await?;
    let topic = parking_topic(&name);
    let items = worked.batches.iter().flat_map(|batch| told(&topic, batch)).collect();
    Ok(Json(ParkedEvents { items, next: worked.next, until_us: worked.until_us }))
}

fn told(topic: &str, batch: &LetterBatch) -> Vec<ParkedEvent> {
    let Ok(body) = Body::checked_before(&batch.body, batch.count) else { return Vec::new() };
    let of = |(index, waiting): (u32, &Waiting)| {
        let event = body.event(index)?;
        let text = |key: &Key<'_>| event.text(key).map(str::to_owned);
        let time = |key| Some(rfc3339(Timestamp(number(&event, key)?)));
        Some(ParkedEvent {
            topic: text(&parked::TOPIC)?,
            partition: batch.partition.0,
            offset: number(&event, &parked::OFFSET)?,
            published: time(&parked::PUBLISHED)?,
            key: event.partition_key().map(str::to_owned),
            id: text(&Key::Id),
            attempts: u32::try_from(number(&event, &parked::ATTEMPTS)?).ok()?,
            why: waiting.word(),
            until: time(&parked::NEXT)?,
            event: event_as_json(topic, batch, index)?,
        })
    };
    batch.events.iter().zip(&batch.waiting).filter_map(of).collect()
}

fn number(event: &Event<'_>, key: &Key<'_>) -> Option<u64> {
    event.text(key)?.parse().ok()
}
