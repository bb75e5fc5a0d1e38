//! What a group cannot be given, on a real server: retries, dead letters, redrive; kills included.
//!
//! `IT_DEAD_LETTER_EVENTS=1000000 cargo test --release -p ringmesh --test it dead_letters` runs the first test with so
//! many events, and holds the server's memory to a bound: its anonymous memory, since the pages of its program and of the
//! indexes that it maps are the kernel's to take; at rest, when it has given back what is free; and counted from where the
//! buffers of the logs and of the deliveries are in use, which hold some 20 MB and have nothing to do with dead letters.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ringmesh_client::blocking::{Client, Subscription};
use ringmesh_client::{ClientOptions, Delivery, Event, SubscribeOptions, Verdict};
use serde_json::Value;

use crate::admin::{get, until};
use crate::folder;
use crate::harness::{Ended, PATIENCE, Server, run};

const FLAGS: [&str; 2] = ["--shards", "2"];
/// What a server keeps of the newest events is full after some megabytes: from there on its memory stands still.
const SMALL: [&str; 6] = [
    "--set",
    "log.cache_bytes=4MiB",
    "--set",
    "log.segment_bytes=16MiB",
    "--set",
    "limits.memory_bytes_max=192MiB",
];

/// A command with the admin port of this server, which must end well.
fn ask(server: &Server, arguments: &[&str]) -> Vec<String> {
    let admin = server.admin().to_string();
    let Ended { code, lines, stderr, .. } = run(&[arguments, &["--admin", &admin]].concat()).end();
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
    lines
}

fn client(server: &Server) -> Client {
    let options = ClientOptions::new(server.address().to_string()).request_timeout(PATIENCE);
    Client::connect(options).expect("the server is there")
}

fn join(client: &Client, group: &str) -> Subscription {
    let wish = SubscribeOptions::new("dead/#").group(group).credit(2_000);
    client.subscribe(wish).expect("the server answers")
}

/// The next delivery, which must come.
fn next(subscription: &mut Subscription) -> Delivery {
    let delivery = subscription.next(PATIENCE).expect("it stands");
    delivery.expect("what is owed is delivered")
}

/// The group begins, so that it keeps its place from the first event on.
fn create(server: &Server, group: &str) {
    ask(server, &["subscription", "create", group, "--filter", "dead/#", "--from", "earliest"]);
}

fn publish(client: &Client, numbers: std::ops::Range<usize>) {
    publish_to(client, "dead/x", numbers);
}

fn publish_to(client: &Client, topic: &str, numbers: std::ops::Range<usize>) {
    let mut last = None;
    for number in numbers {
        let event = Event::text(number.to_string()).id(number.to_string());
        let event = event.key(format!("k-{}", number % 997));
        last = Some(client.publish(topic, &event).expect("it is small"));
    }
    if let Some(last) = last {
        client.flush().expect("it is connected");
        last.wait().expect("it is acknowledged");
    }
}

/// The letters of a group by their ids.
fn letters(server: &Server, group: &str) -> Vec<(usize, Value)> {
    let lines = ask(server, &["dead-letter", "browse", group, "-o", "json"]);
    let letter = |line: &String| {
        let letter: Value = serde_json::from_str(line).expect("a letter a line");
        let id = letter["event"]["id"].as_str().and_then(|id| id.parse().ok());
        (id.expect("the id that it was published with"), letter["event"].clone())
    };
    lines.iter().map(letter).collect()
}

/// The least of some seconds in which nothing comes: what is not durable yet is kept in memory, and a slow disk is not the
/// letters' doing; what is free is given back a second after the last work.
fn memory_at_rest(server: &Server) -> u64 {
    let end = Instant::now() + Duration::from_secs(4);
    let samples = std::iter::from_fn(|| {
        std::thread::sleep(Duration::from_millis(10));
        (Instant::now() < end).then(|| memory_bytes(server))
    });
    samples.min().unwrap_or_else(|| memory_bytes(server))
}

