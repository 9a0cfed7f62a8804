//! Instruction following: does a response keep constraints that a program can check?
//!
//! The kinds of IFEval (Zhou et al., arXiv 2311.07911) in English, with those that M-IFEval
//! (arXiv 2502.04688) has for Spanish, and the same for Portuguese, Guaraní and Quechua. Languages
//! are identified by `milpa-text`, so a verdict is the same each time. [`Instruction`] judges one
//! response; [`read_prompts`] and [`read_responses`] read files, [`score`] makes the report, [`ask`]
//! lets a model respond. It knows no metric but kept or not.

mod arguments;
mod constraint;
mod files;
mod report;
mod text;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::statistics::Share;
pub use arguments::Bound;
use constraint::Constraint;
pub use files::{InstructionPrompt, PromptSet, Responses, read_prompts, read_responses};
pub(crate) use files::{name_of, read_rows};
pub use report::{InstructionLog, InstructionReport, KindScores, Scores, ask, score};

/// Whose rules a constraint follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Language {
    /// IFEval's own.
    #[serde(rename = "en")]
    English,
    /// M-IFEval's.
    #[serde(rename = "es")]
    Spanish,
    /// As Spanish, with the letters of Portuguese.
    #[serde(rename = "pt")]
    Portuguese,
    /// As Spanish, with the letters of Guaraní.
    #[serde(rename = "gn")]
    Guarani,
    /// As Spanish, with the letters of Quechua.
    #[serde(rename = "qu")]
    Quechua,
}

impl Language {
    /// The language of a code: `es`, `spa`, `es-MX`.
    pub fn of_code(code: &str) -> Option<Self> {
        let code = milpa_text::language::canonical(code)?;
        Some(match milpa_text::language::macrolanguage(code) {
            "eng" => Self::English,
            "spa" => Self::Spanish,
            "por" => Self::Portuguese,
            "grn" => Self::Guarani,
            "que" => Self::Quechua,
            _ => return None,
        })
    }

    /// The name in English.
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Spanish => "Spanish",
            Self::Portuguese => "Portuguese",
            Self::Guarani => "Guaraní",
            Self::Quechua => "Quechua",
        }
    }
}

/// Whether a constraint is kept, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Whether it is kept.
    pub kept: bool,
    /// What was found.
    pub reason: String,
}

impl Verdict {
    fn new(kept: bool, reason: impl Into<String>) -> Self {
        Self { kept, reason: reason.into() }
    }

    /// Kept unless there is a complaint.
    fn absence(complaint: Option<String>) -> Self {
        Self { kept: complaint.is_none(), reason: complaint.unwrap_or_else(|| "as asked".into()) }
    }
}

/// One constraint on a response.
#[derive(Debug, Clone)]
pub struct Instruction {
    /// The id as it was written.
    pub id: String,
    /// Whose rules it follows.
    pub language: Language,
    constraint: Constraint,
}

impl Instruction {
    /// Reads an instruction: an id (`es:punctuation:no_comma`; without a language, `default`'s) and
    /// its arguments.
    ///
    /// # Errors
    /// A kind or argument that is unknown, missing or impossible, said for a person.
    pub fn parse(
        id: &str,
        arguments: &Map<String, Value>,
        default: Language,
    ) -> Result<Self, String> {
        let (language, kind) = match id.split_once(':') {
            Some((code, kind)) if kind.contains(':') => {
                (Language::of_code(code).ok_or_else(|| format!("{id}: unknown language"))?, kind)
            }
            _ => (default, id),
        };
        let constraint = Constraint::parse(kind, arguments, language)
            .map_err(|problem| format!("{id}: {problem}"))?;
        Ok(Self { id: id.to_owned(), language, constraint })
    }

    /// The id without its language.
    pub fn kind(&self) -> &str {
        let parts = self.id.matches(':').count();
        self.id.split_once(':').filter(|_| parts > 1).map_or(&self.id, |(_, kind)| kind)
    }

    /// The strict verdict: the response as it is. An empty one keeps nothing.
    pub fn check(&self, response: &str) -> Verdict {
        if response.trim().is_empty() {
            return Verdict::new(false, "an empty response");
        }
        self.constraint.check(response, self.language)
    }

