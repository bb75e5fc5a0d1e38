//! The plane without its thread: the test turns it, empties the mailboxes and says what the shards would say.

mod deletion;
mod orders;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use codec::ids::{Offset, Partition};
use codec::refusal::{Code, Refusal};
use dataplane::control::{ControlLink, ControlReply, ControlRequest};
use dataplane::session::SessionKey;
use routing::snapshot::{Change, RoutingSnapshot};
use routing::subscription::{Mode, Start, Subscription, SubscriptionId};
use routing::topic::TopicFilter;
use tempfile::TempDir;

use super::Plane;
use crate::catalog::Catalog;
use crate::limits::{CLIENT_SUBSCRIPTIONS_MAX, PUBLISH_INTERVAL, SNAPSHOTS_AHEAD_MAX};
use crate::shards::Shards;

const SESSION: SessionKey = SessionKey { slot: 3, life: 9 };

/// Mailboxes that the test empties by hand.
#[derive(Clone)]
struct Mailboxes {
    mail: Arc<Vec<Mutex<VecDeque<ControlReply>>>>,
    capacity: usize,
}

impl Shards for Mailboxes {
    fn count(&self) -> u16 {
        self.mail.len() as u16
    }

    fn reply(&self, shard: u16, reply: ControlReply) -> Result<(), ControlReply> {
        let mut mail = self.mail[usize::from(shard)].lock().unwrap();
        if mail.len() == self.capacity {
            return Err(reply);
        }
        mail.push_back(reply);
        Ok(())
    }
}

/// A plane under test with its surroundings.
struct Rig {
    plane: Plane<Mailboxes>,
    mailboxes: Mailboxes,
    link: Arc<ControlLink>,
    now: Instant,
}

/// What a test asks for, with the usual values.
#[derive(Clone)]
struct Ask {
    request: u64,
    group: Option<&'static str>,
    filter: &'static str,
    mode: Mode,
    start: Option<Start>,
    client: &'static str,
}

const DURABLE: Ask = Ask {
    request: 1,
    group: Some("workers"),
    filter: "a/#",
    mode: Mode::Clustering,
    start: None,
    client: "c1",
};
const EPHEMERAL: Ask = Ask { group: None, ..DURABLE };

fn catalog_in(folder: &TempDir) -> PathBuf {
    folder.path().join("catalog.redb")
}

impl Rig {
    /// A plane whose first version is adopted by all.
    fn start(catalog: &Path, shards: u16, capacity: usize) -> Rig {
        let mut rig = Rig::start_unadopted(catalog, shards, capacity);
        rig.adopt_all(1);
        rig.turn();
        assert!(rig.plane.is_adopted());
        (0..shards).for_each(|shard| drop(rig.take(shard)));
        rig
    }

    fn start_unadopted(catalog: &Path, shards: u16, capacity: usize) -> Rig {
        let mail = Arc::new((0..shards).map(|_| Mutex::default()).collect());
        let mailboxes = Mailboxes { mail, capacity };
        let link = ControlLink::new(Box::new(|| {}));
        let (catalog, contents) = Catalog::open(catalog).unwrap();
        let plane = Plane::new(mailboxes.clone(), link.clone(), catalog, contents);
        let mut rig = Rig { plane, mailboxes, link, now: Instant::now() };
        rig.turn();
        rig
    }

    fn turn(&mut self) -> Option<Duration> {
        let wakeup = self.plane.turn(self.now);
        wakeup.map(|at| at - self.now)
    }

    /// Lets the time pass after which the next version may be published.
    fn next_interval(&mut self) {
        self.now += PUBLISH_INTERVAL;
        self.turn();
    }

    fn ask(&mut self, ask: &Ask) {
        let request = ControlRequest::Subscribe {
            shard: 0,
            session: SESSION,
            request: ask.request,
            group: ask.group.map(Arc::from),
            filter: TopicFilter::new(ask.filter).unwrap(),
            mode: ask.mode,
            start: ask.start.clone(),
            client: ask.client.into(),
        };
        self.send(request);
    }

