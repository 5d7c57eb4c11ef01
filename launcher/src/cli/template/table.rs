//! Tables: a line of headings, and aligned columns.

use super::parse::{Expression, Node};

/// Returns the line of headings: the name of the last field of each expression.
pub(super) fn headings(body: &[Node]) -> String {
    fn last(expression: &Expression) -> Option<String> {
        match expression {
            Expression::Field(_, name) => Some(heading(name)),
            Expression::Call(_, arguments) => arguments.iter().rev().find_map(last),
            _ => None,
        }
    }
    let text = |node: &Node| match node {
        Node::Text(text) => text.clone(),
        Node::Print(expression) => last(expression).unwrap_or_default(),
        _ => String::new(),
    };
    body.iter().map(text).collect()
}

/// Turns `CreatedAt` into `CREATED AT`.
fn heading(name: &str) -> String {
    let mut heading = String::new();
    let mut before = None;
    for c in name.chars() {
        if c.is_uppercase() && before.is_some_and(char::is_lowercase) {
            heading.push(' ');
        }
        heading.extend(c.to_uppercase());
        before = Some(c);
    }
    heading
}

/// Aligns the columns of lines, which tabs separate.
pub(super) fn columns(lines: &[String]) -> String {
    let rows: Vec<Vec<&str>> = lines.iter().map(|line| line.split('\t').collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or_default()).collect();
    let line = |row: &Vec<&str>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}
