//! Merging the weights of models of one shape: what to make of the values of one tensor.
//!
//! - linear: Σ wᵢ·θᵢ, divided by Σ wᵢ if it is to be a mean (model soups, arXiv:2203.05482);
//! - SLERP: along the great circle from one tensor to the other (Shoemake 1985);
//! - TIES: changes of a base, trimmed, with one sign elected for each value (arXiv:2306.01708);
//! - chat vector: what a chat training changed of a base, added to a continued training of the same base
//!   (arXiv:2310.04799).
//!
//! A tensor is one of a Hugging Face file. Values are f32, each result is computed in f64 and rounded
//! once, and sums over a tensor are taken by fixed chunks in order, so the result is the same on any
//! number of threads. Folders are `merge_folder.rs`.

use std::ops::Range;

use milpa_tensor::ParameterStore;
use serde::Serialize;

use crate::error::DecoderError;

/// Values that one thread computes at a time, and that one partial sum covers.
const CHUNK: usize = 1 << 16;
/// Tensors whose directions agree more than this are interpolated linearly, as in mergekit.
const PARALLEL: f64 = 0.9995;

/// How models become one.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "method", rename_all = "kebab-case")]
pub enum MergeMethod {
    /// A weighted sum of models.
    Linear {
        /// One for each model; may be negative.
        weights: Vec<f64>,
        /// Whether the sum is divided by that of the weights.
        normalise: bool,
    },
    /// From the first model to the second along the great circle of each tensor.
    Slerp {
        /// 0 is the first model, 1 the second.
        t: f64,
    },
    /// Changes of the first model (the base) by the others, without those that disagree.
    Ties {
        /// Share of each tensor's changes that is kept, the largest ones.
        density: f64,
        /// One for each model but the base.
        weights: Vec<f64>,
        /// Factor on the merged changes.
        lambda: f64,
    },
    /// What the second model (chat) changed of the first (base), added to the third (continued).
    ChatVector {
        /// Factor on the change.
        scale: f64,
    },
}

impl MergeMethod {
    /// The point of two models at `t`: 0 is the first, 1 the second.
    pub fn between(t: f64) -> Self {
        Self::Linear { weights: vec![1.0 - t, t], normalise: true }
    }

    /// What each of `count` models is to the method, in the order in which they are given.
    pub fn roles(&self, count: usize) -> Vec<String> {
        let numbered = |count| (1..=count).map(|number| format!("model_{number}"));
        match self {
            Self::Ties { .. } => {
                ["base".to_owned()].into_iter().chain(numbered(count.saturating_sub(1))).collect()
            }
            Self::ChatVector { .. } => ["base", "chat", "continued"].map(str::to_owned).into(),
            Self::Linear { .. } | Self::Slerp { .. } => numbered(count).collect(),
        }
    }

    /// Checks the method's numbers against the number of models.
    ///
    /// # Errors
    /// The number that cannot be right, and what it may be.
    pub fn check(&self, models: usize) -> Result<(), DecoderError> {
        let fail = |message: String| Err(DecoderError::Merge(message));
        let finite = |name: &str, value: f64| {
            if value.is_finite() { Ok(()) } else { fail(format!("{name} is {value}, no number")) }
        };
        let weighted = |weights: &[f64], models: usize| {
            if weights.len() != models {
                let given = weights.len();
                return fail(format!(
                    "{given} weights were given for {models} models; give one for each"
                ));
            }
            weights.iter().try_for_each(|weight| finite("a weight", *weight))
        };
        let exactly = |wanted: usize, which: &str| {
            if models == wanted { Ok(()) } else { fail(format!("it takes {which}, not {models}")) }
        };
        match self {
            Self::Linear { weights, normalise } => {
                if models == 0 {
                    return fail("there is no model to merge".to_owned());
                }
                weighted(weights, models)?;
                if *normalise && weights.iter().sum::<f64>().abs() < 1e-6 {
                    return fail(
                        "the weights add up to 0, so there is no mean; change them, or take the \
                         plain sum"
                            .to_owned(),
                    );
                }
                Ok(())
            }
            Self::Slerp { t } => {
                exactly(2, "two models")?;
                if (0.0..=1.0).contains(t) {
                    return Ok(());
                }
                fail(format!("t is {t}; it lies between 0 (the first model) and 1 (the second)"))
            }
            Self::Ties { density, weights, lambda } => {
                if models < 2 {
                    return fail("there is no model beside the base".to_owned());
                }
                weighted(weights, models - 1)?;
                finite("lambda", *lambda)?;
                if *density > 0.0 && *density <= 1.0 {
                    return Ok(());
                }
                fail(format!("density is {density}; it is above 0 and at most 1 (all is kept)"))
            }
            Self::ChatVector { scale } => {
                exactly(3, "three models (base, chat, continued)")?;
                finite("scale", *scale)
            }
        }
    }

