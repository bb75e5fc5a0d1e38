//! Prints every event of a topic filter from the oldest on, until all that was there at the start has come:
//! `cargo run --example subscribe -- 127.0.0.1:10300 'example/#'`.

use std::error::Error;
use std::time::Duration;

use ringmesh_client::{Client, ClientOptions, Key, Received, Start, SubscribeOptions};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().ok_or("give the server's address, HOST:PORT")?;
    let filter = arguments.next().ok_or("give a topic filter")?;
    let client = Client::connect(ClientOptions::new(server)).await?;
    // With .group("NAME") the events are shared with others of that name, and the group keeps its place.
    let wish = SubscribeOptions::new(filter).start(Start::Earliest);
    let mut subscription = client.subscribe(wish).await?;
    // A program that goes on for ever asks for next() instead, which tells of deliveries alone.
    while let Some(received) = subscription.receive().await? {
        let delivery = match received {
            Received::Delivery(delivery) => delivery,
            Received::CaughtUp => break,
            // Events are gone: retention took them before they could be delivered.
            other => {
                eprintln!("{other:?}");
                continue;
            }
        };
        for (offset, event) in delivery.events() {
            let kind = event.text(&Key::Type).unwrap_or("event");
            let data = String::from_utf8_lossy(event.data());
            println!("{} {} {offset} {kind} {data}", delivery.topic(), delivery.partition());
        }
        // Until here it would be delivered again.
        delivery.ack();
    }
    subscription.unsubscribe().await?;
    client.close(Duration::from_secs(5)).await;
    Ok(())
}
