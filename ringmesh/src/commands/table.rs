//! Tables for people: columns as wide as what stands in them, numbers to the right.

use std::io::{self, Write};

/// A table in the making.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
    columns: usize,
}

impl Table {
    /// A table with these headings.
    #[must_use]
    pub fn new(headings: &[&str]) -> Self {
        let heading = headings.iter().map(|heading| (*heading).to_owned()).collect();
        Table { rows: vec![heading], columns: headings.len() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns, "a row has a cell for each heading");
        self.rows.push(cells.iter().map(|cell| harmless(cell)).collect());
    }

    /// Prints it.
    ///
    /// # Errors
    /// Nobody reads any more, or the disk is full.
    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let width = |column: usize| {
            self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
        };
        let is_number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit());
        // The last column is not padded: nothing stands behind it.
        let widths: Vec<(usize, bool)> = (0..self.columns)
            .map(|column| {
                let all = self.rows.iter().skip(1).map(|row| &row[column]);
                (width(column), self.rows.len() > 1 && all.into_iter().all(is_number))
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, (width, right)) in row.iter().zip(&widths) {
                let space = " ".repeat(width - cell.chars().count());
                match right {
                    true => line.push_str(&format!("{space}{cell}  ")),
                    false => line.push_str(&format!("{cell}{space}  ")),
                }
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A text as it may stand on a terminal: names come from strangers, and none may drive it.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars().map(shown).collect()
}

/// A character as it may stand on a terminal.
fn shown(c: char) -> String {
    if c.is_control() { c.escape_default().to_string() } else { c.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table is read at a glance or not at all, and a name must not move the cursor.
    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&["name", "lag", "filters"]);
        table.row(vec!["a".to_owned(), "7".to_owned(), "x/#".to_owned()]);
        table.row(vec!["l\u{e9}ng\x1b[2J".to_owned(), "1234".to_owned(), String::new()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let expected = "name            lag  filters\n\
                        a                 7  x/#\n\
                        l\u{e9}ng\\u{1b}[2J  1234\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
