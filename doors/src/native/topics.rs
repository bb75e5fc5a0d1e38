//! What the numbers of topics stand for on one connection: the client's in one direction, ours in the other.

use std::collections::HashMap;
use std::sync::Arc;

use codec::ids::TopicId;
use codec::refusal::{Code, Refusal};
use dataplane::session::TopicHandle;
use foldhash::fast::RandomState;
use routing::topic::{TopicError, TopicName};

/// What a name costs beyond its text: the key, the number and the table's share.
const NAME_OVERHEAD_BYTES: usize = 64;

/// The topics that the client has announced.
#[derive(Debug, Default)]
pub(super) struct ClientTopics {
    /// Of the numbers from 1 on, as long as none is left out: what most clients give.
    dense: Vec<Option<TopicHandle>>,
    /// Of all other numbers.
    sparse: HashMap<u32, TopicHandle, RandomState>,
    text_bytes: usize,
}

impl ClientTopics {
    /// The client announces a topic. On a refusal the number stands for nothing.
    pub(super) fn announced(
        &mut self,
        id: TopicId,
        name: &str,
        topics_max: u32,
    ) -> Result<(), Refusal> {
        if id.0 > topics_max {
            return Err(Refusal::limit("topic number", u64::from(topics_max), u64::from(id.0)));
        }
        if let Some(old) = self.remove(id) {
            self.text_bytes -= old.name().len();
        }
        let name = TopicName::new(name).map_err(|error| topic_refusal(&error))?;
        if name.is_reserved() {
            let text = format!("topic {:?} starts with '$'", name.as_str());
            return Err(Refusal::new(Code::ReservedTopic, text));
        }
        self.text_bytes += name.as_str().len();
        self.insert(id, name.text().clone().into());
        Ok(())
    }

    /// What a number stands for.
    pub(super) fn get(&self, id: TopicId) -> Option<&TopicHandle> {
        match self.dense.get((id.0 as usize).wrapping_sub(1)) {
            Some(topic) => topic.as_ref(),
            None => self.sparse.get(&id.0),
        }
    }

    fn remove(&mut self, id: TopicId) -> Option<TopicHandle> {
        match self.dense.get_mut((id.0 as usize).wrapping_sub(1)) {
            Some(topic) => topic.take(),
            None => self.sparse.remove(&id.0),
        }
    }

    fn insert(&mut self, id: TopicId, topic: TopicHandle) {
        let at = (id.0 as usize).wrapping_sub(1);
        if let Some(place) = self.dense.get_mut(at) {
            *place = Some(topic);
        } else if at == self.dense.len() {
            self.dense.push(Some(topic));
            // What came before its turn is looked for among the others as long as it is not in the list.
            while let Some(next) = self.sparse.remove(&(self.dense.len() as u32 + 1)) {
                self.dense.push(Some(next));
            }
        } else {
            self.sparse.insert(id.0, topic);
        }
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.dense.capacity() * size_of::<Option<TopicHandle>>()
            + self.sparse.capacity() * NAME_OVERHEAD_BYTES
            + self.text_bytes
    }
}

/// The topics that this server has announced to the client. When all numbers are given, the oldest is given again.
#[derive(Debug, Default)]
pub(super) struct ServerTopics {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
    /// Index in `names` of the number that is given again next, once all are given.
    oldest: usize,
}

impl ServerTopics {
    /// The number of `name`, and whether it must be announced first.
    pub(super) fn number(&mut self, name: &Arc<str>, topics_max: u32) -> (TopicId, bool) {
        if let Some(number) = self.numbers.get(name) {
            return (TopicId(*number), false);
        }
        let index = if self.names.len() < topics_max as usize {
            self.names.push(name.clone());
            self.names.len() - 1
        } else {
            let index = self.oldest;
            self.oldest = (index + 1) % self.names.len();
            let old = std::mem::replace(&mut self.names[index], name.clone());
            self.numbers.remove(&old);
            index
        };
        let number = index as u32 + 1;
        self.numbers.insert(name.clone(), number);
        assert!(self.numbers.len() == self.names.len(), "each number stands for one name");
        (TopicId(number), true)
    }

    /// Bytes held; the names themselves are shared with the shard.
    pub(super) fn memory_bytes(&self) -> usize {
        self.numbers.capacity() * NAME_OVERHEAD_BYTES + self.names.capacity() * 16
    }
}

/// Limits are refused as limits, everything else as a malformed topic.
fn topic_refusal(error: &TopicError) -> Refusal {
    let code = match error {
        TopicError::TooLong { .. } | TopicError::TooManyLevels { .. } => Code::LimitExceeded,
        _ => Code::MalformedTopic,
    };
    Refusal::new(code, error.to_string())
}

/// The refusal of a malformed filter.
pub(super) fn filter_refusal(error: &TopicError) -> Refusal {
    let code = match error {
        TopicError::TooLong { .. } | TopicError::TooManyLevels { .. } => Code::LimitExceeded,
        _ => Code::MalformedFilter,
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that reads more topics than there are numbers: a number given again must be announced again, or
    /// deliveries would bear another topic's name.
    #[test]
    fn numbers_are_given_again_with_an_announcement() {
        let mut topics = ServerTopics::default();
        let mut known: HashMap<u32, String> = HashMap::new();
        for round in 0..50_u32 {
            let name: Arc<str> = format!("t/{}", round * 7 % 10).into();
            let (id, announce) = topics.number(&name, 4);
            assert!((1..=4).contains(&id.0));
            if announce {
                known.insert(id.0, name.to_string());
            }
            assert_eq!(known.get(&id.0).map(String::as_str), Some(&*name));
        }
    }

    /// Numbers in any order, again and again: each stands for what it was last announced as.
    #[test]
    fn numbers_come_in_any_order() {
        let mut topics = ClientTopics::default();
        let mut known: HashMap<u32, String> = HashMap::new();
        for round in 0..200_u32 {
            let number = 1 + round * 7 % 31;
            let name = format!("t/{round}");
            if round % 5 == 4 {
                topics.announced(TopicId(number), "a//b", 40).unwrap_err();
                known.remove(&number);
            } else {
                topics.announced(TopicId(number), &name, 40).unwrap();
                known.insert(number, name);
            }
            for number in 0..40 {
                let name = topics.get(TopicId(number)).map(|topic| topic.name().to_string());
                assert_eq!(name.as_ref(), known.get(&number), "{number} in round {round}");
            }
            let bytes: usize = known.values().map(String::len).sum();
            assert_eq!(topics.text_bytes, bytes);
        }
        assert!(topics.sparse.is_empty(), "all numbers but 0 were announced");
    }

    /// A refused name must not leave the number standing for the topic before it: events would go to the wrong one.
    #[test]
    fn a_refused_name_clears_its_number() {
        let mut topics = ClientTopics::default();
        topics.announced(TopicId(1), "a/b", 2).unwrap();
        let cases = [
            ("a//b", Code::MalformedTopic),
            ("a/#", Code::MalformedTopic),
            ("$sys/a", Code::ReservedTopic),
            (&"a/".repeat(40), Code::LimitExceeded),
        ];
        for (name, code) in cases {
            topics.announced(TopicId(1), "a/b", 2).unwrap();
            assert_eq!(topics.announced(TopicId(1), name, 2).unwrap_err().code, code, "{name}");
            assert!(topics.get(TopicId(1)).is_none());
        }
        let refusal = topics.announced(TopicId(3), "a", 2).unwrap_err();
        assert_eq!(&*refusal.text, "topic number is 3, at most 2 is allowed");
    }
}
