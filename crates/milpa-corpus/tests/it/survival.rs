//! Natural text of the region's languages passes the filters; under English limits it would not.

#[path = "../../examples/measure_survival/natural.rs"]
mod natural;

use milpa_corpus::{config::Preset, filter::ThresholdTable};

/// Languages with the largest number of speakers, which must not lose anything.
const ALL_KEPT: [&str; 9] = ["arn", "ayr", "gug", "nhe", "nhn", "quc", "quy", "quz", "shp"];
/// Share of documents of any other language of the Americas that stays at least, where there are
/// enough to tell.
const LEAST: f64 = 0.96;
const ENOUGH: usize = 20;

#[test]
fn natural_text_of_indigenous_languages_survives() {
    let Some(data) = super::data() else { return };
    let table = ThresholdTable::default();
    let english = table.of("eng", Preset::Web);
    let (mut all, mut kept_of_all, mut languages) = (0, 0, 0);
    for ((collection, language), texts) in natural::natural(&data).unwrap() {
        let kept = |limits| {
            texts.iter().filter(|text| natural::rule(text, &language, limits).is_none()).count()
        };
        let own = kept(table.of(&language, Preset::Web));
        all += texts.len();
        kept_of_all += own;
        let share = |count: usize| count as f64 / texts.len() as f64;
        let what = format!("{collection} {language}: {own} of {} documents stay", texts.len());
        if ALL_KEPT.contains(&language.as_str()) {
            assert_eq!(own, texts.len(), "{what}");
        }
        if collection == "indigenous" && texts.len() >= ENOUGH {
            languages += 1;
            assert!(share(own) >= LEAST, "{what}");
            // What this guards against: English limits delete every language.
            assert!(share(kept(english)) < 0.05, "{language}: English limits would do");
        }
    }
    // All languages of the Declaration of Human Rights.
    assert!(languages >= 25 && kept_of_all as f64 >= 0.998 * all as f64, "{kept_of_all} of {all}");
}
