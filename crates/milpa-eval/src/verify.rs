//! Verifiers: whether a response holds the right answer, and why or why not.
//!
//! A [`Verifier`] is data (a task file names it) and gives a [`Verdict`] with a typed reason, for
//! scores today and rewards of reinforcement learning later. When in doubt it rejects: a reward for
//! a wrong answer teaches it. It knows no model; programs run in `milpa-sandbox`.

pub mod answer;
pub mod choice;
pub mod code;
pub mod date;
pub mod equality;
pub mod expression;
pub mod form;
mod judge;
pub mod number;
pub mod rational;
pub mod schema;
pub mod unit;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use answer::Place;
pub use date::DateOrder;
pub use form::{Form, LengthUnit, Pattern};
pub use number::Marks;
pub use rational::Rational;

/// How a response is held against the right answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Verifier {
    /// A number in the forms of a country.
    Number {
        /// Decimal mark of the response.
        #[serde(default)]
        marks: Marks,
        /// Where the answer stands.
        #[serde(default)]
        place: Place,
        /// Largest relative difference; 0 is exact.
        #[serde(default)]
        tolerance: f64,
    },
    /// LaTeX or plain mathematics: fractions, roots, sets, intervals, equations.
    Math {
        /// Decimal mark of the response.
        #[serde(default)]
        marks: Marks,
        /// Where the answer stands.
        #[serde(default)]
        place: Place,
    },
    /// A number with a unit; other units of the same kind are converted.
    Quantity {
        /// Decimal mark of the response.
        #[serde(default)]
        marks: Marks,
        /// Where the answer stands.
        #[serde(default)]
        place: Place,
        /// Largest relative difference; 0 is exact.
        #[serde(default)]
        tolerance: f64,
    },
    /// A date, a month or a year.
    Date {
        /// What `6/3/1927` is.
        #[serde(default)]
        order: DateOrder,
        /// Where the answer stands.
        #[serde(default)]
        place: Place,
    },
    /// A letter of multiple choice.
    Choice {
        /// How many letters there are, from A.
        #[serde(default = "five")]
        choices: u8,
    },
    /// JSON of a schema; the right answer is not looked at.
    Json {
        /// The schema (a subset of draft 2020-12, see [`schema`]).
        schema: Value,
    },
    /// A regular expression; the right answer is not looked at.
    Pattern {
        /// The expression.
        pattern: Pattern,
    },
    /// A length; the right answer is not looked at.
    Length {
        /// What is counted.
        unit: LengthUnit,
        /// Fewest.
        #[serde(default)]
        min: usize,
        /// Most; none when absent.
        #[serde(default)]
        max: Option<usize>,
    },
    /// A program; the right answer is its tests ([`code::CodeTests`]).
    Code {
        /// Which block of the response it is.
        #[serde(default)]
        block: code::Block,
    },
    /// A form of text; the right answer is not looked at.
    Form {
        /// The form.
        form: Form,
    },
}

fn five() -> u8 {
    5
}

/// What a verifier says of a response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Right, wrong, or not to be read.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
}

/// Right, wrong, or not to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The response is right.
    Correct,
    /// It is not.
    Incorrect,
    /// No answer could be read from it; scores count it as wrong.
    Unreadable,
}

/// Why a response is right or wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum Reason {
    /// The same.
    Equal,
    /// Within the tolerance.
    WithinTolerance,
    /// Fits the schema, pattern, length or form.
    Fits,
    /// Something else.
    Different {
        /// What was read.
        given: String,
        /// What is right.
        gold: String,
    },
    /// The same digits, one of them a percentage: 25 is not 25 %.
    PercentSign,
    /// A unit of another kind or size.
    OtherUnit {
        /// What was read.
        given: String,
        /// What is right.
        gold: String,
    },
    /// Another currency.
    OtherCurrency {
        /// What was read.
        given: String,
        /// What is right.
        gold: String,
    },
    /// Several answers at once.
    SeveralAnswers,
    /// Digits that mean one number with a decimal point and another with a decimal comma.
    Ambiguous {
        /// With a point.
        point: String,
        /// With a comma.
        comma: String,
    },
    /// Less precise than the right answer, such as a year for a day.
    LessPrecise,
    /// No answer of the kind stands in the response.
    NoAnswer,
    /// The right answer of the item itself cannot be read: the item is wrong, not the model.
    UnreadableGold {
        /// The right answer as given.
        gold: String,
    },
    /// The response has no program.
    NoCode,
    /// The program passes its tests.
    PassesTests {
        /// How many.
        tests: usize,
    },
    /// The program fails a test.
    FailsTest {
        /// The number of the test, from 1.
        test: usize,
        /// How.
        failure: code::CodeFailure,
    },
    /// Breaks the schema, pattern, length or form.
    Breaks {
        /// What is broken, and where.
        what: String,
    },
}

