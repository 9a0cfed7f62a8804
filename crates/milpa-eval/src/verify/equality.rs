//! Whether two expressions are the same: exactly where fractions suffice, else at sample points.
//!
//! Without letters: rational arithmetic, and floating point (relative 1e-12) once a root, π or a
//! function comes in. With letters: the same value at twelve fixed points, exact ones for rational
//! functions (Schwartz 1980, Zippel 1979). A decimal of six places or more equals what rounds to it.

use std::{cmp::Ordering, collections::BTreeSet};

use crate::verify::{
    expression::{Function, Node, Operation, Relation},
    rational::{Rational, power_of_ten},
};

/// How two expressions compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// The same.
    Equal,
    /// Of one kind and not the same.
    Different,
    /// A number against a set, say.
    OtherKind,
}

/// Decimals from which a rounded number stands for an exact one.
const ROUNDED: usize = 6;
/// Numerators over 7 that letters stand for.
const POINTS: [i128; 12] = [5, 13, -4, 17, -9, 23, 3, -11, 29, 2, -16, 10];

/// Compares an answer with the right one.
pub fn compare(gold: &Node, given: &Node) -> Comparison {
    let (gold, given) = (solution(gold, given), solution(given, gold));
    let (gold, given) = (&simplest(gold), &simplest(given));
    let same = match (gold, given) {
        (Node::Relation(..), Node::Relation(..)) => relations_equal(gold, given),
        (
            Node::Group('{', '}', left) | Node::List(left),
            Node::Group('{', '}', right) | Node::List(right),
        )
        | (Node::Union(left), Node::Union(right)) => sets_equal(left, right),
        (Node::Group(a, b, left), Node::Group(c, d, right)) => {
            a == c && b == d && rows_equal(left, right)
        }
        (Node::Matrix(left), Node::Matrix(right)) => {
            left.len() == right.len()
                && left.iter().zip(right).all(|(left, right)| rows_equal(left, right))
        }
        _ if is_scalar(gold) && is_scalar(given) => scalars_equal(gold, given),
        _ => return Comparison::OtherKind,
    };
    if same { Comparison::Equal } else { Comparison::Different }
}

pub(super) fn is_scalar(node: &Node) -> bool {
    !matches!(
        node,
        Node::Group(..) | Node::List(_) | Node::Matrix(_) | Node::Union(_) | Node::Relation(..)
    )
}

/// The right side of `x = 5` where the other is no equation; the last of `a = b = c`.
fn solution<'a>(node: &'a Node, other: &Node) -> &'a Node {
    if let Node::Relation(sides, relations) = node
        && let (Some(first), Some(last)) = (sides.first(), sides.last())
    {
        let names_it = matches!(first, Node::Variable(_))
            || matches!(first, Node::Binary(Operation::Multiply, name, of)
                if matches!((&**name, &**of), (Node::Variable(_), Node::Variable(_))));
        let is_equation = !matches!(other, Node::Relation(..));
        if relations.iter().all(|one| *one == Relation::Equal)
            && is_equation
            && (names_it || sides.iter().skip(1).all(|side| scalars_equal(first, side)))
        {
            return last;
        }
        if relations == &[Relation::In] && names_it {
            return last;
        }
    }
    node
}

/// An inequality of one letter as an interval, a list of equations as the list of their solutions.
fn simplest(node: &Node) -> Node {
    match node {
        Node::Relation(sides, relations) => interval_of(sides, relations).unwrap_or(node.clone()),
        Node::List(items) => {
            let one = |item: &Node| match item {
                Node::Relation(sides, relations)
                    if relations == &[Relation::Equal]
                        && matches!(sides.first(), Some(Node::Variable(_))) =>
                {
                    sides.last().cloned()
                }
                _ => None,
            };
            match items.iter().map(one).collect::<Option<Vec<Node>>>() {
                // Solutions of one letter; x = 1, y = 2 is another thing than y = 1, x = 2.
                Some(solutions) if letters(node).len() == 1 => Node::List(solutions),
                _ => node.clone(),
            }
        }
        // ± in front of a whole equation.
        _ => node.clone(),
    }
}

