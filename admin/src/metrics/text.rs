//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};

use super::table::{Kind, METRICS, Metric};
use super::view::View;

/// The samples of one metric, on their way into the text.
pub struct Samples<'a> {
    metric: &'a Metric,
    out: &'a mut String,
}

impl Samples<'_> {
    /// One sample, with a value for each of the metric's labels.
    pub(crate) fn put(&mut self, labels: &[&dyn Display], value: impl Display) {
        assert_eq!(
            labels.len(),
            self.metric.labels.len(),
            "each label of {} has a value",
            self.metric.name
        );
        self.line("", labels, None, value);
    }

    /// A histogram of durations: `counts` of what lies up to each bound and above the one before, the last beyond all.
    pub(crate) fn put_histogram(
        &mut self,
        labels: &[&dyn Display],
        bounds_us: &[u64],
        counts: &[u64],
        sum_us: u64,
    ) {
        assert_eq!(counts.len(), bounds_us.len() + 1, "each bound has a count, and infinity one");
        let seconds = |us: u64| us as f64 / 1e6;
        let mut total = 0;
        for (place, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds_us.get(place);
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |us| seconds(*us).to_string());
            self.line("_bucket", labels, Some(&bound), total);
        }
        self.line("_sum", labels, None, seconds(sum_us));
        self.line("_count", labels, None, total);
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: &[&dyn Display],
        bound: Option<&str>,
        value: impl Display,
    ) {
        self.out.push_str(self.metric.name);
        self.out.push_str(suffix);
        let mut before = '{';
        for (label, value) in self.metric.labels.iter().zip(labels) {
            let _ = write!(self.out, "{before}{label}=\"{}\"", escaped(&value.to_string()));
            before = ',';
        }
        if let Some(bound) = bound {
            let _ = write!(self.out, "{before}le=\"{bound}\"");
            before = ',';
        }
        let after = if before == '{' { "" } else { "}" };
        let _ = writeln!(self.out, "{after} {value}");
    }
}

/// Everything that the view tells.
pub(crate) fn write(view: &View) -> String {
    let mut out = String::with_capacity(32 << 10);
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = metric.help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(out, "# HELP {} {help}\n# TYPE {} {kind}", metric.name, metric.name);
        (metric.tell)(view, &mut Samples { metric, out: &mut out });
    }
    out
}

/// A label's value as it stands between quotes.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A group is called as its users like: no name may end its label and forge another series.
    #[test]
    fn labels_are_escaped() {
        let metric = Metric {
            name: "m_total",
            kind: Kind::Counter,
            labels: &["group", "log"],
            help: "",
            tell: |_, _| {},
        };
        let mut out = String::new();
        let mut samples = Samples { metric: &metric, out: &mut out };
        samples.put(&[&"a\"} 1\nb{c=\"\\", &7], 3);
        assert_eq!(out, "m_total{group=\"a\\\"} 1\\nb{c=\\\"\\\\\",log=\"7\"} 3\n");
    }
}
