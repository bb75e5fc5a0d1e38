//! Deleting a topic: what stands of it, whom it was still owed to, and the deletion itself, on every shard.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::refusal::Code;
use controlplane::operator::Order;
use dataplane::inquiry::Inquiry;
use dataplane::shard::{CountFrom, TopicMeasure};
use routing::snapshot::RoutingSnapshot;
use routing::subscription::GroupId;
use routing::topic::{TopicFilter, TopicName};
use serde::Serialize;
use tokio::time::Instant;
use tracing::info;

use super::operating::count;
use super::subscriptions::{routing, shown_name};
use super::{AskedName, AskedQuery, DryRunQuery, checked};
use crate::ask;
use crate::limits::ANSWER_TIMEOUT;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

/// Most subscriptions that are told of.
const LOSSES_MAX: usize = 100;

/// What was deleted, or would be.
#[derive(Serialize)]
pub(crate) struct TopicDeletion {
    dry_run: bool,
    name: String,
    /// Events that were kept.
    events: u64,
    /// Bytes of segments that they take, as the logs' indexes tell.
    bytes: u64,
    /// Whom some of the events were not given yet.
    subscriptions: Vec<TopicLoss>,
    /// Whether these are all.
    subscriptions_complete: bool,
}

/// What a subscription loses.
#[derive(Serialize)]
struct TopicLoss {
    name: String,
    /// Events that it was not given; null when it took too long to count.
    events: Option<u64>,
    /// Whether there are just as many; else at most.
    is_exact: bool,
}

/// Deletes a topic, whatever its retention says. A dry run only says what would go.
pub(crate) async fn delete(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<DryRunQuery>,
) -> Result<Json<TopicDeletion>, Problem> {
    let (name, DryRunQuery { dry_run }) = (super::name(name)?, checked(query)?);
    let unknown = || Problem::new(Code::NotFound, format!("there is no topic {name:?}"));
    if name.starts_with('$') {
        let text = "topics that start with $ are the server's own; dead letters can be purged";
        return Err(Problem::new(Code::ReservedTopic, text));
    }
    let topic = TopicName::new(name.as_str()).map_err(|_| unknown())?;
    let sources = desk.sources()?;
    let shared: Arc<str> = Arc::from(name.as_str());
    let question = |answer| Inquiry::Measure { topic: Arc::clone(&shared), answer };
    let measures: Vec<TopicMeasure> = ask::all(&sources.shards, question).await?;
    if !measures.iter().any(|measure| measure.is_known) {
        return Err(unknown());
    }
    let mut events = measures.iter().map(|measure| measure.events).sum();
    let bytes = measures.iter().map(|measure| measure.bytes).sum();
    let (subscriptions, subscriptions_complete) = losses(&sources, &topic).await?;
    if !dry_run {
        let order = |answer| Order::DeleteTopic { topic: Arc::clone(&shared), answer };
        let done = ask::control(&sources.control, order).await;
        events = done.ok_or_else(not_done)??;
        info!(topic = name, events, bytes, "topic deleted by an operator");
    }
    let deletion =
        TopicDeletion { dry_run, name, events, bytes, subscriptions, subscriptions_complete };
    Ok(Json(deletion))
}

fn not_done() -> Problem {
    let seconds = ANSWER_TIMEOUT.as_secs();
    let text =
        format!("not every log holds it after {seconds} s; it goes on, also after a restart");
    Problem::new(Code::Unavailable, text)
}

/// The subscriptions that were not given all of a topic, and whether these are all.
async fn losses(sources: &Sources, topic: &TopicName) -> Result<(Vec<TopicLoss>, bool), Problem> {
    let routing = routing(sources).await?;
    let mut matched = Vec::new();
    routing.matches(topic, &mut matched);
    let groups: BTreeSet<GroupId> = matched.into_iter().map(|(group, _)| group).collect();
    let filter = TopicFilter::new(topic.as_str()).map_err(|_| Problem::from(Code::NotFound))?;
    let filters: Arc<[TopicFilter]> = Arc::new([filter]);
    let until = Instant::now() + ANSWER_TIMEOUT;
    let (mut losses, mut is_complete) = (Vec::new(), true);
    for group in groups {
        let Some(name) = name_of(&routing, group) else { continue };
        let is_late = Instant::now() >= until;
        if losses.len() >= LOSSES_MAX || is_late {
            is_complete = false;
            break;
        }
        let counted = count(sources, Arc::clone(&filters), CountFrom::Unread(group)).await;
        let (events, is_exact) = (counted.map(|c| c.events), counted.is_some_and(|c| c.is_exact));
        if events != Some(0) {
            losses.push(TopicLoss { name, events, is_exact });
        }
    }
    losses.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((losses, is_complete))
}

fn name_of(routing: &RoutingSnapshot, group: GroupId) -> Option<String> {
    let subscriptions = routing.subscriptions_of(group);
    Some(shown_name(&subscriptions.first()?.group_name, group))
}
