//! FineWeb's rules on lines (Penedo et al. 2024): ends of sentences, short lines, repeated lines,
//! lines per word.

use super::{
    Filter, Thresholds, Verdict, View,
    characters::{is_terminal, strip},
    gopher_repetition::repeated,
    share,
};
use crate::document::Reason;

/// FineWeb's rules, in datatrove's order.
#[derive(Debug, Clone, Copy, Default)]
pub struct FineWeb {
    /// Reads the text as Markdown: lines that begin with `#` are headings, which are short and well
    /// written without a full stop, and a blank line between paragraphs adds no line. datatrove,
    /// whose texts have one line end between paragraphs, takes all as it stands.
    pub markdown: bool,
}

impl Filter for FineWeb {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        let (below, above) = (Verdict::below, Verdict::above);
        let reason = Reason::Lines;
        let all = || view.text.split('\n').filter(|line| !strip(line).is_empty());
        if all().next().is_none() {
            let detail = "the text is empty".to_owned();
            return Some(Verdict { reason, rule: "empty", detail });
        }
        let (mut count, mut ended, mut short) = (0, 0, 0);
        let short_line = t.short_line_chars as usize;
        for line in all().filter(|line| !(self.markdown && line.starts_with('#'))) {
            count += 1;
            ended += usize::from(line.chars().next_back().is_some_and(is_terminal));
            short += usize::from(line.chars().nth(short_line).is_none());
        }
        let ends = view.text.bytes().filter(|&byte| byte == b'\n').count();
        // Headings alone are nothing to judge by.
        let ended = if count == 0 { 1.0 } else { share(ended, count) };
        let what = "share of lines that end a sentence";
        below(reason, "line_punct_ratio", what, ended, t.min_sentence_lines)
            .or_else(|| {
                let (rule, what) = ("short_line_ratio", "share of short lines");
                above(reason, rule, what, share(short, count), t.max_short_lines)
            })
            .or_else(|| {
                let chars = share(repeated(all()).1, view.chars - ends);
                let what = "share of characters in copied lines";
                above(reason, "char_dup_ratio", what, chars, t.max_copied_line_chars)
            })
            .or_else(|| {
                let ends = if self.markdown { all().count() - 1 } else { ends };
                let lines = share(ends, view.words.len());
                above(reason, "list_ratio", "lines per word", lines, t.max_lines_per_word)
            })
    }
}
