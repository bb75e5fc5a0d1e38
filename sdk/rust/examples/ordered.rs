//! Events of one key keep their order and stand once, however often the connection breaks:
//! `cargo run --example ordered -- 127.0.0.1:10300`.

use std::error::Error;
use std::time::Duration;

use ringmesh_client::{Client, ClientOptions, Event, PublishError};

const ACCOUNTS: [&str; 3] = ["alice", "bob", "carol"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1).ok_or("give the server's address, HOST:PORT")?;
    // For so long a server may be away. What was not acknowledged is sent again, with the sequence that it had: the
    // server stores it once and tells where.
    let options = ClientOptions::new(server).reconnect_timeout(Duration::from_secs(120));
    let client = Client::connect(options).await?;
    let mut waiting = Vec::new();
    for number in 1..=30 {
        let account = ACCOUNTS[number % ACCOUNTS.len()];
        // The key decides the partition, and the events of a partition stand in the order of these calls.
        let event = Event::json(number.to_string()).id(format!("payment-{number}")).key(account);
        waiting.push((account, client.publish("example/payments", &event).await?));
    }
    for (account, handle) in waiting {
        match handle.await {
            Ok(ack) => println!("{account} partition {} offset {}", ack.partition, ack.offset),
            // Only now is it open whether the event stands there: whoever publishes it anew may double it.
            Err(PublishError::Lost { what }) => eprintln!("{account}: not known: {what}"),
            Err(error) => return Err(error.into()),
        }
    }
    client.close(Duration::from_secs(5)).await;
    Ok(())
}
