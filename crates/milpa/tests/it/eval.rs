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
