//! Filters: each looks at one document and keeps it, or drops it with a reason and the numbers.
//!
//! Thresholds depend on the language ([`thresholds`]), the list of filters on the kind of source
//! ([`filters_of`]). To add a filter: implement [`Filter`] in a file of its own, put it on the list,
//! and give its thresholds a default in [`Thresholds`].

use milpa_base::seed::splitmix64;
use milpa_text::{minhash::word_hash, normalise::fold_word, segment};

use crate::{config::Preset, document::Reason};

pub mod blocklist;
mod lines;
mod quality;
mod repetition;
pub mod thresholds;

pub use thresholds::{ThresholdOverrides, ThresholdTable, Thresholds};

/// Languages written without spaces between words: each letter counts as a word.
const SPACELESS: &[&str] =
    &["cmn", "zho", "yue", "jpn", "tha", "lao", "khm", "mya", "bod", "shn", "iii"];

/// One rule or family of rules.
pub trait Filter: Send + Sync {
    /// Looks at a document; `Some` drops it.
    fn check(&self, view: &View<'_>, thresholds: &Thresholds) -> Option<Verdict>;

    /// Whether its verdict depends on the language. Those that do not are asked before the
    /// language is: a page of spam phrases is spam before it is Spanish.
    fn needs_language(&self) -> bool {
        true
    }
}

/// Why a filter drops a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The reason it counts under.
    pub reason: Reason,
    /// The rule with the value found and the value allowed.
    pub detail: String,
}

impl Verdict {
    pub(crate) fn below(reason: Reason, what: &str, value: f64, least: f64) -> Option<Self> {
        (value < least).then(|| Self {
            reason,
            detail: format!("{what} {} is below {}", short(value), short(least)),
        })
    }

    pub(crate) fn above(reason: Reason, what: &str, value: f64, most: f64) -> Option<Self> {
        (value > most).then(|| Self {
            reason,
            detail: format!("{what} {} is above {}", short(value), short(most)),
        })
    }
}

/// Three decimals at most, none for whole numbers.
fn short(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value}") } else { format!("{value:.3}") }
}

/// A document with what several filters need of it, computed once.
#[derive(Debug)]
pub struct View<'a> {
    /// The whole text.
    pub text: &'a str,
    /// Its language, ISO 639-3.
    pub language: &'a str,
    /// Where it was published.
    pub url: Option<&'a str>,
    /// Lines that are not blank.
    pub lines: Vec<&'a str>,
    /// Words.
    pub words: Vec<&'a str>,
    /// Hash of each word in lower case.
    pub word_hashes: Vec<u64>,
}

impl<'a> View<'a> {
    /// Looks at `text`, which is in the language with the ISO 639-3 code `language`.
    pub fn new(text: &'a str, language: &'a str, url: Option<&'a str>) -> Self {
        let words: Vec<&str> = if SPACELESS.contains(&language) {
            text.char_indices()
                .filter(|(_, c)| segment::is_word_char(*c))
                .map(|(at, c)| &text[at..at + c.len_utf8()])
                .collect()
        } else {
            segment::words(text).collect()
        };
        let mut folded = String::new();
        let word_hashes = words
            .iter()
            .map(|word| {
                fold_word(word, &mut folded);
                word_hash(&folded)
            })
            .collect();
        Self { text, language, url, lines: segment::lines(text).collect(), words, word_hashes }
    }

    /// Hashes of all runs of `length` words.
    pub(crate) fn ngrams(&self, length: usize) -> impl Iterator<Item = u64> {
        self.word_hashes
            .windows(length)
            .map(|run| run.iter().fold(0, |hash, &word| splitmix64(hash ^ word)))
    }
}

/// Number of `part` in `whole`, as a share; 0 of nothing.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The filters that documents of a kind pass, in order.
pub fn filters_of(preset: Preset) -> Vec<Box<dyn Filter>> {
    match preset {
        Preset::None => Vec::new(),
        Preset::Book => vec![
            Box::new(quality::Length),
            Box::new(quality::Letters),
            Box::new(repetition::RepeatedLines),
        ],
        Preset::Law => vec![Box::new(quality::Length), Box::new(quality::Letters)],
        Preset::Web => vec![
            Box::new(blocklist::Blocklist),
            Box::new(quality::Length),
            Box::new(quality::Letters),
            Box::new(quality::Prose),
            Box::new(repetition::RepeatedLines),
            Box::new(repetition::RepeatedWords),
            Box::new(lines::Lines),
        ],
    }
}

