//! The danger: a value that somebody set and that is not in force, silently.

use std::ffi::OsString;
use std::time::Duration;

use super::keys::KEYS;
use super::*;

fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ringmesh.toml");
    std::fs::write(&path, text).unwrap();
    (folder, Sources { file: Some(path), ..Sources::default() })
}

fn environment(name: &str, value: &str) -> Vec<(OsString, OsString)> {
    vec![(name.into(), value.into())]
}

fn flag(path: &str, value: &str) -> Vec<(String, String, String)> {
    vec![(format!("--set {path}"), path.to_owned(), value.to_owned())]
}

/// Flags win over the environment, the environment over the file, the file over the default.
#[test]
fn later_sources_win() {
    let (_folder, mut sources) =
        with_file("[log]\nsegment_bytes = \"2MiB\"\n[server]\nshards = 2\n");
    let config = Loaded::load(&sources).unwrap().config;
    assert_eq!((config.log.segment_bytes, config.server.shards), (2 << 20, Some(2)));
    sources.environment = environment("RINGMESH_LOG__SEGMENT_BYTES", "3MiB");
    assert_eq!(Loaded::load(&sources).unwrap().config.log.segment_bytes, 3 << 20);
    sources.flags = flag("log.segment_bytes", "4MiB");
    let loaded = Loaded::load(&sources).unwrap();
    assert_eq!(loaded.config.log.segment_bytes, 4 << 20);
    assert_eq!(loaded.config.server.shards, Some(2), "what only the file sets stays");
    assert_eq!(loaded.config.delivery, Config::default().delivery);
}

/// What `--print-config` prints is a file that sets the same, whatever was set before.
#[test]
fn printed_configuration_sets_the_same() {
    let mut sources = Sources::default();
    let values = [
        ("server.data", "/some \"where\""),
        ("server.shards", "3"),
        ("server.pin", "false"),
        ("log.retention_bytes", "1GiB"),
        ("native.hello_timeout", "1500ms"),
        ("delivery.ack", "written"),
        ("logging.level", "debug"),
    ];
    for (path, value) in values {
        sources.flags.extend(flag(path, value));
    }
    let loaded = Loaded::load(&sources).unwrap();
    let printed = print(&loaded);
    let (_folder, sources) = with_file(&printed);
    assert_eq!(Loaded::load(&sources).unwrap().config, loaded.config, "{printed}");
    assert_eq!(loaded.config.native.hello_timeout, Duration::from_millis(1500));
    for line in printed.lines() {
        assert!(line.chars().count() <= 140, "a screen cannot show {line}");
    }
}

/// Each key takes back what it shows, so no default is a value that the key itself would refuse.
#[test]
fn every_key_takes_its_own_value() {
    for key in KEYS {
        let mut config = Config::default();
        let shown = (key.show)(&config);
        assert_eq!((key.set)(&mut config, &shown), Ok(()), "{}", key.path());
        assert_eq!(config, Config::default(), "{}", key.path());
        let takes = explain(&key.path()).unwrap().takes;
        assert!(!takes.is_empty(), "{} refuses an empty text, and says what it takes", key.path());
        assert!(!key.doc.is_empty() && key.doc.ends_with('.'), "{} is explained", key.path());
    }
}

/// A misspelt key must not leave the default in force without a word.
#[test]
fn unknown_keys_are_refused_by_name() {
    let table = [
        (
            "[log]\nsegment_byte = 1",
            "unknown key log.segment_byte in FILE: did you mean log.segment_bytes?",
        ),
        (
            "[server]\nlisten = \"a\"",
            "unknown key server.listen in FILE: did you mean native.listen?",
        ),
        ("[serve]\nshards = 1", "unknown key [serve] in FILE: did you mean [server]?"),
        ("shards = 1", "unknown key shards in FILE: did you mean server.shards?"),
        (
            "[colour]\nred = 1",
            "unknown key [colour] in FILE; `ringmesh config show` lists all keys",
        ),
    ];
    for (text, expected) in table {
        let (folder, sources) = with_file(text);
        let error = Loaded::load(&sources).unwrap_err().to_string();
        let path = folder.path().join("ringmesh.toml");
        assert_eq!(error.replace(&path.display().to_string(), "FILE"), expected);
    }
    let sources =
        Sources { environment: environment("RINGMESH_SERVER_SHARDS", "1"), ..Sources::default() };
    assert_eq!(
        Loaded::load(&sources).unwrap_err().to_string(),
        "unknown variable RINGMESH_SERVER_SHARDS in the environment: did you mean RINGMESH_SERVER__SHARDS?"
    );
    let sources = Sources { flags: flag("server.shard", "1"), ..Sources::default() };
    assert_eq!(
        Loaded::load(&sources).unwrap_err().to_string(),
        "unknown key server.shard in a flag: did you mean server.shards?"
    );
}

