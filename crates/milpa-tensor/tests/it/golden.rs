//! Operations against PyTorch in double precision: values from `reference/engine_golden.py` and
//! `reference/variants_golden.py`.

use std::{collections::BTreeMap, sync::Arc};

use milpa_tensor::{AttentionOptions, IGNORE, LossRows, OutputLayer, RopeTable, document_starts};
use safetensors::{Dtype, SafeTensors};

use crate::{Run, assert_close, differentiate};

/// Single precision here against double precision there, sums of at most a few dozen terms.
const TOLERANCE: f64 = 5e-6;

struct Golden {
    floats: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    whole: BTreeMap<String, Vec<u32>>,
}

fn golden(bytes: &[u8]) -> Golden {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut golden = Golden { floats: BTreeMap::new(), whole: BTreeMap::new() };
    for (name, tensor) in file.tensors() {
        let words = tensor.data().as_chunks::<4>().0;
        if tensor.dtype() == Dtype::F32 {
            let values = words.iter().map(|&word| f32::from_le_bytes(word)).collect();
            golden.floats.insert(name, (tensor.shape().to_vec(), values));
        } else {
            // -1 marks rows without a target, and is IGNORE as an unsigned number.
            let values = words.iter().map(|&word| u32::from_le_bytes(word)).collect();
            golden.whole.insert(name, values);
        }
    }
    golden
}

impl Golden {
    /// All tensors `NAME.KIND.0`, `NAME.KIND.1`, …
    fn all(&self, name: &str, kind: &str) -> Vec<(Vec<usize>, Vec<f32>)> {
        (0..).map_while(|i| self.floats.get(&format!("{name}.{kind}.{i}")).cloned()).collect()
    }

    fn check(&self, name: &str, run: &Run<'_>) {
        let back: Vec<Vec<f32>> = self.all(name, "dout").into_iter().map(|(_, v)| v).collect();
        let outcome = differentiate(2, &self.all(name, "in"), &back, run);
        let wide = |values: &[f32]| values.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (outputs, gradients) = (self.all(name, "out"), self.all(name, "din"));
        assert!(!outputs.is_empty() && outputs.len() == outcome.outputs.len(), "{name}");
        assert!(!gradients.is_empty() && gradients.len() == outcome.gradients.len(), "{name}");
        for (found, (_, expect)) in outcome.outputs.iter().zip(&outputs) {
            assert_close(&format!("{name} output"), found, &wide(expect), TOLERANCE);
        }
        for (found, (_, expect)) in outcome.gradients.iter().zip(&gradients) {
            let found = found.as_ref().unwrap();
            assert_close(&format!("{name} gradient"), found, &wide(expect), TOLERANCE);
        }
    }
}

