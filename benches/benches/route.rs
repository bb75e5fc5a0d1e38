//! Matching a topic and editing a snapshot: neither may cost more because others subscribe to other things.

use std::hint::black_box;

use benches::fleet::{TOPICS, snapshot, subscription, topics};
use codec::ids::TopicId;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use routing::match_cache::MatchCache;
use routing::snapshot::SnapshotEditor;

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
