//! How far one log has come.

use codec::ids::Position;

/// How far one log has come, in positions. All ends are exclusive.
///
/// ```text
///   start        durable_end    written_end    submitted_end      end
///     |  survives     |  written     |  on its way     |  in the    |
///     |  power loss   |              |  to the disk    |  open commit
/// ```
///
/// What a subscriber may see is its topic's ack level.
/// Invariant: `start <= durable_end <= written_end <= submitted_end <= end`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPositions {
    start: Position,
    durable_end: Position,
    written_end: Position,
    submitted_end: Position,
    end: Position,
}

impl LogPositions {
    /// A log just recovered: all that it holds is durable.
    #[must_use]
    pub fn recovered(start: Position, end: Position) -> Self {
        assert!(start <= end, "a log starts before it ends");
        let found =
            LogPositions { start, durable_end: end, written_end: end, submitted_end: end, end };
        found.check();
        found
    }

    /// The first position that is still kept.
    #[must_use]
    pub fn start(&self) -> Position {
        self.start
    }

    /// Everything before it survives a power loss.
    #[must_use]
    pub fn durable_end(&self) -> Position {
        self.durable_end
    }

    /// Everything before it survives the process.
    #[must_use]
    pub fn written_end(&self) -> Position {
        self.written_end
    }

    /// Everything before it was given to the disk.
    #[must_use]
    pub fn submitted_end(&self) -> Position {
        self.submitted_end
    }

    /// The position of the next event.
    #[must_use]
    pub fn end(&self) -> Position {
        self.end
    }

    /// Events were appended up to `end`.
    pub(crate) fn appended(&mut self, end: Position) {
        assert!(self.end < end, "a batch holds an event, so the end rises");
        self.end = end;
        self.check();
    }

    /// A commit that ends at `end` was given to the disk.
    pub(crate) fn submitted(&mut self, end: Position) {
        assert!(self.submitted_end <= end, "commits are submitted in order");
        assert!(end <= self.end, "only what was appended can be submitted");
        self.submitted_end = end;
        self.check();
    }

    /// Every commit before `end` has returned from its write, which was not a synced one.
    pub(crate) fn written(&mut self, end: Position) {
        assert!(self.written_end <= end, "what is written stays written");
        assert!(end <= self.submitted_end, "only what was submitted can be written");
        self.written_end = end;
        self.check();
    }

    /// Every commit before `end` has returned from its synced write, or from the sync behind its write.
    pub(crate) fn synced(&mut self, end: Position) {
        assert!(self.durable_end <= end, "durability never moves back");
        assert!(end <= self.submitted_end, "only what was submitted can be durable");
        self.written_end = self.written_end.max(end);
        self.durable_end = end;
        self.check();
    }

    /// The oldest segments are gone; what is left starts at `start`.
    pub(crate) fn trimmed(&mut self, start: Position) {
        assert!(self.start <= start, "what is gone does not come back");
        assert!(start <= self.durable_end, "what is not durable is not removed");
        self.start = start;
        self.check();
    }

    fn check(&self) {
        assert!(self.start <= self.durable_end, "only durable events are removed: {self:?}");
        assert!(self.durable_end <= self.written_end, "durable implies written: {self:?}");
        assert!(self.written_end <= self.submitted_end, "written implies submitted: {self:?}");
        assert!(self.submitted_end <= self.end, "submitted implies appended: {self:?}");
    }
}
