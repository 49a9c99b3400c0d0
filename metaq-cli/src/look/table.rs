//! Rows for people, in columns.

use std::fmt::Write as _;

use crate::display::escaped;

/// A table whose columns are as wide as their widest cell. The last column is not padded.
#[derive(Debug)]
pub(crate) struct Table {
    /// Set if the first row has the names of the columns.
    has_names: bool,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins with the names of the columns.
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { has_names: true, rows: vec![columns.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Begins without names of columns.
    pub(crate) fn without_names() -> Self {
        Self { has_names: false, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        // Names and texts may come from anywhere.
        self.rows.push(cells.iter().map(|cell| escaped(cell).into_owned()).collect());
    }

    /// Formats the table; each row ends with a line feed.
    pub(crate) fn format(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                // Writing to a string can't fail.
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

impl Table {
    /// Formats the rows, without the names of the columns, as words separated by tabs.
    pub(crate) fn plain(&self) -> String {
        self.rows.iter().skip(usize::from(self.has_names)).map(|row| row.join("\t") + "\n").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["TOPIC", "N"]);
        table.row(vec!["заказы-2026".to_owned(), "1".to_owned()]);
        table.row(vec!["t".to_owned(), String::new()]);
        assert_eq!(table.format(), "TOPIC        N\nзаказы-2026  1\nt\n");
        assert_eq!(table.plain(), "заказы-2026\t1\nt\t\n");
        let mut table = Table::without_names();
        table.row(vec!["verdict".to_owned(), "ok".to_owned()]);
        assert_eq!((&*table.format(), &*table.plain()), ("verdict  ok\n", "verdict\tok\n"));
    }
}
