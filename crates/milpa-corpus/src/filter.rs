//! Filters: each looks at one document and keeps it, or drops it with the rule and the numbers.
//!
//! The rules are those of Gopher ([`gopher_quality`], [`gopher_repetition`]), [`c4`] and
//! [`fineweb`], defined exactly as datatrove computes them, so that published thresholds keep their
//! meaning; a rule has the name that datatrove gives it. Limits depend on the language and the kind
//! of source and are data (`data/thresholds.toml`, read by [`thresholds`]); which filters a kind of
//! source passes is said in [`filters_of`]. To add a filter: implement [`Filter`] in a file of its
//! own, put it on the list, and give its limits a value in the data.

use milpa_base::seed::splitmix64;
use milpa_text::WordRules;

use crate::{config::Preset, document::Reason};

pub mod blocklist;
pub mod c4;
mod characters;
pub mod fineweb;
pub mod gopher_quality;
pub mod gopher_repetition;
pub mod model;
pub mod thresholds;
pub mod url_blocklist;

pub use c4::C4;
pub use fineweb::FineWeb;
pub use gopher_quality::GopherQuality;
pub use gopher_repetition::GopherRepetition;
pub use model::{PerplexityFilter, ScoreFilter};
pub use thresholds::{ThresholdOverrides, ThresholdTable, Thresholds};
pub use url_blocklist::UrlBlocklist;

/// Languages written without spaces between words: each letter counts as a word.
const SPACELESS: &[&str] =
    &["cmn", "zho", "yue", "jpn", "tha", "lao", "khm", "mya", "bod", "shn", "iii"];

/// One family of rules.
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
    /// The rule, by the name that datatrove gives it where it has it.
    pub rule: &'static str,
    /// The value found and the value allowed.
    pub detail: String,
}

impl Verdict {
    pub(crate) fn below(
        reason: Reason,
        rule: &'static str,
        what: &str,
        value: f64,
        least: f64,
    ) -> Option<Self> {
        (value < least).then(|| Self {
            reason,
            rule,
            detail: format!("{what} {} is below {}", short(value), short(least)),
        })
    }

