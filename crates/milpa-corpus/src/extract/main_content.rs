//! Chooses the blocks that are the page's own text.
//!
//! Each block is scored by trees over what [`super::features`] measures of it and around it. What is
//! likely enough is kept; how likely that must be follows from the page: where all is clear (an
//! article) more than where little is (a list of products), as the best choice for F1 has it
//! (Lipton et al. 2014). Copies of long blocks are left out: pages hold their text once for small
//! screens and once for large ones.

use std::collections::HashMap;

use super::{
    blocks::Page,
    features::{self, FEATURES},
    trees::Trees,
};

/// A block is kept if its likelihood is at least this share of half of the F1 to be expected: at
/// half of it, keeping a block neither helps nor harms; below, what people miss counts for more.
const CARE: f64 = 0.9;
/// The same for pages on which nothing was found.
const CARE_LOOSE: f64 = 0.35;
/// Blocks with so many words are kept once.
const LONG: u32 = 12;

/// How sure a block must be to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strictness {
    /// What a person would call the page's text.
    Normal,
    /// Also what may be: for pages with little text.
    Loose,
}

/// For each block the share of its words that likely are the page's text.
pub fn likelihoods(page: &Page) -> Vec<f32> {
    let rows = features::measure(page);
    let trees = Trees::embedded();
    rows.chunks_exact(FEATURES).map(|row| 1.0 / (1.0 + (-trees.score(row)).exp())).collect()
}

/// Returns the indices of the chosen blocks, in order.
pub fn choose(page: &Page, likelihoods: &[f32], strictness: Strictness) -> Vec<usize> {
    let first = first_copies(page);
    let care = match strictness {
        Strictness::Normal => CARE,
        Strictness::Loose => CARE_LOOSE,
    };
    let least = care * expected_f1(page, likelihoods, &first) / 2.0;
    (0..page.blocks.len()).filter(|&at| first[at] && f64::from(likelihoods[at]) >= least).collect()
}

/// For each block whether it is short, the first with its text, or beside the first: a refrain is
/// repeated on purpose, a copy stands in another part of the page.
fn first_copies(page: &Page) -> Vec<bool> {
    let mut seen: HashMap<&str, usize> = HashMap::new();
    page.blocks
        .iter()
        .map(|block| {
            let parent = page.elements[block.element].parent;
            block.words < LONG || *seen.entry(block.text.as_str()).or_insert(parent) == parent
        })
        .collect()
}

/// The F1 over words to be expected of the best choice: with the likeliest blocks up to any of
/// them, twice the words expected right over the words chosen and those expected to be wanted.
fn expected_f1(page: &Page, likelihoods: &[f32], first: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..likelihoods.len()).filter(|&at| first[at]).collect();
    order.sort_by(|&a, &b| likelihoods[b].total_cmp(&likelihoods[a]).then(a.cmp(&b)));
    let words = |at: usize| f64::from(page.blocks[at].words);
    let wanted: f64 = order.iter().map(|&at| f64::from(likelihoods[at]) * words(at)).sum();
    let (mut right, mut chosen, mut best) = (0.0, 0.0, 0.0f64);
    for at in order {
        right += f64::from(likelihoods[at]) * words(at);
        chosen += words(at);
        best = best.max(2.0 * right / (chosen + wanted).max(f64::MIN_POSITIVE));
    }
    best
}
