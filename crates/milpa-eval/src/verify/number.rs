//! Numbers as the region writes them: `1.234,56`, `1,234.56`, `1 234`, `2 mil millones`, `R$ 5`, `25 %`.
//!
//! Mexico, most of Central America, the Caribbean and Peru write decimals with a point, the rest of
//! South America and Brazil with a comma (Unicode CLDR), so the same digits are two numbers and the
//! reader must be told. The long scale of Spanish (billón = 10¹²) and the short one of Portuguese
//! and English (bilhão, billion = 10⁹) differ in their words. It knows no right answer.

use serde::{Deserialize, Serialize};

use crate::verify::rational::{Rational, power_of_ten};

/// Which mark divides decimals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Marks {
    /// Decimal point; a number that can only be read with a comma is read so.
    Point,
    /// Decimal comma; a number that can only be read with a point is read so.
    Comma,
    /// Decimal point and nothing else.
    PointOnly,
    /// Decimal comma and nothing else.
    CommaOnly,
    /// Both are tried; a number that they read differently is ambiguous.
    #[default]
    Either,
}

/// Locales that write a decimal comma; those of other countries of the region write a point.
const COMMA_LOCALES: [&str; 13] = [
    "pt", "es-AR", "es-BO", "es-BR", "es-CL", "es-CO", "es-CR", "es-EC", "es-ES", "es-PY", "es-UY",
    "es-VE", "gn-PY",
];
const POINT_LOCALES: [&str; 15] = [
    "en", "es-CU", "es-DO", "es-GT", "es-HN", "es-MX", "es-NI", "es-PA", "es-PE", "es-PR", "es-SV",
    "es-US", "es-419", "qu-PE", "es-BZ",
];

impl Marks {
    /// The marks of a BCP 47 tag such as `es-MX`; `None` for one that is not known, such as `es`,
    /// whose countries differ.
    pub fn of_locale(tag: &str) -> Option<Self> {
        let is_in = |list: &[&str]| {
            list.iter().any(|known| {
                tag == *known
                    || (!known.contains('-')
                        && tag.strip_prefix(known).is_some_and(|rest| rest.starts_with('-')))
            })
        };
        match (is_in(&COMMA_LOCALES), is_in(&POINT_LOCALES)) {
            (true, _) => Some(Self::Comma),
            (_, true) => Some(Self::Point),
            _ => None,
        }
    }

    /// Reads a name of the enum (`point`, `comma_only`, `either`, …) or a locale's tag.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "point" => Some(Self::Point),
            "comma" => Some(Self::Comma),
            "point_only" => Some(Self::PointOnly),
            "comma_only" => Some(Self::CommaOnly),
            "either" => Some(Self::Either),
            tag => Self::of_locale(tag),
        }
    }
}

/// A number found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Number {
    /// Its value; 25 % is 1/4.
    pub value: Rational,
    /// Whether it was written as a percentage.
    pub percent: bool,
    /// Code of its currency (`BRL`); `$` for a sign that many countries share.
    pub currency: Option<&'static str>,
}

/// Why digits are no number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NumberProblem {
    /// Two readings.
    Ambiguous {
        /// With a decimal point.
        point: Rational,
        /// With a decimal comma.
        comma: Rational,
    },
    /// The marks stand where they cannot, or the number does not fit.
    Malformed,
}

/// Digits of a text and what they mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// First byte, sign and currency included.
    pub start: usize,
    /// Byte after the last, percent sign and scale included.
    pub end: usize,
    /// The number.
    pub number: Result<Number, NumberProblem>,
}

/// Most numbers that are read from one text.
const MAX_NUMBERS: usize = 4096;
/// Most digits and marks of one number.
const MAX_DIGITS: usize = 64;

