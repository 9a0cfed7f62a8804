//! Numbers, mathematics and quantities of a response against the right ones.
//!
//! Here the parts meet: where the answer stands ([`answer`](super::answer)), what it says
//! ([`number`](super::number), [`expression`](super::expression)) and whether it is the same
//! ([`equality`](super::equality)).

use crate::verify::{
    Marks, Place, Reason, Verdict,
    answer::{Marked, last_formula, marked},
    equality::{Comparison, compare, exact, is_scalar},
    expression::{Digits, Node, Reading, read_expression},
    number::{Found, Number, NumberProblem, find_numbers, plain_marks, read_number, same_currency},
    rational::Rational,
    unit::{Unit, unit_after, unit_of},
};

/// A number that was read and the unit behind it.
struct Answer {
    number: Number,
    unit: Option<Unit>,
}

pub(super) fn number(
    gold: &str,
    response: &str,
    marks: Marks,
    place: Place,
    tolerance: f64,
) -> Verdict {
    let Some(right) = gold_number(gold) else {
        return Verdict::unreadable(Reason::UnreadableGold { gold: gold.to_owned() });
    };
    match answer_in(response, marks, place) {
        Ok(given) => compare_numbers(right, given.number, tolerance),
        Err(reason) => Verdict::unreadable(reason),
    }
}

pub(super) fn quantity(
    gold: &str,
    response: &str,
    marks: Marks,
    place: Place,
    tolerance: f64,
) -> Verdict {
    let right = {
        let plain = plain_marks(gold);
        let numbers = find_numbers(&plain, Marks::Point);
        match numbers.as_slice() {
            [Found { number: Ok(number), end, .. }] => {
                Some(Answer { number: *number, unit: unit_after(&plain[*end..]) })
            }
            _ => None,
        }
    };
    let Some(right) = right else {
        return Verdict::unreadable(Reason::UnreadableGold { gold: gold.to_owned() });
    };
    let given = match answer_in(response, marks, place) {
        Ok(given) => given,
        Err(reason) => return Verdict::unreadable(reason),
    };
    let (Some(gold_unit), Some(unit)) = (right.unit, given.unit) else {
        // Without a unit on one side the numbers count.
        return compare_numbers(right.number, given.number, tolerance);
    };
    let other = || {
        Verdict::incorrect(Reason::OtherUnit {
            given: unit.symbol.to_owned(),
            gold: gold_unit.symbol.to_owned(),
        })
    };
    if unit == gold_unit {
        return compare_numbers(right.number, given.number, tolerance);
    }
    if unit.kind != gold_unit.kind {
        return other();
    }
    match (unit.to_base(given.number.value), gold_unit.to_base(right.number.value)) {
        (Some(value), Some(gold_value)) => {
            let verdict = compare_numbers(
                Number { value: gold_value, ..right.number },
                Number { value, ..given.number },
                tolerance,
            );
            if !verdict.is_correct() && given.number.value == right.number.value {
                other()
            } else {
                verdict
            }
        }
        _ => other(),
    }
}

fn compare_numbers(gold: Number, given: Number, tolerance: f64) -> Verdict {
    if let (Some(given), Some(gold)) = (given.currency, gold.currency)
        && !same_currency(given, gold)
    {
        return Verdict::incorrect(Reason::OtherCurrency {
            given: given.to_owned(),
            gold: gold.to_owned(),
        });
    }
    if given.value == gold.value {
        return Verdict::correct(Reason::Equal);
    }
    let (right, left) = (gold.value.to_f64(), given.value.to_f64());
    if tolerance > 0.0 && (left - right).abs() <= tolerance * right.abs() {
        return Verdict::correct(Reason::WithinTolerance);
    }
    let hundredth = Rational::new(1, 100).and_then(|hundredth| {
        let (percent, number) = if gold.percent { (gold, given) } else { (given, gold) };
        Some(percent.value == number.value.times(hundredth)?)
    });
    if gold.percent != given.percent && hundredth == Some(true) {
        return Verdict::incorrect(Reason::PercentSign);
    }
    Verdict::incorrect(Reason::Different {
        given: given.value.to_string(),
        gold: gold.value.to_string(),
    })
}

