//! Reads votes from JSONL or CSV (plain or compressed); what cannot be a vote is counted by reason.
//!
//! A vote names two models and a winner: `model_a`, `model_b`, `tie`, `both_bad` (or `bothbad`,
//! `tie (bothbad)`). A model against itself says nothing and is refused with its line.

use std::{collections::HashMap, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::style;
use crate::{
    error::EvalError,
    items::Skips,
    rows::{Row, Rows},
};

/// Longest line of a vote with its answers, in bytes.
const MAX_VOTE_BYTES: usize = 16 << 20;
/// Most votes held in memory.
const MAX_VOTES: usize = 50_000_000;
/// Most competitors: their matrix is dense.
pub const MAX_COMPETITORS: usize = 2000;
/// Most values of one category.
const MAX_CATEGORY_VALUES: usize = 4096;

/// Which fields (or columns) of a vote mean what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VoteFields {
    /// The first model's name.
    pub model_a: String,
    /// The second model's name.
    pub model_b: String,
    /// Who won.
    pub winner: String,
    /// Who voted, where that is known.
    pub user: String,
    /// When: seconds since 1970, or a text that begins with a date as YYYY-MM-DD.
    pub time: String,
    /// Fields by whose values there are boards of their own, such as language or country.
    pub categories: Vec<String>,
    /// Fields with numbers that describe the difference of the answers' style, a − b.
    pub style: Vec<String>,
    /// Fields with the two answers, from which the style is measured.
    pub answers: Option<[String; 2]>,
}

impl Default for VoteFields {
    fn default() -> Self {
        Self {
            model_a: "model_a".to_owned(),
            model_b: "model_b".to_owned(),
            winner: "winner".to_owned(),
            user: "user".to_owned(),
            time: "time".to_owned(),
            categories: Vec::new(),
            style: Vec::new(),
            answers: None,
        }
    }
}

impl VoteFields {
    /// Names of the style features, in the order of their values.
    pub fn style_names(&self) -> Vec<String> {
        let measured = if self.answers.is_some() { &style::FEATURES[..] } else { &[] };
        measured.iter().map(|&name| name.to_owned()).chain(self.style.iter().cloned()).collect()
    }
}

/// How a comparison ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The first was better.
    A,
    /// Neither was better; also both bad.
    Tie,
    /// The second was better.
    B,
}

impl Outcome {
    /// Share of the win that goes to the first: 1, ½ or 0.
    pub fn share_of_a(self) -> f64 {
        match self {
            Self::A => 1.0,
            Self::Tie => 0.5,
            Self::B => 0.0,
        }
    }
}

/// A vote; names are numbers into the tables of [`Votes`].
#[derive(Debug, Clone, PartialEq)]
pub struct Vote {
    /// The first model.
    pub a: usize,
    /// The second model.
    pub b: usize,
    /// How it ended.
    pub outcome: Outcome,
    /// Who voted.
    pub user: Option<usize>,
    /// Days since 1970.
    pub day: Option<i64>,
    /// One value for each category field, where the vote has it.
    pub categories: Vec<Option<usize>>,
    /// Style features, a − b.
    pub style: Vec<f64>,
    /// Line in the file.
    pub line: u64,
}

/// Names, numbered in order of first appearance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    names: Vec<String>,
    numbers: HashMap<String, usize>,
}

impl Names {
    /// The number of `name`, new if it was not seen.
    pub fn number(&mut self, name: &str) -> usize {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len();
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    /// All names by number.
    pub fn all(&self) -> &[String] {
        &self.names
    }
}

/// Votes with the names behind their numbers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Votes {
    /// The votes in the order of the file.
    pub votes: Vec<Vote>,
    /// The competitors' names.
    pub models: Names,
    /// The voters' names.
    pub users: Names,
    /// For each category field its name and its values' names.
    pub categories: Vec<(String, Names)>,
    /// Names of the style features.
    pub style: Vec<String>,
    /// What was left out.
    pub skips: Skips,
    /// Lines that are not blank, without the head of a CSV.
    pub lines: u64,
}

