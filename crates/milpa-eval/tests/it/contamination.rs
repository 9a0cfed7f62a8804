//! Questions that stand in the text a model learnt from are found and scored apart.

use std::fs;

use milpa_base::TextRecord;
use milpa_eval::{
    contamination::{FIELD, look_for},
    harness::{
        HarnessRun, PreparedTask, ask::Answers, requests::PromptOptions, task_file::LoadedTask,
    },
};
use milpa_text::ngram_index::NgramConfig;

use crate::models::{Unigram, with_watch};

const TASK: &str = "task: prueba
test_split: test
output_type: multiple_choice
doc_to_text: '{{question}}'
doc_to_choice: '{{choices}}'
doc_to_target: answer
";
const DATA: &str = r#"{"question": "¿En qué año se fundó la ciudad que hoy está a orillas del lago más alto del país?", "choices": ["1668", "1821"], "answer": 0}
{"question": "¿Qué río separa las dos provincias del norte y desemboca en el mar cerca del puerto viejo?", "choices": ["Lempa", "Coco"], "answer": 1}
{"question": "¿Cuál es la montaña más alta de la cordillera que cruza el sur del país vecino?", "choices": ["Uno", "Dos"], "answer": 1}
{"question": "¿Dos?", "choices": ["2", "3"], "answer": 0}
"#;

fn text(id: &str, text: &str) -> TextRecord {
    TextRecord { id: id.to_owned(), source: "web".to_owned(), text: text.to_owned() }
}

#[test]
fn questions_that_were_seen_are_scored_apart() {
    let folder = tempfile::tempdir().unwrap();
    let (task, data) = (folder.path().join("prueba.yaml"), folder.path().join("data.jsonl"));
    fs::write(&task, TASK).unwrap();
    fs::write(&data, DATA).unwrap();
    let options = PromptOptions { data: Some(&data), ..PromptOptions::default() };
    let mut prepared =
        PreparedTask::from_yaml(&LoadedTask::load(&task).unwrap(), &options).unwrap();
    let corpus = [
        text("a", "Nada que ver con lo que se pregunta, aunque hable de ríos y de provincias."),
        // The whole question among other text, and the beginning of another.
        text(
            "b",
            "Examen: ¿En qué año se fundó la ciudad que hoy está a orillas del lago más alto del país? 1668",
        ),
        text("c", "…la montaña más alta de la cordillera que cruza el sur del continente"),
    ];
    let reports = with_watch(|watch| {
        let mut texts = corpus.into_iter().map(Ok);
        let ngrams = NgramConfig { words: 5, share: 0.4 };
        look_for(&mut [&mut prepared], &mut texts, "corpus", ngrams, watch).unwrap()
    });
    let [report] = reports.as_slice() else { panic!("one task") };
    assert_eq!((report.documents, report.questions, report.too_short), (3, 3, 1));
    let found: Vec<(u64, &str)> =
        report.examples.iter().map(|found| (found.line, found.document.as_str())).collect();
    assert_eq!((report.found, found), (2, vec![(1, "b"), (3, "c")]));
    assert!(report.examples[0].share > 0.9 && report.examples[1].share < 0.9);
    let mut answers = Answers::default();
    let (scores, _) = with_watch(|watch| {
        let model = Unigram::new();
        let mut run = HarnessRun {
            model: &model,
            answers: &mut answers,
            chat: false,
            log_texts: false,
            replicates: 10,
            watch,
        };
        run.score(&prepared).unwrap()
    });
    let groups: Vec<(&str, &str, u64)> = scores
        .groups
        .iter()
        .map(|group| (group.field.as_str(), group.value.as_str(), group.metrics[0].n))
        .collect();
    assert_eq!(groups, [(FIELD, "found", 2), (FIELD, "not found", 2)]);
    assert!(scores.group_means.is_empty(), "what was seen is no sample of what was not");
}

#[test]
fn no_text_and_no_share_are_refused() {
    let refused = |ngrams: NgramConfig| {
        with_watch(|watch| {
            let mut none = std::iter::empty();
            look_for(&mut [], &mut none, "corpus", ngrams, watch).unwrap_err().to_string()
        })
    };
    assert!(refused(NgramConfig::default()).contains("it holds no text"));
    assert!(refused(NgramConfig { words: 8, share: 0.0 }).contains("a share of 0"));
}
