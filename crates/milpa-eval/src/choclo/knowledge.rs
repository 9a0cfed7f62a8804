//! The tables that say what is asked and how: countries, classes and relations.
//!
//! They are data (`data/choclo/*.toml`); a caller may bring its own relations. What a table says is
//! checked when it is read, so that no template fails while questions are written.

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

use milpa_base::{ConfigError, config::invalid_value, load_toml, parse_toml};
use serde::Deserialize;

use crate::choclo::{
    entity::{Id, Wanted, number_of},
    grammar::{Gender, Language, Template},
};

const COUNTRIES: &str = include_str!("../../data/choclo/countries.toml");
const CLASSES: &str = include_str!("../../data/choclo/classes.toml");
const RELATIONS: &str = include_str!("../../data/choclo/relations.toml");

/// P17, P27, P495, P183, P2341, P276, P1001: properties whose value may be a country.
pub(crate) const COUNTRY_PROPERTIES: [Id; 7] = [17, 27, 495, 183, 2341, 276, 1001];
/// P131, P19, P183, P2341, P276, P1001: properties that lead to a place, and over it to a country.
pub(crate) const PLACE_PROPERTIES: [Id; 6] = [131, 19, 183, 2341, 276, 1001];
/// P31 (instance of).
pub(crate) const INSTANCE_OF: Id = 31;
/// P279 (subclass of).
pub(crate) const SUBCLASS_OF: Id = 279;
/// P1082 (population), which stands for popularity where a dump has no sitelinks.
pub(crate) const POPULATION: Id = 1082;
/// P131 (located in the administrative territorial entity).
pub(crate) const LOCATED_IN: Id = 131;
/// P17 (country).
pub(crate) const COUNTRY: Id = 17;

/// A noun with its gender.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Noun {
    #[serde(rename = "noun")]
    pub(crate) word: String,
    pub(crate) gender: Gender,
    /// Stands between the noun and the name ("de").
    #[serde(default)]
    pub(crate) join: String,
}

/// A country or territory of the region.
#[derive(Debug, Clone)]
pub(crate) struct Country {
    pub(crate) code: String,
    pub(crate) decimal_point: bool,
    pub(crate) division: [Noun; 2],
    /// Bits of the neighbouring countries.
    pub(crate) neighbours: u32,
}

/// A class of entities.
#[derive(Debug, Clone)]
pub(crate) struct Class {
    pub(crate) name: String,
    pub(crate) roots: Vec<Id>,
    pub(crate) or_property: Option<Id>,
    pub(crate) category: String,
    pub(crate) nouns: [Option<Noun>; 2],
    pub(crate) division: bool,
    pub(crate) quote: bool,
    pub(crate) lower: bool,
}

/// What kind of answer a relation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AnswerType {
    Item,
    Date,
    Quantity,
    Text,
}

/// How many of several right answers are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One of them is enough.
    #[default]
    Any,
    /// Each must be named.
    All,
    /// Their number.
    Count,
}

/// Which units a quantity may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum UnitKind {
    None,
    Length,
    Area,
}

/// What a relation says in one language.
#[derive(Debug, Clone)]
pub(crate) struct Wording {
    pub(crate) questions: Vec<Template>,
    pub(crate) dated: Vec<Template>,
    pub(crate) cloze: Option<Template>,
}

impl Wording {
    /// Whether a word of a template agrees with the subject's gender.
    fn agrees(&self) -> bool {
        self.questions.iter().chain(&self.dated).chain(&self.cloze).any(Template::agrees)
    }
}

/// A relation: what is asked of entities of some classes.
#[derive(Debug, Clone)]
pub(crate) struct Relation {
    pub(crate) property: Id,
    pub(crate) name: String,
    /// Bits of the classes.
    pub(crate) subjects: u64,
    pub(crate) answer: AnswerType,
    pub(crate) mode: Mode,
    pub(crate) unit: UnitKind,
    pub(crate) temporal: bool,
    pub(crate) tolerance: f64,
    pub(crate) min_answers: usize,
    pub(crate) held_out: bool,
    pub(crate) wording: [Wording; 2],
}

