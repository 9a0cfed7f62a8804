//! Matrix products: all layouts, odd sizes, strides, both sides of every path's limit.

use milpa_kernels::{Accumulate, Mat, MatMut, Size, gemm, reference};
use proptest::prelude::*;

use crate::common::{Random, check_within, doubles, rounding, sizes};

#[derive(Clone, Copy, Debug)]
enum Layout {
    Nt,
    Nn,
    Tn,
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
