//! Speed of each kernel beside the peaks measured in the same run: `cargo bench -p milpa-kernels`.
//!
//! The shapes are those of a training step of a model of ten million parameters (width 384, 8 query
//! and 4 key heads of 48, feed-forward 1024, vocabulary 8192, 8 sequences of 256). Best of the runs
//! that fit into a moment: other work on the machine then matters little. An argument keeps the
//! lines that contain it: `cargo bench -p milpa-kernels -- attention`.

#![allow(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::time::{Duration, Instant};

use milpa_kernels::attention::{self, AttentionGrads, AttentionInputs, AttentionShape};
use milpa_kernels::optim::{self, AdamW};
use milpa_kernels::quantised::{self, BlockFormat};
use milpa_kernels::{
    Accumulate, Cpu, Element, Heads, HeadsMut, Mat, MatMut, Size, activation, bf16, elementwise,
    embedding, gemm, gemm_bf16, loss, norm, peak, rope,
};

/// How long each kernel is repeated.
const MOMENT: Duration = Duration::from_millis(200);

const BATCH: usize = 8;
const TOKENS: usize = 256;
const ROWS: usize = BATCH * TOKENS;
const WIDTH: usize = 384;
const FEED_FORWARD: usize = 1024;
const VOCAB: usize = 8192;
/// Rows, outputs and inputs of the linear layers.
const PRODUCTS: [(usize, usize, usize); 7] = [
    (ROWS, WIDTH, WIDTH),
    (ROWS, WIDTH / 2, WIDTH),
    (ROWS, FEED_FORWARD, WIDTH),
    (ROWS, WIDTH, FEED_FORWARD),
    (512, VOCAB, WIDTH),
    (ROWS, VOCAB, WIDTH),
    (2048, 2048, 2048),
];

fn main() {
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in if most == 1 { vec![1] } else { vec![1, most] } {
        let cpu = Cpu::detect(threads);
        let peak = peak::measure(&cpu);
        println!(
            "\n{} on {threads} threads: {:.0} GFLOP/s f32, {:.0} bf16, {:.1} GB/s",
            cpu.isa(),
            peak.f32_gflops,
            peak.bf16_gflops,
            peak.read_gbytes
        );
        let bench = Bench { cpu, peak, filter: filter.clone().unwrap_or_default() };
        bench.products();
        bench.bf16_products();
        bench.decoding();
        bench.attention();
        bench.layers();
        bench.optimisers();
    }
}

struct Bench {
    cpu: Cpu,
    peak: peak::Peak,
    filter: String,
}

impl Bench {
    /// Prints arithmetic speed and its share of the measured peak.
    fn flops(&self, name: &str, operations: usize, run: impl FnMut()) {
        self.line(name, operations as f64, self.peak.f32_gflops, "GFLOP/s", run);
    }

    /// Prints memory traffic (each operand once) and its share of the measured read speed; operands
    /// that stay in a cache give more than 100 %.
    fn bytes(&self, name: &str, floats: usize, run: impl FnMut()) {
        self.line(name, 4.0 * floats as f64, self.peak.read_gbytes, "GB/s", run);
    }

    fn line(&self, name: &str, amount: f64, peak: f64, unit: &str, mut run: impl FnMut()) {
        if !name.contains(&self.filter) {
            return;
        }
        let begin = Instant::now();
        let mut best = f64::INFINITY;
        let mut runs = 0;
        // The first run touches fresh memory: it must never be the only one.
        while begin.elapsed() < MOMENT || runs < 4 {
            let begin = Instant::now();
            run();
            best = best.min(begin.elapsed().as_secs_f64());
            runs += 1;
        }
        let speed = amount / best / 1e9;
        let share = 100.0 * speed / peak;
        println!("{name:40} {:9.3} ms {speed:8.1} {unit:7} {share:4.0} %", best * 1e3);
    }

