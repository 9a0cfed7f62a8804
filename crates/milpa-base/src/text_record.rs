//! A text with its name and source, as one stage hands it to the next.
//!
//! Corpus, tokenizer and evaluation share no types but this one; the binary wires a reader of one
//! artifact to the consumer of another through [`TextRecords`].

/// One document's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRecord {
    /// Identity of the document, unique in its corpus.
    pub id: String,
    /// Name of the source in the recipe.
    pub source: String,
    /// The text, valid UTF-8.
    pub text: String,
}

/// Documents in a fixed order; an error ends the stream.
pub type TextRecords<'a> = dyn Iterator<Item = std::io::Result<TextRecord>> + 'a;
