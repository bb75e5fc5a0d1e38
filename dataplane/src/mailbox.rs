//! The mailboxes between the shards of a node: bounded queues, one for each ordered pair, and who may fill which part.
//!
//! Pure: no wake-up, no file descriptor. Whoever drives a desk wakes the receiver after a send.
//!
//! No shard ever waits for another, so an answer must always find room. Each request therefore takes the slot of its
//! answer with it: at most `window` requests of a pair are unanswered, and the way back has `window` slots that only
//! answers may fill. Invariant of a lane with `notes + 2 * window` slots: at most `window` requests (the sender counts
//! them), at most `window` answers (the receiver of the requests can owe no more) and at most `notes` notes (they are
//! refused once that many messages of any kind are queued), so neither a counted request nor an answer finds it full.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

/// Most desks of an office: the arrivals of one desk are a bit for each sender in one word.
pub const DESKS_MAX: u16 = 64;
/// Requests one pair may have unanswered when there are few shards. Shared out over the shards, so that the memory of
/// all mailboxes grows with the shards and not with their square.
pub const WINDOW_MAX: usize = 1_024;
/// Fewest such requests, however many shards there are.
pub const WINDOW_MIN: usize = 32;

/// What part of a mailbox a message may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Will be answered by exactly one [`Kind::Reply`]; takes the answer's slot with it.
    Request,
    /// Answers a request. Always finds room.
    Reply,
    /// Neither: refused when the mailbox is full.
    Note,
}

/// A message that knows its kind.
pub trait Letter {
    /// What part of a mailbox it may take.
    fn kind(&self) -> Kind;
}

/// One shard's place: the way to each other shard, and what comes from them. Owned by one thread.
#[derive(Debug)]
pub struct Desk<T> {
    index: u16,
    office: Arc<Office<T>>,
    /// Requests to each shard that are not answered yet; never above the window.
    owed: Box<[u32]>,
    /// Senders whose lanes may hold something, a bit each.
    pending: u64,
    /// The sender whose turn it is; each gives one message and then it is the next one's turn.
    turn: u16,
}

#[derive(Debug)]
struct Office<T> {
    desks: u16,
    window: usize,
    notes: usize,
    /// `lanes[to * desks + from]`; none from a desk to itself.
    lanes: Box<[Option<ArrayQueue<T>>]>,
    /// For each desk, the senders that have put something into their lane since it last looked.
    arrived: Box<[AtomicU64]>,
}

/// The desks of an office of `desks` shards, in order.
///
/// # Panics
/// There are none, or more than [`DESKS_MAX`].
#[must_use]
pub fn office<T: Letter>(desks: u16) -> Vec<Desk<T>> {
    assert!(0 < desks && desks <= DESKS_MAX, "{desks} desks, at most {DESKS_MAX} have a bit each");
    let window = (2 * WINDOW_MAX / usize::from(desks)).clamp(WINDOW_MIN, WINDOW_MAX);
    let notes = window;
    let lane = |at: usize| {
        let is_own = at / usize::from(desks) == at % usize::from(desks);
        (!is_own).then(|| ArrayQueue::new(notes + 2 * window))
    };
    let lanes = (0..usize::from(desks).pow(2)).map(lane).collect();
    let arrived = (0..desks).map(|_| AtomicU64::new(0)).collect();
    let office = Arc::new(Office { desks, window, notes, lanes, arrived });
    let desk = |index| Desk {
        index,
        office: Arc::clone(&office),
        owed: vec![0; usize::from(desks)].into(),
        pending: 0,
        turn: 0,
    };
    (0..desks).map(desk).collect()
}

impl<T: Letter> Desk<T> {
    /// Puts a message into the mailbox of `to`.
    ///
    /// # Errors
    /// There is no room for its kind; the message comes back. Never for a [`Kind::Reply`].
    ///
    /// # Panics
    /// `to` is this desk or none of the office, or a reply answers no request.
    pub fn send(&mut self, to: u16, letter: T) -> Result<(), T> {
        let office = &*self.office;
        let lane = office.lane(to, self.index);
        let owed = &mut self.owed[usize::from(to)];
        match letter.kind() {
            Kind::Note if lane.len() >= office.notes => return Err(letter),
            Kind::Request if *owed as usize >= office.window => return Err(letter),
            Kind::Request => *owed += 1,
            Kind::Note | Kind::Reply => {}
        }
        assert!(
            lane.push(letter).is_ok(),
            "a request's slot, and that of its answer, are kept free"
        );
        office.arrived[usize::from(to)].fetch_or(1 << self.index, Ordering::SeqCst);
        Ok(())
    }

