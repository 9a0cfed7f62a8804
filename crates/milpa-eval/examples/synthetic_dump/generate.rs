//! Invents a Wikidata dump in the true schema: all relations of the benchmark, aliases, ranks,
//! qualifiers, references, sitelinks, and much that no question is made of.
//!
//! Entities have invented names and facts; countries and classes have their real numbers. What is
//! written is a function of the seed alone. It knows the tables of `data/choclo`, not the builder.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use milpa_base::Seed;
use serde_json::{Map, Value, json};

const RELATIONS: &str = include_str!("../../data/choclo/relations.toml");
const CLASSES: &str = include_str!("../../data/choclo/classes.toml");
const COUNTRIES: &str = include_str!("../../data/choclo/countries.toml");

/// What to invent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// Entities of the region for each class.
    pub(crate) per_class: u32,
    /// Entities of elsewhere and without use for each entity of the region.
    pub(crate) noise: u32,
    /// Labels in other languages, identifiers and references of each entity: 12 is as long as the
    /// entities of the real dump are on average.
    pub(crate) weight: u32,
    /// Decides all.
    pub(crate) seed: Seed,
}

/// Names of countries in Spanish and Portuguese, by code.
const COUNTRY_NAMES: [(&str, &str, &str); 27] = [
    ("AR", "Argentina", "Argentina"),
    ("BZ", "Belice", "Belize"),
    ("BO", "Bolivia", "Bolívia"),
    ("BR", "Brasil", "Brasil"),
    ("CL", "Chile", "Chile"),
    ("CO", "Colombia", "Colômbia"),
    ("CR", "Costa Rica", "Costa Rica"),
    ("CU", "Cuba", "Cuba"),
    ("DO", "República Dominicana", "República Dominicana"),
    ("EC", "Ecuador", "Equador"),
    ("GT", "Guatemala", "Guatemala"),
    ("GF", "Guayana Francesa", "Guiana Francesa"),
    ("GY", "Guyana", "Guiana"),
    ("HN", "Honduras", "Honduras"),
    ("HT", "Haití", "Haiti"),
    ("JM", "Jamaica", "Jamaica"),
    ("MX", "México", "México"),
    ("NI", "Nicaragua", "Nicarágua"),
    ("PA", "Panamá", "Panamá"),
    ("PE", "Perú", "Peru"),
    ("PR", "Puerto Rico", "Porto Rico"),
    ("PY", "Paraguay", "Paraguai"),
    ("SV", "El Salvador", "El Salvador"),
    ("SR", "Surinam", "Suriname"),
    ("TT", "Trinidad y Tobago", "Trinidad e Tobago"),
    ("UY", "Uruguay", "Uruguai"),
    ("VE", "Venezuela", "Venezuela"),
];

/// Things that are answers without being of the region: property, then pairs of names.
const VOCABULARY: [(&str, &[(&str, &str)]); 11] = [
    (
        "P37",
        &[
            ("español", "espanhol"),
            ("portugués", "português"),
            ("quechua", "quíchua"),
            ("guaraní", "guarani"),
            ("aimara", "aimará"),
            ("inglés", "inglês"),
            ("náhuatl", "náuatle"),
        ],
    ),
    (
        "P38",
        &[
            ("peso", "peso"),
            ("real brasileño", "real"),
            ("sol", "sol"),
            ("bolívar", "bolívar"),
            ("colón", "colón"),
            ("lempira", "lempira"),
            ("quetzal", "quetzal"),
        ],
    ),
    (
        "P4552",
        &[
            ("cordillera de los Andes", "cordilheira dos Andes"),
            ("sierra Madre", "serra Madre"),
            ("cordillera Blanca", "cordilheira Branca"),
            ("serranía de Guanes", "serra de Guanes"),
        ],
    ),
    (
        "P106",
        &[
            ("poeta", "poeta"),
            ("periodista", "jornalista"),
            ("futbolista", "futebolista"),
            ("médico", "médico"),
            ("novelista", "romancista"),
            ("pintor", "pintor"),
            ("actriz", "atriz"),
        ],
    ),
    (
        "P166",
        &[
            ("Premio Casa del Maíz", "Prêmio Casa do Milho"),
            ("Medalla de las Artes", "Medalha das Artes"),
            ("Orden del Cóndor", "Ordem do Condor"),
            ("Premio Nacional de Letras", "Prêmio Nacional de Letras"),
        ],
    ),
    (
        "P641",
        &[
            ("fútbol", "futebol"),
            ("béisbol", "beisebol"),
            ("ciclismo", "ciclismo"),
            ("voleibol", "voleibol"),
            ("boxeo", "boxe"),
        ],
    ),
    (
        "P1303",
        &[
            ("guitarra", "guitarra"),
            ("charango", "charango"),
            ("piano", "piano"),
            ("quena", "quena"),
            ("acordeón", "acordeão"),
        ],
    ),
    (
        "P186",
        &[
            ("maíz", "milho"),
            ("papa", "batata"),
            ("madera", "madeira"),
            ("barro", "barro"),
            ("plata", "prata"),
            ("lana", "lã"),
        ],
    ),
    (
        "P282",
        &[
            ("alfabeto latino", "alfabeto latino"),
            ("silabario", "silabário"),
            ("escritura jeroglífica", "escrita hieroglífica"),
            ("alfabeto guaraní", "alfabeto guarani"),
        ],
    ),
    (
        "P141",
        &[
            ("preocupación menor", "pouco preocupante"),
            ("vulnerable", "vulnerável"),
            ("en peligro", "em perigo"),
            ("extinta", "extinta"),
        ],
    ),
    (
        "P136",
        &[
            ("cumbia", "cumbia"),
            ("drama", "drama"),
            ("realismo mágico", "realismo mágico"),
            ("tango", "tango"),
            ("comedia", "comédia"),
            ("samba", "samba"),
        ],
    ),
];

