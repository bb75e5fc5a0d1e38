//! The publishes of one connection that have no answer yet.
//!
//! The shard answers by a number; a client's own numbers may be anything, also twice the same. So the shard is given
//! the place in this table instead, and the client's number and topic are found there when the answer comes.

use codec::ids::TopicId;

/// Set in the shard's number of every publish, so that it is told from a subscription's number.
const PUBLISH_BIT: u64 = 1 << 63;

/// A publish as its client named it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unanswered {
    /// The request of the publish frame.
    pub(super) request: u64,
    /// The topic's number in it.
    pub(super) topic: TopicId,
}

/// All publishes without an answer. Holds no memory when there are none.
#[derive(Debug, Default)]
pub(super) struct Window {
    places: Vec<Option<Unanswered>>,
    free: Vec<u32>,
}

impl Window {
    /// Whether the shard's number is that of a publish.
    pub(super) fn is_publish(number: u64) -> bool {
        number & PUBLISH_BIT != 0
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Takes a place. Returns the number that the shard is given.
    pub(super) fn opened(&mut self, publish: Unanswered) -> u64 {
        let place = match self.free.pop() {
            Some(place) => {
                self.places[place as usize] = Some(publish);
                place
            }
            None => {
                self.places.push(Some(publish));
                self.places.len() as u32 - 1
            }
        };
        u64::from(place) | PUBLISH_BIT
    }

    /// The answer to `number` has come, or it was not sent at all.
    pub(super) fn answered(&mut self, number: u64) -> Unanswered {
        assert!(Self::is_publish(number), "subscriptions are not in the window");
        let place = (number & !PUBLISH_BIT) as usize;
        let publish = self.places[place].take().expect("the shard answers each publish once");
        self.free.push(place as u32);
        publish
    }

    /// Gives memory back when nothing waits.
    pub(super) fn trim(&mut self) {
        if self.len() == 0 {
            *self = Window::default();
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.places.capacity() * size_of::<Option<Unanswered>>() + self.free.capacity() * 4
    }
}
