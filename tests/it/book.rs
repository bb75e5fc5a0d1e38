//! The documents as one book: nothing is missing in it, every link leads somewhere, and generated pages are the code's.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ringmesh::config::{Config, Loaded, explain};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn root() -> PathBuf {
    Path::new(ROOT).canonicalize().expect("the workspace is there")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All pages below a folder.
fn pages(folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("it is a folder") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            pages(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.insert(path);
        }
    }
}

/// Where a document's links lead, without what is shown as code.
fn links(text: &str) -> Vec<String> {
    let mut plain = String::new();
    for (index, part) in text.split("```").enumerate() {
        if index % 2 == 0 {
            let words = part.split('`').enumerate().filter(|(index, _)| index % 2 == 0);
            words.for_each(|(_, words)| plain.push_str(words));
        }
    }
    let rests = plain.split("](").skip(1);
    rests.filter_map(|rest| rest.split_once(')').map(|(link, _)| link.to_owned())).collect()
}

/// The anchors of a page: its headings, as they stand in a link.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let slug = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect::<String>()
    };
    headings.map(slug).collect()
}

/// A page that is not in the summary is not in the book, and nobody finds it.
#[test]
fn every_page_is_in_the_book() {
    let docs = root().join("docs");
    let summary = read(&docs.join("SUMMARY.md"));
    let mut expected = BTreeSet::new();
    pages(&docs, &mut expected);
    expected.remove(&docs.join("SUMMARY.md"));
    let listed: Vec<PathBuf> = links(&summary).iter().map(|link| docs.join(link)).collect();
    let found: BTreeSet<PathBuf> = listed.iter().cloned().collect();
    assert_eq!(listed.len(), found.len(), "each page stands there once");
    assert_eq!(found, expected);
}

/// A link that leads nowhere is found by whoever needs it.
#[test]
fn every_link_leads_somewhere() {
    let root = root();
    let mut documents = BTreeSet::new();
    pages(&root.join("docs"), &mut documents);
    documents
        .extend(["README.md", "ARCHITECTURE.md", "sdk/rust/README.md"].map(|path| root.join(path)));
    let mut count = 0;
    for document in documents {
        let text = read(&document);
        for link in links(&text) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().expect("it stands in a folder").join(path),
            };
            let name = document.display();
            assert!(target.exists(), "{name} links to {link}, which is not there");
            let has_anchor = anchor.is_empty() || anchors(&read(&target)).contains(anchor);
            assert!(has_anchor, "{name} links to {link}: there is no such heading");
            count += 1;
        }
    }
    assert!(count > 50, "{count} links are found");
}

/// Compares a page with what the code says, or writes it.
fn assert_page(name: &str, expected: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os("WRITE_DOCUMENTS").is_some() {
        std::fs::write(&path, expected).expect("it can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/{name} is not what the code says; `WRITE_DOCUMENTS=1 cargo test -p ringmesh --test it book` writes it:\n{expected}"
    );
}

/// A key that is documented otherwise than it works is set wrongly.
#[test]
fn keys_are_documented() {
    let mut page = String::from(
        "# Every key\n\n\
         What `ringmesh config explain KEY` tells, for all keys. How they are set, and which of several values wins: \
         [configuration.md](configuration.md).\n\n\
         This page is generated from `ringmesh/src/config/keys.rs`; `cargo test -p ringmesh --test it book` compares them.\n",
    );
    let mut section = String::new();
    for setting in Loaded::of(Config::default()).settings() {
        let key = explain(&setting.key).expect("every key is explained");
        let (of, _) = key.key.split_once('.').expect("a key has a section");
        if of != section {
            section = of.to_owned();
            let _ = write!(page, "\n## {section}\n");
        }
        let text = key.text.replace('\n', " ");
        let _ = write!(
            page,
            "\n### {}\n\n{text}\n\n| takes | default | environment |\n|---|---|---|\n| {} | `{}` | `{}` |\n",
            key.key, key.takes, key.default, key.variable
        );
    }
    assert_page("keys.md", &page);
}

/// A limit: its name, and its value.
macro_rules! limits {
    ($($name:ident),+ $(,)?) => {
        [$((stringify!($name), codec::limits::$name as u64)),+]
    };
}

/// A limit that nobody knows of is met in production.
#[test]
fn limits_are_documented() {
    let limits = limits![
        PARTITIONS,
        BATCH_EVENTS_MAX,
        BATCH_BYTES_MAX,
        BODY_BYTES_MAX,
        EVENT_DATA_BYTES_MAX,
        EVENT_DATA_BYTES_DEFAULT,
        ATTRIBUTES_BYTES_MAX,
        ATTRIBUTE_NAME_BYTES_MAX,
        TOPIC_BYTES_MAX,
        TOPIC_LEVELS_MAX,
        TOPICS_MAX,
        BATCH_HEADER_BYTES,
        BATCH_ALIGN,
    ];
    let source = read(&root().join("codec/src/limits.rs"));
    let mut page = String::from(
        "# Limits\n\n\
         What an event, a batch and a topic may be at most. What is beyond is refused with `limit_exceeded` \
         ([errors.md](errors.md)), and the text names field, limit and value. Limits that can be set are in \
         [keys.md](keys.md).\n\n\
         This page is generated from `codec/src/limits.rs`; `cargo test -p ringmesh --test it book` compares them.\n\n\
         | limit | value | what it is |\n|---|---|---|\n",
    );
    let mut text = String::new();
    let mut names = Vec::new();
    for line in source.lines() {
        if let Some(comment) = line.strip_prefix("///") {
            text.push_str(comment);
        } else if let Some(rest) = line.strip_prefix("pub const ") {
            let name = rest.split(':').next().unwrap_or_default();
            let limit = limits.iter().find(|(limit, _)| *limit == name);
            let (_, value) = limit.unwrap_or_else(|| panic!("{name} is in the list above"));
            let what = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let _ = writeln!(page, "| `{name}` | {value} | {what} |");
            names.push(name);
            text.clear();
        }
    }
    assert_eq!(names.len(), limits.len());
    assert_page("limits.md", &page);
}
