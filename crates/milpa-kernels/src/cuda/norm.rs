//! RMSNorm on a GPU, forward and backward; the pattern of every CUDA operation of this crate.
//!
//! Root Mean Square Layer Normalization, arXiv:1910.07467. Kernels: `cuda/rms_norm.cu`, whose sizes
//! and parameters this file knows; namesakes for CPUs and their meaning: [`crate::norm`]. Rows are
//! `f32` or `bf16`; weights, `1/rms` and the weight's gradient are `f32`.

use super::driver::Function;
use super::gpu::{Cubins, Functions};
use super::{Buffer, CudaError, Element, Gpu};
use crate::view::Accumulate;

/// Compiled from `cuda/rms_norm.cu`.
pub(super) const CUBINS: Cubins = [
    include_bytes!("../../cuda/rms_norm.sm_80.cubin"),
    include_bytes!("../../cuda/rms_norm.sm_90.cubin"),
];

/// Bytes that a thread reads at once, where rows and addresses are multiples of it.
const VECTOR_BYTES: usize = 16;
/// Vectors of a row that a thread keeps in registers (`HELD` in the source).
const HELD: usize = 2;
/// Threads of a warp; threads of a row are a multiple.
const WARP: usize = 32;
/// Most threads of a row (`WARP * MAX_WARPS` in the source).
const MAX_THREADS: usize = 512;
/// Threads of a block of several short rows.
const BLOCK_THREADS: usize = 256;
/// Most blocks of a backward. Not the number of multiprocessors, so that the order of the sums, and
/// with it every bit, is the same on every GPU.
const MAX_PARTS: usize = 512;
/// Columns of a block of the second stage (`TILE` in the source).
const TILE: usize = 32;

/// The kernels of `cuda/rms_norm.cu`.
pub(super) struct Kernels {
    f32: ByElement,
    bf16: ByElement,
    sum_parts: Function,
}

struct ByElement {
    forward: Function,
    add_forward: Function,
    backward: Function,
}

impl Kernels {
    pub(super) fn find(functions: &Functions<'_>) -> Result<Self, CudaError> {
        Ok(Self {
            f32: ByElement {
                forward: functions.find(c"rms_norm_forward_f32")?,
                add_forward: functions.find(c"add_rms_norm_forward_f32")?,
                backward: functions.find(c"rms_norm_backward_f32")?,
            },
            bf16: ByElement {
                forward: functions.find(c"rms_norm_forward_bf16")?,
                add_forward: functions.find(c"add_rms_norm_forward_bf16")?,
                backward: functions.find(c"rms_norm_backward_bf16")?,
            },
            sum_parts: functions.find(c"rms_norm_sum_parts")?,
        })
    }

    fn of<T: Element>(&self) -> &ByElement {
        T::choose(&self.f32, &self.bf16)
    }
}

/// Queues `y = x / rms(x) · weight` for each row of `dim`; saves `1/rms` in `inverse_rms[rows]`.
///
/// `x` and `y` are `[rows, dim]`, `weight` is `[dim]`. Panics on other lengths, as on the CPU.
pub fn rms_norm_forward<T: Element>(
    gpu: &Gpu,
    dim: usize,
    eps: f32,
    x: &Buffer<T>,
    weight: &Buffer<f32>,
    y: &mut Buffer<T>,
    inverse_rms: &mut Buffer<f32>,
) -> Result<(), CudaError> {
    let rows = check(dim, weight, inverse_rms, &[x.len(), y.len()]);
    let Some(launch) = Launch::new::<T>(rows, dim)? else { return Ok(()) };
    let kernel = gpu.norm().of::<T>().forward;
    let arguments = [
        launch.rows.into(),
        launch.dim.into(),
        eps.into(),
        gpu.own(x),
        gpu.own(weight),
        gpu.own_mut(y),
        gpu.own_mut(inverse_rms),
    ];
    // SAFETY: these are the kernel's parameters; their lengths have been checked, and each thread
    // stays within the `rows · dim` values of the rows that the grid covers.
    unsafe { gpu.launch(kernel, launch.blocks, launch.threads, &arguments) }
}

/// Queues `residual += delta`, then `y = norm(residual)`, in one pass.
///
/// Arguments as in [`rms_norm_forward`]; `residual` and `delta` are `[rows, dim]`. The norm is that of
/// the sum as it is stored, so in `bf16` of the rounded one: what the backward will read.
pub fn add_rms_norm_forward<T: Element>(
    gpu: &Gpu,
    dim: usize,
    eps: f32,
    residual: &mut Buffer<T>,
    delta: &Buffer<T>,
    weight: &Buffer<f32>,
    y: &mut Buffer<T>,
    inverse_rms: &mut Buffer<f32>,
) -> Result<(), CudaError> {
    let rows = check(dim, weight, inverse_rms, &[residual.len(), delta.len(), y.len()]);
    let Some(launch) = Launch::new::<T>(rows, dim)? else { return Ok(()) };
    let kernel = gpu.norm().of::<T>().add_forward;
    let arguments = [
        launch.rows.into(),
        launch.dim.into(),
        eps.into(),
        gpu.own_mut(residual),
        gpu.own(delta),
        gpu.own(weight),
        gpu.own_mut(y),
        gpu.own_mut(inverse_rms),
    ];
    // SAFETY: as in `rms_norm_forward`.
    unsafe { gpu.launch(kernel, launch.blocks, launch.threads, &arguments) }
}

