//! From bytes to frames: what is taken where it stands, what is kept until it is whole, and where.

use codec::frame::{self, Frame, FrameError, Kind, Parsed};
use codec::refusal::{Code, Refusal};
use dataplane::options::INPUT_FREE_BYTES;
use dataplane::outbound::Outbound;
use dataplane::session::{Feed, Landing};

use super::{NativeSession, Phase, Step};
use crate::native::port::Port;

/// An emptied input buffer of more than this is freed at once; a smaller one at the next look at the clock.
const INPUT_KEPT_BYTES: usize = 256 << 10;
/// Publishes larger than this are received where they are to stay in the log, unless they came at once. A commit of its
/// own costs half a block of padding, 6 % of this.
const LANDING_BYTES_MIN: u64 = 32 << 10;

impl NativeSession {
    /// Where the peer's next bytes are to go, if not to [`NativeSession::read`].
    pub(in crate::native) fn place(&mut self) -> Option<&mut [u8]> {
        let landing = self.landing.as_mut().filter(|landing| !landing.is_whole());
        landing.map(Landing::rest)
    }

    /// `bytes` bytes were received into [`NativeSession::place`].
    pub(in crate::native) fn placed(
        &mut self,
        bytes: usize,
        shard: &mut impl Port,
        out: &mut Outbound,
    ) -> Feed {
        self.heard = true;
        self.unless_closed(out, |session, out| {
            let landing = session.landing.as_mut().expect("the place is a landing's");
            landing.arrived(bytes);
            if landing.is_whole() {
                session.feed_counted(&[], shard, out)
            } else {
                session.feed_now()
            }
        })
    }

    /// Takes frames from `bytes` until they end, the shard has no room, or the connection closes. Returns how many
    /// bytes were taken.
    fn take_frames(
        &mut self,
        bytes: &[u8],
        shard: &mut impl Port,
        out: &mut Outbound,
    ) -> (usize, Step) {
        let mut at = 0;
        while at < bytes.len() {
            let (consumed, step) = match self.parse(&bytes[at..]) {
                Ok(Parsed::Incomplete { .. }) => break,
                Ok(Parsed::Frame { request, frame, consumed }) => {
                    (consumed, self.on_frame(request, frame, shard, out))
                }
                Err(error) => match (error.consumed, self.phase) {
                    (Some(consumed), Phase::Open | Phase::Leaving) => {
                        self.refuse(error.request, error.kind, &error.refusal(), out);
                        (consumed, Step::Taken)
                    }
                    _ => (0, self.fail(error.request, error.kind, &self.refusal_of(&error), out)),
                },
            };
            if step != Step::Taken {
                return (at, step);
            }
            at += consumed;
        }
        (at, Step::Taken)
    }

