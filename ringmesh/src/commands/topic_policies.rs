//! `topic set`, `topic unset`, `topic policies`: what holds for topics, by pattern.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::admin::{AdminPort, List, encoded};
use super::args::{AdminArgs, Output};
use super::failure::Failure;
use super::nouns::{Cell, cell, print, print_line, print_list, print_table};
use crate::config::units::{SIZE_FORM, Size, TIME_FORM, parse_time, show_time};

/// An ack level on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AckChoice {
    /// In memory, on its way to the disk
    Received,
    /// Written: survives the process
    Written,
    /// Synced: survives a loss of power
    Durable,
}

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum YesNo {
    /// It is
    Yes,
    /// It is not
    No,
}

/// An order on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OrderChoice {
    /// Events of one key are in order
    Key,
    /// All events of the topic are, in one partition
    Topic,
}

/// A field of a policy on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FieldChoice {
    /// --ack
    Ack,
    /// --retention-age
    RetentionAge,
    /// --retention-bytes
    RetentionBytes,
    /// --event-bytes-max
    EventBytesMax,
    /// --create
    Create,
    /// --order
    Order,
}

/// `topic set`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh topic set 'fleet/#' --retention-age 7d --ack written\n  \
    ringmesh topic set 'orders/+' --order topic --create no --dry-run\n  \
    ringmesh topic set audit/log --retention-age none\n\n\
    What is not given stays as it is. Where several patterns match a topic, the most specific one counts, for each\n\
    setting by itself: a name before +, + before #, level by level from the first.")]
pub struct SetArgs {
    /// Topic filter: for which topics
    pub pattern: String,
    /// When an event counts as taken
    #[arg(long, value_name = "LEVEL", value_enum)]
    pub ack: Option<AckChoice>,
    /// Keep events at least so long, such as 7d; none: for ever
    #[arg(long, value_name = "TIME", value_parser = age)]
    pub retention_age: Option<u64>,
    /// Keep at least so much of each partition, such as 1GiB; none: all
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub retention_bytes: Option<u64>,
    /// Largest data of one event, such as 64KiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub event_bytes_max: Option<u64>,
    /// Whether a publish may begin a topic that is not there
    #[arg(long, value_name = "YES|NO", value_enum)]
    pub create: Option<YesNo>,
    /// What is in order: the events of a key, or of the topic
    #[arg(long, value_name = "ORDER", value_enum)]
    pub order: Option<OrderChoice>,
    /// Only say for which topics what would change
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `topic unset`
#[derive(Args, Debug)]
pub struct UnsetArgs {
    /// The pattern, as it was set
    pub pattern: String,
    /// Only this setting
    #[arg(value_enum)]
    pub setting: Option<FieldChoice>,
    /// Only say for which topics what would change
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// What is shown of a policy: heading, field.
const COLUMNS: [(&str, Cell, &str); 6] = [
    ("ack", said, "ack"),
    ("age", seconds, "retention_seconds"),
    ("bytes", kept_bytes, "retention_bytes"),
    ("event", event_bytes, "event_bytes_max"),
    ("create", yes_no, "create"),
    ("order", said, "order"),
];

/// `ringmesh topic set`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn set(arguments: &SetArgs) -> Result<(), Failure> {
    let names = [
        ("ack", arguments.ack.map(|choice| name_of(&choice))),
        ("retention_seconds", arguments.retention_age.map(|seconds| seconds.to_string())),
        ("retention_bytes", arguments.retention_bytes.map(|bytes| bytes.to_string())),
        ("event_bytes_max", arguments.event_bytes_max.map(|bytes| bytes.to_string())),
        ("create", arguments.create.map(|choice| (choice == YesNo::Yes).to_string())),
        ("order", arguments.order.map(|choice| name_of(&choice))),
    ];
    let said = names.into_iter().filter_map(|(name, value)| Some(format!("{name}={}&", value?)));
    let query: String = said.collect();
    let path = path(&arguments.pattern, &format!("{query}dry_run={}", arguments.dry_run));
    let change = AdminPort::new(&arguments.admin).patch(&path)?;
    print_change(&arguments.admin, &change)
}

/// `ringmesh topic unset`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn unset(arguments: &UnsetArgs) -> Result<(), Failure> {
    let field = arguments.setting.map_or(String::new(), |field| match field {
        FieldChoice::RetentionAge => "field=retention_seconds&".to_owned(),
        other => format!("field={}&", name_of(&other).replace('-', "_")),
    });
    let path = path(&arguments.pattern, &format!("{field}dry_run={}", arguments.dry_run));
    let change = AdminPort::new(&arguments.admin).delete(&path)?;
    print_change(&arguments.admin, &change)
}

/// `ringmesh topic policies`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn list(admin: &AdminArgs) -> Result<(), Failure> {
    let pattern = ("pattern", cell as Cell, "pattern");
    let columns: Vec<_> = [pattern].into_iter().chain(COLUMNS).collect();
    print_list(admin, &List::whole("topic-policies"), &columns)
}

