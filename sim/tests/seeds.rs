//! The seeds that every change must pass, and what must be known about the simulator itself.

use std::ops::Range;
use std::sync::Mutex;

use sim::faults::{Fault, Tally};
use sim::plan::{CYCLES_MIN, EVENTS_MIN, SLOW_DISKS_FROM};
use sim::run::{Outcome, run, run_all};
use sim::scenarios;

/// A run that cannot be run again is a bug that cannot be found again: the same seed must give the same trace.
#[test]
fn a_seed_gives_the_same_trace_twice() {
    for seed in 0..4 {
        let (first, second) = (run(seed, false), run(seed, false));
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.tally, second.tally, "seed {seed}");
    }
}

/// Bugs that were found once must stay found.
#[test]
fn scenarios_hold() {
    for seed in scenarios::seeds() {
        let outcome = run(seed, false);
        assert_eq!(outcome.violation, None, "seed {seed}");
    }
}

/// The promises of the shard and the log, under a thousand different runs. A run that is too short or loses no power
/// shows little, and a fault that never happened was not survived, so neither may be.
#[test]
fn a_thousand_seeds_hold() {
    let tally = all_hold(0..1_000);
    print!("{tally}");
    assert_eq!(tally.zeros(), Vec::<&str>::new(), "each fault happens");
}

/// A disk that is slow holds up routing, checkpoints and cursors while all else goes on.
#[test]
fn seeds_on_slow_disks_hold() {
    all_hold(SLOW_DISKS_FROM..SLOW_DISKS_FROM + 150);
}

fn all_hold(seeds: Range<u64>) -> Tally {
    let failed: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let tally = run_all(seeds, 2, &|outcome| {
        let lines = shortcomings(outcome);
        if !lines.is_empty() {
            failed.lock().expect("no test thread has panicked").extend(lines);
        }
        false
    });
    let failed = failed.into_inner().expect("no test thread has panicked");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    tally
}

/// What is wrong with a run: a promise that was broken, or less work and fewer faults than a run must have.
fn shortcomings(outcome: &Outcome) -> Vec<String> {
    let (seed, tally) = (outcome.seed, &outcome.tally);
    if let Some(violation) = &outcome.violation {
        return vec![format!("seed {seed}: {}: {}", violation.check, violation.text)];
    }
    let power = tally.count(Fault::PowerLoss);
    let least = [
        ("shard cycles", tally.cycles, CYCLES_MIN),
        ("events", tally.published, EVENTS_MIN),
        ("power losses", power, 1),
    ];
    let short = least.into_iter().filter(|(_, had, least)| had < least);
    short.map(|(what, had, least)| format!("seed {seed}: {had} {what}, not {least}")).collect()
}
