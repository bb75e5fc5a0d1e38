//! Mailboxes between shards, and from the control plane to shards: bounded, delayed, in order from each sender.

use std::collections::VecDeque;

use dataplane::mail::Mail;

use crate::faults::{Fault, Tally};
use crate::random::Random;

/// Mail that takes longer than this counts as slow.
const SLOW_US: u64 = 2_000;

/// How mail behaves in a run.
#[derive(Clone, Copy, Debug)]
pub struct NetworkOptions {
    /// Mail that one mailbox holds.
    pub mailbox_len_max: usize,
    /// How often, in a thousand, mail is slow.
    pub slow_per_mille: u64,
    /// The longest way of any mail.
    pub delay_us_max: u64,
}

/// The mailboxes of a node. Mail from one sender to one shard arrives in the order sent; senders overtake each other.
#[derive(Debug)]
pub struct Network {
    options: NetworkOptions,
    /// By receiver, then by sender; the control plane is the last sender.
    lanes: Vec<Vec<VecDeque<(u64, Mail)>>>,
    random: Random,
    /// Most mail that ever waited in one mailbox of a shard's.
    longest: usize,
}

impl Network {
    /// Empty mailboxes for `shards` shards.
    #[must_use]
    pub fn new(shards: u16, options: NetworkOptions, random: Random) -> Self {
        let senders = usize::from(shards) + 1;
        let lanes = (0..shards).map(|_| (0..senders).map(|_| VecDeque::new()).collect()).collect();
        Network { options, lanes, random, longest: 0 }
    }

    /// From here on mail is fast, and mailboxes are large.
    pub fn calm(&mut self) {
        self.options.slow_per_mille = 0;
        self.options.mailbox_len_max = 4_096;
    }

    /// The longest way of any mail.
    #[must_use]
    pub fn delay_us_max(&self) -> u64 {
        self.options.delay_us_max
    }

    /// Sends mail between shards.
    ///
    /// # Errors
    /// The mailbox is full; the mail comes back.
    pub fn send(
        &mut self,
        (from, to): (u16, u16),
        mail: Mail,
        now_us: u64,
        tally: &mut Tally,
    ) -> Result<(), Mail> {
        let waiting: usize = self.lanes[usize::from(to)].iter().map(VecDeque::len).sum();
        let control = self.lanes[usize::from(to)].last().map_or(0, VecDeque::len);
        let waiting = waiting - control;
        if waiting >= self.options.mailbox_len_max {
            tally.hit(Fault::MailboxFull);
            if let Mail::Publish(_) = mail {
                tally.hit(Fault::PublishHeldUp);
            }
            return Err(mail);
        }
        self.longest = self.longest.max(waiting + 1);
        self.put(usize::from(from), to, mail, now_us, tally);
        Ok(())
    }

    /// Sends mail of the control plane, which has its own slots.
    pub fn send_from_control(&mut self, to: u16, mail: Mail, now_us: u64, tally: &mut Tally) {
        self.put(self.lanes.len(), to, mail, now_us, tally);
    }

    fn put(&mut self, lane: usize, to: u16, mail: Mail, now_us: u64, tally: &mut Tally) {
        let mut delay = self.random.between(1, 150);
        if self.random.chance(self.options.slow_per_mille) {
            delay = self.random.between(150, self.options.delay_us_max);
        }
        if delay > SLOW_US {
            tally.hit(Fault::SlowMail);
        }
        let lane = &mut self.lanes[usize::from(to)][lane];
        let before = lane.back().map_or(0, |(at, _)| *at);
        lane.push_back((before.max(now_us + delay), mail));
    }

    /// The next mail for a shard that has arrived by now.
    pub fn receive(&mut self, to: u16, now_us: u64) -> Option<(usize, Mail)> {
        let lanes = &mut self.lanes[usize::from(to)];
        let has_mail =
            |lane: &VecDeque<(u64, Mail)>| lane.front().is_some_and(|(at, _)| *at <= now_us);
        let ready: Vec<usize> = (0..lanes.len()).filter(|index| has_mail(&lanes[*index])).collect();
        if ready.is_empty() {
            return None;
        }
        let from = self.random.pick(&ready);
        lanes[from].pop_front().map(|(_, mail)| (from, mail))
    }

    /// When the next mail for a shard arrives.
    #[must_use]
    pub fn next_arrival(&self, to: u16) -> Option<u64> {
        self.lanes[usize::from(to)].iter().filter_map(|lane| Some(lane.front()?.0)).min()
    }

    /// Most mail that ever waited in one mailbox, and how much may.
    #[must_use]
    pub fn longest(&self) -> (usize, usize) {
        (self.longest, self.options.mailbox_len_max)
    }
}