const OTHER_LANGUAGES: [&str; 24] = [
    "de", "fr", "it", "ru", "zh", "ja", "ar", "nl", "sv", "pl", "uk", "ca", "fi", "cs", "hu", "tr",
    "fa", "ko", "vi", "he", "eu", "gl", "da", "ro",
];

const SYLLABLES: [&str; 44] = [
    "qui", "lla", "bam", "cha", "ca", "po", "ta", "gua", "ra", "ni", "mo", "que", "tzal", "te",
    "pec", "chi", "hua", "ma", "co", "ro", "yan", "cu", "ñan", "pa", "ri", "ti", "xo", "lo", "jua",
    "nan", "su", "yo", "cay", "hue", "a", "i", "me", "lin", "to", "na", "sa", "la", "bo", "ve",
];
const FIRST_NAMES: [&str; 16] = [
    "Juan", "María", "Rosa", "José", "Luis", "Ana", "Carlos", "Lucía", "Pedro", "Inés", "Jorge",
    "Teresa", "Miguel", "Elena", "Raúl", "Clara",
];
const LAST_NAMES: [&str; 16] = [
    "Quispe", "Rojas", "Silva", "Mamani", "Pereira", "Castro", "Flores", "Souza", "Vargas",
    "Morales", "Ortega", "Lima", "Huamán", "Méndez", "Campos", "Ríos",
];

/// A stream of picks.
struct Dice {
    seed: Seed,
    count: u64,
}

impl Dice {
    fn new(seed: Seed, index: u64) -> Self {
        Self { seed: seed.nth(index), count: 0 }
    }

