//! Writes sentences in Spanish and Portuguese: noun phrases with articles, contractions, agreement.
//!
//! A template is text with slots (`{de S}`, `{em O}`, `{o}`); a phrase knows its article and
//! gender; rendering joins the two as the language demands (de + el = del, em + a = na, a + a = à).
//! It knows nothing of entities: phrases are made in [`crate::choclo::phrase`].

use serde::{Deserialize, Serialize};

/// A language that questions are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Language {
    /// Spanish.
    #[serde(rename = "es")]
    Spanish,
    /// Portuguese (of Brazil).
    #[serde(rename = "pt")]
    Portuguese,
}

impl Language {
    /// Both, in the order in which they are written.
    pub const ALL: [Self; 2] = [Self::Spanish, Self::Portuguese];

    /// ISO 639-1 code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Spanish => "es",
            Self::Portuguese => "pt",
        }
    }

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// Gender and number of a noun, written as its article in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum Gender {
    #[serde(rename = "m", alias = "el", alias = "o")]
    Masculine,
    #[serde(rename = "f", alias = "la", alias = "a")]
    Feminine,
    #[serde(rename = "mp", alias = "los", alias = "os")]
    MasculinePlural,
    #[serde(rename = "fp", alias = "las", alias = "as")]
    FemininePlural,
}

impl Gender {
    fn pick<T: Copy>(self, forms: [T; 4]) -> T {
        forms[self as usize]
    }

    pub(crate) fn article(self, language: Language) -> &'static str {
        self.pick(match language {
            Language::Spanish => ["el", "la", "los", "las"],
            Language::Portuguese => ["o", "a", "os", "as"],
        })
    }
}

/// Something that has a name, ready to stand in a sentence.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Phrase {
    /// The article it takes, if any.
    pub(crate) article: Option<Gender>,
    /// What follows the article.
    pub(crate) text: String,
    /// What stands instead of "en" and the text ("el 5 de mayo de 1810").
    pub(crate) located: Option<String>,
}

impl Phrase {
    pub(crate) fn bare(text: impl Into<String>) -> Self {
        Self { article: None, text: text.into(), located: None }
    }

    pub(crate) fn with_article(article: Gender, text: impl Into<String>) -> Self {
        Self { article: Some(article), text: text.into(), located: None }
    }

    /// With article and preposition, contracted.
    pub(crate) fn after(&self, preposition: Preposition, language: Language) -> String {
        if let (Preposition::In, Some(located)) = (preposition, &self.located) {
            return located.clone();
        }
        let Some(article) = self.article else {
            let word = preposition.word(language);
            return if word.is_empty() {
                self.text.clone()
            } else {
                format!("{word} {}", self.text)
            };
        };
        let joined = match (language, preposition) {
            (_, Preposition::None) => article.article(language).to_owned(),
            (Language::Spanish, Preposition::Of) if article == Gender::Masculine => {
                "del".to_owned()
            }
            (Language::Spanish, Preposition::To) if article == Gender::Masculine => "al".to_owned(),
            (Language::Spanish, _) => {
                format!("{} {}", preposition.word(language), article.article(language))
            }
            (Language::Portuguese, Preposition::Of) => {
                article.pick(["do", "da", "dos", "das"]).to_owned()
            }
            (Language::Portuguese, Preposition::In) => {
                article.pick(["no", "na", "nos", "nas"]).to_owned()
            }
            (Language::Portuguese, Preposition::To) => {
                article.pick(["ao", "à", "aos", "às"]).to_owned()
            }
            (Language::Portuguese, Preposition::By) => {
                article.pick(["pelo", "pela", "pelos", "pelas"]).to_owned()
            }
        };
        format!("{joined} {}", self.text)
    }
}

/// What stands before a phrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preposition {
    None,
    Of,
    To,
    In,
    By,
}

impl Preposition {
    fn word(self, language: Language) -> &'static str {
        match self {
            Self::None => "",
            Self::Of => "de",
            Self::To => "a",
            Self::In if language == Language::Spanish => "en",
            Self::In => "em",
            Self::By => "por",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Literal(String),
    Subject(Preposition),
    /// The answer, with its article or bare.
    Answer(Option<Preposition>),
    Year,
    /// "o" or "a" by the subject's gender.
    Ending,
}

/// A sentence with slots.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template {
    language: Language,
    pieces: Vec<Piece>,
}

impl Template {
    /// Reads a template. A question has {S} and no {O}; a cloze has {S} and ends in {O}.
    pub(crate) fn parse(text: &str, language: Language, cloze: bool) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find('{') {
            if open > 0 {
                pieces.push(Piece::Literal(rest[..open].to_owned()));
            }
            let close = rest[open..].find('}').ok_or("a { without }")? + open;
            pieces.push(slot(&rest[open + 1..close], language)?);
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        let answers = pieces.iter().filter(|piece| matches!(piece, Piece::Answer(_))).count();
        if !pieces.iter().any(|piece| matches!(piece, Piece::Subject(_))) {
            return Err("it has no {S}".to_owned());
        }
        match (cloze, answers, pieces.last()) {
            (true, 1, Some(Piece::Answer(_))) | (false, 0, _) => {}
            (true, ..) => return Err("a cloze has one {O}, at its end".to_owned()),
            (false, ..) => return Err("a question has no {O}".to_owned()),
        }
        Ok(Self { language, pieces })
    }

