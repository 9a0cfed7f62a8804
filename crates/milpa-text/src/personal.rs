//! Personal data in text: e-mail and IP addresses, telephones, cards and the identity, tax and bank
//! numbers of Latin America, each with the country whose law it falls under.
//!
//! A number counts if its check digits are right and it is written as such numbers are, or stands
//! behind the name of its kind (`RUT`, `cédula`); digits alone are articles and amounts. It knows
//! where things stand and what covers them; whether to mask or to drop is the caller's choice.
//! Names and postal addresses are not looked for.

use std::{borrow::Cow, ops::Range};

pub mod numbers;

/// Characters before a number in which the name of its kind is looked for.
const CONTEXT_CHARS: usize = 24;

/// What kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A public IPv4 address.
    Ip,
    /// A telephone in international form, or behind its name.
    Phone,
    /// A payment card.
    Card,
    /// An identity, tax or bank number: an index of [`numbers::NUMBERS`].
    Number(usize),
}

impl Kind {
    /// The name that covers it, such as `CPF`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Ip => "IP",
            Self::Phone => "TELEFONO",
            Self::Card => "TARJETA",
            Self::Number(index) => numbers::NUMBERS[index].name,
        }
    }

    /// The country that issues the number, ISO 3166-1; `None` where it has none.
    pub fn jurisdiction(self) -> Option<&'static str> {
        match self {
            Self::Number(index) => Some(numbers::NUMBERS[index].jurisdiction),
            _ => None,
        }
    }
}

/// One piece of personal data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Where it stands, in bytes.
    pub range: Range<usize>,
}

/// Finds personal data in `text`, in order and without overlap, in time linear in its length.
pub fn find(text: &str) -> Vec<Found> {
    let mut found = Vec::new();
    let mut at = 0;
    for token in tokens(text) {
        if token.start < at {
            continue;
        }
        if let Some(kind) = kind_of(text, &token) {
            at = token.end;
            found.push(Found { kind, range: token });
        }
    }
    found
}

/// `text` with each piece of personal data covered by its kind: `[CPF]`.
///
/// ```
/// let masked = milpa_text::personal::mask("Escriba a ana@correo.example, RUT 12.345.678-5.");
/// assert_eq!(masked, "Escriba a [EMAIL], RUT [RUT].");
/// ```
pub fn mask(text: &str) -> Cow<'_, str> {
    let found = find(text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for Found { kind, range } in found {
        out.push_str(&text[from..range.start]);
        out.push('[');
        out.push_str(kind.name());
        out.push(']');
        from = range.end;
    }
    out.push_str(&text[from..]);
    Cow::Owned(out)
}

/// Characters of which addresses and numbers consist, besides letters and digits.
fn is_inside(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '.' | '-' | '/' | '@' | '_' | '+' | '%' | '&')
}

/// Candidates: runs of such characters with a digit or an `@`, without marks at their ends; and runs
/// of digit groups parted by single spaces.
fn tokens(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at + text[at..].find(is_inside)?;
            let end = text[start..].find(|c| !is_inside(c)).map_or(text.len(), |end| start + end);
            at = end;
            let run = trim(text, start..end);
            let piece = &text[run.clone()];
            let numeric = piece.bytes().any(|byte| byte.is_ascii_digit());
            if !numeric && !piece.contains('@') {
                continue;
            }
            let is_group = |piece: &str| {
                piece.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-'))
            };
            if !is_group(piece) {
                return Some(run);
            }
            // Groups of digits belong together: 4111 1111 1111 1111, +56 9 1234 5678.
            let mut last = run.end;
            while text[last..].starts_with([' ', ')']) && last == at {
                let next = last
                    + 1
                    + text[last + 1..]
                        .bytes()
                        .take_while(|&b| b == b' ' || b == b'(')
                        .take(1)
                        .count();
                let length =
                    text[next..].bytes().take_while(|b| b.is_ascii_digit() || *b == b'-').count();
                let ends =
                    !text[next + length..].starts_with(|c: char| c.is_alphanumeric() || c == '/');
                if length == 0 || !ends || last - run.start > 24 {
                    break;
                }
                last = next + length;
                at = last;
            }
            let joined = trim(text, run.start..last);
            return Some(joined);
        }
    })
}

fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let piece = &text[range.clone()];
    let marks = |c: char| matches!(c, '.' | '-' | '/' | '_' | '%' | '&' | '@');
    let start = range.start + (piece.len() - piece.trim_start_matches(marks).len());
    let end = range.end - (piece.len() - piece.trim_end_matches(|c| marks(c) || c == '+').len());
    start..end.max(start)
}

