//! Measures training steps (forward, backward, clipping, AdamW) or forward passes on a model and
//! tokens that any language can make again: weights and tokens are SplitMix64 of a counter.
//!
//! Weight tensor number t (in the order of Hugging Face's files) is `(2u − 1)·√3·0.02` with
//! `u(i) = (splitmix64(seed·2³² + i) >> 40)·2⁻²⁴` and seed `1000 + t`; norms are ones. Token i is
//! `⌊vocabulary·u³⌋` of seed 1999, its target the token after it.
//!
//! `cargo run --release -p milpa-model --example train_step -- --dtype bf16 --steps 10 --json`;
//! flags as in the peer that `cargo xtask bench train` runs beside it. With `--profile` a table of the
//! kernels follows: calls, milliseconds and share of a step, and for products the rate.

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::{collections::BTreeMap, error::Error, time::Instant};

use milpa_base::seed::splitmix64;
use milpa_kernels::{Isa, peak};
use milpa_model::{
    CpuDevice, Decoder, Device, LossRows, ModelConfig, ParameterStore, TokenBatch, parameter_specs,
};
use milpa_tensor::{AdamW, Buffer, DType, KernelTime, clip_factor};
use serde_json::json;

type Failure = Box<dyn Error>;

struct Options {
    config: ModelConfig,
    tokens: usize,
    sequences: usize,
    dtype: DType,
    threads: usize,
    steps: usize,
    warmup: usize,
    isa: Option<String>,
    forward_only: bool,
    peak: bool,
    profile: bool,
    json: bool,
}

impl Options {
    fn parse() -> Result<Self, Failure> {
        let config = ModelConfig {
            norm_epsilon: 1e-5,
            qk_norm: false,
            vocab_size: 8192,
            ..Default::default()
        };
        let mut options = Self {
            config,
            tokens: 256,
            sequences: 8,
            dtype: DType::F32,
            threads: 2,
            steps: 8,
            warmup: 3,
            isa: None,
            forward_only: false,
            peak: false,
            profile: false,
            json: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{flag} needs a value"));
            match flag.as_str() {
                "--d-model" => options.config.hidden_size = value()?.parse()?,
                "--layers" => options.config.layers = value()?.parse()?,
                "--heads" => options.config.heads = value()?.parse()?,
                "--kv-heads" => options.config.kv_heads = value()?.parse()?,
                "--ffn" => options.config.ffn_size = value()?.parse()?,
                "--vocab" => options.config.vocab_size = value()?.parse()?,
                "--seq" => options.tokens = value()?.parse()?,
                "--batch" => options.sequences = value()?.parse()?,
                "--threads" => options.threads = value()?.parse()?,
                "--steps" => options.steps = value()?.parse()?,
                "--warmup" => options.warmup = value()?.parse()?,
                "--isa" => options.isa = Some(value()?),
                "--dtype" => {
                    options.dtype = match value()?.as_str() {
                        "f32" => DType::F32,
                        "bf16" => DType::BF16,
                        other => return Err(format!("--dtype {other}: f32 or bf16").into()),
                    }
                }
                "--qk-norm" => options.config.qk_norm = true,
                "--forward-only" => options.forward_only = true,
                "--peak" => options.peak = true,
                "--profile" => options.profile = true,
                "--json" => options.json = true,
                _ => return Err(format!("unknown flag {flag}").into()),
            }
        }
        options.config.context_length = options.tokens;
        Ok(options)
    }
}

fn main() -> Result<(), Failure> {
    let options = Options::parse()?;
    let isa = match &options.isa {
        None => Isa::detect(),
        Some(name) => *Isa::available()
            .iter()
            .find(|isa| isa.name() == name)
            .ok_or_else(|| format!("this machine has {:?}", Isa::available()))?,
    };
    let cpu_device = CpuDevice::with_isa(options.threads, isa);
    if options.peak {
        let peak = peak::measure(cpu_device.cpu());
        println!(
            "{}",
            json!({ "f32_gflops": peak.f32_gflops, "bf16_gflops": peak.bf16_gflops,
                    "read_gbytes": peak.read_gbytes, "isa": isa.name() })
        );
        return Ok(());
    }
    let device = Device::from(if options.profile { cpu_device.profiled() } else { cpu_device });
    let mut parameters = parameters(&options.config, &device)?;
    let decoder = Decoder::new(&options.config, &parameters)?.autocast(options.dtype);
    let moment = |elements: usize| device.upload(&vec![0.0; elements]);
    let mut moments: Vec<[Buffer; 2]> = if options.forward_only {
        Vec::new()
    } else {
        parameters.iter().map(|p| [0, 1].map(|_| moment(p.shape().elements()))).collect()
    };
    let count = options.sequences * options.tokens;
    let (mut times, mut losses) = (Vec::new(), Vec::new());
    for step in 0..(options.warmup + options.steps) as u64 {
        let tokens = tokens(&options, step);
        let begin = Instant::now();
        let batch = TokenBatch::new(&tokens[..count], options.tokens);
        let loss = if options.forward_only {
            let scores = decoder.score_rows(&parameters, &batch, &tokens[1..])?;
            -scores.log_probabilities.iter().map(|&p| f64::from(p)).sum::<f64>() / count as f64
        } else {
            let rows = LossRows::mean(&tokens[1..]);
            let summary = decoder.loss_and_gradients(&mut parameters, &batch, &rows)?;
            optimise(&device, &mut parameters, &mut moments, step)?;
            summary.loss
        };
        let seconds = begin.elapsed().as_secs_f64();
        losses.push(loss);
        if !options.json {
            println!("step {step} loss {loss:.6} ms {:.1}", seconds * 1e3);
        }
        if step >= options.warmup as u64 {
            times.push(seconds);
        } else {
            device.take_profile();
        }
    }
    if let Some(kernels) = device.take_profile() {
        print_profile(&options, &kernels, times.iter().sum());
    }
    report(&options, isa, &mut times, &losses, &device);
    Ok(())
}

