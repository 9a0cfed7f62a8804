//! Patterns of words, as `data/trueque/rules.toml` writes them.
//!
//! A pattern is matched against the words of a question, in time bounded by their number (a question
//! has at most [`crate::trueque::rules::MAX_WORDS`]). It knows no rule and no language.

use crate::choclo::score::fold_accents;

/// Words that `~` may stand for.
const GAP: usize = 4;

/// A word of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    /// In lower case, as typed.
    pub(crate) exact: String,
    /// Without accents.
    pub(crate) folded: String,
    /// Whether it has a capital letter that the begin of a sentence does not explain.
    pub(crate) is_name: bool,
}

impl Word {
    /// The words of a text. The first one is no name, and no word is in a text of capitals alone.
    pub(crate) fn all(text: &str) -> Vec<Self> {
        let shouted = !text.chars().any(char::is_lowercase);
        let pieces = text
            .split(|c: char| !(milpa_text::segment::is_word_char(c) || c == '+'))
            .filter(|piece| piece.contains(milpa_text::segment::is_word_char));
        pieces
            .enumerate()
            .map(|(index, piece)| {
                let exact = piece.to_lowercase();
                // English writes its "I" with a capital wherever it stands.
                let capital = piece.starts_with(char::is_uppercase) && exact != "i";
                let is_name = index > 0 && !shouted && capital;
                Self { folded: fold_accents(&exact), exact, is_name }
            })
            .collect()
    }

    pub(crate) fn is_number(&self) -> bool {
        self.exact.bytes().all(|byte| byte.is_ascii_digit())
    }

    pub(crate) fn is_year(&self) -> bool {
        self.is_number() && self.exact.len() == 4 && matches!(self.exact.as_bytes()[0], b'1' | b'2')
    }
}

/// A row of words to be found.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    parts: Vec<Part>,
    at_start: bool,
    at_end: bool,
}

#[derive(Debug, Clone)]
enum Part {
    Any,
    Gap,
    Name,
    Number,
    Year,
    OneOf(Vec<Form>),
}

#[derive(Debug, Clone)]
enum Form {
    Folded(String),
    FoldedStart(String),
    Exact(String),
    ExactEnd(String),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces: Vec<&str> = text.split_whitespace().collect();
        let at_start = pieces.first() == Some(&"^");
        if at_start {
            pieces.remove(0);
        }
        let at_end = pieces.last() == Some(&"$");
        if at_end {
            pieces.pop();
        }
        let parts = pieces
            .into_iter()
            .map(|piece| match piece {
                "_" => Ok(Part::Any),
                "~" => Ok(Part::Gap),
                "<name>" => Ok(Part::Name),
                "<number>" => Ok(Part::Number),
                "<year>" => Ok(Part::Year),
                _ if piece.starts_with('<') => Err(format!("{piece:?} is no class of words")),
                _ => piece.split('|').map(Form::parse).collect::<Result<_, _>>().map(Part::OneOf),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if parts.is_empty() {
            return Err("a pattern without words".to_owned());
        }
        Ok(Self { parts, at_start, at_end })
    }

    /// Whether the words have the pattern; `names` lets words with a capital be any word.
    pub(crate) fn is_in(&self, words: &[Word], names: bool) -> bool {
        let starts = if self.at_start { 0..1 } else { 0..words.len() };
        starts
            .into_iter()
            .any(|start| self.from(&self.parts, &words[start.min(words.len())..], names))
    }

    fn from(&self, parts: &[Part], words: &[Word], names: bool) -> bool {
        let Some((part, rest)) = parts.split_first() else {
            return !self.at_end || words.is_empty();
        };
        if let Part::Gap = part {
            return (0..=GAP.min(words.len())).any(|skip| self.from(rest, &words[skip..], names));
        }
        let Some((word, after)) = words.split_first() else { return false };
        let fits = match part {
            Part::Any | Part::Gap => true,
            Part::Name => word.is_name,
            Part::Number => word.is_number(),
            Part::Year => word.is_year(),
            Part::OneOf(forms) => {
                (names || !word.is_name) && forms.iter().any(|form| form.fits(word))
            }
        };
        fits && self.from(rest, after, names)
    }
}

impl Form {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(exact) = text.strip_prefix('=') {
            return Ok(match exact.strip_prefix('*') {
                Some(end) => Self::ExactEnd(end.to_owned()),
                None => Self::Exact(exact.to_owned()),
            });
        }
        let folded = fold_accents(text);
        match text.strip_suffix('*') {
            Some(start) if start == fold_accents(start) && !start.is_empty() => {
                Ok(Self::FoldedStart(start.to_owned()))
            }
            _ if text.is_empty() || text.contains(['*', '^', '$', '~']) => {
                Err(format!("{text:?} is no word"))
            }
            _ if folded == text => Ok(Self::Folded(folded)),
            _ => Ok(Self::Exact(text.to_owned())),
        }
    }

    fn fits(&self, word: &Word) -> bool {
        match self {
            Self::Folded(text) => word.folded == *text,
            Self::FoldedStart(text) => word.folded.starts_with(text.as_str()),
            Self::Exact(text) => word.exact == *text,
            Self::ExactEnd(text) => word.exact.ends_with(text.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expect: bool) {
        let found = Pattern::parse(pattern).unwrap().is_in(&Word::all(text), false);
        assert_eq!(found, expect, "{pattern:?} in {text:?}");
    }

    #[test]
    fn words_are_found_as_the_pattern_says() {
        check("quien es", "¿Quién es Ana?", true);
        check("^ es", "¿Quién es?", false);
        check("es $", "¿Quién es?", true);
        check("=esta _", "¿Dónde está Lima?", false);
        check("=esta _", "¿Dónde esta Lima?", true);
        check("él", "el mate", false);
        check("hab*|ten*", "¿Quién tenía eso?", true);
        check("como =*o", "¿Cómo ordeno esto?", true);
        check("como =*o", "¿Cómo murió?", false);
        check("a ~ f", "a b c d e f", true);
        check("a ~ g", "a b c d e f g", false);
        check("en <year>", "¿Quién ganó en 1962?", true);
        check("donde <name>", "¿Dónde Lima?", true);
        // A name is no word of a pattern.
        check("yo", "¿Quién escribió Yo el Supremo?", false);
        check("yo", "¿QUÉ HAGO YO?", true);
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        for text in ["", "^ $", "a||b", "<noun>", "a*b", "=*"] {
            let parsed = Pattern::parse(text);
            assert!(parsed.is_err() || text == "=*", "{text:?}");
        }
    }
}
