//! Dead letters, looked at and worked through, and parked events, looked at: one job at a time, a bounded step a cycle.
//!
//! A job reads the batches of the group's topic of dead letters, log by log, and passes over those letters that are gone.
//! What it redrives is gone once it is durable under its new topic: after a kill between the two a letter may be redriven
//! twice, and none is lost.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use codec::body::Body;
use codec::ids::{Position, TopicId};
use codec::refusal::{Code, Refusal};
use log::batch::{NoAppend, StoredBatch};
use log::cursor::{Cursor, CursorMark};
use log::reader::{ReadStep, Reader, Wanted};
use routing::internal_topics::{dead_topic, parking_topic};
use routing::subscription::GroupId;

use crate::dead_letter::copies;
use crate::group::keys::key_hash;
use crate::inquiry::Answer;
use crate::kernel::Kernel;
use crate::letter::{
    LETTER_BYTES_MAX, LETTERS_MAX, LetterAct, LetterBatch, LetterKind, LetterOrder, LetterPage,
    LetterPlace, Waiting,
};
use crate::selection::Bitmap;
use crate::shard::Shard;
use crate::shard::errands::Errand;
use crate::shard::publish::refusal_of;

/// Jobs that may wait for one shard.
const JOBS_MAX: usize = 8;
/// Batches that one cycle looks at for a job.
const BATCHES_PER_CYCLE: u32 = 16;
/// How long one page may take until it is answered with what there is.
const PAGE_US: u64 = 500_000;
/// Pieces that the letters which are left may lie in, in one log. Beyond it those before them must go first.
const RUNS_MAX: usize = 4_096;
/// Set in the numbers of cursors that are of dead letters; groups are numbered from 1.
const LETTERS_BIT: u64 = 1 << 63;

/// Whether a cursor of this number is of dead letters.
pub(super) fn is_letters(number: u64) -> bool {
    number & LETTERS_BIT != 0
}

/// The number of the cursor that says which letters of a topic are left.
fn cursor_number(topic: &str) -> u64 {
    LETTERS_BIT | key_hash(topic)
}

/// Takes an answer, once.
type PageAnswer = Answer<LetterPage>;

/// Letters of one batch that are being redriven.
struct Driven {
    number: u64,
    log: usize,
    /// What is gone once it is durable.
    ranges: Vec<(Position, Position)>,
    letters: u32,
}

/// One order under way.
struct LetterJob {
    order: LetterOrder,
    answer: PageAnswer,
    topic: Arc<str>,
    until_us: u64,
    /// Index of the log it reads.
    log: usize,
    reader: Option<Reader>,
    /// Letters before this one, from the last that stays on, are gone or going.
    clear_from: Position,
    page: LetterPage,
    bytes: u64,
    driven: VecDeque<Driven>,
    /// For each log what must be durable before the answer, so that a kill brings nothing back.
    marks: Vec<CursorMark>,
    /// A place was found where the page ends.
    is_over: bool,
    /// Waits until the disk or another shard has finished something.
    waits_io: bool,
}

/// The jobs of one shard, in order.
#[derive(Default)]
pub(super) struct LetterJobs {
    jobs: VecDeque<LetterJob>,
}

impl LetterJobs {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether the first job waits for nothing.
    pub(super) fn can_go_on(&self) -> bool {
        self.jobs.front().is_some_and(|job| !job.waits_io && !job.is_over)
    }

    /// The disk has finished something.
    pub(super) fn io_woke(&mut self) {
        if let Some(job) = self.jobs.front_mut() {
            job.waits_io = false;
        }
    }
}

impl Shard {
    /// Takes an order on dead letters; `answer` is called with what was done, within about a second.
    pub fn begin_letters(&mut self, order: LetterOrder, answer: PageAnswer) {
        let refused = |code| LetterPage { stopped: Some(code), ..LetterPage::default() };
        if self.draining {
            return answer(refused(Code::ShuttingDown.into()));
        }
        if self.letters.jobs.len() >= JOBS_MAX {
            let text = format!("{JOBS_MAX} orders on dead letters wait");
            return answer(refused(Refusal::new(Code::Overloaded, text)));
        }
        assert!((1..=LETTERS_MAX).contains(&order.count), "a page is bounded");
        let from = order.from;
        let known = from.map(|from| self.logs.iter().position(|log| log.key() == from.log));
        let Some(log) = known.unwrap_or(Some(0)) else {
            let text = "the log that the page begins in is gone";
            return answer(refused(Refusal::new(Code::NotFound, text)));
        };
        let is_parked = order.kind == LetterKind::Parked;
        assert!(!is_parked || order.act == LetterAct::Browse, "parked events are their group's");
        let topic = if is_parked { parking_topic } else { dead_topic }(&order.group);
        self.letters.jobs.push_back(LetterJob {
            topic,
            answer,
            until_us: self.now.mono_us + PAGE_US,
            log,
            reader: None,
            clear_from: Position(0),
            page: LetterPage::default(),
            bytes: 0,
            driven: VecDeque::new(),
            marks: vec![CursorMark::default(); self.logs.len()],
            is_over: false,
            waits_io: false,
            order,
        });
    }

