//! The constraints: how their ids and arguments are read, and when a response keeps them.
//!
//! Ids are `language:group:kind`, IFEval's own have no language and are English. English is judged
//! as IFEval judges (lm-evaluation-harness 0.4.13), Spanish as M-IFEval; where the two differ,
//! Portuguese, Guaraní and Quechua go the Spanish way. `docs/design/instructions.md` lists the kinds.
//! It knows no files and no scores.

use std::{collections::BTreeSet, ops::RangeInclusive, sync::LazyLock};

use fancy_regex::Regex;
use milpa_text::{LanguageModel, language};
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::{
    Language, Verdict,
    arguments::{Arguments, Bound},
    text::{
        capital_tokens, count_matches, count_sentences, is_lower, is_upper, pattern,
        without_list_numbers, words,
    },
};

/// A constraint on a response.
#[derive(Debug, Clone)]
pub(super) enum Constraint {
    /// Each is there.
    Keywords(Vec<(String, Regex)>),
    /// It is there so often.
    KeywordCount(Regex, Bound),
    /// None is there.
    ForbiddenWords(Vec<(String, Regex)>),
    /// So many of a letter, capital or small.
    LetterCount(String, Bound),
    /// The whole in the language of this ISO 639-3 code.
    InLanguage(&'static str),
    /// Most letters in the script that only this language has.
    InScript(RangeInclusive<char>),
    /// So many sentences.
    Sentences(Bound),
    /// So many words.
    Words(Bound),
    /// Paragraphs between `***`.
    Paragraphs(u64),
    /// Paragraphs between empty lines, of which one begins so.
    ParagraphStart { paragraphs: u64, which: usize, start: String },
    /// So many `[…]`.
    Placeholders(Bound),
    /// Something after this mark.
    Postscript(Regex),
    /// So many lines that begin with `*` or `-`.
    Bullets(Bound),
    /// One of these answers is in it.
    OneOf(Vec<String>),
    /// So many `*…*` and `**…**`.
    Highlights(Bound),
    /// So many numbered sections.
    Sections(Regex, Bound),
    /// JSON and nothing else, but for a fence of Markdown.
    Json,
    /// `<<…>>`.
    Title,
    /// Two that differ, with `******` between them.
    TwoResponses,
    /// Begins with this.
    Begins(String),
    /// Ends with this.
    Ends(String),
    /// So many tokens in capitals.
    CapitalTokens(Bound),
    /// Capitals only, in the language.
    AllCapital(&'static str),
    /// Small letters only, in the language.
    AllSmall(&'static str),
    /// No comma.
    NoComma,
    /// Between quotation marks.
    Quoted,
    /// These marks are there.
    Marks(&'static [char]),
    /// So many words that have one of these letters.
    WordsWith(&'static [&'static str], Bound),
}

/// Languages of IFEval that are alone in their script, which the identifier need not know.
const SCRIPTS: [(&str, RangeInclusive<char>); 6] = [
    ("pa", '\u{a00}'..='\u{a7f}'),
    ("gu", '\u{a80}'..='\u{aff}'),
    ("ta", '\u{b80}'..='\u{bff}'),
    ("te", '\u{c00}'..='\u{c7f}'),
    ("kn", '\u{c80}'..='\u{cff}'),
    ("ml", '\u{d00}'..='\u{d7f}'),
];
/// Acute accents: the Spanish *tildes*.
const ACUTE: &[&str] = &["á", "é", "í", "ó", "ú"];
/// Every accent of Portuguese.
const PORTUGUESE_ACCENTS: &[&str] = &["á", "é", "í", "ó", "ú", "â", "ê", "ô", "à", "ã", "õ"];
/// The nasal vowels and consonants that Guaraní writes with a tilde.
const GUARANI_NASALS: &[&str] =
    &["ã", "ẽ", "ĩ", "õ", "ũ", "ỹ", "g\u{303}", "ñ", "â", "ê", "î", "ô", "û", "ŷ"];
/// The glottal stop (*puso*), as people type it.
const PUSO: &[&str] = &["ʼ", "'", "’", "‘", "´", "ꞌ"];
/// Letters of the three-vowel and five-vowel alphabets that Quechua writes for ejectives.
const EJECTIVES: &[&str] =
    &["ch'", "k'", "p'", "q'", "t'", "ch’", "k’", "p’", "q’", "t’", "chʼ", "kʼ", "pʼ", "qʼ", "tʼ"];

impl Constraint {
    /// Reads the constraint of `kind` (`group:kind`) in the rules of `language`.
    pub(super) fn parse(
        kind: &str,
        values: &Map<String, Value>,
        language: Language,
    ) -> Result<Self, String> {
        let patterns = matches!(language, Language::English | Language::Spanish);
        let make = move |word: &str| {
            if patterns { word.to_owned() } else { fancy_regex::escape(word).into_owned() }
        };
        let mut given = Arguments::new(values, &make);
        let constraint = Self::read(kind, &mut given, language)?;
        given.end()?;
        Ok(constraint)
    }

    fn read(kind: &str, given: &mut Arguments<'_>, language: Language) -> Result<Self, String> {
        use Language::{English, Guarani, Portuguese, Quechua, Spanish};
        let least = Bound::at_least;
        Ok(match (kind, language) {
            ("keywords:existence", _) => {
                let of = given.texts("keywords")?.into_iter();
                let with = |word: String| Ok((word.clone(), given.word("", &word, "")?));
                Self::Keywords(of.map(with).collect::<Result<_, String>>()?)
            }
            ("keywords:frequency", _) => {
                let word = given.text("keyword")?;
                let pattern = given.word("", word.trim(), "")?;
                Self::KeywordCount(pattern, given.bound("frequency", "relation", least)?)
            }
            ("keywords:forbidden_words", _) => {
                let of = given.texts("forbidden_words")?.into_iter();
                let with = |word: String| Ok((word.clone(), given.word(r"\b", &word, r"\b")?));
                Self::ForbiddenWords(of.map(with).collect::<Result<_, String>>()?)
            }
            ("keywords:letter_frequency", _) => {
                let letter = given.text("letter")?.trim().to_lowercase();
                if words(&letter).count() > 1 || letter.chars().count() > 2 {
                    return Err(format!("{letter:?} is no letter"));
                }
                Self::LetterCount(letter, given.bound("let_frequency", "let_relation", least)?)
            }
            ("language:response_language", _) => {
                let code = given.text("language")?;
                match SCRIPTS.iter().find(|(known, _)| *known == code.trim()) {
                    Some((_, script)) => Self::InScript(script.clone()),
                    None => Self::InLanguage(known_language(&code)?),
                }
            }
            ("length_constraints:number_sentences", _) => {
                Self::Sentences(given.bound("num_sentences", "relation", least)?)
            }
            ("length_constraints:number_words", _) => {
                Self::Words(given.bound("num_words", "relation", least)?)
            }
            ("length_constraints:number_paragraphs", _) => {
                Self::Paragraphs(given.number("num_paragraphs")?)
            }
            ("length_constraints:nth_paragraph_first_word", _) => {
                let which = given.number("nth_paragraph")?;
                let which = usize::try_from(which).ok().filter(|&which| which > 0);
                Self::ParagraphStart {
                    paragraphs: given.number("num_paragraphs")?,
                    which: which.ok_or("nth_paragraph is counted from 1")?,
                    start: given.text("first_word")?.to_lowercase(),
                }
            }
            ("detectable_content:number_placeholders", _) => {
                Self::Placeholders(given.bound("num_placeholders", "relation", least)?)
            }
            ("detectable_content:postscript", _) => {
                Self::Postscript(postscript(given.text("postscript_marker")?.trim(), language)?)
            }
            ("detectable_format:number_bullet_lists", _) => {
                Self::Bullets(given.bound("num_bullets", "relation", Bound::exactly)?)
            }
            ("detectable_format:constrained_response", _) => Self::OneOf(given.texts_or(
                "options",
                match language {
                    English => &["My answer is yes.", "My answer is no.", "My answer is maybe."],
                    Spanish => &["Sí.", "No.", "Quizás."],
                    Portuguese => &["Sim.", "Não.", "Talvez."],
                    Guarani | Quechua => &[],
                },
            )?),
            ("detectable_format:number_highlighted_sections", _) => {
                Self::Highlights(given.bound("num_highlights", "relation", least)?)
            }
            ("detectable_format:multiple_sections", _) => {
                let name = given.text("section_spliter")?;
                let pattern = given.word(r"(?-i)\s?", name.trim(), r"\s?\d+\s?")?;
                Self::Sections(pattern, given.bound("num_sections", "relation", least)?)
            }
            ("detectable_format:json_format", _) => Self::Json,
            ("detectable_format:title", _) => Self::Title,
            ("combination:two_responses", _) => Self::TwoResponses,
            ("combination:repeat_prompt", _) => {
                Self::Begins(given.text("prompt_to_repeat")?.trim().to_lowercase())
            }
            ("startend:end_checker", _) => {
                Self::Ends(given.text("end_phrase")?.trim().to_lowercase())
            }
            ("startend:quotation", _) => Self::Quoted,
            ("change_case:capital_word_frequency", _) => {
                Self::CapitalTokens(given.bound("capital_frequency", "capital_relation", least)?)
            }
            ("change_case:english_capital", English) => Self::AllCapital("eng"),
            ("change_case:english_lowercase", English) => Self::AllSmall("eng"),
            ("change_case:spanish_capital", Spanish) => Self::AllCapital("spa"),
            ("change_case:spanish_lowercase", Spanish) => Self::AllSmall("spa"),
            ("change_case:portuguese_capital", Portuguese) => Self::AllCapital("por"),
            ("change_case:portuguese_lowercase", Portuguese) => Self::AllSmall("por"),
            ("change_case:guarani_capital", Guarani) => Self::AllCapital("grn"),
            ("change_case:guarani_lowercase", Guarani) => Self::AllSmall("grn"),
            ("change_case:quechua_capital", Quechua) => Self::AllCapital("que"),
            ("change_case:quechua_lowercase", Quechua) => Self::AllSmall("que"),
            ("punctuation:no_comma", _) => Self::NoComma,
            ("punctuation:question_marks", Spanish) => Self::Marks(&['¿', '?']),
            ("punctuation:exclamation_marks", Spanish) => Self::Marks(&['¡', '!']),
            // Who writes Guaraní or Quechua opens a question or not.
            ("punctuation:question_marks", Portuguese | Guarani | Quechua) => Self::Marks(&['?']),
            ("punctuation:exclamation_marks", Portuguese | Guarani | Quechua) => {
                Self::Marks(&['!'])
            }
            ("special_character:enie", Spanish | Guarani | Quechua) => {
                Self::words_with(&["ñ"], "let_frequency", given)?
            }
            ("special_character:dieresis", Spanish) => {
                Self::words_with(&["ü"], "let_frequency", given)?
            }
            ("special_character:tildes", Spanish) => Self::accents(ACUTE, given)?,
            ("special_character:accents", Portuguese) => Self::accents(PORTUGUESE_ACCENTS, given)?,
            ("special_character:cedilla", Portuguese) => {
                Self::words_with(&["ç"], "let_frequency", given)?
            }
            ("special_character:nasals", Portuguese) => Self::accents(&["ã", "õ"], given)?,
            ("special_character:nasals", Guarani) => Self::accents(GUARANI_NASALS, given)?,
            ("special_character:puso", Guarani) => Self::accents(PUSO, given)?,
            ("special_character:ejectives", Quechua) => Self::accents(EJECTIVES, given)?,
            _ => return Err(format!("there is no instruction {kind:?} for {}", language.name())),
        })
    }

    fn words_with(
        letters: &'static [&'static str],
        count: &str,
        given: &mut Arguments<'_>,
    ) -> Result<Self, String> {
        Ok(Self::WordsWith(letters, given.bound(count, "let_relation", Bound::exactly)?))
    }

    fn accents(
        letters: &'static [&'static str],
        given: &mut Arguments<'_>,
    ) -> Result<Self, String> {
        Ok(Self::WordsWith(letters, given.bound("num_words", "relation", Bound::at_least)?))
    }

    /// Whether `response` keeps the constraint, and what was found.
    pub(super) fn check(&self, response: &str, language: Language) -> Verdict {
        let amount = |found: Option<usize>, what: &str, bound: Bound| match found {
            Some(found) => {
                let holds = bound.holds(found as u64);
                Verdict::new(holds, format!("{found} {what}; {bound} asked"))
            }
            None => Verdict::new(false, format!("the {what} could not be counted")),
        };
        let count =
            |pattern: &Regex, what, bound| amount(count_matches(pattern, response), what, bound);
        match self {
            Self::Keywords(keywords) => {
                let missing = keywords.iter().find(|(_, pattern)| !finds(pattern, response));
                Verdict::absence(missing.map(|(word, _)| format!("{word:?} is not there")))
            }
            Self::KeywordCount(pattern, bound) => count(pattern, "times", *bound),
            Self::ForbiddenWords(forbidden) => {
                let found = forbidden.iter().find(|(_, pattern)| finds(pattern, response));
                Verdict::absence(found.map(|(word, _)| format!("{word:?} is there")))
            }
            Self::LetterCount(letter, bound) => {
                let found = response.to_lowercase().matches(letter.as_str()).count();
                amount(Some(found), "times", *bound)
            }
            Self::InLanguage(code) => in_language(response, code),
            Self::InScript(script) => {
                let letters: Vec<char> = response.chars().filter(|c| c.is_alphabetic()).collect();
                let own = letters.iter().filter(|c| script.contains(c)).count();
                let reason = format!("{own} of {} letters in its script", letters.len());
                Verdict::new(letters.is_empty() || 2 * own > letters.len(), reason)
            }
            Self::Sentences(bound) => {
                let text = countable(response, language);
                amount(Some(count_sentences(&text, language)), "sentences", *bound)
            }
            Self::Words(bound) => {
                let text = countable(response, language);
                amount(Some(words(&text).count()), "words", *bound)
            }
            Self::Paragraphs(asked) => paragraphs(response, *asked),
            Self::ParagraphStart { paragraphs, which, start } => {
                paragraph_start(response, *paragraphs, *which, start, language)
            }
            Self::Placeholders(bound) => count(&PLACEHOLDER, "placeholders", *bound),
            Self::Postscript(pattern) => {
                let holds = finds(pattern, &response.to_lowercase());
                Verdict::new(holds, if holds { "there" } else { "no postscript" })
            }
            Self::Bullets(bound) => {
                let stars = count_matches(&STAR_BULLET, response);
                let dashes = count_matches(&DASH_BULLET, response);
                amount(stars.zip(dashes).map(|(a, b)| a + b), "list items", *bound)
            }
            Self::OneOf(options) => {
                let found = options.iter().find(|option| response.trim().contains(*option));
                match found {
                    Some(option) => Verdict::new(true, format!("{option:?} is there")),
                    None => Verdict::new(false, "none of the answers is there"),
                }
            }
            Self::Highlights(bound) => amount(Some(highlights(response)), "highlights", *bound),
            Self::Sections(pattern, bound) => count(pattern, "sections", *bound),
            Self::Json => json(response),
            Self::Title => {
                let title = |found: &str| {
                    !found.trim_start_matches('<').trim_end_matches('>').trim().is_empty()
                };
                let found = TITLE.find_iter(response).flatten().any(|found| title(found.as_str()));
                Verdict::new(found, if found { "there" } else { "no title in << >>" })
            }
            Self::TwoResponses => two_responses(response),
            Self::Begins(start) => {
                let begins = response.trim().to_lowercase().starts_with(start.as_str());
                Verdict::new(begins, if begins { "begins so" } else { "begins otherwise" })
            }
            Self::Ends(end) => {
                let text = response.trim().trim_matches('"').to_lowercase();
                // In a sentence of its own the phrase has its full stop; IFEval's English refuses it.
                let stop = language != Language::English && text.ends_with('.');
                let ends = text.ends_with(end.as_str())
                    || stop && text.trim_end_matches('.').ends_with(end.as_str());
                Verdict::new(ends, if ends { "ends so" } else { "ends otherwise" })
            }
            Self::CapitalTokens(bound) => {
                amount(Some(capital_tokens(response)), "words in capitals", *bound)
            }
            Self::AllCapital(code) if is_upper(response) => in_language(response, code),
            Self::AllCapital(_) => Verdict::new(false, "not in capitals only"),
            Self::AllSmall(code) if is_lower(response) => in_language(response, code),
            Self::AllSmall(_) => Verdict::new(false, "not in small letters only"),
            Self::NoComma => {
                let commas = response.matches(',').count();
                Verdict::new(commas == 0, format!("{commas} commas"))
            }
            Self::Quoted => quoted(response, language),
            Self::Marks(marks) => {
                let missing = marks.iter().find(|&&mark| !response.contains(mark));
                Verdict::absence(missing.map(|mark| format!("no {mark}")))
            }
            Self::WordsWith(letters, bound) => {
                amount(Some(words_with(response, letters)), "such words", *bound)
            }
        }
    }
}

static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[.*?\]"));
static STAR_BULLET: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*\*[^*].*$"));
static DASH_BULLET: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*-.*$"));
static TITLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"<<[^\n]+>>"));

