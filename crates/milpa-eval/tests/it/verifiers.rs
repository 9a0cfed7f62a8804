//! Our verdicts on English answers beside those of math-verify 0.9.0 (`reference/verifiers_golden.py`),
//! and on the worked solutions of GSM8K.

use milpa_eval::verify::{
    Marks, Place, Verifier,
    number::{read_number, write_number},
};
use serde::Deserialize;
use serde_json::Value;

use crate::real_data::data;

#[derive(Deserialize)]
struct Case {
    gold: String,
    response: String,
    math_verify: bool,
}

/// Right answer, response and why we differ from math-verify.
const DIFFERENCES: [(&str, &str, &str); 5] = [
    ("25", "25%", "25 % is 0.25: asked for a number, a percentage is another one"),
    ("25", "$25\\%$", "the same in LaTeX"),
    ("25\\%", "25", "a number for a percentage, the other way round; 25 % and 0.25 are taken"),
    ("7", "The answer is 7 or 8.", "two answers at once; it takes the first"),
    ("-5", "−5", "U+2212 is the minus sign; it reads no number"),
];

#[test]
fn english_answers_are_judged_as_by_math_verify_but_for_the_listed() {
    let verifier = Verifier::Math { marks: Marks::Point, place: Place::MarkedOrLast };
    let mut differ = Vec::new();
    let mut cases = 0;
    for line in include_str!("golden/math_verify.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        cases += 1;
        let verdict = verifier.verify(&case.gold, &case.response);
        if verdict.is_correct() != case.math_verify {
            differ.push((case.gold, case.response, verdict.reason));
        }
    }
    assert!(cases >= 180, "only {cases} cases");
    let listed = |gold: &str, response: &str| {
        DIFFERENCES.iter().any(|(known, given, _)| *known == gold && *given == response)
    };
    let unlisted: Vec<_> =
        differ.iter().filter(|(gold, response, _)| !listed(gold, response)).collect();
    assert!(unlisted.is_empty(), "{unlisted:#?}");
    assert_eq!(differ.len(), DIFFERENCES.len(), "a listed difference is gone");
}

#[test]
fn every_solution_of_gsm8k_is_right_and_its_neighbour_wrong() {
    let Some(data) = data() else { return };
    let file = std::fs::File::open(data.join("eval/gsm8k_train.jsonl.zst")).unwrap();
    let text = std::io::read_to_string(zstd::Decoder::new(file).unwrap()).unwrap();
    let at = |marks| Verifier::Number { marks, place: Place::MarkedOrLast, tolerance: 0.0 };
    let mut solutions = 0;
    for line in text.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let (gold, solution) = (row["answer"].as_str().unwrap(), row["solution"].as_str().unwrap());
        let verdict = at(Marks::Point).verify(gold, solution);
        assert!(verdict.is_correct(), "{}: {verdict:?}", row["id"]);
        let neighbour = format!("{gold}1");
        assert!(!at(Marks::Point).verify(&neighbour, solution).is_correct(), "{}", row["id"]);
        solutions += 1;
    }
    assert_eq!(solutions, 7473);
    // MGSM's right answers as a model of each country would write them.
    let file = std::fs::read_to_string(data.join("eval/mgsm_es.jsonl")).unwrap();
    for line in file.lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let gold = row["answer"].as_str().unwrap();
        let value = read_number(gold, Marks::Point).unwrap().unwrap().value;
        for marks in [Marks::Point, Marks::Comma] {
            let written = write_number(value, marks).unwrap();
            let response = format!("Sumamos.\n\nLa respuesta es {written}.");
            let verdict = at(marks).verify(gold, &response);
            assert!(verdict.is_correct(), "{response}: {verdict:?}");
        }
    }
}