/// Right answers are numbers alone, perhaps a fraction in LaTeX.
fn gold_number(gold: &str) -> Option<Number> {
    let bare = without_dollars(gold);
    match read_number(bare, Marks::Point) {
        Some(Ok(number)) => Some(number),
        Some(Err(_)) => None,
        None => constant(bare, Marks::Point)?.ok(),
    }
}

/// The value of an expression without letters, roots or functions.
fn constant(text: &str, marks: Marks) -> Option<Result<Number, Reason>> {
    let mut values: Vec<Rational> = Vec::new();
    let plain = plain_marks(text);
    for group in digit_readings(marks) {
        for digits in *group {
            if let Some(reading) = read_expression(&plain, *digits)
                && let Some(value) = exact(&reading.node, &[])
                && !values.contains(&value)
            {
                values.push(value);
            }
        }
        if !values.is_empty() {
            break;
        }
    }
    let number = |value| Number { value, percent: plain.contains('%'), currency: None };
    match values.as_slice() {
        [] => None,
        [value] => Some(Ok(number(*value))),
        [point, comma, ..] => {
            Some(Err(Reason::Ambiguous { point: point.to_string(), comma: comma.to_string() }))
        }
    }
}

fn without_dollars(text: &str) -> &str {
    let text = text.trim();
    match text.strip_prefix('$').and_then(|inside| inside.strip_suffix('$')) {
        Some(inside) if !inside.contains('$') && !inside.ends_with('\\') => inside.trim(),
        _ => text,
    }
}

fn answer_in(response: &str, marks: Marks, place: Place) -> Result<Answer, Reason> {
    match (place, marked(response)) {
        (Place::Whole, _) => alone(response, marks),
        (_, Some(Marked::Alone(text))) => alone(text, marks),
        (_, Some(Marked::Sentence(text))) => sentence(text, marks),
        (Place::Marked, None) => Err(Reason::NoAnswer),
        (Place::MarkedOrLast, None) => {
            let plain = plain_marks(without_dollars(response));
            let last = find_numbers(&plain, marks).pop().ok_or(Reason::NoAnswer)?;
            answer_of(&plain, &last)
        }
    }
}

fn answer_of(plain: &str, found: &Found) -> Result<Answer, Reason> {
    let (before, after) = (&plain[..found.start], &plain[found.end..]);
    // 10³, √3, 2^5, 10:30 and 3x are not the number that stands in them.
    let mut following = after.chars();
    let is_part = match following.next() {
        Some('²' | '³' | '^') => true,
        Some(':') => following.next().is_some_and(|c| c.is_ascii_digit()),
        Some(c) if c.is_alphabetic() => {
            let next = following.next().is_some_and(char::is_alphanumeric);
            !next && unit_after(after).is_none()
        }
        _ => false,
    };
    let ends_clock = before
        .strip_suffix(':')
        .is_some_and(|before| before.ends_with(|c: char| c.is_ascii_digit()));
    if is_part || ends_clock || before.ends_with(['√', '^', '_']) {
        return Err(Reason::NoAnswer);
    }
    match &found.number {
        Ok(number) => Ok(Answer { number: *number, unit: unit_after(after) }),
        Err(NumberProblem::Ambiguous { point, comma }) => {
            Err(Reason::Ambiguous { point: point.to_string(), comma: comma.to_string() })
        }
        Err(NumberProblem::Malformed) => Err(Reason::NoAnswer),
    }
}

/// `- 3` as `-3`, where a text begins so.
fn with_joined_sign(plain: String) -> String {
    match plain.strip_prefix('-') {
        Some(rest) if rest.starts_with(char::is_whitespace) => format!("-{}", rest.trim_start()),
        _ => plain,
    }
}

