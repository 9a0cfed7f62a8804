//! Reads a judge's verdict out of what it wrote.
//!
//! A rating is MT-Bench's: the first `[[number]]`, else the first `[number]`. A choice is the last
//! of `[[A]]`, `[[B]]`, `[[C]]`, for judges quote the form before they use it. Whatever has no
//! verdict is a parse failure and counted as one.

use serde::{Deserialize, Serialize};

/// Which of two answers is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The first.
    A,
    /// The second.
    B,
    /// Neither.
    Tie,
}

impl Preference {
    /// The same with the answers' places exchanged.
    pub fn swapped(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
            Self::Tie => Self::Tie,
        }
    }

    /// Share of the win that goes to the second: 0, ½ or 1.
    pub fn share_of_b(self) -> f64 {
        match self {
            Self::A => 0.0,
            Self::Tie => 0.5,
            Self::B => 1.0,
        }
    }
}

/// The number that a judge gave; `None` where there is none.
pub fn parse_rating(text: &str) -> Option<f64> {
    bracketed(text, "[[", "]]").chain(bracketed(text, "[", "]")).find_map(number)
}

/// The choice that a judge made; `None` where there is none.
pub fn parse_preference(text: &str) -> Option<Preference> {
    let choice = |inside: &str| match inside {
        "A" => Some(Preference::A),
        "B" => Some(Preference::B),
        "C" => Some(Preference::Tie),
        _ => None,
    };
    bracketed(text, "[[", "]]").filter_map(choice).last()
}

/// Whether a criterion is met; `None` where the judge does not say.
pub fn parse_criterion(text: &str) -> Option<bool> {
    let choice = |inside: &str| match inside {
        "Y" => Some(true),
        "N" => Some(false),
        _ => None,
    };
    bracketed(text, "[[", "]]").filter_map(choice).last()
}

/// What stands between `open` and the next `close`, from left to right.
fn bracketed<'a>(
    text: &'a str,
    open: &'static str,
    close: &'static str,
) -> impl Iterator<Item = &'a str> {
    text.match_indices(open).filter_map(move |(at, _)| {
        let inside = &text[at + open.len()..];
        // Nothing that is a verdict is longer; so a text full of brackets stays cheap.
        let window = &inside[..inside.floor_char_boundary(32)];
        window.find(close).map(|end| &window[..end])
    })
}

/// Digits with at most one point among them, as `\d+\.?\d*` reads.
fn number(text: &str) -> Option<f64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        && text.bytes().next().is_some_and(|byte| byte.is_ascii_digit())
        && text.bytes().filter(|byte| *byte == b'.').count() <= 1;
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratings_are_read_as_mt_bench_reads_them() {
        let check = |text, expect| assert_eq!(parse_rating(text), expect, "{text}");
        check("Rating: [[9]]", Some(9.0));
        check("[[7.5]] and then [[3]]", Some(7.5));
        check("Rating: [8]", Some(8.0));
        check("[1] says so. Rating: [[8]]", Some(8.0));
        check("[[rating]]: [[10.]]", Some(10.0));
        check("[[-1]] [[1.2.3]] [[.5]] [[]] [[", None);
        check("[[ 9 ]]", None);
        check("ñandú", None);
        check(&"[[".repeat(100_000), None);
    }

    #[test]
    fn the_last_choice_counts() {
        let check = |text, expect| assert_eq!(parse_preference(text), expect, "{text}");
        check("I could say [[A]], but [[B]]", Some(Preference::B));
        check("[[C]]", Some(Preference::Tie));
        check("A is better", None);
        check("[[D]]", None);
        assert_eq!(parse_criterion("«[[N]]»"), Some(false));
        assert_eq!(parse_criterion("[[Y]]"), Some(true));
        assert_eq!(parse_criterion("yes"), None);
    }
}
