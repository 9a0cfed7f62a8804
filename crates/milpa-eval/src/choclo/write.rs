//! Writes one fact as an item: question, paraphrases, choices, cloze, answers with aliases.
//!
//! What a language cannot say well is left out with its reason: no name, an ambiguous one, an answer
//! that stands in the question, a sentence that breaks a rule of grammar. All picks are functions of
//! the seed and the item's identity.

use std::collections::{BTreeMap, BTreeSet};

use milpa_base::Seed;
use serde::{Deserialize, Serialize};

use crate::choclo::{
    audit,
    entity::{Id, Value},
    facts::{Fact, FactValue},
    grammar::{Language, Phrase},
    graph::{Graph, Node},
    knowledge::{COUNTRY, Knowledge, LOCATED_IN, Mode, Relation},
    phrase,
    score::{Answer, Object, fold_accents, normalise},
    split::Difficulty,
    values::{self, factor_of},
    views::Scale,
};

/// Wrong choices beside the right one.
const DISTRACTORS: usize = 3;
/// Draws for each wrong choice before a wider pool is tried.
const DRAWS: u64 = 40;
/// Most names of an answer that are written.
const MAX_ALIASES: usize = 40;

/// A question with its answers, as it stands in the item files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChocloItem {
    /// Subject, property and language, such as `Q739-P36-es`.
    pub id: String,
    /// `es` or `pt`.
    pub language: Language,
    /// The question, one of the relation's phrasings.
    pub question: String,
    /// The other phrasings.
    pub paraphrases: Vec<String>,
    /// Right answers.
    pub answer: Answer,
    /// Choices; empty where too few wrong ones are as good.
    pub choices: Vec<String>,
    /// Number of the right choice, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_index: Option<usize>,
    /// Beginning of a sentence that ends in the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloze: Option<String>,
    /// Ends of the sentence, in the order of the choices; the right one alone without choices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cloze_choices: Vec<String>,
    /// Number of the right end, counted from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloze_index: Option<usize>,
    /// QID of what is asked about.
    pub subject: String,
    /// Its name.
    pub subject_label: String,
    /// PID of the relation.
    pub property: String,
    /// Name of the relation.
    pub relation: String,
    /// Class of the subject.
    pub class: String,
    /// Category of the class.
    pub category: String,
    /// Codes (ISO 3166-1) of the subject's countries.
    pub countries: Vec<String>,
    /// The first of them, for breaking down scores.
    pub country: String,
    /// The mark of decimals there: `.` or `,`.
    pub decimal: char,
    /// Third by popularity among the same category and country.
    pub difficulty: Difficulty,
    /// Page views, sitelinks or population: the report says which.
    pub popularity: u64,
    /// Whether the fact may change.
    pub temporal: bool,
    /// Year since which it holds or to which it belongs, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i32>,
    /// Component of entities, the unit of the splits.
    pub component: String,
    /// Date of the dump.
    pub dump_date: String,
    /// Marks the text, so that training on it can be found out.
    pub canary: String,
}

/// What is the same for all items of a build.
pub(crate) struct Writer<'a> {
    pub(crate) knowledge: &'a Knowledge,
    pub(crate) graph: &'a Graph,
    pub(crate) seed: Seed,
    pub(crate) dump_date: &'a str,
    pub(crate) canary: &'a str,
    pub(crate) difficulties: &'a BTreeMap<Id, Difficulty>,
    pub(crate) scale: &'a Scale,
    pub(crate) pools: Vec<Pool>,
}

/// The answers of a relation by country, from which wrong choices are drawn.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    by_country: BTreeMap<usize, Vec<FactValue>>,
}

/// A choice: as it is listed, and as it ends a sentence.
struct Choice {
    text: String,
    phrase: Phrase,
}

