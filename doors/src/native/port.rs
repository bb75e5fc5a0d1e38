//! What a session asks of its shard, and nothing else.
//!
//! The seam exists for the tests: they answer "no room" and refusals at the very frame they choose, which a real shard
//! does only under load.

use std::sync::Arc;

use codec::batch::Batch;
use codec::header::BatchHeader;
use codec::ids::Partition;
use codec::refusal::Refusal;
use dataplane::selection::Selection;
use dataplane::session::{Admission, Landing, SessionKey, SubscribeRequest, TopicHandle, Verdict};
use dataplane::shard::Shard;

/// A shard, as far as a session needs one. The methods are those of [`Shard`].
pub(super) trait Port {
    fn identify(&mut self, key: SessionKey, client: Arc<str>);
    fn partition(&self, key: SessionKey) -> Partition;
    fn publish(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &TopicHandle,
        batch: &Batch<'_>,
    ) -> Result<Admission, Refusal>;
    fn landing(&self, lead: usize, len: usize) -> Landing;
    fn publish_landed(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &TopicHandle,
        header: &BatchHeader,
        landing: &mut Option<Landing>,
    ) -> Result<Admission, Refusal>;
    fn subscribe(&mut self, key: SessionKey, wish: SubscribeRequest) -> Result<(), Refusal>;
    fn unsubscribe(&mut self, key: SessionKey, subscription: u64, end: bool);
    fn settle(
        &mut self,
        key: SessionKey,
        request: u64,
        token: &[u8],
        selection: Selection,
        verdict: Verdict,
    ) -> Result<(), Refusal>;
    fn set_credit(&mut self, key: SessionKey, subscription: u64, events: u32);
    fn admit_frame(&mut self, key: SessionKey, has: u64, whole: u64) -> bool;
    fn keep_input(&mut self, key: SessionKey, bytes: u64);
    fn input_is_wanted(&self) -> bool;
}

impl Port for Shard {
    fn identify(&mut self, key: SessionKey, client: Arc<str>) {
        Shard::identify(self, key, client);
    }

    fn partition(&self, key: SessionKey) -> Partition {
        self.session_partition(key)
    }

    fn publish(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &TopicHandle,
        batch: &Batch<'_>,
    ) -> Result<Admission, Refusal> {
        Shard::publish(self, key, request, topic, batch)
    }

    fn landing(&self, lead: usize, len: usize) -> Landing {
        Shard::landing(self, lead, len)
    }

    fn publish_landed(
        &mut self,
        key: SessionKey,
        request: u64,
        topic: &TopicHandle,
        header: &BatchHeader,
        landing: &mut Option<Landing>,
    ) -> Result<Admission, Refusal> {
        Shard::publish_landed(self, key, request, topic, header, landing)
    }

    fn subscribe(&mut self, key: SessionKey, wish: SubscribeRequest) -> Result<(), Refusal> {
        Shard::subscribe(self, key, wish)
    }

    fn unsubscribe(&mut self, key: SessionKey, subscription: u64, end: bool) {
        Shard::unsubscribe(self, key, subscription, end);
    }

    fn settle(
        &mut self,
        key: SessionKey,
        request: u64,
        token: &[u8],
        selection: Selection,
        verdict: Verdict,
    ) -> Result<(), Refusal> {
        Shard::settle(self, key, request, token, selection, verdict)
    }

    fn set_credit(&mut self, key: SessionKey, subscription: u64, events: u32) {
        Shard::set_credit(self, key, subscription, events);
    }

    fn admit_frame(&mut self, key: SessionKey, has: u64, whole: u64) -> bool {
        Shard::admit_frame(self, key, has, whole)
    }

    fn keep_input(&mut self, key: SessionKey, bytes: u64) {
        Shard::keep_input(self, key, bytes);
    }

    fn input_is_wanted(&self) -> bool {
        Shard::input_is_wanted(self)
    }
}