/// Whether a pattern is there; not where the search was given up.
fn finds(pattern: &Regex, text: &str) -> bool {
    pattern.is_match(text).unwrap_or(false)
}

/// What of a response is counted: for IFEval's English all, elsewhere not the numbers of lists.
fn countable(response: &str, language: Language) -> std::borrow::Cow<'_, str> {
    if language == Language::English {
        response.into()
    } else {
        without_list_numbers(response).into()
    }
}

/// The ISO 639-3 code of a language that the identifier knows.
fn known_language(code: &str) -> Result<&'static str, String> {
    let known = LanguageModel::embedded().languages();
    language::canonical(code)
        .filter(|wanted| known.iter().any(|label| language::matches(label, wanted)))
        .ok_or_else(|| format!("{code:?} is no language that can be identified"))
}

/// Whether a response is in the language; one without letters is in any.
fn in_language(response: &str, wanted: &str) -> Verdict {
    // Capitals say nothing of the language.
    let found = LanguageModel::embedded().identify(&response.to_lowercase());
    let no_letters = !response.chars().any(char::is_alphabetic);
    let holds = no_letters || language::matches(found.label, wanted);
    Verdict::new(holds, format!("identified as {}; {wanted} asked", found.label))
}

/// The mark of a postscript with the spellings that IFEval allows.
fn postscript(marker: &str, language: Language) -> Result<Regex, String> {
    let lower = marker.to_lowercase();
    let source = match (language, marker) {
        (Language::English, "P.P.S") => r"p\.\s?p\.\s?s".to_owned(),
        (Language::English, "P.S.") => r"p\.\s?s\.".to_owned(),
        (Language::English, _) => lower,
        // Letters with points may have a space after each point.
        _ => fancy_regex::escape(&lower).replace(r"\.", r"\.\s?").trim_end_matches(r"\s?").into(),
    };
    Regex::new(&format!(r"(?m)\s*{source}.*$"))
        .map_err(|error| format!("{marker:?} is no regular expression: {error}"))
}

