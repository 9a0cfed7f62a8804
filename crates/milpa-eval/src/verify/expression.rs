//! Mathematical expressions in LaTeX or plain text: what they say, read under one decimal mark.
//!
//! A small part of both: fractions, roots, powers, functions, sets, intervals, tuples, matrices,
//! equations and inequalities. Depth and length are bounded. What it cannot read it refuses; it
//! compares nothing.

use crate::verify::rational::Rational;

/// An expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A number and, where it was written as a decimal, its decimals.
    Number(Rational, Option<usize>),
    /// π or e.
    Constant(f64),
    /// ∞.
    Infinity,
    /// A letter.
    Variable(String),
    /// The negative.
    Negative(Box<Node>),
    /// A sum, product, quotient, power or root (radicand, degree).
    Binary(Operation, Box<Node>, Box<Node>),
    /// A function of one argument.
    Function(Function, Box<Node>),
    /// What stands in brackets, with both; a lone expression in parentheses is not kept as one.
    Group(char, char, Vec<Node>),
    /// Expressions between commas without brackets.
    List(Vec<Node>),
    /// Rows of a matrix.
    Matrix(Vec<Vec<Node>>),
    /// A union of sets.
    Union(Vec<Node>),
    /// `a < b = c`: the expressions and what stands between them.
    Relation(Vec<Node>, Vec<Relation>),
}

/// An operation on two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Sum.
    Add,
    /// Product.
    Multiply,
    /// Quotient.
    Divide,
    /// Power.
    Power,
    /// Root; the second is the degree.
    Root,
}

/// A function of one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Sine.
    Sin,
    /// Cosine.
    Cos,
    /// Tangent.
    Tan,
    /// Natural logarithm.
    Ln,
    /// Decimal logarithm.
    Log,
    /// Exponential.
    Exp,
    /// Absolute value.
    Abs,
    /// Factorial.
    Factorial,
}

/// What stands between the sides of an equation or inequality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// =
    Equal,
    /// <
    Less,
    /// ≤
    LessEqual,
    /// >
    Greater,
    /// ≥
    GreaterEqual,
    /// ≠
    Unequal,
    /// ∈
    In,
}

/// How commas and points between digits are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Digits {
    /// `1,234.5`.
    PointGrouped,
    /// `1234.5`; each comma separates.
    Point,
    /// `1.234,5`.
    CommaGrouped,
    /// Each comma separates, points group.
    Comma,
}

/// An expression with the units that stood beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The expression.
    pub node: Node,
    /// Words in `\text{}` or known units, in order.
    pub units: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Number(Rational, Option<usize>),
    Name(String),
    Operator(char),
    Open(char),
    Close(char),
    Separator,
    Relation(Relation),
    Bar,
    Fraction,
    Root,
    Union,
    PlusMinus,
    Infinity,
    Function(Function),
    Pi,
    Cell,
    Row,
    BeginMatrix,
    EndMatrix,
}

const MAX_TOKENS: usize = 600;
const MAX_DEPTH: usize = 48;
const MAX_BYTES: usize = 4096;

/// Reads an expression; `None` for what this reader does not know.
pub fn read_expression(text: &str, digits: Digits) -> Option<Reading> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let (tokens, units) = tokens_of(text, digits)?;
    let plus_minus = tokens.contains(&Token::PlusMinus);
    let read = |sign: char| {
        let mut parser = Parser { tokens: &tokens, at: 0, depth: 0, sign };
        let node = parser.list()?;
        (parser.at == tokens.len()).then_some(node)
    };
    let node = if plus_minus {
        // "2 ± 1" and "x = ± 2" are both of their solutions.
        Node::List(vec![read('+')?, read('-')?])
    } else {
        read('+')?
    };
    Some(Reading { node, units })
}

/// Words that are units where they stand by a number; they change no value.
const UNIT_WORDS: [&str; 40] = [
    "cm", "mm", "km", "kg", "mg", "ml", "mL", "min", "hours", "hour", "horas", "hora", "minutes",
    "minutos", "seconds", "segundos", "days", "day", "días", "dias", "meters", "metros", "miles",
    "feet", "foot", "inches", "units", "unidades", "dollars", "dólares", "pesos", "reais",
    "degrees", "grados", "graus", "cents", "pounds", "grams", "gramos", "square",
];

