//! Matrix products of bf16 factors with sums in f32, in the blocking of [`crate::gemm`].
//!
//! A word is a pair of neighbours along `k`. Where the machine multiplies pairs (`vdpbf16ps`), a
//! step does twice the work of an f32 step; elsewhere pairs are widened and the speed is that of
//! f32. C is f32, or bf16 rounded once at the end of the sum.
//!
//! Mixed-precision training keeps f32 weights and sums: arXiv:1710.03740, arXiv:1905.12322.

use half::bf16;

use crate::cpu::Cpu;
use crate::element::{Element, as_bf16_mut, convert};
use crate::gemm::{K_BLOCK, Layout, Multiply, Product, run, with_terms};
use crate::pool::Shares;
use crate::scratch::with_scratch;
use crate::simd::Simd;
use crate::view::{Accumulate, Mat, MatMut, Size};

/// Runs a body with the [`Simd`] of an [`Isa`](crate::Isa) and its [`Multiply`] of bf16 pairs:
/// `dispatch_bf16!(isa, (simd, multiply) => body)`.
macro_rules! dispatch_bf16 {
    ($isa:expr, ($simd:ident, $multiply:ident) => $body:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the `Isa` of a `Cpu` was found on this machine when the `Cpu` was built.
            $crate::cpu::Isa::Avx512Bf16 => unsafe {
                $crate::simd::x86::with_avx512_bf16(
                    #[inline(always)]
                    |$simd, $multiply| $body,
                )
            },
            isa => {
                let $multiply = $crate::gemm_bf16::Widened;
                $crate::simd::dispatch!(isa, $simd => $body)
            }
        }
    };
}
pub(crate) use dispatch_bf16;

/// Longest `k` whose sum is finished before it is rounded to bf16 in place; longer sums go through
/// f32 in chunks of rows.
const ONE_BLOCK: usize = 2 * K_BLOCK;
/// Rows of such a chunk.
const CHUNK_ROWS: usize = 512;

/// `C[m, n] = A[m, k] · B[n, k]ᵀ`: the forward of a linear layer, `y = x·Wᵀ`.
///
/// # Panics
/// If C is bf16 and to be added to: a sum in bf16 would lose what is added.
pub fn matmul_nt<C: Element>(
    cpu: &Cpu,
    size: Size,
    a: Mat<'_, bf16>,
    b: Mat<'_, bf16>,
    c: MatMut<'_, C>,
    accumulate: Accumulate,
) {
    a.check("A", size.m, size.k);
    b.check("B", size.n, size.k);
    matmul(cpu, size, (Layout::Rows, a), (Layout::Columns, b), c, accumulate);
}

/// `C[m, n] = A[m, k] · B[k, n]`: the gradient of a linear layer's input, `dx = dy·W`.
///
/// # Panics
/// As [`matmul_nt`].
pub fn matmul_nn<C: Element>(
    cpu: &Cpu,
    size: Size,
    a: Mat<'_, bf16>,
    b: Mat<'_, bf16>,
    c: MatMut<'_, C>,
    accumulate: Accumulate,
) {
    a.check("A", size.m, size.k);
    b.check("B", size.k, size.n);
    matmul(cpu, size, (Layout::Rows, a), (Layout::Rows, b), c, accumulate);
}

/// `C[m, n] = A[k, m]ᵀ · B[k, n]`: the gradient of a linear layer's weight, `dW = dyᵀ·x`.
///
/// # Panics
/// As [`matmul_nt`].
pub fn matmul_tn<C: Element>(
    cpu: &Cpu,
    size: Size,
    a: Mat<'_, bf16>,
    b: Mat<'_, bf16>,
    c: MatMut<'_, C>,
    accumulate: Accumulate,
) {
    a.check("A", size.k, size.m);
    b.check("B", size.k, size.n);
    matmul(cpu, size, (Layout::Columns, a), (Layout::Rows, b), c, accumulate);
}

