//! What is done with a generated text before it is compared: the filters of lm-evaluation-harness.
//!
//! A question is answered once or, with `repeats`, several times. Most filters change each answer by
//! itself; `take_first` and `majority_vote` make one of several. A pipeline of them has a name, which
//! stands beside the metric in a report.

use std::collections::HashMap;

use fancy_regex::Regex;
use serde_json::{Map, Value};

use crate::harness::text_metrics::is_space;

/// A step of a pipeline.
#[derive(Debug, Clone)]
pub enum Filter {
    /// The n-th match of an expression, or a fallback.
    Regex {
        /// The expression; of several groups the first that is not empty counts.
        regex: Regex,
        /// Which match; negative counts from the end.
        select: i64,
        /// The answer without a match.
        fallback: String,
    },
    /// No white space at the ends.
    RemoveWhitespace,
    /// Small letters.
    Lowercase,
    /// Capital letters.
    Uppercase,
    /// What the answer stands for.
    Map {
        /// Answers and what they stand for.
        mapping: Map<String, Value>,
        /// For all others.
        default: Value,
    },
    /// The first of several answers.
    TakeFirst,
    /// The first so many of several answers.
    TakeFirstK(usize),
    /// The most frequent of several answers; of equally frequent ones the first.
    MajorityVote,
}

/// What a pipeline leaves of the answers to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Filtered {
    /// One answer.
    One(Value),
    /// Several, over which a score is a mean: no filter made one of them.
    Several(Vec<Value>),
}

impl Filtered {
    /// The answers that are left.
    pub fn answers(&self) -> &[Value] {
        match self {
            Self::One(answer) => std::slice::from_ref(answer),
            Self::Several(answers) => answers,
        }
    }
}

/// Filters under one name.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// Name shown beside the metric.
    pub name: String,
    /// Its steps.
    pub filters: Vec<Filter>,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self { name: "none".to_owned(), filters: vec![Filter::TakeFirst] }
    }
}

