//! Ledgers, judges and boards from the command line.

use crate::harness::Field;

fn json(field: &Field, arguments: &[&str]) -> serde_json::Value {
    serde_json::from_str(&field.ok(&[arguments, &["--json"]].concat())).unwrap()
}

#[test]
fn a_report_is_held_against_another_and_a_model_judges() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    let compare = ["eval", "compare", "run/evaluation", "run/evaluation", "--out", "ledger"];
    let domains = ["--general", "textos", "--regional", "textos"];
    let models = ["--models", "run/bundle,run/bundle", "--kl-texts", "texts.jsonl"];
    let ledger = json(&field, &[&compare[..], &domains, &models, &["--kl-limit", "2"]].concat());
    let column = &ledger["columns"][0];
    assert_eq!(column["forgetting"]["Ok"]["value"], 0.0);
    assert_eq!(column["texts"][0]["change"]["value"], 0.0);
    assert_eq!(column["divergence"]["measured"]["nats"], 0.0);
    assert!(field.read("ledger/ledger.svg").contains("Adaptation against forgetting"));
    let wrong = field.milpa(&[&compare[..], &["--general", "mmlu"]].concat());
    wrong.expect(1, &["no text of \"mmlu\"", "textos"]);

    // A model this small gives no verdict: counted, kept, and not asked again.
    field.write("q.jsonl", b"{\"id\":1,\"question\":\"a?\"}\n{\"id\":2,\"question\":\"b?\"}\n");
    field.write("a.jsonl", b"{\"id\":1,\"answer\":\"si\"}\n{\"id\":2,\"answer\":\"no\"}\n");
    let judge = "eval judge pairs --judge run/bundle --prompt small --prompts p.jsonl --questions q.jsonl \
                 --a a.jsonl --b a.jsonl --max-tokens 4 --out judged";
    let judge: Vec<&str> = judge.split_whitespace().collect();
    field.write(
        "p.jsonl",
        b"{\"name\":\"small\",\"type\":\"pairwise\",\"prompt_template\":\"{question} {answer_a} {answer_b}\"}\n",
    );
    let summary = json(&field, &judge);
    assert_eq!(summary["summary"]["unreadable"], 2);
    let judgments = field.read("judged/judgments.jsonl");
    // The same text on both sides is asked once.
    assert_eq!(judgments.lines().count(), 2);
    json(&field, &judge);
    assert_eq!(field.read("judged/judgments.jsonl").lines().count(), 2);
}

