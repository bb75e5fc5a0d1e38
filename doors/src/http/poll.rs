//! Polling: a member of the group that stays until there is something, or the time is over. What it was given stays
//! reserved until it is settled by its tokens or times out.

use std::sync::Arc;

use codec::problem::Problem;
use codec::refusal::{Code, Refusal};
use dataplane::selection::Selection;
use dataplane::session::{Delivery, SessionKey, SubscribeRequest};
use dataplane::shard::Shard;
use routing::subscription::Mode;

use super::HttpOptions;
use super::events::{self, Form};
use super::query;
use super::routes::PollWish;
use super::session::number;

/// Once something is there, how long to wait for more of it: deliveries of one cycle come one by one.
const LINGER_US: u64 = 2_000;
/// Bytes of events after which no more are asked for.
const BYTES_ENOUGH: usize = 1 << 20;

/// A poll under way.
#[derive(Debug)]
pub(super) struct Polling {
    wish: PollWish,
    /// Where the group begins if it is new.
    start: Option<routing::subscription::Start>,
    /// When it is answered at the latest; monotonic microseconds.
    pub(super) until_us: u64,
    /// The events, as the answer has them.
    found: Vec<u8>,
    count: u32,
    is_sated: bool,
}

impl Polling {
    /// Asks the shard to be a member.
    pub(super) fn begin(
        wish: PollWish,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
        options: &HttpOptions,
    ) -> Result<Polling, Problem> {
        let start =
            wish.from.as_deref().map(|text| query::start(text, &wish.filter, options.partitions));
        let start = start.transpose()?.flatten();
        let until_us = shard.clock().mono_us + u64::from(wish.timeout_ms) * 1_000;
        let polling =
            Polling { wish, start, until_us, found: Vec::new(), count: 0, is_sated: false };
        polling.subscribe(id, key, shard)?;
        Ok(polling)
    }

    fn subscribe(&self, id: u64, key: SessionKey, shard: &mut Shard) -> Result<(), Refusal> {
        let wish = SubscribeRequest {
            request: number(id, 0),
            group: Some(self.wish.group.clone()),
            filter: self.wish.filter.clone(),
            mode: Mode::Clustering,
            start: self.start.clone(),
            credit: self.wish.max,
        };
        shard.subscribe_as(key, Arc::from("$http"), wish)
    }

    /// The subscribe is refused. A start is for a new group only, and a client that polls says it each time.
    pub(super) fn refused(
        &mut self,
        refusal: Refusal,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
    ) -> Result<(), Refusal> {
        if refusal.code == Code::GroupExists && self.start.take().is_some() {
            return self.subscribe(id, key, shard);
        }
        Err(refusal)
    }

    /// Takes a delivery.
    pub(super) fn take(
        &mut self,
        delivery: &Delivery,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
    ) {
        if self.count == 0 {
            self.until_us = self.until_us.min(shard.clock().mono_us + LINGER_US);
        }
        let count = delivery.batch.header.count;
        let chosen = (0..count).filter(|index| match &delivery.selection {
            Selection::All => true,
            Selection::Some(events) => events.contains(*index),
        });
        for index in chosen {
            let start = self.found.len();
            if self.count > 0 {
                self.found.push(b',');
            }
            if events::write(delivery, index, Form::WithToken, &mut self.found) {
                self.count += 1;
            } else {
                self.found.truncate(start);
            }
        }
        if self.found.len() >= BYTES_ENOUGH && !std::mem::replace(&mut self.is_sated, true) {
            shard.set_credit(key, number(id, 0), self.count);
        }
    }

    /// Whether there is no reason to wait any longer.
    pub(super) fn is_over(&self, now_us: u64) -> bool {
        self.count >= self.wish.max || now_us >= self.until_us
    }

    /// The answer.
    pub(super) fn answer(&mut self) -> Vec<u8> {
        let mut out = b"{\"events\":[".to_vec();
        out.append(&mut self.found);
        out.extend_from_slice(b"]}");
        out
    }

    /// Bytes of memory that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.found.capacity()
    }
}
