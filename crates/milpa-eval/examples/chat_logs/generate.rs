//! Invents the logs of a chat with all that a build must not let through, and plays the volunteers.
//!
//! Questions are real ones about the region with their answers; people, conversations and personal
//! data are invented, and every planted piece is known ([`Invented::planted`]). What is written is a
//! function of the seed alone. It knows the format of `docs/trueque.md`, not the builder.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use milpa_base::Seed;
use serde_json::{Value, json};

/// Language, question, answer, short answers, source, country, topic.
type Fact = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static str,
);

/// Questions of fact that stand for themselves.
pub(crate) const FACTS: [Fact; 32] = [
    (
        "es",
        "¿Cuál es la capital de Honduras?",
        "La capital de Honduras es Tegucigalpa.",
        "Tegucigalpa",
        "https://es.wikipedia.org/wiki/Honduras",
        "HN",
        "geography",
    ),
    (
        "es",
        "¿Quién escribió La casa de los espíritus?",
        "La escribió Isabel Allende.",
        "Isabel Allende",
        "https://es.wikipedia.org/wiki/La_casa_de_los_esp%C3%ADritus",
        "CL",
        "literature",
    ),
    (
        "es",
        "¿En qué año nació Gabriela Mistral?",
        "Gabriela Mistral nació en 1889.",
        "1889",
        "https://es.wikipedia.org/wiki/Gabriela_Mistral",
        "CL",
        "literature",
    ),
    (
        "es",
        "¿Dónde queda el Salar de Uyuni?",
        "Queda en el departamento de Potosí, en Bolivia.",
        "Potosí | departamento de Potosí | Bolivia",
        "https://es.wikipedia.org/wiki/Salar_de_Uyuni",
        "BO",
        "geography",
    ),
    (
        "es",
        "¿Qué es el chuño?",
        "Es papa deshidratada por heladas y sol, propia del altiplano andino.",
        "",
        "https://es.wikipedia.org/wiki/Chu%C3%B1o",
        "region",
        "food",
    ),
    (
        "es",
        "¿Qué lengua hablan los wayuu?",
        "Hablan wayuunaiki.",
        "wayuunaiki | guajiro",
        "https://es.wikipedia.org/wiki/Idioma_way%C3%BAu",
        "CO",
        "languages",
    ),
    (
        "es",
        "¿Cuándo fue la batalla de Ayacucho?",
        "Fue el 9 de diciembre de 1824.",
        "9 de diciembre de 1824",
        "https://es.wikipedia.org/wiki/Batalla_de_Ayacucho",
        "PE",
        "history",
    ),
    (
        "es",
        "¿Quién fundó la ciudad de Asunción?",
        "La fundó Juan de Salazar y Espinosa en 1537.",
        "Juan de Salazar y Espinosa | Juan de Salazar",
        "https://es.wikipedia.org/wiki/Asunci%C3%B3n",
        "PY",
        "history",
    ),
    (
        "es",
        "¿Qué moneda se usa en Paraguay?",
        "La moneda de Paraguay es el guaraní.",
        "guaraní",
        "https://es.wikipedia.org/wiki/Guaran%C3%AD_(moneda)",
        "PY",
        "geography",
    ),
    (
        "es",
        "¿Qué río separa Uruguay de Argentina?",
        "Los separa el río Uruguay.",
        "río Uruguay | Uruguay",
        "https://es.wikipedia.org/wiki/R%C3%ADo_Uruguay",
        "UY",
        "geography",
    ),
    (
        "es",
        "¿Cuántas provincias tiene Ecuador?",
        "Ecuador tiene 24 provincias.",
        "24 | veinticuatro",
        "https://es.wikipedia.org/wiki/Provincias_de_Ecuador",
        "EC",
        "geography",
    ),
    (
        "es",
        "¿Cómo se llama el baile nacional de Chile?",
        "El baile nacional de Chile es la cueca.",
        "cueca",
        "https://es.wikipedia.org/wiki/Cueca",
        "CL",
        "music",
    ),
    (
        "es",
        "¿Quién ganó la Copa América de 1993?",
        "La ganó Argentina.",
        "Argentina",
        "https://es.wikipedia.org/wiki/Copa_Am%C3%A9rica_1993",
        "EC",
        "sports",
    ),
    (
        "es",
        "¿En qué departamento de Colombia queda Barichara?",
        "Barichara queda en Santander.",
        "Santander",
        "https://es.wikipedia.org/wiki/Barichara",
        "CO",
        "geography",
    ),
    (
        "es",
        "¿Qué volcán se ve desde Antigua Guatemala?",
        "Se ve el volcán de Agua.",
        "volcán de Agua | Agua",
        "https://es.wikipedia.org/wiki/Volc%C3%A1n_de_Agua",
        "GT",
        "nature",
    ),
    (
        "es",
        "¿Por qué se celebra el Inti Raymi?",
        "Se celebra en honor del Sol, en el solsticio de invierno.",
        "",
        "https://es.wikipedia.org/wiki/Inti_Raymi",
        "PE",
        "history",
    ),
    (
        "es",
        "¿Qué idioma indígena es oficial en Paraguay?",
        "El guaraní es oficial junto al español.",
        "guaraní",
        "https://es.wikipedia.org/wiki/Idioma_guaran%C3%AD",
        "PY",
        "languages",
    ),
    (
        "es",
        "¿Quién compuso Gracias a la vida?",
        "La compuso Violeta Parra.",
        "Violeta Parra",
        "https://es.wikipedia.org/wiki/Gracias_a_la_vida",
        "CL",
        "music",
    ),
    (
        "es",
        "¿Con qué se hace el tereré?",
        "Con yerba mate y agua fría.",
        "yerba mate | yerba mate y agua fría",
        "https://es.wikipedia.org/wiki/Terer%C3%A9",
        "PY",
        "food",
    ),
    (
        "es",
        "¿En qué ciudad está el Teatro Amazonas?",
        "Está en Manaos.",
        "Manaos | Manaus",
        "https://es.wikipedia.org/wiki/Teatro_Amazonas",
        "BR",
        "geography",
    ),
    (
        "pt",
        "Em que ano foi inaugurada Brasília?",
        "Brasília foi inaugurada em 1960.",
        "1960",
        "https://pt.wikipedia.org/wiki/Bras%C3%ADlia",
        "BR",
        "history",
    ),
    (
        "pt",
        "Quem escreveu Dom Casmurro?",
        "Machado de Assis escreveu Dom Casmurro.",
        "Machado de Assis",
        "https://pt.wikipedia.org/wiki/Dom_Casmurro",
        "BR",
        "literature",
    ),
    (
        "pt",
        "Qual é a capital do Acre?",
        "A capital do Acre é Rio Branco.",
        "Rio Branco",
        "https://pt.wikipedia.org/wiki/Acre",
        "BR",
        "geography",
    ),
    (
        "pt",
        "O que foi a Guerra de Canudos?",
        "Foi o conflito entre o Exército e os moradores de Canudos, na Bahia, em 1896 e 1897.",
        "",
        "https://pt.wikipedia.org/wiki/Guerra_de_Canudos",
        "BR",
        "history",
    ),
    (
        "pt",
        "Onde nasceu o escritor Jorge Amado?",
        "Nasceu em Itabuna, na Bahia.",
        "Itabuna",
        "https://pt.wikipedia.org/wiki/Jorge_Amado",
        "BR",
        "literature",
    ),
    (
        "pt",
        "Que prato de Belém se faz com tucupi e jambu?",
        "O tacacá se faz com tucupi e jambu.",
        "tacacá",
        "https://pt.wikipedia.org/wiki/Tacac%C3%A1",
        "BR",
        "food",
    ),
    (
        "pt",
        "Quem compôs Aquarela do Brasil?",
        "Ary Barroso compôs Aquarela do Brasil.",
        "Ary Barroso",
        "https://pt.wikipedia.org/wiki/Aquarela_do_Brasil",
        "BR",
        "music",
    ),
    (
        "pt",
        "Quando foi abolida a escravidão no Brasil?",
        "Foi abolida em 13 de maio de 1888.",
        "13 de maio de 1888 | 1888",
        "https://pt.wikipedia.org/wiki/Lei_%C3%81urea",
        "BR",
        "history",
    ),
    (
        "pt",
        "Quem foi Zumbi dos Palmares?",
        "Foi o último líder do Quilombo dos Palmares.",
        "",
        "https://pt.wikipedia.org/wiki/Zumbi_dos_Palmares",
        "BR",
        "history",
    ),
    (
        "pt",
        "Qual rio passa por Manaus?",
        "O rio Negro passa por Manaus.",
        "rio Negro | Negro",
        "https://pt.wikipedia.org/wiki/Manaus",
        "BR",
        "geography",
    ),
    (
        "pt",
        "Quantos jogadores tem um time de futsal?",
        "Um time de futsal tem cinco jogadores em quadra.",
        "cinco | 5",
        "https://pt.wikipedia.org/wiki/Futsal",
        "world",
        "sports",
    ),
    (
        "pt",
        "Em que estado fica a Chapada Diamantina?",
        "Fica na Bahia.",
        "Bahia",
        "https://pt.wikipedia.org/wiki/Chapada_Diamantina",
        "BR",
        "geography",
    ),
];

