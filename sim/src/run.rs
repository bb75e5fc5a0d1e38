//! Runs of seeds: one, or many on several threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::faults::Tally;
use crate::ledger::Violation;
use crate::world::World;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The hash of its trace.
    pub hash: u64,
    /// What happened in it.
    pub tally: Tally,
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
}

/// Runs a seed. An assertion of the node that fails is a violation as well.
#[must_use]
pub fn run(seed: u64, print: bool) -> Outcome {
    let mut kept = None;
    let ended = catch_unwind(AssertUnwindSafe(|| {
        let world = kept.insert(World::new(seed, print)?);
        world.run()
    }));
    let violation = match ended {
        Ok(checked) => checked.err(),
        Err(panic) => Some(Violation { check: "assertion", text: text_of(&*panic) }),
    };
    let (hash, tally) = match &mut kept {
        Some(world) => (world.hash(), world.tally()),
        None => (0, Tally::default()),
    };
    Outcome { seed, hash, tally, violation }
}

/// Runs `seeds` on `threads` threads. `on_end` sees every outcome, in any order; the sum of all counts comes back.
/// Stops early once `on_end` says so.
pub fn run_all(
    seeds: std::ops::Range<u64>,
    threads: usize,
    on_end: &(dyn Fn(&Outcome) -> bool + Sync),
) -> Tally {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Tally::default());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = run(seed, false);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.add(&outcome.tally);
                    drop(sum);
                    if on_end(&outcome) {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without text").to_owned()
}