    fn products(&self) {
        let cpu = &self.cpu;
        for (rows, out, inner) in PRODUCTS {
            let (x, w, dy) =
                (vec![0.5; rows * inner], vec![0.25; out * inner], vec![0.1; rows * out]);
            let (mut y, mut dx, mut dw) =
                (vec![0.0; rows * out], vec![0.0; rows * inner], vec![0.0; out * inner]);
            let operations = 2 * rows * out * inner;
            let (x, w, dy) = (Mat::new(&x, inner), Mat::new(&w, inner), Mat::new(&dy, out));
            self.flops(&format!("y = x·Wᵀ   {rows}×{out}×{inner}"), operations, || {
                let size = Size { m: rows, n: out, k: inner };
                gemm::matmul_nt(cpu, size, x, w, MatMut::new(&mut y, out), Accumulate::No);
            });
            self.flops(&format!("dx = dy·W  {rows}×{inner}×{out}"), operations, || {
                let size = Size { m: rows, n: inner, k: out };
                gemm::matmul_nn(cpu, size, dy, w, MatMut::new(&mut dx, inner), Accumulate::No);
            });
            self.flops(&format!("dW += dyᵀ·x {out}×{inner}×{rows}"), operations, || {
                let size = Size { m: out, n: inner, k: rows };
                gemm::matmul_tn(cpu, size, dy, x, MatMut::new(&mut dw, inner), Accumulate::Yes);
            });
        }
    }

    fn bf16_products(&self) {
        let (cpu, peak) = (&self.cpu, self.peak.bf16_gflops);
        for (rows, out, inner) in PRODUCTS {
            let filled = |length: usize| vec![bf16::from_f32(0.25); length];
            let (x, w, dy) = (filled(rows * inner), filled(out * inner), filled(rows * out));
            let (mut y, mut dx) = (filled(rows * out), vec![0.0; rows * inner]);
            let mut dw = vec![0.0; out * inner];
            let operations = (2 * rows * out * inner) as f64;
            let (x, w, dy) = (Mat::new(&x, inner), Mat::new(&w, inner), Mat::new(&dy, out));
            let line = |name: String, run: &mut dyn FnMut()| {
                self.line(&name, operations, peak, "GFLOP/s", run);
            };
            line(format!("bf16 y = x·Wᵀ   {rows}×{out}×{inner}"), &mut || {
                let size = Size { m: rows, n: out, k: inner };
                let y = MatMut::new(&mut y[..], out);
                gemm_bf16::matmul_nt(cpu, size, x, w, y, Accumulate::No);
            });
            line(format!("bf16 dx = dy·W  {rows}×{inner}×{out}"), &mut || {
                let size = Size { m: rows, n: inner, k: out };
                let dx = MatMut::new(&mut dx[..], inner);
                gemm_bf16::matmul_nn(cpu, size, dy, w, dx, Accumulate::No);
            });
            line(format!("bf16 dW += dyᵀ·x {out}×{inner}×{rows}"), &mut || {
                let size = Size { m: out, n: inner, k: rows };
                let dw = MatMut::new(&mut dw[..], inner);
                gemm_bf16::matmul_tn(cpu, size, dy, x, dw, Accumulate::Yes);
            });
        }
    }

    fn decoding(&self) {
        let cpu = &self.cpu;
        let (n, k) = (32 * 1024, 2048);
        let weights = vec![0.25; n * k];
        for m in [1, 4, 8] {
            let x = vec![0.5; m * k];
            let mut y = vec![0.0; m * n];
            let size = Size { m, n, k };
            self.bytes(&format!("decoding f32, {m} rows"), n * k, || {
                let (x, w) = (Mat::new(&x, k), Mat::new(&weights, k));
                gemm::matmul_nt(cpu, size, x, w, MatMut::new(&mut y, n), Accumulate::No);
            });
        }
        for format in BlockFormat::ALL {
            let mut bytes = vec![0; n * format.row_bytes(k)];
            quantised::quantize(cpu, format, &weights, &mut bytes);
            let name = format.name().to_lowercase();
            let x = vec![0.5; 256 * k];
            let mut y = vec![0.0; 256 * n];
            let mut product = |m: usize| {
                let (x, y) = (Mat::new(&x, k), MatMut::new(&mut y, n));
                quantised::matmul_nt(cpu, format, Size { m, n, k }, x, &bytes, y);
            };
            for m in [1, 4, 8] {
                self.bytes(&format!("decoding {name}, {m} rows"), bytes.len() / 4, || product(m));
            }
            self.flops(&format!("prompt {name}, 256 rows"), 2 * 256 * n * k, || product(256));
        }
    }