/// Replaces what LaTeX writes around numbers (`{,}`, `\,`, `\%`, `\$`) by plain characters.
pub fn plain_marks(text: &str) -> String {
    let mut plain = text.to_owned();
    for (from, to) in [
        ("{,}", ","),
        ("{.}", "."),
        ("\\,", "\u{2009}"),
        ("\\ ", " "),
        ("\\;", " "),
        ("\\:", " "),
        ("\\!", ""),
        ("\\%", "%"),
        ("\\$", "$"),
        ("~", "\u{a0}"),
        ("−", "-"),
        ("–", "-"),
    ] {
        if plain.contains(from) {
            plain = plain.replace(from, to);
        }
    }
    plain
}

/// The numbers of a text from left to right, after [`plain_marks`].
///
/// Digits inside a word (`H2O`) are none. A fraction `3/4` and a mixed one `1 3/4` are one number.
pub fn find_numbers(text: &str, marks: Marks) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    let mut at = 0;
    while found.len() < MAX_NUMBERS {
        let Some(digit) = text[at..].find(|c: char| c.is_ascii_digit()) else { break };
        let digit = at + digit;
        let start = with_leading_mark(text, digit);
        let end = digits_end(text, start);
        let inside_word = text[..start].ends_with(|c: char| c.is_alphabetic() || c == '_')
            && currency_before(&text[..start]).is_none();
        at = end;
        if inside_word {
            continue;
        }
        let one = whole_number(text, start, end, marks);
        at = one.end.max(at);
        // "2 millones 500 mil" and "3 mil 500" are one number.
        if let Some(last) = found.last_mut()
            && let Some(sum) = continued(text, last, &one)
        {
            *last = sum;
        } else {
            found.push(one);
        }
    }
    found
}

/// The number that a whole text is, `None` where it is none or more than one.
pub fn read_number(text: &str, marks: Marks) -> Option<Result<Number, NumberProblem>> {
    let plain = plain_marks(text);
    let trimmed = plain.trim_matches(|c: char| c.is_whitespace() || "*\"'«»“”".contains(c));
    let trimmed = trimmed.strip_suffix('.').unwrap_or(trimmed).trim_end();
    let mut numbers = find_numbers(trimmed, marks);
    let one = numbers.pop()?;
    (numbers.is_empty() && one.start == 0 && one.end == trimmed.len()).then_some(one.number)
}

/// Writes a number with groups of three, for example `-1.234,5`; `None` when its decimals do not end
/// or are more than 30.
///
/// `Point` and its kin group by commas, `Comma` and its kin by points, `Either` by narrow spaces
/// with a point for decimals.
pub fn write_number(value: Rational, marks: Marks) -> Option<String> {
    let (group, decimal) = match marks {
        Marks::Point | Marks::PointOnly => (',', '.'),
        Marks::Comma | Marks::CommaOnly => ('.', ','),
        Marks::Either => ('\u{202f}', '.'),
    };
    let (digits, decimals) = value.digits()?;
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let mut text = String::new();
    if value.is_negative() {
        text.push('-');
    }
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            text.push(group);
        }
        text.push(digit);
    }
    if decimals > 0 {
        text.push(decimal);
        text.push_str(fraction);
    }
    Some(text)
}

/// Whether two currencies can be the same; a bare `$` is any peso or dollar, never a real.
pub fn same_currency(left: &str, right: &str) -> bool {
    const DOLLAR_SIGN: [&str; 8] = ["$", "USD", "MXN", "ARS", "COP", "CLP", "UYU", "DOP"];
    left == right
        || (left == "$" && DOLLAR_SIGN.contains(&right))
        || (right == "$" && DOLLAR_SIGN.contains(&left))
}

