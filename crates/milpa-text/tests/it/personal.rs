//! Personal data: check digits against python-stdnum's and by their theory, numbers in sentences,
//! and the spans of a published set.

use milpa_text::personal::{Kind, find, numbers::NUMBERS, numbers::card};
use proptest::{prelude::*, strategy::ValueTree};

#[path = "../../examples/measure_personal_data/gold.rs"]
mod gold;

/// The check of a kind of `golden/personal.json`.
fn judge(kind: &str) -> impl Fn(&str) -> bool {
    let mut words = kind.split(' ');
    let name = words.next().unwrap().to_owned();
    let country = words.next().filter(|word| word.len() == 2).map(str::to_owned);
    move |number| {
        if name == "card" {
            return card(number);
        }
        let of_country = |countries: &[&str]| {
            country.as_deref().is_none_or(|country| countries.contains(&country))
        };
        let kind = NUMBERS.iter().find(|n| n.name == name && of_country(n.jurisdictions)).unwrap();
        // The golden numbers of Ecuador's taxpayers come without their branch.
        let branch = if kind.name == "RUC" && kind.jurisdictions == ["EC"] { "001" } else { "" };
        (kind.check)(&format!("{number}{branch}"))
    }
}

#[test]
fn check_digits_are_those_of_python_stdnum() {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("golden/personal.json")).unwrap();
    let (mut kinds, mut valid) = (0, 0);
    for (kind, rows) in golden.as_object().unwrap() {
        let check = judge(kind);
        for (number, expect) in rows.as_object().unwrap() {
            assert_eq!(check(number), expect.as_bool().unwrap(), "{kind} {number}");
            valid += usize::from(check(number));
        }
        kinds += 1;
    }
    assert!(kinds >= 19 && valid >= 200, "{valid} valid numbers of {kinds} kinds");
}

/// A kind, the form of its numbers without the check, the signs of the check, and the share of
/// numbers with one wrong digit that its rule notices, at least.
///
/// Luhn's rule, weights prime to the modulus, and modulo 11 with a sign for ten notice all. Where a
/// rule gives two rests one digit (ten and zero, for want of a sign) some pass that change the
/// one into the other; where weights share a factor with ten (CURP, DUI, Uruguay's cédula) a digit can
/// change by five; another third digit puts a RUC of Ecuador under another rule.
const KINDS: &[(&str, &str, &str, f64)] = &[
    ("CPF", "[0-9]{9}", "00-99", 0.99),
    ("CNPJ", "[0-9]{8}0001", "00-99", 0.99),
    ("CNPJ", "[0-9A-Z]{12}", "00-99", 0.99),
    ("PIS", "[0-9]{10}", "0-9", 0.95),
    ("CUIT", "(20|23|24|27|30|33|34)[0-9]{8}", "0-9", 0.95),
    ("CBU", "[0-9]{21}", "0-9", 1.0),
    ("CLABE", "[0-9]{17}", "0-9", 1.0),
    ("RUT CL", "[1-9][0-9]{7}", "K0-9", 1.0),
    ("RUT UY", "(0[1-9]|1[0-9]|2[0-2])[0-9]{6}001", "0-9", 1.0),
    ("CURP", "[B-Z]{4}[0-9]{2}0[1-9]1[0-9]HDF[B-Z]{3}[0-9]", "0-9", 0.85),
    // A letter near the end, or one beginning with CURP or FONE reads as that name and a number.
    ("RFC", "[B-Z]{4}[0-9]{2}0[1-9]1[0-9][A-Z][0-9A-Z]", "A0-9", 1.0),
    ("RUC PE", "(10|15|17|20)[0-9]{8}", "0-9", 0.95),
    ("RUC EC", "(0[1-9]|1[0-9]|2[0-4])[0-5][0-9]{6}", "0-9", 0.99),
    ("RUC PY", "[1-9][0-9]{6}", "0-9", 0.95),
    ("CEDULA DO", "[0-9]{10}", "0-9", 1.0),
    ("CEDULA EC", "(0[1-9]|1[0-9]|2[0-4])[0-5][0-9]{6}", "0-9", 1.0),
    ("CEDULA UY", "[1-9][0-9]{6}", "0-9", 0.9),
    ("NIT CO", "[89][0-9]{8}", "0-9", 0.95),
    ("NIT GT", "[1-9][0-9]{6}", "K0-9", 1.0),
    ("RIF", "[VEJPG][0-9]{8}", "0-9", 0.95),
    ("DUI", "[0-9]{8}", "0-9", 0.85),
    ("card", "4[0-9]{14}", "0-9", 1.0),
];

/// All signs that can stand where the check digits do.
fn checks(signs: &str) -> Vec<String> {
    match signs {
        "00-99" => (0..100).map(|check| format!("{check:02}")).collect(),
        _ => (0..10)
            .map(|digit| digit.to_string())
            .chain(signs.strip_suffix("0-9").filter(|sign| !sign.is_empty()).map(str::to_owned))
            .collect(),
    }
}

