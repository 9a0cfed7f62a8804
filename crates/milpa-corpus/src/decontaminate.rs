//! Keeps evaluation items out of training text: says which item stands in a document and where.
//!
//! Items come from JSONL files. Each is one or more passages (a context; a question with its
//! choices), and a passage counts as found by [`milpa_text::ngram_index`]: a share of its word
//! n-grams in one stretch of the document. What to do then, dropping the document or cutting the
//! stretch, is the caller's choice. It does not find translations or free retellings, nor passages
//! shorter than an n-gram; those are counted.

use std::{ops::Range, path::Path};

use milpa_base::{
    config::Location,
    lines::{Line, LineReader},
};
use milpa_text::ngram_index::{NgramConfig, NgramIndex, NgramIndexBuilder, Overlap};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::CorpusError;

/// Longest line of an evaluation set.
const MAX_LINE_BYTES: usize = 16 << 20;

/// What must not be in the corpus.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecontaminationConfig {
    /// The n-grams that are compared and the share of a passage that must be found.
    pub ngrams: NgramConfig,
    /// What is done with a document that holds an item.
    pub action: Action,
    /// The evaluation sets.
    pub sets: Vec<EvaluationSet>,
}

impl DecontaminationConfig {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// What is wrong.
    pub fn validate(&self) -> Result<(), String> {
        self.ngrams.validate()?;
        for set in &self.sets {
            if set.passages.is_empty() || set.passages.iter().any(Vec::is_empty) {
                return Err(format!("{:?} needs passages of at least one field", set.name));
            }
        }
        Ok(())
    }
}

/// What is done with a document that holds an evaluation item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It is dropped with the item as reason.
    #[default]
    Drop,
    /// The stretch is cut out and the rest kept.
    Cut,
}

/// A file of evaluation items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluationSet {
    /// Name in reasons.
    pub name: String,
    /// JSONL; plain, gzip or zstd.
    pub path: Location,
    /// The field with an item's identity; without it the number of its line.
    #[serde(default = "default_id")]
    pub id_field: String,
    /// Fields (texts, or lists of texts) that are joined to a passage, for each passage. Fields
    /// that an item does not have are passed over.
    #[serde(default = "default_passages")]
    pub passages: Vec<Vec<String>>,
}

fn default_id() -> String {
    "id".to_owned()
}

/// A context on its own; a question with its choices.
fn default_passages() -> Vec<Vec<String>> {
    [&["context"][..], &["question", "choices"]]
        .map(|fields| fields.iter().map(|&field| field.to_owned()).collect())
        .to_vec()
}

/// An evaluation item found in a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Contamination {
    /// Set, item and the first field of the passage: `enem_2022 enem/2022/1 question`.
    pub passage: String,
    /// Its n-grams that were found, and all that it has.
    pub matched: u32,
    /// All its n-grams.
    pub grams: u32,
    /// Words of an n-gram.
    pub words: u32,
    /// The stretch of the document, in bytes; it begins and ends with a word.
    pub range: Range<usize>,
    /// The first n-gram found, as the document writes it.
    pub example: String,
}

impl Contamination {
    /// The share of the passage that was found.
    pub fn share(&self) -> f64 {
        f64::from(self.matched) / f64::from(self.grams)
    }

    /// What a drop says of it.
    pub fn detail(&self) -> String {
        let Self { passage, matched, grams, words, example, .. } = self;
        format!("{passage}: {matched} of {grams} {words}-grams, the first {example:?}")
    }
}

/// Finds evaluation items in documents.
#[derive(Debug, Clone)]
pub struct Decontaminator {
    index: NgramIndex,
    /// Names of the passages in the index.
    passages: Vec<String>,
    too_short: u64,
}

impl Decontaminator {
    /// Reads the evaluation sets.
    ///
    /// # Errors
    /// A file that cannot be read, a line that is no JSON object, a set in which no passage is
    /// found.
    pub fn load(config: &DecontaminationConfig) -> Result<Self, CorpusError> {
        let mut builder = NgramIndexBuilder::new(config.ngrams);
        let mut passages = Vec::new();
        let mut too_short = 0;
        for set in &config.sets {
            let before = passages.len();
            read_items(&set.path.path, |line, item| {
                let id = match &item[&set.id_field] {
                    Value::Null => line.to_string(),
                    Value::String(id) => id.clone(),
                    other => other.to_string(),
                };
                for fields in &set.passages {
                    let text = passage(item, fields);
                    if text.is_empty() {
                        continue;
                    }
                    if builder.add(&text).is_some() {
                        passages.push(format!("{} {id} {}", set.name, fields[0]));
                    } else {
                        too_short += 1;
                    }
                }
            })?;
            if passages.len() == before {
                let message = format!(
                    "no item of {:?} has a passage of {} words or more in its fields {:?}; check \
                     `passages`",
                    set.name, config.ngrams.words, set.passages
                );
                return Err(CorpusError::file("use", &set.path.path, &message));
            }
        }
        Ok(Self { index: builder.build(), passages, too_short })
    }

    /// Number of passages that can be found.
    pub fn passages(&self) -> usize {
        self.passages.len()
    }

    /// Passages that cannot be found, because they are shorter than an n-gram.
    pub fn too_short(&self) -> u64 {
        self.too_short
    }

    /// What stands in `text`, that of which most stands there first.
    pub fn check(&self, text: &str) -> Vec<Contamination> {
        let mut found: Vec<Contamination> = self
            .index
            .find(text)
            .into_iter()
            .map(|found| self.contamination(text, found))
            .collect();
        found.sort_by(|a, b| {
            b.share().total_cmp(&a.share()).then_with(|| a.passage.cmp(&b.passage))
        });
        found
    }

