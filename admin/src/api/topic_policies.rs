//! Topic policies by their patterns: what each says, and what changes when it says something else.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::ack::AckLevel;
use codec::limits::EVENT_DATA_BYTES_MAX;
use codec::refusal::Code;
use controlplane::operator::Order;
use dataplane::inquiry::Inquiry;
use routing::topic::{TopicFilter, TopicName};
use routing::topic_policy::{
    PolicyField, RETENTION_BYTES_MAX, RETENTION_SECONDS_MAX, TopicOrder, TopicPolicies, TopicPolicy,
};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::topics::names_behind;
use super::{AskedName, AskedQuery, PAGE_MAX, Page, PageQuery, checked, wish};
use crate::ask;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

/// Most topics that are told of a change.
const CHANGED_MAX: usize = 100;
/// Most pages of topics that are looked at for a change.
const PAGES_MAX: usize = 20;

/// What a pattern says; null where it says nothing.
#[derive(Serialize)]
struct PolicyBody {
    ack: Option<&'static str>,
    retention_seconds: Option<u64>,
    retention_bytes: Option<u64>,
    event_bytes_max: Option<u32>,
    create: Option<bool>,
    order: Option<&'static str>,
}

/// A pattern and what it says.
#[derive(Serialize)]
pub(crate) struct PolicyItem {
    pattern: String,
    #[serde(flatten)]
    policy: PolicyBody,
}

/// What changed, or would.
#[derive(Serialize)]
pub(crate) struct PolicyChange {
    dry_run: bool,
    pattern: String,
    before: PolicyBody,
    after: PolicyBody,
    topics: Vec<TopicChange>,
    /// Whether these are all topics for which something changes.
    topics_complete: bool,
}

/// A topic for which something changes: what the policies say of it, all patterns together.
#[derive(Serialize)]
struct TopicChange {
    name: String,
    before: PolicyBody,
    after: PolicyBody,
}

/// What a pattern is to say from now on; of what is absent it says what it has said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetQuery {
    #[serde(default)]
    dry_run: bool,
    ack: Option<String>,
    retention_seconds: Option<u64>,
    retention_bytes: Option<u64>,
    event_bytes_max: Option<u32>,
    create: Option<bool>,
    order: Option<String>,
}

/// What a pattern is to say nothing of any more.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnsetQuery {
    #[serde(default)]
    dry_run: bool,
    /// Absent: everything.
    field: Option<String>,
}

pub(crate) async fn topic_policies(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<PageQuery>,
) -> Result<Json<Page<PolicyItem>>, Problem> {
    let wish = wish(query)?;
    let sources = desk.sources()?;
    let policies = policies(&sources).await?;
    let item = |(pattern, policy): &(TopicFilter, TopicPolicy)| PolicyItem {
        pattern: pattern.to_string(),
        policy: body(policy),
    };
    let items = policies.list().iter().map(item).collect();
    Ok(Json(Page::of(items, &wish, |item: &PolicyItem| item.pattern.clone())))
}

pub(crate) async fn topic_policy(
    State(desk): State<Arc<Desk>>,
    pattern: AskedName,
) -> Result<Json<PolicyItem>, Problem> {
    let pattern = filter(pattern)?;
    let sources = desk.sources()?;
    let policies = policies(&sources).await?;
    let policy = policies.of_pattern(&pattern).ok_or_else(|| unknown(&pattern))?;
    Ok(Json(PolicyItem { pattern: pattern.to_string(), policy: body(policy) }))
}

/// A pattern says something else. A dry run only says for which topics what changes.
pub(crate) async fn set(
    State(desk): State<Arc<Desk>>,
    pattern: AskedName,
    query: AskedQuery<SetQuery>,
) -> Result<Json<PolicyChange>, Problem> {
    let pattern = filter(pattern)?;
    let query = checked(query)?;
    let (dry_run, said) = (query.dry_run, said(query)?);
    let sources = desk.sources()?;
    let change = move |policy: TopicPolicy| said.or(&policy);
    Ok(Json(apply(&sources, pattern, change, dry_run).await?))
}

/// A pattern says nothing any more, or nothing of one field. A dry run only says for which topics what changes.
pub(crate) async fn unset(
    State(desk): State<Arc<Desk>>,
    pattern: AskedName,
    query: AskedQuery<UnsetQuery>,
) -> Result<Json<PolicyChange>, Problem> {
    let pattern = filter(pattern)?;
    let UnsetQuery { dry_run, field } = checked(query)?;
    let field = field.map(|name| {
        let text = || format!("field is {name:?}, which is none of a policy's");
        PolicyField::from_name(&name).ok_or_else(|| Problem::new(Code::MalformedRequest, text()))
    });
    let field = field.transpose()?;
    let sources = desk.sources()?;
    if policies(&sources).await?.of_pattern(&pattern).is_none() {
        return Err(unknown(&pattern));
    }
    let change = move |mut policy: TopicPolicy| {
        let Some(field) = field else { return TopicPolicy::default() };
        policy.unset(field);
        policy
    };
    Ok(Json(apply(&sources, pattern, change, dry_run).await?))
}