impl Verdict {
    /// Whether the response is right.
    pub fn is_correct(&self) -> bool {
        self.outcome == Outcome::Correct
    }

    fn correct(reason: Reason) -> Self {
        Self { outcome: Outcome::Correct, reason }
    }

    fn incorrect(reason: Reason) -> Self {
        Self { outcome: Outcome::Incorrect, reason }
    }

    fn unreadable(reason: Reason) -> Self {
        Self { outcome: Outcome::Unreadable, reason }
    }

    fn fits(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Self::correct(Reason::Fits),
            Err(what) => Self::incorrect(Reason::Breaks { what }),
        }
    }
}

impl Reason {
    /// The kind of the reason as files name it, such as `no_answer`.
    pub fn kind(&self) -> String {
        let written = serde_json::to_value(self).expect("plain data serialises");
        written["why"].as_str().expect("a reason is written with its kind").to_owned()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Equal => write!(formatter, "equal"),
            Self::WithinTolerance => write!(formatter, "within the tolerance"),
            Self::Fits => write!(formatter, "fits"),
            Self::Different { given, gold } => write!(formatter, "{given} is not {gold}"),
            Self::PercentSign => write!(formatter, "a percentage and a number with its digits"),
            Self::OtherUnit { given, gold } => write!(formatter, "{given} is no {gold}"),
            Self::OtherCurrency { given, gold } => {
                write!(formatter, "the currency is {given}, not {gold}")
            }
            Self::SeveralAnswers => write!(formatter, "several answers at once"),
            Self::Ambiguous { point, comma } => {
                write!(formatter, "either {point} (decimal point) or {comma} (decimal comma)")
            }
            Self::LessPrecise => write!(formatter, "less precise than the right answer"),
            Self::NoAnswer => write!(formatter, "no answer of this kind stands in the response"),
            Self::UnreadableGold { gold } => {
                write!(formatter, "the right answer {gold:?} of the item cannot be read")
            }
            Self::NoCode => write!(formatter, "no program stands in the response"),
            Self::PassesTests { tests } => write!(formatter, "passes {tests} tests"),
            Self::FailsTest { test, failure } => write!(formatter, "test {test}: {failure}"),
            Self::Breaks { what } => write!(formatter, "{what}"),
        }
    }
}

impl Verifier {
    /// Holds `response` against the right answer `gold`.
    ///
    /// Right answers write decimals with a point unless they can only be read with a comma. Any
    /// response gives a verdict in bounded time; of more than 64 KiB the end counts.
    pub fn verify(&self, gold: &str, response: &str) -> Verdict {
        let response = answer::tail(response);
        match self {
            Self::Number { marks, place, tolerance } => {
                judge::number(gold, response, *marks, *place, *tolerance)
            }
            Self::Math { marks, place } => judge::math(gold, response, *marks, *place),
            Self::Quantity { marks, place, tolerance } => {
                judge::quantity(gold, response, *marks, *place, *tolerance)
            }
            Self::Date { order, place } => date::judge(gold, response, *order, *place),
            Self::Choice { choices } => choice::judge(gold, response, *choices),
            Self::Json { schema } => Verdict::fits(schema::check_text(schema, response)),
            Self::Pattern { pattern } => Verdict::fits(pattern.check(response)),
            Self::Length { unit, min, max } => Verdict::fits(unit.check(response, *min, *max)),
            Self::Code { block } => code::judge(gold, response, *block),
            Self::Form { form } => Verdict::fits(form.check(response)),
        }
    }

    /// The verifier of a metric's name such as `verify_number`; `None` for another name.
    pub fn of_metric(name: &str, marks: Marks, place: Place, block: code::Block) -> Option<Self> {
        Some(match name {
            "verify_number" => Self::Number { marks, place, tolerance: 0.0 },
            "verify_math" => Self::Math { marks, place },
            "verify_quantity" => Self::Quantity { marks, place, tolerance: 0.0 },
            "verify_date" => Self::Date { order: DateOrder::default(), place },
            "verify_code" => Self::Code { block },
            "verify_choice" => Self::Choice { choices: five() },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
