//! Topics that a publish may not begin: only one that is there may be published to, and it is there if any shard knows it,
//! since each log numbers its own topics. A shard that does not know it asks the others, once for all publishes that
//! wait; these keep their order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use codec::refusal::{Code, Refusal};

use crate::mail::{Mail, RemotePublish};
use crate::shard::Shard;

/// A topic that other shards are asked about.
#[derive(Debug)]
struct Question {
    number: u64,
    /// Shards that have not answered.
    missing: u16,
    /// In the order in which they came.
    waiting: VecDeque<RemotePublish>,
}

/// All topics that other shards are asked about. Bounded as publishes are: each that waits has its place reserved, on the
/// shard that it came from.
#[derive(Debug, Default)]
pub struct Questions {
    open: BTreeMap<Arc<str>, Question>,
    asked: u64,
}

impl Questions {
    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

impl Shard {
    /// Sets a publish aside until it is known whether its topic is there.
    pub(super) fn ask_for_topic(&mut self, publish: RemotePublish) {
        assert!(!publish.is_known, "what is known is not asked for");
        let topic = Arc::clone(&publish.topic);
        if let Some(question) = self.questions.open.get_mut(&topic) {
            question.waiting.push_back(publish);
            return;
        }
        self.questions.asked += 1;
        let (from, number) = (self.options.index, self.questions.asked);
        let others = self.options.shards - 1;
        let question = Question { number, missing: others, waiting: VecDeque::from([publish]) };
        if others == 0 {
            return self.answer_question(&topic, question, false);
        }
        self.questions.open.insert(Arc::clone(&topic), question);
        for shard in (0..self.options.shards).filter(|shard| *shard != from) {
            let topic = Arc::clone(&topic);
            self.outbox.push(shard, Mail::TopicAsked { from, number, topic });
        }
    }

    pub(super) fn on_topic_asked(&mut self, from: u16, number: u64, topic: Arc<str>) {
        assert!(from != self.options.index, "a shard knows what it knows itself");
        let is_known = self.active().topic_id(&topic).is_some();
        self.outbox.push(from, Mail::TopicTold { number, topic, is_known });
    }

    pub(super) fn on_topic_told(&mut self, number: u64, topic: &Arc<str>, is_known: bool) {
        let Some(question) = self.questions.open.get_mut(topic) else { return };
        if question.number != number {
            return;
        }
        assert!(question.missing > 0, "each shard answers once");
        question.missing -= 1;
        if (is_known || question.missing == 0)
            && let Some(question) = self.questions.open.remove(topic)
        {
            self.answer_question(topic, question, is_known);
        }
    }

    fn answer_question(&mut self, topic: &Arc<str>, question: Question, is_known: bool) {
        for mut publish in question.waiting {
            if publish.from == self.options.index {
                let bytes = publish.body_bytes() as usize;
                self.publishing.release(publish.from, bytes);
                self.may_have_room = true;
            }
            if is_known {
                publish.is_known = true;
                self.publishing.arrived_now(publish);
            } else {
                let text = format!("there is no topic {topic:?}, and its policy allows no new one");
                self.refuse_publish(&publish, Refusal::new(Code::TopicNotFound, text));
            }
        }
    }
}