    fn contamination(&self, text: &str, found: Overlap) -> Contamination {
        Contamination {
            passage: self.passages[found.item as usize].clone(),
            matched: found.matched,
            grams: found.grams,
            words: self.index.config().words,
            example: text[found.first].to_owned(),
            range: found.range,
        }
    }
}

/// Takes the stretches of `found` out of `text`.
pub fn cut(text: &str, found: &[Contamination]) -> String {
    let mut ranges: Vec<_> = found.iter().map(|found| found.range.clone()).collect();
    ranges.sort_by_key(|range| range.start);
    crate::dedup::cut_ranges(text, &ranges)
}

/// Calls `visit` with the number and the object of each line.
fn read_items(path: &Path, mut visit: impl FnMut(u64, &Value)) -> Result<(), CorpusError> {
    let failed = |error: &dyn std::fmt::Display| CorpusError::file("read", path, error);
    let mut lines = LineReader::open(path, MAX_LINE_BYTES).map_err(|error| failed(&error))?;
    let mut number = 0;
    while let Some(line) = lines.next_line().map_err(|error| failed(&error))? {
        number += 1;
        let Line::Whole(line) = line else {
            return Err(failed(&format!("line {number} is longer than {MAX_LINE_BYTES} bytes")));
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        let item: Value = serde_json::from_slice(line)
            .map_err(|error| failed(&format!("line {number}: {error}")))?;
        if !item.is_object() {
            return Err(failed(&format!("line {number} is no JSON object")));
        }
        visit(number, &item);
    }
    Ok(())
}

/// The texts of `fields`, joined.
fn passage(item: &Value, fields: &[String]) -> String {
    let mut texts: Vec<&str> = Vec::new();
    for field in fields {
        match &item[field] {
            Value::String(text) => texts.push(text),
            Value::Array(list) => texts.extend(list.iter().filter_map(Value::as_str)),
            _ => {}
        }
    }
    texts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: &str = concat!(
        r#"{"id": "a/1", "context": "La lluvia cayó toda la noche sobre los techos de zinc del pueblo dormido.", "question": "¿Qué cayó?", "choices": ["La lluvia", "El muro", "La nieve", "Un rayo verde"]}"#,
        "\n\n",
        r#"{"question": "¿Sí o no?"}"#,
        "\n"
    );

    fn config(folder: &Path, items: &str) -> DecontaminationConfig {
        let path = folder.join("items.jsonl");
        std::fs::write(&path, items).unwrap();
        let set = EvaluationSet {
            name: "set".to_owned(),
            path: Location::plain(path),
            id_field: default_id(),
            passages: default_passages(),
        };
        DecontaminationConfig { sets: vec![set], ..DecontaminationConfig::default() }
    }

    #[test]
    fn a_document_with_an_item_says_which_and_where() {
        let folder = tempfile::tempdir().unwrap();
        let decontaminator = Decontaminator::load(&config(folder.path(), ITEMS)).unwrap();
        assert_eq!((decontaminator.passages(), decontaminator.too_short()), (2, 1));
        let text = "Antes: LA LLUVIA cayó toda la noche, sobre los techos de zinc del pueblo \
                    dormido. Después.";
        let found = decontaminator.check(text);
        assert_eq!(found.len(), 1);
        let detail = found[0].detail();
        assert!(
            detail.starts_with("set a/1 context: 7 of 7 8-grams, the first \"LA LLUVIA cayó"),
            "{detail}"
        );
        assert_eq!(cut(text, &found), "Antes: . Después.");
        assert_eq!(decontaminator.check("La lluvia cayó de noche."), []);
        let quiz = "¿Qué cayó? a) La lluvia b) El muro c) La nieve d) Un rayo verde";
        assert_eq!(decontaminator.check(quiz), []);
        let quiz = "¿Qué cayó?\n- La lluvia\n- El muro\n- La nieve\n- Un rayo verde";
        assert!(decontaminator.check(quiz)[0].passage.ends_with("a/1 question"));
    }

    #[test]
    fn sets_that_give_nothing_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let check = |items: &str, expect: &str| {
            let error = Decontaminator::load(&config(folder.path(), items)).unwrap_err();
            assert!(error.to_string().contains(expect), "{error}");
        };
        check("{\"id\": 1}\n{\"id\"\n", "line 2");
        check("[1]\n", "no JSON object");
        check("{\"pregunta\": \"x\"}\n", "check `passages`");
        let mut missing = config(folder.path(), ITEMS);
        missing.sets[0].path = Location::plain(folder.path().join("none.jsonl"));
        let error = Decontaminator::load(&missing).unwrap_err().to_string();
        assert!(error.contains("none.jsonl"), "{error}");
    }

    #[test]
    fn a_configuration_has_defaults_and_bounds() {
        let parse =
            |text: &str| milpa_base::parse_toml::<DecontaminationConfig>(text, Path::new("r.toml"));
        let config = parse("[[sets]]\nname = \"a\"\npath = \"a.jsonl\"\n").unwrap();
        assert_eq!((config.ngrams.words, config.validate()), (8, Ok(())));
        assert_eq!(config.sets[0].passages[1], ["question", "choices"]);
        let empty = "[[sets]]\nname = \"a\"\npath = \"a\"\npassages = [[]]\n";
        assert!(parse(empty).unwrap().validate().unwrap_err().contains("at least one field"));
        assert!(parse("action = \"burn\"").is_err());
    }
}
