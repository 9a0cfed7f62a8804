//! Optimiser steps.

use milpa_kernels::optim::{self, AdamW, Lion, Muon};
use milpa_kernels::reference;

use crate::common::{Random, check, doubles, one_cpu_per_isa};

#[test]
fn adamw_over_several_steps() {
    for length in [1, 17, 1000, 70_001] {
        let mut random = Random(length as u64);
        let weights = random.reals(length);
        let gradients: Vec<Vec<f32>> = (0..3).map(|_| random.wild(length)).collect();
        let settings = |step| AdamW {
            learning_rate: 3e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step,
        };
        let (mut w64, mut m64, mut v64) = (doubles(&weights), vec![0.0; length], vec![0.0; length]);
        for (step, gradients) in (1..).zip(&gradients) {
            let gradients = doubles(gradients);
            let settings = settings(step);
            reference::adamw_step(&settings, 0.5, &mut w64, &gradients, &mut m64, &mut v64);
        }
        // Three steps of a few roundings each, on moments of up to 10⁴.
        check("adamw", &[w64, m64, v64], (1e-6, 2e-6), |cpu| {
            let (mut w, mut m, mut v) = (weights.clone(), vec![0.0; length], vec![0.0; length]);
            for (step, gradients) in (1..).zip(&gradients) {
                optim::adamw_step(cpu, &settings(step), 0.5, &mut w, gradients, &mut m, &mut v);
            }
            vec![w, m, v]
        });
    }
}

/// Two steps of `torch.optim.AdamW(lr=0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)` on one
/// weight of 1 with gradients 0.5 and −0.25, worked by hand from its documentation.
#[test]
fn adamw_by_hand() {
    let expected = {
        let w1 =
            1.0 * (1.0 - 0.1 * 0.01) - 0.1 * (0.05 / 0.1) / ((0.00025_f64 / 0.001).sqrt() + 1e-8);
        let m2 = 0.9 * 0.05 + 0.1 * -0.25;
        let v2 = 0.999 * 0.00025 + 0.001 * 0.0625;
        let root = (v2 / (1.0 - 0.999_f64.powi(2))).sqrt();
        w1 * (1.0 - 0.1 * 0.01) - 0.1 * (m2 / (1.0 - 0.81)) / (root + 1e-8)
    };
    for cpu in one_cpu_per_isa() {
        let (mut w, mut m, mut v) = ([1.0], [0.0], [0.0]);
        for (step, gradient) in [(1, 0.5), (2, -0.25)] {
            let settings = AdamW {
                learning_rate: 0.1,
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
                weight_decay: 0.01,
                step,
            };
            optim::adamw_step(cpu, &settings, 1.0, &mut w, &[gradient], &mut m, &mut v);
        }
        assert!((f64::from(w[0]) - expected).abs() < 1e-6, "{} is not {expected}", w[0]);
    }
}

#[test]
fn lion_over_several_steps() {
    let settings = Lion { learning_rate: 3e-3, beta1: 0.9, beta2: 0.99, weight_decay: 0.3 };
    for length in [1, 17, 1000, 70_001] {
        let mut random = Random(length as u64);
        let weights = random.reals(length);
        let mut gradients: Vec<Vec<f32>> = (0..3).map(|_| random.wild(length)).collect();
        for gradients in &mut gradients {
            // No gradient ever: the direction is zero, and the weight only decays.
            gradients[length / 2] = 0.0;
            // The smallest numbers there are have a sign too.
            gradients[length / 3] = -1e-40;
        }
        let (mut w64, mut m64) = (doubles(&weights), vec![0.0; length]);
        for gradients in &gradients {
            let gradients = doubles(gradients);
            reference::lion_step(&settings, 0.5, &mut w64, &gradients, &mut m64);
        }
        // Three steps of a few roundings each, on a momentum of up to 3.
        check("lion", &[w64, m64], (1e-6, 1e-6), |cpu| {
            let (mut w, mut m) = (weights.clone(), vec![0.0; length]);
            for gradients in &gradients {
                optim::lion_step(cpu, &settings, 0.5, &mut w, gradients, &mut m);
            }
            vec![w, m]
        });
    }
}

#[test]
fn muon() {
    for (rows, columns) in [(1, 1), (5, 3), (16, 40), (64, 48), (130, 20)] {
        for nesterov in [false, true] {
            let mut random = Random((rows * columns) as u64);
            let length = rows * columns;
            let (weights, gradients, momentum) =
                (random.reals(length), random.reals(length), random.reals(length));
            let settings = Muon {
                learning_rate: 0.02,
                momentum: 0.95,
                nesterov,
                weight_decay: 0.1,
                iterations: 5,
            };
            let (mut w64, mut m64) = (doubles(&weights), doubles(&momentum));
            let g64 = doubles(&gradients);
            reference::muon_step(&settings, rows, columns, 0.5, &mut w64, &g64, &mut m64);
            // The iteration multiplies rounding of small singular values by up to 3.44⁵ = 480.
            check(&format!("muon {rows}×{columns}"), &[w64, m64], (1e-5, 1e-6), |cpu| {
                let (mut w, mut m) = (weights.clone(), momentum.clone());
                let mut scratch = vec![f32::NAN; optim::muon_scratch(rows, columns)];
                optim::muon_step(
                    cpu,
                    &settings,
                    rows,
                    columns,
                    0.5,
                    &mut w,
                    &gradients,
                    &mut m,
                    &mut scratch,
                );
                vec![w, m]
            });
        }
    }
}

#[test]
fn newton_schulz_makes_rows_nearly_orthonormal() {
    let (rows, columns) = (24, 60);
    for cpu in one_cpu_per_isa() {
        let mut x = Random(1).reals(rows * columns);
        let mut scratch = vec![0.0; optim::newton_schulz_scratch(rows, columns)];
        optim::newton_schulz(cpu, rows, columns, 5, &mut x, &mut scratch);
        for i in 0..rows {
            for j in 0..rows {
                let (a, b) = (&x[i * columns..][..columns], &x[j * columns..][..columns]);
                let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                // Singular values between 0.7 and 1.2: squares between 0.49 and 1.44.
                let (low, high) = if i == j { (0.49, 1.44) } else { (-0.4, 0.4) };
                assert!((low..=high).contains(&dot), "({i}, {j}): {dot}");
            }
        }
    }
}

#[test]
fn clip_factor_follows_torch() {
    assert_eq!(optim::clip_factor(0.5, 1.0), 1.0);
    assert!((optim::clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
    assert!(optim::clip_factor(f64::INFINITY, 1.0).is_nan());
    assert!(optim::clip_factor(f64::NAN, 1.0).is_nan());
}
