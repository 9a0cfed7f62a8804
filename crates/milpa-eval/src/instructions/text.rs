//! What the constraints count in a text: words, tokens, sentences, cases.
//!
//! IFEval counts with Python's `\w`, with NLTK's word tokenizer and with NLTK's Punkt splitter.
//! Here are their rules; what Punkt learnt from newspapers (which words are abbreviations, which
//! begin sentences) is a short list of our own for each language. It knows no constraint.

use std::sync::LazyLock;

use fancy_regex::Regex;

use super::Language;

/// A pattern of this module.
pub(super) fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("patterns of the program are tested to compile")
}

/// Number of matches that do not overlap; `None` where the search was given up.
pub(super) fn count_matches(pattern: &Regex, text: &str) -> Option<usize> {
    pattern.find_iter(text).try_fold(0, |count, found| found.ok().map(|_| count + 1))
}

/// The words of a text: runs of letters with their marks (Guaraní g̃), digits and `_`.
pub(super) fn words(text: &str) -> impl Iterator<Item = &str> {
    static WORD: LazyLock<Regex> = LazyLock::new(|| pattern(r"[\p{L}\p{M}\p{N}_]+"));
    WORD.find_iter(text).filter_map(|word| word.ok().map(|word| word.as_str()))
}

/// The text without the numbers that begin the items of a list: `1. `, `2) `.
pub(super) fn without_list_numbers(text: &str) -> String {
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^\s*\d+[.)]\s*"));
    NUMBER.replace_all(text, "").into_owned()
}

/// Whether a text has a capital letter and no small one, as Python's `isupper`.
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// Whether a text has a small letter and no capital one, as Python's `islower`.
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// Letters such as ǅ, a capital and a small one in one character.
fn is_title(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ')
        || ('\u{1f88}'..='\u{1ffc}').contains(&c) && {
            !c.is_uppercase() && !c.is_lowercase() && c.is_alphabetic()
        }
}

