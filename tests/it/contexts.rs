//! `context`, and how the commands find their server.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::folder;
use crate::harness::{BINARY, Server};

/// Runs the binary as a user whose home this is.
fn run(home: &Path, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    for name in ["RINGMESH_SERVER", "RINGMESH_ADMIN", "RINGMESH_CONTEXT", "RINGMESH_TOKEN_FILE"] {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", home).envs(variables.iter().copied());
    command.args(arguments).stdin(Stdio::null()).output().expect("the binary starts")
}

fn done(home: &Path, arguments: &[&str]) -> String {
    let output = run(home, &[], arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

fn refused(home: &Path, variables: &[(&str, &str)], arguments: &[&str], code: i32) -> String {
    let output = run(home, variables, arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8(output.stderr).expect("it is text")
}

/// Who works with two servers must always be told on which one a command went, and get back to the other.
#[test]
fn contexts_lead_to_their_servers() {
    let folders = [folder::new(), folder::new(), folder::new()];
    let home = folders[0].path();
    let servers = [Server::start(folders[1].path()), Server::start(folders[2].path())];
    for (name, server) in ["one", "two"].iter().zip(&servers) {
        let (native, admin) = (server.address().to_string(), server.admin().to_string());
        let added = done(home, &["context", "add", name, "--server", &native, "--admin", &admin]);
        assert_eq!(added, format!("context \"{name}\" is added\n"));
        done(home, &["publish", &format!("only/{name}"), "x", "--context", name]);
    }
    assert_eq!(done(home, &["context", "use", "one"]), "context \"one\" is in force\n");
    assert_eq!(done(home, &["topic", "list"]), "topic\nonly/one\n");
    done(home, &["context", "use", "two"]);
    assert_eq!(done(home, &["topic", "list"]), "topic\nonly/two\n");
    assert_eq!(done(home, &["topic", "list", "--context", "one"]), "topic\nonly/one\n");
    let by_variable = run(home, &[("RINGMESH_CONTEXT", "one")], &["topic", "list"]);
    assert_eq!(String::from_utf8_lossy(&by_variable.stdout), "topic\nonly/one\n");
    assert_eq!(done(home, &["context", "-"]), "context \"one\" is in force\n");
    assert_eq!(done(home, &["context", "use", "-"]), "context \"two\" is in force\n");

    let table = done(home, &["context", "list"]);
    let rows: Vec<Vec<&str>> =
        table.lines().map(|line| line.split_whitespace().collect()).collect();
    let (native, admin) = (servers[1].address().to_string(), servers[1].admin().to_string());
    assert_eq!(rows[0], ["name", "server", "admin", "token", "file"], "{table}");
    assert_eq!(rows[1][0], "one", "{table}");
    assert_eq!(rows[2], ["*", "two", &native, &admin, "-"], "{table}");
    let json = done(home, &["context", "list", "-o", "json"]);
    let last: Value = serde_json::from_str(json.lines().last().expect("two lines")).expect("JSON");
    assert_eq!(last["name"], "two");
    assert_eq!((&last["current"], &last["admin"]), (&Value::Bool(true), &Value::String(admin)));

    assert_eq!(
        done(home, &["context", "remove", "two"]),
        "context \"two\" is removed; none is in force now\n"
    );
    let file = home.join("ringmesh/contexts.toml");
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600, "who is in the file is nobody else's business");
    assert_eq!(mode(file.parent().expect("it stands in a folder")), 0o700);
}

/// A mistake in a context leads to the wrong server, or to none: each says what is wrong, and where it came from.
#[test]
fn mistakes_say_where_they_come_from() {
    let folder = folder::new();
    let home = folder.path();
    let nobody = refused(home, &[], &["context", "-"], 2);
    assert!(nobody.contains("there is no context to go back to"), "{nobody}");
    let add = ["context", "add", "prod", "--server", "127.0.0.1:1"];
    done(home, &add);
    assert!(refused(home, &[], &add, 2).contains("there is a context \"prod\" already"));
    done(home, &[&add[..], &["--replace", "--use"]].concat());
    let from_context = refused(home, &[], &["publish", "t", "x"], 4);
    assert!(from_context.contains("127.0.0.1:1 (from the context \"prod\")"), "{from_context}");
    let variable = [("RINGMESH_SERVER", "127.0.0.1:2")];
    let from_variable = refused(home, &variable, &["publish", "t", "x"], 4);
    assert!(from_variable.contains("127.0.0.1:2 (from RINGMESH_SERVER)"), "{from_variable}");
    let flag = ["publish", "t", "x", "--server", "127.0.0.1:3"];
    let from_flag = refused(home, &variable, &flag, 4);
    assert!(from_flag.contains("127.0.0.1:3 (given as --server)"), "{from_flag}");
    let no_admin = refused(home, &[], &["lag"], 2);
    assert!(no_admin.contains("the context \"prod\" has no admin address"), "{no_admin}");
    let unknown = refused(home, &[], &["lag", "--context", "prd"], 2);
    assert!(unknown.contains("did you mean prod?"), "{unknown}");
    let unknown = refused(home, &[], &["context", "remove", "other"], 2);
    assert!(unknown.contains("there are prod"), "{unknown}");
    std::fs::write(home.join("ringmesh/contexts.toml"), "curent = 1\n").unwrap();
    let broken = refused(home, &[], &["context", "list"], 2);
    assert!(broken.contains("contexts.toml") && broken.contains("curent"), "{broken}");
    let other = tempfile::tempdir().unwrap();
    let default = refused(other.path(), &[], &["lag", "--timeout", "1us"], 5);
    assert!(default.contains("127.0.0.1:10106 (the default)"), "{default}");
}

/// A token goes to the server of its context, and to no other.
#[test]
fn tokens_go_to_their_server_alone() {
    let folder = folder::new();
    let home = folder.path();
    let token = home.join("token");
    std::fs::write(&token, "secret-7\n").unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap().to_string();
    let heard = std::thread::spawn(move || {
        let mut requests = Vec::new();
        for _ in 0..2 {
            let (mut stream, _) = port.accept().unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let lines = lines.map_while(Result::ok).take_while(|line| !line.is_empty());
            requests.push(lines.collect::<Vec<_>>());
            let body = "{\"items\":[],\"next\":null}";
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(format!("{head}{body}").as_bytes()).unwrap();
        }
        requests
    });
    let file = token.to_str().unwrap();
    done(home, &["context", "add", "proxy", "--admin", &address, "--token-file", file, "--use"]);
    done(home, &["topic", "list"]);
    done(home, &["topic", "list", "--admin", &address]);
    let requests = heard.join().unwrap();
    let has_token =
        |lines: &Vec<String>| lines.iter().any(|line| line == "authorization: Bearer secret-7");
    assert!(has_token(&requests[0]), "{requests:?}");
    assert!(!has_token(&requests[1]), "an address that is no context's gets no context's token");
    std::fs::write(&token, "two words\n").unwrap();
    let bad = refused(home, &[], &["topic", "list"], 2);
    assert!(bad.contains("holds no token"), "{bad}");
}
