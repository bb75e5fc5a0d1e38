//! The command line: commands, flags, help.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::styling::Styles;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::cheat::CheatArgs;
use super::check::CheckArgs;
use super::config::ConfigCommand;
use super::configuration::ConfigurationArgs;
use super::context::ContextArgs;
use super::dead_letter::{DeadLetterCommand, PolicyArgs};
use super::doctor::DoctorArgs;
use super::parking::ParkingCommand;
use super::shell::{CompletionsArgs, ManArgs};
use super::top::TopArgs;
use super::topic_deletion::DeleteTopicArgs;
use super::topic_policies::{SetArgs, UnsetArgs};
use crate::config::units::{TIME_FORM, parse_time};

/// An event mesh in one binary: takes events, keeps them durably, routes them by topic, delivers them.
#[derive(Parser, Debug)]
#[command(
    name = "ringmesh",
    version,
    styles = Styles::plain(),
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        ringmesh serve                                  start a server in ./ringmesh-data\n  \
        ringmesh subscribe 'demo/#'                     print what is published, in another terminal\n  \
        ringmesh publish demo/hello 'Hello, mesh'       publish one event\n\n\
        Exit codes: 0 done, 1 failed, 2 usage, 3 refused, 4 unreachable, 5 timed out, 6 damaged data"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run a server
    Serve(ServeArgs),
    /// Publish events
    Publish(PublishArgs),
    /// Receive events and print them
    Subscribe(SubscribeArgs),
    /// Look at topics, and say what holds for them
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Look at subscriptions, begin, pause, move or end one
    #[command(subcommand)]
    Subscription(SubscriptionCommand),
    /// Look at events that a group could not be given, give them again, throw them away
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
    /// Look at events that wait long before their group is given them again
    #[command(subcommand)]
    Parking(ParkingCommand),
    /// How far each subscription is behind
    Lag(ListArgs),
    /// Watch a server: rates, latencies, shards, subscriptions
    Top(TopArgs),
    /// One line and an exit code for monitoring systems
    Check(CheckArgs),
    /// Name servers, and choose one
    Context(ContextArgs),
    /// Print what a file of a log holds, and verify it
    Inspect(InspectArgs),
    /// The configuration: what is in force, and what a key means
    #[command(subcommand, subcommand_required = true, arg_required_else_help = true)]
    Config(ConfigCommand),
    /// Tell whether this machine can run a server, and what to change
    Doctor(DoctorArgs),
    /// Commands by task, to copy
    Cheat(CheatArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Write a man page for each command
    Man(ManArgs),
}

/// `serve`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh serve\n  \
    ringmesh serve --data /var/lib/ringmesh --listen 0.0.0.0:10300 --shards 2\n  \
    ringmesh serve --set delivery.ack=written --set log.segment_bytes=64MiB\n  \
    ringmesh serve --print-config > ringmesh.toml && ringmesh serve --config ringmesh.toml\n  \
    RINGMESH_LOG__RETENTION_BYTES=10GiB ringmesh serve\n\n\
    Flags win over the environment (RINGMESH_SECTION__KEY), that over the file, that over the defaults.\n\
    SIGTERM or SIGINT shuts the server down in order; what was acknowledged is never lost either way.")]
pub struct ServeArgs {
    /// What is set here.
    #[command(flatten)]
    pub configuration: ConfigurationArgs,
    /// Print the configuration in force as a commented file, and exit
    #[arg(long)]
    pub print_config: bool,
}

/// How to reach a server.
#[derive(Args, Debug, Clone)]
pub struct ServerArgs {
    /// Address of the server's native door [env: RINGMESH_SERVER] [default: the context's, or 127.0.0.1:10300]
    #[arg(long, value_name = "ADDR")]
    pub server: Option<String>,
    /// Context that names the server [env: RINGMESH_CONTEXT] [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// How long to wait for the server's answer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub timeout: Duration,
}

