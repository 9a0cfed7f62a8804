//! Writes chosen blocks as text: Markdown for headings, lists, tables and code, nothing else.

use super::blocks::{Block, BlockKind, Page};

/// Longest run of backticks in code that a fence is made longer for.
const MAX_FENCE: usize = 64;

/// Writes the blocks with the given indices.
pub fn render(page: &Page, chosen: &[usize]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < chosen.len() {
        let block = &page.blocks[chosen[at]];
        if at > 0 {
            out.push_str(separator(page.blocks[chosen[at - 1]].kind, block.kind));
        }
        if let BlockKind::Cell { row } = block.kind {
            let table = page.elements[row].parent;
            let rest = chosen[at..].iter().map(|&at| &page.blocks[at]);
            let cells: Vec<(usize, &Block)> = rest
                .map_while(|block| match block.kind {
                    BlockKind::Cell { row } => Some((row, block)),
                    _ => None,
                })
                .take_while(|&(row, _)| page.elements[row].parent == table)
                .collect();
            at += cells.len();
            push_table(&mut out, &cells);
            continue;
        }
        push_block(&mut out, block);
        at += 1;
    }
    out
}

fn push_block(out: &mut String, block: &Block) {
    match block.kind {
        BlockKind::Heading(level) => {
            out.push_str(&"#".repeat(usize::from(level)));
            out.push(' ');
            push_line(out, &block.text);
        }
        BlockKind::Item { depth, number } => {
            out.push_str(&"  ".repeat(usize::from(depth)));
            match number {
                Some(number) => out.push_str(&format!("{number}. ")),
                None => out.push_str("- "),
            }
            push_line(out, &block.text);
        }
        BlockKind::Code => push_code(out, &block.text),
        BlockKind::Text | BlockKind::Cell { .. } => out.push_str(&block.text),
    }
}

/// Code between fences that are longer than any run of backticks in it.
fn push_code(out: &mut String, text: &str) {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).clamp(3, MAX_FENCE));
    out.push_str(&fence);
    out.push('\n');
    out.push_str(text);
    out.push('\n');
    out.push_str(&fence);
}

/// Rows with `|` around their cells and a line under the first; a table of one column is layout
/// and becomes lines.
fn push_table(out: &mut String, cells: &[(usize, &Block)]) {
    let rows: Vec<&[(usize, &Block)]> = cells.chunk_by(|a, b| a.0 == b.0).collect();
    let columns = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if columns == 1 {
            push_line(out, &row[0].1.text);
            continue;
        }
        out.push('|');
        for (_, block) in *row {
            out.push(' ');
            push_line(out, &block.text.replace('|', "\\|"));
            out.push_str(" |");
        }
        if at == 0 {
            out.push_str("\n|");
            out.push_str(&" --- |".repeat(row.len()));
        }
    }
}

fn push_line(out: &mut String, text: &str) {
    for (index, line) in text.lines().enumerate() {
        if index > 0 {
            out.push(' ');
        }
        out.push_str(line);
    }
}

fn separator(before: BlockKind, after: BlockKind) -> &'static str {
    match (before, after) {
        (BlockKind::Item { .. }, BlockKind::Item { .. }) => "\n",
        _ => "\n\n",
    }
}