    fn send(&mut self, request: ControlRequest) {
        self.link.send(request).unwrap();
        self.turn();
    }

    fn adopt(&mut self, shard: u16, version: u64) {
        self.send(ControlRequest::Adopted { shard, version });
    }

    fn adopt_all(&mut self, version: u64) {
        (0..self.mailboxes.count()).for_each(|shard| self.adopt(shard, version));
    }

    fn take(&self, shard: u16) -> VecDeque<ControlReply> {
        std::mem::take(&mut *self.mailboxes.mail[usize::from(shard)].lock().unwrap())
    }

    /// The one snapshot in a shard's mailbox.
    fn take_snapshot(&self, shard: u16) -> Arc<RoutingSnapshot> {
        let mail = self.take(shard);
        match mail.iter().collect::<Vec<_>>()[..] {
            [ControlReply::Snapshot(snapshot)] => snapshot.clone(),
            ref other => panic!("one snapshot, found {other:?}"),
        }
    }

    /// The one answer to a subscribe in shard 0's mailbox.
    fn take_answer(&self) -> Result<Arc<Subscription>, Refusal> {
        let mail = self.take(0);
        match mail.iter().collect::<Vec<_>>()[..] {
            [ControlReply::Subscribed { session: SESSION, result, .. }] => result.clone(),
            ref other => panic!("one answer, found {other:?}"),
        }
    }

    /// Asks and has every shard adopt what comes of it.
    fn subscribe(&mut self, ask: &Ask) -> Result<Arc<Subscription>, Refusal> {
        self.ask(ask);
        self.next_interval();
        let version = self.plane.snapshot.version();
        for shard in 0..self.mailboxes.count() {
            let mail = self.take(shard);
            let answer = mail.iter().find_map(|mail| match mail {
                ControlReply::Subscribed { result, .. } => Some(result.clone()),
                _ => None,
            });
            if let Some(answer) = answer {
                return answer;
            }
        }
        self.adopt_all(version);
        self.take_answer()
    }

    fn refused(&mut self, ask: &Ask) -> Code {
        self.subscribe(ask).unwrap_err().code
    }
}

/// An answer before the last shard adopted would promise events that this shard still routes past the subscriber; a
/// snapshot before the catalog would lose a group in a crash that already had events.
#[test]
fn a_subscribe_is_in_the_catalog_then_adopted_then_answered() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    rig.ask(&DURABLE);
    assert!(rig.take(0).is_empty(), "the interval is not over");
    rig.next_interval();
    let snapshot = rig.take_snapshot(0);
    assert_eq!((snapshot.version(), snapshot.len()), (2, 1));
    assert!(Arc::ptr_eq(&snapshot, &rig.take_snapshot(1)), "one value for all shards");
    rig.adopt(1, 2);
    assert!(rig.take(0).is_empty(), "shard 0 has not adopted");
    rig.adopt(0, 2);
    let subscription = rig.take_answer().unwrap();
    assert_eq!(snapshot.subscription(subscription.id), Some(&subscription));

    // The process ends here without another word.
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    let first = rig.take_snapshot(0);
    assert_eq!(first.changes(), [Change::Added(subscription)]);
}