impl Filter {
    /// Reads a filter as a task file writes it; an error says what is wrong with it.
    pub fn read(name: &str, options: &Map<String, Value>) -> Result<Self, String> {
        let text = |key: &str, default: &str| match options.get(key) {
            None => Ok(default.to_owned()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(format!("{key} of the filter {name} is not text")),
        };
        let known = |known: &[&str]| match options.keys().find(|key| !known.contains(&key.as_str()))
        {
            Some(key) => Err(format!("the filter {name} has no option {key:?}")),
            None => Ok(()),
        };
        match name {
            "regex" => {
                known(&["regex_pattern", "group_select", "fallback"])?;
                let pattern = text("regex_pattern", r"#### (\-?[0-9\.\,]+)")?;
                let regex = Regex::new(&pattern)
                    .map_err(|error| format!("the expression {pattern:?} is wrong: {error}"))?;
                let select = options.get("group_select").map_or(Some(0), Value::as_i64);
                let select = select.ok_or("group_select is no whole number")?;
                Ok(Self::Regex { regex, select, fallback: text("fallback", "[invalid]")? })
            }
            "map" => {
                known(&["mapping_dict", "default_value"])?;
                let mapping = match options.get("mapping_dict") {
                    Some(Value::Object(mapping)) => mapping.clone(),
                    _ => return Err("the filter map needs a mapping_dict".to_owned()),
                };
                let default = options.get("default_value").cloned().unwrap_or(Value::Null);
                Ok(Self::Map { mapping, default })
            }
            "take_first_k" => {
                known(&["k"])?;
                match options.get("k").and_then(Value::as_u64) {
                    Some(k) if k > 0 => Ok(Self::TakeFirstK(k as usize)),
                    _ => Err("the filter take_first_k needs k, a whole number above 0".to_owned()),
                }
            }
            "remove_whitespace" | "lowercase" | "uppercase" | "take_first" | "majority_vote" => {
                known(&[])?;
                Ok(match name {
                    "remove_whitespace" => Self::RemoveWhitespace,
                    "lowercase" => Self::Lowercase,
                    "uppercase" => Self::Uppercase,
                    "majority_vote" => Self::MajorityVote,
                    _ => Self::TakeFirst,
                })
            }
            _ => Err(format!(
                "the filter {name:?} is not known; known are regex, remove_whitespace, lowercase, \
                 uppercase, map, take_first, take_first_k, majority_vote"
            )),
        }
    }

    fn apply(&self, answers: Filtered) -> Result<Filtered, String> {
        Ok(match (self, answers) {
            (Self::TakeFirst, Filtered::Several(answers)) => {
                Filtered::One(answers.into_iter().next().ok_or("there is no answer")?)
            }
            (Self::TakeFirstK(k), Filtered::Several(mut answers)) => {
                answers.truncate(*k);
                Filtered::Several(answers)
            }
            (Self::MajorityVote, Filtered::Several(answers)) => {
                Filtered::Several(vec![most_frequent(answers).ok_or("there is no answer")?])
            }
            (Self::TakeFirst | Self::TakeFirstK(_) | Self::MajorityVote, one) => one,
            (_, Filtered::One(answer)) => Filtered::One(self.change(answer)?),
            (_, Filtered::Several(answers)) => Filtered::Several(
                answers.into_iter().map(|answer| self.change(answer)).collect::<Result<_, _>>()?,
            ),
        })
    }

    /// What a filter of one answer makes of it.
    fn change(&self, answer: Value) -> Result<Value, String> {
        let on_text = |change: &dyn Fn(&str) -> String| match &answer {
            Value::String(text) => Value::String(change(text)),
            other => other.clone(),
        };
        Ok(match self {
            Self::TakeFirst | Self::TakeFirstK(_) | Self::MajorityVote => answer,
            Self::RemoveWhitespace => on_text(&|text| text.trim_matches(is_space).to_owned()),
            Self::Lowercase => on_text(&|text| text.to_lowercase()),
            Self::Uppercase => on_text(&|text| text.to_uppercase()),
            Self::Map { mapping, default } => {
                let key = answer.as_str().unwrap_or_default();
                mapping.get(key).unwrap_or(default).clone()
            }
            Self::Regex { regex, select, fallback } => {
                let text = answer.as_str().unwrap_or_default();
                let found = find(regex, text, *select)?;
                Value::String(found.unwrap_or_else(|| fallback.clone()))
            }
        })
    }
}

impl Pipeline {
    /// What is left of the answers to one question after all filters.
    ///
    /// # Errors
    /// No answer; an expression that takes too many steps on one.
    pub fn apply(&self, answers: &[&str]) -> Result<Filtered, String> {
        let answers = answers.iter().map(|answer| Value::String((*answer).to_owned())).collect();
        let answers = Filtered::Several(answers);
        self.filters.iter().try_fold(answers, |answers, filter| filter.apply(answers))
    }

    /// The most answers that a filter of it takes.
    pub fn wants(&self) -> usize {
        let wants = |filter: &Filter| if let Filter::TakeFirstK(k) = filter { *k } else { 1 };
        self.filters.iter().map(wants).max().unwrap_or(1)
    }
}

/// The answer that stands there most often; of equally frequent ones the first, as Python's `Counter`
/// counts.
fn most_frequent(answers: Vec<Value>) -> Option<Value> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for answer in &answers {
        *counts.entry(answer.to_string()).or_default() += 1;
    }
    let most = counts.values().copied().max()?;
    answers.into_iter().find(|answer| counts[&answer.to_string()] == most)
}

