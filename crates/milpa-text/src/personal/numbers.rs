//! Identity, tax and bank numbers of Latin America, cards and IBAN: how they are written and their
//! check digits.
//!
//! A check takes a number without its marks, in capitals. The rules are those of the offices that
//! issue the numbers; a number of equal digits is never valid. `reference/personal_check.py` holds
//! them against python-stdnum.

/// One kind of number.
#[derive(Debug)]
pub struct Number {
    /// Its usual name.
    pub name: &'static str,
    /// The countries that issue it, ISO 3166-1.
    pub jurisdictions: &'static [&'static str],
    /// Words before a number that say that it is one, in lower case.
    pub names: &'static [&'static str],
    /// How it is written with its marks: `0` is a digit, `L` a letter, `A` either, `*` at the end any
    /// more of them and spaces; others stand for themselves. A number that is not in such a form
    /// needs its name before it.
    pub forms: &'static [&'static str],
    /// Whether the check digits are right.
    pub check: fn(&str) -> bool,
}

impl Number {
    /// Whether `text` is written in a form that hardly anything else has.
    pub fn is_written(&self, text: &str) -> bool {
        self.forms.iter().any(|form| {
            let mut chars = text.chars();
            form.chars().all(|expect| match expect {
                '*' => chars.all(|c| c.is_alphanumeric() || c == ' '),
                _ => chars.next().is_some_and(|c| match expect {
                    '0' => c.is_ascii_digit(),
                    'L' => c.is_alphabetic(),
                    'A' => c.is_alphanumeric(),
                    mark => c == mark,
                }),
            }) && chars.next().is_none()
        })
    }
}

/// All kinds, the most particular first.
pub const NUMBERS: &[Number] = &[
    number("CURP", &["MX"], &["curp"], &["LLLL000000LLLLLLAA"], curp),
    number("CLABE", &["MX"], &["clabe", "interbancaria"], &[], clabe),
    number("CBU", &["AR"], &["cbu", "cvu"], &[], cbu),
    number("CPF", &["BR"], &["cpf"], &["000.000.000-00"], cpf),
    number("CNPJ", &["BR"], &["cnpj"], &["AA.AAA.AAA/AAAA-00"], cnpj),
    number("PIS", &["BR"], &["pis", "pasep", "nis"], &["000.00000.00-0"], pis),
    number("CUIT", &["AR"], &["cuit", "cuil", "cdi"], &["00-00000000-0"], cuit),
    number("RUT", &["CL"], &["rut", "run"], &["00.000.000-A", "0.000.000-A"], rut),
    number("RUT", &["UY"], &["rut"], &[], rut_uruguay),
    number("RUC", &["PE"], &["ruc"], &[], ruc_peru),
    number("RUC", &["EC"], &["ruc"], &[], ruc_ecuador),
    number("RUC", &["PY"], &["ruc"], &[], ruc_paraguay),
    number("NIT", &["CO"], &["nit"], &["000.000.000-0"], nit),
    number("NIT", &["GT"], &["nit"], &[], nit_guatemala),
    number("RIF", &["VE"], &["rif"], &["L-00000000-0"], rif),
    number("DUI", &["SV"], &["dui"], &[], dui),
    number("CEDULA", &["DO"], &["cédula", "cedula"], &["000-0000000-0"], cedula_dominican),
    number("CEDULA", &["EC"], &["cédula", "cedula", "ci"], &[], cedula_ecuador),
    number("CEDULA", &["UY"], &["cédula", "cedula", "ci"], &["0.000.000-0"], cedula_uruguay),
    number("RFC", &["MX"], &["rfc"], &["LLLL000000AAA"], rfc),
    number("IBAN", &[], &["iban"], &["LL00*"], iban),
    // It has no check digit: the name alone tells it.
    number("DNI", &["AR", "PE"], &["dni"], &[], dni),
];

/// One row of [`NUMBERS`].
const fn number(
    name: &'static str,
    jurisdictions: &'static [&'static str],
    names: &'static [&'static str],
    forms: &'static [&'static str],
    check: fn(&str) -> bool,
) -> Number {
    Number { name, jurisdictions, names, forms, check }
}

/// The digits of `text`, if it has `length` of them and they are not all equal.
fn digits<const LENGTH: usize>(text: &str) -> Option<[u32; LENGTH]> {
    let bytes: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
    let all_digits = bytes.iter().all(u8::is_ascii_digit);
    let equal = bytes.iter().all(|byte| byte == &bytes[0]);
    (all_digits && !equal).then(|| bytes.map(|byte| u32::from(byte - b'0')))
}

