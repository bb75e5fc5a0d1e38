//! A full disk, and retention: what a running server does when bytes are scarce.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::disks::Disk;
use crate::folder;
use crate::harness::{Ended, PATIENCE, Server};

/// Data of one event.
const EVENT_BYTES: usize = 64 << 10;

type Place = (String, u64, u64);

fn place(line: &str) -> Place {
    let line: Value = serde_json::from_str(line).expect("each line is whole");
    let number = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}"));
    (line["topic"].as_str().expect("a topic").to_owned(), number("partition"), number("offset"))
}

fn places(lines: &[String]) -> Vec<Place> {
    lines.iter().map(|line| place(line)).collect()
}

/// A file with the data of one event, as an argument of `publish`.
fn data(folder: &Path) -> String {
    let path = folder.join("event");
    std::fs::write(&path, vec![b'x'; EVENT_BYTES]).expect("it can be written");
    format!("@{}", path.display())
}

/// Publishes until the server is full; where the acknowledged events stand.
fn fill(server: &Server, data: &str) -> Vec<Place> {
    let many = ["publish", "full/a", data, "--count", "100000", "--batch", "1", "-o", "json"];
    let Ended { code, lines, stderr } = server.command(&many).end();
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("disk_full"), "{stderr}");
    places(&lines)
}

pub fn everything(server: &Server) -> Vec<Place> {
    let all = ["subscribe", "full/#", "--from", "earliest", "--until-end", "-o", "json"];
    let mut all = places(&server.command(&all).done());
    all.sort();
    all
}

/// What a full server must still do: keep what it has acknowledged, over a kill, and serve those who read.
fn check_full(server: Server, folder: &Path, flags: &[&str], acknowledged: &mut [Place]) -> Server {
    acknowledged.sort();
    assert!(acknowledged.len() > 50, "{} events were taken", acknowledged.len());
    assert_eq!(everything(&server), acknowledged, "reading goes on");
    let group = ["subscribe", "full/#", "--group", "g", "--until-end", "-o", "json"];
    let first = [&group[..], &["--from", "earliest"]].concat();
    assert_eq!(server.command(&first).done().len(), acknowledged.len(), "delivering goes on");
    assert_eq!(server.command(&group).done().len(), 0, "acknowledging goes on");
    let address = server.address().to_string();
    server.kill();
    let mut server = Server::start_at(folder, &address, flags);
    server.expect_full_disk();
    let kept = everything(&server);
    let lost: Vec<_> = acknowledged.iter().filter(|place| !kept.contains(place)).collect();
    assert!(lost.is_empty(), "a kill while full has lost {lost:?}");
    server
}

/// A folder at its limit refuses events and nothing else; a raised limit is all that it needs.
#[test]
fn a_folder_at_its_limit_refuses_events_only() {
    let folder = folder::new();
    let data = data(folder.path());
    let dir = folder.path().join("data");
    let flags = |limit| ["--shards", "1", "--set", limit];
    let low = flags("log.folder_bytes_max=16MiB");
    let mut server = Server::start_with(&dir, &low);
    server.expect_full_disk();
    let mut acknowledged = fill(&server, &data);
    let server = check_full(server, &dir, &low, &mut acknowledged);
    acknowledged.extend(fill(&server, &data));
    assert!(server.stop().success(), "a full server shuts down");
    let server = Server::start_with(&dir, &flags("log.folder_bytes_max=64MiB"));
    let more = server.command(&["publish", "full/a", &data, "--count", "50", "-o", "json"]).done();
    acknowledged.extend(places(&more));
    acknowledged.sort();
    assert_eq!(everything(&server), acknowledged);
    assert!(server.stop().success());
}

/// A disk that is full, and then is not: service resumes while the server runs, and nobody has to tell it.
#[test]
fn a_full_disk_resumes_by_itself() {
    let folder = folder::new();
    let data = data(folder.path());
    let disk = Disk::in_memory(folder.path());
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![0; 36 << 20]).expect("there is room for it");
    let dir = disk.path().join("data");
    let flags = ["--shards", "1"];
    let mut server = Server::start_with(&dir, &flags);
    server.expect_full_disk();
    server.expect_line("O_DIRECT");
    let mut acknowledged = fill(&server, &data);
    let mut server = check_full(server, &dir, &flags, &mut acknowledged);
    server.expect_line("O_DIRECT");
    acknowledged.extend(fill(&server, &data));
    std::fs::remove_file(&ballast).expect("it is there");
    let deadline = Instant::now() + PATIENCE;
    let one = ["publish", "full/a", &data, "-o", "json"];
    let more = loop {
        let ended = server.command(&one).end();
        if ended.code == Some(0) {
            break ended.lines;
        }
        assert!(Instant::now() < deadline, "service resumes: {}", ended.stderr);
    };
    acknowledged.extend(places(&more));
    acknowledged.sort();
    assert_eq!(everything(&server), acknowledged);
    assert!(server.stop().success());
}

