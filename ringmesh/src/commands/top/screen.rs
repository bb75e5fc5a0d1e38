//! The lines of the screen: what stands where in so many columns and rows. Pure, so that it can be looked at in a test.

use super::super::table::harmless;
use super::reading::{ShardRow, Snapshot, SubscriptionRow};
use super::terminal::Key;

/// By what the subscriptions are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Lag,
    Seconds,
    Change,
    InFlight,
    Name,
}

const SORTS: [(Sort, &str); 5] = [
    (Sort::Lag, "lag"),
    (Sort::Seconds, "seconds"),
    (Sort::Change, "change"),
    (Sort::InFlight, "in flight"),
    (Sort::Name, "name"),
];

/// What is shown, and how.
pub(super) struct View {
    snapshot: Snapshot,
    sort: usize,
    /// The subscription that the arrows have come to, by its place in the list.
    chosen: usize,
    /// Subscriptions that fit the screen as it was last drawn.
    page: std::cell::Cell<usize>,
    /// Why what is shown is old.
    failure: Option<String>,
}

/// One row of the screen.
pub(super) struct Line {
    pub(super) text: String,
    pub(super) is_chosen: bool,
}

impl View {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let page = std::cell::Cell::new(1);
        let mut view = View { snapshot, sort: 0, chosen: 0, page, failure: None };
        view.arrange();
        view
    }

    /// Shows this from now on.
    pub(super) fn update(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
        self.failure = None;
        self.arrange();
    }

    /// The server could not be asked; what is shown stays.
    pub(super) fn fail(&mut self, why: String) {
        self.failure = Some(why);
    }

    pub(super) fn press(&mut self, key: Key) {
        let last = self.snapshot.subscriptions.len().saturating_sub(1);
        match key {
            Key::Quit => {}
            Key::Sort => {
                self.sort = (self.sort + 1) % SORTS.len();
                self.chosen = 0;
                self.arrange();
            }
            Key::Up => self.chosen = self.chosen.saturating_sub(1),
            Key::Down => self.chosen = (self.chosen + 1).min(last),
            Key::PageUp => self.chosen = self.chosen.saturating_sub(self.page.get()),
            Key::PageDown => self.chosen = (self.chosen + self.page.get()).min(last),
        }
    }

    fn arrange(&mut self) {
        let (sort, _) = SORTS[self.sort];
        let rows = &mut self.snapshot.subscriptions;
        // The largest first, and among equals the name, so that rows do not jump.
        rows.sort_by(|a, b| {
            let order = match sort {
                Sort::Lag => b.lag_events.cmp(&a.lag_events),
                Sort::Seconds => b.lag_seconds.total_cmp(&a.lag_seconds),
                Sort::Change => b.lag_change_per_second.total_cmp(&a.lag_change_per_second),
                Sort::InFlight => b.in_flight_events.cmp(&a.in_flight_events),
                Sort::Name => std::cmp::Ordering::Equal,
            };
            order.then_with(|| a.name.cmp(&b.name))
        });
        self.chosen = self.chosen.min(rows.len().saturating_sub(1));
    }

    /// The screen, at most so many columns wide and so many rows high.
    pub(super) fn lines(&self, columns: usize, rows: usize) -> Vec<Line> {
        let mut lines: Vec<(String, bool)> =
            self.head().into_iter().map(|line| (line, false)).collect();
        lines.push((String::new(), false));
        // Shards take half of what is left at most; those that do not fit are counted.
        let room = rows.saturating_sub(lines.len() + 3) / 2;
        lines
            .extend(shard_lines(&self.snapshot.shards, room).into_iter().map(|line| (line, false)));
        lines.push((String::new(), false));
        let room = rows.saturating_sub(lines.len() + 2);
        lines.extend(self.subscription_lines(columns, room));
        while lines.len() + 1 < rows {
            lines.push((String::new(), false));
        }
        let sort = SORTS[self.sort].1;
        lines.truncate(rows.saturating_sub(1));
        lines.push((format!("q end   s sorted by {sort}   arrows move"), false));
        let cut = |(text, is_chosen): (String, bool)| Line {
            text: text.chars().take(columns).collect(),
            is_chosen,
        };
        lines.into_iter().map(cut).collect()
    }

    fn head(&self) -> [String; 4] {
        let Snapshot { server, rates, latencies, .. } = &self.snapshot;
        let state = match (&self.failure, server.ready) {
            (Some(_), _) => "no answer",
            (None, true) => "ready",
            (None, false) => "not ready",
        };
        let first = match &self.failure {
            Some(failure) => format!("{state}: {}", harmless(failure)),
            None => format!(
                "ringmesh {} at {}, {state}, up {}",
                server.version,
                harmless(&server.native),
                time(server.up_seconds)
            ),
        };
        let events = format!(
            "events/s  in {}  out {}  settled {}  redelivered {}",
            count(rates.published_events),
            count(rates.delivered_events),
            count(rates.settled_events),
            count(rates.redelivered_events)
        );
        let bytes = format!(
            "bytes/s   in {}  out {}  connections {}  CPU {:.0} %",
            bytes(rates.published_bytes),
            bytes(rates.delivered_bytes),
            self.snapshot.connections,
            100.0 * rates.cpu_cores
        );
        let disk = format!(
            "disk      {} writes/s  p50 {}  p99 {}  memory {} of {}",
            count(rates.disk_writes),
            latency(latencies.disk_write_p50_seconds),
            latency(latencies.disk_write_p99_seconds),
            self::bytes(self.snapshot.memory_bytes as f64),
            self::bytes(self.snapshot.memory_bytes_max as f64)
        );
        [first, events, bytes, disk]
    }

    fn subscription_lines(&self, columns: usize, room: usize) -> Vec<(String, bool)> {
        let all = &self.snapshot.subscriptions;
        // What is left of the columns behind the numbers.
        let width = columns.saturating_sub(53).max(12);
        let heading = format!(
            "{:width$} {:>7} {:>9} {:>10} {:>8} {:>9} {:>4}",
            "subscription", "members", "in flight", "lag", "change/s", "bytes", "age"
        );
        let mut lines = vec![(heading, false)];
        let shown = room.max(1);
        self.page.set(shown);
        let first = if self.chosen < shown { 0 } else { self.chosen + 1 - shown };
        for (index, row) in all.iter().enumerate().skip(first).take(shown) {
            lines.push((subscription_line(row, width), index == self.chosen));
        }
        if all.is_empty() {
            lines.push(("none".to_owned(), false));
        }
        lines
    }
}