fn paragraphs(response: &str, asked: u64) -> Verdict {
    static DIVIDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\s?\*\*\*\s?"));
    let parts: Vec<&str> = DIVIDER.split(response).map_while(Result::ok).collect();
    let mut found = parts.len() as u64;
    for (at, part) in parts.iter().enumerate() {
        if part.trim().is_empty() {
            if at != 0 && at + 1 != parts.len() {
                return Verdict::new(false, "an empty paragraph");
            }
            found -= 1;
        }
    }
    Verdict::new(found == asked, format!("{found} paragraphs; exactly {asked} asked"))
}

fn paragraph_start(
    response: &str,
    asked: u64,
    which: usize,
    start: &str,
    language: Language,
) -> Verdict {
    let parts: Vec<&str> = response.split("\n\n").collect();
    let found = parts.iter().filter(|part| !part.trim().is_empty()).count();
    let paragraph = parts.get(which - 1).map_or("", |part| part.trim());
    if which > found || paragraph.is_empty() {
        return Verdict::new(false, format!("{found} paragraphs; paragraph {which} is not there"));
    }
    let begin = paragraph.trim_start_matches('\'').trim_start_matches('"').to_lowercase();
    let starts = if language == Language::English {
        let word = begin.split_whitespace().next().unwrap_or_default();
        let marks = ['.', ',', '?', '!', '\'', '"'];
        word.split(marks).next() == Some(start)
    } else {
        // The words asked for may be several.
        begin.trim_start_matches(['¿', '¡', '«', '“', '"', '\'']).starts_with(start)
            || begin.starts_with(start)
    };
    let how = if starts { "so" } else { "otherwise" };
    Verdict::new(
        starts && found as u64 == asked,
        format!("{found} paragraphs, {asked} asked; paragraph {which} begins {how}"),
    )
}

