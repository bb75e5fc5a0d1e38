//! `parking`: what a group has parked and still owes.

use clap::{Args, Subcommand};

use super::admin::{List, encoded, wishing};
use super::args::{AdminArgs, EventArgs};
use super::failure::Failure;
use super::nouns::{Cell, cell, cell_if_any, print_list};

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
    /// Which of them.
    #[command(flatten)]
    pub events: EventArgs,
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
    let ParkedArgs { group, events, count, admin } = wish;
    let path = wishing(format!("parking/{}", encoded(group)), &events.wishes());
    let columns = [
        ("until", cell as Cell, "until"),
        ("why", cell, "why"),
        ("attempts", cell, "attempts"),
        ("topic", cell, "topic"),
        ("partition", cell, "partition"),
        ("offset", cell, "offset"),
        ("key", cell_if_any, "key"),
        ("id", cell, "id"),
    ];
    print_list(admin, &List::events(&path, *count), &columns)
}