/// How results are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// `publish`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh publish demo/hello 'Hello, mesh'\n  \
    ringmesh publish orders/new @order.json --key customer-7 -o json\n  \
    ringmesh publish 'fleet/vin-{{random 1 50}}/position' '{\"n\": {{count}}, \"at\": \"{{time}}\"}' --count 1000 --rate 50\n  \
    ringmesh publish orders/new '{\"id\": \"{{uuid}}\"}' --id '{{uuid}}' --type order.new --attribute region=eu\n  \
    echo '{\"key\":\"vin-7\",\"type\":\"position\",\"data\":{\"lat\":22.5}}' | ringmesh publish fleet/vin-7/position\n\n\
    DATA that is JSON is published as JSON, other text as text/plain, and a file that is not UTF-8 as binary.\n\
    A line of standard input is a CloudEvent in JSON; specversion, id, source and type may be absent, and `key`\n\
    stands for `partitionkey`; what it says wins over the flags. Events with one key stay in order.\n\n\
    TOPIC, DATA and all attributes may hold templates, rendered for each event: {{count}}, {{time}}, {{unix}},\n\
    {{unix_ms}}, {{uuid}}, {{random MIN MAX}}, {{random_float MIN MAX}}, {{random_string LENGTH}}, {{choice A B ...}}.")]
