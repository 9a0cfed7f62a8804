//! Questions and answers as a judge reads them, from JSONL.
//!
//! A question has `question` or `turns`, an answer `answer` or `turns`, or `choices[0].turns` as
//! MT-Bench has it; both are known by `id` or `question_id`.

use std::{collections::BTreeMap, path::Path};

use milpa_base::lines::{Line, LineReader};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{error::EvalError, items::Skips};

/// Longest line, in bytes.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Most questions or answers of a file.
const MAX_ROWS: usize = 1_000_000;

/// A criterion of a rubric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Criterion {
    /// What an answer should (or, with a negative weight, should not) do.
    pub text: String,
    /// Points for meeting it.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// A question, with what is known of a good answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// Its identity.
    pub id: String,
    /// What the user says, turn by turn.
    pub turns: Vec<String>,
    /// Good answers, turn by turn; empty where there are none.
    pub references: Vec<String>,
    /// Criteria, for a rubric.
    pub criteria: Vec<Criterion>,
    /// Values of all other text fields, such as dialect, country or category.
    pub groups: BTreeMap<String, String>,
}

/// Reads questions.
///
/// # Errors
/// A file that cannot be read or has no usable question.
pub fn read_questions(path: &Path) -> Result<(Vec<Question>, Skips), EvalError> {
    let (rows, skips) = read_rows(path, |object| {
        let turns = turns(object, "question")?;
        let references = match object.get("reference").or_else(|| object.get("reference_answer")) {
            Some(Value::String(text)) => vec![text.clone()],
            Some(Value::Array(list)) => texts(list)?,
            _ => Vec::new(),
        };
        let criteria = match object.get("criteria") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) => list.iter().map(criterion).collect::<Result<_, _>>()?,
            Some(_) => return Err("\"criteria\" is not a list".to_owned()),
        };
        let groups = object.iter().filter_map(|(name, value)| match value {
            Value::String(text) if text.len() <= 200 => Some((name.clone(), text.clone())),
            _ => None,
        });
        let groups = groups.filter(|(name, _)| name != "question" && name != "reference").collect();
        Ok(Question { id: id(object)?, turns, references, criteria, groups })
    })?;
    Ok((rows, skips))
}

/// Reads answers by the identity of their question.
///
/// # Errors
/// A file that cannot be read or has no usable answer.
pub fn read_answers(path: &Path) -> Result<(BTreeMap<String, Vec<String>>, Skips), EvalError> {
    let (rows, skips) = read_rows(path, |object| Ok((id(object)?, turns(object, "answer")?)))?;
    Ok((rows.into_iter().collect(), skips))
}

fn read_rows<T>(
    path: &Path,
    parse: impl Fn(&Map<String, Value>) -> Result<T, String>,
) -> Result<(Vec<T>, Skips), EvalError> {
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(read_error)?;
    let (mut rows, mut skips) = (Vec::new(), Skips::default());
    while let Some(line) = reader.next_line().map_err(read_error)? {
        let parsed = match line {
            Line::TooLong { .. } => Err("the line is longer than 16 MiB".to_owned()),
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => continue,
            Line::Whole(bytes) => match serde_json::from_slice(bytes) {
                Ok(Value::Object(object)) => parse(&object),
                Ok(_) => Err("not a JSON object".to_owned()),
                Err(_) => Err("not valid JSON".to_owned()),
            },
        };
        match parsed {
            Ok(row) => rows.push(row),
            Err(reason) => skips.add(&reason, reader.line_number()),
        }
        if rows.len() > MAX_ROWS {
            return Err(EvalError::TooManyItems { path: path.to_owned(), bound: MAX_ROWS });
        }
    }
    if rows.is_empty() {
        let detail =
            if skips.0.is_empty() { "the file is empty".into() } else { skips.to_string() };
        return Err(EvalError::NoItems {
            path: path.to_owned(),
            task: "the judge".to_owned(),
            detail,
        });
    }
    Ok((rows, skips))
}

fn id(object: &Map<String, Value>) -> Result<String, String> {
    match object.get("id").or_else(|| object.get("question_id")) {
        Some(Value::String(id)) => Ok(id.clone()),
        Some(Value::Number(id)) => Ok(id.to_string()),
        _ => Err("no field \"id\" or \"question_id\"".to_owned()),
    }
}

/// The turns of a question or an answer.
fn turns(object: &Map<String, Value>, single: &str) -> Result<Vec<String>, String> {
    let of_choice = || object.get("choices")?.get(0)?.get("turns");
    let turns = match (object.get(single), object.get("turns").or_else(of_choice)) {
        (Some(Value::String(text)), _) => vec![text.clone()],
        (_, Some(Value::Array(list))) => texts(list)?,
        _ => return Err(format!("no field {single:?} or \"turns\"")),
    };
    if turns.is_empty() || turns.iter().all(|turn| turn.trim().is_empty()) {
        return Err(format!("an empty {single}"));
    }
    Ok(turns)
}

fn texts(list: &[Value]) -> Result<Vec<String>, String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    list.iter().map(text).collect::<Option<_>>().ok_or("a turn is not text".to_owned())
}

fn criterion(value: &Value) -> Result<Criterion, String> {
    let criterion = match value {
        Value::String(text) => Criterion { text: text.clone(), weight: 1.0 },
        other => serde_json::from_value(other.clone())
            .map_err(|error| format!("a criterion is wrong: {error}"))?,
    };
    if criterion.text.trim().is_empty() || !criterion.weight.is_finite() || criterion.weight == 0.0
    {
        return Err("a criterion has no text or no weight".to_owned());
    }
    Ok(criterion)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn questions_and_answers_have_two_forms() {
        let questions = file(
            "{\"question_id\":81,\"category\":\"writing\",\"turns\":[\"a\",\"b\"],\"reference\":[\"x\",\"y\"]}\n\
             {\"id\":\"q\",\"question\":\"c\",\"reference\":\"z\",\"criteria\":[\"d\",{\"text\":\"e\",\"weight\":-2}]}\n\
             {\"id\":\"r\"}\n{\"question\":\"c\"}\n[]\n{\"id\":\"s\",\"question\":\" \"}\n",
        );
        let (questions, skips) = read_questions(questions.path()).unwrap();
        assert_eq!(questions[0].turns, ["a", "b"]);
        assert_eq!(questions[0].groups["category"], "writing");
        assert_eq!((questions[1].references.len(), questions[1].criteria[1].weight), (1, -2.0));
        assert_eq!(skips.total(), 4);
        let answers = file(
            "{\"question_id\":81,\"choices\":[{\"turns\":[\"p\",\"q\"]}]}\n{\"id\":\"q\",\"answer\":\"r\"}\n",
        );
        let (answers, _) = read_answers(answers.path()).unwrap();
        assert_eq!(answers["81"], ["p", "q"]);
        assert_eq!(answers["q"], ["r"]);
        assert!(read_answers(file("").path()).is_err());
    }
}
