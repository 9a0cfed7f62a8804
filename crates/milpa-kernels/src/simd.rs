//! Vector registers behind one trait, so that a kernel is written once for every instruction set.
//!
//! A value of a [`Simd`] type is the proof that its instructions exist on this machine; [`dispatch!`]
//! makes it from a [`Cpu`](crate::Cpu)'s [`Isa`](crate::Isa) and compiles the body once per set.
//! Kernels are `#[inline(always)]` generic functions: intrinsics only become instructions when they
//! are inlined into a function that enables them.

use half::bf16;

use crate::element::Element;

/// Lanes of 32-bit floats and what can be done with them.
///
/// The lane-wise operations are safe: holding `self` proves that the instructions exist. Only memory
/// accesses by pointer are unsafe.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector register.
    type V: Copy;
    /// Which lanes take part in a partial load or store.
    type M: Copy;
    /// Lanes of a register.
    const LANES: usize;
    /// Rows and vectors of the matrix-product tile that fits the register file.
    const TILE: (usize, usize);

    /// Runs a body in a function that enables the instructions: what a thread of the pool does first.
    fn enter<R>(self, body: impl FnOnce() -> R) -> R;
    fn splat(self, x: f32) -> Self::V;
    /// The first `count` lanes.
    fn mask(self, count: usize) -> Self::M;
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a·b + c`, fused where the hardware fuses.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a > b ? a : b`: the second operand where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a < b ? a : b`: the second operand where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    fn sqrt(self, a: Self::V) -> Self::V;
    /// The nearest integers of values below 2²² in size.
    fn round(self, a: Self::V) -> Self::V;
    /// `a · 2ⁿ` for whole `n` between −160 and 128.
    fn scale_by_power(self, a: Self::V, n: Self::V) -> Self::V;
    /// The sum of the lanes, in a fixed order.
    fn sum(self, a: Self::V) -> f32;
    /// The largest lane.
    fn largest(self, a: Self::V) -> f32;

    /// # Safety
    /// `LANES` floats are readable at `from`.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// # Safety
    /// `LANES` floats are writable at `to`.
    unsafe fn store(self, to: *mut f32, a: Self::V);
    /// Loads the lanes of the mask, zero elsewhere.
    ///
    /// # Safety
    /// The floats of the mask are readable at `from`.
    unsafe fn load_masked(self, mask: Self::M, from: *const f32) -> Self::V;
    /// Stores the lanes of the mask.
    ///
    /// # Safety
    /// The floats of the mask are writable at `to`.
    unsafe fn store_masked(self, mask: Self::M, to: *mut f32, a: Self::V);
    /// Widens `LANES` signed bytes.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `from`.
    unsafe fn load_bytes(self, from: *const i8) -> Self::V;
    /// Widens `byte >> shift & mask` of `LANES` bytes.
    ///
    /// # Safety
    /// `LANES` bytes are readable at `from`.
    unsafe fn load_bits(self, from: *const u8, shift: u8, mask: u8) -> Self::V;
    /// Widens an f16 and copies it to all lanes.
    fn splat_f16(self, bits: u16) -> Self::V;
    /// Widens `LANES` bf16.
    ///
    /// # Safety
    /// `LANES` bf16 are readable at `from`.
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V;
    /// Rounds to bf16 and stores all lanes.
    ///
    /// # Safety
    /// `LANES` bf16 are writable at `to`.
    unsafe fn store_bf16(self, to: *mut bf16, a: Self::V);
    /// Makes words of two bf16 from lanes that hold widened bf16.
    fn pair(self, low: Self::V, high: Self::V) -> Self::V;
    /// Widens the lower bf16 of each word.
    fn low(self, words: Self::V) -> Self::V;
    /// Widens the upper bf16 of each word.
    fn high(self, words: Self::V) -> Self::V;
    /// Transposes `LANES × LANES` 32-bit words.
    ///
    /// # Safety
    /// `LANES` rows of `LANES` words are readable at `from` (which need not be aligned) and writable
    /// at `to`, with row strides `from_stride` and `to_stride`; the two do not overlap.
    unsafe fn transpose(self, from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);

    #[inline(always)]
    fn zero(self) -> Self::V {
        self.splat(0.0)
    }

    /// Loads `chunk.len()` lanes, at most `LANES`; the others are zero.
    #[inline(always)]
    fn read<E: Lanes>(self, chunk: &[E]) -> Self::V {
        // SAFETY: a full chunk has LANES elements; of a shorter one, its elements are read.
        unsafe {
            if chunk.len() >= Self::LANES {
                E::load(self, chunk.as_ptr())
            } else {
                E::load_part(self, chunk.len(), chunk.as_ptr())
            }
        }
    }

    /// Stores the first `chunk.len()` lanes, at most `LANES`.
    #[inline(always)]
    fn write<E: Lanes>(self, chunk: &mut [E], a: Self::V) {
        // SAFETY: a full chunk has LANES elements; of a shorter one, its elements are written.
        unsafe {
            if chunk.len() >= Self::LANES {
                E::store(self, chunk.as_mut_ptr(), a);
            } else {
                E::store_part(self, chunk.len(), chunk.as_mut_ptr(), a);
            }
        }
    }

    /// The exponential; relative error below 2·10⁻⁷ (2 ulp), subnormal results included, 0 below
    /// −104, +∞ above 88.73, NaN kept.
    ///
    /// Range reduction by ln 2 in two parts and the degree-6 polynomial of Cephes' `expf`.
    #[inline(always)]
    fn exp(self, x: Self::V) -> Self::V {
        let x = self.max(self.splat(-105.0), x);
        let x = self.min(self.splat(89.0), x);
        let n = self.round(self.mul(x, self.splat(std::f32::consts::LOG2_E)));
        let r = self.fma(n, self.splat(-0.693_359_4), x);
        let r = self.fma(n, self.splat(2.121_944_4e-4), r);
        let p = self.splat(1.987_569_1e-4);
        let p = self.fma(p, r, self.splat(1.398_2e-3));
        let p = self.fma(p, r, self.splat(8.333_452e-3));
        let p = self.fma(p, r, self.splat(4.166_579_6e-2));
        let p = self.fma(p, r, self.splat(1.666_666_5e-1));
        let p = self.fma(p, r, self.splat(0.5));
        let p = self.fma(self.mul(p, r), r, r);
        self.scale_by_power(self.add(p, self.splat(1.0)), n)
    }

    /// The sign, −1, 0 or 1; a NaN becomes −1.
    #[inline(always)]
    fn sign(self, x: Self::V) -> Self::V {
        // Twice 2¹²⁷ makes the smallest subnormal larger than one.
        let huge = self.splat(1.701_411_8e38);
        let grown = self.mul(self.mul(x, huge), huge);
        self.min(self.max(grown, self.splat(-1.0)), self.splat(1.0))
    }

    /// `1 / (1 + e⁻ˣ)`.
    #[inline(always)]
    fn sigmoid(self, x: Self::V) -> Self::V {
        let one = self.splat(1.0);
        let e = self.exp(self.sub(self.zero(), x));
        self.div(one, self.add(one, e))
    }
}

/// How an element type goes into the lanes of a register and back.
pub trait Lanes: Copy + Default + Send + Sync + std::fmt::Debug + 'static {
    /// # Safety
    /// `LANES` elements are readable at `from`.
    unsafe fn load<S: Simd>(simd: S, from: *const Self) -> S::V;
    /// # Safety
    /// `LANES` elements are writable at `to`.
    unsafe fn store<S: Simd>(simd: S, to: *mut Self, a: S::V);
    /// Loads fewer than `LANES` elements, zero in the other lanes.
    ///
    /// # Safety
    /// `count` elements are readable at `from`.
    unsafe fn load_part<S: Simd>(simd: S, count: usize, from: *const Self) -> S::V;
    /// Stores the first `count` lanes, fewer than `LANES`.
    ///
    /// # Safety
    /// `count` elements are writable at `to`.
    unsafe fn store_part<S: Simd>(simd: S, count: usize, to: *mut Self, a: S::V);
}

impl Lanes for f32 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const f32) -> S::V {
        // SAFETY: passed on.
        unsafe { simd.load(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut f32, a: S::V) {
        // SAFETY: passed on.
        unsafe { simd.store(to, a) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(simd: S, count: usize, from: *const f32) -> S::V {
        // SAFETY: passed on.
        unsafe { simd.load_masked(simd.mask(count), from) }
    }
    #[inline(always)]
    unsafe fn store_part<S: Simd>(simd: S, count: usize, to: *mut f32, a: S::V) {
        // SAFETY: passed on.
        unsafe { simd.store_masked(simd.mask(count), to, a) }
    }
}

/// The lanes of the widest register.
const MOST_LANES: usize = 16;

impl Lanes for bf16 {
    #[inline(always)]
    unsafe fn load<S: Simd>(simd: S, from: *const bf16) -> S::V {
        // SAFETY: passed on.
        unsafe { simd.load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(simd: S, to: *mut bf16, a: S::V) {
        // SAFETY: passed on.
        unsafe { simd.store_bf16(to, a) }
    }
    #[inline(always)]
    unsafe fn load_part<S: Simd>(simd: S, count: usize, from: *const bf16) -> S::V {
        let mut lanes = [bf16::ZERO; MOST_LANES];
        // SAFETY: `count` elements are readable by the contract, and fit into the array.
        unsafe {
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), count);
            simd.load_bf16(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_part<S: Simd>(simd: S, count: usize, to: *mut bf16, a: S::V) {
        let mut lanes = [bf16::ZERO; MOST_LANES];
        // SAFETY: `count` elements are writable by the contract, and were stored in the array.
        unsafe {
            simd.store_bf16(lanes.as_mut_ptr(), a);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, count);
        }
    }
}

/// Runs a body with the [`Simd`] of an [`Isa`](crate::Isa): `dispatch!(isa, simd => body)`.
///
/// The body is compiled once per instruction set; it calls `#[inline(always)]` functions that are
/// generic over [`Simd`].
macro_rules! dispatch {
    ($isa:expr, $simd:ident => $body:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the `Isa` of a `Cpu` was found on this machine when the `Cpu` was built.
            $crate::cpu::Isa::Avx512 | $crate::cpu::Isa::Avx512Bf16 => unsafe {
                $crate::simd::x86::with_avx512(
                    #[inline(always)]
                    |$simd| $body,
                )
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            $crate::cpu::Isa::Avx2Fma => unsafe {
                $crate::simd::x86::with_avx2(
                    #[inline(always)]
                    |$simd| $body,
                )
            },
            #[cfg(target_arch = "aarch64")]
            $crate::cpu::Isa::Neon => {
                let $simd = $crate::simd::Portable::<true>;
                $body
            }
            _ => {
                let $simd = $crate::simd::Portable::<false>;
                $body
            }
        }
    };
}
pub(crate) use dispatch;

