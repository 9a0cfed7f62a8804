//! Reads the items of a multiple-choice task from JSONL and counts what cannot be used.
//!
//! A bad line is never fatal: it is skipped with a reason and its line number. It knows the task
//! file and the JSON, not the model.

use std::{collections::BTreeMap, path::Path};

use milpa_base::{
    Digest, hash_file,
    lines::{Line, LineReader},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    error::EvalError,
    task::{AnswerFormat, MAX_LETTERS, MultipleChoiceSpec, PromptStyle, TaskSpec},
};

/// Longest line of an item, in bytes.
const MAX_ITEM_BYTES: usize = 4 << 20;
/// Most items held in memory.
const MAX_ITEMS: usize = 1_000_000;
/// Most choices of one item.
const MAX_CHOICES: usize = 256;
/// Line numbers kept for each reason.
const LINES_SHOWN: usize = 5;
/// Most different reasons kept apart; the rest is counted as "other".
const MAX_REASONS: usize = 64;

/// What was left out, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Skips(pub BTreeMap<String, SkipCount>);

/// How often something was left out, and where first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipCount {
    /// How often.
    pub count: u64,
    /// The first lines (counted from 1) where it happened.
    pub first_lines: Vec<u64>,
}

impl Skips {
    /// Counts one more.
    pub fn add(&mut self, reason: &str, line: u64) {
        let reason = if self.0.len() >= MAX_REASONS && !self.0.contains_key(reason) {
            "other"
        } else {
            reason
        };
        let entry = self.0.entry(reason.to_owned()).or_default();
        entry.count += 1;
        if entry.first_lines.len() < LINES_SHOWN {
            entry.first_lines.push(line);
        }
    }

    /// Adds what another part of the same file left out; its lines come after those of `self`.
    pub fn merge(&mut self, other: &Self) {
        for (reason, skipped) in &other.0 {
            for &line in &skipped.first_lines {
                self.add(reason, line);
            }
            let key = if self.0.contains_key(reason) { reason } else { "other" };
            if let Some(entry) = self.0.get_mut(key) {
                entry.count += skipped.count - skipped.first_lines.len() as u64;
            }
        }
    }

    /// How much was left out in all.
    pub fn total(&self) -> u64 {
        self.0.values().map(|entry| entry.count).sum()
    }
}

impl std::fmt::Display for Skips {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, (reason, entry)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} {reason}", entry.count)?;
        }
        Ok(())
    }
}

/// One question, ready to be scored.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Identity from the data.
    pub id: String,
    /// Line in the file, counted from 1.
    pub line: u64,
    /// The prompt.
    pub prompt: String,
    /// The choices' texts.
    pub choices: Vec<String>,
    /// Number of the right choice, counted from 0.
    pub answer: usize,
    /// Values of the fields of `group_by`.
    pub groups: BTreeMap<String, String>,
    /// Value of the field of `cluster_by`.
    pub cluster: Option<String>,
}

/// The usable items of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ItemSet {
    /// The items in the order of the file.
    pub items: Vec<Item>,
    /// Lines of the file that are not blank.
    pub lines: u64,
    /// What was left out.
    pub skips: Skips,
    /// Usable items before a limit was applied.
    pub usable: u64,
    /// BLAKE3 of the file as it lies on disk.
    pub data_hash: Digest,
}

