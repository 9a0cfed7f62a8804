//! Runs programs that nobody trusts, such as those a language model writes.
//!
//! A program runs in an engine that was compiled to WebAssembly (QuickJS for JavaScript), and that
//! runs in an interpreter of WebAssembly (`wasmi`). What a program can reach is what is defined
//! here: a text of input, a text of output, a clock that counts its readings. There are no files,
//! no network, no time, no entropy. Each program gets a fresh engine, made from an image of memory.
//! Its limits are counted, never measured, so a program ends the same way on every machine; a clock
//! stands behind them for machines that stall. This crate knows no tests and no right answers.

mod quickjs;

use std::{fmt, sync::OnceLock, time::Duration};

use serde::{Deserialize, Serialize};

pub use quickjs::Session;

/// A language whose engine is at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// ECMAScript 2023 by QuickJS 2025-09-13, with `print`, `console.log`, `readline`, timers, and
    /// of Node's modules as much as reading the input takes.
    JavaScript,
}

impl Language {
    /// Names that a code block may carry, in lower case.
    pub fn labels(self) -> &'static [&'static str] {
        match self {
            Self::JavaScript => &["javascript", "js", "mjs", "cjs", "node", "nodejs", "ecmascript"],
        }
    }
}

impl fmt::Display for Language {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JavaScript => write!(formatter, "JavaScript"),
        }
    }
}

/// What a session may use, over all its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Units of fuel. An operation of the language costs some thousands, work inside a built-in
    /// function about one for each instruction of WebAssembly; 10⁹ are some 20,000 turns of a
    /// short loop.
    pub fuel: u64,
    /// Bytes that the program's values may take, at most 1 GiB.
    pub memory_bytes: usize,
    /// Bytes that it may write, and bytes of one value that it gives.
    pub output_bytes: usize,
    /// Seconds on the clock. It stands behind the fuel: only work inside built-in functions, which
    /// takes more time for its fuel, can come to it first.
    pub seconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { fuel: 100_000_000_000, memory_bytes: 64 << 20, output_bytes: 64 << 10, seconds: 60 }
    }
}

impl Limits {
    fn deadline(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// Why a program gave nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stop", rename_all = "snake_case")]
pub enum Stop {
    /// It is no program of the language.
    Syntax {
        /// What is wrong.
        message: String,
        /// The line, from 1; 0 when it is not known.
        line: u32,
    },
    /// It threw what it did not catch.
    Exception {
        /// Class of what was thrown; empty when it is no error.
        class: String,
        /// Its message.
        message: String,
        /// The line of the program, from 1; 0 when it is not known.
        line: u32,
    },
    /// It used up its fuel.
    OutOfFuel,
    /// The clock ran out before the fuel did.
    OutOfTime,
    /// It took more memory than it may.
    OutOfMemory,
    /// Calls within calls, too many of them.
    TooDeep,
    /// It wrote more than it may, or gave a value that is larger.
    TooMuchOutput,
    /// It defines no such function.
    NoFunction {
        /// The name.
        name: String,
    },
    /// It gave what is not data, such as a function, NaN or an object of a class.
    NotData {
        /// What it gave.
        what: String,
    },
    /// The engine itself failed, as after broken memory; the program is to blame.
    Crashed {
        /// The trap.
        what: String,
    },
}

impl Stop {
    /// The kind of end in a few words, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Syntax { .. } => "syntax error",
            Self::Exception { .. } => "exception",
            Self::OutOfFuel => "out of fuel",
            Self::OutOfTime => "out of time",
            Self::OutOfMemory => "out of memory",
            Self::TooDeep => "too deep",
            Self::TooMuchOutput => "too much output",
            Self::NoFunction { .. } => "no function",
            Self::NotData { .. } => "no data",
            Self::Crashed { .. } => "crashed",
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |line: &u32| if *line == 0 { String::new() } else { format!(" (line {line})") };
        match self {
            Self::Syntax { message, line } => {
                write!(formatter, "no program: {message}{}", at(line))
            }
            Self::Exception { class, message, line } if class.is_empty() => {
                write!(formatter, "threw {message}{}", at(line))
            }
            Self::Exception { class, message, line } => {
                write!(formatter, "threw {class}: {message}{}", at(line))
            }
            Self::OutOfFuel => write!(formatter, "took more steps than it may"),
            Self::OutOfTime => write!(formatter, "took longer than it may"),
            Self::OutOfMemory => write!(formatter, "took more memory than it may"),
            Self::TooDeep => write!(formatter, "called itself too deeply"),
            Self::TooMuchOutput => write!(formatter, "wrote more than it may"),
            Self::NoFunction { name } => write!(formatter, "defines no function {name}"),
            Self::NotData { what } => write!(formatter, "gave {what}, which is not data"),
            Self::Crashed { what } => write!(formatter, "broke its engine ({what})"),
        }
    }
}

/// An engine that does not start; a defect of this build, since engines come with it.
#[derive(Debug, thiserror::Error)]
#[error("the engine of {language} that comes with this build does not start: {detail}")]
pub struct SandboxError {
    language: Language,
    detail: String,
}

/// An engine, compiled and ready to give fresh sessions.
pub struct Sandbox {
    engine: quickjs::Engine,
}

impl Sandbox {
    /// Compiles the engine of `language`, which takes some tenths of a second.
    ///
    /// # Errors
    /// A build whose engine is not the one it was made for.
    pub fn new(language: Language) -> Result<Self, SandboxError> {
        let engine = quickjs::Engine::new()
            .map_err(|error| SandboxError { language, detail: error.to_string() })?;
        Ok(Self { engine })
    }

    /// The engine of `language`, compiled once for the process.
    ///
    /// # Errors
    /// As [`Sandbox::new`].
    pub fn shared(language: Language) -> Result<&'static Self, SandboxError> {
        static JAVASCRIPT: OnceLock<Sandbox> = OnceLock::new();
        let Language::JavaScript = language;
        if let Some(ready) = JAVASCRIPT.get() {
            return Ok(ready);
        }
        let made = Self::new(language)?;
        Ok(JAVASCRIPT.get_or_init(|| made))
    }

    /// A fresh engine with `input` to read; nothing of an earlier session is in it.
    pub fn session(&self, input: &str, limits: Limits) -> Session {
        self.engine.session(input, limits, None)
    }

    /// A fresh engine for tests, in which the functions `names` of another session's program can be
    /// called and `assert` is defined.
    ///
    /// Values cross as JSON, so nothing of the program but data is ever in the engine that judges,
    /// and nothing of the tests in the program's. A stop of the program that is no exception ends
    /// the judge's session with the same stop; so does an exception that the tests do not catch.
    pub fn judge(&self, names: &[&str], program: Session, limits: Limits) -> Result<Session, Stop> {
        let mut judge = self.engine.session("", limits, Some(program));
        judge.prepare_judge(names)?;
        Ok(judge)
    }
}
