//! One publisher's window: which batch was meant to be sent when.

use super::driver::Outgoing;

/// The window of a publisher. A batch's slot travels with it, so that an ack finds it without a search.
pub(crate) struct Publisher {
    /// Intended send time of each batch in flight, in ns since the run began.
    slots: Vec<Option<u64>>,
    free: Vec<u32>,
    /// Batches so far; chooses data and topic.
    next: u64,
}

impl Publisher {
    /// A publisher with at most `window` batches without an answer, whose first batch is number `first`.
    pub(crate) fn new(window: u32, first: u64) -> Self {
        assert!(window > 0, "the arguments are checked");
        Publisher {
            slots: vec![None; window as usize],
            free: (0..window).rev().collect(),
            next: first,
        }
    }

    /// Whether one more batch may be sent.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// The next batch, which was meant to be sent at `intended_ns`.
    pub(crate) fn next(&mut self, intended_ns: u64) -> Outgoing {
        let slot = self.free.pop().expect("callers ask for room");
        self.slots[slot as usize] = Some(intended_ns);
        let number = self.next;
        self.next += 1;
        Outgoing { slot, number, stamp_ns: intended_ns }
    }

    /// The intended send time of an answered batch; `None` when nothing is in flight under that number.
    pub(crate) fn on_answer(&mut self, slot: u32) -> Option<u64> {
        let intended_ns = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        Some(intended_ns)
    }
}