/// Number of tokens in capitals, where a token ends at white space and at the marks at which NLTK's
/// `word_tokenize` cuts: `UTF-8` is one, `AT&T` are two, `IT'S` are two.
pub(super) fn capital_tokens(text: &str) -> usize {
    static CUTS: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r#"(?x)
            \s+ | --+ | \.{2,} | [:,](?!\d) | [;@\#$%&?!*"`] | [\]\[(){}<>]
            | [«»“”‘’„\u{2012}-\u{2015}] | ''
            | (?<=[^\s'])(?='(?i:s|m|d|ll|re|ve)(?![\w'])) | (?<=\w)(?=(?:n't|N'T)(?!\w))
            | (?i)\b(?:can(?=not\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|wan(?=na\s))"#,
        )
    });
    let mut count = 0;
    let mut start = 0;
    for cut in CUTS.find_iter(text).map_while(Result::ok) {
        // A contraction ends its token and is part of it; a mark is a token without letters.
        let has_letters = cut.as_str().chars().any(char::is_alphabetic);
        let end = if has_letters { cut.end() } else { cut.start() };
        count += usize::from(is_upper(&text[start..end]));
        start = cut.end();
    }
    count + usize::from(is_upper(&text[start..]))
}

/// Characters that end a word beside white space.
const CLOSERS: &str = ")\";}]*:@'({[‘’“”«»!?";

/// Number of sentences: as Punkt decides at each `.`, `?` and `!`, with our own lists of
/// abbreviations. A newline alone ends no sentence.
///
/// Paper: Kiss and Strunk, Computational Linguistics 32 (2006) 485–525, section 4.
pub(super) fn count_sentences(text: &str, language: Language) -> usize {
    let mut count = 0;
    let mut start = 0;
    for (end, next) in breaks(text, language) {
        let sentence = &text[start..end];
        let begin = &text[next..];
        count += usize::from(!sentence.is_empty());
        // Quotes and brackets that close the sentence belong to it.
        start = next + closing(begin);
    }
    count + usize::from(!text[start..].trim_end().is_empty())
}

/// Bytes of closing quotes and brackets, with the white space after them, that begin `text`.
fn closing(text: &str) -> usize {
    static REST: LazyLock<Regex> =
        LazyLock::new(|| pattern(r#"(?m)\A["')\]}‘’“”«»]+?(?:\s+|(?=--)|$)"#));
    REST.find(text).ok().flatten().map_or(0, |found| found.end())
}

/// Where sentences end, and where the next one begins.
fn breaks(text: &str, language: Language) -> Vec<(usize, usize)> {
    let mut breaks = Vec::new();
    let mut word_start = 0;
    let mut characters = text.char_indices().peekable();
    // The last place in the word at which a sentence may end.
    let mut candidate: Option<(usize, usize, usize)> = None;
    while let Some((at, c)) = characters.next() {
        if c.is_whitespace() {
            word_start = at + c.len_utf8();
        }
        if !matches!(c, '.' | '?' | '!') {
            continue;
        }
        let end = at + 1;
        let next = match characters.peek() {
            Some((_, after)) if after.is_whitespace() => {
                let rest = text[end..].trim_start();
                if rest.is_empty() {
                    continue;
                }
                text.len() - rest.len()
            }
            Some((_, after)) if CLOSERS.contains(*after) => end,
            _ => continue,
        };
        if let Some((word, end, next)) = candidate.take()
            && word != word_start
            && ends_sentence(&text[word..end], &text[next..], language)
        {
            breaks.push((end, next));
        }
        candidate = Some((word_start, end, next));
    }
    if let Some((word, end, next)) = candidate
        && ends_sentence(&text[word..end], &text[next..], language)
    {
        breaks.push((end, next));
    }
    breaks
}

/// Whether a sentence ends with `word`, which ends with a `.`, `?` or `!`, before `rest`.
fn ends_sentence(word: &str, rest: &str, language: Language) -> bool {
    if word.contains(['!', '?']) {
        return true;
    }
    let next = rest.split(char::is_whitespace).next().unwrap_or_default();
    let next: String = next
        .chars()
        .enumerate()
        .take_while(|(at, c)| *at == 0 || !(CLOSERS.contains(*c) || matches!(c, ',' | '.')))
        .map(|(_, c)| c)
        .collect();
    let first = next.chars().next().unwrap_or(' ');
    let starts = first.is_uppercase() && STARTERS.contains(&next.to_lowercase().as_str());
    if word.ends_with("..") {
        return first.is_uppercase();
    }
    let token = word.rsplit(|c| CLOSERS.contains(c)).next().unwrap_or(word);
    let token = token.trim_end_matches('.').to_lowercase();
    let mut letters = token.chars();
    let only = letters.next().filter(|_| letters.next().is_none());
    if only.is_some_and(char::is_alphabetic) {
        return starts || !first.is_alphabetic();
    }
    let last = token.rsplit('-').next().unwrap_or(&token);
    if is_abbreviation(&token, language) || is_abbreviation(last, language) {
        return starts;
    }
    let digits = token.trim_start_matches(['-', '.', ',']);
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '.' | '-'));
    !(is_number && first.is_lowercase())
}

/// Words that begin a sentence when they have a capital, even after an abbreviation.
const STARTERS: [&str; 62] = [
    "the", "this", "that", "these", "it", "he", "she", "they", "we", "but", "and", "however", "if",
    "in", "when", "so", "there", "then", "many", "most", "some", "a", "an", "el", "la", "los",
    "las", "un", "una", "este", "esta", "estos", "estas", "esto", "pero", "por", "para", "además",
    "también", "no", "sin", "aunque", "según", "así", "cuando", "o", "os", "as", "um", "uma",
    "esse", "essa", "isso", "mas", "não", "eles", "ele", "ela", "além", "quando", "também", "com",
];

/// Abbreviations of English that end with a point and seldom end a sentence.
const ENGLISH: [&str; 60] = [
    "mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "gen", "rep", "sen", "gov", "lt",
    "col", "capt", "sgt", "maj", "messrs", "inc", "ltd", "corp", "co", "bros", "jan", "feb", "mar",
    "aug", "sept", "sep", "oct", "nov", "dec", "mon", "tues", "wed", "fri", "ave", "calif", "fla",
    "ill", "mich", "minn", "wash", "conn", "ga", "va", "pa", "ph.d", "u.s", "u.k", "u.n", "a.m",
    "p.m", "d.c", "u.s.a", "n.y", "e.h", "l.a", "m.b.a",
];

/// Abbreviations of Spanish, also in the Spanish of Guaraní and Quechua texts.
const SPANISH: [&str; 36] = [
    "sr", "sra", "srta", "sres", "dr", "dra", "lic", "ing", "prof", "profa", "d", "dª", "ud",
    "uds", "vd", "etc", "av", "avda", "esp", "pág", "págs", "núm", "nº", "aprox", "cía", "ltda",
    "s.a", "ee.uu", "cc.oo", "p.ej", "p.e", "st", "art", "atte", "gral", "a.c",
];

/// Abbreviations of Portuguese.
const PORTUGUESE: [&str; 32] = [
    "sr", "sra", "srta", "srs", "dr", "dra", "prof", "profa", "eng", "av", "pág", "págs", "núm",
    "nº", "ltda", "cia", "s.a", "fund", "jr", "vs", "a.c", "d.c", "p.ex", "ex", "tel", "mr", "mrs",
    "inc", "ap", "v.exa", "art", "gov",
];

fn is_abbreviation(token: &str, language: Language) -> bool {
    match language {
        Language::English => ENGLISH.contains(&token),
        Language::Portuguese => PORTUGUESE.contains(&token),
        Language::Spanish | Language::Guarani | Language::Quechua => SPANISH.contains(&token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_punkt_ends_them() {
        let check = |text: &str, language, expect| {
            assert_eq!(count_sentences(text, language), expect, "{text}");
        };
        let (english, spanish) = (Language::English, Language::Spanish);
        check("", english, 0);
        check("  \n ", english, 0);
        check("One", english, 1);
        check("One. Two! Three?", english, 3);
        check("One.\n\nTwo", english, 2);
        check("One\n\nTwo", english, 1);
        check("Mr. Smith left. He slept.", english, 2);
        check("At 3 p.m. it rained.", english, 1);
        check("It cost 3.50 dollars.", english, 1);
        check("He said \"Stop.\" Then he left.", english, 2);
        check("\"All of it.\"", english, 1);
        check("What?! No!!! Yes.", english, 3);
        check("Wait... what? Wait... What?", english, 3);
        check("1. First\n2. Second", english, 3);
        check("El Sr. Gómez llegó. Comió.", spanish, 2);
        check("Maíz, frijol, etc. y calabaza. Todo.", spanish, 2);
        check("Vive en EE.UU. desde 1990.", spanish, 1);
    }

    #[test]
    fn words_are_runs_of_letters_and_digits() {
        let count = |text| words(text).count();
        assert_eq!(count("don't stop, co-operate: 3,5"), 7);
        assert_eq!(count("¿Qué tal, señor?"), 3);
        assert_eq!(count("ag\u{303}uije"), 1);
        assert_eq!(without_list_numbers("1. uno\n 2) dos\n3 tres"), "uno\ndos\n3 tres");
    }

    #[test]
    fn tokens_in_capitals_end_where_nltk_ends_them() {
        let check = |text: &str, expect| assert_eq!(capital_tokens(text), expect, "{text}");
        check("", 0);
        check("THE END", 2);
        check("UTF-8 and B2B", 2);
        check("AT&T", 2);
        check("IT'S MINE", 3);
        check("(ONE) [TWO] **THREE** \"FOUR\"", 4);
        check("ONE,two:THREE", 2);
        check("U.S.A. is NASA.", 2);
        check("PIB: 3,5 % (FMI)", 2);
        check("I think NOT", 2);
        check("CANNOT", 2);
    }

    #[test]
    fn cases_are_those_of_python() {
        assert!(is_upper("ÁRBOL 3!") && !is_upper("123") && !is_upper("ǅ") && !is_upper("Nº"));
        assert!(is_lower("árbol 3!") && !is_lower("123") && !is_lower("aB"));
    }
}
