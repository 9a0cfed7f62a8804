use std::{collections::BTreeMap, path::Path};

use milpa_base::{Seed, StopFlag};
use milpa_eval::{
    EvalError, ItemResult, Metric, PromptStyle, TaskResult, TaskSpec, Watch, compare_items,
    multiple_choice, multiple_choice::Resampling, read_items, statistics::Method,
};

use crate::models::{Scripted, Unigram, info, near, with_watch};

const RESAMPLING: Resampling = Resampling { replicates: 200, seed: Seed(9) };

pub(crate) fn task(extra: &str) -> TaskSpec {
    let text = format!(
        "name = \"es/x\"\nversion = 3\nkind = \"multiple_choice\"\nlanguages = [\"es\"]\n\
         summary = \"s\"\nlicence = \"CC0-1.0\"\ncitation = \"c\"\n[multiple_choice]\n\
         id = \"id\"\nchoices = \"choices\"\nanswer = \"answer\"\ngroup_by = [\"lang\"]\n\
         metrics = [\"acc\", \"acc_norm\", \"acc_bytes\"]\n{extra}\n\
         [multiple_choice.continuation]\ntemplate = \"P: {{question}}\\nR:\"\n\
         [multiple_choice.letters]\ntemplate = \"{{question}}\\n{{choices}}\\nR:\"\n"
    );
    TaskSpec::parse(&text, Path::new("task.toml")).unwrap()
}

fn evaluate(
    model: &dyn milpa_base::TextModel,
    task: &TaskSpec,
    style: PromptStyle,
    data: &str,
) -> Result<(TaskResult, Vec<ItemResult>), EvalError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), data).unwrap();
    let set = read_items(task, style, file.path(), None)?;
    with_watch(|watch| multiple_choice(model, task, style, &set, RESAMPLING, watch))
}

pub(crate) const DATA: &str = concat!(
    // ln p: b −5 bits, aaa −6 bits (with the space's 3); per character −5 and −2.
    r#"{"id":"1","lang":"es","question":"q","choices":["b","aaa"],"answer":1}"#,
    "\n",
    // ñ is two unlikely bytes, z one: only per byte does ñ win (−3 − 2·10.98 over 2).
    r#"{"id":"2","lang":"es","question":"q","choices":["z","ñ"],"answer":1}"#,
    "\n",
    r#"{"id":"3","lang":"pt","question":"q","choices":["a","b","bb","z"],"answer":0}"#,
    "\n",
    r#"{"id":"4","lang":"pt","question":"q","choices":[],"answer":0}"#,
    "\n",
);

#[test]
fn accuracies_are_those_computed_by_hand() {
    let (result, items) =
        evaluate(&Unigram::new(), &task(""), PromptStyle::Continuation, DATA).unwrap();
    let picked = |item: usize| -> Vec<usize> { items[item].picked.values().copied().collect() };
    assert_eq!(picked(0), [0, 1, 1]);
    assert_eq!(picked(1), [0, 0, 1]);
    // Per character "a" and "bb" compare −4 with −7/2: the longer wins although less probable.
    assert_eq!(picked(2), [0, 2, 2]);
    near(items[0].log_likelihoods[0], -5.0 * std::f64::consts::LN_2);
    assert_eq!(items[0].tokens, [2, 4]);

    let correct: Vec<(Metric, u64)> =
        result.metrics.iter().map(|m| (m.metric, m.correct)).collect();
    assert_eq!(correct, [(Metric::Acc, 1), (Metric::AccNorm, 1), (Metric::AccBytes, 2)]);
    near(result.metrics[2].value, 2.0 / 3.0);
    near(result.chance, (0.5 + 0.5 + 0.25) / 3.0);
    // Wilson for 1 of 3 at 95 %: (p + z²/6 ± z √(p(1−p)/3 + z²/36)) / (1 + z²/3).
    let z = 1.959_963_984_540_054f64;
    let (p, n) = (1.0 / 3.0, 3.0);
    let half = z * (p * (1.0 - p) / n + z * z / 36.0f64).sqrt();
    near(result.metrics[0].interval.low, (p + z * z / 6.0 - half) / (1.0 + z * z / n));
    assert_eq!(result.metrics[0].interval.method, Method::Wilson);

    assert_eq!((result.scored, result.usable, result.lines), (3, 3, 4));
    assert_eq!(result.skips.0["no choices"].count, 1);
    assert_eq!((result.task.as_str(), result.version), ("es/x", 3));
    let groups: Vec<(&str, u64, f64)> =
        result.groups.iter().map(|g| (g.value.as_str(), g.metrics[0].n, g.chance)).collect();
    assert_eq!(groups, [("es", 2, 0.5), ("pt", 1, 0.25)]);
}

