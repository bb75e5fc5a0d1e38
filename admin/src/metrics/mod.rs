//! `/metrics`: what the server counts, in Prometheus' text format.
//!
//! [`table`] is the one list of metrics; the answer and docs/metrics.md both follow it. Positions are told as they are,
//! so that what is between two of them is a subtraction.

mod process;
pub mod table;
mod text;
mod view;

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::server::{Desk, Phase};

pub use table::{Kind, METRICS, Metric};

/// Everything that there is to tell now. What a shard that does not answer would tell is left out.
pub(crate) async fn metrics(State(desk): State<Arc<Desk>>) -> impl IntoResponse {
    let (sources, is_ready) = match desk.phase() {
        Phase::Starting => (None, false),
        Phase::Ready(sources) => (Some(sources), true),
        Phase::Stopping(sources) => (sources, false),
    };
    let view = view::View::look(sources, is_ready).await;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, text::write(&view))
}
