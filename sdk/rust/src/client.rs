//! The handle of a client.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use codec::batch::Batch;
use codec::frame::Welcome;
use codec::header::{HEADER_BYTES, HeaderSeed};
use codec::ids::Partition;
use codec::murmur2::partition_of;
use tokio::sync::{mpsc, oneshot};

use crate::connection::{self, connect};
use crate::delivery::Subscription;
use crate::error::{ConnectError, PublishError, SubscribeError};
use crate::event::Event;
use crate::options::{ClientOptions, SubscribeOptions};
use crate::publishing::{Ack, BatchAck, Waiter};
use crate::state::{Phase, Shared, Subscribed};

/// One connection to a server. Clones share it; when the last is dropped what is under way is sent and the connection
/// ends.
#[derive(Clone, Debug)]
pub struct Client {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if state.phase == Phase::Running {
            state.phase = Phase::Closing;
        }
        drop(state);
        self.shared.wake.notify_one();
    }
}

/// Resolves when an event is acknowledged.
#[derive(Debug)]
#[must_use = "an event that nobody waits for may be refused unseen"]
pub struct PublishHandle(oneshot::Receiver<Result<Ack, PublishError>>);

impl Future for PublishHandle {
    type Output = Result<Ack, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or(Err(PublishError::Closed)))
    }
}

/// Resolves when a batch is acknowledged.
#[derive(Debug)]
#[must_use = "a batch that nobody waits for may be refused unseen"]
pub struct BatchHandle(oneshot::Receiver<Result<BatchAck, PublishError>>);

impl Future for BatchHandle {
    type Output = Result<BatchAck, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.0).poll(context);
        answer.map(|answer| answer.unwrap_or(Err(PublishError::Closed)))
    }
}

impl Client {
    /// Connects, and keeps the connection up until the client is closed or dropped. The connection is a task of the
    /// tokio runtime that this is called in; when that runtime ends, so does the client ([`PublishError::Lost`]).
    ///
    /// # Errors
    /// The server cannot be reached, does not answer in time, or refuses.
    ///
    /// # Panics
    /// It is not called in a tokio runtime with I/O and time. [`crate::blocking`] needs none.
    pub async fn connect(options: ClientOptions) -> Result<Client, ConnectError> {
        let (client, connection) = Client::begin(options).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Connects. The future that comes with the client is its connection, and must be driven until it ends.
    pub(crate) async fn begin(
        options: ClientOptions,
    ) -> Result<(Client, impl Future<Output = ()> + Send + use<>), ConnectError> {
        let first = connect(&options).await?;
        let shared = Arc::new(Shared::new(options, first.welcome));
        // Before the first batch: what has no sequence cannot be told from what comes later.
        shared.state().publishing.connected(&shared.welcome);
        let connection = connection::run(connection::End(shared.clone()), first);
        Ok((Client { handle: Arc::new(Handle { shared }) }, connection))
    }

    /// What the server said of itself and its limits.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        &self.shared().welcome
    }

    /// Puts an event into the batch of its topic and key. Waits while the buffer is full; what it returns resolves when
    /// the event is acknowledged.
    ///
    /// # Errors
    /// The event is over a limit, or the client has ended.
    pub async fn publish(&self, topic: &str, event: &Event) -> Result<PublishHandle, PublishError> {
        let shared = self.shared();
        let partition = event.partition_key().map_or(Partition::ANY, |key| {
            partition_of(key.as_bytes(), shared.welcome.partitions.max(1))
        });
        let (sender, receiver) = oneshot::channel();
        let limits = (
            shared.options.batch_events.clamp(1, shared.welcome.batch_events_max.max(1)),
            shared.options.batch_bytes.min(shared.welcome.batch_bytes_max as usize),
        );
        self.wait_for_room().await?;
        let mut state = shared.state();
        let topic = state.publishing.number(topic, shared.welcome.topics_max);
        state.publishing.push(topic, partition, event, sender, limits)?;
        drop(state);
        shared.wake.notify_one();
        Ok(PublishHandle(receiver))
    }