/// Values that `partial` of [`rms_norm_backward`] needs for `rows` rows of `dim` values of `T`.
pub fn backward_partial_len<T: Element>(rows: usize, dim: usize) -> usize {
    let (threads, rows_per_block) = block(dim, size_of::<T>());
    debug_assert!(threads <= MAX_THREADS);
    backward_blocks(rows, rows_per_block) * rows_per_block * dim
}

/// Queues the backward of [`rms_norm_forward`]: writes or adds `dx[rows, dim]`, adds to
/// `dweight[dim]`.
///
/// With `Accumulate::Yes` and the sum's gradient in `dx`, it is the backward of
/// [`add_rms_norm_forward`] too: residual and delta both get `dx`. `partial` is working memory of at
/// least [`backward_partial_len`] values; the weight's gradient is summed there in parts of the rows,
/// and then in order, without atomics.
pub fn rms_norm_backward<T: Element>(
    gpu: &Gpu,
    dim: usize,
    x: &Buffer<T>,
    weight: &Buffer<f32>,
    inverse_rms: &Buffer<f32>,
    dy: &Buffer<T>,
    dx: &mut Buffer<T>,
    accumulate_dx: Accumulate,
    dweight: &mut Buffer<f32>,
    partial: &mut Buffer<f32>,
) -> Result<(), CudaError> {
    let rows = check(dim, weight, inverse_rms, &[x.len(), dy.len(), dx.len()]);
    assert_eq!(dweight.len(), dim, "dweight: [dim]");
    assert!(partial.len() >= backward_partial_len::<T>(rows, dim), "partial: room for all parts");
    let Some(launch) = Launch::new::<T>(rows, dim)? else { return Ok(()) };
    let rows_per_block = launch.threads.1;
    let blocks = backward_blocks(rows, rows_per_block as usize) as u32;
    let kernel = gpu.norm().of::<T>().backward;
    let arguments = [
        launch.rows.into(),
        launch.dim.into(),
        gpu.own(x),
        gpu.own(weight),
        gpu.own(inverse_rms),
        gpu.own(dy),
        gpu.own_mut(dx),
        i32::from(accumulate_dx == Accumulate::Yes).into(),
        gpu.own_mut(partial),
    ];
    // SAFETY: as in `rms_norm_forward`; `partial` has a row of `dim` values for each part.
    unsafe { gpu.launch(kernel, blocks, launch.threads, &arguments) }?;

    let parts = (blocks * rows_per_block) as i32;
    let arguments = [parts.into(), launch.dim.into(), gpu.own(partial), gpu.own_mut(dweight)];
    let (blocks, threads) = (dim.div_ceil(TILE) as u32, (TILE as u32, TILE as u32));
    // SAFETY: `partial` has `parts · dim` values and `dweight` has `dim`.
    unsafe { gpu.launch(gpu.norm().sum_parts, blocks, threads, &arguments) }
}

/// Sizes of a launch over all rows.
struct Launch {
    rows: i64,
    dim: i32,
    blocks: u32,
    /// Threads of a row, and rows of a block.
    threads: (u32, u32),
}

impl Launch {
    /// Sizes for `rows` rows; `None` if there is nothing to do.
    fn new<T: Element>(rows: usize, dim: usize) -> Result<Option<Self>, CudaError> {
        let too_large = |what, value| CudaError::LaunchSize { what, value };
        let (threads, rows_per_block) = block(dim, size_of::<T>());
        let blocks = i32::try_from(rows.div_ceil(rows_per_block));
        let blocks = blocks.map_err(|_| too_large("the number of rows", rows))?.cast_unsigned();
        let threads = (threads as u32, rows_per_block as u32);
        let dim = i32::try_from(dim).map_err(|_| too_large("the length of a row", dim))?;
        Ok((rows > 0).then_some(Self { rows: rows as i64, dim, blocks, threads }))
    }
}

/// Threads of a row (a power of two, at least a warp) and rows of a block.
fn block(dim: usize, bytes: usize) -> (usize, usize) {
    let per_vector = VECTOR_BYTES / bytes;
    let vectors = if dim.is_multiple_of(per_vector) { dim / per_vector } else { dim };
    let threads = vectors.div_ceil(HELD).next_power_of_two().clamp(WARP, MAX_THREADS);
    (threads, (BLOCK_THREADS / threads).max(1))
}

/// Blocks of a backward; each has as many parts as a block has rows.
fn backward_blocks(rows: usize, rows_per_block: usize) -> usize {
    rows.div_ceil(rows_per_block).min(MAX_PARTS)
}

#[track_caller]
fn check(dim: usize, weight: &Buffer<f32>, inverse_rms: &Buffer<f32>, lengths: &[usize]) -> usize {
    assert!(dim > 0, "dim is positive");
    assert_eq!(weight.len(), dim, "weight: [dim]");
    let rows = inverse_rms.len();
    for &length in lengths {
        assert_eq!(length, rows * dim, "elements of {rows} rows of {dim}");
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_rows() {
        for (dim, bytes, expected) in [
            (1, 4, (32, 8)),
            (128, 2, (32, 8)),
            (1024, 4, (128, 2)),
            (4096, 2, (256, 1)),
            (4097, 2, (512, 1)),
            (100_000, 4, (512, 1)),
        ] {
            assert_eq!(block(dim, bytes), expected, "rows of {dim} × {bytes} bytes");
        }
    }

    #[test]
    fn parts_do_not_outnumber_rows_by_more_than_a_block() {
        assert_eq!(backward_partial_len::<f32>(0, 100), 0);
        assert_eq!(backward_partial_len::<f32>(3, 4), 8 * 4);
        assert_eq!(backward_partial_len::<f32>(1_000_000, 4096), MAX_PARTS * 4096);
    }
}
