//! Computing in bf16: near the f32 results, in the types that are promised, the same bits on any
//! number of threads.

use std::sync::Arc;

use milpa_tensor::{
    AttentionOptions, DType, LossRows, ParameterStore, RopeTable, Tape, document_starts,
};

use crate::{Run, device, differentiate, differentiate_in, normal};

/// Half the distance between neighbours in bf16, relative to a value.
const HALF_ULP: f64 = 1.0 / 256.0;

/// Runs in f32 and in bf16 and compares, by the norm of the difference: a rounding of each of
/// `roundings` values on the way changes a result by at most as many times half an ulp.
fn check(name: &str, shapes: &[&[usize]], roundings: f64, run: &Run<'_>) {
    let inputs: Vec<(Vec<usize>, Vec<f32>)> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| (shape.to_vec(), normal(i as u64 + 1, shape.iter().product())))
        .collect();
    let lengths: Vec<usize> = {
        let tape = Tape::inference(device(1));
        let tensors: Vec<_> =
            inputs.iter().map(|(shape, values)| tape.constant(values, shape).unwrap()).collect();
        run(&tape, &tensors).unwrap().iter().map(|out| out.shape().elements()).collect()
    };
    let back: Vec<Vec<f32>> = lengths.iter().map(|&length| normal(9, length)).collect();
    let exact = differentiate(1, &inputs, &back, run);
    let rounded = differentiate_in(DType::BF16, 1, &inputs, &back, run);
    let compare = |what: &str, exact: &[f32], rounded: &[f32]| {
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let size = norm(&mut exact.iter().map(|&v| f64::from(v)));
        let error =
            norm(&mut exact.iter().zip(rounded).map(|(&a, &b)| f64::from(a) - f64::from(b)));
        assert!(error > 0.0, "{name}: {what} was not rounded");
        let (error, allowed) = (error / size, roundings * HALF_ULP);
        assert!(error <= allowed, "{name}: {what} is off by {error:.1e}, allowed {allowed:.1e}");
    };
    for (exact, rounded) in exact.outputs.iter().zip(&rounded.outputs) {
        compare("an output", exact, rounded);
    }
    for (exact, rounded) in exact.gradients.iter().zip(&rounded.gradients) {
        compare("a gradient", exact.as_ref().unwrap(), rounded.as_ref().unwrap());
    }
    for threads in [2, 3] {
        let many = differentiate_in(DType::BF16, threads, &inputs, &back, run);
        assert!(rounded.outputs == many.outputs, "{name}: outputs differ on {threads} threads");
        assert!(rounded.gradients == many.gradients, "{name}: gradients on {threads} threads");
    }
}

#[test]
fn operations_in_bf16_stay_near_f32() {
    check("linear", &[&[70, 129], &[65, 129]], 2.0, &|tape, x| {
        Ok(vec![tape.linear(&x[0], &x[1])?])
    });
    check("two linears", &[&[33, 64], &[48, 64], &[20, 64]], 2.0, &|tape, x| {
        tape.linear_many(&x[0], [&x[1], &x[2]]).map(Vec::from)
    });
    // The branch goes through a linear layer, as in a model: its output is what is bf16.
    check("norms", &[&[40, 48], &[40, 48], &[48], &[48, 48]], 3.0, &|tape, x| {
        let branch = tape.linear(&x[1], &x[3])?;
        let (_, y) = tape.add_rms_norm(x[0].clone(), &branch, &x[2], 1e-5)?;
        Ok(vec![tape.rms_norm(&y, &x[2], 1e-5)?])
    });
    check("rope and attention", &[&[2, 67, 4, 24], &[2, 67, 2, 24], &[24]], 6.0, &|tape, x| {
        let table = RopeTable::new(tape.device(), 24, 1e4, 67);
        let positions: Arc<[u32]> = (0..134).map(|i| i % 67).collect();
        let documents: Vec<u32> = (0..134).map(|i| i / 40).collect();
        let mut first_key = vec![0; 134];
        document_starts(&documents, 67, &mut first_key);
        let q = tape.rms_norm(&x[0], &x[2], 1e-6)?;
        let q = tape.rope(q, &table, &positions)?;
        let first_key = Some(first_key.into());
        let options = AttentionOptions { first_key, ..AttentionOptions::causal(0.2) };
        Ok(vec![tape.attention(&q, &x[1], &x[1], &options)?])
    });
    check("swiglu", &[&[30, 50], &[30, 50]], 3.0, &|tape, x| Ok(vec![tape.swiglu(&x[0], &x[1])?]));
    let targets: Vec<u32> = (0..150).map(|i| i * 11 % 301).collect();
    check("loss", &[&[150, 40], &[301, 40]], 3.0, &|tape, x| {
        let loss = tape.linear_cross_entropy(&x[0], &x[1], &LossRows::mean(&targets))?;
        Ok(vec![loss, tape.linear_log_probabilities(&x[0], &x[1], &targets)?])
    });
}

