//! The commands of the binary, in the order of `ringmesh --help`.

pub mod admin;
pub mod args;
pub mod batches;
pub mod blueprint;
pub mod cheat;
pub mod check;
pub mod config;
pub mod configuration;
pub mod connection;
pub mod context;
pub mod contexts;
pub mod dead_letter;
pub mod doctor;
pub mod events;
pub mod failure;
pub mod format;
pub mod inspect;
pub mod nouns;
pub mod output;
pub mod parking;
pub mod progress;
pub mod publish;
pub mod serve;
pub mod shell;
pub mod signals;
pub mod start;
pub mod subscribe;
pub mod table;
pub mod template;
pub mod top;
pub mod topic_deletion;
pub mod topic_policies;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use failure::Exit;

/// Reads the command line and runs its command.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_understood(&error),
    };
    let result = match cli.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Publish(arguments) => publish::run(&arguments),
        Command::Subscribe(arguments) => subscribe::run(&arguments),
        Command::Topic(command) => nouns::topic(&command),
        Command::Subscription(command) => nouns::subscription(&command),
        Command::DeadLetter(command) => dead_letter::run(&command),
        Command::Parking(command) => parking::run(&command),
        Command::Lag(arguments) => nouns::lag(&arguments),
        Command::Top(arguments) => top::run(&arguments),
        Command::Check(arguments) => return check::run(&arguments),
        Command::Context(arguments) => context::run(arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Config(command) => config::run(command),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Cheat(arguments) => cheat::run(&arguments),
        Command::Completions(arguments) => shell::completions(&arguments),
        Command::Man(arguments) => shell::man(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Prints the usage, or what was asked for instead of a command. To whoever runs `check` 2 would mean critical.
fn not_understood(error: &clap::Error) -> ExitCode {
    // Nobody reads it then.
    let _ = error.print();
    let is_check = std::env::args().nth(1).is_some_and(|first| first == "check");
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if is_check => ExitCode::from(3),
        code => ExitCode::from(u8::try_from(code).unwrap_or(Exit::Usage as u8)),
    }
}
