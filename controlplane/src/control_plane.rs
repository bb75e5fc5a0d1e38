//! The control thread: what starts it, wakes it and ends it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use dataplane::control::ControlLink;
use tokio::sync::Notify;
use tokio::time::timeout_at;
use tracing::{info, warn};

use crate::catalog::{Catalog, OpenError};
use crate::limits::START_TIMEOUT;
use crate::operator::{ControlHandle, Order};
use crate::plane::Plane;
use crate::shards::Shards;

/// How far the control thread stands back for the shards, in steps of nice(2).
const NICE_STEPS: i32 = 10;

/// The receiving end of the shards' link. Made first, because the shards need the link before there are shards.
pub struct Inbox {
    link: Arc<ControlLink>,
    wake: Arc<Notify>,
}

/// How the control plane is set up.
#[derive(Clone, Debug)]
pub struct ControlOptions {
    /// The catalog's file, `catalog.redb` in the data folder. Made when it is missing.
    pub catalog: PathBuf,
}

/// The running control plane. Dropping it stops it too.
#[derive(Debug)]
pub struct ControlPlane {
    handle: ControlHandle,
    stop: Arc<AtomicBool>,
    wake: Arc<Notify>,
    thread: Option<JoinHandle<()>>,
}

/// Why the control plane did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The catalog cannot be opened.
    Catalog(OpenError),
    /// The system gave no thread or no timer.
    Thread(io::Error),
    /// Some shard did not adopt the first snapshot within [`START_TIMEOUT`].
    NotAdopted,
}

impl Inbox {
    /// An inbox and its link, on which nothing was sent yet.
    #[must_use]
    pub fn new() -> Inbox {
        let wake = Arc::new(Notify::new());
        let waker = wake.clone();
        Inbox { link: ControlLink::new(Box::new(move || waker.notify_one())), wake }
    }

    /// The end that the shards send on.
    #[must_use]
    pub fn link(&self) -> Arc<ControlLink> {
        self.link.clone()
    }
}

impl Default for Inbox {
    fn default() -> Inbox {
        Inbox::new()
    }
}

impl ControlPlane {
    /// Opens the catalog, starts the thread, and returns once every shard routes by the catalog's subscriptions. The
    /// shards must be running. On an error the link is closed.
    pub fn start<S: Shards>(
        options: &ControlOptions,
        shards: S,
        inbox: Inbox,
    ) -> Result<ControlPlane, StartError> {
        let closing = CloseOnDrop(inbox.link.clone());
        let (catalog, contents) = Catalog::open(&options.catalog).map_err(StartError::Catalog)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = sync_channel(1);
        let (handle, orders) = ControlHandle::new(inbox.wake.clone());
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn({
            let (wake, stop) = (inbox.wake.clone(), stop.clone());
            move || {
                let _closing = closing;
                // Refused only where no thread may be niced; then the control plane competes with the shards.
                if let Err(error) = rustix::process::nice(NICE_STEPS) {
                    warn!(%error, "the control thread cannot stand back for the shards");
                }
                let plane = Plane::new(shards, inbox.link, catalog, contents);
                run(plane, &orders, &wake, &stop, ready);
            }
        });
        let thread = Some(thread.map_err(StartError::Thread)?);
        let control_plane = ControlPlane { handle, stop, wake: inbox.wake, thread };
        match is_ready.recv_timeout(START_TIMEOUT) {
            Ok(Ok(())) => Ok(control_plane),
            Ok(Err(error)) => Err(StartError::Thread(error)),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                Err(StartError::NotAdopted)
            }
        }
    }

    /// The way for who looks in.
    #[must_use]
    pub fn handle(&self) -> ControlHandle {
        self.handle.clone()
    }

    /// Asks the thread to end. Shards go on; what asks for a new subscription is refused as unavailable.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Stops the thread and waits until it has ended.
    pub fn join(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the control thread panicked");
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.end();
    }
}

/// Closes the link however the thread ends: an open link that nobody reads would leave subscribers waiting.
struct CloseOnDrop(Arc<ControlLink>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The thread's whole life.
fn run<S: Shards>(
    mut plane: Plane<S>,
    orders: &Receiver<Order>,
    wake: &Notify,
    stop: &AtomicBool,
    ready: SyncSender<io::Result<()>>,
) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            // The receiver only goes away when the start timed out; then nobody wants to know.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let mut ready = Some(ready);
    runtime.block_on(async {
        while !stop.load(Ordering::Acquire) {
            orders.try_iter().for_each(|order| plane.on_order(order));
            let wakeup = plane.turn(Instant::now());
            if let Some(ready) = ready.take_if(|_| plane.is_adopted()) {
                info!("every shard routes by the catalog's subscriptions");
                let _ = ready.send(Ok(()));
            }
            match wakeup {
                None => wake.notified().await,
                Some(at) => {
                    // Over either way: a request came or it is time.
                    let _ = timeout_at(at.into(), wake.notified()).await;
                }
            }
        }
    });
    plane.close();
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Catalog(_) => f.write_str("the control plane has no catalog"),
            StartError::Thread(_) => f.write_str("the control thread cannot be started"),
            StartError::NotAdopted => write!(
                f,
                "not every shard adopted the first routing snapshot within {} s",
                START_TIMEOUT.as_secs()
            ),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Catalog(error) => Some(error),
            StartError::Thread(error) => Some(error),
            StartError::NotAdopted => None,
        }
    }
}

#[cfg(test)]
mod tests;
