//! `topic`, `subscription` and `lag`: what there is, by way of the admin port.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::admin::{AdminPort, List, encoded};
use super::args::{
    AdminArgs, ChangeArgs, CreateArgs, ListArgs, Output, SeekArgs, SubscriptionCommand,
    TopicCommand,
};
use super::failure::{Exit, Failure};
use super::start::From;
use super::table::Table;
use super::{topic_deletion, topic_policies};

/// `ringmesh topic ...`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn topic(command: &TopicCommand) -> Result<(), Failure> {
    match command {
        TopicCommand::List(list) => {
            let columns = [("topic", cell as Cell, "name")];
            print_list(&list.admin, &List::whole("topics"), &columns)
        }
        TopicCommand::Show(show) => {
            let path = format!("topics/{}", encoded(&show.name));
            let topic = AdminPort::new(&show.admin).get(&path)?;
            if show.admin.output == Output::Json {
                return print_line(&topic);
            }
            let columns = [
                ("partition", cell as Cell, "partition"),
                ("first", cell, "first_offset"),
                ("next", cell, "next_offset"),
                ("logs", joined, "logs"),
            ];
            print_table(&topic["partitions"], &columns)?;
            print("\n".to_owned())?;
            topic_policies::print_effective(&topic["policy"])
        }
        TopicCommand::Policies(list) => topic_policies::list(&list.admin),
        TopicCommand::Set(arguments) => topic_policies::set(arguments),
        TopicCommand::Unset(arguments) => topic_policies::unset(arguments),
        TopicCommand::Delete(arguments) => topic_deletion::delete(arguments),
    }
}

/// `ringmesh subscription ...`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn subscription(command: &SubscriptionCommand) -> Result<(), Failure> {
    match command {
        SubscriptionCommand::List(list) => {
            let columns = [
                ("subscription", cell as Cell, "name"),
                ("members", cell, "members"),
                ("lag", owed, ""),
                ("state", state, "paused"),
                ("mode", cell, "mode"),
                ("filters", joined, "filters"),
            ];
            print_list(&list.admin, &List::whole("subscriptions?exact=true"), &columns)
        }
        SubscriptionCommand::Show(show) => {
            let path = format!("subscriptions/{}", encoded(&show.name));
            let subscription = AdminPort::new(&show.admin).get(&path)?;
            if show.admin.output == Output::Json {
                return print_line(&subscription);
            }
            print_subscription(&subscription)
        }
        SubscriptionCommand::Create(wish) => create(wish),
        SubscriptionCommand::Pause(wish) => change(wish, "pause", "paused"),
        SubscriptionCommand::Resume(wish) => change(wish, "resume", "resumed"),
        SubscriptionCommand::Seek(wish) => seek(wish),
        SubscriptionCommand::Set(wish) => super::dead_letter::set(wish),
        SubscriptionCommand::Delete(wish) => change(wish, "", "deleted"),
    }
}

fn create(wish: &CreateArgs) -> Result<(), Failure> {
    let (name, filters) = (&wish.name, &wish.filters);
    let body = json!({"name": name, "filters": filters, "start": start_of(&wish.from)});
    let path = format!("subscriptions{}", query(wish.dry_run));
    let created = AdminPort::new(&wish.admin).post(&path, Some(&body))?;
    if wish.admin.output == Output::Json {
        return print_line(&created);
    }
    let done = if wish.dry_run { "would be created" } else { "is created" };
    let there = count(&created, "events");
    print(format!("{name:?} {done}: {there} stand there for it\n"))
}

/// What needs no more than a name: `pause`, `resume`, and with no word `delete`.
fn change(wish: &ChangeArgs, word: &str, done: &str) -> Result<(), Failure> {
    let port = AdminPort::new(&wish.admin);
    let (name, query) = (encoded(&wish.name), query(wish.dry_run));
    let changed = match word {
        "" => port.delete(&format!("subscriptions/{name}{query}"))?,
        word => port.post(&format!("subscriptions/{name}/{word}{query}"), None)?,
    };
    if wish.admin.output == Output::Json {
        return print_line(&changed);
    }
    let is = if wish.dry_run { "would be" } else { "is" };
    let (name, of) = (&wish.name, &changed["subscription"]);
    let (members, lag) = (&of["members"], &of["lag_events"]);
    print(format!("{name:?} {is} {done}: {members} members, {lag} events not settled\n"))
}

fn seek(wish: &SeekArgs) -> Result<(), Failure> {
    let path = format!("subscriptions/{}/seek{}", encoded(&wish.name), query(wish.dry_run));
    let body = json!({"start": start_of(&wish.to)});
    let sought = AdminPort::new(&wish.admin).post(&path, Some(&body))?;
    if wish.admin.output == Output::Json {
        return print_line(&sought);
    }
    let done = if wish.dry_run { "would be moved" } else { "is moved" };
    let (before, after) = (count(&sought, "events_before"), count(&sought, "events_after"));
    print(format!("{:?} {done}: {after} to deliver, {before} before\n", wish.name))
}

fn query(dry_run: bool) -> &'static str {
    if dry_run { "?dry_run=true" } else { "" }
}

/// A start as the admin port takes it.
fn start_of(from: &From) -> Value {
    match from {
        From::Tail => json!({"from": "latest"}),
        From::Earliest => json!({"from": "earliest"}),
        From::Time(time) => json!({"from": "time", "time_us": time.0}),
        From::Offsets(places) => {
            let place = |(partition, offset): &(codec::ids::Partition, codec::ids::Offset)| {
                (partition.to_string(), Value::from(offset.0))
            };
            let offsets: serde_json::Map<String, Value> = places.iter().map(place).collect();
            json!({"from": "offsets", "offsets": offsets})
        }
    }
}

