//! The regression guard: instructions of the pure hot paths, counted by callgrind, against a committed baseline.
//!
//! Instructions do not depend on neighbours or on the day, so this may fail where a timing may not. The first cases are
//! the floor: what must be done to the bytes by anyone who stores them. A case that handles the same bytes is also given
//! as a multiple of it.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use benches::bed::batches;
use benches::fleet;
use benches::http_node::HttpNode;
use benches::log_node::LogNode;
use benches::shard_node::ShardNode;
use benches::wire_node::WireNode;
use clap::Parser;
use codec::attribute::{Key, Value};
use codec::batch::Batch;
use codec::builder::BatchBuilder;
use codec::crc32c::crc32c;
use codec::event::DataKind;
use codec::header::{HEADER_BYTES, HeaderSeed};
use codec::ids::{Partition, TopicId};
use dataplane::session::TopicHandle;
use routing::match_cache::MatchCache;
use serde::{Deserialize, Serialize};

/// More instructions than the baseline by this part is a regression.
const LIMIT: f64 = 0.03;
/// The same where compiler or processor are not those of the baseline, which shows in the floor as well.
const LIMIT_ELSEWHERE: f64 = 0.20;

/// Counts the instructions of the hot paths and compares them with the baseline; exits 1 if one has grown by over 3 %.
#[derive(Parser)]
struct Args {
    /// Writes what is counted as the new baseline.
    #[arg(long)]
    update: bool,
    /// The baseline.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/guard.toml"))]
    baseline: PathBuf,
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Runs one case, to be counted.
    #[arg(long, hide = true)]
    run: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Baseline {
    /// `rustc --version` that compiled what was counted.
    rustc: String,
    /// Instructions by the name of the case.
    instructions: BTreeMap<String, u64>,
}

/// A hot path. It prepares itself, then does its work so many times within `measured`.
struct Case {
    name: &'static str,
    /// What the instructions are divided by.
    per: u64,
    /// The case whose bytes it handles, too.
    floor: Option<&'static str>,
    run: fn(),
}

/// Events that a case publishes while it is counted.
const EVENTS: u64 = 8_000;

/// Events of the segment that is sealed, and the topics that they are spread over: nearly each is a run of its own.
const SEALED: u64 = 100_000;
const SEALED_TOPICS: u32 = 40_000;

const FLOOR_SMALL: &str = "floor: copy, checksum 100 x 100 B";
const FLOOR_LARGE: &str = "floor: copy, checksum 100 x 1 KB";

const CASES: [Case; 18] = [
    Case { name: FLOOR_SMALL, per: 100, floor: None, run: || copy(100) },
    Case { name: FLOOR_LARGE, per: 100, floor: None, run: || copy(1_000) },
    Case { name: "make a batch 100 x 100 B", per: 100, floor: Some(FLOOR_SMALL), run: make },
    Case { name: "check a batch 100 x 100 B", per: 100, floor: Some(FLOOR_SMALL), run: check },
    Case { name: "match a topic, 10,000 filters", per: fleet::TOPICS, floor: None, run: matching },
    Case { name: "match a known topic", per: fleet::TOPICS, floor: None, run: cached },
    Case { name: "nothing to do, 64 sessions", per: 1_000, floor: None, run: idle },
    Case { name: "publish 1 x 1 x 100 B", per: EVENTS, floor: None, run: || publish(1, 1, 100) },
    Case { name: "publish 64 x 1 x 100 B", per: EVENTS, floor: None, run: || publish(64, 1, 100) },
    Case { name: "publish 64 x 1 x 100 B, numbered", per: EVENTS, floor: None, run: numbered },
    Case {
        name: "publish 1 x 100 x 100 B",
        per: EVENTS,
        floor: Some(FLOOR_SMALL),
        run: || publish(1, 100, 100),
    },
    Case {
        name: "publish 4 x 100 x 1 KB",
        per: EVENTS,
        floor: Some(FLOOR_LARGE),
        run: || publish(4, 100, 1_000),
    },
    Case {
        name: "publish, deliver, settle 64 x 1 x 100 B",
        per: EVENTS,
        floor: None,
        run: || deliver(64, 1, 100),
    },
    Case {
        name: "publish, deliver, settle 4 x 100 x 1 KB",
        per: EVENTS,
        floor: Some(FLOOR_LARGE),
        run: || deliver(4, 100, 1_000),
    },
    Case { name: "log: append, 40,000 topics", per: SEALED, floor: None, run: append },
    Case { name: "log: index a segment, 40,000 topics", per: SEALED, floor: None, run: seal },
    Case { name: "http: publish 64 x 1 x 256 B", per: EVENTS, floor: None, run: || http(64, 1) },
    Case { name: "http: publish 4 x 100 x 256 B", per: EVENTS, floor: None, run: || http(4, 100) },
];

/// What is counted: callgrind collects while this runs.
#[inline(never)]
fn guarded_section(times: u64, work: &mut dyn FnMut()) {
    for _ in 0..times {
        work();
    }
}

/// As a warm-up, so that every table has its size, and then counted.
fn measure(times: u64, mut work: impl FnMut()) {
    (0..times).for_each(|_| work());
    guarded_section(times, &mut work);
}

fn copy(bytes: usize) {
    let batch = batches(100, bytes).swap_remove(0);
    let mut commit = vec![0; batch.len()];
    measure(1, || {
        commit.copy_from_slice(black_box(&batch));
        black_box(crc32c(&commit[HEADER_BYTES..]));
    });
}

fn make() {
    let keys: Vec<String> = (0..100).map(|n| format!("vin-{n:08}")).collect();
    measure(1, || {
        let mut shared = [(Key::Source, Value::UriReference("/fleet/cn/sz"))];
        let mut builder = BatchBuilder::new(&mut shared).expect("an attribute");
        for key in &keys {
            let mut own = [(Key::PartitionKey, Value::String(key))];
            builder.push(&mut own, DataKind::Binary, &[7; 100]).expect("fits");
        }
        black_box(builder.finish(TopicId(1), Partition(0)));
    });
}

fn check() {
    let batch = batches(100, 100).swap_remove(0);
    measure(1, || {
        let batch = Batch::parse(black_box(&batch), HeaderSeed::WIRE).expect("made here");
        black_box(batch.check().expect("made here"));
    });
}

fn matching() {
    let (topics, snapshot) = (fleet::topics(), fleet::snapshot(10_000));
    let mut out = Vec::new();
    measure(1, || {
        for name in &topics {
            snapshot.matches(black_box(name), &mut out);
            black_box(&out);
        }
    });
}

fn cached() {
    let (topics, snapshot) = (fleet::topics(), fleet::snapshot(10_000));
    let mut cache = MatchCache::new();
    measure(1, || {
        for (index, name) in topics.iter().enumerate() {
            black_box(cache.get(&snapshot, TopicId(1 + index as u32), || name.clone()));
        }
    });
}

fn idle() {
    let mut node = ShardNode::open(64);
    measure(1_000, || {
        black_box(node.cycle());
    });
}

/// Rounds in which `clients` publish a batch each, so many that `EVENTS` are stored.
fn rounds(clients: usize, count: u32) -> u64 {
    EVENTS / (clients as u64 * u64::from(count))
}

fn publish(clients: usize, count: u32, bytes: usize) {
    let mut node = WireNode::open(clients, count, bytes);
    measure(rounds(clients, count), || node.round());
}

fn numbered() {
    let mut node = WireNode::open_numbered(64, 1, 100);
    measure(rounds(64, 1), || node.round());
}

fn http(clients: usize, count: u32) {
    let mut node = HttpNode::open(clients, count);
    measure(rounds(clients, count), || node.round());
}

fn deliver(clients: usize, count: u32, bytes: usize) {
    let topic = TopicHandle::from("bench/topic");
    let batches = batches(count, bytes);
    let mut node = ShardNode::open(clients);
    let member = node.subscribe();
    measure(rounds(clients, count), || {
        node.publish(&topic, &batches);
        node.take(member, clients as u32 * count);
    });
}

fn append() {
    let mut node = LogNode::open(SEALED_TOPICS);
    node.seal();
    guarded_section(1, &mut || node.append(SEALED));
}

/// What a helper thread does, on the core of the shard, when a segment is sealed. The rest of it is a few thousand instructions.
fn seal() {
    let mut node = LogNode::open(SEALED_TOPICS);
    node.seal();
    node.append(SEALED);
    let before = node.index_bytes();
    guarded_section(1, &mut || node.seal());
    let bytes = (node.index_bytes() - before) as f64 / SEALED as f64;
    assert!(bytes > 20.0, "one segment with all of it is indexed: {bytes}");
    println!("{bytes:.1} bytes of index an event");
}

/// Counts the instructions of a case in a process of its own.
fn count(case: &Case) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*guarded_section*")
        .arg(std::env::current_exe().context("where this program stands")?)
        .args(["--run", case.name])
        .output()
        .context("valgrind cannot be started; apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}: {said}", case.name);
    }
    let collected = said.lines().find_map(|line| line.split_once("Collected : "));
    let (_, instructions) = collected.with_context(|| format!("callgrind said {said}"))?;
    Ok(instructions.trim().parse::<u64>().context(instructions.to_owned())? / case.per)
}