    pub(crate) fn above(
        reason: Reason,
        rule: &'static str,
        what: &str,
        value: f64,
        most: f64,
    ) -> Option<Self> {
        (value > most).then(|| Self {
            reason,
            rule,
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
    /// Its length in characters.
    pub chars: usize,
    /// Its language, ISO 639-3.
    pub language: &'a str,
    /// Where it was published.
    pub url: Option<&'a str>,
    /// Words and marks, as spaCy's rules for the language cut them.
    pub words: Vec<&'a str>,
}

impl<'a> View<'a> {
    /// Looks at `text`, which is in the language with the ISO 639-3 code `language`.
    pub fn new(text: &'a str, language: &'a str, url: Option<&'a str>) -> Self {
        let mut words = WordRules::of(language).split(text);
        if SPACELESS.contains(&language) {
            words = words.into_iter().flat_map(letters).collect();
        }
        Self { text, chars: count_chars(text), language, url, words }
    }
}

/// The letters of a word, or the word where it has marks and digits only.
fn letters(word: &str) -> Vec<&str> {
    if !word.chars().any(char::is_alphabetic) {
        return vec![word];
    }
    word.char_indices().map(|(at, c)| &word[at..at + c.len_utf8()]).collect()
}

/// Number of characters (Unicode scalar values).
fn count_chars(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().count() }
}

/// Number of `part` in `whole`, as a share; 0 of nothing.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A hash of a word, eight bytes at a time.
fn word_hash(word: &str) -> u64 {
    let mut chunks = word.as_bytes().chunks_exact(8);
    let mut hash = word.len() as u64;
    for chunk in &mut chunks {
        hash = splitmix64(hash ^ u64::from_le_bytes(chunk.try_into().expect("eight bytes")));
    }
    let rest = chunks.remainder().iter().rev().fold(0, |rest, &byte| rest << 8 | u64::from(byte));
    splitmix64(hash ^ rest)
}

/// The filters that documents of a kind pass, in order.
///
/// Web pages pass what FineWeb2 asks (no C4 but its filler text), with our block lists; what edited
/// text is excused from is off in its thresholds.
pub fn filters_of(preset: Preset) -> Vec<Box<dyn Filter>> {
    // Our extraction writes Markdown.
    let quality = GopherQuality { markdown: true };
    match preset {
        Preset::None => Vec::new(),
        Preset::Book => vec![Box::new(quality), Box::new(GopherRepetition)],
        Preset::Law => vec![Box::new(quality)],
        Preset::Web => vec![
            Box::new(UrlBlocklist::built_in()),
            Box::new(blocklist::Blocklist),
            Box::new(quality),
            Box::new(GopherRepetition),
            Box::new(C4 { lorem_ipsum: true, ..C4::OFF }),
            Box::new(FineWeb { markdown: true }),
        ],
    }
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

    fn check(text: &str, language: &str, preset: Preset, expect: Option<&str>) {
        let found = verdict(text, language, preset);
        assert_eq!(found.as_ref().map(|v| v.rule), expect, "{found:?}: {text:.300}");
    }

    #[test]
    fn good_text_passes_and_short_text_does_not() {
        for preset in [Preset::Web, Preset::Book, Preset::Law] {
            check(GOOD, "spa", preset, None);
            check("Hola a todos.", "spa", preset, Some("gopher_short_doc"));
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
        let menu = quechua.replace(' ', "\n");
        check(&menu, "quy", Preset::Web, Some("list_ratio"));
        let long = quechua.replace(' ', "").replace(['.', ','], " ");
        check(&long.repeat(8), "eng", Preset::Web, Some("gopher_above_avg_threshold"));
    }

    #[test]
    fn pages_that_are_no_prose_fall_with_their_rule() {
        check(&format!("{GOOD}\n").repeat(6), "spa", Preset::Web, Some("dup_line_frac"));
        let spam = "compre barato ahora ".repeat(60);
        check(&spam, "spa", Preset::Web, Some("gopher_enough_stop_words"));
        let list = (0..80)
            .map(|i| format!("- punto {i} de la lista que el autor ve\n"))
            .collect::<Vec<_>>()
            .concat();
        check(&list, "spa", Preset::Web, Some("gopher_too_many_bullets"));
        let numbers = (100..400).map(|i| format!("{i} {} ", i * 37)).collect::<Vec<_>>().concat();
        check(&numbers, "spa", Preset::Web, Some("gopher_below_alpha_threshold"));
        check(&numbers, "spa", Preset::Law, Some("gopher_below_alpha_threshold"));
        let spam = format!("{GOOD} casino online, apuestas deportivas, viagra, préstamos sin buró");
        check(&spam, "spa", Preset::Web, Some("spam_phrases"));
        let filler = format!("{GOOD}\nLorem ipsum dolor sit amet.");
        check(&filler, "spa", Preset::Web, Some("lorem_ipsum"));
    }

    #[test]
    fn endless_text_falls_unless_it_is_a_book() {
        let words = "palabra ".repeat(100_001);
        let view = View::new(&words, "spa", None);
        let check = |preset| {
            let table = ThresholdTable::default();
            GopherQuality::default()
                .check(&view, table.of("spa", preset))
                .map(|verdict| verdict.rule)
        };
        assert_eq!((check(Preset::Web), check(Preset::Book)), (Some("gopher_long_doc"), None));
    }

    #[test]
    fn headings_are_no_symbols() {
        let titles = ["Río", "Campo", "Tarde"];
        let sections = GOOD.lines().zip(titles);
        let titled: Vec<String> =
            sections.map(|(line, title)| format!("######### {title}\n\n{line}\n\n")).collect();
        let titled = titled.concat();
        let view = View::new(&titled, "spa", None);
        let rule = |markdown| {
            let stop_words = Vec::new();
            let limits = Thresholds { stop_words, min_letter_words: 0.5, ..Thresholds::default() };
            GopherQuality { markdown }.check(&view, &limits).map(|verdict| verdict.rule)
        };
        assert_eq!((rule(false), rule(true)), (Some("gopher_too_many_hashes"), None));
        let tagged = GOOD.replace(' ', " #");
        check(&tagged, "spa", Preset::Web, Some("gopher_too_many_hashes"));
    }

    #[test]
    fn a_verdict_tells_the_numbers() {
        let verdict = verdict("Tres palabras solas.", "spa", Preset::Web).unwrap();
        assert_eq!(verdict.detail, "number of words 3 is below 50");
        assert_eq!(verdict.reason, Reason::Length);
    }
}
