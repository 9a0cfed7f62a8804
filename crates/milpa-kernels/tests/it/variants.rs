//! GeGLU, biases, soft caps, magnitudes and routing against their twins.

use milpa_kernels::routing::{self, RoutingShape};
use milpa_kernels::{activation, bias, magnitude, reference, soft_cap};
use proptest::prelude::*;

use crate::common::{Random, check, doubles, one_cpu_per_isa};

/// A few roundings of values of this size, and sums of a few hundred of them.
const TOLERANCE: (f64, f64) = (2e-5, 2e-6);

#[test]
fn geglu() {
    for length in [0, 1, 15, 16, 17, 1000, 40_001] {
        let mut random = Random(length as u64);
        let mut gate = random.wild(length);
        for (gate, extreme) in gate.iter_mut().zip([-1e18, -20.5, -3.0, 20.5, 1e18, 0.0, -0.0]) {
            *gate = extreme;
        }
        let (up, dout) = (random.reals(length), random.reals(length));
        let (gate64, up64) = (doubles(&gate), doubles(&up));
        let [mut out64, mut dgate64, mut dup64] = [(); 3].map(|()| vec![0.0; length]);
        reference::geglu_forward(&gate64, &up64, &mut out64);
        reference::geglu_backward(&gate64, &up64, &doubles(&dout), &mut dgate64, &mut dup64);
        check("geglu", &[out64, dgate64, dup64], (1e-6, 2e-6), |cpu| {
            let [mut out, mut dgate, mut dup] = [(); 3].map(|()| vec![f32::NAN; length]);
            activation::geglu_forward(cpu, &gate, &up, &mut out);
            activation::geglu_backward(cpu, &gate, &up, &dout, &mut dgate, &mut dup);
            vec![out, dgate, dup]
        });
    }
}

#[test]
fn soft_caps() {
    for (length, cap) in [(0, 1.0), (1, 30.0), (17, 0.5), (40_001, 50.0)] {
        let mut random = Random(length as u64);
        let mut x: Vec<f32> = random.wild(length).iter().map(|x| 3.0 * x).collect();
        let extremes = [f32::NEG_INFINITY, f32::INFINITY, -1e30, 1e-30, 0.0];
        x.iter_mut().zip(extremes).for_each(|(x, extreme)| *x = extreme);
        let dy = random.reals(length);
        let (mut y64, mut dx64) = (doubles(&x), doubles(&dy));
        reference::soft_cap_forward(f64::from(cap), &mut y64);
        reference::soft_cap_backward(f64::from(cap), &y64, &mut dx64);
        // The hyperbolic tangent is good to 4·10⁻⁷, and the slope 1 − t² cancels near ±1.
        check("soft cap", &[y64, dx64], (1e-6, 1e-6), |cpu| {
            let (mut y, mut dx) = (x.clone(), dy.clone());
            soft_cap::soft_cap_forward(cpu, cap, &mut y);
            soft_cap::soft_cap_backward(cpu, cap, &y, &mut dx);
            vec![y, dx]
        });
    }
}

#[test]
fn biases() {
    for (rows, dim) in [(0, 4), (1, 1), (3, 7), (700, 48), (130, 129), (70, 1024)] {
        let mut random = Random((rows * dim) as u64);
        let (x, bias, dbias) = (random.reals(rows * dim), random.reals(dim), random.reals(dim));
        let (mut y64, mut dbias64) = (doubles(&x), doubles(&dbias));
        reference::bias_forward(&doubles(&bias), &mut y64);
        reference::bias_backward(&doubles(&x), &mut dbias64);
        check(&format!("bias {rows}×{dim}"), &[y64, dbias64], TOLERANCE, |cpu| {
            let (mut y, mut dbias) = (x.clone(), dbias.clone());
            bias::bias_forward(cpu, &bias, &mut y);
            bias::bias_backward(cpu, &x, &mut dbias);
            vec![y, dbias]
        });
    }
}

#[test]
fn norms_of_adapted_matrices() {
    for (outputs, inputs, rank) in [(1, 1, 1), (5, 7, 3), (33, 129, 16), (300, 64, 2), (9, 1000, 5)]
    {
        let mut random = Random((outputs * inputs) as u64);
        let weight = random.reals(outputs * inputs);
        let (a, b) = (random.reals(rank * inputs), random.reals(outputs * rank));
        let mut norms64 = vec![0.0; outputs];
        reference::adapted_norms(0.75, &doubles(&weight), &doubles(&a), &doubles(&b), &mut norms64);
        check(&format!("norms {outputs}×{inputs}"), &[norms64], TOLERANCE, |cpu| {
            let mut norms = vec![f32::NAN; outputs];
            magnitude::adapted_norms(cpu, 0.75, &weight, &a, &b, &mut norms);
            vec![norms]
        });
    }
}

