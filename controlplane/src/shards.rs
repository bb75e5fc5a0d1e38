//! The way from the control plane down to the shards.

use dataplane::control::ControlReply;

/// All shards of the node, as the control plane sees them.
pub trait Shards: Send + 'static {
    /// How many there are; they are numbered from 0.
    fn count(&self) -> u16;

    /// Puts `reply` into the mailbox of `shard` and wakes it. Never blocks. From one caller they arrive in order.
    ///
    /// # Errors
    /// The mailbox is full, or the shard has ended; the reply comes back.
    fn reply(&self, shard: u16, reply: ControlReply) -> Result<(), ControlReply>;
}

/// One function a shard, in order: what the runtime's handles come to.
impl<F> Shards for Vec<F>
where
    F: Fn(ControlReply) -> Result<(), ControlReply> + Send + 'static,
{
    fn count(&self) -> u16 {
        self.len() as u16
    }

    fn reply(&self, shard: u16, reply: ControlReply) -> Result<(), ControlReply> {
        self[usize::from(shard)](reply)
    }
}
