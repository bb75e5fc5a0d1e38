//! The Rust client as its users have it: the examples of its package, and the calls that wait.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use ringmesh_client::blocking::{Client, PublishHandle};
use ringmesh_client::{
    ClientOptions, Event, PublishError, Start, SubscribeError, SubscribeOptions,
};

use crate::folder;
use crate::harness::{BINARY, PATIENCE, Server};

/// What an example prints. `cargo test` builds it beside the tests, as `sdk_NAME`.
fn example(name: &str, arguments: &[&str]) -> Vec<String> {
    let folder = Path::new(BINARY).parent().expect("the binary stands in a folder");
    let program = folder.join(format!("examples/sdk_{name}"));
    assert!(program.exists(), "run `cargo build -p ringmesh --examples` first");
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("the example starts");
    assert!(output.status.success() && output.stderr.is_empty(), "{name}: {output:?}");
    String::from_utf8(output.stdout).expect("it prints text").lines().map(str::to_owned).collect()
}

/// An example that does not run teaches what is not so.
#[test]
fn the_examples_of_the_sdk_run() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let address = server.address().to_string();
    let published = example("publish", &[&address]);
    assert_eq!(published.len(), 10);
    assert!(published.iter().all(|line| line.ends_with(" durable")), "{published:?}");
    let ordered = example("ordered", &[&address]);
    assert_eq!(ordered.len(), 30);
    let done = example("blocking", &[&address]);
    let jobs: Vec<String> = (0..10).map(|job| format!("done job {job}")).collect();
    let mut worked: Vec<String> = done.iter().skip(1).cloned().collect();
    worked.sort();
    assert_eq!((done[0].as_str(), worked), ("handed back", jobs), "each job once");
    // Each account's events in the order in which they were published.
    let all = example("subscribe", &[&address, "example/payments"]);
    for account in 0..3 {
        let events = all.iter().filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok());
        let of_account: Vec<u32> = events.filter(|number| number % 3 == account).collect();
        assert_eq!(of_account.len(), 10, "{all:?}");
        assert!(of_account.is_sorted(), "{of_account:?}");
    }
    assert!(server.stop().success());
}

/// What `test` returns; a call that waits for ever fails instead of holding up all other tests.
fn in_time<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, result) = mpsc::channel();
    std::thread::spawn(move || sender.send(test()));
    result.recv_timeout(PATIENCE).expect("no call waits for ever, and none panics")
}

fn options(server: &Server) -> ClientOptions {
    ClientOptions::new(server.address().to_string()).request_timeout(PATIENCE)
}

const BUFFER_BYTES: usize = 8 << 10;

fn publish(client: &Client, number: usize) -> Result<PublishHandle, PublishError> {
    client.publish("sdk/blocking", &Event::text(format!("{number:0100}")))
}

/// In a runtime's own thread a blocking call must neither panic nor wait for ever, however often the task has been
/// served already: a library may be called from where its author did not think.
#[test]
fn blocking_calls_work_within_a_runtime() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let options = options(&server);
    let received = in_time(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let task = async move {
            let client = Client::connect(options).expect("the server is there");
            let all = SubscribeOptions::new("sdk/#").start(Start::Earliest);
            let mut subscription = client.subscribe(all).expect("the server answers");
            assert!(subscription.try_receive().expect("it stands").is_none_or(|_| true));
            let mut received = 0;
            for number in 0..500 {
                let ack = publish(&client, number).expect("it is small").wait();
                ack.expect("it is acknowledged");
                while received <= number {
                    let delivery = subscription.next(PATIENCE).expect("it stands");
                    let delivery = delivery.expect("what is acknowledged is delivered");
                    received += delivery.count() as usize;
                    delivery.ack();
                }
            }
            let nothing = subscription.next(Duration::ZERO).expect("it stands");
            assert!(nothing.is_none(), "{nothing:?}");
            subscription.unsubscribe().expect("the server answers");
            client.close(PATIENCE);
            received
        };
        // Spawned, so that it is a task with a turn that ends.
        let runtime = runtime.expect("a runtime starts");
        runtime.block_on(async { tokio::spawn(task).await.expect("nothing panics") })
    });
    assert_eq!(received, 500);
    assert!(server.stop().success());
}

