//! The report as one HTML file: plots and tables, nothing fetched, no script.

use std::fmt::Write;

use super::Comparison;
use super::plot::{self, Bar, Curve, Scale, escape};
use super::published::Published;
use super::summary::{Line, Spread};
use super::table;
use crate::report::Row;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1d2329; --faint: #d5dade; --ground: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7ea; --faint: #3a4148; --ground: #16191d; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--ground); margin: 2rem auto;
  max-width: 1340px; padding: 0 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); gap: 1.5rem; }
svg { width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .title { font-weight: 600; font-size: 14px; }
svg .rule { stroke: var(--faint); }
svg .spread { stroke: var(--ink); stroke-width: 1.5; }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em; border-radius: 2px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; }
th, td { border: 1px solid var(--faint); padding: .3rem .5rem; text-align: left; vertical-align: top; }
code { white-space: pre-wrap; }
";

/// Colours that people who see colours differently can tell apart (Okabe and Ito), one for each contender.
const COLOURS: [(&str, &str); 7] = [
    ("ringmesh", "#0072b2"),
    ("ringmesh-written", "#56b4e9"),
    ("nats", "#009e73"),
    ("nats-synced", "#cc79a7"),
    ("kafka", "#e69f00"),
    ("kafka-synced", "#d55e00"),
    ("file", "#8a8f94"),
];

/// The whole report.
pub(super) fn page(comparison: &Comparison) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Ringmesh against its peers</title>\n\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
         <h1>Ringmesh against its peers</h1>\n<p><code>{}</code></p>\n<p>{}. {} round(s) of each in alternation. Tables and \
         bars show the median of the rounds (bars with their spread as a line); curves the round whose median ack latency is the \
         median. The <i>floor</i> is the raw disk: one synced write at a time.</p>\n",
        escape(&comparison.command),
        escape(&comparison.machine.to_string()),
        comparison.rounds
    );
    for note in comparison.client_notes() {
        let _ = writeln!(html, "<p>{}.</p>", escape(note));
    }
    for lines in comparison.lines.chunk_by(|a, b| a.point == b.point) {
        section(comparison, lines, &mut html);
    }
    html.extend(comparison.published.iter().map(Published::html));
    html + "</body></html>\n"
}

fn section(comparison: &Comparison, lines: &[Line], html: &mut String) {
    let point = &lines[0].point;
    let about = comparison.about(point);
    let _ = write!(html, "<h2>{}</h2>\n<p>{}</p>\n", escape(point), escape(about));
    let ack = curves_of(lines, |row| by_percentile(&row.ack_curve));
    let end_to_end = curves_of(lines, |row| by_percentile(&row.end_to_end_curve));
    let seconds =
        curves_of(lines, |row| row.seconds.iter().map(|it| (it.at_s, it.p99_us)).collect());
    let bars = |figure: &dyn Fn(&Line) -> Option<Spread>| -> Vec<Bar> {
        let bar = |line: &Line| {
            let Spread { median, least, most } = figure(line)?;
            let name = line.contender.id.to_owned();
            Some(Bar { name, colour: colour(line), median, least, most })
        };
        lines.iter().filter_map(bar).collect()
    };
    html.push_str(&plot::legend(&ack));
    html.push_str("<div class=\"plots\">\n");
    html.push_str(&plot::curves("Ack latency by percentile", &percentiles(), &ack));
    html.push_str(&plot::curves("End to end latency by percentile", &percentiles(), &end_to_end));
    html.push_str(&plot::curves(
        "Ack latency over time (p99 of each second)",
        &time(&seconds),
        &seconds,
    ));
    html.push_str(&plot::bars(
        "Events acknowledged a second",
        table::whole,
        &bars(&|it| it.events_per_s),
    ));
    let cpu = bars(&|it| it.server_cpu_s_a_million);
    html.push_str(&plot::bars("Server CPU seconds a million events", |s| format!("{s:.1}"), &cpu));
    let bytes = bars(&|it| it.file_bytes_an_event);
    html.push_str(&plot::bars("Bytes written to files an event", table::whole, &bytes));
    html.push_str("</div>\n");
    table_of(lines, html);
}

/// A curve of each contender that has one, of the round in the middle.
fn curves_of(lines: &[Line], points: impl Fn(&Row) -> Vec<(f64, f64)>) -> Vec<Curve> {
    let curve = |line: &Line| {
        let points = points(line.middle_round()?);
        let name = line.contender.id.to_owned();
        (!points.is_empty()).then(|| Curve { name, colour: colour(line), points })
    };
    lines.iter().filter_map(curve).collect()
}

fn table_of(lines: &[Line], html: &mut String) {
    html.push_str("<div class=\"scroll\"><table><tr>");
    for head in table::HEADS {
        let _ = write!(html, "<th>{}</th>", escape(head));
    }
    html.push_str("</tr>\n");
    for line in lines {
        html.push_str("<tr>");
        for cell in table::cells(line) {
            let _ = write!(html, "<td>{}</td>", escape(&cell));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table></div>\n");
}

fn colour(line: &Line) -> &'static str {
    let known = COLOURS.iter().find(|(id, _)| *id == line.contender.id);
    known.map_or("#8a8f94", |(_, colour)| colour)
}

/// Percentiles on a scale that is as wide from 99 to 99.9 as from 90 to 99: the tail is what is looked for. The longest
/// has no place on it; the table has it.
fn by_percentile(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let below = curve.iter().filter(|(share, _)| *share < 1.0);
    below.map(|&(share, us)| (-(1.0 - share).log10(), us)).collect()
}

fn percentiles() -> Scale {
    let word = |share: f64, word: &str| (-(1.0 - share).log10(), word.to_owned());
    Scale {
        label: "percentile",
        range: (0.0, 5.0),
        words: vec![
            word(0.5, "50"),
            word(0.9, "90"),
            word(0.99, "99"),
            word(0.999, "99.9"),
            word(0.9999, "99.99"),
            word(0.99999, "99.999"),
        ],
    }
}

fn time(curves: &[Curve]) -> Scale {
    let end =
        curves.iter().flat_map(|curve| &curve.points).map(|point| point.0).fold(1.0, f64::max);
    let step = [1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0].into_iter().find(|step| end / step <= 10.0);
    let step = step.unwrap_or(600.0);
    let words = (0..=(end / step) as u32).map(|index| f64::from(index) * step);
    let words = words.map(|at| (at, format!("{at:.0}"))).collect();
    Scale { label: "seconds", range: (0.0, end), words }
}
