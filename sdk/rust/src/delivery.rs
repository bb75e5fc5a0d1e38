//! Subscriptions and what they receive.

use std::sync::Arc;

use bytes::Bytes;
use codec::body::Body;
use codec::event::Event;
use codec::frame::WireVerdict;
use codec::header::{BatchHeader, HEADER_BYTES};
use codec::ids::{Offset, Partition, Timestamp};
use tokio::sync::{mpsc, oneshot};

use crate::client::Client;
use crate::error::SubscribeError;
use crate::state::{Command, Shared};

/// What became of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Done with: never again for this group.
    Done,
    /// To be delivered again.
    Retry,
    /// Never to be delivered to this group again: to its dead letters. A server that knows no such thing delivers again.
    Reject,
}

impl Verdict {
    fn on_the_wire(self) -> WireVerdict {
        match self {
            Verdict::Done => WireVerdict::Done,
            Verdict::Retry => WireVerdict::Retry,
            Verdict::Reject => WireVerdict::Reject,
        }
    }
}

/// Events of one topic and partition. What is not settled in time is delivered to others, but holds the credit of this
/// subscription until its connection ends: hand back ([`Delivery::retry`]) what you will not do.
#[derive(Debug)]
pub struct Delivery {
    pub(crate) shared: Arc<Shared>,
    pub(crate) life: u64,
    pub(crate) topic: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) token: Bytes,
    pub(crate) bitmap: Option<Bytes>,
    pub(crate) header: BatchHeader,
    /// Header and body.
    pub(crate) batch: Bytes,
}

impl Delivery {
    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Arc<str> {
        &self.topic
    }

    /// The partition.
    #[must_use]
    pub fn partition(&self) -> Partition {
        self.header.partition
    }

    /// How often these events have been delivered, this time included.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// How many events are delivered.
    #[must_use]
    pub fn count(&self) -> u32 {
        match &self.bitmap {
            None => self.header.count,
            Some(bitmap) => bitmap.iter().map(|byte| byte.count_ones()).sum(),
        }
    }

    /// When the batch was appended.
    #[must_use]
    pub fn append_time(&self) -> Timestamp {
        self.header.append_time
    }

    /// The events with their offsets, read where they stand.
    pub fn events(&self) -> impl Iterator<Item = (Offset, Event<'_>)> {
        let body = Body::checked_before(&self.batch[HEADER_BYTES..], self.header.count).ok();
        (0..self.header.count).filter(|index| self.has(*index)).filter_map(move |index| {
            let offset = self.header.base_offset.plus(u64::from(index));
            Some((offset, body?.event(index)?))
        })
    }

    /// All events are done with.
    pub fn ack(self) {
        self.shared.settle(self.life, &self.token, None, WireVerdict::Done);
    }

    /// All events are to be delivered again.
    pub fn retry(self) {
        self.shared.settle(self.life, &self.token, None, WireVerdict::Retry);
    }

    /// No event of it will ever be processed: they go to the group's dead letters, and are not delivered again.
    pub fn reject(self) {
        self.shared.settle(self.life, &self.token, None, WireVerdict::Reject);
    }

    /// Settles one event of the delivery, by its offset; the others stay open.
    ///
    /// # Panics
    /// The event is not of this delivery.
    pub fn settle(&self, offset: Offset, verdict: Verdict) {
        let index = offset.0.checked_sub(self.header.base_offset.0);
        let index = index.and_then(|index| u32::try_from(index).ok());
        let index = index.filter(|index| *index < self.header.count && self.has(*index));
        let index = index.expect("the offset is one that events() gave") as usize;
        let mut bitmap = vec![0; self.header.count.div_ceil(8) as usize];
        bitmap[index / 8] = 1 << (index % 8);
        self.shared.settle(self.life, &self.token, Some(&bitmap), verdict.on_the_wire());
    }

    fn has(&self, index: u32) -> bool {
        self.bitmap.as_ref().is_none_or(|bitmap| {
            bitmap.get(index as usize / 8).is_some_and(|byte| byte & (1 << (index % 8)) != 0)
        })
    }
}

/// A subscription that stands. Dropped, it leaves its group.
#[derive(Debug)]
pub struct Subscription {
    pub(crate) client: Client,
    pub(crate) number: u64,
    pub(crate) heard: mpsc::UnboundedReceiver<Result<Received, SubscribeError>>,
}