    fn attention(&self) {
        for (batch, queries, past, heads, kv_heads, head_dim) in [
            (BATCH, TOKENS, 0, 8, 4, 48),
            (2, 1024, 0, 8, 4, 64),
            (1, 1024, 0, 8, 2, 128),
            (1, 1, 4095, 16, 4, 128),
        ] {
            self.attention_of(AttentionShape {
                batch,
                queries,
                past,
                heads,
                kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                window: None,
                soft_cap: None,
            });
        }
    }

    fn attention_of(&self, shape: AttentionShape) {
        let cpu = &self.cpu;
        let AttentionShape { batch, queries, past, heads, kv_heads, head_dim: dim, .. } = shape;
        let keys = past + queries;
        // Two products forward and five backward over the visible pairs alone.
        let pairs = batch * heads * (queries * past + queries * (queries + 1) / 2);
        let name = format!("{batch}×{queries} after {past}, {heads}/{kv_heads} of {dim}");
        macro_rules! of {
            ($prefix:literal, $peak:expr, $element:ty, $forward:path, $backward:path) => {
                let values = |length: usize| -> Vec<$element> {
                    let value = |i: usize| ((i * 7919) % 1013) as f32 / 500.0 - 1.0;
                    (0..length).map(|i| <$element as Element>::from_f32(value(i))).collect()
                };
                let query_rows = batch * queries * heads * dim;
                let (q, k) = (values(query_rows), values(batch * keys * kv_heads * dim));
                let (v, dout) = (values(k.len()), values(query_rows));
                let (mut out, mut dq) = (values(query_rows), values(query_rows));
                let (mut dk, mut dv) = (values(k.len()), values(k.len()));
                let mut lse = vec![0.0; batch * heads * queries];
                let inputs = AttentionInputs {
                    q: Heads::dense(&q, queries, heads, dim),
                    k: Heads::dense(&k, keys, kv_heads, dim),
                    v: Heads::dense(&v, keys, kv_heads, dim),
                    first_key: None,
                };
                let line = |what: &str, products: usize, run: &mut dyn FnMut()| {
                    let operations = (2 * products * pairs * dim) as f64;
                    let name = format!("{}{what} {name}", $prefix);
                    self.line(&name, operations, $peak, "GFLOP/s", run);
                };
                line("attention", 2, &mut || {
                    let out = HeadsMut::dense(&mut out, queries, heads, dim);
                    $forward(cpu, &shape, &inputs, out, &mut lse);
                });
                if past == 0 {
                    let out = Heads::dense(&out, queries, heads, dim);
                    let dout = Heads::dense(&dout, queries, heads, dim);
                    line("its gradients", 5, &mut || {
                        let grads = AttentionGrads {
                            dq: HeadsMut::dense(&mut dq, queries, heads, dim),
                            dk: HeadsMut::dense(&mut dk, keys, kv_heads, dim),
                            dv: HeadsMut::dense(&mut dv, keys, kv_heads, dim),
                        };
                        $backward(cpu, &shape, &inputs, out, &lse, dout, grads);
                    });
                }
            };
        }
        of!("", self.peak.f32_gflops, f32, attention::forward, attention::backward);
        let peak = self.peak.bf16_gflops;
        of!("bf16 ", peak, bf16, attention::forward_bf16, attention::backward_bf16);
    }