/// Signs and codes before a number; longer ones first.
const CURRENCIES: [(&str, &str); 24] = [
    ("US$", "USD"),
    ("U$S", "USD"),
    ("MX$", "MXN"),
    ("RD$", "DOP"),
    ("USD", "USD"),
    ("MXN", "MXN"),
    ("BRL", "BRL"),
    ("ARS", "ARS"),
    ("COP", "COP"),
    ("CLP", "CLP"),
    ("PEN", "PEN"),
    ("UYU", "UYU"),
    ("EUR", "EUR"),
    ("Bs.", "BOB"),
    ("R$", "BRL"),
    ("C$", "NIO"),
    ("S/", "PEN"),
    ("Bs", "BOB"),
    ("€", "EUR"),
    ("£", "GBP"),
    ("₲", "PYG"),
    ("₡", "CRC"),
    ("¢", "cent"),
    ("$", "$"),
];

fn currency_before(text: &str) -> Option<(usize, &'static str)> {
    let trimmed = text.trim_end_matches([' ', '\u{a0}', '\u{202f}', '\u{2009}']);
    CURRENCIES.iter().find_map(|(sign, code)| {
        let before = trimmed.strip_suffix(sign)?;
        let in_word =
            sign.starts_with(char::is_alphabetic) && before.ends_with(char::is_alphabetic);
        (!in_word).then_some((before.len(), *code))
    })
}

/// Takes a leading decimal mark (`.5`) in.
fn with_leading_mark(text: &str, digit: usize) -> usize {
    let before = &text[..digit];
    if before.ends_with(['.', ',']) {
        let outer = &before[..before.len() - 1];
        if !outer.ends_with(|c: char| c.is_alphanumeric() || ".,)%".contains(c)) {
            return digit - 1;
        }
    }
    digit
}

/// Where digits and the marks between them end.
fn digits_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let is_digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let run = |mut at: usize| {
        while is_digit(at) {
            at += 1;
        }
        at
    };
    let mut end = run(start + usize::from(!is_digit(start)));
    let mut run_length = end - start;
    let mut decimal = !is_digit(start);
    loop {
        let Some(mark) = text[end..].chars().next() else { return end };
        let next = end + mark.len_utf8();
        let length = run(next) - next;
        let is_space = matches!(mark, ' ' | '\u{a0}' | '\u{202f}' | '\u{2009}');
        let takes = match mark {
            '.' | ',' => length > 0,
            '\'' | '’' => length == 3,
            // A space groups only what can be a group, or two numbers of a sentence would be one.
            _ if is_space => !decimal && run_length <= 3 && length == 3 && bytes[start] != b'0',
            _ => false,
        };
        if !takes {
            return end;
        }
        decimal |= matches!(mark, '.' | ',');
        run_length = if is_space { 3 } else { length };
        end = next + length;
    }
}

/// Reads the digits at `start..end` and what stands around them.
fn whole_number(text: &str, start: usize, end: usize, marks: Marks) -> Found {
    let mut number = read_digits(&text[start..end], marks);
    let mut end = end;
    // Exponent: 1.5e3.
    let rest = &text[end..];
    if let Some(exponent) = rest.strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['-', '+']));
        let digits = exponent[sign..].bytes().take_while(u8::is_ascii_digit).count();
        let ends = !exponent[sign + digits..].starts_with(|c: char| c.is_alphanumeric());
        if (1..=3).contains(&digits) && ends {
            let power = exponent[..sign + digits].trim_start_matches('+').parse().ok();
            let factor = power
                .and_then(Rational::whole)
                .and_then(|power| Rational::whole(10)?.to_the(power));
            number = scaled(number, factor);
            end += 1 + sign + digits;
        }
    }
    // Fraction and mixed fraction; three parts are a date.
    let fraction = fraction_after(text, end);
    if let Some((_, after)) = fraction
        && text[after..]
            .strip_prefix('/')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    {
        let last = digits_end(text, after + 1);
        return Found { start, end: last, number: Err(NumberProblem::Malformed) };
    }
    if let Some((denominator, after)) = fraction {
        number = scaled(number, denominator.and_then(|of| Rational::ONE.over(of)));
        end = after;
    } else if let Some((part, after)) = mixed_after(text, end) {
        number = number.and_then(|whole| whole.plus(part).ok_or(NumberProblem::Malformed));
        end = after;
    }
    while let Some((factor, after)) = scale_after(text, end) {
        number = scaled(number, power_of_ten(factor).and_then(Rational::whole));
        end = after;
    }
    let (mut percent, mut currency) = (false, None);
    if let Some((divisor, after)) = percent_after(text, end) {
        number = scaled(number, Rational::new(1, divisor));
        (percent, end) = (true, after);
    }
    let mut start = start;
    let mut before = &text[..start];
    if let Some((at, code)) = currency_before(before) {
        (before, start, currency) = (&text[..at], at, Some(code));
    } else if let Some((code, after)) = currency_after(text, end) {
        (currency, end) = (Some(code), after);
    }
    let (sign_at, negative) = sign_before(before, start);
    if negative {
        number = number.map(Rational::negated);
    }
    let number = number.map(|value| Number { value, percent, currency });
    let number = match number {
        // A negative or scaled number is as ambiguous as its digits.
        Err(NumberProblem::Ambiguous { point, comma }) if negative => {
            Err(NumberProblem::Ambiguous { point: point.negated(), comma: comma.negated() })
        }
        number => number,
    };
    Found { start: sign_at, end, number }
}

