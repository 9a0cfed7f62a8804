//! Norms, RoPE, SwiGLU, embedding and whole-slice operations.

use milpa_kernels::{Accumulate, activation, elementwise, embedding, norm, reference, rope};

use crate::common::{Random, check, doubles};

/// A few roundings of values of this size, and sums of a few hundred of them.
const TOLERANCE: (f64, f64) = (2e-5, 2e-6);

#[test]
fn rms_norm() {
    for (rows, dim) in
        [(0, 4), (1, 1), (3, 7), (5, 48), (700, 48), (130, 129), (300, 384), (70, 1024)]
    {
        let mut random = Random((rows * dim) as u64);
        let length = rows * dim;
        let (x, delta) = (random.wild(length), random.reals(length));
        let (weight, dy, dx) = (random.reals(dim), random.reals(length), random.reals(length));
        let dweight = random.reals(dim);
        let eps = 1e-5_f32;
        let eps64 = f64::from(eps);
        let (x64, w64) = (doubles(&x), doubles(&weight));
        let (mut y64, mut inverse64) = (vec![0.0; length], vec![0.0; rows]);
        reference::rms_norm_forward(dim, eps64, &x64, &w64, &mut y64, &mut inverse64);
        let what = format!("norm {rows}×{dim}");
        check(&what, &[y64, inverse64.clone()], TOLERANCE, |cpu| {
            let (mut y, mut inverse) = (vec![0.0; length], vec![0.0; rows]);
            norm::rms_norm_forward(cpu, dim, eps, &x, &weight, &mut y, &mut inverse);
            vec![y, inverse]
        });

        let sum: Vec<f32> = x.iter().zip(&delta).map(|(x, delta)| x + delta).collect();
        let (mut y64, mut sum_inverse) = (vec![0.0; length], vec![0.0; rows]);
        reference::rms_norm_forward(dim, eps64, &doubles(&sum), &w64, &mut y64, &mut sum_inverse);
        check(&what, &[doubles(&sum), y64, sum_inverse], TOLERANCE, |cpu| {
            let mut residual = x.clone();
            let (mut y, mut inverse) = (vec![0.0; length], vec![0.0; rows]);
            norm::add_rms_norm_forward(
                cpu,
                dim,
                eps,
                &mut residual,
                &delta,
                &weight,
                &mut y,
                &mut inverse,
            );
            vec![residual, y, inverse]
        });

        let inverse: Vec<f32> = inverse64.iter().map(|&value| value as f32).collect();
        for accumulate in [Accumulate::No, Accumulate::Yes] {
            let (mut dx64, mut dw64) = (doubles(&dx), doubles(&dweight));
            reference::rms_norm_backward(
                dim,
                &x64,
                &w64,
                &inverse64,
                &doubles(&dy),
                &mut dx64,
                accumulate,
                &mut dw64,
            );
            // Rows of one element have 1/rms up to 1/√eps = 316, and their gradient cancels.
            let tolerance = (if dim == 1 { 1e-3 } else { 1e-4 }, 1e-5);
            check(&what, &[dx64, dw64], tolerance, |cpu| {
                let (mut dx, mut dw) = (dx.clone(), dweight.clone());
                norm::rms_norm_backward(
                    cpu, dim, &x, &weight, &inverse, &dy, &mut dx, accumulate, &mut dw,
                );
                vec![dx, dw]
            });
        }
    }
}

#[test]
fn rotary_positions() {
    for (tokens, heads, dim, turning) in [
        (1, 1, 2, 2),
        (5, 3, 6, 6),
        (40, 8, 48, 48),
        (300, 2, 64, 64),
        (70, 1, 34, 34),
        (70, 3, 96, 72),
        (9, 2, 7, 4),
    ] {
        let mut random = Random((tokens + heads + dim) as u64);
        let (cos, sin) = rope::tables(&rope::inverse_frequencies(turning, 10_000.0), 512);
        let positions: Vec<u32> = (0..tokens).map(|_| random.below(512) as u32).collect();
        let x = random.reals(tokens * heads * dim);
        let (cos64, sin64) = (doubles(&cos), doubles(&sin));
        let (mut forward, mut backward) = (doubles(&x), doubles(&x));
        reference::rope_forward(heads, dim, turning, &cos64, &sin64, &positions, &mut forward);
        reference::rope_backward(heads, dim, turning, &cos64, &sin64, &positions, &mut backward);
        check("rope", &[forward, backward], (1e-6, 0.0), |cpu| {
            let (mut forward, mut backward) = (x.clone(), x.clone());
            rope::rope_forward(cpu, heads, dim, turning, &cos, &sin, &positions, &mut forward);
            rope::rope_backward(cpu, heads, dim, turning, &cos, &sin, &positions, &mut backward);
            vec![forward, backward]
        });
    }
}

#[test]
fn rotary_tables_follow_the_formula() {
    let (cos, sin) = rope::tables(&rope::inverse_frequencies(8, 500.0), 4);
    assert_eq!((cos.len(), sin.len()), (16, 16));
    let angle = 3.0 * 500.0_f64.powf(-2.0 * 2.0 / 8.0);
    assert!((f64::from(cos[3 * 4 + 2]) - angle.cos()).abs() < 1e-7);
    assert!((f64::from(sin[3 * 4 + 2]) - angle.sin()).abs() < 1e-7);
}

#[test]
#[should_panic(expected = "position 4 is beyond a table of 4")]
fn a_position_beyond_the_table_is_refused() {
    let cpu = milpa_kernels::Cpu::detect(1);
    let (cos, sin) = rope::tables(&rope::inverse_frequencies(2, 10_000.0), 4);
    rope::rope_forward(&cpu, 1, 2, 2, &cos, &sin, &[4], &mut [0.0, 0.0]);
}