/// Group members that come one after the other: each must get the same subscription, and none may move the group.
#[test]
fn a_known_group_is_joined_and_keeps_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let earliest = Ask { start: Some(Start::Earliest), ..DURABLE };
    let first = rig.subscribe(&earliest).unwrap();
    assert_eq!((&first.start, first.is_durable()), (&Start::Earliest, true));
    let version = rig.plane.snapshot.version();
    let joined = rig.subscribe(&Ask { client: "c2", ..DURABLE }).unwrap();
    assert_eq!(joined, first);
    assert_eq!(rig.plane.snapshot.version(), version, "a member needs no version");
    assert_eq!(rig.refused(&earliest), Code::GroupExists);
    let other_filter = Ask { filter: "b", ..DURABLE };
    assert_eq!(
        rig.refused(&Ask { start: Some(Start::Tail), ..other_filter.clone() }),
        Code::GroupExists
    );
    let second = rig.subscribe(&other_filter).unwrap();
    assert_eq!(second.group, first.group);
    assert_ne!(second.id, first.id);
    assert_eq!(rig.refused(&Ask { mode: Mode::Broadcasting, ..DURABLE }), Code::ModeMismatch);

    let everyone = Ask { group: Some("all"), mode: Mode::Broadcasting, ..DURABLE };
    let one = rig.subscribe(&everyone).unwrap();
    let two =
        rig.subscribe(&Ask { client: "c2", start: Some(Start::Earliest), ..everyone.clone() });
    assert_ne!(two.unwrap().group, one.group, "each client is a group of its own");
    assert_eq!(&*one.group_name, "all/$client/c1");
    assert_eq!(rig.refused(&Ask { mode: Mode::Clustering, ..everyone }), Code::ModeMismatch);
}

/// Requests that would collide with the server's own names, or name what does not exist.
#[test]
fn malformed_subscribes_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    let long: &'static str = "x".repeat(256).leak();
    for group in ["", long, "$ephemeral/c1/1", "a/$client/c1", "a\0"] {
        assert_eq!(rig.refused(&Ask { group: Some(group), ..DURABLE }), Code::MalformedGroup);
    }
    let offsets = |partition| Some(Start::Offsets(vec![(Partition(partition), Offset(1))]));
    assert_eq!(rig.refused(&Ask { start: offsets(0), ..DURABLE }), Code::StartNeedsTopic);
    let exact = Ask { filter: "a/b", start: offsets(64), ..DURABLE };
    assert_eq!(rig.refused(&exact), Code::UnknownPartition);
    assert!(rig.subscribe(&Ask { start: offsets(63), ..exact }).is_ok());
    assert_eq!(rig.plane.snapshot.len(), 1);
}

/// A storm of subscribers must not become a storm of snapshots.
#[test]
fn changes_within_an_interval_are_one_version() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    rig.next_interval();
    assert!(rig.take(0).is_empty(), "nothing changed");
    rig.ask(&DURABLE);
    assert_eq!(rig.take_snapshot(0).len(), 1, "the last version is long ago");
    for (request, filter) in [(2, "b"), (3, "c"), (4, "d")] {
        rig.ask(&Ask { request, filter, ..DURABLE });
        assert!(rig.take(0).is_empty());
    }
    assert_eq!(rig.turn(), Some(PUBLISH_INTERVAL), "asks to be woken");
    rig.next_interval();
    assert_eq!(rig.take_snapshot(0).changes().len(), 3);
    rig.adopt(0, 3);
    rig.take(0);
    assert_eq!(rig.turn(), None, "nothing to do");
}

/// Ephemeral subscriptions live in memory, come back to a client that reconnects, and end with it.
#[test]
fn ephemeral_subscriptions_belong_to_their_client() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 64);
    let first = rig.subscribe(&EPHEMERAL).unwrap();
    assert_eq!(first.ephemeral_client.as_deref(), Some("c1"));
    assert_eq!(rig.subscribe(&EPHEMERAL).unwrap(), first, "a reconnect finds it");
    let earliest = Ask { start: Some(Start::Earliest), ..EPHEMERAL };
    assert_eq!(rig.refused(&earliest), Code::GroupExists);
    let other = rig.subscribe(&Ask { client: "c2", ..earliest.clone() }).unwrap();
    assert_ne!(other.group, first.group);
    assert_eq!(rig.subscribe(&Ask { client: "c2", ..earliest }).unwrap(), other, "same start");
    rig.subscribe(&Ask { filter: "b", ..EPHEMERAL }).unwrap();

    rig.send(ControlRequest::EndClient { client: "c1".into() });
    rig.next_interval();
    let snapshot = rig.take_snapshot(0);
    assert_eq!(snapshot.changes().len(), 2);
    assert_eq!(snapshot.len(), 1);
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    assert!(rig.take_snapshot(0).is_empty(), "the catalog knows none");
}