fn scaled(
    number: Result<Rational, NumberProblem>,
    factor: Option<Rational>,
) -> Result<Rational, NumberProblem> {
    let factor = factor.ok_or(NumberProblem::Malformed)?;
    let times = |value: Rational| value.times(factor).ok_or(NumberProblem::Malformed);
    match number {
        Ok(value) => times(value),
        Err(NumberProblem::Ambiguous { point, comma }) => {
            Err(NumberProblem::Ambiguous { point: times(point)?, comma: times(comma)? })
        }
        Err(problem) => Err(problem),
    }
}

fn sign_before(before: &str, start: usize) -> (usize, bool) {
    let trimmed = before.trim_end_matches([' ', '\u{a0}']);
    if let Some(outer) = before.strip_suffix(['-', '+']) {
        // In "10-12" the dash is no sign.
        let joins = outer.ends_with(|c: char| c.is_alphanumeric() || c == ')' || c == '%');
        return if joins { (start, false) } else { (outer.len(), before.ends_with('-')) };
    }
    for word in ["menos", "Menos", "minus", "Minus"] {
        if let Some(outer) = trimmed.strip_suffix(word)
            && trimmed.len() < before.len()
            && !outer.trim_end().ends_with(char::is_alphanumeric)
        {
            return (outer.len(), true);
        }
    }
    (start, false)
}

fn fraction_after(text: &str, end: usize) -> Option<(Option<Rational>, usize)> {
    let rest = text[end..].strip_prefix('/')?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    (digits > 0).then(|| (Rational::decimal(&rest[..digits], 0), end + 1 + digits))
}

/// The `3/4` of `1 3/4`.
fn mixed_after(text: &str, end: usize) -> Option<(Rational, usize)> {
    let rest = text[end..].strip_prefix(' ')?;
    let top = rest.bytes().take_while(u8::is_ascii_digit).count();
    let bottom = rest[top..].strip_prefix('/')?;
    let bottom_digits = bottom.bytes().take_while(u8::is_ascii_digit).count();
    let after = end + 2 + top + bottom_digits;
    if top == 0 || bottom_digits == 0 || text[after..].starts_with('/') {
        return None;
    }
    let part = Rational::new(rest[..top].parse().ok()?, bottom[..bottom_digits].parse().ok()?)?;
    (part.compare(Rational::ONE) == Some(std::cmp::Ordering::Less)).then_some((part, after))
}

