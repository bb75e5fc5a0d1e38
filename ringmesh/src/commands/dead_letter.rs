//! `dead-letter` and `subscription set`: what a group could not be given, and how long it is tried.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::admin::{AdminPort, List, encoded, next_page, wishing};
use super::args::{AdminArgs, EventArgs, Output, time};
use super::failure::{Exit, Failure};
use super::nouns::{Cell, cell, cell_if_any, print, print_line, print_list, print_table};
use super::progress::Progress;

/// `dead-letter`
#[derive(Subcommand, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh dead-letter browse billing\n  \
    ringmesh dead-letter browse billing --reason rejected -o json | head\n  \
    ringmesh dead-letter redrive billing --topic 'orders/#' --dry-run\n  \
    ringmesh dead-letter redrive billing --to orders/repair\n  \
    ringmesh dead-letter purge billing --reason too_old\n\n\
    A dead letter is an event that a group's members rejected, failed at too often, or that was too old for them. It\n\
    stands in the topic $dead/GROUP, and its attributes say why, when, how often and from where.")]
pub enum DeadLetterCommand {
    /// Print dead letters
    Browse(BrowseArgs),
    /// Give dead letters to their group again, or to a topic
    Redrive(RedriveArgs),
    /// Throw dead letters away
    Purge(PurgeArgs),
}

/// Which letters.
#[derive(Args, Debug)]
pub struct LetterArgs {
    /// The group that could not be given them
    pub group: String,
    /// Only those given up for this reason: rejected, handed_back, timed_out, disconnected, too_old
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Which of them.
    #[command(flatten)]
    pub events: EventArgs,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `dead-letter browse`
#[derive(Args, Debug)]
pub struct BrowseArgs {
    /// Which.
    #[command(flatten)]
    pub letters: LetterArgs,
    /// Print at most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
}

/// `dead-letter redrive`
#[derive(Args, Debug)]
pub struct RedriveArgs {
    /// Which.
    #[command(flatten)]
    pub letters: LetterArgs,
    /// To this topic, instead of to the group alone
    #[arg(long, value_name = "TOPIC")]
    pub to: Option<String>,
    /// Only say how many they are
    #[arg(long)]
    pub dry_run: bool,
}

/// `dead-letter purge`
#[derive(Args, Debug)]
pub struct PurgeArgs {
    /// Which.
    #[command(flatten)]
    pub letters: LetterArgs,
    /// All of them; needed where nothing else says which
    #[arg(long)]
    pub all: bool,
    /// Only say how many they are
    #[arg(long)]
    pub dry_run: bool,
}

/// What becomes of an event that is exhausted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Exhausted {
    /// It goes to the dead letters
    DeadLetter,
    /// It is gone
    Drop,
}

/// `subscription set`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh subscription set billing --attempts 5 --retry-delay 1s --retry-delay-max 5m --jitter 20\n  \
    ringmesh subscription set billing --ack-timeout 2m --max-age 7d\n  \
    ringmesh subscription set billing                            what is set\n  \
    ringmesh subscription set billing --default                  as the server is configured\n\n\
    What is not named stays as it is. A policy belongs to the group's name: it may be set before the group is there.")]
pub struct PolicyArgs {
    /// The group
    pub name: String,
    /// Attempts after which an event goes to the dead letters
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: Option<u32>,
    /// Delay before an event that was handed back is tried again; doubles with each attempt
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub retry_delay: Option<Duration>,
    /// The longest such delay
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub retry_delay_max: Option<Duration>,
    /// By how many percent a delay may be shorter, at random
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub jitter: Option<u8>,
    /// How long a member may keep an event unsettled
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub ack_timeout: Option<Duration>,
    /// Most events in flight to one member
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub in_flight: Option<u32>,
    /// Age from which an event is not delivered any more
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub max_age: Option<Duration>,
    /// What becomes of an event that is exhausted, too old or rejected
    #[arg(long, value_enum)]
    pub on_exhausted: Option<Exhausted>,
    /// Forget the policy: deliver as the server is configured
    #[arg(long, conflicts_with_all = ["attempts", "retry_delay", "retry_delay_max", "jitter", "ack_timeout", "in_flight", "max_age", "on_exhausted"])]
    pub default: bool,
    /// Only say what would change
    #[arg(long)]
    pub dry_run: bool,
    /// The server.
    #[command(flatten)]
    pub admin: AdminArgs,
}

/// `ringmesh dead-letter ...`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn run(command: &DeadLetterCommand) -> Result<(), Failure> {
    match command {
        DeadLetterCommand::Browse(wish) => browse(wish),
        DeadLetterCommand::Redrive(wish) => {
            let where_to = wish.to.as_deref().unwrap_or("the group");
            let done = format!("redriven to {where_to}");
            let path = wishing(path(&wish.letters, "/redrive"), &[("to", &wish.to)]);
            work(&wish.letters, path, (wish.dry_run, &done))
        }
        DeadLetterCommand::Purge(wish) => {
            let LetterArgs { reason, events, .. } = &wish.letters;
            let is_chosen =
                reason.is_some() || events.wishes().iter().any(|(_, wish)| wish.is_some());
            if !wish.all && !is_chosen && !wish.dry_run {
                let text = "purge throws letters away for good, and nothing says which";
                return Err(Failure::new(Exit::Usage, text, "say which, or all of them: --all"));
            }
            work(&wish.letters, path(&wish.letters, "/purge"), (wish.dry_run, "purged"))
        }
    }
}

