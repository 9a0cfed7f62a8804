//! A GPU as a device, where there is a driver; `cargo xtask kernels --on-host` runs this behind a stand-in for it.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use milpa_kernels::cuda::CudaError;
use milpa_tensor::{AttentionOptions, DType, Device, ParameterStore, Tape, TensorError};

use crate::{assert_close, normal};

fn gpu() -> Option<Device> {
    match Device::cuda(0) {
        Ok(device) => Some(device),
        Err(TensorError::Cuda(
            error @ (CudaError::NoDriver { .. } | CudaError::NoDevice { .. }),
        )) => {
            eprintln!("the CUDA device was not used: {error}");
            None
        }
        Err(error) => panic!("a GPU that cannot be used: {error}"),
    }
}

/// A norm, then a norm with a residual; outputs and all gradients.
fn norms(device: &Device, rows: usize, dim: usize) -> Vec<Vec<f32>> {
    let mut store = ParameterStore::new(device.clone());
    let ids = [(1, vec![rows, dim]), (2, vec![rows, dim]), (3, vec![dim]), (4, vec![dim])].map(
        |(seed, shape)| {
            let values = normal(seed, shape.iter().product());
            store.add(&seed.to_string(), &shape, &values, true).unwrap()
        },
    );
    let tape = Tape::recording(device.clone());
    // Twice, so that memory is handed out again.
    let mut found = Vec::new();
    for _ in 0..2 {
        store.clear_grads();
        let [x, delta, first, second] = ids.map(|id| store.leaf(id));
        let normed = tape.rms_norm(&x, &first, 1e-5).unwrap();
        let (sum, y) = tape.add_rms_norm(normed, &delta, &second, 1e-5).unwrap();
        found = vec![tape.read(&sum), tape.read(&y)];
        let back = [normal(8, rows * dim), normal(9, rows * dim)];
        tape.backward_from(&[(&sum, &back[0]), (&y, &back[1])], &mut store).unwrap();
    }
    found.extend(ids.map(|id| store.read_grad(id).unwrap()));
    found
}

#[test]
fn norms_on_a_gpu_are_those_of_the_cpu() {
    let Some(device) = gpu() else { return };
    for (rows, dim) in [(1, 7), (5, 48), (130, 129), (3, 4096)] {
        let (found, expect) = (norms(&device, rows, dim), norms(&Device::cpu(2), rows, dim));
        for (index, (found, expect)) in found.iter().zip(&expect).enumerate() {
            let expect: Vec<f64> = expect.iter().map(|&value| f64::from(value)).collect();
            assert_close(&format!("{index} of {rows} × {dim}"), found, &expect, 1e-5);
        }
        assert_eq!(norms(&device, rows, dim), found, "the same bits twice");
    }
    let stats = device.memory();
    assert_eq!(stats.live_bytes, 0);
    assert!(stats.idle_bytes > 0);
    norms(&device, 3, 4096);
    assert_eq!(device.memory().allocations, stats.allocations, "a steady step allocates nothing");
}

#[test]
fn what_a_gpu_cannot_do_yet_is_an_error_and_not_a_panic() {
    let Some(device) = gpu() else { return };
    let tape = Tape::inference(device.clone());
    let x = tape.constant(&normal(1, 2 * 3 * 2 * 4), &[2, 3, 2, 4]).unwrap();
    let row = tape.constant(&normal(2, 4), &[4]).unwrap();
    let attention = AttentionOptions::causal(0.5);
    for outcome in [
        tape.add(&x, &x),
        tape.linear(&x, &row.clone().reshape(&[1, 4]).unwrap()),
        tape.attention(&x, &x, &x, &attention),
        tape.swiglu(&x, &x),
        tape.scale(x.clone(), 2.0),
        tape.select_rows(&x, &[1]),
        tape.linear_log_probabilities(&row, &row.clone().reshape(&[1, 4]).unwrap(), &[0]),
        tape.route(&row, 1, true).map(|(_, weights)| weights),
    ] {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("not on CUDA yet"), "{error}");
        // What is there works as before.
        assert!(tape.read(&tape.rms_norm(&x, &row, 1e-5).unwrap()).iter().all(|y| y.is_finite()));
    }
    let rounded = Tape::inference(device.clone()).autocast(DType::BF16);
    let error = rounded.rms_norm(&x, &row, 1e-5).unwrap_err().to_string();
    assert!(error.contains("not on CUDA yet"), "{error}");

    let host = Tape::inference(Device::cpu(1)).constant(&[1.0; 4], &[4]).unwrap();
    let error = tape.rms_norm(&x, &host, 1e-5).unwrap_err().to_string();
    assert!(error.contains("does not lie on cuda:0"), "{error}");
    let error = Tape::inference(Device::cpu(1)).rms_norm(&host, &row, 1e-5).unwrap_err();
    assert!(error.to_string().contains("does not lie on cpu"), "{error}");
}
