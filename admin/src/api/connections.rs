//! Connections: who is there.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use codec::refusal::Code;
use dataplane::inquiry::{ConnectionReport, Inquiry};
use serde::Serialize;

use super::{AskedQuery, Page, PageQuery, wish};
use crate::ask;
use crate::problem::Problem;
use crate::server::Desk;

/// A connection.
#[derive(Serialize)]
pub(crate) struct ConnectionBody {
    /// Its shard and its slot there; a later connection may get it again.
    id: String,
    shard: u16,
    peer: String,
    door: &'static str,
    /// Null until it has said so.
    client: Option<String>,
    open_seconds: f64,
    subscriptions: usize,
    sent_bytes: u64,
    outbound_bytes: usize,
    waits_for_room: bool,
    closing: bool,
}

/// The page's connections, shard after shard.
pub(crate) async fn connections(
    State(desk): State<Arc<Desk>>,
    query: AskedQuery<PageQuery>,
) -> Result<Json<Page<ConnectionBody>>, Problem> {
    let wish = wish(query)?;
    let sources = desk.sources()?;
    let (mut shard, mut from) = wish.after.as_deref().map_or(Ok((0, 0)), behind)?;
    let mut items: Vec<ConnectionBody> = Vec::new();
    // One more than is wanted tells whether there is a next page.
    let wanted = wish.limit + 1;
    while let Some(handle) = sources.shards.get(usize::from(shard)) {
        let count = (wanted - items.len()).min(super::PAGE_MAX);
        let question = |answer| Inquiry::Connections { from, count, answer };
        let found = ask::shard(handle, question).await?;
        let last = found.last().map(|connection| connection.slot);
        let is_whole = found.len() < count;
        items.extend(found.into_iter().map(|connection| body(shard, connection)));
        if items.len() >= wanted {
            break;
        }
        match last {
            Some(last) if !is_whole => from = last + 1,
            _ => (shard, from) = (shard + 1, 0),
        }
    }
    let has_more = items.len() > wish.limit;
    items.truncate(wish.limit);
    let next = items.last().filter(|_| has_more).map(|item| item.id.clone());
    Ok(Json(Page { items, next }))
}

/// The place behind a connection's id.
fn behind(id: &str) -> Result<(u16, u32), Problem> {
    let place = id.split_once('-').and_then(|(shard, slot)| {
        Some((shard.parse::<u16>().ok()?, slot.parse::<u32>().ok()?.checked_add(1)?))
    });
    let text = "after must be the id of a connection, such as 0-17";
    place.ok_or_else(|| Problem::new(Code::MalformedRequest, text))
}

fn body(shard: u16, connection: ConnectionReport) -> ConnectionBody {
    ConnectionBody {
        id: format!("{shard}-{}", connection.slot),
        shard,
        peer: connection.peer.to_string(),
        door: connection.door,
        client: connection.client.map(|client| client.to_string()),
        open_seconds: connection.open_us as f64 / 1e6,
        subscriptions: connection.subscriptions,
        sent_bytes: connection.sent_bytes,
        outbound_bytes: connection.outbound_bytes,
        waits_for_room: connection.waits_for_room,
        closing: connection.is_closing,
    }
}