/// An unsubscribe answered too early would be followed by deliveries; one that a restart forgets brings back what was
/// ended.
#[test]
fn unsubscribe_ends_subscriptions() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    let durable = rig.subscribe(&DURABLE).unwrap();
    let ephemeral = rig.subscribe(&EPHEMERAL).unwrap();
    let unsubscribe =
        |id| ControlRequest::Unsubscribe { shard: 0, session: SESSION, request: 1, id };
    rig.send(unsubscribe(durable.id));
    rig.send(unsubscribe(ephemeral.id));
    rig.next_interval();
    let snapshot = rig.take_snapshot(0);
    let both = [Change::Removed(durable.clone()), Change::Removed(ephemeral.clone())];
    assert_eq!(snapshot.changes(), both);
    assert!(rig.take(0).is_empty(), "no shard has adopted it");
    rig.adopt(0, snapshot.version());
    let mail = rig.take(0);
    assert_eq!(mail.len(), 2);
    for answer in mail {
        assert!(matches!(answer, ControlReply::Unsubscribed { result: Ok(()), .. }));
    }
    rig.send(unsubscribe(ephemeral.id));
    assert!(
        matches!(rig.take(0)[0], ControlReply::Unsubscribed { result: Ok(()), .. }),
        "gone is gone"
    );
    let anew = rig.subscribe(&Ask { start: Some(Start::Earliest), ..DURABLE }).unwrap();
    assert_ne!((anew.id, anew.group), (durable.id, durable.group), "old cursors are not its own");
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    assert_eq!(rig.take_snapshot(0).changes(), [Change::Added(anew)]);
}

/// One client could otherwise fill the memory of the node.
#[test]
fn ephemeral_subscriptions_of_a_client_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 1 << 20);
    for n in 0..CLIENT_SUBSCRIPTIONS_MAX {
        rig.ask(&Ask { filter: format!("a/{n}").leak(), ..EPHEMERAL });
    }
    rig.next_interval();
    rig.take(0);
    rig.adopt(0, 2);
    rig.take(0);
    assert_eq!(rig.refused(&EPHEMERAL), Code::LimitExceeded);
    assert!(rig.subscribe(&Ask { client: "c2", ..EPHEMERAL }).is_ok());
}

/// A number given twice would let a group's cursor, still in the logs, skip the events of another group.
#[test]
fn numbers_are_never_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut newest = 0;
    for filter in ["a", "b", "c"] {
        let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
        for ask in [EPHEMERAL, Ask { filter, ..DURABLE }, Ask { client: "c2", ..EPHEMERAL }] {
            let subscription = rig.subscribe(&ask).unwrap();
            assert!(subscription.id.0 > newest);
            newest = subscription.id.0.max(subscription.group.0);
        }
    }
}

/// A full mailbox must delay, never lose or reorder, and never keep the control thread.
#[test]
fn replies_wait_for_room_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 1);
    let mut expected = 1;
    for filter in ["a", "b", "c"] {
        rig.ask(&Ask { filter, ..DURABLE });
        rig.next_interval();
    }
    assert!(rig.turn().is_some(), "asks to try again");
    for _ in 0..3 {
        expected += 1;
        assert_eq!(rig.take_snapshot(0).version(), expected);
        rig.turn();
    }
    assert_eq!(rig.take_snapshot(1).version(), 2, "the other shard waits for itself");
}