/// A number of events, as well as it is known.
pub(super) fn count(of: &Value, field: &str) -> String {
    match (of[field].as_u64(), of["is_exact"].as_bool()) {
        (None, _) => "an unknown number of events".to_owned(),
        (Some(events), Some(true)) => format!("{events} events"),
        (Some(events), _) => format!("at most {events} events"),
    }
}

fn state(paused: &Value) -> String {
    if *paused == true { "paused".to_owned() } else { "running".to_owned() }
}

/// `ringmesh lag`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn lag(arguments: &ListArgs) -> Result<(), Failure> {
    let columns = [
        ("subscription", cell as Cell, "name"),
        ("events", owed, ""),
        ("bytes", cell, "lag_bytes"),
        ("seconds", seconds, "lag_seconds"),
        ("in flight", cell, "in_flight_events"),
        ("members", cell, "members"),
    ];
    print_list(&arguments.admin, &List::whole("subscriptions?exact=true"), &columns)
}

/// How a field is shown.
pub(super) type Cell = fn(&Value) -> String;

/// A heading, how its cells are shown, and the field they come from (`a/b`: in the field `a`); without one, of the whole
/// item.
pub(super) type Column<'a> = (&'a str, Cell, &'a str);

pub(super) fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Nothing where there is none.
pub(super) fn cell_if_any(value: &Value) -> String {
    if value.is_null() { String::new() } else { cell(value) }
}

fn joined(value: &Value) -> String {
    let list = value.as_array().into_iter().flatten();
    list.map(cell).collect::<Vec<_>>().join(" ")
}

fn seconds(value: &Value) -> String {
    format!("{:.1}", value.as_f64().unwrap_or(0.0))
}

/// What a subscription owes, as well as it is known.
fn owed(subscription: &Value) -> String {
    let bound = if subscription["lag_is_exact"] == true { "" } else { "<=" };
    format!("{bound}{}", subscription["lag_events"])
}

/// A list: a table, or one object a line as the pages come.
pub(super) fn print_list(
    admin: &AdminArgs,
    list: &List<'_>,
    columns: &[Column<'_>],
) -> Result<(), Failure> {
    let port = AdminPort::new(admin);
    if admin.output == Output::Json {
        return port.each(list, print_line);
    }
    let mut table = headed(columns);
    port.each(list, |item| {
        table.row(cells(item, columns));
        Ok(())
    })?;
    print_rows(&table)
}

pub(super) fn print_table(items: &Value, columns: &[Column<'_>]) -> Result<(), Failure> {
    let mut table = headed(columns);
    for item in items.as_array().into_iter().flatten() {
        table.row(cells(item, columns));
    }
    print_rows(&table)
}

fn headed(columns: &[Column<'_>]) -> Table {
    let headings: Vec<&str> = columns.iter().map(|(heading, _, _)| *heading).collect();
    Table::new(&headings)
}

fn cells(item: &Value, columns: &[Column<'_>]) -> Vec<String> {
    let value = |field: &str| {
        let names = field.split('/').filter(|name| !name.is_empty());
        names.fold(item, |value, name| &value[name])
    };
    columns.iter().map(|(_, show, field)| show(value(field))).collect()
}

fn print_rows(table: &Table) -> Result<(), Failure> {
    let mut text = Vec::new();
    table.print(&mut text).map_err(not_printed)?;
    print(String::from_utf8_lossy(&text).into_owned())
}

/// How many events are parked, and how to look at them.
fn parked(subscription: &Value) -> String {
    let (events, keys) = (&subscription["parked_events"], &subscription["blocked_keys"]);
    if *events == 0 {
        return String::new();
    }
    let name = cell(&subscription["name"]);
    format!(
        ", {events} of them are parked and block {keys} keys\n\
         parked events: ringmesh parking browse {name}"
    )
}

fn print_subscription(subscription: &Value) -> Result<(), Failure> {
    let (mode, filters) = (cell(&subscription["mode"]), joined(&subscription["filters"]));
    let lasts = if subscription["durable"] == true { "durable" } else { "ephemeral" };
    let paused = if subscription["paused"] == true { ", paused" } else { "" };
    let stopped = match subscription["stopped"] == true {
        true => ", stopped: its parked events block as many keys as they may",
        false => "",
    };
    print(format!("{lasts}, {mode}{paused}{stopped}, filters {filters}\n"))?;
    print(format!("{} events are not settled{}\n\n", owed(subscription), parked(subscription)))?;
    let cursors = [
        ("log", cell as Cell, "log"),
        ("low", cell, "low_position"),
        ("next", cell, "next_position"),
        ("end", cell, "visible_end_position"),
        ("unsettled", cell, "unsettled_events"),
        ("parked", cell, "parked_events"),
        ("blocked keys", cell, "blocked_keys"),
        ("unread", cell, "unread_events"),
        ("seconds", seconds, "lag_seconds"),
    ];
    print_table(&subscription["cursors"], &cursors)?;
    print("\n".to_owned())?;
    let members = [
        ("member", cell as Cell, "client"),
        ("shard", cell, "shard"),
        ("credit", cell, "credit"),
        ("in flight", cell, "in_flight_events"),
        ("filter", cell, "filter"),
    ];
    print_table(&subscription["member_list"], &members)
}

pub(super) fn print_line(value: &Value) -> Result<(), Failure> {
    print(format!("{value}\n"))
}

pub(super) fn print(text: String) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has gone away, such as `head`, wants no more.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(not_printed(error)),
        _ => Ok(()),
    }
}

fn not_printed(error: io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("standard output cannot be written: {error}"), "")
}