/// Names of powers of ten; Spanish counts billions by the long scale.
const SCALES: [(&str, usize); 28] = [
    ("mil", 3),
    ("thousand", 3),
    ("millón", 6),
    ("millon", 6),
    ("millones", 6),
    ("milhão", 6),
    ("milhao", 6),
    ("milhões", 6),
    ("milhoes", 6),
    ("million", 6),
    ("millardo", 9),
    ("millardos", 9),
    ("bilhão", 9),
    ("bilhao", 9),
    ("bilhões", 9),
    ("bilhoes", 9),
    ("billion", 9),
    ("billón", 12),
    ("billon", 12),
    ("billones", 12),
    ("trilhão", 12),
    ("trilhao", 12),
    ("trilhões", 12),
    ("trilhoes", 12),
    ("trillion", 12),
    ("trillón", 18),
    ("trillon", 18),
    ("trillones", 18),
];

/// The word after white space, if any, and where it ends.
fn word_after(text: &str, end: usize) -> Option<(String, usize)> {
    let rest = &text[end..];
    let trimmed = rest.trim_start_matches([' ', '\u{a0}', '\u{202f}', '\u{2009}']);
    let length = trimmed.find(|c: char| !c.is_alphabetic()).unwrap_or(trimmed.len());
    let at = end + rest.len() - trimmed.len();
    (length > 0 && length <= 32).then(|| (trimmed[..length].to_lowercase(), at + length))
}

fn scale_after(text: &str, end: usize) -> Option<(usize, usize)> {
    let (word, after) = word_after(text, end)?;
    SCALES.iter().find(|(name, _)| *name == word).map(|(_, power)| (*power, after))
}

fn percent_after(text: &str, end: usize) -> Option<(i128, usize)> {
    let rest = &text[end..];
    let trimmed = rest.trim_start_matches([' ', '\u{a0}', '\u{202f}', '\u{2009}']);
    let at = end + rest.len() - trimmed.len();
    if trimmed.starts_with('%') {
        return Some((100, at + 1));
    }
    if trimmed.starts_with('‰') {
        return Some((1000, at + '‰'.len_utf8()));
    }
    let (word, after) = word_after(text, end)?;
    match word.as_str() {
        "percent" => Some((100, after)),
        "por" | "per" => {
            let (word, after) = word_after(text, after)?;
            matches!(word.as_str(), "ciento" | "cento" | "cent").then_some((100, after))
        }
        _ => None,
    }
}

fn currency_after(text: &str, end: usize) -> Option<(&'static str, usize)> {
    let rest = &text[end..];
    let trimmed = rest.trim_start_matches([' ', '\u{a0}']);
    let at = end + rest.len() - trimmed.len();
    if let Some((sign, code)) = CURRENCIES.iter().find(|(sign, _)| {
        trimmed.starts_with(sign) && (sign.len() == 3 || *sign == "€" || *sign == "₲")
    }) {
        let after = at + sign.len();
        if !text[after..].starts_with(|c: char| c.is_alphanumeric()) {
            return Some((code, after));
        }
    }
    let (word, after) = word_after(text, end)?;
    let code = match word.as_str() {
        "real" | "reais" | "reales" => "BRL",
        "peso" | "pesos" => "$",
        "dólar" | "dólares" | "dolares" | "dollar" | "dollars" => "USD",
        "euro" | "euros" => "EUR",
        "soles" => "PEN",
        "guaraníes" => "PYG",
        "bolivianos" => "BOB",
        "centavo" | "centavos" | "cent" | "cents" => "cent",
        _ => return None,
    };
    Some((code, after))
}

