//! What appending costs a shard: stamp, copy, index. The disk takes everything at once and writes nothing.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use benches::bed::open_logs;
use codec::header::BatchHeader;
use codec::ids::{Partition, Timestamp, TopicId};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use log::batch::NoAppend;
use log::options::LogOptions;
use log::sim_disk::{SimDisk, SimStorage};

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for (name, bytes, topics) in
        [("100 B, 1 topic", 100, 1), ("100 B, 10000 topics", 100, 10_000), ("16 KiB", 16 << 10, 1)]
    {
        let storage = SimStorage::new();
        let log = LogOptions {
            segment_bytes: 32 << 20,
            retention_bytes: Some(0),
            ..LogOptions::default()
        };
        let (mut logs, _lock) = open_logs(Arc::new(storage.clone()), Path::new("/bench"), log);
        let log = &mut logs.active;
        let mut disk = SimDisk::new(storage, 1);
        let names: Vec<Arc<str>> = (0..topics).map(|t| Arc::from(format!("bench/{t}"))).collect();
        let body = vec![7; bytes];
        let header = BatchHeader::unstamped(TopicId(0), Partition(1), &body, 1);
        let mut now = 1;
        group.throughput(Throughput::Elements(1));
        group.bench_function(name, |b| {
            b.iter_custom(|count| {
                let mut spent = std::time::Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    let batches = left.min(64);
                    let from = std::time::Instant::now();
                    for _ in 0..batches {
                        now += 1;
                        let made = log.create_topic(&names[now as usize % names.len()]);
                        let done = made.and_then(|topic| {
                            log.append(topic, Partition(1), &header, &body, Timestamp(now))
                        });
                        match black_box(done) {
                            Ok(_) => left -= 1,
                            Err(NoAppend::NoRoom) => break,
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    spent += from.elapsed();
                    log.run(Timestamp(now), &mut disk);
                    while let Some(done) = disk.complete_one() {
                        log.on_completion(done.ticket, done.result, &mut disk);
                    }
                }
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
