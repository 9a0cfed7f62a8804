//! Finds the questions of what somebody typed into a chat.
//!
//! A turn is cut into sentences; a greeting and a "could you tell me" before the question are taken
//! off, and the marks that are missing are added. What is not asked is no candidate. It judges
//! no question: that is [`crate::trueque::rules`].

use milpa_base::hash_bytes;
use milpa_text::{normalise::fold_word, words};

use super::{pattern::Word, rules::Language};

/// Words that may stand before a question without being what it is about.
const MAX_TOLD_WORDS: usize = 8;
/// Words of a question that was typed without its marks: a longer one is rather a story.
const MAX_UNMARKED_WORDS: usize = 25;
/// The same, where the first word is a conjunction as well ("cuando", "como", "when").
const MAX_AMBIGUOUS_WORDS: usize = 12;

/// A question of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// As it would be printed.
    pub text: String,
    /// Whether so much was told before it that it may be about that.
    pub after_story: bool,
}

/// The questions of a turn, in order.
pub fn questions(turn: &str, language: Language) -> Vec<Question> {
    let sentences = sentences(turn);
    let alone = sentences.len() == 1;
    let mut told = 0;
    let mut found = Vec::new();
    for sentence in sentences {
        match question(sentence, language, alone) {
            Some(text) => found
                .push(Question { text: tidy(&text, language), after_story: told > MAX_TOLD_WORDS }),
            None => told += words(strip_greeting(sentence, language)).count(),
        }
    }
    found
}

/// What stands for a question, however it is typed: its words in lower case, without accents.
pub fn identity(question: &str) -> String {
    let mut key = String::new();
    for word in Word::all(question) {
        key.push_str(&word.folded);
        key.push(' ');
    }
    format!("t{}", &hash_bytes(key.as_bytes()).to_string()[..20])
}

/// Cuts at `?`, `!`, line ends and full stops; a stop after a number or a short word is none.
fn sentences(turn: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut start = 0;
    let mut characters = turn.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let next = characters.peek().map(|&(_, next)| next);
        let ends = match c {
            '\n' => true,
            '?' | '!' | '…' => {
                next.is_none_or(|next| !matches!(next, '?' | '!' | '»' | '"' | '”'))
            }
            '.' | ';' => {
                // "EE. UU." and "Sr." end no sentence.
                next.is_none_or(char::is_whitespace) && {
                    let mut words = turn[start..at].rsplit(char::is_whitespace);
                    let word = words.next().unwrap_or_default();
                    word.chars().nth(3).is_some() || !word.starts_with(char::is_uppercase)
                }
            }
            _ => false,
        };
        if ends {
            found.push(&turn[start..at + c.len_utf8()]);
            start = at + c.len_utf8();
        }
    }
    found.push(&turn[start..]);
    found.retain(|sentence| sentence.contains(char::is_alphanumeric));
    found.into_iter().map(str::trim).collect()
}

/// The question of a sentence, without what is said before it for politeness.
fn question(sentence: &str, language: Language, alone: bool) -> Option<String> {
    let marked = sentence.trim_end_matches(['»', '"', '”', ')', '!']).ends_with('?');
    // What stands before the opening mark is kept unless it is a greeting: it may be a condition.
    let mut text = sentence;
    if let Some(at) = sentence.find('¿') {
        let before: Vec<&str> = words(&sentence[..at]).collect();
        let lead = strip(&sentence[..at], language);
        if before.len() <= 4 && lead.trim_matches(|c: char| !c.is_alphanumeric()).is_empty()
            || is_address_to_the_chat(&before)
        {
            text = &sentence[at..];
        }
    }
    let stripped = strip(text, language);
    let folded: Vec<String> = words(stripped).take(MAX_UNMARKED_WORDS + 1).map(fold).collect();
    let begins = begins_as_question(&folded, language);
    if marked {
        let kept = if begins == Begins::No { strip_greeting(text, language) } else { stripped };
        return kept.contains(char::is_alphanumeric).then(|| kept.to_owned());
    }
    let most = match begins {
        Begins::Surely => MAX_UNMARKED_WORDS,
        Begins::Perhaps if alone => MAX_AMBIGUOUS_WORDS,
        _ => return None,
    };
    (folded.len() <= most).then(|| stripped.to_owned())
}

fn fold(word: &str) -> String {
    let mut folded = String::new();
    fold_word(word, &mut folded);
    crate::choclo::score::fold_accents(&folded)
}