/// All tables.
#[derive(Debug, Clone)]
pub(crate) struct Knowledge {
    pub(crate) countries: Vec<Country>,
    pub(crate) country_of: BTreeMap<Id, usize>,
    /// Articles of the names of countries, in Spanish and Portuguese.
    pub(crate) articles: BTreeMap<Id, [Option<Gender>; 2]>,
    /// Articles of the names of first-level units in Portuguese ("a Bahia").
    pub(crate) articles_by_name: BTreeMap<String, Gender>,
    /// Articles of the names of cities in Portuguese ("o Rio de Janeiro").
    pub(crate) city_articles: BTreeMap<String, Gender>,
    pub(crate) classes: Vec<Class>,
    pub(crate) excluded: Vec<Id>,
    pub(crate) relations: Vec<Relation>,
    /// Nouns that names begin with, by language.
    pub(crate) heads: [BTreeMap<String, Gender>; 2],
    pub(crate) plural_heads: [Vec<String>; 2],
    /// Those of the nouns that name an administrative division.
    pub(crate) divisions: [Vec<String>; 2],
}

/// The codes (ISO 3166-1) of the region's countries and territories, in the order of the table.
pub(crate) fn country_codes() -> Vec<&'static str> {
    static CODES: OnceLock<Vec<String>> = OnceLock::new();
    let codes = CODES.get_or_init(|| {
        let file: CountriesFile = parse_toml(COUNTRIES, Path::new("countries.toml"))
            .expect("the table of countries is tested to load");
        file.country.into_iter().map(|country| country.code).collect()
    });
    codes.iter().map(String::as_str).collect()
}

impl Knowledge {
    /// Reads the tables of the program, and the relations of `relations` if it is given.
    pub(crate) fn load(relations: Option<&Path>) -> Result<Self, ConfigError> {
        let place = relations.unwrap_or(Path::new("relations.toml"));
        let file: RelationsFile = match relations {
            Some(path) => load_toml(path)?,
            None => parse_toml(RELATIONS, place)?,
        };
        let countries: CountriesFile = parse_toml(COUNTRIES, Path::new("countries.toml"))?;
        let classes: ClassesFile = parse_toml(CLASSES, Path::new("classes.toml"))?;
        // The first two are the program's own: the tests read them.
        Self::assemble(countries, classes, file)
            .map_err(|problem| invalid_value("", place, "relation", &problem))
    }

    fn assemble(
        countries: CountriesFile,
        classes: ClassesFile,
        relations: RelationsFile,
    ) -> Result<Self, String> {
        let mut knowledge = Self {
            countries: Vec::new(),
            country_of: BTreeMap::new(),
            articles: BTreeMap::new(),
            articles_by_name: countries.names_pt.iter().map(|(n, g)| (n.clone(), *g)).collect(),
            city_articles: countries.cities_pt.iter().map(|(n, g)| (n.clone(), *g)).collect(),
            classes: Vec::new(),
            excluded: items(&classes.excluded.classes, "excluded.classes")?,
            relations: Vec::new(),
            heads: [heads(&classes.heads.es), heads(&classes.heads.pt)],
            plural_heads: [classes.heads.es.plural, classes.heads.pt.plural],
            divisions: [classes.heads.es.divisions, classes.heads.pt.divisions],
        };
        knowledge.add_countries(countries)?;
        for class in classes.class {
            knowledge.classes.push(Class {
                roots: items(&class.roots, "class.roots")?,
                or_property: class
                    .or_property
                    .map(|text| id(&text, 'P', "class.or_property"))
                    .transpose()?,
                name: class.name,
                category: class.category,
                nouns: [class.es, class.pt],
                division: class.division,
                quote: class.quote,
                lower: class.lower,
            });
        }
        // Classes and countries are bits of a mask.
        assert!(knowledge.classes.len() <= 64 && knowledge.countries.len() <= 32);
        for relation in relations.relation {
            let relation = knowledge.relation(relation)?;
            knowledge.relations.push(relation);
        }
        Ok(knowledge)
    }

