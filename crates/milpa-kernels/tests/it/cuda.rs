//! CUDA kernels against their scalar twins, where there is a GPU; the example `gpu` runs the same checks.

use half::bf16;
use milpa_kernels::{
    Accumulate,
    cuda::{CudaError, Element, Gpu, norm},
    reference,
};

use crate::common::Random;

#[test]
fn kernels_on_a_gpu() {
    match Gpu::open(0) {
        Ok(gpu) => {
            let compared = check_all(&gpu).expect("no fault on the GPU");
            assert!(compared > 1_000_000, "{compared} values compared");
        }
        Err(error) => {
            let none = matches!(error, CudaError::NoDriver { .. } | CudaError::NoDevice { .. });
            assert!(none, "a GPU that cannot be used: {error}");
            eprintln!("the CUDA kernels were not run: {error}");
        }
    }
}

/// Runs every CUDA kernel on a GPU; panics where one differs from its twin. Returns comparisons made.
pub(crate) fn check_all(gpu: &Gpu) -> Result<usize, CudaError> {
    let mut compared = 0;
    // Rows shorter than a warp, whole and broken vectors, several rows of a block, rows longer than
    // what a block keeps in registers, more rows than parts.
    for (rows, dim) in [
        (0, 4),
        (1, 1),
        (3, 7),
        (5, 48),
        (700, 48),
        (4200, 8),
        (130, 129),
        (300, 384),
        (70, 1024),
        (600, 520),
        (5, 2050),
        (3, 4096),
        (2, 4104),
        (3, 8200),
        (2, 9001),
    ] {
        compared += check_rms_norm::<f32>(gpu, rows, dim)?;
        compared += check_rms_norm::<bf16>(gpu, rows, dim)?;
    }
    Ok(compared)
}

/// Elements as the twins in double precision see them.
trait Value: Element {
    /// Most that storing a result adds to its relative error: twice half a unit in the last place.
    const ROUNDING: f64;
    fn narrow(value: f32) -> Self;
    fn widen(self) -> f64;
}

impl Value for f32 {
    const ROUNDING: f64 = 0.0; // within the relative tolerance of the sums
    fn narrow(value: f32) -> Self {
        value
    }
    fn widen(self) -> f64 {
        f64::from(self)
    }
}

impl Value for bf16 {
    const ROUNDING: f64 = 1.0 / 256.0;
    fn narrow(value: f32) -> Self {
        Self::from_f32(value)
    }
    fn widen(self) -> f64 {
        self.to_f64()
    }
}

fn doubles<T: Value>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.widen()).collect()
}

/// What a forward leaves: `x` or the residual, `y`, and `1/rms`.
type Forward<T> = (Vec<T>, Vec<T>, Vec<f32>);

