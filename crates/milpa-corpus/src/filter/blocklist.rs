//! Phrases of spam and lines of notices, from a data file. Addresses are in
//! [`super::url_blocklist`].

use std::sync::OnceLock;

use super::{Filter, Thresholds, Verdict, View};
use crate::document::Reason;

/// Different spam phrases from which a text is spam.
const MIN_PHRASES: usize = 3;
/// A longer line is text even if it speaks of cookies, in characters.
const MAX_NOTICE_CHARS: usize = 200;

/// The data: sections in brackets, one entry per line, `#` for comments.
const DATA: &str = include_str!("../../data/blocklist.txt");

/// Drops spam by its phrases.
pub(super) struct Blocklist;

impl Filter for Blocklist {
    fn check(&self, view: &View<'_>, _: &Thresholds) -> Option<Verdict> {
        let detail = spam_phrases(view.text)?;
        Some(Verdict { reason: Reason::Blocklist, rule: "spam_phrases", detail })
    }

    fn needs_language(&self) -> bool {
        false
    }
}

struct Lists {
    phrases: Vec<&'static str>,
    notices: Vec<&'static str>,
}

fn lists() -> &'static Lists {
    static LISTS: OnceLock<Lists> = OnceLock::new();
    LISTS.get_or_init(|| {
        let mut lists = Lists { phrases: vec![], notices: vec![] };
        let mut section = "";
        for line in DATA.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']');
            } else if !line.is_empty() && !line.starts_with('#') {
                match section {
                    "phrases" => lists.phrases.push(line),
                    _ => lists.notices.push(line),
                }
            }
        }
        lists
    })
}

/// The spam phrases of a text, if there are enough different ones.
fn spam_phrases(text: &str) -> Option<String> {
    let lower = text.to_lowercase();
    let found: Vec<&str> =
        lists().phrases.iter().copied().filter(|phrase| has_phrase(&lower, phrase)).collect();
    (found.len() >= MIN_PHRASES).then(|| {
        let shown = found.iter().take(5).copied().collect::<Vec<_>>().join(", ");
        format!("{} spam phrases: {shown}", found.len())
    })
}

/// Removes lines that belong to the page and not to its text (cookie notices, sharing prompts):
/// short ones with a phrase of the list of notices; returns how many. Only for web pages.
pub fn clean_notices(text: &mut String) -> usize {
    let is_notice = |line: &str| line.chars().nth(MAX_NOTICE_CHARS).is_none() && is_notice(line);
    let removed = text.lines().filter(|line| is_notice(line)).count();
    if removed > 0 {
        let kept: Vec<&str> = text.lines().filter(|line| !is_notice(line)).collect();
        *text = kept.join("\n");
    }
    removed
}

/// Whether a line is a notice of the page.
fn is_notice(line: &str) -> bool {
    let lower = line.to_lowercase();
    lists().notices.iter().any(|notice| has_phrase(&lower, notice))
}

/// Whether `text` has `phrase` with no letter right before or after it.
fn has_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        !letter(text[..at].chars().next_back()) && !letter(text[at + phrase.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_well_formed() {
        let lists = lists();
        for list in [&lists.phrases, &lists.notices] {
            assert!(!list.is_empty());
            for entry in list {
                assert_eq!(*entry, entry.to_lowercase(), "entries are compared in lower case");
            }
        }
    }

    #[test]
    fn notices_are_removed_and_text_stays() {
        let mut text =
            "El río crece.\nUsamos cookies para mejorar tu experiencia.\nBaja.".to_owned();
        assert_eq!(clean_notices(&mut text), 1);
        assert_eq!(text, "El río crece.\nBaja.");
        let long = format!("Una ley sobre cookies: usamos cookies{}.", " y más".repeat(60));
        let mut text = long.clone();
        assert_eq!(clean_notices(&mut text), 0);
        assert_eq!(text, long);
    }
}
