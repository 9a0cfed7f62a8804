//! Which known texts stand in a long one, in part or with changes: an index of word n-grams.
//!
//! Texts to be found are entered as items; a document is looked through once, and an item counts as
//! found if a share of its distinct n-grams stands in one stretch of the document not longer than
//! twice the item. The stretch matters: common phrases that lie scattered over a book add up to
//! nothing. Words are compared as [`mod@crate::word_hash`] does, in lower case, so that punctuation
//! and spacing do not matter; accents count. An n-gram is known by 64 bits. Sharing n-grams as the
//! sign of contamination is GPT-3's (Brown et al. 2020, n = 13), a share of them PaLM's (Chowdhery
//! et al. 2022: 70 % of 8-grams). It knows no evaluation sets.

use std::{collections::HashMap, ops::Range};

use serde::{Deserialize, Serialize};

use crate::word_hash::{HashedWord, runs_of_words, word_hashes};

/// Items that an n-gram can belong to: what stands in more (the same instruction before each
/// question) tells none of them.
const MAX_ITEMS_OF_GRAM: usize = 64;
/// Bits of the filter for each n-gram of the index.
const FILTER_BITS: usize = 16;
/// The longest n-gram.
const MAX_WORDS: u32 = 64;

/// What is compared and how much of it must be found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NgramConfig {
    /// Words of an n-gram.
    pub words: u32,
    /// Share of an item's distinct n-grams that must stand in one stretch, above 0 and at most 1.
    pub share: f64,
}

impl Default for NgramConfig {
    /// 8-grams, of which three in ten must be found: the most tolerant setting that found nothing
    /// in 24,000 natural documents (`reference/dedup_check.py contaminate`).
    fn default() -> Self {
        Self { words: 8, share: 0.3 }
    }
}

impl NgramConfig {
    /// Checks both values.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=MAX_WORDS).contains(&self.words) {
            return Err(format!("n-grams of {} words: 1 to {MAX_WORDS} make sense", self.words));
        }
        if !(self.share > 0.0 && self.share <= 1.0) {
            return Err(format!("a share of {} is not above 0 and at most 1", self.share));
        }
        Ok(())
    }
}

/// Collects items for an [`NgramIndex`].
#[derive(Debug, Clone, Default)]
pub struct NgramIndexBuilder {
    config: NgramConfig,
    grams: Vec<(u64, u32)>,
    /// Words of each item.
    items: Vec<u32>,
}

impl NgramIndexBuilder {
    /// Begins with no item. Values out of bounds are taken as the nearest that is in them.
    pub fn new(config: NgramConfig) -> Self {
        let words = config.words.clamp(1, MAX_WORDS);
        Self { config: NgramConfig { words, ..config }, ..Self::default() }
    }

    /// Enters a text and returns its number, or `None` if it is shorter than an n-gram: it cannot
    /// be found then.
    pub fn add(&mut self, text: &str) -> Option<u32> {
        let mut hashes: Vec<u64> = word_hashes(text).map(|word| word.hash).collect();
        let words = hashes.len();
        if words < self.config.words as usize {
            return None;
        }
        runs_of_words(&mut hashes, self.config.words as usize);
        let item = self.items.len() as u32;
        self.items.push(words as u32);
        self.grams.extend(hashes.into_iter().map(|hash| (hash, item)));
        Some(item)
    }

    /// Makes the index.
    pub fn build(self) -> NgramIndex {
        let Self { config, mut grams, items } = self;
        grams.sort_unstable();
        grams.dedup();
        let telling = |same: &&[(u64, u32)]| same.len() <= MAX_ITEMS_OF_GRAM;
        let grams: Vec<_> =
            grams.chunk_by(|a, b| a.0 == b.0).filter(telling).flatten().copied().collect();
        let mut items: Vec<Item> =
            items.into_iter().map(|words| Item { words, grams: 0 }).collect();
        for &(_, item) in &grams {
            items[item as usize].grams += 1;
        }
        let bits = (grams.len() * FILTER_BITS).next_power_of_two().max(64);
        let mut filter = vec![0u64; bits / 64];
        for &(hash, _) in &grams {
            let (word, bit) = place(hash, bits);
            filter[word] |= bit;
        }
        NgramIndex { config, grams, items, filter }
    }
}

