//! The report of a comparison as Markdown: a table for each point of each workload.

use std::fmt::Write;

use super::Comparison;
use super::published::Published;
use super::summary::{Line, Percentiles, Spread};

/// What the columns are called.
pub(super) const HEADS: [&str; 13] = [
    "server",
    "configuration",
    "an ack means",
    "in flight",
    "events/s (least to most)",
    "delivered/s",
    "ack us: p50 / p99 / p99.9 / p99.99 / max",
    "end to end us: p50 / p99 / p99.9 / p99.99 / max",
    "server CPU s (us an event)",
    "client CPU s (busy)",
    "peak MiB: server / client",
    "file bytes an event",
    "notes",
];

/// The whole report.
pub(crate) fn markdown(comparison: &Comparison) -> String {
    let mut text = format!(
        "`{}`\n\n{}. {} round(s) of each in alternation; every figure is the median of its rounds.\n",
        comparison.command, comparison.machine, comparison.rounds
    );
    for note in comparison.client_notes() {
        let _ = write!(text, "\n{note}.\n");
    }
    let mut point = "";
    for line in &comparison.lines {
        if line.point != point {
            point = &line.point;
            let about = comparison.about(point);
            let heads = HEADS.join(" | ");
            let rule = "|---".repeat(HEADS.len());
            let _ = write!(text, "\n### {point}\n\n{about}\n\n| {heads} |\n{rule}|\n");
        }
        // A bar in a server's words must not end the cell.
        let cells = cells(line).map(|cell| cell.replace('|', "\\|").replace('\n', " "));
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.extend(comparison.published.iter().map(Published::markdown));
    text
}

/// One line, column by column.
pub(super) fn cells(line: &Line) -> [String; HEADS.len()] {
    let spread = |spread: Option<Spread>, show: &dyn Fn(f64) -> String| {
        spread.map_or("-".to_owned(), |spread| show(spread.median))
    };
    let rate = line.events_per_s.map_or("-".to_owned(), |rate| {
        format!("{} ({} to {})", whole(rate.median), whole(rate.least), whole(rate.most))
    });
    let with = |cell: String, more: Option<String>| match more {
        Some(more) => format!("{cell} ({more})"),
        None => cell,
    };
    let server_cpu = with(
        spread(line.server_cpu_s, &|s| format!("{s:.2}")),
        line.server_cpu_s_a_million.map(|us| format!("{:.1}", us.median)),
    );
    let client_cpu = with(
        spread(line.client_cpu_s, &|s| format!("{s:.2}")),
        line.client_busy_share.map(|share| format!("{:.0} %", 100.0 * share.median)),
    );
    let mib = |bytes: f64| format!("{:.0}", bytes / f64::from(1 << 20));
    let memory = format!(
        "{} / {}",
        spread(line.server_peak_bytes, &mib),
        spread(line.client_peak_bytes, &mib)
    );
    let says = &line.server_says;
    let says = (!says.is_empty()).then(|| format!("it says: {}", says.join(" or ")));
    let mut notes = line.notes.clone();
    if let Some(read) = line.backlog_read_per_s {
        notes.insert(0, format!("backlog read at {} events/s", whole(read.median)));
    }
    if let Some(trip) = &line.round_trip {
        notes.push(format!("loopback round trip: {} us", percentiles(Some(trip))));
    }
    [
        line.contender.server.to_owned(),
        line.contender.configuration.to_owned(),
        with(line.contender.sync.to_owned(), says),
        line.in_flight.clone(),
        rate,
        spread(line.delivered_per_s, &whole),
        percentiles(line.ack.as_ref()),
        percentiles(line.end_to_end.as_ref()),
        server_cpu,
        client_cpu,
        memory,
        spread(line.file_bytes_an_event, &whole),
        notes.join("; "),
    ]
}

fn percentiles(found: Option<&Percentiles>) -> String {
    let Some(found) = found else { return "-".to_owned() };
    let Percentiles { p50_us, p99_us, p999_us, p9999_us, max_us } = found;
    [p50_us, p99_us, p999_us, p9999_us, max_us].map(|spread| whole(spread.median)).join(" / ")
}

/// A whole number with commas between its thousands.
pub(crate) fn whole(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < -0.5 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A comma in the wrong place is a factor of ten.
    #[test]
    fn thousands_are_told_apart() {
        for (value, expected) in [
            (0.4, "0"),
            (7.0, "7"),
            (999.6, "1,000"),
            (12_345.0, "12,345"),
            (1_234_567.0, "1,234,567"),
            (-1_000.0, "-1,000"),
        ] {
            assert_eq!(whole(value), expected);
        }
    }
}
