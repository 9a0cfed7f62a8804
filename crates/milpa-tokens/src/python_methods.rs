//! Python's methods of strings and mappings that chat templates call: `strip`, `split`, `items`, …
//!
//! Semantics are those of Python 3 for the arguments that templates use. The caller has charged the
//! operands to the budget; methods whose text can be longer than those charge the rest.

use minijinja::{
    Error, ErrorKind, Value,
    value::{Rest, ValueKind, from_args},
};

use crate::template_guard::Budget;

/// Calls `method` of `value`.
pub(crate) fn call(
    budget: &Budget,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => {
            of_string(budget, value.as_str().unwrap_or_default(), method, arguments)
        }
        ValueKind::Map => of_map(value, method, arguments),
        ValueKind::Seq => of_sequence(value, method, arguments),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_string(
    budget: &Budget,
    text: &str,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let cut = |from_start: bool, from_end: bool| -> Result<Value, Error> {
        let (set,): (Option<&str>,) = from_args(arguments)?;
        let inside = |c: char| set.map_or(c.is_whitespace(), |set| set.contains(c));
        let text = if from_start { text.trim_start_matches(inside) } else { text };
        Ok(Value::from(if from_end { text.trim_end_matches(inside) } else { text }))
    };
    let has_any = |test: &dyn Fn(&str) -> bool| -> Result<Value, Error> {
        let (wanted,): (Value,) = from_args(arguments)?;
        if let Some(wanted) = wanted.as_str() {
            return Ok(Value::from(test(wanted)));
        }
        for item in wanted.try_iter()? {
            if item.as_str().is_some_and(test) {
                return Ok(Value::from(true));
            }
        }
        Ok(Value::from(false))
    };
    let all = |test: fn(char) -> bool| -> Result<Value, Error> {
        let () = from_args(arguments)?;
        Ok(Value::from(!text.is_empty() && text.chars().all(test)))
    };
    let mapped = |text: String| -> Result<Value, Error> {
        let () = from_args(arguments)?;
        Ok(Value::from(text))
    };
    match method {
        "strip" => cut(true, true),
        "lstrip" => cut(true, false),
        "rstrip" => cut(false, true),
        "startswith" => has_any(&|wanted| text.starts_with(wanted)),
        "endswith" => has_any(&|wanted| text.ends_with(wanted)),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "upper" => mapped(text.to_uppercase()),
        "lower" => mapped(text.to_lowercase()),
        "capitalize" => mapped(capitalised(text)),
        "title" => mapped(titled(text)),
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(char::is_whitespace),
        "split" => split(text, arguments, false),
        "rsplit" => split(text, arguments, true),
        "splitlines" => {
            let () = from_args(arguments)?;
            Ok(text.lines().map(Value::from).collect())
        }
        "replace" => {
            let (from, to, most): (&str, &str, Option<usize>) = from_args(arguments)?;
            replace(budget, text, from, to, most)
        }
        "count" => {
            let (wanted,): (&str,) = from_args(arguments)?;
            Ok(Value::from(text.matches(wanted).count()))
        }
        "find" | "index" => {
            let (wanted,): (&str,) = from_args(arguments)?;
            match text.find(wanted) {
                Some(at) => Ok(Value::from(text[..at].chars().count())),
                None if method == "find" => Ok(Value::from(-1)),
                None => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "join" => {
            let (parts,): (Value,) = from_args(arguments)?;
            join(budget, text, &parts)
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

pub(crate) fn join(budget: &Budget, separator: &str, parts: &Value) -> Result<Value, Error> {
    let mut text = String::new();
    for (index, part) in parts.try_iter()?.enumerate() {
        if index > 0 {
            budget.charge(separator.len() as u64)?;
            text.push_str(separator);
        }
        match part.as_str() {
            Some(part) => text.push_str(part),
            None => text.push_str(&part.to_string()),
        }
    }
    Ok(Value::from(text))
}

pub(crate) fn replace(
    budget: &Budget,
    text: &str,
    from: &str,
    to: &str,
    most: Option<usize>,
) -> Result<Value, Error> {
    let count = text.matches(from).take(most.unwrap_or(usize::MAX)).count();
    budget.charge((count as u64).saturating_mul(to.len() as u64))?;
    Ok(Value::from(text.replacen(from, to, count)))
}

fn split(text: &str, arguments: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, most): (Option<&str>, Option<i64>) = from_args(arguments)?;
    let pieces = most.and_then(|most| usize::try_from(most).ok()).map(|most| most + 1);
    if separator == Some("") {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let mut parts: Vec<&str> = match (separator, pieces, from_end) {
        (Some(separator), Some(pieces), false) => text.splitn(pieces, separator).collect(),
        (Some(separator), Some(pieces), true) => text.rsplitn(pieces, separator).collect(),
        (Some(separator), None, _) => text.split(separator).collect(),
        (None, None, _) => text.split_whitespace().collect(),
        (None, Some(pieces), _) => split_blank(text, pieces),
    };
    if from_end && separator.is_some() && pieces.is_some() {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// At most `pieces` words; the last one is the rest of the text.
fn split_blank(text: &str, pieces: usize) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        if parts.len() + 1 >= pieces || end == rest.len() {
            parts.push(rest);
            break;
        }
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start();
    }
    parts
}

fn capitalised(text: &str) -> String {
    let mut characters = text.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters.flat_map(char::to_lowercase)).collect()
    })
}

fn titled(text: &str) -> String {
    let mut inside = false;
    text.chars().fold(String::with_capacity(text.len()), |mut titled, character| {
        if inside {
            titled.extend(character.to_lowercase());
        } else {
            titled.extend(character.to_uppercase());
        }
        inside = character.is_alphabetic();
        titled
    })
}

fn of_map(value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match method {
        "keys" => {
            let () = from_args(arguments)?;
            Ok(value.try_iter()?.collect())
        }
        "values" => {
            let () = from_args(arguments)?;
            value.try_iter()?.map(|key| value.get_item(&key)).collect::<Result<_, _>>()
        }
        "items" => {
            let () = from_args(arguments)?;
            value
                .try_iter()?
                .map(|key| Ok(Value::from(vec![key.clone(), value.get_item(&key)?])))
                .collect::<Result<_, Error>>()
        }
        "get" => {
            let (key, default): (Value, Option<Value>) = from_args(arguments)?;
            let found = value.get_item(&key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn of_sequence(value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    match method {
        "count" => {
            let (wanted,): (Value,) = from_args(arguments)?;
            Ok(Value::from(value.try_iter()?.filter(|item| *item == wanted).count()))
        }
        "index" => {
            let (wanted, _): (Value, Rest<Value>) = from_args(arguments)?;
            match value.try_iter()?.position(|item| item == wanted) {
                Some(at) => Ok(Value::from(at)),
                None => Err(Error::new(ErrorKind::InvalidOperation, "the list has no such item")),
            }
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}
