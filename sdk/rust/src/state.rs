//! What the handles of a client share with the task of its connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use codec::frame::{FEATURE_REJECT, Settlement, Welcome, WireVerdict};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::delivery::Received;
use crate::error::{PublishError, SubscribeError};
use crate::options::{ClientOptions, SubscribeOptions};
use crate::publishing::Publishing;

/// What a subscription hears.
pub(crate) type DeliverySender = mpsc::UnboundedSender<Result<Received, SubscribeError>>;

/// Answers a subscribe or an unsubscribe.
pub(crate) type Answer = oneshot::Sender<Result<(), SubscribeError>>;

/// One subscription of the client.
#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) options: SubscribeOptions,
    pub(crate) deliveries: DeliverySender,
    /// Who waits for the first answer.
    pub(crate) answer: Option<Answer>,
    /// Whether the server has ever answered it: then it is subscribed again without its start.
    pub(crate) stands: bool,
    /// Who waits for its end.
    pub(crate) ending: Option<Answer>,
    /// Whether that is the end for all members, not for this one alone.
    pub(crate) ends_for_all: bool,
}

/// Something to be sent that is no batch.
#[derive(Debug)]
pub(crate) enum Command {
    Subscribe(u64),
    Unsubscribe { subscription: u64, end: bool },
    Credit { subscription: u64, events: u32 },
}

/// How far the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    /// What is under way is finished, then the connection ends.
    Closing,
    /// Nothing works any more; why.
    Ended(PublishError),
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) phase: Phase,
    pub(crate) publishing: Publishing,
    pub(crate) subscriptions: HashMap<u64, Subscribed>,
    pub(crate) commands: Vec<Command>,
    /// Encoded settlements of this connection's deliveries.
    pub(crate) settlements: Vec<u8>,
    next_subscription: u64,
}

/// Shared by all handles and the task.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: ClientOptions,
    /// What the server said at the first connection.
    pub(crate) welcome: Welcome,
    state: Mutex<State>,
    /// Something for the task to do.
    pub(crate) wake: Notify,
    /// Room in the buffer, or the end.
    pub(crate) room: Notify,
    /// Which connection this is; settles of an earlier one's deliveries are void.
    pub(crate) life: AtomicU64,
}

impl Shared {
    pub(crate) fn new(options: ClientOptions, welcome: Welcome) -> Self {
        Shared {
            options,
            welcome,
            state: Mutex::new(State {
                phase: Phase::Running,
                publishing: Publishing::default(),
                subscriptions: HashMap::new(),
                commands: Vec::new(),
                settlements: Vec::new(),
                next_subscription: 0,
            }),
            wake: Notify::new(),
            room: Notify::new(),
            life: AtomicU64::new(1),
        }
    }

    /// Held for moments only, never across an await. A panic while it was held leaves it usable: every change is whole.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is under way any more.
    pub(crate) fn state_is_settled(&self) -> bool {
        self.state().publishing.is_empty()
    }

    /// Notes what became of a delivery; nothing if its connection is gone, since it comes again.
    pub(crate) fn settle(
        &self,
        life: u64,
        token: &Bytes,
        bitmap: Option<&[u8]>,
        verdict: WireVerdict,
    ) {
        if life != self.life.load(Ordering::Acquire) {
            return;
        }
        let verdict = match verdict {
            // A server of before knows no other way.
            WireVerdict::Reject if self.welcome.features & FEATURE_REJECT == 0 => {
                WireVerdict::Retry
            }
            verdict => verdict,
        };
        Settlement { verdict, token, bitmap }.encode_entry(&mut self.state().settlements);
        self.wake.notify_one();
    }
}

impl State {
    pub(crate) fn add_subscription(&mut self, subscribed: Subscribed) -> u64 {
        self.next_subscription += 1;
        let number = self.next_subscription;
        self.subscriptions.insert(number, subscribed);
        self.commands.push(Command::Subscribe(number));
        number
    }

    /// Whether all that waited has been told so. A client that is closed late has ended before its connection has.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
            && self.publishing.is_empty()
            && self.subscriptions.is_empty()
    }

    /// Everything that waits fails with `error`.
    pub(crate) fn end(&mut self, error: PublishError) {
        self.phase = Phase::Ended(error.clone());
        self.publishing.fail_all(&error);
        let error = match error.clone() {
            PublishError::Lost { what } => SubscribeError::Lost { what },
            PublishError::Refused(refusal) => SubscribeError::Refused(refusal),
            _ => SubscribeError::Closed,
        };
        for (_, subscribed) in self.subscriptions.drain() {
            for waiting in [subscribed.answer, subscribed.ending].into_iter().flatten() {
                let _ = waiting.send(Err(error.clone()));
            }
            if error != SubscribeError::Closed {
                let _ = subscribed.deliveries.send(Err(error.clone()));
            }
        }
    }
}
