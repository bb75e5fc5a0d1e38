//! The paths of EventMesh's v2 clients on the real server, with curl: each request comes by a connection of its own, as those
//! of a client with a pool may.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use crate::answer::Answer;
use crate::folder;
use crate::harness::{PATIENCE, Server};
use crate::http::{Stream, curl};

/// Posts JSON.
fn post(server: &Server, path: &str, body: &Value) -> Answer {
    curl(server, path, &["-H", "content-type: application/json", "-d", &body.to_string()])
}

fn event(id: usize, key: Option<&str>) -> Value {
    let mut event = json!({ "specversion": "1.0", "id": id.to_string(), "source": "/s", "type": "t", "data": { "n": id } });
    if let Some(key) = key {
        event["partitionkey"] = key.into();
    }
    event
}

fn publish(server: &Server, topic: &str, id: usize, key: Option<&str>) {
    let kind = "content-type: application/cloudevents+json";
    let body = event(id, key).to_string();
    let path = format!("/events/publish?topic={topic}");
    let answer = curl(server, &path, &["-H", kind, "-d", &body]);
    assert_eq!((answer.status, answer.json()), (202, json!({ "status": "accepted" })));
}

fn subscribe(server: &Server, client: &str, topic: &str, mode: &str) {
    let body = json!({ "clientId": client, "topic": topic, "mode": mode });
    let answer = post(server, "/events/subscribe", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.json()["subscriptionId"].is_string(), "{answer:?}");
}

fn poll(server: &Server, client: &str, more: &str) -> Vec<Value> {
    let answer = curl(server, &format!("/events/poll?clientId={client}{more}"), &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json().as_array().expect("a list").clone()
}

fn ack(server: &Server, delivery: &Value) -> Answer {
    post(server, "/events/ack", &json!({ "deliveryId": delivery["deliveryId"] }))
}

fn ids(deliveries: &[Value]) -> Vec<usize> {
    let id = |delivery: &Value| delivery["event"]["id"].as_str()?.parse().ok();
    deliveries.iter().map(|delivery| id(delivery).expect("an id")).collect()
}

/// Polls and acknowledges until so many have come.
fn drain(server: &Server, client: &str, count: usize) -> Vec<usize> {
    let (mut seen, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    while seen.len() < count {
        assert!(Instant::now() < deadline, "{client} has got {seen:?}, {count} are to come");
        let found = poll(server, client, "&timeoutMs=2000");
        for delivery in &found {
            let answer = ack(server, delivery);
            assert_eq!((answer.status, answer.json()), (200, json!({ "status": "acked" })));
        }
        seen.extend(ids(&found));
    }
    seen.sort_unstable();
    seen
}

/// Clients of one topic share its events, each acknowledged one is gone, and each other one stays, by whatever connection.
#[test]
fn clients_share_a_topic() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let unknown = curl(&server, "/events/poll?clientId=a", &[]);
    let problem = unknown.is_problem(404, "not_found");
    assert!(problem["error"].as_str().is_some_and(|text| text.contains("subscribe")), "{problem}");
    for client in ["a", "b"] {
        subscribe(&server, client, "orders", "LOAD_BALANCE");
        subscribe(&server, client, "orders", "LOAD_BALANCE");
        subscribe(&server, client, "other/topic", "LOAD_BALANCE");
    }
    assert_eq!(poll(&server, "a", "&timeoutMs=1"), Vec::<Value>::new());
    for id in 0..20 {
        publish(&server, if id % 2 == 0 { "orders" } else { "other%2Ftopic" }, id, None);
    }
    let first = poll(&server, "a", "&max=3&timeoutMs=20000");
    assert!((1..=3).contains(&first.len()), "{first:?}");
    assert_eq!(first[0]["event"]["data"]["n"], ids(&first)[0], "the event is JSON, not text");
    assert_eq!(first[0]["event"]["specversion"], "1.0");
    let mut seen = drain(&server, "b", 20 - first.len());
    seen.extend(ids(&first));
    seen.sort_unstable();
    assert_eq!(seen, (0..20).collect::<Vec<_>>(), "nobody else gets what waits for its ack");
    assert_eq!(poll(&server, "a", "&timeoutMs=1"), Vec::<Value>::new());
    for delivery in &first {
        assert_eq!(ack(&server, delivery).json(), json!({ "status": "acked" }));
        ack(&server, delivery).is_problem(404, "not_found");
    }
    // A member on the native protocol shares the same group.
    publish(&server, "orders", 20, None);
    let native = ["subscribe", "orders", "--group", "eventmesh/orders", "--count", "1"];
    assert_eq!(server.command(&native).done().len(), 1);
    let left = |topic: Value| {
        let body = json!({ "clientId": "a", "topic": topic });
        post(&server, "/events/unsubscribe", &body).json()
    };
    assert_eq!(left(json!("orders")), json!({ "removed": 1 }));
    assert_eq!(left(json!("orders")), json!({ "removed": 0 }));
    assert_eq!(left(Value::Null), json!({ "removed": 1 }));
    curl(&server, "/events/poll?clientId=a", &[]).is_problem(404, "not_found");
    assert!(server.stop().success());
}

/// Polls of one client by several connections at once must not get the same event, nor more than they asked for.
#[test]
fn polls_of_one_client_run_side_by_side() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    for topic in ["x", "y", "z"] {
        subscribe(&server, "pool", topic, "LOAD_BALANCE");
    }
    let batch: Vec<Value> = (0..200).map(|id| event(id, Some(&format!("k{id}")))).collect();
    for (at, topic) in ["x", "y", "z"].iter().enumerate() {
        let part: Vec<&Value> = batch.iter().skip(at).step_by(3).collect();
        let path = format!("/events/publish-batch?topic={topic}");
        let answer = post(&server, &path, &json!(part));
        assert_eq!((answer.status, answer.json()), (202, json!({ "status": "accepted" })));
    }
    let taken: Vec<Vec<usize>> = std::thread::scope(|scope| {
        let polls = (0..4).map(|_| {
            scope.spawn(|| {
                let mut seen = Vec::new();
                loop {
                    let found = poll(&server, "pool", "&max=7&timeoutMs=1500");
                    assert!(found.len() <= 7, "no more than was asked for: {found:?}");
                    if found.is_empty() {
                        return seen;
                    }
                    found
                        .iter()
                        .for_each(|delivery| assert_eq!(ack(&server, delivery).status, 200));
                    seen.extend(ids(&found));
                }
            })
        });
        let polls: Vec<_> = polls.collect();
        polls.into_iter().map(|poll| poll.join().expect("it ends")).collect()
    });
    let mut seen: Vec<usize> = taken.into_iter().flatten().collect();
    // What was handed back when a poll had enough may come after all have given up.
    if seen.len() < 200 {
        seen.extend(drain(&server, "pool", 200 - seen.len()));
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<_>>());
    assert!(server.stop().success());
}

