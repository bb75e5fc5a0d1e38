//! A reader's place: the id of a server-sent event. Opaque to clients; it says all that a server needs to go on behind that
//! event, so that no server keeps anything for a reader that has gone.
//!
//! ```text
//! "p" and, in base64 (RFC 4648, section 5, without padding), numbers as LEB128:
//!   version 1 | kind | node | group (kind 1) or begin, microseconds (kind 0) | count of logs |
//!   for each log: generation | log |
//!     kind 0, a reader alone:    next position | append time of the last event read, microseconds
//!     kind 1, a group's reader:  count of runs | for each run: distance from the end of the one before | length
//!   CRC-32C of all that, 4 bytes, little-endian
//! ```
//!
//! A reader alone has been given everything of a log below its place. A group's reader has been given what its members
//! share, so its place is the very events: runs of positions, those of this stream.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use codec::crc32c::crc32c;
use codec::ids::{Position, Timestamp};
use dataplane::session::{Delivery, Gap};
use dataplane::token::TokenFields;
use log::disk::LogKey;
use routing::subscription::{GroupId, Start};

const MARK: char = 'p';
/// What stands between the places of a stream of several groups.
pub(super) const PLACES_MARK: char = '.';
const VERSION: u64 = 1;
/// Most logs of a place: more than generations and shards of any server that a reader will meet.
const LOGS_MAX: u64 = 4_096;
/// Most runs of a log: a stream's window has a bound.
const RUNS_MAX: u64 = 8_192;

/// The place of one reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Low half of the node's id.
    pub(super) node: u32,
    pub(super) read: Reading,
}

/// What has been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// By a reader alone.
    Alone {
        /// Where the stream began; events appended before have not been read, whatever log they stand in.
        begin: Begin,
        logs: Vec<(LogKey, Alone)>,
    },
    /// By a reader of a group.
    Group { group: GroupId, logs: Vec<(LogKey, Vec<(Position, Position)>)> },
}

/// Wall time, microseconds; 0 is the beginning of all.
pub(super) type Begin = u64;

/// How far a reader alone has come in one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alone {
    pub(super) next: Position,
    /// When the last event read was appended.
    pub(super) appended: Timestamp,
}

impl Place {
    /// Nothing read yet.
    pub(super) fn alone(node: u32, begin: Begin) -> Place {
        Place { node, read: Reading::Alone { begin, logs: Vec::new() } }
    }

    /// Nothing read yet, by a reader of a group whose number is not known before the first delivery.
    pub(super) fn of_group(node: u32) -> Place {
        Place { node, read: Reading::Group { group: GroupId(0), logs: Vec::new() } }
    }

    /// Whether nothing has been said.
    pub(super) fn is_empty(&self) -> bool {
        match &self.read {
            Reading::Alone { logs, .. } => logs.is_empty(),
            Reading::Group { logs, .. } => logs.is_empty(),
        }
    }

    /// Event `index` of a delivery has been said.
    pub(super) fn said(&mut self, delivery: &Delivery, token: &TokenFields, index: u32) {
        let key = delivery.log;
        let at = token.base_position.plus(u64::from(index));
        match &mut self.read {
            Reading::Alone { logs, .. } => {
                let appended = delivery.batch.header.append_time;
                let place = Alone { next: at.plus(1), appended };
                match logs.iter_mut().find(|(log, _)| *log == key) {
                    Some((_, known)) => *known = place,
                    None => logs.push((key, place)),
                }
            }
            Reading::Group { group, logs } => {
                *group = token.group;
                let index = logs.iter().position(|(log, _)| *log == key).unwrap_or_else(|| {
                    logs.push((key, Vec::new()));
                    logs.len() - 1
                });
                add(&mut logs[index].1, at);
            }
        }
    }

    /// Whether a reader alone has read an event before. Positions may be given again after a crash that took back what had
    /// not been acknowledged; what is appended then has a later time.
    pub(super) fn has_read(&self, delivery: &Delivery, at: Position) -> bool {
        let Reading::Alone { logs, .. } = &self.read else { return false };
        let known = logs.iter().find(|(log, _)| *log == delivery.log);
        known.is_some_and(|(_, place)| {
            at < place.next && delivery.batch.header.append_time <= place.appended
        })
    }

    /// What of a gap a reader has not read. One that shares with others has read none of it.
    pub(super) fn unread(&self, gap: Gap) -> Option<Gap> {
        let Reading::Alone { logs, .. } = &self.read else { return Some(gap) };
        let known = logs.iter().find(|(log, _)| *log == gap.log);
        match known.map(|(_, place)| place.next) {
            Some(next) if next >= gap.to => None,
            // How many of them stood before the place was not counted.
            Some(next) if next > gap.from => Some(Gap { from: next, events: None, ..gap }),
            _ => Some(gap),
        }
    }