/// Reads the items of `path` (plain, gzip or zstd JSONL) for `task` and writes their prompts.
///
/// With a `limit`, items number ⌊(i + ½)·n/limit⌋ of the n usable ones are kept: spread evenly
/// over the file, so that a file ordered by subject is not cut to its first subject.
///
/// # Errors
/// A file that cannot be read or has no usable item, a style the task does not have.
pub fn read_items(
    task: &TaskSpec,
    style: PromptStyle,
    path: &Path,
    limit: Option<usize>,
) -> Result<ItemSet, EvalError> {
    let spec = task.choice_spec().ok_or_else(|| EvalError::NoItems {
        path: path.to_owned(),
        task: task.name.clone(),
        detail: "the task is not multiple choice".to_owned(),
    })?;
    let prompt = spec.prompt(style, &task.name)?;
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let (data_hash, _) = hash_file(path).map_err(read_error)?;
    let mut reader = LineReader::open(path, MAX_ITEM_BYTES).map_err(read_error)?;
    let (mut items, mut skips, mut lines) = (Vec::new(), Skips::default(), 0u64);
    while let Some(line) = reader.next_line().map_err(read_error)? {
        // The borrow of the line ends before the reader is asked for its number.
        let item = match line {
            Line::TooLong { .. } => Err("the line is longer than 4 MiB".to_owned()),
            Line::Whole(bytes) if bytes.trim_ascii().is_empty() => continue,
            Line::Whole(bytes) => read_item(task, spec, &prompt, bytes),
        };
        lines += 1;
        let number = reader.line_number();
        match item {
            Ok(_) if items.len() >= MAX_ITEMS => {
                return Err(EvalError::TooManyItems { path: path.to_owned(), bound: MAX_ITEMS });
            }
            Ok(mut item) => {
                item.line = number;
                if item.id.is_empty() {
                    item.id = format!("line {number}");
                }
                items.push(item);
            }
            Err(reason) => skips.add(&reason, number),
        }
    }
    if items.is_empty() {
        let detail = if lines == 0 {
            "the file is empty".to_owned()
        } else {
            format!("of {lines} lines were skipped: {skips}")
        };
        return Err(EvalError::NoItems { path: path.to_owned(), task: task.name.clone(), detail });
    }
    let usable = items.len();
    if let Some(limit) = limit.filter(|limit| *limit < usable) {
        let mut wanted = (0..limit).map(|i| (2 * i + 1) * usable / (2 * limit)).peekable();
        let mut index = 0;
        items.retain(|_| {
            let keep = wanted.next_if_eq(&index).is_some();
            index += 1;
            keep
        });
    }
    Ok(ItemSet { items, lines, skips, usable: usable as u64, data_hash })
}

/// Reads one line; an error is the reason for skipping it.
fn read_item(
    task: &TaskSpec,
    spec: &MultipleChoiceSpec,
    prompt: &crate::task::Prompt<'_>,
    bytes: &[u8],
) -> Result<Item, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not valid UTF-8".to_owned())?;
    let value: Value = serde_json::from_str(text).map_err(|_| "not valid JSON".to_owned())?;
    let Value::Object(fields) = value else { return Err("not a JSON object".to_owned()) };
    if let Some(filter) = task.filters.iter().find(|filter| !filter.keeps(&fields)) {
        return Err(filter.reason.clone());
    }
    let mut choices = read_choices(&fields, &spec.choices)?;
    if prompt.style == PromptStyle::Letters && choices.len() > MAX_LETTERS {
        return Err(format!("more than {MAX_LETTERS} choices"));
    }
    let mut answer = read_answer(&fields, spec, &choices)?;
    let places = spec.rotate_choices % choices.len();
    choices.rotate_left(places);
    answer = (answer + choices.len() - places) % choices.len();
    let list = prompt.list(&choices);
    let value = |name: &str| match &list {
        Some(list) if name == "choices" => Some(list.clone()),
        _ => fields.get(name).and_then(as_text),
    };
    let rendered = prompt
        .template
        .render(value)
        .map_err(|field| format!("the field {field:?} is missing or blank"))?;
    let groups = spec.group_by.iter().map(|field| {
        let value = fields.get(field).and_then(as_text).unwrap_or_else(|| "(none)".to_owned());
        (field.clone(), value)
    });
    Ok(Item {
        id: fields.get(&spec.id).and_then(as_text).unwrap_or_default(),
        line: 0,
        prompt: rendered,
        answer,
        groups: groups.collect(),
        cluster: spec.cluster_by.as_ref().and_then(|field| fields.get(field)).and_then(as_text),
        choices,
    })
}