fn subscription_line(row: &SubscriptionRow, width: usize) -> String {
    let name = harmless(&row.name);
    let shown = match name.chars().count() > width {
        true => name.chars().take(width - 1).chain(['>']).collect(),
        false => name,
    };
    let change = row.lag_change_per_second;
    let sign = if change >= 0.5 { "+" } else { "" };
    format!(
        "{shown:width$} {:>7} {:>9} {:>10} {:>8} {:>9} {:>4}",
        row.members,
        count(row.in_flight_events as f64),
        count(row.lag_events as f64),
        format!("{sign}{}", count(change)),
        bytes(row.lag_bytes as f64),
        time(row.lag_seconds)
    )
}

fn shard_lines(shards: &[ShardRow], room: usize) -> Vec<String> {
    let heading = format!(
        "{:>5} {:>11} {:>7} {:>10} {:>10} {:>9} {:>9} {:>9}",
        "shard", "connections", "waiting", "in/s", "out/s", "in flight", "log", "state"
    );
    let mut lines = vec![heading];
    let shown = if shards.len() > room.max(1) { room.max(2) - 1 } else { shards.len() };
    for shard in &shards[..shown] {
        lines.push(format!(
            "{:>5} {:>11} {:>7} {:>10} {:>10} {:>9} {:>9} {:>9}",
            shard.shard,
            shard.connections,
            shard.connections_waiting,
            count(shard.published_events_per_second),
            count(shard.delivered_events_per_second),
            bytes(shard.in_flight_bytes as f64),
            bytes(shard.log_bytes as f64),
            shard.log_state
        ));
    }
    if shown < shards.len() {
        lines.push(format!("      and {} more", shards.len() - shown));
    }
    lines
}

/// A number with its thousands set apart; from a million on, in millions.
fn count(number: f64) -> String {
    let rounded = number.round();
    if rounded.abs() >= 1e7 {
        return format!("{:.1}M", number / 1e6);
    }
    let digits = format!("{:.0}", rounded.abs());
    let mut text = String::from(if rounded < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the unit that suits it.
fn bytes(number: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut number, mut unit) = (number, 0);
    while number >= 999.5 && unit + 1 < units.len() {
        number /= 1_024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{number:.0} B"),
        unit if number < 9.95 => format!("{number:.1} {}", units[unit]),
        unit => format!("{number:.0} {}", units[unit]),
    }
}

/// How long a disk took.
fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 0.001 => format!("{:.0} us", seconds * 1e6),
        Some(seconds) if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        Some(seconds) => format!("{seconds:.1} s"),
    }
}