fn memory_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id()));
    let status = status.expect("it runs");
    let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = anonymous.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("kB") * 1_024
}

/// One event in 1,000 can never be worked on: every second of them is rejected, the others are handed back for ever.
fn is_poison(number: usize) -> bool {
    number % 1_000 == 7
}

fn is_rejected(number: usize) -> bool {
    number % 2_000 == 7
}

/// What a member sees of all that is published, and what it says of it.
#[derive(Default)]
struct Handler {
    seen: BTreeSet<usize>,
    /// The last event of each key that was worked on.
    last: BTreeMap<usize, usize>,
}

impl Handler {
    fn handle(&mut self, delivery: Delivery) {
        let number = |event: &codec::event::Event<'_>| {
            std::str::from_utf8(event.data()).ok().and_then(|text| text.parse::<usize>().ok())
        };
        let events: Vec<_> = delivery
            .events()
            .map(|(offset, event)| (offset, number(&event).expect("a number")))
            .collect();
        for (_, number) in events.iter().filter(|(_, number)| !is_poison(*number)) {
            if self.seen.insert(*number) {
                let last = self.last.insert(number % 997, *number);
                assert!(last.is_none_or(|last| last < *number), "{number} came behind {last:?}");
            }
        }
        if !events.iter().any(|(_, number)| is_poison(*number)) {
            return delivery.ack();
        }
        for (offset, number) in events {
            let verdict = match (is_poison(number), is_rejected(number)) {
                (false, _) => Verdict::Done,
                (true, true) => Verdict::Reject,
                (true, false) => Verdict::Retry,
            };
            delivery.settle(offset, verdict);
        }
    }
}

/// The same flow without poison, in the same parts: what buffers the logs, the readers and the deliveries take and keep is
/// there before anything is measured.
fn warm_up(publisher: &Client, member: &Client, count: usize) {
    let wish = SubscribeOptions::new("warm/#").group("warm").credit(2_000);
    let mut subscription = member.subscribe(wish).expect("the server answers");
    let mut taken = 0;
    for part in 0..10 {
        publish_to(publisher, "warm/x", count * part / 10..count * (part + 1) / 10);
        while taken < count * (part + 1) / 10 {
            let delivery = next(&mut subscription);
            taken += delivery.count() as usize;
            delivery.ack();
        }
    }
    subscription.end().expect("it stands");
}