fn read_choices(fields: &Map<String, Value>, name: &str) -> Result<Vec<String>, String> {
    let Some(value) = fields.get(name) else { return Err(format!("no field {name:?}")) };
    let Value::Array(list) = value else { return Err(format!("{name:?} is not a list")) };
    match list.len() {
        0 => return Err("no choices".to_owned()),
        1 => return Err("only one choice".to_owned()),
        n if n > MAX_CHOICES => return Err(format!("more than {MAX_CHOICES} choices")),
        _ => {}
    }
    list.iter()
        .map(|choice| match as_text(choice) {
            None => Err("a choice is not text".to_owned()),
            Some(choice) if choice.trim().is_empty() => Err("an empty choice".to_owned()),
            Some(choice) => Ok(choice),
        })
        .collect()
}

fn read_answer(
    fields: &Map<String, Value>,
    spec: &MultipleChoiceSpec,
    choices: &[String],
) -> Result<usize, String> {
    let name = &spec.answer;
    let Some(value) = fields.get(name) else { return Err(format!("no field {name:?}")) };
    let index = match spec.answer_format {
        AnswerFormat::Index => {
            let index = value.as_u64().ok_or("the answer is not the number of a choice")?;
            usize::try_from(index).ok()
        }
        AnswerFormat::Letter => match value.as_str().map(|text| text.trim().as_bytes()) {
            Some([byte @ (b'A'..=b'Z' | b'a'..=b'z')]) => {
                Some(usize::from(byte.to_ascii_uppercase() - b'A'))
            }
            _ => return Err("the answer is not a letter".to_owned()),
        },
        AnswerFormat::Text => {
            let text = as_text(value).ok_or("the answer is not text")?;
            return choices
                .iter()
                .position(|choice| *choice == text)
                .ok_or("the answer is none of the choices".to_owned());
        }
    };
    index
        .filter(|index| *index < choices.len())
        .ok_or("the answer is out of the choices' range".to_owned())
}

