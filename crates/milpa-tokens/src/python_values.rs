//! Values as Python writes and reads them: `repr` of what a template prints, literals back.
//!
//! Templates of the LM Evaluation Harness write lists of choices as Python's text of a list, which
//! is read again with `ast.literal_eval`. It knows no template.

use minijinja::{Error, ErrorKind, Value, value::ValueKind};
use serde_json::{Map, Value as Json};

/// Deepest nesting that is written or read.
const MAX_DEPTH: usize = 64;

/// Appends Python's `repr` of a value, which is its `str` for all but texts.
pub(crate) fn write_repr(value: &Value, text: &mut String) -> Result<(), Error> {
    write_nested(value, text, 0)
}

fn write_nested(value: &Value, text: &mut String, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, "a value is nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => text.push_str("None"),
        ValueKind::Bool => text.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => {
            let plain = value.to_string();
            match f64::try_from(value.clone()) {
                Ok(number) if plain.contains(['.', 'e']) => text.push_str(&float(number)),
                _ => text.push_str(&plain),
            }
        }
        ValueKind::String => write_text(value.as_str().unwrap_or_default(), text),
        ValueKind::Seq | ValueKind::Iterable => {
            text.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                write_nested(&item, text, depth + 1)?;
            }
            text.push(']');
        }
        ValueKind::Map => {
            text.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                text.push_str(if index == 0 { "" } else { ", " });
                write_nested(&key, text, depth + 1)?;
                text.push_str(": ");
                write_nested(&value.get_item(&key)?, text, depth + 1)?;
            }
            text.push('}');
        }
        ValueKind::Undefined => {
            return Err(Error::new(ErrorKind::UndefinedError, "a field is missing"));
        }
        _ => text.push_str(&value.to_string()),
    }
    Ok(())
}

/// A text in quotes: double ones only where it has single ones and no double ones.
fn write_text(plain: &str, text: &mut String) {
    use std::fmt::Write as _;
    let quote = if plain.contains('\'') && !plain.contains('"') { '"' } else { '\'' };
    text.push(quote);
    for character in plain.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c == quote => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                let code = u32::from(c);
                let written = match code {
                    0..=0xff => write!(text, "\\x{code:02x}"),
                    0x100..=0xffff => write!(text, "\\u{code:04x}"),
                    _ => write!(text, "\\U{code:08x}"),
                };
                written.expect("a String takes all text");
            }
            c => text.push(c),
        }
    }
    text.push(quote);
}

/// `repr` of a float: the shortest digits, an exponent outside 1e-4 to 1e16.
pub(crate) fn float(number: f64) -> String {
    if number == 0.0 || (1e-4..1e16).contains(&number.abs()) || !number.is_finite() {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, size) = match exponent.strip_prefix('-') {
                Some(size) => ('-', size),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{size:0>2}")
        }
        None => text,
    }
}

/// The value as Python's `str` writes it: a text as it is, all else as `repr`.
pub fn python_text(value: &Json) -> String {
    if let Json::String(text) = value {
        return text.clone();
    }
    let mut text = String::new();
    // What is nested too deeply is cut: it would be no answer.
    let _ = write_repr(&crate::chat::to_value(value), &mut text);
    text
}

