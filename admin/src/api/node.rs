//! The server itself: its shards, its logs, its configuration.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use controlplane::operator::{Order, PlaneStatus};
use dataplane::inquiry::{Inquiry, LogReport, ShardReport};
use log::batch::LogState;
use log::storage::Storage;
use log::storage::file::FileStorage;
use serde::Serialize;

use super::{AskedQuery, Page, PageQuery, wish};
use crate::ask;
use crate::health::not_ready;
use crate::problem::Problem;
use crate::server::Desk;
use crate::sources::Sources;

/// The server.
#[derive(Serialize)]
pub(crate) struct ServerBody {
    version: &'static str,
    /// Hexadecimal: JSON's numbers do not hold it.
    node_id: String,
    data: String,
    generation: u32,
    direct: bool,
    native: String,
    shards: usize,
    ready_after_seconds: f64,
    memory_bytes_max: u64,
    connections_max: u32,
    /// What is free on the disk of the folder; null when the system does not say.
    disk_free_bytes: Option<u64>,
    /// What is amiss, as /readyz has it; empty when it is ready.
    not_ready: Vec<String>,
    /// Null when it does not answer.
    control_plane: Option<ControlPlaneBody>,
    recovered: Vec<RecoveredBody>,
}

#[derive(Serialize)]
struct ControlPlaneBody {
    subscriptions: usize,
    routing_version: u64,
    adopted_routing_version: u64,
    waiting_answers: usize,
}

#[derive(Serialize)]
struct RecoveredBody {
    log: String,
    bytes_read: u64,
    tail_cut: bool,
    damages: usize,
}

/// A shard.
#[derive(Serialize)]
pub(crate) struct ShardBody {
    shard: u16,
    connections: usize,
    connections_waiting: usize,
    groups: usize,
    routing_version: u64,
    draining: bool,
    published_events: u64,
    published_bytes: u64,
    delivered_events: u64,
    delivered_bytes: u64,
    redelivered_events: u64,
    settled_events: u64,
    memory: MemoryBody,
}

/// What a shard's parts keep, and may keep.
#[derive(Serialize)]
struct MemoryBody {
    log_bytes: u64,
    read_ahead_bytes: u64,
    read_ahead_bytes_max: u64,
    lent_bytes: u64,
    lent_bytes_max: u64,
    in_flight_bytes: u64,
    in_flight_bytes_max: u64,
    input_bytes: u64,
    input_bytes_max: u64,
}

/// A log.
#[derive(Serialize)]
pub(crate) struct LogBody {
    log: String,
    shard: u16,
    /// Whether events go to it; the others are read until their groups are through.
    active: bool,
    state: &'static str,
    /// Why it has stopped.
    reason: Option<String>,
    epoch: u32,
    start_position: u64,
    durable_end_position: u64,
    written_end_position: u64,
    visible_end_position: u64,
    end_position: u64,
    topics: u32,
    segments: usize,
    allocated_bytes: u64,
    commits: u64,
}

/// A key of the configuration.
#[derive(Serialize)]
pub(crate) struct SettingBody {
    key: String,
    value: String,
    origin: &'static str,
    set_by: Option<String>,
    text: String,
}

pub(crate) async fn server(State(desk): State<Arc<Desk>>) -> Result<Json<ServerBody>, Problem> {
    let sources = desk.sources()?;
    let plane = ask::control(&sources.control, Order::Status).await;
    let facts = &sources.facts;
    let recovered = facts.recovered.iter().map(|recovered| RecoveredBody {
        log: recovered.log.clone(),
        bytes_read: recovered.bytes_read,
        tail_cut: recovered.is_cut,
        damages: recovered.damage,
    });
    Ok(Json(ServerBody {
        version: env!("CARGO_PKG_VERSION"),
        node_id: format!("{:016x}", facts.node_id),
        data: facts.data.display().to_string(),
        generation: facts.generation,
        direct: facts.direct,
        native: facts.native.to_string(),
        shards: sources.shards.len(),
        ready_after_seconds: facts.ready_after.as_secs_f64(),
        memory_bytes_max: facts.memory_bytes_max,
        connections_max: facts.connections_max,
        disk_free_bytes: FileStorage::new().free_bytes(&facts.data).ok(),
        not_ready: not_ready(&desk).await,
        control_plane: plane.map(|plane: PlaneStatus| ControlPlaneBody {
            subscriptions: plane.subscriptions,
            routing_version: plane.version,
            adopted_routing_version: plane.adopted_version,
            waiting_answers: plane.waiting_answers,
        }),
        recovered: recovered.collect(),
    }))
}

