//! Personal data in text: e-mail and IP addresses, telephones, cards and the identity, tax and bank
//! numbers of Latin America, each with the country whose law it falls under.
//!
//! A number counts if its check digits are right and it is written as such numbers are, or stands
//! behind the name of its kind (`RUT`, `cédula`); digits alone are articles, amounts and dates. It
//! says where things stand ([`find`]) and covers them ([`mask`]); [`Policies`] say what is kept,
//! masked, or drops the document. Names and postal addresses are not looked for.

use std::{borrow::Cow, ops::Range};

mod candidates;
mod network;
pub mod numbers;
mod phone;
mod policy;

use candidates::{Candidate, Context, candidates};
use numbers::NUMBERS;
pub use policy::{Applied, Policies, Policy, UnknownKind};

/// What kind of personal data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An e-mail address.
    Email,
    /// A public IPv4 or IPv6 address.
    Ip,
    /// A telephone in international or another usual form, or behind its name.
    Phone,
    /// A payment card.
    Card,
    /// An identity, tax or bank number: an index of [`numbers::NUMBERS`].
    Number(usize),
}

impl Kind {
    /// All kinds.
    pub fn all() -> impl Iterator<Item = Self> {
        let numbers = (0..NUMBERS.len()).map(Self::Number);
        [Self::Email, Self::Ip, Self::Phone, Self::Card].into_iter().chain(numbers)
    }

