//! What a subscription owes, as people and scripts are told it: counted where topics that it does not want share its log,
//! and what of it is parked.

use serde_json::{Value, json};

use crate::admin::{get, until};
use crate::folder;
use crate::harness::{Server, run};
use crate::http::curl;

/// A command with the admin port of this server, which must end well.
fn ask(server: &Server, arguments: &[&str]) -> Vec<String> {
    let admin = server.admin().to_string();
    run(&[arguments, &["--admin", &admin]].concat()).done()
}

/// A lag of thousands for a group that wants three events calls people out of bed. Where it is a bound it must say so.
#[test]
fn lag_counts_what_is_wanted() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    ask(&server, &["subscription", "create", "g", "--filter", "wanted/#"]);
    for (topic, count) in [("other/a", "50"), ("wanted/a", "3"), ("other/a", "50")] {
        server.command(&["publish", topic, "x", "--key", "k", "--count", count]).done();
    }
    let told = |body: &Value| (body["lag_events"].clone(), body["lag_is_exact"].clone());
    // It stood at the tail until there was something for it; what comes behind that it has not read.
    let bound = (json!(53), json!(false));
    until(&server, "/api/v1/subscriptions", |answer| told(&answer.json()["items"][0]) == bound);
    let exact = (json!(3), json!(true));
    let counted = &get(&server, "/api/v1/subscriptions?exact=true").json()["items"][0];
    assert_eq!(told(counted), exact, "{counted}");
    assert_eq!(told(&get(&server, "/api/v1/subscriptions/g").json()), exact);
    let line: Value = serde_json::from_str(&ask(&server, &["lag", "-o", "json"])[0]).expect("JSON");
    assert_eq!(told(&line), exact);
    let lag = ask(&server, &["lag"]);
    assert_eq!(lag[1].split_whitespace().nth(1), Some("3"), "{lag:?}");
    let shown = ask(&server, &["subscription", "show", "g"]);
    assert_eq!(shown[1], "3 events are not settled");
}

/// Events that wait for an hour are nowhere to be seen unless somebody says where they are, and what waits behind them.
#[test]
fn parked_events_can_be_seen() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    let forever = ["--retry-delay", "1h", "--retry-delay-max", "1h"];
    ask(&server, &["subscription", "create", "team/1", "--filter", "job/#"]);
    ask(&server, &[&["subscription", "set", "team/1"][..], &forever].concat());
    server.command(&["publish", "job/a", "first", "--key", "k"]).done();
    server.command(&["publish", "job/a", "behind it", "--key", "k"]).done();
    let polled = curl(&server, "/poll?filter=job/%23&group=team/1&max=1&timeout_ms=20000", &[]);
    let token = &polled.json()["events"][0]["token"];
    let handed_back = curl(&server, "/nack", &["-d", &json!({ "tokens": [token] }).to_string()]);
    assert_eq!(handed_back.status, 200, "{handed_back:?}");
    let path = "/api/v1/subscriptions/team%2F1";
    // For a moment the event is owed where it stood, too.
    until(&server, path, |answer| {
        let body = answer.json();
        ["parked_events", "blocked_keys", "lag_events"].map(|of| body[of].as_u64())
            == [Some(1), Some(1), Some(2)]
    });
    let metrics = get(&server, "/metrics");
    assert_eq!(metrics.metric("ringmesh_group_blocked_keys{group=\"team/1\"}"), 1.0);
    let shown = ask(&server, &["subscription", "show", "team/1"]);
    assert_eq!(shown[1], "2 events are not settled, 1 of them are parked and block 1 keys");
    // The command that it names shows the event.
    let command = shown[2].split_once("ringmesh ").expect("a command").1;
    let command: Vec<&str> = command.split(' ').chain(["-o", "json"]).collect();
    let found = ask(&server, &command);
    assert_eq!(found.len(), 1, "{found:?}");
    let event: serde_json::Value = serde_json::from_str(&found[0]).expect("an event a line");
    assert_eq!((&event["why"], &event["key"]), (&"delayed".into(), &"k".into()));
    assert_eq!(event["event"]["data"], "first", "{event}");
}
