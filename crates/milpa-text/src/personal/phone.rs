//! Telephones: by their international form, by forms that hardly anything else has, or behind a word
//! that says so.

use std::ops::Range;

use super::candidates::Context;

/// Fewest digits of a telephone.
pub(super) const MIN_DIGITS: usize = 6;
/// Most digits of a telephone (ITU-T E.164).
const MAX_DIGITS: usize = 15;

/// Words before a telephone.
pub(super) const NAMES: &[&str] = &[
    "tel",
    "tels",
    "telf",
    "tlf",
    "teléfono",
    "telefono",
    "teléfonos",
    "telefonos",
    "telefone",
    "telefones",
    "telefónico",
    "telefônico",
    "celular",
    "celulares",
    "cel",
    "móvil",
    "movil",
    "whatsapp",
    "fono",
    "fone",
    "fax",
    "telefax",
    "phone",
    "mobile",
    "call",
    "llame",
    "llamar",
    "llámenos",
    "ligue",
];

/// The telephone that `range` is, with a bracket before it, if it is one; `follows` says that
/// another stands right before it.
pub(super) fn telephone(
    text: &str,
    range: Range<usize>,
    context: &Context,
    follows: bool,
) -> Option<Range<usize>> {
    let piece = &text[range.clone()];
    let digits = piece.bytes().filter(u8::is_ascii_digit).count();
    let plain = piece
        .bytes()
        .all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b' ' | b'(' | b')'));
    if !(MIN_DIGITS..=MAX_DIGITS).contains(&digits) || !plain || is_date(piece) {
        return None;
    }
    let bracket = text[..range.start].ends_with('(') && piece.contains(')');
    let known = is_international(piece, digits)
        || (bracket && is_with_area(piece, digits))
        || is_north_american(piece)
        || ((follows || context.names(NAMES)) && !is_amount(piece));
    known.then(|| range.start - usize::from(bracket)..range.end)
}

/// Whether what stands between a telephone and a number makes it another one of a list.
pub(super) fn is_list(between: &str) -> bool {
    matches!(between.trim(), "/" | "," | ";" | "-" | "y" | "e" | "o" | "ou" | "and" | "or")
}

/// `+` and the code of a country: +56 9 1234 5678.
fn is_international(piece: &str, digits: usize) -> bool {
    piece.strip_prefix('+').is_some_and(|rest| rest.starts_with(|c| matches!(c, '1'..='9')))
        && digits >= 9
        && !piece[1..].contains('+')
}

/// Behind an area in brackets, of which the closing one is here: 01) 427-0000.
fn is_with_area(piece: &str, digits: usize) -> bool {
    let Some((area, rest)) = piece.split_once(')') else { return false };
    let rest = rest.trim();
    let number = rest.bytes().filter(u8::is_ascii_digit).count();
    // The years (2001) 2002-2003 are no telephone.
    (1..=3).contains(&area.len())
        && area.bytes().all(|byte| byte.is_ascii_digit())
        && (8..=11).contains(&digits)
        && (6..=9).contains(&number)
        && !rest.contains(['(', ')', '+', '.'])
}

/// 809-555-0134 or 1-809-555-0134, as in the countries of the North American plan.
fn is_north_american(piece: &str) -> bool {
    let parts: Vec<&str> = piece.strip_prefix("1-").unwrap_or(piece).split('-').collect();
    matches!(parts[..], [area, exchange, line]
        if [area.len(), exchange.len(), line.len()] == [3, 3, 4]
            && !area.starts_with(['0', '1']) && !exchange.starts_with(['0', '1'])
            && parts.concat().bytes().all(|byte| byte.is_ascii_digit()))
}

/// A day, a month and a year in any order, or a span of years.
fn is_date(piece: &str) -> bool {
    let parts: Vec<&str> = piece.split(['-', '.', ' ']).collect();
    let number = |part: &str| part.parse::<u32>().unwrap_or(u32::MAX);
    let is_year = |part: &str| part.len() == 4 && (1800..2100).contains(&number(part));
    let is_small = |part: &str| part.len() <= 2 && number(part) <= 31;
    match parts[..] {
        [a, b] => is_year(a) && is_year(b),
        [a, b, c] => is_small(b) && ((is_year(a) && is_small(c)) || (is_small(a) && is_year(c))),
        _ => false,
    }
}

/// Thousands: 1.234.567 or 1 234 567.00.
fn is_amount(piece: &str) -> bool {
    let parts: Vec<&str> = piece.split(['.', ' ']).collect();
    let thousands = parts.len() >= 2
        && parts[0].len() <= 3
        && piece.contains('.')
        && parts[1..].iter().all(|part| part.len() == 3);
    let cents = piece.rsplit_once('.').is_some_and(|(_, cents)| cents.len() == 2)
        && piece.matches('.').count() == 1;
    thousands || cents
}
