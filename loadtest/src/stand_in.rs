//! A stand-in for a server: it speaks the protocol, acknowledges at once, passes events on, and stores nothing.
//!
//! It shows what the load generator itself can do (no server can look faster than this), and its tests need no
//! server. It checks nothing that a real server would check. Every subscription gets every event.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use anyhow::Context;
use codec::ack::AckLevel;
use codec::batch::Batch;
use codec::frame::{self, Acked, DeliveryHead, Frame, Kind, Parsed, TopicFrame, Welcome};
use codec::header::{BatchHeader, HEADER_BYTES, HeaderSeed};
use codec::ids::{Offset, Partition, TopicId};
use codec::limits;
use rustix::event::epoll::{self, EventData, EventFlags};

/// The listener's number among the watched sockets.
const LISTENER: u64 = u64::MAX;

struct Peer {
    stream: TcpStream,
    inbox: Vec<u8>,
    out: Vec<u8>,
    subscription: Option<u64>,
    watched_for_room: bool,
}

/// Serves until the last connection has closed, or for ever if `stays`.
pub(crate) fn serve(listener: TcpListener, stays: bool) -> anyhow::Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let (mut scratch, mut offset) = (vec![0; 256 << 10], 0);
    loop {
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Err(rustix::io::Errno::INTR) => {}
            result => {
                result?;
            }
        }
        for event in &events {
            if event.data.u64() == LISTENER {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                epoll::add(
                    &epoll,
                    &stream,
                    EventData::new_u64(peers.len() as u64),
                    EventFlags::IN,
                )?;
                let peer = Peer {
                    stream,
                    inbox: Vec::new(),
                    out: Vec::new(),
                    subscription: None,
                    watched_for_room: false,
                };
                peers.push(Some(peer));
                continue;
            }
            let (index, flags) = (event.data.u64() as usize, event.flags);
            if flags.contains(EventFlags::OUT) {
                flush(&epoll, &mut peers, index)?;
            }
            if !receive(&mut peers, index, &mut scratch, &mut offset)? {
                peers[index] = None;
            }
        }
        for index in 0..peers.len() {
            flush(&epoll, &mut peers, index)?;
        }
        if !stays && !peers.is_empty() && peers.iter().all(Option::is_none) {
            return Ok(());
        }
    }
}

/// Reads once and answers. Returns false when the peer is gone.
fn receive(
    peers: &mut [Option<Peer>],
    index: usize,
    scratch: &mut [u8],
    offset: &mut u64,
) -> anyhow::Result<bool> {
    let Some(mut peer) = peers[index].take() else { return Ok(true) };
    match peer.stream.read(scratch) {
        Ok(0) => return Ok(false),
        Ok(found) => peer.inbox.extend_from_slice(&scratch[..found]),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(_) => return Ok(false),
    }
    let (inbox, mut used) = (std::mem::take(&mut peer.inbox), 0);
    let mut acks: Option<usize> = None;
    while let Parsed::Frame { request, frame, consumed } = frame::parse(&inbox[used..])? {
        used += consumed;
        if let Frame::Publish(bytes) = frame {
            let (acked, header) = acknowledge(request, bytes, offset)?;
            if acks.is_none_or(|at| !acked.extend(at, &mut peer.out)) {
                acks = Some(peer.out.len());
                acked.encode(&mut peer.out);
            }
            for subscriber in peers.iter_mut().flatten() {
                deliver(subscriber, &header, bytes);
            }
        } else {
            acks = None;
            answer(&mut peer, request, &frame);
        }
    }
    peer.inbox = inbox;
    peer.inbox.drain(..used);
    peers[index] = Some(peer);
    Ok(true)
}

fn answer(peer: &mut Peer, request: u64, frame: &Frame<'_>) {
    match frame {
        Frame::Hello(_) => {
            welcome().encode(&mut peer.out);
            TopicFrame { id: TopicId(1), name: "loadtest/0" }.encode(&mut peer.out);
        }
        Frame::Subscribe(_) => {
            peer.subscription = Some(request);
            frame::encode_plain(Kind::Subscribed, request, &[], &mut peer.out);
        }
        Frame::Ping(bytes) => frame::encode_plain(Kind::Pong, request, bytes, &mut peer.out),
        _ => {}
    }
}

fn acknowledge(
    request: u64,
    bytes: &[u8],
    offset: &mut u64,
) -> anyhow::Result<(Acked, BatchHeader)> {
    let batch = Batch::parse(bytes, HeaderSeed::WIRE)?;
    let BatchHeader { topic, partition, count, .. } = batch.header;
    let partition = if partition == Partition::ANY { Partition(0) } else { partition };
    let base_offset = Offset(*offset);
    *offset += u64::from(count);
    let header = BatchHeader { topic: TopicId(1), partition, base_offset, ..batch.header };
    let level = AckLevel::Received;
    Ok((Acked { request, topic, partition, base_offset, count, level }, header))
}

fn deliver(subscriber: &mut Peer, header: &BatchHeader, batch: &[u8]) {
    let Some(number) = subscriber.subscription else { return };
    let head = DeliveryHead { attempt: 1, token: b"stand-in", bitmap: None };
    head.encode(number, batch.len(), &mut subscriber.out);
    subscriber.out.extend_from_slice(&header.encode(HeaderSeed::WIRE));
    subscriber.out.extend_from_slice(&batch[HEADER_BYTES..]);
}

/// Writes what the peer's socket takes, and watches for room when it does not take all.
fn flush(
    epoll: &rustix::fd::OwnedFd,
    peers: &mut [Option<Peer>],
    index: usize,
) -> anyhow::Result<()> {
    let Some(peer) = &mut peers[index] else { return Ok(()) };
    if peer.out.is_empty() {
        return Ok(());
    }
    let written = match peer.stream.write(&peer.out) {
        Ok(written) => written,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        // Its end shows when it is read.
        Err(_) => peer.out.len(),
    };
    peer.out.drain(..written);
    if peer.watched_for_room == peer.out.is_empty() {
        peer.watched_for_room = !peer.out.is_empty();
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::OUT, peer.watched_for_room);
        epoll::modify(epoll, &peer.stream, EventData::new_u64(index as u64), flags)
            .context("cannot watch a socket")?;
    }
    Ok(())
}

fn welcome() -> Welcome {
    Welcome {
        version: frame::VERSION_HIGHEST,
        partitions: limits::PARTITIONS,
        ping_interval_ms: 10_000,
        node_id: 1,
        features: 0,
        batch_bytes_max: limits::BATCH_BYTES_MAX,
        batch_events_max: limits::BATCH_EVENTS_MAX,
        event_data_bytes_max: limits::EVENT_DATA_BYTES_MAX,
        attributes_bytes_max: limits::ATTRIBUTES_BYTES_MAX,
        topic_bytes_max: limits::TOPIC_BYTES_MAX as u32,
        topic_levels_max: limits::TOPIC_LEVELS_MAX as u32,
        window_batches_max: 4_096,
        topics_max: limits::TOPICS_MAX,
        subscriptions_max: 1,
        credit_max: 1 << 20,
        idle_timeout_ms: 30_000,
        partition: 0,
    }
}