    /// Whether a word agrees with the subject's gender.
    pub(crate) fn agrees(&self) -> bool {
        self.pieces.contains(&Piece::Ending)
    }

    /// The text up to the answer, its first letter a capital.
    pub(crate) fn render(&self, subject: &Phrase, year: Option<i32>) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Subject(preposition) => {
                    text.push_str(&subject.after(*preposition, self.language));
                }
                Piece::Year => text.push_str(&year.unwrap_or_default().to_string()),
                Piece::Ending => text.push(match subject.article {
                    Some(Gender::Feminine | Gender::FemininePlural) => 'a',
                    _ => 'o',
                }),
                Piece::Answer(_) => {}
            }
        }
        capitalise(text.trim_end())
    }

    /// The answer as it ends a cloze.
    pub(crate) fn continuation(&self, answer: &Phrase) -> String {
        match self.pieces.last() {
            Some(Piece::Answer(Some(preposition))) => answer.after(*preposition, self.language),
            _ => answer.text.clone(),
        }
    }
}

fn slot(text: &str, language: Language) -> Result<Piece, String> {
    let (word, name) = text.rsplit_once(' ').unwrap_or(("", text));
    let spanish = language == Language::Spanish;
    let preposition = match word {
        "" => Preposition::None,
        "el" if spanish => Preposition::None,
        "o" if !spanish => Preposition::None,
        "en" if spanish => Preposition::In,
        "em" if !spanish => Preposition::In,
        "de" => Preposition::Of,
        "a" => Preposition::To,
        "por" => Preposition::By,
        _ => return Err(format!("{{{text}}} is no slot of {}", language.code())),
    };
    match (word, name) {
        (_, "S") => Ok(Piece::Subject(preposition)),
        ("", "O") => Ok(Piece::Answer(None)),
        (_, "O") => Ok(Piece::Answer(Some(preposition))),
        ("", "Y") => Ok(Piece::Year),
        ("", "o") => Ok(Piece::Ending),
        _ => Err(format!("{{{text}}} is no slot")),
    }
}

/// Makes the first letter a capital, past opening marks.
pub(crate) fn capitalise(text: &str) -> String {
    match text.char_indices().find(|(_, c)| c.is_alphanumeric()) {
        Some((at, first)) if first.is_lowercase() => {
            let rest = &text[at + first.len_utf8()..];
            format!("{}{}{rest}", &text[..at], first.to_uppercase())
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Language::{Portuguese, Spanish};

    fn check(language: Language, template: &str, subject: &Phrase, expect: &str) {
        let cloze = template.contains("O}");
        let template = Template::parse(template, language, cloze).unwrap();
        assert_eq!(template.render(subject, Some(2018)), expect);
    }

    #[test]
    fn articles_and_prepositions_contract() {
        let river = Phrase::with_article(Gender::Masculine, "río Magdalena");
        let city = Phrase::with_article(Gender::Feminine, "ciudad de El Alto");
        let bare = Phrase::bare("El Salvador");
        check(
            Spanish,
            "¿Cuál es el nombre {de S}?",
            &river,
            "¿Cuál es el nombre del río Magdalena?",
        );
        check(Spanish, "{a S} {en S}", &river, "Al río Magdalena en el río Magdalena");
        check(Spanish, "{S} fue fundad{o}", &city, "La ciudad de El Alto fue fundada");
        check(Spanish, "Capital {de S} en {Y}", &bare, "Capital de El Salvador en 2018");
        let state = Phrase::with_article(Gender::Feminine, "Bahia");
        check(
            Portuguese,
            "{de S} {em S} {a S} {por S}",
            &state,
            "Da Bahia na Bahia à Bahia pela Bahia",
        );
        let sea = Phrase::with_article(Gender::MasculinePlural, "Estados Unidos");
        check(
            Portuguese,
            "{de S} {em S} {a S}",
            &sea,
            "Dos Estados Unidos nos Estados Unidos aos Estados Unidos",
        );
    }

    #[test]
    fn a_cloze_ends_in_its_answer() {
        let template = Template::parse("{S} se fundó {en O}", Spanish, true).unwrap();
        let city = Phrase::with_article(Gender::Feminine, "ciudad de Lima");
        assert_eq!(template.render(&city, None), "La ciudad de Lima se fundó");
        let mut date = Phrase::bare("18 de enero de 1535");
        date.located = Some("el 18 de enero de 1535".to_owned());
        assert_eq!(template.continuation(&date), "el 18 de enero de 1535");
        assert_eq!(template.continuation(&Phrase::bare("1535")), "en 1535");
    }

    #[test]
    fn a_template_without_subject_or_with_unknown_slots_is_refused() {
        for (text, cloze) in [
            ("¿Qué?", false),
            ("{S} {X}", false),
            ("{S", false),
            ("{O} {S}", true),
            ("{S} {O}", false),
        ] {
            assert!(Template::parse(text, Spanish, cloze).is_err(), "{text}");
        }
        assert!(Template::parse("{em S}", Spanish, false).is_err());
    }
}
