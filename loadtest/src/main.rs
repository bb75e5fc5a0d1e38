//! The load generator: open loop, honest histograms, the floor in the same run. `docs/benchmarks.md` explains every
//! figure.

#![deny(unsafe_code)]

mod aims;
mod args;
mod calls;
mod churn;
mod compare;
mod core_figures;
mod engine;
mod floor;
mod folder;
mod latency;
mod live;
mod load_row;
mod machine;
mod peers;
mod report;
mod run;
mod server;
mod stand_in;
mod workload;

use std::net::TcpListener;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, StandInArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    machine::raise_open_files();
    if matches!(cli.command, Command::Run(_) | Command::Compare(_)) && !cli.json && !cli.quiet {
        live::allow();
    }
    let result = match &cli.command {
        Command::Floor(args) => floor::run(args, command).and_then(|report| report.print(cli.json)),
        Command::Run(args) => run::run(args, command).and_then(|report| report.print(cli.json)),
        Command::Core(args) => {
            core_figures::run(args, command).and_then(|report| report.print(cli.json))
        }
        Command::Aims(args) => aims::run(args, command, cli.json),
        Command::Compare(args) => compare::run(args, command, cli.json),
        Command::Folder(args) => {
            folder::run(args, command).and_then(|report| report.print(cli.json))
        }
        Command::Churn(args) => churn::run(args, command).and_then(|report| report.print(cli.json)),
        Command::StandIn(args) => stand_in(args),
        Command::ExecServer(args) => peers::process::exec(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("loadtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn stand_in(args: &StandInArgs) -> anyhow::Result<()> {
    if let Some(cpu) = args.server_cpu {
        machine::pin(cpu)?;
    }
    let listener = TcpListener::bind(args.listen)?;
    println!("ready: stand-in on {}", listener.local_addr()?);
    stand_in::serve(listener, true)
}