    /// The name that covers it, such as `CPF`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "EMAIL",
            Self::Ip => "IP",
            Self::Phone => "TELEFONO",
            Self::Card => "TARJETA",
            Self::Number(index) => NUMBERS[index].name,
        }
    }

    /// The countries that issue such numbers, ISO 3166-1; none where it has no country.
    pub fn jurisdictions(self) -> &'static [&'static str] {
        match self {
            Self::Number(index) => NUMBERS[index].jurisdictions,
            _ => &[],
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
    let mut found: Vec<Found> = Vec::new();
    let mut candidates = candidates(text);
    while let Some(candidate) = candidates.next() {
        let one = match candidate {
            Candidate::Email { run, at } => {
                network::email(text, run, at).map(|range| Found { kind: Kind::Email, range })
            }
            Candidate::Colons(range) => {
                network::is_ipv6(&text[range.clone()]).then_some(Found { kind: Kind::Ip, range })
            }
            Candidate::Groups(groups) => number(text, &groups, found.last()),
        };
        if let Some(one) = one {
            candidates.skip_to(one.range.end);
            found.push(one);
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
    mask_found(text, &find(text))
}

/// `text` with what was found in it covered.
fn mask_found<'a>(text: &'a str, found: &[Found]) -> Cow<'a, str> {
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

/// What the groups are, or the first few of them: the longest that is something counts.
fn number(text: &str, groups: &[Range<usize>], previous: Option<&Found>) -> Option<Found> {
    let first = groups.first()?;
    let last = groups.last()?;
    // Years, articles and amounts are most numbers, and shorter than all that is looked for.
    let whole = &text[first.start..last.end];
    let digits = whole.bytes().filter(u8::is_ascii_digit).count();
    let short = digits < phone::MIN_DIGITS && whole.len() < MIN_CODE_BYTES;
    if short && !network::may_be_ipv4(&text[first.clone()]) {
        return None;
    }
    let context = Context::before(text, first.start);
    (1..=groups.len()).rev().find_map(|count| {
        let range = first.start..groups[count - 1].end;
        if let Some(kind) = kind_of(&text[range.clone()], &context) {
            return Some(Found { kind, range });
        }
        let follows = previous.filter(|one| {
            one.kind == Kind::Phone && phone::is_list(&text[one.range.end..range.start])
        });
        let range = phone::telephone(text, range, &context, follows.is_some())?;
        Some(Found { kind: Kind::Phone, range })
    })
}

/// What a number is, if it is no telephone.
fn kind_of(piece: &str, context: &Context) -> Option<Kind> {
    if network::may_be_ipv4(piece) {
        return network::is_public_ipv4(piece, context).then_some(Kind::Ip);
    }
    let compact = compact(piece)?;
    let valid = || NUMBERS.iter().enumerate().filter(|(_, number)| (number.check)(&compact));
    let named = valid().find(|(_, number)| context.names(number.names));
    if let Some((index, _)) = named.or_else(|| valid().find(|(_, number)| number.is_written(piece)))
    {
        return Some(Kind::Number(index));
    }
    let card = numbers::card(&compact)
        && (context.names(CARD_NAMES)
            || (numbers::has_card_network(&compact) && is_grouped_as_card(piece)));
    card.then_some(Kind::Card)
}

/// Numbers with few digits and many letters are no shorter: RFC, CNPJ, CURP.
const MIN_CODE_BYTES: usize = 12;
/// Words before the number of a card.
const CARD_NAMES: &[&str] =
    &["tarjeta", "tarjetas", "cartão", "cartao", "card", "cc", "visa", "mastercard", "amex"];

/// Whether a number is written without marks, or in groups as on a card.
fn is_grouped_as_card(piece: &str) -> bool {
    let groups = piece.split([' ', '-']).map(str::len);
    let one_mark = !(piece.contains(' ') && piece.contains('-'));
    let lengths: Vec<usize> = groups.collect();
    one_mark && matches!(lengths[..], [14..=16] | [4, 4, 4, 4] | [4, 6, 4 | 5])
}

/// Letters and digits of a number, in capitals; `None` if it has other signs than marks, or is
/// shorter or longer than all numbers that are known.
fn compact(piece: &str) -> Option<String> {
    if piece.len() < 6 || piece.len() > 48 {
        return None;
    }
    let mut out = String::with_capacity(piece.len());
    for c in piece.chars() {
        match c {
            '0'..='9' | 'A'..='Z' | '&' | 'Ñ' => out.push(c),
            'a'..='z' => out.push(c.to_ascii_uppercase()),
            'ñ' => out.push('Ñ'),
            '.' | '-' | '/' | ' ' => {}
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expect: &str) {
        assert_eq!(mask(text), expect, "{text:?}");
    }

    #[test]
    fn addresses() {
        check("ana.paz+x@correo.com.ar.", "[EMAIL].");
        check("a@x.com;b@y.pe/c_1@z.com.br", "[EMAIL];[EMAIL]/[EMAIL]");
        check("ana1990@x.com <mailto:1@y.cl>", "[EMAIL] <mailto:[EMAIL]>");
        check("@usuario y a@b no, a@b..c tampoco", "@usuario y a@b no, a@b..c tampoco");
        check("desde 190.12.45.44 y 192.168.0.1", "desde [IP] y 192.168.0.1");
        check("IP 200.1.2.3, 2001:4860:4860::8888.", "IP [IP], [IP].");
        check("a las 12:30:45, std::a1::b2, 1::2", "a las 12:30:45, std::a1::b2, 1::2");
        check("art. 4.1.2.3 y 133.1.2.1, 12.345.678", "art. 4.1.2.3 y 133.1.2.1, 12.345.678");
    }

    #[test]
    fn telephones() {
        check("Tel. 4567-8901, llame", "Tel. [TELEFONO], llame");
        check(
            "teléfonos: 4567-8901 / 4567-8902 y 987654321",
            "teléfonos: [TELEFONO] / [TELEFONO] y [TELEFONO]",
        );
        check("+56 9 1234 5678", "[TELEFONO]");
        check("(+55) 11 98765-4321 o +54 (011) 4567-8901", "[TELEFONO] o [TELEFONO]");
        check("Lima (01) 427-0000 anexo 5", "Lima [TELEFONO] anexo 5");
        check("Cel.: 987 654 321 (Ana)", "Cel.: [TELEFONO] (Ana)");
        check("1-809-555-0134", "[TELEFONO]");
        check("el 12-11-2001, tel. 2001-11-12", "el 12-11-2001, tel. 2001-11-12");
        check("Ley 27444 del 2001, S/ 1 234 567.00", "Ley 27444 del 2001, S/ 1 234 567.00");
        check("(2001) 2002-2003 y (10) 200", "(2001) 2002-2003 y (10) 200");
    }

    #[test]
    fn cards_and_accounts() {
        check("4111 1111 1111 1111", "[TARJETA]");
        check("4111 1111 1111 1111 2030", "[TARJETA] 2030");
        check("4111111111111111, 4111111111111112", "[TARJETA], 4111111111111112");
        check("41111111 11111111 9411111111111111", "41111111 11111111 9411111111111111");
        check("pague a GB82 WEST 1234 5698 7654 32 hoy", "pague a [IBAN] hoy");
        check("DE89370400440532013000 DE89370400440532013001", "[IBAN] DE89370400440532013001");
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
        check("RUC20131312955", "RUC[RUC]");
        check("C.U.I.T. 20-12345678-6", "C.U.I.T. [CUIT]");
        check("CUIL 20 12345678 6", "CUIL [CUIT]");
        check("CLABE 032180000118359719", "CLABE [CLABE]");
        check("curp HEGG560427MVZRRL04", "curp [CURP]");
        check("identificado con DNI N° 12345678", "identificado con DNI N° [DNI]");
        check("DNI\n12345678", "DNI\n12345678");
        check(
            "expediente 12345678 de 20131312955 soles",
            "expediente 12345678 de 20131312955 soles",
        );
    }

    /// Each would take minutes if a sign were looked at more than a few times.
    #[test]
    fn hostile_text_takes_linear_time() {
        for piece in ["@", "1@", "a@a.", "1:", "1:z", "1 ", "+1 (", "1.1.", "tel 1", "9", "ñ1"] {
            find(&piece.repeat(100_000));
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_the_rest_stays(text in "(\\PC|[0-9 .@+/:()-]){0,60}") {
            let found = find(&text);
            let mut at = 0;
            let mut rest = String::new();
            for one in &found {
                prop_assert!(at <= one.range.start && one.range.start < one.range.end);
                rest.push_str(&text[at..one.range.start]);
                at = one.range.end;
            }
            rest.push_str(&text[at..]);
            let masked = mask(&text);
            let uncovered = found.iter().fold(masked.into_owned(), |masked, one| {
                masked.replacen(&format!("[{}]", one.kind.name()), "", 1)
            });
            if !text.contains('[') {
                prop_assert_eq!(uncovered, rest);
            }
        }
    }
}
