//! Walks one segment and tells, at the first bad byte, a torn tail from damage.

use std::io;

use codec::ids::Position;

use super::{Damage, FIRST_COMMIT_AT, Opened, Progress, RecoveryTask};
use crate::aligned::block_ceil;
use crate::folder::OpenError;
use crate::scan::{Expected, SegmentScan, Stop, Tail, Visit};

/// Walks all commits of `at..end`, past bad ones, for an index.
pub(crate) fn walk_through(
    scan: &mut SegmentScan<'_>,
    mut at: u64,
    end: Option<u64>,
    mut expected: Expected,
    visit: &mut Visit<'_>,
) -> io::Result<()> {
    while let Stop::Bad { at: bad, .. } = scan.walk(at, end, &mut expected, visit)? {
        let Some((next, head)) = scan.next_head(bad + 1, expected.commit)? else { return Ok(()) };
        if end.is_some_and(|end| end <= next) {
            return Ok(());
        }
        assert!(next > at, "the walk moves forward");
        at = next;
        expected = head.as_expected();
    }
    Ok(())
}

/// Where the walk through a segment has ended.
pub(super) struct Walked {
    pub(super) base: Position,
    pub(super) end_bytes: u64,
    pub(super) is_last: bool,
}

impl RecoveryTask<'_> {
    /// Replays one segment from byte `from` on.
    pub(super) fn walk_segment(
        &self,
        opened: &[Opened],
        index: usize,
        from: u64,
        progress: &mut Progress,
    ) -> Result<Walked, OpenError> {
        let Progress { expected, replay, report, .. } = progress;
        let one = &opened[index];
        let next = opened[index + 1..].iter().find_map(|later| later.header);
        let next = next.filter(|next| next.previous == one.number);
        let end = next.map(|next| next.previous_end_bytes);
        let base = one.header.map_or(expected.position, |header| header.base_position);
        let mut scan = SegmentScan::new(self.storage, one.file, self.key, one.number)?;
        if let Some(header) = one.header {
            expected.epoch = header.epoch;
        } else if let Some((_, head)) = scan.next_head(from, expected.commit)? {
            expected.epoch = head.header.epoch;
        }
        let mut at = from;
        loop {
            let stop = scan.walk(at, end, expected, &mut |header, _, body| {
                replay.visit(header, body);
            })?;
            let Stop::Bad { at: bad, why } = stop else {
                replay.bytes_read += scan.bytes_read;
                let end_bytes = end.unwrap_or(bad_end(from));
                return Ok(Walked { base, end_bytes, is_last: false });
            };
            let durable_next = next.is_some_and(|next| next.epoch > expected.epoch);
            let tail = match durable_next {
                true => Tail::Durable,
                false => self.tail(opened, index, bad, end, expected)?,
            };
            if tail < Tail::Durable {
                replay.bytes_read += scan.bytes_read;
                // What was only prepared is no tail: a clean stop leaves it too.
                report.cut = (tail == Tail::Begun).then_some((one.number, bad));
                return Ok(Walked { base, end_bytes: bad, is_last: true });
            }
            let resume = scan.next_head(bad + 1, expected.commit)?;
            let resume = resume.filter(|(next, _)| end.is_none_or(|end| *next < end));
            let start = expected.position;
            if let Some((next_at, head)) = resume {
                assert!(bad < next_at, "a replay moves forward");
                *expected = head.as_expected();
                at = next_at;
            } else if let Some(header) = opened[index + 1..].iter().find_map(|o| o.header) {
                expected.position = header.base_position.max(start);
            }
            let (segment, end_position) = (one.number, expected.position);
            report.damage.push(Damage { segment, at: bad, start, end: end_position, why });
            if resume.is_none() {
                replay.bytes_read += scan.bytes_read;
                let end_bytes = end.unwrap_or(block_ceil(one.len));
                return Ok(Walked { base, end_bytes, is_last: index + 1 == opened.len() });
            }
        }
    }

    /// What stands at `bad` and behind it, up to the end of the log.
    fn tail(
        &self,
        opened: &[Opened],
        index: usize,
        bad: u64,
        end: Option<u64>,
        expected: &Expected,
    ) -> io::Result<Tail> {
        let mut tail = Tail::Nothing;
        for (offset, one) in opened[index..].iter().enumerate() {
            let mut scan = SegmentScan::new(self.storage, one.file, self.key, one.number)?;
            let said = match offset {
                0 => scan.tail(bad, end, expected)?,
                _ => scan.heads_say(FIRST_COMMIT_AT, None, expected)?,
            };
            tail = tail.max(said);
            if tail == Tail::Durable {
                break;
            }
        }
        Ok(tail)
    }
}

fn bad_end(from: u64) -> u64 {
    assert!(from >= FIRST_COMMIT_AT, "a walk without a known end stops at a bad byte");
    from
}