/// Each client of a broadcast gets everything, also what comes while it is away; who leaves leaves nothing behind.
#[test]
fn a_broadcast_goes_to_each() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    for client in ["a", "b"] {
        subscribe(&server, client, "news", "BROADCAST");
    }
    for id in 0..10 {
        publish(&server, "news", id, None);
    }
    for client in ["a", "b"] {
        assert_eq!(drain(&server, client, 10), (0..10).collect::<Vec<_>>());
    }
    let groups = || {
        let answer = crate::admin::get(&server, "/api/v1/subscriptions").json();
        let items = answer["items"].as_array().expect("a list").clone();
        items.iter().map(Value::to_string).collect::<Vec<_>>()
    };
    assert_eq!(groups().len(), 2, "{:?}", groups());
    let answer = post(&server, "/events/unsubscribe", &json!({ "clientId": "a" }));
    assert_eq!(answer.json(), json!({ "removed": 1 }));
    let deadline = Instant::now() + PATIENCE;
    while groups().len() != 1 {
        assert!(Instant::now() < deadline, "{:?}", groups());
        std::thread::yield_now();
    }
    publish(&server, "news", 10, None);
    assert_eq!(drain(&server, "b", 1), [10]);
    assert!(server.stop().success());
}

/// A key stays with its client as long as the same clients are there, also between polls and after an ack.
#[test]
fn a_sticky_key_stays_with_its_client() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let clients = ["a", "b", "c"];
    for client in clients {
        subscribe(&server, client, "keyed", "LOAD_BALANCE_STICKY");
    }
    let mut owners: BTreeMap<String, &str> = BTreeMap::new();
    let mut orders: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let deadline = Instant::now() + PATIENCE;
    for round in 0..3 {
        for id in 0..24 {
            publish(&server, "keyed", round * 24 + id, Some(&format!("k{}", id % 12)));
        }
        let mut seen = 0;
        // In each round another client asks first: whoever has no right to a key leaves it.
        while seen < 24 {
            for at in 0..3 {
                let client = clients[(at + round) % 3];
                for delivery in poll(&server, client, "&timeoutMs=200") {
                    let key = delivery["event"]["partitionkey"].as_str().expect("a key").to_owned();
                    let owner = *owners.entry(key.clone()).or_insert(client);
                    assert_eq!(owner, client, "{key} has moved");
                    orders.entry(key).or_default().extend(ids(std::slice::from_ref(&delivery)));
                    assert_eq!(ack(&server, &delivery).status, 200);
                    seen += 1;
                }
            }
            assert!(Instant::now() < deadline, "{seen} of 24 have come");
        }
    }
    let shares = |client: &&str| owners.values().filter(|owner| owner == &client).count();
    assert!(clients.iter().all(|client| shares(client) < 12), "no client has all: {owners:?}");
    for (key, order) in &orders {
        assert!(order.is_sorted(), "{key} came as {order:?}");
    }
    assert!(server.stop().success());
}