#[test]
fn letters_are_scored_after_the_listed_choices() {
    // Only "B" is probable, and only after a prompt that lists the choices.
    let model = Scripted(info("letters"), |request: &milpa_base::ScoreRequest| {
        assert!(request.context.contains("A) ") && request.context.ends_with("\nR:"));
        if request.continuation == " B" { -0.1 } else { -3.0 }
    });
    let (result, items) = evaluate(&model, &task(""), PromptStyle::Letters, DATA).unwrap();
    assert_eq!(result.metrics[0].correct, 2);
    assert!(items.iter().all(|item| item.picked.values().all(|picked| *picked == 1)));
    let (continuation, _) =
        evaluate(&Unigram::new(), &task(""), PromptStyle::Continuation, DATA).unwrap();
    assert_ne!(continuation.template_hash, result.template_hash);
    assert_eq!(continuation.data_hash, result.data_hash);
}

#[test]
fn mutual_information_subtracts_what_the_choice_has_by_itself() {
    let model = Scripted(info("pmi"), |request: &milpa_base::ScoreRequest| {
        // "common" is probable anywhere; "rare" becomes likelier by the question.
        match (request.context.is_empty(), request.continuation.trim()) {
            (true, "common") => -1.0,
            (true, _) => -9.0,
            (false, "common") => -1.5,
            (false, _) => -4.0,
        }
    });
    let task = {
        let mut task = task("");
        task.multiple_choice.as_mut().unwrap().metrics = vec![Metric::Acc, Metric::AccMutualInfo];
        task
    };
    let data = r#"{"id":"1","question":"q","choices":["common","rare"],"answer":1}"#;
    let (result, items) = evaluate(&model, &task, PromptStyle::Continuation, data).unwrap();
    assert_eq!(items[0].picked, BTreeMap::from([(Metric::Acc, 0), (Metric::AccMutualInfo, 1)]));
    assert_eq!(result.metrics[1].correct, 1);
}

#[test]
fn cut_prompts_are_counted_and_refused_items_are_skipped() {
    let long = "b".repeat(60);
    let data = format!(
        "{DATA}{{\"id\":\"5\",\"lang\":\"es\",\"question\":\"{long}\",\"choices\":[\"a\",\"b\"],\"answer\":0}}\n\
         {{\"id\":\"6\",\"lang\":\"es\",\"question\":\"q\",\"choices\":[\"a\",\"{long}\"],\"answer\":0}}\n"
    );
    let model = Unigram { window: 40, ..Unigram::new() };
    let (result, items) = evaluate(&model, &task(""), PromptStyle::Continuation, &data).unwrap();
    assert_eq!((result.scored, result.usable, result.truncated_contexts), (4, 5, 1));
    // "P: " + 60 + "\nR:" + " a" is 68 bytes, 28 more than the window.
    assert_eq!(items[3].truncated_tokens, 28);
    let refused = &result.skips.0["too long for the model"];
    assert_eq!((refused.count, refused.first_lines.as_slice()), (1, [6].as_slice()));
    assert_eq!(result.groups[0].metrics[0].n, 3);
}

