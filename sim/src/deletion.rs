//! An operator who deletes topics: the control plane keeps the order until every shard holds it, and a start finishes what a
//! kill has cut off.

use std::collections::BTreeMap;
use std::sync::Arc;

use codec::ids::{Offset, Partition};
use dataplane::control::LogName;
use log::disk::LogKey;

use crate::check::deletion::{check_whole, note_begun, note_down, note_told, standing};
use crate::control::Control;
use crate::faults::Fault;
use crate::ledger::Checked;
use crate::node::Node;
use crate::random::Random;
use crate::scene::Scene;

/// A deletion is begun in one of so many steps.
const STEPS_PER_DELETION: u64 = 4_000;
/// How often in a thousand the node goes down soon after one was begun, when only some shards may hold it.
const CUT_OFF_PER_MILLE: u64 = 250;
/// How soon, in cycles of all shards.
const CUT_OFF_CYCLES: u64 = 24;

/// See the module.
#[derive(Debug)]
pub struct Deleter {
    random: Random,
    /// By the numbers that the control plane gives them.
    under_way: BTreeMap<u64, Deletion>,
}

/// A deletion that was ordered.
#[derive(Debug)]
struct Deletion {
    /// The end of the topic in each log and partition, as the order went out: what is before that must go.
    ends: BTreeMap<(LogKey, usize, Partition), Offset>,
}

impl Deleter {
    /// One who draws from numbers of his own, so that nothing else shifts.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Deleter { random, under_way: BTreeMap::new() }
    }

    /// He may order a deletion. Returns after how many cycles the node is to go down, if it is.
    pub fn act(
        &mut self,
        node: &mut Node,
        control: &mut Control,
        scene: &mut Scene,
    ) -> Option<u64> {
        if !self.under_way.is_empty() || self.random.below(STEPS_PER_DELETION) > 0 {
            return None;
        }
        let topic = self.random.index(scene.plan.topics.len());
        let (network, tally) = (&mut node.network, &mut scene.tally);
        let number = control.delete_topic(topic, scene.now_us, network, tally)?;
        self.ordered(number, topic, None, node, scene);
        let is_cut_off = self.random.chance(CUT_OFF_PER_MILLE);
        is_cut_off.then(|| self.random.below(CUT_OFF_CYCLES))
    }

    fn ordered(
        &mut self,
        number: u64,
        topic: usize,
        only: Option<&[LogName]>,
        node: &Node,
        scene: &mut Scene,
    ) {
        let logs = node.shards.iter().flat_map(dataplane::shard::Shard::logs);
        let logs = logs.filter(|log| {
            let name = (log.key().generation, log.key().log);
            only.is_none_or(|only| only.contains(&name))
        });
        let ends = standing(logs, &scene.ledger.topics[topic], topic);
        scene.trace.note(format_args!("{} deletion {number} of {topic}: {ends:?}", scene.now_us));
        self.under_way.insert(number, Deletion { ends });
    }

    /// The node has come back, and goes on with what was begun.
    pub fn resume(&mut self, node: &Node, control: &Control, scene: &mut Scene) {
        for (number, (topic, only)) in control.begun_deletions() {
            scene.tally.hit(Fault::DeletionResumed);
            self.ordered(*number, *topic, only.as_deref(), node, scene);
        }
    }

    /// Shards have executed orders in their last cycle: what stands there may be gone from now on.
    pub fn executed(&self, node: &Node, shard: u16, names: &[Arc<str>], scene: &mut Scene) {
        for name in names {
            let topic = scene.plan.topics.iter().position(|topic| topic.as_str() == &**name);
            let topic = topic.expect("only topics of the run are deleted");
            let logs = node.shards[usize::from(shard)].logs();
            let gone = note_begun(&mut scene.ledger, logs, topic);
            scene.tally.add_faults(Fault::Deleted, gone);
            let now_us = scene.now_us;
            scene.trace.note(format_args!("{now_us} shard {shard} deletes {topic}: {gone} events"));
        }
    }

    /// Looks which deletions are over.
    ///
    /// # Errors
    /// One was answered, or finished by a start, and something of it stands in some log.
    pub fn look(&mut self, node: &Node, control: &mut Control, scene: &mut Scene) -> Checked {
        for (number, is_whole) in control.take_ended() {
            let Some(deletion) = self.under_way.remove(&number) else { continue };
            if !is_whole {
                continue;
            }
            let logs = node.shards.iter().flat_map(dataplane::shard::Shard::logs);
            check_whole(&scene.ledger, logs, &deletion.ends)?;
            scene.tally.hit(Fault::TopicDeleted);
            note_told(&mut scene.ledger, deletion.ends, scene.now_us);
            scene.trace.note(format_args!("{} deletion {number} is done", scene.now_us));
        }
        Ok(())
    }

    /// The node went down: what was not answered never will be, and may be finished by the next start.
    pub fn node_down(&mut self, scene: &mut Scene) {
        self.under_way.clear();
        note_down(&mut scene.ledger);
    }
}