#[derive(Debug, Clone, Copy)]
struct Item {
    words: u32,
    /// Distinct n-grams that tell it.
    grams: u32,
}

/// An item that was found in a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Overlap {
    /// Number of the item, as [`NgramIndexBuilder::add`] returned it.
    pub item: u32,
    /// Its distinct n-grams that stand in the stretch.
    pub matched: u32,
    /// Its distinct n-grams.
    pub grams: u32,
    /// The bytes of the document from the first of them to the last.
    pub range: Range<usize>,
    /// The bytes of the first n-gram found.
    pub first: Range<usize>,
}

impl Overlap {
    /// The share of the item's n-grams that was found.
    pub fn share(&self) -> f64 {
        f64::from(self.matched) / f64::from(self.grams)
    }
}

/// Finds items in documents.
#[derive(Debug, Clone)]
pub struct NgramIndex {
    config: NgramConfig,
    /// (hash of an n-gram, item), sorted.
    grams: Vec<(u64, u32)>,
    items: Vec<Item>,
    /// A bit is set for each n-gram; most n-grams of most documents end here.
    filter: Vec<u64>,
}

/// An n-gram of the index found in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hit {
    item: u32,
    /// Number of its first word in the document.
    at: u32,
    hash: u64,
}

impl NgramIndex {
    /// How it compares.
    pub fn config(&self) -> NgramConfig {
        self.config
    }

    /// Number of items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing can be found.
    pub fn is_empty(&self) -> bool {
        self.grams.is_empty()
    }

    /// Finds the items of which the configured share stands in `text`, in the order of their
    /// numbers, each with the stretch that holds most of it.
    pub fn find(&self, text: &str) -> Vec<Overlap> {
        if self.is_empty() {
            return Vec::new();
        }
        let length = self.config.words as usize;
        let mut grams: Vec<u64> = word_hashes(text).map(|word| word.hash).collect();
        if grams.len() < length {
            return Vec::new();
        }
        runs_of_words(&mut grams, length);
        let mut hits: Vec<Hit> = Vec::new();
        for (at, &hash) in grams.iter().enumerate() {
            let (word, bit) = place(hash, self.filter.len() * 64);
            if self.filter[word] & bit != 0 {
                let from = self.grams.partition_point(|&(other, _)| other < hash);
                let items = self.grams[from..].iter().take_while(|&&(other, _)| other == hash);
                hits.extend(items.map(|&(_, item)| Hit { item, at: at as u32, hash }));
            }
        }
        if hits.is_empty() {
            return Vec::new();
        }
        hits.sort_unstable();
        let words: Vec<HashedWord> = word_hashes(text).collect();
        hits.chunk_by(|a, b| a.item == b.item)
            .filter_map(|hits| self.best_stretch(hits, &words))
            .collect()
    }

    /// The stretch with most of an item, if it is enough. `hits` are of one item, in order.
    fn best_stretch(&self, hits: &[Hit], words: &[HashedWord]) -> Option<Overlap> {
        let number = hits[0].item;
        let item = self.items[number as usize];
        let least = (self.config.share * f64::from(item.grams)).ceil().max(1.0) as usize;
        if hits.len() < least {
            return None;
        }
        // Distinct n-grams among hits[begin..=end], with how often each stands there.
        let mut inside: HashMap<u64, u32> = HashMap::new();
        let mut begin = 0;
        let mut best = (0, 0, 0);
        for (end, hit) in hits.iter().enumerate() {
            *inside.entry(hit.hash).or_default() += 1;
            while hit.at - hits[begin].at > 2 * item.words {
                let leaving = hits[begin].hash;
                let count = inside.get_mut(&leaving).expect("it entered before");
                *count -= 1;
                if *count == 0 {
                    inside.remove(&leaving);
                }
                begin += 1;
            }
            if inside.len() > best.0 {
                best = (inside.len(), begin, end);
            }
        }
        let (matched, begin, end) = best;
        let gram = |hit: &Hit| {
            let from = hit.at as usize;
            words[from].start..words[from + self.config.words as usize - 1].end
        };
        let (first, last) = (gram(&hits[begin]), gram(&hits[end]));
        (matched >= least).then_some(Overlap {
            item: number,
            matched: matched as u32,
            grams: item.grams,
            range: first.start..last.end,
            first,
        })
    }
}