/// A text that is the answer and nothing else, units aside.
fn alone(text: &str, marks: Marks) -> Result<Answer, Reason> {
    let text = without_dollars(text);
    let bare = without_text_commands(text);
    let plain = with_joined_sign(plain_marks(&bare));
    let numbers = find_numbers(&plain, marks);
    if let [found] = numbers.as_slice() {
        // What stands around the number may be words, not mathematics.
        let around = [&plain[..found.start], &plain[found.end..]];
        let is_mathematics = |c: char| "\\^*+=(){}[]<>|!√±×÷·".contains(c);
        if !around.iter().any(|part| part.contains(is_mathematics)) {
            return answer_of(&plain, found);
        }
    }
    match constant(text, marks) {
        Some(value) => value.map(|number| Answer { number, unit: None }),
        None if numbers.len() > 1 => Err(Reason::SeveralAnswers),
        None => Err(Reason::NoAnswer),
    }
}

/// `5\text{ km}` as `5 km`.
fn without_text_commands(text: &str) -> String {
    let mut bare = text.to_owned();
    for command in ["\\text{", "\\mathrm{", "\\textbf{", "\\mathbf{", "\\mbox{"] {
        while let Some(at) = bare.find(command) {
            let inside = at + command.len();
            let Some(length) = bare[inside..].find('}') else { break };
            let kept = format!(" {} ", bare[inside..inside + length].trim());
            bare.replace_range(at..=inside + length, &kept);
        }
    }
    bare.trim().to_owned()
}

/// The first number of a sentence after its last `=`, unless a second stands beside it as its equal.
fn sentence(text: &str, marks: Marks) -> Result<Answer, Reason> {
    let text = text.rsplit('=').next().unwrap_or(text);
    if let Some(formula) = last_formula(text) {
        return alone(formula, marks);
    }
    let plain = with_joined_sign(plain_marks(text.trim()));
    let numbers = find_numbers(&plain, marks);
    let Some(first) = numbers.first() else { return Err(Reason::NoAnswer) };
    if let Some(second) = numbers.get(1) {
        let between = plain.get(first.end..second.start).unwrap_or("").trim().to_lowercase();
        let joins = [
            "", "o", "u", "ó", "ou", "or", "y", "e", "and", "a", "to", "-", "/", ",", ";", "+",
            "*", "×", "x", "÷", "·", "^",
        ];
        // "no 3 sino 4"
        let denied = plain[..first.start]
            .split_whitespace()
            .any(|word| matches!(word.to_lowercase().as_str(), "no" | "não" | "not"));
        if denied || joins.contains(&between.as_str()) {
            return Err(Reason::SeveralAnswers);
        }
    }
    answer_of(&plain, first)
}

/// Readings of digits to try: those of the first group that reads count.
fn digit_readings(marks: Marks) -> &'static [&'static [Digits]] {
    const POINT: &[Digits] = &[Digits::PointGrouped, Digits::Point];
    const COMMA: &[Digits] = &[Digits::CommaGrouped, Digits::Comma];
    const BOTH: &[Digits] =
        &[Digits::PointGrouped, Digits::Point, Digits::CommaGrouped, Digits::Comma];
    match marks {
        Marks::Point => &[POINT, COMMA],
        Marks::Comma => &[COMMA, POINT],
        Marks::PointOnly => &[POINT],
        Marks::CommaOnly => &[COMMA],
        Marks::Either => &[BOTH],
    }
}

