//! What a group keeps in memory of events that it has given up, in bytes.

use codec::attribute::{Key, Value};
use codec::builder::BatchBuilder;
use codec::event::DataKind;
use codec::header::HEADER_BYTES;
use codec::ids::{Partition, Position, TopicId};

use super::RULES;
use crate::group::group_log::{BatchView, Dispatch, GroupLog, Hand, Offered, Turn};
use crate::group::keys::Blocked;
use crate::group::members::{Members, Presence};
use crate::mail::MemberId;
use crate::selection::{Bitmap, Selection};
use crate::session::Verdict;

const KEYS: u64 = 97;
/// One event in so many can never be worked on.
const POISON: u64 = 10;

/// A group with two members, so that keys are looked at, and a stream of which one event in ten is poison: rejected, or
/// handed back for ever, in turn.
struct Poisoned {
    group: GroupLog,
    members: Members,
    next: u64,
    now_us: u64,
    letters: u64,
}

impl Poisoned {
    fn new() -> Self {
        let mut members = Members::default();
        for slot in 0..2 {
            members.join(MemberId { shard: 0, slot, life: 1 }, 100, Presence::Staying);
        }
        Poisoned { group: GroupLog::default(), members, next: 0, now_us: 0, letters: 0 }
    }

    fn body(at: u64) -> Vec<u8> {
        let mut builder = BatchBuilder::new(&mut []).unwrap();
        let name = format!("key-{}", at % KEYS);
        let mut attributes = [(Key::PartitionKey, Value::String(&name))];
        builder.push(&mut attributes, DataKind::Binary, b"x").unwrap();
        builder.finish(TopicId(1), Partition(0))[HEADER_BYTES..].to_vec()
    }

    fn turn(&self) -> Turn<'static> {
        Turn { shard: 0, mono_us: self.now_us, rules: &RULES }
    }

    /// A window of events: all are taken before the first is answered, so that events of a key wait for each other.
    fn window(&mut self) {
        let first = self.next;
        let mut out = Vec::new();
        while self.next < first + 150 {
            let body = Self::body(self.next);
            let batch = BatchView { base: Position(self.next), count: 1, body: &body };
            let (turn, mut sent) = (self.turn(), Vec::new());
            let mut hand = Hand { batch, members: &mut self.members, turn, out: &mut sent };
            assert_eq!(self.group.offer(&mut hand, Selection::All), Offered::Taken);
            out.extend(sent.into_iter().map(|dispatch| (self.next, dispatch)));
            self.next += 1;
        }
        while !self.group.is_empty() {
            out.drain(..).for_each(|(base, dispatch)| self.answer(base, &dispatch));
            self.bury();
            self.now_us += RULES.retry_delay_max_us * 2;
            self.send_again(&mut out);
        }
    }

    fn answer(&mut self, base: u64, dispatch: &Dispatch) {
        let verdict = match (base % POISON, base % (2 * POISON)) {
            (7, 7) => Verdict::Reject,
            (7, _) => Verdict::Retry,
            _ => Verdict::Done,
        };
        let (turn, delivery) = (self.turn(), dispatch.delivery);
        let (all, members) = (Selection::All, &mut self.members);
        let settled = self.group.settle(Position(base), delivery, &all, verdict, members, turn);
        assert!(!settled.is_stale, "a held delivery is not stale");
    }

    fn bury(&mut self) {
        while let Some((base, _)) = self.group.next_dying(None) {
            self.letters += 1;
            self.group.begin_burial(base, &Bitmap::all(1), self.letters);
            assert_eq!(self.group.buried(base, self.letters), 1);
        }
    }

    fn send_again(&mut self, out: &mut Vec<(u64, Dispatch)>) {
        let (mut blocked, mut after, turn) = (Blocked::default(), None, self.turn());
        while let Some(base) = self.group.next_idle(after, &mut blocked, &self.members, turn) {
            let (body, mut sent) = (Self::body(base.0), Vec::new());
            let batch = BatchView { base, count: 1, body: &body };
            let mut hand = Hand { batch, members: &mut self.members, turn, out: &mut sent };
            self.group.redeliver(&mut hand, &mut blocked);
            out.extend(sent.into_iter().map(|dispatch| (base.0, dispatch)));
            after = Some(base);
        }
    }
}

/// A group that kept some bytes of each dead letter would fill the server's memory, once a handler rejects a part of its
/// events for ever.
#[test]
fn dead_letters_leave_nothing_behind() {
    let mut poisoned = Poisoned::new();
    (0..20).for_each(|_| poisoned.window());
    let before = poisoned.letters;
    let kept = allocation_counter::measure(|| (0..200).for_each(|_| poisoned.window()));
    assert_eq!(poisoned.letters - before, 3_000, "one event in ten is a dead letter");
    assert!(kept.bytes_current <= 0, "{} bytes are kept of 3,000 letters", kept.bytes_current);
    assert!(kept.count_total > 3_000, "a counter that counts nothing would let anything pass");
}
