//! `ringmesh config show` and `config explain`: what is in force, who said so, and what a key means.

use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::Output;
use super::configuration::{ConfigurationArgs, FLAGS};
use super::failure::{Exit, Failure};
use super::output::print;
use super::table::Table;
use crate::config::{Explained, explain};

/// `config`
#[derive(Subcommand, Debug)]
pub enum ConfigCommand {
    /// Print every key with the value in force, and who set it
    Show(ShowArgs),
    /// Tell what a key does and how it is set
    Explain(ExplainArgs),
}

/// `config show`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh config show\n  \
    ringmesh config show --config ringmesh.toml -o json\n\n\
    It takes the flags of `ringmesh serve` and shows what a server would run with that is started with them, here\n\
    and now. What a running server was started with tells its admin port, at /api/v1/configuration.")]
pub struct ShowArgs {
    /// How the keys are printed: a table, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// What is set here.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
}

/// `config explain`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  \
    ringmesh config explain log.retention_bytes")]
pub struct ExplainArgs {
    /// The key, such as log.segment_bytes
    pub key: String,
    /// How it is printed: for people, or as a JSON object
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Runs the command.
///
/// # Errors
/// The configuration is wrong, or there is no such key.
pub fn run(command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Show(arguments) => show(arguments),
        ConfigCommand::Explain(arguments) => {
            let explained = explain(&arguments.key)
                .map_err(|error| Failure::new(Exit::Usage, error.to_string(), ""))?;
            match arguments.output {
                Output::Json => print(&json_line(&Key::of(&explained))?),
                Output::Text => print(text(&explained).as_bytes()),
            }
        }
    }
}

/// A key and its value, as the admin port tells them.
#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    value: &'a str,
    origin: &'static str,
    set_by: Option<String>,
}

/// What `config explain -o json` tells.
#[derive(Serialize)]
struct Key<'a> {
    key: &'a str,
    text: String,
    takes: &'a str,
    default: &'a str,
    environment: &'a str,
    flags: Vec<String>,
    needs_restart: bool,
}

impl<'a> Key<'a> {
    fn of(explained: &'a Explained) -> Self {
        Key {
            key: &explained.key,
            text: explained.text.replace('\n', " "),
            takes: &explained.takes,
            default: &explained.default,
            environment: &explained.variable,
            flags: flags(&explained.key),
            // A server reads its configuration when it starts, and never again.
            needs_restart: true,
        }
    }
}

fn show(arguments: ShowArgs) -> Result<(), Failure> {
    let loaded = arguments.configuration.load()?;
    let mut out = Vec::new();
    let mut table = Table::new(&["key", "value", "origin", "set by"]);
    for setting in loaded.settings() {
        let (key, value) = (&setting.key, &setting.value);
        let (origin, set_by) = (setting.origin.kind(), setting.origin.name());
        match arguments.output {
            Output::Json => out.extend(json_line(&Row { key, value, origin, set_by })?),
            Output::Text => table.row(vec![
                key.clone(),
                value.clone(),
                origin.to_owned(),
                set_by.unwrap_or_default(),
            ]),
        }
    }
    if arguments.output == Output::Text {
        table.print(&mut out).map_err(failed)?;
    }
    print(&out)
}

fn text(explained: &Explained) -> String {
    let Explained { key, text, takes, default, variable } = explained;
    let flags = flags(key).join(", or ");
    format!(
        "{key}\n\n{text}\n\n\
         takes        {takes}\n\
         default      {default}\n\
         flag         {flags}\n\
         environment  {variable}=VALUE\n\
         restart      needed: a server reads its configuration when it starts\n"
    )
}

/// How a key is set on the command line.
fn flags(key: &str) -> Vec<String> {
    let own = FLAGS.iter().filter(|(_, path)| *path == key);
    let own = own.map(|(flag, _)| format!("{flag} VALUE"));
    own.chain([format!("--set {key}=VALUE")]).collect()
}

fn json_line(value: &impl Serialize) -> Result<Vec<u8>, Failure> {
    let mut line = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
    line.push(b'\n');
    Ok(line)
}

fn failed(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("it cannot be printed: {error}"), "")
}