/// The selected match as Python's `findall` gives it, without white space at its ends.
fn find(regex: &Regex, text: &str, select: i64) -> Result<Option<String>, String> {
    let mut found: Vec<Option<String>> = Vec::new();
    for captures in regex.captures_iter(text) {
        let captures =
            captures.map_err(|error| format!("the expression {:?}: {error}", regex.as_str()))?;
        let group = |index: usize| captures.get(index).map_or("", |group| group.as_str());
        let groups = captures.len() - 1;
        found.push(match groups {
            0 => Some(group(0).to_owned()),
            1 => Some(group(1).to_owned()),
            _ => (1..=groups).map(group).find(|text| !text.is_empty()).map(str::to_owned),
        });
    }
    let count = found.len() as i64;
    let index = if select < 0 { count + select } else { select };
    if found.is_empty() {
        return Ok(None);
    }
    match usize::try_from(index).ok().and_then(|index| found.get(index)) {
        Some(text) => Ok(text.as_ref().map(|text| text.trim_matches(is_space).to_owned())),
        None => Err(format!("group_select {select} of {count} matches")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pipeline(filters: &Value) -> Pipeline {
        let filters = filters
            .as_array()
            .unwrap()
            .iter()
            .map(|filter| {
                let mut options = filter.as_object().unwrap().clone();
                let name = options.remove("function").unwrap();
                Filter::read(name.as_str().unwrap(), &options).unwrap()
            })
            .collect();
        Pipeline { name: "x".to_owned(), filters }
    }

    fn check(filters: &Value, answer: &str, expect: &Value) {
        let left = pipeline(filters).apply(&[answer]).unwrap();
        assert_eq!(left.answers(), std::slice::from_ref(expect));
    }

    #[test]
    fn several_answers_become_one_or_stay_several() {
        let check = |filters: Value, answers: &[&str], expect: Filtered| {
            assert_eq!(pipeline(&filters).apply(answers).unwrap(), expect, "{filters}");
        };
        let digits = json!({"function": "regex", "regex_pattern": "[0-9]+"});
        let (first, vote) =
            (json!({"function": "take_first"}), json!({"function": "majority_vote"}));
        let three = json!({"function": "take_first_k", "k": 3});
        let answers = ["son 7", "creo que 9", "9", "7", "7"];
        check(json!([digits, first]), &answers, Filtered::One(json!("7")));
        check(json!([digits, vote, first]), &answers, Filtered::One(json!("7")));
        check(json!([three, digits, vote, first]), &answers, Filtered::One(json!("9")));
        // 7 and 9 are there twice: the one that came first.
        let four = json!({"function": "take_first_k", "k": 4});
        check(json!([four, digits, vote, first]), &answers, Filtered::One(json!("7")));
        check(json!([vote]), &answers, Filtered::Several(vec![json!("7")]));
        let all = ["7", "9", "9"].map(|text| json!(text)).to_vec();
        check(json!([three, digits]), &answers, Filtered::Several(all));
        assert_eq!(pipeline(&json!([digits, three, vote])).wants(), 3);
        assert!(pipeline(&json!([first])).apply(&[]).is_err());
    }

    #[test]
    fn filters_do_what_the_harness_does() {
        let regex = |pattern: &str, select: i64| json!([{"function": "regex", "regex_pattern": pattern, "group_select": select}]);
        check(&regex(r"(-?[0-9]+)", -1), "de 3 a 12 ", &json!("12"));
        check(&regex(r"(-?[0-9]+)", 0), "nada", &json!("[invalid]"));
        check(&regex(r"(a)|(b)", 0), "xb", &json!("b"));
        check(&regex("[a-z]+", 1), "uno dos", &json!("dos"));
        check(
            &json!([{"function": "remove_whitespace"}, {"function": "lowercase"}]),
            " SÍ ",
            &json!("sí"),
        );
        check(
            &json!([{"function": "map", "mapping_dict": {"sí": 1}, "default_value": -1}]),
            "sí",
            &json!(1),
        );
        check(
            &json!([{"function": "map", "mapping_dict": {"sí": 1}, "default_value": -1}]),
            "no",
            &json!(-1),
        );
    }

    #[test]
    fn what_is_unknown_is_refused() {
        let check = |name: &str, options: Value, part: &str| {
            let error = Filter::read(name, options.as_object().unwrap()).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check("regexp", json!({}), "known are regex");
        check("regex", json!({"regex_pattern": "("}), "is wrong");
        check("regex", json!({"group": 1}), "no option \"group\"");
        check("take_first_k", json!({"k": 0}), "needs k");
    }
}
