//! Subscriptions by the name of their group: filters, members, and how far each group has come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use codec::refusal::Code;
use controlplane::operator::Order;
use dataplane::inquiry::{GroupReport, Inquiry, MEMBERS_MAX, MembersReport, PlaceReport};
use dataplane::mail::MemberId;
use dataplane::shard::CountFrom;
use routing::internal_topics::redrive_topic;
use routing::snapshot::RoutingSnapshot;
use routing::subscription::{GroupId, Mode, Subscription};
use routing::topic::TopicFilter;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::info;

use super::operating::count;
use super::{AskedName, AskedQuery, DryRunQuery, Page, PageQuery, checked};
use crate::ask;
use crate::clock::wall_now;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

/// Names that begin so are those of ephemeral groups. Inside, a client and a filter follow, which need not be text that
/// fits a path; here the group's number stands for them.
const EPHEMERAL: &str = "$ephemeral/";

/// Most subscriptions of a page whose lags are counted: each count is work for every shard.
const COUNTED_MAX: usize = 32;
/// For how long they are.
const COUNTED_WITHIN: Duration = Duration::from_secs(1);

/// A subscription in the list.
#[derive(Serialize)]
pub(crate) struct SubscriptionItem {
    name: String,
    /// Whether it outlives its client and the process.
    pub(super) durable: bool,
    /// Whether it rests: its members get nothing until it is resumed.
    pub(super) paused: bool,
    /// The client that an ephemeral one ends with.
    client: Option<String>,
    mode: &'static str,
    filters: Vec<String>,
    members: usize,
    in_flight_events: u64,
    /// At most, unless it is exact: of what was not read yet, events that it does not want are counted too.
    pub(super) lag_events: u64,
    lag_is_exact: bool,
    lag_bytes: u64,
    /// Those of them that wait for long, apart from their logs' order.
    parked_events: u64,
    /// Keys that these block, each log's by itself.
    blocked_keys: u64,
    /// Whether parked events block so many keys that it takes nothing more of some log.
    stopped: bool,
    /// Age of the oldest commit that it owes something of; 0 when there is none.
    lag_seconds: f64,
}

/// A subscription.
#[derive(Serialize)]
pub(crate) struct SubscriptionBody {
    #[serde(flatten)]
    pub(super) item: SubscriptionItem,
    cursors: Vec<CursorBody>,
    /// At most 1,000 of a shard.
    member_list: Vec<MemberBody>,
}

/// Its place in one log.
#[derive(Serialize)]
struct CursorBody {
    log: String,
    low_position: u64,
    next_position: u64,
    visible_end_position: u64,
    unsettled_events: u64,
    parked_events: u64,
    blocked_keys: u64,
    stopped: bool,
    unread_events: u64,
    lag_bytes: u64,
    lag_seconds: f64,
}

/// A member.
#[derive(Serialize)]
struct MemberBody {
    client: String,
    shard: u16,
    filter: Option<String>,
    credit: u32,
    in_flight_events: u64,
}

/// Which subscriptions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    limit: Option<usize>,
    after: Option<String>,
    /// Whether lags are counted by the logs' indexes.
    #[serde(default)]
    exact: bool,
}

pub(crate) async fn subscriptions(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<ListQuery>,
) -> Result<Json<Page<SubscriptionItem>>, Problem> {
    let ListQuery { limit, after, exact } = checked(query)?;
    let wish = PageQuery { limit, after }.wish()?;
    let sources = desk.sources()?;
    let routing = routing(&sources).await?;
    let mut names: Vec<(String, GroupId)> = Vec::new();
    routing.each_group(&mut |name, group| {
        let shown = shown_name(name, group);
        if wish.after.as_ref().is_none_or(|after| shown > *after) {
            names.push((shown, group));
        }
    });
    let has_more = names.len() > wish.limit;
    if has_more {
        names.select_nth_unstable(wish.limit);
        names.truncate(wish.limit);
    }
    names.sort_unstable();
    let next = names.last().filter(|_| has_more).map(|(name, _)| name.clone());
    let groups: Vec<GroupId> = names.iter().map(|(_, group)| *group).collect();
    let mut reports = reports(&sources, groups).await?;
    let item = |(name, group): (String, GroupId)| {
        let report = reports.remove(&group).unwrap_or_default();
        Some((group, item(name, group, &routing, &report)?))
    };
    let mut items: Vec<(GroupId, SubscriptionItem)> = names.into_iter().filter_map(item).collect();
    if exact {
        let behind = items.iter_mut().filter(|(_, item)| !item.lag_is_exact).take(COUNTED_MAX);
        let counting = async {
            for (group, item) in behind {
                count_lag(&sources, &routing, *group, item).await;
            }
        };
        // Who is not counted by then is told with the bound.
        let _ = timeout(COUNTED_WITHIN, counting).await;
    }
    Ok(Json(Page { items: items.into_iter().map(|(_, item)| item).collect(), next }))
}