#[test]
fn votes_become_a_board_and_labels_an_agreement() {
    let field = Field::new();
    let mut votes = "model_a,model_b,winner,country\n".to_owned();
    for vote in 0..120 {
        let winner = if vote % 3 == 0 { "model_b" } else { "model_a" };
        votes += &format!("maíz,trigo,{winner},{}\n", ["PE", "MX"][vote % 2]);
    }
    votes += "maíz,maíz,tie,PE\n";
    field.write("votes.csv", votes.as_bytes());
    let arena = ["eval", "arena", "votes.csv", "--category", "country", "--out", "board"];
    let text = field.ok(&arena);
    // Two of three: 400 · log₁₀ 2 = 120.4 points between them.
    for part in ["1060.2", "939.8", "a model against itself (line 122)", "country = PE"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(field.read("board/arena.svg").contains("maíz"));
    field.milpa(&["eval", "arena", "none.csv"]).expect(1, &["cannot read none.csv"]);

    let mut labels = String::new();
    for item in 0..40 {
        let right = item % 3 != 0;
        labels +=
            &format!("{{\"id\":{item},\"rater\":\"judge\",\"label\":{}}}\n", right || item == 0);
        if item < 20 {
            labels += &format!("{{\"id\":{item},\"rater\":\"ana\",\"label\":{right}}}\n");
        }
    }
    field.write("labels.jsonl", labels.as_bytes());
    let agreement = json(&field, &["eval", "judge", "agreement", "labels.jsonl"]);
    assert_eq!(agreement["all"]["units"], 20);
    let corrected = json(&field, &["eval", "judge", "correct", "labels.jsonl", "--judge", "judge"]);
    assert!(corrected["specificity"].as_f64().unwrap() < 1.0);
    let plan = json(&field, &["eval", "power", "--questions", "400", "--difference", "0.03"]);
    assert!(plan["questions_needed"].as_u64().unwrap() > 2000);
    field.ok(&["eval", "probe", "--count", "6", "--out", "probe.jsonl"]);
    assert_eq!(field.read("probe.jsonl").lines().count(), 6);
}

#[test]
fn tasks_of_the_harness_run_and_repeat_without_asking_again() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    field.write(
        "t.yaml",
        b"task: plurales\ndataset_path: json\ndataset_kwargs: {data_files: {test: d.jsonl}}\n\
          test_split: test\noutput_type: multiple_choice\ndoc_to_text: \"{{q}} ->\"\n\
          doc_to_choice: c\ndoc_to_target: a\nfewshot_split: test\nnum_fewshot: 1\n",
    );
    let rows = ["gato", "flor", "casa"]
        .map(|word| format!("{{\"q\":\"{word}\",\"c\":[\"{word}s\",\"{word}es\"],\"a\":0}}\n"));
    field.write("d.jsonl", rows.concat().as_bytes());
    let run = ["eval", "run", "--model", "run/bundle", "--task", "t.yaml", "--out", "e"];
    let first = json(&field, &run);
    let task = &first["tasks"][0];
    assert_eq!((&task["scored"], &task["asked"]), (&3.into(), &6.into()));
    let score = &task["metrics"][0];
    let (low, high) = (score["interval"]["low"].as_f64(), score["interval"]["high"].as_f64());
    assert!(low <= score["value"].as_f64() && score["value"].as_f64() <= high, "{score}");
    let again = json(&field, &run);
    assert_eq!(again["tasks"][0]["asked"], 0);
    assert_eq!(again["tasks"][0]["metrics"], task["metrics"]);
    assert_eq!(field.read("e/questions.jsonl").lines().count(), 3);
    assert!(!field.read("e/questions.jsonl").contains("gato"), "a log without texts has one");
    assert!(field.read("e/report.html").contains("plurales"));
    let explained = field.ok(&["explain", "e"]);
    for part in ["plurales version", "3 questions", "nothing is asked again", "$ milpa eval run"] {
        assert!(explained.contains(part), "{explained}");
    }

    field.write("bad.yaml", b"task: x\nprocess_docs: !function utils.docs\n");
    let bad = ["eval", "run", "--model", "run/bundle", "--task", "bad.yaml", "--out", "e"];
    field.milpa(&bad).expect(2, &["bad.yaml", "line 2", "utils.docs"]);
    let unknown = ["eval", "run", "--model", "run/bundle", "--task", "pt/enem", "--out", "e"];
    field.milpa(&unknown).expect(2, &["did you mean"]);
    let bare = ["eval", "run", "--model", "run/bundle", "--task", "pt/enem_2022", "--out", "e"];
    field.milpa(&bare).expect(2, &["--data"]);
}

#[test]
fn answers_are_shown_side_by_side() {
    let field = Field::new();
    field.ok(&["run", ".", "--out", "run"]);
    field.ok(&["eval", "look", "run/bundle", "--max-tokens", "4", "--out", "one.html"]);
    let two =
        ["eval", "look", "run/bundle", "--beside", "run/train/checkpoint", "--max-tokens", "4"];
    let look = json(&field, &[&two[..], &["--out", "two.html"]].concat());
    assert_eq!(look["models"].as_array().unwrap().len(), 2);
    for (_, answers) in look["answers"].as_array().unwrap().iter().map(|row| (&row[0], &row[1])) {
        assert_eq!(answers[0], answers[1], "one model answers itself otherwise");
    }
    assert!(field.read("two.html").contains("run/train/checkpoint"));
    field.write("p.toml", b"[[prompt]]\nkind = \"chat\"\nlanguage = \"es\"\n");
    let wrong = ["eval", "look", "run/bundle", "--prompts", "p.toml"];
    field.milpa(&wrong).expect(1, &["p.toml", "turns"]);
}
