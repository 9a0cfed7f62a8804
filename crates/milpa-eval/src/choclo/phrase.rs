//! Introduces entities: "la ciudad de Cusco", "el río Magdalena", "la película «Machuca»", "Chile".
//!
//! The class gives the noun; a name that begins with a noun of its own keeps it ("la Catedral de
//! Lima"). It knows the tables, not the dump.

use crate::choclo::{
    grammar::{Gender, Language, Phrase, Preposition},
    graph::Node,
    knowledge::{Class, Knowledge},
};

/// Nouns of divisions that belong to the proper name.
const PROPER_DIVISIONS: [&str; 3] = ["ciudad", "cidade", "distrito"];

/// The name of an entity in a language, if it can be shown: Latin letters, no bare id.
pub(crate) fn label(node: &Node, language: Language) -> Option<&str> {
    let names = match language {
        Language::Spanish => &node.entity.es,
        Language::Portuguese => &node.entity.pt,
    };
    names.label.as_deref().filter(|label| is_showable(label))
}

/// Whether a name can stand in a sentence: mostly Latin letters, no id, no markup.
pub(crate) fn is_showable(name: &str) -> bool {
    let letters = name.chars().filter(|c| c.is_alphabetic()).count();
    let latin = name.chars().filter(|&c| is_latin(c)).count();
    let is_id = name.len() > 1
        && name.starts_with(['Q', 'P'])
        && name[1..].bytes().all(|byte| byte.is_ascii_digit());
    letters > 0
        && letters == latin
        && !is_id
        && !name.contains("  ")
        && !name.contains([
            '{', '}', '|', '<', '>', '[', ']', '\n', '\t', '"', '«', '»', '“', '”', '?', '¿',
        ])
}

fn is_latin(c: char) -> bool {
    c.is_ascii_alphabetic()
        || matches!(c, '\u{c0}'..='\u{24f}' | '\u{1e00}'..='\u{1eff}' | 'ª' | 'º')
}

/// A list or a page about several things, by its name.
pub(crate) fn is_list(label: &str) -> bool {
    let lower = label.to_lowercase();
    ["anexo:", "lista de ", "listas de ", "categoría:", "categoria:", "plantilla:", "predefinição:"]
        .iter()
        .any(|start| lower.starts_with(start))
}

/// Introduces the subject of a question.
///
/// # Errors
/// Why it cannot be asked about in this language.
pub(crate) fn subject(
    knowledge: &Knowledge,
    node: &Node,
    language: Language,
) -> Result<Phrase, &'static str> {
    let label = label(node, language).ok_or("no label in the language")?;
    if is_list(label) {
        return Err("a list");
    }
    let class = &knowledge.classes[node.class.ok_or("no class")?];
    introduce(knowledge, node, class, label, language).ok_or("a name in the plural")
}

/// Introduces an answer: with an article where one belongs to the name, bare otherwise.
pub(crate) fn answer(knowledge: &Knowledge, node: &Node, language: Language) -> Option<Phrase> {
    let label = label(node, language)?;
    if knowledge.articles.contains_key(&node.entity.id) {
        return Some(country(knowledge, node, label, language));
    }
    let Some(class) = node.class.map(|class| &knowledge.classes[class]) else {
        return Some(headed(knowledge, label, false, language).unwrap_or(Phrase::bare(label)));
    };
    if class.lower {
        return introduce(knowledge, node, class, label, language).or(Some(Phrase::bare(label)));
    }
    if let Some(article) = portuguese_article(knowledge, class, label, language) {
        return Some(Phrase::with_article(article, label));
    }
    let name_stands_alone = is_place(class) || class.quote || class.nouns[0].is_none();
    let headed = (!name_stands_alone).then(|| headed(knowledge, label, false, language)).flatten();
    Some(headed.unwrap_or(Phrase::bare(label)))
}

/// The article that the name of a place takes in Portuguese, if it takes one.
fn portuguese_article(
    knowledge: &Knowledge,
    class: &Class,
    label: &str,
    language: Language,
) -> Option<Gender> {
    let names = match class.name.as_str() {
        _ if language != Language::Portuguese => return None,
        _ if class.division => &knowledge.articles_by_name,
        "city" | "municipality" | "settlement" => &knowledge.city_articles,
        _ => return None,
    };
    names.get(label).copied()
}

fn is_place(class: &Class) -> bool {
    class.division || class.nouns[0].as_ref().is_some_and(|noun| !noun.join.is_empty())
}

fn country(knowledge: &Knowledge, node: &Node, label: &str, language: Language) -> Phrase {
    match knowledge.articles.get(&node.entity.id).and_then(|both| both[language.index()]) {
        Some(article) => Phrase::with_article(article, label),
        None => Phrase::bare(label),
    }
}

