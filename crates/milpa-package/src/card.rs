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

/// The model that training went on from, for the card.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Base {
    /// Its name: of a bundle, of a repository on the Hugging Face hub or of a folder.
    pub name: String,
    /// What was chosen at the end, if the run was held against its base.
    pub choice: Option<Choice>,
}

/// What was chosen at the end of continued training, and what it forgot and learned.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Choice {
    /// Most forgetting that the recipe allowed, in %.
    pub limit: Option<f64>,
    /// Name of what was chosen: "final", "average", "0.25 base".
    pub chosen: String,
    /// Why.
    pub reason: String,
    /// Its forgetting and its adaptation.
    pub measurements: Vec<Measurement>,
}

/// What the card tells besides the configuration.
pub(crate) struct Facts<'a> {
    pub(crate) name: &'a str,
    pub(crate) model: &'a DecoderDescription,
    /// The base with the hash of its shape and weights.
    pub(crate) base: Option<(&'a Base, Digest)>,
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
    if let Some((base, digest)) = facts.base {
        goes_on_from(&mut card, base, digest);
    }
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
    if let Some((base, _)) = facts.base {
        let _ = writeln!(text, "base_model: {}", serde_json::Value::from(base.name.as_str()));
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

/// Names the base, and says what was chosen against it.
fn goes_on_from(card: &mut String, base: &Base, digest: Digest) {
    let name = base.name.replace(['`', '\n', '\r'], " ");
    let _ = write!(
        card,
        "## Base\n\nTraining went on from `{name}`, whose shape and weights have the BLAKE3 `{digest}`."
    );
    let Some(Choice { limit, chosen, reason, measurements }) = &base.choice else {
        card.push_str("\n\n");
        return;
    };
    let limit = limit.map_or_else(
        || "without a limit on forgetting".to_owned(),
        |limit| format!("with a limit on forgetting of {limit} %"),
    );
    let _ = write!(
        card,
        " It was held against that base {limit}. Of the candidates `{chosen}` was chosen: \
         {reason}. Forgetting is the rise of the perplexity of held-out general text, adaptation the \
         fall of that of held-out text of the training's own sources.\n\n"
    );
    table(card, measurements);
}

fn measurements(card: &mut String, measurements: &[Measurement]) {
    if measurements.is_empty() {
        return;
    }
    card.push_str("## Measured\n\n");
    table(card, measurements);
}

fn table(card: &mut String, measurements: &[Measurement]) {
    card.push_str("| Measure | On | Weights | Value | 95 % interval |\n");
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
        let of = if facts.base.is_some() {
            "the base and of the text that it was trained and measured with"
        } else {
            "the training data"
        };
        let _ = write!(card, " Licences of {of}: {}.", facts.data_licences.join(", "));
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
