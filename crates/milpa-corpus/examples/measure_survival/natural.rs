//! Natural text of many languages, as documents that a filter should keep.

use std::{collections::BTreeMap, io, path::Path};

use milpa_base::lines::{DEFAULT_MAX_LINE_BYTES, Line, LineReader};
use milpa_corpus::{
    config::Preset,
    filter::{Thresholds, View, filters_of},
};
use serde_json::Value;

/// Sentences or paragraphs that make a document.
const GROUP: usize = 12;
/// ISO 639-3 codes of the languages that the collection names otherwise.
const CODES: [(&str, &str); 4] = [("gn", "gug"), ("aym", "ayr"), ("nah", "nhe"), ("oto", "ote")];

/// Documents by collection and language: chapters as they are, and groups of sentences of
/// `text/indigenous` and of paragraphs of `lid/udhr_paragraphs`.
pub(crate) fn natural(data: &Path) -> io::Result<BTreeMap<(&'static str, String), Vec<String>>> {
    let mut documents: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for (name, path) in
        [("indigenous", "text/indigenous.jsonl.zst"), ("udhr", "lid/udhr_paragraphs.jsonl.zst")]
    {
        let mut waiting: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut reader = LineReader::open(&data.join(path), DEFAULT_MAX_LINE_BYTES)?;
        while let Some(Line::Whole(line)) = reader.next_line()? {
            let row: Value = serde_json::from_slice(line)?;
            let get = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
            let language = get("lang");
            let code = CODES.iter().find(|(own, _)| *own == language);
            let language = code.map_or(language, |(_, code)| (*code).to_owned());
            if row["kind"] == "bible_chapter" {
                documents.entry((name, language)).or_default().push(get("text"));
                continue;
            }
            let group = waiting.entry((language.clone(), get("variant"))).or_default();
            group.push(get("text"));
            if group.len() == GROUP {
                documents.entry((name, language)).or_default().push(group.join("\n"));
                group.clear();
            }
        }
    }
    Ok(documents)
}

/// The rule by which a web page with this text falls.
pub(crate) fn rule(text: &str, language: &str, limits: &Thresholds) -> Option<&'static str> {
    let view = View::new(text, language, None);
    let filters = filters_of(Preset::Web);
    filters.iter().find_map(|filter| filter.check(&view, limits)).map(|verdict| verdict.rule)
}