async fn apply(
    sources: &Sources,
    pattern: TopicFilter,
    change: impl FnOnce(TopicPolicy) -> TopicPolicy + Send + Clone + 'static,
    dry_run: bool,
) -> Result<PolicyChange, Problem> {
    let now = policies(sources).await?;
    let before = now.of_pattern(&pattern).copied().unwrap_or_default();
    let after = change.clone()(before);
    let then = now.with(now.version() + 1, &pattern, after);
    let (topics, topics_complete) = changed_topics(sources, &pattern, &now, &then).await?;
    if !dry_run {
        let (pattern, change) = (pattern.clone(), Box::new(change));
        let set = |answer| Order::SetTopicPolicy { pattern, change, answer };
        let done = ask::control(&sources.control, set).await;
        done.ok_or_else(|| Problem::from(Code::Unavailable))??;
    }
    if !dry_run && before != after {
        info!(%pattern, ?after, topics = topics.len(), "topic policy set by an operator");
    }
    let (before, after) = (body(&before), body(&after));
    let pattern = pattern.to_string();
    Ok(PolicyChange { dry_run, pattern, before, after, topics, topics_complete })
}

/// The policies as the control plane has them.
pub(crate) async fn policies(sources: &Sources) -> Result<Arc<TopicPolicies>, Problem> {
    let policies = ask::control(&sources.control, Order::TopicPolicies).await;
    policies.ok_or_else(|| Problem::from(Code::Unavailable))
}

/// The topics for which something changes, in the order of their names, and whether these are all.
async fn changed_topics(
    sources: &Sources,
    pattern: &TopicFilter,
    now: &TopicPolicies,
    then: &TopicPolicies,
) -> Result<(Vec<TopicChange>, bool), Problem> {
    let prefix = literal_prefix(pattern);
    let mut found = Vec::new();
    let mut look_at = |name: &Arc<str>| {
        let Ok(topic) = TopicName::new(Arc::clone(name)) else { return };
        let (before, after) = (now.resolve(&topic), then.resolve(&topic));
        if before != after {
            let (before, after) = (body(&before), body(&after));
            found.push(TopicChange { name: name.to_string(), before, after });
        }
    };
    let mut after: Option<Arc<str>> = None;
    if !prefix.is_empty() {
        let name: Arc<str> = prefix.as_str().into();
        let topic = Arc::clone(&name);
        let question = |answer| Inquiry::Topic { name: Arc::clone(&topic), answer };
        if ask::all(&sources.shards, question).await?.iter().any(Option::is_some) {
            look_at(&name);
        }
        after = Some(name);
    }
    if pattern.exact_name().is_some() {
        return Ok((found, true));
    }
    let mut is_complete = false;
    for _ in 0..PAGES_MAX {
        let (names, has_more) = names_behind(sources, after.clone(), PAGE_MAX).await?;
        let of_pattern = names.iter().take_while(|name| name.starts_with(prefix.as_str()));
        let count = of_pattern.clone().count();
        of_pattern.for_each(&mut look_at);
        if count < names.len() || !has_more {
            is_complete = true;
            break;
        }
        after = names.last().cloned();
    }
    is_complete &= found.len() <= CHANGED_MAX;
    found.truncate(CHANGED_MAX);
    Ok((found, is_complete))
}

/// What every topic that a pattern matches begins with.
fn literal_prefix(pattern: &TopicFilter) -> String {
    let levels = pattern.levels().take_while(|level| !["+", "#"].contains(level));
    levels.collect::<Vec<_>>().join("/")
}

fn said(query: SetQuery) -> Result<TopicPolicy, Problem> {
    let malformed = |text: String| Problem::new(Code::MalformedRequest, text);
    let ack = query.ack.map(|name| {
        let levels = [AckLevel::Received, AckLevel::Written, AckLevel::Durable];
        let level = levels.into_iter().find(|level| level.name() == name);
        level.ok_or_else(|| malformed(format!("ack is {name:?}: received, written or durable")))
    });
    let order = query.order.map(|name| {
        let order = TopicOrder::from_name(&name);
        order.ok_or_else(|| malformed(format!("order is {name:?}: key or topic")))
    });
    let event_bytes_max = query.event_bytes_max;
    let limits = [
        ("retention_seconds", query.retention_seconds, 0, RETENTION_SECONDS_MAX),
        ("retention_bytes", query.retention_bytes, 0, RETENTION_BYTES_MAX),
        ("event_bytes_max", event_bytes_max.map(u64::from), 1, EVENT_DATA_BYTES_MAX.into()),
    ];
    for (field, value, least, most) in limits {
        if value.is_some_and(|value| value < least || value > most) {
            let value = value.unwrap_or_default();
            return Err(malformed(format!("{field} is {value}, {least} to {most} are allowed")));
        }
    }
    Ok(TopicPolicy {
        ack: ack.transpose()?,
        retention_seconds: query.retention_seconds,
        retention_bytes: query.retention_bytes,
        event_bytes_max,
        create: query.create,
        order: order.transpose()?,
    })
}

fn filter(pattern: AskedName) -> Result<TopicFilter, Problem> {
    let pattern = super::name(pattern)?;
    TopicFilter::new(pattern)
        .map_err(|error| Problem::new(Code::MalformedFilter, error.to_string()))
}

fn unknown(pattern: &TopicFilter) -> Problem {
    Problem::new(Code::NotFound, format!("there is no topic policy of {:?}", pattern.as_str()))
}

fn body(policy: &TopicPolicy) -> PolicyBody {
    PolicyBody {
        ack: policy.ack.map(AckLevel::name),
        retention_seconds: policy.retention_seconds,
        retention_bytes: policy.retention_bytes,
        event_bytes_max: policy.event_bytes_max,
        create: policy.create,
        order: policy.order.map(TopicOrder::name),
    }
}