/// The numbers of the segments in a log's folder.
fn segments(log: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(log).expect("it can be listed");
    let names = entries.map(|entry| entry.expect("it can be listed").file_name());
    let number = |name: &str| name.strip_prefix("seg-")?.strip_suffix(".rms")?.parse().ok();
    let mut numbers: Vec<u64> = names.filter_map(|name| number(&name.to_string_lossy())).collect();
    numbers.sort_unstable();
    numbers
}

/// What a subscriber prints, and how many events it says are gone, each time that it does; none where nobody knows.
fn read(server: &Server, subscribe: &[&str]) -> (Vec<Place>, Vec<Option<usize>>) {
    let Ended { code, lines, stderr } = server.command(subscribe).end();
    assert_eq!(code, Some(0), "{stderr}");
    let gone = stderr.lines().filter(|line| line.contains(" gone before the subscription came"));
    let counts = gone.map(|line| line.split(' ').next().and_then(|count| count.parse().ok()));
    (places(&lines), counts.collect())
}

/// Retention wins over a group that is away: the gap is told, reading goes on behind it, and what is younger than the
/// retention is all there.
#[test]
fn retention_takes_the_oldest_and_says_so() {
    const RETENTION: usize = 4 << 20;
    let folder = folder::new();
    let data = data(folder.path());
    let dir = folder.path().join("data");
    let retention = format!("log.retention_bytes={RETENTION}");
    let flags = ["--shards", "1", "--set", &retention, "--set", "log.segment_bytes=1MiB"];
    let mut server = Server::start_with(&dir, &flags);
    let log = dir.join("gen-000001/log-000");
    let publish =
        ["publish", "old/a", &data, "--key", "k", "--batch", "1", "-o", "json", "--count"];
    let mut published = places(&server.command(&[&publish[..], &["3"]].concat()).done());
    let group = ["subscribe", "old/#", "--group", "g", "-o", "json", "--count"];
    let first = [&group[..], &["1", "--from", "earliest"]].concat();
    assert_eq!(server.command(&first).done().len(), 1, "the group is given one event and leaves");
    published.extend(places(&server.command(&[&publish[..], &["300"]].concat()).done()));
    let deadline = Instant::now() + PATIENCE;
    while segments(&log).len() * (1 << 20) > RETENTION + (4 << 20) {
        assert!(Instant::now() < deadline, "old segments go: {:?}", segments(&log));
        std::thread::park_timeout(Duration::from_millis(10));
    }
    assert!(segments(&log)[0] > 1, "the oldest is gone");

    // While they are read, more of the oldest may go: only what is younger than the retention must be there without a hole.
    let newest = |kept: &[Place]| {
        let promised = RETENTION * 9 / 10 / EVENT_BYTES;
        assert!(kept.len() >= promised, "no less is kept than was promised: {}", kept.len());
        assert!(kept.is_sorted(), "in order: {kept:?}");
        let expected = &published[published.len() - promised..];
        assert_eq!(&kept[kept.len() - promised..], expected, "the newest, without a hole");
    };
    let all = ["subscribe", "old/#", "--from", "earliest", "--until-end", "-o", "json"];
    let (kept, _) = read(&server, &all);
    assert!(kept.len() < published.len() - 3, "the oldest are gone");
    newest(&kept);

    server.expect_line("retention took events");
    let rest = ["subscribe", "old/#", "--group", "g", "--until-end", "-o", "json"];
    let (mut rest, gone) = read(&server, &rest);
    assert!(!gone.is_empty(), "the member is told");
    // It has settled one, and what was read for it before it left may still be in memory.
    let missed = published.len() - rest.len();
    if let Some(gone) = gone.into_iter().sum::<Option<usize>>() {
        assert!((missed - 3..missed).contains(&gone), "{gone} told as gone, {missed} missed");
    }
    // One that was read for the group before it left may still be in memory.
    rest.retain(|(_, _, offset)| *offset > 1);
    newest(&rest);
    let said = server.said();
    let told = said.iter().find(|line| line.contains("retention took events"));
    assert!(told.is_some_and(|line| line.contains("WARN")), "the gap is told: {said:#?}");
    let again = ["subscribe", "old/#", "--group", "g", "--until-end", "-o", "json"];
    assert_eq!(server.command(&again).done().len(), 0, "the gap is on the group's cursor");
    assert!(server.stop().success());
}
