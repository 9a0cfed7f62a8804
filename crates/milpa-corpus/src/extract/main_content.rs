//! Chooses the blocks that are the page's own text.
//!
//! In the line of jusText (Pomikálek 2011) and boilerpipe (Kohlschütter et al. 2010): blocks are
//! judged by length, link density and place, short ones by their neighbours; over the blocks, the
//! element that holds most of the good ones bounds the text. No word list, so no language matters.

use super::blocks::{BlockKind, Element, ElementTag, Hint, Page, ROOT};

/// How a block looks before its neighbours are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    /// Running text.
    Good,
    /// Too short to tell.
    Short,
    /// Links, or a place that holds no text.
    Bad,
}

/// Returns the indices of the chosen blocks, in order.
pub fn choose(page: &Page) -> Vec<usize> {
    for strictness in [Strictness::Normal, Strictness::Loose] {
        let chosen = choose_with(page, strictness);
        let words: u32 = chosen.iter().map(|&at| page.blocks[at].words).sum();
        if words >= MIN_WORDS {
            return chosen;
        }
    }
    Vec::new()
}

/// Words below which a choice counts as nothing found.
const MIN_WORDS: u32 = 8;

#[derive(Clone, Copy, PartialEq)]
enum Strictness {
    Normal,
    /// Only tags and link density count, not class names or containers.
    Loose,
}

fn choose_with(page: &Page, strictness: Strictness) -> Vec<usize> {
    let boilerplate = inherited(&page.elements, strictness);
    let classes: Vec<Class> = page
        .blocks
        .iter()
        .map(|block| {
            if boilerplate[block.element] {
                return Class::Bad;
            }
            let density = f64::from(block.link_words) / f64::from(block.words.max(1));
            match block.kind {
                _ if block.words == 0 => Class::Short,
                BlockKind::Heading(_) => Class::Short,
                BlockKind::Code => Class::Good,
                _ if density > 0.5 => Class::Bad,
                _ if block.words >= 12 && density < 0.34 => Class::Good,
                _ if block.words >= 6 && density < 0.2 && ends_a_sentence(&block.text) => {
                    Class::Good
                }
                _ => Class::Short,
            }
        })
        .collect();
    let container = match strictness {
        Strictness::Normal => main_element(page, &classes),
        Strictness::Loose => ROOT,
    };
    let inside = descendants(&page.elements, container);
    let candidates: Vec<usize> =
        (0..page.blocks.len()).filter(|&at| inside[page.blocks[at].element]).collect();
    let mut chosen = Vec::new();
    for (place, &at) in candidates.iter().enumerate() {
        let keep = match classes[at] {
            Class::Good => true,
            Class::Bad => false,
            Class::Short => is_kept_short(page, &classes, &candidates, place),
        };
        if keep {
            chosen.push(at);
        }
    }
    chosen
}

/// A short block is kept if good text is near: a heading before it, anything else around it.
fn is_kept_short(page: &Page, classes: &[Class], candidates: &[usize], place: usize) -> bool {
    const NEAR: usize = 6;
    let good = |&&at: &&usize| classes[at] == Class::Good;
    let bad = |&&at: &&usize| classes[at] == Class::Bad && page.blocks[at].words > 1;
    let after = candidates[place + 1..].iter().take(NEAR).take_while(|at| !bad(at));
    let before = candidates[..place].iter().rev().take(NEAR).take_while(|at| !bad(at));
    match page.blocks[candidates[place]].kind {
        BlockKind::Heading(1) => true,
        BlockKind::Heading(_) => {
            candidates[place + 1..].iter().take(3).any(|at| good(&at))
                || after.clone().any(|at| good(&at))
        }
        _ => after.clone().any(|at| good(&at)) || before.clone().any(|at| good(&at)),
    }
}

fn ends_a_sentence(text: &str) -> bool {
    let text = text.trim_end_matches(['"', '”', '»', ')', '’', '\'', ' ']);
    text.ends_with(['.', '!', '?', '…', ':', ';', '。', '！', '？', '।', '؟'])
}

/// For each element whether it or an ancestor is boilerplate.
fn inherited(elements: &[Element], strictness: Strictness) -> Vec<bool> {
    let mut out = vec![false; elements.len()];
    for (at, element) in elements.iter().enumerate() {
        let own = match element.hint {
            Hint::Boilerplate => {
                strictness == Strictness::Normal || element.tag == ElementTag::Other
            }
            Hint::Comments => strictness == Strictness::Normal,
            _ => false,
        };
        // Parents come first, so their answer is known.
        out[at] = own || (at != ROOT && out[element.parent]);
    }
    out
}

fn descendants(elements: &[Element], container: usize) -> Vec<bool> {
    let mut out = vec![false; elements.len()];
    out[container] = true;
    for at in 1..elements.len() {
        out[at] |= out[elements[at].parent];
    }
    out
}

/// The innermost element that holds most of the good text.
fn main_element(page: &Page, classes: &[Class]) -> usize {
    let mut weight = vec![0u64; page.elements.len()];
    for (block, class) in page.blocks.iter().zip(classes) {
        if *class == Class::Good {
            weight[block.element] += u64::from(block.words);
        }
    }
    // Children come after their parents: one pass from the end sums up whole subtrees.
    for at in (1..page.elements.len()).rev() {
        let own = weight[at];
        weight[page.elements[at].parent] += own;
    }
    let total = weight[ROOT];
    let mut best = ROOT;
    // Declared main text is believed if it holds a fair part of the good text.
    for (at, element) in page.elements.iter().enumerate() {
        let enough = match element.tag {
            ElementTag::Main => 0.3,
            _ => 0.5,
        };
        if element.hint == Hint::Main && weight[at] as f64 >= enough * total.max(1) as f64 {
            best = at;
        }
    }
    // Then down as long as one child holds nearly all of it. Tables and rows are only passed
    // through: a cell with nearly all text is a layout, a row is part of a table.
    let (mut at, mut settled) = (best, best);
    for child in best + 1..page.elements.len() {
        let tag = page.elements[child].tag;
        let holds = weight[child] as f64 >= 0.8 * weight[at].max(1) as f64;
        if page.elements[child].parent == at && holds && (is_container(tag) || is_table_part(tag)) {
            at = child;
            if is_container(tag) || tag == ElementTag::Cell {
                settled = child;
            }
        }
    }
    settled
}

fn is_table_part(tag: ElementTag) -> bool {
    matches!(tag, ElementTag::Table | ElementTag::Row | ElementTag::Cell)
}

fn is_container(tag: ElementTag) -> bool {
    matches!(
        tag,
        ElementTag::Body
            | ElementTag::Main
            | ElementTag::Article
            | ElementTag::Section
            | ElementTag::Div
            | ElementTag::Form
            | ElementTag::Other
    )
}