    /// The properties that are read from a dump.
    pub(crate) fn wanted(&self) -> Wanted {
        let classes = self.classes.iter().filter_map(|class| class.or_property);
        Wanted::new(
            [INSTANCE_OF, SUBCLASS_OF, POPULATION]
                .into_iter()
                .chain(COUNTRY_PROPERTIES)
                .chain(PLACE_PROPERTIES)
                .chain(classes)
                .chain(self.relations.iter().map(|relation| relation.property)),
        )
    }

    /// The bit of a class.
    pub(crate) fn class_named(&self, name: &str) -> Option<usize> {
        self.classes.iter().position(|class| class.name == name)
    }

    fn add_countries(&mut self, file: CountriesFile) -> Result<(), String> {
        let codes: Vec<String> = file.country.iter().map(|country| country.code.clone()).collect();
        for (index, country) in file.country.into_iter().enumerate() {
            let mut neighbours = 0;
            for code in &country.neighbours {
                let Some(bit) = codes.iter().position(|other| other == code) else {
                    return Err(wrong("country.neighbours", code, "it is no code of this table"));
                };
                neighbours |= 1 << bit;
            }
            let qid = id(&country.qid, 'Q', "country.qid")?;
            self.country_of.insert(qid, index);
            self.articles.insert(qid, [country.article_es, country.article_pt]);
            self.countries.push(Country {
                code: country.code,
                decimal_point: country.decimal == Decimal::Point,
                division: [country.division_es, country.division_pt],
                neighbours,
            });
        }
        for country in file.elsewhere {
            let qid = id(&country.qid, 'Q', "elsewhere.qid")?;
            self.articles.insert(qid, [country.article_es, country.article_pt]);
        }
        Ok(())
    }

    fn relation(&self, file: RelationFile) -> Result<Relation, String> {
        let mut subjects = 0u64;
        for name in &file.subjects {
            let Some(class) = self.class_named(name) else {
                return Err(wrong("relation.subjects", name, "there is no class of this name"));
            };
            subjects |= 1 << class;
        }
        let template = |text: &String, language, cloze| {
            Template::parse(text, language, cloze)
                .map_err(|problem| wrong("relation", text, &problem))
        };
        let wording = |questions: &[String], dated: &[String], cloze: Option<&String>, language| {
            if questions.is_empty() {
                return Err(wrong("relation", &file.name, "it has no question in a language"));
            }
            let all = |texts: &[String]| {
                texts.iter().map(|text| template(text, language, false)).collect::<Result<_, _>>()
            };
            Ok(Wording {
                questions: all(questions)?,
                dated: all(dated)?,
                cloze: cloze.map(|text| template(text, language, true)).transpose()?,
            })
        };
        if !(0.0..1.0).contains(&file.tolerance) {
            return Err(wrong("relation.tolerance", &file.name, "it is not from 0 to 1"));
        }
        let wording = [
            wording(&file.es, &file.dated_es, file.cloze_es.as_ref(), Language::Spanish)?,
            wording(&file.pt, &file.dated_pt, file.cloze_pt.as_ref(), Language::Portuguese)?,
        ];
        let unknown_gender = self.classes.iter().enumerate().find(|(bit, class)| {
            subjects >> bit & 1 == 1 && class.nouns[0].is_none() && !class.division
        });
        if let Some((_, class)) = unknown_gender
            && wording.iter().any(Wording::agrees)
        {
            let problem = format!("{{o}} needs a noun, and {} has none", class.name);
            return Err(wrong("relation", &file.name, &problem));
        }
        Ok(Relation {
            property: id(&file.property, 'P', "relation.property")?,
            subjects,
            answer: file.answer,
            mode: file.mode,
            unit: file.unit.unwrap_or(UnitKind::None),
            temporal: file.temporal,
            tolerance: file.tolerance,
            min_answers: file.min_answers.max(1),
            held_out: file.held_out,
            wording,
            name: file.name,
        })
    }
}

fn heads(file: &HeadsFile) -> BTreeMap<String, Gender> {
    let with = |nouns: &[String], gender| -> Vec<(String, Gender)> {
        nouns.iter().map(|noun| (noun.clone(), gender)).collect()
    };
    let mut all = with(&file.m, Gender::Masculine);
    all.extend(with(&file.f, Gender::Feminine));
    all.into_iter().collect()
}

