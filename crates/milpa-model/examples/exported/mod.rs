//! What the examples that write models for the peers have in common: texts, their tokenizer, logits.

use std::error::Error;

use milpa_base::{Seed, Silent, StopFlag, TextRecord};
use milpa_model::{Decoder, DecoderDescription, ParameterStore, TokenBatch};
use milpa_tensor::Tape;
use milpa_tokens::{Context, Tokenizer, TokenizerConfig, train_tokenizer};

/// Spanish, Portuguese, Quechua, Guaraní and Nahuatl; white space and emoji; special tokens.
pub(crate) const TEXTS: [&str; 7] = [
    "La milpa da maíz, frijol y calabaza. ¿Cuánto cuesta? $1.250,00 en 2024.",
    "O milho cresce na roça; não há feijão às terças-feiras.",
    "Sara chakrapi wiñan, ñuqanchikpas llamk'anchik.",
    "Avati okakuaa kokuépe, g̃uarani ñe'ẽ pohýi.",
    "In milpan oncah cintli, etl ihuan ayohtli; tlazohcamati huel miac.",
    "  tabs\tand\r\nlines\n\n\n  end  🌽👩‍🌾",
    "<|im_start|>user\nHola<|im_end|>\n",
];

/// Logits after each of the tokens.
pub(crate) fn logits(
    model: impl Into<DecoderDescription>,
    parameters: &ParameterStore,
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>, Box<dyn Error>> {
    let decoder = Decoder::new(model, parameters)?;
    let tape = Tape::inference(parameters.device().clone());
    let batch = TokenBatch::new(tokens, tokens.len());
    let hidden = decoder.forward_hidden(&tape, parameters, &batch)?;
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let logits = tape.read(&decoder.logits(&tape, parameters, &hidden, &rows)?);
    Ok(logits.chunks(decoder.description().vocab_size).map(<[f32]>::to_vec).collect())
}

/// A tokenizer trained on the texts.
pub(crate) fn tokenizer() -> Result<Tokenizer, Box<dyn Error>> {
    let mut records = (0..60).map(|i: usize| {
        let text = TEXTS[i % 6].to_owned();
        Ok(TextRecord { id: i.to_string(), source: "check".to_owned(), text })
    });
    let config = TokenizerConfig { vocab_size: 400, ..TokenizerConfig::default() };
    let context = Context { threads: 1, progress: &Silent, stop: &StopFlag::default() };
    Ok(train_tokenizer(&config, &mut records, &context)?.tokenizer)
}

/// Gives norms values other than one and biases other than zero, so that a forgotten one is seen.
pub(crate) fn roughen_vectors(parameters: &mut ParameterStore) -> Result<(), Box<dyn Error>> {
    let vectors: Vec<_> = parameters
        .iter()
        .filter(|parameter| parameter.shape().lengths().len() == 1)
        .filter_map(|parameter| {
            let is_bias = parameter.name().rsplit('.').next() == Some("bias");
            let middle = if is_bias { 0.0 } else { 1.0 };
            Some((parameters.id(parameter.name())?, middle))
        })
        .collect();
    for (id, middle) in vectors {
        let seed = Seed(id.index() as u64);
        let values: Vec<f32> = (0..parameters.get(id).shape().elements() as u64)
            .map(|i| middle + 0.3 * seed.normal_at(i) as f32)
            .collect();
        parameters.write(id, &values)?;
    }
    Ok(())
}