/// Drops lines that belong to the page and not to its text (cookie notices, sharing prompts);
/// returns how many. Only for web pages.
pub fn clean_lines(text: &mut String) -> usize {
    lines::clean(text)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Running text that passes all filters.
    const GOOD: &str = "El río baja crecido desde la sierra y arrastra ramas, piedras y algún \
        cerco que los vecinos dejaron a medio levantar. En el pueblo nadie se asusta: cada enero \
        ocurre lo mismo, y las casas se hicieron arriba por consejo de los abuelos.\n\
        Cuando el agua se retira queda sobre los campos una capa de barro oscuro. Allí siembran \
        maíz, frijol y calabaza, que crecen juntos y se ayudan. La caña sostiene la guía del \
        frijol, las hojas anchas guardan la humedad y la tierra descansa.\n\
        Por la tarde las familias se reúnen bajo el tamarindo. Alguien cuenta cómo era antes el \
        camino, otro pregunta por los que se fueron, y los niños juegan hasta que oscurece.";

    pub(crate) fn verdict(text: &str, language: &str, preset: Preset) -> Option<Verdict> {
        let table = ThresholdTable::default();
        let view = View::new(text, language, None);
        filters_of(preset).iter().find_map(|filter| filter.check(&view, table.of(language, preset)))
    }

    fn check(text: &str, language: &str, preset: Preset, expect: Option<Reason>) {
        let found = verdict(text, language, preset);
        assert_eq!(found.as_ref().map(|v| v.reason), expect, "{found:?}: {text:.300}");
    }

    #[test]
    fn good_text_passes_and_short_text_does_not() {
        for preset in [Preset::Web, Preset::Book, Preset::Law] {
            check(GOOD, "spa", preset, None);
            check("Hola a todos.", "spa", preset, Some(Reason::Length));
        }
        check("Hola", "spa", Preset::None, None);
    }

    #[test]
    fn agglutinative_languages_survive() {
        let quechua = "Ñuqanchikpa llaqtanchikkunapiqa achka runakunam tiyanku. Paykunaqa papatawan \
             saratam tarpunku, hinaspam wawankunata yachachinku imayna allpata llamkayta. \
             Chakrapiqa llapan ayllukunam kuskalla llamkanku, manam sapallankuchu. Tutamantanpas \
             chisinkamapas takikuspankum purinku, chaynallam warmikunapas qarikunapas kusisqa \
             kawsakunku llaqtankupi. Punchawnintinmi mayukunapa patanpi uywankunata michinku, \
             hinaspam wasinkuman kutimunku.";
        check(quechua, "quy", Preset::Web, None);
        let long = quechua.replace(' ', "").replace(['.', ','], " ");
        check(&long.repeat(8), "eng", Preset::Web, Some(Reason::Quality));
    }

    #[test]
    fn pages_that_are_no_prose_fall_with_their_reason() {
        check(&format!("{GOOD}\n").repeat(6), "spa", Preset::Web, Some(Reason::Repetition));
        check(&"compre barato ahora ".repeat(60), "spa", Preset::Web, Some(Reason::Quality));
        let list = (0..80)
            .map(|i| format!("- punto {i} de la lista que el autor ve\n"))
            .collect::<Vec<_>>()
            .concat();
        assert!(verdict(&list, "spa", Preset::Web).is_some());
        let numbers = (0..300).map(|i| format!("{i} {} ", i * 37)).collect::<Vec<_>>().concat();
        check(&numbers, "spa", Preset::Web, Some(Reason::Quality));
        check(&numbers, "spa", Preset::Law, Some(Reason::Quality));
        let spam = format!("{GOOD} casino online, apuestas deportivas, viagra, préstamos sin buró");
        check(&spam, "spa", Preset::Web, Some(Reason::Blocklist));
    }

    #[test]
    fn a_verdict_tells_the_numbers() {
        let verdict = verdict("Tres palabras solas.", "spa", Preset::Web).unwrap();
        assert_eq!(verdict.detail, "number of words 3 is below 50");
    }
}
