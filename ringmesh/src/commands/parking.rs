//! `parking`: what a group has parked and still owes.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::admin::{AdminPort, encoded};
use super::args::{AdminArgs, Output};
use super::failure::Failure;
use super::nouns::{Cell, cell, print_line, print_table};

/// Parked events of a page.
const PAGE: u64 = 200;

/// `parking`
#[derive(Subcommand, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh parking browse billing\n  \
    ringmesh parking browse billing --key customer-7 -o json | head\n\n\
    A parked event waits long until it is tried again. The topic $parking/GROUP holds every wait there was; here stand only\n\
    those that go on.")]
pub enum ParkingCommand {
    /// Print the events that are parked now
    Browse(ParkedArgs),
}

/// `parking browse`
#[derive(Args, Debug)]
pub struct ParkedArgs {
    /// The group that is to be given them
    pub group: String,
    /// Only those published to topics that this matches
    #[arg(long, value_name = "FILTER")]
    pub topic: Option<String>,
    /// Only those of this partition key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only those of this id
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Print at most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `ringmesh parking ...`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn run(command: &ParkingCommand) -> Result<(), Failure> {
    let ParkingCommand::Browse(wish) = command;
    let ParkedArgs { group, topic, key, id, count, admin } = wish;
    let port = AdminPort::new(admin);
    let wishes = [("topic", topic), ("key", key), ("id", id)];
    let given = wishes.iter().filter_map(|(name, wish)| Some((name, wish.as_ref()?)));
    let query: String = given.map(|(name, wish)| format!("&{name}={}", encoded(wish))).collect();
    let (mut left, mut place, mut rows) = (count.unwrap_or(u64::MAX), String::new(), Vec::new());
    while left > 0 {
        let path = format!("parking/{}?limit={}{query}{place}", encoded(group), left.min(PAGE));
        let page = port.get(&path)?;
        for event in page["items"].as_array().into_iter().flatten() {
            left -= 1;
            match admin.output {
                Output::Json => print_line(event)?,
                Output::Text => rows.push(event.clone()),
            }
        }
        let Some(next) = page["next"].as_str() else { break };
        place = format!("&after={}&until_us={}", encoded(next), page["until_us"]);
    }
    if admin.output == Output::Json {
        return Ok(());
    }
    let columns = [
        ("until", cell as Cell, "until"),
        ("why", cell, "why"),
        ("attempts", cell, "attempts"),
        ("topic", cell, "topic"),
        ("partition", cell, "partition"),
        ("offset", cell, "offset"),
        ("key", or_nothing, "key"),
        ("id", cell, "id"),
    ];
    print_table(&Value::Array(rows), &columns)
}

fn or_nothing(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
