//! What is measured of each text block, so that a model can tell the page's text from the rest.
//!
//! Lengths, link shares, places, repetition and the marks of the elements around, at several
//! sizes of surroundings: nothing that depends on a language or a site. In the line of boilerpipe
//! (Kohlschütter et al. 2010) and Web2Text (Vogels et al. 2018). Work is linear in blocks and
//! elements. A change of the list below needs a new model (`reference/extraction_train.py`).

use std::{collections::HashMap, ops::Range};

use super::{
    blocks::{Block, BlockKind, Element, Page, ROOT},
    marks::{MARKS, Mark, Marks},
    rules,
};

/// Numbers per block.
pub const FEATURES: usize = 154 + 2 * MARKS;

/// Column of what the rules think of a block: 1 if they choose it.
pub(super) const CHOSEN: usize = 115;
/// Columns of what holds for the page as a whole: the same in all rows of it.
pub(super) const PAGE: Range<usize> = 135..154;

/// Surroundings of a block are its smallest ancestors with at least so many words.
const SIZES: [u32; 5] = [15, 50, 150, 500, 2000];
/// Blocks before and after that are looked at in sum.
const WINDOWS: [usize; 2] = [4, 12];
/// Siblings of one look from which they are a list of things.
const REPEATED: u32 = 3;

/// Sums over all blocks in an element.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    blocks: u32,
    words: u32,
    link_words: u32,
    /// Words of running text.
    good_words: u32,
    /// Words that the rules choose.
    chosen_words: u32,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.blocks += other.blocks;
        self.words += other.words;
        self.link_words += other.link_words;
        self.good_words += other.good_words;
        self.chosen_words += other.chosen_words;
    }
}

/// What is known of an element after one pass down and one pass up.
#[derive(Debug, Clone, Copy, Default)]
struct Around {
    sums: Sums,
    /// Marks of the element and everything around it.
    all: Marks,
    /// Marks of the element and the two around it.
    near: Marks,
    /// The nearest element, itself or around it, that stands among siblings of its look.
    repeated: u32,
    /// Siblings of this look, itself counted.
    alike: u32,
    /// Words in all siblings of this look.
    alike_words: u32,
    alike_link_words: u32,
    alike_good_words: u32,
    alike_chosen_words: u32,
}

/// Measures all blocks of a page: [`FEATURES`] numbers each, one row after the other.
pub fn measure(page: &Page) -> Vec<f32> {
    let chosen = rules::choose(page);
    let around = look_around(page, &chosen);
    let context = Context::new(page, &around, chosen);
    let mut out = Vec::with_capacity(page.blocks.len() * FEATURES);
    for at in 0..page.blocks.len() {
        context.row(at, &mut out);
    }
    out
}

/// Whether a block looks like running text by its own words and links.
pub fn is_running_text(block: &Block) -> bool {
    let density = share(block.link_words, block.words);
    match block.kind {
        _ if block.words == 0 => false,
        BlockKind::Heading(_) => false,
        BlockKind::Code => true,
        _ if density > 0.5 => false,
        _ if block.words >= 12 && density < 0.34 => true,
        _ => block.words >= 6 && density < 0.2 && ends_a_sentence(&block.text),
    }
}

/// Words of a page's running text.
pub fn running_words(page: &Page) -> u32 {
    page.blocks.iter().filter(|block| is_running_text(block)).map(|block| block.words).sum()
}

fn ends_a_sentence(text: &str) -> bool {
    let text = text.trim_end_matches(['"', '”', '»', ')', '’', '\'', ' ']);
    text.ends_with(['.', '!', '?', '…', ':', ';', '。', '！', '？', '।', '؟'])
}

fn look_around(page: &Page, chosen: &[bool]) -> Vec<Around> {
    let elements = &page.elements;
    let mut around = vec![Around::default(); elements.len()];
    for (block, &chosen) in page.blocks.iter().zip(chosen) {
        around[block.element].sums.add(sums_of(block, chosen));
    }
    // Children come after their parents: one pass from the end sums up whole subtrees.
    for at in (1..elements.len()).rev() {
        let sums = around[at].sums;
        around[elements[at].parent].sums.add(sums);
    }
    let mut siblings: HashMap<(usize, u32), Sums> = HashMap::new();
    for (at, element) in elements.iter().enumerate().skip(1) {
        let group = siblings.entry((element.parent, element.look)).or_default();
        // `blocks` counts the siblings here.
        group.add(Sums { blocks: 1, ..around[at].sums });
    }
    for (at, element) in elements.iter().enumerate() {
        let own = element.marks;
        if at == ROOT {
            (around[at].all, around[at].near) = (own, own);
            continue;
        }
        let parent = around[element.parent];
        let grandparent = elements[element.parent].parent;
        let near = own.0 | elements[element.parent].marks.0 | elements[grandparent].marks.0;
        let group = siblings[&(element.parent, element.look)];
        let this = &mut around[at];
        this.all = Marks(parent.all.0 | own.0);
        this.near = Marks(near);
        this.alike = group.blocks;
        this.alike_words = group.words;
        this.alike_link_words = group.link_words;
        this.alike_good_words = group.good_words;
        this.alike_chosen_words = group.chosen_words;
        this.repeated = if group.blocks >= REPEATED { at as u32 } else { parent.repeated };
    }
    around
}

