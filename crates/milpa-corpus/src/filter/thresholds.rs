//! Limits of the filters by language and kind of source: the data, and how it is looked up.
//!
//! `data/thresholds.toml` holds the numbers with their origin; a recipe overrides single ones. From
//! general to special: datatrove's defaults, the group of languages, the language, the kind of
//! source, the recipe's `default`, the recipe's language.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::OnceLock,
};

use milpa_text::language::macrolanguage;
use serde::{Deserialize, Serialize};

use crate::config::Preset;

/// The numbers and their origin.
const DATA: &str = include_str!("../../data/thresholds.toml");

macro_rules! thresholds {
    ($($(#[$doc:meta])* $name:ident = $default:expr;)*) => {
        /// Limits that documents must keep; the default is datatrove's.
        #[derive(Debug, Clone, PartialEq, Serialize)]
        pub struct Thresholds {
            $($(#[$doc])* pub $name: f64,)*
            /// Words of which running text has some; empty where no list is known.
            pub stop_words: Vec<String>,
        }

        impl Default for Thresholds {
            fn default() -> Self {
                Self {
                    $($name: $default,)*
                    stop_words: ENGLISH_STOP_WORDS.map(str::to_owned).to_vec(),
                }
            }
        }

        /// Limits that a recipe sets; the others keep their value.
        #[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct ThresholdOverrides {
            $($(#[$doc])*
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub $name: Option<f64>,)*
            /// Words of which running text has some.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub stop_words: Option<Vec<String>>,
        }

        impl ThresholdOverrides {
            /// Sets what is given.
            pub fn apply(&self, to: &mut Thresholds) {
                $(if let Some(value) = self.$name { to.$name = value; })*
                if let Some(words) = &self.stop_words {
                    to.stop_words = words.clone();
                }
            }
        }
    };
}

/// The stop words of Gopher, which datatrove takes unless it is given others.
const ENGLISH_STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

thresholds! {
    /// Least probability of the identified language.
    min_language_confidence = 0.65;
    /// Gopher quality: least number of words.
    min_words = 50.0;
    /// Gopher quality: most words.
    max_words = 100_000.0;
    /// Gopher quality: least mean length of a word in characters.
    min_mean_word_length = 3.0;
    /// Gopher quality: most mean length of a word in characters.
    max_mean_word_length = 10.0;
    /// Gopher quality: most `#` per word, and most ellipses per word.
    max_symbols_per_word = 0.1;
    /// Gopher quality: most share of lines that begin with a bullet.
    max_bullet_lines = 0.9;
    /// Gopher quality: most share of lines that end in an ellipsis.
    max_ellipsis_lines = 0.3;
    /// Gopher quality: least share of words with a letter.
    min_letter_words = 0.8;
    /// Gopher quality: least number of different stop words, for languages that have a list.
    min_stop_words = 2.0;
    /// Gopher repetition: most share of lines that came before.
    max_repeated_lines = 0.3;
    /// Gopher repetition: most share of paragraphs that came before.
    max_repeated_paragraphs = 0.3;
    /// Gopher repetition: most share of characters in lines that came before.
    max_repeated_line_chars = 0.2;
    /// Gopher repetition: most share of characters in paragraphs that came before.
    max_repeated_paragraph_chars = 0.2;
    /// Gopher repetition: most share of characters in the most frequent run of 2 words.
    max_top_2_gram = 0.2;
    /// Gopher repetition: most share of characters in the most frequent run of 3 words.
    max_top_3_gram = 0.18;
    /// Gopher repetition: most share of characters in the most frequent run of 4 words.
    max_top_4_gram = 0.16;
    /// Gopher repetition: most share of characters in runs of 5 words that came before.
    max_repeated_5_grams = 0.15;
    /// Gopher repetition: the same for 6 words.
    max_repeated_6_grams = 0.14;
    /// Gopher repetition: the same for 7 words.
    max_repeated_7_grams = 0.13;
    /// Gopher repetition: the same for 8 words.
    max_repeated_8_grams = 0.12;
    /// Gopher repetition: the same for 9 words.
    max_repeated_9_grams = 0.11;
    /// Gopher repetition: the same for 10 words.
    max_repeated_10_grams = 0.1;
    /// C4: least number of sentences.
    min_sentences = 5.0;
    /// C4: least words of a line that stays.
    min_words_per_line = 3.0;
    /// C4: most characters of a word in a line that stays.
    max_word_chars = 1000.0;
    /// FineWeb: least share of lines that end a sentence.
    min_sentence_lines = 0.12;
    /// FineWeb: most share of short lines.
    max_short_lines = 0.67;
    /// FineWeb: characters up to which a line is short.
    short_line_chars = 30.0;
    /// FineWeb: most share of characters in lines that came before, without line ends.
    max_copied_line_chars = 0.01;
    /// FineWeb: most line ends per word.
    max_lines_per_word = 0.3;
}

/// The file of numbers.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    groups: BTreeMap<String, Group>,
    languages: BTreeMap<String, Language>,
    presets: BTreeMap<String, ThresholdOverrides>,
}

/// Limits of languages that are alike in writing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    #[serde(default)]
    languages: Vec<String>,
    limits: ThresholdOverrides,
}

/// What a language has of its own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Language {
    group: String,
    limits: ThresholdOverrides,
}

/// Thresholds of all languages for all kinds of source.
#[derive(Debug, Clone)]
pub struct ThresholdTable {
    web: HashMap<String, Thresholds>,
    book: HashMap<String, Thresholds>,
    law: HashMap<String, Thresholds>,
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
        let mut base = built_in().clone();
        for language in overrides.keys().filter(|name| *name != "default") {
            if !base.contains_key(language) {
                // A language of a family starts from the family's thresholds.
                let family = base.get(macrolanguage(language)).unwrap_or(&base["default"]).clone();
                base.insert(language.clone(), family);
            }
        }
        let table = |preset: &str| {
            let mut table = base.clone();
            for (language, thresholds) in &mut table {
                if let Some(limits) = data().presets.get(preset) {
                    limits.apply(thresholds);
                }
                for name in ["default", language] {
                    if let Some(overrides) = overrides.get(name) {
                        overrides.apply(thresholds);
                    }
                }
            }
            table
        };
        Self { web: table("web"), book: table("book"), law: table("law") }
    }

    /// The thresholds for a language: its own, its macrolanguage's, or the default.
    pub fn of(&self, language: &str, preset: Preset) -> &Thresholds {
        let table = match preset {
            Preset::Web | Preset::None => &self.web,
            Preset::Book => &self.book,
            Preset::Law => &self.law,
        };
        table
            .get(language)
            .or_else(|| table.get(macrolanguage(language)))
            .unwrap_or_else(|| &table["default"])
    }
}

