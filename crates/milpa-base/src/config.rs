//! Configuration from TOML: unknown keys are errors with their line and the nearest name.
//!
//! It knows no stage's keys; those are `serde` types with `deny_unknown_fields` in each crate.
//! Variables such as `${MILPA_DATA}` in paths are resolved by the binary, which hands them in:
//! libraries never read the environment.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// Longest configuration file that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file says something that is not understood.
    #[error("{}", .0)]
    Invalid(Box<Invalid>),
    /// A path uses a variable that has no value.
    #[error(
        "{written:?} needs the variable {name}, which is not set; \
         set it to the folder of your data: export {name}=/path/to/data"
    )]
    Variable {
        /// The path as written.
        written: String,
        /// The variable.
        name: String,
    },
}

/// Where a configuration is wrong, and how.
#[derive(Debug)]
pub struct Invalid {
    /// The file.
    pub path: PathBuf,
    /// Line, counted from 1; 0 where the place is unknown.
    pub line: usize,
    /// Column, counted from 1.
    pub column: usize,
    /// The line's text.
    pub source_line: String,
    /// Width of the marked place in characters.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub suggestion: Option<String>,
}

impl std::error::Error for Invalid {}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)?;
        if self.line == 0 {
            write!(f, "\n  --> {}", self.path.display())?;
        } else {
            let number = self.line.to_string();
            let margin = " ".repeat(number.len());
            write!(f, "\n{margin}--> {}:{}:{}", self.path.display(), self.line, self.column)?;
            write!(f, "\n{margin} |\n{number} | {}", self.source_line)?;
            let pad = " ".repeat(self.column.saturating_sub(1));
            write!(f, "\n{margin} | {pad}{}", "^".repeat(self.width.max(1)))?;
        }
        if let Some(suggestion) = &self.suggestion {
            write!(f, "\nhint: {suggestion}")?;
        }
        Ok(())
    }
}

/// Reads `path` as TOML into `T`.
pub fn load_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse_toml(&read_config(path)?, path)
}

/// Reads the text of a configuration.
///
/// # Errors
/// A file that cannot be read, or is larger than any configuration.
pub fn read_config(path: &Path) -> Result<String, ConfigError> {
    let io_error = |source| ConfigError::Io { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(io_error)?.len();
    if length > MAX_CONFIG_BYTES {
        return Err(io_error(io::Error::other(format!(
            "it has {length} bytes; a configuration has at most {MAX_CONFIG_BYTES}"
        ))));
    }
    fs::read_to_string(path).map_err(io_error)
}

/// Reads TOML text into `T`; `path` is named in errors.
pub fn parse_toml<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let known = error.span().is_some();
        invalid(text, path, known.then_some(span), error.message())
    })
}

/// Makes the error for a value that parsed but cannot be right, such as an impossible size.
/// `key` is the last key of its dotted path and is looked up in `text` to name the line; that of a key
/// in an inline table is the table's.
pub fn invalid_value(text: &str, path: &Path, dotted_key: &str, message: &str) -> ConfigError {
    let mut keys = std::iter::successors(Some(dotted_key), |key| Some(key.rsplit_once('.')?.0));
    invalid(text, path, keys.find_map(|key| find_key(text, key)), message)
}

fn invalid(
    text: &str,
    path: &Path,
    span: Option<std::ops::Range<usize>>,
    message: &str,
) -> ConfigError {
    let (mut line, mut column, mut source_line, mut width) = (0, 0, String::new(), 0);
    if let Some(span) = span {
        let start = span.start.min(text.len());
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        line = text[..start].matches('\n').count() + 1;
        column = text[line_start..start].chars().count() + 1;
        source_line = text[line_start..].lines().next().unwrap_or("").to_owned();
        let line_end = line_start + source_line.len();
        width = text[start..span.end.clamp(start, line_end.max(start))].chars().count();
    }
    let (message, suggestion) = explain(message);
    ConfigError::Invalid(Box::new(Invalid {
        path: path.to_owned(),
        line,
        column,
        source_line,
        width,
        message,
        suggestion,
    }))
}

/// Turns serde's message about an unknown name into a message and the nearest known name.
fn explain(message: &str) -> (String, Option<String>) {
    for (what, label) in
        [("unknown field `", "unknown key"), ("unknown variant `", "unknown value")]
    {
        let Some(rest) = message.strip_prefix(what) else { continue };
        let Some((name, rest)) = rest.split_once('`') else { continue };
        let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
        let suggestion = match nearest(name, &known) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "no keys are allowed here".to_owned(),
            None => format!("known here: {}", known.join(", ")),
        };
        return (format!("{label} `{name}`"), Some(suggestion));
    }
    (message.to_owned(), None)
}

