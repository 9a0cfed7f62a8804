//! The letter of a multiple-choice answer.
//!
//! Strongest first: a box or a phrase ("la respuesta es B"), a response that begins with the letter
//! (`B`, `B)`, `(B)`, `B. texto`), the only letter in brackets. A lone "a" is an article or a
//! preposition in Spanish and Portuguese, so a small letter counts only with a mark.

use crate::verify::{
    Reason, Verdict,
    answer::{Marked, marked},
};

pub(super) fn judge(gold: &str, response: &str, choices: u8) -> Verdict {
    let last = (b'A' + choices.clamp(2, 26) - 1) as char;
    let Some(right) = letter_at(gold.trim(), last, true).map(|(letter, _)| letter) else {
        return Verdict::unreadable(Reason::UnreadableGold { gold: gold.to_owned() });
    };
    match read_choice(response, last) {
        Ok(given) if given == right => Verdict::correct(Reason::Equal),
        Ok(given) => Verdict::incorrect(Reason::Different {
            given: given.to_string(),
            gold: right.to_string(),
        }),
        Err(reason) => Verdict::unreadable(reason),
    }
}

/// The letter that a response chooses, from A to `last`.
///
/// # Errors
/// No letter or several.
pub fn read_choice(response: &str, last: char) -> Result<char, Reason> {
    let response = response.trim().trim_matches('*');
    let (text, is_marked) = match marked(response) {
        Some(Marked::Alone(text) | Marked::Sentence(text)) => (text, true),
        None => (response, false),
    };
    let text = text.strip_prefix("\\text{").unwrap_or(text);
    let text = [
        "la opción ",
        "opción ",
        "a opção ",
        "opção ",
        "la letra ",
        "letra ",
        "a alternativa ",
        "alternativa ",
        "option ",
        "choice ",
        "la ",
        "a ",
        "*",
    ]
    .iter()
    .find_map(|word| {
        let start = text.get(..word.len())?;
        let is_word = start.to_lowercase() == *word;
        // "a B", but not "a" alone.
        (is_word && text[word.len()..].starts_with(|c: char| c.is_ascii_uppercase() || c == '('))
            .then(|| &text[word.len()..])
    })
    .unwrap_or(text);
    if let Some((letter, rest)) = letter_at(text, last, is_marked) {
        let rest = rest.trim_start_matches([')', '.', ':', '}', '*', ' ']);
        let mut words = rest.split_whitespace();
        let joins =
            matches!(words.next(), Some("o" | "u" | "ou" | "or" | "y" | "e" | "and" | "/" | ","));
        if joins && words.next().is_some_and(|word| letter_at(word, last, is_marked).is_some()) {
            return Err(Reason::SeveralAnswers);
        }
        return Ok(letter);
    }
    let mut letters: Vec<char> = bracketed(text, last);
    letters.sort_unstable();
    letters.dedup();
    match letters.as_slice() {
        [letter] => Ok(*letter),
        [] => Err(Reason::NoAnswer),
        _ => Err(Reason::SeveralAnswers),
    }
}

/// A letter that stands alone at the beginning, and what follows it.
fn letter_at(text: &str, last: char, small: bool) -> Option<(char, &str)> {
    let open = text.starts_with('(');
    let text = text.strip_prefix('(').unwrap_or(text);
    let first = text.chars().next().filter(char::is_ascii_alphabetic)?;
    let rest = &text[1..];
    let closes = rest.starts_with([')', '.', ':']) || (open && rest.starts_with(')'));
    let ends = !rest.starts_with(|c: char| c.is_alphanumeric() || c == '\'');
    // "A casa" is a sentence: a lone capital before a word needs a mark behind it.
    let alone = rest.trim_start().is_empty() || closes || rest.starts_with(['}', '*', ',', '\n']);
    let letter = first.to_ascii_uppercase();
    let counts = first.is_ascii_uppercase() || small || closes;
    (ends && (alone || (small && first.is_ascii_uppercase())) && counts && letter <= last)
        .then_some((letter, rest))
}

fn bracketed(text: &str, last: char) -> Vec<char> {
    text.match_indices('(')
        .filter_map(|(at, _)| {
            let mut inside = text[at + 1..].chars();
            let letter = inside.next()?;
            (letter.is_ascii_uppercase() && letter <= last && inside.next() == Some(')'))
                .then_some(letter)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_read_where_they_are_meant() {
        for (response, expect) in [
            ("B", Some('B')),
            ("b)", Some('B')),
            ("(C) porque sí", Some('C')),
            ("D. texto", Some('D')),
            ("La respuesta es B.", Some('B')),
            ("A resposta correta é a alternativa E", Some('E')),
            ("\\boxed{\\text{C}}", Some('C')),
            ("A casa é azul", None),
            ("a", None),
            ("La respuesta es A o B", None),
            ("Descarto (A) y (B)", None),
            ("Creo que (B)", Some('B')),
            ("F", None),
            ("", None),
        ] {
            assert_eq!(read_choice(response, 'E').ok(), expect, "{response:?}");
        }
    }
}
