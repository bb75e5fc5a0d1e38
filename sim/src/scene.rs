//! What every part of a run shares: time, chance, the trace, the counts and the ledger.

use std::sync::Arc;

use codec::ids::Timestamp;
use dataplane::kernel::Now;
use log::disk::LogKey;

use crate::faults::Tally;
use crate::ledger::Ledger;
use crate::plan::{Plan, WALL_START_US};
use crate::random::Random;
use crate::trace::Trace;

/// The state that is not the node's.
#[derive(Debug)]
pub struct Scene {
    /// What the seed decided.
    pub plan: Arc<Plan>,
    /// Chance for everything that is decided on the way.
    pub random: Random,
    /// Chance for faults that only some runs have, so that the others do not change with them.
    pub extra: Random,
    /// Virtual time.
    pub now_us: u64,
    /// How far the wall clock is off.
    pub wall_off_us: i64,
    /// What happened.
    pub trace: Trace,
    /// What went wrong.
    pub tally: Tally,
    /// What clients know.
    pub ledger: Ledger,
    /// Whether faults have stopped.
    pub is_calm: bool,
    /// Whether a log has stopped, so that only a restart helps.
    pub log_stopped: bool,
    /// The log that each shard of this life appends to.
    pub active_logs: Vec<LogKey>,
    /// Sessions so far: each has a number of its own.
    pub sessions: u32,
}

impl Scene {
    /// The time as a shard is told.
    #[must_use]
    pub fn now(&self) -> Now {
        let wall = (WALL_START_US + self.now_us).saturating_add_signed(self.wall_off_us);
        Now { wall: Timestamp(wall), mono_us: self.now_us }
    }

    /// A number for a new session.
    pub fn next_session(&mut self) -> u32 {
        self.sessions += 1;
        self.sessions
    }
}