#[test]
fn magnitudes() {
    for (rows, dim) in [(0, 4), (1, 1), (3, 7), (700, 48), (130, 129), (70, 1024)] {
        let mut random = Random((rows * dim) as u64);
        let (x, dy) = (random.reals(rows * dim), random.reals(rows * dim));
        let (values, dvalues) = (random.reals(dim), random.reals(dim));
        let mut norms: Vec<f32> = random.reals(dim).iter().map(|x| x.abs() + 0.5).collect();
        // A row without length gives zeros, not infinities.
        norms[0] = 0.0;
        let [x64, values64, norms64] = [&x, &values, &norms].map(|values| doubles(values));
        let (mut y64, mut dx64) = (vec![0.0; x.len()], doubles(&dy));
        let mut dvalues64 = doubles(&dvalues);
        reference::magnitude_forward(&norms64, &values64, &x64, &mut y64);
        reference::magnitude_backward(&norms64, &values64, &x64, &mut dx64, &mut dvalues64);
        check(&format!("magnitude {rows}×{dim}"), &[y64, dx64, dvalues64], TOLERANCE, |cpu| {
            let (mut y, mut dx) = (vec![f32::NAN; x.len()], dy.clone());
            let mut dvalues = dvalues.clone();
            magnitude::magnitude_forward(cpu, &norms, &values, &x, &mut y);
            magnitude::magnitude_backward(cpu, &norms, &values, &x, &mut dx, &mut dvalues);
            vec![y, dx, dvalues]
        });
    }
}

/// A permutation of `0..length`.
fn permutation(random: &mut Random, length: usize) -> Vec<u32> {
    let mut places: Vec<u32> = (0..length as u32).collect();
    for at in (1..length).rev() {
        places.swap(at, random.below(at + 1));
    }
    places
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn routing(
        tokens in 0_usize..200, experts in 1_usize..70, chosen in 1_usize..9,
        dim in 1_usize..70, normalise in any::<bool>(),
    ) {
        let shape = RoutingShape { experts, chosen: chosen.min(experts), normalise };
        let chosen = shape.chosen;
        let mut random = Random((tokens * 71 + experts * 9 + dim) as u64);
        // Few different values: there are equal logits.
        let logits: Vec<f32> =
            (0..tokens * experts).map(|_| random.below(50) as f32 / 10.0 - 2.0).collect();
        let mut ids = vec![0; tokens * chosen];
        reference::choose_experts(&shape, &logits, &mut ids);
        for cpu in one_cpu_per_isa() {
            let mut found = vec![u32::MAX; ids.len()];
            routing::choose_experts(cpu, &shape, &logits, &mut found);
            prop_assert_eq!(&found, &ids);
        }
        let places = permutation(&mut random, tokens * chosen);
        let (rows, dout) = (random.reals(places.len() * dim), random.reals(tokens * dim));
        let (logits64, rows64, dout64) = (doubles(&logits), doubles(&rows), doubles(&dout));
        let mut weights64 = vec![0.0; ids.len()];
        reference::routing_weights_forward(&shape, &logits64, &ids, &mut weights64);
        let mut out64 = vec![0.0; tokens * dim];
        reference::combine_forward(dim, chosen, &places, &weights64, &rows64, &mut out64);
        let (mut drows64, mut dweights64) = (vec![0.0; rows.len()], vec![0.0; ids.len()]);
        reference::combine_backward(
            dim, chosen, &places, &weights64, &rows64, &dout64, &mut drows64, &mut dweights64,
        );
        let mut dlogits64 = vec![0.0; logits.len()];
        reference::routing_weights_backward(&shape, &logits64, &ids, &dweights64, &mut dlogits64);
        let expected = [weights64, out64, drows64, dweights64, dlogits64];
        check("routing", &expected, TOLERANCE, |cpu| {
            let nan = |length| vec![f32::NAN; length];
            let (mut weights, mut out) = (nan(ids.len()), nan(dout.len()));
            routing::routing_weights_forward(cpu, &shape, &logits, &ids, &mut weights);
            routing::combine_forward(cpu, dim, chosen, &places, &weights, &rows, &mut out);
            let (mut drows, mut dweights) = (nan(rows.len()), nan(ids.len()));
            routing::combine_backward(
                cpu, dim, chosen, &places, &weights, &rows, &dout, &mut drows, &mut dweights,
            );
            let mut dlogits = nan(logits.len());
            routing::routing_weights_backward(
                cpu, &shape, &logits, &ids, &weights, &dweights, &mut dlogits,
            );
            vec![weights, out, drows, dweights, dlogits]
        });
    }
}

#[test]
fn logits_that_are_no_numbers_still_choose_different_experts() {
    let shape = RoutingShape { experts: 4, chosen: 3, normalise: true };
    let mut ids = [9; 3];
    let logits = [f32::NAN, f32::NEG_INFINITY, 1.0, f32::NAN];
    routing::choose_experts(&milpa_kernels::Cpu::detect(1), &shape, &logits, &mut ids);
    assert_eq!(ids, [2, 0, 1]);
}

#[test]
#[should_panic(expected = "places are a permutation")]
fn a_place_that_is_taken_is_refused() {
    let cpu = milpa_kernels::Cpu::detect(1);
    let (mut drows, mut dweights) = ([0.0; 2], [0.0; 2]);
    routing::combine_backward(
        &cpu,
        1,
        2,
        &[1, 1],
        &[0.5; 2],
        &[1.0; 2],
        &[1.0],
        &mut drows,
        &mut dweights,
    );
}