fn tokens_of(text: &str, digits: Digits) -> Option<(Vec<Token>, Vec<String>)> {
    let mut tokens = Vec::new();
    let mut units = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if tokens.len() > MAX_TOKENS {
            return None;
        }
        if first.is_ascii_digit() || starts_decimal(rest, digits) {
            let (value, decimals, length) = number_at(rest, digits)?;
            tokens.push(Token::Number(value, decimals));
            rest = &rest[length..];
            continue;
        }
        if let Some(command) = rest.strip_prefix('\\') {
            rest = command_of(command, &mut tokens, &mut units)?;
            continue;
        }
        if first.is_alphabetic() {
            let length = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
            word(&rest[..length], &mut tokens, &mut units)?;
            rest = &rest[length..];
            continue;
        }
        let mut length = first.len_utf8();
        let two = rest.get(..2).unwrap_or("");
        match first {
            _ if two == "**" => {
                tokens.push(Token::Operator('^'));
                length = 2;
            }
            _ if two == "<=" || two == ">=" || two == "!=" || two == "==" => {
                tokens.push(Token::Relation(match two {
                    "<=" => Relation::LessEqual,
                    ">=" => Relation::GreaterEqual,
                    "!=" => Relation::Unequal,
                    _ => Relation::Equal,
                }));
                length = 2;
            }
            '+' | '-' | '*' | '/' | '^' | '!' | '%' | '_' => tokens.push(Token::Operator(first)),
            '·' | '×' => tokens.push(Token::Operator('*')),
            '÷' => tokens.push(Token::Operator('/')),
            '²' => tokens.extend([Token::Operator('^'), Token::Number(Rational::whole(2)?, None)]),
            '³' => tokens.extend([Token::Operator('^'), Token::Number(Rational::whole(3)?, None)]),
            '√' => tokens.push(Token::Root),
            '∅' => tokens.extend([Token::Open('S'), Token::Close('S')]),
            '∞' => tokens.push(Token::Infinity),
            '∪' => tokens.push(Token::Union),
            '±' => tokens.push(Token::PlusMinus),
            '∈' => tokens.push(Token::Relation(Relation::In)),
            '=' => tokens.push(Token::Relation(Relation::Equal)),
            '<' => tokens.push(Token::Relation(Relation::Less)),
            '>' => tokens.push(Token::Relation(Relation::Greater)),
            '≤' => tokens.push(Token::Relation(Relation::LessEqual)),
            '≥' => tokens.push(Token::Relation(Relation::GreaterEqual)),
            '≠' => tokens.push(Token::Relation(Relation::Unequal)),
            '(' | '[' | '{' => tokens.push(Token::Open(first)),
            ')' | ']' | '}' => tokens.push(Token::Close(first)),
            ',' | ';' => tokens.push(Token::Separator),
            '|' => tokens.push(Token::Bar),
            '&' => tokens.push(Token::Cell),
            '°' => units.push("°".to_owned()),
            '$' => {}
            _ if first.is_whitespace() => {}
            _ => return None,
        }
        rest = &rest[length..];
    }
    Some((tokens, units))
}

fn starts_decimal(rest: &str, digits: Digits) -> bool {
    let mark = if matches!(digits, Digits::Point | Digits::PointGrouped) { '.' } else { ',' };
    digits != Digits::Comma
        && rest
            .strip_prefix(mark)
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        && mark == '.'
}

