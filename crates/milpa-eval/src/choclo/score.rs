//! Grades an answer in tiers, from equal to nearly equal, so that a report can show each.
//!
//! Names: exact, normalised (case, marks, articles), alias, accents folded, edit distance of one in
//! eight letters or more. Dates: to the gold's precision, or its year alone. Quantities: equal, or
//! within the relation's tolerance, in any unit of the same kind. It knows an item's answer, not
//! the item.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use crate::{
    choclo::{
        grammar::Language,
        knowledge::Mode,
        values::{Date, DatePrecision, months, roman},
    },
    verify::{
        number::{Marks, find_numbers, plain_marks},
        rational::Rational,
        unit::{Unit, unit_after, unit_of},
    },
};

/// How an answer was found right, strictest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Equal to the label, the date or the number.
    Exact,
    /// Equal in lower case without punctuation and leading articles.
    Normalised,
    /// Equal to an alias, normalised.
    Alias,
    /// Equal to the label or an alias without accents.
    AccentFolded,
    /// One edit away, where the name has eight letters or more.
    EditDistance,
    /// A quantity within the tolerance.
    WithinTolerance,
    /// The right year, where the gold date is more precise and the answer says no more.
    YearOnly,
}

impl Tier {
    /// All tiers, strictest first.
    pub const ALL: [Self; 7] = [
        Self::Exact,
        Self::Normalised,
        Self::Alias,
        Self::AccentFolded,
        Self::EditDistance,
        Self::WithinTolerance,
        Self::YearOnly,
    ];
}

/// One right answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Object {
    /// An entity.
    Item {
        /// Its QID.
        qid: String,
        /// Its name in the item's language.
        label: String,
        /// Other names, in any language of the region and English.
        aliases: Vec<String>,
    },
    /// A date.
    Date {
        /// As written.
        text: String,
        /// The date.
        #[serde(flatten)]
        date: Date,
    },
    /// A quantity.
    Quantity {
        /// As written.
        text: String,
        /// The number in `unit`.
        amount: f64,
        /// Symbol of the unit; empty for a number of things.
        unit: String,
        /// Relative tolerance.
        tolerance: f64,
    },
    /// A text, such as a code.
    Text {
        /// The text.
        text: String,
    },
}

impl Object {
    /// As it is written in a list of choices.
    pub fn text(&self) -> &str {
        match self {
            Self::Item { label, .. } => label,
            Self::Date { text, .. } | Self::Quantity { text, .. } | Self::Text { text } => text,
        }
    }
}

/// The right answers of an item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// How many of them are asked for.
    pub mode: Mode,
    /// The right answers.
    pub objects: Vec<Object>,
}

/// What decides how an answer is read.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Language of the item.
    pub language: Language,
    /// Whether the item's country writes decimals with a point.
    pub decimal_point: bool,
}

impl Answer {
    /// The strictest tier at which `response` is right, or `None`.
    ///
    /// The response is an answer, not an essay: its first line counts, without a lead such as
    /// "Respuesta:". Where all answers are asked for, the loosest of their tiers is returned, and
    /// one too many is wrong.
    pub fn grade(&self, response: &str, reading: Reading) -> Option<Tier> {
        let response = answer_of(response)?;
        match self.mode {
            Mode::Any | Mode::Count => best(&self.objects, response, reading),
            Mode::All => {
                let parts = parts_of(response);
                let mut open: Vec<&Object> = self.objects.iter().collect();
                let mut loosest = Tier::Exact;
                for part in &parts {
                    let graded = open
                        .iter()
                        .enumerate()
                        .filter_map(|(at, object)| Some((object.grade(part, reading)?, at)))
                        .min()?;
                    loosest = loosest.max(graded.0);
                    open.remove(graded.1);
                }
                open.is_empty().then_some(loosest)
            }
        }
    }
}

fn best(objects: &[Object], response: &str, reading: Reading) -> Option<Tier> {
    objects.iter().filter_map(|object| object.grade(response, reading)).min()
}

