//! `docs/metrics.md` is the table of metrics for readers; it is rendered from the code that tells them.

use std::fmt::Write;

use ringmesh_admin::metrics::{Kind, METRICS};

const HEAD: &str = "\
# Metrics

`GET /metrics` on the admin port (docs/admin.md) tells these, in Prometheus' text format. Counters begin at 0 when the server
starts. Labels have few values: `shard` and `log` as many as there are, `group` the first 1,000 durable groups by name; topics
and clients are never labels. The words are those of ARCHITECTURE.md: a *group* is what shares a subscription's events, a
*position* the number of an event in its log.

A shard that does not answer in time is told as `ringmesh_shard_up` 0, and what it would tell is left out.

This file is rendered from `admin/src/metrics/table.rs`; `cargo test -p ringmesh-admin --test metrics_document` compares them
and prints the table when they differ.

| metric | kind | labels | meaning |
|---|---|---|---|
";

fn render() -> String {
    let mut page = HEAD.to_owned();
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, labels, help) = (metric.name, labels.join(", "), metric.help);
        writeln!(page, "| `{name}` | {kind} | {labels} | {help} |").expect("a string takes it");
    }
    page
}

/// A document that drifts from the code sends its readers after metrics that do not exist.
#[test]
fn document_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    let found = std::fs::read_to_string(path).unwrap_or_default();
    let expected = render();
    assert!(found == expected, "docs/metrics.md differs from the table; it should be:\n{expected}");
}

/// Two metrics of one name, or a counter that is not called one, break what reads them.
#[test]
fn names_are_as_prometheus_wants_them() {
    for (index, metric) in METRICS.iter().enumerate() {
        let name = metric.name;
        assert!(METRICS[..index].iter().all(|earlier| earlier.name != name), "{name} stands twice");
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        let legal = |c: char| c.is_ascii_lowercase() || c == '_';
        assert!(
            name.chars().all(legal) && metric.labels.iter().all(|label| label.chars().all(legal))
        );
        assert!(
            metric.help.ends_with('.') && !metric.help.contains('|'),
            "{name}: {}",
            metric.help
        );
    }
}
