//! `ringmesh cheat`: commands by task, to copy. Each is parsed by a test.

use clap::Args;

use super::failure::{Exit, Failure};
use super::format::DIRECTIVES;
use super::output::print;
use super::template::FUNCTIONS;
use crate::config::suggest::nearest;

/// `cheat`
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    ringmesh cheat                  the topics\n  \
    ringmesh cheat publish          commands that publish\n  \
    ringmesh cheat all | less")]
pub struct CheatArgs {
    /// What to show the commands of; without it, what there is
    pub topic: Option<String>,
}

/// A page.
struct Page {
    name: &'static str,
    about: &'static str,
    /// What to do, and the command that does it.
    entries: &'static [(&'static str, &'static str)],
}

const PAGES: [Page; 8] = [
    Page {
        name: "start",
        about: "a server, a subscriber, a first event",
        entries: &[
            ("is this machine fit?", "ringmesh doctor"),
            ("a server in ./ringmesh-data", "ringmesh serve"),
            ("print what comes, in another terminal", "ringmesh subscribe 'demo/#'"),
            ("publish an event, in a third", "ringmesh publish demo/hello 'Hello, mesh'"),
        ],
    },
    Page {
        name: "publish",
        about: "one event, many, from a file, from a pipe",
        entries: &[
            (
                "JSON, with a key: events of one key stay in order",
                "ringmesh publish fleet/vin-7 '{\"speed\": 42}' --key vin-7",
            ),
            ("a file", "ringmesh publish orders/new @order.json"),
            (
                "with attributes",
                "ringmesh publish orders/new '{}' --type order.new --subject 4711 --attribute region=eu",
            ),
            (
                "lines of a pipe, one JSON object each",
                "printf '{\"key\":\"a\",\"data\":1}\\n' | ringmesh publish orders/new",
            ),
            (
                "100,000 events at 5,000 a second, one line at the end",
                "ringmesh publish load/test x --count 100000 --rate 5000 --quiet",
            ),
            (
                "an id of your own, so that a repeat can be told",
                "ringmesh publish orders/new '{}' --id order-4711",
            ),
        ],
    },
    Page {
        name: "templates",
        about: "events that differ: {{count}}, {{uuid}}, {{random 1 100}}, ...",
        entries: &[
            (
                "numbered, with the time",
                "ringmesh publish demo/tick '{\"n\": {{count}}, \"at\": \"{{time}}\"}' --count 10 --rate 1",
            ),
            (
                "a fleet",
                "ringmesh publish 'fleet/vin-{{random 1 50}}/speed' '{{random_float 0 130}}' --key '{{count}}' --count 1000",
            ),
            (
                "one of several",
                "ringmesh publish demo/light '{{choice red amber green}}' --count 5",
            ),
            (
                "an id that also stands in the data",
                "ringmesh publish orders/new '{\"order\": \"{{uuid}}\"}' --id '{{uuid}}'",
            ),
            (
                "data of a size",
                "ringmesh publish load/kilobyte '{{random_string 1024}}' --count 100",
            ),
            ("braces that are data", "ringmesh publish pages/new 'Dear {{name}}' --literal"),
        ],
    },
    Page {
        name: "subscribe",
        about: "filters, groups, starts, formats",
        entries: &[
            ("all topics below demo", "ringmesh subscribe 'demo/#'"),
            ("one level open", "ringmesh subscribe 'fleet/+/position'"),
            (
                "share the work; the group keeps its place",
                "ringmesh subscribe 'orders/#' --group billing",
            ),
            (
                "all that is kept, then end",
                "ringmesh subscribe 'orders/#' --from earliest --until-end -o json",
            ),
            ("from a time on", "ringmesh subscribe 'orders/#' --from 2026-11-21T10:00:00Z"),
            (
                "from offsets of partitions 3 and 7",
                "ringmesh subscribe orders/new --from 3:0,7:120",
            ),
            ("ten events", "ringmesh subscribe 'demo/#' --count 10"),
        ],
    },
    Page {
        name: "formats",
        about: "how events are printed: '%t %k %v\\n'",
        entries: &[
            ("topic, key, data", "ringmesh subscribe 'demo/#' --format '%t %k %v\\n'"),
            (
                "where it stands, when it came, how large it is",
                "ringmesh subscribe 'demo/#' --format '%p:%o %T %s\\n'",
            ),
            (
                "two attributes, a tab between",
                "ringmesh subscribe 'demo/#' --format '%{id}\\t%{type}\\n'",
            ),
            (
                "events parted by NUL, for xargs -0",
                "ringmesh subscribe 'demo/#' --until-end --from earliest --format '%v\\0'",
            ),
            ("bytes", "ringmesh subscribe 'demo/#' --format '%v{hex}\\n'"),
        ],
    },
    Page {
        name: "look",
        about: "topics, subscriptions, lag, files",
        entries: &[
            ("topics", "ringmesh topic list"),
            ("a topic's partitions and offsets", "ringmesh topic show demo/hello"),
            ("what its end would take", "ringmesh topic delete demo/hello --dry-run"),
            ("who is behind, and how far", "ringmesh lag"),
            ("subscriptions, and one with its members", "ringmesh subscription list"),
            ("", "ringmesh subscription show billing"),
            ("what the end of one would lose", "ringmesh subscription delete billing --dry-run"),
            (
                "what a file of a log holds",
                "ringmesh inspect ringmesh-data/gen-000001/log-000/seg-000000000001.rms",
            ),
        ],
    },
    Page {
        name: "contexts",
        about: "servers by name",
        entries: &[
            (
                "name one, and go there",
                "ringmesh context add prod --server mesh.example.org:10300 --admin mesh.example.org:10106 --use",
            ),
            ("which there are; a star marks the current one", "ringmesh context list"),
            ("another one", "ringmesh context use local"),
            ("back to the one before", "ringmesh context -"),
            ("another one for one command", "ringmesh lag --context prod"),
            ("an address for one command", "ringmesh topic list --admin 10.0.0.7:10106"),
        ],
    },
    Page {
        name: "configure",
        about: "keys, values, who set them",
        entries: &[
            ("what one key does and takes", "ringmesh config explain log.retention_bytes"),
            ("what is in force, and who said so", "ringmesh config show"),
            ("a file to begin with", "ringmesh serve --print-config"),
            ("from a file", "ringmesh serve --config ringmesh.toml"),
            (
                "any key on the command line",
                "ringmesh serve --set delivery.ack=written --set log.segment_bytes=64MiB",
            ),
            ("completions", "ringmesh completions bash"),
            ("man pages", "ringmesh man ~/.local/share/man/man1"),
        ],
    },
];

