//! Real input: every payload of the npm package `@octokit/webhooks-examples`, published as CloudEvents and given to
//! several groups, calmly and across a kill.
//!
//! The payloads and the judge of what a group was given are those of the example. The clients are in this
//! process, so that the order in which events are handled over all members of a group is one order.

#[path = "../../examples/github_webhooks/payloads.rs"]
mod payloads;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use codec::attribute::Key;
use payloads::{GROUPS, Given, Handled, check_group, event_of, expected_ids, payloads};
use ringmesh_client::{Client, ClientOptions, Start, SubscribeOptions};
use tokio::time::timeout;

use crate::folder;
use crate::harness::{PATIENCE, Server};

/// The package, where tests/all.sh installs it.
fn given() -> BTreeMap<String, Given> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/octokit/node_modules/@octokit/webhooks-examples");
    payloads(&package).unwrap_or_else(|what| panic!("{what}"))
}

/// What the members of all groups have handled, in order.
type AllHandled = Arc<Mutex<Vec<Handled>>>;

fn options(server: &str) -> ClientOptions {
    let mut options = ClientOptions::new(server);
    // One event a batch: a repository's events are of many topics, and only batches that are sent one after the other
    // keep an order over topics.
    options.batch_events = 1;
    options
}

/// Two members of every group, each with a connection of its own, so that both shards have members.
async fn join_groups(server: &str, handled: &AllHandled) -> Vec<Client> {
    let mut clients = Vec::new();
    for (group, filter) in GROUPS {
        for member in 0..2 {
            let options = options(server).client_id(format!("{group}-{member}"));
            let client = Client::connect(options).await.expect("the server is there");
            let mut wish = SubscribeOptions::new(filter).group(group).credit(16);
            if member == 0 {
                wish = wish.start(Start::Earliest);
            }
            let mut subscription = client.subscribe(wish).await.expect("the group can be joined");
            let handled = Arc::clone(handled);
            tokio::spawn(async move {
                while let Ok(Some(delivery)) = subscription.next().await {
                    for (_, event) in delivery.events() {
                        let id = event.text(&Key::Id).expect("each has an id").to_owned();
                        let topic = delivery.topic().to_string();
                        let one = Handled { group, id, topic, data: event.data().to_vec() };
                        handled.lock().expect("nobody panics with it").push(one);
                    }
                    delivery.ack();
                }
            });
            clients.push(client);
        }
    }
    clients
}

/// Waits until every group has handled all that its filter says.
async fn wait_for_all(given: &BTreeMap<String, Given>, handled: &AllHandled) {
    let is_all = || {
        let handled = handled.lock().expect("nobody panics with it");
        GROUPS.iter().all(|(group, filter)| {
            let own = handled.iter().filter(|one| one.group == *group);
            let ids: BTreeSet<_> = own.map(|one| &one.id).collect();
            ids.len() >= expected_ids(given, filter).len()
        })
    };
    let poll = async {
        while !is_all() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, poll).await.expect("every group is given everything");
}

fn check(given: &BTreeMap<String, Given>, handled: &AllHandled, may_repeat: bool) {
    let handled = handled.lock().expect("nobody panics with it");
    for group in GROUPS {
        if let Err(what) = check_group(given, &handled, group, may_repeat) {
            panic!("{}: {what}", group.0);
        }
    }
}

/// Routing, grouping and order, on input that nobody made up for the test.
#[tokio::test]
async fn every_group_gets_what_its_filter_says() {
    let given = given();
    for shards in ["1", "2"] {
        let folder = folder::new();
        let server = Server::start_with(folder.path(), &["--shards", shards]);
        let address = server.address().to_string();
        let handled = AllHandled::default();
        let members = join_groups(&address, &handled).await;
        let publisher = Client::connect(options(&address)).await.expect("the server is there");
        let mut acks = Vec::new();
        for (id, event) in &given {
            acks.push(
                publisher.publish(&event.topic, &event_of(id, event)).await.expect("it is taken"),
            );
        }
        for ack in acks {
            ack.await.expect("it is acknowledged");
        }
        wait_for_all(&given, &handled).await;
        for member in members {
            member.close(PATIENCE).await;
        }
        check(&given, &handled, false);
        publisher.close(PATIENCE).await;
        assert!(server.stop().success());
    }
}

/// The same across a kill in the middle: clients connect again by themselves, nothing is lost, the order stays.
#[tokio::test]
async fn a_kill_in_the_middle_loses_nothing() {
    let given = given();
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let address = server.address().to_string();
    let handled = AllHandled::default();
    let members = join_groups(&address, &handled).await;
    let publisher = Client::connect(options(&address)).await.expect("the server is there");
    let mut acks = Vec::new();
    let mut server = Some(server);
    for (n, (id, event)) in given.iter().enumerate() {
        acks.push(
            publisher.publish(&event.topic, &event_of(id, event)).await.expect("it is taken"),
        );
        if n == given.len() / 2 {
            server.take().expect("it runs until here").kill();
            server = Some(Server::start_at(folder.path(), &address, &["--shards", "2"]));
        }
    }
    for ack in acks {
        timeout(PATIENCE, ack)
            .await
            .expect("it is acknowledged in time")
            .expect("it is acknowledged");
    }
    wait_for_all(&given, &handled).await;
    for member in members {
        member.close(PATIENCE).await;
    }
    check(&given, &handled, true);
    publisher.close(PATIENCE).await;
    assert!(server.expect("it runs again").stop().success());
}