/// Reads a literal as `ast.literal_eval` does: texts, numbers, `True`, `False`, `None`, lists,
/// tuples, dictionaries with keys that are texts. `None` where `text` is anything else.
pub fn parse_literal(text: &str) -> Option<Json> {
    let mut reader = Reader { rest: text.trim() };
    let value = reader.value(0)?;
    reader.skip_space();
    reader.rest.is_empty().then_some(value)
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.skip_space();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.skip_space();
        match self.rest.chars().next()? {
            '[' => self.items("[", "]", depth).map(|(items, _)| Json::Array(items)),
            '(' => {
                let (mut items, comma) = self.items("(", ")", depth)?;
                // Brackets around one value are no tuple.
                if items.len() == 1 && !comma { items.pop() } else { Some(Json::Array(items)) }
            }
            '{' => self.map(depth),
            '\'' | '"' => {
                let mut text = self.text()?;
                loop {
                    self.skip_space();
                    if !self.rest.starts_with(['\'', '"']) {
                        return Some(Json::String(text));
                    }
                    text += &self.text()?;
                }
            }
            _ => self.word(),
        }
    }

    fn items(&mut self, open: &str, close: &str, depth: usize) -> Option<(Vec<Json>, bool)> {
        self.take(open);
        let (mut items, mut comma) = (Vec::new(), false);
        while !self.take(close) {
            if !items.is_empty() && !comma {
                return None;
            }
            items.push(self.value(depth + 1)?);
            comma = self.take(",");
        }
        Some((items, comma))
    }

    fn map(&mut self, depth: usize) -> Option<Json> {
        self.take("{");
        let (mut map, mut comma) = (Map::new(), true);
        while !self.take("}") {
            if !comma {
                return None;
            }
            let Json::String(key) = self.value(depth + 1)? else { return None };
            if !self.take(":") {
                return None;
            }
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            comma = self.take(",");
        }
        Some(Json::Object(map))
    }

    /// One text in single, double or triple quotes.
    fn text(&mut self) -> Option<String> {
        let first = self.rest.chars().next()?;
        let triple = first.to_string().repeat(3);
        let quote = if self.rest.starts_with(&triple) { triple } else { first.to_string() };
        self.rest = &self.rest[quote.len()..];
        let mut text = String::new();
        loop {
            if let Some(rest) = self.rest.strip_prefix(quote.as_str()) {
                self.rest = rest;
                return Some(text);
            }
            let character = self.rest.chars().next()?;
            self.rest = &self.rest[character.len_utf8()..];
            match character {
                '\\' => self.escape(&mut text)?,
                '\n' if quote.len() == 1 => return None,
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let character = self.rest.chars().next()?;
        self.rest = &self.rest[character.len_utf8()..];
        let digits = match character {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if digits > 0 {
            let code = u32::from_str_radix(self.rest.get(..digits)?, 16).ok()?;
            self.rest = &self.rest[digits..];
            text.push(char::from_u32(code)?);
            return Some(());
        }
        match character {
            '\n' => {}
            '\\' | '\'' | '"' => text.push(character),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            'a' => text.push('\u{7}'),
            'b' => text.push('\u{8}'),
            'f' => text.push('\u{c}'),
            'v' => text.push('\u{b}'),
            '0' => text.push('\0'),
            other => {
                text.push('\\');
                text.push(other);
            }
        }
        Some(())
    }

    fn word(&mut self) -> Option<Json> {
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-');
        let end = self.rest.find(|c| !inside(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        match word {
            "True" => Some(Json::Bool(true)),
            "False" => Some(Json::Bool(false)),
            "None" => Some(Json::Null),
            _ if word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) => {
                let plain = word.strip_prefix('+').unwrap_or(word).replace('_', "");
                match plain.parse::<i64>() {
                    Ok(number) => Some(number.into()),
                    Err(_) => serde_json::Number::from_f64(plain.parse().ok()?).map(Json::Number),
                }
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::chat::to_value;

    fn check(value: &Json, expect: &str) {
        let mut text = String::new();
        write_repr(&to_value(value), &mut text).unwrap();
        assert_eq!(text, expect);
    }

    #[test]
    fn values_are_written_as_python_writes_them() {
        check(
            &json!(["a", "l'a", "\"l'a\"", 1, 2.0, true, null]),
            r#"['a', "l'a", '"l\'a"', 1, 2.0, True, None]"#,
        );
        check(&json!({"ñ": [1e300, 1e-7]}), "{'ñ': [1e+300, 1e-07]}");
        check(&json!(["\n\t\\\u{a0}\u{1}"]), r"['\n\t\\\xa0\x01']");
    }

    #[test]
    fn literals_are_read() {
        for (text, expect) in [
            ("['a', \"b\", ]", Some(json!(["a", "b"]))),
            ("('a',)", Some(json!(["a"]))),
            ("(1)", Some(json!(1))),
            ("{'a': [1, -2.5, True, None]}", Some(json!({"a": [1, -2.5, true, null]}))),
            (r"['\x41\u00f1\q' 'b']", Some(json!(["Añ\\qb"]))),
            ("[a]", None),
            ("['a' 1]", None),
            ("['a'", None),
            ("", None),
            ("[1] 2", None),
        ] {
            assert_eq!(parse_literal(text), expect, "{text}");
        }
        assert_eq!(parse_literal(&"[".repeat(100_000)), None);
    }

    proptest! {
        #[test]
        fn lists_of_texts_come_back(items in proptest::collection::vec(any::<String>(), 0..5)) {
            let mut text = String::new();
            write_repr(&to_value(&json!(items)), &mut text).unwrap();
            prop_assert_eq!(parse_literal(&text), Some(json!(items)));
        }

        #[test]
        fn any_text_ends(text in "[\\[\\](){}'\",:a0\\\\ -]{0,40}") {
            let _ = parse_literal(&text);
        }
    }
}
