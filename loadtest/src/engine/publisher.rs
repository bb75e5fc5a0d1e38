//! One publishing connection's window: which request was meant to be sent when.

use std::rc::Rc;

use codec::ids::TopicId;

use super::template::Templates;

/// The window of a publisher. A request's number is that of its slot, so that an ack finds it without a search.
pub(crate) struct Publisher {
    templates: Rc<Templates>,
    /// Topics of this connection are numbered from 1 to this.
    topics: u32,
    /// Intended send time of each batch in flight, in ns since the run began.
    slots: Vec<Option<u64>>,
    free: Vec<u32>,
    /// Batches so far; chooses template and topic.
    next: u64,
}

impl Publisher {
    /// A publisher with at most `window` batches without an answer.
    pub(crate) fn new(templates: Rc<Templates>, topics: u32, window: u32, first: u64) -> Self {
        assert!(topics > 0 && window > 0, "the arguments are checked");
        Publisher {
            templates,
            topics,
            slots: vec![None; window as usize],
            free: (0..window).rev().collect(),
            next: first,
        }
    }

    /// Whether one more batch may be sent.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// Appends the next batch, which was meant to be sent at `intended_ns`.
    pub(crate) fn publish(&mut self, intended_ns: u64, out: &mut Vec<u8>) {
        let slot = self.free.pop().expect("callers ask for room");
        let topic = TopicId(1 + (self.next % u64::from(self.topics)) as u32);
        self.templates.encode(self.next, u64::from(slot), topic, intended_ns, out);
        self.slots[slot as usize] = Some(intended_ns);
        self.next += 1;
    }

    /// The intended send time of an answered request; `None` when nothing was asked under that number.
    pub(crate) fn on_answer(&mut self, request: u64) -> Option<u64> {
        let slot = self.slots.get_mut(usize::try_from(request).ok()?)?;
        let intended_ns = slot.take()?;
        self.free.push(request as u32);
        Some(intended_ns)
    }
}
