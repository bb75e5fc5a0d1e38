//! The network's floor: small messages there and back over loopback TCP, between two threads on their own cores.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::latency::Latency;
use crate::machine;
use crate::report::Row;

/// One measurement of the round trip.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoundTrips {
    /// Bytes of a message, the same in both directions.
    pub(crate) message_bytes: usize,
    /// Messages a second; `None` is back to back.
    pub(crate) rate: Option<f64>,
    /// How long.
    pub(crate) duration: Duration,
    /// Core of the echoing thread.
    pub(crate) server_cpu: Option<usize>,
    /// Core of the measuring thread.
    pub(crate) client_cpu: Option<usize>,
}

impl RoundTrips {
    /// Runs the measurement.
    pub(crate) fn run(&self) -> anyhow::Result<Row> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (bytes, server_cpu) = (self.message_bytes, self.server_cpu);
        let echo = thread::Builder::new().name("echo".to_owned()).spawn(move || {
            if let Some(cpu) = server_cpu {
                machine::pin(cpu)?;
            }
            let (stream, _) = listener.accept()?;
            echo(stream, bytes)
        })?;
        let this = *self;
        // A thread of its own, so that pinning it does not move the caller.
        let client = thread::Builder::new().name("round-trip".to_owned()).spawn(move || {
            if let Some(cpu) = this.client_cpu {
                machine::pin(cpu)?;
            }
            this.measure(TcpStream::connect(address)?)
        })?;
        let row = client.join().expect("the measuring thread does not panic")?;
        echo.join().expect("the echoing thread does not panic").context("the echo failed")?;
        Ok(row)
    }

    fn measure(&self, mut stream: TcpStream) -> anyhow::Result<Row> {
        stream.set_nodelay(true)?;
        machine::wake_on_time();
        let mut message = vec![7; self.message_bytes];
        let (mut round_trip, mut delay) = (Latency::new(), Latency::new());
        let started = Instant::now();
        let mut intended = started;
        while intended.duration_since(started) < self.duration {
            if self.rate.is_some() {
                machine::sleep_until(intended);
                delay.record_ns(intended.elapsed().as_nanos() as u64);
            }
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            // From the intended time, as the load is measured: what waking up costs is part of it.
            round_trip.record_ns(intended.elapsed().as_nanos() as u64);
            intended = match self.rate {
                Some(rate) => intended + Duration::from_secs_f64(1.0 / rate),
                None => Instant::now(),
            };
        }
        let elapsed = started.elapsed().as_secs_f64();
        let summary = round_trip.summary().context("no message came back")?;
        let pace = self.rate.map_or("back to back".to_owned(), |rate| format!("{rate:.0}/s"));
        let mut row = Row::new(format!("loopback round trip {} B, {pace}", self.message_bytes));
        row.rate_per_s = Some(summary.count as f64 / elapsed);
        row.latency("round trip", Some(summary));
        row.latency("publish delay", delay.summary());
        Ok(row)
    }
}

fn echo(mut stream: TcpStream, bytes: usize) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut message = vec![0; bytes];
    loop {
        let found = stream.read(&mut message)?;
        if found == 0 {
            return Ok(());
        }
        stream.write_all(&message[..found])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paced and unpaced are two figures: the paced one must keep its pace, or it shows another load.
    #[test]
    fn the_pace_is_kept() {
        let trips = RoundTrips {
            message_bytes: 64,
            rate: Some(500.0),
            duration: Duration::from_millis(200),
            server_cpu: None,
            client_cpu: None,
        };
        let paced = trips.run().unwrap();
        assert_eq!(paced.latencies[0].summary.count, 100, "{paced:?}");
        let free = RoundTrips { rate: None, ..trips }.run().unwrap();
        assert!(free.latencies[0].summary.count > 100, "{free:?}");
    }
}
