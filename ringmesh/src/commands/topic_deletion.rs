//! `topic delete`: shows what would go, and asks, unless it is told not to.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;
use serde_json::Value;

use super::admin::{AdminPort, encoded};
use super::args::{AdminArgs, Output};
use super::failure::{Exit, Failure};
use super::nouns::{Cell, cell, count, print, print_line, print_table};
use crate::config::units::Size;

/// `topic delete`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh topic delete demo/hello --dry-run\n  \
    ringmesh topic delete demo/hello --yes\n\n\
    Its events are gone at once for every reader, whatever its retention says. Its bytes are freed with the segments that\n\
    they stand in, once these hold nothing else that is kept. A publish begins the topic again, where its offsets ended.")]
pub struct DeleteTopicArgs {
    /// Its name
    pub name: String,
    /// Only say what would go
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `ringmesh topic delete`
///
/// # Errors
/// The server cannot be asked, or refuses; or nobody has said yes.
pub fn delete(arguments: &DeleteTopicArgs) -> Result<(), Failure> {
    let port = AdminPort::new(&arguments.admin);
    let request = |dry_run: bool| {
        port.delete(&format!("topics/{}?dry_run={dry_run}", encoded(&arguments.name)))
    };
    if arguments.dry_run || !arguments.yes {
        let would = request(true)?;
        if arguments.dry_run {
            return tell(arguments, &would);
        }
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let advice = "look with --dry-run, then say --yes";
            return Err(Failure::new(Exit::Usage, "what is deleted does not come back", advice));
        }
        tell(arguments, &would)?;
        if !is_confirmed()? {
            return Err(Failure::new(Exit::Usage, "nothing was deleted", ""));
        }
    }
    tell(arguments, &request(false)?)
}

/// Asks whoever sits there.
fn is_confirmed() -> Result<bool, Failure> {
    let failed = |error: io::Error| {
        Failure::new(Exit::Failed, format!("the terminal cannot be asked: {error}"), "")
    };
    let mut err = io::stderr().lock();
    err.write_all(b"delete it? [y/N] ").and_then(|()| err.flush()).map_err(failed)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line).map_err(failed)?;
    Ok(["y", "yes"].contains(&line.trim()))
}

fn tell(arguments: &DeleteTopicArgs, deletion: &Value) -> Result<(), Failure> {
    if arguments.admin.output == Output::Json {
        return print_line(deletion);
    }
    let is = if deletion["dry_run"] == true { "would be" } else { "is" };
    let (events, bytes) = (&deletion["events"], deletion["bytes"].as_u64().unwrap_or(0));
    let name = &arguments.name;
    print(format!("{name:?} {is} deleted: {events} events, about {}\n", about(bytes)))?;
    let losses = deletion["subscriptions"].as_array().cloned().unwrap_or_default();
    if losses.is_empty() {
        return print("no subscription has still to get any of them\n".to_owned());
    }
    let rows = losses
        .iter()
        .map(|loss| serde_json::json!({"name": loss["name"], "loses": count(loss, "events")}));
    let columns = [("subscription", cell as Cell, "name"), ("has still to get", cell, "loses")];
    print_table(&Value::Array(rows.collect()), &columns)?;
    if deletion["subscriptions_complete"] == false {
        print("and others\n".to_owned())?;
    }
    Ok(())
}

/// A number of bytes that is no more exact than it is meant.
fn about(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes >= 10 * unit) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => Size(bytes).to_string(),
    }
}