/// A handler that can never work on some events: without dead letters it would stand still or fill the server's memory;
/// with them, all others go on in order, those alone are set aside, and a mended handler gets them.
#[test]
fn poisonous_events_are_set_aside_and_come_again() {
    let count = std::env::var("IT_DEAD_LETTER_EVENTS").ok();
    let count: usize = count.map_or(20_000, |count| count.parse().expect("a number of events"));
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &[&FLAGS[..], &SMALL].concat());
    let (publisher, member) = (client(&server), client(&server));
    warm_up(&publisher, &member, count);
    create(&server, "workers");
    create(&server, "others");
    let policy = ["--attempts", "3", "--retry-delay", "1ms", "--retry-delay-max", "2ms"];
    ask(&server, &[&["subscription", "set", "workers"], &policy[..]].concat());
    let mut subscription = join(&member, "workers");
    let mut handler = Handler::default();
    let mut memory = Vec::new();
    for part in 0..10 {
        publish(&publisher, count * part / 10..count * (part + 1) / 10);
        let poison = (0..count * (part + 1) / 10).filter(|number| is_poison(*number)).count();
        while handler.seen.len() + poison < count * (part + 1) / 10 {
            handler.handle(next(&mut subscription));
        }
        let is_full = count >= 1_000_000;
        memory.push(if is_full { memory_at_rest(&server) } else { memory_bytes(&server) });
    }
    // What was handed back comes twice more, then never again.
    let until_dead = Instant::now() + PATIENCE;
    let path = "/api/v1/subscriptions/workers";
    while get(&server, path).json()["lag_events"] != 0 {
        assert!(Instant::now() < until_dead, "{}", get(&server, path).body);
        if let Some(delivery) = subscription.next(Duration::from_millis(50)).expect("it stands") {
            handler.handle(delivery);
        }
    }
    let bound = memory[0] + memory[0] / 10;
    if count >= 1_000_000 {
        assert!(memory[9] <= bound, "memory after each tenth: {memory:?}");
    }
    println!("memory after each tenth: {memory:?}");
    let dead = letters(&server, "workers");
    let expected: BTreeSet<usize> = (0..count).filter(|number| is_poison(*number)).collect();
    assert_eq!(dead.iter().map(|(id, _)| *id).collect::<BTreeSet<_>>(), expected);
    assert_eq!(dead.len(), expected.len(), "each stands there once");
    for (number, event) in &dead {
        let (reason, attempts) =
            if is_rejected(*number) { ("rejected", 1) } else { ("handed_back", 3) };
        assert_eq!(
            (&event["deadreason"], &event["deadattempts"]),
            (&reason.into(), &attempts.into())
        );
        assert_eq!(
            (&event["deadgroup"], &event["deadtopic"]),
            (&"workers".into(), &"dead/x".into())
        );
        assert_eq!(event["data"], number.to_string(), "{event}");
    }

    let filter = ["dead-letter", "redrive", "workers", "--reason", "rejected", "--dry-run"];
    let rejected = expected.iter().filter(|number| is_rejected(**number)).count();
    let would = format!("{rejected} dead letters of \"workers\" would be redriven to the group");
    assert_eq!(ask(&server, &filter), [would]);
    let done = ask(&server, &["dead-letter", "redrive", "workers"]);
    let are = format!("{} dead letters of \"workers\" are redriven to the group", expected.len());
    assert_eq!(done, [are]);
    let mut again = BTreeSet::new();
    while again.len() < expected.len() {
        let delivery = next(&mut subscription);
        assert_eq!(&**delivery.topic(), "dead/x", "told under the topic that it was published to");
        for (_, event) in delivery.events() {
            let text = std::str::from_utf8(event.data()).expect("text");
            assert!(again.insert(text.parse().expect("a number")), "{text} came once more");
        }
        delivery.ack();
    }
    assert_eq!(again, expected);
    assert_eq!(letters(&server, "workers").len(), 0, "what was redriven is gone");
    let others = ["subscribe", "dead/#", "--group", "others", "--until-end", "-o", "json"];
    assert_eq!(server.command(&others).done().len(), count, "no other group gets them");
    drop((subscription, member, publisher));
    assert!(server.stop().success());
}

/// A kill between the append of a letter and the cursor: the letter may stand twice, and none may be missing.
#[test]
fn no_dead_letter_is_lost_in_a_kill() {
    let folder = folder::new();
    let mut server = Server::start_with(folder.path(), &FLAGS);
    create(&server, "killed");
    publish(&client(&server), 0..300);
    for kill_after in [40, 120] {
        let member = client(&server);
        let mut subscription = join(&member, "killed");
        let mut rejected = 0;
        while rejected < kill_after {
            let delivery = next(&mut subscription);
            rejected += delivery.count();
            delivery.reject();
        }
        server.kill();
        server = Server::start_with(folder.path(), &FLAGS);
    }
    let member = client(&server);
    let mut subscription = join(&member, "killed");
    let path = "/api/v1/subscriptions/killed";
    let until_dead = Instant::now() + PATIENCE;
    while get(&server, path).json()["lag_events"] != 0 {
        assert!(Instant::now() < until_dead, "{}", get(&server, path).body);
        if let Some(delivery) = subscription.next(Duration::from_millis(50)).expect("it stands") {
            delivery.reject();
        }
    }
    let ids: BTreeSet<usize> = letters(&server, "killed").into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, (0..300).collect(), "every event is among the dead letters");
    ask(&server, &["dead-letter", "purge", "killed", "--all"]);
    assert_eq!(letters(&server, "killed").len(), 0);
    drop((subscription, member));
    server.kill();
    let server = Server::start_with(folder.path(), &FLAGS);
    assert_eq!(letters(&server, "killed").len(), 0, "what was purged stays gone");
    assert!(server.stop().success());
}

