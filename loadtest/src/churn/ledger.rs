//! Who is owed what: each topic has one subscriber, whose events are numbered as they are sent.
//!
//! An event that is sent after its subscriber has read the answer to its subscribe is acknowledged after it, whatever the
//! network does, so it is owed. What was sent before may come or not.

/// What the subscribers of all topics have and have not got.
pub(super) struct Ledger {
    topics: Vec<Topic>,
    /// Events that are owed and have not come.
    missing: u64,
    /// Events that came more than once.
    repeated: u64,
}

#[derive(Clone, Default)]
struct Topic {
    sent: u32,
    /// The first event that is owed, once its subscriber is answered.
    owed_from: Option<u32>,
    /// A bit for each event that has come.
    came: Vec<u64>,
}

impl Ledger {
    /// Nothing sent, nobody subscribed.
    pub(super) fn new(topics: u32) -> Self {
        Ledger { topics: vec![Topic::default(); topics as usize], missing: 0, repeated: 0 }
    }

    /// One more event for a topic; returns its number there.
    pub(super) fn sent(&mut self, topic: u32) -> u32 {
        let topic = &mut self.topics[topic as usize];
        self.missing += u64::from(topic.owed_from.is_some());
        topic.sent += 1;
        topic.sent - 1
    }

    /// A topic's subscriber is answered: from here on everything is owed, also what is sent while it is away.
    pub(super) fn subscribed(&mut self, topic: u32) {
        let topic = &mut self.topics[topic as usize];
        topic.owed_from.get_or_insert(topic.sent);
    }

    /// A topic's subscriber is gone for ever: nothing is owed any more until another is answered.
    pub(super) fn left(&mut self, topic: u32) {
        let topic = &mut self.topics[topic as usize];
        let Some(from) = topic.owed_from.take() else { return };
        let missing = (from..topic.sent).filter(|number| !topic.has(*number)).count() as u64;
        assert!(missing <= self.missing, "what is owed was counted");
        self.missing -= missing;
    }

    /// An event has come to its topic's subscriber. Returns false if nobody has sent it.
    pub(super) fn delivered(&mut self, topic: u32, number: u32) -> bool {
        let Some(topic) = self.topics.get_mut(topic as usize) else { return false };
        if number >= topic.sent {
            return false;
        }
        if topic.has(number) {
            self.repeated += 1;
            return true;
        }
        let word = number as usize / 64;
        topic.came.resize(topic.came.len().max(word + 1), 0);
        topic.came[word] |= 1 << (number % 64);
        if topic.owed_from.is_some_and(|from| from <= number) {
            assert!(self.missing > 0, "what is owed was counted");
            self.missing -= 1;
        }
        true
    }

    /// Events that are owed and have not come.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// Deliveries of events that had come before.
    pub(super) fn repeated(&self) -> u64 {
        self.repeated
    }
}

impl Topic {
    fn has(&self, number: u32) -> bool {
        let word = self.came.get(number as usize / 64);
        word.is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ledger that forgives would call a server complete that loses events; one that owes too much, a good one broken.
    #[test]
    fn what_is_sent_after_the_answer_is_owed_once() {
        let mut ledger = Ledger::new(2);
        assert_eq!(ledger.sent(0), 0);
        ledger.subscribed(0);
        assert_eq!(ledger.missing(), 0);
        for number in 1..=200 {
            assert_eq!(ledger.sent(0), number);
        }
        // A second answer after a return changes nothing of what is owed.
        ledger.subscribed(0);
        assert_eq!((ledger.sent(1), ledger.missing()), (0, 200));
        for number in (0..=200).rev().filter(|number| number % 7 != 3) {
            assert!(ledger.delivered(0, number));
        }
        assert_eq!(ledger.missing(), 29);
        assert!(ledger.delivered(0, 200));
        assert_eq!((ledger.missing(), ledger.repeated()), (29, 1));
        for number in (0..=200).filter(|number| number % 7 == 3) {
            assert!(ledger.delivered(0, number));
        }
        assert_eq!(ledger.missing(), 0);
        ledger.sent(0);
        ledger.sent(0);
        assert!(ledger.delivered(0, 202));
        ledger.left(0);
        assert_eq!((ledger.missing(), ledger.sent(0)), (0, 203));
        ledger.subscribed(0);
        assert_eq!((ledger.missing(), ledger.sent(0), ledger.missing()), (0, 204, 1));
        assert!(ledger.delivered(0, 204) && ledger.delivered(0, 201));
        assert!(!ledger.delivered(0, 205) && !ledger.delivered(2, 0) && ledger.delivered(1, 0));
        assert_eq!(ledger.missing(), 0);
    }
}