    /// The loose verdict: kept if the response keeps it, or it without its first line, last line or
    /// both, or one of these without `*`. Paper: arXiv 2311.07911 section 2.2.
    pub fn check_loosely(&self, response: &str) -> Verdict {
        let strict = self.check(response);
        if strict.kept {
            return strict;
        }
        let lines: Vec<&str> = response.split('\n').collect();
        let from = |skip: usize, end: usize| {
            let part = lines.get(skip..end).unwrap_or_default();
            part.join("\n").trim().to_owned()
        };
        let (count, less) = (lines.len(), lines.len() - 1);
        let whole = [response.to_owned(), from(1, count), from(0, less), from(1, less)];
        let bare = whole.each_ref().map(|text| text.replace('*', ""));
        let kept = whole[1..].iter().chain(&bare).map(|text| self.check(text));
        kept.into_iter().find(|verdict| verdict.kept).unwrap_or(strict)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(id: &str, arguments: Value) -> Result<Instruction, String> {
        let Value::Object(arguments) = arguments else { unreachable!("tests give objects") };
        Instruction::parse(id, &arguments, Language::English)
    }

    fn check(id: &str, arguments: Value, kept: &[&str], broken: &[&str]) {
        let instruction = parse(id, arguments).unwrap();
        for response in kept {
            let verdict = instruction.check(response);
            assert!(verdict.kept, "{id}: {response:?}: {}", verdict.reason);
        }
        for response in broken {
            let verdict = instruction.check(response);
            assert!(!verdict.kept, "{id}: {response:?}: {}", verdict.reason);
        }
    }

    #[test]
    fn portuguese_has_its_own_letters_and_answers() {
        check(
            "pt:special_character:accents",
            json!({"num_words": 2, "relation": "pelo menos"}),
            &["À noite, a avó canta.", "Não há pão."],
            &["A menina canta.", "Olá."],
        );
        check(
            "pt:special_character:cedilla",
            json!({"let_frequency": 1}),
            &["A roça é grande."],
            &["A casa é grande.", "A roça e a praça."],
        );
        check("pt:detectable_format:constrained_response", json!({}), &["Não."], &["Nunca."]);
        check(
            "pt:change_case:portuguese_lowercase",
            json!({}),
            &["a menina foi à escola com o seu irmão e não voltou para casa até de noite."],
            &[
                "A menina foi à escola.",
                "la niña fue a la escuela con su hermano y no volvió a casa hasta la noche.",
            ],
        );
        check(
            "pt:length_constraints:number_words",
            json!({"num_words": 3, "relation": "no máximo"}),
            &["1. um\n2. dois\n3. três"],
            &["um dois três quatro"],
        );
        check("pt:startend:quotation", json!({}), &["“Sim”", "\"Sim\""], &["Sim", "“Sim"]);
    }

    #[test]
    fn guarani_and_quechua_have_their_letters() {
        check(
            "gn:special_character:puso",
            json!({"num_words": 2, "relation": "al menos"}),
            &["Mba'éichapa, ko'ẽ porã.", "Mba’éichapa che ra’y."],
            &["Che aime porã.", "'Che' 'aime'", "Mba'éichapa."],
        );
        check(
            "gn:special_character:nasals",
            json!({"num_words": 2, "relation": "al menos"}),
            &["Ko'ẽ porã", "ag\u{303}a mitã", "co\u{303} ko\u{303}"],
            &["Che aime.", "porã."],
        );
        check(
            "qu:special_character:ejectives",
            json!({"num_words": 1, "relation": "exactamente"}),
            &["T'anta mikhuni.", "q’oñi"],
            &["Wasi hatun.", "t'anta k'anka"],
        );
        check(
            "gn:language:response_language",
            json!({"language": "gn"}),
            &["Ñande yvy porã ko'ãga oñembyai hína, ha opavave tapicha oipytyvõva'erã."],
            &["La tierra es de todos y cada persona tiene que ayudar a cuidarla."],
        );
        check(
            "qu:change_case:quechua_lowercase",
            json!({}),
            &["llapan runakuna kay pachapi qispisqa paqarinku, allin kawsaypaq hina."],
            &["Llapan runakuna kay pachapi qispisqa paqarinku."],
        );
        check("gn:keywords:existence", json!({"keywords": ["a.b"]}), &["a.b"], &["axb"]);
    }

    #[test]
    fn spanish_follows_the_published_rules() {
        check(
            "es:special_character:enie",
            json!({"let_frequency": 2}),
            &["El niño sueña."],
            &["El niño.", "El niño sueña en la mañana."],
        );
        check(
            "es:startend:end_checker",
            json!({"end_phrase": "Un saludo"}),
            &["… Un saludo."],
            &["Un saludo a todos"],
        );
        check("es:punctuation:question_marks", json!({}), &["¿Sí?"], &["Sí?", "Sí."]);
        check(
            "es:length_constraints:nth_paragraph_first_word",
            json!({"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "En mi opinión"}),
            &["En mi opinión, sí.\n\nNo."],
            &["En mi opinión, sí.", "Sí.\n\nEn mi opinión"],
        );
    }

    #[test]
    fn a_loose_verdict_looks_past_the_frame() {
        let instruction = parse("startend:quotation", json!({})).unwrap();
        assert!(!instruction.check("Here it is:\n\"So.\"").kept);
        assert!(instruction.check_loosely("Here it is:\n\"So.\"").kept);
        assert!(instruction.check_loosely("*\"So.\"*").kept);
        assert!(!instruction.check_loosely("So.").kept);
        assert!(!instruction.check_loosely("").kept);
        assert_eq!(instruction.kind(), "startend:quotation");
        assert_eq!(parse("es:startend:quotation", json!({})).unwrap().kind(), "startend:quotation");
    }

    #[test]
    fn what_cannot_be_judged_is_refused_with_its_reason() {
        let check = |id: &str, arguments: Value, expect: &str| {
            let problem = parse(id, arguments).unwrap_err();
            assert!(problem.contains(expect), "{problem}");
        };
        check("punctuation:no_dots", json!({}), "there is no instruction \"punctuation:no_dots\"");
        check("xx:punctuation:no_comma", json!({}), "unknown language");
        check("pt:special_character:enie", json!({"let_frequency": 1}), "for Portuguese");
        check("punctuation:no_comma", json!({"commas": 1}), "\"commas\" is unknown");
        check("keywords:existence", json!({}), "\"keywords\" is missing");
        check("keywords:existence", json!({"keywords": ["("]}), "no regular expression");
        check("length_constraints:number_words", json!({"num_words": -3}), "no count");
        let about = json!({"num_words": 3, "relation": "about"});
        check("length_constraints:number_words", about, "the relation \"about\" is unknown");
        check("language:response_language", json!({"language": "zz"}), "can be identified");
        check("gn:detectable_format:constrained_response", json!({}), "\"options\" is missing");
        assert!(parse("punctuation:no_comma", json!({"relation": null})).is_ok());
    }
}
