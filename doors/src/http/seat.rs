//! A group that a client of this door wants to be a member of, for as long as a request lasts.

use std::sync::Arc;

use codec::refusal::{Code, Refusal};
use dataplane::group::keys::KeyShare;
use dataplane::selection::Selection;
use dataplane::session::{SessionKey, SubscribeRequest, Verdict};
use dataplane::shard::Shard;
use dataplane::token::Token;
use routing::subscription::{Mode, Start};
use routing::topic::TopicFilter;

use super::session::number;

/// Who wants what from which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) client: Arc<str>,
    /// `None`: the client alone, for as long as it is there.
    pub(super) group: Option<Arc<str>>,
    pub(super) filter: TopicFilter,
    pub(super) mode: Mode,
    /// Where the group begins if it is new.
    pub(super) start: Option<Start>,
    /// The keys that the client takes, if the group's clients have divided them.
    pub(super) share: Option<KeyShare>,
}

impl Seat {
    /// Asks the shard to be a member, by this number, with so many events in flight at most.
    pub(super) fn take(
        &self,
        request: u64,
        credit: u32,
        key: SessionKey,
        shard: &mut Shard,
    ) -> Result<(), Refusal> {
        let (group, filter, mode) = (self.group.clone(), self.filter.clone(), self.mode);
        let start = self.start.clone();
        let wish = SubscribeRequest { request, group, filter, mode, start, credit };
        match self.share.clone() {
            Some(share) => shard.subscribe_sharing(key, self.client.clone(), wish, share),
            None => shard.subscribe_as(key, self.client.clone(), wish),
        }
    }

    /// The shard has refused it. Where its group is there already, it asks once more without a start, which is for new ones.
    pub(super) fn take_again(
        &mut self,
        refusal: Refusal,
        request: u64,
        credit: u32,
        key: SessionKey,
        shard: &mut Shard,
    ) -> Result<(), Refusal> {
        if refusal.code != Code::GroupExists || self.start.take().is_none() {
            return Err(refusal);
        }
        self.take(request, credit, key, shard)
    }
}

/// Asks the shard for each seat of a request, with so many events in flight at most.
pub(super) fn take_all(
    seats: &[Seat],
    id: u64,
    credit: u32,
    key: SessionKey,
    shard: &mut Shard,
) -> Result<(), Refusal> {
    let mut seats = seats.iter().enumerate();
    seats.try_for_each(|(part, seat)| seat.take(number(id, part), credit, key, shard))
}

/// Gives events of a delivery to others that the client has not been shown: it spends no attempt at them.
pub(super) fn hand_back(token: &Token, events: Selection, key: SessionKey, shard: &mut Shard) {
    // A delivery that is over has come to others already.
    let _ = shard.settle(key, u64::MAX, &token.0, events, Verdict::Unseen);
}
