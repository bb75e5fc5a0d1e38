//! Topics that a publish may not begin: only one that is there may be published to, and it is there if any shard knows it,
//! since each log numbers its own topics. A shard that does not know it asks the others, once for all publishes that
//! wait; these keep their order.
//!
//! What the same publisher sends to the partition meanwhile waits behind them, whatever its topic: stored first, it would make those
//! too old ("Sent again" in docs/wire-protocol.md).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use codec::header::BatchHeader;
use codec::ids::Partition;
use codec::refusal::{Code, Refusal};

use crate::mail::{Mail, RemotePublish};
use crate::shard::Shard;

/// A topic that other shards are asked about.
#[derive(Debug)]
pub(super) struct Question {
    number: u64,
    /// Shards that have not answered.
    missing: u16,
    /// In the order in which they came; some to other topics, behind one of their publisher.
    waiting: VecDeque<RemotePublish>,
}

impl Question {
    fn holds(&self, header: &BatchHeader, partition: Partition) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|it| it.header.publisher_id == header.publisher_id && it.partition == partition)
    }
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

    /// The question behind which a batch has to wait, as one of its publisher to its partition does.
    pub(super) fn before(
        &mut self,
        header: &BatchHeader,
        partition: Partition,
    ) -> Option<&mut Question> {
        if self.open.is_empty() || header.publisher_id == 0 {
            return None;
        }
        self.open.values_mut().find(|question| question.holds(header, partition))
    }
}

impl Shard {
    /// Sets a publish aside: until it is known whether its topic is there, or behind another of its publisher.
    pub(super) fn set_aside(&mut self, publish: RemotePublish) {
        if let Some(question) = self.questions.before(&publish.header, publish.partition) {
            return question.waiting.push_back(publish);
        }
        assert!(!publish.is_known, "what is known is not asked for");
        let topic = Arc::clone(publish.topic.name());
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
        let mut go_on = Vec::new();
        for mut publish in question.waiting {
            let is_asked = publish.topic.name() == topic;
            if is_asked && !is_known {
                self.end_waiting(&publish);
                let text = format!("there is no topic {topic:?}, and its policy allows no new one");
                self.refuse_publish(&publish, Refusal::new(Code::TopicNotFound, text));
                continue;
            }
            publish.is_known |= is_asked;
            go_on.push(publish);
        }
        self.publishing.go_on(go_on);
    }

    /// A publish that was set aside is appended or refused: the place of one of this shard's own sessions is free again.
    pub(super) fn end_waiting(&mut self, publish: &RemotePublish) {
        if publish.from == self.options.index {
            self.publishing.release(publish.from, publish.body_bytes() as usize);
            self.may_have_room = true;
        }
    }
}
