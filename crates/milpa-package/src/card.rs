//! The model card: `README.md` with the front matter that the Hugging Face hub reads.
//!
//! Numbers and texts of a person go in as they are given; nothing here knows how they came about.

use std::fmt::Write as _;

use milpa_base::{Digest, units::si};
use milpa_model::DecoderDescription;
use serde::{Deserialize, Serialize};

use crate::config::PackageConfig;

/// One measured number for the card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// What was measured, with its unit: "bits per byte", "accuracy".
    pub measure: String,
    /// On what: a source of the validation split, a task with its version.
    pub on: String,
    /// Which weights, where it is not the whole bundle: "f32", "Q8_0".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// The number.
    pub value: f64,
    /// Ends of the 95 % confidence interval, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
}

/// What the card tells besides the configuration.
pub(crate) struct Facts<'a> {
    pub(crate) name: &'a str,
    pub(crate) model: &'a DecoderDescription,
    /// Whether the chat template is that of a model that only continues text.
    pub(crate) continues: bool,
    pub(crate) data_licences: &'a [String],
    pub(crate) trained_tokens: Option<u64>,
    pub(crate) measurements: &'a [Measurement],
    /// Name and hash of what the bundle was made from and of its weights.
    pub(crate) hashes: &'a [(&'a str, Digest)],
    pub(crate) gguf_files: &'a [String],
}

/// Writes the card.
pub(crate) fn write(config: &PackageConfig, facts: &Facts<'_>) -> String {
    let mut card = front_matter(config, facts);
    let _ = write!(card, "\n# {}\n\n", facts.name);
    if !config.description.trim().is_empty() {
        let _ = write!(card, "{}\n\n", config.description.trim());
    }
    if facts.continues {
        card.push_str(
            "This is a base model: it continues text, it has not learnt to answer questions, and \
             it may make things up.\n\n",
        );
    }
    shape(&mut card, facts);
    measurements(&mut card, facts.measurements);
    usage(&mut card, facts);
    licences(&mut card, config, facts);
    provenance(&mut card, facts);
    card
}

fn front_matter(config: &PackageConfig, facts: &Facts<'_>) -> String {
    // Names, licences and codes have been checked to be plain words; YAML 1.2 still reads words
    // such as `no` (Norwegian) as something else in old parsers, so they are quoted.
    let mut text = "---\n".to_owned();
    if !config.languages.is_empty() {
        text.push_str("language:\n");
        for code in &config.languages {
            let _ = writeln!(text, "- \"{code}\"");
        }
    }
    if let Some(licence) = &config.licence {
        let _ = writeln!(text, "license: \"{}\"", licence.to_lowercase());
    }
    let _ = writeln!(text, "library_name: transformers\npipeline_tag: text-generation");
    let _ = writeln!(text, "model_name: \"{}\"", facts.name);
    text.push_str("tags:\n- milpa\n---\n");
    text
}

fn shape(card: &mut String, facts: &Facts<'_>) {
    let model = facts.model;
    card.push_str("## Shape\n\n| | |\n|---|---|\n");
    let mut row = |name: &str, value: String| {
        let _ = writeln!(card, "| {name} | {value} |");
    };
    row("Parameters", si(model.parameters() as f64));
    row("of these outside the embedding", si(model.non_embedding_parameters() as f64));
    row("Layers × width", format!("{} × {}", model.layers.len(), model.hidden_size));
    row("Heads (key and value heads)", format!("{} ({})", model.heads, model.kv_heads));
    row("Context", format!("{} tokens", model.context_length));
    row("Vocabulary", format!("{} tokens", model.vocab_size));
    if let Some(tokens) = facts.trained_tokens {
        row("Trained on", format!("{} tokens", si(tokens as f64)));
    }
    card.push('\n');
}

fn measurements(card: &mut String, measurements: &[Measurement]) {
    if measurements.is_empty() {
        return;
    }
    card.push_str("## Measured\n\n| Measure | On | Weights | Value | 95 % interval |\n");
    card.push_str("|---|---|---|---:|---:|\n");
    for row in measurements {
        let interval =
            row.interval.map(|(low, high)| format!("{low:.4} – {high:.4}")).unwrap_or_default();
        let _ = writeln!(
            card,
            "| {} | {} | {} | {:.4} | {interval} |",
            cell(&row.measure),
            cell(&row.on),
            cell(row.weights.as_deref().unwrap_or_default()),
            row.value,
        );
    }
    card.push('\n');
}

/// A text that stays in its cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace(['\n', '\r'], " ")
}

fn usage(card: &mut String, facts: &Facts<'_>) {
    card.push_str(
        "## Use\n\nIn this folder:\n\n```sh\nmilpa chat .\nmilpa serve .   # OpenAI-compatible, \
         with a chat page\n```\n\n```python\nfrom transformers import AutoModelForCausalLM, \
         AutoTokenizer\nmodel = AutoModelForCausalLM.from_pretrained(\".\")\ntokenizer = \
         AutoTokenizer.from_pretrained(\".\")\n```\n\n",
    );
    for file in facts.gguf_files {
        let _ = write!(card, "`{file}` is the same model for llama.cpp and Ollama.\n\n");
    }
}

fn licences(card: &mut String, config: &PackageConfig, facts: &Facts<'_>) {
    card.push_str("## Licence\n\n");
    match &config.licence {
        Some(licence) => {
            let _ = write!(card, "Weights: {licence}.");
        }
        None => card.push_str("No licence has been given for the weights."),
    }
    if !facts.data_licences.is_empty() {
        let _ = write!(card, " Licences of the training data: {}.", facts.data_licences.join(", "));
    }
    card.push_str("\n\n");
}

fn provenance(card: &mut String, facts: &Facts<'_>) {
    card.push_str("## Provenance\n\n| | BLAKE3 |\n|---|---|\n");
    for (name, digest) in facts.hashes {
        let _ = writeln!(card, "| {name} | `{digest}` |");
    }
    let _ = write!(
        card,
        "\nMade with milpa {}; `manifest.toml` holds the configuration and the hash of each file.\n",
        env!("CARGO_PKG_VERSION")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_cannot_be_broken_out_of() {
        let mut card = String::new();
        let row = Measurement {
            measure: "bits | per\nbyte".to_owned(),
            on: "x".to_owned(),
            weights: None,
            value: 1.0,
            interval: Some((0.5, 1.5)),
        };
        measurements(&mut card, &[row]);
        assert!(
            card.ends_with("| bits \\| per byte | x |  | 1.0000 | 0.5000 – 1.5000 |\n\n"),
            "{card}"
        );
    }
}
