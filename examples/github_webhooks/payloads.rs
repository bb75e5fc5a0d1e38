//! The payloads of the npm package `@octokit/webhooks-examples` as events, the groups that take them, and what each
//! group must be given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ringmesh_client::Event;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The indexes of the package, one for each of GitHub's products and versions.
const INDEXES: [&str; 6] =
    ["api.github.com", "ghes-31", "ghes-32", "ghes-33", "ghes-34", "ghes-35"];

/// Payloads that version 7.6.1 of the package holds.
const PAYLOADS_MIN: usize = 726;

/// Groups and their filters.
pub const GROUPS: [(&str, &str); 6] = [
    ("everything", "github/#"),
    ("issues", "github/issues/#"),
    ("opened", "github/+/opened"),
    ("checks", "github/check_run/completed"),
    ("pulls", "github/pull_request/+"),
    ("nothing", "gitlab/#"),
];

/// One event as it is published.
#[derive(Clone, Debug)]
pub struct Given {
    /// `github/{event}/{action}`.
    pub topic: String,
    /// The full name of the repository.
    pub key: String,
    /// The payload, byte for byte as the package has it.
    pub data: String,
}

/// One event type of an index.
#[derive(Deserialize)]
struct Definition {
    name: String,
    examples: Vec<Box<RawValue>>,
}

/// What a payload's topic and key are made of.
#[derive(Deserialize)]
struct Payload {
    action: Option<String>,
    repository: Option<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

/// The payloads by id, which is their order over all indexes.
///
/// # Errors
///
/// An index that cannot be read, is not what it was, or lists more than was found, as text.
pub fn payloads(package: &Path) -> Result<BTreeMap<String, Given>, String> {
    let mut given = BTreeMap::new();
    for index in INDEXES {
        let path = package.join(index).join("index.json");
        let text = std::fs::read_to_string(&path).map_err(|error| {
            format!("{}: {error}; npm ci --prefix tests/octokit installs it", path.display())
        })?;
        read_index(index, &text, &mut given)?;
    }
    if given.len() < PAYLOADS_MIN {
        return Err(format!(
            "the package holds {PAYLOADS_MIN} payloads, {} were found",
            given.len()
        ));
    }
    Ok(given)
}

fn read_index(index: &str, text: &str, given: &mut BTreeMap<String, Given>) -> Result<(), String> {
    let wrong = |error: serde_json::Error| format!("{index}/index.json: {error}");
    let listed = text.matches("\"examples\": [").count() + text.matches("\"examples\":[").count();
    let definitions: Vec<Definition> = serde_json::from_str(text).map_err(wrong)?;
    // Payloads have no member of that name, so the two ways to count must agree.
    if definitions.len() != listed {
        return Err(format!("{index} lists {listed} event types, {} were read", definitions.len()));
    }
    for definition in definitions {
        if definition.examples.is_empty() {
            return Err(format!("{index}: {} has no payload", definition.name));
        }
        for example in definition.examples {
            let payload: Payload = serde_json::from_str(example.get()).map_err(wrong)?;
            let action = payload.action.unwrap_or_else(|| "none".to_owned());
            let key = payload.repository.map_or_else(|| "none".to_owned(), |known| known.full_name);
            let topic = format!("github/{}/{action}", definition.name);
            let id = format!("{index}-{:04}", given.len());
            given.insert(id, Given { topic, key, data: example.get().to_owned() });
        }
    }
    Ok(())
}

/// The CloudEvent of a payload.
pub fn event_of(id: &str, given: &Given) -> Event {
    let source = format!("https://github.com/{}", given.key);
    let event = Event::json(given.data.clone()).id(id).source(source);
    event.kind("com.github.webhook").key(given.key.clone())
}

/// MQTT's rules, written down once more: the server's own matcher must not be its own judge.
fn matches(filter: &str, topic: &str) -> bool {
    let (filter, topic): (Vec<_>, Vec<_>) =
        (filter.split('/').collect(), topic.split('/').collect());
    for (i, level) in filter.iter().enumerate() {
        match *level {
            "#" => return true,
            "+" if i < topic.len() => {}
            level if topic.get(i) == Some(&level) => {}
            _ => return false,
        }
    }
    filter.len() == topic.len()
}

/// The ids of what a filter matches.
pub fn expected_ids(given: &BTreeMap<String, Given>, filter: &str) -> BTreeSet<String> {
    let matching = given.iter().filter(|(_, given)| matches(filter, &given.topic));
    matching.map(|(id, _)| id.clone()).collect()
}

/// One event as a member of a group handled it.
#[derive(Clone, Debug)]
pub struct Handled {
    /// The group.
    pub group: &'static str,
    /// The event's id.
    pub id: String,
    /// Its topic.
    pub topic: String,
    /// Its data.
    pub data: Vec<u8>,
}

/// Checks that a group was given exactly what its filter says, byte for byte, in order for each repository.
///
/// `may_repeat`: at least once, not exactly once. A repeated event counts where it came first.
///
/// # Errors
///
/// The first thing that is not so, as text.
pub fn check_group(
    given: &BTreeMap<String, Given>,
    handled: &[Handled],
    (group, filter): (&str, &str),
    may_repeat: bool,
) -> Result<usize, String> {
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for one in handled.iter().filter(|one| one.group == group) {
        let id = one.id.as_str();
        let event = given.get(id).ok_or_else(|| format!("{id} was never published"))?;
        if (one.topic.as_str(), one.data.as_slice())
            != (event.topic.as_str(), event.data.as_bytes())
        {
            return Err(format!("{id} is not what was published"));
        }
        if !seen.insert(one.id.clone()) {
            if may_repeat {
                continue;
            }
            return Err(format!("{id} came twice"));
        }
        let before = last.insert(&event.key, id);
        if before >= Some(id) {
            return Err(format!("{id} of {} came after {before:?}", event.key));
        }
    }
    let expected = expected_ids(given, filter);
    match expected.symmetric_difference(&seen).next() {
        None => Ok(seen.len()),
        Some(id) => Err(format!("{} of {} events, {id} is wrong", seen.len(), expected.len())),
    }
}
