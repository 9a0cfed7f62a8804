//! Counts on the real exam files; run with MILPA_DATA set to the folder of data.

use std::path::PathBuf;

use milpa_base::Seed;
use milpa_eval::{
    ItemSet, PerplexityConfig, PromptStyle, TaskSpec, multiple_choice, multiple_choice::Resampling,
    perplexity, read_items, read_jsonl_texts,
};

use crate::models::{Unigram, with_watch};

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("MILPA_DATA");
    if folder.is_none() {
        #[expect(clippy::print_stderr, reason = "a skipped test says so")]
        {
            eprintln!("skipped: MILPA_DATA is not set to the folder of real data");
        }
    }
    folder.map(PathBuf::from)
}

fn read(name: &str, file: &str) -> Option<(TaskSpec, ItemSet)> {
    let task = TaskSpec::builtin(name).unwrap();
    let path = data()?.join("eval").join(file);
    let set = read_items(&task, PromptStyle::Continuation, &path, None).unwrap();
    Some((task, set))
}

#[test]
fn enem_has_150_usable_questions() {
    let Some((task, set)) = read("pt/enem_2022", "enem_2022.jsonl") else { return };
    assert_eq!((set.items.len(), set.lines), (150, 179));
    assert_eq!(set.skips.0["needs an image"].count, 26);
    assert_eq!(set.skips.0["no choices"].count, 3);
    assert_eq!(set.skips.total(), 29);
    assert!(set.items.iter().all(|item| item.choices.len() == 5));
    let empty_question = set.items.iter().find(|item| item.id == "enem/2022/163").unwrap();
    assert!(!empty_question.prompt.contains("Pergunta:"));
    let resampling = Resampling { replicates: 100, seed: Seed(1) };
    let (result, _) = with_watch(|watch| {
        let style = PromptStyle::Continuation;
        multiple_choice(&Unigram::new(), &task, style, &set, resampling, watch).unwrap()
    });
    assert!((result.chance - 0.2).abs() < 1e-12);
    assert_eq!(result.metrics[0].n, 150);
}

#[test]
fn exams_are_split_by_language() {
    let Some((_, es)) = read("es/exams", "exams_es_pt.jsonl") else { return };
    let Some((_, pt)) = read("pt/exams", "exams_es_pt.jsonl") else { return };
    assert_eq!((es.items.len(), es.lines), (113, 570));
    assert_eq!((pt.items.len(), pt.skips.0["in another language"].count), (457, 113));
}

#[test]
fn real_novels_are_measured_within_the_bound() {
    let Some(data) = data() else { return };
    let mut texts =
        read_jsonl_texts(&data.join("text").join("es_novels_a.jsonl.zst"), "text").unwrap();
    let resampling = Resampling { replicates: 100, seed: Seed(1) };
    let config = PerplexityConfig::default();
    let report = with_watch(|watch| {
        perplexity(&Unigram::new(), &mut texts, &config, resampling, watch).unwrap()
    });
    assert_eq!(texts.skips().total(), 0);
    let source = &report.sources[0];
    assert_eq!((source.documents, source.documents_available), (61, 61));
    assert!(source.bytes <= config.max_bytes_per_source);
    assert!(source.bytes.0 + 200 > config.max_bytes_per_source.0);
    // What the general compressors reach on Spanish novels, in a wide band.
    assert!((2.0..2.9).contains(&source.xz_bits_per_byte), "{}", source.xz_bits_per_byte);
    assert!((1.9..2.7).contains(&source.bzip2_bits_per_byte), "{}", source.bzip2_bits_per_byte);
}
