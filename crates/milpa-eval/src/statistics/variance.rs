//! Where the variance of a score comes from: items, prompts or samples.
//!
//! A balanced table of scores: every item under every paraphrase of the prompt, each answered as
//! often. The expected mean squares of the two-way random-effects layout are solved for the
//! components (method of moments; R. A. Fisher; S. R. Searle, G. Casella, C. E. McCulloch,
//! "Variance Components", 1992, section 4.5); negative solutions are zero.

use std::{collections::BTreeMap, path::Path};

use milpa_base::lines::{Line, LineReader};
use serde::{Deserialize, Serialize};

use super::{Interval, Method, mean, student_t_quantile};
use crate::error::EvalError;

/// Longest line of scores, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Most scores.
const MAX_SCORES: usize = 10_000_000;

/// A balanced table of scores: items × prompts × samples.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreTable {
    /// Item by item, within it prompt by prompt, within it sample by sample.
    pub scores: Vec<f64>,
    /// Paraphrases of the prompt.
    pub prompts: usize,
    /// Samples of each item and prompt.
    pub samples: usize,
}

/// Reads scores from JSONL: `item`, `prompt` (texts; one prompt where it is left out) and `score`.
/// Rows of one item and prompt are samples.
///
/// # Errors
/// A file that cannot be read, a line that is no score, or a table that is not balanced: every item
/// needs every prompt, as often.
pub fn read_scores(path: &Path) -> Result<ScoreTable, EvalError> {
    #[derive(Deserialize)]
    struct Row {
        item: String,
        #[serde(default)]
        prompt: String,
        score: f64,
    }
    let read_error = |source| EvalError::Read { path: path.to_owned(), source };
    let bad = |message: String| EvalError::BadReport { path: path.to_owned(), message };
    let mut reader = LineReader::open(path, MAX_LINE_BYTES).map_err(read_error)?;
    let mut items: BTreeMap<String, BTreeMap<String, Vec<f64>>> = BTreeMap::new();
    let mut count = 0;
    while let Some(line) = reader.next_line().map_err(read_error)? {
        let parsed = match line {
            Line::Whole(bytes) => {
                serde_json::from_slice::<Row>(bytes).map_err(|error| error.to_string())
            }
            Line::TooLong { bytes } => Err(format!("the line has {bytes} bytes")),
        };
        let number = reader.line_number();
        let row = parsed.map_err(|message| bad(format!("line {number}: {message}")))?;
        items.entry(row.item).or_default().entry(row.prompt).or_default().push(row.score);
        count += 1;
        if count > MAX_SCORES {
            return Err(bad(format!("it has more than {MAX_SCORES} scores")));
        }
    }
    let shape = |prompts: &BTreeMap<String, Vec<f64>>| -> Vec<(String, usize)> {
        prompts.iter().map(|(prompt, scores)| (prompt.clone(), scores.len())).collect()
    };
    let first = items.values().next().map(shape).unwrap_or_default();
    let samples = first.first().map_or(0, |(_, samples)| *samples);
    if let Some((item, _)) = items
        .iter()
        .find(|(_, prompts)| shape(prompts) != first || first.iter().any(|(_, n)| *n != samples))
    {
        return Err(bad(format!(
            "item {item:?} has other prompts or another number of samples than the first; every \
             item needs every prompt, as often"
        )));
    }
    let prompts = first.len();
    let scores = items.into_values().flat_map(BTreeMap::into_values).flatten().collect();
    Ok(ScoreTable { scores, prompts, samples })
}

/// Components of variance of one answer's score, and what they do to the mean.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VarianceShares {
    /// Between items.
    pub items: f64,
    /// Between paraphrases of the prompt, the same for all items.
    pub prompts: f64,
    /// Items that prefer one paraphrase and items that prefer another; with one sample a cell it
    /// holds the samples' variance too.
    pub interaction: f64,
    /// Between samples of one item and prompt; `None` with one sample.
    pub samples: Option<f64>,
    /// Standard error of the overall mean, items and prompts both being draws from many.
    pub standard_error: f64,
}

