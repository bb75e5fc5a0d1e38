//! The one seam under a shard: disk, mailboxes and clock. The runtime implements it over a ring, the simulator over a
//! seed.

use codec::ids::Timestamp;
use log::disk::{Completion, Disk};

use crate::control::ControlRequest;
use crate::mail::Mail;

/// The time of one cycle. A shard never reads a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Wall time, for what is written down. May step; the shard keeps append times from falling.
    pub wall: Timestamp,
    /// Microseconds of a clock that never steps, for time-outs.
    pub mono_us: u64,
}

/// What a shard stands on.
pub trait Kernel: Disk {
    /// The next disk operation that is over, in any order.
    fn next_completion(&mut self) -> Option<Completion>;

    /// The next mail from another shard or from the control plane. From one sender they come in the order sent.
    fn receive(&mut self) -> Option<Mail>;

    /// Puts `mail` into the mailbox of `shard`.
    ///
    /// # Errors
    /// The mailbox is full; the mail comes back and the shard keeps it in its outbox.
    fn send(&mut self, shard: u16, mail: Mail) -> Result<(), Mail>;

    /// Puts a request before the control plane.
    ///
    /// # Errors
    /// The queue is full or the control plane is gone; the request comes back.
    fn send_control(&mut self, request: ControlRequest) -> Result<(), ControlRequest>;

    /// Whether the control plane takes requests.
    fn control_is_open(&self) -> bool;
}