fn data() -> &'static Data {
    static PARSED: OnceLock<Data> = OnceLock::new();
    PARSED.get_or_init(|| {
        milpa_base::parse_toml(DATA, Path::new("data/thresholds.toml"))
            .expect("the built-in thresholds are tested to parse")
    })
}

/// Thresholds by language before the kind of source and the recipe; `default` for all others.
fn built_in() -> &'static HashMap<String, Thresholds> {
    static TABLE: OnceLock<HashMap<String, Thresholds>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let Data { groups, languages, .. } = data();
        let of_group = |name: &str| {
            // English words say nothing of other languages.
            let mut limits = Thresholds { stop_words: Vec::new(), ..Thresholds::default() };
            groups[name].limits.apply(&mut limits);
            limits
        };
        let mut table = HashMap::from([("default".to_owned(), of_group("unknown"))]);
        for (name, group) in groups {
            for language in &group.languages {
                table.insert(language.clone(), of_group(name));
            }
        }
        for (code, language) in languages {
            let mut limits = of_group(&language.group);
            language.limits.apply(&mut limits);
            table.insert(code.clone(), limits);
        }
        table
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_is_well_formed() {
        let data = data();
        for name in data.presets.keys() {
            assert!(["web", "book", "law"].contains(&name.as_str()), "{name}");
        }
        for (code, language) in &data.languages {
            assert!(data.groups.contains_key(&language.group), "{code}: {}", language.group);
            assert!(!data.groups.values().any(|group| group.languages.contains(code)), "{code}");
        }
        for code in
            data.groups.values().flat_map(|group| &group.languages).chain(data.languages.keys())
        {
            assert_eq!(milpa_text::language::canonical(code), Some(code.as_str()));
        }
    }

    #[test]
    fn a_language_takes_its_own_its_familys_or_the_default() {
        let table = ThresholdTable::default();
        let longest = |language| table.of(language, Preset::Web).max_mean_word_length;
        assert_eq!(
            ["eng", "spa", "quz", "gug", "xyz"].map(longest),
            [10.0, 14.0, 20.0, 25.0, 25.0]
        );
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
