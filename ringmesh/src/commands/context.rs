//! `ringmesh context`: servers by name.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::Output;
use super::contexts::{Context, Contexts, check_address, check_name};
use super::failure::{Exit, Failure};
use super::output::print;
use super::table::Table;

/// `context`
#[derive(Args, Debug)]
#[command(
    arg_required_else_help = true,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  \
        ringmesh context add prod --server mesh.example.org:10300 --admin mesh.example.org:10106 --use\n  \
        ringmesh context list\n  \
        ringmesh context use local\n  \
        ringmesh context -                            back to the one before\n  \
        ringmesh lag --context prod                   this one time\n\n\
        Contexts stand in ringmesh/contexts.toml of XDG_CONFIG_HOME, or of ~/.config, which only you may read.\n\
        A flag (--server, --admin) wins over the environment (RINGMESH_SERVER, RINGMESH_ADMIN), that over the\n\
        context (--context, then RINGMESH_CONTEXT, then the current one), that over the defaults."
)]
pub struct ContextArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<ContextCommand>,
    /// Go back to the context that was in force before
    #[arg(value_name = "-", value_parser = former, required = true)]
    pub former: Option<String>,
}

/// What can be done with contexts.
#[derive(Subcommand, Debug)]
pub enum ContextCommand {
    /// Name a server
    Add(AddArgs),
    /// Put a context in force
    Use(UseArgs),
    /// All contexts; a star marks the one in force
    List(ListArgs),
    /// Forget a context
    Remove(RemoveArgs),
}

/// `context add`
#[derive(Args, Debug)]
pub struct AddArgs {
    /// Its name: letters, digits, - _ and .
    #[arg(value_parser = check_name)]
    pub name: String,
    /// Address of its native door
    #[arg(long, value_name = "ADDR", value_parser = check_address, required_unless_present = "admin")]
    pub server: Option<String>,
    /// Address of its admin port
    #[arg(long, value_name = "ADDR", value_parser = check_address)]
    pub admin: Option<String>,
    /// File with a token that goes to the admin port with each request, for what stands in front of it
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub token_file: Option<PathBuf>,
    /// Put it in force
    #[arg(long = "use")]
    pub is_used: bool,
    /// Replace one of the same name
    #[arg(long)]
    pub replace: bool,
}

/// `context use`
#[derive(Args, Debug)]
pub struct UseArgs {
    /// Its name, or - for the one before
    pub name: String,
}

/// `context list`
#[derive(Args, Debug)]
pub struct ListArgs {
    /// How they are printed: a table, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `context remove`
#[derive(Args, Debug)]
pub struct RemoveArgs {
    /// Its name
    pub name: String,
}

fn former(text: &str) -> Result<String, String> {
    match text {
        "-" => Ok(text.to_owned()),
        _ => Err("expected add, use, list, remove, or - for the one before".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// There is no such context, or the user's file cannot be read or written.
pub fn run(arguments: ContextArgs) -> Result<(), Failure> {
    match arguments.command {
        None => go_to("-"),
        Some(ContextCommand::Use(arguments)) => go_to(&arguments.name),
        Some(ContextCommand::Add(arguments)) => add(arguments),
        Some(ContextCommand::List(arguments)) => list(arguments.output),
        Some(ContextCommand::Remove(arguments)) => remove(&arguments.name),
    }
}

fn add(arguments: AddArgs) -> Result<(), Failure> {
    let AddArgs { name, server, admin, token_file, is_used, replace } = arguments;
    // The file is looked for from wherever the command is run later.
    let token_file = token_file.map(std::path::absolute).transpose().map_err(|error| {
        Failure::new(Exit::Usage, format!("the token file has no absolute path: {error}"), "")
    })?;
    let done = Contexts::edit(|contexts| {
        if contexts.all.contains_key(&name) && !replace {
            let message = format!("there is a context {name:?} already");
            return Err(Failure::new(Exit::Usage, message, "take another name, or --replace it"));
        }
        contexts.all.insert(name.clone(), Context { server, admin, token_file });
        if is_used {
            contexts.choose(&name)?;
        }
        Ok(if is_used { "is added and in force" } else { "is added" })
    })?;
    print(format!("context {name:?} {done}\n").as_bytes())
}

fn go_to(name: &str) -> Result<(), Failure> {
    let name = Contexts::edit(|contexts| {
        let name = match (name, &contexts.former) {
            ("-", Some(former)) => former.clone(),
            ("-", None) => {
                let message = "there is no context to go back to";
                let advice = "`ringmesh context use NAME` puts one in force; `ringmesh context list` shows them";
                return Err(Failure::new(Exit::Usage, message, advice));
            }
            (name, _) => name.to_owned(),
        };
        contexts.choose(&name).map(|()| name)
    })?;
    print(format!("context {name:?} is in force\n").as_bytes())
}

fn remove(name: &str) -> Result<(), Failure> {
    let was_current = Contexts::edit(|contexts| {
        contexts.get(name)?;
        contexts.all.remove(name);
        contexts.former.take_if(|former| *former == name);
        Ok(contexts.current.take_if(|current| *current == name).is_some())
    })?;
    let rest = if was_current { "; none is in force now" } else { "" };
    print(format!("context {name:?} is removed{rest}\n").as_bytes())
}

/// A context, as it is printed.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    current: bool,
    #[serde(flatten)]
    context: &'a Context,
}

fn list(output: Output) -> Result<(), Failure> {
    let contexts = Contexts::load()?;
    let mut out = Vec::new();
    let mut table = Table::new(&["", "name", "server", "admin", "token file"]);
    for (name, context) in &contexts.all {
        let current = contexts.current.as_ref() == Some(name);
        if output == Output::Json {
            let row = Row { name, current, context };
            serde_json::to_writer(&mut out, &row).map_err(|error| not_made(error.into()))?;
            out.push(b'\n');
            continue;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let token = context.token_file.as_ref().map(|path| path.display().to_string());
        let mark = if current { "*" } else { "" };
        table.row(vec![
            mark.to_owned(),
            name.clone(),
            text(&context.server),
            text(&context.admin),
            token.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    if output == Output::Text {
        table.print(&mut out).map_err(not_made)?;
    }
    print(&out)
}

fn not_made(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("it cannot be printed: {error}"), "")
}