/// What holds for a topic, for people.
///
/// # Errors
/// Standard output cannot be written.
pub fn print_effective(policy: &Value) -> Result<(), Failure> {
    let names = ["ack", "retention-age", "retention-bytes", "event-bytes-max", "create", "order"];
    let rows = names.iter().zip(COLUMNS).map(|(name, (_, show, field))| {
        let (value, pattern) = (&policy[field]["value"], &policy[field]["pattern"]);
        let value = match (value, field) {
            (Value::Null, "retention_bytes") => "as log.retention_bytes says".to_owned(),
            (Value::Null, "retention_seconds") => "none".to_owned(),
            (value, _) => show(value),
        };
        let from = pattern.as_str().unwrap_or("(configuration)");
        serde_json::json!({"setting": name, "value": value, "from": from})
    });
    let columns =
        [("setting", cell as Cell, "setting"), ("value", cell, "value"), ("from", cell, "from")];
    print_table(&Value::Array(rows.collect()), &columns)
}

fn print_change(admin: &AdminArgs, change: &Value) -> Result<(), Failure> {
    if admin.output == Output::Json {
        return print_line(change);
    }
    let would = if change["dry_run"] == true { "would say" } else { "says" };
    let pattern = cell(&change["pattern"]);
    let says = |policy: &Value| {
        let fields = COLUMNS.iter().filter(|(_, _, field)| !policy[*field].is_null());
        let fields: Vec<String> =
            fields.map(|(name, show, field)| format!("{name} {}", show(&policy[*field]))).collect();
        if fields.is_empty() { "nothing".to_owned() } else { fields.join(", ") }
    };
    let (before, after) = (says(&change["before"]), says(&change["after"]));
    print(format!("{pattern} {would}: {after}; it has said: {before}\n"))?;
    let topics = change["topics"].as_array().cloned().unwrap_or_default();
    if topics.is_empty() {
        return print("nothing changes for any topic that is there\n".to_owned());
    }
    let rows = topics.iter().map(|topic| {
        let (before, after) = (says(&topic["before"]), says(&topic["after"]));
        serde_json::json!({"topic": topic["name"], "before": before, "after": after})
    });
    print("\n".to_owned())?;
    let columns =
        [("topic", cell as Cell, "topic"), ("before", cell, "before"), ("after", cell, "after")];
    print_table(&Value::Array(rows.collect()), &columns)?;
    if change["topics_complete"] == false {
        print("and others\n".to_owned())?;
    }
    Ok(())
}

fn path(pattern: &str, query: &str) -> String {
    format!("topic-policies/{}?{query}", encoded(pattern))
}

fn name_of(choice: &impl ValueEnum) -> String {
    let value = choice.to_possible_value().expect("no choice is hidden");
    value.get_name().to_owned()
}

fn said(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { cell(value) }
}

fn yes_no(value: &Value) -> String {
    match value.as_bool() {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => said(value),
    }
}

fn seconds(value: &Value) -> String {
    match value.as_u64() {
        Some(0) => "none".to_owned(),
        Some(seconds) => show_time(Duration::from_secs(seconds)),
        None => said(value),
    }
}

fn kept_bytes(value: &Value) -> String {
    match value.as_u64() {
        Some(0) => "none".to_owned(),
        _ => event_bytes(value),
    }
}

fn event_bytes(value: &Value) -> String {
    value.as_u64().map_or_else(|| said(value), |bytes| Size(bytes).to_string())
}

fn age(text: &str) -> Result<u64, String> {
    if text == "none" {
        return Ok(0);
    }
    let time =
        parse_time(text).ok_or_else(|| format!("expected none, or {TIME_FORM}, such as 7d"))?;
    if time.subsec_nanos() > 0 || time.is_zero() {
        return Err("expected whole seconds, at least 1s".to_owned());
    }
    Ok(time.as_secs())
}

fn bytes(text: &str) -> Result<u64, String> {
    if text == "none" { Ok(0) } else { size(text) }
}

fn size(text: &str) -> Result<u64, String> {
    match Size::parse(text) {
        Some(Size(bytes)) if bytes > 0 => Ok(bytes),
        _ => Err(format!("expected {SIZE_FORM}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A retention that is read as another one loses events.
    #[test]
    fn settings_are_read_exactly() {
        assert_eq!((age("7d"), age("none")), (Ok(604_800), Ok(0)));
        assert!(["0s", "1500ms", "7", "never"].iter().all(|text| age(text).is_err()));
        assert_eq!((bytes("1GiB"), bytes("none")), (Ok(1 << 30), Ok(0)));
        assert!(["0", "-1", "much"].iter().all(|text| bytes(text).is_err()));
        assert!(size("none").is_err());
        assert_eq!(name_of(&FieldChoice::EventBytesMax), "event-bytes-max");
        assert_eq!((seconds(&3_600.into()), kept_bytes(&0.into())), ("1h".into(), "none".into()));
    }
}