/// What a subscription hears.
#[derive(Debug)]
#[non_exhaustive]
pub enum Received {
    /// Events.
    Delivery(Box<Delivery>),
    /// All that had been acknowledged when the subscription was answered has been delivered, to this member or to
    /// others of its group. Said again after a reconnect.
    CaughtUp,
    /// Events that the subscription wanted are gone before it came to them: retention took them, or a deletion, or damage
    /// to a disk. Each member of a group is told, before what stands behind them.
    Gap {
        /// How many, or at least so many as were counted; `None` if nobody knows.
        events: Option<u64>,
    },
}

impl Subscription {
    /// The next delivery; `None` when the client has been closed. A lost connection is made again without a word.
    ///
    /// # Errors
    /// The subscription has ended: refused after a reconnect, or the connection could not be made again.
    pub async fn next(&mut self) -> Result<Option<Delivery>, SubscribeError> {
        loop {
            match self.receive().await? {
                Some(Received::Delivery(delivery)) => return Ok(Some(*delivery)),
                Some(Received::CaughtUp | Received::Gap { .. }) => {}
                None => return Ok(None),
            }
        }
    }

    /// The next delivery, or the news that all that was there at the start has been delivered or that events are gone;
    /// `None` when the client has been closed.
    ///
    /// # Errors
    /// As for [`Subscription::next`].
    pub async fn receive(&mut self) -> Result<Option<Received>, SubscribeError> {
        self.heard.recv().await.transpose()
    }

    /// What is already there.
    ///
    /// # Errors
    /// As for [`Subscription::next`].
    pub fn try_receive(&mut self) -> Result<Option<Received>, SubscribeError> {
        self.heard.try_recv().ok().transpose()
    }

    /// Changes how many events may be delivered and not settled; 0 pauses.
    pub fn set_credit(&self, events: u32) {
        let mut state = self.client.shared().state();
        if let Some(subscribed) = state.subscriptions.get_mut(&self.number) {
            subscribed.options.credit = events;
            let command = Command::Credit { subscription: self.number, events };
            state.commands.push(command);
        }
        drop(state);
        self.client.shared().wake.notify_one();
    }

    /// Leaves the group and waits until the server has seen it.
    ///
    /// # Errors
    /// The server refuses, does not answer, or is gone.
    pub async fn unsubscribe(self) -> Result<(), SubscribeError> {
        self.stop(false).await
    }

    /// Ends the subscription itself, for all its members: its place is forgotten, and who subscribes again begins anew.
    /// The others hear `subscription_ended`.
    ///
    /// # Errors
    /// As for [`Subscription::unsubscribe`]. This client is no member any more in any case; whether the subscription
    /// stands is known only if the server refused.
    pub async fn end(self) -> Result<(), SubscribeError> {
        let (shared, subscription) = (self.client.shared().clone(), self.number);
        let result = self.stop(true).await;
        if result.is_err() {
            let mut state = shared.state();
            state.subscriptions.remove(&subscription);
            state.commands.push(Command::Unsubscribe { subscription, end: false });
            drop(state);
            shared.wake.notify_one();
        }
        result
    }

    async fn stop(self, end: bool) -> Result<(), SubscribeError> {
        let (sender, receiver) = oneshot::channel();
        let shared = self.client.shared().clone();
        {
            let mut state = shared.state();
            let Some(subscribed) = state.subscriptions.get_mut(&self.number) else {
                return Err(SubscribeError::Closed);
            };
            subscribed.ending = Some(sender);
            subscribed.ends_for_all = end;
            let subscription = self.number;
            state.commands.push(Command::Unsubscribe { subscription, end });
        }
        shared.wake.notify_one();
        let answer = tokio::time::timeout(shared.options.request_timeout, receiver).await;
        answer.map_err(|_| SubscribeError::TimedOut)?.map_err(|_| SubscribeError::Closed)?
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let shared = self.client.shared();
        let mut state = shared.state();
        let subscription = self.number;
        if state.subscriptions.get(&subscription).is_some_and(|known| known.ending.is_none()) {
            state.subscriptions.remove(&subscription);
            state.commands.push(Command::Unsubscribe { subscription, end: false });
            drop(state);
            shared.wake.notify_one();
        }
    }
}