#[test]
fn clusters_widen_the_interval() {
    // Forty passages with ten questions each, all right or all wrong together.
    let data: Vec<String> = (0..400)
        .map(|i| {
            let answer = (i / 10) % 2;
            format!(
                "{{\"id\":\"{i}\",\"question\":\"q{i}\",\"choices\":[\"a\",\"z\"],\
                 \"answer\":{answer},\"passage\":\"p{}\"}}\n",
                i / 10
            )
        })
        .collect();
    let width = |extra: &str| {
        let style = PromptStyle::Continuation;
        let (result, _) = evaluate(&Unigram::new(), &task(extra), style, &data.concat()).unwrap();
        let interval = result.metrics[0].interval;
        (interval.high - interval.low, interval.method)
    };
    let (items, method) = width("");
    assert_eq!(method, Method::Wilson);
    let (clusters, method) = width("cluster_by = \"passage\"");
    assert_eq!(method, Method::ClusterBootstrap);
    assert!((2.4..4.0).contains(&(clusters / items)), "{}", clusters / items);
}

#[test]
fn a_broken_model_is_an_error_not_a_score() {
    let nan = Scripted(info("nan"), |_: &milpa_base::ScoreRequest| f64::NAN);
    let error = evaluate(&nan, &task(""), PromptStyle::Continuation, DATA).unwrap_err();
    assert!(error.to_string().contains("a log-likelihood of NaN"), "{error}");
    let tiny = Unigram { window: 1, ..Unigram::new() };
    let error = evaluate(&tiny, &task(""), PromptStyle::Continuation, DATA).unwrap_err();
    let says = ["none of the 3 questions of es/x", "3 too long for the model (lines 1, 2, 3)"];
    assert!(says.iter().all(|part| error.to_string().contains(part)), "{error}");
}

#[test]
fn a_stop_is_heard() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), DATA).unwrap();
    let task = task("");
    let style = PromptStyle::Continuation;
    let set = read_items(&task, style, file.path(), None).unwrap();
    let stop = StopFlag::default();
    stop.stop();
    let watch = Watch { progress: &milpa_base::Silent, stop: &stop };
    let result = multiple_choice(&Unigram::new(), &task, style, &set, RESAMPLING, watch);
    assert!(matches!(result, Err(EvalError::Interrupted)));
}

#[test]
fn two_models_are_compared_on_the_same_prompts() {
    let data: Vec<String> = (0..20)
        .map(|i| {
            format!("{{\"id\":\"{i}\",\"question\":\"q{i}\",\"choices\":[\"a\",\"z\"],\"answer\":{}}}\n", i % 4 / 3)
        })
        .collect();
    let data = data.concat();
    let style = PromptStyle::Continuation;
    // a is always picked: 15 of 20 are right. The other model always picks z: 5 of 20.
    let (_, a) = evaluate(&Unigram::new(), &task(""), style, &data).unwrap();
    let reversed = Scripted(info("reversed"), |request: &milpa_base::ScoreRequest| {
        -crate::models::log_probability(&request.continuation)
    });
    let (_, b) = evaluate(&reversed, &task(""), style, &data).unwrap();
    let compared = compare_items(&a, &b, Metric::Acc, RESAMPLING).unwrap();
    near(compared.a, 0.75);
    near(compared.b, 0.25);
    near(compared.paired.difference, -0.5);
    assert_eq!((compared.only_a, compared.only_b, compared.unpaired), (15, 5, 0));
    // 2 · Σ_{k ≤ 5} C(20, k) / 2²⁰ = 2 · 21700 / 1048576.
    near((compared.p_value * 1e9).round() / 1e9, (43_400.0 / 1_048_576.0 * 1e9f64).round() / 1e9);
    let interval = compared.paired.interval.unwrap();
    assert!(interval.low < -0.5 && interval.high < 0.0, "{interval:?}");

    let fewer = compare_items(&a[..12], &b[2..], Metric::Acc, RESAMPLING).unwrap();
    assert_eq!((fewer.paired.items, fewer.unpaired), (10, 10));
    let (_, letters) = evaluate(&reversed, &task(""), PromptStyle::Letters, &data).unwrap();
    let error = compare_items(&a, &letters, Metric::Acc, RESAMPLING).unwrap_err().to_string();
    assert!(error.contains("one task, version and style"), "{error}");
    let error = compare_items(&a[..3], &b[5..], Metric::Acc, RESAMPLING).unwrap_err().to_string();
    assert!(error.contains("no prompt"), "{error}");
    assert!(compare_items(&a, &b, Metric::AccMutualInfo, RESAMPLING).is_err());
}