impl Object {
    fn grade(&self, response: &str, reading: Reading) -> Option<Tier> {
        match self {
            Self::Item { label, aliases, .. } => {
                grade_name(response, label, aliases, articles(reading.language.code()))
            }
            Self::Text { text } => {
                grade_name(response, text, &[], articles(reading.language.code()))
                    .filter(|&tier| tier != Tier::EditDistance)
            }
            Self::Date { date, text } => {
                if response == text {
                    return Some(Tier::Exact);
                }
                grade_date(*date, &read_date(response, reading.language)?)
            }
            Self::Quantity { text, amount, unit, tolerance } => {
                if response == text {
                    return Some(Tier::Exact);
                }
                let number = match read_quantity(response, reading)? {
                    (number, None) => number,
                    (number, Some(given)) => {
                        let gold = unit_of(unit).filter(|gold| gold.kind == given.kind)?;
                        given.to_base(number)?.over(gold.to_base(Rational::ONE)?)?
                    }
                };
                let error = (number.to_f64() - amount).abs();
                if error <= 1e-9 * amount.abs() {
                    Some(Tier::Exact)
                } else {
                    (error <= tolerance * amount.abs()).then_some(Tier::WithinTolerance)
                }
            }
        }
    }
}

/// The strictest tier at which `response` is one of `names`, the first of which is the name and the
/// others its aliases, or `None`; `language` (`es`, `pt`, `en`) decides what is an article.
///
/// As for [`Answer::grade`] the first line of the response counts, without a lead.
pub fn grade_names(response: &str, names: &[String], language: &str) -> Option<Tier> {
    let (label, aliases) = names.split_first()?;
    grade_name(answer_of(response)?, label, aliases, articles(language))
}

/// The articles of a language that a name is compared without.
fn articles(language: &str) -> &'static [&'static str] {
    match language {
        "es" => &["el", "la", "los", "las", "un", "una"],
        "pt" => &["o", "a", "os", "as", "um", "uma"],
        "en" => &["the", "a", "an"],
        _ => &[],
    }
}

fn grade_name(response: &str, label: &str, aliases: &[String], articles: &[&str]) -> Option<Tier> {
    if response == label {
        return Some(Tier::Exact);
    }
    let normalise = |text: &str| normalise_without(text, articles);
    let given = normalise(response);
    if given.is_empty() {
        return None;
    }
    let label = normalise(label);
    if given == label {
        return Some(Tier::Normalised);
    }
    let aliases: Vec<String> = aliases.iter().map(|alias| normalise(alias)).collect();
    if aliases.contains(&given) {
        return Some(Tier::Alias);
    }
    let given = fold_accents(&given);
    let mut names = std::iter::once(&label).chain(&aliases).map(|name| fold_accents(name));
    if names.clone().any(|name| name == given) {
        return Some(Tier::AccentFolded);
    }
    // Digits are never a slip of the pen: "canal 12" is not "canal 13".
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    names
        .any(|name| {
            name.chars().count() >= 8
                && digits(&name) == digits(&given)
                && strsim::levenshtein(&name, &given) <= 1
        })
        .then_some(Tier::EditDistance)
}

/// The first line with anything on it, without what announces an answer.
fn answer_of(response: &str) -> Option<&str> {
    let mut line = response.lines().map(str::trim).find(|line| !line.is_empty())?;
    for lead in [
        "respuesta:",
        "resposta:",
        "answer:",
        "la respuesta es",
        "a resposta é",
        "the answer is",
        "r:",
    ] {
        if let Some(start) = line.get(..lead.len())
            && start.to_lowercase() == lead
        {
            line = line[lead.len()..].trim();
        }
    }
    let line = line.trim_matches(['"', '*', '«', '»', '“', '”', '\'', ' ']);
    let line = line.strip_suffix('.').unwrap_or(line).trim();
    (!line.is_empty()).then_some(line)
}

