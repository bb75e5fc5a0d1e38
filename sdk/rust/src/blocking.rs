//! The client for programs without a runtime of their own.
//!
//! Everything is called as in the asynchronous client, whose types these are wrapped around, and waits in place. Each
//! connection has one thread, which drives it; callers wait on their own threads.
//!
//! It may be used within a tokio runtime: nothing panics there, but a call that waits holds up the thread that it is
//! made on, and with it every task of that thread. Prefer [`crate::Client`] there.
//!
//! Dropping never waits. When the last handle of a connection is dropped, what is under way is still sent by the
//! connection's thread, but a program that ends takes that thread with it: call [`Client::flush`] or
//! [`Client::close`] before the end of `main`.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use ringmesh_client::blocking::Client;
//! use ringmesh_client::{ClientOptions, Event, SubscribeOptions};
//!
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientOptions::new("127.0.0.1:10300"))?;
//! let mut fleet = client.subscribe(SubscribeOptions::new("fleet/#").group("billing"))?;
//!
//! let event = Event::json(r#"{"speed": 42}"#).source("vin-7").kind("telemetry").key("vin-7");
//! let ack = client.publish("fleet/vin-7/telemetry", &event)?.wait()?;
//! println!("partition {} offset {}", ack.partition, ack.offset);
//!
//! while let Some(delivery) = fleet.next(Duration::from_secs(1))? {
//!     println!("{} events", delivery.count());
//!     delivery.ack();
//! }
//! client.close(Duration::from_secs(5));
//! # Ok(()) }
//! ```

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use codec::frame::Welcome;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::delivery::{Delivery, Received};
use crate::error::{ConnectError, PublishError, SubscribeError};
use crate::event::Event;
use crate::options::{ClientOptions, SubscribeOptions};
use crate::publishing::{Ack, BatchAck};

/// One connection to a server: [`crate::Client`], with calls that wait. Clones share it, on any threads.
#[derive(Clone, Debug)]
pub struct Client {
    inner: crate::Client,
    driver: Arc<Driver>,
}

/// An event that is not acknowledged yet.
#[derive(Debug)]
#[must_use = "an event that nobody waits for may be refused unseen"]
pub struct PublishHandle(crate::PublishHandle);

/// A batch that is not acknowledged yet.
#[derive(Debug)]
#[must_use = "a batch that nobody waits for may be refused unseen"]
pub struct BatchHandle(crate::BatchHandle);

/// A subscription that stands. Dropped, it leaves its group.
#[derive(Debug)]
pub struct Subscription {
    inner: crate::Subscription,
    driver: Arc<Driver>,
}

impl Client {
    /// Connects, and keeps the connection up until the client is closed or dropped.
    ///
    /// # Errors
    /// The server cannot be reached, does not answer in time, or refuses; or there is no thread to be had.
    pub fn connect(options: ClientOptions) -> Result<Client, ConnectError> {
        let (sender, ready) = mpsc::sync_channel(1);
        let (is_used, unused) = oneshot::channel();
        let started = thread::Builder::new()
            .name("ringmesh-client".to_owned())
            .spawn(move || drive(options, &sender, unused));
        started.map_err(|source| ConnectError::Thread { source })?;
        let gone = |_| ConnectError::Thread { source: io::Error::other("it ended at once") };
        let (inner, handle) = ready.recv().map_err(gone)??;
        Ok(Client { inner, driver: Arc::new(Driver { handle, _is_used: is_used }) })
    }

    /// What the server said of itself and its limits.
    #[must_use]
    pub fn welcome(&self) -> &Welcome {
        self.inner.welcome()
    }

    /// Puts an event into the batch of its topic and key, as [`crate::Client::publish`]. Waits while the buffer is full.
    ///
    /// # Errors
    /// The event is over a limit, or the client has ended.
    pub fn publish(&self, topic: &str, event: &Event) -> Result<PublishHandle, PublishError> {
        self.driver.wait(self.inner.publish(topic, event)).map(PublishHandle)
    }

    /// Sends a batch that its publisher has made, as [`crate::Client::publish_batch`]. Waits while the buffer is full.
    ///
    /// # Errors
    /// The bytes are not a batch, or the client has ended.
    pub fn publish_batch(&self, topic: &str, batch: Vec<u8>) -> Result<BatchHandle, PublishError> {
        self.driver.wait(self.inner.publish_batch(topic, batch)).map(BatchHandle)
    }

    /// Subscribes; returns when the server has answered: every event that matches and is acknowledged from then on is
    /// delivered.
    ///
    /// # Errors
    /// The server refuses, does not answer in time, or is gone.
    pub fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription, SubscribeError> {
        let inner = self.driver.wait(self.inner.subscribe(options))?;
        Ok(Subscription { inner, driver: Arc::clone(&self.driver) })
    }

    /// Waits until everything published so far is acknowledged or refused.
    ///
    /// # Errors
    /// The client has ended.
    pub fn flush(&self) -> Result<(), PublishError> {
        self.driver.wait(self.inner.flush())
    }

    /// Finishes what is under way, says goodbye and ends the connection; gives up after `limit`.
    pub fn close(self, limit: Duration) {
        self.driver.wait(self.inner.close(limit));
    }
}

impl PublishHandle {
    /// Waits until the event is acknowledged.
    ///
    /// # Errors
    /// It is refused, or it is not known what became of it.
    pub fn wait(self) -> Result<Ack, PublishError> {
        park_on(self.0)
    }

