//! Measures a training step: forward, backward and AdamW with clipping, in f32.
//!
//! Shape: width 384, 6 layers, 8 query and 4 key-value heads of 48, feed-forward 1024, vocabulary
//! 8192, batches of 8 sequences of 256 tokens.
//!
//! `cargo run --release -p milpa-model --example train_speed -- [THREADS [STEPS]]`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::{error::Error, sync::Arc, time::Instant};

use milpa_base::{
    Seed,
    units::{binary_bytes, si},
};
use milpa_model::{CpuDevice, Decoder, Device, LossRows, ModelConfig, TokenBatch, new_parameters};
use milpa_tensor::{AdamW, Buffer, clip_factor};

const SEQUENCES: usize = 8;
const TOKENS: usize = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<usize>());
    let threads = numbers.next().unwrap_or(Ok(2))?;
    let steps = numbers.next().unwrap_or(Ok(10))?;
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(threads));
    for qk_norm in [false, true] {
        measure(&device, qk_norm, steps)?;
    }
    Ok(())
}

fn measure(device: &Arc<dyn Device>, qk_norm: bool, steps: usize) -> Result<(), Box<dyn Error>> {
    let config = ModelConfig {
        vocab_size: 8192,
        context_length: TOKENS,
        norm_epsilon: 1e-5,
        qk_norm,
        ..ModelConfig::default()
    };
    let mut parameters = new_parameters(&config, Seed(1), device)?;
    let decoder = Decoder::new(&config, &parameters)?;
    let mut moments: Vec<[Buffer; 2]> = parameters
        .iter()
        .map(|p| [0, 1].map(|_| device.upload(&vec![0.0; p.shape().elements()])))
        .collect();
    let count = SEQUENCES * TOKENS;
    let (mut times, mut parts) = (Vec::new(), [0.0; 2]);
    println!(
        "{} on {}: {} parameters",
        if qk_norm { "qwen3" } else { "llama" },
        device.name(),
        si(config.parameters() as f64)
    );
    for step in 0..steps as u64 {
        let stream: Vec<u32> = (0..=count as u64)
            .map(|i| (8192.0 * Seed(9).nth(step).f64_at(i).powi(3)) as u32)
            .collect();
        let begin = Instant::now();
        let batch = TokenBatch::new(&stream[..count], TOKENS);
        let rows = LossRows::mean(&stream[1..]);
        let summary = decoder.loss_and_gradients(&mut parameters, &batch, &rows)?;
        let passes = begin.elapsed().as_secs_f64();
        let factor = clip_factor(parameters.grad_norm(), 1.0);
        for (parameter, [first, second]) in parameters.iter_mut().zip(&mut moments) {
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
        let whole = begin.elapsed().as_secs_f64();
        println!("step {step} loss {:.4} {:.1} ms", summary.loss, whole * 1e3);
        if step > 1 {
            times.push(whole);
            parts[0] += passes;
            parts[1] += whole - passes;
        }
    }
    times.sort_by(f64::total_cmp);
    if let (Some(best), Some(median)) = (times.first(), times.get(times.len() / 2)) {
        let flops = config.training_flops_per_token(TOKENS) * count as f64;
        println!(
            "median {:.1} ms, best {:.1} ms: {:.0} and {:.0} tokens/s, {:.0} GFLOP/s at best; \
             passes {:.1} ms, optimiser {:.1} ms",
            median * 1e3,
            best * 1e3,
            count as f64 / median,
            count as f64 / best,
            flops / best / 1e9,
            parts[0] / times.len() as f64 * 1e3,
            parts[1] / times.len() as f64 * 1e3,
        );
    }
    let memory = device.memory();
    println!(
        "device memory: most in use {}, kept idle {}, {} allocations; process peak {}",
        binary_bytes(memory.peak_live_bytes as u64),
        binary_bytes(memory.idle_bytes as u64),
        memory.allocations,
        peak_resident().map_or_else(|| "unknown".to_owned(), binary_bytes),
    );
    Ok(())
}

/// Most memory that this process ever had, where Linux tells.
fn peak_resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
