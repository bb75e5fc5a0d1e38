//! The paths of EventMesh's v2 clients, on the same port: `/events/...`. They name clients and not connections, so what a
//! client has subscribed to is remembered for all connections, in [`clients`]; after a restart it subscribes again. Its
//! place in its groups is the log's.
//!
//! | mode | group |
//! |---|---|
//! | `LOAD_BALANCE` | `eventmesh/TOPIC`, shared by all clients |
//! | `LOAD_BALANCE_STICKY` | `eventmesh-sticky/TOPIC`, whose keys the clients divide among themselves |
//! | `BROADCAST` | `eventmesh-broadcast/TOPIC`, one for each client |

pub(super) mod clients;

use std::borrow::Cow;
use std::sync::Arc;

use codec::cloudevents::http::ContentMode;
use codec::problem::Problem;
use codec::refusal::Code;
use dataplane::session::SessionKey;
use dataplane::shard::Shard;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use routing::subscription::{Mode, group_name};
use serde::Deserialize;

use super::desk::Order;
use super::events::Form;
use super::poll::Polling;
use super::publish::Publishing;
use super::query::{self, GROUP_BYTES_MAX, Query};
use super::routes::{self, EVENTS_MAX, POLL_EVENTS_DEFAULT, POLL_MS_DEFAULT, POLL_MS_MAX, Route};
use super::seat::Seat;
use super::session::{What, number};
use super::settle::Settling;
use super::stream::Streaming;
use super::{Shared, body};

/// What all of these paths begin with.
pub(super) const PREFIX: &str = "/events/";
/// Longest name of a client, in bytes.
const CLIENT_BYTES_MAX: usize = 255;

/// What such a client asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ask {
    Publish { topic: Arc<str>, mode: ContentMode },
    Subscribe,
    Unsubscribe,
    Poll { client: Arc<str>, max: u32, timeout_ms: u32 },
    Stream { client: Arc<str>, last_event_id: Option<String> },
    Ack,
}

/// The methods that one of these paths takes.
pub(super) fn methods(path: &str) -> Option<&'static str> {
    match path.strip_prefix(PREFIX)? {
        "publish" | "publish-batch" | "subscribe" | "unsubscribe" | "ack" | "request" | "reply" => {
            Some("POST, OPTIONS")
        }
        "poll" | "stream" => Some("GET, OPTIONS"),
        _ => None,
    }
}

/// What a request asks for. Its path is one that [`methods`] knows.
pub(super) fn route(path: &str, mut query: Query, headers: &HeaderMap) -> Result<Route, Problem> {
    let ask = match &path[PREFIX.len()..] {
        what @ ("publish" | "publish-batch") => {
            let topic = routes::topic(&query.need("topic")?)?;
            let content_type = routes::only(headers, CONTENT_TYPE.as_str())?;
            let mode = match ContentMode::of(content_type) {
                _ if what == "publish-batch" => ContentMode::BatchedJson,
                // These clients send the whole event, whatever they call it.
                ContentMode::Binary if !headers.contains_key("ce-specversion") => {
                    ContentMode::StructuredJson
                }
                mode => mode,
            };
            Ask::Publish { topic, mode }
        }
        "subscribe" => Ask::Subscribe,
        "unsubscribe" => Ask::Unsubscribe,
        "ack" => Ask::Ack,
        "poll" => Ask::Poll {
            client: client(query.need("clientId")?)?,
            max: query.number("max", (1, EVENTS_MAX), POLL_EVENTS_DEFAULT)?,
            timeout_ms: query.number("timeoutMs", (0, POLL_MS_MAX), POLL_MS_DEFAULT)?,
        },
        "stream" => Ask::Stream {
            client: client(query.need("clientId")?)?,
            last_event_id: routes::last_event_id(headers, &mut query)?,
        },
        other => {
            let detail = format!("{PREFIX}{other}: requests and replies are not built");
            return Err(Problem::of("path", Code::Unsupported, detail));
        }
    };
    query.finish()?;
    Ok(Route::EventMesh(ask))
}

