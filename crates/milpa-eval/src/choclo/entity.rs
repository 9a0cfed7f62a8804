//! Reads one entity of a Wikidata JSON dump and keeps what questions are made of.
//!
//! The line is walked once and borrowed from; nothing is built for languages, properties and
//! references that are not kept. Of a property only its best rank is kept as an answer: preferred,
//! else normal, never deprecated. Format: the Wikibase JSON data model
//! (<https://doc.wikimedia.org/Wikibase/master/php/docs_topics_json.html>), also in its older form
//! (`numeric-id` without `id`, `[]` for an empty map).

use std::{borrow::Cow, collections::BTreeMap, fmt};

use crate::choclo::views::Wiki;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Longest label, description or alias kept, in characters.
const MAX_NAME_CHARS: usize = 200;
/// Longest title of a page, in bytes.
const MAX_TITLE_BYTES: usize = 512;
/// Most aliases kept for a language.
const MAX_ALIASES: usize = 24;
/// Most claims kept of one property: more than any question uses.
const MAX_CLAIMS: usize = 64;

/// A Q or P number.
pub(crate) type Id = u32;

/// What is kept of an entity beside its names.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    properties: Vec<bool>,
    /// Whether titles of pages are kept.
    pub(crate) titles: bool,
}

impl Wanted {
    pub(crate) fn new(properties: impl IntoIterator<Item = Id>) -> Self {
        let mut wanted = Vec::new();
        for property in properties {
            let index = property as usize;
            if wanted.len() <= index {
                wanted.resize(index + 1, false);
            }
            wanted[index] = true;
        }
        Self { properties: wanted, titles: false }
    }

    fn contains(&self, property: Id) -> bool {
        self.properties.get(property as usize).copied().unwrap_or(false)
    }
}

/// Names in one language.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Names {
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub(crate) label: Option<Box<str>>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<Box<str>>,
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) aliases: Vec<Box<str>>,
}

/// What is kept of an entity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entity {
    #[serde(rename = "i")]
    pub(crate) id: Id,
    #[serde(rename = "e", default)]
    pub(crate) es: Names,
    #[serde(rename = "p", default)]
    pub(crate) pt: Names,
    /// Names in English, in the region's other languages and the name for all languages (`mul`).
    #[serde(rename = "o", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) other_names: Vec<Box<str>>,
    #[serde(rename = "s", default)]
    pub(crate) sitelinks: u32,
    /// Titles of its pages, where page views are counted.
    #[serde(rename = "w", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) titles: Vec<(Wiki, Box<str>)>,
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) claims: Vec<Claim>,
}

/// One statement that is not deprecated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Claim {
    #[serde(rename = "p")]
    pub(crate) property: Id,
    /// Whether it has the best rank of its property.
    #[serde(rename = "b")]
    pub(crate) best: bool,
    #[serde(rename = "v")]
    pub(crate) value: Value,
    /// Year of P580 (start time).
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<i32>,
    /// Whether it has P582 (end time), known or unknown.
    #[serde(rename = "e", default)]
    pub(crate) ended: bool,
    /// Year of P585 (point in time).
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<i32>,
}

/// The value of a statement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Value {
    /// Another item.
    #[serde(rename = "i")]
    Item(Id),
    /// A moment, as precise as `precision` says (11 day, 10 month, 9 year, 8 decade, 7 century).
    #[serde(rename = "t")]
    Time { year: i32, month: u8, day: u8, precision: u8 },
    /// A number with a unit (0: none).
    #[serde(rename = "q")]
    Quantity { amount: f64, unit: Id },
    /// A string, or a text in one language.
    #[serde(rename = "x")]
    Text(Box<str>),
}

impl Entity {
    /// The best-rank values of a property that are items.
    pub(crate) fn items(&self, property: Id) -> impl Iterator<Item = Id> + '_ {
        self.claims.iter().filter(move |claim| claim.property == property && claim.best).filter_map(
            |claim| match claim.value {
                Value::Item(id) => Some(id),
                _ => None,
            },
        )
    }
}

/// What was passed over inside an entity that is otherwise read.
pub(crate) type Oddities = BTreeMap<String, u64>;

/// Reads a line of a dump (without the comma at its end); `None` for a property or a lexeme.
///
/// # Errors
/// What is wrong with the JSON, or where it departs from the data model.
pub(crate) fn read(
    line: &[u8],
    wanted: &Wanted,
    oddities: &mut Oddities,
) -> Result<Option<Entity>, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(line);
    let entity = EntitySeed { wanted, oddities }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(entity)
}