fn wrong(key: &str, value: &str, problem: &str) -> String {
    format!("{key} = {value:?}: {problem}")
}

fn id(text: &str, kind: char, key: &str) -> Result<Id, String> {
    number_of(text, kind)
        .filter(|&number| number <= 1 << 20 || kind == 'Q')
        .ok_or_else(|| wrong(key, text, &format!("write it as {kind}123")))
}

fn items(texts: &[String], key: &str) -> Result<Vec<Id>, String> {
    texts.iter().map(|text| id(text, 'Q', key)).collect()
}

#[derive(PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Decimal {
    Point,
    Comma,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CountriesFile {
    country: Vec<CountryFile>,
    elsewhere: Vec<ElsewhereFile>,
    names_pt: BTreeMap<String, Gender>,
    cities_pt: BTreeMap<String, Gender>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CountryFile {
    code: String,
    qid: String,
    article_es: Option<Gender>,
    article_pt: Option<Gender>,
    decimal: Decimal,
    division_es: Noun,
    division_pt: Noun,
    neighbours: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ElsewhereFile {
    qid: String,
    article_es: Option<Gender>,
    article_pt: Option<Gender>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassesFile {
    class: Vec<ClassFile>,
    heads: Heads,
    excluded: Excluded,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassFile {
    name: String,
    roots: Vec<String>,
    or_property: Option<String>,
    category: String,
    es: Option<Noun>,
    pt: Option<Noun>,
    #[serde(default)]
    division: bool,
    #[serde(default)]
    quote: bool,
    #[serde(default)]
    lower: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Heads {
    es: HeadsFile,
    pt: HeadsFile,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadsFile {
    m: Vec<String>,
    f: Vec<String>,
    plural: Vec<String>,
    divisions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Excluded {
    classes: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RelationsFile {
    relation: Vec<RelationFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RelationFile {
    property: String,
    name: String,
    subjects: Vec<String>,
    answer: AnswerType,
    #[serde(default)]
    mode: Mode,
    unit: Option<UnitKind>,
    #[serde(default)]
    temporal: bool,
    #[serde(default)]
    tolerance: f64,
    #[serde(default)]
    min_answers: usize,
    #[serde(default)]
    held_out: bool,
    es: Vec<String>,
    pt: Vec<String>,
    #[serde(default)]
    dated_es: Vec<String>,
    #[serde(default)]
    dated_pt: Vec<String>,
    cloze_es: Option<String>,
    cloze_pt: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_whole() {
        let knowledge = Knowledge::load(None).unwrap();
        assert!(knowledge.relations.len() >= 40);
        assert_eq!(knowledge.countries.len(), 27);
        for relation in &knowledge.relations {
            for wording in &relation.wording {
                assert_eq!(wording.questions.len(), 3, "{}", relation.name);
                assert!(wording.dated.is_empty() || wording.dated.len() == 3, "{}", relation.name);
            }
            assert!(relation.answer != AnswerType::Quantity || relation.tolerance > 0.0);
        }
        for (index, country) in knowledge.countries.iter().enumerate() {
            assert_ne!(country.neighbours, 0, "{} needs neighbours", country.code);
            assert_eq!(country.neighbours >> index & 1, 0, "{} beside itself", country.code);
        }
    }

    #[test]
    fn a_wrong_table_is_refused_by_name() {
        let check = |text: &str, expect: &str| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("relations.toml");
            std::fs::write(&path, text).unwrap();
            let error = Knowledge::load(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        let table = |subjects: &str, question: &str| {
            format!(
                "[[relation]]\nproperty = \"P17\"\nname = \"x\"\nsubjects = [\"{subjects}\"]\n\
                 answer = \"item\"\nes = [\"{question}\"]\npt = [\"Onde fica {{S}}?\"]\n"
            )
        };
        check(&table("planet", "¿Dónde está {S}?"), "planet");
        check(&table("city", "¿Dónde está {X}?"), "{X}");
        check(&table("city", "¿Dónde está?"), "{S}");
    }
}
