//! `ringmesh completions` and `ringmesh man`: the command line as shells and `man` want it, from its one definition.

use std::path::PathBuf;

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell as Dialect;

use super::args::Cli;
use super::failure::{Exit, Failure};
use super::output;

/// A shell that completions can be written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash, with the package bash-completion
    Bash,
    /// Zsh
    Zsh,
    /// Fish
    Fish,
}

/// `completions`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh completions bash > /etc/bash_completion.d/ringmesh\n  \
    ringmesh completions zsh > \"${fpath[1]}/_ringmesh\"\n  \
    ringmesh completions fish > ~/.config/fish/completions/ringmesh.fish\n\n\
    A shell that is started afterwards completes commands, flags and their values.")]
pub struct CompletionsArgs {
    /// The shell
    pub shell: Shell,
}

/// `man`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  \
    ringmesh man ~/.local/share/man/man1 && man ringmesh-publish")]
pub struct ManArgs {
    /// Folder that the pages are written to, one for each command; made if it is missing
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

/// Prints the completions of a shell.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(arguments: &CompletionsArgs) -> Result<(), Failure> {
    let dialect = match arguments.shell {
        Shell::Bash => Dialect::Bash,
        Shell::Zsh => Dialect::Zsh,
        Shell::Fish => Dialect::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(dialect, &mut Cli::command(), "ringmesh", &mut script);
    output::print(&script)
}

/// Writes the man pages.
///
/// # Errors
/// The folder cannot be made or written.
pub fn man(arguments: &ManArgs) -> Result<(), Failure> {
    let folder = &arguments.folder;
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), folder));
    written.map_err(|error| {
        Failure::new(
            Exit::Failed,
            format!("the man pages cannot be written in {}: {error}", folder.display()),
            "look at the path and its permissions, or give another folder",
        )
    })
}