    fn below(&mut self, most: usize) -> usize {
        self.count += 1;
        (self.seed.u64_at(self.count) % most as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// An invented proper name.
    fn name(&mut self) -> String {
        let length = 2 + self.below(3);
        let word: String = (0..length).map(|_| self.pick(&SYLLABLES)).collect();
        let mut letters = word.chars();
        let first = letters.next().expect("a syllable has letters");
        format!("{}{}", first.to_uppercase(), letters.as_str())
    }

    fn person(&mut self) -> String {
        let (first, last) = (self.pick(&FIRST_NAMES), self.pick(&LAST_NAMES));
        format!("{first} {} {last}", self.name())
    }
}

/// A name in Spanish and Portuguese for an entity of a class.
fn names(class: &str, dice: &mut Dice) -> (String, String) {
    let name = dice.name();
    let both = |es: &str, pt: &str| (format!("{es} {name}"), format!("{pt} {name}"));
    match class {
        "human" => {
            let name = dice.person();
            (name.clone(), name)
        }
        "city" | "municipality" | "settlement" if dice.one_in(3) => {
            let saint = dice.pick(&["San", "Santa", "Villa", "Puerto", "El", "La", "Los"]);
            both(saint, saint)
        }
        "region" if dice.one_in(3) => both("Provincia de", "Província de"),
        "river" => both("Río", "rio"),
        "lake" => both("Lago", "lago"),
        "volcano" => both("Volcán", "vulcão"),
        "mountain" if dice.one_in(2) => both("Cerro", "Cerro"),
        "island" => both("Isla", "ilha"),
        "protected_area" => both("Parque Nacional", "Parque Nacional"),
        "university" => both("Universidad Nacional de", "Universidade Nacional de"),
        "building" if dice.one_in(2) => both("Estadio", "Estádio"),
        "building" => both("Catedral de", "Catedral de"),
        "film" | "literary_work" | "album" | "television_series" | "song" | "painting" => {
            match dice.below(3) {
                0 => both("La casa de", "A casa de"),
                1 => both("El río de", "O rio de"),
                _ => (name.clone(), name),
            }
        }
        "band" => both("Los", "Os"),
        "festival" => both("Fiesta de", "Festa de"),
        "event" => both("Batalla de", "Batalha de"),
        "sports_club" => both("Club Atlético", "Clube Atlético"),
        "party" => both("Partido", "Partido"),
        "organisation" => both("Fundación", "Fundação"),
        "taxon" => (format!("{name} {}", dice.name().to_lowercase()), format!("{name} vulgaris")),
        _ => (name.clone(), name),
    }
}

/// What the builder's tables say, as far as it is needed here.
struct Tables {
    /// Code and QID.
    countries: Vec<(String, String)>,
    /// Class and its first root.
    classes: Vec<(String, String)>,
    /// For each class: property, kind of answer, unit.
    relations: BTreeMap<String, Vec<(String, String, String)>>,
}

fn tables() -> Tables {
    let parse = |text: &str| -> toml::Table { toml::from_str(text).expect("the tables are TOML") };
    let text = |value: &toml::Value, key: &str| {
        value.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned()
    };
    let rows = |table: &toml::Table, key: &str| -> Vec<toml::Value> {
        table[key].as_array().expect("a list of tables").clone()
    };
    let mut relations: BTreeMap<String, Vec<(String, String, String)>> = BTreeMap::new();
    for relation in rows(&parse(RELATIONS), "relation") {
        let row = (text(&relation, "property"), text(&relation, "answer"), text(&relation, "unit"));
        for class in relation["subjects"].as_array().expect("a list") {
            let class = class.as_str().expect("a name").to_owned();
            let known = relations.entry(class).or_default();
            if !known.contains(&row) {
                known.push(row.clone());
            }
        }
    }
    Tables {
        countries: rows(&parse(COUNTRIES), "country")
            .iter()
            .map(|country| (text(country, "code"), text(country, "qid")))
            .collect(),
        classes: rows(&parse(CLASSES), "class")
            .iter()
            .map(|class| {
                let root = class["roots"][0].as_str().expect("a QID").to_owned();
                (text(class, "name"), root)
            })
            .collect(),
        relations,
    }
}

/// Writes the dump: a JSON array with one entity on each line.
pub(crate) fn write_dump(out: &mut impl Write, spec: &Spec) -> io::Result<u64> {
    let tables = tables();
    let mut writer = DumpWriter { out, entities: 0 };
    writer.out.write_all(b"[")?;
    let world = World::new(&tables, spec);
    for (index, (code, qid)) in tables.countries.iter().enumerate() {
        let (_, es, pt) = COUNTRY_NAMES.iter().find(|row| row.0 == code).expect("all are listed");
        let mut dice = Dice::new(spec.seed.derive("countries"), index as u64);
        let mut entity = Entity::new(qid, es, pt, &mut dice, spec.weight);
        entity.claim("P31", &item("Q6256"), "normal", Map::new());
        world.add_claims(&mut entity, "country", index, &mut dice);
        entity.claim("P297", &string(code), "normal", Map::new());
        writer.entity(entity)?;
    }
    for (at, (property, words)) in VOCABULARY.iter().enumerate() {
        for (index, (es, pt)) in words.iter().enumerate() {
            let mut dice = Dice::new(spec.seed.derive(property), index as u64);
            let entity = Entity::new(&vocabulary_id(at, index), es, pt, &mut dice, spec.weight);
            writer.entity(entity)?;
        }
    }
    // Half of the entities are of a subclass two steps below the root.
    for (at, (_, root)) in tables.classes.iter().enumerate() {
        for (step, above) in [root.clone(), subclass_id(at, 0)].into_iter().enumerate() {
            let mut dice = Dice::new(spec.seed.derive("subclasses"), at as u64);
            let (name, id) = (dice.name(), subclass_id(at, step));
            let mut entity = Entity::new(&id, &name, &name, &mut dice, spec.weight);
            entity.claim("P279", &item(&above), "normal", Map::new());
            writer.entity(entity)?;
        }
    }
    for (at, (class, root)) in tables.classes.iter().enumerate() {
        if class == "country" {
            continue;
        }
        for index in 0..spec.per_class {
            let mut dice = Dice::new(spec.seed.derive(class), u64::from(index));
            let (es, pt) = names(class, &mut dice);
            let mut entity = Entity::new(&entity_id(at, index), &es, &pt, &mut dice, spec.weight);
            let of_class = if dice.one_in(2) { root.clone() } else { subclass_id(at, 1) };
            entity.claim("P31", &item(&of_class), "normal", Map::new());
            world.add_claims(&mut entity, class, index as usize, &mut dice);
            writer.entity(entity)?;
            for noise in 0..spec.noise {
                let number = (u64::from(index) * 64 + at as u64) * 64 + u64::from(noise);
                writer.entity(world.noise(number))?;
            }
        }
    }
    let property = json!({"type": "property", "id": "P31", "datatype": "wikibase-item", "labels": {},
        "descriptions": {}, "aliases": {}, "claims": {}});
    let lexeme = json!({"type": "lexeme", "id": "L1", "lexicalCategory": "Q1084", "language": "Q1321",
        "lemmas": {"es": {"language": "es", "value": "maíz"}}, "claims": [], "forms": [], "senses": []});
    writer.line(&property)?;
    writer.line(&lexeme)?;
    writer.out.write_all(b"\n]\n")?;
    Ok(writer.entities)
}

struct DumpWriter<'w, W> {
    out: &'w mut W,
    entities: u64,
}

impl<W: Write> DumpWriter<'_, W> {
    fn entity(&mut self, entity: Entity) -> io::Result<()> {
        self.line(&entity.json())
    }

