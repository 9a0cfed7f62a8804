//! How a bundle is made (`[package]` in a recipe).

use milpa_base::{Bytes, config::Location};
use milpa_model::GgufFormat;
use milpa_tokens::ChatTemplate;
use serde::{Deserialize, Serialize};

/// Longest name, in characters: the limit of the Hugging Face hub.
const MAX_NAME_CHARS: usize = 96;

/// How a bundle is made (`[package]` in a recipe).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackageConfig {
    /// Name shown to people and in `/v1/models`; the recipe's name if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the model is and what it is for, in Markdown, for the model card.
    pub description: String,
    /// SPDX identifier of the weights' licence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// ISO 639 codes of the languages it was trained on.
    pub languages: Vec<String>,
    /// `continuation`, `chatml`, or the path of a Jinja template; the checkpoint's own if absent: that of
    /// its base, or `continuation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<Location>,
    /// GGUF files to write beside the f32 weights: `F32`, `F16`, `BF16`, `Q8_0`, `Q6_K`, `Q4_K_M` or
    /// `Q4_0`.
    pub quantisations: Vec<GgufFormat>,
    /// What is measured of the quantised files.
    pub measure: MeasureConfig,
}

impl Default for PackageConfig {
    /// The checkpoint as it is, with a Q8_0 file.
    fn default() -> Self {
        Self {
            name: None,
            description: String::new(),
            licence: None,
            languages: Vec::new(),
            chat_template: None,
            quantisations: vec![GgufFormat::Q8_0],
            measure: MeasureConfig::default(),
        }
    }
}

/// What is measured of the quantised files (`[package.measure]`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MeasureConfig {
    /// Validation text that f32 and quantised weights are compared on.
    pub max_bytes: Bytes,
    /// The bundle is refused if a quantised file needs more bits per byte than this above f32.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_added_bits_per_byte: Option<f64>,
}

impl Default for MeasureConfig {
    fn default() -> Self {
        Self { max_bytes: Bytes(64 << 10), max_added_bits_per_byte: None }
    }
}

impl PackageConfig {
    /// Checks the values; an error names the key and says what is wrong.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let bad = |key: &str, message: &str| Err((format!("package.{key}"), message.to_owned()));
        if self.name.as_deref().is_some_and(|name| !is_name(name)) {
            return bad(
                "name",
                "must be 1 to 96 letters, digits, `.`, `_` or `-`, and begin with a letter or digit",
            );
        }
        if self.licence.as_deref().is_some_and(|licence| !is_name(licence)) {
            return bad("licence", "must be an SPDX identifier such as CC-BY-4.0");
        }
        let is_code = |code: &String| {
            (2..=3).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_lowercase())
        };
        if !self.languages.iter().all(is_code) {
            return bad("languages", "must be ISO 639 codes such as \"es\" or \"gn\"");
        }
        if self.chat_template.as_ref().is_some_and(|template| template.written.is_empty()) {
            return bad("chat_template", "must be continuation, chatml or the path of a template");
        }
        let twice = |format: &GgufFormat| {
            self.quantisations.iter().filter(|other| *other == format).count() > 1
        };
        if self.quantisations.iter().any(twice) {
            return bad("quantisations", "names one twice");
        }
        if self.measure.max_added_bits_per_byte.is_some_and(|limit| !(0.0..8.0).contains(&limit)) {
            return bad("measure.max_added_bits_per_byte", "must be between 0 and 8");
        }
        Ok(())
    }

    /// The paths in this configuration, to be resolved.
    pub fn locations_mut(&mut self) -> impl Iterator<Item = &mut Location> {
        let is_path = |template: &&mut Location| ChatTemplate::named(&template.written).is_none();
        self.chat_template.as_mut().filter(is_path).into_iter()
    }
}

/// Whether a name can stand in paths, URLs and YAML as it is.
pub(crate) fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME_CHARS
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use milpa_base::parse_toml;

    use super::*;

    fn check(text: &str, expect: Result<(), &str>) {
        let outcome = parse_toml::<PackageConfig>(text, Path::new("recipe.toml"))
            .map_err(|error| error.to_string())
            .and_then(|config| config.validate().map_err(|(key, _)| key));
        match (outcome, expect) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn a_configuration_is_checked() {
        check("", Ok(()));
        check(
            "name = \"novelas-10m\"\nlicence = \"CC-BY-4.0\"\nlanguages = [\"es\", \"quy\"]\n\
             quantisations = [\"Q8_0\"]\nchat_template = \"chatml\"\n\
             measure = { max_bytes = \"1 MiB\", max_added_bits_per_byte = 0.01 }",
            Ok(()),
        );
        check("name = \"a/b\"", Err("package.name"));
        check("name = \"-a\"", Err("package.name"));
        check("licence = \"my own\"", Err("package.licence"));
        check("languages = [\"español\"]", Err("package.languages"));
        check("quantisations = [\"Q8_0\", \"Q8_0\"]", Err("package.quantisations"));
        check("quantisations = [\"Q4_0\", \"Q4_K_M\", \"Q6_K\", \"BF16\", \"F16\"]", Ok(()));
        check("quantisations = [\"Q5_K\"]", Err("unknown value `Q5_K`"));
        check("chat_template = \"\"", Err("package.chat_template"));
        check("licens = \"MIT\"", Err("licens"));
        check("measure = { max_added_bits_per_byte = -1.0 }", Err("max_added_bits_per_byte"));
    }

    #[test]
    fn only_a_path_is_resolved() {
        let mut config = PackageConfig::default();
        assert_eq!(config.locations_mut().count(), 0);
        config.chat_template = Some(Location::plain("chatml"));
        assert_eq!(config.locations_mut().count(), 0);
        config.chat_template = Some(Location::plain("templates/mine.jinja"));
        assert_eq!(config.locations_mut().count(), 1);
    }
}