fn client(name: String) -> Result<Arc<str>, Problem> {
    let is_bad = name.is_empty() || name.starts_with('$') || name.chars().any(char::is_control);
    if is_bad || name.len() > CLIENT_BYTES_MAX {
        let detail = format!(
            "clientId {name:?} is empty, longer than {CLIENT_BYTES_MAX} bytes, starts with '$' or has control characters"
        );
        return Err(Problem::of("clientId", Code::MalformedRequest, detail));
    }
    Ok(name.into())
}

/// Begins what a client asks for.
pub(super) fn begin(
    ask: Ask,
    mut order: Order,
    (id, key): (u64, SessionKey),
    shard: &mut Shard,
    shared: &Shared,
) -> Result<What, Problem> {
    let (clients, options) = (&shared.eventmesh, &shared.options);
    let now_us = shard.clock().mono_us;
    if let Ask::Publish { topic, mode } = ask {
        let publishing = Publishing::new(topic, mode, &mut order, options)?;
        return publishing.for_eventmesh().map(What::Publish);
    }
    let Order { headers, body, .. } = order;
    let body = body::plain(body, &headers, options.body_bytes_max as usize)?;
    Ok(match ask {
        Ask::Poll { client, max, timeout_ms } => {
            let (seats, gone) = clients.visit(&client, now_us);
            end_own(gone, (id, key), shard);
            let bounds = (max, timeout_ms);
            What::Poll(Polling::of_seats(seats?, bounds, Form::EventMesh, (id, key), shard)?)
        }
        Ask::Stream { client, last_event_id } => {
            let (seats, gone) = clients.visit(&client, now_us);
            end_own(gone, (id, key), shard);
            let last = last_event_id.as_deref();
            What::Stream(Streaming::of_seats(seats?, last, (id, key), shard, options.node)?)
        }
        Ask::Subscribe => What::Join(Joining::begin(&body, (id, key), shard, shared)?),
        Ask::Unsubscribe => {
            let (client, topic) = left_by(&body)?;
            let gone = clients.remove(&client, topic.as_deref());
            let removed = gone.len();
            end_own(gone, (id, key), shard);
            What::Done(serde_json::json!({ "removed": removed }).to_string().into_bytes())
        }
        Ask::Ack => {
            let delivery = delivery_of(&body)?;
            What::Settle(Settling::of_delivery(delivery, options.node, (id, key), shard)?)
        }
        Ask::Publish { .. } => unreachable!("it has begun above"),
    })
}

/// Ends the groups of seats that are left and that nobody else is in. Shared ones keep their place.
fn end_own(gone: Vec<Seat>, (id, key): (u64, SessionKey), shard: &mut Shard) {
    for seat in gone.into_iter().filter(|seat| seat.mode == Mode::Broadcasting) {
        let name = group_name(seat.group.as_ref(), seat.mode, &seat.client, &seat.filter);
        // Nobody waits for the answer: without a catalog it stays, as a group that nobody reads.
        shard.end_subscription(key, number(id, 0), &name, &seat.filter);
    }
}

/// The body of a subscribe. More than this is passed over, here and below: clients of several versions send it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SubscribeBody {
    client_id: String,
    topic: String,
    mode: Option<String>,
}

/// The body of an unsubscribe.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct UnsubscribeBody {
    client_id: String,
    topic: Option<String>,
}

/// The body of an ack.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AckBody<'a> {
    #[serde(borrow)]
    delivery_id: Cow<'a, str>,
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    serde_json::from_str(body::text(bytes)?).map_err(|error| {
        let detail = format!("the body is not as it must be: {error}");
        Problem::of("body", Code::MalformedRequest, detail)
    })
}

/// The delivery that an ack is for.
fn delivery_of(body: &[u8]) -> Result<Cow<'_, str>, Problem> {
    read::<AckBody<'_>>(body).map(|body| body.delivery_id)
}

/// Which client leaves which topic; without one, all of its topics.
fn left_by(body: &[u8]) -> Result<(Arc<str>, Option<String>), Problem> {
    let UnsubscribeBody { client_id, topic } = read(body)?;
    Ok((client(client_id)?, topic))
}