/// The number of an id such as `Q42` or `P31`.
pub(crate) fn number_of(id: &str, kind: char) -> Option<Id> {
    id.strip_prefix(kind)?.parse().ok().filter(|&number| number > 0)
}

/// A string of the line, borrowed where it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

struct EntitySeed<'w> {
    wanted: &'w Wanted,
    oddities: &'w mut Oddities,
}

impl<'de> DeserializeSeed<'de> for EntitySeed<'_> {
    type Value = Option<Entity>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EntitySeed<'_> {
    type Value = Option<Entity>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entity")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entity = Entity::default();
        let (mut names, mut is_item) = (AllNames::default(), false);
        while let Some(Text(key)) = map.next_key()? {
            match &*key {
                "type" => {
                    let Text(kind) = map.next_value()?;
                    is_item = kind == "item";
                    if !is_item {
                        // Properties and lexemes: the rest is only checked for being JSON.
                        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                        return Ok(None);
                    }
                }
                "id" => {
                    let Text(id) = map.next_value()?;
                    // The id of a property or lexeme whose "type" comes later is no error.
                    entity.id = number_of(&id, 'Q').unwrap_or(0);
                }
                "labels" => {
                    map.next_value_seed(NameMap { names: &mut names, kind: Name::Label })?;
                }
                "descriptions" => {
                    map.next_value_seed(NameMap { names: &mut names, kind: Name::Description })?;
                }
                "aliases" => {
                    map.next_value_seed(NameMap { names: &mut names, kind: Name::Alias })?;
                }
                "claims" => map.next_value_seed(ClaimMap {
                    wanted: self.wanted,
                    oddities: self.oddities,
                    claims: &mut entity.claims,
                })?,
                "sitelinks" => {
                    let titles = self.wanted.titles.then_some(&mut entity.titles);
                    entity.sitelinks = map.next_value_seed(Sitelinks { titles })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        if !is_item {
            return Ok(None);
        }
        if entity.id == 0 {
            return Err(A::Error::custom("an item without an id of the form Q1"));
        }
        names.settle(&mut entity);
        Ok(Some(entity))
    }
}

#[derive(Clone, Copy)]
enum Name {
    Label,
    Description,
    Alias,
}

/// Which names a language code leads to, and in what order of preference.
#[derive(Clone, Copy, PartialEq)]
enum Slot {
    Spanish(u8),
    Portuguese(u8),
    Other,
}

fn slot(code: &str) -> Option<Slot> {
    Some(match code {
        "es" => Slot::Spanish(0),
        "es-419" => Slot::Spanish(1),
        "pt-br" => Slot::Portuguese(0),
        "pt" => Slot::Portuguese(1),
        "mul" | "en" | "qu" | "gn" | "ay" | "nah" | "arn" | "ht" => Slot::Other,
        _ if code.starts_with("es-") => Slot::Spanish(2),
        _ => return None,
    })
}

#[derive(Default)]
struct AllNames {
    /// Preference and text of the label and the description of each language.
    es: [Option<(u8, Box<str>)>; 2],
    pt: [Option<(u8, Box<str>)>; 2],
    es_aliases: Vec<Box<str>>,
    pt_aliases: Vec<Box<str>>,
    other: Vec<Box<str>>,
    for_all: Option<Box<str>>,
}

impl AllNames {
    fn add(&mut self, code: &str, kind: Name, text: &str) {
        let Some(slot) = slot(code) else { return };
        let text = text.trim();
        if text.is_empty() || text.chars().nth(MAX_NAME_CHARS).is_some() {
            return;
        }
        if code == "mul" && matches!(kind, Name::Label) {
            self.for_all = Some(text.into());
        }
        let (fields, aliases, rank) = match slot {
            Slot::Spanish(rank) => (&mut self.es, &mut self.es_aliases, rank),
            Slot::Portuguese(rank) => (&mut self.pt, &mut self.pt_aliases, rank),
            Slot::Other => {
                if !matches!(kind, Name::Description) {
                    push_name(&mut self.other, text);
                }
                return;
            }
        };
        let field = match kind {
            Name::Alias => return push_name(aliases, text),
            Name::Label => &mut fields[0],
            Name::Description => &mut fields[1],
        };
        let better = field.as_ref().is_none_or(|(old, _)| rank < *old);
        let passed =
            if better { field.replace((rank, text.into())) } else { Some((rank, text.into())) };
        if let (Name::Label, Some((_, name))) = (kind, passed) {
            push_name(aliases, &name);
        }
    }

    /// Names for all languages stand in where a language has none of its own.
    fn settle(self, entity: &mut Entity) {
        let names = |[label, description]: [Option<(u8, Box<str>)>; 2],
                     mut aliases: Vec<Box<str>>| {
            let label = label.map(|(_, text)| text).or_else(|| self.for_all.clone());
            aliases.retain(|alias| Some(alias) != label.as_ref());
            Names { label, description: description.map(|(_, text)| text), aliases }
        };
        entity.es = names(self.es, self.es_aliases);
        entity.pt = names(self.pt, self.pt_aliases);
        entity.other_names = self.other;
    }
}

fn push_name(names: &mut Vec<Box<str>>, text: &str) {
    if names.len() < MAX_ALIASES && !names.iter().any(|name| &**name == text) {
        names.push(text.into());
    }
}

/// A map by language of `{language, value}` or of lists of these.
struct NameMap<'n> {
    names: &'n mut AllNames,
    kind: Name,
}

