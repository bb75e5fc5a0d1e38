//! The delivery policy of a subscription: how often, how long and after what delay its events are delivered again, and
//! what becomes of those that nobody takes.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::refusal::Code;
use controlplane::operator::Order;
use dataplane::inquiry::Inquiry;
use routing::delivery_policy::{DeliveryPolicy, OnExhausted};
use serde::{Deserialize, Serialize};
use tracing::info;

use super::{AskedName, AskedQuery, DryRunQuery, checked};
use crate::ask;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

/// What a policy says; null where it leaves the server's own.
#[derive(Serialize)]
pub(crate) struct PolicyBody {
    attempts_max: Option<u32>,
    retry_delay_ms: Option<u64>,
    retry_delay_max_ms: Option<u64>,
    jitter_percent: u8,
    ack_timeout_ms: Option<u64>,
    in_flight_max: Option<u32>,
    age_max_ms: Option<u64>,
    on_exhausted: &'static str,
}

/// A subscription's policy.
#[derive(Serialize)]
pub(crate) struct PolicyOf {
    name: String,
    policy: PolicyBody,
}

/// What changed, or would.
#[derive(Serialize)]
pub(crate) struct PolicyChange {
    dry_run: bool,
    name: String,
    before: PolicyBody,
    after: PolicyBody,
}

/// What a policy is to say from now on; of what is absent it says what it has said.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetQuery {
    #[serde(default)]
    dry_run: bool,
    attempts_max: Option<u32>,
    retry_delay_ms: Option<u64>,
    retry_delay_max_ms: Option<u64>,
    jitter_percent: Option<u8>,
    ack_timeout_ms: Option<u64>,
    in_flight_max: Option<u32>,
    age_max_ms: Option<u64>,
    on_exhausted: Option<String>,
}

pub(crate) async fn policy(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
) -> Result<Json<PolicyOf>, Problem> {
    let name = super::name(name)?;
    let sources = desk.sources()?;
    let policy = body(&known(&sources, &name).await?);
    Ok(Json(PolicyOf { name, policy }))
}

/// A subscription is delivered by another policy. It need not be there yet.
pub(crate) async fn set(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<SetQuery>,
) -> Result<Json<PolicyChange>, Problem> {
    let (name, query) = (super::name(name)?, checked(query)?);
    let dry_run = query.dry_run;
    let sources = desk.sources()?;
    let before = known(&sources, &name).await?;
    let after = said(query, before)?;
    change(&sources, name, (before, after), dry_run).await
}

/// A subscription is delivered as the server is configured again.
pub(crate) async fn unset(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<DryRunQuery>,
) -> Result<Json<PolicyChange>, Problem> {
    let (name, DryRunQuery { dry_run }) = (super::name(name)?, checked(query)?);
    let sources = desk.sources()?;
    let before = known(&sources, &name).await?;
    change(&sources, name, (before, DeliveryPolicy::default()), dry_run).await
}

async fn change(
    sources: &Sources,
    name: String,
    (before, after): (DeliveryPolicy, DeliveryPolicy),
    dry_run: bool,
) -> Result<Json<PolicyChange>, Problem> {
    if !dry_run {
        let group: Arc<str> = name.as_str().into();
        let order = |answer| Order::SetPolicy { group, policy: Some(after), answer };
        let done = ask::control(&sources.control, order).await;
        done.ok_or_else(|| Problem::from(Code::Unavailable))??;
        info!(subscription = name, policy = ?after, "delivery policy set by an operator");
    }
    let (before, after) = (body(&before), body(&after));
    Ok(Json(PolicyChange { dry_run, name, before, after }))
}

/// What the shards deliver by.
async fn known(sources: &Sources, name: &str) -> Result<DeliveryPolicy, Problem> {
    let routing = ask::shard(&sources.shards[0], Inquiry::Routing).await?;
    Ok(routing.policy(name).map(|policy| **policy).unwrap_or_default())
}

fn said(query: SetQuery, before: DeliveryPolicy) -> Result<DeliveryPolicy, Problem> {
    let on_exhausted = match query.on_exhausted.as_deref() {
        None => before.on_exhausted,
        Some("dead_letter") => OnExhausted::DeadLetter,
        Some("drop") => OnExhausted::Drop,
        Some(other) => {
            let text = format!("on_exhausted is {other:?}, dead_letter and drop are known");
            return Err(Problem::new(Code::MalformedRequest, text));
        }
    };
    let after = DeliveryPolicy {
        attempts_max: query.attempts_max.or(before.attempts_max),
        retry_delay_ms: query.retry_delay_ms.or(before.retry_delay_ms),
        retry_delay_max_ms: query.retry_delay_max_ms.or(before.retry_delay_max_ms),
        jitter_percent: query.jitter_percent.unwrap_or(before.jitter_percent),
        ack_timeout_ms: query.ack_timeout_ms.or(before.ack_timeout_ms),
        in_flight_max: query.in_flight_max.or(before.in_flight_max),
        age_max_ms: query.age_max_ms.or(before.age_max_ms),
        on_exhausted,
    };
    after.check().map_err(|error| Problem::new(Code::MalformedRequest, error.to_string()))?;
    Ok(after)
}

fn body(policy: &DeliveryPolicy) -> PolicyBody {
    PolicyBody {
        attempts_max: policy.attempts_max,
        retry_delay_ms: policy.retry_delay_ms,
        retry_delay_max_ms: policy.retry_delay_max_ms,
        jitter_percent: policy.jitter_percent,
        ack_timeout_ms: policy.ack_timeout_ms,
        in_flight_max: policy.in_flight_max,
        age_max_ms: policy.age_max_ms,
        on_exhausted: policy.on_exhausted.word(),
    }
}
