//! What an operator says of topics. In the catalog before any shard hears of it; answered once every shard goes by it.

use std::sync::Arc;

use codec::refusal::{Code, Refusal};
use routing::topic::TopicFilter;
use routing::topic_policy::{TOPIC_POLICIES_MAX, TopicPolicy};
use tracing::error;

use super::{Plane, Settled, chain};
use crate::operator;
use crate::shards::Shards;

impl<S: Shards> Plane<S> {
    pub(super) fn on_set_topic_policy(
        &mut self,
        pattern: &TopicFilter,
        change: impl FnOnce(TopicPolicy) -> TopicPolicy,
        answer: operator::Answer<Result<(), Refusal>>,
    ) {
        match self.set_topic_policy(pattern, change) {
            Ok(()) => self.answer_later(Settled::TopicPolicySet(answer)),
            Err(refusal) => answer(Err(refusal)),
        }
    }

    /// Writes what a pattern says of topics to the catalog, then into the next version.
    fn set_topic_policy(
        &mut self,
        pattern: &TopicFilter,
        change: impl FnOnce(TopicPolicy) -> TopicPolicy,
    ) -> Result<(), Refusal> {
        self.check_room()?;
        let known = self.next.topic_policies();
        let before = known.of_pattern(pattern).copied().unwrap_or_default();
        let policy = change(before);
        if policy == before {
            return Ok(());
        }
        let policies = Arc::new(known.with(known.version() + 1, pattern, policy));
        let count = policies.list().len();
        if count > TOPIC_POLICIES_MAX {
            return Err(Refusal::limit("topic policies", TOPIC_POLICIES_MAX as u64, count as u64));
        }
        self.catalog.set_topic_policies(Arc::clone(&policies)).map_err(|error| {
            error!(error = chain(&error), "a topic policy cannot be set");
            Refusal::new(Code::Unavailable, "the catalog cannot be written")
        })?;
        self.next.set_topic_policies(policies);
        assert!(!self.next.is_unchanged(), "what shards are to go by is a version of its own");
        Ok(())
    }
}
