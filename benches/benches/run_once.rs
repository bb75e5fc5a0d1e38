//! One cycle of a shard, over a kernel whose disk takes every write at once and keeps nothing: what is left is the
//! shard's own work. Publishing and delivering, small events and large batches, and the cycle that finds nothing.
//!
//! Chores (new segments, checkpoints) run for real, in memory if there is a `/dev/shm`; they are rare.

use std::hint::black_box;

use benches::bed::batches;
use benches::shard_node::ShardNode;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::session::TopicHandle;

fn run_once(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("run_once");
    let topic = TopicHandle::from("bench/topic");

    let mut node = ShardNode::open(64);
    group.bench_function("nothing to do, 64 sessions", |b| b.iter(|| black_box(node.cycle())));

    for (sessions, count, bytes) in [(64, 1, 100), (1, 1, 100), (4, 100, 1_000)] {
        let batches = batches(count, bytes);
        let events = u64::from(count) * sessions as u64;
        group.throughput(Throughput::Elements(events));
        let mut node = ShardNode::open(sessions);
        let name = format!("publish {sessions} x {count} x {bytes} B");
        group.bench_function(name, |b| b.iter(|| node.publish(&topic, &batches)));

        let mut node = ShardNode::open(sessions);
        let member = node.subscribe();
        let name = format!("publish, deliver, settle {sessions} x {count} x {bytes} B");
        group.bench_function(name, |b| {
            b.iter(|| {
                node.publish(&topic, &batches);
                node.take(member, events as u32);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, run_once);
criterion_main!(benches);
