//! What came back: a token finds its way to the shard that owns its log, whichever connection it came by.

use codec::ids::Position;
use codec::refusal::{Code, Refusal};
use log::disk::LogKey;
use routing::subscription::GroupId;

use crate::fence::Fence;
use crate::group::group_log::Turn;
use crate::mail::{Mail, Read, Settle};
use crate::selection::Selection;
use crate::session::{SessionKey, Verdict};
use crate::shard::Shard;
use crate::token::TokenFields;

impl Shard {
    /// A subscriber says what became of events of a delivery. Answered only if the delivery is over, by
    /// [`SessionEvent::Refused`](crate::session::SessionEvent::Refused).
    ///
    /// # Errors
    /// The token is not one of this node's.
    pub fn settle(
        &mut self,
        key: SessionKey,
        request: u64,
        token: &[u8],
        selection: Selection,
        verdict: Verdict,
    ) -> Result<(), Refusal> {
        let _fence = Fence::default();
        self.settle_by((key, request), token, selection, verdict, false)
    }

    /// The same, and answered also if it is done: by [`SessionEvent::Settled`](crate::session::SessionEvent::Settled).
    ///
    /// # Errors
    /// As [`Shard::settle`].
    pub fn settle_and_tell(
        &mut self,
        key: SessionKey,
        request: u64,
        token: &[u8],
        selection: Selection,
        verdict: Verdict,
    ) -> Result<(), Refusal> {
        let _fence = Fence::default();
        self.settle_by((key, request), token, selection, verdict, true)
    }

    /// A subscriber has read events of a log, whatever became of their delivery since: nobody need get them any more.
    /// `runs` are positions, end exclusive, rising. Answered by
    /// [`SessionEvent::Settled`](crate::session::SessionEvent::Settled); what is not owed any more does not count.
    pub fn settle_read(
        &mut self,
        key: SessionKey,
        request: u64,
        group: GroupId,
        log: LogKey,
        runs: Vec<(Position, Position)>,
    ) {
        let _fence = Fence::default();
        let (from, owner) = (self.options.index, log.log % self.options.shards);
        let read = Read { from, session: key, request, group, log, runs };
        self.post(owner, Mail::Read(Box::new(read)));
    }

    pub(super) fn on_read(&mut self, read: &Read) {
        let events = self.try_read(read).unwrap_or(0);
        let Read { from, session, request, .. } = *read;
        self.post(from, Mail::Settled { session, request, events });
    }

    /// How many events are owed no longer; `None`: the log or the group is not there any more.
    fn try_read(&mut self, read: &Read) -> Option<u32> {
        let index = self.logs.iter().position(|log| log.key() == read.log)?;
        let group = self.groups.get_mut(&read.group)?;
        let before = group.members.in_flight_bytes();
        let log = &mut group.places[index].log;
        let settled = log.settle_read(&read.runs, &mut group.members);
        let after = group.members.in_flight_bytes();
        assert!(after <= before, "a settle sends nothing");
        self.free_in_flight(before - after);
        self.give_back(settled.returned);
        self.stats.settled_events += u64::from(settled.events);
        self.wake_lagging(read.group);
        self.wake_idle(read.group);
        if settled.events > 0 {
            self.note_moved(read.group);
            self.tell_older_done(read.group);
        }
        Some(settled.events)
    }

    fn settle_by(
        &mut self,
        (key, request): (SessionKey, u64),
        token: &[u8],
        selection: Selection,
        verdict: Verdict,
        is_answered: bool,
    ) -> Result<(), Refusal> {
        let token = TokenFields::decode(token).ok_or(Refusal::from(Code::MalformedToken))?;
        if token.node != self.options.node {
            return Err(Refusal::new(Code::MalformedToken, "the token is another node's"));
        }
        if let Selection::Some(events) = &selection
            && events.end() > token.count
        {
            let (limit, value) = (u64::from(token.count), u64::from(events.end()));
            return Err(Refusal::limit("events of the selection", limit, value));
        }
        // The logs of earlier generations are dealt out in the same way as partitions.
        let owner = token.log.log % self.options.shards;
        let from = self.options.index;
        let session = key;
        let settle = Settle { from, session, request, token, selection, verdict, is_answered };
        self.post(owner, Mail::Settle(Box::new(settle)));
        Ok(())
    }

    pub(super) fn on_settle(&mut self, settle: &Settle) {
        let Settle { from, session, request, token, selection, verdict, is_answered } = settle;
        let (session, request) = (*session, *request);
        let events = self.try_settle(token, selection, *verdict);
        if let Some(events) = events.filter(|_| *is_answered) {
            self.post(*from, Mail::Settled { session, request, events });
        }
        if events.is_none() {
            // The delivery timed out, or is of an earlier life of the server: what it was about is delivered again, so
            // the late answer changes nothing. Its client should know: it is too slow, or it works for nothing.
            self.stats.stale_settles += 1;
            let text = format!("attempt {} at this delivery is over", token.attempt);
            let refusal = Refusal::new(Code::StaleToken, text);
            self.post(*from, Mail::Stale { session, request, refusal });
        }
    }

    /// How many events it was; `None`: the delivery is over.
    fn try_settle(
        &mut self,
        token: &TokenFields,
        selection: &Selection,
        verdict: Verdict,
    ) -> Option<u32> {
        let (shard, mono_us) = (self.options.index, self.now.mono_us);
        let index = self.logs.iter().position(|log| log.key() == token.log)?;
        if self.active().epoch() != token.epoch {
            return None;
        }
        let group = self.groups.get_mut(&token.group)?;
        let before = group.members.in_flight_bytes();
        let turn = Turn { shard, mono_us, rules: &group.rules };
        let delay_max_us = group.rules.retry_delay_max_us;
        let log = &mut group.places[index].log;
        let (base, delivery) = (token.base_position, token.delivery);
        let settled = log.settle(base, delivery, selection, verdict, &mut group.members, turn);
        let dropped = log.take_dropped();
        let after = group.members.in_flight_bytes();
        assert!(after <= before, "a settle sends nothing");
        self.free_in_flight(before - after);
        self.give_back(settled.returned);
        // Also a late answer frees credit.
        self.wake_lagging(token.group);
        self.wake_idle(token.group);
        if settled.is_stale {
            return None;
        }
        self.stats.dropped_events += u64::from(dropped);
        match verdict {
            Verdict::Done => self.stats.settled_events += u64::from(settled.events),
            Verdict::Reject => self.stats.rejected_events += u64::from(settled.events),
            Verdict::Retry => {
                self.stats.retried_events += u64::from(settled.events);
                // Time for the longest delay and one more look.
                let until = mono_us + delay_max_us + 1_000_000;
                self.idle_until_us = self.idle_until_us.max(until);
            }
            Verdict::Unseen => {}
        }
        self.note_moved(token.group);
        self.tell_older_done(token.group);
        Some(settled.events)
    }

    /// Credit that another shard has asked for goes to the members' homes.
    pub(super) fn give_back(&mut self, returned: Vec<(crate::mail::MemberId, u32)>) {
        let from = self.options.index;
        for (member, events) in returned {
            self.post(member.shard, Mail::LeaseReturned { from, member, events });
        }
    }
}