    /// Sends a batch that its publisher has made ([`crate::batch`]), to the partition that stands in its header. Its topic number is set here, and publisher id and sequence if it has none. Waits while the buffer is
    /// full.
    ///
    /// # Errors
    /// The bytes are not a batch, or the client has ended.
    pub async fn publish_batch(
        &self,
        topic: &str,
        mut batch: Vec<u8>,
    ) -> Result<BatchHandle, PublishError> {
        let shared = self.shared();
        let parsed = Batch::parse(&batch, HeaderSeed::WIRE).map_err(PublishError::Batch)?;
        let (mut header, len) = (parsed.header, parsed.header.batch_len());
        batch.truncate(len);
        self.wait_for_room().await?;
        let (sender, receiver) = oneshot::channel();
        let mut state = shared.state();
        let (topic, number) = state.publishing.number(topic, shared.welcome.topics_max);
        header.topic = number;
        batch[..HEADER_BYTES].copy_from_slice(&header.encode(HeaderSeed::WIRE));
        state.publishing.put((topic, number), batch, vec![Waiter::Batch(sender)]);
        drop(state);
        shared.wake.notify_one();
        Ok(BatchHandle(receiver))
    }

    /// Subscribes; returns when the server has answered: every event that matches and is acknowledged from then on is
    /// delivered.
    ///
    /// # Errors
    /// The server refuses, does not answer in time, or is gone.
    pub async fn subscribe(
        &self,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let shared = self.shared();
        let (answer, answered) = oneshot::channel();
        let (deliveries, received) = mpsc::unbounded_channel();
        let number = {
            let mut state = shared.state();
            if state.phase != Phase::Running {
                return Err(SubscribeError::Closed);
            }
            let answer = Some(answer);
            state.add_subscription(Subscribed {
                options,
                deliveries,
                answer,
                stands: false,
                ending: None,
                ends_for_all: false,
            })
        };
        shared.wake.notify_one();
        // Made now, so that a subscribe that is given up is undone.
        let subscription = Subscription { client: self.clone(), number, heard: received };
        let answer = tokio::time::timeout(shared.options.request_timeout, answered).await;
        answer.map_err(|_| SubscribeError::TimedOut)?.map_err(|_| SubscribeError::Closed)??;
        Ok(subscription)
    }

    /// Waits until everything published so far is acknowledged or refused.
    ///
    /// # Errors
    /// The client has ended.
    pub async fn flush(&self) -> Result<(), PublishError> {
        let shared = self.shared();
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let mut state = shared.state();
                if let Phase::Ended(error) = &state.phase {
                    return Err(error.clone());
                }
                state.publishing.seal_due(|_| true);
                if state.publishing.is_empty() {
                    return Ok(());
                }
            }
            shared.wake.notify_one();
            room.await;
        }
    }

    /// Finishes what is under way, says goodbye and ends the connection; gives up after `limit`.
    pub async fn close(self, limit: Duration) {
        let shared = self.shared().clone();
        {
            let mut state = shared.state();
            if state.phase == Phase::Running {
                state.phase = Phase::Closing;
            }
        }
        shared.wake.notify_one();
        let ended = async {
            loop {
                let room = shared.room.notified();
                tokio::pin!(room);
                room.as_mut().enable();
                if matches!(shared.state().phase, Phase::Ended(_)) {
                    return;
                }
                room.await;
            }
        };
        if tokio::time::timeout(limit, ended).await.is_err() {
            shared.state().phase = Phase::Ended(PublishError::Closed);
            shared.wake.notify_one();
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handle.shared
    }

    async fn wait_for_room(&self) -> Result<(), PublishError> {
        let shared = self.shared();
        loop {
            let room = shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = shared.state();
                match &state.phase {
                    Phase::Running if state.publishing.bytes() < shared.options.buffer_bytes => {
                        return Ok(());
                    }
                    Phase::Running => {}
                    Phase::Closing => return Err(PublishError::Closed),
                    Phase::Ended(error) => return Err(error.clone()),
                }
            }
            room.await;
        }
    }
}