fn check_rms_norm<T: Value>(gpu: &Gpu, rows: usize, dim: usize) -> Result<usize, CudaError> {
    let mut random = Random((rows * 31 + dim) as u64);
    let length = rows * dim;
    let narrow = |values: Vec<f32>| values.into_iter().map(T::narrow).collect::<Vec<T>>();
    let (x, delta) = (narrow(random.wild(length)), narrow(random.reals(length)));
    let (dy, dx) = (narrow(random.reals(length)), narrow(random.reals(length)));
    let (weight, dweight) = (random.reals(dim), random.reals(dim));
    let eps = 1e-5;
    let what = format!("{} {rows}×{dim}", std::any::type_name::<T>());
    let w64 = doubles(&weight);
    let mut compared = 0;

    let sum: Vec<T> =
        x.iter().zip(&delta).map(|(x, d)| T::narrow((x.widen() + d.widen()) as f32)).collect();
    for (add, input) in [(false, &x), (true, &sum)] {
        let (mut y64, mut inverse64) = (vec![0.0; length], vec![0.0; rows]);
        let input64 = doubles(input);
        let eps64 = f64::from(eps);
        reference::rms_norm_forward(dim, eps64, &input64, &w64, &mut y64, &mut inverse64);
        let run = || -> Result<Forward<T>, CudaError> {
            let (mut x, weight) = (gpu.upload(&x)?, gpu.upload(&weight)?);
            let (mut y, mut inverse) = (gpu.allocate(length)?, gpu.allocate(rows)?);
            if add {
                let delta = gpu.upload(&delta)?;
                norm::add_rms_norm_forward(
                    gpu,
                    dim,
                    eps,
                    &mut x,
                    &delta,
                    &weight,
                    &mut y,
                    &mut inverse,
                )?;
            } else {
                norm::rms_norm_forward(gpu, dim, eps, &x, &weight, &mut y, &mut inverse)?;
            }
            Ok((gpu.download(&x)?, gpu.download(&y)?, gpu.download(&inverse)?))
        };
        let first = run()?;
        let again = run()?;
        let (stored, y, inverse) = &first;
        let what = format!("{what}, residual {add}");
        compare(&format!("{what}: x"), stored, &input64, (0.0, 0.0));
        compare(&format!("{what}: y"), y, &y64, (2e-5, 2e-6 + T::ROUNDING));
        compare(&format!("{what}: 1/rms"), inverse, &inverse64, (2e-5, 2e-6));
        same_bits(&what, y, &again.1);
        same_bits(&what, inverse, &again.2);
        compared += 2 * length + rows;
    }

    let (mut y64, mut inverse64) = (vec![0.0; length], vec![0.0; rows]);
    let x64 = doubles(&x);
    reference::rms_norm_forward(dim, f64::from(eps), &x64, &w64, &mut y64, &mut inverse64);
    let inverse: Vec<f32> = inverse64.iter().map(|&value| value as f32).collect();
    for accumulate in [Accumulate::No, Accumulate::Yes] {
        let (mut dx64, mut dweight64) = (doubles(&dx), doubles(&dweight));
        let dy64 = doubles(&dy);
        reference::rms_norm_backward(
            dim,
            &x64,
            &w64,
            &inverse64,
            &dy64,
            &mut dx64,
            accumulate,
            &mut dweight64,
        );
        let run = || -> Result<(Vec<T>, Vec<f32>), CudaError> {
            let (x, weight, inverse) =
                (gpu.upload(&x)?, gpu.upload(&weight)?, gpu.upload(&inverse)?);
            let (dy, mut dx) = (gpu.upload(&dy)?, gpu.upload(&dx)?);
            let mut dweight = gpu.upload(&dweight)?;
            let mut partial = gpu.allocate(norm::backward_partial_len::<T>(rows, dim))?;
            norm::rms_norm_backward(
                gpu,
                dim,
                &x,
                &weight,
                &inverse,
                &dy,
                &mut dx,
                accumulate,
                &mut dweight,
                &mut partial,
            )?;
            Ok((gpu.download(&dx)?, gpu.download(&dweight)?))
        };
        let (dx, dweight) = run()?;
        let again = run()?;
        // As on the CPU: rows of one element have 1/rms up to 316, and their gradient cancels.
        let absolute = if dim == 1 { 1e-3 } else { 1e-4 };
        compare(&format!("{what}: dx"), &dx, &dx64, (absolute, 1e-5 + T::ROUNDING));
        compare(&format!("{what}: dweight"), &dweight, &dweight64, (absolute, 1e-5));
        same_bits(&what, &dx, &again.0);
        same_bits(&what, &dweight, &again.1);
        compared += length + dim;
    }
    Ok(compared)
}

#[track_caller]
fn compare<T: Value>(what: &str, got: &[T], expected: &[f64], (absolute, relative): (f64, f64)) {
    assert_eq!(got.len(), expected.len(), "{what}: length");
    for (at, (got, &expected)) in got.iter().zip(expected).enumerate() {
        let (got, allowed) = (got.widen(), absolute + relative * expected.abs());
        let error = (got - expected).abs();
        // Written so that not-a-number fails.
        assert!(
            error <= allowed,
            "{what}[{at}] is {got:e}, not {expected:e} (allowed {allowed:e})"
        );
    }
}

#[track_caller]
fn same_bits<T: Value>(what: &str, a: &[T], b: &[T]) {
    let same = a.iter().zip(b).all(|(a, b)| a.widen().to_bits() == b.widen().to_bits());
    assert!(same, "{what}: two runs differ");
}