/// A stream says the bare event; what its reader does not name comes again, also after a kill, and what it names does not.
#[test]
fn a_stream_goes_on_behind_what_was_read() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let address = server.http().to_string();
    let both = |server: &Server| {
        subscribe(server, "s", "one", "LOAD_BALANCE");
        subscribe(server, "s", "two", "BROADCAST");
    };
    both(&server);
    let path = "/events/stream?clientId=s";
    let stream = Stream::open_at(&server, path, &[]);
    for id in 0..10 {
        publish(&server, if id % 2 == 0 { "one" } else { "two" }, id, Some(&format!("k{id}")));
    }
    let said: Vec<(String, Value)> = (0..10).map(|_| stream.event()).collect();
    let number = |event: &Value| -> usize { event["id"].as_str().unwrap().parse().unwrap() };
    let read: Vec<usize> = said[..6].iter().map(|(_, event)| number(event)).collect();
    drop(stream);
    let stream = Stream::open_at(&server, path, &["-H", &format!("last-event-id: {}", said[5].0)]);
    let rest: Vec<(String, Value)> = (0..4).map(|_| stream.event()).collect();
    let mut all: Vec<usize> = rest.iter().map(|(_, event)| number(event)).collect();
    all.extend(&read);
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>(), "what was not read, and nothing else");
    // The name of an event stands for all that its stream has said up to it, and is good for an ack.
    let answer = post(&server, "/events/ack", &json!({ "deliveryId": rest[1].0 }));
    assert_eq!(answer.json(), json!({ "status": "acked" }), "{answer:?}");
    drop(stream);
    server.kill();
    let listen = format!("http.listen={address}");
    let server = Server::start_with(folder.path(), &["--shards", "2", "--set", &listen]);
    curl(&server, path, &[]).is_problem(404, "not_found");
    both(&server);
    let stream = Stream::open_at(&server, path, &[]);
    let mut unread: Vec<usize> = rest[2..].iter().map(|(_, event)| number(event)).collect();
    while !unread.is_empty() {
        // What was acknowledged just before the kill may come again.
        let found = number(&stream.event().1);
        unread.retain(|id| *id != found);
    }
    drop(stream);
    assert!(server.stop().success());
}

/// What is not built, and what is over a limit, is refused by a code, and in the words of EventMesh.
#[test]
fn refusals_have_a_code_and_an_error() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    let wish = |mode: &str| json!({ "clientId": "c", "topic": "t", "mode": mode });
    let refused = |path: &str, body: &Value, status: u16, code: &str| {
        let problem = post(&server, path, body).is_problem(status, code);
        assert!(problem["error"].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        problem
    };
    let problem = refused("/events/subscribe", &wish("MULTICAST"), 400, "unsupported_mode");
    assert_eq!(problem["field"], "mode");
    for path in ["/events/request?topic=t", "/events/reply"] {
        refused(path, &event(1, None), 501, "unsupported");
    }
    for body in
        [json!({}), json!({ "clientId": "c" }), json!([]), json!({ "clientId": 7, "topic": "t" })]
    {
        refused("/events/subscribe", &body, 400, "malformed_request");
    }
    for client in ["", "$c", "a\nb"] {
        let body = json!({ "clientId": client, "topic": "t" });
        assert_eq!(
            refused("/events/subscribe", &body, 400, "malformed_request")["field"],
            "clientId"
        );
    }
    refused(
        "/events/subscribe",
        &json!({ "clientId": "c", "topic": "a/#" }),
        400,
        "malformed_topic",
    );
    refused(
        "/events/subscribe",
        &json!({ "clientId": "c", "topic": "$sys" }),
        403,
        "reserved_topic",
    );
    refused("/events/publish", &event(1, None), 400, "malformed_request");
    refused("/events/publish?topic=t", &json!({ "specversion": "1.0" }), 400, "malformed_event");
    refused("/events/ack", &json!({ "deliveryId": "nonsense" }), 404, "not_found");
    // Of a batch with a bad event nothing is taken: the answer has no place to say which was.
    subscribe(&server, "c", "t", "LOAD_BALANCE");
    let batch = json!([event(1, None), { "specversion": "1.0", "id": "2", "source": "/s" }]);
    let problem = refused("/events/publish-batch?topic=t", &batch, 400, "malformed_event");
    assert_eq!(problem["field"], "type");
    assert!(
        problem["error"].as_str().is_some_and(|text| text.starts_with("event 1: ")),
        "{problem}"
    );
    assert_eq!(poll(&server, "c", "&timeoutMs=300"), Vec::<Value>::new());
    for topic in 1..64 {
        subscribe(&server, "c", &format!("t{topic}"), "LOAD_BALANCE");
    }
    let problem = refused(
        "/events/subscribe",
        &json!({ "clientId": "c", "topic": "more" }),
        429,
        "overloaded",
    );
    assert_eq!((&problem["limit"], &problem["value"]), (&json!(64), &json!(65)));
    let answer = curl(&server, "/events/poll?clientId=c", &["-X", "DELETE"]);
    answer.is_problem(405, "method_not_allowed");
    curl(&server, "/events/nothing", &[]).is_problem(404, "not_found");
    assert!(server.stop().success());
}
