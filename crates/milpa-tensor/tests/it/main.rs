//! Behaviour of the tape: gradients against finite differences in double precision and against
//! PyTorch, memory, threads, and bad calls.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod audit;
mod autocast;
mod behaviour;
mod cuda;
mod finite_differences;
mod golden;
mod threads;

use milpa_base::Seed;
use milpa_tensor::{DType, Device, ParameterStore, Tape, Tensor, TensorError};

/// What a test runs on a tape: tensors in, tensors out.
type Run<'a> = dyn Fn(&Tape, &[Tensor]) -> Result<Vec<Tensor>, TensorError> + 'a;

fn device(threads: usize) -> Device {
    Device::cpu(threads)
}

/// `count` normal values, each exact in single precision.
fn normal(seed: u64, count: usize) -> Vec<f32> {
    (0..count as u64).map(|i| Seed(seed).normal_at(i) as f32).collect()
}

/// Values and gradients of one run.
struct Outcome {
    outputs: Vec<Vec<f32>>,
    /// `None` where no gradient arrived.
    gradients: Vec<Option<Vec<f32>>>,
}

/// Runs `run` in f32 on parameters with the given shapes and values and sends `back` back.
fn differentiate(
    threads: usize,
    inputs: &[(Vec<usize>, Vec<f32>)],
    back: &[Vec<f32>],
    run: &Run<'_>,
) -> Outcome {
    differentiate_in(DType::F32, threads, inputs, back, run)
}

/// As [`differentiate`] in another type.
fn differentiate_in(
    dtype: DType,
    threads: usize,
    inputs: &[(Vec<usize>, Vec<f32>)],
    back: &[Vec<f32>],
    run: &Run<'_>,
) -> Outcome {
    let device = device(threads);
    let mut store = ParameterStore::new(device.clone());
    for (index, (shape, values)) in inputs.iter().enumerate() {
        store.add(&index.to_string(), shape, values, true).unwrap();
    }
    let ids: Vec<_> = (0..inputs.len()).map(|i| store.id(&i.to_string()).unwrap()).collect();
    let tape = Tape::recording(device).autocast(dtype);
    let leaves: Vec<Tensor> = ids.iter().map(|&id| store.leaf(id)).collect();
    let outputs = run(&tape, &leaves).unwrap();
    let values = outputs.iter().map(|output| tape.read(output)).collect();
    let seeds: Vec<(&Tensor, &[f32])> =
        outputs.iter().zip(back).map(|(output, back)| (output, &back[..])).collect();
    assert_eq!(seeds.len(), outputs.len());
    tape.backward_from(&seeds, &mut store).unwrap();
    let gradients = ids.iter().map(|&id| store.read_grad(id)).collect();
    Outcome { outputs: values, gradients }
}

/// Asserts that each value is within `tolerance` of the expected one, relative to the largest.
fn assert_close(what: &str, found: &[f32], expect: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expect.len(), "{what}");
    let largest = expect.iter().fold(1e-3_f64, |most, value| most.max(value.abs()));
    for (index, (&found, &expect)) in found.iter().zip(expect).enumerate() {
        let error = (f64::from(found) - expect).abs() / largest;
        assert!(error <= tolerance, "{what}[{index}]: {found} instead of {expect} ({error:.1e})");
    }
}
