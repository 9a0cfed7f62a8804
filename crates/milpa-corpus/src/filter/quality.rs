//! Length, letters and prose: Gopher's quality rules (Rae et al. 2021, appendix A1.1).

use super::{Filter, Thresholds, Verdict, View, share};
use crate::document::Reason;

/// Number of words.
pub(super) struct Length;

impl Filter for Length {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let words = view.words.len() as f64;
        Verdict::below(Reason::Length, "number of words", words, t.min_words)
            .or_else(|| Verdict::above(Reason::Length, "number of words", words, t.max_words))
    }
}

/// Word length and the share of words that have letters.
pub(super) struct Letters;

impl Filter for Letters {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let count = view.words.len();
        let chars: usize = view.words.iter().map(|word| word.chars().count()).sum();
        let mean = share(chars, count);
        let lettered = view.words.iter().filter(|w| w.chars().any(char::is_alphabetic)).count();
        let what = "mean word length";
        Verdict::below(Reason::Quality, what, mean, t.min_mean_word_length)
            .or_else(|| Verdict::above(Reason::Quality, what, mean, t.max_mean_word_length))
            .or_else(|| {
                let what = "share of words with letters";
                Verdict::below(Reason::Quality, what, share(lettered, count), t.min_letter_words)
            })
    }
}

/// Symbols, bullets, ellipses, stop words.
pub(super) struct Prose;

impl Filter for Prose {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let above = |what, value, most| Verdict::above(Reason::Quality, what, value, most);
        // Headings are ours to write: their `#` are no symbols of the page.
        let symbols: usize = view
            .lines
            .iter()
            .map(|line| {
                let line = line.trim_start_matches('#');
                line.matches('#').count() + line.matches('…').count() + line.matches("...").count()
            })
            .sum();
        let bullets =
            view.lines.iter().filter(|l| l.starts_with(['-', '•', '*', '·', '●'])).count();
        let ellipses = view.lines.iter().filter(|l| l.ends_with('…') || l.ends_with("...")).count();
        let lines = view.lines.len();
        above("symbols per word", share(symbols, view.words.len()), t.max_symbols_per_word)
            .or_else(|| above("share of bulleted lines", share(bullets, lines), t.max_bullet_lines))
            .or_else(|| {
                let what = "share of lines that end in an ellipsis";
                above(what, share(ellipses, lines), t.max_ellipsis_lines)
            })
            .or_else(|| {
                let found = stop_words_found(view)?;
                let what = "number of different stop words";
                Verdict::below(Reason::Quality, what, found as f64, t.min_stop_words)
            })
    }
}

/// Words without which running text is hardly written, by language.
const STOP_WORDS: &[(&str, &[&str])] = &[
    ("eng", &["the", "be", "to", "of", "and", "that", "have", "with", "is", "in", "for"]),
    ("spa", &["el", "la", "de", "que", "y", "en", "los", "del", "se", "las", "por", "un", "con"]),
    ("por", &["o", "a", "de", "que", "e", "do", "da", "em", "um", "para", "com", "não", "uma"]),
    ("fra", &["le", "la", "les", "de", "des", "et", "que", "un", "une", "est", "pour", "dans"]),
    ("ita", &["il", "la", "di", "che", "e", "un", "una", "per", "non", "con", "del", "sono"]),
    ("cat", &["el", "la", "de", "que", "i", "en", "els", "les", "un", "una", "per", "amb"]),
    ("glg", &["o", "a", "de", "que", "e", "do", "da", "en", "un", "unha", "para", "con", "non"]),
];

/// Number of different stop words, or `None` for a language without a list.
fn stop_words_found(view: &View<'_>) -> Option<usize> {
    let (_, list) = STOP_WORDS.iter().find(|(language, _)| *language == view.language)?;
    let has = |wanted: &str| view.words.iter().any(|word| word.eq_ignore_ascii_case(wanted));
    Some(list.iter().filter(|stop| has(stop)).count())
}
