//! Is it alive, and does it serve?

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use controlplane::operator::Order;
use dataplane::inquiry::{Inquiry, LogReport};
use log::batch::LogState;
use serde::Serialize;

use crate::ask;
use crate::server::{Desk, Phase};
use crate::sources::Sources;

/// Answers as long as the process lives: what restarts processes that hang asks here.
pub(crate) async fn healthz() -> &'static str {
    "alive\n"
}

/// Whether clients are served in full.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    /// What is amiss, a sentence each.
    not_ready: Vec<String>,
}

/// 200 when everything takes and serves events, 503 with all that does not.
pub(crate) async fn readyz(State(desk): State<Arc<Desk>>) -> Response {
    let not_ready = not_ready(&desk).await;
    let ready = not_ready.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, not_ready })).into_response()
}

/// What is amiss, a sentence each.
pub(crate) async fn not_ready(desk: &Desk) -> Vec<String> {
    match desk.phase() {
        Phase::Starting => vec!["the server is starting: its logs are recovered".to_owned()],
        Phase::Stopping(_) => vec!["the server is shutting down".to_owned()],
        Phase::Ready(sources) => amiss(&sources).await,
    }
}

async fn amiss(sources: &Sources) -> Vec<String> {
    let (shards, plane) = tokio::join!(
        ask::each(&sources.shards, Inquiry::Shard),
        ask::control(&sources.control, Order::Status),
    );
    let mut amiss = Vec::new();
    for (shard, report) in shards.into_iter().enumerate() {
        match report {
            None => amiss.push(format!("shard {shard} does not answer")),
            Some(report) => amiss.extend(report.logs.iter().filter_map(log_amiss)),
        }
    }
    if plane.is_none() {
        amiss.push("the control plane does not answer: no new subscriptions".to_owned());
    }
    amiss
}

fn log_amiss(report: &LogReport) -> Option<String> {
    match &report.state {
        LogState::Running => None,
        LogState::DiskFull => Some(format!("log {} is full: it takes no events", report.log)),
        LogState::Stopped(why) => Some(format!("log {} has stopped: {why}", report.log)),
        _ => Some(format!("log {} does not take events", report.log)),
    }
}