fn rustc() -> anyhow::Result<String> {
    let output = Command::new("rustc").arg("--version").output().context("rustc")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn load(path: &Path) -> anyhow::Result<Baseline> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    toml::from_str(&text).with_context(|| path.display().to_string())
}

/// How much more than the baseline is let pass.
fn limit(baseline: &Baseline, counted: &BTreeMap<String, u64>) -> anyhow::Result<f64> {
    let same = |name: &str| match (baseline.instructions.get(name), counted.get(name)) {
        (Some(before), Some(now)) => before.abs_diff(*now) * 100 <= *before,
        _ => true,
    };
    let is_same = rustc()? == baseline.rustc && same(FLOOR_SMALL) && same(FLOOR_LARGE);
    Ok(if is_same { LIMIT } else { LIMIT_ELSEWHERE })
}

/// Prints a table and returns the names of what has grown too much.
fn report(baseline: &Baseline, counted: &BTreeMap<String, u64>, limit: f64) -> Vec<&'static str> {
    println!("| instructions an event, a match or a cycle | now | baseline | change | x floor |");
    println!("|---|---|---|---|---|");
    let mut grown = Vec::new();
    for case in &CASES {
        let Some(now) = counted.get(case.name) else { continue };
        let before = baseline.instructions.get(case.name);
        let change = before.map(|before| *now as f64 / *before as f64 - 1.0);
        let floor = case.floor.and_then(|floor| counted.get(floor));
        let text = |value: Option<String>| value.unwrap_or_default();
        println!(
            "| {} | {now} | {} | {} | {} |",
            case.name,
            text(before.map(u64::to_string)),
            text(change.map(|change| format!("{:+.1} %", change * 100.0))),
            text(floor.map(|floor| format!("{:.1}", *now as f64 / *floor as f64))),
        );
        if change.is_none_or(|change| change > limit) {
            grown.push(case.name);
        }
    }
    grown
}

