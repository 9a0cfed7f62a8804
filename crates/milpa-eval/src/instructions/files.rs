//! Reads prompts with their instructions, and responses to them, from JSONL.
//!
//! The layout is IFEval's: `key`, `prompt`, `instruction_id_list`, `kwargs`; a response is a line
//! with `prompt` (or the prompt's `id` or `key`) and `response`. A line that cannot be used is counted
//! with its reason. It judges nothing.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use milpa_base::{
    Digest, hash_file,
    lines::{Line, LineReader},
};
use serde_json::{Map, Value};

use super::{Instruction, Language};
use crate::{error::EvalError, items::Skips};

/// Longest line, in bytes.
const MAX_LINE_BYTES: usize = 16 << 20;
/// Most prompts or responses of a file.
const MAX_ROWS: usize = 1 << 20;
/// Most instructions of a prompt.
const MAX_INSTRUCTIONS: usize = 64;

/// A prompt with its instructions.
#[derive(Debug, Clone)]
pub struct InstructionPrompt {
    /// Its `id`, or else its `key`, or else its line.
    pub id: String,
    /// Line in the file, counted from 1.
    pub line: u64,
    /// The prompt.
    pub prompt: String,
    /// What the response shall keep.
    pub instructions: Vec<Instruction>,
    key: Option<String>,
}

/// The usable prompts of a file.
#[derive(Debug, Clone)]
pub struct PromptSet {
    /// In the order of the file.
    pub prompts: Vec<InstructionPrompt>,
    /// What was left out.
    pub skips: Skips,
    /// BLAKE3 of the file as it lies on disk.
    pub data_hash: Digest,
}

/// Responses by prompt, `id` and `key`.
#[derive(Debug, Clone)]
pub struct Responses {
    by_name: BTreeMap<&'static str, HashMap<String, String>>,
    /// What was left out.
    pub skips: Skips,
    /// BLAKE3 of the file as it lies on disk.
    pub data_hash: Digest,
}

/// The fields by which a response may name its prompt, the surest first.
const NAMES: [&str; 3] = ["prompt", "id", "key"];

impl Responses {
    /// The response to a prompt.
    pub fn to(&self, prompt: &InstructionPrompt) -> Option<&str> {
        let name = |field: &str| match field {
            "prompt" => Some(prompt.prompt.as_str()),
            "id" => Some(prompt.id.as_str()),
            _ => prompt.key.as_deref(),
        };
        NAMES
            .iter()
            .find_map(|&field| self.by_name.get(field)?.get(name(field)?).map(String::as_str))
    }
}

/// Reads prompts (plain, gzip or zstd JSONL). Ids without a language follow the row's `lang`, or
/// IFEval's English.
///
/// # Errors
/// A file that cannot be read, is too long, or has no usable prompt.
pub fn read_prompts(path: &Path, limit: Option<usize>) -> Result<PromptSet, EvalError> {
    let mut prompts: Vec<InstructionPrompt> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let (skips, data_hash) = read_rows(path, |row, line| {
        if limit.is_some_and(|limit| prompts.len() >= limit) {
            return Ok(());
        }
        let prompt = read_prompt(&row, line)?;
        if !seen.insert(prompt.prompt.clone()) {
            return Err("a prompt that was there before".to_owned());
        }
        prompts.push(prompt);
        Ok(())
    })?;
    if prompts.is_empty() {
        let detail = format!("no prompt with its instructions; left out: {skips}");
        let task = "instruction following".to_owned();
        return Err(EvalError::NoItems { path: path.to_owned(), task, detail });
    }
    Ok(PromptSet { prompts, skips, data_hash })
}

/// Reads responses (plain, gzip or zstd JSONL). Of several to a prompt, the first one counts.
///
/// # Errors
/// A file that cannot be read, is too long, or has no response.
pub fn read_responses(path: &Path) -> Result<Responses, EvalError> {
    let mut by_name: BTreeMap<&'static str, HashMap<String, String>> = BTreeMap::new();
    let (skips, data_hash) = read_rows(path, |row, _| {
        let Some(Value::String(response)) = row.get("response") else {
            return Err("no text in the field \"response\"".to_owned());
        };
        let name = NAMES.iter().find_map(|&field| Some((field, name_of(row.get(field)?)?)));
        let (field, name) = name.ok_or("no \"prompt\", \"id\" or \"key\"")?;
        let of_field = by_name.entry(field).or_default();
        if of_field.contains_key(&name) {
            return Err("a response to a prompt that had one".to_owned());
        }
        of_field.insert(name, response.clone());
        Ok(())
    })?;
    if by_name.is_empty() {
        let detail = format!("no response; left out: {skips}");
        let task = "instruction following".to_owned();
        return Err(EvalError::NoItems { path: path.to_owned(), task, detail });
    }
    Ok(Responses { by_name, skips, data_hash })
}

