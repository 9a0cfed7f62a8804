//! Which questions a benchmark of facts can ask: self-contained, factual, lasting, harmless.
//!
//! Most rules are patterns in `data/trueque/rules.toml`; those that need the whole question are
//! here: too short or too long, a noun without what it belongs to, a pronoun without what it stands
//! for. They are rules of this project, measured on questions labelled by its own writers
//! (`data/trueque/labelled.tsv`, `docs/trueque.md`). They know a question and its language, nothing
//! of the conversation around it.

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

use milpa_base::config::parse_toml;
use serde::{Deserialize, Serialize};

use super::{
    pattern::{Pattern, Word},
    question::{Question, asks_for_something},
};

/// The rules as data.
pub(crate) const RULES: &str = include_str!("../../data/trueque/rules.toml");
/// Most words of a question; beyond, it brings a story with it.
pub(crate) const MAX_WORDS: usize = 60;

/// A language whose questions the rules can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Spanish.
    Es,
    /// Portuguese.
    Pt,
    /// English.
    En,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Es, Self::Pt, Self::En];

    /// ISO 639-1 code.
    pub fn code(self) -> &'static str {
        ["es", "pt", "en"][self as usize]
    }

    /// The language of a code of two or three letters, with or without a region (`pt-BR`).
    pub fn parse(code: &str) -> Option<Self> {
        let base = code.split(['-', '_']).next()?.to_lowercase();
        match base.as_str() {
            "es" | "spa" => Some(Self::Es),
            "pt" | "por" => Some(Self::Pt),
            "en" | "eng" => Some(Self::En),
            _ => None,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: Vec<FileRule>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileRule {
    name: String,
    why: String,
    #[serde(default)]
    names: bool,
    /// Whether a year in the question excuses it.
    #[serde(default)]
    undated: bool,
    #[serde(default)]
    es: FilePatterns,
    #[serde(default)]
    pt: FilePatterns,
    #[serde(default)]
    en: FilePatterns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePatterns {
    #[serde(default, rename = "match")]
    matches: Vec<String>,
    #[serde(default)]
    unless: Vec<String>,
}

struct Rule {
    name: &'static str,
    names: bool,
    undated: bool,
    /// By language: what matches, what excuses.
    patterns: [(Vec<Pattern>, Vec<Pattern>); 3],
}

struct Rules {
    rules: Vec<Rule>,
    why: BTreeMap<&'static str, String>,
}

/// Reasons that are found here and not by patterns.
const OWN: [(&str, &str); 6] = [
    ("after_story", "much was told before it in the same turn, and it may be about that"),
    ("yes_no", "yes or no answers it, and a guess is right half of the time"),
    ("too_long", "it has more than sixty words"),
    ("incomplete", "it does not say of what or of whom"),
    ("pronoun", "a pronoun has nothing to stand for"),
    ("address", "it has a street and a number"),
];

fn rules() -> &'static Rules {
    static LOADED: OnceLock<Rules> = OnceLock::new();
    LOADED.get_or_init(|| Rules::parse(RULES).expect("the rules are tested to load"))
}

impl Rules {
    fn parse(text: &str) -> Result<Self, String> {
        let file: File =
            parse_toml(text, Path::new("rules.toml")).map_err(|error| error.to_string())?;
        let mut why: BTreeMap<&'static str, String> =
            OWN.iter().map(|(name, why)| (*name, (*why).to_owned())).collect();
        let mut rules = Vec::new();
        for rule in file.rule {
            // The rules live as long as the program, and reasons are handed around by name.
            let name: &'static str = rule.name.leak();
            why.insert(name, rule.why);
            let read = |patterns: &[String]| -> Result<Vec<Pattern>, String> {
                patterns.iter().map(|pattern| Pattern::parse(pattern)).collect()
            };
            let mut patterns =
                [(Vec::new(), Vec::new()), (Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
            for (of, file) in patterns.iter_mut().zip([&rule.es, &rule.pt, &rule.en]) {
                *of = (read(&file.matches)?, read(&file.unless)?);
            }
            rules.push(Rule { name, names: rule.names, undated: rule.undated, patterns });
        }
        Ok(Self { rules, why })
    }
}

/// Every reason for which a question is rejected, with what it means.
pub fn reasons() -> impl Iterator<Item = (&'static str, &'static str)> {
    rules().why.iter().map(|(name, why)| (*name, why.as_str()))
}

/// [`objection`] to a question with what was told before it.
pub fn objection_in_turn(question: &Question, language: Language) -> Option<&'static str> {
    if question.after_story { Some("after_story") } else { objection(&question.text, language) }
}

/// Why `question` is no question of fact that stands for itself, or `None` if no rule says so.
///
/// The first rule in the order of the table names the reason.
pub fn objection(question: &str, language: Language) -> Option<&'static str> {
    let unquoted = without_quotations(question);
    let words = Word::all(&unquoted);
    if words.len() > MAX_WORDS {
        return Some("too_long");
    }
    if has_sum(&unquoted) {
        return Some("calculation");
    }
    if has_address(&words) {
        return Some("address");
    }
    let dated = words.iter().any(Word::is_year);
    let matched = rules().rules.iter().find(|rule| {
        let (matches, unless) = &rule.patterns[language as usize];
        let found = |patterns: &[Pattern]| patterns.iter().any(|p| p.is_in(&words, rule.names));
        !(rule.undated && dated) && found(matches) && !found(unless)
    });
    if let Some(rule) = matched {
        return Some(rule.name);
    }
    if pronoun_without_antecedent(&words, language) {
        return Some("pronoun");
    }
    if !asks_for_something(question, language) {
        return Some("yes_no");
    }
    is_incomplete(&words, language).then_some("incomplete")
}

/// The text with quotations as names: what stands in a title is no pronoun of the question.
fn without_quotations(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(start) = rest.find(['"', '«', '“']) {
        let opening = rest[start..].chars().next().expect("it was found");
        let closing = match opening {
            '«' => '»',
            '“' => '”',
            _ => '"',
        };
        let inside = start + opening.len_utf8();
        let Some(end) = rest[inside..].find(closing) else { break };
        out.push_str(&rest[..start]);
        out.push_str(" Cita ");
        rest = &rest[inside + end + closing.len_utf8()..];
    }
    out.push_str(rest);
    out
}

/// A number, a sign and a number: `12 x 8`, `345/12`.
fn has_sum(text: &str) -> bool {
    let signs: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    signs.windows(3).any(|window| {
        let [left, sign, right] = window else { return false };
        left.is_ascii_digit()
            && right.is_ascii_digit()
            && matches!(sign, '+' | '*' | '/' | '×' | '÷' | '^' | '=' | '%')
    }) || text.split_whitespace().collect::<Vec<_>>().windows(3).any(|window| {
        let number = |text: &str| text.chars().next().is_some_and(|c| c.is_ascii_digit());
        matches!(window[1], "x" | "X" | "-" | "−") && number(window[0]) && number(window[2])
    })
}

/// A street with a number: somebody's house.
fn has_address(words: &[Word]) -> bool {
    const STREETS: [&str; 10] = [
        "calle", "avenida", "av", "avda", "pasaje", "jiron", "rua", "travessa", "carrera", "street",
    ];
    words.iter().enumerate().any(|(at, word)| {
        STREETS.contains(&word.folded.as_str())
            && words[at + 1..].iter().take(5).any(|next| next.is_number() && !next.is_year())
    })
}

/// Words that carry no matter of their own.
const FUNCTION_WORDS: [&[&str]; 3] = [
    &[
        "a", "al", "ante", "como", "con", "cual", "cuales", "cuando", "cuanta", "cuantas",
        "cuanto", "cuantos", "de", "del", "desde", "donde", "e", "el", "en", "entre", "era",
        "eran", "es", "esta", "estan", "fue", "fueron", "ha", "han", "hay", "la", "las", "llama",
        "llaman", "lo", "los", "mas", "no", "o", "para", "pero", "por", "que", "quien", "quienes",
        "se", "ser", "si", "sobre", "son", "su", "sus", "tenia", "tiene", "tienen", "un", "una",
        "uno", "unos", "unas", "y",
    ],
    &[
        "a", "ao", "aos", "as", "com", "como", "da", "das", "de", "do", "dos", "e", "em", "era",
        "eram", "esta", "estao", "fica", "foi", "foram", "ha", "chama", "chamam", "mais", "na",
        "nao", "nas", "no", "nos", "o", "onde", "os", "ou", "para", "pela", "pelo", "por", "quais",
        "qual", "quando", "quanta", "quantas", "quanto", "quantos", "que", "quem", "sao", "se",
        "ser", "seu", "sua", "sobre", "tem", "tinha", "um", "uma",
    ],
    &[
        "a", "an", "and", "are", "as", "at", "be", "been", "by", "called", "did", "do", "does",
        "for", "from", "had", "has", "have", "how", "in", "is", "it", "its", "many", "most",
        "much", "named", "no", "not", "of", "on", "or", "s", "that", "the", "there", "to", "was",
        "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "with",
    ],
];

/// Whether a word (lower case, without accents) carries no matter of its own.
pub(crate) fn is_function_word(folded: &str, language: Language) -> bool {
    FUNCTION_WORDS[language as usize].contains(&folded)
}

/// Nouns that are nothing without what they belong to.
const RELATIONAL: [&[&str]; 3] = [
    &[
        "altura",
        "area",
        "autor",
        "autora",
        "bandera",
        "capital",
        "causa",
        "clima",
        "codigo",
        "color",
        "consecuencia",
        "culpable",
        "diferencia",
        "director",
        "edad",
        "escudo",
        "extension",
        "fecha",
        "fundador",
        "ganador",
        "gobierno",
        "habitantes",
        "himno",
        "historia",
        "idioma",
        "idiomas",
        "lema",
        "lengua",
        "limite",
        "limites",
        "lugar",
        "moneda",
        "motivo",
        "nombre",
        "numero",
        "origen",
        "peso",
        "poblacion",
        "presidente",
        "presidenta",
        "primera",
        "primero",
        "protagonista",
        "religion",
        "resultado",
        "segundo",
        "significado",
        "significa",
        "superficie",
        "tamano",
        "titulo",
        "ultima",
        "ultimo",
        "personas",
        "gente",
        "mayor",
        "menor",
        "total",
        "vive",
        "viven",
    ],
    &[
        "altura",
        "area",
        "autor",
        "autora",
        "bandeira",
        "capital",
        "causa",
        "clima",
        "cor",
        "data",
        "diferenca",
        "diretor",
        "fundador",
        "governo",
        "habitantes",
        "hino",
        "historia",
        "idade",
        "idioma",
        "idiomas",
        "lema",
        "lingua",
        "lugar",
        "maior",
        "menor",
        "moeda",
        "motivo",
        "nome",
        "numero",
        "origem",
        "pessoas",
        "peso",
        "populacao",
        "presidente",
        "primeira",
        "primeiro",
        "protagonista",
        "religiao",
        "resultado",
        "segundo",
        "significado",
        "significa",
        "tamanho",
        "titulo",
        "total",
        "ultima",
        "ultimo",
        "vencedor",
        "vive",
        "vivem",
    ],
    &[
        "age",
        "anthem",
        "area",
        "author",
        "capital",
        "cause",
        "climate",
        "color",
        "colour",
        "currency",
        "date",
        "difference",
        "director",
        "first",
        "flag",
        "founder",
        "government",
        "height",
        "history",
        "inhabitants",
        "language",
        "last",
        "location",
        "mean",
        "meaning",
        "motto",
        "name",
        "number",
        "origin",
        "people",
        "place",
        "population",
        "president",
        "reason",
        "religion",
        "result",
        "second",
        "size",
        "title",
        "total",
        "weight",
        "winner",
        "year",
    ],
];

/// Forms of "to be": what follows them is named, not told.
const COPULAS: [&[&str]; 3] = [
    &["es", "son", "era", "eran", "fue", "fueron", "significa"],
    &["e", "sao", "era", "eram", "foi", "foram", "significa"],
    &["is", "are", "was", "were", "s"],
];

/// Whether the question does not say of what: "¿Cuándo murió?", "¿Cuál es la capital?".
fn is_incomplete(words: &[Word], language: Language) -> bool {
    let at = language as usize;
    let of = |list: [&[&str]; 3], word: &Word| list[at].contains(&word.folded.as_str());
    let content: Vec<&Word> =
        words.iter().filter(|word| word.is_name || !of(FUNCTION_WORDS, word)).collect();
    let needed = if words.iter().any(|word| of(COPULAS, word)) { 1 } else { 2 };
    let names = content.iter().any(|word| word.is_name || word.is_number());
    content.len() < needed || (!names && content.iter().all(|word| of(RELATIONAL, word)))
}

/// Pronouns of the third person, and possessives.
const PRONOUNS: [&[&str]; 3] = [
    &["él", "ella", "ellos", "ellas", "su", "sus", "suyo", "suya", "aquél"],
    &[
        "ele", "ela", "eles", "elas", "dele", "dela", "deles", "delas", "nele", "nela", "lhe",
        "lhes", "seu", "sua", "seus", "suas",
    ],
    &["he", "she", "it", "they", "him", "her", "them", "his", "hers", "its", "their", "theirs"],
];
/// Words behind which a noun stands.
const DETERMINERS: [&[&str]; 3] = [
    &["el", "la", "los", "las", "un", "una", "que", "cual", "cuantos", "cuantas", "cada"],
    &["o", "a", "os", "as", "um", "uma", "que", "qual", "quantos", "quantas", "cada"],
    &["the", "a", "an", "which", "what", "many", "every", "each"],
];
const PREPOSITIONS: [&[&str]; 3] = [
    &["de", "del", "con", "por"],
    &["de", "do", "da", "com", "por"],
    &["of", "with", "by", "about"],
];

/// Whether a pronoun stands before anything that it could stand for.
fn pronoun_without_antecedent(words: &[Word], language: Language) -> bool {
    let at = language as usize;
    let is = |list: [&[&str]; 3], word: &Word| list[at].contains(&word.folded.as_str());
    words.iter().enumerate().any(|(place, word)| {
        let pronoun = !word.is_name
            && (PRONOUNS[at].contains(&word.exact.as_str()) || is_clitic(words, place, language));
        if !pronoun {
            return false;
        }
        let before = &words[..place];
        if before.iter().any(|word| word.is_name) {
            return false;
        }
        // "The name of his wife": what the name belongs to comes later.
        if before.last().is_some_and(|word| is(PREPOSITIONS, word)) {
            return true;
        }
        let noun = before.windows(2).any(|pair| {
            is(DETERMINERS, &pair[0]) && !is(FUNCTION_WORDS, &pair[1]) && !is(RELATIONAL, &pair[1])
        });
        !noun
    })
}

/// Whether `lo`, `la`, `los`, `las`, `le`, `les` is a Spanish pronoun and no article: what follows
/// looks like a verb, and no "a" later says whom it means.
fn is_clitic(words: &[Word], place: usize, language: Language) -> bool {
    if language != Language::Es {
        return false;
    }
    let Some(next) = words.get(place + 1) else { return false };
    let named_later = words[place + 1..]
        .windows(2)
        .any(|pair| matches!(pair[0].folded.as_str(), "a" | "al") && !pair[1].is_number());
    match words[place].exact.as_str() {
        "lo" => {
            const NEUTER: [&str; 9] =
                ["que", "mas", "mejor", "peor", "de", "cual", "largo", "alto", "bueno"];
            !NEUTER.contains(&next.folded.as_str()) && !next.is_name && !named_later
        }
        "le" | "les" => !named_later,
        "la" | "los" | "las" => {
            let verb = ["aron", "ieron", "eron", "ió", "aba", "aban"];
            !next.is_name && verb.iter().any(|end| next.exact.ends_with(end))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(language: Language, question: &str, expect: Option<&str>) {
        assert_eq!(objection(question, language), expect, "{question:?}");
    }

    #[test]
    fn the_rules_load_and_have_a_reason_each() {
        let rules = Rules::parse(RULES).unwrap();
        for rule in &rules.rules {
            assert!(!rules.why[rule.name].is_empty());
            assert!(rule.patterns.iter().all(|(matches, _)| !matches.is_empty()), "{}", rule.name);
        }
        assert!(reasons().count() > 20);
    }

    #[test]
    fn what_a_question_leaves_open() {
        check(Language::Es, "¿Cuándo murió?", Some("incomplete"));
        check(Language::Es, "¿Cuál es la capital?", Some("incomplete"));
        check(Language::Es, "¿Cuál es la capital de Perú?", None);
        check(Language::Es, "¿Qué es el mate?", None);
        check(Language::Pt, "Qual é a população?", Some("incomplete"));
        check(Language::En, "Who won?", Some("incomplete"));
    }

    #[test]
    fn pronouns_need_what_they_stand_for() {
        check(Language::Es, "¿Cuál es su capital?", Some("pronoun"));
        check(Language::Es, "¿Qué escritor peruano publicó su primera novela en 1963?", None);
        check(Language::Es, "¿Cuál fue la causa de su muerte?", Some("pronoun"));
        check(Language::Es, "¿Quién lo escribió?", Some("pronoun"));
        check(Language::Es, "¿Cuándo la fundaron?", Some("pronoun"));
        check(Language::Es, "¿Por qué le dicen Perla del Pacífico a Guayaquil?", None);
        check(Language::En, "What is the name of his wife?", Some("pronoun"));
    }

    #[test]
    fn titles_are_not_read_as_words() {
        check(Language::Es, "¿Quién escribió «¿Y tú quién eres?»?", None);
        check(Language::Es, "¿Quién escribió Yo el Supremo?", None);
    }

    #[test]
    fn dates_excuse_what_changes() {
        check(Language::Es, "¿Quién es el presidente de Chile?", Some("time_dependent"));
        check(
            Language::Es,
            "¿Cuánto valía y cuánto vale el cobre en 1974?",
            Some("several_questions"),
        );
        check(Language::Pt, "Quem foi o presidente do Brasil em 1950?", None);
    }
}
