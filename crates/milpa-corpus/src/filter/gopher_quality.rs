//! Gopher's quality rules (Rae et al. 2021, appendix A1.1): length, word length, symbols, bullets,
//! ellipses, letters, stop words.

use super::{
    Filter, Thresholds, Verdict, View,
    characters::{is_mark, lines, strip},
    share,
};
use crate::document::Reason;

/// Gopher's quality rules, in datatrove's order.
#[derive(Debug, Clone, Copy, Default)]
pub struct GopherQuality {
    /// Reads the text as Markdown: the `#` that a line begins with are a heading's and no symbols.
    /// datatrove counts them.
    pub markdown: bool,
}

impl Filter for GopherQuality {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let (below, above) = (Verdict::below, Verdict::above);
        let count = view.words.len();
        let (mut words, mut chars, mut lettered) = (0, 0, 0);
        for word in &view.words {
            if word.is_ascii() {
                let bytes = word.as_bytes();
                let letter = bytes.iter().any(u8::is_ascii_alphabetic);
                lettered += usize::from(letter);
                if letter || !bytes.iter().all(|&byte| is_mark(char::from(byte))) {
                    words += 1;
                    chars += bytes.len();
                }
            } else {
                lettered += usize::from(word.chars().any(char::is_alphabetic));
                if !word.chars().all(is_mark) {
                    words += 1;
                    chars += word.chars().count();
                }
            }
        }
        let (length, quality) = (Reason::Length, Reason::Quality);
        let mean = share(chars, words);
        let what = "number of words";
        let of_words = below(length, "gopher_short_doc", what, words as f64, t.min_words)
            .or_else(|| above(length, "gopher_long_doc", what, words as f64, t.max_words))
            .or_else(|| {
                let (rule, least) = ("gopher_below_avg_threshold", t.min_mean_word_length);
                below(quality, rule, "mean word length", mean, least)
            })
            .or_else(|| {
                let (rule, most) = ("gopher_above_avg_threshold", t.max_mean_word_length);
                above(quality, rule, "mean word length", mean, most)
            });
        if of_words.is_some() {
            return of_words;
        }
        let hashes = share(self.hashes(view.text), count);
        let ellipses = view.text.matches("...").count() + view.text.matches('…').count();
        let most = t.max_symbols_per_word;
        let of_symbols = above(quality, "gopher_too_many_hashes", "# per word", hashes, most)
            .or_else(|| {
                let (rule, found) = ("gopher_too_many_ellipsis", share(ellipses, count));
                above(quality, rule, "ellipses per word", found, most)
            });
        if of_symbols.is_some() {
            return of_symbols;
        }
        let (mut all, mut bullets, mut cut) = (0, 0, 0);
        for line in lines(view.text) {
            all += 1;
            let line = strip(line);
            bullets += usize::from(line.starts_with(['•', '-']));
            cut += usize::from(line.ends_with("...") || line.ends_with('…'));
        }
        let rule = "gopher_too_many_bullets";
        above(quality, rule, "share of bulleted lines", share(bullets, all), t.max_bullet_lines)
            .or_else(|| {
                let (rule, most) = ("gopher_too_many_end_ellipsis", t.max_ellipsis_lines);
                above(
                    quality,
                    rule,
                    "share of lines that end in an ellipsis",
                    share(cut, all),
                    most,
                )
            })
            .or_else(|| {
                let (rule, least) = ("gopher_below_alpha_threshold", t.min_letter_words);
                below(quality, rule, "share of words with letters", share(lettered, count), least)
            })
            .or_else(|| {
                let found = stop_words(view, t)? as f64;
                let (rule, what) = ("gopher_enough_stop_words", "number of different stop words");
                below(quality, rule, what, found, t.min_stop_words)
            })
    }
}

impl GopherQuality {
    fn hashes(self, text: &str) -> usize {
        let all = text.matches('#').count();
        if !self.markdown || all == 0 {
            return all;
        }
        let of_headings: usize =
            lines(text).map(|line| line.len() - line.trim_start_matches('#').len()).sum();
        all - of_headings
    }
}

/// Number of different stop words, or `None` for a language without a list.
fn stop_words(view: &View<'_>, t: &Thresholds) -> Option<usize> {
    let mut missing: Vec<&str> = t.stop_words.iter().map(String::as_str).collect();
    if missing.is_empty() {
        return None;
    }
    let enough = t.min_stop_words.ceil().max(0.0) as usize;
    let all = missing.len();
    for word in &view.words {
        if all - missing.len() >= enough {
            break;
        }
        missing.retain(|stop| stop != word);
    }
    Some(all - missing.len())
}
