//! Language codes: ISO 639-1 and macrolanguage codes mapped to the ISO 639-3 labels in use.

use std::{
    collections::BTreeSet,
    sync::{Mutex, OnceLock},
};

/// ISO 639-1 (and usual other) codes with the ISO 639-3 code that is meant.
const SHORT: &[(&str, &str)] = &[
    ("af", "afr"),
    ("am", "amh"),
    ("ar", "ara"),
    ("as", "asm"),
    ("ay", "aym"),
    ("az", "aze"),
    ("be", "bel"),
    ("bg", "bul"),
    ("bn", "ben"),
    ("bo", "bod"),
    ("br", "bre"),
    ("bs", "bos"),
    ("ca", "cat"),
    ("cs", "ces"),
    ("cy", "cym"),
    ("da", "dan"),
    ("de", "deu"),
    ("el", "ell"),
    ("en", "eng"),
    ("eo", "epo"),
    ("es", "spa"),
    ("et", "est"),
    ("eu", "eus"),
    ("fa", "fas"),
    ("fi", "fin"),
    ("fr", "fra"),
    ("ga", "gle"),
    ("gl", "glg"),
    ("gn", "grn"),
    ("gu", "guj"),
    ("ha", "hau"),
    ("he", "heb"),
    ("hi", "hin"),
    ("hr", "hrv"),
    ("ht", "hat"),
    ("hu", "hun"),
    ("hy", "hye"),
    ("id", "ind"),
    ("ig", "ibo"),
    ("is", "isl"),
    ("it", "ita"),
    ("ja", "jpn"),
    ("jv", "jav"),
    ("ka", "kat"),
    ("kk", "kaz"),
    ("km", "khm"),
    ("kn", "kan"),
    ("ko", "kor"),
    ("ky", "kir"),
    ("la", "lat"),
    ("lb", "ltz"),
    ("lo", "lao"),
    ("lt", "lit"),
    ("lv", "lav"),
    ("mg", "mlg"),
    ("mi", "mri"),
    ("mk", "mkd"),
    ("ml", "mal"),
    ("mn", "mon"),
    ("mr", "mar"),
    ("mt", "mlt"),
    ("my", "mya"),
    ("nb", "nob"),
    ("ne", "nep"),
    ("nl", "nld"),
    ("nn", "nno"),
    ("nv", "nav"),
    ("oc", "oci"),
    ("pa", "pan"),
    ("pl", "pol"),
    ("pt", "por"),
    ("qu", "que"),
    ("ro", "ron"),
    ("ru", "rus"),
    ("rw", "kin"),
    ("sa", "san"),
    ("sk", "slk"),
    ("sl", "slv"),
    ("so", "som"),
    ("sq", "sqi"),
    ("sr", "srp"),
    ("su", "sun"),
    ("sv", "swe"),
    ("sw", "swa"),
    ("ta", "tam"),
    ("tg", "tgk"),
    ("th", "tha"),
    ("ti", "tir"),
    ("tk", "tuk"),
    ("tl", "tgl"),
    ("tr", "tur"),
    ("tt", "tat"),
    ("ug", "uig"),
    ("uk", "ukr"),
    ("ur", "urd"),
    ("uz", "uzb"),
    ("vi", "vie"),
    ("wo", "wol"),
    ("xh", "xho"),
    ("yi", "yid"),
    ("yo", "yor"),
    ("zh", "zho"),
    ("zu", "zul"),
];

