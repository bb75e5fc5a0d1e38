//! One life of a node: its shards, what each stands on, and the sessions that clients have with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use dataplane::session::{SessionEvent, SessionKey};
use dataplane::shard::Shard;

use crate::disk::queue::Queue;
use crate::disk::storage::SimDisk;
use crate::network::Network;

/// Which simulated client a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A publisher, by its number.
    Publisher(usize),
    /// A subscriber, by its number.
    Subscriber(usize),
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    /// On which shard.
    pub shard: u16,
    /// Its key there.
    pub key: SessionKey,
}

/// What belongs to one shard.
pub struct Side {
    /// Its disk operations.
    pub queue: Queue,
    /// Not run before.
    pub stalled_until_us: u64,
    /// A client has done something since the last cycle.
    pub has_input: bool,
}

/// A node that runs.
pub struct Node {
    /// Its shards.
    pub shards: Vec<Shard>,
    /// What belongs to each.
    pub sides: Vec<Side>,
    /// Mailboxes.
    pub network: Network,
    /// The disk.
    pub disk: Arc<SimDisk>,
    /// Who is behind each session.
    pub sessions: BTreeMap<Home, Owner>,
    /// Whether every shard has had its first snapshot, so that clients may come.
    pub is_open: bool,
}

impl Node {
    /// How many shards there are.
    #[must_use]
    pub fn count(&self) -> u16 {
        self.shards.len() as u16
    }

    /// The shard of a session, which hears of its input.
    pub fn shard(&mut self, home: Home) -> &mut Shard {
        self.sides[usize::from(home.shard)].has_input = true;
        &mut self.shards[usize::from(home.shard)]
    }

    /// A session for a client; none if the shard refuses it.
    pub fn connect(&mut self, shard: u16, owner: Owner) -> Option<Home> {
        let key = self.shards[usize::from(shard)].open_session().ok()?;
        let home = Home { shard, key };
        self.sessions.insert(home, owner);
        Some(home)
    }

    /// A client's connection ends.
    pub fn disconnect(&mut self, home: Home) {
        self.shard(home).close_session(home.key);
        self.sessions.remove(&home);
    }

    /// All that a shard has to say, with whom it says it to.
    pub fn take_events(&mut self, shard: u16) -> Vec<(Home, Owner, SessionEvent)> {
        let mut dirty = Vec::new();
        let state = &mut self.shards[usize::from(shard)];
        state.take_dirty(&mut dirty);
        let mut events = Vec::new();
        for key in dirty {
            let home = Home { shard, key };
            let Some(owner) = self.sessions.get(&home).copied() else { continue };
            while let Some(event) = state.next_event(key) {
                events.push((home, owner, event));
            }
        }
        events
    }
}