fn guard(args: &Args) -> anyhow::Result<ExitCode> {
    let wanted = |case: &&Case| args.only.as_ref().is_none_or(|part| case.name.contains(part));
    let counted: anyhow::Result<BTreeMap<String, u64>> =
        CASES.iter().filter(wanted).map(|case| Ok((case.name.to_owned(), count(case)?))).collect();
    let counted = counted?;
    if args.update {
        let baseline = Baseline { rustc: rustc()?, instructions: counted.clone() };
        std::fs::write(&args.baseline, toml::to_string(&baseline)?)
            .with_context(|| args.baseline.display().to_string())?;
    }
    let baseline = load(&args.baseline)?;
    let limit = limit(&baseline, &counted)?;
    let grown = report(&baseline, &counted, limit);
    println!(
        "\nlimit: {:.0} % over {} ({})",
        limit * 100.0,
        args.baseline.display(),
        baseline.rustc
    );
    if grown.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("over the limit, or not in the baseline: {}", grown.join("; "));
    println!("mend it, or say in the commit why it must cost more and run this with --update");
    Ok(ExitCode::FAILURE)
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let Some(name) = &args.run else { return guard(&args) };
    let case = CASES.iter().find(|case| case.name == name);
    (case.with_context(|| format!("no case {name:?}"))?.run)();
    Ok(ExitCode::SUCCESS)
}