fn weighted(digits: &[u32], weights: impl IntoIterator<Item = u32>) -> u32 {
    digits.iter().zip(weights).map(|(digit, weight)| digit * weight).sum()
}

/// Luhn's rule: every second digit from the right but one counts twice, with its digits added.
fn luhn(digits: &[u32]) -> bool {
    let doubled = |digit: u32| if digit > 4 { 2 * digit - 9 } else { 2 * digit };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, &digit)| if place % 2 == 1 { doubled(digit) } else { digit })
        .sum();
    sum.is_multiple_of(10)
}

/// Payment card: 12 to 19 digits after Luhn (ISO/IEC 7812).
pub fn card(text: &str) -> bool {
    let plain: Vec<u32> = text.bytes().map(|byte| u32::from(byte.wrapping_sub(b'0'))).collect();
    (12..=19).contains(&plain.len())
        && plain.iter().all(|&digit| digit < 10)
        && plain.iter().any(|&digit| digit != plain[0])
        && luhn(&plain)
}

/// Whether a card's number has the beginning and the length of a network that most cards are of:
/// Visa, Mastercard, American Express, Diners, Discover, Elo, JCB.
pub fn has_card_network(text: &str) -> bool {
    let beginning = |length: usize| text.get(..length).and_then(|head| head.parse::<u32>().ok());
    let (Some(two), Some(four)) = (beginning(2), beginning(4)) else { return false };
    match text.len() {
        16 => {
            matches!(two, 40..=49 | 51..=55 | 65)
                || matches!(four, 2221..=2720 | 3528..=3589 | 5067 | 6011 | 6362)
        }
        15 => matches!(two, 34 | 37),
        14 => matches!(two, 36 | 38 | 39) || matches!(four, 3000..=3059),
        _ => false,
    }
}

/// Lengths of IBANs by country: those of the Americas, and of the countries whose accounts are
/// named most in the region's text.
const IBAN_LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AT", 20),
    ("BE", 16),
    ("BG", 22),
    ("BR", 29),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("ES", 24),
    ("FI", 18),
    ("FR", 27),
    ("GB", 22),
    ("GI", 23),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IS", 26),
    ("IT", 27),
    ("LB", 28),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("MC", 27),
    ("MT", 31),
    ("NI", 28),
    ("NL", 18),
    ("NO", 15),
    ("PL", 28),
    ("PT", 25),
    ("RO", 24),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("SV", 28),
    ("TR", 26),
    ("VG", 24),
];

/// Bank accounts: a country, two check digits modulo 97, and what the country's rule says (ISO
/// 13616); the length of the country must be known here.
pub fn iban(text: &str) -> bool {
    let known = text
        .get(..2)
        .and_then(|country| IBAN_LENGTHS.iter().find(|(known, _)| *known == country))
        .is_some_and(|&(_, length)| length == text.len());
    if !known || !text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase()) {
        return false;
    }
    let (head, tail) = text.split_at(4);
    let rest = tail.bytes().chain(head.bytes()).fold(0, |rest, byte| match byte {
        b'0'..=b'9' => (10 * rest + u32::from(byte - b'0')) % 97,
        _ => (100 * rest + u32::from(byte - b'A') + 10) % 97,
    });
    head[2..].bytes().all(|byte| byte.is_ascii_digit()) && rest == 1
}

/// Brazil, persons: 11 digits, two of them check digits modulo 11.
pub fn cpf(text: &str) -> bool {
    digits::<11>(text).is_some_and(|d| {
        let check = |length: usize| {
            weighted(&d[..length], (2..=length as u32 + 1).rev()) * 10 % 11 % 10 == d[length]
        };
        check(9) && check(10)
    })
}

/// Brazil, organisations: twelve letters or digits (letters since 2026, worth their ASCII code minus
/// 48) and two check digits modulo 11.
pub fn cnpj(text: &str) -> bool {
    let bytes = text.as_bytes();
    let formed = bytes.len() == 14
        && bytes[..12].iter().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        && bytes[12..].iter().all(u8::is_ascii_digit)
        && bytes.iter().any(|byte| byte != &bytes[0]);
    if !formed {
        return false;
    }
    let values: Vec<u32> = bytes.iter().map(|&byte| u32::from(byte) - 48).collect();
    let check = |length: usize| {
        let weights = [2, 3, 4, 5, 6, 7, 8, 9].into_iter().cycle().take(length);
        let weights: Vec<u32> = weights.collect();
        let rest = weighted(&values[..length], weights.into_iter().rev()) % 11;
        values[length] == if rest < 2 { 0 } else { 11 - rest }
    };
    check(12) && check(13)
}