    fn line(&mut self, value: &Value) -> io::Result<()> {
        self.out.write_all(if self.entities == 0 { b"\n" } else { b",\n" })?;
        self.entities += 1;
        serde_json::to_writer(&mut self.out, value)?;
        Ok(())
    }
}

fn vocabulary_id(at: usize, index: usize) -> String {
    format!("Q{}", 900_000_000 + at * 100 + index)
}

fn subclass_id(at: usize, step: usize) -> String {
    format!("Q{}", 910_000_000 + at * 10 + step)
}

fn entity_id(class: usize, index: u32) -> String {
    format!("Q{}", 1_000_000_000 + class as u64 * 50_000_000 + u64::from(index))
}

fn item(id: &str) -> Value {
    let number: u64 = id[1..].parse().expect("an id has a number");
    let value = json!({"entity-type": "item", "numeric-id": number, "id": id});
    json!({"type": "wikibase-entityid", "value": value})
}

fn string(text: &str) -> Value {
    json!({"type": "string", "value": text})
}

fn time(year: i32, month: usize, day: usize, precision: u8) -> Value {
    json!({"type": "time", "value": {"time": format!("+{year:04}-{month:02}-{day:02}T00:00:00Z"),
        "timezone": 0, "before": 0, "after": 0, "precision": precision,
        "calendarmodel": "http://www.wikidata.org/entity/Q1985727"}})
}

fn quantity(amount: usize, unit: &str) -> Value {
    let unit = match unit {
        "length" => "http://www.wikidata.org/entity/Q11573",
        "area" => "http://www.wikidata.org/entity/Q712226",
        _ => "1",
    };
    json!({"type": "quantity", "value": {"amount": format!("+{amount}"), "unit": unit}})
}

/// Which entities there are.
struct World<'t> {
    tables: &'t Tables,
    spec: Spec,
}

impl<'t> World<'t> {
    fn new(tables: &'t Tables, spec: &Spec) -> Self {
        Self { tables, spec: *spec }
    }

    /// Any entity of a class; about one in `countries` is of the given country.
    fn any(&self, class: &str, country: usize, dice: &mut Dice) -> String {
        let at = self.tables.classes.iter().position(|(name, _)| name == class).expect("a class");
        let countries = self.tables.countries.len();
        let mut index = dice.below(self.spec.per_class as usize);
        if !dice.one_in(5) {
            // Most answers are of the subject's country.
            index = index / countries * countries + country;
        }
        entity_id(at, (index % self.spec.per_class as usize) as u32)
    }

