//! An operator who deletes topics: one at a time, shard after shard, answered when every shard says that it is durable.

use dataplane::shard::Deleting;

use crate::check::deletion::{End, note_begun, note_down, note_told};
use crate::faults::Fault;
use crate::node::Node;
use crate::random::Random;
use crate::scene::Scene;

/// A deletion is begun in one of so many steps.
const STEPS_PER_DELETION: u64 = 4_000;
/// One that is under way goes on in one of so many.
const STEPS_PER_LOOK: u64 = 8;

/// See the module.
#[derive(Debug)]
pub struct Deleter {
    random: Random,
    under_way: Option<Deletion>,
}

/// A deletion that was begun.
#[derive(Debug)]
struct Deletion {
    topic: usize,
    /// Shards that have not heard of it, the next one last.
    todo: Vec<u16>,
    begun: Vec<(u16, Deleting)>,
    ends: Vec<End>,
}

impl Deleter {
    /// One who draws from numbers of his own, so that nothing else shifts.
    #[must_use]
    pub fn new(random: Random) -> Self {
        Deleter { random, under_way: None }
    }

    /// He begins, or looks how far it is.
    pub fn act(&mut self, node: &mut Node, scene: &mut Scene) {
        let Some(deletion) = &mut self.under_way else {
            if self.random.below(STEPS_PER_DELETION) == 0 {
                let topic = self.random.index(scene.plan.topics.len());
                let (todo, begun, ends) = ((0..node.count()).collect(), Vec::new(), Vec::new());
                self.under_way = Some(Deletion { topic, todo, begun, ends });
            }
            return;
        };
        if self.random.below(STEPS_PER_LOOK) == 0 && deletion.go_on(node, scene) {
            self.under_way = None;
        }
    }

    /// The node went down: what was not answered never will be.
    pub fn node_down(&mut self, scene: &mut Scene) {
        self.under_way = None;
        note_down(&mut scene.ledger);
    }
}

impl Deletion {
    /// Whether it is over: done, or nobody will tell.
    fn go_on(&mut self, node: &mut Node, scene: &mut Scene) -> bool {
        if let Some(shard) = self.todo.pop() {
            let name = scene.plan.topics[self.topic].clone();
            let state = &mut node.shards[usize::from(shard)];
            let Ok(deleting) = state.begin_deletion(name.as_str()) else { return true };
            node.sides[usize::from(shard)].has_input = true;
            let logs = node.shards[usize::from(shard)].logs();
            let (ends, gone) = note_begun(&mut scene.ledger, logs, self.topic);
            scene.tally.add_faults(Fault::Deleted, gone);
            scene.trace.note(format_args!(
                "{} shard {shard} deletes {}: {gone} events",
                scene.now_us,
                name.as_str()
            ));
            self.ends.extend(ends);
            self.begun.push((shard, deleting));
            return false;
        }
        let done =
            |(shard, of): &(u16, Deleting)| node.shards[usize::from(*shard)].deletion_step(of);
        let Some(done) = self.begun.iter().map(done).collect::<Option<Vec<_>>>() else {
            return false;
        };
        if done.iter().all(Result::is_ok) {
            scene.tally.hit(Fault::TopicDeleted);
            note_told(&mut scene.ledger, std::mem::take(&mut self.ends), scene.now_us);
            scene.trace.note(format_args!("{} a topic is deleted", scene.now_us));
        }
        true
    }
}