fn sums_of(block: &Block, chosen: bool) -> Sums {
    Sums {
        blocks: 1,
        words: block.words,
        link_words: block.link_words,
        good_words: if is_running_text(block) { block.words } else { 0 },
        chosen_words: if chosen { block.words } else { 0 },
    }
}

/// What all blocks of a page share.
struct Context<'a> {
    page: &'a Page,
    around: &'a [Around],
    total: Sums,
    /// For each block whether the rules choose it.
    chosen: Vec<bool>,
    chosen_before: Vec<u32>,
    /// Words in the blocks before each block; one more at the end.
    words_before: Vec<u32>,
    links_before: Vec<u32>,
    good_before: Vec<u32>,
    /// For each block the last heading before it.
    heading_before: Vec<Option<u32>>,
    first_title: Option<usize>,
    copies: HashMap<&'a str, u32>,
    /// Blocks in elements of one look under parents of one look.
    looks: HashMap<(u32, u32), Sums>,
    title: String,
    description: String,
    page_row: Vec<f32>,
}

impl<'a> Context<'a> {
    fn new(page: &'a Page, around: &'a [Around], chosen: Vec<bool>) -> Self {
        let (mut words_before, mut links_before, mut good_before) = (vec![0], vec![0], vec![0]);
        let (mut chosen_before, mut before) = (vec![0], Sums::default());
        let mut heading_before = Vec::with_capacity(page.blocks.len());
        let mut heading = None;
        let mut copies: HashMap<&str, u32> = HashMap::new();
        let mut looks: HashMap<(u32, u32), Sums> = HashMap::new();
        for (at, block) in page.blocks.iter().enumerate() {
            let own = sums_of(block, chosen[at]);
            before.add(own);
            words_before.push(before.words);
            links_before.push(before.link_words);
            good_before.push(before.good_words);
            chosen_before.push(before.chosen_words);
            heading_before.push(heading);
            if matches!(block.kind, BlockKind::Heading(_)) {
                heading = Some(at as u32);
            }
            *copies.entry(&block.text).or_default() += 1;
            looks.entry(look_of(page, block.element)).or_default().add(own);
        }
        let total = around[ROOT].sums;
        let first_title = page.blocks.iter().position(|block| block.kind == BlockKind::Heading(1));
        Self {
            page,
            around,
            total,
            chosen,
            chosen_before,
            words_before,
            links_before,
            good_before,
            heading_before,
            first_title,
            copies,
            looks,
            title: page.title.to_lowercase(),
            description: page.description.to_lowercase(),
            page_row: page_row(page, total),
        }
    }

    /// Appends the numbers of one block.
    fn row(&self, at: usize, out: &mut Vec<f32>) {
        let start = out.len();
        let block = &self.page.blocks[at];
        let around = &self.around[block.element];
        self.own(block, out);
        self.neighbours(at, out);
        self.place(at, out);
        self.surroundings(block, out);
        self.repetition(block, out);
        debug_assert_eq!(out.len() - start, CHOSEN);
        self.opinion(at, out);
        debug_assert_eq!(out.len() - start..out.len() - start + self.page_row.len(), PAGE);
        out.extend_from_slice(&self.page_row);
        for set in [around.all, around.near] {
            out.extend((0..MARKS).map(|bit| ((set.0 >> bit) & 1) as f32));
        }
        debug_assert_eq!(out.len() - start, FEATURES);
    }