/// The word of a filter of `bits` bits, a power of two, and the bit in it.
#[inline]
fn place(hash: u64, bits: usize) -> (usize, u64) {
    let at = hash as usize & (bits - 1);
    (at / 64, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &str = "Los patos de Janet ponen 16 huevos por día. Ella come tres en el \
        desayuno todas las mañanas y usa cuatro para hornear magdalenas para sus amigos.";
    const OTHER: &str = "Una túnica lleva dos rollos de fibra azul y la mitad de fibra blanca; \
        ¿cuántos rollos lleva en total la túnica de la que se habla aquí?";

    fn index(words: u32, share: f64, texts: &[&str]) -> NgramIndex {
        let mut builder = NgramIndexBuilder::new(NgramConfig { words, share });
        for text in texts {
            builder.add(text);
        }
        builder.build()
    }

    /// (item, text of the stretch) of what is found.
    fn found<'a>(index: &NgramIndex, text: &'a str) -> Vec<(u32, &'a str)> {
        index.find(text).iter().map(|found| (found.item, &text[found.range.clone()])).collect()
    }

    #[test]
    fn a_planted_item_is_found_whatever_its_case_and_punctuation() {
        let index = index(8, 0.5, &[QUESTION, OTHER]);
        let filler = "palabra que nada tiene que ver ".repeat(50);
        let whole = QUESTION.trim_end_matches('.');
        let text = format!("{filler}. {QUESTION} {filler}");
        assert_eq!(found(&index, &text), [(0, whole)]);
        let shouted = QUESTION.to_uppercase().replace([',', '.'], " —\n");
        let overlap = &index.find(&format!("{filler}{shouted}{filler}"))[0];
        assert_eq!((overlap.item, overlap.share()), (0, 1.0));
        let both = format!("{OTHER} {filler} {QUESTION}");
        assert_eq!(found(&index, &both).len(), 2);
        assert_eq!(found(&index, &filler), []);
        assert_eq!(found(&index, ""), []);
    }

    #[test]
    fn the_share_decides_how_much_may_be_changed() {
        let words: Vec<&str> = QUESTION.split(' ').collect();
        let mut changed = words.clone();
        changed[14] = "cena";
        let changed = changed.join(" ");
        // 27 words, 20 n-grams, of which one word spoils eight.
        let overlap = &index(8, 0.5, &[QUESTION]).find(&changed)[0];
        assert_eq!((overlap.matched, overlap.grams), (12, 20));
        assert!(index(8, 0.7, &[QUESTION]).find(&changed).is_empty());
        assert_eq!(index(5, 0.7, &[QUESTION]).find(&changed).len(), 1);
    }

    #[test]
    fn what_lies_scattered_is_not_found() {
        let index = index(3, 0.5, &[QUESTION]);
        let filler = " y nada más ".repeat(40);
        let words: Vec<&str> = QUESTION.split(' ').collect();
        let scattered: Vec<String> = words.chunks(4).map(|words| words.join(" ")).collect();
        assert!(index.find(&scattered.join(&filler)).is_empty());
        assert_eq!(index.find(&scattered.join(" ")).len(), 1);
    }

    #[test]
    fn short_items_are_told_and_common_runs_tell_none() {
        let mut builder = NgramIndexBuilder::new(NgramConfig { words: 4, share: 0.5 });
        assert_eq!(builder.add("¿Cuánto es 2 + 2"), Some(0));
        assert_eq!(builder.add("¿Cuánto es?"), None);
        let preamble = "Elige la respuesta correcta entre las siguientes:";
        for number in 0..100u32 {
            assert_eq!(builder.add(&format!("{preamble} caso {number}")), Some(number + 1));
        }
        let index = builder.build();
        assert_eq!(index.len(), 101);
        assert!(index.find(preamble).is_empty());
        let text = format!("{preamble} caso 17");
        assert_eq!(found(&index, &text), [(18, "las siguientes: caso 17")]);
    }

    #[test]
    fn settings_out_of_bounds_are_told() {
        assert_eq!(NgramConfig::default().validate(), Ok(()));
        for (words, share, expect) in [(0, 0.5, "0 words"), (8, 0.0, "share of 0"), (8, 1.1, "1.1")]
        {
            let error = NgramConfig { words, share }.validate().unwrap_err();
            assert!(error.contains(expect), "{error}");
        }
    }
}