/// "Copuchat," or "Hola Copuchat," before a question.
fn is_address_to_the_chat(before: &[&str]) -> bool {
    before.len() <= 3
        && before.iter().any(|word| ["copuchat", "chat", "chatgpt", "gpt"].contains(&&*fold(word)))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Begins {
    Surely,
    Perhaps,
    No,
}

/// Words that begin a question; the second list begins other sentences too.
const INTERROGATIVES: [(&[&str], &[&str]); 3] = [
    (
        &["cual", "cuales", "quien", "quienes", "cuantos", "cuantas", "cuanto", "cuanta"],
        &["que", "cuando", "donde", "como", "adonde"],
    ),
    (
        &["qual", "quais", "quem", "quantos", "quantas", "quanto", "quanta"],
        &["que", "quando", "onde", "como", "aonde"],
    ),
    (
        &[
            "what", "who", "whose", "whom", "which", "how", "why", "what's", "who's", "how's",
            "whats",
        ],
        &["when", "where"],
    ),
];
const BEFORE_INTERROGATIVES: [&[&str]; 3] = [
    &["a", "con", "de", "desde", "en", "hacia", "hasta", "para", "por", "sobre", "entre"],
    &["a", "com", "de", "desde", "em", "ate", "para", "por", "sobre", "entre", "o"],
    &["in", "on", "at", "by", "from", "to", "for", "with", "of"],
];

/// Whether something is asked for, and not only whether something is so.
pub(crate) fn asks_for_something(question: &str, language: Language) -> bool {
    let (sure, perhaps) = INTERROGATIVES[language as usize];
    let typed = Word::all(question);
    let begin = question.rfind('¿').map_or(0, |at| Word::all(&question[..at]).len());
    typed.iter().enumerate().any(|(place, word)| {
        let is = |list: &[&str]| list.contains(&word.folded.as_str());
        // "Que" and "como" join sentences, unless they have an accent or stand first.
        let accented = word.exact != word.folded;
        is(sure) || (is(perhaps) && (accented || place <= begin + 1))
    })
}

fn begins_as_question(folded: &[String], language: Language) -> Begins {
    let (sure, perhaps) = INTERROGATIVES[language as usize];
    let is =
        |list: &[&str], word: Option<&String>| word.is_some_and(|w| list.contains(&w.as_str()));
    let first = folded.first();
    if is(sure, first) {
        return Begins::Surely;
    }
    let prepositions = BEFORE_INTERROGATIVES[language as usize];
    let second = folded.get(1);
    if is(prepositions, first) && is(sure, second) {
        return Begins::Surely;
    }
    if is(perhaps, first) || (is(prepositions, first) && is(perhaps, second)) {
        return Begins::Perhaps;
    }
    Begins::No
}

const GREETINGS: [&[&str]; 3] = [
    &[
        "hola",
        "buenas",
        "buenos dias",
        "buenas tardes",
        "buenas noches",
        "por favor",
        "porfa",
        "disculpa",
        "disculpe",
        "perdon",
        "gracias",
        "oye",
        "che",
        "una pregunta",
        "tengo una pregunta",
        "saludos",
    ],
    &[
        "oi",
        "ola",
        "bom dia",
        "boa tarde",
        "boa noite",
        "por favor",
        "desculpa",
        "desculpe",
        "obrigado",
        "obrigada",
        "uma pergunta",
        "tenho uma pergunta",
    ],
    &[
        "hi",
        "hello",
        "hey",
        "please",
        "good morning",
        "good afternoon",
        "good evening",
        "thanks",
        "sorry",
        "excuse me",
        "quick question",
    ],
];

/// Ways to say that a question comes.
const LEADS: [&[&str]; 3] = [
    &[
        "me puedes decir",
        "me podrias decir",
        "me podria decir",
        "me puede decir",
        "me podes decir",
        "me dices",
        "puedes decirme",
        "podrias decirme",
        "podria decirme",
        "puede decirme",
        "podes decirme",
        "dime",
        "digame",
        "decime",
        "quisiera saber",
        "quiero saber",
        "me gustaria saber",
        "necesito saber",
        "sabes",
        "sabe usted",
        "sabes tu",
        "tu sabes",
        "alguien sabe",
        "quisiera preguntar",
        "me podrias indicar",
        "me puedes indicar",
    ],
    &[
        "voce pode me dizer",
        "pode me dizer",
        "voce poderia me dizer",
        "poderia me dizer",
        "me diga",
        "me diz",
        "me fala",
        "gostaria de saber",
        "eu gostaria de saber",
        "queria saber",
        "eu queria saber",
        "quero saber",
        "eu quero saber",
        "voce sabe",
        "voce sabe me dizer",
        "sabe me dizer",
        "sabe",
        "vc sabe",
        "preciso saber",
    ],
    &[
        "can you tell me",
        "can you please tell me",
        "could you tell me",
        "could you please tell me",
        "please tell me",
        "tell me",
        "do you know",
        "i want to know",
        "i would like to know",
        "id like to know",
        "would you tell me",
        "i wonder",
    ],
];

/// Takes greetings and a lead off; the lead only where a question begins behind it.
fn strip(text: &str, language: Language) -> &str {
    let greeted = strip_greeting(text, language);
    let Some(rest) = after_any(greeted, LEADS[language as usize]) else { return greeted };
    let rest = strip_greeting(rest, language);
    let folded: Vec<String> = words(rest).take(2).map(fold).collect();
    let nothing = folded.is_empty();
    if nothing || begins_as_question(&folded, language) != Begins::No { rest } else { greeted }
}

fn strip_greeting(text: &str, language: Language) -> &str {
    let mut text = text;
    while let Some(rest) = after_any(text, GREETINGS[language as usize]) {
        text = rest;
    }
    text
}

/// What stands after the longest of the phrases, if the text begins with one.
fn after_any<'a>(text: &'a str, phrases: &[&str]) -> Option<&'a str> {
    let end_of = |phrase: &&str| {
        let mut found = words(text);
        let mut end = 0;
        for wanted in phrase.split(' ') {
            let word = found.next().filter(|word| fold(word) == wanted)?;
            // Words are slices of the text.
            end = word.as_ptr() as usize - text.as_ptr() as usize + word.len();
        }
        Some(end)
    };
    let end = phrases.iter().filter_map(end_of).max()?;
    Some(text[end..].trim_start_matches([' ', ',', '.', ':', ';', '!', '-', '\t']))
}