fn kind_of(text: &str, range: &Range<usize>) -> Option<Kind> {
    let piece = &text[range.clone()];
    if piece.contains('@') {
        return is_email(piece).then_some(Kind::Email);
    }
    let before = context(text, range.start);
    let compact: String = piece
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == '&')
        .flat_map(char::to_uppercase)
        .collect();
    if !(7..=22).contains(&compact.len()) || !compact.is_ascii() && !compact.contains('Ñ') {
        return is_public_ip(piece).then_some(Kind::Ip);
    }
    let named = |names: &[&str]| names.iter().any(|name| has_word(&before, name));
    for (index, number) in numbers::NUMBERS.iter().enumerate() {
        if (number.check)(&compact) && (number.is_written(piece) || named(number.names)) {
            return Some(Kind::Number(index));
        }
    }
    if is_public_ip(piece) {
        return Some(Kind::Ip);
    }
    let digits = compact.bytes().all(|byte| byte.is_ascii_digit());
    if !digits {
        return None;
    }
    let grouped = piece.contains([' ', '-']) && !piece.contains(['.', '/', '+']);
    if numbers::card(&compact)
        && (grouped || named(&["tarjeta", "cartão", "cartao", "card", "visa"]))
    {
        return Some(Kind::Card);
    }
    let international = piece.starts_with('+') && (9..=15).contains(&compact.len());
    let phones =
        ["tel", "teléfono", "telefono", "telefone", "celular", "cel", "whatsapp", "fono", "móvil"];
    let called = (7..=15).contains(&compact.len()) && !piece.contains('/') && named(&phones);
    (international || called).then_some(Kind::Phone)
}

/// The last characters before `at` in the same line, in lower case.
fn context(text: &str, at: usize) -> String {
    let same_line = text[..at].chars().rev().take(CONTEXT_CHARS).take_while(|c| *c != '\n');
    let start = at - same_line.map(char::len_utf8).sum::<usize>();
    text[start..at].to_lowercase()
}

/// Whether `text` has `name` as a word; a full stop inside abbreviations (`C.U.I.T.`) is no part.
fn has_word(text: &str, name: &str) -> bool {
    let plain = text.replace('.', "");
    plain.split(|c: char| !c.is_alphanumeric()).any(|word| word == name)
}

fn is_email(piece: &str) -> bool {
    let Some((user, host)) = piece.split_once('@') else { return false };
    let Some((domain, top)) = host.rsplit_once('.') else { return false };
    !user.is_empty()
        && user.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '+' | '%'))
        && !domain.is_empty()
        && domain.split('.').all(|label| {
            !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-')
        })
        && top.len() >= 2
        && top.chars().all(char::is_alphabetic)
}

fn is_public_ip(piece: &str) -> bool {
    let mut parts = piece.split('.');
    let mut numbers = [0u8; 4];
    for number in &mut numbers {
        let part = parts.next().unwrap_or_default();
        // Article 1.02.3.4 has a zero in front, an address does not.
        let plain = part == "0" || !part.starts_with('0');
        match part.parse() {
            Ok(value) if plain => *number = value,
            _ => return false,
        }
    }
    let [a, b, ..] = numbers;
    let private = a == 10
        || (a == 172 && (16..32).contains(&b))
        || (a == 192 && b == 168)
        || (a == 169 && b == 254);
    // Small numbers alone are the sections of a law.
    let section = numbers.iter().all(|&number| number < 32);
    parts.next().is_none() && !private && !section && (1..224).contains(&a) && a != 127
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: &str) {
        assert_eq!(mask(text), expect, "{text:?}");
    }

    #[test]
    fn addresses_and_telephones() {
        check("ana.paz+x@correo.com.ar.", "[EMAIL].");
        check("@usuario y a@b no", "@usuario y a@b no");
        check("desde 190.12.3.44 y 192.168.0.1", "desde [IP] y 192.168.0.1");
        check("art. 4.1.2.3 y 12.345.678", "art. 4.1.2.3 y 12.345.678");
        check("Tel. 4567-8901, llame", "Tel. [TELEFONO], llame");
        check("+56 9 1234 5678", "[TELEFONO]");
        check("4111 1111 1111 1111", "[TARJETA]");
        check("Ley 27444 del 2001, S/ 1 234 567.00", "Ley 27444 del 2001, S/ 1 234 567.00");
    }

    #[test]
    fn numbers_by_their_form_or_their_name() {
        check("CPF 529.982.247-25", "CPF [CPF]");
        check("529.982.247-25 e 529.982.247-24", "[CPF] e 529.982.247-24");
        check("52998224725 reais", "52998224725 reais");
        check("o CPF nº 52998224725", "o CPF nº [CPF]");
        check("CNPJ 11.222.333/0001-81", "CNPJ [CNPJ]");
        check("CNPJ 12.ABC.345/01DE-35", "CNPJ [CNPJ]");
        check("RUC N.º 20131312955", "RUC N.º [RUC]");
        check("C.U.I.T. 20-12345678-6", "C.U.I.T. [CUIT]");
        check("CLABE 032180000118359719", "CLABE [CLABE]");
        check("curp HEGG560427MVZRRL04", "curp [CURP]");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_the_rest_stays(text in "(\\PC|[0-9 .@+/-]){0,60}") {
            let found = find(&text);
            for pair in found.windows(2) {
                prop_assert!(pair[0].range.end <= pair[1].range.start);
            }
            mask(&text);
        }
    }
}
