//! The sessions on this shard: what waits to be said to each, and which of them wait for room.

use std::collections::VecDeque;
use std::sync::Arc;

use codec::ids::Partition;
use codec::limits::PARTITIONS;
use codec::refusal::{Code, Refusal};

use crate::group::members::Presence;
use crate::mail::Mail;
use crate::session::{SessionEvent, SessionKey};
use crate::shard::Shard;
use crate::shard::input::SessionInput;

/// What a session asks for with a subscribe, beyond what the control plane must know.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub credit: u32,
    /// How the member takes part.
    pub presence: Presence,
}

/// One session.
#[derive(Debug, Default)]
pub struct SessionState {
    life: u32,
    open: bool,
    /// Whether the session stands on the dirty list.
    dirty: bool,
    /// Whether it waits for room.
    pub waiting: bool,
    /// Its client has been announced to the client's home shard.
    pub announced: bool,
    /// What it keeps of its peer's bytes.
    pub input: SessionInput,
    /// Bytes it may append this turn, when others wait: the deficit of deficit round robin.
    pub deficit: u64,
    /// The cycle's time at which the deficit was last raised.
    pub raised_us: u64,
    /// Where its events without a key go: one partition of this shard for its whole life.
    pub partition: Partition,
    pub client: Option<Arc<str>>,
    /// Other clients with ephemeral subscriptions here, each announced to its home shard.
    pub others: Vec<Arc<str>>,
    events: VecDeque<SessionEvent>,
    /// Members by the client's number of the subscription.
    pub subscriptions: Vec<(u64, u32)>,
    /// Subscribes that the control plane has not answered.
    pub asked: Vec<(u64, Wanted)>,
}

/// All sessions of a shard.
#[derive(Debug, Default)]
pub struct Sessions {
    list: Vec<SessionState>,
    free: Vec<u32>,
    dirty: Vec<SessionKey>,
    /// Sessions that wait for room, in turn.
    pub waiting: VecDeque<SessionKey>,
    opened: u32,
}

impl Sessions {
    fn open(&mut self, index: u16, shards: u16) -> SessionKey {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.list.push(SessionState::default());
            self.list.len() as u32 - 1
        });
        let own = (PARTITIONS - index).div_ceil(shards);
        let state = &mut self.list[slot as usize];
        assert!(!state.open, "a free slot is closed");
        let life = state.life + 1;
        let partition = Partition(index + shards * (self.opened % u32::from(own)) as u16);
        assert!(
            partition.0 < PARTITIONS && partition.0 % shards == index,
            "events without a key stay on the core that they come to"
        );
        self.opened = self.opened.wrapping_add(1);
        *state = SessionState { life, open: true, partition, ..SessionState::default() };
        SessionKey { slot, life }
    }

    /// The session, if it is still there.
    pub fn get_mut(&mut self, key: SessionKey) -> Option<&mut SessionState> {
        let state = self.list.get_mut(key.slot as usize)?;
        (state.open && state.life == key.life).then_some(state)
    }

    /// The session, if it is still there.
    pub fn get(&self, key: SessionKey) -> Option<&SessionState> {
        let state = self.list.get(key.slot as usize)?;
        (state.open && state.life == key.life).then_some(state)
    }

    /// Says something to a session; nothing happens if it has gone.
    pub fn say(&mut self, key: SessionKey, event: SessionEvent) {
        let Some(state) = self.get_mut(key) else { return };
        state.events.push_back(event);
        if !state.dirty {
            state.dirty = true;
            self.dirty.push(key);
        }
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.list.len() - self.free.len()
    }

    /// How many are open, and what they have been said and have not heard.
    pub fn held(&self) -> (usize, usize) {
        let open = self.list.iter().filter(|state| state.open).count();
        assert!(open == self.count(), "a slot is open or free");
        (open, self.list.iter().map(|state| state.events.len()).sum())
    }

    /// Whether any session has been said something that it has not heard.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    fn close(&mut self, key: SessionKey) -> Option<SessionState> {
        let life = self.get(key)?.life;
        self.free.push(key.slot);
        assert!(self.free.len() <= self.list.len(), "a slot is free once");
        let closed = SessionState { life, ..SessionState::default() };
        Some(std::mem::replace(&mut self.list[key.slot as usize], closed))
    }
}

impl Shard {
    /// A session for a new connection.
    ///
    /// # Errors
    /// The shard holds as many as it may.
    pub fn open_session(&mut self) -> Result<SessionKey, Refusal> {
        if self.draining {
            return Err(Code::ShuttingDown.into());
        }
        if self.sessions.count() >= self.options.sessions_max as usize {
            return Err(Code::TooManyConnections.into());
        }
        Ok(self.sessions.open(self.options.index, self.options.shards))
    }

    /// The client of a session is known.
    pub fn identify(&mut self, key: SessionKey, client: Arc<str>) {
        if let Some(state) = self.sessions.get_mut(key) {
            assert!(state.client.is_none(), "a session says hello once");
            state.client = Some(client);
        }
    }

    /// Where the events of a session go that have no key: a partition of this shard, the same for all its life.
    #[must_use]
    pub fn session_partition(&self, key: SessionKey) -> Partition {
        let own = Partition(self.options.index);
        self.sessions.get(key).map_or(own, |session| session.partition)
    }

    /// A connection is gone: its members leave, and what was in flight to it goes to others.
    pub fn close_session(&mut self, key: SessionKey) {
        let Some(state) = self.sessions.close(key) else { return };
        self.forget_input(state.input);
        for (request, _) in &state.asked {
            self.members.asking.forget(key, *request);
        }
        for (_, slot) in state.subscriptions {
            self.end_member(slot, true);
        }
        let own = state.client.filter(|_| state.announced);
        for client in state.others.into_iter().chain(own) {
            self.post(self.client_home(&client), Mail::ClientDown { client });
        }
    }

    /// The next thing to say to a session.
    pub fn next_event(&mut self, key: SessionKey) -> Option<SessionEvent> {
        let state = self.sessions.get_mut(key)?;
        let event = state.events.pop_front();
        if state.events.is_empty() && state.events.capacity() > 32 {
            state.events = VecDeque::new();
        }
        event
    }

    /// Moves the sessions that have something to hear to `out`.
    pub fn take_dirty(&mut self, out: &mut Vec<SessionKey>) {
        let mut dirty = std::mem::take(&mut self.sessions.dirty);
        for key in dirty.drain(..) {
            if let Some(state) = self.sessions.get_mut(key) {
                assert!(state.dirty, "who stands on the list knows it");
                state.dirty = false;
                out.push(key);
            }
        }
        assert!(self.sessions.dirty.is_empty(), "nothing was said meanwhile");
        // Kept for its memory.
        self.sessions.dirty = dirty;
    }
}