/// Counts by the logs' indexes how many events a group owes that has not read all. What cannot be counted stays a bound.
async fn count_lag(
    sources: &Sources,
    routing: &RoutingSnapshot,
    group: GroupId,
    item: &mut SubscriptionItem,
) {
    let subscriptions = routing.subscriptions_of(group);
    let Some(first) = subscriptions.first() else { return };
    let mut filters: Vec<TopicFilter> =
        subscriptions.iter().map(|known| known.filter.clone()).collect();
    let redriven = redrive_topic(&first.group_name).filter(|_| item.durable);
    filters.extend(redriven.and_then(|topic| TopicFilter::new(topic).ok()));
    let Some(counted) = count(sources, filters.into(), CountFrom::Group(group)).await else {
        return;
    };
    let events = counted.events + item.parked_events;
    // A bound that is worse than the one at hand says nothing; more events may have come since.
    if counted.is_exact || events < item.lag_events {
        (item.lag_events, item.lag_is_exact) = (events, counted.is_exact);
    }
}

pub(crate) async fn subscription(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
) -> Result<Json<SubscriptionBody>, Problem> {
    let name = super::name(name)?;
    let sources = desk.sources()?;
    let Looked { group, mut body, .. } = look_at(&sources, &name).await?;
    if !body.item.lag_is_exact {
        let routing = routing(&sources).await?;
        count_lag(&sources, &routing, group, &mut body.item).await;
    }
    Ok(Json(body))
}

/// What was deleted, or would be.
#[derive(Serialize)]
pub(crate) struct Deleted {
    dry_run: bool,
    /// As it was.
    subscription: SubscriptionBody,
}

/// Ends a subscription for all its members and forgets its place in every log. A dry run only says what would go.
pub(crate) async fn delete(
    State(desk): State<Arc<Desk>>,
    name: AskedName,
    query: AskedQuery<DryRunQuery>,
) -> Result<Json<Deleted>, Problem> {
    let (name, DryRunQuery { dry_run }) = (super::name(name)?, checked(query)?);
    let sources = desk.sources()?;
    let Looked { group, body: subscription, .. } = look_at(&sources, &name).await?;
    if !dry_run {
        let end = |answer| Order::EndGroup { group, answer };
        let ended = ask::control(&sources.control, end).await;
        ended.ok_or_else(|| Problem::from(Code::Unavailable))??;
        info!(
            subscription = name,
            lag_events = subscription.item.lag_events,
            "deleted by an operator"
        );
    }
    Ok(Json(Deleted { dry_run, subscription }))
}

/// A subscription that was looked at.
pub(super) struct Looked {
    pub(super) group: GroupId,
    pub(super) body: SubscriptionBody,
    pub(super) filters: Vec<TopicFilter>,
}

/// All that there is to tell of one subscription.
pub(super) async fn look_at(sources: &Sources, name: &str) -> Result<Looked, Problem> {
    let routing = routing(sources).await?;
    let unknown = || Problem::new(Code::NotFound, format!("there is no subscription {name:?}"));
    let group = group_of(&routing, name).ok_or_else(unknown)?;
    let reports = reports(sources, vec![group]).await?.remove(&group).unwrap_or_default();
    let subscriptions = routing.subscriptions_of(group);
    let item = item(name.to_owned(), group, &routing, &reports).ok_or_else(unknown)?;
    let question = |answer| Inquiry::Members { group, answer };
    let members = ask::all(&sources.shards, question).await?;
    let mut cursors: Vec<CursorBody> =
        reports.iter().flat_map(|report| &report.places).map(cursor).collect();
    cursors.sort_by(|one, other| one.log.cmp(&other.log));
    let member_list = member_list(members, &subscriptions);
    let filters = subscriptions.iter().map(|known| known.filter.clone()).collect();
    Ok(Looked { group, body: SubscriptionBody { item, cursors, member_list }, filters })
}

/// What the first shard routes by; all shards know every group soon.
pub(super) async fn routing(sources: &Sources) -> Result<Arc<RoutingSnapshot>, Problem> {
    ask::shard(&sources.shards[0], Inquiry::Routing).await
}

