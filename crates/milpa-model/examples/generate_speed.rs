//! Measures reading a prompt and decoding, in f32 and in Q8_0, for the shape of `train_speed`.
//!
//! `cargo run --release -p milpa-model --example generate_speed -- [THREADS]`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

use std::{error::Error, sync::Arc, time::Instant};

use milpa_base::Seed;
use milpa_model::{
    CpuDevice, Decoder, Device, ModelConfig, ParameterStore, TokenBatch, new_parameters,
};
use milpa_tensor::{BlockFormat, Tape, quantised};

const PROMPT: usize = 512;
const NEW_TOKENS: usize = 128;

fn main() -> Result<(), Box<dyn Error>> {
    let threads = std::env::args().nth(1).map_or(Ok(2), |argument| argument.parse())?;
    let cpu = Arc::new(CpuDevice::new(threads));
    let device = Device::Cpu(Arc::clone(&cpu));
    let config = ModelConfig { vocab_size: 8192, context_length: 1024, ..ModelConfig::default() };
    let plain = new_parameters(&config, Seed(1), &device)?;
    let mut rounded = ParameterStore::new(device.clone());
    for parameter in &plain {
        let values = plain.read(plain.id(parameter.name()).ok_or("its own name")?);
        let shape = parameter.shape();
        if shape.lengths().len() == 2 {
            let format = BlockFormat::Q8_0;
            let mut bytes = vec![0; shape.rows() * format.row_bytes(shape.last())];
            quantised::quantize(cpu.cpu(), format, &values, &mut bytes);
            rounded.add_quantised(parameter.name(), shape.lengths(), format, bytes)?;
        } else {
            rounded.add(parameter.name(), shape.lengths(), &values, false)?;
        }
    }
    for (name, parameters) in [("f32", &plain), ("Q8_0", &rounded)] {
        let decoder = Decoder::new(&config, parameters)?;
        let (mut reading, mut writing) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..3 {
            let (read, write) = measure(&decoder, parameters)?;
            reading = reading.min(read);
            writing = writing.min(write);
        }
        println!(
            "{name}: {PROMPT} prompt tokens at {:.0} tokens/s, then {NEW_TOKENS} new ones at {:.0} \
             tokens/s (best of 3, {})",
            PROMPT as f64 / reading,
            NEW_TOKENS as f64 / writing,
            device.name()
        );
    }
    Ok(())
}

/// Seconds for the prompt and for the new tokens.
fn measure(decoder: &Decoder, parameters: &ParameterStore) -> Result<(f64, f64), Box<dyn Error>> {
    let tape = Tape::inference(parameters.device().clone());
    let mut cache = decoder.new_cache(parameters.device(), 1, PROMPT + NEW_TOKENS);
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| i * 37 % 8192).collect();
    let begin = Instant::now();
    let batch = TokenBatch::new(&prompt, PROMPT);
    let hidden = decoder.forward_cached(&tape, parameters, &batch, &mut cache)?;
    let mut logits = decoder.logits(&tape, parameters, &hidden, &[PROMPT as u32 - 1])?;
    let reading = begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    for _ in 0..NEW_TOKENS {
        let values = tape.read(&logits);
        let best = (0..values.len()).max_by(|&a, &b| values[a].total_cmp(&values[b]));
        let token = [best.unwrap_or(0) as u32];
        let batch = TokenBatch::new(&token, 1);
        let hidden = decoder.forward_cached(&tape, parameters, &batch, &mut cache)?;
        logits = decoder.logits(&tape, parameters, &hidden, &[0])?;
    }
    Ok((reading, begin.elapsed().as_secs_f64()))
}