/// Hands each line's object to `take`, and counts those that it refuses.
pub(crate) fn read_rows(
    path: &Path,
    mut take: impl FnMut(Map<String, Value>, u64) -> Result<(), String>,
) -> Result<(Skips, Digest), EvalError> {
    let failed = |source| EvalError::Read { path: path.to_owned(), source };
    let (hash, _) = hash_file(path).map_err(failed)?;
    let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(failed)?;
    let (mut skips, mut rows) = (Skips::default(), 0);
    while let Some(line) = reader.next_line().map_err(failed)? {
        let taken = match line {
            Line::TooLong { .. } => Err("the line is longer than 16 MiB".to_owned()),
            Line::Whole(line) if line.trim_ascii().is_empty() => continue,
            Line::Whole(line) => serde_json::from_slice::<Map<String, Value>>(line)
                .map_err(|_| "not a JSON object".to_owned()),
        };
        rows += 1;
        if rows > MAX_ROWS {
            return Err(EvalError::TooManyItems { path: path.to_owned(), bound: MAX_ROWS });
        }
        let number = reader.line_number();
        if let Err(reason) = taken.and_then(|row| take(row, number)) {
            skips.add(&reason, number);
        }
    }
    Ok((skips, hash))
}

/// A text, or a number as text.
pub(crate) fn name_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn read_prompt(row: &Map<String, Value>, line: u64) -> Result<InstructionPrompt, String> {
    let prompt = match row.get("prompt") {
        Some(Value::String(text)) if !text.trim().is_empty() => text.clone(),
        _ => return Err("no text in the field \"prompt\"".to_owned()),
    };
    let ids: Vec<String> = row
        .get("instruction_id_list")
        .and_then(|ids| serde_json::from_value(ids.clone()).ok())
        .ok_or("no list in the field \"instruction_id_list\"")?;
    let arguments: Vec<Map<String, Value>> = row
        .get("kwargs")
        .and_then(|arguments| serde_json::from_value(arguments.clone()).ok())
        .ok_or("no list of objects in the field \"kwargs\"")?;
    if ids.is_empty() || ids.len() != arguments.len() || ids.len() > MAX_INSTRUCTIONS {
        return Err(format!("{} instructions with {} kwargs", ids.len(), arguments.len()));
    }
    let default = match row.get("lang") {
        None | Some(Value::Null) => Language::English,
        Some(code) => code
            .as_str()
            .and_then(Language::of_code)
            .ok_or_else(|| format!("no rules for the language {code}"))?,
    };
    let instructions = ids
        .iter()
        .zip(&arguments)
        .map(|(id, arguments)| Instruction::parse(id, arguments, default))
        .collect::<Result<_, _>>()?;
    let key = row.get("key").and_then(name_of);
    let id = row.get("id").and_then(name_of).or_else(|| key.clone());
    Ok(InstructionPrompt {
        id: id.unwrap_or_else(|| line.to_string()),
        line,
        prompt,
        instructions,
        key,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn lines_that_cannot_be_used_are_counted() {
        let good = r#"{"key":7,"prompt":"Sin comas.","instruction_id_list":["punctuation:no_comma"],"kwargs":[{}],"lang":"pt"}"#;
        let other = good.replace("Sin", "Sem").replace("punctuation:no_comma", "punctuation:none");
        let (_dir, path) = write(&format!("{good}\n\n{good}\n{other}\n[]\n{{\"prompt\":3}}\n"));
        let set = read_prompts(&path, None).unwrap();
        assert_eq!((set.prompts.len(), set.skips.total()), (1, 4));
        assert_eq!(set.prompts[0].instructions[0].language, Language::Portuguese);
        assert_eq!((set.prompts[0].id.as_str(), set.prompts[0].line), ("7", 1));
        let unknown =
            "punctuation:none: there is no instruction \"punctuation:none\" for Portuguese";
        assert!(set.skips.0.contains_key(unknown), "{}", set.skips);
        let rows = "{\"key\":7,\"response\":\"a\"}\n{\"key\":7,\"response\":\"b\"}\n{\"key\":7}\n";
        let (_dir, path) = write(rows);
        let responses = read_responses(&path).unwrap();
        assert_eq!(responses.to(&set.prompts[0]), Some("a"));
        assert_eq!(responses.skips.total(), 2);
        let (_dir, path) = write("{}\n");
        assert!(read_responses(&path).unwrap_err().to_string().contains("no response"));
        assert!(read_prompts(&path, None).unwrap_err().to_string().contains("no prompt"));
    }
}
