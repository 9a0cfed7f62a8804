//! Chooses blocks by rules alone: a first opinion, that the trees of [`super::trees`] are told.
//!
//! In the line of jusText (Pomikálek 2011) and boilerpipe (Kohlschütter et al. 2010): blocks are
//! judged by length, link density and place, short ones by their neighbours; over the blocks, the
//! element that holds most of the good ones bounds the text.

use super::{
    blocks::{Block, BlockKind, Element, ElementTag, Page, ROOT},
    features::is_running_text,
    hints::Hint,
};

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

/// For each block whether the rules choose it.
pub(super) fn choose(page: &Page) -> Vec<bool> {
    let mut classes: Vec<Class> = page.blocks.iter().map(class_by_text).collect();
    let boilerplate = inherited(page, &classes);
    for (block, class) in page.blocks.iter().zip(&mut classes) {
        if boilerplate[block.element] {
            *class = Class::Bad;
        }
    }
    let container = main_element(page, &classes);
    let inside = spread(&page.elements, |at, _| at == container);
    let candidates: Vec<usize> =
        (0..page.blocks.len()).filter(|&at| inside[page.blocks[at].element]).collect();
    let mut chosen = vec![false; page.blocks.len()];
    for (place, &at) in candidates.iter().enumerate() {
        chosen[at] = match classes[at] {
            Class::Good => true,
            Class::Bad => false,
            Class::Short => is_kept_short(page, &classes, &candidates, place),
        };
    }
    chosen
}

/// Judges a block by its own text and links.
fn class_by_text(block: &Block) -> Class {
    let density = f64::from(block.link_words) / f64::from(block.words.max(1));
    let heading = matches!(block.kind, BlockKind::Heading(_));
    if is_running_text(block) {
        Class::Good
    } else if block.words > 0 && !heading && density > 0.5 {
        Class::Bad
    } else {
        Class::Short
    }
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

/// Share of the page's running text from which an element is no boilerplate, whatever it is called:
/// `content-with-sidebar` is the page itself.
const TOO_MUCH_FOR_BOILERPLATE: f64 = 0.5;

/// For each element whether it or an ancestor is boilerplate.
fn inherited(page: &Page, classes: &[Class]) -> Vec<bool> {
    let sure = spread(&page.elements, |_, element| {
        matches!(element.hint, Hint::Boilerplate | Hint::Hidden)
    });
    let shown = |at: usize| !sure[page.blocks[at].element];
    let weight = weights(page, |at| classes[at] == Class::Good && shown(at));
    let most = TOO_MUCH_FOR_BOILERPLATE * weight[ROOT].max(1) as f64;
    spread(&page.elements, |at, element| {
        let named = matches!(element.hint, Hint::Named | Hint::Comments);
        sure[at] || (named && (weight[at] as f64) < most)
    })
}

/// For each element whether `own` holds for it or an ancestor.
fn spread(elements: &[Element], own: impl Fn(usize, &Element) -> bool) -> Vec<bool> {
    let mut out = vec![false; elements.len()];
    for (at, element) in elements.iter().enumerate() {
        // Parents come first, so their answer is known.
        out[at] = own(at, element) || (at != ROOT && out[element.parent]);
    }
    out
}

/// Words of good text in each element with all that is in it.
fn weights(page: &Page, is_good: impl Fn(usize) -> bool) -> Vec<u64> {
    let mut weight = vec![0u64; page.elements.len()];
    for (at, block) in page.blocks.iter().enumerate() {
        if is_good(at) {
            weight[block.element] += u64::from(block.words);
        }
    }
    // Children come after their parents: one pass from the end sums up whole subtrees.
    for at in (1..page.elements.len()).rev() {
        let own = weight[at];
        weight[page.elements[at].parent] += own;
    }
    weight
}

/// The innermost element that holds most of the good text.
fn main_element(page: &Page, classes: &[Class]) -> usize {
    let weight = weights(page, |at| classes[at] == Class::Good);
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