    /// Where a subscription begins that goes on from here; some of what it gives has been read ([`Place::has_read`]).
    /// `shards`: logs that take events.
    pub(super) fn start(&self, shards: u16) -> Option<Start> {
        let Reading::Alone { begin, logs } = &self.read else { return None };
        let newest = logs.iter().map(|(log, _)| log.generation).max();
        let active = logs.iter().filter(|(log, _)| Some(log.generation) == newest);
        let times: Vec<u64> = active.map(|(_, place)| place.appended.0).collect();
        // Of a log that is not there nothing was read, whenever it was appended. All logs of a generation come after all
        // of those before.
        let from = match times.iter().min() {
            Some(first) if times.len() == usize::from(shards) => (*first).max(*begin),
            _ => *begin,
        };
        Some(if from == 0 { Start::Earliest } else { Start::Time(Timestamp(from)) })
    }

    /// The id's text.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut bytes = Vec::with_capacity(64);
        put(VERSION, &mut bytes);
        match &self.read {
            Reading::Alone { begin, logs } => {
                put_all([0, u64::from(self.node), *begin, logs.len() as u64], &mut bytes);
                for (log, place) in logs {
                    put_log(*log, &mut bytes);
                    put(place.next.0, &mut bytes);
                    put(place.appended.0, &mut bytes);
                }
            }
            Reading::Group { group, logs } => {
                put_all([1, u64::from(self.node), group.0, logs.len() as u64], &mut bytes);
                for (log, runs) in logs {
                    put_log(*log, &mut bytes);
                    put(runs.len() as u64, &mut bytes);
                    let mut before = 0;
                    for (start, end) in runs {
                        put(start.0 - before, &mut bytes);
                        put(end.0 - start.0, &mut bytes);
                        before = end.0;
                    }
                }
            }
        }
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        let mut text = String::with_capacity(1 + bytes.len() * 4 / 3 + 3);
        text.push(MARK);
        URL_SAFE_NO_PAD.encode_string(&bytes, &mut text);
        out.extend_from_slice(text.as_bytes());
    }

    /// Whether a text looks like a place and not like a token.
    pub(super) fn is_one(text: &str) -> bool {
        text.starts_with(MARK)
    }

    /// Reads an id that came back. `None` if it is not one that a server made.
    pub(super) fn read(text: &str) -> Option<Place> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(MARK)?).ok()?;
        let (bytes, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c(bytes) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut bytes = bytes;
        let bytes = &mut bytes;
        if take(bytes)? != VERSION {
            return None;
        }
        let kind = take(bytes)?;
        let node = u32::try_from(take(bytes)?).ok()?;
        let first = take(bytes)?;
        let count = take(bytes).filter(|count| *count <= LOGS_MAX)?;
        let read = match kind {
            0 => {
                let logs = (0..count).map(|_| Some((take_log(bytes)?, take_alone(bytes)?)));
                Reading::Alone { begin: first, logs: logs.collect::<Option<_>>()? }
            }
            1 => {
                let logs = (0..count).map(|_| Some((take_log(bytes)?, take_runs(bytes)?)));
                Reading::Group { group: GroupId(first), logs: logs.collect::<Option<_>>()? }
            }
            _ => return None,
        };
        bytes.is_empty().then_some(Place { node, read })
    }
}

/// Adds a position to runs that rise and do not touch.
fn add(runs: &mut Vec<(Position, Position)>, at: Position) {
    let index = runs.partition_point(|(_, end)| *end < at);
    match runs.get_mut(index) {
        Some((start, end)) if *start <= at && at < *end => {}
        Some((_, end)) if *end == at => {
            *end = at.plus(1);
            if runs.get(index + 1).is_some_and(|(next, _)| *next == at.plus(1)) {
                let (_, end) = runs.remove(index + 1);
                runs[index].1 = end;
            }
        }
        Some((start, _)) if *start == at.plus(1) => *start = at,
        _ => runs.insert(index, (at, at.plus(1))),
    }
}

