//! Topics that are deleted. The order is in the catalog before any shard hears of it and leaves it when every shard holds it,
//! so that a start finishes what a kill has cut off; then it is answered.
//!
//! A log that takes nothing any more keeps the topic. Its order stays in the catalog, for that log alone: what is published
//! elsewhere until the next start must not go with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use codec::refusal::{Code, Refusal};
use dataplane::control::{ControlReply, LogName, LogsLeft, TopicOrder};
use tracing::{error, info};

use super::{Plane, chain};
use crate::catalog::BegunDeletion;
use crate::limits::{CATALOG_RETRY, DELETIONS_MAX};
use crate::operator;
use crate::outbox::Outbox;
use crate::shards::Shards;

/// Takes how many events went.
type Answering = operator::Answer<Result<u64, Refusal>>;

/// Deletions that are not done, or that the catalog still holds.
#[derive(Default)]
pub(super) struct Deletions {
    under_way: BTreeMap<u64, UnderWay>,
    /// When what the catalog could not take is tried again.
    retry_at: Option<Instant>,
}

struct UnderWay {
    /// Shards that have not answered.
    waiting: BTreeSet<u16>,
    events: u64,
    left: Vec<LogName>,
    refusal: Option<Refusal>,
    /// Nobody waits for what a start finishes.
    answer: Option<Answering>,
}

impl Deletions {
    /// What the catalog holds is asked of all shards again, before the first version: nobody publishes before that.
    pub(super) fn resume(
        begun: &BTreeMap<u64, BegunDeletion>,
        outbox: &mut Outbox,
        shards: u16,
    ) -> Self {
        let mut deletions = Deletions::default();
        for (number, of) in begun {
            info!(topic = &*of.topic, "the deletion of a topic was begun and is finished now");
            deletions.ask(*number, of, None, (outbox, shards));
        }
        deletions
    }

    fn ask(
        &mut self,
        number: u64,
        of: &BegunDeletion,
        answer: Option<Answering>,
        (outbox, shards): (&mut Outbox, u16),
    ) {
        let (topic, logs) = (Arc::clone(&of.topic), of.logs.clone());
        outbox.push_all(&ControlReply::DeleteTopic(Arc::new(TopicOrder { number, topic, logs })));
        let waiting = (0..shards).collect();
        let (left, refusal) = (Vec::new(), None);
        let known =
            self.under_way.insert(number, UnderWay { waiting, events: 0, left, refusal, answer });
        assert!(known.is_none(), "a number is one deletion");
    }

    /// What is to be written, or to be written again, and when.
    pub(super) fn due(&self, is_doubtful: bool, now: Instant) -> Option<Instant> {
        let is_over = self.under_way.values().any(|of| of.waiting.is_empty());
        (is_over || is_doubtful).then(|| self.retry_at.unwrap_or(now))
    }

    /// The control plane stops: what is not done is finished at the next start.
    pub(super) fn close(&mut self, refusal: &Refusal) {
        for answer in std::mem::take(&mut self.under_way).into_values().filter_map(|of| of.answer) {
            answer(Err(refusal.clone()));
        }
    }
}

impl<S: Shards> Plane<S> {
    pub(super) fn on_delete_topic(&mut self, topic: Arc<str>, answer: Answering) {
        match self.begin_deletion(topic) {
            Ok((number, of)) => {
                let to = (&mut self.outbox, self.shards.count());
                self.deletions.ask(number, &of, Some(answer), to);
            }
            Err(refusal) => answer(Err(refusal)),
        }
    }

    /// Writes the order to the catalog.
    fn begin_deletion(&mut self, topic: Arc<str>) -> Result<(u64, BegunDeletion), Refusal> {
        let begun = self.catalog.deletions();
        if begun.len() >= DELETIONS_MAX {
            let text = format!("{DELETIONS_MAX} deletions of topics are not finished");
            return Err(Refusal::new(Code::Overloaded, text));
        }
        let number = begun.last_key_value().map_or(1, |(last, _)| last + 1);
        let deletion = BegunDeletion { topic, logs: None };
        let mut all = begun.clone();
        all.insert(number, deletion.clone());
        self.catalog.set_deletions(all).map_err(|error| {
            error!(error = chain(&error), "a topic cannot be deleted");
            Refusal::new(Code::Unavailable, "the catalog cannot be written")
        })?;
        Ok((number, deletion))
    }

    pub(super) fn on_topic_deleted(
        &mut self,
        shard: u16,
        number: u64,
        result: Result<u64, LogsLeft>,
    ) {
        let of = self.deletions.under_way.get_mut(&number);
        let of = of.expect("a deletion is known until every shard has answered");
        assert!(of.waiting.remove(&shard), "a shard answers once");
        match result {
            Ok(events) => of.events += events,
            Err(LogsLeft { logs, refusal }) => {
                of.left.extend(logs);
                of.refusal.get_or_insert(refusal);
            }
        }
    }

    /// Takes out of the catalog what every shard holds, and answers. Until then it may be finished once more, by a start.
    pub(super) fn write_deletions(&mut self, now: Instant) {
        let is_doubtful = self.catalog.are_deletions_doubtful();
        if self.deletions.due(is_doubtful, now).is_none_or(|due| due > now) {
            return;
        }
        let mut all = self.catalog.deletions().clone();
        let under_way = &self.deletions.under_way;
        let over = under_way.iter().filter(|(_, of)| of.waiting.is_empty());
        let over: Vec<u64> = over.map(|(number, _)| *number).collect();
        for number in &over {
            let of = all.remove(number).expect("what is under way is in the catalog");
            let mut left = under_way[number].left.clone();
            left.sort_unstable();
            let is_done = left.is_empty();
            let rest = BegunDeletion { topic: of.topic, logs: Some(left) };
            // Whoever asks again and again while a log takes nothing asks for the same.
            if !is_done && !all.values().any(|known| *known == rest) {
                all.insert(*number, rest);
            }
        }
        if let Err(error) = self.catalog.set_deletions(all) {
            error!(error = chain(&error), "the end of a topic's deletion cannot be written");
            self.deletions.retry_at = Some(now + CATALOG_RETRY);
            return;
        }
        self.deletions.retry_at = None;
        for number in over {
            let of = self.deletions.under_way.remove(&number).expect("it was listed just now");
            let Some(answer) = of.answer else { continue };
            answer(match of.refusal {
                None => Ok(of.events),
                Some(refusal) => Err(refusal),
            });
        }
    }
}
