//! The control thread of a real server is stopped: what runs goes on, what is new is refused.

use std::net::SocketAddr;
use std::time::Duration;

use codec::refusal::Code;
use ringmesh::config::Config;
use ringmesh::server::Server;
use ringmesh_client::{
    Client, ClientOptions, Event, Mode, SubscribeError, SubscribeOptions, Subscription,
};
use tokio::time::timeout;

use crate::answer::exchange;
use crate::folder;
use crate::harness::PATIENCE;

async fn connect(server: &Server, id: &str) -> Client {
    let options = ClientOptions::new(server.address().to_string()).client_id(id);
    Client::connect(options).await.expect("the server is there")
}

async fn publish(client: &Client, topic: &str, text: &str) {
    let handle = client.publish(topic, &Event::text(text).key("k")).await.expect("it is taken");
    timeout(PATIENCE, handle).await.expect("in time").expect("it is acknowledged");
}

/// The data of the next event.
async fn next(subscription: &mut Subscription) -> String {
    let next = timeout(PATIENCE, subscription.next()).await.expect("in time");
    let delivery = next.expect("the subscription stands").expect("the client runs");
    let (_, event) = delivery.events().next().expect("a delivery has an event");
    let text = String::from_utf8(event.data().to_vec()).expect("text");
    delivery.ack();
    text
}

/// What `/readyz` says: the status, and what is amiss.
async fn readiness(admin: SocketAddr) -> (u16, String) {
    let request = b"GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let asked = tokio::task::spawn_blocking(move || exchange(admin, request));
    let answer = asked.await.expect("it does not panic");
    let amiss = answer.json()["not_ready"].as_array().cloned().unwrap_or_default();
    let amiss: Vec<String> = amiss.iter().map(ToString::to_string).collect();
    (answer.status, amiss.join("; "))
}

/// A client that was there before comes back on another connection, and goes on.
async fn come_back(server: &Server, publisher: &Client, id: &str, wish: SubscribeOptions) {
    let client = connect(server, id).await;
    let mut again = client.subscribe(wish).await.expect("what is known needs no control plane");
    publish(publisher, "a/known", id).await;
    while next(&mut again).await != id {}
    client.close(Duration::from_secs(5)).await;
}

/// A control plane that is down must cost new subscriptions and nothing else: events of known and of new topics reach
/// the members of known groups, and members come and go.
#[tokio::test]
async fn shards_go_on_without_it() {
    let folder = folder::new();
    let mut config = Config::default();
    config.admin.listen = Some(([127, 0, 0, 1], 0).into());
    config.http.listen = None;
    config.server.data = folder.path().join("data");
    config.server.shards = Some(2);
    config.native.listen = ([127, 0, 0, 1], 0).into();
    config.log.segment_bytes = 4 << 20;
    let mut server = Server::start(&config).expect("it starts");
    let publisher = connect(&server, "publisher").await;
    let member = connect(&server, "member").await;
    let wish = SubscribeOptions::new("a/#").group("g");
    let mut first = member.subscribe(wish.clone()).await.expect("the control plane is there");
    publish(&publisher, "a/known", "before").await;
    assert_eq!(next(&mut first).await, "before");

    let broadcast = SubscribeOptions::new("a/#").group("all").mode(Mode::Broadcasting);
    let fan = connect(&server, "fan").await;
    let one = fan.subscribe(broadcast.clone()).await.expect("the control plane is there");
    let watcher = connect(&server, "watcher").await;
    let own = watcher.subscribe(SubscribeOptions::new("a/#")).await.expect("and for this one");

    let admin = server.admin().expect("it was asked for");
    assert_eq!(readiness(admin).await, (200, String::new()));
    server.stop_control_plane();
    let (status, why) = readiness(admin).await;
    assert_eq!(status, 503);
    assert!(why.contains("the control plane does not answer"), "{why}");
    drop((one, own));
    for client in [fan, watcher] {
        client.close(Duration::from_secs(5)).await;
    }
    publish(&publisher, "a/known", "after").await;
    publish(&publisher, "a/new", "new topic").await;
    assert_eq!(next(&mut first).await, "after");
    assert_eq!(next(&mut first).await, "new topic");

    let late = connect(&server, "late").await;
    first.unsubscribe().await.expect("leaving needs no control plane");
    let mut second = late.subscribe(wish).await.expect("joining a known group needs none");
    publish(&publisher, "a/known", "for the late one").await;
    assert_eq!(next(&mut second).await, "for the late one");

    come_back(&server, &publisher, "fan", broadcast).await;
    come_back(&server, &publisher, "watcher", SubscribeOptions::new("a/#")).await;
    let refused = late.subscribe(SubscribeOptions::new("b/#").group("other")).await;
    let Err(SubscribeError::Refused(refusal)) = refused else {
        panic!("a new group needs it: {refused:?}")
    };
    assert_eq!(refusal.code(), Some(Code::Unavailable));
    for client in [publisher, member, late] {
        client.close(Duration::from_secs(5)).await;
    }
    server.shut_down();
}