impl<'de> DeserializeSeed<'de> for NameMap<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

#[derive(Deserialize)]
struct LanguageValue<'a> {
    #[serde(borrow)]
    value: Text<'a>,
}

impl<'de> Visitor<'de> for NameMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names by language")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(code)) = map.next_key()? {
            if slot(&code).is_none() {
                map.next_value::<IgnoredAny>()?;
            } else if matches!(self.kind, Name::Alias) {
                for LanguageValue { value } in map.next_value::<Vec<LanguageValue<'de>>>()? {
                    self.names.add(&code, self.kind, &value.0);
                }
            } else {
                let LanguageValue { value } = map.next_value()?;
                self.names.add(&code, self.kind, &value.0);
            }
        }
        Ok(())
    }

    /// PHP writes an empty map as an empty list.
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        empty_list(seq)
    }
}

fn empty_list<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    match seq.next_element::<IgnoredAny>()? {
        None => Ok(()),
        Some(_) => Err(A::Error::custom("a list stands where a map should")),
    }
}

/// The number of pages, and the titles of those that are counted.
struct Sitelinks<'t> {
    titles: Option<&'t mut Vec<(Wiki, Box<str>)>>,
}

/// The title of a page; what else a sitelink says is passed over.
#[derive(Deserialize)]
struct Sitelink<'a> {
    #[serde(borrow, default)]
    title: Option<Text<'a>>,
}

impl<'de> DeserializeSeed<'de> for Sitelinks<'_> {
    type Value = u32;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sitelinks<'_> {
    type Value = u32;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of sitelinks")
    }
    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<u32, A::Error> {
        let mut count = 0;
        while let Some(Text(site)) = map.next_key()? {
            count += 1;
            match (Wiki::of_site(&site), &mut self.titles) {
                (Some(wiki), Some(titles)) => {
                    let Sitelink { title } = map.next_value()?;
                    let title = title.filter(|Text(title)| title.len() <= MAX_TITLE_BYTES);
                    titles.extend(title.map(|Text(title)| (wiki, title.trim().into())));
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(count)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<u32, A::Error> {
        empty_list(seq).map(|()| 0)
    }
}

/// Statements by property.
struct ClaimMap<'w> {
    wanted: &'w Wanted,
    oddities: &'w mut Oddities,
    claims: &'w mut Vec<Claim>,
}

impl<'de> DeserializeSeed<'de> for ClaimMap<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ClaimMap<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("statements by property")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(key)) = map.next_key()? {
            let property = number_of(&key, 'P').filter(|&number| self.wanted.contains(number));
            let Some(property) = property else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let statements: Vec<Statement<'de>> = map.next_value()?;
            keep_statements(property, &statements, self.claims, self.oddities);
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<(), A::Error> {
        empty_list(seq)
    }
}

#[derive(Deserialize)]
struct Statement<'a> {
    #[serde(borrow)]
    mainsnak: Snak<'a>,
    #[serde(borrow)]
    rank: Text<'a>,
    #[serde(borrow, default)]
    qualifiers: Qualifiers<'a>,
}

#[derive(Deserialize)]
struct Snak<'a> {
    #[serde(borrow)]
    snaktype: Text<'a>,
    #[serde(borrow, default)]
    datavalue: Option<DataValue<'a>>,
}