/// Brazil, workers: 11 digits, the last a check digit modulo 11.
pub fn pis(text: &str) -> bool {
    digits::<11>(text).is_some_and(|d| {
        let rest = weighted(&d[..10], [3, 2, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        d[10] == if rest < 2 { 0 } else { 11 - rest }
    })
}

/// Argentina: 11 digits that begin with the kind of person, one check digit modulo 11.
pub fn cuit(text: &str) -> bool {
    digits::<11>(text).is_some_and(|d| {
        let kind = matches!(10 * d[0] + d[1], 20 | 23..=27 | 30 | 33 | 34);
        let rest = weighted(&d[..10], [5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11;
        // A rest of 0 gives 0; one of 1 gives 9, where a ten would stand.
        kind && [0, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1][rest as usize] == d[10]
    })
}

/// Chile: seven or eight digits and a check digit modulo 11, K for ten.
pub fn rut(text: &str) -> bool {
    if !(8..=9).contains(&text.len()) || !text.is_ascii() {
        return false;
    }
    let (body, check) = text.split_at(text.len() - 1);
    if !body.bytes().all(|byte| byte.is_ascii_digit()) || body.starts_with('0') {
        return false;
    }
    let reversed: Vec<u32> = body.bytes().rev().map(|byte| u32::from(byte - b'0')).collect();
    let expect = match 11 - weighted(&reversed, (2..=7).cycle()) % 11 {
        11 => "0".to_owned(),
        10 => "K".to_owned(),
        digit => digit.to_string(),
    };
    check == expect
}

/// Mexico, persons: letters of the name, date of birth, sex, state, and a check digit modulo 10.
pub fn curp(text: &str) -> bool {
    const VALUES: &str = "0123456789ABCDEFGHIJKLMNÑOPQRSTUVWXYZ";
    let chars: Vec<char> = text.chars().collect();
    let letters = |range: std::ops::Range<usize>| chars[range].iter().all(|c| c.is_alphabetic());
    let formed = chars.len() == 18
        && letters(0..4)
        && is_date(&chars[4..10])
        && matches!(chars[10], 'H' | 'M' | 'X')
        && letters(11..16)
        && chars[17].is_ascii_digit();
    if !formed {
        return false;
    }
    let value = |c: &char| VALUES.chars().position(|v| v == *c).map(|value| value as u32);
    let Some(values) = chars.iter().map(value).collect::<Option<Vec<u32>>>() else { return false };
    (10 - weighted(&values[..17], (2..=18).rev()) % 10) % 10 == values[17]
}

/// Whether six digits are a year, a month and a day.
fn is_date(chars: &[char]) -> bool {
    let pair = |at: usize| Some(10 * chars[at].to_digit(10)? + chars[at + 1].to_digit(10)?);
    pair(0).is_some()
        && pair(2).is_some_and(|month| (1..=12).contains(&month))
        && pair(4).is_some_and(|day| (1..=31).contains(&day))
}

/// Mexico, taxpayers: three or four letters, a date, and three signs, the last a check modulo 11.
pub fn rfc(text: &str) -> bool {
    const VALUES: &str = "0123456789ABCDEFGHIJKLMN&OPQRSTUVWXYZ Ñ";
    let chars: Vec<char> = text.chars().collect();
    let name = match chars.len() {
        12 => 3,
        13 => 4,
        _ => return false,
    };
    let formed = chars[..name].iter().all(|c| c.is_alphabetic() || *c == '&')
        && is_date(&chars[name..name + 6]);
    // Organisations have a letter less, and a space before it counts.
    let padded = std::iter::repeat_n(' ', 13 - chars.len()).chain(chars.iter().copied());
    let value = |c: char| VALUES.chars().position(|v| v == c).map(|value| value as u32);
    let Some(values) = padded.map(value).collect::<Option<Vec<u32>>>() else { return false };
    let expect = match 11 - weighted(&values[..12], (2..=13).rev()) % 11 {
        11 => '0',
        10 => 'A',
        digit => char::from(b'0' + digit as u8),
    };
    formed && chars[chars.len() - 1] == expect
}

/// Mexico, bank accounts: 18 digits, each product with 3, 7, 1 modulo 10.
pub fn clabe(text: &str) -> bool {
    digits::<18>(text).is_some_and(|d| {
        let sum: u32 =
            d[..17].iter().zip([3, 7, 1].into_iter().cycle()).map(|(d, w)| d * w % 10).sum();
        (10 - sum % 10) % 10 == d[17]
    })
}

/// Argentina, bank accounts: eight digits of the bank and fourteen of the account, each with a check
/// digit of products with 3, 1, 7, 9 modulo 10.
pub fn cbu(text: &str) -> bool {
    digits::<22>(text).is_some_and(|d| {
        let check = |part: &[u32]| {
            let (last, body) = part.split_last().expect("both parts have digits");
            let weights = [3, 1, 7, 9].into_iter().cycle();
            let sum = weighted(&body.iter().rev().copied().collect::<Vec<_>>(), weights);
            (10 - sum % 10) % 10 == *last
        };
        check(&d[..8]) && check(&d[8..])
    })
}

/// Peru, taxpayers: 11 digits that begin with the kind of taxpayer, one check digit modulo 11.
pub fn ruc_peru(text: &str) -> bool {
    digits::<11>(text).is_some_and(|d| {
        let kind = matches!(10 * d[0] + d[1], 10 | 15 | 16 | 17 | 20);
        let rest = weighted(&d[..10], [5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11;
        kind && (11 - rest) % 10 == d[10]
    })
}

/// Ecuador, persons: province, and a check digit after Luhn.
pub fn cedula_ecuador(text: &str) -> bool {
    digits::<10>(text).is_some_and(|d| {
        let province = 10 * d[0] + d[1];
        (matches!(province, 1..=24) || province == 30) && d[2] < 6 && luhn(&d)
    })
}

/// Ecuador, taxpayers: 13 digits that end in the branch; persons have their cédula, companies and
/// the state a check digit modulo 11.
pub fn ruc_ecuador(text: &str) -> bool {
    digits::<13>(text).is_some_and(|d| {
        let province = 10 * d[0] + d[1];
        let modulo = |weights: &[u32], check: u32| {
            (11 - weighted(&d, weights.iter().copied()) % 11) % 11 == check
        };
        let known = matches!(province, 1..=24) || province == 30;
        let branch = d[10..].iter().any(|&digit| digit > 0);
        known
            && branch
            && match d[2] {
                0..=5 => luhn(&d[..10]),
                6 => modulo(&[3, 2, 7, 6, 5, 4, 3, 2], d[8]),
                9 => modulo(&[4, 3, 2, 7, 6, 5, 4, 3, 2], d[9]),
                _ => false,
            }
    })
}

/// Paraguay, taxpayers: five to eight digits and a check digit modulo 11.
pub fn ruc_paraguay(text: &str) -> bool {
    if !(7..=9).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let plain: Vec<u32> = text.bytes().rev().map(|byte| u32::from(byte - b'0')).collect();
    let rest = weighted(&plain[1..], 2..) % 11;
    plain[0] == if rest > 1 { 11 - rest } else { 0 }
}

/// Colombia, taxpayers: seven to ten digits and a check digit modulo 11 over primes.
pub fn nit(text: &str) -> bool {
    let plain: Vec<u32> =
        text.bytes().rev().map(|byte| u32::from(byte.wrapping_sub(b'0'))).collect();
    if !(8..=11).contains(&plain.len()) || plain.iter().any(|&digit| digit > 9) {
        return false;
    }
    let rest = weighted(&plain[1..], [3, 7, 13, 17, 19, 23, 29, 37, 41, 43]) % 11;
    plain[0] == if rest < 2 { rest } else { 11 - rest }
}

/// Guatemala, taxpayers: up to eleven digits and a check digit modulo 11, K for ten.
pub fn nit_guatemala(text: &str) -> bool {
    let Some((body, check)) = text.len().checked_sub(1).and_then(|at| text.split_at_checked(at))
    else {
        return false;
    };
    if !(4..=11).contains(&body.len())
        || !body.bytes().all(|byte| byte.is_ascii_digit())
        || body.starts_with('0')
    {
        return false;
    }
    let reversed: Vec<u32> = body.bytes().rev().map(|byte| u32::from(byte - b'0')).collect();
    match (11 - weighted(&reversed, 2..) % 11) % 11 {
        10 => check == "K",
        digit => check == digit.to_string(),
    }
}

/// Venezuela, taxpayers: a letter for the kind of person, eight digits and a check digit modulo 11.
pub fn rif(text: &str) -> bool {
    let Some((letter, number)) = text.split_at_checked(1) else { return false };
    let kind = match letter {
        "V" => 1,
        "E" => 2,
        "J" => 3,
        "P" => 4,
        "G" => 5,
        _ => return false,
    };
    digits::<9>(number).is_some_and(|d| {
        let rest = (4 * kind + weighted(&d[..8], [3, 2, 7, 6, 5, 4, 3, 2])) % 11;
        d[8] == if rest < 2 { 0 } else { 11 - rest }
    })
}

/// El Salvador, persons: eight digits and a check digit modulo 10.
pub fn dui(text: &str) -> bool {
    digits::<9>(text).is_some_and(|d| (10 - weighted(&d[..8], (2..=9).rev()) % 10) % 10 == d[8])
}

/// Uruguay, taxpayers: 12 digits: the office, the number, `001`, and a check digit modulo 11.
pub fn rut_uruguay(text: &str) -> bool {
    digits::<12>(text).is_some_and(|d| {
        let rest = weighted(&d[..11], [4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2]) % 11;
        matches!(10 * d[0] + d[1], 1..=22)
            && d[2..8].iter().any(|&digit| digit > 0)
            && d[8..11] == [0, 0, 1]
            && (11 - rest) % 11 == d[11]
    })
}

/// Dominican Republic, persons: 11 digits after Luhn.
pub fn cedula_dominican(text: &str) -> bool {
    digits::<11>(text).is_some_and(|d| luhn(&d))
}

/// Uruguay, persons: seven digits and a check digit modulo 10.
pub fn cedula_uruguay(text: &str) -> bool {
    digits::<8>(text)
        .is_some_and(|d| (10 - weighted(&d[..7], [2, 9, 8, 7, 6, 3, 4]) % 10) % 10 == d[7])
}

/// Argentina and Peru, persons: seven or eight digits without a check.
pub fn dni(text: &str) -> bool {
    matches!(text.len(), 7 | 8) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn published_examples_are_valid() {
        // Numbers of public bodies and of the rules' own descriptions.
        assert!(cpf("52998224725") && !cpf("52998224735") && !cpf("11111111111"));
        assert!(cnpj("11222333000181") && cnpj("12ABC34501DE35") && !cnpj("12ABC34501DE36"));
        assert!(cuit("20123456786") && !cuit("20123456787"));
        assert!(rut("123456785") && rut("10000013K") && !rut("123456784"));
        assert!(curp("HEGG560427MVZRRL04") && !curp("HEGG560427MVZRRL05"));
        assert!(rfc("GODE561231GR8") && !rfc("GODE561231GR7"));
        assert!(clabe("032180000118359719") && !clabe("032180000118359718"));
        assert!(ruc_peru("20131312955") && !ruc_peru("20131312956"));
        assert!(cedula_ecuador("1710034065") && !cedula_ecuador("1710034066"));
        assert!(ruc_ecuador("1710034065001") && ruc_ecuador("1760001550001"));
        assert!(ruc_paraguay("800160967") && !ruc_paraguay("800160968"));
        assert!(cedula_dominican("00113918205") && !cedula_dominican("00113918206"));
        assert!(rfc("SAT970701NN3") && !rfc("SAT970701NN4"));
        assert!(nit("8001972684") && !nit("8001972685"));
        assert!(cedula_uruguay("12345672") && !cedula_uruguay("12345671"));
        assert!(card("4111111111111111") && !card("4111111111111112"));
    }

    proptest! {
        /// Of ten numbers that differ in the check digit alone at most one is valid, and of those
        /// whose rule gives every rest a digit exactly one.
        #[test]
        fn one_check_digit_is_right(body in "[1-9][0-9]{16}") {
            let valid = |check: fn(&str) -> bool, body: &str| {
                (0..10).filter(|digit| check(&format!("{body}{digit}"))).count()
            };
            prop_assume!(body.bytes().any(|byte| byte != body.as_bytes()[0]));
            prop_assert_eq!(valid(clabe, &body), 1);
            prop_assert_eq!(valid(cedula_uruguay, &body[..7]), 1);
            prop_assert_eq!(valid(nit, &body[..9]), 1);
            prop_assert_eq!(valid(ruc_paraguay, &body[..8]), 1);
            prop_assert_eq!(valid(ruc_peru, &format!("20{}", &body[..8])), 1);
            let at_most_one =
                valid(cuit, &format!("20{}", &body[..8])) <= 1 && valid(rut, &body[..8]) <= 1;
            prop_assert!(at_most_one);
        }

        /// A wrong digit is noticed.
        #[test]
        fn a_changed_digit_is_noticed(body in "[1-9][0-9]{16}", at in 0usize..17, step in 1u8..10) {
            let digit = (0..10).find(|digit| clabe(&format!("{body}{digit}"))).unwrap();
            let mut bytes = format!("{body}{digit}").into_bytes();
            bytes[at] = b'0' + (bytes[at] - b'0' + step) % 10;
            prop_assert!(!clabe(std::str::from_utf8(&bytes).unwrap()));
        }
    }
}