/// Prints calls, time and share of each kernel of an average step, the longest first, and what no kernel took.
fn print_profile(
    options: &Options,
    kernels: &BTreeMap<&'static str, KernelTime>,
    step_seconds: f64,
) {
    let steps = options.steps as f64;
    let mut rows: Vec<_> = kernels.iter().collect();
    rows.sort_by_key(|(_, kernel)| std::cmp::Reverse(kernel.time));
    println!("{:<22}{:>8}{:>10}{:>8}{:>10}", "kernel", "calls", "ms", "share", "GFLOP/s");
    let line = |name: &str, calls: String, seconds: f64, rate: String| {
        let (ms, share) = (seconds / steps * 1e3, seconds / step_seconds * 100.0);
        println!("{name:<22}{calls:>8}{ms:>10.2}{share:>7.1}%{rate:>10}");
    };
    let mut inside = 0.0;
    for (name, kernel) in rows {
        let seconds = kernel.time.as_secs_f64();
        inside += seconds;
        // Each of the three products of a step runs once through all matrices.
        let products = 2.0
            * matrix_elements(&options.config) as f64
            * steps
            * (options.sequences * options.tokens) as f64;
        let rate = if name.starts_with("matmul") {
            format!("{:.0}", products / seconds / 1e9)
        } else {
            String::new()
        };
        line(name, (kernel.calls / options.steps as u64).to_string(), seconds, rate);
    }
    line("between kernels", String::new(), step_seconds - inside, String::new());
}

/// Values of all matrices that tokens are multiplied with.
fn matrix_elements(config: &ModelConfig) -> u64 {
    config.non_embedding_parameters() + (config.vocab_size * config.hidden_size) as u64
}

/// Clips the gradients to norm 1 and takes an AdamW step; norms do not decay.
fn optimise(
    device: &Device,
    parameters: &mut ParameterStore,
    moments: &mut [[Buffer; 2]],
    step: u64,
) -> Result<(), Failure> {
    let factor = clip_factor(parameters.grad_norm(), 1.0);
    for (parameter, [first, second]) in parameters.iter_mut().zip(moments) {
        let settings = AdamW {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: if parameter.decay() { 0.1 } else { 0.0 },
            step: step + 1,
        };
        if let Some((weights, gradient)) = parameter.step()? {
            device.adamw_step(&settings, factor, weights, gradient, first, second);
        }
    }
    parameters.clear_grads();
    Ok(())
}

fn report(options: &Options, isa: Isa, times: &mut [f64], losses: &[f64], device: &Device) {
    times.sort_by(f64::total_cmp);
    let Some(&best) = times.first() else { return };
    let median = f64::midpoint(times[(times.len() - 1) / 2], times[times.len() / 2]);
    let (count, config) = ((options.sequences * options.tokens) as f64, &options.config);
    let passes = if options.forward_only { 3.0 } else { 1.0 };
    // As the peer counts: 6·(N − input embedding), causal attention at half.
    let matrices = matrix_elements(config);
    let attention = config.layers * config.heads * config.head_dim() * options.tokens;
    let flops_per_token = 6.0 * (matrices as f64 + attention as f64) / passes;
    println!(
        "{}",
        json!({
            "isa": isa.name(),
            "dtype": format!("{:?}", options.dtype).to_lowercase(),
            "threads": options.threads,
            "median_ms": median * 1e3,
            "best_ms": best * 1e3,
            "tok_s": count / median,
            "gflops": flops_per_token * count / median / 1e9,
            "flop_per_token": flops_per_token,
            "peak_rss_mb": peak_resident().map(|bytes| bytes >> 20),
            "device_mb": device.memory().peak_live_bytes >> 20,
            "losses": losses,
        })
    );
}

/// `u(i)` of the file's head.
fn uniform(seed: u64, index: u64) -> f64 {
    (splitmix64((seed << 32) + index) >> 40) as f64 / f64::from(1 << 24)
}

fn parameters(config: &ModelConfig, device: &Device) -> Result<ParameterStore, Failure> {
    let mut parameters = ParameterStore::new(device.clone());
    for (number, spec) in parameter_specs(config).into_iter().enumerate() {
        let elements = spec.shape.iter().product::<usize>() as u64;
        let matrix = spec.shape.len() == 2;
        let value =
            |i| ((2.0 * uniform(1000 + number as u64, i) - 1.0) * 3_f64.sqrt() * 0.02) as f32;
        let values: Vec<f32> = (0..elements).map(|i| if matrix { value(i) } else { 1.0 }).collect();
        parameters.add(&spec.name, &spec.shape, &values, matrix)?;
    }
    Ok(parameters)
}

/// The tokens of a step and one more.
fn tokens(options: &Options, step: u64) -> Vec<u32> {
    let count = (options.sequences * options.tokens) as u64;
    let vocabulary = options.config.vocab_size as f64;
    let token = |i: u64| (vocabulary * uniform(1999, step * count + i).powi(3)) as u32;
    (0..=count).map(token).collect()
}

/// Most memory that this process ever had, where Linux tells.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