    /// A step of the first job.
    pub(super) fn run_letter_jobs<K: Kernel>(&mut self, kernel: &mut K) -> u32 {
        let Some(mut job) = self.letters.jobs.pop_front() else { return 0 };
        let mut work = 0;
        if self.draining {
            job.stop(Code::ShuttingDown.into());
        } else if self.now.mono_us >= job.until_us && !job.is_over {
            job.end_at(self.logs[job.log].key(), None);
        }
        while !job.is_over && !job.waits_io && work < BATCHES_PER_CYCLE {
            work += 1;
            if !self.letter_step(&mut job, kernel) {
                break;
            }
        }
        let logs = job.marks.iter().zip(&self.logs);
        let is_durable = logs.into_iter().all(|(mark, log)| *mark <= log.durable_cursor_mark());
        let is_stopped = self.has_stopped_log();
        if job.is_over && job.driven.is_empty() && (is_durable || is_stopped) {
            (job.answer)(job.page);
        } else {
            self.letters.jobs.push_front(job);
        }
        work
    }

    /// Looks at the next batch. Whether to go on at once.
    fn letter_step<K: Kernel>(&mut self, job: &mut LetterJob, kernel: &mut K) -> bool {
        let Some(mut reader) = job.reader.take().or_else(|| self.letter_reader(job)) else {
            // This log has none.
            return self.next_letter_log(job);
        };
        let log = &mut self.logs[job.log];
        let topic = log.topic_id(&job.topic);
        let end = log.positions().durable_end();
        let mut wants = |id: TopicId, _: &Arc<str>| Some(id) == topic;
        let mut wanted = Wanted { version: Some(0), only: None, topic: &mut wants };
        let step = log.read_wanted(&mut reader, end, &mut wanted, kernel);
        let position = reader.position();
        job.reader = Some(reader);
        match step {
            ReadStep::Batch(batch) => self.on_letters(job, &batch),
            ReadStep::End => {
                job.reader = None;
                self.next_letter_log(job)
            }
            ReadStep::Pending | ReadStep::NoRoom => {
                job.waits_io = true;
                false
            }
            ReadStep::More => true,
            ReadStep::Failed { .. } => {
                job.stop(Refusal::new(Code::Damaged, "the disk does not give the dead letters"));
                false
            }
            ReadStep::Expired { .. } | ReadStep::Damaged { .. } => {
                job.clear_from = position;
                true
            }
        }
    }

    /// A reader at the first letter of a log that may be left; none: the log knows no such topic.
    fn letter_reader(&self, job: &mut LetterJob) -> Option<Reader> {
        let log = &self.logs[job.log];
        log.topic_id(&job.topic)?;
        let low = match job.order.kind {
            LetterKind::Dead => {
                log.cursor(cursor_number(&job.topic)).map_or(Position(0), Cursor::low)
            }
            LetterKind::Parked => self.first_parked(self.group_of(job)?, job.log)?,
        };
        let first = low.max(log.positions().start());
        let from = job.order.from.filter(|from| from.log == log.key());
        let first = from.map_or(first, |from| from.position.max(first));
        job.clear_from = first;
        Some(Reader::new(first.min(log.positions().durable_end())))
    }

    /// The group whose parked events a job is about; none: there is no such group.
    fn group_of(&self, job: &LetterJob) -> Option<GroupId> {
        self.snapshot.group_by_name(&job.order.group)
    }

    fn next_letter_log(&self, job: &mut LetterJob) -> bool {
        job.log += 1;
        job.reader = None;
        job.is_over = job.log == self.logs.len();
        !job.is_over
    }

    /// How the events of a batch of copies wait, if the job is about parked events; nothing for those that are over.
    fn waiting(&self, job: &LetterJob, batch: &StoredBatch) -> Option<Vec<Option<Waiting>>> {
        if job.order.kind == LetterKind::Dead {
            return None;
        }
        let Some(group) = self.group_of(job) else {
            return Some(vec![None; batch.header.count as usize]);
        };
        let of = |index| self.parked_waits(group, job.log, batch.header.base_position, index);
        Some((0..batch.header.count).map(of).collect())
    }