fn interval_of(sides: &[Node], relations: &[Relation]) -> Option<Node> {
    let is_letter = |node: &Node| matches!(node, Node::Variable(_));
    let flipped = |relation: Relation| match relation {
        Relation::Less => Relation::Greater,
        Relation::LessEqual => Relation::GreaterEqual,
        Relation::Greater => Relation::Less,
        Relation::GreaterEqual => Relation::LessEqual,
        other => other,
    };
    let endless = |negative: bool| {
        if negative { Node::Negative(Box::new(Node::Infinity)) } else { Node::Infinity }
    };
    let from_letter = |relation: Relation, bound: &Node| {
        let bound = bound.clone();
        Some(match relation {
            Relation::Less => Node::Group('(', ')', vec![endless(true), bound]),
            Relation::LessEqual => Node::Group('(', ']', vec![endless(true), bound]),
            Relation::Greater => Node::Group('(', ')', vec![bound, endless(false)]),
            Relation::GreaterEqual => Node::Group('[', ')', vec![bound, endless(false)]),
            _ => return None,
        })
    };
    match (sides, relations) {
        ([letter, bound], [relation]) if is_letter(letter) && letters(bound).is_empty() => {
            from_letter(*relation, bound)
        }
        ([bound, letter], [relation]) if is_letter(letter) && letters(bound).is_empty() => {
            from_letter(flipped(*relation), bound)
        }
        ([low, letter, high], [first, second]) if is_letter(letter) => {
            let up = |relation: &Relation| matches!(relation, Relation::Less | Relation::LessEqual);
            let down = |relation: &Relation| {
                matches!(relation, Relation::Greater | Relation::GreaterEqual)
            };
            let (low, first, second, high) = if up(first) && up(second) {
                (low, *first, *second, high)
            } else if down(first) && down(second) {
                (high, flipped(*second), flipped(*first), low)
            } else {
                return None;
            };
            let open = if first == Relation::Less { '(' } else { '[' };
            let close = if second == Relation::Less { ')' } else { ']' };
            Some(Node::Group(open, close, vec![low.clone(), high.clone()]))
        }
        _ => None,
    }
}

fn rows_equal(left: &[Node], right: &[Node]) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|(left, right)| compare(left, right) == Comparison::Equal)
}

fn sets_equal(left: &[Node], right: &[Node]) -> bool {
    // Each pair is compared once: sets in sets would else double the work at every depth.
    let mut met = vec![false; right.len()];
    let mut all_left = true;
    for one in left {
        let mut found = false;
        for (other, met) in right.iter().zip(&mut met) {
            if compare(one, other) == Comparison::Equal {
                (found, *met) = (true, true);
            }
        }
        all_left &= found;
    }
    all_left && met.into_iter().all(|met| met)
}

/// Two equations whose differences are multiples of each other, or two inequalities whose
/// differences are positive ones.
fn relations_equal(left: &Node, right: &Node) -> bool {
    let parts = |node: &Node| match node {
        Node::Relation(sides, relations) if sides.len() == 2 => {
            Some((sides[0].clone(), sides[1].clone(), relations[0]))
        }
        _ => None,
    };
    let (Some((a, b, first)), Some((c, d, second))) = (parts(left), parts(right)) else {
        return left == right;
    };
    if first == Relation::In || second == Relation::In {
        return first == second && scalars_equal(&a, &c) && compare(&b, &d) == Comparison::Equal;
    }
    // a < b is b > a.
    let ordered = |low: Node, high: Node, relation: Relation| match relation {
        Relation::Greater => (high, low, Relation::Less),
        Relation::GreaterEqual => (high, low, Relation::LessEqual),
        other => (low, high, other),
    };
    let ((a, b, first), (c, d, second)) = (ordered(a, b, first), ordered(c, d, second));
    if first != second {
        return false;
    }
    let difference = |left: Node, right: Node| {
        Node::Binary(Operation::Add, Box::new(left), Box::new(Node::Negative(Box::new(right))))
    };
    let (one, two) = (difference(a, b), difference(c, d));
    let names = union_of(&one, &two);
    let mut ratio: Option<f64> = None;
    let mut compared = 0;
    for shift in 0..POINTS.len() {
        let values = points(&names, shift);
        let (Some(one), Some(two)) = (float(&one, &values), float(&two, &values)) else { continue };
        if one.abs() < 1e-9 || two.abs() < 1e-9 {
            if (one.abs() < 1e-9) != (two.abs() < 1e-9) {
                return false;
            }
            continue;
        }
        let here = one / two;
        if ratio.is_some_and(|ratio| (ratio - here).abs() > 1e-9 * ratio.abs()) {
            return false;
        }
        ratio = Some(here);
        compared += 1;
    }
    let symmetric = matches!(first, Relation::Equal | Relation::Unequal);
    compared >= 3 && ratio.is_some_and(|ratio| symmetric || ratio > 0.0)
}

