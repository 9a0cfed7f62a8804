//! Which instructions and which threads a kernel may use: [`Isa`] and [`Cpu`].
//!
//! The choice is explicit and made once, by whoever builds the [`Cpu`]; nothing reads the
//! environment. Constructing a [`Cpu`] proves that its instruction set exists on this machine, and
//! that proof is what the unsafe SIMD calls of this crate rest on.

use std::fmt;

use crate::pool::Pool;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// Portable code without explicit SIMD; present everywhere.
    Scalar,
    /// 128-bit Advanced SIMD of aarch64.
    Neon,
    /// 256-bit AVX2 with FMA and F16C of x86-64.
    Avx2Fma,
    /// 512-bit AVX-512 (F, BW, DQ, VL) of x86-64.
    Avx512,
    /// AVX-512 with its bf16 products (BF16).
    Avx512Bf16,
}

impl Isa {
    /// Returns the widest instruction set of this machine.
    pub fn detect() -> Self {
        [Self::Avx512Bf16, Self::Avx512, Self::Avx2Fma, Self::Neon]
            .into_iter()
            .find(|isa| isa.is_available())
            .unwrap_or(Self::Scalar)
    }

    /// Lists every instruction set that this machine can run, narrowest first.
    pub fn available() -> Vec<Self> {
        [Self::Scalar, Self::Neon, Self::Avx2Fma, Self::Avx512, Self::Avx512Bf16]
            .into_iter()
            .filter(|isa| isa.is_available())
            .collect()
    }

    /// Whether this machine can run the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2Fma => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && Self::Avx2Fma.is_available()
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                is_x86_feature_detected!("avx512bf16") && Self::Avx512.is_available()
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2Fma | Self::Avx512 | Self::Avx512Bf16 => false,
        }
    }

    /// Names the instruction set in lower case, as reports print it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2Fma => "avx2+fma",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512+bf16",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The threads and the instruction set that kernels run on.
#[derive(Debug)]
pub struct Cpu {
    pool: Pool,
    isa: Isa,
}

impl Cpu {
    /// Builds a context with `threads` threads (the caller is one of them) and an explicit
    /// instruction set.
    ///
    /// # Panics
    /// If `threads` is zero or this machine cannot run `isa`.
    pub fn new(threads: usize, isa: Isa) -> Self {
        assert!(isa.is_available(), "this machine cannot run {isa}");
        Self { pool: Pool::new(threads), isa }
    }

    /// Builds a context with `threads` threads and the widest instruction set of this machine.
    pub fn detect(threads: usize) -> Self {
        Self::new(threads, Isa::detect())
    }

    /// Returns the thread pool.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Returns the instruction set; it is available on this machine.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Returns the number of threads, the caller included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detection_is_among_the_available() {
        assert!(Isa::available().contains(&Isa::detect()));
        assert!(Isa::available().contains(&Isa::Scalar));
    }

    #[test]
    #[should_panic(expected = "cannot run")]
    fn an_absent_instruction_set_is_refused() {
        let absent = if cfg!(target_arch = "x86_64") { Isa::Neon } else { Isa::Avx512 };
        let _ = Cpu::new(1, absent);
    }
}