pub(super) fn math(gold: &str, response: &str, marks: Marks, place: Place) -> Verdict {
    let Some(right) = gold_expression(gold) else {
        return Verdict::unreadable(Reason::UnreadableGold { gold: gold.to_owned() });
    };
    let candidates: Vec<&str> = match (place, marked(response)) {
        (Place::Whole, _) => vec![without_dollars(response)],
        (_, Some(Marked::Alone(text))) => vec![without_dollars(text)],
        (_, Some(Marked::Sentence(text))) => vec![last_formula(text).unwrap_or(text)],
        (Place::Marked, None) => vec![],
        (Place::MarkedOrLast, None) => {
            last_formula(response).into_iter().chain([response]).take(1).collect()
        }
    };
    let Some(text) = candidates.first() else { return Verdict::unreadable(Reason::NoAnswer) };
    let plain = plain_marks(text.trim().trim_end_matches('.'));
    let mut different: Option<Node> = None;
    let mut readable = false;
    for group in digit_readings(marks) {
        let mut equal = false;
        let mut readings: Vec<Reading> =
            group.iter().filter_map(|digits| read_expression(&plain, *digits)).collect();
        readable |= !readings.is_empty();
        // (1,234) is a pair and not 1234.
        let has_several = |node: &Node| matches!(node, Node::Group(_, _, items) if items.len() > 1);
        if readings.iter().any(|reading| has_several(&reading.node)) {
            readings.retain(|reading| !is_scalar(&reading.node));
        }
        for given in readings {
            if let Some(reason) = unit_difference(&right, &given) {
                return Verdict::incorrect(reason);
            }
            match compare(&right.node, &given.node) {
                Comparison::Equal => equal = true,
                Comparison::Different => different = different.or(Some(given.node)),
                Comparison::OtherKind => {}
            }
        }
        match (equal, &different) {
            (true, None) => return Verdict::correct(Reason::Equal),
            // One country's reading is right, another's is wrong. Where the country is known its
            // readings are of different kinds (a number, a list), and the right one counts.
            (true, Some(_)) if marks != Marks::Either => return Verdict::correct(Reason::Equal),
            (true, Some(other)) => {
                return Verdict::unreadable(Reason::Ambiguous {
                    point: gold.to_owned(),
                    comma: shown(other),
                });
            }
            (false, Some(other)) => {
                let percent = exact(other, &[])
                    .zip(exact(&right.node, &[]))
                    .is_some_and(|(given, gold)| is_percent_of(given, gold))
                    && plain.contains('%') != plain_marks(gold).contains('%');
                return Verdict::incorrect(if percent {
                    Reason::PercentSign
                } else {
                    Reason::Different { given: shown(other), gold: gold.to_owned() }
                });
            }
            (false, None) => {}
        }
    }
    if readable && place != Place::MarkedOrLast {
        return Verdict::incorrect(Reason::Different {
            given: (*text).to_owned(),
            gold: gold.to_owned(),
        });
    }
    // Words around a number.
    let Some(value) = exact(&right.node, &[]) else {
        return Verdict::unreadable(Reason::NoAnswer);
    };
    if readable {
        return Verdict::incorrect(Reason::Different {
            given: (*text).to_owned(),
            gold: gold.to_owned(),
        });
    }
    let right = Number { value, percent: gold.contains('%'), currency: None };
    match answer_in(response, marks, place) {
        Ok(given) => compare_numbers(right, given.number, 0.0),
        Err(reason) => Verdict::unreadable(reason),
    }
}

fn is_percent_of(left: Rational, right: Rational) -> bool {
    let hundred = Rational::whole(100).expect("a hundred is a number");
    left.times(hundred) == Some(right) || right.times(hundred) == Some(left)
}

fn shown(node: &Node) -> String {
    exact(node, &[]).map_or_else(|| "another expression".to_owned(), |value| value.to_string())
}

fn gold_expression(gold: &str) -> Option<Reading> {
    let plain = plain_marks(without_dollars(gold));
    // In brackets a comma separates; alone it groups.
    let order = if plain.contains(['(', '[', '{']) && !plain.contains("\\frac") {
        [Digits::Point, Digits::PointGrouped, Digits::CommaGrouped]
    } else {
        [Digits::PointGrouped, Digits::Point, Digits::CommaGrouped]
    };
    order.into_iter().find_map(|digits| read_expression(&plain, digits))
}

/// Units differ when both name one and they are not the same.
fn unit_difference(gold: &Reading, given: &Reading) -> Option<Reason> {
    let (right, left) = (gold.units.last()?, given.units.last()?);
    let same = match (unit_of(right), unit_of(left)) {
        (Some(right), Some(left)) => right.symbol == left.symbol,
        _ => right.eq_ignore_ascii_case(left),
    };
    (!same).then(|| Reason::OtherUnit { given: left.clone(), gold: right.clone() })
}