/// One spelling of what surrounds a question: a capital first, the marks of its language.
fn tidy(question: &str, language: Language) -> String {
    let inner = question.trim().trim_start_matches(['¿', '¡', '-', '*', ' ', ',']);
    let inner = inner.trim_end_matches(['?', '!', '.', ' ', ',', ':', '…']).trim();
    let mut spaced = inner.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(first) = spaced.chars().next() {
        let capital: String = first.to_uppercase().collect();
        spaced.replace_range(..first.len_utf8(), &capital);
    }
    let opens = language == Language::Es && !spaced.contains('¿');
    format!("{}{spaced}?", if opens { "¿" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(language: Language, turn: &str, expect: &[&str]) {
        let found: Vec<String> =
            questions(turn, language).into_iter().map(|question| question.text).collect();
        assert_eq!(found, expect, "{turn:?}");
    }

    #[test]
    fn questions_are_found_with_and_without_marks() {
        check(Language::Es, "cual es la moneda de Paraguay", &["¿Cual es la moneda de Paraguay?"]);
        check(Language::Es, "Hola, buenas tardes. ¿Qué es el mate?", &["¿Qué es el mate?"]);
        check(Language::Es, "Hola Copuchat, ¿qué es el mate??", &["¿Qué es el mate?"]);
        check(
            Language::Es,
            "Leí sobre el EE. UU. de 1812. ¿Quién ganó? ¿y cuándo?",
            &["¿Quién ganó?", "¿Y cuándo?"],
        );
        check(Language::Pt, "quem escreveu Dom Casmurro", &["Quem escreveu Dom Casmurro?"]);
        check(Language::En, "where is Quito", &["Where is Quito?"]);
        check(Language::Es, "Cuando llegué a casa estaba lloviendo. Me mojé.", &[]);
        check(Language::Es, "Traduce esto al inglés", &[]);
        check(Language::Es, "", &[]);
    }

    #[test]
    fn politeness_is_taken_off_where_a_question_follows() {
        check(
            Language::Es,
            "¿Me puedes decir cuándo fue la batalla de Ayacucho?",
            &["¿Cuándo fue la batalla de Ayacucho?"],
        );
        check(
            Language::Es,
            "Dime en qué ciudad está el Teatro Colón",
            &["¿En qué ciudad está el Teatro Colón?"],
        );
        check(Language::Es, "¿Me puedes decir un chiste?", &["¿Me puedes decir un chiste?"]);
        check(
            Language::Pt,
            "Oi, você pode me dizer quem compôs Aquarela?",
            &["Quem compôs Aquarela?"],
        );
        check(
            Language::En,
            "can you tell me which languages are official in Bolivia",
            &["Which languages are official in Bolivia?"],
        );
        check(Language::En, "Tell me about the Incas", &[]);
        check(
            Language::Es,
            "Si murió en 1830, ¿cuántos años tenía?",
            &["Si murió en 1830, ¿cuántos años tenía?"],
        );
    }

    #[test]
    fn a_story_before_a_question_is_seen() {
        let check = |turn: &str, expect: &[bool]| {
            let found = questions(turn, Language::Es);
            let stories: Vec<bool> = found.iter().map(|question| question.after_story).collect();
            assert_eq!(stories, expect, "{turn:?}");
        };
        check("Hola, buenas tardes. Una pregunta. ¿Qué es el mate?", &[false]);
        check(
            "Ana tiene tres hermanos y cada uno de ellos tiene dos perros. ¿Cuántos perros hay?",
            &[true],
        );
        check("¿Qué es el mate? Lo vi ayer en la feria de mi barrio y me gustó.", &[false]);
    }

    #[test]
    fn the_same_question_has_one_identity() {
        let id = identity("¿Cuál es la capital de Perú?");
        assert_eq!(id, identity("cual es la capital de peru"));
        assert_ne!(id, identity("cual es la capital de chile"));
        assert_eq!(id.len(), 21);
    }
}