    /// Before hello nothing else is waited for, however long it claims to be.
    fn parse<'a>(&self, bytes: &'a [u8]) -> Result<Parsed<'a>, FrameError> {
        if self.phase == Phase::Hello
            && let Some(kind) = bytes.get(4)
            && *kind != Kind::Hello.number()
        {
            let cause = frame::FrameErrorCause::UnknownKind;
            return Err(FrameError { kind: *kind, request: 0, consumed: None, cause });
        }
        frame::parse(bytes)
    }

    fn refusal_of(&self, error: &FrameError) -> Refusal {
        match (self.phase, &error.cause) {
            (Phase::Hello, frame::FrameErrorCause::UnknownKind) => {
                Refusal::new(Code::HelloRequired, format!("frame kind {} came first", error.kind))
            }
            _ => error.refusal(),
        }
    }

    /// Takes bytes, and has the shard count what is left of them.
    pub(super) fn feed_counted(
        &mut self,
        bytes: &[u8],
        shard: &mut impl Port,
        out: &mut Outbound,
    ) -> Feed {
        let feed = self.feed(bytes, shard, out);
        if feed == Feed::Close {
            return feed;
        }
        let has = self.input.len() as u64;
        if self.paused {
            self.input_counted = true;
            let landing = self.landing.as_ref().map_or(0, Landing::memory_bytes);
            shard.keep_input(self.key, has + landing as u64);
            return Feed::Paused;
        }
        if self.landing.is_some() {
            // It was admitted with its whole length.
            return Feed::More;
        }
        let whole = match self.parse(&self.input) {
            Ok(Parsed::Incomplete { missing }) if has > 0 => has + missing as u64,
            _ => 0,
        };
        if whole <= INPUT_FREE_BYTES {
            if std::mem::take(&mut self.input_counted) {
                shard.keep_input(self.key, 0);
            }
            return Feed::More;
        }
        self.input_counted = true;
        self.paused = !shard.admit_frame(self.key, has, whole);
        if !self.paused {
            self.make_place(whole, shard);
        }
        self.feed_now()
    }

    /// Prepares for the rest of a frame of `whole` bytes that was admitted.
    fn make_place(&mut self, whole: u64, shard: &impl Port) {
        if whole > LANDING_BYTES_MIN && self.input.get(4) == Some(&Kind::Publish.number()) {
            let mut landing = shard.landing(frame::FRAME_HEADER_BYTES, whole as usize);
            landing.copy(&self.input);
            self.input = Vec::new();
            self.landing = Some(landing);
        } else {
            // Growing by doubling would keep twice as much as was admitted.
            self.input.reserve_exact(whole as usize - self.input.len());
        }
    }

    /// First completes the partial frame from before, so that only its bytes are copied; then the rest in place.
    fn feed(&mut self, mut bytes: &[u8], shard: &mut impl Port, out: &mut Outbound) -> Feed {
        if let Some(landing) = &mut self.landing
            && !self.paused
        {
            bytes = landing.copy(bytes);
            if !landing.is_whole() {
                return Feed::More;
            }
            match self.take_landing(shard, out) {
                Step::Close => return Feed::Close,
                Step::NoRoom => self.paused = true,
                Step::Taken => {}
            }
        }
        while !self.input.is_empty() && !self.paused {
            match self.parse(&self.input) {
                Ok(Parsed::Incomplete { missing }) => {
                    let (now, later) = bytes.split_at(missing.min(bytes.len()));
                    self.input.extend_from_slice(now);
                    bytes = later;
                    if now.len() < missing {
                        return Feed::More;
                    }
                }
                Ok(_) | Err(_) => {
                    if let Step::Close = self.take_input(shard, out) {
                        return Feed::Close;
                    }
                }
            }
        }
        if self.paused {
            self.input.extend_from_slice(bytes);
            return Feed::Paused;
        }
        let (taken, step) = self.take_frames(bytes, shard, out);
        match step {
            Step::Close => return Feed::Close,
            Step::NoRoom => self.paused = true,
            Step::Taken => {}
        }
        self.input.extend_from_slice(&bytes[taken..]);
        if self.paused { Feed::Paused } else { Feed::More }
    }

    /// Takes the frame in `landing`, all of which is there. It stays if the shard has no room for it.
    fn take_landing(&mut self, shard: &mut impl Port, out: &mut Outbound) -> Step {
        let Some(landing) = self.landing.take() else { return Step::Taken };
        let parsed = self.parse(landing.frame());
        let Ok(Parsed::Frame { request, frame: Frame::Publish(bytes), .. }) = parsed else {
            return self.take_frames(landing.frame(), shard, out).1;
        };
        if self.phase != Phase::Open {
            return self.take_frames(landing.frame(), shard, out).1;
        }
        let header = match self.checked_publish(request, bytes, out) {
            Ok(batch) => batch.header,
            Err(step) => return step,
        };
        let mut landing = Some(landing);
        let step = self.publish(request, header.topic, out, |key, number, topic| {
            shard.publish_landed(key, number, topic, &header, &mut landing)
        });
        if step == Step::NoRoom {
            self.landing = landing;
        }
        step
    }

    /// Takes the frames that stand in `input`.
    fn take_input(&mut self, shard: &mut impl Port, out: &mut Outbound) -> Step {
        let mut input = std::mem::take(&mut self.input);
        let (taken, step) = self.take_frames(&input, shard, out);
        self.paused = step == Step::NoRoom;
        if taken == input.len() {
            input.clear();
            if input.capacity() > INPUT_KEPT_BYTES {
                input = Vec::new();
            }
        } else {
            input.drain(..taken);
        }
        self.input = input;
        step
    }
}