/// Operations without bf16 kernels of their own compute in f32 between products in bf16.
#[test]
fn operations_of_other_models_take_part() {
    let w: &[&[usize]] = &[&[30, 48], &[64, 48], &[64, 48], &[48, 64], &[64]];
    check("geglu, bias, scale and cap", w, 8.0, &|tape, x| {
        let h = tape.scale(x[0].clone(), 0.2)?;
        let [gate, up] = tape.linear_many(&h, [&x[1], &x[2]])?;
        let up = tape.add_bias(up, &x[4])?;
        let out = tape.linear(&tape.geglu(&gate, &up)?, &x[3])?;
        Ok(vec![tape.soft_cap(out, 30.0)?])
    });
}

#[test]
fn types_are_as_promised() {
    let device = device(1);
    let mut store = ParameterStore::new(device.clone());
    let table = store.add("table", &[5, 32], &normal(1, 160), true).unwrap();
    let norm = store.add("norm", &[32], &[1.0; 32], false).unwrap();
    let tape = Tape::recording(device).autocast(DType::BF16);
    let residual = tape.embedding(&store.leaf(table), &[1, 4, 0], 3).unwrap();
    let y = tape.rms_norm(&residual, &store.leaf(norm), 1e-6).unwrap();
    let branch = tape.linear(&y, &store.leaf(table)).unwrap();
    assert_eq!(
        [&residual, &y, &branch].map(milpa_tensor::Tensor::dtype),
        [DType::F32, DType::BF16, DType::BF16]
    );
    let loss = tape.linear_cross_entropy(&y, &store.leaf(table), &LossRows::mean(&[0, 1, 2]));
    tape.backward(&loss.unwrap(), &mut store).unwrap();
    assert!(store.iter().all(|p| p.grad().unwrap().dtype() == DType::F32));
    assert!(store.iter().all(|p| p.data().dtype() == DType::F32));
}

#[test]
fn rounded_weights_follow_the_weights() {
    let device = device(1);
    let mut store = ParameterStore::new(device.clone());
    let w = store.add("w", &[1, 2], &[1.0, 1.0], true).unwrap();
    let product = |store: &ParameterStore| {
        let tape = Tape::inference(device.clone()).autocast(DType::BF16);
        let x = tape.constant(&[1.0, 2.0], &[1, 2]).unwrap();
        tape.read(&tape.linear(&x, &store.leaf(w)).unwrap())
    };
    assert_eq!(product(&store), [3.0]);
    store.write(w, &[4.0, 5.0]).unwrap();
    assert_eq!(product(&store), [14.0]);
    let tape = Tape::recording(device.clone()).autocast(DType::BF16);
    let x = tape.constant(&[1.0, 2.0], &[1, 2]).unwrap();
    let out = tape.linear(&x, &store.leaf(w)).unwrap();
    tape.backward(&out, &mut store).unwrap();
    drop(out);
    for parameter in &mut store {
        let (weights, gradient) = parameter.step().unwrap().unwrap();
        device.add_assign(weights, gradient);
    }
    assert_eq!(product(&store), [19.0]);
}