    fn own(&self, block: &Block, out: &mut Vec<f32>) {
        let (mut characters, mut digits, mut upper, mut marks, mut ends) = (0u32, 0, 0, 0, 0);
        for c in block.text.chars() {
            characters += 1;
            digits += u32::from(c.is_ascii_digit());
            upper += u32::from(c.is_uppercase());
            marks += u32::from(c.is_ascii_punctuation());
            ends += u32::from(matches!(c, '.' | '!' | '?' | '…' | '。'));
        }
        let lower = block.text.to_lowercase();
        let short = lower.len() <= 200 && lower.len() >= 3;
        out.extend([
            log(block.words),
            characters as f32 / block.words.max(1) as f32,
            share(block.link_words, block.words),
            share(block.bold_words, block.words),
            flag(ends_a_sentence(&block.text)),
            flag(block.text.chars().next().is_some_and(char::is_uppercase)),
            share(digits, characters),
            share(upper, characters),
            share(marks, characters),
            ends as f32 / block.words.max(1) as f32,
            kind_number(block.kind),
            match block.kind {
                BlockKind::Item { depth, .. } => f32::from(depth) + 1.0,
                _ => 0.0,
            },
            flag(matches!(block.kind, BlockKind::Item { number: Some(_), .. })),
            flag(is_running_text(block)),
            block.text.matches('\n').count().min(20) as f32,
            log(self.copies[block.text.as_str()] - 1),
            flag(short && self.title.contains(&lower)),
            flag(!self.description.is_empty() && starts_alike(&lower, &self.description)),
            f32::from(self.page.elements[block.element].depth),
        ]);
    }

    fn neighbours(&self, at: usize, out: &mut Vec<f32>) {
        let blocks = &self.page.blocks;
        let own = &blocks[at];
        for other in [at.checked_sub(2), at.checked_sub(1), Some(at + 1), Some(at + 2)] {
            let Some(other) = other.and_then(|other| blocks.get(other)) else {
                out.extend([-1.0; 6]);
                continue;
            };
            out.extend([
                log(other.words),
                share(other.link_words, other.words),
                flag(is_running_text(other)),
                kind_number(other.kind),
                flag(self.parent(other) == self.parent(own)),
                flag(look_of(self.page, other.element) == look_of(self.page, own.element)),
            ]);
        }
        for window in WINDOWS {
            let (from, to) = (at.saturating_sub(window), (at + 1 + window).min(blocks.len()));
            for (from, to) in [(from, at), (at + 1, to)] {
                let words = self.words_before[to] - self.words_before[from];
                out.extend([
                    log(words),
                    share(self.links_before[to] - self.links_before[from], words),
                    share(self.good_before[to] - self.good_before[from], words),
                ]);
            }
        }
    }

    fn parent(&self, block: &Block) -> usize {
        self.page.elements[block.element].parent
    }

    fn place(&self, at: usize, out: &mut Vec<f32>) {
        let count = self.page.blocks.len();
        let before = self.words_before[at];
        let after = self.total.words - self.words_before[at + 1];
        let good_after = self.total.good_words - self.good_before[at + 1];
        let heading = self.heading_before[at].map(|heading| heading as usize);
        let title =
            self.first_title.map_or(-100.0, |title| (at as f32 - title as f32).clamp(-99.0, 300.0));
        out.extend([
            at as f32 / count as f32,
            log(at as u32),
            log((count - at) as u32),
            before as f32 / self.total.words.max(1) as f32,
            log(before),
            log(after),
            share(self.good_before[at], self.total.good_words),
            log(self.good_before[at]),
            log(good_after),
            title,
            heading.map_or(-1.0, |heading| log((at - heading) as u32)),
            heading.map_or(-1.0, |heading| kind_number(self.page.blocks[heading].kind)),
            heading.map_or(-1.0, |heading| log(before - self.words_before[heading])),
        ]);
    }

    fn surroundings(&self, block: &Block, out: &mut Vec<f32>) {
        let elements = &self.page.elements;
        let mut at = block.element;
        for size in SIZES {
            while at != ROOT && self.around[at].sums.words < size {
                at = elements[at].parent;
            }
            let sums = self.around[at].sums;
            out.extend([
                log(sums.words),
                share(sums.link_words, sums.words),
                share(sums.good_words, sums.words),
                sums.words as f32 / sums.blocks.max(1) as f32,
            ]);
        }
        // How far up is what holds half, or nearly all, of the page's running text?
        for part in [0.5, 0.8] {
            let wanted = part * self.total.good_words.max(1) as f32;
            let (mut at, mut steps) = (block.element, 0.0);
            while at != ROOT && (self.around[at].sums.good_words as f32) < wanted {
                at = elements[at].parent;
                steps += 1.0;
            }
            let sums = self.around[at].sums;
            out.extend([
                steps,
                f32::from(elements[at].depth),
                share(sums.link_words, sums.words),
                share(sums.words, self.total.words),
            ]);
        }
        let parent = elements[block.element].parent;
        for at in [block.element, parent, elements[parent].parent] {
            let sums = self.around[at].sums;
            out.extend([log(sums.words), share(sums.link_words, sums.words), log(sums.blocks)]);
        }
    }

