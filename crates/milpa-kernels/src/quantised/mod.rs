//! Weights in fewer bits: the block formats of ggml, bit for bit as its files hold them.
//!
//! A row of a matrix is cut into blocks; a block holds small whole numbers and the scales that make
//! values of them. Products widen the numbers to f32 and multiply with f32 activations, so nothing
//! is lost but what rounding the weights lost. [`crate::reference::dequantize`] is the readable
//! definition of each format.

mod product;
mod q4_0;
mod q4_k;
mod q6_k;
mod q8_0;

use std::fmt;

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};
use crate::view::{Mat, MatMut, Size};

use q4_0::Q4_0;
use q4_k::Q4K;
use q6_k::Q6K;
use q8_0::Q8_0;

/// Values of a task that converts.
const TASK_VALUES: usize = 16 * 1024;

/// A way to store a row of values in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockFormat {
    /// 32 numbers of eight bits with one scale: 8.5 bits a value.
    Q8_0,
    /// 32 numbers of four bits with one scale: 4.5 bits a value.
    Q4_0,
    /// 256 numbers of four bits; each 32 have a scale and a minimum of six bits: 4.5 bits a value.
    Q4K,
    /// 256 numbers of six bits; each 16 have a scale of eight bits: 6.5625 bits a value.
    Q6K,
}

/// Binds the type that implements a format: `with_blocks!(format, B => body)`.
macro_rules! with_blocks {
    ($format:expr, $blocks:ident => $body:expr) => {
        match $format {
            BlockFormat::Q8_0 => {
                type $blocks = Q8_0;
                $body
            }
            BlockFormat::Q4_0 => {
                type $blocks = Q4_0;
                $body
            }
            BlockFormat::Q4K => {
                type $blocks = Q4K;
                $body
            }
            BlockFormat::Q6K => {
                type $blocks = Q6K;
                $body
            }
        }
    };
}

impl BlockFormat {
    /// Every format there is.
    pub const ALL: [Self; 4] = [Self::Q8_0, Self::Q4_0, Self::Q4K, Self::Q6K];

    /// The name that ggml gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4K => "Q4_K",
            Self::Q6K => "Q6_K",
        }
    }

    /// Values in a block.
    pub fn block_values(self) -> usize {
        with_blocks!(self, B => B::VALUES)
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        with_blocks!(self, B => B::BYTES)
    }

    /// Bytes of a row of `columns` values.
    ///
    /// # Panics
    /// If `columns` is not a multiple of [`Self::block_values`].
    pub fn row_bytes(self, columns: usize) -> usize {
        let block = self.block_values();
        assert!(
            columns.is_multiple_of(block),
            "a {self} row is a multiple of {block}, not {columns}"
        );
        columns / block * self.block_bytes()
    }

    /// Number of values in `bytes`; `None` if these are no whole blocks.
    pub fn values_in(self, bytes: usize) -> Option<usize> {
        let whole = bytes.is_multiple_of(self.block_bytes());
        whole.then(|| bytes / self.block_bytes() * self.block_values())
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Quantises values (whole blocks) into `bytes`.
///
/// Q8_0 and Q4_0 are rounded exactly as ggml's reference does. For Q4_K and Q6_K a format leaves
/// the choice of scales open: here they are searched for the least weighted square error, as ggml
/// does, but not bit for bit.
pub fn quantize(cpu: &Cpu, format: BlockFormat, x: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), format.row_bytes(x.len()), "bytes for {} values", x.len());
    with_blocks!(format, B => {
        let bytes = Shares::new(bytes);
        cpu.pool().for_ranges(x.len() / B::VALUES, TASK_VALUES / B::VALUES, |blocks| {
            // SAFETY: each task has its own blocks.
            let bytes = unsafe { bytes.part(blocks.start * B::BYTES..blocks.end * B::BYTES) };
            let x = &x[blocks.start * B::VALUES..blocks.end * B::VALUES];
            // The body is plain Rust; dispatching compiles its rounding to single instructions.
            dispatch!(cpu.isa(), simd => quantize_blocks::<_, B>(simd, x, bytes));
        });
    });
}

