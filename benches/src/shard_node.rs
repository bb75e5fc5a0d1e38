//! A shard driven through its own calls: its work without a door's.

use std::sync::Arc;

use codec::batch::Batch;
use codec::header::HeaderSeed;
use dataplane::control::ControlReply;
use dataplane::mail::Mail;
use dataplane::selection::Selection;
use dataplane::session::{
    Admission, SessionEvent, SessionKey, SubscribeRequest, TopicHandle, Verdict,
};
use routing::snapshot::{RoutingSnapshot, SnapshotEditor};
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use routing::topic::TopicFilter;

use crate::bed::Bed;

/// See the module.
pub struct ShardNode {
    bed: Bed,
    sessions: Vec<SessionKey>,
}

impl ShardNode {
    /// A node with so many sessions that publish.
    pub fn open(sessions: usize) -> Self {
        let mut node = ShardNode { bed: Bed::open(32 << 20), sessions: Vec::new() };
        for index in 0..sessions {
            let key = node.bed.shard.open_session().expect("there is room for a session");
            node.bed.shard.identify(key, format!("publisher-{index}").into());
            node.sessions.push(key);
        }
        node
    }

    /// One cycle of the shard.
    pub fn cycle(&mut self) -> u32 {
        self.bed.cycle()
    }

    /// A group with one member that gets everything.
    pub fn subscribe(&mut self) -> SessionKey {
        let member = self.bed.shard.open_session().expect("there is room for a session");
        self.bed.shard.identify(member, "subscriber".into());
        let filter = TopicFilter::new("bench/#").expect("a filter");
        let wish = SubscribeRequest {
            request: 1,
            group: Some("bench".into()),
            filter: filter.clone(),
            mode: Mode::Clustering,
            start: None,
            credit: 10_000,
        };
        self.bed.shard.subscribe(member, wish).expect("the shard takes the wish");
        self.bed.cycle();
        let subscription = Arc::new(Subscription {
            id: SubscriptionId(1),
            group: GroupId(1),
            group_name: "bench".into(),
            filter,
            mode: Mode::Clustering,
            start: Start::Tail,
            ephemeral_client: None,
        });
        let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
        editor.add(subscription.clone());
        let snapshot = Arc::new(editor.finish());
        self.bed.kernel.mail.push_back(Mail::Control(ControlReply::Snapshot(snapshot)));
        // The start of a durable group becomes durable with the log's next cursor commit.
        for _ in 0..200 {
            self.bed.now.mono_us += 1_000;
            self.bed.now.wall.0 += 1_000;
            self.bed.cycle();
        }
        let result = Ok(subscription);
        let reply = ControlReply::Subscribed { session: member, request: 1, result };
        self.bed.kernel.mail.push_back(Mail::Control(reply));
        self.bed.cycle();
        let subscribed = std::iter::from_fn(|| self.bed.shard.next_event(member))
            .any(|event| matches!(event, SessionEvent::Subscribed { .. }));
        assert!(subscribed, "the group has its member");
        member
    }

    /// Every session publishes one batch; cycles until every one is acknowledged.
    pub fn publish(&mut self, topic: &TopicHandle, batches: &[Vec<u8>]) {
        let mut owed = 0;
        for (index, key) in self.sessions.iter().enumerate() {
            let bytes = &batches[index % batches.len()];
            let batch = Batch::parse(bytes, HeaderSeed::WIRE).expect("made here");
            let admission = self.bed.shard.publish(*key, 1, topic, &batch).expect("taken");
            assert_eq!(admission, Admission::Taken);
            owed += 1;
        }
        while owed > 0 {
            self.bed.cycle();
            for key in &self.sessions {
                while let Some(event) = self.bed.shard.next_event(*key) {
                    owed -= u32::from(matches!(event, SessionEvent::Published { .. }));
                }
            }
        }
    }

    /// Takes and settles deliveries until `events` have come.
    pub fn take(&mut self, member: SessionKey, mut events: u32) {
        while events > 0 {
            self.bed.cycle();
            while let Some(event) = self.bed.shard.next_event(member) {
                if let SessionEvent::Delivery(delivery) = event {
                    events -= delivery.batch.header.count;
                    let token = delivery.token.0;
                    self.bed
                        .shard
                        .settle(member, 1, &token, Selection::All, Verdict::Done)
                        .expect("a fresh token");
                }
            }
        }
    }
}