/// Without back-pressure a program that publishes faster than the disk syncs ends for want of memory; with it, one
/// whose server is gone must not wait for ever.
#[test]
fn a_full_buffer_holds_its_publisher_until_the_server_is_given_up() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let options = options(&server);
    let options = options.buffer_bytes(BUFFER_BYTES).batch_events(1);
    let client = Client::connect(options.reconnect_timeout(Duration::from_millis(200)));
    let client = client.expect("the server is there");
    in_time(move || publish_until_given_up(&client, server));
}

fn publish_until_given_up(client: &Client, server: Server) {
    let mut server = Some(server);
    let (mut waiting, mut acknowledged, mut refusal) = (Vec::new(), 0, None);
    for number in 0.. {
        match publish(client, number) {
            Ok(handle) => waiting.push(handle),
            Err(error) => {
                refusal = Some(error);
                break;
            }
        }
        waiting.retain_mut(|handle| match handle.wait_timeout(Duration::ZERO) {
            None => true,
            Some(answer) => {
                acknowledged += usize::from(answer.is_ok());
                false
            }
        });
        // Each batch is a header, its body and the event's 100 bytes.
        assert!(waiting.len() <= BUFFER_BYTES / 184 + 1, "{} are under way", waiting.len());
        if acknowledged > 300 {
            let _ = server.take().map(Server::kill);
        }
    }
    assert!(matches!(refusal, Some(PublishError::Lost { .. })), "{refusal:?}");
    for handle in waiting {
        let answer = handle.wait();
        assert!(matches!(answer, Ok(_) | Err(PublishError::Lost { .. })), "{answer:?}");
    }
    let late = client.subscribe(SubscribeOptions::new("sdk/#"));
    assert!(matches!(late, Err(SubscribeError::Closed)), "{late:?}");
    assert!(matches!(client.flush(), Err(PublishError::Lost { .. })));
}

/// A handle that is dropped must not hold up its thread, nor take what it was given with it; and who still listens
/// must hear of the end.
#[test]
fn a_dropped_client_still_sends_and_a_closed_one_tells_its_subscriptions() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let listening = Client::connect(options(&server)).expect("the server is there");
    let mut subscription = listening.subscribe(SubscribeOptions::new("sdk/#")).expect("it answers");
    let publishing = Client::connect(options(&server)).expect("the server is there");
    let handles: Vec<PublishHandle> =
        (0..200).map(|number| publish(&publishing, number).expect("there is room")).collect();
    drop(publishing);
    let mut deliveries = subscription.deliveries();
    let mut received = 0;
    while received < handles.len() {
        let delivery = deliveries.next().expect("the client lives").expect("it stands");
        received += delivery.count() as usize;
        delivery.ack();
    }
    drop(deliveries);
    for handle in handles {
        assert!(handle.wait().is_ok(), "it was sent before the goodbye");
    }
    listening.close(PATIENCE);
    let after = subscription.next(PATIENCE);
    assert!(matches!(after, Err(SubscribeError::Closed)), "{after:?}");
    assert!(subscription.deliveries().next().is_none());
    assert!(server.stop().success());
}

/// A client whose runtime is gone can do nothing any more, and must say so instead of waiting for ever.
#[test]
fn a_client_ends_with_its_runtime() {
    let folder = folder::new();
    let server = Server::start(folder.path());
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let short = runtime().expect("a runtime starts");
    let client = short.block_on(ringmesh_client::Client::connect(options(&server)));
    let client = client.expect("the server is there");
    let event = Event::text("never sent");
    let handle = short.block_on(client.publish("sdk/runtime", &event)).expect("there is room");
    drop(short);
    let told = in_time(move || {
        runtime().expect("a runtime starts").block_on(async {
            let published = client.publish("sdk/runtime", &event).await.map(drop);
            [handle.await.map(drop), client.flush().await, published]
        })
    });
    for told in told {
        assert!(matches!(told, Err(PublishError::Lost { .. })), "{told:?}");
    }
}