    fn add_claims(&self, entity: &mut Entity, class: &str, index: usize, dice: &mut Dice) {
        let countries = self.tables.countries.len();
        let country = index % countries;
        if !matches!(class, "country" | "human") {
            let property = if class == "taxon" { "P183" } else { "P17" };
            entity.claim(property, &item(&self.tables.countries[country].1), "normal", Map::new());
        }
        if class == "region" {
            let code = format!("{}-{index}", self.tables.countries[country].0);
            entity.claim("P300", &string(&code), "normal", Map::new());
        }
        for (property, answer, unit) in self.tables.relations.get(class).into_iter().flatten() {
            if matches!(property.as_str(), "P17" | "P183" | "P297" | "P300") {
                continue;
            }
            let value = match answer.as_str() {
                "item" => item(&self.object(property, class, country, dice)),
                "date" => {
                    let precision = dice.pick(&[11, 11, 11, 10, 9, 9, 8, 7]);
                    time(
                        1700 + dice.below(320) as i32,
                        1 + dice.below(12),
                        1 + dice.below(28),
                        precision,
                    )
                }
                "quantity" => quantity(10 + dice.below(2_000_000), unit),
                _ => string(&dice.name()),
            };
            let qualifiers = match dice.below(12) {
                0 => Map::from_iter([snaks("P582", &time(2001, 1, 1, 9))]),
                1 | 2 => {
                    Map::from_iter([snaks("P585", &time(1990 + dice.below(30) as i32, 1, 1, 9))])
                }
                3 => Map::from_iter([snaks("P580", &time(1990 + dice.below(30) as i32, 1, 1, 9))]),
                _ => Map::new(),
            };
            entity.claim(property, &value, "normal", qualifiers);
            match dice.below(10) {
                0 if answer == "item" => {
                    let second = item(&self.object(property, class, country, dice));
                    entity.claim(property, &second, "normal", Map::new());
                }
                1 => entity.claim(property, &value, "preferred", Map::new()),
                2 => {
                    let wrong = item(&self.object("P17", class, country, dice));
                    entity.claim(property, &wrong, "deprecated", Map::new());
                }
                3 => entity.unknown(property, dice.pick(&["somevalue", "novalue"])),
                _ => {}
            }
        }
    }

    /// An answer that fits the property.
    fn object(&self, property: &str, class: &str, country: usize, dice: &mut Dice) -> String {
        let from = if property == "P407" { "P37" } else { property };
        if let Some(at) = VOCABULARY.iter().position(|(name, _)| *name == from) {
            return vocabulary_id(at, dice.below(VOCABULARY[at].1.len()));
        }
        let of = match property {
            "P27" | "P495" | "P17" => {
                return self.tables.countries[country].1.clone();
            }
            "P131" | "P2341" => "region",
            "P36" | "P19" | "P20" | "P159" | "P276" => "city",
            "P47" if class == "country" => {
                let countries = self.tables.countries.len();
                return self.tables.countries[dice.below(countries)].1.clone();
            }
            "P47" | "P171" => class,
            "P610" => "mountain",
            "P403" | "P974" => "river",
            "P69" => "university",
            "P102" => "party",
            "P54" => "sports_club",
            "P800" => "literary_work",
            "P115" => "building",
            "P175" if dice.one_in(2) => "band",
            _ => "human",
        };
        self.any(of, country, dice)
    }

    /// An article without a Spanish name, or somebody of another continent.
    fn noise(&self, number: u64) -> Entity {
        let mut dice = Dice::new(self.spec.seed.derive("noise"), number);
        let id = format!("Q{}", 3_000_000_000 + number % 1_200_000_000);
        let name = dice.person();
        let mut entity = Entity::new(&id, &name, &name, &mut dice, self.spec.weight);
        if dice.one_in(3) {
            entity.claim("P31", &item("Q5"), "normal", Map::new());
            entity.claim("P27", &item("Q183"), "normal", Map::new());
            entity.claim("P569", &time(1950, 5, 6, 11), "normal", Map::new());
        } else {
            entity.claim("P31", &item("Q13442814"), "normal", Map::new());
            entity.names.remove("es");
            entity.names.remove("pt-br");
        }
        entity
    }
}

