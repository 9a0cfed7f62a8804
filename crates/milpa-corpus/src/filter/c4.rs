//! C4's rules (Raffel et al. 2020) as datatrove has them: lines that are no sentences go, and
//! documents with filler text, curly brackets or too few sentences.
//!
//! The phrases are English, as published; none of our sources passes all of these rules.

use milpa_text::WordRules;

use super::{
    Filter, Thresholds, Verdict, View,
    characters::{lines, strip, words},
};
use crate::document::Reason;

/// Ends of lines that are sentences.
const END_MARKS: &[char] = &['.', '?', '!', '"', '\''];
/// Phrases of lines that speak of the page.
const POLICIES: &[&str] = &[
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
];

/// C4's rules; each can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct C4 {
    /// Removes references such as `[12]` and `[edit]` from lines.
    pub citations: bool,
    /// Removes lines that do not end in an end mark, or end in an ellipsis.
    pub end_marks: bool,
    /// Drops documents with "lorem ipsum".
    pub lorem_ipsum: bool,
    /// Removes lines with "javascript".
    pub javascript: bool,
    /// Drops documents with an opening curly bracket.
    pub curly_bracket: bool,
    /// Removes lines that speak of policies and cookies.
    pub policy: bool,
    /// Removes lines of few words (`min_words_per_line`) and with an endless word
    /// (`max_word_chars`), and drops documents of few sentences (`min_sentences`).
    pub lengths: bool,
}

impl Default for C4 {
    /// All rules, as datatrove has it.
    fn default() -> Self {
        Self {
            citations: true,
            end_marks: true,
            lorem_ipsum: true,
            javascript: true,
            curly_bracket: true,
            policy: true,
            lengths: true,
        }
    }
}

impl C4 {
    /// No rule.
    pub const OFF: Self = Self {
        citations: false,
        end_marks: false,
        lorem_ipsum: false,
        javascript: false,
        curly_bracket: false,
        policy: false,
        lengths: false,
    };

    /// The lines of `text` that stay, or why the document goes.
    pub fn clean(&self, text: &str, language: &str, t: &Thresholds) -> Result<String, Verdict> {
        let drop = |rule, detail: String| Verdict { reason: Reason::Lines, rule, detail };
        let rules = WordRules::of(language);
        let mut sentences = 0;
        let mut kept = String::with_capacity(text.len());
        for line in lines(text).map(strip) {
            let endless = |word: &str| {
                word.chars().take(t.max_word_chars as usize + 1).count() as f64 > t.max_word_chars
            };
            if self.lengths && line.len() as f64 > t.max_word_chars && words(line).any(endless) {
                continue;
            }
            let cleaned = if self.citations { without_citations(line) } else { line.into() };
            if self.end_marks && (!cleaned.ends_with(END_MARKS) || cleaned.ends_with("...")) {
                continue;
            }
            if self.lengths && (words(line).count() as f64) < t.min_words_per_line {
                continue;
            }
            let lower = cleaned.to_lowercase();
            if self.lorem_ipsum && lower.contains("lorem ipsum") {
                return Err(drop("lorem_ipsum", "lorem ipsum".to_owned()));
            }
            if self.javascript && lower.contains("javascript") {
                continue;
            }
            if self.curly_bracket && cleaned.contains('{') {
                return Err(drop("curly_bracket", "curly bracket".to_owned()));
            }
            if self.policy && POLICIES.iter().any(|phrase| lower.contains(phrase)) {
                continue;
            }
            if self.lengths && (sentences as f64) < t.min_sentences {
                sentences += rules.sentences(&cleaned);
            }
            kept.push_str(&cleaned);
            kept.push('\n');
        }
        if self.lengths && (sentences as f64) < t.min_sentences {
            let detail = format!("number of sentences {sentences} is below {}", t.min_sentences);
            return Err(drop("too_few_sentences", detail));
        }
        Ok(strip(&kept).to_owned())
    }
}

impl Filter for C4 {
    fn check(&self, view: &View<'_>, t: &Thresholds) -> Option<Verdict> {
        self.clean(view.text, view.language, t).err()
    }
}

/// `line` without `[12]`, `[]`, `[edit]` and `[citation needed]`.
fn without_citations(line: &str) -> std::borrow::Cow<'_, str> {
    if !line.contains('[') {
        return line.into();
    }
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('[') {
        let tail = &rest[at + 1..];
        let end = ["edit]", "citation needed]"]
            .iter()
            .find(|name| tail.starts_with(**name))
            .map(|name| name.len())
            .or_else(|| {
                let digits = tail.len() - tail.trim_start_matches(char::is_numeric).len();
                tail[digits..].starts_with(']').then_some(digits + 1)
            });
        out.push_str(&rest[..at]);
        if let Some(end) = end {
            rest = &tail[end..];
        } else {
            out.push('[');
            rest = tail;
        }
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_and_references_with_them() {
        let text = "Menu\nOne two three. Four five[1] six.\nSeven eight nine! Ten eleven.[edit]\n\
                    We use cookies on this site.\nTurn JavaScript on here.\nTwelve, a [b] \"c\".";
        let t = Thresholds::default();
        let kept = C4::default().clean(text, "eng", &t).unwrap();
        let expect =
            "One two three. Four five six.\nSeven eight nine! Ten eleven.\nTwelve, a [b] \"c\".";
        assert_eq!(kept, expect);
        let rule = |text: &str| C4::default().clean(text, "eng", &t).unwrap_err().rule;
        assert_eq!(rule("Only one sentence is here."), "too_few_sentences");
        assert_eq!(rule("Here is a lorem Ipsum text."), "lorem_ipsum");
        assert_eq!(rule("Here is a { in a line."), "curly_bracket");
        assert_eq!(C4::OFF.clean(text, "eng", &t).as_deref(), Ok(text));
    }

    #[test]
    fn only_whole_references_are_removed() {
        assert_eq!(without_citations("a[12] [x][ [edit] b["), "a [x][  b[");
    }
}