    /// Merges the values of one tensor, one slice of equal length for each model.
    pub(crate) fn apply(&self, models: &[&[f32]], threads: usize) -> Merged {
        let combine = |coefficients: &[f64]| {
            elementwise(models[0].len(), threads, |at| {
                let terms = models.iter().zip(coefficients);
                terms.map(|(model, factor)| f64::from(model[at]) * factor).sum()
            })
        };
        let mut is_straight = true;
        let values = match self {
            Self::Linear { weights, normalise } => {
                let total = if *normalise { weights.iter().sum() } else { 1.0 };
                // Divided once for all, so that weights of 1 give the mean of equal values exactly.
                elementwise(models[0].len(), threads, |at| {
                    let terms = models.iter().zip(weights);
                    terms.map(|(model, weight)| f64::from(model[at]) * weight).sum::<f64>() / total
                })
            }
            Self::Slerp { t } => {
                let factors = great_circle(models[0], models[1], *t, threads);
                is_straight = factors.is_none();
                combine(&factors.unwrap_or([1.0 - t, *t]))
            }
            Self::Ties { density, weights, lambda } => {
                ties(models[0], &models[1..], *density, weights, *lambda, threads)
            }
            Self::ChatVector { scale } => elementwise(models[0].len(), threads, |at| {
                let [base, chat, continued] = [0, 1, 2].map(|model| f64::from(models[model][at]));
                continued + scale * (chat - base)
            }),
        };
        Merged { values, is_straight }
    }

    /// The models that the rows of a token are taken from where `has` says who has it, with weights that
    /// add up to 1. Nobody merges what is in one model alone.
    pub(crate) fn owners(&self, has: &[bool]) -> Vec<f64> {
        let wanted: Vec<f64> = match self {
            Self::Linear { weights, .. } => weights.iter().map(|weight| weight.max(0.0)).collect(),
            Self::Slerp { .. } => vec![1.0; has.len()],
            Self::Ties { weights, .. } => [0.0].iter().chain(weights).map(|w| w.max(0.0)).collect(),
            Self::ChatVector { .. } => {
                let mut wanted = vec![0.0; has.len()];
                let from = [2, 1, 0].into_iter().find(|&model| has[model]).unwrap_or(0);
                wanted[from] = 1.0;
                wanted
            }
        };
        let held = |weights: &[f64]| -> Vec<f64> {
            weights.iter().zip(has).map(|(weight, has)| if *has { *weight } else { 0.0 }).collect()
        };
        let mut weights = held(&wanted);
        if weights.iter().sum::<f64>() <= 0.0 {
            weights = held(&vec![1.0; has.len()]);
        }
        let total: f64 = weights.iter().sum();
        weights.iter().map(|weight| weight / total).collect()
    }
}

/// A merged tensor.
pub(crate) struct Merged {
    pub(crate) values: Vec<f32>,
    /// Whether a great circle was no more than a straight line.
    pub(crate) is_straight: bool,
}

