//! The network's floor: small messages there and back over loopback TCP, between two threads on their own cores.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::latency::Latency;
use crate::machine;
use crate::report::Row;

/// Messages that one read takes, where so many are there.
const READ_AT_ONCE: usize = 64;
/// Most messages on their way: with more of them both sides could wait for room in the other's socket.
const OPEN_MAX: u64 = 1024;
/// Longest wait for the echo with nothing left to send.
const ANSWER_MAX: Duration = Duration::from_secs(10);

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
        let mut trips = Trips::new();
        let pace = match self.rate {
            None => {
                self.one_after_the_other(&mut stream, &mut trips)?;
                "back to back".to_owned()
            }
            Some(rate) => {
                self.on_time(rate, &mut stream, &mut trips)?;
                format!("{rate:.0}/s")
            }
        };
        let elapsed = trips.started.elapsed().as_secs_f64();
        let summary = trips.round_trip.summary().context("no message came back")?;
        let mut row = Row::new(format!("loopback round trip {} B, {pace}", self.message_bytes));
        row.rate_per_s = Some(summary.count as f64 / elapsed);
        row.latency("round trip", Some(summary));
        row.latency("publish delay", trips.delay.summary());
        Ok(row)
    }

    fn one_after_the_other(&self, stream: &mut TcpStream, trips: &mut Trips) -> anyhow::Result<()> {
        let mut message = vec![7; self.message_bytes];
        while trips.started.elapsed() < self.duration {
            let sent = Instant::now();
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            trips.back(sent);
        }
        Ok(())
    }

    /// Each message at its moment, whatever has come back by then: a stall delays what was sent during it and no more.
    fn on_time(&self, rate: f64, stream: &mut TcpStream, trips: &mut Trips) -> anyhow::Result<()> {
        let message = vec![7; self.message_bytes];
        let mut room = vec![0; self.message_bytes * READ_AT_ONCE];
        let count = (self.duration.as_secs_f64() * rate).ceil() as u64;
        let started = trips.started;
        let intended = |number: u64| started + Duration::from_secs_f64(number as f64 / rate);
        let (mut sent, mut bytes_back) = (0, 0);
        loop {
            let back = bytes_back / self.message_bytes as u64;
            if back == count {
                return Ok(());
            }
            let may_send = sent < count && sent - back < OPEN_MAX;
            let due = may_send.then(|| intended(sent));
            if let Some(due) = due.filter(|due| *due <= Instant::now()) {
                trips.delay.record_ns(due.elapsed().as_nanos() as u64);
                stream.write_all(&message)?;
                sent += 1;
            }
            let until = due.unwrap_or_else(|| Instant::now() + ANSWER_MAX);
            if !machine::readable_before(stream, until)? {
                anyhow::ensure!(due.is_some(), "the echo did not answer for {ANSWER_MAX:?}");
                continue;
            }
            let found = stream.read(&mut room)?;
            anyhow::ensure!(found > 0, "the echo closed its connection");
            bytes_back += found as u64;
            // From the intended time, as the load is measured: what waking up costs is part of it.
            (back..bytes_back / self.message_bytes as u64).for_each(|it| trips.back(intended(it)));
        }
    }
}

/// What was seen of the messages.
struct Trips {
    started: Instant,
    round_trip: Latency,
    delay: Latency,
}

impl Trips {
    fn new() -> Self {
        Self { started: Instant::now(), round_trip: Latency::new(), delay: Latency::new() }
    }

    fn back(&mut self, since: Instant) {
        self.round_trip.record_ns(since.elapsed().as_nanos() as u64);
    }
}

fn echo(mut stream: TcpStream, bytes: usize) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut room = vec![0; bytes * READ_AT_ONCE];
    loop {
        let found = stream.read(&mut room)?;
        if found == 0 {
            return Ok(());
        }
        stream.write_all(&room[..found])?;
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

    /// An echo that answers later than the next message is due: the pace is kept all the same, and no wait adds up.
    #[test]
    fn a_slow_echo_holds_nothing_up() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let slow = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut room = [0; 64 * 64];
            while let Ok(found @ 1..) = stream.read(&mut room) {
                thread::sleep(Duration::from_millis(20));
                stream.write_all(&room[..found]).unwrap();
            }
        });
        let trips = RoundTrips {
            message_bytes: 64,
            rate: Some(1_000.0),
            duration: Duration::from_millis(500),
            server_cpu: None,
            client_cpu: None,
        };
        let row = trips.measure(TcpStream::connect(address).unwrap()).unwrap();
        slow.join().unwrap();
        assert_eq!(row.latencies[0].summary.count, 500, "{row:?}");
        // One after the other they would take 10 s; here a message waits for the sleep before its own at most.
        assert!(row.rate_per_s.unwrap() > 100.0, "{row:?}");
    }
}
