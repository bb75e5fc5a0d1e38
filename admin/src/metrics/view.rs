//! What the metrics are made of: the answers of shards and control plane at one moment.

use std::collections::HashMap;
use std::sync::Arc;

use codec::ids::Timestamp;
use controlplane::operator::{Order, PlaneStatus};
use dataplane::inquiry::{GroupReport, Inquiry, ShardReport};
use dataplane::runtime::{Counters, ShardHandle};
use routing::snapshot::RoutingSnapshot;
use routing::subscription::GroupId;

use super::process::Process;
use crate::ask;
use crate::clock::wall_now;
use crate::limits::GROUPS_IN_METRICS_MAX;
use crate::sources::{Facts, Sources};

/// The answers at one moment.
pub(crate) struct View {
    pub(crate) is_ready: bool,
    pub(crate) process: Process,
    pub(crate) plane: Option<PlaneStatus>,
    /// For each shard its answer, or none when it did not come in time.
    pub(crate) shards: Vec<Option<ShardReport>>,
    pub(crate) groups: Vec<GroupView>,
    /// Durable groups that are not told of, because there are too many.
    pub(crate) groups_left_out: usize,
    now: Timestamp,
    sources: Option<Arc<Sources>>,
}

/// A group over all shards.
pub(crate) struct GroupView {
    pub(crate) name: Arc<str>,
    pub(crate) members: usize,
    pub(crate) is_paused: bool,
    /// What each shard says of it.
    pub(crate) reports: Vec<GroupReport>,
}

impl View {
    pub(crate) async fn look(sources: Option<Arc<Sources>>, is_ready: bool) -> View {
        let mut view = View {
            is_ready,
            process: Process::look(),
            plane: None,
            shards: Vec::new(),
            groups: Vec::new(),
            groups_left_out: 0,
            now: wall_now(),
            sources: None,
        };
        let Some(sources) = sources else { return view };
        let first = &sources.shards[0];
        let (shards, plane, routing) = tokio::join!(
            ask::each(&sources.shards, Inquiry::Shard),
            ask::control(&sources.control, Order::Status),
            ask::shard(first, Inquiry::Routing),
        );
        (view.shards, view.plane) = (shards, plane);
        if let Ok(routing) = routing {
            view.look_at_groups(&sources, &routing).await;
        }
        view.sources = Some(sources);
        view
    }

    async fn look_at_groups(&mut self, sources: &Sources, routing: &RoutingSnapshot) {
        let mut durable: Vec<(Arc<str>, GroupId)> = Vec::new();
        routing.each_group(&mut |name, group| {
            // Names that begin so belong to the server: those of ephemeral groups.
            if !name.starts_with('$') {
                durable.push((Arc::clone(name), group));
            }
        });
        durable.sort_unstable();
        self.groups_left_out = durable.len().saturating_sub(GROUPS_IN_METRICS_MAX);
        durable.truncate(GROUPS_IN_METRICS_MAX);
        let ids: Arc<[GroupId]> = durable.iter().map(|(_, group)| *group).collect();
        let question = |answer| Inquiry::Groups { groups: Arc::clone(&ids), answer };
        let answers = ask::each(&sources.shards, question).await;
        let mut reports: HashMap<GroupId, Vec<GroupReport>> = HashMap::new();
        for report in answers.into_iter().flatten().flatten() {
            reports.entry(report.group).or_default().push(report);
        }
        self.groups = durable
            .into_iter()
            .map(|(name, group)| {
                let reports = reports.remove(&group).unwrap_or_default();
                let members = reports.iter().map(|report| report.members).max().unwrap_or(0);
                GroupView { name, members, is_paused: routing.is_paused(group), reports }
            })
            .collect();
    }

    /// The shards that have answered.
    pub(crate) fn answered(&self) -> impl Iterator<Item = &ShardReport> {
        self.shards.iter().flatten()
    }

    /// What the shards' runtimes have counted; these are read without asking.
    pub(crate) fn runtimes(&self) -> impl Iterator<Item = (u16, &Counters)> {
        let handles = self.sources.iter().flat_map(|sources| &sources.shards);
        handles.map(|shard: &ShardHandle| (shard.index(), shard.counters()))
    }

    /// How long ago something was, at this moment.
    pub(crate) fn age_seconds(&self, since: Timestamp) -> f64 {
        self.now.0.saturating_sub(since.0) as f64 / 1e6
    }

    /// What was fixed at the start, once it is over.
    pub(crate) fn facts(&self) -> Option<&Facts> {
        self.sources.as_ref().map(|sources| &sources.facts)
    }
}
