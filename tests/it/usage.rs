//! What a wrong command line, configuration or environment is answered with. No server runs here.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use crate::folder;
use crate::harness::{BINARY, run};

/// A script decides by the exit code, and a person by the text: each mistake has its own.
#[test]
fn mistakes_are_told_apart() {
    let table: [(&[&str], i32, &[&str]); 16] = [
        (&[], 2, &["Usage: ringmesh <COMMAND>", "Exit codes: 0 done"]),
        (&["serve", "--colour"], 2, &["unexpected argument '--colour'"]),
        (&["serve", "--set", "log.segmnt_bytes=1MiB"], 2, &["did you mean log.segment_bytes?"]),
        (&["serve", "--shards", "0"], 2, &["server.shards cannot be \"0\"", "--shards", "1 to 64"]),
        (
            &["serve", "--listen", "here"],
            2,
            &["native.listen cannot be \"here\"", "127.0.0.1:10300"],
        ),
        (&["serve", "--config", "/nowhere.toml"], 2, &["/nowhere.toml cannot be read"]),
        (
            &["publish", "t", "@/nowhere"],
            2,
            &["/nowhere cannot be read", "DATA that begins with @"],
        ),
        (&["config", "show", "--shards", "0"], 2, &["server.shards cannot be \"0\""]),
        (&["config", "explain", "log.segmnt_bytes"], 2, &["did you mean log.segment_bytes?"]),
        (&["publish", "t", "--count", "3"], 2, &["<DATA | @FILE>"]),
        (&["publish", "t", "x", "--batch", "9000"], 2, &["9000 is not in 1..=8192"]),
        (&["subscribe"], 2, &["<FILTER>"]),
        (&["subscribe", "t", "--from", "soon"], 2, &["expected latest (or tail), earliest"]),
        (
            &["publish", "t", "x", "--server", "127.0.0.1:1"],
            4,
            &["no server answers at 127.0.0.1:1", "ringmesh serve"],
        ),
        (&["subscribe", "t", "--server", "nonsense"], 4, &["nonsense", "HOST:PORT"]),
        (&["inspect", "/nowhere"], 1, &["/nowhere cannot be read", "gen-000001"]),
    ];
    for (arguments, code, texts) in table {
        let ended = run(arguments).end();
        assert_eq!(ended.code, Some(code), "{arguments:?}: {}", ended.stderr);
        for text in texts {
            assert!(ended.stderr.contains(text), "{arguments:?} says {text:?}: {}", ended.stderr);
        }
        assert_eq!(
            ended.lines,
            Vec::<String>::new(),
            "{arguments:?} prints only to standard error"
        );
    }
}

/// A peer that takes the connection and says nothing must not keep a command for ever.
#[test]
fn silence_times_out() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for command in [&["publish", "t", "x"][..], &["subscribe", "t"]] {
        let arguments = [command, &["--server", &address, "--timeout", "200ms"]].concat();
        let ended = run(&arguments).end();
        assert_eq!(ended.code, Some(5), "{}", ended.stderr);
        assert!(ended.stderr.contains("200ms"), "{}", ended.stderr);
    }
}

/// A misspelt variable must not leave the default in force without a word.
#[test]
fn unknown_variables_are_refused() {
    let mut command = Command::new(BINARY);
    command.args(["serve", "--print-config"]).env("RINGMESH_LOG__SEGMENT_BYTE", "1MiB");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.contains("did you mean RINGMESH_LOG__SEGMENT_BYTES?"), "{stderr}");
}

/// The printed configuration is the manual that is always right: it must be taken back as it is, and
/// docs/configuration.md must show the same.
#[test]
fn printed_configuration_is_taken_back_and_documented() {
    let printed = run(&["serve", "--print-config"]).done().join("\n");
    let folder = folder::new();
    let path = folder.path().join("ringmesh.toml");
    std::fs::write(&path, &printed).unwrap();
    let again = run(&["serve", "--config", path.to_str().unwrap(), "--print-config"]).done();
    let values = |text: &str| {
        let lines = text.lines().map(|line| line.split(" # from ").next().unwrap().to_owned());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(values(&printed), values(&again.join("\n")));
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let document = std::fs::read_to_string(document).unwrap();
    assert!(
        document.contains(&printed),
        "docs/configuration.md shows what --print-config prints:\n{printed}"
    );
}

/// Whoever looks for the reason of a value must be sent to the flag, variable or file that set it.
#[test]
fn shown_configuration_tells_who_set_what() {
    let folder = folder::new();
    let path = folder.path().join("ringmesh.toml");
    std::fs::write(&path, "[log]\nsegment_bytes = \"2MiB\"\n[server]\nshards = 3\n").unwrap();
    let mut command = Command::new(BINARY);
    let file = path.to_str().unwrap();
    command.args(["config", "show", "-o", "json", "--config", file, "--shards", "2"]);
    command.env("RINGMESH_DELIVERY__ACK", "written");
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        ("server.shards", "2", "flag", Some("--shards")),
        ("log.segment_bytes", "2MiB", "file", Some(file)),
        ("delivery.ack", "written", "environment", Some("RINGMESH_DELIVERY__ACK")),
        ("log.cache_bytes", "64MiB", "default", None),
    ];
    for (key, value, origin, set_by) in expected {
        let row = rows.iter().find(|row| row["key"] == key).unwrap();
        let all = serde_json::json!(
            {"key": key, "value": value, "origin": origin, "set_by": set_by}
        );
        assert_eq!(*row, all);
    }
    let table = run(&["config", "show", "--shards", "2"]).done();
    assert_eq!(table.len(), rows.len() + 1, "a heading, and a line for each key");
    let row = table.iter().find(|line| line.starts_with("server.shards")).unwrap();
    let words: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(words, ["server.shards", "2", "flag", "--shards"]);
}
