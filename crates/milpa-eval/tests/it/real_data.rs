//! Counts on the real exam files; run with MILPA_DATA set to the folder of data.

use std::path::PathBuf;

use milpa_base::Seed;
use milpa_eval::{
    ItemSet, PerplexityConfig, PromptStyle, TaskSpec, multiple_choice, multiple_choice::Resampling,
    perplexity, read_items, read_jsonl_texts,
};

use crate::models::{Unigram, with_watch};

pub(crate) fn data() -> Option<PathBuf> {
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

#[test]
fn football_ratings_are_the_reference_maximum() {
    #[derive(serde::Deserialize)]
    struct Reference {
        matches: u64,
        nll_per_match: f64,
        ratings: std::collections::BTreeMap<String, f64>,
    }
    let Some(data) = data() else { return };
    let folder = data.join("arena");
    let text = std::fs::read_to_string(folder.join("reference_bt_ratings.json")).unwrap();
    let reference: Reference = serde_json::from_str(&text).unwrap();
    // Results become votes: the home team stands first; teams with 300 matches or more play.
    let table = milpa_base::lines::open_decoded(&folder.join("football_results_to_2021.csv.zst"));
    let text = std::io::read_to_string(table.unwrap()).unwrap();
    let mut csv = "model_a,model_b,winner\n".to_owned();
    let mut refused = 0;
    for line in text.lines().skip(1) {
        let cells: Vec<&str> = line.split(',').collect();
        let (home, away) = (cells[1], cells[2]);
        if !reference.ratings.contains_key(home) || !reference.ratings.contains_key(away) {
            continue;
        }
        let (Ok(for_home), Ok(for_away)) = (cells[3].parse::<u32>(), cells[4].parse::<u32>())
        else {
            refused += 1;
            continue;
        };
        let winner = match for_home.cmp(&for_away) {
            std::cmp::Ordering::Greater => "model_a",
            std::cmp::Ordering::Equal => "tie",
            std::cmp::Ordering::Less => "model_b",
        };
        csv += &format!("{home},{away},{winner}\n");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("votes.csv");
    std::fs::write(&path, csv).unwrap();
    let config = milpa_eval::arena::ArenaConfig::default();
    let votes = milpa_eval::arena::read_votes(&path, &config.fields).unwrap();
    let report = with_watch(|watch| milpa_eval::arena::rate(&votes, &config, 2, watch)).unwrap();
    assert_eq!((report.board.votes, refused), (reference.matches, 0));
    assert!((report.board.loss - reference.nll_per_match).abs() < 1e-9);
    assert_eq!(report.board.ratings.len(), reference.ratings.len());
    for rating in &report.board.ratings {
        // The reference has four decimals.
        let difference = rating.rating - reference.ratings[&rating.model];
        assert!(difference.abs() <= 1e-4, "{}: {difference}", rating.model);
    }
}

#[test]
fn mt_bench_judgments_are_read_as_published() {
    use milpa_eval::judge::{JudgePrompt, published_scores};
    let Some(data) = data() else { return };
    let folder = data.join("eval/mt_bench");
    let check = |file: &str, expect: &[(&str, Option<u64>, f64, u64)]| {
        let scores = published_scores(&folder.join(file)).unwrap();
        for (model, turn, mean, unreadable) in expect {
            let found = scores.iter().find(|s| s.model == *model && s.turn == *turn).unwrap();
            assert!((found.mean - mean).abs() < 1e-9, "{model} {turn:?}: {}", found.mean);
            assert_eq!((found.unreadable, found.disagreeing), (*unreadable, 0));
        }
    };
    // Means of the file's own scores; one row of 320 has no grade (−1) and is left out.
    check(
        "gpt4_judgments_gpt4turbo_mixtral.jsonl.zst",
        &[
            ("gpt-4-1106-preview", None, 9.228125, 0),
            ("gpt-4-1106-preview", Some(1), 9.40625, 0),
            ("mistralai/Mixtral-8x7B-Instruct-v0.1", None, 8.340625, 0),
            ("mistralai/Mixtral-8x7B-Instruct-v0.1", Some(2), 7.9875, 0),
        ],
    );
    check(
        "gpt4_single_judgments.jsonl.zst",
        &[
            ("martian", None, 8.3125, 0),
            ("unify", Some(1), 9.06875, 0),
            ("unify", None, (8.696_875 * 160.0 + 1.0) / 159.0, 1),
        ],
    );
    // MT-Bench's own prompts and questions are read as they are.
    let prompts = folder.join("judge_prompts.jsonl");
    let single = JudgePrompt::find("single-v1", Some(&prompts)).unwrap();
    let two_turns = JudgePrompt::find("pair-math-v1-multi-turn", Some(&prompts)).unwrap();
    let fields: Vec<&str> = two_turns.template.fields().collect();
    assert!(fields.contains(&"ref_answer_2") && fields.contains(&"answer_b_2"));
    let (questions, skips) =
        milpa_eval::judge::exchange::read_questions(&folder.join("question.jsonl")).unwrap();
    let (references, _) =
        milpa_eval::judge::exchange::read_answers(&folder.join("reference_answer_gpt-4.jsonl"))
            .unwrap();
    assert_eq!((questions.len(), references.len(), skips.total()), (80, 30, 0));
    // The text sent equals the one recorded, the answer put back into the template.
    let table = folder.join("gpt4_single_judgments.jsonl.zst");
    let text = std::io::read_to_string(milpa_base::lines::open_decoded(&table).unwrap()).unwrap();
    let model = Unigram::new();
    let judge = milpa_eval::judge::Judge {
        model: &model,
        prompt: &single,
        dialogue: &|_, _| Err(String::new()),
        max_tokens: 1,
        seed: 0,
    };
    let mut compared = 0;
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        if row["judge"][1] != "single-v1" {
            continue;
        }
        let sent = row["user_prompt"].as_str().unwrap();
        let (open, close) =
            ("[The Start of Assistant's Answer]\n", "\n[The End of Assistant's Answer]");
        let answer = &sent[sent.find(open).unwrap() + open.len()..sent.rfind(close).unwrap()];
        let id = row["question_id"].to_string();
        let question = questions.iter().find(|question| question.id == id).unwrap();
        let turn = judge.user_turn(question, &[("answer", &[answer.to_owned()])], None).unwrap();
        assert_eq!(turn, sent, "question {id}");
        compared += 1;
    }
    assert_eq!(compared, 100);
}
