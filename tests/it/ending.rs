//! A durable subscription is ended from a connection: for all its members, and for good.

use std::time::Duration;

use codec::refusal::Code;
use ringmesh_client::{
    Client, ClientOptions, Event, Start, SubscribeError, SubscribeOptions, Subscription,
};
use tokio::time::timeout;

use crate::folder;
use crate::harness::{PATIENCE, Server};

const EVENTS: usize = 50;

async fn connect(server: &Server, id: &str) -> Client {
    let options = ClientOptions::new(server.address().to_string()).client_id(id);
    Client::connect(options).await.expect("the server is there")
}

async fn publish(client: &Client) {
    for index in 0..EVENTS {
        let event = Event::text(index.to_string()).key(format!("k{}", index % 7));
        let handle = client.publish("a/b", &event).await.expect("it is taken");
        timeout(PATIENCE, handle).await.expect("in time").expect("it is acknowledged");
    }
}

/// Takes and acknowledges so many events.
async fn take(subscription: &mut Subscription, count: usize) {
    let mut taken = 0;
    while taken < count {
        let next = timeout(PATIENCE, subscription.next()).await.expect("in time");
        let delivery = next.expect("it stands").expect("the client runs");
        taken += delivery.events().count();
        delivery.ack();
    }
    assert_eq!(taken, count, "no more than that is there");
}

fn wish(group: &str) -> SubscribeOptions {
    SubscribeOptions::new("a/#").group(group)
}

/// What is ended must be over for everybody at the answer, stay over after a kill right behind it, and keep nothing of
/// its place for who takes the name again; other groups must not notice.
#[tokio::test]
async fn an_ended_subscription_is_gone_for_good() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let (one, two) = (connect(&server, "one").await, connect(&server, "two").await);
    let first = one.subscribe(wish("g")).await.expect("it is new");
    let mut second = two.subscribe(wish("g")).await.expect("it stands");
    let mut kept = one.subscribe(wish("kept")).await.expect("it is new");
    publish(&one).await;
    take(&mut kept, EVENTS).await;

    first.end().await.expect("it ends");
    let told = loop {
        match timeout(PATIENCE, second.next()).await.expect("in time") {
            Ok(delivery) => drop(delivery.expect("the client runs")),
            Err(error) => break error,
        }
    };
    let SubscribeError::Refused(refusal) = told else { panic!("{told:?}") };
    assert_eq!(refusal.code(), Some(Code::SubscriptionEnded));

    let anew = wish("g").start(Start::Earliest);
    let mut again = two.subscribe(anew.clone()).await.expect("a start is for a new group");
    take(&mut again, EVENTS).await;
    again.end().await.expect("it ends");
    server.kill();

    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let client = connect(&server, "one").await;
    let mut again = client.subscribe(anew).await.expect("it did not come back");
    take(&mut again, EVENTS).await;
    let mut kept = client.subscribe(wish("kept")).await.expect("it is there");
    publish(&client).await;
    // The kill may have taken its last cursors back, but nothing that came since is missing.
    let mut taken = 0;
    while taken < EVENTS {
        let next = timeout(PATIENCE, kept.next()).await.expect("in time");
        let delivery = next.expect("it stands").expect("the client runs");
        taken += delivery.events().count();
        delivery.ack();
    }
    client.close(Duration::from_secs(5)).await;
    assert!(server.stop().success());
}