fn scalars_equal(gold: &Node, given: &Node) -> bool {
    let names = union_of(gold, given);
    if names.is_empty() {
        return constants_equal(gold, given);
    }
    let mut compared = 0;
    for shift in 0..POINTS.len() {
        let values = points(&names, shift);
        if let (Some(left), Some(right)) = (exact(gold, &values), exact(given, &values)) {
            if left != right {
                return false;
            }
            compared += 1;
            continue;
        }
        match (float(gold, &values), float(given, &values)) {
            (Some(left), Some(right)) => {
                if (left - right).abs() > 1e-9 * left.abs().max(right.abs()).max(1e-3) {
                    return false;
                }
                compared += 1;
            }
            (None, None) => {}
            _ => return false,
        }
    }
    compared >= 3
}

fn constants_equal(gold: &Node, given: &Node) -> bool {
    let infinite = |node: &Node| match node {
        Node::Infinity => Some(true),
        Node::Negative(inside) if **inside == Node::Infinity => Some(false),
        _ => None,
    };
    if infinite(gold).is_some() || infinite(given).is_some() {
        return infinite(gold) == infinite(given);
    }
    let (left, right) = (exact(gold, &[]), exact(given, &[]));
    if let (Some(left), Some(right)) = (left, right)
        && left == right
    {
        return true;
    }
    // A rounded decimal stands for what rounds to it, never for another decimal.
    let decimals = match (decimals_of(gold), decimals_of(given)) {
        (None, Some(decimals)) | (Some(decimals), None) if decimals >= ROUNDED => Some(decimals),
        _ => None,
    };
    if let (Some(left), Some(right)) = (left, right) {
        // Fractions that differ do so exactly.
        let half = decimals.and_then(power_of_ten).and_then(|power| Rational::new(1, 2 * power));
        let gap = left.minus(right).map(Rational::absolute);
        return half
            .zip(gap)
            .and_then(|(half, gap)| gap.compare(half))
            .is_some_and(Ordering::is_le);
    }
    // An irrational root is no fraction, however near.
    let is_irrational = |node: &Node| {
        matches!(node, Node::Binary(Operation::Root, inside, degree)
            if exact(node, &[]).is_none()
                && exact(inside, &[]).is_some()
                && exact(degree, &[]).is_some())
    };
    let is_exact = |node: &Node| exact(node, &[]).is_some() && decimals.is_none();
    if (is_irrational(gold) && is_exact(given)) || (is_irrational(given) && is_exact(gold)) {
        return false;
    }
    let (Some(left), Some(right)) = (float(gold, &[]), float(given, &[])) else { return false };
    let gap = (left - right).abs();
    match decimals {
        // Beyond twelve decimals the floating-point number itself is no better.
        Some(decimals) if decimals <= 12 => gap <= 0.500_001 * 10_f64.powi(-(decimals as i32)),
        _ => gap <= 1e-12 * left.abs().max(right.abs()).max(1e-3),
    }
}