/// Variables that Kubernetes sets for a service called "ringmesh" must not keep the server from starting.
#[test]
fn service_links_are_not_ours() {
    for name in [
        "RINGMESH_SERVICE_HOST",
        "RINGMESH_SERVICE_PORT_NATIVE",
        "RINGMESH_ADMIN",
        "RINGMESH_PORT",
        "RINGMESH_PORT_10300_TCP_ADDR",
        "PATH",
    ] {
        let sources = Sources { environment: environment(name, "x"), ..Sources::default() };
        assert_eq!(Loaded::load(&sources).unwrap().config, Config::default(), "{name}");
    }
}

/// A message about a value names key, value, who gave it and what is allowed.
#[test]
fn bad_values_are_refused_with_what_is_allowed() {
    let table = [
        (
            "server.shards",
            "0",
            "server.shards cannot be \"0\" (from the flag --set server.shards); allowed: auto or a whole number from 1 to 64",
        ),
        (
            "log.segment_bytes",
            "1KiB",
            "log.segment_bytes cannot be \"1KiB\" (from the flag --set log.segment_bytes); allowed: from 1MiB to 4GiB",
        ),
        (
            "native.hello_timeout",
            "10",
            "native.hello_timeout cannot be \"10\" (from the flag --set native.hello_timeout); allowed: a number and one of us, ms, s, m, h, d, from 1ms to 1d",
        ),
        (
            "delivery.ack",
            "fast",
            "delivery.ack cannot be \"fast\" (from the flag --set delivery.ack); allowed: durable, written or received",
        ),
        (
            "native.idle_timeout",
            "1s",
            "native.idle_timeout cannot be \"1s\" (from the flag --set native.idle_timeout); allowed: more than ping_interval, which is 20s",
        ),
        (
            "limits.event_data_bytes_max",
            "17MiB",
            "limits.event_data_bytes_max cannot be \"17MiB\" (from the flag --set limits.event_data_bytes_max); allowed: from 1B to 16MiB",
        ),
    ];
    for (path, value, expected) in table {
        let sources = Sources { flags: flag(path, value), ..Sources::default() };
        assert_eq!(Loaded::load(&sources).unwrap_err().to_string(), expected);
    }
}

/// A file that is not there or not TOML is not an empty one.
#[test]
fn unreadable_files_are_refused() {
    let sources = Sources { file: Some("/nowhere/ringmesh.toml".into()), ..Sources::default() };
    assert!(matches!(Loaded::load(&sources), Err(ConfigError::File { .. })));
    let (_folder, sources) = with_file("[log\n");
    assert!(matches!(Loaded::load(&sources), Err(ConfigError::Syntax { .. })));
}

/// Whoever asks for a key by half of its name must be led to it, and not to another.
#[test]
fn keys_are_explained() {
    let explained = explain("log.segment_bytes").unwrap();
    assert_eq!(explain("RINGMESH_LOG__SEGMENT_BYTES").unwrap(), explained);
    assert_eq!(
        (explained.default.as_str(), explained.key.as_str()),
        ("256MiB", "log.segment_bytes")
    );
    assert!(explained.takes.ends_with("GB, TB, from 1MiB to 4GiB"), "{}", explained.takes);
    let takes = |key: &str| explain(key).unwrap().takes;
    assert_eq!(
        takes("native.idle_timeout"),
        "a number and one of us, ms, s, m, h, d, from 1ms to 1d"
    );
    assert_eq!(takes("delivery.ack"), "durable, written or received");
    assert!(takes("log.retention_bytes").ends_with("TB, at least 4MiB"));
    let table = [
        ("segment_bytes", "unknown key segment_bytes: did you mean log.segment_bytes?"),
        ("log.segmetn_bytes", "unknown key log.segmetn_bytes: did you mean log.segment_bytes?"),
        ("colour", "unknown key colour; `ringmesh config show` lists all keys"),
    ];
    for (name, expected) in table {
        assert_eq!(explain(name).unwrap_err().to_string(), expected);
    }
}
