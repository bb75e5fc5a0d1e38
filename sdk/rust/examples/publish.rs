//! Publishes ten events and prints where each stands: `cargo run --example publish -- 127.0.0.1:10300`.

use std::error::Error;
use std::time::Duration;

use ringmesh_client::{Client, ClientOptions, Event};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1).ok_or("give the server's address, HOST:PORT")?;
    let client = Client::connect(ClientOptions::new(server)).await?;
    let mut waiting = Vec::new();
    for speed in 40..50 {
        let event = Event::json(format!(r#"{{"speed": {speed}}}"#)).source("vin-7").kind("speed");
        // Waits only while the buffer is full: what is acknowledged later is waited for below.
        waiting.push(client.publish("example/publish", &event).await?);
    }
    for handle in waiting {
        let ack = handle.await?;
        println!("partition {} offset {} {}", ack.partition, ack.offset, ack.level.name());
    }
    client.close(Duration::from_secs(5)).await;
    Ok(())
}
