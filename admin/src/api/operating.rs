//! What operators do with subscriptions: begin one without a client, pause, resume and move it. A dry run says what would
//! come of it and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use codec::ids::{Offset, Partition, Timestamp};
use codec::limits::PARTITIONS;
use codec::refusal::{Code, Refusal};
use controlplane::operator::{Answer, NewGroup, Order};
use dataplane::inquiry::Inquiry;
use dataplane::shard::CountFrom;
use log::count::Counted;
use routing::subscription::Start;
use routing::topic::TopicFilter;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::subscriptions::{Looked, SubscriptionBody, look_at};
use super::{AskedName, AskedQuery, DryRunQuery, checked};
use crate::ask;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

/// Where a subscription begins, or goes on.
#[derive(Debug, Deserialize)]
#[serde(tag = "from", rename_all = "snake_case", deny_unknown_fields)]
enum StartBody {
    /// With what is published from now on.
    Latest {},
    /// With the oldest event that is kept.
    Earliest {},
    /// With the first event taken at this time or later.
    Time {
        /// Microseconds since 1970.
        time_us: Whole,
    },
    /// With these offsets by partition; other partitions with their first.
    Offsets {
        /// By the number of the partition, in decimal.
        offsets: BTreeMap<String, Whole>,
    },
}

/// A whole number, as JSON has it: 7 and 7.0 are one.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "serde_json::Number")]
struct Whole(u64);

impl TryFrom<serde_json::Number> for Whole {
    type Error = String;

    fn try_from(number: serde_json::Number) -> Result<Whole, String> {
        // The first float that is no u64 any more.
        const END: f64 = 18_446_744_073_709_551_616.0;
        let whole = |value: &f64| value.fract() == 0.0 && (0.0..END).contains(value);
        let float = || number.as_f64().filter(whole).map(|value| value as u64);
        let value = number.as_u64().or_else(float);
        value.map(Whole).ok_or_else(|| format!("{number} is no whole number of 64 bits"))
    }
}

/// A subscription that is to begin.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    filters: Vec<String>,
    #[serde(default = "latest")]
    start: StartBody,
}

/// Where a subscription is to go on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SeekBody {
    start: StartBody,
}

/// What has begun, or would.
#[derive(Serialize)]
pub(crate) struct Created {
    dry_run: bool,
    name: String,
    filters: Vec<String>,
    /// What stands there for it already; null when it took too long to count.
    events: Option<u64>,
    /// Whether there are just as many; else at most.
    is_exact: bool,
}

/// What was paused or resumed, or would be.
#[derive(Serialize)]
pub(crate) struct Changed {
    dry_run: bool,
    /// As it is then.
    subscription: SubscriptionBody,
}

/// What was moved, or would be.
#[derive(Serialize)]
pub(crate) struct Sought {
    dry_run: bool,
    /// What it was owed where it stood; null when it took too long to count.
    events_before: Option<u64>,
    /// What it is owed where it goes on.
    events_after: Option<u64>,
    /// Whether there are just as many; else at most.
    is_exact: bool,
    /// As it was.
    subscription: SubscriptionBody,
}

/// Begins a subscription without a client: from its start on, events are kept for it.
pub(crate) async fn create(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<DryRunQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Created>), Problem> {
    let DryRunQuery { dry_run } = checked(query)?;
    let CreateBody { name, filters, start } = read(&headers, &body)?;
    let start = start.read()?;
    let checked = filters.iter().map(|filter| {
        TopicFilter::new(filter.as_str()).map_err(|error| {
            Problem::new(Code::MalformedFilter, format!("the filter {filter:?}: {error}"))
        })
    });
    let checked = checked.collect::<Result<Vec<_>, _>>()?;
    let sources = desk.sources()?;
    let new = |dry_run| {
        let (name, filters) = (Arc::from(name.as_str()), checked.clone());
        let new = NewGroup { name, filters, start: start.clone() };
        move |answer| Order::CreateGroup { new, dry_run, answer }
    };
    // Whether it could: before anything is counted.
    ordered(&sources, new(true)).await?;
    let counted = count(&sources, checked.clone().into(), CountFrom::Start(start.clone())).await;
    if !dry_run {
        ordered(&sources, new(false)).await?;
        info!(subscription = name, "created by an operator");
    }
    let (events, is_exact) = told(counted);
    let status = if dry_run { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(Created { dry_run, name, filters, events, is_exact })))
}

