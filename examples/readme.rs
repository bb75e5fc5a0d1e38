//! The program that README.md shows, word for word: a test compares them, and runs this one.

use ringmesh_client::blocking::Client;
use ringmesh_client::{ClientOptions, Event};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(ClientOptions::new("127.0.0.1:10300"))?;
    let ack =
        client.publish("fleet/vin-7", &Event::json(r#"{"speed": 42}"#).key("vin-7"))?.wait()?;
    println!("partition {} offset {}", ack.partition, ack.offset);
    Ok(())
}