/// The weights at `t` on the straight line from `base` (0) to `model` (1), as a new store.
///
/// Rows of tokens that the base lacks (its vocabulary was extended since) are the model's.
///
/// # Errors
/// If the stores have other parameters or shapes, or `t` is no number.
pub fn interpolate(
    base: &ParameterStore,
    model: &ParameterStore,
    t: f64,
) -> Result<ParameterStore, DecoderError> {
    let method = MergeMethod::between(t);
    method.check(2)?;
    let mut merged = ParameterStore::new(model.device().clone());
    for parameter in model {
        let name = parameter.name();
        let wrong = |message: String| DecoderError::Parameter { name: name.to_owned(), message };
        let id = base.id(name).ok_or_else(|| wrong("is missing in the base".to_owned()))?;
        let (old, new) = (base.get(id).shape(), parameter.shape());
        let (old_rows, old_columns) = (old.lengths()[0], &old.lengths()[1..]);
        let (rows, columns) = (new.lengths()[0], &new.lengths()[1..]);
        let is_vocabulary = is_by_token(name);
        if old_columns != columns || old_rows > rows || (old_rows < rows && !is_vocabulary) {
            return Err(wrong(format!("has shape {new}, but {old} in the base")));
        }
        let before = base.read(id);
        let mut values = model.read(model.id(name).expect("the store has its own parameter"));
        let both = method.apply(&[&before, &values[..before.len()]], 1).values;
        values[..before.len()].copy_from_slice(&both);
        merged.add(name, new.lengths(), &values, parameter.decay())?;
    }
    match base.iter().find(|parameter| merged.id(parameter.name()).is_none()) {
        None => Ok(merged),
        Some(parameter) => Err(DecoderError::Parameter {
            name: parameter.name().to_owned(),
            message: "is in the base alone".to_owned(),
        }),
    }
}

/// Whether the rows of a tensor belong to tokens.
pub(crate) fn is_by_token(name: &str) -> bool {
    matches!(name, "model.embed_tokens.weight" | "lm_head.weight")
}