fn highlights(response: &str) -> usize {
    static SINGLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*[^\n*]*\*"));
    static DOUBLE: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*\*[^\n*]*\*\*"));
    let count = |pattern: &Regex| {
        let full = |text: &str| !text.trim_matches('*').trim().is_empty();
        pattern.find_iter(response).flatten().filter(|found| full(found.as_str())).count()
    };
    count(&SINGLE) + count(&DOUBLE)
}

fn json(response: &str) -> Verdict {
    let mut text = response.trim();
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    let text = text.strip_suffix("```").unwrap_or(text).trim();
    match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => Verdict::new(true, "JSON"),
        Err(error) => Verdict::new(false, format!("no JSON: {error}")),
    }
}

fn two_responses(response: &str) -> Verdict {
    let parts: Vec<&str> = response.split("******").map(str::trim).collect();
    let last = parts.len() - 1;
    let hollow = |(at, part): (usize, &&str)| part.is_empty() && at != 0 && at != last;
    if parts.iter().enumerate().any(hollow) {
        return Verdict::new(false, "nothing between two ******");
    }
    let full: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let differ = full.iter().collect::<BTreeSet<_>>().len() == full.len();
    let same = if differ { "" } else { ", not all different" };
    Verdict::new(full.len() == 2 && differ, format!("{} responses{same}", full.len()))
}

