//! `milpa plan simulate` and `milpa plan validate`.

use crate::harness::Field;

const LLAMA: [&str; 14] = [
    "plan",
    "simulate",
    "--model",
    "llama3-405b",
    "--device",
    "h100-sxm",
    "--gpus",
    "16384",
    "--tensor",
    "8",
    "--pipeline",
    "16",
    "--batch",
    "2048",
];

#[test]
fn a_step_and_its_weeks_are_simulated_and_drawn() {
    let field = Field::new();
    let flags = ["--interleave", "4", "--overlap-tensor", "--days", "54", "--svg", "step.svg"];
    let arguments = [&LLAMA[..], &flags, &["--sequence-parallel", "--states", "megatron"]].concat();
    let text = field.ok(&arguments);
    for part in ["12Lhs", "causal", "dense bf16", "bubble", "NCCL", "Daly", "failures"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    assert!(field.read("step.svg").contains("stage 15"));
    let json = field.ok(&[&arguments[..], &["--json"]].concat());
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    // Llama 3 405B on 16,384 H100 reached 41 % (arXiv:2407.21783, table 4).
    let utilisation = report["utilisation"]["palm"].as_f64().unwrap();
    assert!((0.33..0.49).contains(&utilisation), "{utilisation}");
    assert_eq!(json, field.ok(&[&arguments[..], &["--json"]].concat()), "the same seed");
}

#[test]
fn impossible_clusters_are_refused_with_what_would_be_enough() {
    let field = Field::new();
    let check = |flags: &[&str], expect: &str| {
        field.milpa(&[&LLAMA[..], flags].concat()).expect(2, &[expect]);
    };
    check(&["--context", "3"], "take 16512");
    check(&["--schedule", "1f2b"], "zero-bubble");
    check(&["--states", "fp12"], "bf16-states");
    check(&["--network", "-3"], "positive number of GB/s");
    check(&["--micro-batch", "7"], "take 2688");
    check(&["--days", "-1"], "positive seconds");
    check(&["--days", "10", "--failures-per-hour", "100"], "shorten the checkpoint interval");
    let model = ["plan", "simulate", "--model", "llama3-404b", "--device", "h200", "--gpus", "8"];
    field.milpa(&model).expect(2, &["llama3-405b"]);
}

#[test]
fn the_planner_tells_its_own_error() {
    let field = Field::new();
    let text = field.ok(&["plan", "validate"]);
    assert!(text.contains("published throughput") && text.contains("Korthikanti"), "{text}");
    field.milpa(&["plan", "validate", "--data", "nowhere"]).expect(1, &["planner", "--data"]);
}