#[test]
fn wrong_digits_are_noticed() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for &(kind, form, signs, least) in KINDS {
        let check = judge(kind);
        let body = proptest::string::string_regex(form).unwrap();
        let (mut numbers, mut wrong, mut noticed) = (0, 0, 0);
        while numbers < 60 {
            let body = body.new_tree(&mut runner).unwrap().current();
            let mut valid = checks(signs).into_iter().map(|c| body.clone() + &c);
            // A rest of ten without a sign of its own makes the body invalid.
            let Some(number) = valid.find(|number| check(number)) else { continue };
            numbers += 1;
            for (at, old) in number.char_indices().filter(|(_, c)| c.is_ascii_digit()) {
                for new in ('0'..='9').filter(|new| *new != old) {
                    let mut other = number.clone();
                    other.replace_range(at..=at, &new.to_string());
                    wrong += 1;
                    noticed += usize::from(!check(&other));
                }
            }
        }
        let share = f64::from(u32::try_from(noticed).unwrap()) / f64::from(wrong);
        assert!(share >= least, "{kind}: {share:.4} of {wrong} wrong digits were noticed");
    }
}

proptest! {
    /// A valid number behind its name is found with its place, and with another digit only if some
    /// country's rule takes that for valid too.
    #[test]
    fn numbers_are_found_in_sentences(index in 0..KINDS.len(), salt in any::<u64>(), step in 1u8..10) {
        let (kind, form, signs, _) = KINDS[index];
        let rng = proptest::test_runner::TestRng::from_seed(
            proptest::test_runner::RngAlgorithm::ChaCha,
            &std::array::from_fn::<u8, 32, _>(|at| salt.to_le_bytes()[at % 8]),
        );
        let mut runner = proptest::test_runner::TestRunner::new_with_rng(ProptestConfig::default(), rng);
        let check = judge(kind);
        let body = proptest::string::string_regex(form).unwrap().new_tree(&mut runner).unwrap();
        let body = body.current();
        let valid = checks(signs).into_iter().map(|sign| body.clone() + &sign).find(|n| check(n));
        prop_assume!(valid.is_some());
        let branch = if kind == "RUC EC" { "001" } else { "" };
        let number = valid.unwrap() + branch;
        let name = kind.split(' ').next().unwrap().replace("CEDULA", "cédula");
        let before = format!("La persona con {name} N.º ");
        let text = format!("{before}{number}, domiciliada en el lugar.");
        let found = find(&text);
        prop_assert_eq!(found.len(), 1, "{}: {:?}", &text, &found);
        prop_assert_eq!(found[0].range.clone(), before.len()..before.len() + number.len());
        // The last digit of the number proper, before a branch.
        let at = number.len() - branch.len() - 2;
        let digit = number.as_bytes()[at];
        prop_assume!(digit.is_ascii_digit());
        let mut other = number.clone().into_bytes();
        other[at] = b'0' + (digit - b'0' + step) % 10;
        let other = String::from_utf8(other).unwrap();
        // A name that several countries use stands before the numbers of each.
        let first = kind.split(' ').next().unwrap();
        let expect = if first == "card" {
            card(&other)
        } else {
            NUMBERS.iter().any(|one| one.name == first && (one.check)(&other))
        };
        let text = text.replace(&number, &other);
        let same = find(&text).iter().any(|one| one.kind.name() == found[0].kind.name());
        prop_assert_eq!(same, expect, "{}", text);
    }
}

#[test]
fn spans_of_the_published_set_are_found() {
    let Some(data) = super::data() else { return };
    let scores = gold::spans(&data).unwrap();
    for (kind, precision, recall) in [
        ("EMAIL", 0.99, 0.99),
        ("IP", 0.99, 0.99),
        ("IBAN", 0.99, 0.99),
        ("TARJETA", 0.99, 0.95),
        ("TELEFONO", 0.9, 0.5),
    ] {
        let score = scores[kind];
        assert!(score.gold >= 10, "{kind}: {score:?}");
        assert!(score.precision() >= precision && score.recall() >= recall, "{kind}: {score:?}");
    }
}

#[test]
fn numbers_of_law_are_no_personal_data() {
    let Some(data) = super::data() else { return };
    // Nothing in a constitution; in eighteen years of norms the numbers of firms and officials.
    let brazil = gold::law(&data, "pt_constituicao_versions.jsonl.zst", 5).unwrap();
    assert!(brazil.words > 1_000_000 && brazil.counts.is_empty(), "{brazil:?}");
    let peru = gold::law(&data, "es_law_peru.jsonl.zst", 5).unwrap();
    let per_100_000 =
        |kind: Kind| *peru.counts.get(&kind).unwrap_or(&0) as f64 * 1e5 / peru.words as f64;
    for kind in Kind::all() {
        let most = match kind.name() {
            "EMAIL" => 2.5,
            "TELEFONO" => 13.0,
            "RUC" | "DNI" => 0.5,
            _ => 0.0,
        };
        assert!(per_100_000(kind) <= most, "{kind:?}: {:?}", peru.samples.get(&kind));
    }
}
