//! What the numbers of topics stand for on one connection: the client's in one direction, ours in the other.

use std::collections::HashMap;
use std::sync::Arc;

use codec::ids::TopicId;
use codec::refusal::{Code, Refusal};
use foldhash::fast::RandomState;
use routing::topic::{TopicError, TopicName};

/// What a name costs beyond its text: the key, the number and the table's share.
const NAME_OVERHEAD_BYTES: usize = 64;

/// The topics that the client has announced.
#[derive(Debug, Default)]
pub(super) struct ClientTopics {
    names: HashMap<u32, Arc<str>, RandomState>,
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
        if let Some(old) = self.names.remove(&id.0) {
            self.text_bytes -= old.len();
        }
        let name = TopicName::new(name).map_err(|error| topic_refusal(&error))?;
        if name.is_reserved() {
            let text = format!("topic {:?} starts with '$'", name.as_str());
            return Err(Refusal::new(Code::ReservedTopic, text));
        }
        self.text_bytes += name.as_str().len();
        self.names.insert(id.0, name.text().clone());
        Ok(())
    }

    /// The name that a number stands for.
    pub(super) fn name(&self, id: TopicId) -> Option<&Arc<str>> {
        self.names.get(&id.0)
    }

    /// Bytes held.
    pub(super) fn memory_bytes(&self) -> usize {
        self.names.capacity() * NAME_OVERHEAD_BYTES + self.text_bytes
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
            assert_eq!(topics.name(TopicId(1)), None);
        }
        let refusal = topics.announced(TopicId(3), "a", 2).unwrap_err();
        assert_eq!(&*refusal.text, "topic number is 3, at most 2 is allowed");
    }
}