#[derive(Deserialize)]
struct DataValue<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    value: RawValue<'a>,
}

/// Start, end and point in time; other qualifiers are passed over.
#[derive(Default)]
struct Qualifiers<'a> {
    start: Option<Snak<'a>>,
    end: Option<Snak<'a>>,
    at: Option<Snak<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Qualifiers<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct QualifierVisitor;
        impl<'de> Visitor<'de> for QualifierVisitor {
            type Value = Qualifiers<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("qualifiers by property")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut qualifiers = Qualifiers::default();
                while let Some(Text(key)) = map.next_key()? {
                    let field = match &*key {
                        "P580" => &mut qualifiers.start,
                        "P582" => &mut qualifiers.end,
                        "P585" => &mut qualifiers.at,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            continue;
                        }
                    };
                    *field = map.next_value::<Vec<Snak<'de>>>()?.into_iter().next();
                }
                Ok(qualifiers)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                empty_list(seq).map(|()| Qualifiers::default())
            }
        }
        deserializer.deserialize_any(QualifierVisitor)
    }
}

/// A value of any type: a string or an object of which all known fields are kept.
enum RawValue<'a> {
    Text(Cow<'a, str>),
    Fields(Fields<'a>),
}

#[derive(Default, Deserialize)]
struct Fields<'a> {
    #[serde(borrow, default)]
    id: Option<Text<'a>>,
    #[serde(rename = "numeric-id", default)]
    numeric_id: Option<u64>,
    #[serde(borrow, rename = "entity-type", default)]
    entity_type: Option<Text<'a>>,
    #[serde(borrow, default)]
    time: Option<Text<'a>>,
    // A coordinate's precision is a fraction.
    #[serde(default)]
    precision: Option<f64>,
    #[serde(borrow, default)]
    amount: Option<Text<'a>>,
    #[serde(borrow, default)]
    unit: Option<Text<'a>>,
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for RawValue<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct RawVisitor;
        impl<'de> Visitor<'de> for RawVisitor {
            type Value = RawValue<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(RawValue::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(RawValue::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Fields::deserialize(serde::de::value::MapAccessDeserializer::new(map))
                    .map(RawValue::Fields)
            }
        }
        deserializer.deserialize_any(RawVisitor)
    }
}