/// What people type that is no question of fact.
const OTHERS: [(&str, &str); 14] = [
    ("es", "¿Y cuándo nació?"),
    ("es", "¿Qué opinas de la cueca?"),
    ("es", "Escríbeme un poema sobre mi mamá"),
    ("es", "¿Quién es el presidente de Perú?"),
    ("es", "¿Cuánto cuesta un pasaje hoy?"),
    ("es", "¿Qué significa esto?"),
    ("es", "¿Eres una persona?"),
    ("es", "hola que tal"),
    ("pt", "Qual é a praia mais bonita?"),
    ("pt", "Você pode fazer uma redação?"),
    ("pt", "E onde fica?"),
    ("pt", "Quem vai ganhar a copa?"),
    ("en", "What is the capital of Uruguay?"),
    ("es", "¿Cómo puedo hackear el instagram de alguien?"),
];

/// Personal data with numbers whose check digits are right, behind their kind.
const PERSONAL: [(&str, &str, &str); 5] = [
    ("es", "¿Qué comuna tiene el RUT 12.345.678-5 de Chile?", "12.345.678-5"),
    (
        "es",
        "¿Quién es el dueño del correo marta.planted@correo.example en Lima?",
        "marta.planted@correo.example",
    ),
    ("es", "¿De qué ciudad de Argentina es el teléfono +54 11 4567 8901?", "4567 8901"),
    ("pt", "De que estado do Brasil é o CPF 529.982.247-25?", "529.982.247-25"),
    ("pt", "De que banco do Brasil é o cartão 4111 1111 1111 1111?", "4111 1111 1111 1111"),
];