fn number_at(text: &str, digits: Digits) -> Option<(Rational, Option<usize>, usize)> {
    let run = |at: usize| text[at..].bytes().take_while(u8::is_ascii_digit).count();
    let (group, decimal) = match digits {
        Digits::PointGrouped => (Some(','), Some('.')),
        Digits::Point => (None, Some('.')),
        Digits::CommaGrouped => (Some('.'), Some(',')),
        Digits::Comma => (Some('.'), None),
    };
    let mut end = run(0);
    let mut all = text[..end].to_owned();
    if (1..=3).contains(&end) && !text.starts_with('0') {
        let mut kind = None;
        while let Some(mark) = text[end..].chars().next() {
            let is_space = matches!(mark, ' ' | '\u{a0}' | '\u{202f}' | '\u{2009}');
            let next = end + mark.len_utf8();
            if !(Some(mark) == group || is_space)
                || run(next) != 3
                || kind.is_some_and(|kind| kind != mark)
            {
                break;
            }
            kind = Some(mark);
            all.push_str(&text[next..next + 3]);
            end = next + 3;
        }
    }
    let mut decimals = None;
    if let Some(mark) = decimal
        && text[end..].starts_with(mark)
        && run(end + 1) > 0
    {
        let length = run(end + 1);
        all.push_str(&text[end + 1..end + 1 + length]);
        decimals = Some(length);
        end += 1 + length;
    }
    if all.len() > 38 {
        return None;
    }
    let mut value = Rational::decimal(&all, decimals.unwrap_or(0))?;
    if let Some(exponent) = text[end..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['-', '+']));
        let length = exponent[sign..].bytes().take_while(u8::is_ascii_digit).count();
        if (1..=3).contains(&length) {
            let power = exponent[..sign + length].trim_start_matches('+').parse().ok()?;
            value = value.times(Rational::whole(10)?.to_the(Rational::whole(power)?)?)?;
            end += 1 + sign + length;
        }
    }
    Some((value, decimals, end))
}

/// Reads a LaTeX command after its backslash and returns what follows it.
fn command_of<'a>(
    command: &'a str,
    tokens: &mut Vec<Token>,
    units: &mut Vec<String>,
) -> Option<&'a str> {
    let length = command.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(command.len());
    if length == 0 {
        let first = command.chars().next()?;
        match first {
            '{' => tokens.push(Token::Open('S')),
            '}' => tokens.push(Token::Close('S')),
            '\\' => tokens.push(Token::Row),
            '(' | ')' | '[' | ']' => {}
            '|' => tokens.push(Token::Bar),
            _ => return None,
        }
        return Some(&command[first.len_utf8()..]);
    }
    let (name, mut rest) = command.split_at(length);
    match name {
        "frac" | "dfrac" | "tfrac" | "cfrac" => {
            tokens.push(Token::Fraction);
            // \frac12 is \frac{1}{2}.
            for _ in 0..2 {
                rest = rest.trim_start();
                if rest.starts_with(|c: char| c.is_ascii_digit()) {
                    let value = Rational::decimal(&rest[..1], 0)?;
                    tokens.push(Token::Number(value, None));
                    rest = &rest[1..];
                } else {
                    break;
                }
            }
        }
        "sqrt" => tokens.push(Token::Root),
        "cdot" | "times" | "ast" => tokens.push(Token::Operator('*')),
        "div" => tokens.push(Token::Operator('/')),
        "pm" | "mp" => tokens.push(Token::PlusMinus),
        "emptyset" | "varnothing" => tokens.extend([Token::Open('S'), Token::Close('S')]),
        "infty" => tokens.push(Token::Infinity),
        "cup" => tokens.push(Token::Union),
        "pi" => tokens.push(Token::Pi),
        "in" => tokens.push(Token::Relation(Relation::In)),
        "lt" => tokens.push(Token::Relation(Relation::Less)),
        "gt" => tokens.push(Token::Relation(Relation::Greater)),
        "le" | "leq" | "leqslant" => tokens.push(Token::Relation(Relation::LessEqual)),
        "ge" | "geq" | "geqslant" => tokens.push(Token::Relation(Relation::GreaterEqual)),
        "ne" | "neq" => tokens.push(Token::Relation(Relation::Unequal)),
        "lbrace" => tokens.push(Token::Open('S')),
        "rbrace" => tokens.push(Token::Close('S')),
        "lvert" | "rvert" | "vert" => tokens.push(Token::Bar),
        "left" | "right" | "big" | "Big" | "bigl" | "bigr" | "displaystyle" | "quad" | "qquad"
        | "limits" => {}
        "circ" | "degree" => {
            // 30^\circ: the power sign belongs to the degree.
            if tokens.last() == Some(&Token::Open('{')) {
                tokens.pop();
                rest = rest.strip_prefix('}')?;
            }
            if tokens.last() == Some(&Token::Operator('^')) {
                tokens.pop();
            }
            units.push("°".to_owned());
        }
        "begin" | "end" => {
            let (environment, after) = braced(rest)?;
            if !environment.ends_with("matrix") {
                return None;
            }
            tokens.push(if name == "begin" { Token::BeginMatrix } else { Token::EndMatrix });
            rest = after;
        }
        "text" | "textbf" | "mathrm" | "mbox" | "operatorname" | "textrm" => {
            let (inner, after) = braced(rest)?;
            rest = after;
            // A power of a unit belongs to it: \text{cm}^2.
            let mut unit = inner.trim().trim_end_matches('.').to_owned();
            match unit.as_str() {
                "and" | "or" | "y" | "o" | "e" | "ou" => tokens.push(Token::Separator),
                _ => {
                    for power in ["^2", "^{2}", "^3", "^{3}"] {
                        if let Some(after) = rest.strip_prefix(power) {
                            unit.push(if power.contains('2') { '2' } else { '3' });
                            rest = after;
                            break;
                        }
                    }
                    if function_of(&unit).is_some()
                        || unit.chars().count() == 1 && tokens.is_empty()
                    {
                        word(&unit, tokens, units)?;
                    } else if !unit.is_empty() {
                        units.push(unit);
                    }
                }
            }
        }
        "mathbb" | "mathbf" | "mathcal" => {
            let (inner, after) = braced(rest)?;
            tokens.push(Token::Name(format!("\\{}", inner.trim())));
            rest = after;
        }
        _ => match function_of(name) {
            Some(function) => tokens.push(Token::Function(function)),
            // Greek letters are variables.
            None if name.len() <= 8 => tokens.push(Token::Name(format!("\\{name}"))),
            None => return None,
        },
    }
    Some(rest)
}