/// Factors of two tensors at `t` on the great circle through their directions; `None` where that is a
/// straight line, or a tensor has no direction.
fn great_circle(from: &[f32], to: &[f32], t: f64, threads: usize) -> Option<[f64; 2]> {
    let [from_square, to_square, product] = sums(from.len(), threads, |range| {
        let mut sums = [0.0; 3];
        for (x, y) in from[range.clone()].iter().zip(&to[range]) {
            let (x, y) = (f64::from(*x), f64::from(*y));
            sums[0] += x * x;
            sums[1] += y * y;
            sums[2] += x * y;
        }
        sums
    });
    let norms = from_square.sqrt() * to_square.sqrt();
    let cosine = (product / norms).clamp(-1.0, 1.0);
    if norms == 0.0 || cosine.abs() > PARALLEL {
        return None;
    }
    let angle = cosine.acos();
    Some([((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()])
}

/// TIES of one tensor: trim each change to its largest values, elect the sign of each value by the
/// weighted sum (a sum of 0 counts as positive), and take the weighted mean of the changes that agree.
fn ties(
    base: &[f32],
    models: &[&[f32]],
    density: f64,
    weights: &[f64],
    lambda: f64,
    threads: usize,
) -> Vec<f32> {
    let trimmed = |model: &&[f32]| {
        let mut change: Vec<f32> = model.iter().zip(base).map(|(new, old)| new - old).collect();
        trim(&mut change, density);
        change
    };
    let changes: Vec<Vec<f32>> = models.iter().map(trimmed).collect();
    elementwise(base.len(), threads, |at| {
        let weighted = |(change, weight): (&Vec<f32>, &f64)| f64::from(change[at]) * weight;
        let elected = changes.iter().zip(weights).map(weighted).sum::<f64>() >= 0.0;
        let (mut sum, mut total) = (0.0, 0.0);
        for (change, weight) in changes.iter().zip(weights) {
            let value = weighted((change, weight));
            if value != 0.0 && (value > 0.0) == elected {
                sum += value;
                total += weight;
            }
        }
        let mean = if total == 0.0 { sum } else { sum / total };
        f64::from(base[at]) + lambda * mean
    })
}

/// Sets all values but a share of the largest magnitude to 0; of equal ones the first stay.
fn trim(values: &mut [f32], density: f64) {
    let kept = ((density * values.len() as f64) as usize).max(1);
    if kept >= values.len() {
        return;
    }
    // The bits of positive numbers are in their order.
    let mut magnitudes: Vec<u32> = values.iter().map(|value| value.abs().to_bits()).collect();
    let smallest = *magnitudes.select_nth_unstable_by(kept - 1, |a, b| b.cmp(a)).1;
    let larger = magnitudes.iter().filter(|bits| **bits > smallest).count();
    let mut equal = kept - larger;
    for value in values {
        let bits = value.abs().to_bits();
        if bits < smallest || (bits == smallest && equal == 0) {
            *value = 0.0;
        } else if bits == smallest {
            equal -= 1;
        }
    }
}

/// Computes each value by itself, on `threads` threads.
fn elementwise(length: usize, threads: usize, value: impl Fn(usize) -> f64 + Sync) -> Vec<f32> {
    let mut values = vec![0.0; length];
    let share = length.div_ceil(threads.max(1)).next_multiple_of(CHUNK);
    let fill = |start: usize, part: &mut [f32]| {
        for (offset, out) in part.iter_mut().enumerate() {
            *out = value(start + offset) as f32;
        }
    };
    std::thread::scope(|scope| {
        for (index, part) in values.chunks_mut(share.max(1)).enumerate() {
            let fill = &fill;
            if share >= length {
                fill(0, part);
            } else {
                scope.spawn(move || fill(index * share, part));
            }
        }
    });
    values
}

/// Adds the sums of fixed chunks in order.
fn sums<const N: usize>(
    length: usize,
    threads: usize,
    sum: impl Fn(Range<usize>) -> [f64; N] + Sync,
) -> [f64; N] {
    let chunks = length.div_ceil(CHUNK);
    let chunk = |index: usize| sum(index * CHUNK..((index + 1) * CHUNK).min(length));
    let mut partial = vec![[0.0; N]; chunks];
    let share = chunks.div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        for (index, part) in partial.chunks_mut(share).enumerate() {
            let chunk = &chunk;
            let mut fill = move || {
                for (offset, out) in part.iter_mut().enumerate() {
                    *out = chunk(index * share + offset);
                }
            };
            if share >= chunks {
                fill();
            } else {
                scope.spawn(fill);
            }
        }
    });
    let mut total = [0.0; N];
    for part in partial {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use milpa_tensor::Device;
    use proptest::prelude::*;

    fn check(method: &MergeMethod, models: &[&[f32]], expect: &[f32]) {
        method.check(models.len()).unwrap();
        let found = method.apply(models, 1).values;
        assert_eq!(found.len(), expect.len());
        for (found, expect) in found.iter().zip(expect) {
            assert!((found - expect).abs() <= 1e-6, "{method:?}: {found} instead of {expect}");
        }
    }

    #[test]
    fn each_method_is_its_formula() {
        let linear = |weights: &[f64], normalise| MergeMethod::Linear {
            weights: weights.to_vec(),
            normalise,
        };
        check(&linear(&[1.0, 3.0], true), &[&[4.0, 0.0], &[0.0, 8.0]], &[1.0, 6.0]);
        check(&linear(&[1.0, 3.0], false), &[&[4.0, 0.0], &[0.0, 8.0]], &[4.0, 24.0]);
        let root = 0.5_f32.sqrt();
        check(&MergeMethod::Slerp { t: 0.5 }, &[&[1.0, 0.0], &[0.0, 1.0]], &[root, root]);
        // Parallel, and without a direction: straight.
        check(&MergeMethod::Slerp { t: 0.25 }, &[&[1.0, 1.0], &[2.0, 2.0]], &[1.25, 1.25]);
        check(&MergeMethod::Slerp { t: 0.5 }, &[&[0.0, 0.0], &[0.0, 2.0]], &[0.0, 1.0]);
        check(
            &MergeMethod::ChatVector { scale: 0.5 },
            &[&[1.0, 1.0], &[3.0, 0.0], &[10.0, 10.0]],
            &[11.0, 9.5],
        );
    }

    #[test]
    fn ties_trims_elects_and_takes_the_mean_of_those_that_agree() {
        let base: &[f32] = &[1.0, 1.0, 1.0, 1.0];
        // Changes 4 3 -2 1 and -1 5 -6 0; half of each is kept: 4 3 0 0 and 0 5 -6 0.
        let models: [&[f32]; 3] = [base, &[5.0, 4.0, -1.0, 2.0], &[0.0, 6.0, -5.0, 1.0]];
        let ties = |density, lambda| MergeMethod::Ties { density, weights: vec![1.0, 1.0], lambda };
        check(&ties(0.5, 1.0), &models, &[5.0, 5.0, -5.0, 1.0]);
        // All kept: 4 against -1 elects plus; -2 and -6 agree.
        check(&ties(1.0, 0.5), &models, &[3.0, 3.0, -1.0, 1.5]);
        // A density that keeps nothing keeps the largest value.
        check(&ties(0.01, 1.0), &models, &[5.0, 1.0, -5.0, 1.0]);
    }

    #[test]
    fn of_equal_magnitudes_the_first_stay() {
        let mut values = [1.0, -2.0, 2.0, -2.0, 0.5];
        trim(&mut values, 0.4);
        assert_eq!(values, [0.0, -2.0, 2.0, 0.0, 0.0]);
    }

    #[test]
    fn impossible_numbers_are_named() {
        let message = |method: &MergeMethod, models| method.check(models).unwrap_err().to_string();
        let linear =
            |weights: &[f64]| MergeMethod::Linear { weights: weights.to_vec(), normalise: true };
        assert!(message(&linear(&[1.0]), 2).contains("1 weights were given for 2"));
        assert!(message(&linear(&[1.0, -1.0]), 2).contains("add up to 0"));
        assert!(message(&linear(&[f64::NAN, 1.0]), 2).contains("no number"));
        assert!(message(&MergeMethod::Slerp { t: 1.5 }, 2).contains("t is 1.5"));
        assert!(message(&MergeMethod::Slerp { t: 0.5 }, 3).contains("two models, not 3"));
        let ties = |density| MergeMethod::Ties { density, weights: vec![1.0], lambda: 1.0 };
        assert!(message(&ties(0.0), 2).contains("density is 0"));
        assert!(message(&ties(0.5), 1).contains("beside the base"));
        assert!(message(&MergeMethod::ChatVector { scale: 1.0 }, 2).contains("three models"));
    }

    #[test]
    fn the_ends_of_the_line_are_the_models() {
        let device = Device::cpu(1);
        let store = |rows: usize, factor: f32| {
            let mut store = ParameterStore::new(device.clone());
            let values: Vec<f32> = (0..rows * 2).map(|at| at as f32 * factor + 0.1).collect();
            store.add("model.embed_tokens.weight", &[rows, 2], &values, true).unwrap();
            store.add("model.norm.weight", &[2], &[factor, 1.0 / 3.0], false).unwrap();
            store
        };
        let values = |store: &ParameterStore| -> Vec<Vec<f32>> {
            store.iter().map(|p| store.read(store.id(p.name()).unwrap())).collect()
        };
        let (base, model) = (store(3, 0.7), store(4, 1.3));
        assert_eq!(values(&interpolate(&base, &model, 1.0).unwrap()), values(&model));
        let start = values(&interpolate(&base, &model, 0.0).unwrap());
        assert_eq!(start[0][..6], values(&base)[0][..]);
        // The token that the base lacks.
        assert_eq!(start[0][6..], values(&model)[0][6..]);
        assert_eq!(start[1], values(&base)[1]);
        let error = interpolate(&model, &base, 0.5).unwrap_err().to_string();
        assert!(
            error.contains("model.embed_tokens.weight has shape [3, 2], but [4, 2]"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn threads_do_not_matter(seed in 0u32..1000, length in 1usize..300_000) {
            let model = |salt: u32| -> Vec<f32> {
                let value = |at: u32| (at.wrapping_mul(2_654_435_761).wrapping_add(salt) >> 8) as f32;
                (0..length as u32).map(|at| value(at ^ seed) / 1e6 - 8.0).collect()
            };
            let models = [model(1), model(77), model(5_000)];
            let models: Vec<&[f32]> = models.iter().map(Vec::as_slice).collect();
            for (method, count) in [
                (MergeMethod::Linear { weights: vec![0.3, 0.2, 0.9], normalise: true }, 3),
                (MergeMethod::Slerp { t: 0.3 }, 2),
                (MergeMethod::Ties { density: 0.3, weights: vec![1.0, 0.4], lambda: 0.8 }, 3),
                (MergeMethod::ChatVector { scale: 0.7 }, 3),
            ] {
                let one = method.apply(&models[..count], 1).values;
                prop_assert_eq!(&one, &method.apply(&models[..count], 3).values);
            }
        }
    }
}