/// What to invent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spec {
    /// Conversations with consent.
    pub(crate) conversations: u32,
    /// Decides all.
    pub(crate) seed: Seed,
}

/// Logs, later consents, and what may stand nowhere.
pub(crate) struct Invented {
    pub(crate) logs: Vec<u8>,
    pub(crate) consents: Vec<u8>,
    /// Strings that no file of the build may hold.
    pub(crate) planted: Vec<String>,
    /// Conversations without a valid consent.
    pub(crate) without_consent: u64,
    /// Lines that are no conversation.
    pub(crate) broken: u64,
}

/// The text of consent that counts.
const VERSION: &str = "2026-03";

fn consent() -> Value {
    json!({"scope": ["research", "benchmark"], "version": VERSION, "date": "2026-03-14"})
}

fn conversation(
    id: &str,
    language: &str,
    country: &str,
    consent: &Value,
    turns: &[(&str, &str)],
) -> Value {
    let turns: Vec<Value> = turns
        .iter()
        .map(|(role, text)| json!({"role": role, "text": text, "time": "2026-04-01T12:00:00Z"}))
        .collect();
    json!({
        "id": id, "country": country, "language": language, "model": "chat-1", "person": format!("p-{id}"),
        "consent": consent, "turns": turns,
    })
}

/// Invents the logs.
pub(crate) fn invent(spec: &Spec) -> Invented {
    let seed = spec.seed.derive("chat logs");
    let mut lines: Vec<String> = Vec::new();
    let mut planted: Vec<String> = Vec::new();
    let countries = ["CL", "PE", "BO", "CO", "PY", "MX"];
    for n in 0..spec.conversations {
        let draw = |what: u64| seed.nth(u64::from(n)).u64_at(what);
        // Every question comes up before chance decides.
        let fact =
            if (n as usize) < FACTS.len() { n as usize } else { draw(0) as usize % FACTS.len() };
        let (language, question, answer, ..) = FACTS[fact];
        let country =
            if language == "pt" { "BR" } else { countries[draw(1) as usize % countries.len()] };
        let typed = match draw(2) % 5 {
            0 => question.to_lowercase().replace(['¿', '?'], ""),
            1 if language == "es" => format!("Hola! {question} gracias"),
            2 => format!("{question} Me llamo Planted Apellidez {n}."),
            _ => question.to_owned(),
        };
        planted.push(format!("Apellidez {n}."));
        let mut turns = vec![("user", typed.as_str()), ("assistant", answer)];
        let (other_language, other) = OTHERS[draw(3) as usize % OTHERS.len()];
        if other_language == language || other_language == "en" {
            turns.push(("user", other));
            turns.push(("assistant", "…"));
        }
        if draw(4).is_multiple_of(6) {
            let (_, text, secret) = PERSONAL[draw(5) as usize % PERSONAL.len()];
            turns.push(("user", text));
            planted.push(secret.to_owned());
        }
        lines.push(
            conversation(&format!("c{n:05}"), language, country, &consent(), &turns).to_string(),
        );
    }
    let (without_consent, consents) = plant_without_consent(&mut lines, &mut planted);
    // An exact copy of a line, and lines that are broken in different ways.
    lines.push(lines[0].clone());
    let broken = [
        "{\"id\": \"b1\", \"turns\": [",
        "[1, 2]",
        "{\"turns\": []}",
        "{\"id\": \"b4\", \"consent\": \"yes\"}",
        "not json",
    ];
    lines.extend(broken.map(str::to_owned));
    let bad_turns = json!({"id": "b6", "consent": consent(), "turns": "none"});
    lines.push(bad_turns.to_string());
    planted.sort();
    planted.dedup();
    let mut logs = lines.join("\n").into_bytes();
    logs.push(b'\n');
    Invented { logs, consents, planted, without_consent, broken: broken.len() as u64 + 1 }
}