/// Writes the values of `bytes` to `out`, bit for bit as ggml does.
pub fn dequantize(cpu: &Cpu, format: BlockFormat, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), format.row_bytes(out.len()), "bytes for {} values", out.len());
    with_blocks!(format, B => {
        let blocks = out.len() / B::VALUES;
        let out = Shares::new(out);
        cpu.pool().for_ranges(blocks, TASK_VALUES / B::VALUES, |blocks| {
            // SAFETY: each task has its own blocks.
            let out = unsafe { out.part(blocks.start * B::VALUES..blocks.end * B::VALUES) };
            let bytes = &bytes[blocks.start * B::BYTES..blocks.end * B::BYTES];
            dispatch!(cpu.isa(), simd => product::widen::<_, B>(simd, bytes, out));
        });
    });
}

/// Dot product of a quantised row with f32 values.
pub fn dot(cpu: &Cpu, format: BlockFormat, bytes: &[u8], x: &[f32]) -> f32 {
    assert_eq!(bytes.len(), format.row_bytes(x.len()), "bytes for {} values", x.len());
    with_blocks!(format, B => product::dot::<B>(cpu, bytes, x))
}

/// `C[m, n] = A[m, k] · Wᵀ` with a quantised `W[n, k]` (`n` rows of `row_bytes(k)` bytes).
///
/// With at most eight rows of A, W is streamed once; otherwise it is widened a few rows at a time.
pub fn matmul_nt(cpu: &Cpu, format: BlockFormat, size: Size, a: Mat<'_>, w: &[u8], c: MatMut<'_>) {
    let Size { m, n, k } = size;
    assert_eq!(w.len(), n * format.row_bytes(k), "W: {n} rows of {k} values");
    a.check("A", m, k);
    c.check("C", m, n);
    if m == 0 || k == 0 {
        (0..m).for_each(|i| c.data[i * c.stride..i * c.stride + n].fill(0.0));
        return;
    }
    with_blocks!(format, B => product::matmul_nt::<B>(cpu, size, a, w, c));
}

/// A format: a block is made of groups, and a value is `number · scale − minimum` of its group.
trait Blocks {
    /// Values in a block.
    const VALUES: usize;
    /// Bytes of a block.
    const BYTES: usize;
    /// Values of a group: 16 or 32, so that registers of any width divide it.
    const GROUP: usize;
    /// Whether groups have minima.
    const HAS_MINIMUM: bool = false;

    /// Rounds `VALUES` values into `BYTES` bytes. Any float is accepted; what is not finite gives
    /// a block whose values mean nothing.
    fn quantize(x: &[f32], block: &mut [u8]);

    /// The scale of a group in all lanes.
    ///
    /// # Safety
    /// `BYTES` bytes are readable at `block`, and `group < VALUES / GROUP` (also below).
    unsafe fn scale<S: Simd>(simd: S, block: *const u8, group: usize) -> S::V;

    /// What is subtracted from the values of a group, in all lanes.
    ///
    /// # Safety
    /// As [`Blocks::scale`].
    #[inline(always)]
    unsafe fn minimum<S: Simd>(simd: S, _block: *const u8, _group: usize) -> S::V {
        simd.zero()
    }

    /// The whole numbers `at..at + LANES` of a group.
    ///
    /// # Safety
    /// As [`Blocks::scale`], and `at` is a multiple of the lanes below `GROUP`.
    unsafe fn numbers<S: Simd>(simd: S, block: *const u8, group: usize, at: usize) -> S::V;
}

#[inline(always)]
fn quantize_blocks<S: Simd, B: Blocks>(_simd: S, x: &[f32], bytes: &mut [u8]) {
    let blocks = bytes.chunks_exact_mut(B::BYTES);
    x.chunks_exact(B::VALUES).zip(blocks).for_each(|(x, block)| B::quantize(x, block));
}

/// The f16 at `from`, in all lanes.
///
/// # Safety
/// Two bytes are readable at `from`.
#[inline(always)]
unsafe fn splat_half<S: Simd>(simd: S, from: *const u8) -> S::V {
    // SAFETY: the contract of this function.
    simd.splat_f16(u16::from_le_bytes(unsafe { from.cast::<[u8; 2]>().read() }))
}

/// The value that is largest in size, with its sign; the first of equals.
#[inline(always)]
fn largest_in_size(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |most: f32, &value| if value.abs() > most.abs() { value } else { most })
}

/// `1 / x`, and 0 for 0.
#[inline(always)]
fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}