/// Splits the variance of `scores[(item · prompts + prompt) · samples + sample]`; `None` for fewer
/// than two items, no prompt, no sample, or a table of another size.
pub fn variance_shares(scores: &[f64], prompts: usize, samples: usize) -> Option<VarianceShares> {
    let per_item = prompts.checked_mul(samples).filter(|&n| n > 0)?;
    let items = scores.len() / per_item;
    if items < 2 || items * per_item != scores.len() {
        return None;
    }
    let mean = |values: &mut dyn Iterator<Item = f64>| {
        let (sum, n) = values.fold((0.0, 0usize), |(sum, n), value| (sum + value, n + 1));
        sum / n as f64
    };
    let cell = |item: usize, prompt: usize| {
        let from = (item * prompts + prompt) * samples;
        &scores[from..from + samples]
    };
    let cell_means: Vec<f64> = (0..items * prompts)
        .map(|at| mean(&mut cell(at / prompts, at % prompts).iter().copied()))
        .collect();
    let all = mean(&mut cell_means.iter().copied());
    let item_means: Vec<f64> =
        cell_means.chunks(prompts).map(|row| mean(&mut row.iter().copied())).collect();
    let prompt_means: Vec<f64> = (0..prompts)
        .map(|prompt| mean(&mut cell_means.iter().skip(prompt).step_by(prompts).copied()))
        .collect();
    let (i, p, s) = (items as f64, prompts as f64, samples as f64);
    let squares = |values: &[f64], centre: f64| -> f64 {
        values.iter().map(|value| (value - centre).powi(2)).sum()
    };
    let item_square = p * s * squares(&item_means, all) / (i - 1.0);
    let prompt_square = (prompts > 1).then(|| i * s * squares(&prompt_means, all) / (p - 1.0));
    let interaction_square = (prompts > 1).then(|| {
        let residual = |(at, value): (usize, &f64)| {
            value - item_means[at / prompts] - prompt_means[at % prompts] + all
        };
        let sum: f64 = cell_means.iter().enumerate().map(|cell| residual(cell).powi(2)).sum();
        s * sum / ((i - 1.0) * (p - 1.0))
    });
    let sample_square = (samples > 1).then(|| {
        let sum: f64 = scores.chunks(samples).zip(&cell_means).map(|(c, &m)| squares(c, m)).sum();
        sum / (i * p * (s - 1.0))
    });
    // Expected mean squares: samples σ²; interaction σ² + sγ²; items, prompts add ps·α², is·β².
    let noise = interaction_square.or(sample_square).unwrap_or(0.0);
    let item = ((item_square - noise) / (p * s)).max(0.0);
    let prompt = prompt_square.map_or(0.0, |square| ((square - noise) / (i * s)).max(0.0));
    let interaction = interaction_square
        .map_or(0.0, |square| ((square - sample_square.unwrap_or(0.0)) / s).max(0.0));
    let samples_part = sample_square.unwrap_or(0.0);
    let variance = item / i + prompt / p + interaction / (i * p) + samples_part / (i * p * s);
    Some(VarianceShares {
        items: item,
        prompts: prompt,
        interaction,
        samples: sample_square,
        standard_error: variance.sqrt(),
    })
}

/// Mean of a table of items × prompts (as for [`variance_shares`], one sample a cell) with an interval
/// for items and prompts like these: Student's t, the variance (`MS_items` + `MS_prompts` −
/// `MS_interaction`)/(items · prompts), at least that of either alone, and Satterthwaite's degrees of
/// freedom. `None` below two items or two prompts.
///
/// Paper: F. E. Satterthwaite, Biometrics Bulletin 2 (1946) 110–114; S. R. Searle, G. Casella, C. E.
/// McCulloch, *Variance Components* (1992), chapter 4.
pub fn crossed_mean_interval(
    scores: &[f64],
    prompts: usize,
    level: f64,
) -> Option<(f64, Interval)> {
    if prompts < 2 || !scores.len().is_multiple_of(prompts) || scores.len() / prompts < 2 {
        return None;
    }
    let items = scores.len() / prompts;
    let (i, p) = (items as f64, prompts as f64);
    let all = mean(scores);
    let of_items: Vec<f64> = scores.chunks(prompts).map(mean).collect();
    let of_prompts: Vec<f64> =
        (0..prompts).map(|at| scores.iter().skip(at).step_by(prompts).sum::<f64>() / i).collect();
    let spread = |means: &[f64]| means.iter().map(|mean| (mean - all).powi(2)).sum::<f64>();
    let item_square = p * spread(&of_items) / (i - 1.0);
    let prompt_square = i * spread(&of_prompts) / (p - 1.0);
    let rest = |(at, score): (usize, &f64)| {
        (score - of_items[at / prompts] - of_prompts[at % prompts] + all).powi(2)
    };
    let rest_square = scores.iter().enumerate().map(rest).sum::<f64>() / ((i - 1.0) * (p - 1.0));
    let sum = item_square + prompt_square - rest_square;
    // Where chance makes a component negative, the larger of both alone is the safe side.
    let (square, freedom) = if sum > item_square.max(prompt_square) {
        let parts = item_square.powi(2) / (i - 1.0)
            + prompt_square.powi(2) / (p - 1.0)
            + rest_square.powi(2) / ((i - 1.0) * (p - 1.0));
        (sum, sum.powi(2) / parts)
    } else if item_square >= prompt_square {
        (item_square, i - 1.0)
    } else {
        (prompt_square, p - 1.0)
    };
    let error = (square.max(0.0) / (i * p)).sqrt();
    let half = if error > 0.0 {
        student_t_quantile(f64::midpoint(1.0, level), freedom.max(1.0)) * error
    } else {
        0.0
    };
    let method = Method::Crossed;
    Some((all, Interval { low: all - half, high: all + half, level, method }))
}

