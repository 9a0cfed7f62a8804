//! Questions that ask the same in almost the same words.
//!
//! Two questions are alike if the Jaccard similarity of their words, without function words but with
//! what is asked ("when", "who"), reaches a threshold and their numbers are the same. Questions have
//! three to ten such words, far too few for estimates by MinHash, so the comparison is exact: a join
//! by prefixes of rare words (Chaudhuri, Ganti & Kaushik, ICDE 2006) finds every pair. A question is
//! compared with those that stay, not with those that went, so chains do not grow.

use std::collections::{BTreeMap, HashMap};

use milpa_base::hash_bytes;
use milpa_text::minhash::jaccard;

use super::{
    pattern::Word,
    rules::{Language, is_function_word},
};

/// What of a question is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Hashes of its words, sorted.
    words: Vec<u64>,
    /// Hash of its numbers: what asks for 1910 does not ask for 1911.
    numbers: u64,
}

impl Fingerprint {
    /// The fingerprint of a question.
    pub(crate) fn of(question: &str, language: Language) -> Self {
        let words = Word::all(question);
        let hash = |text: &str| {
            let digest = hash_bytes(text.as_bytes()).0;
            u64::from_le_bytes(digest[..8].try_into().expect("eight bytes"))
        };
        let asked = |word: &str| -> Option<&'static str> {
            // "¿Qué ciudad es…?" and "¿Cuál es…?" ask alike.
            Some(match word {
                "que" | "cual" | "cuales" | "qual" | "quais" | "what" | "which" => "?what",
                "quien" | "quienes" | "quem" | "who" | "whom" => "?who",
                "cuando" | "quando" | "when" => "?when",
                "donde" | "onde" | "where" => "?where",
                "cuanto" | "cuanta" | "cuantos" | "cuantas" | "quanto" | "quanta" | "quantos"
                | "quantas" | "many" | "much" => "?many",
                "como" | "how" => "?how",
                _ => return None,
            })
        };
        let mut hashes: Vec<u64> = words
            .iter()
            .filter_map(|word| match asked(&word.folded) {
                Some(kind) => Some(hash(kind)),
                None if !word.is_name && is_function_word(&word.folded, language) => None,
                None => Some(hash(&word.folded)),
            })
            .collect();
        hashes.sort_unstable();
        hashes.dedup();
        let mut numbers: Vec<&str> =
            words.iter().filter(|word| word.is_number()).map(|word| word.exact.as_str()).collect();
        numbers.sort_unstable();
        Self { words: hashes, numbers: hash(&numbers.join(" ")) }
    }

    fn similarity(&self, other: &Self) -> f64 {
        if self.numbers == other.numbers { jaccard(&self.words, &other.words) } else { 0.0 }
    }
}

/// Pairs of questions that are alike, found without comparing all.
pub(crate) struct Alike {
    threshold: f64,
    /// How many questions have a word: rare ones are looked up.
    frequency: HashMap<u64, u32>,
    /// Questions by the rare words of their prefix.
    index: HashMap<u64, Vec<usize>>,
    entered: BTreeMap<usize, Fingerprint>,
}

impl Alike {
    /// Begins with the words of all questions that will be compared.
    pub(crate) fn new(fingerprints: &[Fingerprint], threshold: f64) -> Self {
        let mut frequency = HashMap::new();
        for word in fingerprints.iter().flat_map(|fingerprint| &fingerprint.words) {
            *frequency.entry(*word).or_default() += 1;
        }
        Self { threshold, frequency, index: HashMap::new(), entered: BTreeMap::new() }
    }

    /// The questions entered so far that are alike, each with its similarity, by number.
    pub(crate) fn find(&self, fingerprint: &Fingerprint) -> Vec<(usize, f64)> {
        let mut near: Vec<usize> = self
            .prefix(fingerprint)
            .into_iter()
            .filter_map(|word| self.index.get(&word))
            .flatten()
            .copied()
            .collect();
        near.sort_unstable();
        near.dedup();
        let similarity = |number: usize| (number, self.entered[&number].similarity(fingerprint));
        near.into_iter().map(similarity).filter(|(_, s)| *s >= self.threshold).collect()
    }

    /// Enters a question under its number.
    pub(crate) fn enter(&mut self, number: usize, fingerprint: Fingerprint) {
        for word in self.prefix(&fingerprint) {
            self.index.entry(word).or_default().push(number);
        }
        self.entered.insert(number, fingerprint);
    }

    /// The rarest words, as many as any alike question must share one of: n − ⌈t·n⌉ + 1 of n.
    fn prefix(&self, fingerprint: &Fingerprint) -> Vec<u64> {
        let mut words = fingerprint.words.clone();
        words.sort_by_key(|word| (self.frequency.get(word).copied().unwrap_or(0), *word));
        let must_share = (self.threshold * words.len() as f64).ceil() as usize;
        words.truncate((words.len() + 1).saturating_sub(must_share));
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &str, b: &str, expect: bool) {
        let [a_print, b_print] = [a, b].map(|text| Fingerprint::of(text, Language::Es));
        let mut alike = Alike::new(&[a_print.clone(), b_print.clone()], 0.7);
        alike.enter(0, a_print);
        assert_eq!(!alike.find(&b_print).is_empty(), expect, "{a:?} and {b:?}");
    }

    #[test]
    fn the_same_in_other_words_is_alike_and_another_thing_is_not() {
        check("¿Cuál es la capital de Perú?", "cual es la capital del peru", true);
        check("¿Cuál es la capital de Perú?", "¿Qué ciudad es la capital del Perú?", true);
        check("¿Cuál es la capital de Perú?", "¿Cuál es la capital de Chile?", false);
        check("¿Cuándo nació Bolívar?", "¿Dónde nació Bolívar?", false);
        check("¿Cuándo nació Bolívar?", "¿Cuándo nació Simón Bolívar?", true);
        check("¿Quién ganó el mundial de 1950?", "¿Quién ganó el mundial de 1930?", false);
    }

    #[test]
    fn every_pair_is_found() {
        // All sets of three to six of nine words against each other: the join misses none.
        let sets: Vec<Fingerprint> = (0u32..512)
            .filter(|mask| (3..=6).contains(&mask.count_ones()))
            .map(|mask| Fingerprint {
                words: (0u32..9).filter(|bit| mask >> bit & 1 == 1).map(u64::from).collect(),
                numbers: 0,
            })
            .collect();
        let mut alike = Alike::new(&sets, 0.6);
        for (number, set) in sets.iter().enumerate() {
            let expect: Vec<usize> =
                (0..number).filter(|&other| sets[other].similarity(set) >= 0.6).collect();
            let found: Vec<usize> = alike.find(set).into_iter().map(|(other, _)| other).collect();
            assert_eq!(found, expect);
            alike.enter(number, set.clone());
        }
    }
}