/// A member that forgets what it took, and events that are too old: both end, and a policy holds after a restart.
#[test]
fn policies_hold_over_a_restart() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &FLAGS);
    create(&server, "slow");
    let policy = ["--attempts", "1", "--ack-timeout", "200ms", "--in-flight", "1"];
    ask(&server, &[&["subscription", "set", "slow"], &policy[..]].concat());
    publish(&client(&server), 0..1);
    server.kill();
    let server = Server::start_with(folder.path(), &FLAGS);
    let member = client(&server);
    let mut subscription = join(&member, "slow");
    let kept = next(&mut subscription);
    until(&server, "/api/v1/subscriptions/slow", |answer| answer.json()["lag_events"] == 0);
    let dead = letters(&server, "slow");
    assert_eq!((dead.len(), &dead[0].1["deadreason"]), (1, &"timed_out".into()), "{dead:?}");
    drop(kept);
    ask(&server, &["subscription", "set", "slow", "--max-age", "1s", "--on-exhausted", "drop"]);
    drop((subscription, member));
    publish(&client(&server), 1..5);
    // Too old as soon as somebody could take them.
    let old = Instant::now() + Duration::from_millis(1_200);
    while Instant::now() < old {
        get(&server, "/api/v1/subscriptions/slow");
    }
    let member = client(&server);
    let subscription = join(&member, "slow");
    until(&server, "/api/v1/subscriptions/slow", |answer| answer.json()["lag_events"] == 0);
    assert_eq!(letters(&server, "slow").len(), 1, "they are dropped");
    drop((subscription, member));
    // A policy is the name's: who deletes a group to begin anew does not have to remember what it was.
    ask(&server, &["subscription", "delete", "slow"]);
    let path = "/api/v1/subscriptions/slow/policy";
    assert_eq!(
        get(&server, path).json()["policy"]["attempts_max"],
        1,
        "{}",
        get(&server, path).body
    );
    create(&server, "slow");
    assert_eq!(get(&server, path).json()["policy"]["attempts_max"], 1);
    ask(&server, &["subscription", "set", "slow", "--default"]);
    assert_eq!(get(&server, path).json()["policy"]["attempts_max"], Value::Null);
    assert!(server.stop().success());
}