fn snaks(property: &str, value: &Value) -> (String, Value) {
    (property.to_owned(), json!([snak(property, value)]))
}

fn snak(property: &str, value: &Value) -> Value {
    json!({"snaktype": "value", "property": property, "datavalue": value,
    "datatype": match value["type"].as_str() {
        Some("wikibase-entityid") => "wikibase-item",
        Some("string") => "external-id",
        other => other.unwrap_or_default(),
    }})
}

struct Entity {
    id: String,
    names: Map<String, Value>,
    descriptions: Map<String, Value>,
    aliases: Map<String, Value>,
    claims: Map<String, Value>,
    sitelinks: Map<String, Value>,
    weight: u32,
}

impl Entity {
    fn new(id: &str, es: &str, pt: &str, dice: &mut Dice, weight: u32) -> Self {
        let text = |code: &str, text: &str| json!({"language": code, "value": text});
        let mut names = Map::new();
        let mut descriptions = Map::new();
        let mut sitelinks = Map::new();
        for code in OTHER_LANGUAGES.iter().take(2 * weight as usize) {
            names.insert((*code).to_owned(), text(code, es));
            let description = format!("{} {} {}", dice.name(), dice.name(), dice.name());
            descriptions.insert((*code).to_owned(), text(code, &description));
        }
        names.insert("es".to_owned(), text("es", es));
        names.insert("pt-br".to_owned(), text("pt-br", pt));
        names.insert("en".to_owned(), text("en", es));
        let known = format!("obra de {}", dice.name());
        descriptions.insert("es".to_owned(), text("es", &known));
        descriptions.insert("pt".to_owned(), text("pt", &known));
        let mut aliases = Map::new();
        if dice.one_in(2) {
            aliases.insert("es".to_owned(), json!([text("es", &format!("{es} {}", dice.name()))]));
        }
        for wiki in 0..dice.below(8 + weight as usize) {
            let site = format!("{}wiki", OTHER_LANGUAGES[wiki % OTHER_LANGUAGES.len()]);
            let link = json!({"site": site, "title": es, "badges": []});
            sitelinks.insert(site, link);
        }
        let mut entity = Self {
            id: id.to_owned(),
            names,
            descriptions,
            aliases,
            claims: Map::new(),
            sitelinks,
            weight,
        };
        for number in 0..weight {
            let value = string(&format!("{}-{}", dice.name(), dice.below(1_000_000)));
            entity.claim(&format!("P{}", 5000 + number), &value, "normal", Map::new());
        }
        entity
    }

    fn claim(&mut self, property: &str, value: &Value, rank: &str, qualifiers: Map<String, Value>) {
        self.statement(property, &snak(property, value), rank, qualifiers);
    }

    fn unknown(&mut self, property: &str, kind: &str) {
        let snak = json!({"snaktype": kind, "property": property, "datatype": "wikibase-item"});
        self.statement(property, &snak, "normal", Map::new());
    }

    fn statement(
        &mut self,
        property: &str,
        snak: &Value,
        rank: &str,
        qualifiers: Map<String, Value>,
    ) {
        let order: Vec<&String> = qualifiers.keys().collect();
        let mut statement = json!({"mainsnak": snak, "type": "statement", "rank": rank,
            "id": format!("{}$f078e5b3-f9a8-480e-b7ac-d97778cbbef9", self.id), "qualifiers-order": order});
        if !qualifiers.is_empty() {
            statement["qualifiers"] = Value::Object(qualifiers);
        }
        if self.weight > 0 {
            let source = snaks("P248", &item("Q54919"));
            let seen = snaks("P813", &time(2013, 12, 7, 11));
            statement["references"] = json!([{"hash": "050ec907ff2d96e82eddea6ecfc54f12503b9f4c",
                "snaks": Map::from_iter([source, seen]), "snaks-order": ["P248", "P813"]}]);
        }
        let list = self.claims.entry(property.to_owned()).or_insert_with(|| json!([]));
        list.as_array_mut().expect("statements are a list").push(statement);
    }

    fn json(self) -> Value {
        // An empty map is written as the dumps write it.
        let map =
            |map: Map<String, Value>| if map.is_empty() { json!([]) } else { Value::Object(map) };
        json!({"type": "item", "id": self.id, "labels": map(self.names),
            "descriptions": map(self.descriptions), "aliases": map(self.aliases),
            "claims": map(self.claims), "sitelinks": map(self.sitelinks), "lastrevid": 1})
    }
}
