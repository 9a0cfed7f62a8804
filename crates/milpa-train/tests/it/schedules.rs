//! Schedules against PyTorch's and transformers' schedulers, and the decay of WSD-S against its formula
//! (`reference/schedules_golden.py`).

use milpa_base::Steps;
use milpa_train::Schedule;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    steps: u64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    schedule: Schedule,
    /// Steps in which the peer is one behind, so that its first step has rate zero.
    warmup: u64,
    /// Before each step, and after the last.
    factors: Vec<f64>,
}

#[test]
fn schedules_are_those_of_pytorch_and_transformers() {
    let golden: Golden = serde_json::from_str(include_str!("golden/schedules.json")).unwrap();
    assert!(golden.cases.len() >= 17);
    for case in golden.cases {
        let curve = case.schedule.over(Steps(golden.steps)).unwrap();
        for step in 0..=golden.steps {
            let peer = case.factors[(step + u64::from(step < case.warmup)) as usize];
            let share = curve.share_at(step);
            // The peers multiply step by step or round in another order; 1e-12 is thousands of ulps.
            assert!(
                (share - peer).abs() < 1e-12,
                "{:?} at step {step}: {share}, but the peer has {peer}",
                case.schedule
            );
        }
    }
}