/// An age: two or three letters.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 0.05 => "0s".to_owned(),
        s if s < 9.95 => format!("{s:.1}s"),
        s if s < 100.0 => format!("{s:.0}s"),
        s if s < 6_000.0 => format!("{:.0}m", s / 60.0),
        s if s < 360_000.0 => format!("{:.0}h", s / 3_600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(shards: u64, subscriptions: u64) -> Snapshot {
        Snapshot {
            shards: (0..shards)
                .map(|shard| ShardRow {
                    shard,
                    log_state: "running".to_owned(),
                    ..ShardRow::default()
                })
                .collect(),
            subscriptions: (0..subscriptions)
                .map(|n| SubscriptionRow {
                    name: format!("group-{n:03}"),
                    lag_events: n * 1_000,
                    ..SubscriptionRow::default()
                })
                .collect(),
            ..Snapshot::default()
        }
    }

    fn texts(view: &View, columns: usize, rows: usize) -> Vec<String> {
        view.lines(columns, rows).into_iter().map(|line| line.text).collect()
    }

    /// A line that is wrapped makes two, and a screen that scrolls loses its head.
    #[test]
    fn every_screen_is_filled_and_no_more() {
        for (shards, subscriptions) in [(1, 0), (2, 3), (64, 1_000)] {
            let mut view = View::new(snapshot(shards, subscriptions));
            for (columns, rows) in [(80, 24), (200, 60), (40, 10), (80, 12)] {
                for _ in 0..30 {
                    view.press(Key::Down);
                }
                let lines = view.lines(columns, rows);
                assert_eq!(lines.len(), rows, "{shards} shards in {columns}x{rows}");
                assert!(lines.iter().all(|line| line.text.chars().count() <= columns));
                let is_shown = lines.iter().any(|line| line.is_chosen);
                assert!(is_shown || subscriptions == 0 || rows < 24, "{columns}x{rows}");
            }
        }
    }

    /// What is worst stands first, and the arrows reach the last.
    #[test]
    fn the_worst_is_first_and_all_are_reached() {
        let mut view = View::new(snapshot(2, 100));
        let lines = texts(&view, 80, 24);
        let first = lines.iter().position(|line| line.starts_with("group-099")).unwrap();
        assert!(lines[first - 1].starts_with("subscription"), "{lines:#?}");
        assert!(lines[first].contains(" 99,000 "), "{}", lines[first]);
        for _ in 0..200 {
            view.press(Key::PageDown);
        }
        let last = view.lines(80, 24).into_iter().find(|line| line.is_chosen).unwrap();
        assert!(last.text.starts_with("group-000"), "{}", last.text);
        for _ in 0..4 {
            view.press(Key::Sort);
        }
        let lines = texts(&view, 80, 24);
        assert!(lines[first].starts_with("group-000"), "{lines:#?}");
        assert!(lines[23].contains("sorted by name"), "{}", lines[23]);
        view.fail("no admin port answers".to_owned());
        assert!(texts(&view, 80, 24)[0].starts_with("no answer: no admin port answers"));
    }

    /// A figure that is read wrongly by a digit is worse than none.
    #[test]
    fn numbers_are_easy_to_read() {
        let counts = [0.0, 999.4, 1_000.0, -1_234.0, 9_999_999.0, 12_345_678.0].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "-1,234", "9,999,999", "12.3M"]);
        let sizes = [0.0, 999.0, 1_023.0, 1_536.0, 104_857_600.0, 5e12].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 KiB", "1.5 KiB", "100 MiB", "4.5 TiB"]);
        let times = [0.0, 0.42, 9.96, 59.0, 125.0, 7_200.0, 864_000.0].map(time);
        assert_eq!(times, ["0s", "0.4s", "10s", "59s", "2m", "2h", "10d"]);
        let latencies = [None, Some(0.000_212), Some(0.0031), Some(1.5)].map(latency);
        assert_eq!(latencies, ["-", "212 us", "3.1 ms", "1.5 s"]);
    }
}
