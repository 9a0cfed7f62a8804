//! Writes chosen blocks as text: Markdown for headings, lists, tables and code, nothing else.

use super::blocks::{Block, BlockKind, Page};

/// Writes the blocks with the given indices.
pub fn render(page: &Page, chosen: &[usize]) -> String {
    let mut out = String::new();
    let mut before: Option<&Block> = None;
    for &at in chosen {
        let block = &page.blocks[at];
        if let Some(before) = before {
            out.push_str(separator(before.kind, block.kind));
        }
        match block.kind {
            BlockKind::Heading(level) => {
                out.push_str(&"#".repeat(usize::from(level)));
                out.push(' ');
                push_line(&mut out, &block.text);
            }
            BlockKind::Item(depth) => {
                out.push_str(&"  ".repeat(usize::from(depth)));
                out.push_str("- ");
                push_line(&mut out, &block.text);
            }
            BlockKind::Code => {
                out.push_str("```\n");
                out.push_str(&block.text);
                out.push_str("\n```");
            }
            BlockKind::Cell { .. } => push_line(&mut out, &block.text),
            BlockKind::Text => out.push_str(&block.text),
        }
        before = Some(block);
    }
    out
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
        (BlockKind::Cell { row: a }, BlockKind::Cell { row: b }) if a == b => " | ",
        (BlockKind::Item(_), BlockKind::Item(_))
        | (BlockKind::Cell { .. }, BlockKind::Cell { .. }) => "\n",
        _ => "\n\n",
    }
}