fn browse(wish: &BrowseArgs) -> Result<(), Failure> {
    let BrowseArgs { letters, count } = wish;
    let columns = [
        ("died", cell_if_any as Cell, "event/deadtime"),
        ("reason", cell_if_any, "event/deadreason"),
        ("attempts", cell_if_any, "event/deadattempts"),
        ("topic", cell_if_any, "event/deadtopic"),
        ("partition", cell_if_any, "event/deadpartition"),
        ("offset", cell_if_any, "event/deadoffset"),
        ("key", cell_if_any, "event/partitionkey"),
        ("id", cell_if_any, "event/id"),
    ];
    let path = path(letters, "");
    print_list(&letters.admin, &List::events(&path, *count), &columns)
}

/// Piece by piece until all is done.
fn work(letters: &LetterArgs, path: String, (dry_run, done): (bool, &str)) -> Result<(), Failure> {
    let port = AdminPort::new(&letters.admin);
    let (mut sum, mut place) = (0, String::new());
    let mut progress = Progress::begin(None, true);
    let (limit, dry) = (Some("1000".to_owned()), dry_run.then(|| "true".to_owned()));
    let path = wishing(path, &[("limit", &limit), ("dry_run", &dry)]);
    loop {
        let page = port.post(&format!("{path}{place}"), None)?;
        let count = page["letters"].as_u64().unwrap_or(0);
        sum += count;
        progress.advance(count);
        let Some(next) = next_page(&page) else { break };
        place = next;
    }
    progress.end();
    if letters.admin.output == Output::Json {
        return print_line(&serde_json::json!({"dry_run": dry_run, "letters": sum}));
    }
    let is = if dry_run { "would be" } else { "are" };
    print(format!("{sum} dead letters of {:?} {is} {done}\n", letters.group))
}

/// The letters, or what is done with them.
fn path(letters: &LetterArgs, verb: &str) -> String {
    let LetterArgs { group, reason, events, .. } = letters;
    let path = wishing(format!("dead-letters/{}{verb}", encoded(group)), &[("reason", reason)]);
    wishing(path, &events.wishes())
}

/// `ringmesh subscription set`
///
/// # Errors
/// The server cannot be asked, or refuses.
pub fn set(wish: &PolicyArgs) -> Result<(), Failure> {
    let port = AdminPort::new(&wish.admin);
    let path = format!("subscriptions/{}/policy", encoded(&wish.name));
    let fields = fields(wish);
    let dry_run = if wish.dry_run { "?dry_run=true" } else { "?dry_run=false" };
    let (answer, policy) = if wish.default {
        (port.delete(&format!("{path}{dry_run}"))?, "after")
    } else if fields.is_empty() {
        (port.get(&path)?, "policy")
    } else {
        (port.put(&format!("{path}{dry_run}{fields}"))?, "after")
    };
    if wish.admin.output == Output::Json {
        return print_line(&answer);
    }
    let names = [
        "attempts_max",
        "retry_delay_ms",
        "retry_delay_max_ms",
        "jitter_percent",
        "ack_timeout_ms",
        "in_flight_max",
        "age_max_ms",
        "on_exhausted",
    ];
    let shown = |value: &Value| if value.is_null() { "the server's".into() } else { value.clone() };
    let rows = names.iter().map(|name| {
        let before = shown(&answer["before"][*name]);
        serde_json::json!({"policy": name, "value": shown(&answer[policy][*name]), "before": before})
    });
    let rows = Value::Array(rows.collect());
    let now = if wish.dry_run { "would be" } else { "is" };
    let columns =
        [("policy", cell as Cell, "policy"), (now, cell, "value"), ("was", cell, "before")];
    print_table(&rows, if policy == "policy" { &columns[..2] } else { &columns })
}

fn fields(wish: &PolicyArgs) -> String {
    let ms = |time: Option<Duration>| time.map(|time| time.as_millis().to_string());
    let word = |exhausted| match exhausted {
        Exhausted::DeadLetter => "dead_letter".to_owned(),
        Exhausted::Drop => "drop".to_owned(),
    };
    let fields = [
        ("attempts_max", wish.attempts.map(|attempts| attempts.to_string())),
        ("retry_delay_ms", ms(wish.retry_delay)),
        ("retry_delay_max_ms", ms(wish.retry_delay_max)),
        ("jitter_percent", wish.jitter.map(|percent| percent.to_string())),
        ("ack_timeout_ms", ms(wish.ack_timeout)),
        ("in_flight_max", wish.in_flight.map(|events| events.to_string())),
        ("age_max_ms", ms(wish.max_age)),
        ("on_exhausted", wish.on_exhausted.map(word)),
    ];
    let given = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    given.map(|(name, value)| format!("&{name}={value}")).collect()
}
