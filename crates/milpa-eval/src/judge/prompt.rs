//! Prompts of a judge: what is asked, and how the verdict is written.
//!
//! A prompt is data: JSON lines in MT-Bench's form (`name`, `type`, `system_prompt`,
//! `prompt_template`, `output_format`), so its own file is read as it is. Prompts in Spanish,
//! Portuguese and English come with the program. A prompt's hash is part of every judgment.

use std::path::Path;

use milpa_base::{
    Digest, hash_bytes,
    lines::{Line, LineReader},
};
use serde::{Deserialize, Serialize};

use crate::{error::EvalError, template::Template};

/// Longest line of a file of prompts, in bytes.
const MAX_PROMPT_BYTES: usize = 1 << 20;
/// The prompts that come with the program.
const BUILTIN: &str = include_str!("../../data/judge/prompts.jsonl");

/// What a judge is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgeKind {
    /// Which of two answers is better: `[[A]]`, `[[B]]` or `[[C]]` for a tie.
    Pairwise,
    /// How good an answer is, as a number: `[[7]]`.
    Single,
    /// Whether an answer meets one criterion: `[[Y]]` or `[[N]]`.
    Criterion,
}

/// A prompt as it lies in a file; other fields are notes.
#[derive(Debug, Clone, Deserialize)]
struct Written {
    name: String,
    #[serde(rename = "type")]
    kind: JudgeKind,
    #[serde(default)]
    system_prompt: String,
    prompt_template: String,
}

/// A prompt of a judge.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgePrompt {
    /// Its name, with its version.
    pub name: String,
    /// What it asks for.
    pub kind: JudgeKind,
    /// What stands before the conversation.
    pub system: String,
    /// What is asked, with places for question and answers.
    pub template: Template,
    /// BLAKE3 of kind, system prompt and template.
    pub hash: Digest,
}

impl JudgePrompt {
    /// Finds the prompt called `name` among those of `file`, or among those of the program.
    ///
    /// # Errors
    /// A file that cannot be read or has no such prompt.
    pub fn find(name: &str, file: Option<&Path>) -> Result<Self, EvalError> {
        let all = match file {
            Some(path) => read_prompts(path)?,
            None => builtin_prompts(),
        };
        let names: Vec<String> = all.iter().map(|prompt| prompt.name.clone()).collect();
        all.into_iter().find(|prompt| prompt.name == name).ok_or_else(|| {
            EvalError::Judge(format!("there is no prompt {name:?}; there are {}", names.join(", ")))
        })
    }

    fn parse(line: &str) -> Result<Self, String> {
        let written: Written = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let template = Template::parse(&written.prompt_template)?;
        let pinned = (written.kind, &written.system_prompt, &written.prompt_template);
        let hash = hash_bytes(&serde_json::to_vec(&pinned).expect("plain data serialises"));
        Ok(Self {
            name: written.name,
            kind: written.kind,
            system: written.system_prompt.trim().to_owned(),
            template,
            hash,
        })
    }
}

/// The prompts that come with the program.
pub fn builtin_prompts() -> Vec<JudgePrompt> {
    let parse = |line| JudgePrompt::parse(line).expect("the program's own prompts are right");
    BUILTIN.lines().map(parse).collect()
}

/// Reads a file of prompts, one JSON object a line.
///
/// # Errors
/// A file that cannot be read, or a line that is no prompt, with its number.
pub fn read_prompts(path: &Path) -> Result<Vec<JudgePrompt>, EvalError> {
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let mut reader = LineReader::open(path, MAX_PROMPT_BYTES).map_err(read_error)?;
    let mut prompts = Vec::new();
    while let Some(line) = reader.next_line().map_err(read_error)? {
        let parsed = match line {
            Line::TooLong { bytes } => Err(format!("the line has {bytes} bytes")),
            Line::Whole(bytes) => {
                std::str::from_utf8(bytes).map_err(|error| error.to_string()).and_then(|line| {
                    if line.trim().is_empty() {
                        return Ok(None);
                    }
                    JudgePrompt::parse(line).map(Some)
                })
            }
        };
        let number = reader.line_number();
        let prompt = parsed.map_err(|message| {
            EvalError::Judge(format!("{} line {number} is no prompt: {message}", path.display()))
        })?;
        prompts.extend(prompt);
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_prompts_are_right_and_found() {
        let all = builtin_prompts();
        for language in ["es", "pt", "en"] {
            for (kind, name) in [
                (JudgeKind::Pairwise, "pair"),
                (JudgeKind::Single, "grade"),
                (JudgeKind::Criterion, "criterion"),
            ] {
                let name = format!("{name}-{language}-v1");
                let prompt = JudgePrompt::find(&name, None).unwrap();
                assert_eq!(prompt.kind, kind);
                let fields: Vec<&str> = prompt.template.fields().collect();
                assert!(fields.contains(&"question"), "{name}: {fields:?}");
            }
        }
        assert_eq!(all.len(), 9);
        let error = JudgePrompt::find("par", None).unwrap_err().to_string();
        assert!(error.contains("there are pair-es-v1"), "{error}");
    }

    #[test]
    fn a_prompt_is_pinned_by_what_it_says() {
        let parse = |template: &str| {
            let line = serde_json::json!({
                "name": "x", "type": "single", "prompt_template": template, "category": "general"
            });
            JudgePrompt::parse(&line.to_string())
        };
        assert_ne!(parse("{question} a").unwrap().hash, parse("{question} b").unwrap().hash);
        assert!(parse("{question").is_err());
    }
}
