//! Topics and filters of a fleet: what routing is measured with.
//!
//! Vehicles publish to `fleet/COUNTRY/CITY/VIN/SIGNAL`. The same six filters match in every set; the others differ from
//! every topic in the vehicle or, where that is a wildcard, in the signal. They cycle through all 16 ways to put `+` at
//! the first four levels, and every third ends in `#` where that matches nothing more. The set of 100 is the start of
//! the set of 100,000.

use std::sync::Arc;

use routing::snapshot::{RoutingSnapshot, SnapshotEditor};
use routing::subscription::{GroupId, Mode, Start, Subscription, SubscriptionId};
use routing::topic::{TopicFilter, TopicName};

/// Distinct topics.
pub const TOPICS: u64 = 10_000;
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

/// The subscription number `n`.
pub fn subscription(n: u64) -> Arc<Subscription> {
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

/// The first so many filters.
pub fn snapshot(filters: u64) -> RoutingSnapshot {
    let mut editor = SnapshotEditor::new(&RoutingSnapshot::empty());
    (0..filters).for_each(|n| editor.add(subscription(n)));
    editor.finish()
}

/// Topics in an order that no cache line foresees.
pub fn topics() -> Vec<TopicName> {
    let mut numbers: Vec<u64> = (0..TOPICS).collect();
    numbers.sort_by_key(|n| spread(*n));
    numbers.into_iter().map(topic).collect()
}