/// Events that were parked durably since the server's start.
fn parked_total(server: &Server) -> u64 {
    let metrics = get(server, "/metrics").body;
    let lines = metrics.lines().filter(|line| line.starts_with("ringmesh_parked_events_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// Who looks at what is parked is told of each event that waits, once, and of no other.
fn check_parked(server: &Server, is_slow: impl Fn(usize) -> bool) {
    let lines = ask(server, &["parking", "browse", "slow", "-o", "json"]);
    let events: Vec<Value> =
        lines.iter().map(|line| serde_json::from_str(line).expect("an event a line")).collect();
    let mut keys = BTreeSet::new();
    for event in &events {
        let key = event["key"].as_str().and_then(|key| key.strip_prefix("k-")?.parse().ok());
        let key = key.expect("the key that it was published with");
        assert!(is_slow(key) && keys.insert((key, event["offset"].to_string())), "{event}");
        assert_eq!((&event["topic"], &event["id"]), (&"dead/x".into(), &key.to_string().into()));
        assert!(event["until"].as_str() > event["published"].as_str(), "{event}");
        let why = event["why"].as_str().expect("a word");
        assert!(why == "behind_key" || event["attempts"].as_u64() >= Some(1), "{event}");
        assert!(["delayed", "behind_key", "due", "in_flight"].contains(&why), "{event}");
        assert_eq!(event["event"]["data"], key.to_string(), "{event}");
    }
    assert!(!events.is_empty(), "some wait");
    let one = ask(server, &["parking", "browse", "slow", "--count", "1", "--key", "k-10"]);
    assert!(one[0].trim_start().starts_with("until ") && one.len() <= 2, "{one:?}");
}

/// Kills while events wait for long: none is lost, none is delivered more often than a kill explains, the order of each key
/// holds, and the attempts go on where they were.
#[test]
fn parked_events_outlive_kills() {
    let folder = folder::new();
    let flags = [&FLAGS[..], &["--set", "delivery.park_after=100ms"]].concat();
    let mut server = Server::start_with(folder.path(), &flags);
    create(&server, "slow");
    let policy = ["--attempts", "1000", "--retry-delay", "3s", "--retry-delay-max", "3s"];
    ask(&server, &[&["subscription", "set", "slow"], &policy[..]].concat());
    let publisher = client(&server);
    // Each key comes thrice; of every tenth one nothing can be worked on at first.
    publish(&publisher, 0..200);
    let is_slow = |number: usize| number.is_multiple_of(10);
    let mut worked: BTreeMap<usize, usize> = BTreeMap::new();
    let path = "/api/v1/subscriptions/slow";
    for life in 0..3 {
        let member = client(&server);
        let mut subscription = join(&member, "slow");
        let until_done = Instant::now() + PATIENCE;
        let mut first_attempt: BTreeMap<usize, u32> = BTreeMap::new();
        loop {
            assert!(Instant::now() < until_done, "life {life}: {}", get(&server, path).body);
            if let Some(delivery) = subscription.next(Duration::from_millis(50)).expect("it stands")
            {
                let attempt = delivery.attempt();
                let events: Vec<_> = delivery
                    .events()
                    .map(|(offset, event)| {
                        let text = std::str::from_utf8(event.data()).expect("text");
                        (offset, text.parse::<usize>().expect("a number"))
                    })
                    .collect();
                assert_eq!(&**delivery.topic(), "dead/x");
                for (offset, number) in events {
                    let first_two = is_slow(number) && life < 2;
                    if is_slow(number) {
                        let first = *first_attempt.entry(number).or_insert(attempt);
                        assert!(first > life, "{number}: attempts go on, {first} in life {life}");
                    }
                    if !first_two {
                        *worked.entry(number).or_default() += 1;
                    }
                    delivery.settle(offset, if first_two { Verdict::Retry } else { Verdict::Done });
                }
                continue;
            }
            // The first of each slow key is parked for certain, and all that stands behind it waits.
            let is_far = match life {
                2 => get(&server, path).json()["lag_events"] == 0,
                _ => parked_total(&server) >= 20,
            };
            if is_far {
                break;
            }
        }
        if life < 2 {
            check_parked(&server, is_slow);
        }
        if life == 0 {
            // What comes behind parked events of its key waits, in every life.
            (0..2).for_each(|_| publish(&publisher, 0..200));
        }
        drop((subscription, member));
        if life < 2 {
            server.kill();
            server = Server::start_with(folder.path(), &flags);
        }
    }
    assert_eq!(worked.len(), 200, "none is lost");
    for (number, times) in &worked {
        let more = if is_slow(*number) { 2 } else { 0 };
        assert!((3..=3 + more).contains(times), "{number} came {times} times");
    }
    assert_eq!(letters(&server, "slow").len(), 0, "none has run out of attempts");
    let parked = ask(&server, &["parking", "browse", "slow", "-o", "json"]);
    assert_eq!(parked, Vec::<String>::new(), "no wait goes on");
    assert!(server.stop().success());
}