fn keep_statements(
    property: Id,
    statements: &[Statement<'_>],
    claims: &mut Vec<Claim>,
    oddities: &mut Oddities,
) {
    let mut odd = |what: String| *oddities.entry(what).or_default() += 1;
    let first = claims.len();
    let mut preferred = false;
    for statement in statements {
        let is_preferred = match &*statement.rank.0 {
            "preferred" => true,
            "normal" => false,
            "deprecated" => continue,
            other => {
                odd(format!("unknown rank {}", shown(other)));
                continue;
            }
        };
        // A preferred "no value" still outranks normal statements.
        preferred |= is_preferred;
        match &*statement.mainsnak.snaktype.0 {
            "value" => {}
            "somevalue" | "novalue" => continue,
            other => {
                odd(format!("unknown snaktype {}", shown(other)));
                continue;
            }
        }
        let value = match statement.mainsnak.datavalue.as_ref().map(value_of) {
            Some(Ok(value)) => value,
            Some(Err(problem)) => {
                odd(problem);
                continue;
            }
            None => {
                odd("a value without datavalue".to_owned());
                continue;
            }
        };
        if claims.len() - first >= MAX_CLAIMS {
            odd("more statements of a property than are kept".to_owned());
            break;
        }
        let qualifiers = &statement.qualifiers;
        claims.push(Claim {
            property,
            best: is_preferred,
            value,
            start: qualifiers.start.as_ref().and_then(year_of),
            ended: qualifiers.end.as_ref().is_some_and(|snak| snak.snaktype.0 != "novalue"),
            at: qualifiers.at.as_ref().and_then(year_of),
        });
    }
    if !preferred {
        claims[first..].iter_mut().for_each(|claim| claim.best = true);
    }
}

fn shown(text: &str) -> String {
    format!("{:?}", text.chars().take(30).collect::<String>())
}

fn year_of(snak: &Snak<'_>) -> Option<i32> {
    match value_of(snak.datavalue.as_ref()?) {
        Ok(Value::Time { year, precision, .. }) if precision >= 9 => Some(year),
        _ => None,
    }
}

fn value_of(data: &DataValue<'_>) -> Result<Value, String> {
    let bad = || format!("a malformed value of type {}", shown(&data.kind.0));
    match (&*data.kind.0, &data.value) {
        ("wikibase-entityid", RawValue::Fields(fields)) => {
            let id = match (&fields.id, fields.numeric_id) {
                (Some(id), _) => number_of(&id.0, 'Q'),
                (None, Some(number)) => fields
                    .entity_type
                    .as_ref()
                    .is_none_or(|kind| kind.0 == "item")
                    .then(|| Id::try_from(number).ok())
                    .flatten(),
                (None, None) => None,
            };
            id.map(Value::Item).ok_or_else(bad)
        }
        ("time", RawValue::Fields(Fields { time: Some(time), precision: Some(precision), .. })) => {
            let (year, month, day) = read_time(&time.0).ok_or_else(bad)?;
            if !(0.0..=14.0).contains(precision) {
                return Err(bad());
            }
            Ok(Value::Time { year, month, day, precision: *precision as u8 })
        }
        ("quantity", RawValue::Fields(Fields { amount: Some(amount), unit, .. })) => {
            let amount: f64 = amount.0.trim_start_matches('+').parse().map_err(|_| bad())?;
            let unit = match unit.as_ref().map_or("1", |unit| &*unit.0) {
                "1" => 0,
                url => url.rsplit('/').next().and_then(|id| number_of(id, 'Q')).ok_or_else(bad)?,
            };
            if amount.is_finite() { Ok(Value::Quantity { amount, unit }) } else { Err(bad()) }
        }
        ("string", RawValue::Text(text)) => bounded(text).ok_or_else(bad),
        ("monolingualtext", RawValue::Fields(Fields { text: Some(text), .. })) => {
            bounded(&text.0).ok_or_else(bad)
        }
        ("wikibase-entityid" | "time" | "quantity" | "string" | "monolingualtext", _) => Err(bad()),
        ("globecoordinate", _) => Err("a coordinate where an answer was expected".to_owned()),
        (other, _) => Err(format!("unknown datatype {}", shown(other))),
    }
}

fn bounded(text: &str) -> Option<Value> {
    let text = text.trim();
    let fits = !text.is_empty() && text.chars().nth(MAX_NAME_CHARS).is_none();
    fits.then(|| Value::Text(text.into()))
}

/// Reads `+1952-03-11T00:00:00Z`; months and days may be 00.
fn read_time(text: &str) -> Option<(i32, u8, u8)> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let date = digits.split('T').next()?;
    let mut parts = date.split('-');
    let year: i32 = parts.next()?.parse().ok()?;
    let month: u8 = parts.next()?.parse().ok()?;
    let day: u8 = parts.next()?.parse().ok()?;
    (month <= 12 && day <= 31 && parts.next().is_none()).then_some((sign * year, month, day))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted::new([31, 569, 1082, 297])
    }

    fn parse(json: &str) -> (Option<Entity>, Oddities) {
        let mut oddities = Oddities::new();
        let entity = read(json.as_bytes(), &wanted(), &mut oddities).unwrap();
        (entity, oddities)
    }

    fn statement(rank: &str, snak: &str) -> String {
        format!(
            r#"{{"mainsnak":{{{snak}}},"type":"statement","rank":"{rank}","references":[{{"x":[1]}}]}}"#
        )
    }

    fn item(claims: &str) -> String {
        format!(
            r#"{{"type":"item","id":"Q42","labels":{{"es":{{"language":"es","value":"Uno"}},
            "es-mx":{{"language":"es-mx","value":"Otro"}},"de":{{"language":"de","value":"Eins"}}}},
            "descriptions":[],"aliases":{{"es":[{{"language":"es","value":"\u00danico"}}]}},
            "claims":{claims},"sitelinks":{{"eswiki":{{"site":"eswiki"}},"dewiki":{{}}}}}}"#
        )
    }

    fn id_snak(number: u32) -> String {
        format!(
            r#""snaktype":"value","property":"P31","datavalue":{{"type":"wikibase-entityid","value":{{"entity-type":"item","numeric-id":{number}}}}}"#
        )
    }

    #[test]
    fn names_fall_back_and_empty_lists_are_maps() {
        let (entity, _) = parse(&item("[]"));
        let entity = entity.unwrap();
        assert_eq!((entity.id, entity.sitelinks), (42, 2));
        assert_eq!(entity.es.label.as_deref(), Some("Uno"));
        assert!(entity.es.aliases.iter().map(|a| &**a).eq(["Otro", "Único"]));
        assert_eq!(entity.pt.label, None);
        let mul = r#"{"type":"item","id":"Q1","labels":{"mul":{"language":"mul","value":"Frida Kahlo"}}}"#;
        assert_eq!(parse(mul).0.unwrap().pt.label.as_deref(), Some("Frida Kahlo"));
    }

    #[test]
    fn only_the_best_rank_answers() {
        let best = |ranks: &[&str]| -> Vec<u32> {
            let list: Vec<String> = ranks
                .iter()
                .enumerate()
                .map(|(i, rank)| statement(rank, &id_snak(i as u32 + 1)))
                .collect();
            let json = item(&format!(r#"{{"P31":[{}],"P999":[{{"odd":true}}]}}"#, list.join(",")));
            parse(&json).0.unwrap().items(31).collect()
        };
        assert_eq!(best(&["normal", "preferred", "deprecated"]), [2]);
        assert_eq!(best(&["normal", "deprecated", "normal"]), [1, 3]);
        assert!(best(&["deprecated"]).is_empty());
    }

    #[test]
    fn values_of_all_types_are_read() {
        let time = r#""snaktype":"value","datavalue":{"type":"time","value":{"time":"-0044-03-15T00:00:00Z","precision":11,"calendarmodel":"x"}}"#;
        let quantity = r#""snaktype":"value","datavalue":{"type":"quantity","value":{"amount":"+12.5","unit":"http://www.wikidata.org/entity/Q712226"}}"#;
        let text = r#""snaktype":"value","datavalue":{"type":"string","value":"AR"}"#;
        let json = item(&format!(
            r#"{{"P569":[{}],"P1082":[{}],"P297":[{}]}}"#,
            statement("normal", time),
            statement("normal", quantity),
            statement("normal", text)
        ));
        let values: Vec<Value> =
            parse(&json).0.unwrap().claims.into_iter().map(|c| c.value).collect();
        let expect = [
            Value::Time { year: -44, month: 3, day: 15, precision: 11 },
            Value::Quantity { amount: 12.5, unit: 712226 },
            Value::Text("AR".into()),
        ];
        assert_eq!(values, expect);
    }

    #[test]
    fn what_is_unknown_is_counted_and_the_rest_is_read() {
        let odd = [
            statement("normal", r#""snaktype":"maybe""#),
            statement("normal", r#""snaktype":"value","datavalue":{"type":"musical","value":"x"}"#),
            statement(
                "normal",
                r#""snaktype":"value","datavalue":{"type":"time","value":{"time":"soon","precision":9}}"#,
            ),
            statement("normal", r#""snaktype":"novalue""#),
            statement("normal", &id_snak(5)),
        ];
        let (entity, oddities) = parse(&item(&format!(r#"{{"P31":[{}]}}"#, odd.join(","))));
        assert_eq!(entity.unwrap().items(31).collect::<Vec<_>>(), [5]);
        let names: Vec<&str> = oddities.keys().map(String::as_str).collect();
        let expect = [
            "a malformed value of type \"time\"",
            "unknown datatype \"musical\"",
            "unknown snaktype \"maybe\"",
        ];
        assert_eq!(names, expect);
    }

    #[test]
    fn properties_and_lexemes_are_no_items_and_broken_lines_are_errors() {
        assert_eq!(parse(r#"{"type":"property","id":"P31","datatype":"x"}"#).0, None);
        assert_eq!(parse(r#"{"id":"L1","type":"lexeme","claims":[]}"#).0, None);
        let mut oddities = Oddities::new();
        for broken in [r#"{"type":"item","id":"Q1""#, r#"{"type":"item"}"#, "[]", "{} {}"] {
            let result = read(broken.as_bytes(), &wanted(), &mut oddities);
            assert!(result.is_err() || result.unwrap().is_none(), "{broken}");
        }
        assert!(read(br#"{"type":"item","id":"Q1""#, &wanted(), &mut oddities).is_err());
    }

    #[test]
    fn a_record_survives_the_spool() {
        let json = item(&format!(r#"{{"P31":[{}]}}"#, statement("normal", &id_snak(5))));
        let entity = parse(&json).0.unwrap();
        let line = serde_json::to_vec(&entity).unwrap();
        assert_eq!(serde_json::from_slice::<Entity>(&line).unwrap(), entity);
    }
}
