//! Verdicts on whole responses, as a score or a reward asks for them.

use proptest::prelude::*;

use super::*;

fn number(marks: Marks) -> Verifier {
    Verifier::Number { marks, place: Place::MarkedOrLast, tolerance: 0.0 }
}

fn math(marks: Marks) -> Verifier {
    Verifier::Math { marks, place: Place::MarkedOrLast }
}

fn quantity() -> Verifier {
    Verifier::Quantity { marks: Marks::Comma, place: Place::MarkedOrLast, tolerance: 0.0 }
}

fn check(verifier: &Verifier, cases: &[(&str, &str, bool)]) {
    for (gold, response, expect) in cases {
        let verdict = verifier.verify(gold, response);
        assert_eq!(verdict.is_correct(), *expect, "{gold:?} against {response:?}: {verdict:?}");
    }
}

#[test]
fn what_english_readers_miss_is_read() {
    let cases = [
        ("1234.56", "$1.234,56$", true),
        ("1234", "1.234", true),
        ("1000000", "1.000.000", true),
        ("1/2", "\\boxed{0,5}", true),
        ("0.5", "$0{,}5$", true),
        ("25", "25%", false),
        ("25", "$25\\%$", false),
        ("25 %", "25", false),
        ("25 %", "25 %", true),
        ("25 %", "0,25", true),
        ("12.0", "12", true),
    ];
    check(&number(Marks::Comma), &cases);
    check(&math(Marks::Comma), &cases);
    // Without a country what has one reading is read, and what has two is not.
    let either = [
        ("1234.56", "$1.234,56$", true),
        ("1000000", "1.000.000", true),
        ("1/2", "\\boxed{0,5}", true),
        ("0.5", "$0{,}5$", true),
        ("1234", "1.234", false),
        ("1.234", "1.234", false),
        ("25", "25%", false),
    ];
    check(&number(Marks::Either), &either);
    check(&math(Marks::Either), &either);
    assert_eq!(
        number(Marks::Either).verify("1234", "1.234").reason,
        Reason::Ambiguous { point: "617/500".to_owned(), comma: "1234".to_owned() }
    );
    assert_eq!(number(Marks::Comma).verify("25", "25%").reason, Reason::PercentSign);
    assert_eq!(math(Marks::Comma).verify("25", "25%").reason, Reason::PercentSign);
}

#[test]
fn numbers_in_sentences() {
    check(
        &number(Marks::Comma),
        &[
            ("18", "16 - 3 - 4 = 9; 9 × 2 = 18", true),
            ("18", "Vende 9 huevos a $2.\n\nLa respuesta es 18 dólares.", true),
            ("18", "La respuesta es 18 o 20", false),
            ("18", "La respuesta es 9 × 2", false),
            ("18", "La respuesta es 9 × 2 = 18", true),
            ("18", "\\boxed{18 \\text{ huevos}}", true),
            ("18", "\\boxed{2^{18}}", false),
            ("16", "\\boxed{\\sqrt{16}}", false),
            ("18", "\\boxed{18, 20}", false),
            ("10", "\\boxed{10³}", false),
            ("10", "La respuesta es 10:30", false),
            ("3", "La respuesta es 3x", false),
            ("3", "La respuesta es √3", false),
            ("3", "La respuesta es no 3 sino 4", false),
            ("3", "La respuesta es - 3", false),
            ("300", "La respuesta es $3 \\times 10^2$", true),
            ("5", "son 5/6", false),
            ("5", "el 5/6/2020", false),
            ("1000000000", "1 billón", false),
            ("1000000000", "1 bilhão", true),
            ("18", "#### 18 dólares", true),
            ("18", "x18", false),
            ("0.5", "\\boxed{\\frac{1}{2}}", true),
            ("2000000000", "Son 2 mil millones de pesos", true),
            ("1234.5", "O total é R$ 1.234,50.", true),
            ("R$ 5", "US$ 5", false),
            ("5", "-5", false),
            ("18", "No sé", false),
            ("18", "", false),
        ],
    );
    check(&number(Marks::Point), &[("1.234", "1.234", true), ("1234", "1,234", true)]);
    assert_eq!(number(Marks::Point).verify("muchos", "5").outcome, Outcome::Unreadable);
    let loose = Verifier::Number { marks: Marks::Comma, place: Place::Whole, tolerance: 0.01 };
    assert_eq!(loose.verify("100", "100,5").reason, Reason::WithinTolerance);
    assert!(!loose.verify("100", "102").is_correct());
}