/// Widens an f16 in integer arithmetic, which inlines everywhere.
#[inline(always)]
pub(crate) fn widen_f16(bits: u16) -> f32 {
    // Shift exponent and fraction into place, then multiply by 2¹¹² to correct the exponent's bias:
    // this also makes subnormals right.
    let magnitude = f32::from_bits(u32::from(bits & 0x7fff) << 13) * f32::from_bits(0x7780_0000);
    // Infinity and NaN come out as 65536 and more: give them the largest exponent.
    let special = if magnitude >= 65536.0 { 0x7f80_0000 } else { 0 };
    let sign = u32::from(bits & 0x8000) << 16;
    f32::from_bits(magnitude.to_bits() | special | sign)
}

/// Four lanes in plain Rust: the fallback, and (fused) what the compiler turns into NEON.
#[derive(Clone, Copy)]
pub(crate) struct Portable<const FUSED: bool>;

#[derive(Clone, Copy)]
#[repr(C, align(16))]
pub(crate) struct Four([f32; 4]);

impl Four {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let (a, b) = (self.0, other.0);
        Self([f(a[0], b[0]), f(a[1], b[1]), f(a[2], b[2]), f(a[3], b[3])])
    }
}

impl<const FUSED: bool> Simd for Portable<FUSED> {
    type V = Four;
    type M = usize;
    const LANES: usize = 4;
    const TILE: (usize, usize) = if FUSED { (8, 2) } else { (5, 2) };