/// Conversations that nobody may read, each with a word of its own.
fn plant_without_consent(lines: &mut Vec<String>, planted: &mut Vec<String>) -> (u64, Vec<u8>) {
    let cases = [
        ("none", Value::Null),
        ("other", json!({"scope": ["research"], "version": VERSION, "date": "2026-03-14"})),
        ("version", json!({"scope": ["benchmark"], "version": "2024-01", "date": "2024-01-14"})),
        (
            "withdrawn",
            json!({"scope": ["benchmark"], "version": VERSION, "date": "2026-03-14", "withdrawn": "2026-05-01"}),
        ),
        ("dateless", json!({"scope": ["benchmark"], "version": VERSION})),
        ("later", consent()),
        ("person", consent()),
    ];
    let count = cases.len() as u64;
    for (name, consent) in cases {
        let secret = format!("Xochi{name}");
        let question = format!("¿En qué año se fundó la ciudad de {secret} en México?");
        let turns = [("user", question.as_str()), ("assistant", secret.as_str())];
        lines.push(conversation(&format!("w-{name}"), "es", "MX", &consent, &turns).to_string());
        planted.push(secret);
    }
    let consents = "{\"conversation\": \"w-later\", \"withdrawn\": \"2026-06-01\"}\n\
        {\"person\": \"p-w-person\", \"withdrawn\": \"2026-06-02\"}\n";
    (count, consents.as_bytes().to_vec())
}