#[test]
fn operations_equal_pytorch() {
    let golden = golden(include_bytes!("../golden/operations.safetensors"));
    let ids = &golden.whole["embedding.ids"];
    golden.check("embedding", &|tape, x| Ok(vec![tape.embedding(&x[0], ids, 3)?]));
    golden.check("linear", &|tape, x| tape.linear_many(&x[0], [&x[1], &x[2]]).map(Vec::from));
    golden.check("rms_norm", &|tape, x| Ok(vec![tape.rms_norm(&x[0], &x[1], 1e-5)?]));
    golden.check("head_norm", &|tape, x| Ok(vec![tape.rms_norm(&x[0], &x[1], 1e-6)?]));
    golden.check("add_rms_norm", &|tape, x| {
        let (sum, y) = tape.add_rms_norm(x[0].clone(), &x[1], &x[2], 1e-6)?;
        Ok(vec![sum, y])
    });
    let positions: Arc<[u32]> = golden.whole["rope.positions"].clone().into();
    golden.check("rope", &|tape, x| {
        let table = RopeTable::new(tape.device(), 6, 1e4, 9);
        Ok(vec![tape.rope(x[0].clone(), &table, &positions)?])
    });
    let scale = 1.0 / 10.0_f32.sqrt();
    let mut first_key = vec![0; 14];
    document_starts(&golden.whole["document_attention.documents"], 7, &mut first_key);
    for (name, first_key) in [("attention", None), ("document_attention", Some(first_key.into()))] {
        let options = AttentionOptions { first_key, ..AttentionOptions::causal(scale) };
        golden.check(name, &|tape, x| Ok(vec![tape.attention(&x[0], &x[1], &x[2], &options)?]));
    }
    golden.check("swiglu", &|tape, x| Ok(vec![tape.swiglu(&x[0], &x[1])?]));
    golden.check("add", &|tape, x| Ok(vec![tape.add(&x[0], &x[1])?]));
    let targets = &golden.whole["cross_entropy.targets"];
    assert!(targets.contains(&IGNORE));
    let mean = LossRows::mean(targets);
    golden.check("cross_entropy", &|tape, x| {
        Ok(vec![tape.linear_cross_entropy(&x[0], &x[1], &mean)?])
    });
    let weights = golden.floats["weighted_cross_entropy.weights"].1.clone();
    let weighted = LossRows { weights: Some(weights.into()), divisor: Some(3.0), ..mean.clone() };
    golden.check("weighted_cross_entropy", &|tape, x| {
        Ok(vec![tape.linear_cross_entropy(&x[0], &x[1], &weighted)?])
    });
    golden.check("log_probabilities", &|tape, x| {
        Ok(vec![tape.linear_log_probabilities(&x[0], &x[1], targets)?])
    });
}

#[test]
fn operations_of_some_families_equal_pytorch() {
    let golden = golden(include_bytes!("../golden/variants.safetensors"));
    let mut first_key = vec![0; 18];
    document_starts(&golden.whole["window_capped_documents.documents"], 9, &mut first_key);
    for (name, window, soft_cap, first_key) in [
        ("window", Some(3), None, None),
        ("capped", None, Some(1.5), None),
        ("window_capped_documents", Some(4), Some(2.5), Some(first_key.into())),
    ] {
        let options = AttentionOptions { scale: 1.0 / 6.0_f32.sqrt(), first_key, window, soft_cap };
        golden.check(name, &|tape, x| Ok(vec![tape.attention(&x[0], &x[1], &x[2], &options)?]));
    }
    golden.check("geglu", &|tape, x| Ok(vec![tape.geglu(&x[0], &x[1])?]));
    golden.check("add_bias", &|tape, x| Ok(vec![tape.add_bias(x[0].clone(), &x[1])?]));
    golden.check("soft_cap", &|tape, x| Ok(vec![tape.soft_cap(x[0].clone(), 2.0)?]));
    let positions: Arc<[u32]> = golden.whole["partial_rope.positions"].clone().into();
    golden.check("partial_rope", &|tape, x| {
        let table = RopeTable::from_frequencies(tape.device(), 10, &[1.0, 0.01], 1.0, 9);
        Ok(vec![tape.rope(x[0].clone(), &table, &positions)?])
    });
    for (name, normalise) in [("experts", false), ("normalised_experts", true)] {
        golden.check(name, &|tape, x| {
            let (routing, weights) = tape.route(&x[1], 2, normalise)?;
            Ok(vec![tape.experts(&x[0], &weights, &routing, [&x[2], &x[3], &x[4]])?])
        });
    }
    let weights = golden.floats["z_loss_cross_entropy.weights"].1.clone();
    let targets = &golden.whole["z_loss_cross_entropy.targets"];
    let divisor = Some(3.0);
    let rows = LossRows { weights: Some(weights.into()), divisor, ..LossRows::mean(targets) };
    let rows = LossRows { z_loss: 0.01, ..rows };
    golden.check("z_loss_cross_entropy", &|tape, x| {
        Ok(vec![tape.linear_cross_entropy(&x[0], &x[1], &rows)?])
    });
    let rows = LossRows::mean(&golden.whole["capped_cross_entropy.targets"]);
    golden.check("capped_cross_entropy", &|tape, x| {
        let layer = OutputLayer { weight_vd: &x[1], soft_cap: Some(3.0) };
        Ok(vec![tape.linear_cross_entropy(&x[0], layer, &rows)?])
    });
}
