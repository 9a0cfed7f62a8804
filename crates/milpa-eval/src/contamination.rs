//! Which questions of a task stand in the text that a model learnt from, and what that is worth.
//!
//! A question counts as found if a share of its word n-grams stands in one stretch of a document
//! ([`milpa_text::ngram_index`], with its sources and its defaults). Scores of questions that were
//! found and of those that were not stand side by side, each with its interval: a model that only
//! remembers is better on the first. It finds neither translations nor free retellings, and no
//! question shorter than an n-gram; those are counted.

use std::collections::BTreeMap;

use milpa_base::TextRecords;
use milpa_text::ngram_index::{NgramConfig, NgramIndexBuilder};
use serde::{Deserialize, Serialize};

use crate::{error::EvalError, harness::PreparedTask, run::Watch};

/// The field of a question's groups that says whether it was found.
pub const FIELD: &str = "in the corpus";
/// Most findings of a task that are named.
const MAX_EXAMPLES: usize = 20;

/// What was found of a task's questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContaminationReport {
    /// Where the text lies, as it was given.
    pub corpus: String,
    /// The n-grams that were compared and the share of a question that must be found.
    pub ngrams: NgramConfig,
    /// Documents looked through.
    pub documents: u64,
    /// Bytes of their text.
    pub bytes: u64,
    /// Questions that were looked for.
    pub questions: u64,
    /// Questions found.
    pub found: u64,
    /// Questions shorter than an n-gram, which cannot be found.
    pub too_short: u64,
    /// The first questions that were found, and where.
    pub examples: Vec<Finding>,
}

/// A question that stands in a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Line of the question in its file.
    pub line: u64,
    /// The document in which most of it stands.
    pub document: String,
    /// Share of the question's n-grams that stand there.
    pub share: f64,
    /// The first of them, as the document writes it.
    pub begins: String,
}

/// Looks for the questions of `tasks` in `texts` and enters [`FIELD`] into their groups.
///
/// One pass over the texts for all tasks; memory grows with the questions alone.
///
/// # Errors
/// A configuration that cannot be, texts that cannot be read, a stop.
pub fn look_for(
    tasks: &mut [&mut PreparedTask],
    texts: &mut TextRecords<'_>,
    corpus: &str,
    ngrams: NgramConfig,
    watch: Watch<'_>,
) -> Result<Vec<ContaminationReport>, EvalError> {
    let bad = |problem: String| EvalError::Against { corpus: corpus.to_owned(), problem };
    ngrams.validate().map_err(bad)?;
    let mut builder = NgramIndexBuilder::new(ngrams);
    // Task and question of each item of the index.
    let mut items: Vec<(usize, usize)> = Vec::new();
    for (at, task) in tasks.iter().enumerate() {
        for (number, question) in task.questions.questions.iter().enumerate() {
            if builder.add(&question.text).is_some() {
                items.push((at, number));
            }
        }
    }
    let index = builder.build();
    let mut found: BTreeMap<(usize, usize), Finding> = BTreeMap::new();
    let (mut documents, mut bytes) = (0u64, 0u64);
    watch.progress.begin("contamination", None, "documents");
    for text in texts {
        if watch.stop.is_set() {
            return Err(EvalError::Interrupted);
        }
        let record = text.map_err(|error| bad(error.to_string()))?;
        documents += 1;
        bytes += record.text.len() as u64;
        for overlap in index.find(&record.text) {
            let place = items[overlap.item as usize];
            let share = overlap.share();
            if found.get(&place).is_none_or(|best| best.share < share) {
                let line = tasks[place.0].questions.questions[place.1].line;
                let begins = record.text[overlap.first].to_owned();
                let document = record.id.clone();
                found.insert(place, Finding { line, document, share, begins });
            }
        }
        if documents.is_multiple_of(64) {
            watch.progress.advance(documents);
        }
    }
    watch.progress.advance(documents);
    watch.progress.end();
    if documents == 0 {
        return Err(bad("it holds no text".to_owned()));
    }
    let mut reports = Vec::new();
    for (at, task) in tasks.iter_mut().enumerate() {
        let own = |place: &(usize, usize)| place.0 == at;
        let questions = task.questions.questions.len();
        let searched = items.iter().filter(|place| own(place)).count();
        let hits: Vec<&Finding> =
            found.iter().filter(|(place, _)| own(place)).map(|(_, finding)| finding).collect();
        // Where none was found there is nothing to tell apart.
        let is_split = !hits.is_empty();
        reports.push(ContaminationReport {
            corpus: corpus.to_owned(),
            ngrams,
            documents,
            bytes,
            questions: searched as u64,
            found: hits.len() as u64,
            too_short: (questions - searched) as u64,
            examples: hits.into_iter().take(MAX_EXAMPLES).cloned().collect(),
        });
        if !is_split {
            continue;
        }
        for (number, question) in task.questions.questions.iter_mut().enumerate() {
            let is_found = found.contains_key(&(at, number));
            let value = if is_found { "found" } else { "not found" };
            question.groups.insert(FIELD.to_owned(), value.to_owned());
        }
    }
    Ok(reports)
}