/// A shard that drops the last reference to a large snapshot stalls; and a shard that never adopts must not make the
/// control plane hold versions without end.
#[test]
fn snapshots_are_held_until_all_adopted_a_newer_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 2, 1_024);
    let oldest = Arc::downgrade(&rig.plane.snapshot);
    for n in 0..2 * SNAPSHOTS_AHEAD_MAX {
        rig.ask(&Ask { filter: format!("a/{n}").leak(), ..EPHEMERAL });
        rig.next_interval();
    }
    assert_eq!(rig.plane.held.len(), SNAPSHOTS_AHEAD_MAX + 1);
    let newest = rig.plane.snapshot.version();
    rig.adopt(0, newest);
    assert!(oldest.upgrade().is_some(), "shard 1 may still hold it");
    rig.take(0);
    rig.take(1);
    rig.adopt(1, newest);
    assert!(oldest.upgrade().is_none());
    rig.next_interval();
    let versions = rig.plane.snapshot.version() - newest;
    assert_eq!((versions, rig.plane.snapshot.len()), (1, 2 * SNAPSHOTS_AHEAD_MAX), "what gathered");
}

/// A catalog that cannot be written: nobody may be told, or routed to, what a restart would forget; the rest goes on.
#[test]
fn a_failed_commit_takes_back_durable_subscriptions_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    let kept = rig.subscribe(&DURABLE).unwrap();
    rig.plane.catalog.fail_next = true;
    rig.ask(&Ask { request: 2, filter: "lost", ..DURABLE });
    rig.ask(&Ask { request: 3, filter: "lives", ..EPHEMERAL });
    rig.next_interval();
    let mail = rig.take(0);
    assert!(matches!(&mail[0], ControlReply::Subscribed { request: 2, result: Err(refusal), .. }
        if refusal.code == Code::Unavailable));
    let ControlReply::Snapshot(snapshot) = &mail[1] else { panic!("{:?}", mail[1]) };
    assert_eq!(snapshot.len(), 2);
    assert_eq!(snapshot.subscription(kept.id), Some(&kept));
    rig.adopt(0, snapshot.version());
    let answered = rig.take_answer().unwrap();
    assert_eq!(answered.filter.as_str(), "lives");

    rig.plane.catalog.fail_next = true;
    let (session, id) = (SESSION, kept.id);
    rig.send(ControlRequest::Unsubscribe { shard: 0, session, request: 4, id });
    rig.next_interval();
    let mail = rig.take(0);
    assert_eq!(mail.len(), 1, "no version says that it ended: {mail:?}");
    assert!(matches!(&mail[0], ControlReply::Unsubscribed { request: 4, result: Err(refusal), .. }
        if refusal.code == Code::Unavailable));
    let mode = rig.refused(&Ask { mode: Mode::Broadcasting, ..DURABLE });
    assert_eq!(mode, Code::ModeMismatch, "the group is known as before");

    let again = rig.subscribe(&Ask { filter: "lost", ..DURABLE }).unwrap();
    assert!(again.id > SubscriptionId(answered.id.0));
    drop(rig);
    let rig = Rig::start_unadopted(&catalog_in(&folder), 1, 64);
    assert_eq!(rig.take_snapshot(0).len(), 2, "each once");
}

/// When the control plane ends, everyone who waits must be told, and nobody may wait from then on.
#[test]
fn closing_refuses_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = Rig::start(&catalog_in(&folder), 1, 64);
    rig.ask(&DURABLE);
    let request = ControlRequest::Unsubscribe {
        shard: 0,
        session: SESSION,
        request: 2,
        id: SubscriptionId(1),
    };
    rig.link.send(request.clone()).unwrap();
    rig.plane.close();
    let mail = rig.take(0);
    assert_eq!(mail.len(), 2);
    for reply in mail {
        let refusal = match reply {
            ControlReply::Subscribed { result, .. } => result.unwrap_err(),
            ControlReply::Unsubscribed { result, .. } => result.unwrap_err(),
            ControlReply::Snapshot(_) | ControlReply::Sought(_) | ControlReply::DeleteTopic(_) => {
                panic!("nothing is published any more")
            }
        };
        assert_eq!(refusal.code, Code::Unavailable);
    }
    assert!(!rig.link.is_open());
    assert!(rig.link.send(request).is_err());
}
