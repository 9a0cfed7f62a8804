//! Style of an answer as numbers: length, headers, lists and bold words, compared between two.
//!
//! The features of arena-hard-auto's style control: the length's difference relative to the sum,
//! and the difference of markdown densities (elements by length) relative to their sum + 1. Length
//! is counted in words between white space, so that no tokenizer has to be chosen.

/// Names of the features, in order.
pub(super) const FEATURES: [&str; 4] = ["length", "headers", "lists", "bold"];

/// Features of answer a against answer b.
pub(super) fn difference(a: &str, b: &str) -> [f64; 4] {
    let (a, b) = (Counts::of(a), Counts::of(b));
    let relative = |a: f64, b: f64, add: f64| {
        let sum = a + b + add;
        if sum == 0.0 { 0.0 } else { (a - b) / sum }
    };
    let density = |count: f64, words: f64| count / (words + 1.0);
    let markdown = |x: f64, y: f64| relative(density(x, a.words), density(y, b.words), 1.0);
    [
        relative(a.words, b.words, 0.0),
        markdown(a.headers, b.headers),
        markdown(a.lists, b.lists),
        markdown(a.bold, b.bold),
    ]
}

#[derive(Default)]
struct Counts {
    words: f64,
    headers: f64,
    lists: f64,
    bold: f64,
}

impl Counts {
    /// Counts words and markdown; fenced code counts as words alone.
    fn of(text: &str) -> Self {
        let mut counts = Self { words: text.split_whitespace().count() as f64, ..Self::default() };
        let mut fenced = false;
        for line in text.lines().map(str::trim_start) {
            if line.starts_with("```") {
                fenced = !fenced;
                continue;
            }
            if fenced {
                continue;
            }
            let after_hashes = line.trim_start_matches('#');
            let hashes = line.len() - after_hashes.len();
            if (1..=6).contains(&hashes) && after_hashes.starts_with(' ') {
                counts.headers += 1.0;
            }
            let after_digits = line.trim_start_matches(|c: char| c.is_ascii_digit());
            let numbered = after_digits.len() < line.len() && after_digits.starts_with(". ");
            if numbered || ["- ", "* ", "+ "].iter().any(|mark| line.starts_with(mark)) {
                counts.lists += 1.0;
            }
            counts.bold += (line.matches("**").count() / 2) as f64;
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markdown_is_counted_outside_code() {
        let counts =
            Counts::of("# Uno\n\n- a **b** c\n2. d\n```\n# no\n- no\n```\n#no\n**x** y **z**");
        assert_eq!(
            (counts.headers, counts.lists, counts.bold, counts.words),
            (1.0, 2.0, 3.0, 18.0)
        );
    }

    #[test]
    fn equal_answers_have_no_difference_and_sides_change_the_sign() {
        assert_eq!(difference("", ""), [0.0; 4]);
        let (a, b) = ("# t\n- uno **dos**", "uno dos tres cuatro cinco seis");
        let (there, back) = (difference(a, b), difference(b, a));
        assert!(there.iter().zip(back).all(|(x, y)| *x == -y));
        // Five words against six.
        assert!((there[0] + 1.0 / 11.0).abs() < 1e-15);
    }
}
