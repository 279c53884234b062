//! Tables and lists of facts for people: no borders, columns aligned, numbers to the right.
//!
//! Pure: values in, text out. What the columns are is the commands' matter.

use comfy_table::{Attribute, CellAlignment, Color, ContentArrangement, Table as Grid, presets};

use super::color::{Tone, paint};

/// What stands where there is nothing.
pub(crate) const NOTHING: &str = "-";

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    /// A cell with a tone.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A title and how what is below it stands.
pub(crate) type Column = (&'static str, Align);

/// Columns and rows. Built and rendered by one command, for one screen.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new(columns: &[Column]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; it has as many cells as there are columns.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len(), "cells in a row and columns");
        self.rows.push(cells);
    }

    /// The text, each line ended. Cells that are empty show [`NOTHING`].
    pub(crate) fn render(&self, color: bool) -> String {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled)
            .force_no_tty();
        if color {
            grid.enforce_styling();
        }
        grid.set_header(
            self.columns
                .iter()
                .map(|(title, _)| comfy_table::Cell::new(*title).add_attribute(Attribute::Bold)),
        );
        for row in &self.rows {
            grid.add_row(row.iter().map(to_grid_cell));
        }
        let last = self.columns.len().saturating_sub(1);
        for ((index, column), (_, align)) in grid.column_iter_mut().enumerate().zip(&self.columns) {
            column.set_padding((0, if index == last { 0 } else { 3 }));
            column.set_cell_alignment(match align {
                Align::Left => CellAlignment::Left,
                Align::Right => CellAlignment::Right,
            });
        }
        grid.lines().map(|line| format!("{}\n", line.trim_end())).collect()
    }
}

fn to_grid_cell(cell: &Cell) -> comfy_table::Cell {
    let text = if cell.text.is_empty() { NOTHING } else { &cell.text };
    // A name that reached us from elsewhere must not move the cursor.
    let text: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    let grid_cell = comfy_table::Cell::new_owned(text);
    match cell.tone {
        Tone::Plain => grid_cell,
        Tone::Good => grid_cell.fg(Color::DarkGreen),
        Tone::Warn => grid_cell.fg(Color::DarkYellow),
        Tone::Bad => grid_cell.fg(Color::DarkRed),
        Tone::Dim => grid_cell.add_attribute(Attribute::Dim),
        Tone::Strong => grid_cell.add_attribute(Attribute::Bold),
    }
}

/// `key: value` lines with the values in one column. Values of several lines stay in it.
pub(crate) fn facts(lines: &[(&str, Cell)], color: bool) -> String {
    let width = lines.iter().map(|(key, _)| key.chars().count() + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value) in lines {
        let mut label = format!("{key}:");
        let shown = if value.text.is_empty() { NOTHING } else { &value.text };
        for line in shown.lines() {
            text += &format!("{label:<width$}  {}\n", paint(line, value.tone, color));
            label.clear();
        }
    }
    text
}

/// A share in per cent for people: `0%` and `100%` only when it is exactly that.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    let hundredths = u128::from(part) * 100;
    match (part, whole) {
        (_, 0) => NOTHING.to_owned(),
        (0, _) => "0%".to_owned(),
        _ if part >= whole => "100%".to_owned(),
        _ if hundredths < u128::from(whole) => "<1%".to_owned(),
        _ => format!("{}%", hundredths / u128::from(whole)),
    }
}

/// How full something is, coloured from 80 per cent on.
pub(crate) fn fullness(used: u64, size: u64) -> Cell {
    let tone = match u128::from(used) * 100 {
        _ if size == 0 => Tone::Plain,
        share if share >= u128::from(size) * 95 => Tone::Bad,
        share if share >= u128::from(size) * 80 => Tone::Warn,
        _ => Tone::Plain,
    };
    Cell::toned(percent(used, size), tone)
}

/// Bytes for people: binary units, one decimal below ten.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut unit = 0;
    let mut divisor: u128 = 1;
    while u128::from(count) >= divisor * 1024 && unit + 1 < UNITS.len() {
        divisor *= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    let tenths = u128::from(count) * 10 / divisor;
    if unit > 0 && tenths < 100 {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    } else {
        format!("{} {name}", tenths / 10)
    }
}

/// Seconds for people: the two greatest units.
pub(crate) fn duration(seconds: u64) -> String {
    let (d, h, m, s) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    match (d, h, m) {
        (0, 0, 0) => format!("{s}s"),
        (0, 0, _) => format!("{m}m{s}s"),
        (0, _, _) => format!("{h}h{m}m"),
        _ => format!("{d}d{h}h"),
    }
}

/// `1 address`, `2 addresses`.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[("NAME", Align::Left), ("USED", Align::Right), ("STATUS", Align::Left)]);
        table.row(vec!["external-pool".into(), "3".into(), Cell::toned("ok", Tone::Good)]);
        table.row(vec!["b".into(), "12345".into(), "".into()]);
        table
    }

    #[test]
    fn columns_stand_under_their_titles_and_lines_end_with_text() {
        assert_eq!(
            table().render(false),
            "NAME             USED   STATUS\n\
             external-pool       3   ok\n\
             b               12345   -\n"
        );
    }

    #[test]
    fn colours_change_no_column() {
        let mut plain = String::new();
        let mut rest = table().render(true);
        assert!(rest.contains("\u{1b}["));
        while let Some(start) = rest.find("\u{1b}[") {
            plain += &rest[..start];
            let end = start + rest[start..].find('m').unwrap() + 1;
            rest = rest[end..].to_owned();
        }
        plain += &rest;
        let plain: String = plain.lines().map(|line| format!("{}\n", line.trim_end())).collect();
        assert_eq!(plain, table().render(false));
    }

    #[test]
    fn a_name_with_control_characters_stays_in_its_cell() {
        let mut table = Table::new(&[("NAME", Align::Left)]);
        table.row(vec!["a\n\u{1b}[2Jb".into()]);
        assert_eq!(table.render(false), "NAME\na\u{fffd}\u{fffd}[2Jb\n");
    }

    #[test]
    fn facts_keep_their_values_in_one_column() {
        let lines = [
            ("Node", Cell::from("n1")),
            ("Ready", "no\nthe pool map is missing".into()),
            ("Uplink", "".into()),
        ];
        assert_eq!(
            facts(&lines, false),
            "Node:    n1\nReady:   no\n         the pool map is missing\nUplink:  -\n"
        );
    }

    #[test]
    fn numbers_for_people_never_claim_more_than_they_know() {
        for (part, whole, expected) in [
            (0, 0, "-"),
            (0, 64, "0%"),
            (1, 256, "<1%"),
            (1, 64, "1%"),
            (63, 64, "98%"),
            (64, 64, "100%"),
            (u64::MAX - 1, u64::MAX, "99%"),
        ] {
            assert_eq!(percent(part, whole), expected, "{part} of {whole}");
        }
        for (number, expected) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (10 << 20, "10 MiB"), (u64::MAX, "15 EiB")]
        {
            assert_eq!(bytes(number), expected);
        }
        for (seconds, expected) in [(0, "0s"), (61, "1m1s"), (3_600, "1h0m"), (90_000, "1d1h")] {
            assert_eq!(duration(seconds), expected);
        }
    }

    #[test]
    fn fullness_warns_before_it_is_too_late() {
        for (used, tone) in
            [(0, Tone::Plain), (79, Tone::Plain), (80, Tone::Warn), (95, Tone::Bad), (100, Tone::Bad)]
        {
            assert_eq!(fullness(used, 100).tone, tone, "{used}%");
        }
        assert_eq!(fullness(0, 0), Cell::from("-"));
    }
}