    fn layers(&self) {
        let cpu = &self.cpu;
        let length = ROWS * WIDTH;
        let (x, dy, weight) = (vec![0.5; length], vec![0.1; length], vec![1.0; WIDTH]);
        let (mut y, mut dx, mut dw) = (vec![0.0; length], vec![0.0; length], vec![0.0; WIDTH]);
        let mut inverse = vec![0.0; ROWS];
        self.bytes("norm", 2 * length, || {
            norm::rms_norm_forward(cpu, WIDTH, 1e-5, &x, &weight, &mut y, &mut inverse);
        });
        self.bytes("add and norm", 4 * length, || {
            norm::add_rms_norm_forward(
                cpu,
                WIDTH,
                1e-5,
                &mut dx,
                &x,
                &weight,
                &mut y,
                &mut inverse,
            );
        });
        self.bytes("norm gradients", 4 * length, || {
            let add = Accumulate::Yes;
            norm::rms_norm_backward(cpu, WIDTH, &x, &weight, &inverse, &dy, &mut dx, add, &mut dw);
        });
        let (head_weight, mut head_inverse) = (vec![1.0; 48], vec![0.0; ROWS * 8]);
        self.bytes("norm of heads", 2 * length, || {
            norm::rms_norm_forward(cpu, 48, 1e-5, &x, &head_weight, &mut y, &mut head_inverse);
        });
        let mut head_dw = vec![0.0; 48];
        self.bytes("norm of heads, gradients", 3 * length, || {
            let no = Accumulate::No;
            norm::rms_norm_backward(
                cpu,
                48,
                &x,
                &head_weight,
                &head_inverse,
                &dy,
                &mut dx,
                no,
                &mut head_dw,
            );
        });
        let (cos, sin) = rope::tables(&rope::inverse_frequencies(48, 10_000.0), TOKENS);
        let positions: Vec<u32> = (0..ROWS).map(|row| (row % TOKENS) as u32).collect();
        self.bytes("rotary positions", 2 * length, || {
            rope::rope_forward(cpu, 8, 48, 48, &cos, &sin, &positions, &mut dx);
        });
        let length = ROWS * FEED_FORWARD;
        let (gate, up, dout) = (vec![0.5; length], vec![0.3; length], vec![0.1; length]);
        let (mut out, mut dgate, mut dup) =
            (vec![0.0; length], vec![0.0; length], vec![0.0; length]);
        self.bytes("swiglu", 3 * length, || activation::swiglu_forward(cpu, &gate, &up, &mut out));
        self.bytes("swiglu gradients", 5 * length, || {
            activation::swiglu_backward(cpu, &gate, &up, &dout, &mut dgate, &mut dup);
        });
        self.bytes("add", 3 * length, || elementwise::add(cpu, &gate, &up, &mut out));
        self.bytes("sum of squares", length, || {
            std::hint::black_box(elementwise::sum_of_squares(cpu, &gate));
        });
        let table = vec![0.5; VOCAB * WIDTH];
        let ids: Vec<u32> = (0..ROWS).map(|row| (row * 7919 % VOCAB) as u32).collect();
        let mut dtable = vec![0.0; VOCAB * WIDTH];
        self.bytes("embedding", 2 * ROWS * WIDTH, || {
            embedding::gather(cpu, WIDTH, &table, &ids, &mut y);
        });
        self.bytes("embedding gradient", 3 * ROWS * WIDTH, || {
            embedding::scatter_add(cpu, WIDTH, &ids, &x, &mut dtable);
        });
        let mut logits = vec![0.5; 512 * VOCAB];
        let (scale, mut losses) = (vec![1e-3; 512], vec![0.0; 512]);
        self.bytes("cross-entropy, 512 rows", 2 * 512 * VOCAB, || {
            loss::cross_entropy(cpu, VOCAB, &mut logits, &ids[..512], &scale, &mut losses, None);
        });
    }

    fn optimisers(&self) {
        let cpu = &self.cpu;
        let length = 12_880_000;
        let (gradients, mut weights) = (vec![0.1; length], vec![0.5; length]);
        let (mut first, mut second) = (vec![0.0; length], vec![0.0; length]);
        let settings = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.1,
            step: 10,
        };
        self.bytes("adamw, 12.9M weights", 7 * length, || {
            optim::adamw_step(
                cpu,
                &settings,
                1.0,
                &mut weights,
                &gradients,
                &mut first,
                &mut second,
            );
        });
        let mut matrix = vec![0.1; FEED_FORWARD * WIDTH];
        for (i, value) in matrix.iter_mut().enumerate() {
            *value += ((i * 7919) % 1013) as f32 / 1000.0;
        }
        let mut scratch = vec![0.0; optim::newton_schulz_scratch(FEED_FORWARD, WIDTH)];
        let operations = 5 * 2 * (2 * WIDTH * WIDTH * FEED_FORWARD + WIDTH * WIDTH * WIDTH);
        self.flops("newton-schulz 1024×384", operations, || {
            optim::newton_schulz(cpu, FEED_FORWARD, WIDTH, 5, &mut matrix, &mut scratch);
        });
    }
}
