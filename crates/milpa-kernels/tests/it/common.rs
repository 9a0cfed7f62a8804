//! Inputs, contexts and comparisons shared by the tests.

use std::sync::OnceLock;

use milpa_kernels::{Cpu, Isa};

/// Contexts on 1, 2 and 3 threads for each instruction set, built once.
fn cpus() -> &'static [Vec<Cpu>] {
    static CPUS: OnceLock<Vec<Vec<Cpu>>> = OnceLock::new();
    CPUS.get_or_init(|| {
        let isas = Isa::available().into_iter();
        isas.map(|isa| (1..=3).map(|threads| Cpu::new(threads, isa)).collect()).collect()
    })
}

/// One context per instruction set.
pub(crate) fn one_cpu_per_isa() -> impl Iterator<Item = &'static Cpu> {
    cpus().iter().map(|cpus| &cpus[0])
}

/// A small generator (SplitMix64), so that failures can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in −1..1.
    pub(crate) fn real(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Uniform in `0..limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Values in −1..1.
    pub(crate) fn reals(&mut self, length: usize) -> Vec<f32> {
        (0..length).map(|_| self.real()).collect()
    }

    /// Values in −1..1, one in eight of them zero and one in eight a hundred times as large.
    pub(crate) fn wild(&mut self, length: usize) -> Vec<f32> {
        let mut one = || match self.below(8) {
            0 => 0.0,
            1 => 100.0 * self.real(),
            _ => self.real(),
        };
        (0..length).map(|_| one()).collect()
    }
}

pub(crate) fn doubles(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&value| f64::from(value)).collect()
}

/// The error to allow a sum of `k` products whose sizes add up to `magnitude`.
///
/// Each of up to `2k` roundings is at most half an ulp (2⁻²⁴) of a partial sum, which `magnitude`
/// bounds. They have random signs, so their sum is of the order of `√(2k)·2⁻²⁴·magnitude/√3`: four
/// times `√k·2⁻²⁴·magnitude` is five standard deviations of the worst case.
pub(crate) fn rounding(k: usize, magnitude: &[f64]) -> Vec<f64> {
    let factor = 4.0 * (k.max(1) as f64).sqrt() * 2.0_f64.powi(-24);
    magnitude.iter().map(|magnitude| factor * magnitude).collect()
}

pub(crate) fn sizes(x: &[f64]) -> Vec<f64> {
    x.iter().map(|value| value.abs()).collect()
}

/// Runs a kernel on every instruction set and number of threads: each output must be within
/// `absolute + relative · |expected|` of the expected, and the same bits on any number of threads.
#[track_caller]
pub(crate) fn check(
    what: &str,
    expected: &[Vec<f64>],
    (absolute, relative): (f64, f64),
    run: impl Fn(&Cpu) -> Vec<Vec<f32>>,
) {
    let allowed = |expected: &f64| absolute + relative * expected.abs();
    let allowed: Vec<Vec<f64>> =
        expected.iter().map(|output| output.iter().map(allowed).collect()).collect();
    check_within(what, expected, &allowed, run);
}

/// As [`check`], with an allowed error for each element.
#[track_caller]
pub(crate) fn check_within(
    what: &str,
    expected: &[Vec<f64>],
    allowed: &[Vec<f64>],
    run: impl Fn(&Cpu) -> Vec<Vec<f32>>,
) {
    for cpus in cpus() {
        let first = run(&cpus[0]);
        let isa = cpus[0].isa();
        assert_eq!(first.len(), expected.len(), "outputs");
        for (output, (got, expected)) in first.iter().zip(expected).enumerate() {
            assert_eq!(got.len(), expected.len(), "{what}: length of output {output}");
            for (at, (&got, &expected)) in got.iter().zip(expected).enumerate() {
                let error = (f64::from(got) - expected).abs();
                let allowed = allowed[output][at];
                assert!(
                    error <= allowed,
                    "{what} on {isa}: output {output}[{at}] is {got:e}, not {expected:e} \
                     (error {error:e}, allowed {allowed:e})"
                );
            }
        }
        for cpu in &cpus[1..] {
            let bits = |outputs: &[Vec<f32>]| -> Vec<u32> {
                outputs.iter().flatten().map(|value| value.to_bits()).collect()
            };
            let threads = cpu.threads();
            assert!(bits(&first) == bits(&run(cpu)), "{what} on {isa}: {threads} threads differ");
        }
    }
}