/// All commands of all pages.
pub fn commands() -> impl Iterator<Item = &'static str> {
    PAGES.iter().flat_map(|page| page.entries).map(|(_, command)| *command)
}

/// Runs the command.
///
/// # Errors
/// There is no such topic.
pub fn run(arguments: &CheatArgs) -> Result<(), Failure> {
    let mut out = String::new();
    match arguments.topic.as_deref() {
        None => {
            for Page { name, about, .. } in &PAGES {
                out.push_str(&format!("ringmesh cheat {name:11}{about}\n"));
            }
        }
        Some("all") => PAGES.iter().for_each(|page| write_page(page, &mut out)),
        Some(topic) => {
            let page = PAGES.iter().find(|page| page.name == topic);
            write_page(page.ok_or_else(|| unknown(topic))?, &mut out);
        }
    }
    print(out.as_bytes())
}

fn write_page(page: &Page, out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
    out.push_str(&format!("# {}: {}\n", page.name, page.about));
    for (what, command) in page.entries {
        if !what.is_empty() {
            out.push_str(&format!("\n# {what}\n"));
        }
        out.push_str(&format!("{command}\n"));
    }
    let list: &[(&str, &str)] = match page.name {
        "templates" => &FUNCTIONS,
        "formats" => &DIRECTIVES,
        _ => return,
    };
    out.push('\n');
    for (form, meaning) in list {
        let form =
            if page.name == "templates" { format!("{{{{{form}}}}}") } else { (*form).to_owned() };
        out.push_str(&format!("# {form:26}{meaning}\n"));
    }
}

fn unknown(topic: &str) -> Failure {
    let names = || PAGES.iter().map(|page| page.name).chain(["all"]);
    let nearest = nearest(topic, names()).map(|name| format!(": did you mean {name}?"));
    let message = format!("there is no page {topic:?}{}", nearest.unwrap_or_default());
    let advice = format!("there are {}", names().collect::<Vec<_>>().join(", "));
    Failure::new(Exit::Usage, message, advice)
}
