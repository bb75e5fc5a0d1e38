//! Topics and their partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::ids::Partition;
use codec::refusal::Code;
use dataplane::inquiry::{Inquiry, PartitionReport};
use routing::topic::TopicName;
use routing::topic_policy::{EffectivePolicy, TopicOrder};
use serde::Serialize;

use super::topic_policies::policies;
use super::{AskedName, AskedQuery, Page, PageQuery, wish};
use crate::ask;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

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
    policy: EffectiveBody,
    partitions: Vec<PartitionBody>,
}

/// What holds for a topic.
#[derive(Serialize)]
struct EffectiveBody {
    ack: Effective<&'static str>,
    /// Null: for ever, as far as `retention_bytes` goes; 0: for ever.
    retention_seconds: Effective<Option<u64>>,
    /// Null: as `log.retention_bytes` says; 0: all.
    retention_bytes: Effective<Option<u64>>,
    event_bytes_max: Effective<u32>,
    create: Effective<bool>,
    order: Effective<&'static str>,
}

/// A value, and the pattern that says so; null: the configuration does.
#[derive(Serialize)]
struct Effective<T> {
    value: T,
    pattern: Option<String>,
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
    let (names, has_more) = names_behind(&sources, after, wish.limit).await?;
    let items: Vec<TopicItem> =
        names.iter().map(|name| TopicItem { name: name.to_string() }).collect();
    let next = items.last().filter(|_| has_more).map(|item| item.name.clone());
    Ok(Json(Page { items, next }))
}

/// Names of topics behind one, in their order, and whether there may be more.
pub(crate) async fn names_behind(
    sources: &Sources,
    after: Option<Arc<str>>,
    count: usize,
) -> Result<(Vec<Arc<str>>, bool), Problem> {
    let question = |answer| Inquiry::Topics { after: after.clone(), count, answer };
    let answers = ask::all(&sources.shards, question).await?;
    // A full page of any shard may have more behind it, so that what is behind its end may lack names.
    let has_more = answers.iter().any(|names| names.len() == count);
    let names: BTreeSet<Arc<str>> = answers.into_iter().flatten().collect();
    let has_more = has_more || names.len() > count;
    Ok((names.into_iter().take(count).collect(), has_more))
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
    let policy = effective(&sources, &name).await?;
    Ok(Json(TopicBody { name, events, policy, partitions }))
}

/// What holds for a topic, by its policies and else by the configuration.
async fn effective(sources: &Sources, name: &str) -> Result<EffectiveBody, Problem> {
    let policies = policies(sources).await?;
    // What a damaged log has made up is a name, too.
    let topic = TopicName::new(name);
    let EffectivePolicy { policy, from } =
        topic.map(|topic| policies.explain(&topic)).unwrap_or_default();
    let [ack, seconds, bytes, event_bytes, create, order] =
        from.map(|pattern| pattern.map(|pattern| pattern.to_string()));
    let facts = &sources.facts;
    Ok(EffectiveBody {
        ack: Effective { value: policy.ack.unwrap_or(facts.ack).name(), pattern: ack },
        retention_seconds: Effective { value: policy.retention_seconds, pattern: seconds },
        retention_bytes: Effective { value: policy.retention_bytes, pattern: bytes },
        event_bytes_max: Effective {
            value: policy
                .event_bytes_max
                .map_or(facts.event_data_bytes_max, |most| most.min(facts.event_data_bytes_max)),
            pattern: event_bytes,
        },
        create: Effective { value: policy.create.unwrap_or(true), pattern: create },
        order: Effective { value: policy.order.unwrap_or(TopicOrder::Key).name(), pattern: order },
    })
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