/// Pauses a subscription: nothing is handed out, what is in flight may be settled, and it keeps its place.
pub(crate) async fn pause(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<DryRunQuery>,
) -> Result<Json<Changed>, Problem> {
    set_paused(&desk, name, query, true).await
}

/// Resumes a subscription where it stands.
pub(crate) async fn resume(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<DryRunQuery>,
) -> Result<Json<Changed>, Problem> {
    set_paused(&desk, name, query, false).await
}

async fn set_paused(
    desk: &Desk,
    name: AskedName,
    query: AskedQuery<DryRunQuery>,
    is_paused: bool,
) -> Result<Json<Changed>, Problem> {
    let (name, DryRunQuery { dry_run }) = (super::name(name)?, checked(query)?);
    let sources = desk.sources()?;
    let Looked { group, mut body, .. } = look_at(&sources, &name).await?;
    check_durable(&body)?;
    if !dry_run {
        ordered(&sources, |answer| Order::PauseGroup { group, is_paused, answer }).await?;
        info!(subscription = name, is_paused, "paused or resumed by an operator");
    }
    body.item.paused = is_paused;
    Ok(Json(Changed { dry_run, subscription: body }))
}

/// Moves a subscription to another place in the logs. What is in flight is over.
pub(crate) async fn seek(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<DryRunQuery>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Sought>, Problem> {
    let (name, DryRunQuery { dry_run }) = (super::name(name)?, checked(query)?);
    let SeekBody { start } = read(&headers, &body)?;
    let start = start.read()?;
    let sources = desk.sources()?;
    let Looked { group, body, filters } = look_at(&sources, &name).await?;
    check_durable(&body)?;
    if matches!(start, Start::Offsets(_)) && filters.iter().any(|f| f.exact_name().is_none()) {
        let text = "the subscription has a filter with wildcards";
        return Err(Problem::new(Code::StartNeedsTopic, text));
    }
    let filters: Arc<[TopicFilter]> = filters.into();
    let (before, after) = tokio::join!(
        count(&sources, Arc::clone(&filters), CountFrom::Group(group)),
        count(&sources, Arc::clone(&filters), CountFrom::Start(start.clone())),
    );
    if !dry_run {
        ordered(&sources, |answer| Order::SeekGroup { group, start, answer }).await?;
        let lag_events = body.item.lag_events;
        info!(subscription = name, lag_events, "moved by an operator");
    }
    let ((events_before, exact_before), (events_after, exact_after)) = (told(before), told(after));
    let is_exact = exact_before && exact_after;
    Ok(Json(Sought { dry_run, events_before, events_after, is_exact, subscription: body }))
}

/// Gives an order and waits until it is done.
async fn ordered(
    sources: &Sources,
    order: impl FnOnce(Answer<Result<(), Refusal>>) -> Order,
) -> Result<(), Problem> {
    let done = ask::control(&sources.control, order).await;
    Ok(done.ok_or_else(|| Problem::from(Code::Unavailable))??)
}

/// Counts over all shards; none when it takes too long.
pub(super) async fn count(
    sources: &Sources,
    filters: Arc<[TopicFilter]>,
    from: CountFrom,
) -> Option<Counted> {
    let question =
        |answer| Inquiry::Count { filters: Arc::clone(&filters), from: from.clone(), answer };
    let mut sum = Counted::default();
    ask::all(&sources.shards, question).await.ok()?.into_iter().for_each(|part| sum.add(part));
    Some(sum)
}

fn told(counted: Option<Counted>) -> (Option<u64>, bool) {
    (counted.map(|counted| counted.events), counted.is_some_and(|counted| counted.is_exact))
}

fn check_durable(body: &SubscriptionBody) -> Result<(), Problem> {
    if body.item.durable { Ok(()) } else { Err(Code::NotDurable.into()) }
}

/// The body of a request. Its type is asked for, so that no page of another site can send one without being asked.
fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &[u8]) -> Result<T, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let text = "the body must be JSON, and content-type application/json";
        return Err(Problem::new(Code::MalformedRequest, text));
    }
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::MalformedRequest, format!("the body: {error}")))
}