fn parts_of(response: &str) -> Vec<&str> {
    response
        .split([',', ';'])
        .flat_map(|part| part.split(" y "))
        .flat_map(|part| part.split(" e "))
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

/// Lower case, punctuation as spaces, one space between words, no leading article.
pub(crate) fn normalise(text: &str, language: Language) -> String {
    normalise_without(text, articles(language.code()))
}

fn normalise_without(text: &str, articles: &[&str]) -> String {
    let spaced: String = text
        .nfc()
        .flat_map(char::to_lowercase)
        .map(|c| if c.is_alphanumeric() || is_combining_mark(c) { c } else { ' ' })
        .collect();
    let mut words: Vec<&str> = spaced.split_whitespace().collect();
    if words.len() > 1 && articles.contains(&words[0]) {
        words.remove(0);
    }
    words.join(" ")
}

/// Without accents and other marks; ñ becomes n.
pub(crate) fn fold_accents(text: &str) -> String {
    text.nfd().filter(|&c| !is_combining_mark(c)).collect()
}

/// What an answer says of a date.
#[derive(Debug, Default, PartialEq)]
struct GivenDate {
    year: Option<i32>,
    month: Option<u8>,
    day: Option<u8>,
    decade: bool,
    century: Option<i32>,
}

fn grade_date(gold: Date, given: &GivenDate) -> Option<Tier> {
    let exact = |right: bool| right.then_some(Tier::Exact);
    match gold.precision {
        DatePrecision::Century => exact(
            given.century == Some(gold.century())
                || given.year.is_some_and(|year| (year - 1) / 100 + 1 == gold.century()),
        ),
        DatePrecision::Decade => {
            exact(given.year.is_some_and(|year| year - year.rem_euclid(10) == gold.decade()))
        }
        _ if given.decade || given.year != Some(gold.year) => None,
        DatePrecision::Year => Some(Tier::Exact),
        DatePrecision::Month => match given.month {
            Some(month) => exact(month == gold.month),
            None => Some(Tier::YearOnly),
        },
        DatePrecision::Day => match (given.month, given.day) {
            (Some(month), Some(day)) => exact(month == gold.month && day == gold.day),
            (Some(month), None) => (month == gold.month).then_some(Tier::YearOnly),
            (None, _) => Some(Tier::YearOnly),
        },
    }
}

/// Reads "6 de marzo de 1927", "06/03/1927" (day first), "1927-03-06", "marzo de 1927", "1927",
/// "década de 1920", "siglo XX".
fn read_date(text: &str, language: Language) -> Option<GivenDate> {
    let folded = fold_accents(&text.to_lowercase());
    let words: Vec<&str> =
        folded.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut given = GivenDate::default();
    if let Some(at) = words.iter().position(|word| matches!(*word, "siglo" | "seculo")) {
        let sign = words.get(at + 1)?;
        given.century =
            (1..=21).find(|&n| roman(n).eq_ignore_ascii_case(sign) || n.to_string() == **sign);
        return given.century.is_some().then_some(given);
    }
    given.decade = words.iter().any(|word| word.starts_with("decada"));
    let numbers: Vec<&str> = words
        .iter()
        .map(|word| match *word {
            // The first of a month, as an ordinal.
            "1º" | "1o" | "1ro" | "1ero" | "primero" | "primeiro" => "1",
            other => other,
        })
        .filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))
        .collect();
    let month_names = months(language).map(fold_accents);
    given.month = words
        .iter()
        .find_map(|word| month_names.iter().position(|name| name == word))
        .map(|index| index as u8 + 1);
    let small = |text: &str, most: u8| text.parse().ok().filter(|n| (1..=most).contains(n));
    match (given.month, numbers.as_slice()) {
        (Some(_), [day, year]) if day.len() <= 2 => {
            given.day = Some(small(day, 31)?);
            given.year = year.parse().ok();
        }
        (None, [day, month, year]) if day.len() <= 2 && year.len() == 4 => {
            (given.day, given.month) = (Some(small(day, 31)?), Some(small(month, 12)?));
            given.year = year.parse().ok();
        }
        (None, [year, month, day]) if year.len() == 4 => {
            (given.day, given.month) = (Some(small(day, 31)?), Some(small(month, 12)?));
            given.year = year.parse().ok();
        }
        (_, [year]) => given.year = year.parse().ok(),
        _ => return None,
    }
    given.year.map(|_| given)
}