pub(crate) async fn shards(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<PageQuery>,
) -> Result<Json<Page<ShardBody>>, Problem> {
    let wish = wish(query)?;
    let sources = desk.sources()?;
    let bodies = reports(&sources).await?.iter().map(shard_body).collect();
    Ok(Json(Page::of(bodies, &wish, |shard: &ShardBody| format!("{:03}", shard.shard))))
}

pub(crate) async fn logs(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<PageQuery>,
) -> Result<Json<Page<LogBody>>, Problem> {
    let wish = wish(query)?;
    let sources = desk.sources()?;
    let reports = reports(&sources).await?;
    let logs = reports.iter().flat_map(|shard| shard.logs.iter().map(|log| (shard.shard, log)));
    let bodies = logs.map(|(shard, log)| log_body(shard, log)).collect();
    Ok(Json(Page::of(bodies, &wish, |log: &LogBody| log.log.clone())))
}

pub(crate) async fn configuration(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<PageQuery>,
) -> Result<Json<Page<SettingBody>>, Problem> {
    let wish = wish(query)?;
    let sources = desk.sources()?;
    let settings = sources.configuration.iter().map(|setting| SettingBody {
        key: setting.key.clone(),
        value: setting.value.clone(),
        origin: setting.origin,
        set_by: setting.set_by.clone(),
        text: setting.text.replace('\n', " "),
    });
    Ok(Json(Page::of(settings.collect(), &wish, |setting: &SettingBody| setting.key.clone())))
}

/// Every shard's report; a list that lacks a shard would lie.
async fn reports(sources: &Sources) -> Result<Vec<ShardReport>, Problem> {
    ask::all(&sources.shards, Inquiry::Shard).await
}

fn shard_body(report: &ShardReport) -> ShardBody {
    let (stats, memory) = (&report.stats, &report.memory);
    ShardBody {
        shard: report.shard,
        connections: report.sessions,
        connections_waiting: report.waiting_sessions,
        groups: report.groups,
        routing_version: report.routing_version,
        draining: report.is_draining,
        published_events: stats.appended_events,
        published_bytes: stats.appended_bytes,
        delivered_events: stats.delivered_events,
        delivered_bytes: stats.delivered_bytes,
        redelivered_events: stats.redelivered_events,
        settled_events: stats.settled_events,
        memory: MemoryBody {
            log_bytes: memory.log_bytes,
            read_ahead_bytes: memory.read_ahead.0,
            read_ahead_bytes_max: memory.read_ahead.1,
            lent_bytes: memory.lent.0,
            lent_bytes_max: memory.lent.1,
            in_flight_bytes: memory.in_flight.0,
            in_flight_bytes_max: memory.in_flight.1,
            input_bytes: memory.input.0,
            input_bytes_max: memory.input.1,
        },
    }
}

fn log_body(shard: u16, report: &LogReport) -> LogBody {
    let (state, reason) = match &report.state {
        LogState::Running => ("running", None),
        LogState::DiskFull => ("disk_full", None),
        LogState::Stopped(why) => ("stopped", Some(why.clone())),
        _ => ("stopped", None),
    };
    LogBody {
        log: report.log.to_string(),
        shard,
        active: report.is_active,
        state,
        reason,
        epoch: report.epoch,
        start_position: report.start.0,
        durable_end_position: report.durable_end.0,
        written_end_position: report.written_end.0,
        visible_end_position: report.visible_end.0,
        end_position: report.end.0,
        topics: report.topics,
        segments: report.segments,
        allocated_bytes: report.allocated_bytes,
        commits: report.commits,
    }
}
