//! Identity, tax and bank numbers of Latin America: how they are written and their check digits.
//!
//! A check takes a number without its marks, in capitals. The rules are those of the offices that
//! issue the numbers; a number of equal digits is never valid.

/// One kind of number.
#[derive(Debug)]
pub struct Number {
    /// Its usual name.
    pub name: &'static str,
    /// The country that issues it, ISO 3166-1.
    pub jurisdiction: &'static str,
    /// Words before a number that say that it is one, in lower case.
    pub names: &'static [&'static str],
    /// How it is written with its marks: `0` is a digit, `A` a letter or digit, others stand for
    /// themselves; a number without marks in this form needs its name before it.
    pub forms: &'static [&'static str],
    /// Whether the check digits are right.
    pub check: fn(&str) -> bool,
}

impl Number {
    /// Whether `text` is written in a form that hardly anything else has.
    pub fn is_written(&self, text: &str) -> bool {
        self.forms.iter().any(|form| {
            text.chars().count() == form.len()
                && text.chars().zip(form.chars()).all(|(c, expect)| match expect {
                    '0' => c.is_ascii_digit(),
                    'A' => c.is_alphanumeric(),
                    mark => c == mark,
                })
        })
    }
}

/// All kinds, the most particular first.
pub const NUMBERS: &[Number] = &[
    Number {
        name: "CURP",
        jurisdiction: "MX",
        names: &["curp"],
        forms: &["AAAAAAAAAAAAAAAAAA"],
        check: curp,
    },
    Number {
        name: "CLABE",
        jurisdiction: "MX",
        names: &["clabe", "interbancaria"],
        forms: &[],
        check: clabe,
    },
    Number {
        name: "CPF",
        jurisdiction: "BR",
        names: &["cpf"],
        forms: &["000.000.000-00"],
        check: cpf,
    },
    Number {
        name: "CNPJ",
        jurisdiction: "BR",
        names: &["cnpj"],
        forms: &["AA.AAA.AAA/AAAA-00"],
        check: cnpj,
    },
    Number {
        name: "CUIT",
        jurisdiction: "AR",
        names: &["cuit", "cuil", "cdi"],
        forms: &["00-00000000-0"],
        check: cuit,
    },
    Number {
        name: "RUT",
        jurisdiction: "CL",
        names: &["rut", "run"],
        forms: &["00.000.000-A", "0.000.000-A"],
        check: rut,
    },
    Number { name: "RUC", jurisdiction: "PE", names: &["ruc"], forms: &[], check: ruc_peru },
    Number { name: "RUC", jurisdiction: "EC", names: &["ruc"], forms: &[], check: ruc_ecuador },
    Number { name: "RUC", jurisdiction: "PY", names: &["ruc"], forms: &[], check: ruc_paraguay },
    Number { name: "NIT", jurisdiction: "CO", names: &["nit"], forms: &[], check: nit },
    Number {
        name: "CEDULA",
        jurisdiction: "DO",
        names: &["cédula", "cedula"],
        forms: &[],
        check: cedula_dominican,
    },
    Number {
        name: "CEDULA",
        jurisdiction: "EC",
        names: &["cédula", "cedula", "ci"],
        forms: &[],
        check: cedula_ecuador,
    },
    Number {
        name: "CEDULA",
        jurisdiction: "UY",
        names: &["cédula", "cedula", "ci"],
        forms: &["0.000.000-0"],
        check: cedula_uruguay,
    },
    Number { name: "RFC", jurisdiction: "MX", names: &["rfc"], forms: &[], check: rfc },
    // It has no check digit: the name alone tells it. Peru's too.
    Number { name: "DNI", jurisdiction: "AR", names: &["dni"], forms: &[], check: dni },
];

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

/// Payment card: 13 to 19 digits after Luhn, of the networks that begin with 2 to 6.
pub fn card(text: &str) -> bool {
    let plain: Vec<u32> = text.bytes().map(|byte| u32::from(byte.wrapping_sub(b'0'))).collect();
    (13..=19).contains(&plain.len())
        && plain.iter().all(|&digit| digit < 10)
        && plain.iter().any(|&digit| digit != plain[0])
        && matches!(plain[0], 2..=6)
        && luhn(&plain)
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

/// Argentina: 11 digits that begin with the kind of person, one check digit modulo 11.
pub fn cuit(text: &str) -> bool {
    digits::<11>(text).is_some_and(|d| {
        let kind = matches!(10 * d[0] + d[1], 20 | 23..=27 | 30 | 33 | 34);
        let rest = weighted(&d[..10], [5, 4, 3, 2, 7, 6, 5, 4, 3, 2]) % 11;
        kind && (11 - rest) % 11 == d[10]
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
        && chars[4..10].iter().all(char::is_ascii_digit)
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
        && chars[name..name + 6].iter().all(char::is_ascii_digit);
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

/// Colombia, taxpayers: nine digits and a check digit modulo 11 over primes.
pub fn nit(text: &str) -> bool {
    digits::<10>(text).is_some_and(|d| {
        let rest = weighted(&d[..9], [41, 37, 29, 23, 19, 17, 13, 7, 3]) % 11;
        d[9] == if rest < 2 { rest } else { 11 - rest }
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