/// Reads the votes of a `.csv` or JSONL file, plain or compressed.
///
/// # Errors
/// A file that cannot be read, a CSV without the columns, no usable vote, or more models than
/// [`MAX_COMPETITORS`].
pub fn read_votes(path: &Path, fields: &VoteFields) -> Result<Votes, EvalError> {
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let mut rows = Rows::open(path, MAX_VOTE_BYTES).map_err(read_error)?;
    let mut votes = Votes {
        categories: fields.categories.iter().map(|name| (name.clone(), Names::default())).collect(),
        style: fields.style_names(),
        ..Votes::default()
    };
    let bad = |detail: String| EvalError::Votes { path: path.to_owned(), detail };
    if let Some(columns) = rows.columns().map_err(read_error)? {
        for wanted in [&fields.model_a, &fields.model_b, &fields.winner] {
            if !columns.contains(wanted) {
                return Err(bad(format!(
                    "there is no column {wanted:?}; the file has: {}",
                    columns.join(", ")
                )));
            }
        }
    }
    while let Some((line, row)) = rows.next_row().map_err(read_error)? {
        votes.lines += 1;
        let added = row.map_err(str::to_owned).and_then(|object| votes.add(&object, fields, line));
        if let Err(reason) = added {
            votes.skips.add(&reason, line);
        }
        if votes.models.all().len() > MAX_COMPETITORS {
            return Err(bad(format!(
                "line {line} brings more than {MAX_COMPETITORS} models; check the field {:?}",
                fields.model_a
            )));
        }
        if votes.votes.len() > MAX_VOTES {
            return Err(bad(format!("there are more than {MAX_VOTES} votes; split the file")));
        }
    }
    if votes.votes.is_empty() {
        let detail = if votes.skips.0.is_empty() {
            "the file is empty".to_owned()
        } else {
            votes.skips.to_string()
        };
        return Err(bad(format!("no usable vote: {detail}")));
    }
    Ok(votes)
}

