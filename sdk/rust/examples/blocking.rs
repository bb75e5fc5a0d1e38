//! A worker without a runtime: publishes ten jobs, takes them from its group one by one, and hands one back:
//! `cargo run --example blocking -- 127.0.0.1:10300`.

use std::error::Error;
use std::time::Duration;

use ringmesh_client::blocking::Client;
use ringmesh_client::{ClientOptions, Event, Start, SubscribeOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let server = std::env::args().nth(1).ok_or("give the server's address, HOST:PORT")?;
    let client = Client::connect(ClientOptions::new(server))?;
    let wish = SubscribeOptions::new("example/jobs").group("workers").start(Start::Earliest);
    let mut jobs = client.subscribe(wish)?;
    for job in 0..10 {
        let event = Event::text(format!("job {job}"));
        // To know at once: .publish(..)?.wait()?
        let _ = client.publish("example/jobs", &event)?;
    }
    client.flush()?;

    let (mut done, mut is_first) = (0, true);
    while done < 10 {
        // A job that takes longer than the server waits goes to another worker.
        let Some(delivery) = jobs.next(Duration::from_secs(30))? else {
            return Err("no job came in half a minute".into());
        };
        if std::mem::take(&mut is_first) {
            println!("handed back");
            delivery.retry();
            continue;
        }
        for (_, event) in delivery.events() {
            println!("done {}", String::from_utf8_lossy(event.data()));
            done += 1;
        }
        delivery.ack();
    }
    jobs.end()?;
    client.close(Duration::from_secs(5));
    Ok(())
}
