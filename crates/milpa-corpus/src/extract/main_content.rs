//! Chooses the blocks that are the page's own text.
//!
//! Each block is scored by trees over what [`super::features`] measures of it and around it. On an
//! article, as other trees judge the page, what the rules say counts beside that: blocks are few
//! kinds there, and the rules know them. What is likely enough is kept; how likely that must be
//! follows from the page: where all is clear (an article) more than where little is (a list of
//! products), as the best choice for F1 has it (Lipton et al. 2014). Copies of long blocks are left
//! out: pages hold their text once for small screens and once for large ones, or once more for
//! machines.

use std::collections::HashMap;

use milpa_text::minhash::word_hash;

use super::{
    blocks::{Block, Page},
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
/// What the rules' opinion is worth on what is surely an article, in log-odds.
const TRUST: f32 = 3.0;
/// Log-odds beyond this are as sure as can be.
const SURE: f32 = 13.8;
/// Words of a run; and the share of a block's runs that stood before from which it is a copy.
const RUN: usize = 5;
const COPY: f32 = 0.8;

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
    let trees = Trees::blocks();
    let odds: Vec<f32> = rows.chunks_exact(FEATURES).map(|row| trees.score(row)).collect();
    let rules: Vec<bool> =
        rows.chunks_exact(FEATURES).map(|row| row[features::CHOSEN] > 0.0).collect();
    let Some(row) = rows.get(features::PAGE) else { return Vec::new() };
    let alone: Vec<f32> = odds.iter().map(|&odds| likelihood(odds)).collect();
    let article = likelihood(Trees::articles().score(&article_row(page, row, &alone, &rules)));
    let trust = TRUST * (2.0 * article - 1.0).max(0.0);
    let opinion = |chosen: bool| if chosen { trust } else { -trust };
    let both = odds.iter().zip(rules);
    both.map(|(odds, chosen)| likelihood(odds.clamp(-SURE, SURE) + opinion(chosen))).collect()
}

fn likelihood(odds: f32) -> f32 {
    1.0 / (1.0 + (-odds).exp())
}

/// What is known of a page when its blocks are scored: what holds for it as a whole, the F1 to be
/// expected of the likeliest blocks and of the rules' choice, and how these two agree.
fn article_row(page: &Page, whole: &[f32], likelihoods: &[f32], rules: &[bool]) -> Vec<f32> {
    let kept = choose(page, likelihoods, Strictness::Normal);
    let by_rules: Vec<usize> = (0..rules.len()).filter(|&at| rules[at]).collect();
    let both: Vec<usize> = kept.iter().copied().filter(|&at| rules[at]).collect();
    let words = |choice: &[usize]| -> f64 {
        choice.iter().map(|&at| f64::from(page.blocks[at].words)).sum()
    };
    let right = |choice: &[usize]| -> f64 {
        let likely = |&at: &usize| f64::from(likelihoods[at]) * f64::from(page.blocks[at].words);
        choice.iter().map(likely).sum()
    };
    let wanted = right(&(0..likelihoods.len()).collect::<Vec<_>>());
    let expected = |choice: &[usize]| 2.0 * right(choice) / (words(choice) + wanted).max(1e-9);
    let mut row = whole.to_vec();
    row.extend([
        expected(&kept) as f32,
        expected(&by_rules) as f32,
        (2.0 * words(&both) / (words(&kept) + words(&by_rules)).max(1.0)) as f32,
        words(&kept).ln_1p() as f32,
        words(&by_rules).ln_1p() as f32,
        by_rules.len() as f32,
    ]);
    row
}

/// Returns the indices of the chosen blocks, in order.
pub fn choose(page: &Page, likelihoods: &[f32], strictness: Strictness) -> Vec<usize> {
    let best = best_copies(page, likelihoods);
    let care = match strictness {
        Strictness::Normal => CARE,
        Strictness::Loose => CARE_LOOSE,
    };
    let least = care * expected_f1(page, likelihoods, &best) / 2.0;
    let enough = |&at: &usize| best[at] && f64::from(likelihoods[at]) >= least;
    let chosen = (0..page.blocks.len()).filter(enough).collect();
    without_copies(page, chosen)
}

/// For each block whether it is short, the likeliest with its text, or beside that one: a refrain is
/// repeated on purpose, a copy stands in another part of the page.
fn best_copies(page: &Page, likelihoods: &[f32]) -> Vec<bool> {
    let mut best: HashMap<&str, usize> = HashMap::new();
    for (at, block) in page.blocks.iter().enumerate().filter(|(_, block)| block.words >= LONG) {
        let known = best.entry(&block.text).or_insert(at);
        if likelihoods[at] > likelihoods[*known] {
            *known = at;
        }
    }
    let beside = |block: &Block| best[block.text.as_str()];
    page.blocks
        .iter()
        .map(|block| {
            block.words < LONG || parent(page, block) == parent(page, &page.blocks[beside(block)])
        })
        .collect()
}

fn parent(page: &Page, block: &Block) -> usize {
    page.elements[block.element].parent
}

/// Leaves out long blocks of which most was said before in other parts of the page, however it was cut
/// into blocks there.
fn without_copies(page: &Page, mut chosen: Vec<usize>) -> Vec<usize> {
    // Each run of words with the part of the page in which it stands first.
    let mut said: HashMap<u64, usize> = HashMap::new();
    chosen.retain(|&at| {
        let block = &page.blocks[at];
        if block.words < LONG {
            return true;
        }
        let (runs, own) = (runs_of(&block.text), parent(page, block));
        let again = |run: &&u64| said.get(run).is_some_and(|&parent| parent != own);
        let again = runs.iter().filter(again).count();
        let copy = !runs.is_empty() && again as f32 >= COPY * runs.len() as f32;
        if !copy {
            for run in runs {
                said.entry(run).or_insert(own);
            }
        }
        !copy
    });
    chosen
}

/// Hashes of the runs of words of a text, each once.
fn runs_of(text: &str) -> Vec<u64> {
    let words: Vec<u64> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word_hash(&word.to_lowercase()))
        .collect();
    let run = |words: &[u64]| {
        words.iter().fold(0u64, |hash, word| {
            (hash ^ word).rotate_left(23).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        })
    };
    let mut runs: Vec<u64> = words.windows(RUN).map(run).collect();
    runs.sort_unstable();
    runs.dedup();
    runs
}

/// The F1 over words to be expected of the best choice: with the likeliest blocks up to any of
/// them, twice the words expected right over the words chosen and those expected to be wanted.
fn expected_f1(page: &Page, likelihoods: &[f32], best: &[bool]) -> f64 {
    let mut order: Vec<usize> = (0..likelihoods.len()).filter(|&at| best[at]).collect();
    order.sort_by(|&a, &b| likelihoods[b].total_cmp(&likelihoods[a]).then(a.cmp(&b)));
    let words = |at: usize| f64::from(page.blocks[at].words);
    let wanted: f64 = order.iter().map(|&at| f64::from(likelihoods[at]) * words(at)).sum();
    let (mut right, mut chosen, mut most) = (0.0, 0.0, 0.0f64);
    for at in order {
        right += f64::from(likelihoods[at]) * words(at);
        chosen += words(at);
        most = most.max(2.0 * right / (chosen + wanted).max(f64::MIN_POSITIVE));
    }
    most
}
