//! Where in a response the answer stands.
//!
//! The strongest mark wins: the last `\boxed{}`, then what follows `####`, then the last of phrases
//! such as "the answer is", "la respuesta es", "a resposta é". Without one the caller reads
//! the whole text or its end. It knows nothing of what answers mean.

use serde::{Deserialize, Serialize};

/// Which part of a response counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// What is marked as the answer, else the last that can be read.
    #[default]
    MarkedOrLast,
    /// What is marked as the answer and nothing else.
    Marked,
    /// All of it.
    Whole,
}

/// An answer found by a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marked<'a> {
    /// Between the braces of `\boxed{}`, or after `####`: nothing but the answer.
    Alone(&'a str),
    /// After a phrase, to the end of its sentence: the answer and perhaps more words.
    Sentence(&'a str),
}

/// Longest response that is read, from its end.
const MAX_BYTES: usize = 64 << 10;

/// Phrases before an answer, in ASCII lower case (bytes beyond ASCII as they are).
const PHRASES: [&str; 14] = [
    "final answer is",
    "answer is",
    "final answer:",
    "answer:",
    "respuesta final es",
    "respuesta correcta es",
    "respuesta es",
    "respuesta final:",
    "respuesta:",
    "resultado es",
    "resposta final é",
    "resposta correta é",
    "resposta é",
    "resposta:",
];

/// The end of a response, cut at a character if it is longer than 64 KiB.
pub fn tail(response: &str) -> &str {
    let mut start = response.len().saturating_sub(MAX_BYTES);
    while !response.is_char_boundary(start) {
        start += 1;
    }
    &response[start..]
}

/// What a response marks as its answer.
pub fn marked(response: &str) -> Option<Marked<'_>> {
    if let Some(inside) = boxed(response) {
        return Some(Marked::Alone(inside));
    }
    if let Some(at) = response.rfind("####") {
        let line = response[at + 4..].trim_start().lines().next().unwrap_or("").trim();
        return Some(Marked::Alone(line));
    }
    let lower = response.to_ascii_lowercase();
    let end = PHRASES
        .iter()
        .filter_map(|phrase| lower.rfind(phrase).map(|at| at + phrase.len()))
        .max()?;
    let rest = response[end..].trim_start_matches(|c: char| {
        c.is_whitespace() || matches!(c, ':' | '*' | '"' | '“' | '«')
    });
    let line = rest.lines().next().unwrap_or("");
    let mut stop = line.len();
    for (at, _) in line.match_indices(". ") {
        let abbreviation = line[..at].ends_with("Bs") || line[..at].ends_with("aprox");
        if !abbreviation {
            stop = at;
            break;
        }
    }
    let sentence = line[..stop]
        .trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '.' | '*' | '"' | '”' | '»'));
    Some(Marked::Sentence(sentence))
}

/// Between the braces of the last `\boxed{}` that closes.
fn boxed(response: &str) -> Option<&str> {
    let mut end = response.len();
    // A few tries: an unclosed box at the end is passed over.
    for _ in 0..8 {
        let at =
            response[..end].rfind("\\boxed").into_iter().chain(response[..end].rfind("\\fbox"));
        let at = at.max()?;
        let command = if response[at..].starts_with("\\boxed") { 6 } else { 5 };
        let rest = &response[at + command..];
        let inner = rest.trim_start();
        if inner.starts_with('{') {
            let mut depth = 0_usize;
            let mut escaped = false;
            for (byte, c) in inner.char_indices() {
                match c {
                    _ if escaped => {}
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    return Some(inner[1..byte].trim());
                }
                escaped = c == '\\' && !escaped;
            }
        }
        end = at;
    }
    None
}

/// Between the last pair of `$`, `\(` `\)` or `\[` `\]`.
pub fn last_formula(text: &str) -> Option<&str> {
    let mut best: Option<(usize, &str)> = None;
    for (open, close) in [("\\(", "\\)"), ("\\[", "\\]")] {
        if let Some(end) = text.rfind(close)
            && let Some(start) = text[..end].rfind(open)
        {
            best = best.max(Some((end, &text[start + 2..end])));
        }
    }
    // Dollar signs in pairs from the left; `\$` is money.
    let signs: Vec<usize> = text
        .match_indices('$')
        .map(|(at, _)| at)
        .filter(|&at| !text[..at].ends_with('\\'))
        .collect();
    for pair in signs.chunks_exact(2) {
        let inside = text[pair[0] + 1..pair[1]].trim();
        if !inside.is_empty() && !inside.contains('\n') {
            best = best.max(Some((pair[1], inside)));
        }
    }
    best.map(|(_, formula)| formula)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_mark_wins() {
        let check = |response: &str, expect: Option<Marked<'_>>| {
            assert_eq!(marked(response), expect, "{response:?}");
        };
        check("5 y 6. \\boxed{\\frac{1}{2}} ¿sí?", Some(Marked::Alone("\\frac{1}{2}")));
        check("\\boxed{\\{1,2\\}}", Some(Marked::Alone("\\{1,2\\}")));
        check("\\boxed{1} y \\boxed{2", Some(Marked::Alone("1")));
        check("48/2 = 24\n#### 72\n", Some(Marked::Alone("72")));
        check("La respuesta es 1.234,5. Fin", Some(Marked::Sentence("1.234,5")));
        check("**Respuesta final:** 18 dólares.", Some(Marked::Sentence("18 dólares")));
        check("A resposta é: R$ 5", Some(Marked::Sentence("R$ 5")));
        check("no sé", None);
        assert_eq!(last_formula("si $x$ vale \\(3\\) y $y=4$."), Some("y=4"));
        assert_eq!(last_formula("cuesta $5"), None);
    }
}
