//! Programs: whether the code in a response does what its tests ask.
//!
//! The code runs in `milpa-sandbox`, a fresh engine for each test, and what it gives is compared
//! here, outside. The right results never enter the engine that the program runs in, so there is
//! nothing to find, and no equality, assertion or exit of its own counts. Assertions run in an
//! engine of their own that asks the program for values. Only JavaScript so far.

mod compare;
mod extract;
mod files;
mod pass_at_k;

use std::fmt;

use milpa_sandbox::{Language, Limits, Sandbox, Session, Stop};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use compare::{difference, same_text};
pub use extract::{Block, code_in};
pub use files::{
    CodeLog, CodeReport, CodeResponses, Problem, ProblemSet, read_code_responses, read_problems,
    score_code,
};
pub use milpa_sandbox as sandbox;
pub use pass_at_k::{PassAtK, mean_pass_at_k, pass_at_k};

use crate::verify::{Reason, Verdict};

/// Longest text of a program that a reason shows, in characters.
const SHOWN: usize = 200;

/// The tests of a problem: the right answer of an item, as JSON.
///
/// ```json
/// {"language": "javascript", "functions": ["suma"],
///  "tests": [{"arguments": [2, 3], "result": 5}, {"assert": "assert(suma(1, 1) === 2)"}]}
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CodeTests {
    /// What the program is written in.
    pub language: Language,
    /// The functions that tests may call; the first is called where a test names none.
    #[serde(default)]
    pub functions: Vec<String>,
    /// Code before the program, such as the signature that a model was given to complete.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub before: String,
    /// What is tried, in order; the first failure ends the trial.
    pub tests: Vec<CodeTest>,
    /// Largest relative difference of a result from a right number written with a point or an
    /// exponent; where that is 0.0, the largest difference. Whole numbers are exact.
    #[serde(default = "usual_tolerance")]
    pub tolerance: f64,
    /// What each test may use.
    #[serde(default)]
    pub limits: Limits,
}

fn usual_tolerance() -> f64 {
    1e-9
}

/// One trial of a program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CodeTest {
    /// A function of arguments gives a result, or a promise of it.
    Call(CallTest),
    /// A program that reads the input writes the output.
    Text(TextTest),
    /// Statements with `assert` and the named functions hold.
    Assert(AssertTest),
}

/// A function of arguments gives a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallTest {
    /// The function, if not the first of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// What it gets.
    pub arguments: Vec<Value>,
    /// What it must give. Objects may have their keys in any order; nothing else is free.
    pub result: Value,
}

/// A program that reads the input writes the output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTest {
    /// What it reads.
    pub input: String,
    /// What it must write, but for white space at the ends of lines and of the text.
    pub output: String,
}

/// Statements that must run to their end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AssertTest {
    /// The statements; arguments and results of the functions cross as data, so a function that
    /// changes its arguments is not seen to do so.
    pub assert: String,
}

/// How a program failed its tests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum CodeFailure {
    /// It gave something else.
    WrongAnswer {
        /// What it gave, cut to a few words.
        given: String,
        /// What is right, cut as well.
        right: String,
    },
    /// An assertion does not hold.
    Assertion {
        /// What it says.
        message: String,
    },
    /// It gave nothing.
    Stopped {
        /// Why.
        stop: Stop,
    },
}

impl fmt::Display for CodeFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongAnswer { given, right } => {
                write!(formatter, "gave {given}, right is {right}")
            }
            Self::Assertion { message } => write!(formatter, "{message}"),
            Self::Stopped { stop } => write!(formatter, "{stop}"),
        }
    }
}

impl CodeTests {
    /// Reads the tests of an item.
    ///
    /// # Errors
    /// JSON that is not of this form, or tests that try nothing.
    pub fn parse(json: &str) -> Result<Self, String> {
        let tests: Self = serde_json::from_str(json).map_err(|error| error.to_string())?;
        if tests.tests.is_empty() {
            return Err("there are no tests".to_owned());
        }
        let named = |test: &CodeTest| match test {
            CodeTest::Call(call) => call.function.is_some() || !tests.functions.is_empty(),
            CodeTest::Text(_) => true,
            CodeTest::Assert(_) => !tests.functions.is_empty(),
        };
        if !tests.tests.iter().all(named) {
            return Err("`functions` names none, and a test needs one".to_owned());
        }
        if !(0.0..1.0).contains(&tests.tolerance) {
            return Err("the tolerance is not between 0 and 1".to_owned());
        }
        Ok(tests)
    }

    /// Tries a program; gives the number of the first test that it fails, from 1, and how.
    ///
    /// # Errors
    /// The first failure.
    pub fn try_program(&self, program: &str) -> Result<(), (usize, CodeFailure)> {
        let sandbox = Sandbox::shared(self.language).expect("its tests start every engine");
        let program = format!("{}{program}", self.before);
        for (at, test) in self.tests.iter().enumerate() {
            self.try_test(sandbox, &program, test).map_err(|failure| (at + 1, failure))?;
        }
        Ok(())
    }

    fn try_test(
        &self,
        sandbox: &Sandbox,
        program: &str,
        test: &CodeTest,
    ) -> Result<(), CodeFailure> {
        let stopped = |stop| CodeFailure::Stopped { stop };
        let load = |input: &str| -> Result<Session, CodeFailure> {
            let mut session = sandbox.session(input, self.limits);
            session.load(program).map_err(stopped)?;
            Ok(session)
        };
        match test {
            CodeTest::Call(test) => {
                let function = test.function.as_ref().or(self.functions.first());
                let function = function.expect("checked when the tests were read");
                let arguments = Value::from(test.arguments.clone()).to_string();
                let given = load("")?.call(function, &arguments).map_err(stopped)?;
                let wrong = || CodeFailure::WrongAnswer {
                    given: shown(&given),
                    right: shown(&test.result.to_string()),
                };
                let value: Value = serde_json::from_str(&given).map_err(|_| wrong())?;
                match difference(&test.result, &value, self.tolerance) {
                    None => Ok(()),
                    Some(_) => Err(wrong()),
                }
            }
            CodeTest::Text(test) => {
                let output = load(&test.input)?.output();
                if same_text(&test.output, &output) {
                    return Ok(());
                }
                let (given, right) = (shown(&output), shown(&test.output));
                Err(CodeFailure::WrongAnswer { given, right })
            }
            CodeTest::Assert(test) => {
                let names: Vec<&str> = self.functions.iter().map(String::as_str).collect();
                let judged = sandbox
                    .judge(&names, load("")?, self.limits)
                    .and_then(|mut judge| judge.load(&test.assert));
                judged.map_err(|stop| match stop {
                    Stop::Exception { class, message, .. } if class == "AssertionError" => {
                        CodeFailure::Assertion { message: shown(&message) }
                    }
                    stop => stopped(stop),
                })
            }
        }
    }
}

/// At most [`SHOWN`] characters of a text.
fn shown(text: &str) -> String {
    let text = text.trim_end();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

pub(super) fn judge(gold: &str, response: &str, block: Block) -> Verdict {
    let Ok(tests) = CodeTests::parse(gold) else {
        return Verdict::unreadable(Reason::UnreadableGold { gold: shown(gold) });
    };
    let Some(program) = code_in(response, tests.language, block) else {
        return Verdict::unreadable(Reason::NoCode);
    };
    match tests.try_program(&program) {
        Ok(()) => Verdict::correct(Reason::PassesTests { tests: tests.tests.len() }),
        Err((test, failure)) => Verdict::incorrect(Reason::FailsTest { test, failure }),
    }
}

#[cfg(test)]
mod tests;