/// A text of an item with the rules of grammar that it breaks.
pub(crate) type Audited = (String, Vec<&'static str>);

/// Stands for entities of no country of the region.
const ELSEWHERE: usize = 32;

impl Writer<'_> {
    /// Collects the pools of all relations.
    pub(crate) fn collect_pools(knowledge: &Knowledge, graph: &Graph, facts: &[Fact]) -> Vec<Pool> {
        let mut pools: Vec<Pool> = knowledge.relations.iter().map(|_| Pool::default()).collect();
        let mut seen: Vec<BTreeSet<Id>> = vec![BTreeSet::new(); pools.len()];
        for fact in facts {
            let subject = &graph.nodes[fact.subject];
            for value in &fact.values {
                let home = match value {
                    FactValue::Item(id) => {
                        if !seen[fact.relation].insert(*id) {
                            continue;
                        }
                        let own = graph.get(*id).map_or(0, |node| node.countries);
                        if own == 0 { subject.countries } else { own }
                    }
                    _ => subject.countries,
                };
                let country = (home.trailing_zeros() as usize).min(ELSEWHERE);
                pools[fact.relation].by_country.entry(country).or_default().push(value.clone());
            }
        }
        pools
    }

    /// The item of a fact in a language, with the rules of grammar that its texts break.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn item(
        &self,
        fact: &Fact,
        component: Id,
        language: Language,
    ) -> Result<(ChocloItem, Vec<Audited>), &'static str> {
        let relation = &self.knowledge.relations[fact.relation];
        let subject = &self.graph.nodes[fact.subject];
        let mut named = phrase::subject(self.knowledge, subject, language)?;
        if let Some(apart) = self.told_apart(subject, relation, language)? {
            named.text = format!("{} ({apart})", named.text);
        }
        let mode = match relation.mode {
            Mode::Any => "",
            Mode::All => "-all",
            Mode::Count => "-count",
        };
        let id = format!("Q{}-P{}{mode}-{}", subject.entity.id, relation.property, language.code());
        let seed = self.seed.derive(&id);
        let wording = &relation.wording[language.index()];
        let templates = if fact.dated.is_some() { &wording.dated } else { &wording.questions };
        let pick = (seed.u64_at(0) % templates.len() as u64) as usize;
        let mut questions: Vec<String> =
            templates.iter().map(|template| template.render(&named, fact.dated)).collect();
        questions.rotate_left(pick);
        let question = questions.remove(0);

        let decimal_point = self.decimal_point(subject, language);
        let objects: Vec<Object> = fact
            .values
            .iter()
            .map(|value| self.object(value, relation, language, decimal_point))
            .collect::<Option<_>>()
            .ok_or("no name of an answer in the language")?;
        check_leaks(&question, subject, &objects, language)?;

        // One of several right answers stands among the choices.
        let right = (seed.u64_at(1) % fact.values.len() as u64) as usize;
        let mut choices = Vec::new();
        if relation.mode != Mode::All {
            choices = self.distractors(fact, right, &objects, language, seed);
        }
        let place = (seed.u64_at(2) % (DISTRACTORS as u64 + 1)) as usize;
        let has_choices = choices.len() == DISTRACTORS;
        let right_option = self
            .option(&fact.values[right], language, decimal_point)
            .ok_or("no name of an answer in the language")?;
        let mut options = if has_choices { choices } else { Vec::new() };
        options.insert(place.min(options.len()), right_option);
        let cloze = wording.cloze.as_ref().filter(|_| fact.dated.is_none());
        let (cloze_text, cloze_choices) = match cloze {
            Some(template) => (
                Some(template.render(&named, None)),
                options.iter().map(|option| template.continuation(&option.phrase)).collect(),
            ),
            None => (None, Vec::new()),
        };
        let texts = texts_to_audit(&question, &questions, cloze_text.as_deref(), &cloze_choices);
        let broken = texts
            .into_iter()
            .map(|(text, is_question)| {
                let broken = if is_question {
                    audit::check_question(language, &text)
                } else {
                    audit::check_text(language, &text)
                };
                (text, broken)
            })
            .collect();
        let class = &self.knowledge.classes[subject.class.ok_or("no class")?];
        let countries: Vec<String> = self
            .knowledge
            .countries
            .iter()
            .enumerate()
            .filter(|(bit, _)| subject.countries >> bit & 1 == 1)
            .map(|(_, country)| country.code.clone())
            .collect();
        let item = ChocloItem {
            id,
            language,
            question,
            paraphrases: questions,
            answer: Answer { mode: relation.mode, objects },
            answer_index: has_choices.then_some(place),
            choices: if has_choices {
                options.iter().map(|option| option.text.clone()).collect()
            } else {
                Vec::new()
            },
            cloze_index: cloze_text.as_ref().map(|_| if has_choices { place } else { 0 }),
            cloze: cloze_text,
            cloze_choices,
            subject: format!("Q{}", subject.entity.id),
            subject_label: phrase::label(subject, language).unwrap_or_default().to_owned(),
            property: format!("P{}", relation.property),
            relation: relation.name.clone(),
            class: class.name.clone(),
            category: class.category.clone(),
            country: countries.first().cloned().unwrap_or_default(),
            countries,
            decimal: if decimal_point { '.' } else { ',' },
            difficulty: self
                .difficulties
                .get(&subject.entity.id)
                .copied()
                .unwrap_or(Difficulty::Hard),
            popularity: self.scale.of(subject),
            temporal: relation.temporal,
            since: fact.since,
            component: format!("Q{component}"),
            dump_date: self.dump_date.to_owned(),
            canary: self.canary.to_owned(),
        };
        Ok((item, broken))
    }

    /// Portuguese writes a comma wherever it is; Spanish follows the country.
    fn decimal_point(&self, subject: &Node, language: Language) -> bool {
        let first = subject.countries.trailing_zeros() as usize;
        language == Language::Spanish
            && self.knowledge.countries.get(first).is_some_and(|country| country.decimal_point)
    }

    /// What tells the subject from others of its name; `None` where nobody else has it.
    fn told_apart(
        &self,
        subject: &Node,
        relation: &Relation,
        language: Language,
    ) -> Result<Option<String>, &'static str> {
        const AMBIGUOUS: &str = "an ambiguous name";
        let others = self.graph.homonyms(subject, language).ok_or(AMBIGUOUS)?;
        if others.is_empty() {
            return Ok(None);
        }
        // Any description of where it is would answer these.
        if [17, 27, 495, 183, 2341, 131, 276, 36].contains(&relation.property) {
            return Err(AMBIGUOUS);
        }
        let class = &self.knowledge.classes[subject.class.ok_or(AMBIGUOUS)?];
        let is_place = ["geography", "nature", "heritage"].contains(&class.category.as_str());
        if !is_place {
            let description = |node: &Node| match language {
                Language::Spanish => node.entity.es.description.clone(),
                Language::Portuguese => node.entity.pt.description.clone(),
            };
            let own = description(subject)
                .filter(|text| text.chars().count() <= 60 && phrase::is_showable(text))
                .ok_or(AMBIGUOUS)?;
            let shared = others.iter().any(|id| {
                self.graph.get(*id).is_none_or(|node| description(node).as_ref() == Some(&own))
            });
            return if shared { Err(AMBIGUOUS) } else { Ok(Some(own.to_string())) };
        }
        let countries = |id: &Id| self.graph.get(*id).map_or(0, |node| node.countries);
        let country = subject
            .entity
            .items(COUNTRY)
            .find_map(|id| self.graph.get(id))
            .and_then(|node| phrase::label(node, language))
            .ok_or(AMBIGUOUS)?;
        if others.iter().all(|id| countries(id) & subject.countries == 0) {
            return Ok(Some(country.to_owned()));
        }
        let place = |node: &Node| node.entity.items(LOCATED_IN).next();
        let own = place(subject).ok_or(AMBIGUOUS)?;
        let shared = others
            .iter()
            .filter_map(|id| self.graph.get(*id))
            .any(|other| place(other).is_none_or(|place| place == own));
        let state = self.graph.get(own).and_then(|node| phrase::label(node, language));
        match state.filter(|state| !shared && *state != country) {
            Some(state) => Ok(Some(format!("{state}, {country}"))),
            None => Err(AMBIGUOUS),
        }
    }

    fn object(
        &self,
        value: &FactValue,
        relation: &Relation,
        language: Language,
        decimal_point: bool,
    ) -> Option<Object> {
        let text = self.option(value, language, decimal_point)?.text;
        Some(match value {
            FactValue::Item(id) => {
                let node = self.graph.get(*id)?;
                let label = phrase::label(node, language)?.to_owned();
                Object::Item {
                    qid: format!("Q{id}"),
                    aliases: aliases(node, language, &label),
                    label,
                }
            }
            FactValue::Date(date) => Object::Date { text, date: *date },
            FactValue::Quantity { amount, symbol } => Object::Quantity {
                text,
                amount: *amount,
                unit: (*symbol).to_owned(),
                tolerance: relation.tolerance,
            },
            FactValue::Count(count) => Object::Quantity {
                text,
                amount: f64::from(*count),
                unit: String::new(),
                tolerance: 0.0,
            },
            FactValue::Text(text) => Object::Text { text: text.to_string() },
        })
    }

    fn option(&self, value: &FactValue, language: Language, decimal_point: bool) -> Option<Choice> {
        let phrase = match value {
            FactValue::Item(id) => {
                let node = self.graph.get(*id)?;
                let phrase = phrase::answer(self.knowledge, node, language)?;
                return Some(Choice { text: phrase::label(node, language)?.to_owned(), phrase });
            }
            FactValue::Date(date) => date.phrase(language),
            FactValue::Quantity { amount, symbol } => {
                let number = values::number(*amount, decimal_point);
                Phrase::bare(if symbol.is_empty() { number } else { format!("{number} {symbol}") })
            }
            FactValue::Text(text) => Phrase::bare(&**text),
            FactValue::Count(count) => Phrase::bare(count.to_string()),
        };
        Some(Choice { text: phrase.text.clone(), phrase })
    }

    /// Wrong answers of the same class: up to two of the same country, then of it and its
    /// neighbours, then of anywhere.
    fn distractors(
        &self,
        fact: &Fact,
        right: usize,
        objects: &[Object],
        language: Language,
        seed: Seed,
    ) -> Vec<Choice> {
        let subject = &self.graph.nodes[fact.subject];
        let decimal_point = self.decimal_point(subject, language);
        let value = &fact.values[right];
        if let FactValue::Count(count) = value {
            return counts_beside(*count, seed);
        }
        let home = match value {
            FactValue::Item(id) => self
                .graph
                .get(*id)
                .map(|node| node.countries)
                .filter(|&bits| bits != 0)
                .unwrap_or(subject.countries),
            _ => subject.countries,
        };
        let near = self
            .knowledge
            .countries
            .iter()
            .enumerate()
            .filter(|(bit, _)| home >> bit & 1 == 1)
            .fold(home, |bits, (_, country)| bits | country.neighbours);
        let pool = &self.pools[fact.relation];
        let groups = |chosen: &dyn Fn(usize) -> bool| -> Vec<&Vec<FactValue>> {
            pool.by_country.iter().filter(|(at, _)| chosen(**at)).map(|(_, group)| group).collect()
        };
        let tiers = [
            (DISTRACTORS - 1, groups(&|country| country < ELSEWHERE && home >> country & 1 == 1)),
            (DISTRACTORS, groups(&|country| country < ELSEWHERE && near >> country & 1 == 1)),
            (DISTRACTORS, groups(&|_| true)),
        ];
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for object in objects {
            taken.insert(fold_accents(&normalise(object.text(), language)));
            if let Object::Item { aliases, .. } = object {
                taken.extend(aliases.iter().map(|alias| fold_accents(&normalise(alias, language))));
            }
        }
        taken.insert(fold_accents(&normalise(
            phrase::label(subject, language).unwrap_or_default(),
            language,
        )));
        let mut chosen: Vec<FactValue> = Vec::new();
        let mut options = Vec::new();
        for (round, (quota, tier)) in tiers.iter().enumerate() {
            let total: usize = tier.iter().map(|group| group.len()).sum();
            if total == 0 {
                continue;
            }
            let draws = seed.nth(10 + round as u64);
            for draw in 0..DRAWS * DISTRACTORS as u64 {
                if options.len() >= *quota {
                    break;
                }
                let mut at = (draws.u64_at(draw) % total as u64) as usize;
                let mut drawn = None;
                for group in tier {
                    if at < group.len() {
                        drawn = Some(&group[at]);
                        break;
                    }
                    at -= group.len();
                }
                let Some(drawn) = drawn else { continue };
                let strict = draw < DRAWS * 2;
                let Some(candidate) = self.comparable(value, drawn, strict) else { continue };
                let known_true = self.is_true_of(subject, fact.relation, &candidate);
                let far =
                    chosen.iter().all(|other| self.comparable(other, &candidate, false).is_some());
                if known_true || !far {
                    continue;
                }
                let Some(option) = self.option(&candidate, language, decimal_point) else {
                    continue;
                };
                if !taken.insert(fold_accents(&normalise(&option.text, language))) {
                    continue;
                }
                chosen.push(candidate);
                options.push(option);
            }
        }
        options
    }

    /// The drawn value as a wrong answer beside `value`, if it is of its kind and far enough.
    fn comparable(&self, value: &FactValue, drawn: &FactValue, strict: bool) -> Option<FactValue> {
        match (value, drawn) {
            (FactValue::Item(own), FactValue::Item(other)) => {
                let (a, b) = (self.graph.get(*own)?, self.graph.get(*other)?);
                let alike = a.class == b.class || (!strict && a.class.is_none());
                (own != other && alike).then(|| drawn.clone())
            }
            (FactValue::Date(own), FactValue::Date(other)) => {
                let apart = (own.year - other.year).abs();
                let close = !strict || apart <= 60;
                let least = match own.precision {
                    values::DatePrecision::Century => 100,
                    values::DatePrecision::Decade => 10,
                    _ => 2,
                };
                (own.precision == other.precision && apart >= least && close).then(|| drawn.clone())
            }
            (
                FactValue::Quantity { amount: own, symbol },
                FactValue::Quantity { amount: other, symbol: other_symbol },
            ) => {
                let factor = if symbol.is_empty() {
                    1.0
                } else {
                    factor_of(other_symbol)? / factor_of(symbol)?
                };
                let amount = if factor == 1.0 { *other } else { (other * factor).round() };
                let ratio = (amount / own).max(own / amount);
                let far = ratio >= 1.5 && (!strict || ratio <= 30.0);
                (amount > 0.0 && far).then_some(FactValue::Quantity { amount, symbol })
            }
            (FactValue::Text(own), FactValue::Text(other)) => (own != other).then(|| drawn.clone()),
            _ => None,
        }
    }

    /// Whether the dump knows the value as true of the subject at any rank or time.
    fn is_true_of(&self, subject: &Node, relation: usize, value: &FactValue) -> bool {
        let FactValue::Item(id) = value else { return false };
        let property = self.knowledge.relations[relation].property;
        *id == subject.entity.id
            || subject
                .entity
                .claims
                .iter()
                .any(|claim| claim.property == property && claim.value == Value::Item(*id))
    }
}