    /// The same for at most `limit`; `None` when there is no answer yet.
    ///
    /// # Panics
    /// It has given the answer before.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<Result<Ack, PublishError>> {
        park_on_until(&mut self.0, Instant::now().checked_add(limit))
    }
}

impl BatchHandle {
    /// Waits until the batch is acknowledged.
    ///
    /// # Errors
    /// It is refused, or it is not known what became of it.
    pub fn wait(self) -> Result<BatchAck, PublishError> {
        park_on(self.0)
    }

    /// The same for at most `limit`; `None` when there is no answer yet.
    ///
    /// # Panics
    /// It has given the answer before.
    pub fn wait_timeout(&mut self, limit: Duration) -> Option<Result<BatchAck, PublishError>> {
        park_on_until(&mut self.0, Instant::now().checked_add(limit))
    }
}

impl Subscription {
    /// The next delivery; `None` when none comes within `limit`. A lost connection is made again without a word.
    ///
    /// # Errors
    /// The subscription has ended: refused after a reconnect, the connection could not be made again, or the client has
    /// been closed ([`SubscribeError::Closed`]).
    pub fn next(&mut self, limit: Duration) -> Result<Option<Delivery>, SubscribeError> {
        told(self.driver.wait_until(self.inner.next(), Instant::now().checked_add(limit)))
    }

    /// The next delivery, or the news that all that was there at the start has been delivered; `None` when nothing comes
    /// within `limit`.
    ///
    /// # Errors
    /// As for [`Subscription::next`].
    pub fn receive(&mut self, limit: Duration) -> Result<Option<Received>, SubscribeError> {
        told(self.driver.wait_until(self.inner.receive(), Instant::now().checked_add(limit)))
    }

    /// What is already there.
    ///
    /// # Errors
    /// As for [`Subscription::next`].
    pub fn try_receive(&mut self) -> Result<Option<Received>, SubscribeError> {
        self.receive(Duration::ZERO)
    }

    /// All deliveries, each as soon as it comes. Ends when the client is closed, and after an error.
    pub fn deliveries(&mut self) -> impl Iterator<Item = Result<Delivery, SubscribeError>> {
        let mut is_over = false;
        std::iter::from_fn(move || {
            if is_over {
                return None;
            }
            let next = self.driver.wait(self.inner.next()).transpose();
            is_over = !matches!(next, Some(Ok(_)));
            next
        })
    }

    /// Changes how many events may be delivered and not settled; 0 pauses.
    pub fn set_credit(&self, events: u32) {
        self.inner.set_credit(events);
    }

    /// Leaves the group and waits until the server has seen it.
    ///
    /// # Errors
    /// The server refuses, does not answer, or is gone.
    pub fn unsubscribe(self) -> Result<(), SubscribeError> {
        self.driver.wait(self.inner.unsubscribe())
    }

    /// Ends the subscription itself, for all its members, as [`crate::Subscription::end`].
    ///
    /// # Errors
    /// As for [`Subscription::unsubscribe`].
    pub fn end(self) -> Result<(), SubscribeError> {
        self.driver.wait(self.inner.end())
    }
}

/// What came in time, where the asynchronous client tells of the end of its client by "nothing".
fn told<T>(
    received: Option<Result<Option<T>, SubscribeError>>,
) -> Result<Option<T>, SubscribeError> {
    match received {
        None => Ok(None),
        Some(Ok(None)) => Err(SubscribeError::Closed),
        Some(received) => received,
    }
}

/// The thread of a connection. It stays until the connection has ended and nobody needs its timers any more.
#[derive(Debug)]
struct Driver {
    handle: Handle,
    /// Tells the thread by being dropped.
    _is_used: oneshot::Sender<()>,
}

/// Connects, says so, and drives the connection to its end.
fn drive(
    options: ClientOptions,
    ready: &SyncSender<Result<(crate::Client, Handle), ConnectError>>,
    unused: oneshot::Receiver<()>,
) {
    // Who connects waits for this; if it is gone, so is the client in the answer, and the connection ends.
    let answer = |answer| drop(ready.send(answer));
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(source) => return answer(Err(ConnectError::Thread { source })),
    };
    runtime.block_on(async {
        match crate::Client::begin(options).await {
            Err(error) => answer(Err(error)),
            Ok((client, connection)) => {
                answer(Ok((client, Handle::current())));
                connection.await;
                // A handle that still waits for an answer has a timer here.
                let _ = unused.await;
            }
        }
    });
}

impl Driver {
    /// Waits for a future of the client, whose timers are the driver's.
    fn wait<F: Future>(&self, future: F) -> F::Output {
        let _timers = self.handle.enter();
        park_on(future)
    }

    /// The same until a moment.
    fn wait_until<F: Future>(&self, future: F, until: Option<Instant>) -> Option<F::Output> {
        let _timers = self.handle.enter();
        park_on_until(future, until)
    }
}

/// Wakes a thread that waits for a future.
struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn park_on<F: Future>(future: F) -> F::Output {
    park_on_until(future, None).expect("without a moment to end at it waits for the future")
}

/// Polls a future on this thread, which sleeps in between; `None` when `until` comes first. Unlike a runtime's
/// `block_on` it may be used within a runtime.
fn park_on_until<F: Future>(future: F, until: Option<Instant>) -> Option<F::Output> {
    let waker = Waker::from(Arc::new(Parked(thread::current())));
    // Within a task of a runtime that has used up its turn, every channel would say "later" for ever.
    let mut future = pin!(tokio::task::unconstrained(future));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return Some(output);
        }
        match until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => thread::park(),
            Some(Duration::ZERO) => return None,
            Some(left) => thread::park_timeout(left),
        }
    }
}
