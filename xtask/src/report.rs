//! What people read: aligned tables, colours on terminals only, times and steps.

use std::io::IsTerminal;
use std::time::Duration;

/// Red on a terminal.
pub(crate) fn red(text: &str) -> String {
    coloured(text, "31")
}

/// Green on a terminal.
pub(crate) fn green(text: &str) -> String {
    coloured(text, "32")
}

/// Bold on a terminal.
pub(crate) fn bold(text: &str) -> String {
    coloured(text, "1")
}

fn coloured(text: &str, code: &str) -> String {
    let wanted = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    if wanted { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// `0.3 s`, `41 s`, `2 min 5 s`.
pub(crate) fn seconds(took: Duration) -> String {
    let s = took.as_secs_f64();
    if s < 9.95 {
        format!("{s:.1} s")
    } else if s < 119.5 {
        format!("{s:.0} s")
    } else {
        let whole = took.as_secs();
        format!("{} min {} s", whole / 60, whole % 60)
    }
}

/// A table whose columns line up; cells that look like numbers stand to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = impl Into<String>>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// The whole, each line indented by two blanks, without blanks at the ends of lines.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
        let width = |column| self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0);
        let to_the_right = |column| {
            let body = || self.rows.iter().skip(1).map(|row| cell(row, column));
            body().any(|text| !text.is_empty()) && body().all(|text| is_number(&text))
        };
        let shape: Vec<(usize, bool)> =
            (0..columns).map(|column| (width(column), to_the_right(column))).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = shape
                .iter()
                .enumerate()
                .map(|(column, &(width, right))| {
                    let content = cell(row, column);
                    if right { format!("{content:>width$}") } else { format!("{content:<width$}") }
                })
                .collect();
            text += format!("  {}", cells.join("  ")).trim_end();
            text.push('\n');
        }
        text
    }
}

fn is_number(text: &str) -> bool {
    let mut words = text.split(' ');
    let number = words.next().unwrap_or("");
    let digits = number.chars().any(|c| c.is_ascii_digit());
    let plain =
        number.chars().all(|c| c.is_ascii_digit() || ".,-".contains(c)) && number.matches('.').count() <= 1;
    let unit = words.next().unwrap_or("");
    text.is_empty() || text == "-" || (digits && plain && unit.len() <= 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_stand_to_the_right() {
        let mut table = Table::new(&["pod", "used", "address"]);
        table.row(["web-1", "7", "10.0.0.1"]);
        table.row(["a", "1234"]);
        assert_eq!(table.render(), "  pod    used  address\n  web-1     7  10.0.0.1\n  a      1234\n");
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        let check = |ms, text| assert_eq!(seconds(Duration::from_millis(ms)), text);
        check(0, "0.0 s");
        check(9_940, "9.9 s");
        check(41_300, "41 s");
        check(125_000, "2 min 5 s");
    }
}
