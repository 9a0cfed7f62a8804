//! Training and calibration of the classifier.
//!
//! Plain stochastic gradient descent in one thread, so the result is a function of the examples,
//! their order and the configuration.

use milpa_base::seed::{Permutation, Seed};

use super::{Classifier, Features, MAX_LABELS, softmax};
use crate::codec::ModelError;

/// How a classifier is trained.
#[derive(Debug, Clone)]
pub struct ClassifierConfig {
    /// What is looked at.
    pub features: Features,
    /// Numbers in the embedding of a feature.
    pub dimension: usize,
    /// Times that each example is seen.
    pub epochs: u64,
    /// Step of the first update; it falls linearly to zero.
    pub learning_rate: f32,
    /// Gives the initial embeddings and the order of the examples in each epoch.
    pub seed: Seed,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self {
            features: Features::default(),
            dimension: 16,
            epochs: 10,
            learning_rate: 0.5,
            seed: Seed(0),
        }
    }
}

/// Trains on (label, text) pairs. The table takes 4 · `dimension` · 2^`table_bits` bytes.
///
/// # Errors
/// If there are fewer than 2 labels or more than [`MAX_LABELS`], or the configuration is out of
/// bounds.
pub fn train(
    examples: &[(&str, &str)],
    config: &ClassifierConfig,
) -> Result<Classifier, ModelError> {
    config.features.check().map_err(|problem| ModelError::Training(problem.to_owned()))?;
    let mut labels: Vec<String> = examples.iter().map(|(label, _)| (*label).to_owned()).collect();
    labels.sort_unstable();
    labels.dedup();
    if !(2..=MAX_LABELS).contains(&labels.len()) || !(1..=1024).contains(&config.dimension) {
        return Err(ModelError::Training(format!(
            "a classifier has 2 to {MAX_LABELS} labels and a dimension of 1 to 1024, and the \
             examples have {} labels, the dimension is {}; change the examples or the settings",
            labels.len(),
            config.dimension
        )));
    }
    let target = |label: &str| labels.binary_search_by(|l| l.as_str().cmp(label));
    let (rows, dimension) = (1usize << config.features.table_bits, config.dimension);
    let initial = config.seed.derive("embeddings");
    let mut table: Vec<f32> = (0..(rows * dimension) as u64)
        .map(|index| (2.0 * initial.f64_at(index) - 1.0) as f32 / dimension as f32)
        .collect();
    let mut touched = vec![false; rows];
    let mut output = vec![0f32; labels.len() * dimension];
    let (mut hidden, mut gradient) = (vec![0f32; dimension], vec![0f32; dimension]);
    let mut found: Vec<usize> = Vec::new();
    let order = config.seed.derive("order");
    let steps = (config.epochs * examples.len() as u64).max(1);
    for epoch in 0..config.epochs {
        let permutation = Permutation::new(order.nth(epoch), examples.len() as u64);
        for index in 0..examples.len() as u64 {
            let (label, text) = examples[permutation.apply(index) as usize];
            found.clear();
            config.features.for_each(text, |row| found.push(row));
            if found.is_empty() {
                continue;
            }
            let done = (epoch * examples.len() as u64 + index) as f32 / steps as f32;
            let rate = config.learning_rate * (1.0 - done);
            hidden.fill(0.0);
            for &row in &found {
                touched[row] = true;
                let embedding = &table[row * dimension..(row + 1) * dimension];
                for (sum, value) in hidden.iter_mut().zip(embedding) {
                    *sum += value;
                }
            }
            let share = 1.0 / found.len() as f32;
            for value in &mut hidden {
                *value *= share;
            }
            let logits = output.chunks(dimension).map(|weights| dot(weights, &hidden)).collect();
            let probabilities = softmax(logits);
            let target = target(label).expect("every example's label is in the list");
            gradient.fill(0.0);
            for (index, weights) in output.chunks_mut(dimension).enumerate() {
                let wanted = f32::from(u8::from(index == target));
                let step = rate * (wanted - probabilities[index]);
                for ((weight, gradient), hidden) in
                    weights.iter_mut().zip(&mut gradient).zip(&hidden)
                {
                    *gradient += step * *weight;
                    *weight += step * hidden;
                }
            }
            for value in &mut gradient {
                *value *= share;
            }
            for &row in &found {
                let embedding = &mut table[row * dimension..(row + 1) * dimension];
                for (value, gradient) in embedding.iter_mut().zip(&gradient) {
                    *value += gradient;
                }
            }
        }
    }
    Ok(fold(labels, config.features.clone(), &table, &touched, &output))
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Multiplies embeddings and output layer, and rounds the product to 8 bits. Rows that no example
/// reached say nothing: they get zeros in place of their random beginnings.
fn fold(
    labels: Vec<String>,
    features: Features,
    table: &[f32],
    touched: &[bool],
    output: &[f32],
) -> Classifier {
    let columns = labels.len() - 1;
    let dimension = output.len() / labels.len();
    let (first, others) = output.split_at(dimension);
    let mut folded = vec![0f32; touched.len() * columns];
    for (row, embedding) in table.chunks(dimension).enumerate().filter(|&(row, _)| touched[row]) {
        let base = dot(embedding, first);
        for (column, weights) in others.chunks(dimension).enumerate() {
            folded[row * columns + column] = dot(embedding, weights) - base;
        }
    }
    let mut steps = vec![0f32; columns];
    for row in folded.chunks(columns) {
        for (step, value) in steps.iter_mut().zip(row) {
            *step = step.max(value.abs() / 127.0);
        }
    }
    let quantise = |(at, value): (usize, &f32)| {
        let step = steps[at % columns];
        if step > 0.0 { (value / step).round() as i8 } else { 0 }
    };
    let weights = folded.iter().enumerate().map(quantise).collect();
    Classifier { labels, features, weights, steps, scale: 1.0, biases: vec![0.0; columns] }
}

/// Fits the calibration on held-out (label, text) pairs: one scale for all logits and one bias for
/// each label but the first, with the highest likelihood. For two labels this is Platt's scaling
/// (1999), for more it is temperature scaling with biases (Guo et al. 2017).
///
/// Labels that the model does not have are left out; the held-out texts should have the balance of
/// labels that the model is going to meet.
pub fn calibrate(model: &mut Classifier, held_out: &[(&str, &str)]) {
    let scored: Vec<(Vec<f32>, usize)> = held_out
        .iter()
        .filter_map(|(label, text)| Some((model.logits(text).0, model.label(label)?)))
        .collect();
    if scored.is_empty() {
        return;
    }
    let columns = model.columns();
    let count = scored.len() as f64;
    // A weak pull of the scale towards 1 in logarithm keeps it finite where classes separate.
    let pull = 1.0 / count;
    // Parameters: the logarithm of the scale, then biases. The loss is smooth, with few parameters:
    // gradient descent that halves its step when the loss does not fall.
    let loss = |parameters: &[f64], gradient: &mut [f64]| -> f64 {
        let scale = parameters[0].exp();
        gradient.fill(0.0);
        let mut loss = 0.0;
        for (logits, target) in &scored {
            let shifted: Vec<f64> = std::iter::once(0.0)
                .chain(logits.iter().zip(&parameters[1..]).map(|(&z, b)| f64::from(z) * scale + b))
                .collect();
            let best = shifted.iter().copied().fold(f64::MIN, f64::max);
            let total: f64 = shifted.iter().map(|z| (z - best).exp()).sum();
            loss -= shifted[*target] - best - total.ln();
            for column in 0..columns {
                let probability = (shifted[column + 1] - best).exp() / total;
                let error = probability - f64::from(u8::from(*target == column + 1));
                gradient[0] += error * f64::from(logits[column]) * scale;
                gradient[column + 1] += error;
            }
        }
        for value in gradient.iter_mut() {
            *value /= count;
        }
        gradient[0] += pull * parameters[0];
        loss / count + 0.5 * pull * parameters[0] * parameters[0]
    };
    let mut parameters = vec![0f64; columns + 1];
    let mut gradient = vec![0f64; columns + 1];
    let mut next_gradient = gradient.clone();
    let mut value = loss(&parameters, &mut gradient);
    let mut step = 1.0;
    for _ in 0..2000 {
        let next: Vec<f64> = parameters
            .iter()
            .zip(&gradient)
            .map(|(p, g)| (p - step * g).clamp(-20.0, 20.0))
            .collect();
        let next_value = loss(&next, &mut next_gradient);
        if next_value < value {
            parameters = next;
            std::mem::swap(&mut gradient, &mut next_gradient);
            value = next_value;
            step *= 1.5;
        } else {
            step *= 0.5;
            if step < 1e-12 {
                break;
            }
        }
    }
    model.scale = parameters[0].exp() as f32;
    model.biases = parameters[1..].iter().map(|&bias| bias as f32).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_labels_are_refused() {
        let error = train(&[("a", "x"), ("a", "y")], &ClassifierConfig::default()).unwrap_err();
        assert!(error.to_string().contains("1 labels"), "{error}");
    }

    #[test]
    fn calibration_gives_the_held_out_shares() {
        // Words that say nothing: the probability of a label is its share.
        let examples = [("a", "x y z"), ("b", "x y z")];
        let features = Features { table_bits: 8, ..Features::default() };
        let mut model =
            train(&examples, &ClassifierConfig { features, ..Default::default() }).unwrap();
        let held_out = [("a", "x y"), ("b", "x y"), ("b", "x y"), ("b", "x y")];
        calibrate(&mut model, &held_out);
        let probability = model.predict("x y").probabilities[1];
        assert!((probability - 0.75).abs() < 1e-3, "{probability}");
    }
}