/// A string, number or boolean as text.
pub(crate) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> TaskSpec {
        let text = "name = \"es/x\"\nversion = 1\nkind = \"multiple_choice\"\n\
            languages = [\"es\"]\nsummary = \"s\"\nlicence = \"l\"\ncitation = \"c\"\n\
            [[filters]]\nfield = \"has_image\"\nequals = false\nreason = \"needs an image\"\n\
            [multiple_choice]\nid = \"id\"\nchoices = \"choices\"\nanswer = \"answer\"\n\
            group_by = [\"subject\"]\nmetrics = [\"acc\"]\n\
            [multiple_choice.continuation]\ntemplate = \"{context?}\\nP: {question}\\nR:\"\n\
            [multiple_choice.letters]\ntemplate = \"{question}\\n{choices}\\nR:\"\n";
        TaskSpec::parse(text, Path::new("task.toml")).unwrap()
    }

    fn read(text: &str, style: PromptStyle, limit: Option<usize>) -> Result<ItemSet, EvalError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read_items(&task(), style, file.path(), limit)
    }

    const GOOD: &str = "{\"id\":\"a\",\"question\":\"q\",\"choices\":[\"x\",\"y\"],\"answer\":1,\"subject\":\"s\"}\n";

    fn check_skip(line: &[u8], reason: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = GOOD.as_bytes().to_vec();
        bytes.extend(line);
        std::fs::write(file.path(), bytes).unwrap();
        let set = read_items(&task(), PromptStyle::Continuation, file.path(), None).unwrap();
        assert_eq!((set.items.len(), set.lines), (1, 2));
        let expect = SkipCount { count: 1, first_lines: vec![2] };
        assert_eq!(set.skips.0, BTreeMap::from([(reason.to_owned(), expect)]));
    }

    #[test]
    fn a_good_line_becomes_an_item() {
        let set = read(GOOD, PromptStyle::Continuation, None).unwrap();
        let item = &set.items[0];
        assert_eq!((item.prompt.as_str(), item.answer), ("P: q\nR:", 1));
        assert_eq!(item.groups["subject"], "s");
        let set = read(GOOD, PromptStyle::Letters, None).unwrap();
        assert_eq!(set.items[0].prompt, "q\nA) x\nB) y\nR:");
    }

    #[test]
    fn bad_lines_are_skipped_with_their_reason() {
        check_skip(b"{", "not valid JSON");
        check_skip(b"[1]", "not a JSON object");
        check_skip(b"\xff\xfe", "not valid UTF-8");
        check_skip(br#"{"question":"q","choices":["x","y"]}"#, "no field \"answer\"");
        check_skip(br#"{"question":"q","answer":0}"#, "no field \"choices\"");
        check_skip(br#"{"question":"q","choices":"xy","answer":0}"#, "\"choices\" is not a list");
        check_skip(br#"{"question":"q","choices":[],"answer":0}"#, "no choices");
        check_skip(br#"{"question":"q","choices":["x"],"answer":0}"#, "only one choice");
        check_skip(br#"{"question":"q","choices":["x"," "],"answer":0}"#, "an empty choice");
        check_skip(br#"{"question":"q","choices":["x",[]],"answer":0}"#, "a choice is not text");
        for answer in ["2", "18446744073709551615"] {
            let line =
                format!("{{\"question\":\"q\",\"choices\":[\"x\",\"y\"],\"answer\":{answer}}}");
            check_skip(line.as_bytes(), "the answer is out of the choices' range");
        }
        for answer in ["-1", "null", "\"A\"", "0.5"] {
            let line =
                format!("{{\"question\":\"q\",\"choices\":[\"x\",\"y\"],\"answer\":{answer}}}");
            check_skip(line.as_bytes(), "the answer is not the number of a choice");
        }
        check_skip(
            br#"{"choices":["x","y"],"answer":0}"#,
            "the field \"question\" is missing or blank",
        );
        check_skip(
            br#"{"question":"q","choices":["x","y"],"answer":0,"has_image":true}"#,
            "needs an image",
        );
        check_skip(&vec![b'x'; MAX_ITEM_BYTES + 1], "the line is longer than 4 MiB");
    }

    #[test]
    fn a_file_without_items_is_an_error_that_says_why() {
        let check = |text: &str, part: &str| {
            let error = read(text, PromptStyle::Continuation, None).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("", "the file is empty");
        check("\n\n", "the file is empty");
        check("{}\n{\n", "1 no field \"choices\", 1 not valid JSON");
        let missing = read_items(&task(), PromptStyle::Continuation, Path::new("no/file"), None);
        assert!(matches!(missing, Err(EvalError::Read { .. })));
    }

    #[test]
    fn answers_may_be_letters_or_texts() {
        let check = |format, answer: Value, expect: Result<usize, &str>| {
            let task = task();
            let spec =
                MultipleChoiceSpec { answer_format: format, ..task.multiple_choice.unwrap() };
            let fields = Map::from_iter([("answer".to_owned(), answer)]);
            let choices = ["x".to_owned(), "y".to_owned()];
            assert_eq!(read_answer(&fields, &spec, &choices), expect.map_err(str::to_owned));
        };
        check(AnswerFormat::Letter, "b".into(), Ok(1));
        check(AnswerFormat::Letter, "C".into(), Err("the answer is out of the choices' range"));
        check(AnswerFormat::Letter, 1.into(), Err("the answer is not a letter"));
        check(AnswerFormat::Text, "y".into(), Ok(1));
        check(AnswerFormat::Text, "z".into(), Err("the answer is none of the choices"));
    }

    #[test]
    fn a_limit_spreads_over_the_file() {
        let text = (0..10).map(|i| GOOD.replace("\"a\"", &format!("\"{i}\""))).collect::<String>();
        let set = read(&text, PromptStyle::Continuation, Some(3)).unwrap();
        let ids: Vec<&str> = set.items.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["1", "5", "8"]);
        assert_eq!(set.usable, 10);
        assert_eq!(read(&text, PromptStyle::Continuation, Some(99)).unwrap().items.len(), 10);
    }
}
