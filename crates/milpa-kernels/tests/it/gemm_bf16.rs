//! bf16 products against the scalar twin on the widened values: all layouts, odd sizes, strides.

use milpa_kernels::{Accumulate, Element, Mat, MatMut, Size, bf16, gemm_bf16, reference};
use proptest::prelude::*;

use crate::common::{Random, check_within, doubles};

#[derive(Clone, Copy, Debug)]
enum Layout {
    Nt,
    Nn,
    Tn,
}

fn narrow(x: &[f32]) -> Vec<bf16> {
    x.iter().map(|&value| bf16::from_f32(value)).collect()
}

fn widened(x: &[bf16]) -> Vec<f64> {
    x.iter().map(|&value| f64::from(value.to_f32())).collect()
}

/// C in bf16 is compared after widening, so that `check_within` compares bits of both.
fn check_product<C: Element>(layout: Layout, size: Size, pads: [usize; 3], accumulate: Accumulate) {
    let Size { m, n, k } = size;
    let (a_rows, a_columns, b_rows, b_columns) = match layout {
        Layout::Nt => (m, k, n, k),
        Layout::Nn => (m, k, k, n),
        Layout::Tn => (k, m, k, n),
    };
    let (lda, ldb, ldc) = (a_columns + pads[0], b_columns + pads[1], n + pads[2]);
    let mut random = Random((m * 1_000_003 + n * 1009 + k) as u64);
    let (a, b) = (narrow(&random.reals(a_rows * lda)), narrow(&random.reals(b_rows * ldb)));
    let c: Vec<C> = random.reals(m * ldc).iter().map(|&value| C::from_f32(value)).collect();
    let wide = |c: &[C]| c.iter().map(|value| value.to_f32()).collect::<Vec<f32>>();
    let (a64, b64, mut c64) = (widened(&a), widened(&b), doubles(&wide(&c)));
    let twin = match layout {
        Layout::Nt => reference::matmul_nt::<f64>,
        Layout::Nn => reference::matmul_nn,
        Layout::Tn => reference::matmul_tn,
    };
    let sizes = |x: &[f64]| x.iter().map(|value| value.abs()).collect::<Vec<f64>>();
    let (mut magnitude, a_sizes, b_sizes) = (sizes(&c64), sizes(&a64), sizes(&b64));
    let (a_sizes, b_sizes) = (Mat::new(&a_sizes, lda), Mat::new(&b_sizes, ldb));
    twin(size, a_sizes, b_sizes, MatMut::new(&mut magnitude, ldc), accumulate);
    twin(size, Mat::new(&a64, lda), Mat::new(&b64, ldb), MatMut::new(&mut c64, ldc), accumulate);
    // Sums in f32 as for f32 products (products of bf16 are exact in f32), then half an ulp of C.
    let factor = 4.0 * (k.max(1) as f64).sqrt() * 2.0_f64.powi(-24);
    let last = if size_of::<C>() == 2 { 2.0_f64.powi(-8) } else { 0.0 };
    let allowed: Vec<f64> = magnitude
        .iter()
        .zip(&c64)
        .map(|(magnitude, c)| factor * magnitude + last * c.abs())
        .collect();
    let what = format!("{layout:?} {size:?} pads {pads:?} {accumulate:?}");
    check_within(&what, &[c64], &[allowed], |cpu| {
        let mut c = c.clone();
        let kernel = match layout {
            Layout::Nt => gemm_bf16::matmul_nt,
            Layout::Nn => gemm_bf16::matmul_nn,
            Layout::Tn => gemm_bf16::matmul_tn,
        };
        let out = MatMut::new(&mut c[..], ldc);
        kernel(cpu, size, Mat::new(&a, lda), Mat::new(&b, ldb), out, accumulate);
        vec![wide(&c)]
    });
}

const LAYOUTS: [Layout; 3] = [Layout::Nt, Layout::Nn, Layout::Tn];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn products_of_any_size(
        m in 1_usize..70, n in 1_usize..120, k in 1_usize..90,
        layout in prop::sample::select(LAYOUTS.to_vec()),
        pads in prop::array::uniform3(0_usize..5),
        add in any::<bool>(),
    ) {
        let accumulate = if add { Accumulate::Yes } else { Accumulate::No };
        check_product::<f32>(layout, Size { m, n, k }, pads, accumulate);
        check_product::<bf16>(layout, Size { m, n, k }, pads, Accumulate::No);
    }
}

#[test]
fn products_beyond_one_block() {
    for layout in LAYOUTS {
        for (m, n, k) in [(133, 259, 1100), (40, 777, 1025), (600, 50, 2300), (9, 16, 4000)] {
            check_product::<f32>(layout, Size { m, n, k }, [0, 4, 1], Accumulate::Yes);
            check_product::<f32>(layout, Size { m, n, k }, [2, 3, 1], Accumulate::No);
            check_product::<bf16>(layout, Size { m, n, k }, [0, 4, 1], Accumulate::No);
        }
    }
}

#[test]
fn empty_products() {
    for layout in LAYOUTS {
        for (m, n, k) in [(0, 5, 3), (5, 0, 3), (5, 3, 0), (20, 30, 0)] {
            check_product::<f32>(layout, Size { m, n, k }, [0, 0, 0], Accumulate::No);
            check_product::<f32>(layout, Size { m, n, k }, [0, 0, 0], Accumulate::Yes);
            check_product::<bf16>(layout, Size { m, n, k }, [0, 0, 0], Accumulate::No);
        }
    }
}

#[test]
#[should_panic(expected = "added to in f32")]
fn bf16_sums_are_not_added_to() {
    let cpu = milpa_kernels::Cpu::detect(1);
    let (a, b, mut c) = ([bf16::ONE; 4], [bf16::ONE; 4], [bf16::ZERO; 4]);
    let size = Size { m: 2, n: 2, k: 2 };
    let out = MatMut::new(&mut c[..], 2);
    gemm_bf16::matmul_nt(&cpu, size, Mat::new(&a, 2), Mat::new(&b, 2), out, Accumulate::Yes);
}