    /// Letters of one batch. Whether to go on at once.
    fn on_letters(&mut self, job: &mut LetterJob, batch: &StoredBatch) -> bool {
        let (log, header) = (&self.logs[job.log], &batch.header);
        let waiting = self.waiting(job, batch);
        let cursor = log.cursor(cursor_number(&job.topic)).cloned().unwrap_or_default();
        let is_left = |index: u32, at| match &waiting {
            Some(waiting) => waiting[index as usize].is_some(),
            None => is_left(&cursor, at),
        };
        let begin = job.order.from.filter(|from| from.log == log.key());
        let begin = begin.map_or(Position(0), |from| from.position);
        let clear_from = job.clear_from;
        let Picked { events, ranges, clear_to, cut } = job.pick(batch, is_left, begin);
        job.clear_from = clear_to;
        let letters = events.len();
        if letters > 0 {
            match &job.order.act {
                LetterAct::Count => {}
                LetterAct::Browse => {
                    job.tell(batch, &events, waiting.as_deref().unwrap_or_default())
                }
                LetterAct::Purge => {
                    match self.take_letters(job.log, &job.topic, &ranges) {
                        Ok(mark) => job.marks[job.log] = mark,
                        Err(refusal) => {
                            job.stop(refusal);
                            return false;
                        }
                    }
                    self.stats.purged_events += u64::from(letters);
                }
                LetterAct::Redrive(topic) => {
                    let topic = Arc::clone(topic);
                    if let Err(error) = self.drive(job, batch, &topic, &events, ranges) {
                        // The batch is read again in the next cycle; what is in its way for longer is told.
                        job.clear_from = clear_from;
                        job.reader = Some(Reader::new(header.base_position));
                        job.waits_io = true;
                        if error != NoAppend::NoRoom {
                            job.stop(refusal_of(&error));
                        }
                        return false;
                    }
                }
            }
        }
        job.page.letters += u64::from(letters);
        let key = self.logs[job.log].key();
        if let Some(cut) = cut {
            job.end_at(key, Some(cut));
        } else if job.page.letters >= u64::from(job.order.count) || job.bytes >= LETTER_BYTES_MAX {
            job.end_at(key, None);
        }
        !job.is_over
    }

    /// Appends letters to another topic.
    fn drive(
        &mut self,
        job: &mut LetterJob,
        batch: &StoredBatch,
        topic: &Arc<str>,
        events: &Bitmap,
        ranges: Vec<(Position, Position)>,
    ) -> Result<(), NoAppend> {
        let (bytes, taken) = copies(batch, events);
        assert!(taken.len() == events.len(), "letters of one batch fit one batch");
        let number = self.errands.next();
        self.append_own(topic, &bytes, Errand::Redrive)?;
        job.bytes += bytes.len() as u64;
        job.driven.push_back(Driven { number, log: job.log, ranges, letters: events.len() });
        Ok(())
    }

    /// Letters are durable under their new topic, or are not.
    pub(super) fn redrive_done(&mut self, number: u64, refusal: Option<Refusal>) {
        self.letters.io_woke();
        let job = self.letters.jobs.front_mut().expect("a job waits for what it has begun");
        let at = job.driven.iter().position(|driven| driven.number == number);
        let driven = job.driven.remove(at.expect("it was begun by this job"));
        let driven = driven.expect("found just now");
        let topic = Arc::clone(&job.topic);
        if let Some(refusal) = refusal {
            job.page.letters -= u64::from(driven.letters);
            job.stop(refusal);
            return;
        }
        self.stats.redriven_events += u64::from(driven.letters);
        let taken = self.take_letters(driven.log, &topic, &driven.ranges);
        let job = self.letters.jobs.front_mut().expect("looked at just now");
        match taken {
            Ok(mark) => job.marks[driven.log] = mark,
            Err(refusal) => job.stop(refusal),
        }
    }

    /// Takes letters out of the dead letters.
    fn take_letters(
        &mut self,
        log: usize,
        topic: &str,
        ranges: &[(Position, Position)],
    ) -> Result<CursorMark, Refusal> {
        let number = cursor_number(topic);
        let log = &mut self.logs[log];
        let mut cursor = log.cursor(number).cloned().unwrap_or_default();
        let start = log.positions().start();
        cursor.unsettled.retain(|(_, end)| *end > start);
        ranges.iter().for_each(|range| take_range(&mut cursor, *range));
        if cursor.unsettled.len() > RUNS_MAX {
            let text = format!(
                "more than {RUNS_MAX} gaps lie between the letters that would be left: take out the first ones whole"
            );
            return Err(Refusal::new(Code::LimitExceeded, text));
        }
        Ok(log.put_cursor(number, cursor))
    }
}

/// What a job has to do with a batch.
struct Picked {
    /// The letters that are meant.
    events: Bitmap,
    /// What is gone when these are: from behind the last letter that stays.
    ranges: Vec<(Position, Position)>,
    /// Letters before this one, from the last that stays on, are gone or going.
    clear_to: Position,
    /// Where the page ends, if it ends within the batch.
    cut: Option<Position>,
}

