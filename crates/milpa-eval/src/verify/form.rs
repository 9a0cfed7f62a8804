//! Patterns, lengths and forms that a response must have.
//!
//! These look at no right answer. What is broken is said in words, with the numbers.

use fancy_regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

/// A regular expression that is compiled when it is read; look-around and references are allowed,
/// and searching stops after a million steps back.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(Regex);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        RegexBuilder::new(&text)
            .backtrack_limit(1_000_000)
            .build()
            .map(Self)
            .map_err(|error| format!("the expression {text:?} is wrong: {error}"))
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.as_str().to_owned()
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Pattern {
    /// Whether the expression occurs; `^` and `$` bind it to the ends.
    ///
    /// # Errors
    /// That it does not, or that the search was given up.
    pub fn check(&self, text: &str) -> Result<(), String> {
        match self.0.is_match(text) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("{:?} does not occur", self.0.as_str())),
            Err(error) => Err(format!("{:?} was given up: {error}", self.0.as_str())),
        }
    }
}

/// What a length counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LengthUnit {
    /// Unicode code points.
    Characters,
    /// Words between white space.
    Words,
    /// Lines with something on them.
    Lines,
    /// Blocks between blank lines.
    Paragraphs,
}

impl LengthUnit {
    /// How long a text is.
    pub fn count(self, text: &str) -> usize {
        match self {
            Self::Characters => text.chars().count(),
            Self::Words => text.split_whitespace().count(),
            Self::Lines => text.lines().filter(|line| !line.trim().is_empty()).count(),
            Self::Paragraphs => {
                let filled = text.lines().map(|line| !line.trim().is_empty());
                let before = std::iter::once(false).chain(filled.clone());
                filled.zip(before).filter(|(here, before)| *here && !before).count()
            }
        }
    }

    /// Whether a text is of a length from `min` to `max`.
    ///
    /// # Errors
    /// How long it is.
    pub fn check(self, text: &str, min: usize, max: Option<usize>) -> Result<(), String> {
        let count = self.count(text);
        if count < min {
            return Err(format!("{count} {self:?}, at least {min} are asked for").to_lowercase());
        }
        match max {
            Some(max) if count > max => {
                Err(format!("{count} {self:?}, at most {max} are asked for").to_lowercase())
            }
            _ => Ok(()),
        }
    }
}

/// A form of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// `<think>…</think>` once, then an answer (Guo et al. 2025, arXiv 2501.12948).
    ThinkThenAnswer,
    /// One `\boxed{}` with something in it.
    OneBox,
    /// Capital letters only.
    Capitals,
    /// Small letters only.
    SmallLetters,
    /// Each line that is not empty begins with `-` or `*`.
    Bullets,
}

impl Form {
    /// Whether a text has the form.
    ///
    /// # Errors
    /// What it lacks.
    pub fn check(self, text: &str) -> Result<(), String> {
        let times = |part: &str| text.matches(part).count();
        let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
        let letters = text.chars().any(char::is_alphabetic);
        let (holds, what) = match self {
            Self::ThinkThenAnswer => {
                let answer = text
                    .trim_start()
                    .strip_prefix("<think>")
                    .and_then(|text| text.split_once("</think>"))
                    .is_some_and(|(_, answer)| !answer.trim().is_empty());
                let once = times("<think>") == 1 && times("</think>") == 1;
                (answer && once, "<think>…</think> once and an answer behind it")
            }
            Self::OneBox => {
                let filled = matches!(
                    crate::verify::answer::marked(text),
                    Some(crate::verify::answer::Marked::Alone(inside)) if !inside.is_empty()
                );
                (times("\\boxed") == 1 && filled, "one \\boxed{} with an answer")
            }
            Self::Capitals => {
                (letters && !text.chars().any(char::is_lowercase), "capital letters only")
            }
            Self::SmallLetters => {
                (letters && !text.chars().any(char::is_uppercase), "small letters only")
            }
            Self::Bullets => (
                lines().next().is_some() && lines().all(|line| line.starts_with(['-', '*'])),
                "a list of bullets and nothing else",
            ),
        };
        if holds { Ok(()) } else { Err(format!("not {what}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_and_lengths() {
        for (form, good, bad) in [
            (Form::ThinkThenAnswer, "<think>x</think> 5", "<think>x</think>"),
            (Form::OneBox, "es \\boxed{5}", "\\boxed{5} o \\boxed{6}"),
            (Form::Capitals, "¡AÑO!", "Año"),
            (Form::SmallLetters, "año", "Año"),
            (Form::Bullets, "- a\n\n* b", "- a\nb"),
        ] {
            assert_eq!(form.check(good), Ok(()));
            assert!(form.check(bad).is_err(), "{form:?} {bad:?}");
            assert!(form.check("").is_err(), "{form:?}");
        }
        assert_eq!(LengthUnit::Characters.count("ñandú"), 5);
        assert_eq!(LengthUnit::Words.count("a  b\nc"), 3);
        assert_eq!(LengthUnit::Lines.count("a\n\nb"), 2);
        assert_eq!(LengthUnit::Paragraphs.count("a\nb\n\n\nc\n"), 2);
        assert!(LengthUnit::Words.check("a b", 1, Some(2)).is_ok());
        assert!(LengthUnit::Words.check("a b c", 1, Some(2)).unwrap_err().contains("3 words"));
        let pattern = Pattern::try_from("^[A-Z]{3}-\\d{3}$".to_owned()).unwrap();
        assert!(pattern.check("ABC-123").is_ok() && pattern.check("abc").is_err());
        assert!(Pattern::try_from("(".to_owned()).is_err());
    }
}
