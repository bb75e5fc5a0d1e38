//! Matching a topic and editing a snapshot: neither may cost more because others subscribe to other things.
//!
//! Vehicles publish to `fleet/COUNTRY/CITY/VIN/SIGNAL`. The same six filters match in every set; the others differ from
//! every topic in the vehicle or, where that is a wildcard, in the signal. They cycle through all 16 ways to put `+` at
//! the first four levels, and every third ends in `#` where that matches nothing more. The set of 100 is the start of
//! the set of 100,000.

use std::hint::black_box;
use std::sync::Arc;

use codec::ids::TopicId;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use routing::match_cache::MatchCache;
use routing::snapshot::{RoutingSnapshot, SnapshotEditor};
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use routing::topic::{TopicFilter, TopicName};

const TOPICS: u64 = 10_000;
const MATCHING: [&str; 6] = [
    "fleet/#",
    "fleet/+/+/+/signal-1",
    "+/cn/#",
    "fleet/cn/+/+/+",
    "fleet/+/city-7/+/signal-2",
    "+/+/+/+/signal-3",
];

/// Spreads `n` over all bits, the same in every run (SplitMix64).
fn spread(n: u64) -> u64 {
    let bits = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn place(n: u64) -> (&'static str, u64) {
    (["cn", "de", "us", "br"][(spread(n) % 4) as usize], spread(n + 1) % 40)
}

fn topic(n: u64) -> TopicName {
    let (country, city) = place(n);
    let signal = spread(n + 2) % 4;
    let name = format!("fleet/{country}/city-{city}/vin-{n}/signal-{signal}");
    TopicName::new(name).expect("a well-formed name")
}

/// The filter number `n`; from the seventh on it matches none of the topics.
fn filter(n: u64) -> TopicFilter {
    if let Some(text) = MATCHING.get(n as usize) {
        return TopicFilter::new(*text).expect("a well-formed filter");
    }
    let (country, city) = place(n);
    let level = |at: u64, text: String| if n >> at & 1 == 1 { "+".to_owned() } else { text };
    let vehicle = level(3, format!("vin-{}", TOPICS + n));
    let signal = match &*vehicle {
        "+" => format!("signal-{}", 4 + n),
        _ if n.is_multiple_of(3) => "#".to_owned(),
        _ => format!("signal-{}", n % 4),
    };
    let text = [
        level(0, "fleet".to_owned()),
        level(1, country.to_owned()),
        level(2, format!("city-{city}")),
        vehicle,
        signal,
    ];
    TopicFilter::new(text.join("/")).expect("a well-formed filter")
}

fn subscription(n: u64) -> Arc<Subscription> {
    Arc::new(Subscription {
        id: SubscriptionId(n),
        group: GroupId(n),
        group_name: format!("group-{n}").into(),
        filter: filter(n),
        mode: Mode::Clustering,
        start: Start::Tail,
        ephemeral_client: None,
    })
}

fn snapshot(filters: u64) -> RoutingSnapshot {
    let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
    (0..filters).for_each(|n| editor.add(subscription(n)));
    editor.finish()
}

/// Topics in an order that no cache line foresees.
fn topics() -> Vec<TopicName> {
    let mut numbers: Vec<u64> = (0..TOPICS).collect();
    numbers.sort_by_key(|n| spread(*n));
    numbers.into_iter().map(topic).collect()
}

fn matching(criterion: &mut Criterion) {
    let topics = topics();
    let mut group = criterion.benchmark_group("route/match");
    group.throughput(Throughput::Elements(TOPICS));
    let mut out = Vec::new();
    let mut totals = Vec::new();
    for filters in [100, 100_000] {
        let snapshot = snapshot(filters);
        let mut total = 0;
        for name in &topics {
            snapshot.matches(name, &mut out);
            total += out.len();
        }
        totals.push(total);
        group.bench_function(format!("{filters} filters"), |bencher| {
            bencher.iter(|| {
                for name in &topics {
                    snapshot.matches(black_box(name), &mut out);
                    black_box(&out);
                }
            });
        });
    }
    assert_eq!(totals[0], totals[1], "the same filters match in both sets");
    group.finish();
}

fn cached(criterion: &mut Criterion) {
    let topics = topics();
    let snapshot = snapshot(100_000);
    let mut cache = MatchCache::new();
    let mut group = criterion.benchmark_group("route/cached");
    group.throughput(Throughput::Elements(TOPICS));
    group.bench_function("100000 filters", |bencher| {
        bencher.iter(|| {
            for (index, name) in topics.iter().enumerate() {
                black_box(cache.get(&snapshot, TopicId(1 + index as u32), || name.clone()));
            }
        });
    });
    group.finish();
}

/// One filter and its group more, each time another, on the same base: what a version with one change costs.
fn adding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route/add");
    for filters in [100, 100_000] {
        let base = snapshot(filters);
        let mut next = filters;
        group.bench_function(format!("one to {filters}"), |bencher| {
            bencher.iter_batched(
                || {
                    next += 1;
                    subscription(next)
                },
                |subscription| {
                    let mut editor = SnapshotEditor::new(&base);
                    editor.add(subscription);
                    editor.finish()
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(route, matching, cached, adding);
criterion_main!(route);
