//! Polling: a member of the group that stays until there is something, or the time is over. What it was given stays
//! reserved until it is settled by its tokens or times out.

use std::sync::Arc;

use codec::problem::Problem;
use codec::refusal::Refusal;
use dataplane::selection::{Bitmap, Selection};
use dataplane::session::{Delivery, Gap, SessionKey};
use dataplane::shard::Shard;
use dataplane::token::Token;
use routing::subscription::Mode;

use super::HttpOptions;
use super::events::{self, Form};
use super::query;
use super::routes::PollWish;
use super::seat::{Seat, hand_back, take_all};
use super::session::number;

/// Once something is there, how long to wait for more of it: deliveries of one cycle come one by one.
const LINGER_US: u64 = 2_000;
/// Bytes of events after which no more are asked for.
const BYTES_ENOUGH: usize = 1 << 20;

/// A poll under way.
#[derive(Debug)]
pub(super) struct Polling {
    seats: Vec<Seat>,
    /// Most events, of all seats together.
    max: u32,
    /// When it is answered at the latest; monotonic microseconds.
    pub(super) until_us: u64,
    form: Form,
    /// The events, as the answer has them.
    found: Vec<u8>,
    count: u32,
    is_sated: bool,
    /// What is gone that the group had not come to: how many events, if that is known.
    gap: Option<Option<u64>>,
    /// What they were in, with the events of each that the answer has: it goes back if nobody is there to take it.
    taken: Vec<(Token, Selection)>,
}

impl Polling {
    /// A poll of one group.
    pub(super) fn begin(
        wish: PollWish,
        id: u64,
        key: SessionKey,
        shard: &mut Shard,
        options: &HttpOptions,
    ) -> Result<Polling, Problem> {
        let PollWish { filter, group, from, max, timeout_ms } = wish;
        let start =
            from.map(|text| query::start(&text, &filter, options.partitions)).transpose()?;
        let (client, mode, start) = (Arc::from("$http"), Mode::Clustering, start.flatten());
        let seat = Seat { client, group: Some(group), filter, mode, start, share: None };
        Polling::of_seats(vec![seat], (max, timeout_ms), Form::WithToken, (id, key), shard)
    }

    /// A poll of several groups at once.
    pub(super) fn of_seats(
        seats: Vec<Seat>,
        (max, timeout_ms): (u32, u32),
        form: Form,
        (id, key): (u64, SessionKey),
        shard: &mut Shard,
    ) -> Result<Polling, Problem> {
        let until_us = shard.clock().mono_us + u64::from(timeout_ms) * 1_000;
        let (found, taken, count, is_sated) = (Vec::new(), Vec::new(), 0, false);
        let gap = None;
        let polling = Polling { seats, max, until_us, form, found, count, is_sated, gap, taken };
        if let Err(refusal) = take_all(&polling.seats, id, polling.credit(), key, shard) {
            polling.retire(id, key, shard);
            return Err(refusal.into());
        }
        Ok(polling)
    }

    /// Most events in flight to each seat.
    fn credit(&self) -> u32 {
        self.max.div_ceil(self.seats.len() as u32)
    }

    /// The subscribe is refused. `Ok`: it was asked for again, without the start, which a client that polls says each time.
    pub(super) fn refused(
        &mut self,
        refusal: Refusal,
        (id, part): (u64, usize),
        key: SessionKey,
        shard: &mut Shard,
    ) -> Result<(), Refusal> {
        let credit = self.credit();
        let seat = self.seats.get_mut(part);
        match seat {
            Some(seat) => seat.take_again(refusal, number(id, part), credit, key, shard),
            None => Err(refusal),
        }
    }

    /// Leaves its groups. What it was given stays reserved.
    pub(super) fn retire(&self, id: u64, key: SessionKey, shard: &mut Shard) {
        (0..self.seats.len()).for_each(|part| shard.retire(key, number(id, part)));
    }

    /// Nobody will have the answer: leaves its groups, and what it was given goes to others.
    pub(super) fn leave(&mut self, id: u64, key: SessionKey, shard: &mut Shard) {
        self.retire(id, key, shard);
        for (token, events) in self.taken.drain(..) {
            hand_back(&token, events, key, shard);
        }
    }

    /// Takes a delivery, as much of it as there is room for.
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
        let mut rest = Bitmap::none(count);
        let mut taken = Bitmap::none(count);
        for index in delivery.selection.to_bitmap(count).iter() {
            if self.count >= self.max {
                rest.set(index);
                continue;
            }
            let start = self.found.len();
            if self.count > 0 {
                self.found.push(b',');
            }
            if events::write(delivery, index, self.form, &mut self.found) {
                self.count += 1;
                taken.set(index);
            } else {
                self.found.truncate(start);
            }
        }
        if !rest.is_empty() {
            hand_back(&delivery.token, Selection::Some(rest), key, shard);
        }
        if !taken.is_empty() {
            self.taken.push((delivery.token, Selection::Some(taken)));
        }
        if self.found.len() >= BYTES_ENOUGH && !std::mem::replace(&mut self.is_sated, true) {
            for part in 0..self.seats.len() {
                shard.set_credit(key, number(id, part), 0);
            }
        }
    }

    /// Events are gone that the group was to be given.
    pub(super) fn passed(&mut self, gap: Gap) {
        let before = self.gap.unwrap_or(Some(0));
        self.gap = Some(before.zip(gap.events).map(|(before, more)| before + more));
    }

    /// Whether there is no reason to wait any longer.
    pub(super) fn is_over(&self, now_us: u64) -> bool {
        self.count >= self.max || now_us >= self.until_us
    }

    /// The answer.
    pub(super) fn answer(&mut self) -> Vec<u8> {
        if self.form == Form::EventMesh {
            return [b"[", &std::mem::take(&mut self.found)[..], b"]"].concat();
        }
        let mut out = b"{\"events\":[".to_vec();
        out.append(&mut self.found);
        out.push(b']');
        if let Some(events) = self.gap {
            out.extend_from_slice(b",\"gap\":");
            events::write_missed(events, &mut out);
        }
        out.push(b'}');
        out
    }

    /// Bytes of memory that it holds; bodies of deliveries are the shard's.
    pub(super) fn memory_bytes(&self) -> usize {
        self.found.capacity()
            + self.taken.capacity() * size_of::<(Token, Selection)>()
            + self.seats.capacity() * size_of::<Seat>()
    }
}
