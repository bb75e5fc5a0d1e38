//! What the server says, taken from the receive buffer frame by frame.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use codec::batch::Batch;
use codec::frame::{self, DeliveryFrame, Frame, Kind, Parsed, RefusalFrame};
use codec::header::{ContentKind, HeaderSeed};
use codec::ids::TopicId;

use crate::delivery::{Delivery, Received};
use crate::error::{PublishError, ServerRefusal, SubscribeError};
use crate::state::{Shared, State};

/// Why a connection cannot go on.
#[derive(Clone, Debug)]
pub(crate) enum Broken {
    /// It is lost; another may do.
    Lost(String),
    /// The server refuses this client for good.
    Refused(ServerRefusal),
}

/// What one connection has heard so far.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    /// The server's numbers of topics on this connection.
    topics: HashMap<TopicId, Arc<str>>,
    /// The server has said goodbye.
    pub(crate) goodbye: bool,
    /// Pings to answer.
    pub(crate) pongs: Vec<u8>,
}

impl Incoming {
    /// Takes every whole frame from `buffer`.
    pub(crate) fn take(
        &mut self,
        buffer: &mut BytesMut,
        shared: &Arc<Shared>,
        life: u64,
    ) -> Result<(), Broken> {
        let mut state = shared.state();
        loop {
            let (request, frame, consumed) = match frame::parse(buffer) {
                Ok(Parsed::Incomplete { missing }) => {
                    buffer.reserve(missing.max(4_096));
                    return Ok(());
                }
                Ok(Parsed::Frame { request, frame, consumed }) => (request, frame, consumed),
                // A later server may say what this build does not understand.
                Err(error) if error.consumed.is_some() => {
                    buffer.advance(error.consumed.unwrap_or_default());
                    continue;
                }
                Err(error) => return Err(Broken::Lost(error.to_string())),
            };
            if let Frame::Delivery(delivery) = &frame {
                let at = DeliveryAt::of(delivery);
                let whole = buffer.split_to(consumed).freeze();
                self.deliver(request, &at, &whole, shared, &mut state, life)?;
                continue;
            }
            self.take_frame(request, &frame, &mut state)?;
            buffer.advance(consumed);
        }
    }

    fn take_frame(
        &mut self,
        request: u64,
        frame: &Frame<'_>,
        state: &mut State,
    ) -> Result<(), Broken> {
        match frame {
            Frame::Published(acks) => acks.for_each(|acked| state.publishing.acked(&acked)),
            Frame::Topic(topic) => {
                self.topics.insert(topic.id, topic.name.into());
            }
            Frame::Subscribed => {
                if let Some(subscribed) = state.subscriptions.get_mut(&request) {
                    subscribed.stands = true;
                    subscribed.answer.take().map(|answer| answer.send(Ok(())));
                }
            }
            Frame::Unsubscribed => {
                let ended = state.subscriptions.remove(&request);
                ended.and_then(|ended| ended.ending).map(|answer| answer.send(Ok(())));
            }
            Frame::Refusal(refusal) => return on_refusal(request, refusal, state),
            Frame::CaughtUp => {
                if let Some(subscribed) = state.subscriptions.get(&request) {
                    let _ = subscribed.deliveries.send(Ok(Received::CaughtUp));
                }
            }
            Frame::Gap { events } => {
                if let Some(subscribed) = state.subscriptions.get(&request) {
                    let _ = subscribed.deliveries.send(Ok(Received::Gap { events: *events }));
                }
            }
            Frame::Ping(echo) => {
                frame::encode_plain(Kind::Pong, request, echo, &mut self.pongs);
            }
            Frame::Goodbye(_) => self.goodbye = true,
            Frame::Pong(_) | Frame::Skipped => {}
            _ => return Err(Broken::Lost("the server sends frames of a client".into())),
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        request: u64,
        at: &DeliveryAt,
        whole: &Bytes,
        shared: &Arc<Shared>,
        state: &mut State,
        life: u64,
    ) -> Result<(), Broken> {
        let batch = whole.slice(at.batch..);
        let parsed = Batch::parse(&batch, HeaderSeed::WIRE);
        let checked = parsed.and_then(|parsed| parsed.check().map(|_| parsed.header));
        let header =
            checked.map_err(|error| Broken::Lost(format!("a delivery is damaged: {error}")))?;
        if header.content != ContentKind::Events {
            return Err(Broken::Lost("a delivery holds no events".into()));
        }
        let Some(topic) = self.topics.get(&header.topic).cloned() else {
            return Err(Broken::Lost("a delivery's topic was not announced".into()));
        };
        // One that was on its way when its subscription ended: the server gives it to others.
        let Some(subscribed) = state.subscriptions.get(&request) else { return Ok(()) };
        let delivery = Delivery {
            shared: shared.clone(),
            life,
            topic,
            attempt: at.attempt,
            token: whole.slice(at.token.clone()),
            bitmap: at.bitmap.clone().map(|bitmap| whole.slice(bitmap)),
            header,
            batch,
        };
        // Nobody listens any more: it is not settled and comes again to others.
        let _ = subscribed.deliveries.send(Ok(Received::Delivery(Box::new(delivery))));
        Ok(())
    }
}

/// Where the parts of a delivery stand in its frame.
struct DeliveryAt {
    attempt: u32,
    token: std::ops::Range<usize>,
    bitmap: Option<std::ops::Range<usize>>,
    batch: usize,
}

impl DeliveryAt {
    fn of(delivery: &DeliveryFrame<'_>) -> Self {
        let batch = delivery.batch_at;
        let bitmap_len = delivery.head.bitmap.map_or(0, <[u8]>::len);
        let bitmap = batch - bitmap_len;
        DeliveryAt {
            attempt: delivery.head.attempt,
            token: bitmap - delivery.head.token.len()..bitmap,
            bitmap: delivery.head.bitmap.map(|_| bitmap..batch),
            batch,
        }
    }
}

fn on_refusal(request: u64, frame: &RefusalFrame<'_>, state: &mut State) -> Result<(), Broken> {
    let refusal = ServerRefusal::from_frame(frame);
    match Kind::from_number(frame.kind) {
        Some(Kind::Publish) => {
            state.publishing.refused(request, &PublishError::Refused(refusal.clone()));
        }
        Some(Kind::Topic) => {
            let number = TopicId(u32::try_from(request).unwrap_or(0));
            state.publishing.topic_refused(number, PublishError::Refused(refusal.clone()));
        }
        Some(Kind::Subscribe) => {
            if let Some(subscribed) = state.subscriptions.remove(&request) {
                let error = SubscribeError::Refused(refusal.clone());
                match subscribed.answer {
                    Some(answer) => drop(answer.send(Err(error))),
                    None => drop(subscribed.deliveries.send(Err(error))),
                }
            }
        }
        Some(Kind::Unsubscribe) => {
            let ended = state.subscriptions.remove(&request).and_then(|ended| ended.ending);
            let error = SubscribeError::Refused(refusal.clone());
            ended.map(|answer| answer.send(Err(error)));
        }
        // A settle that came too late: what it was about is delivered again.
        _ => {}
    }
    if frame.closes {
        return Err(Broken::Refused(refusal));
    }
    Ok(())
}
