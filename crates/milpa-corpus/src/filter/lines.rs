//! Lines: what C4 (Raffel et al. 2020) and FineWeb (Penedo et al. 2024) ask of them.

use super::{Filter, Thresholds, Verdict, View, blocklist, share};
use crate::document::Reason;

/// A line below this number of characters is short.
const SHORT_LINE_CHARS: usize = 30;
/// A longer line is text even if it speaks of cookies.
const MAX_NOTICE_CHARS: usize = 200;

/// Ends of sentences, short lines, lines per word, filler text.
pub(super) struct Lines;

impl Filter for Lines {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        if view.text.contains("lorem ipsum") || view.text.contains("Lorem ipsum") {
            return Some(Verdict { reason: Reason::Lines, detail: "lorem ipsum".to_owned() });
        }
        let count = view.lines.len();
        // A heading is short by nature and well written without a full stop.
        let body: Vec<&&str> = view.lines.iter().filter(|line| !line.starts_with('#')).collect();
        let ended = body.iter().filter(|line| ends_a_sentence(line)).count();
        let is_short =
            |line: &&&&str| line.chars().take(SHORT_LINE_CHARS).count() < SHORT_LINE_CHARS;
        let short = body.iter().filter(is_short).count();
        let what = "share of lines that end a sentence";
        Verdict::below(Reason::Lines, what, share(ended, body.len()), t.min_sentence_lines)
            .or_else(|| {
                let what = "share of short lines";
                Verdict::above(Reason::Lines, what, share(short, body.len()), t.max_short_lines)
            })
            .or_else(|| {
                let lines = share(count, view.words.len());
                Verdict::above(Reason::Lines, "lines per word", lines, t.max_lines_per_word)
            })
    }
}

fn ends_a_sentence(line: &str) -> bool {
    line.trim_end_matches(['"', '”', '»', ')', '’', '\'', ']', '*', '_'])
        .ends_with(['.', '!', '?', '…', ':', ';', '。', '！', '？', '।', '؟', '።'])
}

/// Removes short lines with a phrase of the list of notices; returns how many.
pub(super) fn clean(text: &mut String) -> usize {
    let is_notice =
        |line: &str| line.chars().nth(MAX_NOTICE_CHARS).is_none() && blocklist::is_notice(line);
    let removed = text.lines().filter(|line| is_notice(line)).count();
    if removed > 0 {
        let kept: Vec<&str> = text.lines().filter(|line| !is_notice(line)).collect();
        *text = kept.join("\n");
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_removed_and_text_stays() {
        let mut text =
            "El río crece.\nUsamos cookies para mejorar tu experiencia.\nBaja.".to_owned();
        assert_eq!(clean(&mut text), 1);
        assert_eq!(text, "El río crece.\nBaja.");
        let long = format!("Una ley sobre cookies: usamos cookies{}.", " y más".repeat(60));
        let mut text = long.clone();
        assert_eq!(clean(&mut text), 0);
        assert_eq!(text, long);
    }
}
