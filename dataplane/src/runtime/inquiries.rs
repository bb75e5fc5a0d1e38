//! What others ask a shard about itself, answered between two cycles: one question at a time, a bounded step of it a
//! cycle. The values are the answer's own; nobody looks into the shard.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use log::count::Counted;
use routing::subscription::GroupId;

use super::connection::Phase;
use super::connections::Connections;
use crate::inquiry::{Answer, ConnectionReport, GroupReport, Inquiry, MembersReport, PAGE_MAX};
use crate::kernel::{Kernel, Now};
use crate::shard::{Counting, Measuring, Shard, TopicMeasure, TopicPage};

/// Slots of connections that one step looks at.
const SLOTS_PER_STEP: usize = 256;

/// The questions to one shard. Lives on its thread; the queue is shared with those who ask.
pub(super) struct Inquiries {
    queue: Arc<ArrayQueue<Inquiry>>,
    /// The answer in the making.
    making: Option<Making>,
}

/// An answer that takes several steps.
enum Making {
    Groups {
        ids: Arc<[GroupId]>,
        next: usize,
        found: Vec<GroupReport>,
        answer: Answer<Vec<GroupReport>>,
    },
    Members {
        group: GroupId,
        next: usize,
        found: MembersReport,
        answer: Answer<MembersReport>,
    },
    Count {
        counting: Counting,
        answer: Answer<Counted>,
    },
    Measure {
        measuring: Measuring,
        answer: Answer<TopicMeasure>,
    },
    Topics {
        page: TopicPage,
        answer: Answer<Vec<Arc<str>>>,
    },
    Connections {
        next: usize,
        count: usize,
        found: Vec<ConnectionReport>,
        answer: Answer<Vec<ConnectionReport>>,
    },
}

/// What a step looks at.
struct Sight<'a> {
    shard: &'a Shard,
    connections: &'a Connections,
    now: Now,
}

impl Inquiries {
    pub(super) fn new(queue: Arc<ArrayQueue<Inquiry>>) -> Self {
        Inquiries { queue, making: None }
    }

    /// Whether something is to be answered.
    pub(super) fn has_queued(&self) -> bool {
        self.making.is_some() || !self.queue.is_empty()
    }

    /// Answers, or makes a piece of an answer. Returns the work done: 0 or 1.
    pub(super) fn step<K: Kernel>(
        &mut self,
        shard: &mut Shard,
        kernel: &mut K,
        connections: &Connections,
        now: Now,
    ) -> u32 {
        let making = match self.making.take() {
            Some(making) => making,
            None => match self.queue.pop() {
                None => return 0,
                // The one that the shard works on by itself.
                Some(Inquiry::Letters { order, answer }) => {
                    shard.begin_letters(*order, answer);
                    return 1;
                }
                Some(inquiry) => {
                    let sight = Sight { shard, connections, now };
                    let Some(making) = sight.begin(inquiry) else { return 1 };
                    making
                }
            },
        };
        // Two that may have to ask the disk for an index.
        self.making = match making {
            Making::Count { mut counting, answer } => {
                match shard.count_step(&mut counting, kernel) {
                    None => Some(Making::Count { counting, answer }),
                    Some(counted) => {
                        answer(counted);
                        None
                    }
                }
            }
            Making::Measure { mut measuring, answer } => {
                match shard.measure_step(&mut measuring, kernel) {
                    None => Some(Making::Measure { measuring, answer }),
                    Some(measure) => {
                        answer(measure);
                        None
                    }
                }
            }
            making => Sight { shard, connections, now }.go_on(making),
        };
        1
    }
}

impl Sight<'_> {
    /// Answers what takes no time; the rest is begun.
    fn begin(&self, inquiry: Inquiry) -> Option<Making> {
        match inquiry {
            Inquiry::Shard(answer) => answer(self.shard.report()),
            Inquiry::Routing(answer) => answer(self.shard.routing()),
            Inquiry::Topic { name, answer } => answer(self.shard.report_topic(&name)),
            Inquiry::Letters { .. } => unreachable!("taken out before"),
            Inquiry::Measure { topic, answer } => {
                return Some(Making::Measure { measuring: Measuring::new(topic), answer });
            }
            Inquiry::Groups { groups: ids, answer } => {
                assert!(ids.len() <= PAGE_MAX, "a question is about a page of groups");
                return Some(Making::Groups { ids, next: 0, found: Vec::new(), answer });
            }
            Inquiry::Count { filters, from, answer } => {
                let counting = Counting::new(filters, from);
                return Some(Making::Count { counting, answer });
            }
            Inquiry::Members { group, answer } => {
                let found = MembersReport::default();
                return Some(Making::Members { group, next: 0, found, answer });
            }
            Inquiry::Topics { after, count, answer } => {
                let page = TopicPage::new(after, count.min(PAGE_MAX));
                return Some(Making::Topics { page, answer });
            }
            Inquiry::Connections { from, count, answer } => {
                let (next, count) = (from as usize, count.min(PAGE_MAX));
                return Some(Making::Connections { next, count, found: Vec::new(), answer });
            }
        }
        None
    }

    /// Makes a piece, and answers when it was the last.
    fn go_on(&self, making: Making) -> Option<Making> {
        match making {
            Making::Groups { ids, next, mut found, answer } => {
                if let Some(next) = self.shard.report_groups(&ids, next, &mut found) {
                    return Some(Making::Groups { ids, next, found, answer });
                }
                answer(found);
            }
            Making::Members { group, next, mut found, answer } => {
                if let Some(next) = self.shard.report_members(group, next, &mut found) {
                    return Some(Making::Members { group, next, found, answer });
                }
                answer(found);
            }
            Making::Count { .. } | Making::Measure { .. } => {
                unreachable!("their steps are made by the shard")
            }
            Making::Topics { mut page, answer } => {
                if !self.shard.report_topics(&mut page) {
                    return Some(Making::Topics { page, answer });
                }
                answer(page.finish());
            }
            Making::Connections { next, count, mut found, answer } => {
                let end = next.saturating_add(SLOTS_PER_STEP).min(self.connections.slots.len());
                for slot in next..end {
                    if found.len() < count {
                        found.extend(self.connection(slot));
                    }
                }
                if found.len() < count && end < self.connections.slots.len() {
                    return Some(Making::Connections { next: end, count, found, answer });
                }
                answer(found);
            }
        }
        None
    }

    fn connection(&self, slot: usize) -> Option<ConnectionReport> {
        let connection = self.connections.slots[slot].connection.as_ref()?;
        let session = self.shard.report_session(connection.key);
        Some(ConnectionReport {
            slot: slot as u32,
            peer: connection.peer,
            door: connection.origin.door,
            client: session.client,
            open_us: self.now.mono_us.saturating_sub(connection.origin.since_us),
            subscriptions: session.subscriptions,
            sent_bytes: connection.sent_bytes,
            outbound_bytes: connection.out.pending_bytes(),
            waits_for_room: session.waits_for_room,
            is_closing: connection.phase != Phase::Open,
        })
    }
}
