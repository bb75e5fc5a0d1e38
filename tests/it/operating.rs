//! What operators do with subscriptions on a real server: create, pause, resume, seek; kills included.

use serde_json::{Value, json};

use crate::admin::{get, request, until};
use crate::answer::{Answer, exchange};
use crate::folder;
use crate::harness::{Ended, Server, run};

/// A command with the admin port of this server.
fn ask(server: &Server, arguments: &[&str]) -> Ended {
    let admin = server.admin().to_string();
    run(&[arguments, &["--admin", &admin]].concat()).end()
}

/// What a command prints, which must be one line and end well.
fn line(server: &Server, arguments: &[&str]) -> String {
    let mut ended = ask(server, arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    assert_eq!(ended.lines.len(), 1, "{:?}", ended.lines);
    ended.lines.pop().expect("one line")
}

fn publish(server: &Server, topic: &str, count: usize) {
    let count = count.to_string();
    server.command(&["publish", topic, "x", "--count", &count, "--key", "k"]).done();
}

/// All that a group gives to a member that comes now, up to its end.
fn drain(server: &Server, group: &str, filter: &str) -> usize {
    server.command(&["subscribe", filter, "--group", group, "--until-end"]).done().len()
}

fn lag(server: &Server, group: &str) -> Value {
    get(server, &format!("/api/v1/subscriptions/{group}")).json()["lag_events"].clone()
}

/// Who sets a subscription up before its first client relies on it: what is published from then on is kept, over a kill.
#[test]
fn created_subscriptions_keep_events() {
    let folder = folder::new();
    let flags = ["--shards", "2"];
    let server = Server::start_with(folder.path(), &flags);
    publish(&server, "made/a", 3);
    publish(&server, "other/a", 5);
    let create = ["subscription", "create", "billing", "--filter", "made/#"];
    let filters = [&create[..], &["--filter", "else", "--from", "earliest"]].concat();
    let dry = line(&server, &[&filters[..], &["--dry-run"]].concat());
    assert_eq!(dry, r#""billing" would be created: 3 events stand there for it"#);
    get(&server, "/api/v1/subscriptions/billing").is_problem(404, "not_found");
    let done = line(&server, &filters);
    assert_eq!(done, r#""billing" is created: 3 events stand there for it"#);
    let new = ["subscription", "create", "new", "--filter", "made/#"];
    assert_eq!(line(&server, &new), r#""new" is created: 0 events stand there for it"#);
    let again = ask(&server, &create);
    assert_eq!(again.code, Some(3), "{again:?}");
    assert!(again.stderr.contains("group_exists (116)"), "{again:?}");
    publish(&server, "made/b", 4);
    server.kill();
    let server = Server::start_with(folder.path(), &flags);
    publish(&server, "else", 1);
    assert_eq!(drain(&server, "billing", "made/#"), 8);
    assert_eq!(drain(&server, "new", "made/#"), 4);
    assert!(server.stop().success());
}

/// A subscription that is paused in an incident must stay so whatever happens to the server, and lose nothing meanwhile.
#[test]
fn paused_subscriptions_rest_until_they_are_resumed() {
    let folder = folder::new();
    let flags = ["--shards", "2"];
    let server = Server::start_with(folder.path(), &flags);
    let subscribe = ["subscribe", "rest/#", "--group", "g", "-o", "json"];
    let mut member = server.command(&subscribe);
    member.wait_until_subscribed();
    publish(&server, "rest/a", 2);
    (0..2).for_each(|_| drop(member.line()));
    let pause = ["subscription", "pause", "g"];
    let dry = line(&server, &[&pause[..], &["--dry-run"]].concat());
    assert!(dry.starts_with(r#""g" would be paused: 1 members"#), "{dry}");
    assert_eq!(get(&server, "/api/v1/subscriptions/g").json()["paused"], false);
    assert!(line(&server, &pause).starts_with(r#""g" is paused: 1 members"#));
    publish(&server, "rest/a", 7);
    until(&server, "/api/v1/subscriptions/g", |answer| answer.json()["lag_events"] == 7);
    let list = ask(&server, &["subscription", "list"]).lines;
    assert!(list[1].contains(" paused "), "{list:?}");
    let shown = ask(&server, &["subscription", "show", "g"]).lines;
    assert_eq!(shown[0], "durable, clustering, paused, filters rest/#");
    let metrics = get(&server, "/metrics");
    assert!(metrics.body.contains("ringmesh_group_paused{group=\"g\"} 1\n"), "{}", metrics.body);
    let (native, admin) = (server.address().to_string(), server.admin().to_string());
    let data = folder.path().to_str().expect("UTF-8");
    let doctor = ["doctor", "--data", data, "--listen", &native, "--admin", &admin];
    // A server that is too busy to answer in time tells nothing, so it is asked again.
    let finding = "1 subscriptions are paused, among them g";
    let is_told = (0..20).any(|_| run(&doctor).end().lines.join("\n").contains(finding));
    assert!(is_told, "doctor tells what is paused");
    server.kill();
    drop(member);

    let server = Server::start_with(folder.path(), &flags);
    assert_eq!(get(&server, "/api/v1/subscriptions/g").json()["paused"], true);
    let mut member = server.command(&subscribe);
    member.wait_until_subscribed();
    publish(&server, "rest/a", 1);
    // The kill may have taken back that the first two were settled.
    let owed = |answer: &Answer| answer.json()["lag_events"].as_u64().unwrap_or(0);
    let owed = owed(&until(&server, "/api/v1/subscriptions/g", |answer| owed(answer) >= 8));
    assert!((8..=10).contains(&owed), "{owed}");
    assert_eq!(member.line_within(std::time::Duration::from_millis(50)), None, "it rests");
    assert!(line(&server, &["subscription", "resume", "g"]).starts_with(r#""g" is resumed"#));
    for _ in 0..owed {
        assert_eq!(member.json()["attempt"].as_u64().unwrap_or(1), 1, "no attempt was spent");
    }
    until(&server, "/api/v1/subscriptions/g", |answer| answer.json()["lag_events"] == 0);
    drop(member);
    assert!(server.stop().success());
}

/// An operator who moves a subscription goes by the preview: it must say just what comes, and members that are connected
/// must get that, in order.
#[test]
fn moved_subscriptions_get_what_the_preview_said() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    publish(&server, "noise/a", 50);
    let mut member = server.command(&["subscribe", "move/a", "--group", "g", "-o", "json"]);
    member.wait_until_subscribed();
    publish(&server, "move/a", 20);
    let first: Vec<Value> = (0..20).map(|_| member.json()).collect();
    until(&server, "/api/v1/subscriptions/g", |answer| answer.json()["lag_events"] == 0);
    let seek = |to: &str, dry: bool| {
        let dry = if dry { &["--dry-run"][..] } else { &[] };
        line(&server, &[&["subscription", "seek", "g", "--to", to][..], dry].concat())
    };
    let partition = first[0]["partition"].as_u64().expect("a number");
    for (to, events) in [("earliest", 20), (&*format!("{partition}:13"), 7), ("latest", 0)] {
        let dry = seek(to, true);
        assert_eq!(
            dry,
            format!("\"g\" would be moved: {events} events to deliver, 0 events before")
        );
        let done = seek(to, false);
        assert_eq!(done, format!("\"g\" is moved: {events} events to deliver, 0 events before"));
        for offset in 20 - events..20 {
            assert_eq!(member.json()["offset"], offset, "to {to}");
        }
        until(&server, "/api/v1/subscriptions/g", |answer| answer.json()["lag_events"] == 0);
    }
    let time = seek("2020-01-01T00:00:00Z", true);
    assert_eq!(time, "\"g\" would be moved: 20 events to deliver, 0 events before");
    publish(&server, "move/a", 1);
    assert_eq!(member.json()["offset"], 20, "a dry run moves nothing");

    let wild = ["subscribe", "move/#", "--group", "wild", "--until-end"];
    server.command(&wild).done();
    let refused = ask(&server, &["subscription", "seek", "wild", "--to", "0:1"]);
    assert_eq!(refused.code, Some(3), "{refused:?}");
    assert!(refused.stderr.contains("start_needs_topic (118)"), "{refused:?}");
    let gone = ask(&server, &["subscription", "seek", "nobody", "--to", "latest"]);
    assert!(gone.stderr.contains("not_found (129)"), "{gone:?}");
    drop(member);
    assert!(server.stop().success());
}

/// A kill at any moment of a seek must leave the group at the one place or the other, whole: half of the shards moved
/// would be half of the events lost.
#[test]
fn a_kill_around_a_seek_leaves_one_place() {
    let folder = folder::new();
    let flags = ["--shards", "2"];
    let mut moved = 0;
    for round in 0..8 {
        let server = Server::start_with(folder.path(), &flags);
        if round == 0 {
            for key in 0..20 {
                let key = key.to_string();
                server.command(&["publish", "kill/a", "x", "--key", &key]).done();
            }
            let all =
                ["subscribe", "kill/#", "--group", "g", "--from", "earliest", "--count", "20"];
            assert_eq!(server.command(&all).done().len(), 20);
        }
        until(&server, "/api/v1/subscriptions/g", |answer| answer.json()["lag_events"] == 0);
        let admin = server.admin().to_string();
        let seek = ["subscription", "seek", "g", "--to", "earliest", "--admin", &admin];
        let seeking = run(&seek);
        // From at once to when it is surely over, in steps of its usual time.
        std::thread::sleep(std::time::Duration::from_millis(10 * round));
        server.kill();
        let is_done = seeking.end().code == Some(0);
        let server = Server::start_with(folder.path(), &flags);
        let owed = lag(&server, "g").as_u64().expect("a number");
        assert!(owed == 0 || owed == 20, "round {round}: {owed} events");
        assert!(!is_done || owed == 20, "round {round}: what was answered stands");
        let got = drain(&server, "g", "kill/#");
        assert_eq!(got as u64, owed, "round {round}");
        moved += u32::from(owed == 20);
        until(&server, "/api/v1/subscriptions/g", |answer| answer.json()["lag_events"] == 0);
        assert!(server.stop().success());
    }
    assert!(moved > 0, "some seeks came to their end");
}

/// Of an ephemeral subscription an operator only can end it: its client hears so, and has one again when it asks again.
#[test]
fn ephemeral_subscriptions_can_only_be_ended() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    let mut member = server.command(&["subscribe", "short/#"]);
    member.wait_until_subscribed();
    let list = get(&server, "/api/v1/subscriptions").json();
    let name = list["items"][0]["name"].as_str().expect("a name").to_owned();
    assert!(name.starts_with("$ephemeral/"), "{list}");
    let path = format!("/api/v1/subscriptions/{}", name.replace('$', "%24").replace('/', "%2F"));
    for order in ["pause", "resume"] {
        let refused = request(server.admin(), "POST", &format!("{path}/{order}"));
        refused.is_problem(409, "not_durable");
    }
    post(&server, &format!("{path}/seek"), &json!({"start": {"from": "earliest"}}))
        .is_problem(409, "not_durable");
    let dry = request(server.admin(), "DELETE", &format!("{path}?dry_run=true"));
    assert_eq!((dry.status, &dry.json()["subscription"]["members"]), (200, &1.into()), "{dry:?}");
    let done = request(server.admin(), "DELETE", &path);
    assert_eq!(done.status, 200, "{done:?}");
    get(&server, &path).is_problem(404, "not_found");
    let ended = member.end();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stderr.contains("subscription_ended"), "{ended:?}");
    let mut again = server.command(&["subscribe", "short/#"]);
    again.wait_until_subscribed();
    publish(&server, "short/a", 1);
    again.line();
    drop(again);
    assert!(server.stop().success());
}

fn post(server: &Server, path: &str, body: &Value) -> Answer {
    let body = body.to_string();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    exchange(server.admin(), head.as_bytes())
}

/// Bodies that are nearly right must be refused before anything is done, never read as something else.
#[test]
fn wrong_orders_are_refused() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "1"]);
    let subscriptions = "/api/v1/subscriptions";
    let create = |body: Value| post(&server, subscriptions, &body);
    for body in [
        json!(null),
        json!({"name": "a"}),
        json!({"name": "a", "filters": "x"}),
        json!({"name": "a", "filters": []}),
        json!({"name": "a", "filters": ["x", "x"]}),
        json!({"name": "a", "filters": ["x"], "start": null}),
        json!({"name": "a", "filters": ["x"], "from": "latest"}),
        json!({"name": "a", "filters": ["x"], "start": {"from": "time", "time_us": 1.5}}),
    ] {
        create(body).is_problem(400, "malformed_request");
    }
    create(json!({"name": "$a", "filters": ["x"]})).is_problem(400, "malformed_group");
    create(json!({"name": "a", "filters": ["x//y"]})).is_problem(400, "malformed_filter");
    let many: Vec<String> = (0..65).map(|index| index.to_string()).collect();
    create(json!({"name": "a", "filters": many})).is_problem(413, "limit_exceeded");
    let offsets = json!({"from": "offsets", "offsets": {"1": 1}});
    create(json!({"name": "a", "filters": ["x/#"], "start": offsets}))
        .is_problem(409, "start_needs_topic");
    let text = "POST /api/v1/subscriptions HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\n\
                content-length: 29\r\nconnection: close\r\n\r\n{\"name\":\"a\",\"filters\":[\"x\"]} ";
    exchange(server.admin(), text.as_bytes()).is_problem(400, "malformed_request");
    post(&server, &format!("{subscriptions}/a/seek"), &json!({"start": {"from": "earliest"}}))
        .is_problem(404, "not_found");
    assert_eq!(get(&server, subscriptions).json()["items"], json!([]), "nothing has begun");
    assert!(server.stop().success());
}

/// A monitoring system goes by the code and the first words; it must be told what is wrong, and of nothing that is not.
#[test]
fn check_speaks_to_monitoring_systems() {
    let folder = folder::new();
    let server = Server::start_with(folder.path(), &["--shards", "2"]);
    line(&server, &["subscription", "create", "billing", "--filter", "check/#"]);
    publish(&server, "check/a", 7);
    let check = |arguments: &[&str]| {
        let ended = ask(&server, &[&["check"], arguments].concat());
        assert_eq!((ended.lines.len(), ended.stderr.as_str()), (1, ""), "{ended:?}");
        (ended.code, ended.lines[0].clone())
    };
    let (code, said) = check(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("RINGMESH OK - ready, ") && said.contains(" | 'time'="), "{said}");
    let group = ["--subscription", "billing", "--lag-warn", "7", "--lag-crit"];
    let (code, said) = check(&[&group[..], &["8"]].concat());
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.starts_with("RINGMESH WARNING - ") && said.contains("'billing lag'=7;6;7;0"),
        "{said}"
    );
    let (code, said) = check(&[&group[..], &["7"]].concat());
    assert!(code == Some(2) && said.contains("billing 7 events and "), "{said}");
    let (code, said) = check(&["--disk-crit", "1000000GiB"]);
    assert!(code == Some(2) && said.contains("MiB free"), "{said}");
    let (code, said) = check(&["--subscription", "nobody"]);
    assert!(code == Some(2) && said.contains("there is no subscription \"nobody\""), "{said}");
    line(&server, &["subscription", "pause", "billing"]);
    let (code, said) = check(&["--subscription", "billing"]);
    assert!(code == Some(1) && said.contains("billing is paused"), "{said}");
    assert_eq!(ask(&server, &["check", "--disk-warn", "much"]).code, Some(3), "usage is unknown");
    assert!(server.stop().success());
    let gone = run(&["check", "--admin", "127.0.0.1:1"]).end();
    assert_eq!(gone.code, Some(2), "{gone:?}");
    assert!(gone.lines[0].starts_with("RINGMESH CRITICAL - no admin port"), "{gone:?}");
}

/// A page that a browser on this machine was lured to must not reach the port; and with a token only who has it may.
#[test]
fn the_admin_port_asks_who_is_there() {
    let folder = folder::new();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").expect("it can be written");
    let token = token.to_str().expect("UTF-8");
    let set = format!("admin.token_file={token}");
    let data = folder.path().join("data");
    let flags = ["--shards", "1", "--set", &set, "--set", "admin.hosts=mesh.example"];
    let server = Server::start_with(&data, &flags);
    let get = |path: &str, headers: &str| {
        let head = format!("GET {path} HTTP/1.1\r\n{headers}connection: close\r\n\r\n");
        exchange(server.admin(), head.as_bytes())
    };
    get("/healthz", "host: evil.example\r\n").is_problem(421, "foreign_host");
    assert_eq!(get("/readyz", "host: mesh.example:80\r\n").status, 200);
    let unknown = get("/metrics", "host: localhost\r\n");
    unknown.is_problem(401, "unauthenticated");
    assert!(unknown.head.contains("www-authenticate: bearer"), "{unknown:?}");
    let known = "host: localhost\r\nauthorization: Bearer s3cret\r\n";
    assert_eq!(get("/metrics", known).status, 200);
    let settings = get("/api/v1/configuration?limit=1000", known);
    assert!(settings.status == 200 && !settings.body.contains("s3cret"), "the path, not the token");
    let foreign = "DELETE /api/v1/subscriptions/a HTTP/1.1\r\nhost: localhost\r\n\
                   origin: http://evil.example\r\nconnection: close\r\n\r\n";
    exchange(server.admin(), foreign.as_bytes()).is_problem(403, "foreign_origin");
    let refused = ask(&server, &["topic", "list"]);
    assert!(refused.code == Some(3) && refused.stderr.contains("unauthenticated"), "{refused:?}");
    let listed = ask(&server, &["topic", "list", "--token-file", token]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(server.said().iter().all(|line| !line.contains("s3cret")), "it is in no log");
    assert!(server.stop().success());
}
