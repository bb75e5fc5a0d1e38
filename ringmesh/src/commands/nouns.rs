//! `topic`, `subscription` and `lag`: what there is, by way of the admin port.

use std::io::{self, Write};

use serde_json::Value;

use super::admin::{AdminPort, encoded};
use super::args::{AdminArgs, ListArgs, Output, SubscriptionCommand, TopicCommand};
use super::failure::{Exit, Failure};
use super::table::Table;

/// `ringmesh topic ...`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn topic(command: &TopicCommand) -> Result<(), Failure> {
    match command {
        TopicCommand::List(list) => {
            let columns = [("topic", cell as Cell, "name")];
            print_list(&list.admin, "topics", &columns)
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
            print_table(&topic["partitions"], &columns)
        }
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
                ("lag", cell, "lag_events"),
                ("mode", cell, "mode"),
                ("filters", joined, "filters"),
            ];
            print_list(&list.admin, "subscriptions", &columns)
        }
        SubscriptionCommand::Show(show) => {
            let path = format!("subscriptions/{}", encoded(&show.name));
            let subscription = AdminPort::new(&show.admin).get(&path)?;
            if show.admin.output == Output::Json {
                return print_line(&subscription);
            }
            print_subscription(&subscription)
        }
        SubscriptionCommand::Delete(delete) => {
            let query = if delete.dry_run { "?dry_run=true" } else { "" };
            let path = format!("subscriptions/{}{query}", encoded(&delete.name));
            let deleted = AdminPort::new(&delete.admin).delete(&path)?;
            if delete.admin.output == Output::Json {
                return print_line(&deleted);
            }
            let was = &deleted["subscription"];
            let done = if delete.dry_run { "would be deleted" } else { "is deleted" };
            let (name, members, lag) = (&delete.name, &was["members"], &was["lag_events"]);
            print(format!("{name:?} {done}: {members} members, {lag} events not settled\n"))
        }
    }
}

/// `ringmesh lag`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn lag(arguments: &ListArgs) -> Result<(), Failure> {
    let columns = [
        ("subscription", cell as Cell, "name"),
        ("events", cell, "lag_events"),
        ("bytes", cell, "lag_bytes"),
        ("seconds", seconds, "lag_seconds"),
        ("in flight", cell, "in_flight_events"),
        ("members", cell, "members"),
    ];
    print_list(&arguments.admin, "subscriptions", &columns)
}

/// How a field is shown.
type Cell = fn(&Value) -> String;

/// A heading, how its cells are shown, and the field they come from.
type Column<'a> = (&'a str, Cell, &'a str);

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn joined(value: &Value) -> String {
    let list = value.as_array().into_iter().flatten();
    list.map(cell).collect::<Vec<_>>().join(" ")
}

fn seconds(value: &Value) -> String {
    format!("{:.1}", value.as_f64().unwrap_or(0.0))
}

/// A list: a table, or one object a line as the pages come.
fn print_list(admin: &AdminArgs, list: &str, columns: &[Column<'_>]) -> Result<(), Failure> {
    let port = AdminPort::new(admin);
    if admin.output == Output::Json {
        return port.each(list, print_line);
    }
    let mut items = Vec::new();
    port.each(list, |item| {
        items.push(item.clone());
        Ok(())
    })?;
    print_table(&Value::Array(items), columns)
}

fn print_table(items: &Value, columns: &[Column<'_>]) -> Result<(), Failure> {
    let headings: Vec<&str> = columns.iter().map(|(heading, _, _)| *heading).collect();
    let mut table = Table::new(&headings);
    for item in items.as_array().into_iter().flatten() {
        table.row(columns.iter().map(|(_, show, field)| show(&item[*field])).collect());
    }
    let mut text = Vec::new();
    table.print(&mut text).map_err(not_printed)?;
    print(String::from_utf8_lossy(&text).into_owned())
}

fn print_subscription(subscription: &Value) -> Result<(), Failure> {
    let (mode, filters) = (cell(&subscription["mode"]), joined(&subscription["filters"]));
    let lasts = if subscription["durable"] == true { "durable" } else { "ephemeral" };
    print(format!("{lasts}, {mode}, filters {filters}\n\n"))?;
    let cursors = [
        ("log", cell as Cell, "log"),
        ("low", cell, "low_position"),
        ("next", cell, "next_position"),
        ("end", cell, "visible_end_position"),
        ("unsettled", cell, "unsettled_events"),
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

fn print_line(value: &Value) -> Result<(), Failure> {
    print(format!("{value}\n"))
}

fn print(text: String) -> Result<(), Failure> {
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
