//! Real input: every payload of the npm package `@octokit/webhooks-examples`, published as CloudEvents and given to
//! several groups, calmly and across a kill.
//!
//! Clients are the Rust client in this process, so that the order in which events are handled over all members of a
//! group is one order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use codec::attribute::Key;
use ringmesh_client::{Client, ClientOptions, Event, Start, SubscribeOptions};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use crate::folder;
use crate::harness::{PATIENCE, Server};

/// One event type of an index.
#[derive(Deserialize)]
struct Definition {
    name: String,
    examples: Vec<Box<RawValue>>,
}

/// What a payload's topic and key are made of.
#[derive(Deserialize)]
struct Payload {
    action: Option<String>,
    repository: Option<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

/// One event as it is published.
#[derive(Clone)]
struct Given {
    topic: String,
    key: String,
    data: String,
}

/// The payloads in the order of the indexes, by id.
fn payloads() -> BTreeMap<String, Given> {
    let package = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/octokit/node_modules/@octokit/webhooks-examples");
    let indexes = ["api.github.com", "ghes-31", "ghes-32", "ghes-33", "ghes-34", "ghes-35"];
    let mut given = BTreeMap::new();
    for index in indexes {
        let path = package.join(index).join("index.json");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error}; run `npm ci --prefix tests/octokit` first, as tests/all.sh does",
                path.display()
            )
        });
        let listed = text
            .matches("\n    \"examples\": [")
            .count()
            .max(text.matches("\"examples\":[").count());
        let definitions: Vec<Definition> = serde_json::from_str(&text).expect("an index is JSON");
        assert_eq!(definitions.len(), listed, "every event type that {index} lists is read");
        for definition in definitions {
            assert!(!definition.examples.is_empty(), "{index}: {} has no payload", definition.name);
            for example in definition.examples {
                let payload: Payload =
                    serde_json::from_str(example.get()).expect("a payload is an object");
                let action = payload.action.unwrap_or_else(|| "none".to_owned());
                let topic = format!("github/{}/{action}", definition.name);
                let key =
                    payload.repository.map_or_else(|| "none".to_owned(), |known| known.full_name);
                let id = format!("{index}-{:04}", given.len());
                given.insert(id, Given { topic, key, data: example.get().to_owned() });
            }
        }
    }
    assert!(given.len() >= 726, "version 7.6.1 holds 726 payloads, {} were found", given.len());
    given
}

const GROUPS: [(&str, &str); 6] = [
    ("everything", "github/#"),
    ("issues", "github/issues/#"),
    ("opened", "github/+/opened"),
    ("checks", "github/check_run/completed"),
    ("pulls", "github/pull_request/+"),
    ("nothing", "gitlab/#"),
];

/// MQTT's rules, written down once more: the server's own matcher must not be its own judge.
fn matches(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), topic.split('/').collect());
    for (i, level) in filter.iter().enumerate() {
        match *level {
            "#" => return true,
            "+" if i < topic.len() => {}
            level if topic.get(i) == Some(&level) => {}
            _ => return false,
        }
    }
    filter.len() == topic.len()
}

/// What the members of each group have handled, in order: group, id, topic, data.
type Handled = Arc<Mutex<Vec<(&'static str, String, String, Vec<u8>)>>>;

fn options(server: &str) -> ClientOptions {
    let mut options = ClientOptions::new(server);
    // One event a batch: a repository's events are of many topics, and only batches that are sent one after the other
    // keep an order over topics.
    options.batch_events = 1;
    options
}

/// Two members of every group, each with a connection of its own, so that both shards have members.
async fn join_groups(server: &str, handled: &Handled) -> Vec<Client> {
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
                        let entry =
                            (group, id, delivery.topic().to_string(), event.data().to_vec());
                        handled.lock().expect("nobody panics with it").push(entry);
                    }
                    delivery.ack();
                }
            });
            clients.push(client);
        }
    }
    clients
}

fn event_of(id: &str, given: &Given) -> Event {
    let source = format!("https://github.com/{}", given.key);
    Event::json(given.data.clone())
        .id(id)
        .source(source)
        .kind("com.github.webhook")
        .key(given.key.clone())
}

fn expected_ids(given: &BTreeMap<String, Given>, filter: &str) -> BTreeSet<String> {
    let matching = given.iter().filter(|(_, given)| matches(filter, &given.topic));
    matching.map(|(id, _)| id.clone()).collect()
}

/// Waits until every group has handled all that its filter says.
async fn wait_for_all(given: &BTreeMap<String, Given>, handled: &Handled) {
    let is_all = || {
        let handled = handled.lock().expect("nobody panics with it");
        GROUPS.iter().all(|(group, filter)| {
            let ids: BTreeSet<_> =
                handled.iter().filter(|(of, ..)| of == group).map(|(_, id, ..)| id).collect();
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

/// Exactly what the filter says, byte for byte, and in order for each repository.
fn check(given: &BTreeMap<String, Given>, handled: &Handled, may_repeat: bool) {
    let handled = handled.lock().expect("nobody panics with it");
    for (group, filter) in GROUPS {
        let mut seen = BTreeSet::new();
        let mut last: BTreeMap<&str, &str> = BTreeMap::new();
        for (_, id, topic, data) in handled.iter().filter(|(of, ..)| *of == group) {
            let event =
                given.get(id).unwrap_or_else(|| panic!("{group}: {id} was never published"));
            assert_eq!(
                (topic, data.as_slice()),
                (&event.topic, event.data.as_bytes()),
                "{group}: {id}"
            );
            if !seen.insert(id.clone()) {
                assert!(may_repeat, "{group} handled {id} twice");
                continue;
            }
            let before = last.insert(&event.key, id);
            assert!(
                before < Some(id.as_str()),
                "{group}: {id} of {} came after {before:?}",
                event.key
            );
        }
        assert_eq!(seen, expected_ids(given, filter), "{group} is given what {filter} matches");
    }
}

/// Routing, grouping and order, on input that nobody made up for the test.
#[tokio::test]
async fn every_group_gets_what_its_filter_says() {
    let given = payloads();
    for shards in ["1", "2"] {
        let folder = folder::new();
        let server = Server::start_with(folder.path(), &["--shards", shards]);
        let address = server.address().to_string();
        let handled = Handled::default();
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
    let given = payloads();
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let address = server.address().to_string();
    let handled = Handled::default();
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
