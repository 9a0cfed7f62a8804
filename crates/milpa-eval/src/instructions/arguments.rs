//! Reads the arguments of an instruction (`kwargs`), and refuses what it does not know.

use fancy_regex::Regex;
use serde_json::{Map, Value};

/// How often something shall be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    relation: Relation,
    count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    Below,
    AtMost,
    AtLeast,
    Exactly,
}

/// The relations in the words of the languages.
const RELATIONS: [(&str, Relation); 15] = [
    ("less than", Relation::Below),
    ("at least", Relation::AtLeast),
    ("at most", Relation::AtMost),
    ("exactly", Relation::Exactly),
    ("menos de", Relation::Below),
    ("menos que", Relation::Below),
    ("al menos", Relation::AtLeast),
    ("como mínimo", Relation::AtLeast),
    ("como máximo", Relation::AtMost),
    ("exactamente", Relation::Exactly),
    ("pelo menos", Relation::AtLeast),
    ("no mínimo", Relation::AtLeast),
    ("no máximo", Relation::AtMost),
    ("exatamente", Relation::Exactly),
    ("a lo sumo", Relation::AtMost),
];

impl Bound {
    /// Exactly so often.
    pub(super) fn exactly(count: u64) -> Self {
        Self { relation: Relation::Exactly, count }
    }

    /// At least so often.
    pub(super) fn at_least(count: u64) -> Self {
        Self { relation: Relation::AtLeast, count }
    }

    /// Whether `found` is so often.
    pub fn holds(self, found: u64) -> bool {
        match self.relation {
            Relation::Below => found < self.count,
            Relation::AtMost => found <= self.count,
            Relation::AtLeast => found >= self.count,
            Relation::Exactly => found == self.count,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let relation = match self.relation {
            Relation::Below => "less than",
            Relation::AtMost => "at most",
            Relation::AtLeast => "at least",
            Relation::Exactly => "exactly",
        };
        write!(f, "{relation} {}", self.count)
    }
}

/// Longest list of words.
const MAX_WORDS: usize = 1000;

/// The arguments of one instruction; each is taken once, and none may be left.
pub(super) struct Arguments<'a> {
    rest: Map<String, Value>,
    /// How words are looked for.
    make_pattern: &'a dyn Fn(&str) -> String,
}

impl<'a> Arguments<'a> {
    /// Arguments without those that are null: some files name all keys in every row.
    pub(super) fn new(
        values: &Map<String, Value>,
        make_pattern: &'a dyn Fn(&str) -> String,
    ) -> Self {
        let given = values.iter().filter(|(_, value)| !value.is_null());
        Self {
            rest: given.map(|(key, value)| (key.clone(), value.clone())).collect(),
            make_pattern,
        }
    }

    fn take(&mut self, key: &str) -> Result<Value, String> {
        self.rest.remove(key).ok_or_else(|| format!("the argument {key:?} is missing"))
    }

    /// A whole number.
    pub(super) fn number(&mut self, key: &str) -> Result<u64, String> {
        let value = self.take(key)?;
        // Some files write 3.0.
        let whole = value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0);
        value
            .as_u64()
            .or(whole.map(|number| number as u64))
            .ok_or_else(|| format!("{key} is {value}, which is no count"))
    }

    /// A text that is not blank.
    pub(super) fn text(&mut self, key: &str) -> Result<String, String> {
        match self.take(key)? {
            Value::String(text) if !text.trim().is_empty() => Ok(text),
            other => Err(format!("{key} is {other}, which is no text")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&mut self, key: &str) -> Result<Vec<String>, String> {
        let value = self.take(key)?;
        let texts: Vec<String> = serde_json::from_value(value.clone())
            .map_err(|_| format!("{key} is {value}, which is no list of texts"))?;
        if texts.is_empty() || texts.len() > MAX_WORDS || texts.iter().any(|t| t.trim().is_empty())
        {
            return Err(format!("{key} has {} texts, or an empty one", texts.len()));
        }
        Ok(texts)
    }

    /// A list of texts, or what there is without it.
    pub(super) fn texts_or(&mut self, key: &str, default: &[&str]) -> Result<Vec<String>, String> {
        if default.is_empty() || self.rest.contains_key(key) {
            return self.texts(key);
        }
        Ok(default.iter().map(|&text| text.to_owned()).collect())
    }

    /// How a word is looked for: without regard to case; as a pattern where IFEval has patterns.
    pub(super) fn word(&self, before: &str, word: &str, after: &str) -> Result<Regex, String> {
        let word = (self.make_pattern)(word);
        Regex::new(&format!("(?i){before}{word}{after}"))
            .map_err(|error| format!("{word:?} is no regular expression: {error}"))
    }

    /// A count with its relation; without a relation, `default`.
    pub(super) fn bound(
        &mut self,
        count: &str,
        relation: &str,
        default: fn(u64) -> Bound,
    ) -> Result<Bound, String> {
        let count = self.number(count)?;
        if !self.rest.contains_key(relation) {
            return Ok(default(count));
        }
        let name = self.text(relation)?;
        let known = RELATIONS.iter().find(|(known, _)| *known == name.trim().to_lowercase());
        let (_, relation) = known.ok_or_else(|| {
            let known: Vec<&str> = RELATIONS.iter().map(|(name, _)| *name).collect();
            format!("the relation {name:?} is unknown; there are: {}", known.join(", "))
        })?;
        Ok(Bound { relation: *relation, count })
    }

    /// Refuses arguments that were not asked for.
    pub(super) fn end(self) -> Result<(), String> {
        match self.rest.keys().next() {
            None => Ok(()),
            Some(key) => Err(format!("the argument {key:?} is unknown")),
        }
    }
}
