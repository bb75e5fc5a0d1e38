//! `sim --seed N` runs one seed and prints its trace's hash; `sim --seeds 0..1000` runs many and prints a table.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use sim::run::{Outcome, run, run_all};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs shards and logs under seeded faults and checks what they promise. Exits 1 on a violation.
#[derive(Debug, Parser)]
struct Arguments {
    /// The one seed to run. The same seed prints the same bytes. What is above 1,000,000 is that seed on slow disks.
    #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
    seed: Option<u64>,
    /// A range of seeds, `FROM..TO`, TO excluded.
    #[arg(long, value_parser = parse_range)]
    seeds: Option<std::ops::Range<u64>>,
    /// Threads for a range.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Print every line of the trace.
    #[arg(long)]
    trace: bool,
    /// Go on after a violation.
    #[arg(long)]
    keep_going: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match (arguments.seed, arguments.seeds) {
        (Some(seed), _) => one(seed, arguments.trace),
        (None, Some(seeds)) => many(seeds, arguments.threads, arguments.keep_going),
        (None, None) => unreachable!("the parser demands one of them"),
    }
}

fn one(seed: u64, trace: bool) -> ExitCode {
    let outcome = run(seed, trace);
    print!("{}", outcome.tally);
    println!("{:<36} {:>12}", "shard cycles", outcome.tally.cycles);
    report(&outcome);
    println!("seed {seed} trace {:016x}", outcome.hash);
    if outcome.violation.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn many(seeds: std::ops::Range<u64>, threads: usize, keep_going: bool) -> ExitCode {
    let failed = AtomicU64::new(0);
    let ran = AtomicU64::new(0);
    let tally = run_all(seeds, threads.max(1), &|outcome| {
        ran.fetch_add(1, Ordering::Relaxed);
        if outcome.violation.is_some() {
            failed.fetch_add(1, Ordering::Relaxed);
            report(outcome);
        }
        outcome.violation.is_some() && !keep_going
    });
    print!("{tally}");
    println!("{:<36} {:>12}", "shard cycles", tally.cycles);
    let (ran, failed) = (ran.into_inner(), failed.into_inner());
    println!("{ran} seeds run, {failed} with a violation");
    if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn report(outcome: &Outcome) {
    if let Some(violation) = &outcome.violation {
        println!("VIOLATION seed {}: {}: {}", outcome.seed, violation.check, violation.text);
    }
}

fn parse_range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("a range is FROM..TO")?;
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    Ok(number(from)?..number(to)?)
}