    /// The next message and its sender. Messages of one sender come in the order sent; senders take turns.
    pub fn receive(&mut self) -> Option<(u16, T)> {
        loop {
            if self.pending == 0 {
                let arrived = &self.office.arrived[usize::from(self.index)];
                self.pending = arrived.swap(0, Ordering::SeqCst);
            }
            if self.pending == 0 {
                return None;
            }
            let ahead = self.pending.rotate_right(u32::from(self.turn)).trailing_zeros() as u16;
            let from = (self.turn + ahead) % DESKS_MAX;
            if let Some(letter) = self.office.lane(self.index, from).pop() {
                if letter.kind() == Kind::Reply {
                    self.answered(from);
                }
                self.turn = (from + 1) % DESKS_MAX;
                return Some((from, letter));
            }
            self.pending &= !(1 << from);
        }
    }

    /// Whether [`Desk::receive`] may find something; false once it has found nothing. Read it again after announcing sleep and before sleeping.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.pending != 0
            || self.office.arrived[usize::from(self.index)].load(Ordering::SeqCst) != 0
    }

    /// Requests to `to` that are not answered yet.
    #[must_use]
    pub fn owed(&self, to: u16) -> u32 {
        self.owed[usize::from(to)]
    }

    fn answered(&mut self, from: u16) {
        let owed = &mut self.owed[usize::from(from)];
        assert!(*owed > 0, "shard {from} answered a request that nobody made");
        *owed -= 1;
    }
}

impl<T> Office<T> {
    fn lane(&self, to: u16, from: u16) -> &ArrayQueue<T> {
        assert!(to < self.desks && from < self.desks, "shard {to} or {from} is not of this node");
        let lane = &self.lanes[usize::from(to) * usize::from(self.desks) + usize::from(from)];
        lane.as_ref().expect("a shard sends no mail to itself")
    }
}

const _: () = {
    assert!(WINDOW_MIN <= WINDOW_MAX);
    assert!(DESKS_MAX as u32 == u64::BITS, "one bit a sender, and turns go round the word");
};

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Paper(Kind, u32);

    impl Letter for Paper {
        fn kind(&self) -> Kind {
            self.0
        }
    }

    fn pair() -> (Desk<Paper>, Desk<Paper>) {
        let mut desks = office(2).into_iter();
        (desks.next().unwrap(), desks.next().unwrap())
    }

    /// Two shards that both fill the other's mailbox with requests and notes must still be able to answer every
    /// request: else both wait for room that only the other can make, for ever.
    #[test]
    fn answers_fit_when_everything_else_is_full() {
        let (mut a, mut b) = pair();
        let mut asked = 0;
        let note = Paper(Kind::Note, 0);
        while a.send(1, note).is_ok() && b.send(0, note).is_ok() {}
        let request = |number| Paper(Kind::Request, number);
        while a.send(1, request(asked)).is_ok() && b.send(0, request(asked)).is_ok() {
            asked += 1;
        }
        assert_eq!(asked as usize, WINDOW_MAX);
        let mut answers = 0;
        while let Some((from, letter)) = b.receive() {
            if letter.0 == Kind::Request {
                b.send(from, Paper(Kind::Reply, letter.1)).unwrap();
                answers += 1;
            }
        }
        assert_eq!(answers, asked);
    }

    /// A slot that is not given back with the answer would stop a pair of shards after one window of requests.
    #[test]
    fn an_answer_gives_its_slot_back_and_order_is_kept() {
        let (mut a, mut b) = pair();
        for number in 0..10 * WINDOW_MAX as u32 {
            a.send(1, Paper(Kind::Request, number)).unwrap();
            a.send(1, Paper(Kind::Note, number)).unwrap();
            assert_eq!(b.receive(), Some((0, Paper(Kind::Request, number))));
            assert_eq!(b.receive(), Some((0, Paper(Kind::Note, number))));
            b.send(0, Paper(Kind::Reply, number)).unwrap();
            assert_eq!(a.owed(1), 1);
            assert_eq!(a.receive(), Some((1, Paper(Kind::Reply, number))));
            assert_eq!(a.owed(1), 0);
        }
        for desk in [&mut a, &mut b] {
            assert!(desk.receive().is_none() && !desk.has_mail());
        }
    }

    /// The arrival bits are set and taken by several threads at once: a bit lost between a push and a swap would leave
    /// mail lying until the next one comes.
    #[test]
    fn nothing_is_left_lying_between_threads() {
        const LETTERS: u32 = 100_000;
        let mut desks = office::<Paper>(3).into_iter();
        let mut receiver = desks.next().unwrap();
        let send_all = |mut desk: Desk<Paper>| {
            for number in 0..LETTERS {
                while desk.send(0, Paper(Kind::Note, number)).is_err() {
                    std::thread::yield_now();
                }
            }
        };
        let senders: Vec<_> =
            desks.map(|desk| std::thread::spawn(move || send_all(desk))).collect();
        let mut next = [0; 3];
        while next[1] < LETTERS || next[2] < LETTERS {
            match receiver.receive() {
                Some((from, letter)) => {
                    assert_eq!(letter.1, next[usize::from(from)], "from {from}");
                    next[usize::from(from)] += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(receiver.receive().is_none());
    }
}
