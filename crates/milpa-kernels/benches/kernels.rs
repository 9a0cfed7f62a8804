//! Speed of each kernel beside the peak measured in the same run: `cargo bench -p milpa-kernels`.
#![allow(clippy::print_stdout)]
use milpa_kernels::*;
use std::time::Instant;
fn best(mut f: impl FnMut()) -> f64 {
    let mut b = f64::INFINITY;
    let t0 = Instant::now();
    let mut n = 0;
    while n < 5 || t0.elapsed().as_secs_f64() < 0.15 {
        let t = Instant::now();
        f();
        b = b.min(t.elapsed().as_secs_f64());
        n += 1;
    }
    b
}
fn main() {
    for threads in [1, 2] {
        let cpu = Cpu::detect(threads);
        let peak = peak::f32_gflops(&cpu);
        println!("threads {threads} {} peak {peak:.0} GFLOP/s", cpu.isa());
        for (m, n, k) in [
            (2048, 384, 384),
            (2048, 1024, 384),
            (2048, 384, 1024),
            (2048, 192, 384),
            (512, 8192, 384),
            (2048, 8192, 384),
        ] {
            let x = vec![0.5f32; m * k];
            let w = vec![0.25f32; n * k];
            let mut y = vec![0f32; m * n];
            let mut dx = vec![0f32; m * k];
            let mut dw = vec![0f32; n * k];
            let gf = 2.0 * (m * n * k) as f64 / 1e9;
            let nt = gf
                / best(|| {
                    gemm::matmul_nt(
                        &cpu,
                        Size { m, n, k },
                        Mat::new(&x, k),
                        Mat::new(&w, k),
                        MatMut::new(&mut y, n),
                        Accumulate::No,
                    )
                });
            let nn = gf
                / best(|| {
                    gemm::matmul_nn(
                        &cpu,
                        Size { m, n: k, k: n },
                        Mat::new(&y, n),
                        Mat::new(&w, k),
                        MatMut::new(&mut dx, k),
                        Accumulate::No,
                    )
                });
            let tn = gf
                / best(|| {
                    gemm::matmul_tn(
                        &cpu,
                        Size { m: n, n: k, k: m },
                        Mat::new(&y, n),
                        Mat::new(&x, k),
                        MatMut::new(&mut dw, k),
                        Accumulate::Yes,
                    )
                });
            println!(
                "{m}x{n}x{k}: nt {nt:.0} ({:.0}%) nn {nn:.0} ({:.0}%) tn {tn:.0} ({:.0}%)",
                nt / peak * 100.,
                nn / peak * 100.,
                tn / peak * 100.
            );
        }
    }
}
