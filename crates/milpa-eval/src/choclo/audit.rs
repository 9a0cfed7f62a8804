//! Checks sentences against rules of Spanish and Portuguese grammar and typography.
//!
//! The rules are mechanical: contractions, the gender of articles, agreement of participles,
//! question marks, accents of interrogatives, doubled words, spaces, leftover ids and slots. They
//! do not know what a sentence says; a person reads a sample beside them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::choclo::grammar::Language;

/// A rule and what it asks for.
pub const RULES: [(&str, &str); 14] = [
    (
        "marks",
        "A Spanish question opens with ¿ and closes with ?; a Portuguese one closes with ? and has no ¿",
    ),
    ("capital", "The first letter is a capital"),
    ("spaces", "One space between words, none before a mark, none at the ends"),
    ("slots", "No brace of a template is left"),
    ("ids", "No Q or P number stands in the text"),
    ("contraction", "de + el, a + el (es) and de, em, a, por + article (pt) are contracted"),
    ("article_gender", "An article agrees with the noun that follows it"),
    ("agreement", "A participle after the noun that begins the sentence agrees with it"),
    ("doubled", "No word is repeated"),
    ("interrogative", "Interrogatives of Spanish have their accent"),
    ("conjunction", "y before i- is e, o before o- is u (es)"),
    ("quotes", "Quotation marks come in pairs, of the language's kind"),
    ("brackets", "Brackets come in pairs"),
    ("other_language", "No function word of the other language"),
];

/// The rules that a question breaks.
pub fn check_question(language: Language, text: &str) -> Vec<&'static str> {
    let mut broken = check_text(language, text);
    let marks = match language {
        Language::Spanish => {
            text.starts_with('¿')
                && text.ends_with('?')
                && text.matches('¿').count() == 1
                && text.matches('?').count() == 1
        }
        Language::Portuguese => {
            !text.contains('¿') && text.ends_with('?') && text.matches('?').count() == 1
        }
    };
    if !marks {
        broken.push("marks");
    }
    if language == Language::Spanish && !asks_with_accent(text) {
        broken.push("interrogative");
    }
    broken
}

/// The rules that a sentence of any kind breaks.
pub fn check_text(language: Language, text: &str) -> Vec<&'static str> {
    let mut broken = Vec::new();
    let mut rule = |name, holds: bool| {
        if !holds {
            broken.push(name);
        }
    };
    let plain = without_names(text);
    let words: Vec<&str> = plain.split_whitespace().collect();
    let bare: Vec<&str> =
        words.iter().map(|word| word.trim_matches(|c: char| !c.is_alphanumeric())).collect();
    rule("capital", text.chars().find(|c| c.is_alphabetic()).is_none_or(|c| !c.is_lowercase()));
    rule("spaces", spaces_hold(text));
    rule("slots", !text.contains(['{', '}']));
    rule("ids", !text.split(|c: char| !c.is_alphanumeric()).any(is_id));
    rule("contraction", contractions_hold(language, &bare));
    rule("article_gender", articles_hold(language, &bare));
    rule("agreement", participles_hold(language, &bare));
    rule("doubled", bare.windows(2).all(|pair| pair[0].is_empty() || !same_word(pair[0], pair[1])));
    rule("conjunction", language == Language::Portuguese || conjunctions_hold(&bare));
    rule("quotes", quotes_hold(language, text));
    rule("brackets", text.matches('(').count() == text.matches(')').count());
    rule("other_language", !has_foreign_word(language, &bare));
    broken
}