#[test]
fn swiglu() {
    for length in [0, 1, 15, 16, 17, 1000, 40_001] {
        let mut random = Random(length as u64);
        let mut gate = random.wild(length);
        // The ends of the exponential's range, and beyond.
        for (gate, extreme) in gate.iter_mut().zip([-1e4, -104.0, -88.0, 88.0, 1e4, 0.0, -0.0]) {
            *gate = extreme;
        }
        let (up, dout) = (random.reals(length), random.reals(length));
        let (gate64, up64, dout64) = (doubles(&gate), doubles(&up), doubles(&dout));
        let (mut out, mut dgate, mut dup) =
            (vec![0.0; length], vec![0.0; length], vec![0.0; length]);
        reference::swiglu_forward(&gate64, &up64, &mut out);
        reference::swiglu_backward(&gate64, &up64, &dout64, &mut dgate, &mut dup);
        // Relative to products of up to 100; cancellation in 1 − sigmoid costs an absolute 10⁻⁷ · g.
        check("swiglu", &[out, dgate, dup], (2e-5, 1e-6), |cpu| {
            let (mut out, mut dgate, mut dup) =
                (vec![0.0; length], vec![0.0; length], vec![0.0; length]);
            activation::swiglu_forward(cpu, &gate, &up, &mut out);
            activation::swiglu_backward(cpu, &gate, &up, &dout, &mut dgate, &mut dup);
            vec![out, dgate, dup]
        });
    }
}

#[test]
fn embedding_rows_and_their_gradient() {
    for (vocab, dim, count) in [(3, 5, 0), (1, 1, 9), (50, 17, 400), (1000, 48, 333)] {
        let mut random = Random((vocab * dim) as u64);
        let ids: Vec<u32> = (0..count).map(|_| random.below(vocab) as u32).collect();
        let (table, dout) = (random.reals(vocab * dim), random.reals(count * dim));
        let (mut out, mut dtable) = (vec![0.0; count * dim], doubles(&table));
        reference::embedding_forward(dim, &doubles(&table), &ids, &mut out);
        reference::embedding_backward(dim, &ids, &doubles(&dout), &mut dtable);
        check("embedding", &[out, dtable], (1e-4, 0.0), |cpu| {
            let (mut out, mut dtable) = (vec![0.0; count * dim], table.clone());
            embedding::gather(cpu, dim, &table, &ids, &mut out);
            embedding::scatter_add(cpu, dim, &ids, &dout, &mut dtable);
            vec![out, dtable]
        });
    }
}

#[test]
#[should_panic(expected = "id 3 is beyond a vocabulary of 3")]
fn an_id_beyond_the_table_is_refused() {
    let cpu = milpa_kernels::Cpu::detect(1);
    embedding::gather(&cpu, 2, &[0.0; 6], &[0, 3], &mut [0.0; 4]);
}

#[test]
fn whole_slices() {
    for length in [0, 1, 31, 33_000, 100_003] {
        let mut random = Random(length as u64);
        let (x, y) = (random.wild(length), random.wild(length));
        let pair = || x.iter().zip(&y).map(|(&x, &y)| (f64::from(x), f64::from(y)));
        let factor = 0.37_f32;
        let sum: Vec<f64> = pair().map(|(x, y)| x + y).collect();
        let scaled: Vec<f64> = pair().map(|(x, y)| y + f64::from(factor) * x).collect();
        let shrunk: Vec<f64> = pair().map(|(x, _)| f64::from(factor) * x).collect();
        let expected = [sum.clone(), sum, scaled, shrunk, doubles(&x), vec![2.5; length]];
        // One or two roundings of values of up to 137.
        check("elementwise", &expected, (2e-5, 1e-7), |cpu| {
            let mut added = y.clone();
            elementwise::add_assign(cpu, &mut added, &x);
            let mut sum = vec![0.0; length];
            elementwise::add(cpu, &x, &y, &mut sum);
            let mut scaled = y.clone();
            elementwise::add_scaled(cpu, &mut scaled, factor, &x);
            let mut shrunk = x.clone();
            elementwise::scale(cpu, &mut shrunk, factor);
            let mut copied = vec![0.0; length];
            elementwise::copy(cpu, &x, &mut copied);
            let mut filled = vec![0.0; length];
            elementwise::fill(cpu, &mut filled, 2.5);
            vec![added, sum, scaled, shrunk, copied, filled]
        });
        let squares: f64 = pair().map(|(x, _)| x * x).sum();
        let total: f64 = pair().map(|(x, _)| x).sum();
        let product: f64 = pair().map(|(x, y)| x * y).sum();
        let largest = squares.max(1.0);
        check("reductions", &[vec![squares, total, product]], (1e-7 * largest, 0.0), |cpu| {
            let single = |value: f64| value as f32;
            vec![vec![
                single(elementwise::sum_of_squares(cpu, &x)),
                single(elementwise::sum(cpu, &x)),
                single(elementwise::dot(cpu, &x, &y)),
            ]]
        });
    }
}

#[test]
fn reductions_are_the_same_double_on_any_number_of_threads() {
    let x = Random(5).wild(200_000);
    let isas = milpa_kernels::Isa::available();
    let sum = |threads, isa| {
        let cpu = milpa_kernels::Cpu::new(threads, isa);
        elementwise::sum_of_squares(&cpu, &x).to_bits()
    };
    let first = sum(1, isas[0]);
    for &isa in &isas {
        for threads in 1..=3 {
            assert_eq!(sum(threads, isa), first, "{isa} on {threads} threads");
        }
    }
}
