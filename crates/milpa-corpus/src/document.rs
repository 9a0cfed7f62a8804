//! A document on its way through the corpus, and one that fell out of it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Characters of a dropped document that are kept so that a person can judge the drop.
pub const SAMPLE_CHARS: usize = 200;

/// A document as it stands in a shard.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Document {
    /// Identity, unique in the corpus.
    pub id: String,
    /// The text, normalised.
    pub text: String,
    /// Name of the source in the recipe.
    pub source: String,
    /// ISO 639-3 code.
    pub language: String,
    /// Probability of the language; 1 where the source declares it.
    pub language_confidence: f32,
    /// The second language, where the text is surely in two (jopará, portuñol, castellano andino).
    #[serde(default)]
    pub mixed_with: Option<String>,
    /// Where it was published, if known.
    pub url: Option<String>,
    /// When it was collected or published, as the source writes it.
    pub date: Option<String>,
    /// Its licence, from the record or the source.
    pub licence: Option<String>,
    /// What must not be on both sides of the validation split, such as the author.
    pub group: Option<String>,
    /// The file it came from, relative to the source's path.
    pub origin: String,
    /// Offset of its record in the decoded bytes of that file.
    pub origin_offset: u64,
    /// Perplexity of its words, where its language has an n-gram model.
    #[serde(default)]
    pub perplexity: Option<f32>,
    /// Bucket of that perplexity: `head`, `middle` or `tail`.
    #[serde(default)]
    pub perplexity_bucket: Option<String>,
    /// Documents that it stands for: itself and its dropped copies.
    #[serde(default = "one")]
    pub cluster_size: u64,
    /// How often it counts in the corpus.
    #[serde(default = "one")]
    pub weight: u64,
}

fn one() -> u64 {
    1
}

/// A document that was not kept, with the reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dropped {
    /// Identity, as it would have been in the corpus.
    pub id: String,
    /// Name of the source in the recipe.
    pub source: String,
    /// Where it was published, if known.
    pub url: Option<String>,
    /// Why it was dropped.
    pub reason: Reason,
    /// The rule and its numbers, or what it is a duplicate of.
    pub detail: String,
    /// ISO 639-3 code, where the language was identified before the drop.
    pub language: Option<String>,
    /// The file it came from, relative to the source's path.
    pub origin: String,
    /// Offset of its record in the decoded bytes of that file.
    pub origin_offset: u64,
    /// Bytes of its text, or of its record where no text was reached.
    pub bytes: u64,
    /// The first [`SAMPLE_CHARS`] characters.
    pub sample: String,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// Why a document is not in the corpus.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason {
            $($(#[$doc])* $variant,)*
        }

        impl Reason {
            /// All reasons, in the order in which a document can meet them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name used in shards, statistics and on screens.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

reasons! {
    /// The record's own structure is broken.
    MalformedRecord = "malformed_record",
    /// The compressed stream or the file ends in the middle.
    TruncatedStream = "truncated_stream",
    /// The compressed stream is damaged.
    CorruptStream = "corrupt_stream",
    /// A line is not JSON.
    BadJson = "bad_json",
    /// The JSON has no text under the configured field.
    MissingText = "missing_text",
    /// The bytes are not UTF-8 where they must be.
    InvalidUtf8 = "invalid_utf8",
    /// The record is larger than `max_document`.
    TooLarge = "too_large",
    /// The server did not answer with the page.
    HttpStatus = "http_status",
    /// The body's encoding cannot be undone.
    ContentEncoding = "content_encoding",
    /// The markup is built to be slow, not to be read.
    HostileMarkup = "hostile_markup",
    /// No main text was found in the page.
    NoMainText = "no_main_text",
    /// The URL or the text is on a block list.
    Blocklist = "blocklist",
    /// The language is not one of `keep_languages`.
    Language = "language",
    /// The language is uncertain.
    LanguageConfidence = "language_confidence",
    /// Too short or too long.
    Length = "length",
    /// A Gopher quality rule (Rae et al. 2021).
    Quality = "quality",
    /// A Gopher repetition rule (Rae et al. 2021).
    Repetition = "repetition",
    /// A rule on lines after C4 (Raffel et al. 2020) and FineWeb (Penedo et al. 2024).
    Lines = "lines",
    /// A classifier's probability is out of bounds: of quality too low, of toxicity too high.
    ModelScore = "model_score",
    /// Its perplexity puts it into a bucket that is not kept.
    Perplexity = "perplexity",
    /// It holds an item of an evaluation set.
    Contamination = "contamination",
    /// It holds personal data of a kind that is not kept.
    PersonalData = "personal_data",
    /// The same normalised text came before.
    ExactDuplicate = "exact_duplicate",
    /// A very similar text came before.
    NearDuplicate = "near_duplicate",
    /// All of it stood before, in passages.
    RepeatedText = "repeated_text",
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Reason {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.name() == name)
            .ok_or_else(|| format!("{name:?} is no reason known to this milpa"))
    }
}

/// The first [`SAMPLE_CHARS`] characters of `text`.
pub fn sample(text: &str) -> String {
    text.chars().take(SAMPLE_CHARS).collect()
}

/// The first [`SAMPLE_CHARS`] characters of bytes that may be no text.
pub fn sample_bytes(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(4 * SAMPLE_CHARS)];
    let text = String::from_utf8_lossy(head);
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(SAMPLE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_names_that_can_be_read() {
        for reason in Reason::ALL {
            assert_eq!(reason.name().parse(), Ok(*reason));
        }
        assert!("nothing".parse::<Reason>().is_err());
    }
}