/// The text with what is quoted taken out: titles have a grammar of their own.
fn without_names(text: &str) -> String {
    let mut depth = 0usize;
    let mut plain = String::new();
    for c in text.chars() {
        match c {
            '«' | '“' => depth += 1,
            '»' | '”' => {
                depth = depth.saturating_sub(1);
                // A title is a word of some kind.
                plain.push('…');
            }
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain
}

fn spaces_hold(text: &str) -> bool {
    text == text.trim()
        && !text.contains("  ")
        && ![" ?", " ,", " .", " ;", " )", "( ", "¿ "].iter().any(|bad| text.contains(bad))
}

fn is_id(word: &str) -> bool {
    word.len() > 1
        && word.starts_with(['Q', 'P'])
        && word[1..].bytes().all(|byte| byte.is_ascii_digit())
}

/// An article with a capital belongs to a name ("de El Alto") and does not contract.
fn contractions_hold(language: Language, words: &[&str]) -> bool {
    let apart = |first: &str, second: &str| match language {
        Language::Spanish => matches!(first, "de" | "a") && second == "el",
        Language::Portuguese => {
            matches!(first, "de" | "em" | "por") && matches!(second, "o" | "a" | "os" | "as")
                || first == "a" && matches!(second, "o" | "os" | "as")
        }
    };
    !words.windows(2).any(|pair| apart(&pair[0].to_lowercase(), pair[1]))
}

/// Nouns that templates and classes use, by gender: masculine, feminine.
fn nouns(language: Language) -> [&'static [&'static str]; 2] {
    match language {
        Language::Spanish => [
            &[
                "río",
                "lago",
                "monte",
                "volcán",
                "municipio",
                "departamento",
                "estado",
                "distrito",
                "edificio",
                "álbum",
                "género",
                "grupo",
                "plato",
                "evento",
                "pueblo",
                "idioma",
                "taxón",
                "club",
                "partido",
                "parque",
                "museo",
                "teatro",
                "estadio",
                "cerro",
                "nevado",
                "país",
                "punto",
                "premio",
                "deporte",
                "instrumento",
                "guion",
                "material",
                "sistema",
                "código",
                "número",
                "lugar",
                "territorio",
                "sitio",
                "mar",
                "océano",
                "puente",
                "valle",
                "siglo",
                "equipo",
                "palacio",
                "castillo",
                "instituto",
                "colegio",
            ],
            &[
                "ciudad",
                "localidad",
                "provincia",
                "región",
                "montaña",
                "isla",
                "reserva",
                "universidad",
                "película",
                "serie",
                "obra",
                "canción",
                "pintura",
                "fiesta",
                "pieza",
                "organización",
                "parroquia",
                "catedral",
                "iglesia",
                "capital",
                "moneda",
                "población",
                "superficie",
                "altitud",
                "fecha",
                "longitud",
                "cordillera",
                "cadena",
                "sede",
                "lengua",
                "masa",
                "institución",
                "ocupación",
                "profesión",
                "autoría",
                "dirección",
                "música",
                "interpretación",
                "arquitectura",
                "división",
                "década",
                "persona",
                "escuela",
                "plaza",
                "laguna",
                "sierra",
                "torre",
                "basílica",
                "biblioteca",
                "estación",
            ],
        ],
        Language::Portuguese => [
            &[
                "rio",
                "lago",
                "monte",
                "vulcão",
                "município",
                "departamento",
                "estado",
                "distrito",
                "edifício",
                "álbum",
                "gênero",
                "grupo",
                "prato",
                "evento",
                "povo",
                "idioma",
                "táxon",
                "clube",
                "partido",
                "parque",
                "museu",
                "teatro",
                "estádio",
                "cerro",
                "país",
                "ponto",
                "prêmio",
                "esporte",
                "instrumento",
                "roteiro",
                "material",
                "sistema",
                "código",
                "número",
                "lugar",
                "local",
                "território",
                "sítio",
                "mar",
                "oceano",
                "vale",
                "século",
                "palácio",
                "castelo",
                "instituto",
                "filme",
                "comprimento",
                "corpo",
                "nome",
            ],
            &[
                "cidade",
                "localidade",
                "província",
                "região",
                "montanha",
                "ilha",
                "reserva",
                "universidade",
                "série",
                "obra",
                "canção",
                "pintura",
                "festa",
                "peça",
                "organização",
                "paróquia",
                "catedral",
                "igreja",
                "capital",
                "moeda",
                "população",
                "área",
                "altitude",
                "data",
                "cordilheira",
                "cadeia",
                "sede",
                "língua",
                "instituição",
                "ocupação",
                "profissão",
                "autoria",
                "direção",
                "música",
                "interpretação",
                "arquitetura",
                "divisão",
                "década",
                "pessoa",
                "equipe",
                "escola",
                "praça",
                "lagoa",
                "serra",
                "torre",
                "basílica",
                "biblioteca",
                "estação",
                "ponte",
                "fronteira",
            ],
        ],
    }
}

fn gender_of(language: Language, noun: &str) -> Option<usize> {
    let lower = noun.to_lowercase();
    nouns(language).iter().position(|list| list.contains(&lower.as_str()))
}

fn articles_hold(language: Language, words: &[&str]) -> bool {
    let articles: [&[&str]; 2] = match language {
        Language::Spanish => [&["el", "del", "al", "un"], &["la", "una"]],
        Language::Portuguese => {
            [&["o", "do", "no", "ao", "pelo", "um"], &["a", "da", "na", "à", "pela", "uma"]]
        }
    };
    let article_gender = |word: &str| articles.iter().position(|list| list.contains(&word));
    words.windows(2).enumerate().all(|(at, pair)| {
        // Within a name ("Salto del Cabra") both words may be anything.
        let first = if at == 0 { pair[0].to_lowercase() } else { pair[0].to_owned() };
        match (article_gender(&first), gender_of(language, pair[1])) {
            (Some(article), Some(noun)) => article == noun,
            _ => true,
        }
    })
}

/// "La ciudad de X fue fundada": the first noun and the participle after the verb agree.
fn participles_hold(language: Language, words: &[&str]) -> bool {
    let verbs: &[&str] = match language {
        Language::Spanish => &["fue", "es"],
        Language::Portuguese => &["foi", "é"],
    };
    let Some(subject) = words.iter().take(3).find_map(|word| gender_of(language, word)) else {
        return true;
    };
    if words.first().is_none_or(|word| !["El", "La", "O", "A"].contains(word)) {
        return true;
    }
    words.windows(2).filter(|pair| verbs.contains(&pair[0])).all(|pair| {
        let form = pair[1];
        let stem = form.len() > 4 && (form.ends_with("do") || form.ends_with("da"));
        let adjective = ["originario", "originaria", "originário", "originária"].contains(&form)
            || form.starts_with("endémic")
            || form.starts_with("endêmic")
            || ["escrito", "escrita", "compuesta", "composta"].contains(&form);
        !(stem || adjective) || usize::from(form.ends_with('a')) == subject
    })
}

fn same_word(first: &str, second: &str) -> bool {
    // "Bora Bora" is a name; a repeated word of the sentence is in lower case, or repeats a noun.
    first.to_lowercase() == second.to_lowercase()
        && (first == first.to_lowercase())
        && first.chars().all(char::is_alphabetic)
}

fn conjunctions_hold(words: &[&str]) -> bool {
    words.windows(2).all(|pair| match pair[0] {
        "y" => {
            let next = pair[1].to_lowercase();
            !(next.starts_with('i') || next.starts_with("hi")) || next.starts_with("hie")
        }
        "o" => {
            let next = pair[1].to_lowercase();
            !(next.starts_with('o') || next.starts_with("ho"))
        }
        _ => true,
    })
}

fn quotes_hold(language: Language, text: &str) -> bool {
    let [open, close, other] = match language {
        Language::Spanish => ['«', '»', '“'],
        Language::Portuguese => ['“', '”', '«'],
    };
    text.matches(open).count() == text.matches(close).count() && !text.contains(other)
}

fn asks_with_accent(text: &str) -> bool {
    const ASKING: [&str; 11] = [
        "qué", "cuál", "cuáles", "quién", "quiénes", "dónde", "cuándo", "cómo", "cuánto",
        "cuántos", "cuántas",
    ];
    text.split(|c: char| !c.is_alphabetic())
        .any(|word| ASKING.contains(&word.to_lowercase().as_str()))
}

fn has_foreign_word(language: Language, words: &[&str]) -> bool {
    // Only words in lower case: in names anything may stand.
    let foreign: &[&str] = match language {
        Language::Spanish => &["em", "fica", "não", "onde", "qual", "quem", "são", "uma"],
        Language::Portuguese => &["el", "los", "del", "dónde", "cuál", "quién", "una", "en"],
    };
    // Past the first words of a name its lower-case links ("Mar del Plata") are the name's own.
    words
        .windows(2)
        .any(|pair| foreign.contains(&pair[0]) && pair[1].chars().all(char::is_lowercase))
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Sentences checked.
    pub sentences: u64,
    /// Sentences that break no rule.
    pub grammatical: u64,
    /// How often each rule was broken.
    pub broken: BTreeMap<String, u64>,
    /// The first sentences of each broken rule.
    pub examples: BTreeMap<String, Vec<String>>,
}

/// Examples kept for a rule.
const EXAMPLES: usize = 5;

impl Audit {
    /// Counts one sentence with the rules it breaks.
    pub fn add(&mut self, text: &str, broken: &[&str]) {
        self.sentences += 1;
        self.grammatical += u64::from(broken.is_empty());
        for rule in broken {
            *self.broken.entry((*rule).to_owned()).or_default() += 1;
            let examples = self.examples.entry((*rule).to_owned()).or_default();
            if examples.len() < EXAMPLES {
                examples.push(text.to_owned());
            }
        }
    }

    /// Share of grammatical sentences; 1 where there is none.
    pub fn share(&self) -> f64 {
        if self.sentences == 0 { 1.0 } else { self.grammatical as f64 / self.sentences as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Language::{Portuguese, Spanish};

    fn check(language: Language, text: &str, expect: &[&str]) {
        let broken = if text.ends_with('?') {
            check_question(language, text)
        } else {
            check_text(language, text)
        };
        assert_eq!(broken, expect, "{text}");
    }

    #[test]
    fn good_sentences_pass() {
        for text in [
            "¿Cuál es la capital de El Salvador?",
            "¿En qué país se encuentra la localidad de El Alto?",
            "La ciudad de Lima fue fundada por",
            "¿Quién dirigió la película «El lado de el río»?",
            "¿Dónde nació Juan de la Cruz y Quispe?",
        ] {
            check(Spanish, text, &[]);
        }
        for text in [
            "Em que país fica a localidade de Rio Grande do Sul?",
            "O município de São Paulo foi fundado",
            "Quem dirigiu o filme “A hora da estrela”?",
            "A que país pertence o rio Paraná?",
        ] {
            check(Portuguese, text, &[]);
        }
    }

    #[test]
    fn each_rule_finds_its_fault() {
        check(Spanish, "Cuál es la capital?", &["marks"]);
        check(Spanish, "¿cuál es la capital?", &["capital"]);
        check(Spanish, "¿Cuál es  la capital?", &["spaces"]);
        check(Spanish, "¿Cuál es {S}?", &["slots"]);
        check(Spanish, "¿Cuál es la capital de Q414?", &["ids"]);
        check(Spanish, "¿Dónde está el puente de el río?", &["contraction"]);
        check(Spanish, "¿Dónde está el ciudad de Lima?", &["article_gender"]);
        check(Spanish, "La ciudad de Lima fue fundado por", &["agreement"]);
        check(Spanish, "¿Cuál es la capital de de Perú?", &["doubled"]);
        check(Spanish, "¿En que país está Lima?", &["interrogative"]);
        check(Spanish, "¿Quién creó padres y hijos?", &["conjunction"]);
        check(Spanish, "¿Quién dirigió «Machuca?", &["quotes"]);
        check(Spanish, "¿Dónde está Lima (Perú?", &["brackets"]);
        check(Spanish, "¿Cuál es la fica em onde está?", &["other_language"]);
        check(Portuguese, "¿Onde fica Lima?", &["marks"]);
        check(Portuguese, "Qual é a capital de o estado?", &["contraction"]);
        check(Portuguese, "Onde fica a rio Paraná?", &["article_gender"]);
        check(Portuguese, "O município de Lima foi fundada", &["agreement"]);
    }

    #[test]
    fn every_rule_is_listed() {
        let mut names: Vec<&str> = RULES.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }
}