/// Individual languages with their ISO 639-3 macrolanguage.
const MACRO: &[(&str, &[&str])] = &[
    ("aka", &["fat", "twi"]),
    ("ara", &["arb", "arz", "apc", "ary", "acm", "ajp", "aeb", "ars"]),
    ("aym", &["ayr", "ayc"]),
    ("aze", &["azj", "azb"]),
    ("fas", &["pes", "prs"]),
    ("grn", &["gug", "gui", "gun", "gnw", "nhd"]),
    ("lav", &["lvs", "ltg"]),
    ("mlg", &["plt"]),
    ("mon", &["khk"]),
    ("nah", &["nhn", "nhe", "nhw", "nhg", "ncj", "nch", "ncl", "nci", "azz", "ngu", "nlv", "ppl"]),
    ("nor", &["nob", "nno"]),
    ("oto", &["ote", "ots", "otm", "otq", "otz"]),
    (
        "que",
        &[
            "quy", "quz", "qub", "qud", "quf", "qug", "quh", "quk", "qul", "qup", "qur", "qus",
            "quw", "qux", "qva", "qvc", "qve", "qvh", "qvi", "qvj", "qvl", "qvm", "qvn", "qvo",
            "qvp", "qvs", "qvw", "qvz", "qwa", "qwc", "qwh", "qws", "qxa", "qxc", "qxh", "qxl",
            "qxn", "qxo", "qxp", "qxr", "qxt", "qxu", "qxw",
        ],
    ),
    ("sqi", &["als", "aln"]),
    ("swa", &["swh", "swc"]),
    ("uzb", &["uzn", "uzs"]),
    ("yid", &["ydd", "yih"]),
    ("zap", &["zam", "zro", "ztu", "zai", "zaa"]),
    ("zho", &["cmn", "yue", "wuu", "nan", "hak", "gan"]),
];

/// The ISO 639-3 form of a code: `es`, `es-MX`, `spa_Latn` and `SPA` all give `spa`. `None` for
/// what has not the shape of a language code.
pub fn canonical(code: &str) -> Option<&'static str> {
    let base = code.split(['-', '_']).next()?.to_ascii_lowercase();
    match base.len() {
        2 => SHORT.iter().find(|(short, _)| *short == base).map(|(_, long)| *long),
        3 => intern(&base),
        _ => None,
    }
}

/// The language of a label without its variety (`uzn_cyrl` → `uzn`).
pub fn language_code(label: &str) -> &str {
    label.split_once('_').map_or(label, |(language, _)| language)
}

/// The macrolanguage of an ISO 639-3 code (`quz` → `que`, `gug` → `grn`), or the code itself.
pub fn macrolanguage(label: &str) -> &str {
    MACRO.iter().find(|(_, members)| members.contains(&label)).map_or(label, |(name, _)| name)
}

/// Whether a text labelled `label` is in the language `wanted`, which may be its macrolanguage.
pub fn matches(label: &str, wanted: &str) -> bool {
    label == wanted || macrolanguage(label) == wanted
}

/// Scripts and forms that a label can name beside its language.
const VARIETIES: &[&str] = &["", "akuapem", "arab", "asante", "cyrl", "hans", "hant", "latn"];

/// The static string of a known variety.
pub(super) fn variety(name: &str) -> Option<&'static str> {
    VARIETIES.iter().copied().find(|known| *known == name)
}

/// Makes a static string of a three-letter code; there are at most 26³ of them.
pub(super) fn intern(code: &str) -> Option<&'static str> {
    static KNOWN: OnceLock<Mutex<BTreeSet<&'static str>>> = OnceLock::new();
    if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    let mut known =
        KNOWN.get_or_init(Mutex::default).lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(found) = known.get(code) {
        return Some(found);
    }
    let leaked: &'static str = Box::leak(code.to_owned().into_boxed_str());
    known.insert(leaked);
    Some(leaked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unified() {
        for code in ["es", "es-MX", "spa", "SPA", "spa_Latn"] {
            assert_eq!(canonical(code), Some("spa"), "{code}");
        }
        assert_eq!(canonical("español"), None);
        assert_eq!(canonical("xx"), None);
        assert_eq!(canonical(""), None);
        assert!(matches("quz", "que") && matches("quz", "quz") && !matches("quz", "quy"));
        assert!(matches("gug", canonical("gn").unwrap()));
        assert_eq!(macrolanguage("spa"), "spa");
    }
}
