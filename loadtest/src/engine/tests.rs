//! The engine against the stand-in.

use std::net::{SocketAddr, TcpListener};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::*;
use crate::stand_in::serve;

fn stand_in() -> (SocketAddr, JoinHandle<anyhow::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (address, thread::spawn(move || serve(listener, false)))
}

fn load(server: SocketAddr) -> Load {
    Load {
        protocol: Protocol::Ringmesh,
        server,
        publishers: 2,
        subscribers: 0,
        groups: 1,
        idle: 0,
        topics: 1,
        partitions: 16,
        shape: EventShape { data_bytes: 100, batch: 1, keys: 10 },
        pace: Pace::Window,
        window: 4,
        credit: 100,
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(300),
        behind: false,
        backlog_events: 0,
        stamped: false,
    }
}

/// An engine that loses an ack, or leaves its window unused, measures itself.
#[test]
fn a_window_is_kept_full_and_every_batch_is_answered() {
    let (address, server) = stand_in();
    let mut borders = 0;
    let tally = Run::connect(&load(address))
        .unwrap()
        .drive(|| {
            borders += 1;
            Ok(())
        })
        .unwrap();
    server.join().unwrap().unwrap();
    assert_eq!(borders, 2);
    assert_eq!(tally.unanswered(), 0);
    assert!(tally.acked_batches > 100, "{}", tally.acked_batches);
    assert!(tally.acked_events_counted <= tally.acked_batches);
    assert!(tally.ack.summary().unwrap().count > 50);
}

/// An open loop that sends less than asked hides a slow server.
#[test]
fn an_open_loop_sends_what_was_asked_and_every_subscriber_gets_it() {
    let (address, server) = stand_in();
    let asked = Load {
        subscribers: 2,
        groups: 2,
        idle: 3,
        topics: 5,
        shape: EventShape { data_bytes: 1_000, batch: 10, keys: 100 },
        pace: Pace::Rate(5_000.0),
        window: 100,
        ..load(address)
    };
    let tally = Run::connect(&asked).unwrap().drive(|| Ok(())).unwrap();
    server.join().unwrap().unwrap();
    // 350 ms of 500 batches a second: moments 0, 2, .. 348 ms.
    assert_eq!(tally.sent_batches, 175);
    assert_eq!(tally.acked_batches, 175);
    assert_eq!(tally.delivered_events(), 2 * 1_750);
    assert_eq!(tally.ack.summary().unwrap().count, 150);
    assert_eq!(tally.end_to_end.summary().unwrap().count, 2 * 150);
}