fn matmul<C: Element>(
    cpu: &Cpu,
    size: Size,
    (a_layout, a): (Layout, Mat<'_, bf16>),
    (b_layout, b): (Layout, Mat<'_, bf16>),
    c: MatMut<'_, C>,
    accumulate: Accumulate,
) {
    c.check("C", size.m, size.n);
    let in_f32 = size_of::<C>() == size_of::<f32>();
    assert!(in_f32 || accumulate == Accumulate::No, "sums are added to in f32");
    let Some(c) = with_terms(size, c, accumulate) else { return };
    let Size { m, n, k } = size;
    let mut even = Vec::new();
    let a = if a_layout == Layout::Rows && !k.is_multiple_of(2) {
        // A is read in place by pairs: the last needs a second element.
        even.resize(m * (k + 1), bf16::ZERO);
        for (row, even) in even.chunks_exact_mut(k + 1).enumerate() {
            even[..k].copy_from_slice(&a.data[row * a.stride..][..k]);
        }
        Mat::new(&even, k + 1)
    } else {
        a
    };
    if in_f32 || k <= ONE_BLOCK {
        return blocks(cpu, size, (a_layout, a), (b_layout, b), c, accumulate);
    }
    for first in (0..m).step_by(CHUNK_ROWS) {
        let rows = CHUNK_ROWS.min(m - first);
        let start = first * if a_layout == Layout::Rows { a.stride } else { 1 };
        let a = Mat::new(&a.data[start..], a.stride);
        with_scratch(rows * n, |sums| {
            let (size, out) = (Size { m: rows, n, k }, MatMut::new(&mut *sums, n));
            blocks(cpu, size, (a_layout, a), (b_layout, b), out, Accumulate::No);
            for (row, sums) in sums.chunks_exact(n).enumerate() {
                convert(cpu, sums, &mut c.data[(first + row) * c.stride..][..n]);
            }
        });
    }
}

fn blocks<C: Element>(
    cpu: &Cpu,
    size: Size,
    (a_layout, a): (Layout, Mat<'_, bf16>),
    (b_layout, b): (Layout, Mat<'_, bf16>),
    c: MatMut<'_, C>,
    accumulate: Accumulate,
) {
    let c_stride = c.stride;
    let c = &Shares::new(c.data);
    let product = Product { size, a, a_layout, b, b_layout, c, c_start: 0, c_stride, accumulate };
    let pool = Some(cpu.pool());
    dispatch_bf16!(cpu.isa(), (simd, multiply) => run(simd, multiply, pool, &product));
}

/// Pairs without an instruction of their own: both halves are widened and multiplied in f32.
#[derive(Clone, Copy)]
pub(crate) struct Widened;

impl<S: Simd> Multiply<S> for Widened {
    type Element = bf16;
    const PER_WORD: usize = 2;

    #[inline(always)]
    fn step(self, simd: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        let sum = simd.fma(simd.low(a), simd.low(b), sum);
        simd.fma(simd.high(a), simd.high(b), sum)
    }
    #[inline(always)]
    fn enter<R>(self, simd: S, body: impl FnOnce() -> R) -> R {
        simd.enter(body)
    }
    #[inline(always)]
    fn words(self, simd: S, low: &[bf16], high: &[bf16]) -> S::V {
        simd.pair(simd.read(low), simd.read(high))
    }
    #[inline(always)]
    fn elements(self, words: &mut [f32]) -> &mut [bf16] {
        as_bf16_mut(words)
    }
    #[inline(always)]
    fn word(self, low: bf16, high: bf16) -> f32 {
        word_of(low, high)
    }
}

/// A pair as the bits of a float.
#[inline(always)]
pub(crate) fn word_of(low: bf16, high: bf16) -> f32 {
    f32::from_bits(u32::from(low.to_bits()) | u32::from(high.to_bits()) << 16)
}