/// Reads the one number of an answer, with its multiplier and unit.
fn read_quantity(text: &str, reading: Reading) -> Option<(Rational, Option<Unit>)> {
    let text = plain_marks(text);
    let marks = if reading.decimal_point { Marks::Point } else { Marks::Comma };
    let [found] = find_numbers(&text, marks).try_into().ok()?;
    Some((found.number.ok()?.value, unit_after(&text[found.end..])))
}

/// How many answers were right at each tier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierCounts {
    /// Answers graded.
    pub answers: u64,
    /// Right answers by their strictest tier.
    pub right: BTreeMap<Tier, u64>,
}

impl TierCounts {
    /// Counts one answer.
    pub fn add(&mut self, grade: Option<Tier>) {
        self.answers += 1;
        if let Some(tier) = grade {
            *self.right.entry(tier).or_default() += 1;
        }
    }

    /// For each tier the share of answers that are right at it or at a stricter one.
    pub fn cumulative(&self) -> Vec<(Tier, f64)> {
        let mut right = 0;
        Tier::ALL
            .into_iter()
            .map(|tier| {
                right += self.right.get(&tier).copied().unwrap_or(0);
                (tier, right as f64 / self.answers.max(1) as f64)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANISH: Reading = Reading { language: Language::Spanish, decimal_point: false };

    fn check(object: Object, cases: &[(&str, Option<Tier>)]) {
        let answer = Answer { mode: Mode::Any, objects: vec![object] };
        for (response, expect) in cases {
            assert_eq!(answer.grade(response, SPANISH), *expect, "{response:?}");
        }
    }

    #[test]
    fn names_are_graded_by_the_strictest_tier() {
        let names = |label: &str, aliases: &[&str]| Object::Item {
            qid: "Q1".to_owned(),
            label: label.to_owned(),
            aliases: aliases.iter().map(|&alias| alias.to_owned()).collect(),
        };
        check(
            names("Bogotá", &["Santafé de Bogotá", "Bacatá"]),
            &[
                ("Bogotá", Some(Tier::Exact)),
                ("Respuesta: Bogotá.", Some(Tier::Exact)),
                ("BOGOTÁ", Some(Tier::Normalised)),
                ("Bacatá", Some(Tier::Alias)),
                ("bogota", Some(Tier::AccentFolded)),
                ("santafe de bogota", Some(Tier::AccentFolded)),
                ("Santafé de Bogotáa", Some(Tier::EditDistance)),
                // Six letters: one edit is another word.
                ("Bogató", None),
                ("Medellín", None),
                ("", None),
                ("El", None),
            ],
        );
        check(
            names("Canal Trece 13", &[]),
            &[("canal trece 12", None), ("canal treze 13", Some(Tier::EditDistance))],
        );
        check(
            names("El Alto", &[]),
            &[("alto", Some(Tier::Normalised)), ("el alto", Some(Tier::Normalised))],
        );
        check(
            Object::Text { text: "CO-ANT".to_owned() },
            &[("co ant", Some(Tier::Normalised)), ("CO-ANZ", None)],
        );
    }

    #[test]
    fn lists_of_names_are_graded_in_each_language() {
        let check = |language: &str, names: &[&str], response: &str, expect| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            assert_eq!(grade_names(response, &names, language), expect, "{response:?}");
        };
        check(
            "en",
            &["Amazon River", "Amazon"],
            "Answer: the Amazon River.",
            Some(Tier::Normalised),
        );
        check("en", &["Amazon River", "Amazon"], "amazon", Some(Tier::Alias));
        check("pt", &["Rio Negro"], "o rio negro", Some(Tier::Normalised));
        check("es", &["1889"], "1888", None);
        check("es", &["guaraní"], "guarani", Some(Tier::AccentFolded));
        check("es", &[], "guaraní", None);
    }

    #[test]
    fn dates_are_graded_to_their_precision() {
        let date = |precision| {
            let date = Date::from_dump(1927, 3, 6, precision).unwrap();
            Object::Date { text: date.phrase(Language::Spanish).text, date }
        };
        check(
            date(11),
            &[
                ("6 de marzo de 1927", Some(Tier::Exact)),
                ("06/03/1927", Some(Tier::Exact)),
                ("1927-03-06", Some(Tier::Exact)),
                ("el 7 de marzo de 1927", None),
                ("marzo de 1927", Some(Tier::YearOnly)),
                ("abril de 1927", None),
                ("en 1927", Some(Tier::YearOnly)),
                ("1928", None),
                ("en la década de 1920", None),
                ("1927 o 1928", None),
            ],
        );
        let first = Date::from_dump(1565, 3, 1, 11).unwrap();
        let first = Object::Date { text: first.phrase(Language::Spanish).text, date: first };
        check(
            first,
            &[
                ("1º de marzo de 1565", Some(Tier::Exact)),
                ("1.º de marzo de 1565", Some(Tier::Exact)),
                ("el primero de marzo de 1565", Some(Tier::Exact)),
                ("1 de marzo de 1565", Some(Tier::Exact)),
                ("2 de marzo de 1565", None),
            ],
        );
        check(
            date(9),
            &[
                ("1927", Some(Tier::Exact)),
                ("6 de marzo de 1927", Some(Tier::Exact)),
                ("1926", None),
            ],
        );
        check(
            date(8),
            &[("década de 1920", Some(Tier::Exact)), ("1923", Some(Tier::Exact)), ("1930", None)],
        );
        check(
            date(7),
            &[("siglo XX", Some(Tier::Exact)), ("1950", Some(Tier::Exact)), ("siglo XIX", None)],
        );
    }

    #[test]
    fn quantities_are_read_with_the_marks_of_the_country() {
        let people = |amount| Object::Quantity {
            text: String::new(),
            amount,
            unit: String::new(),
            tolerance: 0.1,
        };
        check(
            people(1_234_000.0),
            &[
                ("1.234.000", Some(Tier::Exact)),
                ("1,234,000 habitantes", Some(Tier::Exact)),
                ("1 234 000", Some(Tier::Exact)),
                ("1,234 millones", Some(Tier::Exact)),
                ("unos 1.200.000", Some(Tier::WithinTolerance)),
                ("1,2 millones", Some(Tier::WithinTolerance)),
                ("2.000.000", None),
                ("1.234", None),
                ("entre 1.000.000 y 1.300.000", None),
                ("muchos", None),
            ],
        );
        let length = Object::Quantity {
            text: String::new(),
            amount: 1528.0,
            unit: "km".to_owned(),
            tolerance: 0.05,
        };
        check(
            length,
            &[
                ("1.528 km", Some(Tier::Exact)),
                ("1.528.000 metros", Some(Tier::Exact)),
                ("1500 kilómetros", Some(Tier::WithinTolerance)),
                ("1528 m", None),
                ("1528", Some(Tier::Exact)),
                ("1528 km²", None),
            ],
        );
    }

    #[test]
    fn all_means_each_and_no_other() {
        let item = |label: &str| Object::Item {
            qid: "Q1".to_owned(),
            label: label.to_owned(),
            aliases: Vec::new(),
        };
        let answer = Answer { mode: Mode::All, objects: vec![item("español"), item("guaraní")] };
        let grade = |response| answer.grade(response, SPANISH);
        assert_eq!(grade("español y guaraní"), Some(Tier::Exact));
        assert_eq!(grade("Guarani, español"), Some(Tier::AccentFolded));
        assert_eq!(grade("español"), None);
        assert_eq!(grade("español, guaraní e inglés"), None);
    }

    #[test]
    fn tiers_add_up_from_the_strictest() {
        let mut counts = TierCounts::default();
        for grade in [Some(Tier::Exact), Some(Tier::Alias), None, None] {
            counts.add(grade);
        }
        let shares: Vec<f64> = counts.cumulative().into_iter().map(|(_, share)| share).collect();
        assert_eq!(shares, [0.25, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5]);
    }
}