fn latest() -> StartBody {
    StartBody::Latest {}
}

impl StartBody {
    fn read(self) -> Result<Start, Problem> {
        let offsets = match self {
            StartBody::Latest {} => return Ok(Start::Tail),
            StartBody::Earliest {} => return Ok(Start::Earliest),
            StartBody::Time { time_us } => return Ok(Start::Time(Timestamp(time_us.0))),
            StartBody::Offsets { offsets } => offsets,
        };
        let malformed = |text: String| Problem::new(Code::MalformedRequest, text);
        if offsets.is_empty() {
            return Err(malformed("offsets names no partition".to_owned()));
        }
        let place = |(partition, offset): (String, Whole)| {
            let number = partition.parse::<u16>().ok();
            // One partition has one name: no leading zeros.
            let number = number.filter(|n| *n < PARTITIONS && n.to_string() == partition);
            let number = number.ok_or_else(|| {
                malformed(format!(
                    "{partition:?} is no partition: there are 0 to {}",
                    PARTITIONS - 1
                ))
            })?;
            Ok((Partition(number), Offset(offset.0)))
        };
        Ok(Start::Offsets(offsets.into_iter().map(place).collect::<Result<_, Problem>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str) -> Result<Start, Code> {
        let malformed = |_| Code::MalformedRequest;
        let body: StartBody = serde_json::from_str(text).map_err(malformed)?;
        body.read().map_err(|problem| problem.0.code)
    }

    /// A start that is read as another skips events, or repeats a million of them.
    #[test]
    fn starts_are_read_exactly() {
        assert_eq!(start(r#"{"from":"latest"}"#), Ok(Start::Tail));
        assert_eq!(start(r#"{"from":"earliest"}"#), Ok(Start::Earliest));
        assert_eq!(start(r#"{"from":"time","time_us":7}"#), Ok(Start::Time(Timestamp(7))));
        assert_eq!(start(r#"{"from":"time","time_us":7.0}"#), Ok(Start::Time(Timestamp(7))));
        let places = vec![(Partition(3), Offset(9)), (Partition(63), Offset(0))];
        let text = r#"{"from":"offsets","offsets":{"63":0,"3":9}}"#;
        assert_eq!(start(text), Ok(Start::Offsets(places)));
        for wrong in [
            "null",
            "{}",
            r#"{"from":"tail"}"#,
            r#"{"from":"latest","time_us":7}"#,
            r#"{"from":"time"}"#,
            r#"{"from":"time","time_us":-1}"#,
            r#"{"from":"time","time_us":1.5}"#,
            r#"{"from":"time","time_us":18446744073709551616}"#,
            r#"{"from":"time","time_us":"7"}"#,
            r#"{"from":"time","time_us":null}"#,
            r#"{"from":"offsets"}"#,
            r#"{"from":"offsets","offsets":{}}"#,
            r#"{"from":"offsets","offsets":{"64":0}}"#,
            r#"{"from":"offsets","offsets":{"03":0}}"#,
            r#"{"from":"offsets","offsets":{"3":0},"time_us":1}"#,
        ] {
            assert_eq!(start(wrong), Err(Code::MalformedRequest), "{wrong}");
        }
    }

    /// A page of another site can send text, but not JSON, without being asked whether it may.
    #[test]
    fn bodies_must_say_that_they_are_json() {
        let body = br#"{"start":{"from":"latest"}}"#;
        let mut headers = HeaderMap::new();
        assert!(read::<SeekBody>(&headers, body).is_err());
        headers.insert(header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert!(read::<SeekBody>(&headers, body).is_err());
        headers.insert(header::CONTENT_TYPE, "Application/JSON; charset=utf-8".parse().unwrap());
        assert!(read::<SeekBody>(&headers, body).is_ok());
    }
}