/// Decimals of a lone decimal number.
fn decimals_of(node: &Node) -> Option<usize> {
    match node {
        Node::Number(_, decimals) => *decimals,
        Node::Negative(inside) => decimals_of(inside),
        _ => None,
    }
}

fn union_of(left: &Node, right: &Node) -> Vec<String> {
    let mut names = letters(left);
    names.extend(letters(right));
    names.into_iter().collect()
}

/// Letters of an expression.
fn letters(node: &Node) -> BTreeSet<String> {
    fn gather(node: &Node, names: &mut BTreeSet<String>) {
        match node {
            Node::Variable(name) => {
                names.insert(name.clone());
            }
            Node::Negative(inside) | Node::Function(_, inside) => gather(inside, names),
            Node::Binary(_, left, right) => {
                gather(left, names);
                gather(right, names);
            }
            Node::Group(_, _, items) | Node::List(items) | Node::Union(items) => {
                for item in items {
                    gather(item, names);
                }
            }
            Node::Relation(sides, _) => {
                for side in sides {
                    gather(side, names);
                }
            }
            Node::Matrix(rows) => {
                for cell in rows.iter().flatten() {
                    gather(cell, names);
                }
            }
            Node::Number(..) | Node::Constant(_) | Node::Infinity => {}
        }
    }
    let mut names = BTreeSet::new();
    gather(node, &mut names);
    names
}

/// What each letter stands for at the point `shift`; different letters, different numbers.
fn points(names: &[String], shift: usize) -> Vec<(&str, Rational)> {
    names
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let round = (at / POINTS.len()) as i128;
            let top = POINTS[(at * 5 + shift) % POINTS.len()] + 31 * round;
            (name.as_str(), Rational::new(top, 7).expect("seven is not zero"))
        })
        .collect()
}