fn texts_to_audit(
    question: &str,
    paraphrases: &[String],
    cloze: Option<&str>,
    ends: &[String],
) -> Vec<(String, bool)> {
    let mut texts = vec![(question.to_owned(), true)];
    texts.extend(paraphrases.iter().map(|text| (text.clone(), true)));
    if let Some(cloze) = cloze {
        texts.extend(ends.iter().map(|end| (format!("{cloze} {end}"), false)));
    }
    texts
}

/// No name of an answer stands in the question, and the subject's not in the answer's.
fn check_leaks(
    question: &str,
    subject: &Node,
    objects: &[Object],
    language: Language,
) -> Result<(), &'static str> {
    let fold = |text: &str| format!(" {} ", fold_accents(&normalise(text, language)));
    let question = fold(question);
    let own = fold(phrase::label(subject, language).unwrap_or_default());
    for object in objects {
        let mut names = vec![object.text()];
        if let Object::Item { aliases, .. } = object {
            names.extend(aliases.iter().map(String::as_str).filter(|a| a.chars().count() > 3));
        }
        if let Object::Quantity { .. } = object {
            continue;
        }
        for name in names {
            let name = fold(name);
            if name.trim().is_empty() || question.contains(&name) {
                return Err("the answer stands in the question");
            }
            if own.trim().len() > 3 && name.contains(&own) {
                return Err("the subject stands in the answer");
            }
        }
    }
    Ok(())
}

fn counts_beside(count: u32, seed: Seed) -> Vec<Choice> {
    let mut near: Vec<u32> =
        (count.saturating_sub(3).max(1)..=count + 3).filter(|&other| other != count).collect();
    near.sort_by_key(|&other| seed.u64_at(100 + u64::from(other)));
    let option = |other: u32| {
        let text = other.to_string();
        Choice { phrase: Phrase::bare(&*text), text }
    };
    near.into_iter().take(DISTRACTORS).map(option).collect()
}

fn aliases(node: &Node, language: Language, label: &str) -> Vec<String> {
    let entity = &node.entity;
    let (own, other) = match language {
        Language::Spanish => (&entity.es, &entity.pt),
        Language::Portuguese => (&entity.pt, &entity.es),
    };
    let mut names: Vec<String> = Vec::new();
    let all =
        own.aliases.iter().chain(&other.label).chain(&other.aliases).chain(&entity.other_names);
    for name in all {
        if names.len() < MAX_ALIASES && **name != *label && !names.iter().any(|n| **n == **name) {
            names.push(name.to_string());
        }
    }
    names
}
