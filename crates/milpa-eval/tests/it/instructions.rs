//! Verdicts on instructions held against lm_eval's, and against the published ones of M-IFEval.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    path::Path,
};

use milpa_base::lines::{Line, LineReader};
use milpa_eval::instructions::{Instruction, Language, read_prompts};
use serde_json::{Map, Value};

use crate::real_data::data;

/// Rows of the JSONL file at `path`.
fn rows(path: &Path) -> Vec<Value> {
    let mut reader = LineReader::open(path, 16 << 20).unwrap();
    let mut rows = Vec::new();
    while let Some(Line::Whole(line)) = reader.next_line().unwrap() {
        rows.push(serde_json::from_slice(line).unwrap());
    }
    rows
}

fn bools(value: &Value) -> Vec<bool> {
    value.as_array().unwrap().iter().map(|value| value.as_bool().unwrap()).collect()
}

#[test]
fn verdicts_are_those_of_lm_eval() {
    let golden: Value = serde_json::from_str(include_str!("golden/instructions.json")).unwrap();
    let responses = golden["responses"].as_array().unwrap();
    let (mut verdicts, mut differences) = (0, BTreeMap::<String, usize>::new());
    let mut listed = String::new();
    for case in golden["cases"].as_array().unwrap() {
        let id = case["id"].as_str().unwrap();
        let arguments = case["kwargs"].as_object().unwrap();
        let instruction = Instruction::parse(id, arguments, Language::English).unwrap();
        for (mode, loose) in [("strict", false), ("loose", true)] {
            let expected = case[mode].as_str().unwrap().bytes().map(|digit| digit == b'1');
            assert_eq!(expected.len(), responses.len());
            for (response, expected) in responses.iter().zip(expected) {
                let text = response.as_str().unwrap();
                let verdict =
                    if loose { instruction.check_loosely(text) } else { instruction.check(text) };
                verdicts += 1;
                if verdict.kept != expected {
                    *differences.entry(id.to_owned()).or_default() += 1;
                    let begin: String = text.chars().take(60).collect();
                    let _ = writeln!(listed, "{id} {mode} {begin:?}: {}", verdict.reason);
                }
            }
        }
    }
    assert_eq!(verdicts, 5280);
    // langdetect takes Spanish in capitals, JSON and single words for other languages than ours does.
    let known = [("change_case:english_lowercase", 13), ("language:response_language", 4)];
    let known = known.map(|(id, count)| (id.to_owned(), count));
    assert_eq!(differences, BTreeMap::from(known), "{listed}");
}

#[test]
fn every_instruction_of_ifeval_is_read() {
    let Some(data) = data() else { return };
    for (file, prompts, instructions) in
        [("ifeval_es.jsonl", 66, 78), ("ifeval_en.jsonl", 251, 384)]
    {
        let set = read_prompts(&data.join("eval").join(file), None).unwrap();
        assert_eq!((set.prompts.len(), set.skips.total()), (prompts, 0), "{}", set.skips);
        let read: usize = set.prompts.iter().map(|prompt| prompt.instructions.len()).sum();
        assert_eq!(read, instructions);
    }
}

/// The table of `docs/design/instructions.md` is this test's: it fails with the right one.
#[test]
fn verdicts_are_the_published_ones_but_for_those_listed() {
    let Some(data) = data() else { return };
    let prompts: HashMap<String, Value> = rows(&data.join("eval/ifeval_es.jsonl"))
        .into_iter()
        .map(|row| (row["prompt"].as_str().unwrap().to_owned(), row))
        .collect();
    let (mut responses, mut verdicts, mut equal) = (0, 0, 0);
    let mut table = String::new();
    for row in rows(&data.join("eval/ifeval_es_scored_responses.jsonl.zst")) {
        responses += 1;
        let prompt = &prompts[row["prompt"].as_str().unwrap()];
        let arguments: Vec<Map<String, Value>> =
            serde_json::from_value(prompt["kwargs"].clone()).unwrap();
        assert_eq!(row["instruction_id_list"], prompt["instruction_id_list"]);
        let ids = prompt["instruction_id_list"].as_array().unwrap();
        let published = bools(&row["follow_instruction_list"]);
        let text = row["response"].as_str().unwrap();
        let mode = row["mode"].as_str().unwrap();
        for ((id, arguments), published) in ids.iter().zip(&arguments).zip(published) {
            let id = id.as_str().unwrap();
            let instruction = Instruction::parse(id, arguments, Language::Spanish).unwrap();
            let verdict = match mode {
                "strict" => instruction.check(text),
                _ => instruction.check_loosely(text),
            };
            verdicts += 1;
            equal += u32::from(verdict.kept == published);
            if verdict.kept != published {
                let said = if published { "kept" } else { "broken" };
                let (key, model) = (&prompt["key"], row["model"].as_str().unwrap());
                let kind = instruction.kind();
                let reason = verdict.reason.replace('|', "\\|");
                let _ =
                    writeln!(table, "| {key} | `{kind}` | {model} | {mode} | {said} | {reason} |");
            }
        }
    }
    let count = format!("{equal} of {verdicts} verdicts on {responses} rows are equal");
    let page = include_str!("../../../../docs/design/instructions.md");
    assert!(page.contains(&count) && page.contains(&table), "{count}\n{table}");
}
