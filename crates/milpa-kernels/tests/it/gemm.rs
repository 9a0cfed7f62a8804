//! Matrix products: all layouts, odd sizes, strides, both sides of every path's limit.

use milpa_kernels::{Accumulate, Mat, MatMut, Size, gemm, q8_0, reference};
use proptest::prelude::*;

use crate::common::{Random, check_within, doubles};

#[derive(Clone, Copy, Debug)]
enum Layout {
    Nt,
    Nn,
    Tn,
}

/// The error to allow a sum of `k` products whose sizes add up to `magnitude`.
///
/// Each of up to `2k` roundings is at most half an ulp (2⁻²⁴) of a partial sum, which `magnitude`
/// bounds. They have random signs, so their sum is of the order of `√(2k)·2⁻²⁴·magnitude/√3`: four
/// times `√k·2⁻²⁴·magnitude` is five standard deviations of the worst case.
fn rounding(k: usize, magnitude: &[f64]) -> Vec<f64> {
    let factor = 4.0 * (k.max(1) as f64).sqrt() * 2.0_f64.powi(-24);
    magnitude.iter().map(|magnitude| factor * magnitude).collect()
}

fn sizes(x: &[f64]) -> Vec<f64> {
    x.iter().map(|value| value.abs()).collect()
}

fn check_product(layout: Layout, size: Size, pads: [usize; 3], accumulate: Accumulate) {
    let Size { m, n, k } = size;
    let (a_rows, a_columns, b_rows, b_columns) = match layout {
        Layout::Nt => (m, k, n, k),
        Layout::Nn => (m, k, k, n),
        Layout::Tn => (k, m, k, n),
    };
    let (lda, ldb, ldc) = (a_columns + pads[0], b_columns + pads[1], n + pads[2]);
    let mut random = Random((m * 1_000_003 + n * 1009 + k) as u64);
    let (a, b) = (random.reals(a_rows * lda), random.reals(b_rows * ldb));
    let c = random.reals(m * ldc);
    let (a64, b64, mut c64) = (doubles(&a), doubles(&b), doubles(&c));
    let twin = match layout {
        Layout::Nt => reference::matmul_nt::<f64>,
        Layout::Nn => reference::matmul_nn,
        Layout::Tn => reference::matmul_tn,
    };
    let mut magnitude = sizes(&c64);
    let (a_sizes, b_sizes) = (sizes(&a64), sizes(&b64));
    let (a_sizes, b_sizes) = (Mat::new(&a_sizes, lda), Mat::new(&b_sizes, ldb));
    twin(size, a_sizes, b_sizes, MatMut::new(&mut magnitude, ldc), accumulate);
    twin(size, Mat::new(&a64, lda), Mat::new(&b64, ldb), MatMut::new(&mut c64, ldc), accumulate);
    let what = format!("{layout:?} {size:?} pads {pads:?} {accumulate:?}");
    // Columns beyond n must be left alone: they are compared too.
    check_within(&what, &[c64], &[rounding(k, &magnitude)], |cpu| {
        let mut c = c.clone();
        let kernel = match layout {
            Layout::Nt => gemm::matmul_nt,
            Layout::Nn => gemm::matmul_nn,
            Layout::Tn => gemm::matmul_tn,
        };
        kernel(
            cpu,
            size,
            Mat::new(&a, lda),
            Mat::new(&b, ldb),
            MatMut::new(&mut c, ldc),
            accumulate,
        );
        vec![c]
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn products_of_any_size(
        m in 1_usize..70, n in 1_usize..120, k in 1_usize..90,
        layout in prop::sample::select(vec![Layout::Nt, Layout::Nn, Layout::Tn]),
        pads in prop::array::uniform3(0_usize..5),
        add in any::<bool>(),
    ) {
        let accumulate = if add { Accumulate::Yes } else { Accumulate::No };
        check_product(layout, Size { m, n, k }, pads, accumulate);
    }
}

#[test]
fn products_beyond_one_block() {
    for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
        for (m, n, k) in
            [(133, 259, 1100), (40, 777, 513), (300, 50, 600), (9, 16, 2000), (520, 48, 257)]
        {
            check_product(layout, Size { m, n, k }, [0, 3, 1], Accumulate::Yes);
            check_product(layout, Size { m, n, k }, [0, 3, 1], Accumulate::No);
        }
    }
}

#[test]
fn empty_products() {
    for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
        for (m, n, k) in [(0, 5, 3), (5, 0, 3), (5, 3, 0), (20, 30, 0)] {
            check_product(layout, Size { m, n, k }, [0, 0, 0], Accumulate::No);
            check_product(layout, Size { m, n, k }, [0, 0, 0], Accumulate::Yes);
        }
    }
}

#[test]
fn few_rows_stream_the_weights() {
    for m in 1..=9 {
        for (n, k) in [(1, 1), (37, 48), (300, 129), (1025, 64)] {
            check_product(Layout::Nt, Size { m, n, k }, [1, 2, 3], Accumulate::No);
        }
    }
}

#[test]
#[should_panic(expected = "cannot hold")]
fn short_slices_are_refused() {
    let cpu = milpa_kernels::Cpu::detect(1);
    let (a, b, mut c) = ([0.0; 6], [0.0; 6], [0.0; 3]);
    let size = Size { m: 2, n: 2, k: 3 };
    gemm::matmul_nt(
        &cpu,
        size,
        Mat::new(&a, 3),
        Mat::new(&b, 3),
        MatMut::new(&mut c, 2),
        Accumulate::No,
    );
}

#[test]
fn quantised_products_equal_products_of_the_widened_weights() {
    for (m, n, k) in
        [(1, 7, 32), (4, 33, 96), (7, 300, 64), (8, 5, 64), (9, 100, 128), (50, 201, 64)]
    {
        let mut random = Random((m + n + k) as u64);
        let (a, w) = (random.reals(m * k), random.reals(n * k));
        let cpu = milpa_kernels::Cpu::detect(1);
        let mut bytes = vec![0; n * q8_0::row_bytes(k)];
        q8_0::quantize(&cpu, &w, &mut bytes);
        let mut widened = vec![0.0; n * k];
        q8_0::dequantize(&cpu, &bytes, &mut widened);
        let size = Size { m, n, k };
        let (a64, w64) = (doubles(&a), doubles(&widened));
        let product = |a: &[f64], w: &[f64]| {
            let mut out = vec![0.0; m * (n + 2)];
            let view = MatMut::new(&mut out, n + 2);
            reference::matmul_nt(size, Mat::new(a, k), Mat::new(w, k), view, Accumulate::No);
            out
        };
        let (expected, magnitude) = (product(&a64, &w64), product(&sizes(&a64), &sizes(&w64)));
        let dot = expected[0];
        let allowed = rounding(k, &magnitude);
        let dot_allowed = allowed[0];
        check_within(&format!("q8_0 {size:?}"), &[expected], &[allowed], |cpu| {
            let mut c = vec![0.0; m * (n + 2)];
            q8_0::matmul_nt(cpu, size, Mat::new(&a, k), &bytes, MatMut::new(&mut c, n + 2));
            vec![c]
        });
        check_within("q8_0 dot", &[vec![dot]], &[vec![dot_allowed]], |cpu| {
            vec![vec![q8_0::dot(cpu, &bytes[..q8_0::row_bytes(k)], &a[..k])]]
        });
    }
}