fn put(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_all(numbers: [u64; 4], out: &mut Vec<u8>) {
    numbers.into_iter().for_each(|number| put(number, out));
}

fn put_log(log: LogKey, out: &mut Vec<u8>) {
    put(u64::from(log.generation), out);
    put(u64::from(log.log), out);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn take_log(bytes: &mut &[u8]) -> Option<LogKey> {
    let generation = u32::try_from(take(bytes)?).ok()?;
    Some(LogKey { generation, log: u16::try_from(take(bytes)?).ok()? })
}

fn take_alone(bytes: &mut &[u8]) -> Option<Alone> {
    Some(Alone { next: Position(take(bytes)?), appended: Timestamp(take(bytes)?) })
}

fn take_runs(bytes: &mut &[u8]) -> Option<Vec<(Position, Position)>> {
    let count = take(bytes).filter(|count| *count <= RUNS_MAX)?;
    let mut before = 0_u64;
    let runs = (0..count).map(|_| {
        let start = before.checked_add(take(bytes)?)?;
        before = start.checked_add(take(bytes)?)?;
        (start < before).then_some((Position(start), Position(before)))
    });
    runs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(log: u16) -> LogKey {
        LogKey { generation: 3, log }
    }

    fn text(place: &Place) -> String {
        let mut out = Vec::new();
        place.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn places() -> [Place; 3] {
        let alone = |next, appended| Alone { next: Position(next), appended: Timestamp(appended) };
        let runs = vec![(Position(5), Position(9)), (Position(u64::MAX - 1), Position(u64::MAX))];
        [
            Place::alone(7, 0),
            Place {
                node: u32::MAX,
                read: Reading::Alone {
                    begin: 12,
                    logs: vec![(key(0), alone(1 << 40, 99)), (key(u16::MAX), alone(1, u64::MAX))],
                },
            },
            Place {
                node: 1,
                read: Reading::Group { group: GroupId(u64::MAX), logs: vec![(key(1), runs)] },
            },
        ]
    }

    /// An id comes back from outside: what was read must be what it says, and what is cut or changed must be refused,
    /// or events would be settled that nobody has read.
    #[test]
    fn ids_survive_and_are_guarded() {
        for place in places() {
            let text = text(&place);
            assert_eq!(Place::read(&text), Some(place));
            assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
            for cut in 0..text.len() {
                assert_eq!(Place::read(&text[..cut]), None, "cut at {cut} of {text}");
            }
            for at in 0..text.len() {
                let mut changed = text.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(Place::read(&String::from_utf8(changed).unwrap()), None, "{at}");
            }
        }
    }

    /// Runs are what a group forgets: one position too many is an event lost, one too few an event twice.
    #[test]
    fn runs_are_exactly_what_was_added() {
        let orders: [&[u64]; 4] =
            [&[1, 2, 3, 7, 9, 8], &[9, 8, 7, 3, 2, 1], &[2, 1, 3, 8, 9, 7, 7], &[3, 1, 2, 9, 7, 8]];
        for order in orders {
            let mut runs = Vec::new();
            order.iter().for_each(|at| add(&mut runs, Position(*at)));
            let expected = [(Position(1), Position(4)), (Position(7), Position(10))];
            assert_eq!(runs, expected, "{order:?}");
        }
    }

    /// A reader that is told of a gap it has not missed reads all again for nothing; one that is not told of one it has
    /// missed takes what it has for the whole.
    #[test]
    fn a_gap_is_what_was_not_read() {
        let alone = Alone { next: Position(9), appended: Timestamp(50) };
        let place =
            Place { node: 0, read: Reading::Alone { begin: 0, logs: vec![(key(0), alone)] } };
        let gap = |log, from, to, events| Gap {
            log: key(log),
            from: Position(from),
            to: Position(to),
            events,
        };
        for (passed, unread) in [
            (gap(0, 0, 9, None), None),
            (gap(0, 3, 8, Some(2)), None),
            (gap(0, 3, 12, Some(5)), Some(gap(0, 9, 12, None))),
            (gap(0, 9, 12, Some(3)), Some(gap(0, 9, 12, Some(3)))),
            (gap(1, 0, 5, None), Some(gap(1, 0, 5, None))),
        ] {
            assert_eq!(place.unread(passed), unread, "{passed:?}");
            assert_eq!(Place::of_group(0).unread(passed), Some(passed));
        }
    }

    /// A place that is taken up too late leaves out events of a log that the reader has not seen yet.
    #[test]
    fn a_log_that_was_not_read_is_read_from_the_beginning() {
        let alone = |appended| Alone { next: Position(9), appended: Timestamp(appended) };
        let place = |begin, logs| Place { node: 0, read: Reading::Alone { begin, logs } };
        let time = |us| Some(Start::Time(Timestamp(us)));
        let both = vec![(key(0), alone(50)), (key(1), alone(40))];
        assert_eq!(place(10, both.clone()).start(2), time(40));
        assert_eq!(place(10, both[..1].to_vec()).start(2), time(10));
        assert_eq!(place(0, both[..1].to_vec()).start(2), Some(Start::Earliest));
        let older = vec![(LogKey { generation: 2, log: 0 }, alone(1)), both[0], both[1]];
        assert_eq!(place(0, older).start(2), time(40));
    }
}