#[test]
fn mathematics_with_a_decimal_comma() {
    check(
        &math(Marks::Comma),
        &[
            ("1.2", "\\{1,2\\}", false),
            ("(0.5,1.5)", "(0,5; 1,5)", true),
            ("(0.5,1.5)", "$]0,5; 1,5[$", true),
            ("\\{1,2\\}", "\\boxed{1,2}", true),
            ("5\\text{ cm}", "\\boxed{5\\text{ m}}", false),
            ("5\\text{ cm}", "\\boxed{5\\text{ centímetros}}", true),
            ("5", "\\boxed{5x}", false),
            ("2", "\\boxed{1 \\text{ o } 2}", false),
            ("x<5", "\\boxed{x>5}", false),
            ("x=\\pm 2", "\\boxed{\\{-2;2\\}}", true),
            ("\\pm 2", "\\boxed{2}", false),
            ("12", "Hay 3 cajas de 4, o sea 12 cosas.", true),
        ],
    );
    check(&math(Marks::Point), &[("1234", "(1,234)", false), ("(1,234)", "(1,234)", true)]);
    let strict = Verifier::Math { marks: Marks::PointOnly, place: Place::MarkedOrLast };
    check(&strict, &[("1/2", "\\boxed{0,5}", false)]);
}

#[test]
fn quantities_are_converted_exactly() {
    check(
        &quantity(),
        &[
            ("1528 km", "1.528 km", true),
            ("1528 km", "1.528.000 metros", true),
            ("1528 km", "1528 m", false),
            ("1528 km", "1528 km²", false),
            ("1528 km", "1528", true),
            ("72 km/h", "20 m/s", true),
            ("1 h", "60 minutos", true),
            ("2 kg", "2 libras", false),
            ("1 ha", "10.000 m²", true),
            ("1 rad", "1 rad", true),
        ],
    );
}

#[test]
fn other_kinds_through_the_front_door() {
    let date = Verifier::Date { order: DateOrder::DayFirst, place: Place::MarkedOrLast };
    check(
        &date,
        &[
            ("1927-03-06", "Nació el 6 de marzo de 1927.", true),
            ("1927-03-06", "3/6/1927", false),
            ("1927-03-06", "1927", false),
            ("1927", "6 de marzo de 1927", true),
        ],
    );
    assert_eq!(date.verify("1927-03-06", "1927").reason, Reason::LessPrecise);
    check(&Verifier::Choice { choices: 4 }, &[("B", "b)", true), ("B", "C", false)]);
    let text = r#"{"kind":"length","unit":"words","max":3}"#;
    let length: Verifier = serde_json::from_str(text).unwrap();
    check(&length, &[("", "uno dos", true), ("", "uno dos tres cuatro", false)]);
    let json: Verifier =
        serde_json::from_str(r#"{"kind":"json","schema":{"type":"array"}}"#).unwrap();
    check(&json, &[("", "[1]", true), ("", "{}", false)]);
    assert!(serde_json::from_str::<Verifier>(r#"{"kind":"number","locale":"x"}"#).is_err());
}

proptest! {
    #[test]
    fn any_response_gets_a_verdict(
        free in any::<String>(),
        formula in r"[-0-9.,x+*/^(){}\[\]\\%$ =<>|!_a-f&]{0,60}",
        commands in prop::collection::vec(
            prop::sample::select(vec![
                "\\frac", "{", "}", "1", "\\sqrt", "(", ")", "\\{", "\\}", ",", "x", "^", "-",
                "\\boxed{", "\\text{", "\\begin{matrix}", "\\end{matrix}", "\\pm", "|", "[", "]",
            ]),
            0..60,
        ),
    ) {
        let commands = commands.concat();
        for response in [&free, &formula, &commands] {
            for marks in [Marks::Either, Marks::Comma] {
                for verifier in [number(marks), math(marks), quantity()] {
                    for gold in ["1/2", response.as_str()] {
                        let _ = verifier.verify(gold, response);
                    }
                }
            }
            let _ = Verifier::Choice { choices: 4 }.verify("A", response);
            let date = Verifier::Date { order: DateOrder::DayFirst, place: Place::Whole };
            let _ = date.verify("1927", response);
        }
    }

    #[test]
    fn a_written_number_is_right_and_its_neighbour_wrong(digits in 0_i128..100_000_000) {
        let value = Rational::new(digits, 100).unwrap();
        let next = Rational::new(digits + 1, 100).unwrap().to_string();
        for marks in [Marks::Point, Marks::Comma] {
            let text = number::write_number(value, marks).unwrap();
            for verifier in [number(marks), math(marks)] {
                prop_assert!(verifier.verify(&value.to_string(), &text).is_correct(), "{}", text);
                prop_assert!(!verifier.verify(&next, &text).is_correct(), "{}", text);
            }
        }
    }
}