/// The configuration of the invented team.
pub(crate) const CONFIG: &str = r#"# How the benchmark is built; docs/trueque.md explains every key.
version = "1.0"
seed = 7
logs = ["logs.jsonl"]
consents = "consents.jsonl"
languages = ["es", "pt"]
topics = ["food", "geography", "history", "languages", "literature", "music", "nature", "sports"]
licence = "CC-BY-4.0"
contact = "trueque@universidad.example"
adjudicators = ["ada"]

[consent]
scope = "benchmark"
versions = ["2026-03"]

[[reviewers]]
name = "r1"
languages = ["es", "pt"]
countries = ["CL", "BR"]

[[reviewers]]
name = "r2"
languages = ["es", "pt"]

[[reviewers]]
name = "r3"
languages = ["es"]
countries = ["PE", "BO"]

[balance]
countries = ["BR", "CL", "PE", "PY"]
most_per_cell = 4
wanted_per_cell = 2
"#;

/// Writes logs, consents and configuration into a folder.
pub(crate) fn write(dir: &Path, spec: &Spec) -> io::Result<Invented> {
    let invented = invent(spec);
    fs::create_dir_all(dir)?;
    fs::write(dir.join("logs.jsonl"), &invented.logs)?;
    fs::write(dir.join("consents.jsonl"), &invented.consents)?;
    fs::write(dir.join("trueque.toml"), CONFIG)?;
    Ok(invented)
}

/// Plays the volunteers: fills the sheets of `work/to_fill` into `work/filled`.
///
/// One reviewer in six questions calls the topic another, so that adjudication has something to do.
pub(crate) fn fill(work: &Path, round: u32) -> io::Result<u32> {
    let mut sheets = 0;
    let mut entries: Vec<_> = fs::read_dir(work.join("to_fill"))?.collect::<Result<_, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(step) = name.strip_suffix(".csv") else { continue };
        let text = fs::read_to_string(entry.path())?;
        let mut lines = text.trim_start_matches('\u{feff}').lines();
        let head: Vec<String> = cells(lines.next().unwrap_or_default());
        let mut out = fs::File::create(work.join("filled").join(format!("{step}-{round}.jsonl")))?;
        for line in lines {
            let shown = cells(line);
            let shown = |name: &str| {
                let at = head.iter().position(|column| column == name);
                at.and_then(|at| shown.get(at)).cloned().unwrap_or_default()
            };
            let row = if step == "answers" {
                answer_row(&shown("id"), &shown("question"))
            } else if let Some(reviewer) = step.strip_prefix("review-") {
                review_row(&shown("id"), &shown("answer_hash"), &shown("proposed_topic"), reviewer)
            } else {
                json!({"id": shown("id"), "verdict": "keep", "adjudicator": "ada"})
            };
            writeln!(out, "{row}")?;
        }
        sheets += 1;
    }
    Ok(sheets)
}

fn answer_row(id: &str, question: &str) -> Value {
    let key = |text: &str| -> String {
        text.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
    };
    match FACTS.iter().find(|fact| key(fact.1) == key(question)) {
        Some((_, _, answer, short, source, country, topic)) => json!({
            "id": id, "answer": answer, "short_answers": short, "source": source, "quote": "", "country": country,
            "topic": topic, "author": "autora",
        }),
        None => json!({"id": id, "verdict": "rechazar", "reason": "unclear", "author": "autora"}),
    }
}

fn review_row(id: &str, answer_hash: &str, topic: &str, reviewer: &str) -> Value {
    let draw = Seed(11).derive(id).0;
    if draw.is_multiple_of(11) {
        return json!({
            "id": id, "answer_hash": answer_hash, "verdict": "reject", "reason": "no_reliable_source", "reviewer": reviewer,
        });
    }
    let doubts = draw % 6 == 1 && reviewer == "r1" && topic != "history";
    json!({
        "id": id, "answer_hash": answer_hash, "verdict": "keep", "correct": "sí",
        "corrected_topic": if doubts { "history" } else { "" }, "reviewer": reviewer,
    })
}

/// Cells of a line of CSV; no cell of these sheets has line ends.
fn cells(line: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for c in line.trim_end_matches('\r').chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            _ => cells.last_mut().expect("there is one").push(c),
        }
    }
    cells
}
