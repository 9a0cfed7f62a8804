//! Items of the task `mul/in_context`: copying, recalling and continuing patterns of symbols.
//!
//! They hold no word of any language, so what they measure is in-context learning alone, which
//! continued pre-training can lose while perplexity improves (arXiv 2506.00288).

use milpa_base::{Seed, seed::Permutation};
use serde_json::json;

const LETTERS: &[u8] = b"bcdfghjkmnpqrstvwxz";
const DIGITS: &[u8] = b"0123456789";
/// Choices of an item.
const CHOICES: usize = 4;

/// Makes `count` items as JSONL, a third of each kind; a function of count and seed alone.
pub fn in_context_items(count: usize, seed: Seed) -> String {
    let mut text = String::new();
    for index in 0..count {
        let stream = seed.nth(index as u64);
        let (kind, question, choices) = match index % 3 {
            0 => copy(stream),
            1 => recall(stream),
            _ => pattern(stream),
        };
        // The right choice comes first; a permutation says where it stands.
        let order = Permutation::new(stream.derive("order"), CHOICES as u64);
        let mut shown = vec![String::new(); CHOICES];
        for (at, choice) in choices.into_iter().enumerate() {
            shown[order.apply(at as u64) as usize] = choice;
        }
        let item = json!({
            "id": format!("{kind}-{index}"),
            "kind": kind,
            "question": question,
            "choices": shown,
            "answer": order.apply(0),
        });
        text.push_str(&item.to_string());
        text.push('\n');
    }
    text
}

/// `count` different symbols of `from`.
fn draw(from: &[u8], count: usize, seed: Seed) -> Vec<String> {
    let order = Permutation::new(seed, from.len() as u64);
    (0..count).map(|at| char::from(from[order.apply(at as u64) as usize]).to_string()).collect()
}

/// Three examples of a line copied, then a line to copy; wrong choices have another order.
fn copy(seed: Seed) -> (&'static str, String, Vec<String>) {
    let line = |number: u64| draw(LETTERS, 3, seed.nth(number)).join(" ");
    let examples: Vec<String> = (0..3).map(|number| format!("{0} = {0}", line(number))).collect();
    let wanted = draw(LETTERS, 3, seed.nth(3));
    let order = |places: [usize; 3]| places.map(|place| wanted[place].as_str()).join(" ");
    let choices = [[0, 1, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]].map(order).to_vec();
    ("copy", format!("{}\n{} =", examples.join("\n"), wanted.join(" ")), choices)
}

/// Six pairs of a letter and a digit, then one letter; wrong choices are other digits seen.
fn recall(seed: Seed) -> (&'static str, String, Vec<String>) {
    let (letters, digits) =
        (draw(LETTERS, 6, seed.derive("letters")), draw(DIGITS, 6, seed.derive("digits")));
    let pairs: Vec<String> =
        letters.iter().zip(&digits).map(|(letter, digit)| format!("{letter} {digit}")).collect();
    let asked = (seed.derive("asked").u64_at(0) % 6) as usize;
    let others = (1..CHOICES).map(|step| digits[(asked + step) % 6].clone());
    let choices = std::iter::once(digits[asked].clone()).chain(others).collect();
    ("recall", format!("{}\n{}", pairs.join("\n"), letters[asked]), choices)
}

/// Four symbols that repeat, cut off after two periods and a part of the third.
fn pattern(seed: Seed) -> (&'static str, String, Vec<String>) {
    let symbols = draw(LETTERS, 4, seed.derive("symbols"));
    let shown = 8 + (seed.derive("cut").u64_at(0) % 4) as usize;
    let question: Vec<&str> = (0..shown).map(|at| symbols[at % 4].as_str()).collect();
    let choices = (0..CHOICES).map(|step| symbols[(shown + step) % 4].clone()).collect();
    ("pattern", question.join(" "), choices)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{PromptStyle, TaskSpec, read_items};

    #[test]
    fn the_items_are_those_of_the_task() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = in_context_items(90, Seed(0));
        assert_eq!(text, in_context_items(90, Seed(0)));
        assert_ne!(text, in_context_items(90, Seed(1)));
        std::fs::write(file.path(), &text).unwrap();
        let task = TaskSpec::builtin("mul/in_context").unwrap();
        let set = read_items(&task, PromptStyle::Continuation, file.path(), None).unwrap();
        assert_eq!((set.items.len(), set.skips.total()), (90, 0));
        let mut answers = [0; CHOICES];
        for item in &set.items {
            assert_eq!(item.choices.iter().collect::<BTreeSet<_>>().len(), CHOICES, "{item:?}");
            let right = &item.choices[item.answer];
            let found = match item.groups["kind"].as_str() {
                "copy" => item.prompt.ends_with(&format!("{right} =")),
                "recall" => {
                    let asked = item.prompt.lines().last().unwrap();
                    item.prompt.contains(&format!("{asked} {right}\n"))
                }
                _ => {
                    let symbols: Vec<&str> = item.prompt.split(' ').collect();
                    symbols[symbols.len() - 4] == right
                }
            };
            assert!(found, "{item:?}");
            answers[item.answer] += 1;
        }
        assert!(answers.iter().all(|count| *count > 10), "{answers:?}");
    }
}