fn introduce(
    knowledge: &Knowledge,
    node: &Node,
    class: &Class,
    label: &str,
    language: Language,
) -> Option<Phrase> {
    let index = language.index();
    let first = first_word(label);
    if class.lower && knowledge.plural_heads[index].contains(&first) {
        return None;
    }
    let division = || {
        let country = node.countries.trailing_zeros() as usize;
        knowledge.countries.get(country).map(|country| &country.division[index])
    };
    let noun = if class.division { division() } else { class.nouns[index].as_ref() };
    let Some(noun) = noun else { return Some(country(knowledge, node, label, language)) };
    if class.quote {
        let (open, close) =
            if language == Language::Spanish { ('«', '»') } else { ('“', '”') };
        return Some(Phrase::with_article(
            noun.gender,
            format!("{} {open}{label}{close}", noun.word),
        ));
    }
    let names_division = knowledge.divisions[index].contains(&first);
    // "la provincia de Salta", but "la Ciudad de México" and "el Distrito Federal".
    let lower = class.lower || names_division && !PROPER_DIVISIONS.contains(&first.as_str());
    if (!is_place(class) || names_division)
        && let Some(phrase) = headed(knowledge, label, lower, language)
    {
        return Some(phrase);
    }
    if first == noun.word {
        return Some(Phrase::with_article(noun.gender, label));
    }
    let join = if class.division { "de" } else { &noun.join };
    let named = match portuguese_article(knowledge, class, label, language) {
        Some(article) => Phrase::with_article(article, label).after(Preposition::Of, language),
        _ if join.is_empty() => label.to_owned(),
        _ => format!("{join} {label}"),
    };
    Some(Phrase::with_article(noun.gender, format!("{} {named}", noun.word)))
}

/// A name that begins with a noun which asks for an article.
fn headed(knowledge: &Knowledge, label: &str, lower: bool, language: Language) -> Option<Phrase> {
    let first = first_word(label);
    // A noun alone ("Parque") is a name, not a description.
    let gender: Gender =
        *knowledge.heads[language.index()].get(&first).filter(|_| label.contains(' '))?;
    let text =
        if lower { format!("{first}{}", &label[first_end(label)..]) } else { label.to_owned() };
    Some(Phrase::with_article(gender, text))
}

fn first_end(label: &str) -> usize {
    label.find(' ').unwrap_or(label.len())
}

fn first_word(label: &str) -> String {
    label[..first_end(label)].to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choclo::entity::{Entity, Names};

    fn check(class: &str, country: &str, es: &str, pt: &str, expect: [&str; 2]) {
        let knowledge = Knowledge::load(None).unwrap();
        let names = |label: &str| Names { label: Some(label.into()), ..Names::default() };
        let bit = knowledge.countries.iter().position(|known| known.code == country).unwrap();
        let node = Node {
            entity: Entity { id: 7, es: names(es), pt: names(pt), ..Entity::default() },
            countries: 1 << bit,
            class: knowledge.class_named(class),
        };
        let phrases = Language::ALL.map(|language| {
            subject(&knowledge, &node, language).map_or_else(
                |reason| format!("<{reason}>"),
                |phrase| phrase.after(Preposition::Of, language),
            )
        });
        assert_eq!(phrases, expect, "{class}");
    }

    #[test]
    fn classes_introduce_their_members() {
        check("city", "PE", "Cusco", "Cusco", ["de la ciudad de Cusco", "da cidade de Cusco"]);
        check(
            "city",
            "MX",
            "Ciudad de México",
            "Cidade do México",
            ["de la Ciudad de México", "da Cidade do México"],
        );
        check(
            "river",
            "CO",
            "Río Magdalena",
            "rio Madalena",
            ["del río Magdalena", "do rio Madalena"],
        );
        check("river", "CO", "Magdalena", "Madalena", ["del río Magdalena", "do rio Madalena"]);
        check("region", "BR", "Bahía", "Bahia", ["del estado de Bahía", "do estado da Bahia"]);
        check(
            "region",
            "AR",
            "Provincia de Salta",
            "Salta",
            ["de la provincia de Salta", "da província de Salta"],
        );
        check(
            "settlement",
            "AR",
            "Río Cuarto",
            "Río Cuarto",
            ["de la localidad de Río Cuarto", "da localidade de Río Cuarto"],
        );
        check(
            "film",
            "CL",
            "Machuca",
            "Machuca",
            ["de la película «Machuca»", "do filme “Machuca”"],
        );
        check(
            "human",
            "CL",
            "Gabriela Mistral",
            "Gabriela Mistral",
            ["de Gabriela Mistral", "de Gabriela Mistral"],
        );
        check(
            "building",
            "PE",
            "Catedral de Lima",
            "Catedral de Lima",
            ["de la Catedral de Lima", "da Catedral de Lima"],
        );
        check(
            "mountain",
            "EC",
            "Cerro Rico",
            "Chimborazo",
            ["del cerro Rico", "da montanha Chimborazo"],
        );
    }

    #[test]
    fn what_cannot_be_asked_about_says_why() {
        check("island", "EC", "Islas Galápagos", "Ilhas Galápagos", ["<a name in the plural>"; 2]);
        check("film", "CL", "Анна", "Q123", ["<no label in the language>"; 2]);
        check("film", "CL", "Anexo:Filmes", "Lista de filmes", ["<a list>"; 2]);
    }
}