#[cfg(test)]
mod tests {
    use milpa_base::Seed;

    use super::*;
    use crate::statistics::near;

    #[test]
    fn an_additive_table_has_no_interaction() {
        // Items 0 and 2 (variance 2), prompts 0 and 1 (variance 1/2), one sample.
        let shares = variance_shares(&[0.0, 1.0, 2.0, 3.0], 2, 1).unwrap();
        near(shares.items, 2.0, 1e-12);
        near(shares.prompts, 0.5, 1e-12);
        near(shares.interaction, 0.0, 1e-12);
        assert_eq!(shares.samples, None);
        near(shares.standard_error, (2.0f64 / 2.0 + 0.5 / 2.0).sqrt(), 1e-12);
    }

    #[test]
    fn planted_components_are_found() {
        let (items, prompts, samples) = (400, 40, 5);
        let draw = |name: &str, at: usize| Seed(12).derive(name).normal_at(at as u64);
        let mut scores = Vec::new();
        for item in 0..items {
            for prompt in 0..prompts {
                let cell = item * prompts + prompt;
                for sample in 0..samples {
                    scores.push(
                        0.4 * draw("item", item)
                            + 0.2 * draw("prompt", prompt)
                            + 0.3 * draw("cell", cell)
                            + 0.5 * draw("sample", cell * samples + sample),
                    );
                }
            }
        }
        let shares = variance_shares(&scores, prompts, samples).unwrap();
        near(shares.items, 0.16, 0.03);
        near(shares.prompts, 0.04, 0.02);
        near(shares.interaction, 0.09, 0.005);
        near(shares.samples.unwrap(), 0.25, 0.005);
    }

    #[test]
    fn a_crossed_mean_has_the_variance_of_both() {
        // Items 0 and 2, prompts 0 and 1: mean squares 2·2 = 4, 2·½ = 1, no rest; (4 + 1)/4.
        let (mean, interval) = crossed_mean_interval(&[0.0, 1.0, 2.0, 3.0], 2, 0.95).unwrap();
        near(mean, 1.5, 1e-12);
        // Satterthwaite: 25 / (16 + 1) = 1.47 degrees.
        let half = student_t_quantile(0.975, 25.0 / 17.0) * (5.0f64 / 4.0).sqrt();
        near(interval.high - mean, half, 1e-9);
        let shares = variance_shares(&[0.0, 1.0, 2.0, 3.0], 2, 1).unwrap();
        near(shares.standard_error, (5.0f64 / 4.0).sqrt(), 1e-12);
        assert_eq!(crossed_mean_interval(&[1.0, 2.0], 2, 0.95), None);
        assert_eq!(crossed_mean_interval(&[1.0, 2.0], 1, 0.95), None);
        let (_, flat) = crossed_mean_interval(&[1.0; 6], 3, 0.95).unwrap();
        assert_eq!((flat.low, flat.high), (1.0, 1.0));
    }

    #[test]
    fn scores_are_read_into_a_balanced_table() {
        let read = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            read_scores(file.path())
        };
        let row = |item: &str, prompt: &str, score: f64| {
            format!("{{\"item\":\"{item}\",\"prompt\":\"{prompt}\",\"score\":{score}}}\n")
        };
        let rows = [row("b", "p", 2.0), row("a", "q", 1.0), row("a", "p", 0.0), row("b", "q", 3.0)];
        let table = read(&rows.concat()).unwrap();
        assert_eq!((table.prompts, table.samples), (2, 1));
        assert_eq!(table.scores, [0.0, 1.0, 2.0, 3.0]);
        let error = read(&rows[..3].concat()).unwrap_err().to_string();
        assert!(error.contains("item \"b\" has other prompts"), "{error}");
        assert!(read("{}").is_err());
    }

    #[test]
    fn a_table_of_another_size_is_none() {
        assert_eq!(variance_shares(&[1.0; 5], 2, 1), None);
        assert_eq!(variance_shares(&[1.0; 2], 2, 1), None);
        assert_eq!(variance_shares(&[1.0; 4], 0, 1), None);
        let samples_only = variance_shares(&[0.0, 1.0, 0.0, 1.0], 1, 2).unwrap();
        assert_eq!((samples_only.items, samples_only.samples), (0.0, Some(0.5)));
    }
}