    /// What the rules think of the block and of what is around it.
    fn opinion(&self, at: usize, out: &mut Vec<f32>) {
        let block = &self.page.blocks[at];
        out.push(flag(self.chosen[at]));
        for window in WINDOWS {
            let (from, to) = (at.saturating_sub(window), (at + 1 + window).min(self.chosen.len()));
            for (from, to) in [(from, at), (at + 1, to)] {
                let words = self.words_before[to] - self.words_before[from];
                out.push(share(self.chosen_before[to] - self.chosen_before[from], words));
            }
        }
        let element = &self.page.elements[block.element];
        let parent = &self.page.elements[element.parent];
        for element in [block.element, element.parent, parent.parent] {
            let sums = self.around[element].sums;
            out.push(share(sums.chosen_words, sums.words));
        }
        let mut element = block.element;
        for size in SIZES {
            while element != ROOT && self.around[element].sums.words < size {
                element = self.page.elements[element].parent;
            }
            let sums = self.around[element].sums;
            out.push(share(sums.chosen_words, sums.words));
        }
        let repeated = &self.around[self.around[block.element].repeated as usize];
        let look = self.looks[&look_of(self.page, block.element)];
        let total = self.total;
        out.extend([
            share(repeated.sums.chosen_words, repeated.sums.words),
            share(repeated.alike_chosen_words, repeated.alike_words),
            share(look.chosen_words, look.words),
            share(total.chosen_words, total.words),
            log(total.chosen_words),
            share(self.chosen_before[at], total.chosen_words),
            share(total.chosen_words - self.chosen_before[at + 1], total.chosen_words),
        ]);
    }

    fn repetition(&self, block: &Block, out: &mut Vec<f32>) {
        let look = self.looks[&look_of(self.page, block.element)];
        out.extend([
            log(look.blocks),
            look.words as f32 / look.blocks.max(1) as f32,
            share(look.link_words, look.words),
            share(look.words, self.total.words),
        ]);
        let at = self.around[block.element].repeated as usize;
        let (this, steps) = (&self.around[at], self.page.elements[block.element].depth);
        out.extend([
            log(this.alike),
            this.alike_words as f32 / this.alike.max(1) as f32,
            share(this.alike_link_words, this.alike_words),
            share(this.alike_good_words, this.alike_words),
            share(this.alike_words, self.total.words),
            f32::from(steps - self.page.elements[at].depth),
        ]);
    }
}

/// What holds for the page as a whole.
fn page_row(page: &Page, total: Sums) -> Vec<f32> {
    let count = |mark: Mark| {
        log(page.elements.iter().filter(|element| element.marks.has(mark)).count() as u32)
    };
    let headings =
        page.blocks.iter().filter(|block| matches!(block.kind, BlockKind::Heading(_))).count();
    let says = |names: &[&str]| flag(names.iter().any(|name| page.data.contains(name)));
    vec![
        log(total.words),
        log(total.blocks),
        share(total.link_words, total.words),
        share(total.good_words, total.words),
        page.tags as f32 / total.words.max(1) as f32,
        log(headings as u32),
        count(Mark::Main),
        count(Mark::Article),
        count(Mark::Post),
        count(Mark::Comment),
        count(Mark::Product),
        count(Mark::Card),
        flag(page.kind.contains("article")),
        flag(page.kind.contains("product")),
        says(&["Article\"", "BlogPosting\""]),
        says(&["\"Product\""]),
        says(&["\"DiscussionForumPosting\"", "\"QAPage\""]),
        says(&["\"ItemList\"", "\"CollectionPage\""]),
        says(&["\"FAQPage\""]),
    ]
}

fn look_of(page: &Page, element: usize) -> (u32, u32) {
    let this: &Element = &page.elements[element];
    (this.look, page.elements[this.parent].look)
}

/// Whether a block and the page's description begin with the same forty bytes or are one the
/// beginning of the other.
fn starts_alike(text: &str, description: &str) -> bool {
    let length = text.len().min(description.len()).min(40);
    length >= 10 && text.as_bytes()[..length] == description.as_bytes()[..length]
}

fn kind_number(kind: BlockKind) -> f32 {
    match kind {
        BlockKind::Text => 0.0,
        BlockKind::Item { .. } => 1.0,
        BlockKind::Cell { .. } => 2.0,
        BlockKind::Code => 3.0,
        BlockKind::Heading(level) => 11.0 - f32::from(level),
    }
}

fn log(count: u32) -> f32 {
    ((1 + count) as f32).ln()
}

fn share(part: u32, whole: u32) -> f32 {
    part as f32 / whole.max(1) as f32
}

fn flag(value: bool) -> f32 {
    f32::from(u8::from(value))
}
