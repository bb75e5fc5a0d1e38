//! What sessions keep of their peers' bytes: frames that are not whole yet, and what has no room in the log. Thousands
//! of peers that each send half a large frame must not take the memory of all others.
//!
//! A frame is admitted with its whole length before more of it is read, so that what has begun can always end; who finds
//! no room reads no more and is told in turn. What was read already is kept whether or not there is room: the runtime
//! reads the less at once, the less is left ([`Shard::input_room`]).

use std::collections::VecDeque;

use crate::session::{SessionEvent, SessionKey};
use crate::shard::Shard;

/// Frames up to this size have memory of their own: a few peers that begin large ones must not hold up all others.
const SMALL_FRAME_BYTES: u64 = 64 << 10;

/// What one session keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionInput {
    /// Bytes of the frame that was admitted.
    frame: u64,
    /// Bytes that it keeps although nothing was admitted.
    kept: u64,
    /// Whether it waits until its frame is admitted.
    waits: bool,
}

/// Frames of a size that were admitted.
#[derive(Debug, Default)]
struct Lane {
    bytes: u64,
    /// Sessions whose frames wait, with their bytes, in turn.
    waiting: VecDeque<(SessionKey, u64)>,
}

/// What all sessions of a shard keep.
#[derive(Debug, Default)]
pub struct Input {
    small: Lane,
    large: Lane,
    kept: u64,
}

impl Lane {
    /// One frame of any size always comes through.
    fn fits(&self, frame: u64, limit: u64) -> bool {
        self.bytes == 0 || self.bytes + frame <= limit
    }
}

impl Input {
    fn lane(&mut self, frame: u64) -> &mut Lane {
        if frame <= SMALL_FRAME_BYTES { &mut self.small } else { &mut self.large }
    }

    fn bytes(&self) -> u64 {
        self.small.bytes + self.large.bytes + self.kept
    }

    fn forget(&mut self, session: &mut SessionInput) {
        let SessionInput { frame, kept, .. } = *session;
        let lane = self.lane(frame);
        assert!(frame <= lane.bytes, "frames that were admitted are counted");
        lane.bytes -= frame;
        assert!(kept <= self.kept, "bytes that are kept are counted");
        self.kept -= kept;
        assert!(frame == 0 || !session.waits, "who waits has nothing admitted");
        (session.frame, session.kept) = (0, 0);
    }
}

impl Shard {
    /// A session keeps `has` bytes of a frame of `whole`. `false`: there is no room for the rest, which must not be read
    /// before [`SessionEvent::Room`].
    pub fn admit_frame(&mut self, key: SessionKey, has: u64, whole: u64) -> bool {
        assert!(has <= whole, "a part is not more than the whole");
        let limit = self.options.input_bytes_max / 4;
        let Some(session) = self.sessions.get_mut(key) else { return true };
        if session.input.frame == whole {
            return true;
        }
        let (input, own) = (&mut self.input, &mut session.input);
        input.forget(own);
        // In turn: a small frame that slips in before a large one would keep it waiting for ever.
        let lane = input.lane(whole);
        let is_admitted = !own.waits && lane.waiting.is_empty() && lane.fits(whole, limit);
        if is_admitted {
            own.frame = whole;
            lane.bytes += whole;
        } else {
            if !std::mem::replace(&mut own.waits, true) {
                self.stats.frames_held_up += 1;
                lane.waiting.push_back((key, whole));
            }
            own.kept = has;
            input.kept += has;
        }
        self.admit_waiting_frames();
        is_admitted
    }

    /// A session keeps `bytes` for which nothing was admitted: none, or what the log has no room for.
    pub fn keep_input(&mut self, key: SessionKey, bytes: u64) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.input.forget(&mut session.input);
        session.input.kept = bytes;
        self.input.kept += bytes;
        self.admit_waiting_frames();
    }

    /// Bytes that sessions may keep beyond what they do.
    #[must_use]
    pub fn input_room(&self) -> u64 {
        self.options.input_bytes_max.saturating_sub(self.input.bytes())
    }

    /// Whether a session waits because of what others keep.
    #[must_use]
    pub fn input_is_wanted(&self) -> bool {
        !self.input.small.waiting.is_empty() || !self.input.large.waiting.is_empty()
    }

    /// Bytes that sessions keep, as admitted.
    pub(super) fn input_bytes(&self) -> u64 {
        self.input.bytes()
    }

    /// A session is gone.
    pub(super) fn forget_input(&mut self, mut own: SessionInput) {
        self.input.forget(&mut own);
        self.admit_waiting_frames();
    }

    /// Admits frames that wait, in turn, and tells their sessions.
    fn admit_waiting_frames(&mut self) {
        let limit = self.options.input_bytes_max / 4;
        for of in [SMALL_FRAME_BYTES, SMALL_FRAME_BYTES + 1] {
            while let Some((key, whole)) = self.input.lane(of).waiting.front().copied() {
                let session = self.sessions.get_mut(key).filter(|session| session.input.waits);
                let Some(session) = session else {
                    self.input.lane(of).waiting.pop_front();
                    continue;
                };
                if !self.input.lane(of).fits(whole, limit) {
                    break;
                }
                self.input.forget(&mut session.input);
                session.input = SessionInput { frame: whole, kept: 0, waits: false };
                let lane = self.input.lane(of);
                lane.bytes += whole;
                lane.waiting.pop_front();
                self.sessions.say(key, SessionEvent::Room);
            }
        }
    }
}
