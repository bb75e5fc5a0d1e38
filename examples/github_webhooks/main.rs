//! Real input: publishes every payload of the npm package `@octokit/webhooks-examples` as a CloudEvent to
//! `github/{event}/{action}`, keyed by repository, and checks what six groups with six filters are given.
//!
//! ```text
//! npm ci --prefix tests/octokit
//! cargo run --release --example github_webhooks -- 127.0.0.1:10300
//! ```

mod payloads;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

use codec::attribute::Key;
use payloads::{GROUPS, Given, Handled, check_group, event_of, expected_ids, payloads};
use ringmesh_client::{Client, ClientOptions, SubscribeOptions, Subscription};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Longer than this without an event means that one is missing.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:10300".to_owned());
    let package = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/octokit/node_modules/@octokit/webhooks-examples");
    let package = std::env::args().nth(2).map_or(package, PathBuf::from);
    let given = payloads(&package)?;

    // One event a batch: a repository's events have many topics, and a batch has one.
    let mut options = ClientOptions::new(server);
    options.batch_events = 1;
    let client = Client::connect(options).await?;
    let mut members = Vec::new();
    for (group, filter) in GROUPS {
        let subscription = client.subscribe(SubscribeOptions::new(filter).group(group)).await?;
        let expected = expected_ids(&given, filter).len();
        members.push((group, filter, handle(group, expected, subscription)));
    }
    publish(&client, &given).await?;

    println!("{:<12} {:<28} {:>6}", "group", "filter", "events");
    let mut is_right = true;
    for (group, filter, member) in members {
        match check_group(&given, &member.await?, (group, filter), true) {
            Ok(count) => println!("{group:<12} {filter:<28} {count:>6}"),
            Err(what) => {
                is_right = false;
                println!("{group:<12} {filter:<28} WRONG: {what}");
            }
        }
    }
    client.close(PATIENCE).await;
    if is_right { Ok(()) } else { Err("a group was not given what its filter says".into()) }
}

/// A member that acknowledges what it is given, until it has seen as many events as there should be.
fn handle(
    group: &'static str,
    expected: usize,
    mut subscription: Subscription,
) -> JoinHandle<Vec<Handled>> {
    tokio::spawn(async move {
        let mut handled = Vec::with_capacity(expected);
        while handled.len() < expected {
            let Ok(Ok(Some(delivery))) = timeout(PATIENCE, subscription.next()).await else {
                break;
            };
            for (_, event) in delivery.events() {
                handled.push(Handled {
                    group,
                    id: event.text(&Key::Id).unwrap_or_default().to_owned(),
                    topic: delivery.topic().to_string(),
                    data: event.data().to_vec(),
                });
            }
            delivery.ack();
        }
        handled
    })
}

async fn publish(client: &Client, given: &BTreeMap<String, Given>) -> Result<(), Box<dyn Error>> {
    let mut acks = Vec::with_capacity(given.len());
    for (id, payload) in given {
        acks.push(client.publish(&payload.topic, &event_of(id, payload)).await?);
    }
    for ack in acks {
        ack.await?;
    }
    println!("{} events are durable", given.len());
    Ok(())
}
