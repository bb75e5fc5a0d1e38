//! Figures of peers that cannot be measured in a run: published or taken before, and marked as such wherever they stand.

use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::plot::escape;

/// What is said above them, so that nobody reads them against the figures of the run.
const MARK: &str = "published, not measured in this run";

/// The figures of one server.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Published {
    /// Whose they are.
    server: String,
    /// Where they come from.
    source: String,
    /// Columns: what was set, and what an ack means by it.
    configurations: Vec<String>,
    /// Rows.
    #[serde(rename = "figure")]
    figures: Vec<Figure>,
}

/// One row.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Figure {
    /// What was asked.
    what: String,
    /// One for each configuration.
    values: Vec<String>,
}

impl Published {
    /// Reads the text of a file.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let published: Published = toml::from_str(text)?;
        let columns = published.configurations.len();
        for Figure { what, values } in &published.figures {
            anyhow::ensure!(
                values.len() == columns,
                "{what}: {} of {columns} values",
                values.len()
            );
        }
        Ok(published)
    }

    fn title(&self) -> String {
        format!("{}: {MARK}", self.server)
    }

    fn rows(&self) -> impl Iterator<Item = Vec<&str>> {
        let head = std::iter::once("what").chain(self.configurations.iter().map(String::as_str));
        std::iter::once(head.collect()).chain(self.figures.iter().map(|figure| {
            std::iter::once(&figure.what).chain(&figure.values).map(String::as_str).collect()
        }))
    }

    /// As a section of the Markdown report.
    pub(super) fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n\nSource: {}.\n\n", self.title(), self.source);
        for (index, cells) in self.rows().enumerate() {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
            if index == 0 {
                let _ = writeln!(text, "{}|", "|---".repeat(cells.len()));
            }
        }
        text
    }

    /// As a section of the page.
    pub(super) fn html(&self) -> String {
        let (title, source) = (escape(&self.title()), escape(&self.source));
        let mut html = format!("<h2>{title}</h2>\n<p>Source: {source}.</p>\n<table>\n");
        for (index, cells) in self.rows().enumerate() {
            let kind = if index == 0 { "th" } else { "td" };
            let cells: String =
                cells.iter().map(|cell| format!("<{kind}>{}</{kind}>", escape(cell))).collect();
            let _ = writeln!(html, "<tr>{cells}</tr>");
        }
        html + "</table>\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::IGGY_PUBLISHED;

    /// Figures of another day that are not marked would be read against those of the run.
    #[test]
    fn what_was_not_measured_is_marked() {
        let published = Published::parse(IGGY_PUBLISHED).unwrap();
        for text in [published.markdown(), published.html()] {
            assert!(text.contains("Apache Iggy: published, not measured in this run"), "{text}");
            assert!(
                text.contains("Source: taken before and by hand") && text.contains("2,920,000/s")
            );
        }
        let table = published.markdown();
        let rows = table.lines().filter(|line| line.starts_with("| "));
        assert!(rows.map(|row| row.matches('|').count()).all(|bars| bars == 4), "{table}");
        let holed = IGGY_PUBLISHED.replace(r#"["516,000/s", "201,000/s"]"#, r#"["516,000/s"]"#);
        assert!(Published::parse(&holed).unwrap_err().to_string().contains("1 of 2 values"));
    }
}