fn quoted(response: &str, language: Language) -> Verdict {
    let mut inside = response.trim().chars();
    let ends = inside.next().zip(inside.next_back());
    let holds = match (ends, language) {
        (Some(('"', '"')), _) => true,
        (Some(ends), Language::Portuguese | Language::Guarani | Language::Quechua) => {
            matches!(ends, ('“', '”') | ('«', '»'))
        }
        _ => false,
    };
    Verdict::new(holds, if holds { "in quotation marks" } else { "no quotation marks around it" })
}

fn words_with(response: &str, letters: &[&str]) -> usize {
    let text = milpa_text::normalise(response).to_lowercase();
    let has = |word: &str| letters.iter().any(|letter| word.contains(letter));
    let apostrophe = |c: char| matches!(c, 'ʼ' | '\'' | '’' | '‘' | '´' | 'ꞌ');
    if !letters.iter().any(|letter| letter.contains(apostrophe)) {
        return words(&text).filter(|word| has(word)).count();
    }
    // The sign stands inside or after a word, never before: there it opens a quotation.
    text.split(|c: char| !(c.is_alphanumeric() || apostrophe(c) || c == '\u{303}'))
        .map(|word| word.trim_start_matches(apostrophe))
        .map(|word| if letters == PUSO { word.trim_end_matches(apostrophe) } else { word })
        .filter(|word| has(word))
        .count()
}
