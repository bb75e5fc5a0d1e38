//! Mail between shards: what a message costs its sender and its receiver, and how long one takes to another thread and
//! back when both are awake. Waking a sleeping shard is the kernel's part and is not in here.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::mailbox::{Desk, Kind, Letter, office};

/// As large as the mail of a shard.
struct Parcel {
    kind: Kind,
    content: [u64; 8],
}

impl Letter for Parcel {
    fn kind(&self) -> Kind {
        self.kind
    }
}

fn parcel(kind: Kind) -> Parcel {
    Parcel { kind, content: [7; 8] }
}

fn pair() -> (Desk<Parcel>, Desk<Parcel>) {
    let mut desks = office(2).into_iter();
    (desks.next().expect("the first of two"), desks.next().expect("the second of two"))
}

/// Answers every request until it is told to stop.
fn answer(desk: &mut Desk<Parcel>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match desk.receive() {
            Some((from, letter)) => {
                let answer = Parcel { kind: Kind::Reply, ..letter };
                assert!(desk.send(from, answer).is_ok(), "an answer finds room");
            }
            None => std::hint::spin_loop(),
        }
    }
}

fn same_thread(c: &mut Criterion) {
    let mut group = c.benchmark_group("mailbox/one_thread");
    let (mut a, mut b) = pair();
    group.throughput(Throughput::Elements(1));
    group.bench_function("note", |bencher| {
        bencher.iter(|| {
            assert!(a.send(1, black_box(parcel(Kind::Note))).is_ok());
            black_box(b.receive().map(|(_, letter)| letter.content[0]))
        });
    });
    group.bench_function("request_and_reply", |bencher| {
        bencher.iter(|| {
            assert!(a.send(1, black_box(parcel(Kind::Request))).is_ok());
            let (from, letter) = b.receive().expect("just sent");
            assert!(b.send(from, Parcel { kind: Kind::Reply, ..letter }).is_ok());
            black_box(a.receive().map(|(_, letter)| letter.content[0]))
        });
    });
    group.throughput(Throughput::Elements(256));
    group.bench_function("notes_by_256", |bencher| {
        bencher.iter(|| {
            for _ in 0..256 {
                assert!(a.send(1, black_box(parcel(Kind::Note))).is_ok());
            }
            while let Some((_, letter)) = b.receive() {
                black_box(letter.content[0]);
            }
        });
    });
    group.bench_function("nothing_there", |bencher| {
        bencher.iter(|| black_box(b.receive().is_none()))
    });
    group.finish();
}

fn two_threads(c: &mut Criterion) {
    let (mut a, mut b) = pair();
    let stop = Arc::new(AtomicBool::new(false));
    let answering = std::thread::spawn({
        let stop = Arc::clone(&stop);
        move || answer(&mut b, &stop)
    });
    c.bench_function("mailbox/two_threads/back_and_forth", |bencher| {
        bencher.iter(|| {
            assert!(a.send(1, black_box(parcel(Kind::Request))).is_ok());
            loop {
                if let Some((_, letter)) = a.receive() {
                    break black_box(letter.content[0]);
                }
                std::hint::spin_loop();
            }
        });
    });
    stop.store(true, Ordering::Relaxed);
    answering.join().expect("the other side does not panic");
}

criterion_group!(benches, same_thread, two_threads);
criterion_main!(benches);
