//! Checks the CUDA kernels on a GPU and measures them: `gpu [--check-only] [--driver LIBRARY]`.
//!
//! One file to carry to a machine that has a GPU and no Rust: `docs/design/cuda.md` has the command.
//! Bandwidth counts the bytes that an operation must read and write once; its measure is what the
//! device's own copy reaches on this GPU in the same run.

#![allow(unsafe_code, reason = "the caller names the driver's library")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the terminal")]

#[path = "../tests/it/common.rs"]
#[allow(dead_code, reason = "shared with the tests, of which this uses a part")]
mod common;
#[path = "../tests/it/cuda.rs"]
mod cuda;

use std::process::ExitCode;

use half::bf16;
use milpa_kernels::{
    Accumulate,
    cuda::{CudaError, Element, Gpu, norm},
};

/// Runs of one measurement; the median counts.
const RUNS: usize = 25;
/// Bytes of the buffers of the copy that everything is held against: many times any cache.
const COPY_BYTES: usize = 1 << 30;

fn main() -> ExitCode {
    let (mut check_only, mut driver) = (false, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), &mut driver) {
            ("--check-only", _) => check_only = true,
            ("--driver", driver) => *driver = arguments.next(),
            _ => {
                eprintln!("usage: gpu [--check-only] [--driver LIBRARY]");
                return ExitCode::from(2);
            }
        }
    }
    match run(check_only, driver.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(check_only: bool, driver: Option<&str>) -> Result<(), CudaError> {
    let gpu = match driver {
        None => Gpu::open(0)?,
        // SAFETY: whoever names a driver vouches for it.
        Some(path) => unsafe { Gpu::open_with_driver(path.as_ref(), 0) }?,
    };
    let info = gpu.info();
    let ((major, minor), (cuda_major, cuda_minor)) = (info.compute_capability, info.driver_version);
    println!(
        "{}: compute capability {major}.{minor}, {} multiprocessors, {:.1} GiB, driver for CUDA \
         {cuda_major}.{cuda_minor}",
        info.name,
        info.multiprocessors,
        info.memory_bytes as f64 / f64::from(1 << 30),
    );
    let compared = cuda::check_all(&gpu)?;
    println!("rms_norm: {compared} values equal their twins', twice the same bits");
    if !check_only {
        measure(&gpu)?;
    }
    Ok(())
}

fn measure(gpu: &Gpu) -> Result<(), CudaError> {
    let x = gpu.allocate::<f32>(COPY_BYTES / size_of::<f32>())?;
    let mut out = gpu.allocate(x.len())?;
    let copy = 2.0 * COPY_BYTES as f64 / seconds(gpu, || gpu.copy(&x, &mut out))?;
    drop((x, out));
    println!("\n{:<36} {:>9} {:>9} {:>6}", "operation", "µs", "GB/s", "share");
    println!("{:<36} {:>9} {:>9.0} {:>5.0}%", "copy of 1 GiB", "", copy * 1e-9, 100.0);
    for (rows, dim) in [(65536, 128), (32768, 768), (16384, 2048), (16384, 4096), (8192, 8192)] {
        measure_rms_norm::<f32>(gpu, "f32", rows, dim, copy)?;
        measure_rms_norm::<bf16>(gpu, "bf16", rows, dim, copy)?;
    }
    Ok(())
}

fn measure_rms_norm<T: Element>(
    gpu: &Gpu,
    name: &str,
    rows: usize,
    dim: usize,
    copy: f64,
) -> Result<(), CudaError> {
    let length = rows * dim;
    let zeros = vec![T::default(); length];
    let (mut residual, delta) = (gpu.upload(&zeros)?, gpu.upload(&zeros)?);
    let mut y = gpu.upload(&zeros)?;
    let weight = gpu.upload(&vec![1.0_f32; dim])?;
    let mut inverse = gpu.upload(&vec![0.0_f32; rows])?;
    let forward = seconds(gpu, || {
        norm::add_rms_norm_forward(
            gpu,
            dim,
            1e-5,
            &mut residual,
            &delta,
            &weight,
            &mut y,
            &mut inverse,
        )
    })?;
    let mut dweight = gpu.upload(&vec![0.0_f32; dim])?;
    let mut partial = gpu.allocate(norm::backward_partial_len::<T>(rows, dim))?;
    let mut dx = residual;
    let backward = seconds(gpu, || {
        norm::rms_norm_backward(
            gpu,
            dim,
            &delta,
            &weight,
            &inverse,
            &y,
            &mut dx,
            Accumulate::Yes,
            &mut dweight,
            &mut partial,
        )
    })?;
    // Forward reads residual and delta, writes residual and y; backward reads x, dy and dx, writes dx.
    let bytes = (4 * length * size_of::<T>() + rows * size_of::<f32>()) as f64;
    for (direction, seconds) in [("add_rms_norm forward", forward), ("backward", backward)] {
        let rate = bytes / seconds;
        println!(
            "{:<36} {:>9.1} {:>9.0} {:>5.0}%",
            format!("{direction} {name} {rows}×{dim}"),
            seconds * 1e6,
            rate * 1e-9,
            100.0 * rate / copy
        );
    }
    Ok(())
}

/// The median time of some work on the GPU, after a first run that does not count.
fn seconds(gpu: &Gpu, mut work: impl FnMut() -> Result<(), CudaError>) -> Result<f64, CudaError> {
    work()?;
    let mut marks = vec![gpu.record()?];
    for _ in 0..RUNS {
        work()?;
        marks.push(gpu.record()?);
    }
    let times: Result<Vec<f64>, CudaError> =
        marks.windows(2).map(|pair| pair[0].seconds_until(&pair[1])).collect();
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    Ok(times[RUNS / 2])
}
