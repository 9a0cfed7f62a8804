//! Writes random models of both architectures, with what they compute, for
//! `reference/model_export_check.py`:
//!
//! `cargo run --release -p milpa-model --example export_check -- DIR`

#![allow(clippy::print_stdout, reason = "an example talks to its user")]

mod exported;

use std::{error::Error, fs, path::Path};

use exported::{TEXTS, logits, roughen_vectors, tokenizer};
use milpa_base::Seed;
use milpa_model::{
    Device, GgufDescription, GgufFile, GgufFormat, ModelConfig, new_parameters, read_gguf,
    weights_bytes, write_gguf, write_hf_model,
};
use milpa_tokens::ChatTemplate;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("give the folder to write to")?;
    for (name, qk_norm) in [("qwen3", true), ("llama", false)] {
        let dir = Path::new(&dir).join(name);
        fs::create_dir_all(&dir)?;
        write_model(&dir, qk_norm)?;
        println!("wrote {}", dir.display());
    }
    Ok(())
}

fn write_model(dir: &Path, qk_norm: bool) -> Result<(), Box<dyn Error>> {
    let device = Device::cpu(2);
    let tokenizer = tokenizer()?;
    let config = ModelConfig {
        hidden_size: 96,
        layers: 3,
        heads: 4,
        kv_heads: 2,
        head_dim: qk_norm.then_some(48),
        ffn_size: 160,
        // Rounded up, so that some embeddings have no token.
        vocab_size: tokenizer.vocab_size().next_multiple_of(64),
        context_length: 128,
        rope_theta: if qk_norm { 1e6 } else { 1e4 },
        norm_epsilon: if qk_norm { 1e-6 } else { 1e-5 },
        qk_norm,
        tie_embeddings: qk_norm,
        init_std: 0.15,
    };
    let mut parameters = new_parameters(&config, Seed(11), &device)?;
    roughen_vectors(&mut parameters)?;
    write_hf_model(dir, &config, &parameters, tokenizer.eos_id(), tokenizer.bos_id())?;
    let template = ChatTemplate::chatml();
    tokenizer.write_files(dir, &template)?;
    let description = GgufDescription {
        name: format!("check-{}", if qk_norm { "qwen3" } else { "llama" }),
        licence: Some("MIT OR Apache-2.0".to_owned()),
        source_hash: Some(milpa_base::hash_bytes(&weights_bytes(&parameters))),
        languages: vec!["es".to_owned(), "gn".to_owned()],
        chat_template: Some(template.source().to_owned()),
    };
    let gguf = dir.join("model-Q8_0.gguf");
    write_gguf(&gguf, GgufFormat::Q8_0, &config, &parameters, &tokenizer, &description)?;
    let (gguf_config, gguf_parameters, _) = read_gguf(&GgufFile::open(&gguf)?, &device)?;

    let tokens: Vec<u32> = (0..config.context_length as u64)
        .map(|i| (Seed(3).u64_at(i) % tokenizer.vocab_size() as u64) as u32)
        .collect();
    let texts: Vec<_> = TEXTS
        .iter()
        .map(|text| {
            let (plain, special) = (tokenizer.encode(text), tokenizer.encode_with_special(text));
            json!({ "text": text, "plain": plain, "special": special })
        })
        .collect();
    let expected = json!({
        "tokens": tokens,
        "logits": logits(&config, &parameters, &tokens)?,
        "gguf_logits": logits(&gguf_config, &gguf_parameters, &tokens)?,
        "texts": texts,
        "eos": tokenizer.eos_id(),
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim(),
        "source_hash": description.source_hash.map(|hash| hash.to_string()),
    });
    fs::write(dir.join("expected.json"), expected.to_string())?;
    Ok(())
}
