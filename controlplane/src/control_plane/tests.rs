use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use dataplane::control::{ControlLink, ControlReply, ControlRequest};
use dataplane::session::SessionKey;
use routing::subscription::Mode;
use routing::topic::TopicFilter;

use super::{ControlOptions, ControlPlane, Inbox, StartError};

/// Longer than any machine takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A shard that adopts whatever it is given, at once.
fn adopting(
    shard: u16,
    link: Arc<ControlLink>,
    replies: Sender<(u16, ControlReply)>,
) -> impl Fn(ControlReply) -> Result<(), ControlReply> + Send + 'static {
    move |reply| {
        if let ControlReply::Snapshot(snapshot) = &reply {
            let version = snapshot.version();
            link.send(ControlRequest::Adopted { shard, version }).unwrap();
            link.wake();
        }
        replies.send((shard, reply)).map_err(|unsent| unsent.0.1)
    }
}

fn next_answer(replies: &Receiver<(u16, ControlReply)>) -> (u16, ControlReply) {
    loop {
        let reply = replies.recv_timeout(PATIENCE).expect("an answer");
        if !matches!(reply.1, ControlReply::Snapshot(_)) {
            return reply;
        }
    }
}

fn subscribe(shard: u16) -> ControlRequest {
    ControlRequest::Subscribe {
        shard,
        session: SessionKey { slot: 1, life: 1 },
        request: 7,
        group: Some("workers".into()),
        filter: TopicFilter::new("a/#").unwrap(),
        mode: Mode::Clustering,
        start: None,
        client: "c1".into(),
    }
}

/// The thread itself: a wake-up that gets lost leaves subscribers waiting for ever, and a stop that does not close the
/// link leaves them waiting after it.
#[test]
fn the_thread_answers_until_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let options = ControlOptions { catalog: folder.path().join("catalog.redb") };
    for _ in 0..3 {
        let inbox = Inbox::new();
        let link = inbox.link();
        let (sender, replies) = channel();
        let shards: Vec<_> =
            (0..2).map(|shard| adopting(shard, link.clone(), sender.clone())).collect();
        let control_plane = ControlPlane::start(&options, shards, inbox).unwrap();
        for shard in [1, 0, 1] {
            link.send(subscribe(shard)).unwrap();
            link.wake();
            let answer = next_answer(&replies);
            assert!(
                matches!(&answer, (to, ControlReply::Subscribed { request: 7, result: Ok(_), .. })
                    if *to == shard),
                "{answer:?}"
            );
        }
        control_plane.stop();
        control_plane.join();
        assert!(!link.is_open());
        assert!(link.send(subscribe(0)).is_err());
    }
}

/// A start that fails must say why, and must not leave a link open that nobody reads.
#[test]
fn a_start_without_a_catalog_fails_and_closes_the_link() {
    let folder = tempfile::tempdir().unwrap();
    let options = ControlOptions { catalog: folder.path().join("missing").join("catalog.redb") };
    let inbox = Inbox::new();
    let link = inbox.link();
    let (replies, _) = channel();
    let shards = vec![adopting(0, link.clone(), replies)];
    let error = ControlPlane::start(&options, shards, inbox).unwrap_err();
    assert!(matches!(error, StartError::Catalog(_)), "{error}");
    assert!(!link.is_open());
}