/// `{inner}` and what follows.
fn braced(text: &str) -> Option<(&str, &str)> {
    let inner = text.trim_start().strip_prefix('{')?;
    let end = inner.find('}')?;
    Some((&inner[..end], &inner[end + 1..]))
}

fn function_of(name: &str) -> Option<Function> {
    Some(match name {
        "sin" | "sen" => Function::Sin,
        "cos" => Function::Cos,
        "tan" | "tg" => Function::Tan,
        "ln" => Function::Ln,
        "log" => Function::Log,
        "exp" => Function::Exp,
        "abs" => Function::Abs,
        _ => return None,
    })
}

fn word(text: &str, tokens: &mut Vec<Token>, units: &mut Vec<String>) -> Option<()> {
    match text {
        "pi" | "π" => tokens.push(Token::Pi),
        "sqrt" => tokens.push(Token::Root),
        "inf" | "oo" | "infinity" => tokens.push(Token::Infinity),
        "and" | "or" | "ou" => tokens.push(Token::Separator),
        "U" if matches!(tokens.last(), Some(Token::Close(_))) => tokens.push(Token::Union),
        _ => {
            if let Some(function) = function_of(text) {
                tokens.push(Token::Function(function));
            } else if UNIT_WORDS.contains(&text) {
                units.push(text.to_owned());
            } else if text.chars().count() <= 3 {
                tokens.extend(text.chars().map(|c| Token::Name(c.to_string())));
            } else {
                return None;
            }
        }
    }
    Some(())
}

struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    depth: usize,
    /// What ± is this time.
    sign: char,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn take(&mut self, token: &Token) -> bool {
        let is_next = self.peek() == Some(token);
        self.at += usize::from(is_next);
        is_next
    }

    fn list(&mut self) -> Option<Node> {
        let mut items = self.items()?;
        match items.len() {
            0 => None,
            1 => items.pop(),
            _ => Some(Node::List(items)),
        }
    }

    fn items(&mut self) -> Option<Vec<Node>> {
        let mut items = vec![self.relation()?];
        while self.take(&Token::Separator) {
            // "1, and 2" has two separators.
            while self.take(&Token::Separator) {}
            items.push(self.relation()?);
        }
        Some(items)
    }

    fn relation(&mut self) -> Option<Node> {
        let mut sides = vec![self.union()?];
        let mut relations = Vec::new();
        while let Some(Token::Relation(relation)) = self.peek() {
            relations.push(*relation);
            self.at += 1;
            sides.push(self.union()?);
        }
        if relations.is_empty() { sides.pop() } else { Some(Node::Relation(sides, relations)) }
    }

    fn union(&mut self) -> Option<Node> {
        let mut sets = vec![self.sum()?];
        while self.take(&Token::Union) {
            sets.push(self.sum()?);
        }
        if sets.len() == 1 { sets.pop() } else { Some(Node::Union(sets)) }
    }

    fn sum(&mut self) -> Option<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut left = self.product()?;
        loop {
            let negative = match self.peek() {
                Some(Token::Operator('+')) => false,
                Some(Token::Operator('-')) => true,
                Some(Token::PlusMinus) => self.sign == '-',
                _ => break,
            };
            self.at += 1;
            let right = self.product()?;
            let right = if negative { Node::Negative(Box::new(right)) } else { right };
            left = Node::Binary(Operation::Add, Box::new(left), Box::new(right));
        }
        self.depth -= 1;
        Some(left)
    }

    fn product(&mut self) -> Option<Node> {
        let mut left = self.signed()?;
        loop {
            let operation = match self.peek() {
                Some(Token::Operator('*')) => Operation::Multiply,
                Some(Token::Operator('/')) => Operation::Divide,
                // A number and a fraction of numbers are a mixed number, not a product.
                Some(Token::Fraction) if self.is_mixed() => {
                    let part = self.power()?;
                    left = Node::Binary(Operation::Add, Box::new(left), Box::new(part));
                    continue;
                }
                Some(Token::Number(top, None)) if self.is_plain_mixed() => {
                    let Some(Token::Number(bottom, None)) = self.tokens.get(self.at + 2) else {
                        return None;
                    };
                    let part = Node::Number(top.over(*bottom)?, None);
                    left = Node::Binary(Operation::Add, Box::new(left), Box::new(part));
                    self.at += 3;
                    continue;
                }
                Some(
                    Token::Name(_)
                    | Token::Pi
                    | Token::Fraction
                    | Token::Root
                    | Token::Function(_)
                    | Token::Open('(' | '{'),
                ) => {
                    let right = self.power()?;
                    left = Node::Binary(Operation::Multiply, Box::new(left), Box::new(right));
                    continue;
                }
                _ => return Some(left),
            };
            self.at += 1;
            let right = self.signed()?;
            left = Node::Binary(operation, Box::new(left), Box::new(right));
        }
    }

    fn previous_is_whole(&self) -> bool {
        self.at > 0
            && matches!(self.tokens[self.at - 1], Token::Number(_, None))
            && !matches!(
                self.at.checked_sub(2).and_then(|at| self.tokens.get(at)),
                Some(Token::Operator('^' | '/' | '*') | Token::Name(_))
            )
    }

    fn is_mixed(&self) -> bool {
        let number =
            |at: usize| matches!(self.tokens.get(self.at + at), Some(Token::Number(_, None)));
        let is = |at: usize, token: &Token| self.tokens.get(self.at + at) == Some(token);
        let braces = is(1, &Token::Open('{'))
            && number(2)
            && is(3, &Token::Close('}'))
            && is(4, &Token::Open('{'))
            && number(5)
            && is(6, &Token::Close('}'));
        self.previous_is_whole() && (braces || (number(1) && number(2)))
    }

    fn is_plain_mixed(&self) -> bool {
        self.previous_is_whole()
            && self.tokens.get(self.at + 1) == Some(&Token::Operator('/'))
            && matches!(self.tokens.get(self.at + 2), Some(Token::Number(_, None)))
    }

    fn signed(&mut self) -> Option<Node> {
        let mut negative = false;
        loop {
            match self.peek() {
                Some(Token::Operator('-')) => negative = !negative,
                Some(Token::Operator('+')) => {}
                Some(Token::PlusMinus) => negative ^= self.sign == '-',
                _ => break,
            }
            self.at += 1;
        }
        let node = self.power()?;
        Some(if negative { Node::Negative(Box::new(node)) } else { node })
    }

    fn power(&mut self) -> Option<Node> {
        let mut base = self.atom()?;
        loop {
            if self.take(&Token::Operator('!')) {
                base = Node::Function(Function::Factorial, Box::new(base));
            } else if self.take(&Token::Operator('%')) {
                let hundred = Node::Number(Rational::whole(100)?, None);
                base = Node::Binary(Operation::Divide, Box::new(base), Box::new(hundred));
            } else if self.take(&Token::Operator('_')) {
                // x_1 is a name of its own.
                let Node::Variable(name) = base else { return None };
                let index = match self.atom()? {
                    Node::Number(value, _) => value.to_string(),
                    Node::Variable(name) => name,
                    _ => return None,
                };
                base = Node::Variable(format!("{name}_{index}"));
            } else {
                break;
            }
        }
        if !self.take(&Token::Operator('^')) {
            return Some(base);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let exponent = if self.peek() == Some(&Token::Operator('-')) {
            self.at += 1;
            Node::Negative(Box::new(self.power()?))
        } else {
            self.power()?
        };
        self.depth -= 1;
        Some(Node::Binary(Operation::Power, Box::new(base), Box::new(exponent)))
    }

    fn atom(&mut self) -> Option<Node> {
        let token = self.peek()?.clone();
        self.at += 1;
        match token {
            Token::Number(value, decimals) => Some(Node::Number(value, decimals)),
            Token::Pi => Some(Node::Constant(std::f64::consts::PI)),
            Token::Name(name) if name == "e" => Some(Node::Constant(std::f64::consts::E)),
            Token::Name(name) => Some(Node::Variable(name)),
            Token::Infinity => Some(Node::Infinity),
            Token::Fraction => {
                let top = self.atom()?;
                let bottom = self.atom()?;
                Some(Node::Binary(Operation::Divide, Box::new(top), Box::new(bottom)))
            }
            Token::Root => {
                let degree = if self.take(&Token::Open('[')) {
                    let degree = self.sum()?;
                    self.take(&Token::Close(']')).then_some(degree)?
                } else {
                    Node::Number(Rational::whole(2)?, None)
                };
                let inside = self.atom()?;
                Some(Node::Binary(Operation::Root, Box::new(inside), Box::new(degree)))
            }
            Token::Function(function) => {
                if function == Function::Log && self.take(&Token::Operator('_')) {
                    let base = self.atom()?;
                    let of = self.power()?;
                    let ln = |node| Box::new(Node::Function(Function::Ln, Box::new(node)));
                    return Some(Node::Binary(Operation::Divide, ln(of), ln(base)));
                }
                let power =
                    if self.take(&Token::Operator('^')) { Some(self.atom()?) } else { None };
                let of = Node::Function(function, Box::new(self.power()?));
                Some(match power {
                    Some(power) => Node::Binary(Operation::Power, Box::new(of), Box::new(power)),
                    None => of,
                })
            }
            Token::Bar => {
                let inside = self.sum()?;
                self.take(&Token::Bar).then(|| Node::Function(Function::Abs, Box::new(inside)))
            }
            Token::BeginMatrix => self.matrix(),
            Token::Open(open) => self.group(open),
            // ]1, 2[ is the open interval of French and Latin American schools.
            Token::Close(']') => self.group(']'),
            _ => None,
        }
    }

    fn group(&mut self, open: char) -> Option<Node> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let empty = matches!((open, self.peek()), ('S', Some(Token::Close('S'))));
        let mut items = if empty { Vec::new() } else { self.items()? };
        self.depth -= 1;
        let close = match self.peek()? {
            Token::Close(close) => *close,
            Token::Open('[') if matches!(open, ']' | '[' | '(') => '[',
            _ => return None,
        };
        self.at += 1;
        let is_interval = |c: char| matches!(c, '(' | ')' | '[' | ']');
        match (open, close) {
            ('{', '}') if items.len() == 1 => items.pop(),
            ('(', ')') if items.len() == 1 && !matches!(items[0], Node::Relation(..)) => {
                items.pop()
            }
            ('{', '}') | ('S', 'S') => Some(Node::Group('{', '}', items)),
            (open, close) if is_interval(open) && is_interval(close) => {
                let open = if open == ']' { '(' } else { open };
                let close = if close == '[' { ')' } else { close };
                Some(Node::Group(open, close, items))
            }
            _ => None,
        }
    }

    fn matrix(&mut self) -> Option<Node> {
        let mut rows = vec![Vec::new()];
        loop {
            if self.take(&Token::EndMatrix) {
                break;
            }
            rows.last_mut()?.push(self.sum()?);
            if self.take(&Token::Row) {
                if self.peek() != Some(&Token::EndMatrix) {
                    rows.push(Vec::new());
                }
            } else if !self.take(&Token::Cell) && self.peek() != Some(&Token::EndMatrix) {
                return None;
            }
        }
        Some(Node::Matrix(rows))
    }
}
