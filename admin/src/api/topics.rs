//! Topics and their partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::ids::Partition;
use codec::refusal::Code;
use dataplane::inquiry::{Inquiry, PartitionReport};
use serde::Serialize;

use super::{AskedName, AskedQuery, Page, PageQuery, wish};
use crate::ask;
use crate::problem::Problem;
use crate::server::Desk;

/// A topic in the list.
#[derive(Serialize)]
pub(crate) struct TopicItem {
    name: String,
}

/// A topic.
#[derive(Serialize)]
pub(crate) struct TopicBody {
    name: String,
    /// Events that are kept.
    events: u64,
    partitions: Vec<PartitionBody>,
}

/// A partition in which events were published.
#[derive(Serialize)]
struct PartitionBody {
    partition: u16,
    /// The first offset that is kept; `next_offset` when none is.
    first_offset: u64,
    /// The offset that the next event gets.
    next_offset: u64,
    /// The logs that hold or take its events, older ones first.
    logs: Vec<String>,
}

pub(crate) async fn topics(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<PageQuery>,
) -> Result<Json<Page<TopicItem>>, Problem> {
    let wish = wish(query)?;
    let sources = desk.sources()?;
    let after: Option<Arc<str>> = wish.after.as_deref().map(Arc::from);
    let question = |answer| Inquiry::Topics { after: after.clone(), count: wish.limit, answer };
    let answers = ask::all(&sources.shards, question).await?;
    // A full page of any shard may have more behind it, so that what is behind its end may lack names.
    let has_more = answers.iter().any(|names| names.len() == wish.limit);
    let names: BTreeSet<Arc<str>> = answers.into_iter().flatten().collect();
    let has_more = has_more || names.len() > wish.limit;
    let items: Vec<TopicItem> =
        names.iter().take(wish.limit).map(|name| TopicItem { name: name.to_string() }).collect();
    let next = items.last().filter(|_| has_more).map(|item| item.name.clone());
    Ok(Json(Page { items, next }))
}

pub(crate) async fn topic(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
) -> Result<Json<TopicBody>, Problem> {
    let name = super::name(name)?;
    let sources = desk.sources()?;
    let topic: Arc<str> = Arc::from(name.as_str());
    let question = |answer| Inquiry::Topic { name: Arc::clone(&topic), answer };
    let answers = ask::all(&sources.shards, question).await?;
    if answers.iter().all(Option::is_none) {
        let text = format!("there is no topic {name:?}: nothing was published to it");
        return Err(Problem::new(Code::NotFound, text));
    }
    let mut places: BTreeMap<Partition, Vec<PartitionReport>> = BTreeMap::new();
    for place in answers.into_iter().flatten().flatten() {
        places.entry(place.partition).or_default().push(place);
    }
    let partitions: Vec<PartitionBody> = places.into_values().map(partition).collect();
    let events = partitions.iter().map(|body| body.next_offset - body.first_offset).sum();
    Ok(Json(TopicBody { name, events, partitions }))
}

/// One partition, which may stand in the logs of several generations.
fn partition(mut places: Vec<PartitionReport>) -> PartitionBody {
    places.sort_by_key(|place| place.log);
    let next = places.iter().map(|place| place.next.0).max().unwrap_or(0);
    let kept = places.iter().filter(|place| place.first < place.next);
    let first = kept.map(|place| place.first.0).min().unwrap_or(next);
    PartitionBody {
        partition: places.first().map_or(0, |place| place.partition.0),
        first_offset: first,
        next_offset: next,
        logs: places.iter().map(|place| place.log.to_string()).collect(),
    }
}
