//! Results are the same bits on any number of threads.

use std::sync::Arc;

use milpa_tensor::{AdaptedMatrix, AttentionOptions, LossRows, RopeTable};

use crate::{Run, differentiate, normal};

/// Runs on 1, 2, 3 and 5 threads and compares all bits.
fn check(name: &str, shapes: &[&[usize]], outputs: usize, run: &Run<'_>) {
    let inputs: Vec<(Vec<usize>, Vec<f32>)> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| (shape.to_vec(), normal(i as u64, shape.iter().product())))
        .collect();
    let largest: usize = shapes.iter().map(|shape| shape.iter().product()).max().unwrap();
    let lengths: Vec<usize> = {
        let device = crate::device(1);
        let tape = milpa_tensor::Tape::inference(device);
        let tensors: Vec<_> =
            inputs.iter().map(|(shape, values)| tape.constant(values, shape).unwrap()).collect();
        run(&tape, &tensors).unwrap().iter().map(|out| out.shape().elements()).collect()
    };
    assert_eq!(lengths.len(), outputs, "{name} with inputs of up to {largest}");
    let back: Vec<Vec<f32>> = lengths.iter().map(|&length| normal(9, length)).collect();
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
    let one = differentiate(1, &inputs, &back, run);
    for threads in [2, 3, 5] {
        let many = differentiate(threads, &inputs, &back, run);
        for (a, b) in one.outputs.iter().zip(&many.outputs) {
            assert!(bits(a) == bits(b), "{name}: outputs differ on {threads} threads");
        }
        for (a, b) in one.gradients.iter().zip(&many.gradients) {
            let (a, b) = (a.as_ref().unwrap(), b.as_ref().unwrap());
            assert!(bits(a) == bits(b), "{name}: gradients differ on {threads} threads");
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    check("linear", &[&[70, 129], &[65, 129]], 1, &|tape, x| Ok(vec![tape.linear(&x[0], &x[1])?]));
    check("norms", &[&[200, 48], &[200, 48], &[48]], 2, &|tape, x| {
        let (sum, y) = tape.add_rms_norm(x[0].clone(), &x[1], &x[2], 1e-5)?;
        Ok(vec![sum, y])
    });
    check("rope and attention", &[&[2, 67, 4, 24], &[2, 67, 2, 24]], 1, &|tape, x| {
        let table = RopeTable::new(tape.device(), 24, 1e4, 67);
        let positions: Arc<[u32]> = (0..134).map(|i| i % 67).collect();
        let q = tape.rope(x[0].clone(), &table, &positions)?;
        let options = AttentionOptions::causal(0.2);
        Ok(vec![tape.attention(&q, &x[1], &x[1], &options)?])
    });
    check("swiglu", &[&[300, 50], &[300, 50]], 1, &|tape, x| Ok(vec![tape.swiglu(&x[0], &x[1])?]));
    check("magnitude", &[&[300, 50], &[50]], 1, &|tape, x| {
        let weight_od = &tape.constant(&normal(7, 50 * 20), &[50, 20])?;
        let a_rd = &tape.constant(&normal(8, 3 * 20), &[3, 20])?;
        let b_or = &tape.constant(&normal(9, 50 * 3), &[50, 3])?;
        let matrix = AdaptedMatrix { weight_od, a_rd, b_or, scale: 0.5 };
        Ok(vec![tape.magnitude(&x[0], &x[1], &matrix)?])
    });
    let ids: Vec<u32> = (0..400).map(|i| i * 7 % 31).collect();
    check("embedding", &[&[31, 40]], 1, &|tape, x| Ok(vec![tape.embedding(&x[0], &ids, 100)?]));
    let targets: Vec<u32> = (0..150).map(|i| i * 11 % 301).collect();
    check("loss", &[&[150, 40], &[301, 40]], 2, &|tape, x| {
        let loss = tape.linear_cross_entropy(&x[0], &x[1], &LossRows::mean(&targets))?;
        Ok(vec![loss, tape.linear_log_probabilities(&x[0], &x[1], &targets)?])
    });
}
