//! Thresholds of the filters, by language and kind of source.
//!
//! The defaults for English are Gopher's and FineWeb's; those of Spanish, Portuguese, Quechua,
//! Guaraní, Aymara and Mapudungun follow FineWeb2's per-language configuration (Penedo et al.
//! 2025). Languages without their own take the wide values of agglutinative ones: a filter made
//! for English would delete them outright.

use std::collections::BTreeMap;

use milpa_text::language::macrolanguage;
use serde::{Deserialize, Serialize};

use crate::config::Preset;

macro_rules! thresholds {
    ($($(#[$doc:meta])* $name:ident = $default:expr;)*) => {
        /// Limits that documents must keep.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Thresholds {
            $($(#[$doc])* pub $name: f64,)*
        }

        impl Default for Thresholds {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// Limits that a recipe sets; the others keep their value.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ThresholdOverrides {
            $($(#[$doc])*
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $name: Option<f64>,)*
        }

        impl ThresholdOverrides {
            fn apply(&self, to: &mut Thresholds) {
                $(if let Some(value) = self.$name { to.$name = value; })*
            }
        }
    };
}

thresholds! {
    /// Least probability of the identified language.
    min_language_confidence = 0.5;
    /// Least number of words.
    min_words = 20.0;
    /// Most words.
    max_words = 100_000.0;
    /// Least mean length of a word in characters.
    min_mean_word_length = 2.0;
    /// Most mean length of a word in characters.
    max_mean_word_length = 25.0;
    /// Least share of words with a letter.
    min_letter_words = 0.7;
    /// Most `#` and ellipses per word.
    max_symbols_per_word = 0.1;
    /// Most share of lines that begin with a bullet.
    max_bullet_lines = 0.9;
    /// Most share of lines that end in an ellipsis.
    max_ellipsis_lines = 0.3;
    /// Least number of different stop words, for languages that have a list.
    min_stop_words = 2.0;
    /// Most share of lines that came before.
    max_repeated_lines = 0.4;
    /// Most share of characters in lines that came before.
    max_repeated_line_chars = 0.3;
    /// Most share of paragraphs that came before.
    max_repeated_paragraphs = 0.3;
    /// Most share of characters in the most frequent run of 2 words.
    max_top_2_gram = 0.85;
    /// Most share of characters in the most frequent run of 3 words.
    max_top_3_gram = 0.5;
    /// Most share of characters in the most frequent run of 4 words.
    max_top_4_gram = 0.4;
    /// Most share of words in runs of 5 that came before.
    max_repeated_5_grams = 0.35;
    /// Most share of words in runs of 10 that came before.
    max_repeated_10_grams = 0.25;
    /// Least share of lines that end a sentence.
    min_sentence_lines = 0.07;
    /// Most share of lines of fewer than 30 characters.
    max_short_lines = 0.8;
    /// Most lines per word.
    max_lines_per_word = 0.4;
}

/// Thresholds of all languages for all kinds of source.
#[derive(Debug, Clone)]
pub struct ThresholdTable {
    web: BTreeMap<String, Thresholds>,
    edited: BTreeMap<String, Thresholds>,
}

impl Default for ThresholdTable {
    fn default() -> Self {
        Self::new(&BTreeMap::new())
    }
}

impl ThresholdTable {
    /// The built-in thresholds with a recipe's overrides: those under `default` first, then those
    /// of the language.
    pub fn new(overrides: &BTreeMap<String, ThresholdOverrides>) -> Self {
        let mut web = built_in();
        for language in overrides.keys().filter(|name| *name != "default") {
            if !web.contains_key(language) {
                // A language of a family starts from the family's thresholds.
                let base = web.get(macrolanguage(language)).unwrap_or(&web["default"]).clone();
                web.insert(language.clone(), base);
            }
        }
        let mut edited = web.clone();
        for thresholds in edited.values_mut() {
            // Edited text is long, has verse and dialogue, and needs no guard against spam.
            thresholds.max_words = f64::INFINITY;
            thresholds.max_repeated_lines = 0.5;
            thresholds.max_repeated_line_chars = 0.5;
            thresholds.min_letter_words = 0.6;
        }
        for table in [&mut web, &mut edited] {
            for (language, thresholds) in table.iter_mut() {
                for name in ["default", language] {
                    if let Some(overrides) = overrides.get(name) {
                        overrides.apply(thresholds);
                    }
                }
            }
        }
        Self { web, edited }
    }

    /// The thresholds for a language: its own, its macrolanguage's, or the default.
    pub fn of(&self, language: &str, preset: Preset) -> &Thresholds {
        let table = match preset {
            Preset::Web | Preset::None => &self.web,
            Preset::Book | Preset::Law => &self.edited,
        };
        table
            .get(language)
            .or_else(|| table.get(macrolanguage(language)))
            .unwrap_or_else(|| &table["default"])
    }
}

fn built_in() -> BTreeMap<String, Thresholds> {
    let wide = Thresholds::default();
    // Gopher's numbers, made for English and fit for languages that are written like it.
    let european = Thresholds {
        min_words: 50.0,
        min_mean_word_length: 3.0,
        max_mean_word_length: 12.0,
        max_repeated_lines: 0.3,
        max_top_2_gram: 0.2,
        max_top_3_gram: 0.18,
        max_top_4_gram: 0.16,
        max_repeated_5_grams: 0.15,
        max_repeated_10_grams: 0.1,
        min_sentence_lines: 0.12,
        max_short_lines: 0.75,
        max_lines_per_word: 0.3,
        ..wide.clone()
    };
    // Without spaces, each letter is a word.
    let spaceless = Thresholds {
        min_words: 60.0,
        min_mean_word_length: 0.5,
        max_words: 400_000.0,
        max_top_2_gram: 0.2,
        max_short_lines: 0.9,
        ..wide.clone()
    };
    let mut table = BTreeMap::new();
    let mut put = |names: &str, thresholds: &Thresholds| {
        for name in names.split(' ') {
            table.insert(name.to_owned(), thresholds.clone());
        }
    };
    put("default", &wide);
    put("fra ita cat glg ron ast oci nld dan swe nob nno pol ces slk slv hrv lit", &european);
    put("eng", &Thresholds { max_mean_word_length: 10.0, ..european.clone() });
    put("deu", &Thresholds { max_mean_word_length: 14.0, ..european.clone() });
    put("cmn zho yue jpn tha lao khm mya bod iii", &spaceless);
    let spanish = Thresholds {
        max_mean_word_length: 14.0,
        max_lines_per_word: 0.138,
        max_repeated_lines: 0.252,
        min_sentence_lines: 0.182,
        max_top_2_gram: 0.156,
        ..european.clone()
    };
    put("spa", &spanish);
    let portuguese = Thresholds {
        max_mean_word_length: 13.0,
        max_lines_per_word: 0.186,
        max_repeated_lines: 0.287,
        min_sentence_lines: 0.077,
        max_top_2_gram: 0.371,
        ..european.clone()
    };
    put("por", &portuguese);
    let quechua = Thresholds {
        max_mean_word_length: 20.0,
        max_lines_per_word: 0.409,
        max_repeated_lines: 0.27,
        min_sentence_lines: 0.071,
        max_top_2_gram: 0.839,
        ..wide.clone()
    };
    put("que", &quechua);
    let guarani = Thresholds {
        max_mean_word_length: 25.0,
        max_lines_per_word: 0.343,
        max_repeated_lines: 0.407,
        min_sentence_lines: 0.083,
        max_top_2_gram: 0.887,
        ..wide.clone()
    };
    put("grn", &guarani);
    let aymara = Thresholds {
        max_mean_word_length: 34.0,
        max_lines_per_word: 0.394,
        max_repeated_lines: 0.594,
        min_sentence_lines: 0.059,
        max_top_2_gram: 0.788,
        ..wide.clone()
    };
    put("aym", &aymara);
    let mapudungun = Thresholds {
        max_mean_word_length: 12.0,
        max_lines_per_word: 0.111,
        max_repeated_lines: 0.206,
        min_sentence_lines: 0.0,
        max_top_2_gram: 1.0,
        ..wide.clone()
    };
    put("arn", &mapudungun);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_language_takes_its_own_its_familys_or_the_default() {
        let table = ThresholdTable::default();
        let longest = |language| table.of(language, Preset::Web).max_mean_word_length;
        assert_eq!(["spa", "quz", "gug", "xyz"].map(longest), [14.0, 20.0, 25.0, 25.0]);
    }

    #[test]
    fn overrides_apply_from_general_to_special() {
        let one = |value| ThresholdOverrides { min_words: Some(value), ..Default::default() };
        let overrides =
            BTreeMap::from([("default".to_owned(), one(7.0)), ("quz".to_owned(), one(3.0))]);
        let table = ThresholdTable::new(&overrides);
        let least = |language| table.of(language, Preset::Web).min_words;
        assert_eq!(["spa", "quz", "quy"].map(least), [7.0, 3.0, 7.0]);
        // The family's other thresholds stay.
        assert_eq!(table.of("quz", Preset::Web).max_mean_word_length, 20.0);
        assert_eq!(table.of("quz", Preset::Book).min_words, 3.0);
    }
}