    #[inline(always)]
    fn enter<R>(self, body: impl FnOnce() -> R) -> R {
        body()
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Four {
        Four([x; 4])
    }
    #[inline(always)]
    fn mask(self, count: usize) -> usize {
        count
    }
    #[inline(always)]
    fn add(self, a: Four, b: Four) -> Four {
        a.zip(b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Four, b: Four) -> Four {
        a.zip(b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Four, b: Four) -> Four {
        a.zip(b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Four, b: Four) -> Four {
        a.zip(b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Four, b: Four, c: Four) -> Four {
        if FUSED {
            let (a, b, c) = (a.0, b.0, c.0);
            Four(std::array::from_fn(|i| a[i].mul_add(b[i], c[i])))
        } else {
            self.add(self.mul(a, b), c)
        }
    }
    #[inline(always)]
    fn max(self, a: Four, b: Four) -> Four {
        a.zip(b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn min(self, a: Four, b: Four) -> Four {
        a.zip(b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Four) -> Four {
        Four(a.0.map(f32::sqrt))
    }
    #[inline(always)]
    fn round(self, a: Four) -> Four {
        // Adding 1.5·2²³ leaves no bits for a fraction.
        let big = self.splat(12_582_912.0);
        self.sub(self.add(a, big), big)
    }
    #[inline(always)]
    fn scale_by_power(self, a: Four, n: Four) -> Four {
        // Two factors, since 2ⁿ itself may be out of range where a·2ⁿ is not.
        let half = self.round(self.mul(n, self.splat(0.5)));
        let power = |n: Four| Four(n.0.map(|n| f32::from_bits(((n as i32 + 127) as u32) << 23)));
        self.mul(self.mul(a, power(half)), power(self.sub(n, half)))
    }
    #[inline(always)]
    fn sum(self, a: Four) -> f32 {
        (a.0[0] + a.0[2]) + (a.0[1] + a.0[3])
    }
    #[inline(always)]
    fn largest(self, a: Four) -> f32 {
        a.0.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Four {
        // SAFETY: four floats are readable by the contract.
        Four(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, a: Four) {
        // SAFETY: four floats are writable by the contract.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(a.0) }
    }
    #[inline(always)]
    unsafe fn load_masked(self, mask: usize, from: *const f32) -> Four {
        if mask >= 4 {
            // SAFETY: four floats are readable by the contract.
            return unsafe { self.load(from) };
        }
        let mut lanes = [0.0; 4];
        for (lane, value) in lanes.iter_mut().enumerate().take(mask) {
            // SAFETY: `mask` floats are readable by the contract.
            *value = unsafe { *from.add(lane) };
        }
        Four(lanes)
    }
    #[inline(always)]
    unsafe fn store_masked(self, mask: usize, to: *mut f32, a: Four) {
        for (lane, &value) in a.0.iter().enumerate().take(mask) {
            // SAFETY: `mask` floats are writable by the contract.
            unsafe { *to.add(lane) = value };
        }
    }
    #[inline(always)]
    unsafe fn load_bytes(self, from: *const i8) -> Four {
        // SAFETY: four bytes are readable by the contract.
        Four(unsafe { from.cast::<[i8; 4]>().read_unaligned() }.map(f32::from))
    }
    #[inline(always)]
    unsafe fn load_bits(self, from: *const u8, shift: u8, mask: u8) -> Four {
        // SAFETY: four bytes are readable by the contract.
        let bytes = unsafe { from.cast::<[u8; 4]>().read_unaligned() };
        Four(bytes.map(|byte| f32::from(byte >> shift & mask)))
    }
    #[inline(always)]
    fn splat_f16(self, bits: u16) -> Four {
        self.splat(widen_f16(bits))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Four {
        // SAFETY: four bf16 are readable by the contract.
        Four(unsafe { from.cast::<[bf16; 4]>().read_unaligned() }.map(Element::to_f32))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, a: Four) {
        // SAFETY: four bf16 are writable by the contract.
        unsafe { to.cast::<[bf16; 4]>().write_unaligned(a.0.map(bf16::from_f32)) }
    }
    #[inline(always)]
    fn pair(self, low: Four, high: Four) -> Four {
        low.zip(high, |low, high| f32::from_bits(low.to_bits() >> 16 | high.to_bits()))
    }
    #[inline(always)]
    fn low(self, words: Four) -> Four {
        Four(words.0.map(|word| f32::from_bits(word.to_bits() << 16)))
    }
    #[inline(always)]
    fn high(self, words: Four) -> Four {
        Four(words.0.map(|word| f32::from_bits(word.to_bits() & 0xffff_0000)))
    }
    #[inline(always)]
    unsafe fn transpose(
        self,
        from: *const f32,
        from_stride: usize,
        to: *mut f32,
        to_stride: usize,
    ) {
        for i in 0..4 {
            for j in 0..4 {
                // SAFETY: both indices are within the four rows of four of the contract.
                unsafe {
                    *to.add(j * to_stride + i) = from.add(i * from_stride + j).read_unaligned();
                }
            }
        }
    }
}

/// AVX2 and AVX-512.
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86 {
    use super::{Simd, bf16};
    use crate::element::as_bf16_mut;
    use crate::gemm::Multiply;
    use crate::gemm_bf16::word_of;
    use std::arch::x86_64::{
        __m256, __m256i, __m512, __m512bh, __mmask16, _CMP_UNORD_Q, _mm_add_ps, _mm_add_ss,
        _mm_cvtss_f32, _mm_loadl_epi64, _mm_loadu_si128, _mm_max_ps, _mm_max_ss, _mm_movehl_ps,
        _mm_set1_epi16, _mm_shuffle_ps, _mm_storeu_si128, _mm256_add_epi32, _mm256_add_ps,
        _mm256_and_ps, _mm256_and_si256, _mm256_blendv_epi8, _mm256_castps_si256,
        _mm256_castps256_ps128, _mm256_castsi256_ps, _mm256_castsi256_si128, _mm256_cmp_ps,
        _mm256_cmpgt_epi32, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtepu8_epi32,
        _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_cvtps_epi32, _mm256_div_ps,
        _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256,
        _mm256_maskload_ps, _mm256_maskstore_ps, _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps,
        _mm256_or_ps, _mm256_or_si256, _mm256_packus_epi32, _mm256_permute2f128_ps,
        _mm256_permute4x64_epi64, _mm256_round_ps, _mm256_set1_epi16, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setr_epi32, _mm256_shuffle_ps, _mm256_slli_epi32, _mm256_sqrt_ps,
        _mm256_srli_epi32, _mm256_srlv_epi32, _mm256_storeu_ps, _mm256_storeu_si256, _mm256_sub_ps,
        _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm512_add_epi32, _mm512_add_ps, _mm512_and_si512,
        _mm512_castpd_ps, _mm512_castps_pd, _mm512_castps_si512, _mm512_castps512_ps256,
        _mm512_castsi512_ps, _mm512_cmp_ps_mask, _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi16,
        _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
        _mm512_div_ps, _mm512_dpbf16_ps, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_mask_or_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_max_ps,
        _mm512_min_ps, _mm512_mul_ps, _mm512_or_si512, _mm512_roundscale_ps, _mm512_scalef_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_sqrt_ps,
        _mm512_srli_epi32, _mm512_srlv_epi32, _mm512_storeu_ps, _mm512_sub_ps, _mm512_unpackhi_pd,
        _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
    };

    /// Proof that AVX2, FMA and F16C are present.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(());

    /// Proof that AVX-512 F, BW, DQ and VL are present.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(());

    /// # Safety
    /// The machine has AVX2, FMA and F16C.
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(crate) unsafe fn with_avx2<R>(body: impl FnOnce(Avx2) -> R) -> R {
        body(Avx2(()))
    }

    /// # Safety
    /// The machine has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(crate) unsafe fn with_avx512<R>(body: impl FnOnce(Avx512) -> R) -> R {
        body(Avx512(()))
    }

    /// Lane-wise operations that are one intrinsic each. SAFETY of all of them: `self` exists only
    /// where the instructions do.
    macro_rules! lanewise {
        ($($name:ident = $intrinsic:ident($($arg:ident),*);)*) => {
            $(
                #[inline(always)]
                fn $name(self, $($arg: Self::V),*) -> Self::V {
                    // SAFETY: holding `self` proves that the instructions exist.
                    unsafe { $intrinsic($($arg),*) }
                }
            )*
        };
    }

    impl Simd for Avx2 {
        type V = __m256;
        type M = __m256i;
        const LANES: usize = 8;
        const TILE: (usize, usize) = (6, 2);

        lanewise! {
            add = _mm256_add_ps(a, b);
            sub = _mm256_sub_ps(a, b);
            mul = _mm256_mul_ps(a, b);
            div = _mm256_div_ps(a, b);
            fma = _mm256_fmadd_ps(a, b, c);
            max = _mm256_max_ps(a, b);
            min = _mm256_min_ps(a, b);
            sqrt = _mm256_sqrt_ps(a);
        }

        fn enter<R>(self, body: impl FnOnce() -> R) -> R {
            // SAFETY: holding `self` proves that the instructions exist.
            unsafe {
                with_avx2(
                    #[inline(always)]
                    |_| body(),
                )
            }
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m256 {
            // SAFETY: holding `self` proves that the instructions exist (also below).
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        fn mask(self, count: usize) -> __m256i {
            // SAFETY: as above.
            unsafe {
                let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
                _mm256_cmpgt_epi32(_mm256_set1_epi32(count as i32), lanes)
            }
        }
        #[inline(always)]
        fn round(self, a: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_round_ps::<8>(a) }
        }
        #[inline(always)]
        fn scale_by_power(self, a: __m256, n: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe {
                // Two factors, since 2ⁿ itself may be out of range where a·2ⁿ is not.
                let half = _mm256_round_ps::<8>(_mm256_mul_ps(n, _mm256_set1_ps(0.5)));
                let rest = _mm256_sub_ps(n, half);
                let bias = _mm256_set1_epi32(127);
                let half =
                    _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(half), bias));
                let rest =
                    _mm256_slli_epi32::<23>(_mm256_add_epi32(_mm256_cvtps_epi32(rest), bias));
                _mm256_mul_ps(
                    _mm256_mul_ps(a, _mm256_castsi256_ps(half)),
                    _mm256_castsi256_ps(rest),
                )
            }
        }
        #[inline(always)]
        fn sum(self, a: __m256) -> f32 {
            // SAFETY: as above.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        fn largest(self, a: __m256) -> f32 {
            // SAFETY: as above.
            unsafe {
                let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
                let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
            }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m256 {
            // SAFETY: the contract of the trait.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32, a: __m256) {
            // SAFETY: the contract of the trait.
            unsafe { _mm256_storeu_ps(to, a) }
        }
        #[inline(always)]
        unsafe fn load_masked(self, mask: __m256i, from: *const f32) -> __m256 {
            // SAFETY: the contract of the trait; masked lanes are not accessed.
            unsafe { _mm256_maskload_ps(from, mask) }
        }
        #[inline(always)]
        unsafe fn store_masked(self, mask: __m256i, to: *mut f32, a: __m256) {
            // SAFETY: the contract of the trait; masked lanes are not accessed.
            unsafe { _mm256_maskstore_ps(to, mask, a) }
        }
        #[inline(always)]
        unsafe fn load_bytes(self, from: *const i8) -> __m256 {
            // SAFETY: the contract of the trait.
            unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_bits(self, from: *const u8, shift: u8, mask: u8) -> __m256 {
            // SAFETY: the contract of the trait.
            unsafe {
                let words = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
                let words = _mm256_srlv_epi32(words, _mm256_set1_epi32(shift.into()));
                _mm256_cvtepi32_ps(_mm256_and_si256(words, _mm256_set1_epi32(mask.into())))
            }
        }
        #[inline(always)]
        fn splat_f16(self, bits: u16) -> __m256 {
            // SAFETY: as above; F16C is part of what `Avx2` proves.
            unsafe { _mm256_cvtph_ps(_mm_set1_epi16(bits.cast_signed())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
            // SAFETY: the contract of the trait.
            unsafe {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut bf16, a: __m256) {
            // SAFETY: the contract of the trait.
            unsafe {
                let bits = _mm256_castps_si256(a);
                let shifted = _mm256_srli_epi32::<16>(bits);
                // Half of the last kept bit's value, and one more if that bit makes a tie odd.
                let odd = _mm256_and_si256(shifted, _mm256_set1_epi32(1));
                let half = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
                let rounded = _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, half));
                let quiet = _mm256_or_si256(shifted, _mm256_set1_epi32(0x40));
                let is_nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
                let words = _mm256_blendv_epi8(rounded, quiet, is_nan);
                // Packing works within 128-bit halves: bring the two filled quarters together.
                let packed = _mm256_packus_epi32(words, words);
                let packed = _mm256_permute4x64_epi64::<0x08>(packed);
                _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(packed));
            }
        }
        #[inline(always)]
        fn pair(self, low: __m256, high: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe {
                let low = _mm256_srli_epi32::<16>(_mm256_castps_si256(low));
                _mm256_or_ps(_mm256_castsi256_ps(low), high)
            }
        }
        #[inline(always)]
        fn low(self, words: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(words))) }
        }
        #[inline(always)]
        fn high(self, words: __m256) -> __m256 {
            // SAFETY: as above.
            unsafe {
                let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
                _mm256_and_ps(words, _mm256_castsi256_ps(upper))
            }
        }
        #[inline(always)]
        unsafe fn transpose(
            self,
            from: *const f32,
            from_stride: usize,
            to: *mut f32,
            to_stride: usize,
        ) {
            // SAFETY: the contract of the trait: 8 rows of 8 on both sides.
            unsafe {
                let r: [__m256; 8] =
                    std::array::from_fn(|i| _mm256_loadu_ps(from.add(i * from_stride)));
                let mut t = [_mm256_set1_ps(0.0); 8];
                for i in 0..4 {
                    t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
                    t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
                }
                let mut u = t;
                for i in 0..2 {
                    let base = 4 * i;
                    u[base] = _mm256_shuffle_ps::<0x44>(t[base], t[base + 2]);
                    u[base + 1] = _mm256_shuffle_ps::<0xee>(t[base], t[base + 2]);
                    u[base + 2] = _mm256_shuffle_ps::<0x44>(t[base + 1], t[base + 3]);
                    u[base + 3] = _mm256_shuffle_ps::<0xee>(t[base + 1], t[base + 3]);
                }
                for i in 0..4 {
                    let low = _mm256_permute2f128_ps::<0x20>(u[i], u[i + 4]);
                    let high = _mm256_permute2f128_ps::<0x31>(u[i], u[i + 4]);
                    _mm256_storeu_ps(to.add(i * to_stride), low);
                    _mm256_storeu_ps(to.add((i + 4) * to_stride), high);
                }
            }
        }
    }

    /// Proof that, besides what [`Avx512`] proves, AVX-512 BF16 is present.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512Bf16(());

    /// # Safety
    /// The machine has what [`with_avx512`] asks for and AVX-512 BF16.
    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    pub(crate) unsafe fn with_avx512_bf16<R>(body: impl FnOnce(Avx512, Avx512Bf16) -> R) -> R {
        body(Avx512(()), Avx512Bf16(()))
    }

    impl Multiply<Avx512> for Avx512Bf16 {
        type Element = bf16;
        const PER_WORD: usize = 2;

        #[inline(always)]
        fn step(self, _simd: Avx512, a: __m512, b: __m512, sum: __m512) -> __m512 {
            // SAFETY: holding `self` proves that the instruction exists; a vector of words is one
            // of pairs of bf16.
            unsafe {
                let (a, b) = (
                    std::mem::transmute::<__m512, __m512bh>(a),
                    std::mem::transmute::<__m512, __m512bh>(b),
                );
                _mm512_dpbf16_ps(sum, a, b)
            }
        }
        fn enter<R>(self, _simd: Avx512, body: impl FnOnce() -> R) -> R {
            // SAFETY: holding `self` proves that the instructions exist.
            unsafe {
                with_avx512_bf16(
                    #[inline(always)]
                    |_, _| body(),
                )
            }
        }
        #[inline(always)]
        fn words(self, simd: Avx512, low: &[bf16], high: &[bf16]) -> __m512 {
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

    impl Simd for Avx512 {
        type V = __m512;
        type M = __mmask16;
        const LANES: usize = 16;
        const TILE: (usize, usize) = (8, 3);

        lanewise! {
            add = _mm512_add_ps(a, b);
            sub = _mm512_sub_ps(a, b);
            mul = _mm512_mul_ps(a, b);
            div = _mm512_div_ps(a, b);
            fma = _mm512_fmadd_ps(a, b, c);
            max = _mm512_max_ps(a, b);
            min = _mm512_min_ps(a, b);
            sqrt = _mm512_sqrt_ps(a);
            scale_by_power = _mm512_scalef_ps(a, n);
        }

        fn enter<R>(self, body: impl FnOnce() -> R) -> R {
            // SAFETY: holding `self` proves that the instructions exist.
            unsafe {
                with_avx512(
                    #[inline(always)]
                    |_| body(),
                )
            }
        }
        #[inline(always)]
        fn splat(self, x: f32) -> __m512 {
            // SAFETY: holding `self` proves that the instructions exist (also below).
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        fn mask(self, count: usize) -> __mmask16 {
            (((1_u32 << count.min(16)) - 1) & 0xffff) as __mmask16
        }
        #[inline(always)]
        fn round(self, a: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_roundscale_ps::<8>(a) }
        }
        #[inline(always)]
        fn sum(self, a: __m512) -> f32 {
            // SAFETY: as above.
            unsafe {
                let high = _mm512_extractf32x8_ps::<1>(a);
                Avx2(()).sum(_mm256_add_ps(_mm512_castps512_ps256(a), high))
            }
        }
        #[inline(always)]
        fn largest(self, a: __m512) -> f32 {
            // SAFETY: as above.
            unsafe {
                let high = _mm512_extractf32x8_ps::<1>(a);
                Avx2(()).largest(_mm256_max_ps(_mm512_castps512_ps256(a), high))
            }
        }
        #[inline(always)]
        unsafe fn load(self, from: *const f32) -> __m512 {
            // SAFETY: the contract of the trait.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32, a: __m512) {
            // SAFETY: the contract of the trait.
            unsafe { _mm512_storeu_ps(to, a) }
        }
        #[inline(always)]
        unsafe fn load_masked(self, mask: __mmask16, from: *const f32) -> __m512 {
            // SAFETY: the contract of the trait; masked lanes are not accessed.
            unsafe { _mm512_maskz_loadu_ps(mask, from) }
        }
        #[inline(always)]
        unsafe fn store_masked(self, mask: __mmask16, to: *mut f32, a: __m512) {
            // SAFETY: the contract of the trait; masked lanes are not accessed.
            unsafe { _mm512_mask_storeu_ps(to, mask, a) }
        }
        #[inline(always)]
        unsafe fn load_bytes(self, from: *const i8) -> __m512 {
            // SAFETY: the contract of the trait.
            unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))) }
        }
        #[inline(always)]
        unsafe fn load_bits(self, from: *const u8, shift: u8, mask: u8) -> __m512 {
            // SAFETY: the contract of the trait.
            unsafe {
                let words = _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()));
                let words = _mm512_srlv_epi32(words, _mm512_set1_epi32(shift.into()));
                _mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32(mask.into())))
            }
        }
        #[inline(always)]
        fn splat_f16(self, bits: u16) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(bits.cast_signed())) }
        }
        #[inline(always)]
        unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
            // SAFETY: the contract of the trait.
            unsafe {
                let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
            }
        }
        #[inline(always)]
        unsafe fn store_bf16(self, to: *mut bf16, a: __m512) {
            // SAFETY: the contract of the trait.
            unsafe {
                let bits = _mm512_castps_si512(a);
                let shifted = _mm512_srli_epi32::<16>(bits);
                // Half of the last kept bit's value, and one more if that bit makes a tie odd.
                let odd = _mm512_and_si512(shifted, _mm512_set1_epi32(1));
                let half = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
                let rounded = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, half));
                let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a);
                let quiet = _mm512_set1_epi32(0x40);
                let words = _mm512_mask_or_epi32(rounded, is_nan, shifted, quiet);
                _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(words));
            }
        }
        #[inline(always)]
        fn pair(self, low: __m512, high: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe {
                let low = _mm512_srli_epi32::<16>(_mm512_castps_si512(low));
                _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_castps_si512(high)))
            }
        }
        #[inline(always)]
        fn low(self, words: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(words))) }
        }
        #[inline(always)]
        fn high(self, words: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe {
                let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
                _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(words), upper))
            }
        }
        #[inline(always)]
        unsafe fn transpose(
            self,
            from: *const f32,
            from_stride: usize,
            to: *mut f32,
            to_stride: usize,
        ) {
            // SAFETY: the contract of the trait: 16 rows of 16 on both sides.
            unsafe {
                let r: [__m512; 16] =
                    std::array::from_fn(|i| _mm512_loadu_ps(from.add(i * from_stride)));
                // Within each group of four rows, transpose the 4×4 blocks of every 128-bit lane.
                let mut t = r;
                for i in (0..16).step_by(4) {
                    let low01 = _mm512_castps_pd(_mm512_unpacklo_ps(r[i], r[i + 1]));
                    let high01 = _mm512_castps_pd(_mm512_unpackhi_ps(r[i], r[i + 1]));
                    let low23 = _mm512_castps_pd(_mm512_unpacklo_ps(r[i + 2], r[i + 3]));
                    let high23 = _mm512_castps_pd(_mm512_unpackhi_ps(r[i + 2], r[i + 3]));
                    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(low01, low23));
                    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low01, low23));
                    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high01, high23));
                    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high01, high23));
                }
                // t[4g + c] lane l holds column 4l + c of rows 4g..4g+4: gather lane l of four g.
                for c in 0..4 {
                    let even01 = _mm512_shuffle_f32x4::<0x88>(t[c], t[c + 4]);
                    let odd01 = _mm512_shuffle_f32x4::<0xdd>(t[c], t[c + 4]);
                    let even23 = _mm512_shuffle_f32x4::<0x88>(t[c + 8], t[c + 12]);
                    let odd23 = _mm512_shuffle_f32x4::<0xdd>(t[c + 8], t[c + 12]);
                    let row0 = _mm512_shuffle_f32x4::<0x88>(even01, even23);
                    let row8 = _mm512_shuffle_f32x4::<0xdd>(even01, even23);
                    let row4 = _mm512_shuffle_f32x4::<0x88>(odd01, odd23);
                    let row12 = _mm512_shuffle_f32x4::<0xdd>(odd01, odd23);
                    _mm512_storeu_ps(to.add(c * to_stride), row0);
                    _mm512_storeu_ps(to.add((c + 4) * to_stride), row4);
                    _mm512_storeu_ps(to.add((c + 8) * to_stride), row8);
                    _mm512_storeu_ps(to.add((c + 12) * to_stride), row12);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Simd;
    use crate::cpu::Isa;

    #[inline(always)]
    fn each<S: Simd>(simd: S, x: &mut [f32], f: impl Fn(S::V) -> S::V) {
        for chunk in x.chunks_mut(S::LANES) {
            let value = f(simd.read(chunk));
            simd.write(chunk, value);
        }
    }

    fn exp(isa: Isa, mut x: Vec<f32>) -> Vec<f32> {
        dispatch!(isa, simd => each(simd, &mut x, |x| simd.exp(x)));
        x
    }

    #[test]
    fn exponential_is_within_its_bound() {
        // Steps that hit no pattern of the range reduction, over normal results.
        let x: Vec<f32> = (0..400_000).map(|i| -87.3 + i as f32 * 4.3997e-4).collect();
        for isa in Isa::available() {
            for (&x, &got) in x.iter().zip(&exp(isa, x.clone())) {
                let expected = f64::from(x).exp();
                let error = (f64::from(got) - expected).abs() / expected;
                assert!(error < 2e-7, "{isa}: exp({x}) is {got:e}, off by {error:e}");
            }
        }
    }

    #[test]
    fn exponential_at_the_ends() {
        let x = vec![0.0, -0.0, f32::NEG_INFINITY, -1e30, -105.0, f32::INFINITY, 1e30, 89.0, 1.0];
        for isa in Isa::available() {
            let got = exp(isa, x.clone());
            assert_eq!(got[..5], [1.0, 1.0, 0.0, 0.0, 0.0], "{isa}");
            assert_eq!(got[5..8], [f32::INFINITY; 3], "{isa}");
            assert!(exp(isa, vec![f32::NAN; 3]).iter().all(|value| value.is_nan()), "{isa}");
            // Subnormal results are right to one of their own steps.
            for x in [-88.0_f32, -95.5, -103.0] {
                let (got, expected) = (f64::from(exp(isa, vec![x])[0]), f64::from(x).exp());
                assert!((got - expected).abs() < 2e-45, "{isa}: exp({x}) is {got:e}");
            }
        }
    }

    #[test]
    fn partial_registers_leave_the_rest_alone() {
        for isa in Isa::available() {
            for length in 1..40 {
                let mut x: Vec<f32> = (0..length).map(|i| i as f32).collect();
                let mut with_guard = x.clone();
                with_guard.push(-7.0);
                dispatch!(isa, simd => {
                    each(simd, &mut with_guard[..length], |x| simd.add(x, simd.splat(1.0)));
                });
                for x in &mut x {
                    *x += 1.0;
                }
                assert_eq!(with_guard[..length], x, "{isa}");
                assert_eq!(with_guard[length], -7.0, "{isa}");
            }
        }
    }

    #[inline(always)]
    fn lane_operations<S: Simd>(simd: S) {
        let from: Vec<f32> = (0..S::LANES * (S::LANES + 3)).map(|i| i as f32).collect();
        let mut to = vec![-1.0; S::LANES * (S::LANES + 1)];
        let strides = (S::LANES + 3, S::LANES + 1);
        // SAFETY: LANES rows of LANES floats with these strides lie within both vectors.
        unsafe { simd.transpose(from.as_ptr(), strides.0, to.as_mut_ptr(), strides.1) };
        for i in 0..S::LANES {
            for j in 0..S::LANES {
                assert_eq!(to[j * strides.1 + i], from[i * strides.0 + j]);
            }
            assert_eq!(to[i * strides.1 + S::LANES], -1.0);
        }
        let lanes = simd.read(&from[..S::LANES]);
        assert_eq!(simd.sum(lanes), (S::LANES * (S::LANES - 1) / 2) as f32);
        assert_eq!(simd.largest(lanes), (S::LANES - 1) as f32);
        let bytes: Vec<i8> = (0..S::LANES).map(|i| (15 * i as i32 - 128) as i8).collect();
        // SAFETY: LANES bytes are readable.
        let widened = unsafe { simd.load_bytes(bytes.as_ptr()) };
        let mut out = vec![0.0; S::LANES];
        simd.write(&mut out, widened);
        assert!(out.iter().zip(&bytes).all(|(&out, &byte)| out == f32::from(byte)));
        for (shift, mask) in [(0, 15), (4, 15), (2, 3), (6, 3)] {
            // SAFETY: LANES bytes are readable.
            let bits = unsafe { simd.load_bits(bytes.as_ptr().cast(), shift, mask) };
            simd.write(&mut out, bits);
            let part = |byte: i8| f32::from(byte.cast_unsigned() >> shift & mask);
            assert!(out.iter().zip(&bytes).all(|(&out, &byte)| out == part(byte)));
        }
    }

    #[test]
    fn lanes_are_transposed_reduced_and_widened() {
        for isa in Isa::available() {
            dispatch!(isa, simd => lane_operations(simd));
        }
    }
}