/// A subscribe under way: a member that gets nothing, until the group stands.
#[derive(Debug)]
pub(super) struct Joining {
    seat: Seat,
    /// Whether the client had not subscribed to it before.
    is_new: bool,
}

impl Joining {
    /// Remembers it, and asks for the group.
    fn begin(
        body: &[u8],
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
        shared: &Shared,
    ) -> Result<Joining, Problem> {
        let seat = seat_of(body)?;
        let added = shared.eventmesh.add(&seat, shard.clock().mono_us)?;
        end_own(added.gone, (id, key), shard);
        let joining = Joining { seat, is_new: added.is_new };
        if let Err(refusal) = joining.seat.take(number(id, 0), 0, key, shard) {
            joining.refused(shared);
            return Err(refusal.into());
        }
        Ok(joining)
    }

    /// The group stands: every event acknowledged from now on comes to it. The answer.
    pub(super) fn stands(&self, id: u64, key: SessionKey, shard: &mut Shard) -> Vec<u8> {
        shard.retire(key, number(id, 0));
        let name = format!("{}/{}", self.seat.client, self.seat.filter.as_str());
        serde_json::json!({ "subscriptionId": name }).to_string().into_bytes()
    }

    /// The group does not stand.
    pub(super) fn refused(&self, shared: &Shared) {
        if self.is_new {
            shared.eventmesh.remove(&self.seat.client, Some(self.seat.filter.as_str()));
        }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn left(&self, id: u64, key: SessionKey, shard: &mut Shard) {
        shard.retire(key, number(id, 0));
    }
}

/// The group that a body wants to be a member of.
fn seat_of(body: &[u8]) -> Result<Seat, Problem> {
    let SubscribeBody { client_id, topic, mode } = read(body)?;
    let (client, topic) = (client(client_id)?, routes::topic(&topic)?);
    let (mode, prefix) = match mode.as_deref().unwrap_or("LOAD_BALANCE") {
        "LOAD_BALANCE" => (Mode::Clustering, "eventmesh/"),
        "LOAD_BALANCE_STICKY" => (Mode::Clustering, clients::STICKY),
        "BROADCAST" => (Mode::Broadcasting, "eventmesh-broadcast/"),
        other => {
            let detail = format!(
                "mode is {other:?}; LOAD_BALANCE, LOAD_BALANCE_STICKY and BROADCAST are taken"
            );
            return Err(Problem::of("mode", Code::UnsupportedMode, detail));
        }
    };
    let name = format!("{prefix}{topic}");
    if name.len() > GROUP_BYTES_MAX {
        let limit = GROUP_BYTES_MAX - prefix.len();
        return Err(Problem::limit("bytes of the topic", limit as u64, topic.len() as u64));
    }
    let group = Some(query::group(name)?);
    let filter = query::filter(topic.to_string())?;
    Ok(Seat { client, group, filter, mode, start: None, share: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mode that is taken for another one delivers an event to too many clients, or to too few.
    #[test]
    fn modes_are_groups() {
        let seat = |mode: &str| {
            let body = format!(r#"{{"clientId":"c","topic":"a/b"{mode},"more":{{"x":1}}}}"#);
            seat_of(body.as_bytes())
        };
        for (mode, group, shared) in [
            ("", "eventmesh/a/b", Mode::Clustering),
            (r#","mode":"LOAD_BALANCE""#, "eventmesh/a/b", Mode::Clustering),
            (r#","mode":"LOAD_BALANCE_STICKY""#, "eventmesh-sticky/a/b", Mode::Clustering),
            (r#","mode":"BROADCAST""#, "eventmesh-broadcast/a/b", Mode::Broadcasting),
        ] {
            let seat = seat(mode).unwrap();
            assert_eq!((seat.group.as_deref(), seat.mode), (Some(group), shared), "{mode}");
            assert_eq!(seat.filter.as_str(), "a/b");
        }
        for mode in [r#","mode":"MULTICAST""#, r#","mode":"load_balance""#] {
            assert_eq!(seat(mode).unwrap_err().refusal.code, Code::UnsupportedMode);
        }
    }
}