/// Finds the known name nearest to `name`, if one is near enough to be a slip.
pub fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), *candidate))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Byte range of the key `a.b.c` in TOML text that uses plain `[table]` headers.
fn find_key(text: &str, dotted_key: &str) -> Option<std::ops::Range<usize>> {
    let (table, key) = dotted_key.rsplit_once('.').unwrap_or(("", dotted_key));
    let (mut current, mut offset) = (String::new(), 0);
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if let Some(header) = trimmed.strip_prefix('[') {
            current = header.trim_matches(|c| "[] ".contains(c)).to_owned();
        } else if current == table
            && trimmed.split('=').next().is_some_and(|name| name.trim() == key)
        {
            let start = offset + line.find(key).unwrap_or(0);
            return Some(start..offset + line.trim_end().len());
        }
        offset += line.len();
    }
    None
}

/// A path in a configuration: kept as written (so that records do not depend on the machine) and
/// resolved once by the binary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// As written, perhaps with `${NAME}` variables.
    pub written: String,
    /// Where it is on this machine; equal to `written` until resolved.
    pub path: PathBuf,
}

impl Location {
    /// Makes a location that needs no resolving.
    pub fn plain(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { written: path.to_string_lossy().into_owned(), path }
    }

    /// Replaces `${NAME}` by `variable(NAME)` and takes a relative path from `base`.
    pub fn resolve(
        &mut self,
        base: &Path,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let (mut resolved, mut rest) = (String::new(), self.written.as_str());
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else { break };
            let value = variable(name).filter(|value| !value.is_empty()).ok_or_else(|| {
                ConfigError::Variable { written: self.written.clone(), name: name.to_owned() }
            })?;
            resolved.push_str(before);
            resolved.push_str(&value);
            rest = after;
        }
        resolved.push_str(rest);
        // A value of a variable is relative to the working folder, a written path to the recipe's.
        self.path = if self.written.starts_with("${") {
            PathBuf::from(resolved)
        } else {
            base.join(resolved)
        };
        Ok(())
    }
}

impl Serialize for Location {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.written)
    }
}

impl<'de> Deserialize<'de> for Location {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its parsing is tested")]
    struct Toy {
        learning_rate: f64,
        steps: crate::units::Steps,
    }

    fn check(text: &str, expect: &[&str]) {
        let error = parse_toml::<Toy>(text, Path::new("toy.toml")).unwrap_err().to_string();
        for part in expect {
            assert!(error.contains(part), "{part:?} is not in:\n{error}");
        }
    }

    #[test]
    fn an_unknown_key_is_shown_with_its_line_and_the_nearest_name() {
        check(
            "steps = 3\nlearning_rat = 0.1\n",
            &[
                "unknown key `learning_rat`",
                "toy.toml:2:1",
                "^^^^",
                "did you mean `learning_rate`?",
            ],
        );
        check("steps = 3\nzzz = 1\n", &["unknown key `zzz`", "known here: learning_rate, steps"]);
    }

    #[test]
    fn a_wrong_unit_is_shown_with_its_line() {
        check("learning_rate = 1\nsteps = \"20 GiB\"\n", &["toy.toml:2:9", "1200 steps"]);
    }

    #[test]
    fn a_value_error_names_the_line_of_its_key() {
        let text = "[a]\nx = 1\n[b]\nx = 2\n";
        let error = invalid_value(text, Path::new("t.toml"), "b.x", "x is too small").to_string();
        assert!(error.contains("t.toml:4:1"), "{error}");
    }

    #[test]
    fn locations_keep_what_was_written() {
        let mut location = Location::plain("${DATA}/a.zst");
        let unset = location.clone().resolve(Path::new("r"), &|_| None).unwrap_err();
        assert!(unset.to_string().contains("export DATA="), "{unset}");
        location.resolve(Path::new("r"), &|_| Some("/d".to_owned())).unwrap();
        assert_eq!(location.path, Path::new("/d/a.zst"));
        assert_eq!(location.written, "${DATA}/a.zst");
        let mut relative = Location::plain("sample.warc");
        relative.resolve(Path::new("recipes"), &|_| None).unwrap();
        assert_eq!(relative.path, Path::new("recipes/sample.warc"));
    }
}