/// `last` with `next` added, where `next` goes on with what a scale left open.
fn continued(text: &str, last: &Found, next: &Found) -> Option<Found> {
    let (Ok(left), Ok(right)) = (&last.number, &next.number) else { return None };
    let between = text.get(last.end..next.start)?;
    let words: Vec<&str> = text[last.start..last.end].split_whitespace().collect();
    let word = words.last()?.to_lowercase();
    let power = SCALES.iter().find(|(name, _)| *name == word)?.1;
    let fits = right.value.compare(Rational::whole(power_of_ten(power)?)?)?;
    let goes_on = between == " "
        && text[next.start..].starts_with(|c: char| c.is_ascii_digit())
        && left.value.as_whole().is_some()
        && right.value.as_whole().is_some()
        && !left.percent
        && left.currency.is_none_or(|_| right.currency.is_none())
        && fits == std::cmp::Ordering::Less;
    goes_on.then_some(())?;
    let value = if left.value.is_negative() {
        left.value.minus(right.value)?
    } else {
        left.value.plus(right.value)?
    };
    let number =
        Number { value, percent: right.percent, currency: left.currency.or(right.currency) };
    Some(Found { start: last.start, end: next.end, number: Ok(number) })
}

/// Reads digits with marks and nothing else.
///
/// # Errors
/// Marks that cannot stand where they do, or that can mean two numbers.
pub fn read_digits(text: &str, marks: Marks) -> Result<Rational, NumberProblem> {
    let point = || with_decimal(text, '.');
    let comma = || with_decimal(text, ',');
    let read = match marks {
        Marks::PointOnly => point(),
        Marks::CommaOnly => comma(),
        Marks::Point => point().or_else(comma),
        Marks::Comma => comma().or_else(point),
        Marks::Either => match (point(), comma()) {
            (Some(point), Some(comma)) if point != comma => {
                return Err(NumberProblem::Ambiguous { point, comma });
            }
            (point, comma) => point.or(comma),
        },
    };
    read.ok_or(NumberProblem::Malformed)
}