pub struct PublishArgs {
    /// Topic to publish to, such as fleet/vin-7/position
    pub topic: String,
    /// Data of the event, or @FILE; without it, events are read from standard input, one JSON object a line
    #[arg(value_name = "DATA | @FILE")]
    pub data: Option<String>,
    /// Partition key: events with one key stay in order
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Id of the event; of several, a template such as order-{{count}} [default: one of its own for each]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Type of the event [default: event]
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,
    /// Source of the event, a URI reference [default: /]
    #[arg(long, value_name = "URI")]
    pub source: Option<String>,
    /// Subject of the event
    #[arg(long, value_name = "TEXT")]
    pub subject: Option<String>,
    /// Any other attribute; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = attribute)]
    pub attribute: Vec<(String, String)>,
    /// Keep double braces as they are, instead of rendering templates
    #[arg(long)]
    pub literal: bool,
    /// Publish DATA this often, with a new id each time
    #[arg(long, value_name = "N", default_value_t = 1, requires = "data",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Most events a second; unlimited if not given
    #[arg(long, value_name = "EVENTS_PER_SECOND", value_parser = rate)]
    pub rate: Option<f64>,
    /// Batches that may wait for their acknowledgement
    #[arg(long, value_name = "BATCHES", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub window: u32,
    /// Most events in a batch
    #[arg(long, value_name = "EVENTS", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(codec::limits::BATCH_EVENTS_MAX)))]
    pub batch: u32,
    /// One line at the end instead of one for each event
    #[arg(short, long)]
    pub quiet: bool,
    /// How results are printed
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// `subscribe`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh subscribe 'demo/#'                            new events of all topics below demo\n  \
    ringmesh subscribe 'fleet/+/position' --group map      share the work with others in the group; it keeps its place\n  \
    ringmesh subscribe 'orders/#' --from earliest --until-end -o json\n  \
    ringmesh subscribe orders/new --from 3:0,7:120         from offsets of partitions 3 and 7\n  \
    ringmesh subscribe 'orders/#' --format '%t %k %v\\n'    as you like it\n\n\
    + stands for one level of a topic, # for all levels from there on (and the level above).\n\
    An event is acknowledged after it is printed. Without --group every subscriber gets every event.\n\n\
    Of --format: %t topic, %p partition, %o offset, %n attempt, %k key, %v data (%v{hex}, %v{base64}), %s size of the\n\
    data, %T time of arrival (ms since 1970), %h all attributes, %{NAME} one, %e event as JSON, %% percent,\n\
    \\n \\r \\t \\0 \\\\ \\xNN.")]
pub struct SubscribeArgs {
    /// Topic filter, such as fleet/+/position or demo/#
    pub filter: String,
    /// Group to join: its members share the events, and it keeps its place when they are gone
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Where to begin: tail, earliest, a time (2026-11-21T10:00:00Z), or PARTITION:OFFSET[,...]; refused for a group
    /// that exists [default: tail]
    #[arg(long, value_name = "START", value_parser = super::start::parse)]
    pub from: Option<super::start::From>,
    /// Exit after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Exit when all that was acknowledged before the start is printed
    #[arg(long)]
    pub until_end: bool,
    /// How an event is printed; ends with no line end but its own, such as '%t %k %v\n'
    #[arg(short, long, value_name = "FORMAT", conflicts_with = "output", value_parser = super::format::parse)]
    pub format: Option<super::format::Format>,
    /// How events are printed
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Which events of those that a group has not been given.
#[derive(Args, Debug)]
pub struct EventArgs {
    /// Only those published to topics that this matches
    #[arg(long, value_name = "FILTER")]
    pub topic: Option<String>,
    /// Only those of this partition key
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only those of this id
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
}

impl EventArgs {
    /// As the administration's paths ask for them.
    #[must_use]
    pub fn wishes(&self) -> [(&'static str, &Option<String>); 3] {
        [("topic", &self.topic), ("key", &self.key), ("id", &self.id)]
    }
}

/// How to reach a server's admin port, and how what it tells is printed.
#[derive(Args, Debug, Clone)]
pub struct AdminArgs {
    /// Address of the server's admin port [env: RINGMESH_ADMIN] [default: the context's, or 127.0.0.1:10106]
    #[arg(long, value_name = "ADDR")]
    pub admin: Option<String>,
    /// Context that names the server [env: RINGMESH_CONTEXT] [default: the current one]
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// File with a token that goes with each request, for what stands in front of the admin port
    #[arg(long, value_name = "FILE", env = "RINGMESH_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// How long to wait for an answer
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub timeout: Duration,
    /// How results are printed: a table, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// A list.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// One thing by its name.
#[derive(Args, Debug)]
pub struct ShowArgs {
    /// Its name
    pub name: String,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `topic`
#[derive(Subcommand, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh topic list\n  \
    ringmesh topic show demo/hello -o json\n  \
    ringmesh topic set 'fleet/#' --retention-age 7d\n  \
    ringmesh topic delete demo/hello --dry-run")]
pub enum TopicCommand {
    /// The names of all topics
    List(ListArgs),
    /// A topic's partitions and their offsets, and what holds for it
    Show(ShowArgs),
    /// What holds for topics, by pattern
    Policies(ListArgs),
    /// Say what holds for topics of a pattern
    Set(SetArgs),
    /// A pattern says nothing any more
    Unset(UnsetArgs),
    /// Delete a topic with all its events
    Delete(DeleteTopicArgs),
}

/// `subscription`
#[derive(Subcommand, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh subscription list\n  \
    ringmesh subscription show billing\n  \
    ringmesh subscription create billing --filter 'orders/#' --from earliest\n  \
    ringmesh subscription pause billing\n  \
    ringmesh subscription seek billing --to 2026-11-21T10:00:00Z --dry-run\n  \
    ringmesh subscription delete billing --dry-run\n\n\
    A subscription is called by its group.")]
pub enum SubscriptionCommand {
    /// All subscriptions: filters, members, lag
    List(ListArgs),
    /// A subscription's cursors and members
    Show(ShowArgs),
    /// Begin a subscription without a client: events are kept for it from its start on
    Create(CreateArgs),
    /// Hand nothing out until it is resumed; what is in flight may be settled, and it keeps its place
    Pause(ChangeArgs),
    /// Go on where it stands
    Resume(ChangeArgs),
    /// Move it, with its members, to another place in the logs
    Seek(SeekArgs),
    /// How its events are delivered again, and what becomes of those that nobody takes
    Set(PolicyArgs),
    /// End a subscription for all its members and forget its place
    Delete(ChangeArgs),
}

/// `subscription create`
#[derive(Args, Debug)]
pub struct CreateArgs {
    /// Its name
    pub name: String,
    /// What it gets, such as orders/#; may be given several times
    #[arg(long = "filter", value_name = "FILTER", required = true)]
    pub filters: Vec<String>,
    /// Where it begins: latest, earliest, a time (2026-11-21T10:00:00Z), or PARTITION:OFFSET[,...]
    #[arg(long, value_name = "START", default_value = "latest", value_parser = super::start::parse)]
    pub from: super::start::From,
    /// Only say what stands there for it
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `subscription seek`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh subscription seek billing --to earliest --dry-run\n  \
    ringmesh subscription seek billing --to 2026-11-21T10:00:00Z\n  \
    ringmesh subscription seek billing --to 3:0,7:120       offsets of partitions 3 and 7, for a filter without wildcards\n\n\
    Members that are connected go on at the new place. What they hold at that moment is over: they may settle it, but it\n\
    changes nothing.")]
pub struct SeekArgs {
    /// Its name
    pub name: String,
    /// Where it goes on: latest, earliest, a time (2026-11-21T10:00:00Z), or PARTITION:OFFSET[,...]
    #[arg(long, value_name = "START", value_parser = super::start::parse)]
    pub to: super::start::From,
    /// Only say how many events that would be
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `subscription pause`, `resume` and `delete`
#[derive(Args, Debug)]
pub struct ChangeArgs {
    /// Its name
    pub name: String,
    /// Only say what would come of it
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `inspect`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  \
    ringmesh inspect ringmesh-data/gen-000001/log-000/seg-000000000001.rms\n\n\
    Exits with 6 if the file is damaged, after printing everything that can be read.")]
pub struct InspectArgs {
    /// The file: a segment (.rms), an index (.rmx) or a checkpoint
    pub file: PathBuf,
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    let time = parse_time(text).ok_or_else(|| format!("expected {TIME_FORM}, such as 5s"))?;
    if time.is_zero() { Err("expected more than 0s".to_owned()) } else { Ok(time) }
}

fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE, such as region=eu")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number of events a second")?;
    if rate.is_finite() && rate > 0.0 { Ok(rate) } else { Err("expected more than 0".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A contradiction in the definitions is only found when the command is used.
    #[test]
    fn definitions_hold_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    /// A usage error must be told apart from an argument that is silently ignored.
    #[test]
    fn arguments_are_checked() {
        let table = [
            ("publish t --count 2", "required arguments were not provided"),
            ("publish t x --count 0", "0 is not in 1.."),
            ("publish t x --rate 0", "expected more than 0"),
            ("publish t x --batch 8193", "8193 is not in 1..=8192"),
            ("publish t x --window 0", "0 is not in 1..=65536"),
            (
                "publish t x --timeout 5",
                "expected a number and one of us, ms, s, m, h, d, such as 5s",
            ),
            ("subscribe t --from yesterday", "expected latest (or tail), earliest, a time"),
            ("subscribe t --from 64:0", "partition 64"),
            ("publish t x --attribute region", "expected NAME=VALUE"),
            ("subscribe t --format %q", "unknown %q"),
            ("subscribe t --format %v -o json", "cannot be used with"),
            ("context lst", "expected add, use, list, remove"),
            ("context add x --server here", "expected HOST:PORT"),
            ("context add x", "--server <ADDR>"),
            ("context use", "<NAME>"),
            ("serve --set shards", "expected SECTION.KEY=VALUE"),
        ];
        for (line, expected) in table {
            let words = ["ringmesh"].into_iter().chain(line.split(' '));
            let error = Cli::try_parse_from(words).expect_err(line).to_string();
            assert!(error.contains(expected), "{line}: {error}");
        }
    }
}