fn value_of(name: &str, values: &[(&str, Rational)]) -> Option<Rational> {
    values.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

/// The exact value, where it is rational and fits.
pub(super) fn exact(node: &Node, values: &[(&str, Rational)]) -> Option<Rational> {
    match node {
        Node::Number(value, _) => Some(*value),
        Node::Variable(name) => value_of(name, values),
        Node::Negative(inside) => exact(inside, values).map(Rational::negated),
        Node::Binary(operation, left, right) => {
            let (left, right) = (exact(left, values)?, exact(right, values)?);
            match operation {
                Operation::Add => left.plus(right),
                Operation::Multiply => left.times(right),
                Operation::Divide => left.over(right),
                // 0⁰ is left to the reader.
                Operation::Power if left == Rational::ZERO && right == Rational::ZERO => None,
                Operation::Power => left.to_the(right),
                Operation::Root => left.root(right),
            }
        }
        Node::Function(Function::Abs, inside) => exact(inside, values).map(Rational::absolute),
        Node::Function(Function::Factorial, inside) => {
            let number = exact(inside, values)?.as_whole().filter(|n| (0..=33).contains(n))?;
            Rational::whole((1..=number).product())
        }
        _ => None,
    }
}

/// The value as a floating-point number, where it is finite.
fn float(node: &Node, values: &[(&str, Rational)]) -> Option<f64> {
    let value = match node {
        Node::Number(value, _) => value.to_f64(),
        Node::Constant(value) => *value,
        Node::Variable(name) => value_of(name, values)?.to_f64(),
        Node::Negative(inside) => -float(inside, values)?,
        Node::Binary(operation, left, right) => {
            let (left, right) = (float(left, values)?, float(right, values)?);
            match operation {
                Operation::Add => left + right,
                Operation::Multiply => left * right,
                Operation::Divide => left / right,
                Operation::Power => left.powf(right),
                // Odd roots of negative numbers are real.
                Operation::Root if left < 0.0 && right == 3.0 => left.cbrt(),
                Operation::Root if right == 2.0 => left.sqrt(),
                Operation::Root => left.powf(1.0 / right),
            }
        }
        Node::Function(function, inside) => {
            let inside = float(inside, values)?;
            match function {
                Function::Sin => inside.sin(),
                Function::Cos => inside.cos(),
                Function::Tan => inside.tan(),
                Function::Ln => inside.ln(),
                Function::Log => inside.log10(),
                Function::Exp => inside.exp(),
                Function::Abs => inside.abs(),
                Function::Factorial => return exact(node, values).map(Rational::to_f64),
            }
        }
        _ => return None,
    };
    value.is_finite().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::expression::{Digits, read_expression};

    fn check(cases: &[(&str, &str, Comparison)]) {
        for (gold, given, expect) in cases {
            let read = |text| read_expression(text, Digits::PointGrouped).unwrap().node;
            assert_eq!(compare(&read(gold), &read(given)), *expect, "{gold:?} against {given:?}");
        }
    }

    #[test]
    fn sets_in_sets_take_no_longer_at_each_depth() {
        let text = format!("{}1{}", r"\{".repeat(23), r"\}".repeat(23));
        let deep = read_expression(&text, Digits::Point).unwrap().node;
        assert_eq!(compare(&deep, &deep), Comparison::Equal);
        let deeper = format!("{}1{}", r"\{".repeat(200), r"\}".repeat(200));
        assert_eq!(read_expression(&deeper, Digits::Point), None);
    }

    #[test]
    fn expressions_are_equal_in_any_form() {
        use Comparison::{Different, Equal, OtherKind};
        check(&[
            ("1/2", r"\frac{1}{2}", Equal),
            ("1/2", r"\frac12", Equal),
            (r"\frac{2}{4}", "0.5", Equal),
            ("1/3", "0.333333", Equal),
            ("1/3", "0.333334", Different),
            ("1", "0.999999999999999999", Different),
            ("10^{10}", r"\sqrt{10^{20}+1}", Different),
            (r"\sqrt{2}", "1.4142135624", Equal),
            (r"(\sqrt{2})^2", "2", Equal),
            (r"\emptyset", r"\{\}", Equal),
            ("1/3", "0.33", Different),
            ("0.333333", "0.3333333", Different),
            (r"\sqrt{8}", r"2\sqrt{2}", Equal),
            (r"\sqrt[3]{27}", "3", Equal),
            (r"2\pi", "6.283185", Equal),
            (r"2\pi", "6.28", Different),
            ("x^2-1", "(x-1)(x+1)", Equal),
            ("(x+y)^2", "x^2+2xy+y^2", Equal),
            ("(x+y)^2", "x^2+y^2", Different),
            (r"\sqrt{x^2}", "x", Different),
            (r"\frac{x}{2}", "0.5x", Equal),
            (r"1\frac{3}{4}", "7/4", Equal),
            ("1 3/4", "7/4", Equal),
            (r"\{1,2\}", r"\{2, 1\}", Equal),
            (r"\{1,2\}", "1, 2", Equal),
            (r"\{1,2\}", r"\{1,3\}", Different),
            ("(1,2)", "(2,1)", Different),
            ("(1,2)", "]1,2[", Equal),
            ("[1,2)", "[1,2[", Equal),
            ("[1,2)", "(1,2)", Different),
            (r"(-\infty, 3]", r"x \le 3", Equal),
            (r"(1,3]", r"1 < x \leq 3", Equal),
            (r"(-\infty,1)\cup(2,\infty)", r"(2,\infty)\cup(-\infty,1)", Equal),
            ("x=5", "5", Equal),
            ("5", "x = 2+3 = 5", Equal),
            ("y=2x+1", "y-2x=1", Equal),
            ("y=2x+1", "y=2x", Different),
            ("x=1,x=2", "1,2", Equal),
            ("x=1,y=2", "x=2,y=1", Different),
            (r"2\pm1", "1,3", Equal),
            ("5!", "120", Equal),
            ("2^{10}", "1024", Equal),
            ("1e3", "1000", Equal),
            (
                r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
                r"\begin{bmatrix}1&2\\3&4\end{bmatrix}",
                Equal,
            ),
            ("3", "(3,4)", OtherKind),
        ]);
    }
}