impl Votes {
    /// Adds the vote that `object` holds, or says why it is none.
    fn add(&mut self, object: &Row, fields: &VoteFields, line: u64) -> Result<(), String> {
        let text = |name: &str| match object.get(name) {
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let required = |name: &str| text(name).ok_or_else(|| format!("no field {name:?}"));
        let (a, b) = (required(&fields.model_a)?, required(&fields.model_b)?);
        if a == b {
            return Err("a model against itself".to_owned());
        }
        let outcome = match required(&fields.winner)?.as_str() {
            "model_a" | "a" | "A" => Outcome::A,
            "model_b" | "b" | "B" => Outcome::B,
            "tie" | "both_bad" | "bothbad" | "tie (bothbad)" => Outcome::Tie,
            winner if winner == a => Outcome::A,
            winner if winner == b => Outcome::B,
            _ => return Err("the winner is neither a model nor a tie".to_owned()),
        };
        let mut style_values = Vec::with_capacity(self.style.len());
        if let Some([first, second]) = &fields.answers {
            let answer = |name: &str| match object.get(name) {
                Some(Value::String(text)) => Ok(text.as_str()),
                _ => Err(format!("no answer in {name:?}")),
            };
            style_values.extend(style::difference(answer(first)?, answer(second)?));
        }
        for name in &fields.style {
            let number = match object.get(name) {
                Some(Value::Number(number)) => number.as_f64(),
                Some(Value::String(text)) => text.trim().parse().ok(),
                _ => None,
            };
            style_values.push(
                number
                    .filter(|number: &f64| number.is_finite())
                    .ok_or_else(|| format!("no number in {name:?}"))?,
            );
        }
        let mut categories = Vec::with_capacity(self.categories.len());
        for (name, values) in &mut self.categories {
            let value = text(name);
            if values.all().len() >= MAX_CATEGORY_VALUES {
                return Err(format!("more than {MAX_CATEGORY_VALUES} values of {name:?}"));
            }
            categories.push(value.map(|value| values.number(&value)));
        }
        self.votes.push(Vote {
            a: self.models.number(&a),
            b: self.models.number(&b),
            outcome,
            user: text(&fields.user).map(|user| self.users.number(&user)),
            day: object.get(&fields.time).and_then(day),
            categories,
            style: style_values,
            line,
        });
        Ok(())
    }
}

/// Days since 1970 of seconds since then, or of a text that begins with YYYY-MM-DD.
fn day(value: &Value) -> Option<i64> {
    let seconds = |seconds: f64| seconds.is_finite().then(|| (seconds / 86_400.0).floor() as i64);
    match value {
        Value::Number(number) => seconds(number.as_f64()?),
        Value::String(text) => match text.trim().get(..10).and_then(civil_day) {
            Some(day) => Some(day),
            None => seconds(text.trim().parse().ok()?),
        },
        _ => None,
    }
}

/// Days since 1970 of a date YYYY-MM-DD in the Gregorian calendar (H. Hinnant, `days_from_civil`).
fn civil_day(date: &str) -> Option<i64> {
    let mut parts = date.split('-');
    let mut next = || parts.next()?.parse::<i64>().ok();
    let (year, month, day) = (next()?, next()?, next()?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || parts.next().is_some() {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, fields: &VoteFields) -> Result<Votes, EvalError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read_votes(&path, fields)
    }

    #[test]
    fn jsonl_votes_are_read_and_bad_ones_named() {
        let text = "{\"model_a\":\"x\",\"model_b\":\"y\",\"winner\":\"model_a\",\"user\":\"u\",\"time\":86400.5}\n\
            {\"model_a\":\"x\",\"model_b\":\"x\",\"winner\":\"tie\"}\n\n\
            {\"model_a\":\"y\",\"model_b\":\"x\",\"winner\":\"tie (bothbad)\",\"time\":\"2026-11-21T10:00\"}\n\
            {\"model_a\":\"x\",\"model_b\":\"y\",\"winner\":\"z\"}\n\
            {\"model_a\":\"x\",\"winner\":\"tie\"}\n[]\n{\n";
        let votes = read("votes.jsonl", text, &VoteFields::default()).unwrap();
        let found: Vec<_> =
            votes.votes.iter().map(|v| (v.a, v.b, v.outcome, v.user, v.day, v.line)).collect();
        assert_eq!(
            found,
            [(0, 1, Outcome::A, Some(0), Some(1), 1), (1, 0, Outcome::Tie, None, Some(20_778), 4)]
        );
        assert_eq!(votes.skips.0["a model against itself"].first_lines, [2]);
        assert_eq!((votes.skips.total(), votes.lines), (5, 7));
    }

    #[test]
    fn csv_has_quotes_and_line_ends_inside() {
        let fields = VoteFields {
            style: vec!["length".to_owned()],
            categories: vec!["country".to_owned()],
            ..VoteFields::default()
        };
        let text = "model_a,model_b,winner,country,length\r\n\"x, the \"\"first\"\"\",y,y,PE,0.5\r\n\
            y,z,\"tie\",\"a\nb\",-1\nz,y,tie,,many\n";
        let votes = read("votes.csv", text, &fields).unwrap();
        assert_eq!(votes.models.all(), ["x, the \"first\"", "y", "z"]);
        assert_eq!(votes.votes[0].outcome, Outcome::B);
        assert_eq!((votes.votes[1].line, votes.votes[1].style[0]), (3, -1.0));
        assert_eq!(votes.categories[0].1.all(), ["PE", "a\nb"]);
        assert_eq!(votes.skips.0["no number in \"length\""].first_lines, [5]);
        let cut = read("votes.csv", &format!("{text}y,\"z,tie,,1\n"), &fields).unwrap();
        assert_eq!(cut.skips.0["a quote that does not end"].first_lines, [6]);
    }

    #[test]
    fn a_file_without_votes_is_an_error() {
        let check = |name: &str, text: &str, part: &str| {
            let error = read(name, text, &VoteFields::default()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("v.jsonl", "", "the file is empty");
        check("v.csv", "a,b\n1,2\n", "there is no column \"model_a\"; the file has: a, b");
        check(
            "v.jsonl",
            "{\"model_a\":1,\"model_b\":1,\"winner\":1}\n",
            "1 a model against itself",
        );
    }

    #[test]
    fn dates_are_days_since_1970() {
        for (date, day) in [("1970-01-01", 0), ("2000-02-29", 11_016), ("1969-12-31", -1)] {
            assert_eq!(civil_day(date), Some(day));
        }
        assert_eq!(civil_day("2000-13-01"), None);
    }
}