impl LetterJob {
    /// Chooses the letters of a batch, from `begin` on, that are left and meant, as many as the page has room for.
    fn pick(
        &self,
        batch: &StoredBatch,
        is_left: impl Fn(u32, Position) -> bool,
        begin: Position,
    ) -> Picked {
        let header = &batch.header;
        let mut picked = Picked {
            events: Bitmap::none(header.count),
            ranges: Vec::new(),
            clear_to: self.clear_from,
            cut: None,
        };
        let Ok(body) = Body::checked_before(&batch.body, header.count) else { return picked };
        let room = u64::from(self.order.count) - self.page.letters;
        for (index, letter) in (0..).zip(body.events()) {
            let at = header.base_position.plus(u64::from(index));
            if at < begin || !is_left(index, at) {
                continue;
            }
            if !self.order.filter.chooses(self.order.kind, &letter, header.append_time) {
                picked.clear_to = at.plus(1);
            } else if u64::from(picked.events.len()) == room {
                picked.cut = Some(at);
                break;
            } else {
                picked.events.set(index);
                picked.ranges.push((picked.clear_to, at.plus(1)));
                picked.clear_to = at.plus(1);
            }
        }
        picked
    }

    fn tell(&mut self, batch: &StoredBatch, events: &Bitmap, waiting: &[Option<Waiting>]) {
        self.bytes += batch.body.len() as u64;
        self.page.batches.push(LetterBatch {
            partition: batch.header.partition,
            base_offset: batch.header.base_offset,
            time: batch.header.append_time,
            count: batch.header.count,
            events: events.clone(),
            waiting: events.iter().filter_map(|at| *waiting.get(at as usize)?).collect(),
            // A copy: the answer may wait, and must not keep the log's buffers.
            body: Bytes::copy_from_slice(&batch.body),
        });
    }

    /// The page ends here; the next begins at `position`, or else with what was not read yet.
    fn end_at(&mut self, log: log::disk::LogKey, position: Option<Position>) {
        let from = self.order.from.filter(|from| from.log == log);
        let from = from.map_or(Position(0), |from| from.position);
        let read_to = self.reader.as_ref().map_or(from, Reader::position);
        // Where letters were looked at the next page begins behind the last of them, so that what is taken out before
        // and behind the border lies together.
        let unread = if self.clear_from > from { self.clear_from } else { read_to.max(from) };
        self.page.next = Some(LetterPlace { log, position: position.unwrap_or(unread) });
        self.is_over = true;
    }

    fn stop(&mut self, refusal: Refusal) {
        self.page.stopped.get_or_insert(refusal);
        self.is_over = true;
    }
}

fn is_left(cursor: &Cursor, at: Position) -> bool {
    let index = cursor.unsettled.partition_point(|(_, end)| *end <= at);
    at >= cursor.next || cursor.unsettled.get(index).is_some_and(|(start, _)| *start <= at)
}

/// Takes a range of positions out of what a cursor leaves: its runs, and all from its next position on.
pub(super) fn take_range(cursor: &mut Cursor, (start, end): (Position, Position)) {
    assert!(start < end, "a range is of something");
    let mut runs: Vec<(Position, Position)> = Vec::with_capacity(cursor.unsettled.len() + 1);
    let mut keep = |from: Position, to: Position| match runs.last_mut() {
        _ if from >= to => {}
        Some((_, last)) if *last == from => *last = to,
        _ => runs.push((from, to)),
    };
    let unread = (end > cursor.next).then_some((cursor.next, end));
    for (from, to) in cursor.unsettled.iter().copied().chain(unread) {
        keep(from, to.min(start));
        keep(from.max(end), to);
    }
    cursor.unsettled = runs;
    cursor.next = cursor.next.max(end);
    assert!(cursor.is_well_formed(), "runs rise: {cursor:?}");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A letter that is redriven and comes back, or that goes with its neighbour, is what nobody would notice.
    #[test]
    fn what_is_left_is_what_was_not_taken() {
        let mut random = 7u64;
        let mut below = |end: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % end
        };
        for _ in 0..200 {
            let (mut cursor, mut left): (Cursor, BTreeSet<u64>) =
                (Cursor::default(), (0..100).collect());
            for _ in 0..20 {
                let start = below(95);
                let end = start + 1 + below(5);
                take_range(&mut cursor, (Position(start), Position(end)));
                left.retain(|at| !(start..end).contains(at));
                for at in 0..100 {
                    assert_eq!(
                        is_left(&cursor, Position(at)),
                        left.contains(&at),
                        "{cursor:?} {at}"
                    );
                }
            }
        }
    }
}
