//! Results on stdout: aligned tables, key-value lists, JSON.

use std::{
    io::{ErrorKind, Write},
    sync::OnceLock,
};

/// Prints a line. A reader that has gone away (`| head`) ends the output, not the process with a panic.
pub(crate) fn line(text: &str) {
    raw(&format!("{text}\n"));
}

/// Prints a text as it is.
pub(crate) fn raw(text: &str) {
    let mut stdout = std::io::stdout().lock();
    if let Err(error) = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
        && error.kind() != ErrorKind::BrokenPipe
    {
        // The first is what went wrong; the others follow from it.
        drop(UNWRITTEN.set(error.to_string()));
    }
}

/// Why results could not be written (a full disk): they are lost, which must not look like success.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// Whether everything could be written.
///
/// # Errors
/// Why it could not.
pub(crate) fn written() -> anyhow::Result<()> {
    match UNWRITTEN.get() {
        Some(error) => anyhow::bail!("could not write to standard output: {error}"),
        None => Ok(()),
    }
}

/// Prints a value as JSON, readable.
///
/// # Errors
/// A value that is no JSON.
pub(crate) fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Columns of text, aligned to the left, two blanks apart.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns that hold numbers.
    right: Vec<usize>,
}

impl Table {
    /// With a headline, unless it is empty.
    pub(crate) fn new(headline: &[&str]) -> Self {
        let rows =
            if headline.is_empty() { Vec::new() } else { vec![headline.iter().map(ToString::to_string).collect()] };
        Self { rows, right: Vec::new() }
    }

    /// With some columns aligned to the right.
    pub(crate) fn right(mut self, columns: &[usize]) -> Self {
        self.right = columns.to_vec();
        self
    }

    /// Appends a row.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.cells(cells.into());
    }

    /// Appends a row of as many cells as there happen to be.
    pub(crate) fn cells(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| one_line(&cell)).collect());
    }

    /// The whole table.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().enumerate().map(|(column, cell)| {
                let padding = " ".repeat(widths[column] - cell.chars().count());
                if self.right.contains(&column) { format!("{padding}{cell}") } else { format!("{cell}{padding}") }
            });
            text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
            text.push('\n');
        }
        text
    }

    /// Prints it.
    pub(crate) fn print(&self) {
        raw(&self.text());
    }
}

/// A cell is one line, and what a server said must not steer the terminal.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_are_one_line() {
        let mut table = Table::new(&["A", "COUNT"]).right(&[1]);
        table.row(["ä longer\ncell".into(), "7".into()]);
        table.row(["b\u{1b}[2J".into(), "12".into()]);
        assert_eq!(table.text(), "A              COUNT\nä longer cell      7\nb [2J             12\n");
    }
}