fn with_decimal(text: &str, decimal: char) -> Option<Rational> {
    if text.len() > MAX_DIGITS * 2 {
        return None;
    }
    let (whole, fraction) = match text.split_once(decimal) {
        Some((whole, fraction)) => (whole, fraction),
        None => (text, ""),
    };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit())
        || (text.contains(decimal) && fraction.is_empty())
        || whole.len() + fraction.len() == 0
    {
        return None;
    }
    let is_mark = |c: char| !c.is_ascii_digit();
    let mut digits = String::new();
    if let Some(group) = whole.chars().find(|&c| is_mark(c)) {
        let groups: Vec<&str> = whole.split(group).collect();
        let first = groups[0];
        let well = (1..=3).contains(&first.len())
            && !first.starts_with('0')
            && groups[1..].iter().all(|part| part.len() == 3)
            && group != decimal
            && groups.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
        if !well {
            return None;
        }
        digits.extend(groups);
    } else {
        digits.push_str(whole);
    }
    digits.push_str(fraction);
    Rational::decimal(&digits, fraction.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(marks: Marks, cases: &[(&str, Option<(i128, i128)>)]) {
        for (text, expect) in cases {
            let read = read_number(text, marks).and_then(Result::ok).map(|number| number.value);
            let expect = expect.map(|(top, bottom)| Rational::new(top, bottom).unwrap());
            assert_eq!(read, expect, "{text:?} with {marks:?}");
        }
    }

    #[test]
    fn marks_are_those_of_the_country() {
        check(
            Marks::Comma,
            &[
                ("1.234,56", Some((123_456, 100))),
                ("1234,56", Some((123_456, 100))),
                ("1.234", Some((1234, 1))),
                ("1.000.000", Some((1_000_000, 1))),
                ("1,234.56", Some((123_456, 100))),
                ("12.5", Some((25, 2))),
                ("0{,}5", Some((1, 2))),
                ("1.23.456", None),
                ("1,2,3", None),
            ],
        );
        check(
            Marks::Point,
            &[
                ("1,234.56", Some((123_456, 100))),
                ("1.234", Some((1234, 1000))),
                ("1,234", Some((1234, 1))),
                ("0,5", Some((1, 2))),
                (".5", Some((1, 2))),
            ],
        );
        check(Marks::PointOnly, &[("0,5", None), ("1.234,5", None), ("1'234.5", Some((2469, 2)))]);
        check(
            Marks::Either,
            &[
                ("1.234", None),
                ("1,234", None),
                ("0.123", Some((123, 1000))),
                ("1.234,56", Some((123_456, 100))),
                ("1.000.000", Some((1_000_000, 1))),
                ("12345.678", Some((12_345_678, 1000))),
                ("1 234", Some((1234, 1))),
                ("1\u{202f}234\u{202f}567,5", Some((2_469_135, 2))),
                ("1\\,234", Some((1234, 1))),
            ],
        );
        assert_eq!(Marks::of_locale("es-MX"), Some(Marks::Point));
        assert_eq!(Marks::of_locale("pt-BR"), Some(Marks::Comma));
        assert_eq!(Marks::of_locale("es"), None);
    }

    #[test]
    fn words_and_signs_belong_to_the_number() {
        check(
            Marks::Comma,
            &[
                ("2 mil millones", Some((2_000_000_000, 1))),
                ("2 mil milhões", Some((2_000_000_000, 1))),
                ("1 billón", Some((1_000_000_000_000, 1))),
                ("1 bilhão", Some((1_000_000_000, 1))),
                ("1,5 millones", Some((1_500_000, 1))),
                ("2 millones 500 mil", Some((2_500_000, 1))),
                ("3 mil 500", Some((3500, 1))),
                ("R$ 1.234,50", Some((2469, 2))),
                ("-R$ 5", Some((-5, 1))),
                ("US$ 5", Some((5, 1))),
                ("25 %", Some((1, 4))),
                ("25\\%", Some((1, 4))),
                ("25 por ciento", Some((1, 4))),
                ("3/4", Some((3, 4))),
                ("1 3/4", Some((7, 4))),
                ("1.5e3", Some((1500, 1))),
                ("menos 5", Some((-5, 1))),
                ("6/3/1927", None),
                ("5 o 6", None),
                ("H2O", None),
                ("1/0", None),
            ],
        );
    }

    fn found(text: &str) -> Vec<String> {
        let show = |found: Found| match found.number {
            Ok(number) => number.value.to_string(),
            Err(_) => format!("?{}", &text[found.start..found.end]),
        };
        find_numbers(text, Marks::Comma).into_iter().map(show).collect()
    }

    #[test]
    fn a_sentence_holds_several_numbers() {
        assert_eq!(found("En 2019 100 personas pagaron $ 3.500."), ["2019", "100", "3500"]);
        assert_eq!(found("de 10-12 años, -3 grados"), ["10", "12", "-3"]);
        assert_eq!(found("20 menos 5 son 15"), ["20", "5", "15"]);
        assert_eq!(found("el 12.05.2020"), ["?12.05.2020"]);
    }

    proptest! {
        #[test]
        fn a_written_number_reads_back(
            digits in -999_999_999_999_i128..1_000_000_000_000,
            decimals in 0_usize..7,
        ) {
            let value = Rational::new(digits, power_of_ten(decimals).unwrap()).unwrap();
            for marks in [Marks::Point, Marks::PointOnly, Marks::Comma, Marks::CommaOnly] {
                let text = write_number(value, marks).unwrap();
                let number = read_number(&text, marks).unwrap().unwrap();
                prop_assert_eq!(number.value, value, "{}", text);
            }
            // Without a country the reading is the number or none.
            let text = write_number(value, Marks::Either).unwrap();
            if let Some(Ok(number)) = read_number(&text, Marks::Either) {
                prop_assert_eq!(number.value, value, "{}", text);
            }
        }

        #[test]
        fn any_text_ends(text in any::<String>(), digits in "[-0-9., /%$e½mil\u{a0}]{0,80}") {
            for marks in [Marks::Either, Marks::Comma] {
                for text in [&text, &digits] {
                    for found in find_numbers(&plain_marks(text), marks) {
                        prop_assert!(found.start < found.end);
                    }
                }
            }
        }
    }
}