/// What the shards say of each group.
async fn reports(
    sources: &Sources,
    groups: Vec<GroupId>,
) -> Result<HashMap<GroupId, Vec<GroupReport>>, Problem> {
    let groups: Arc<[GroupId]> = groups.into();
    let question = |answer| Inquiry::Groups { groups: Arc::clone(&groups), answer };
    let mut reports: HashMap<GroupId, Vec<GroupReport>> = HashMap::new();
    for report in ask::all(&sources.shards, question).await?.into_iter().flatten() {
        reports.entry(report.group).or_default().push(report);
    }
    Ok(reports)
}

/// The name by which a group is told of and asked for.
pub(super) fn shown_name(name: &str, group: GroupId) -> String {
    if name.starts_with(EPHEMERAL) { format!("{EPHEMERAL}{group}") } else { name.to_owned() }
}

fn group_of(routing: &RoutingSnapshot, name: &str) -> Option<GroupId> {
    let Some(number) = name.strip_prefix(EPHEMERAL) else { return routing.group_by_name(name) };
    let group = GroupId(number.parse().ok()?);
    let first = *routing.subscriptions_of(group).first()?;
    // One group has one name: neither leading zeros nor a durable group's number are another.
    (shown_name(&first.group_name, group) == name).then_some(group)
}

/// None: its last subscription has just ended.
fn item(
    name: String,
    group: GroupId,
    routing: &RoutingSnapshot,
    reports: &[GroupReport],
) -> Option<SubscriptionItem> {
    let subscriptions = routing.subscriptions_of(group);
    let first = subscriptions.first()?;
    let places = || reports.iter().flat_map(|report| &report.places);
    let oldest = places().filter_map(|place| place.since).min();
    Some(SubscriptionItem {
        name,
        durable: first.is_durable(),
        paused: routing.is_paused(group),
        client: first.ephemeral_client.as_ref().map(|client| client.to_string()),
        mode: match first.mode {
            Mode::Clustering => "clustering",
            Mode::Broadcasting => "broadcasting",
        },
        filters: subscriptions.iter().map(|known| known.filter.as_str().to_owned()).collect(),
        members: reports.iter().map(|report| report.members).max().unwrap_or(0),
        in_flight_events: reports.iter().map(|report| report.in_flight).sum(),
        lag_events: places().map(PlaceReport::lag).sum(),
        lag_is_exact: places().all(|place| place.unread == 0),
        lag_bytes: places().map(|place| place.bytes).sum(),
        parked_events: places().map(|place| place.parked).sum(),
        blocked_keys: places().map(|place| place.blocked_keys).sum(),
        stopped: places().any(|place| place.is_stopped),
        lag_seconds: oldest.map_or(0.0, age_seconds),
    })
}

fn cursor(place: &PlaceReport) -> CursorBody {
    CursorBody {
        log: place.log.to_string(),
        low_position: place.low.0,
        next_position: place.next.0,
        visible_end_position: place.visible_end.0,
        unsettled_events: place.unsettled,
        parked_events: place.parked,
        blocked_keys: place.blocked_keys,
        stopped: place.is_stopped,
        unread_events: place.unread,
        lag_bytes: place.bytes,
        lag_seconds: place.since.map_or(0.0, age_seconds),
    }
}

fn member_list(
    reports: Vec<MembersReport>,
    subscriptions: &[&Arc<Subscription>],
) -> Vec<MemberBody> {
    let mut in_flight: HashMap<MemberId, u64> = HashMap::new();
    for (member, events) in reports.iter().flat_map(|report| &report.in_flight) {
        *in_flight.entry(*member).or_default() += u64::from(*events);
    }
    let home = reports.iter().flat_map(|report| &report.home);
    let mut members: Vec<MemberBody> = home
        .map(|member| {
            let of = subscriptions.iter().find(|known| known.id == member.subscription);
            MemberBody {
                client: member.client.to_string(),
                shard: member.member.shard,
                filter: of.map(|known| known.filter.as_str().to_owned()),
                credit: member.credit,
                in_flight_events: in_flight.get(&member.member).copied().unwrap_or(0),
            }
        })
        .collect();
    assert!(members.len() <= MEMBERS_MAX * reports.len(), "each shard tells of so many at most");
    members.sort_by(|one, other| one.client.cmp(&other.client));
    members
}

fn age_seconds(since: codec::ids::Timestamp) -> f64 {
    wall_now().0.saturating_sub(since.0) as f64 / 1e6
}
