//! JSON against a schema: the part of JSON Schema (draft 2020-12) that answers of models need.
//!
//! `type`, `enum`, `const`, `properties`, `required`, `additionalProperties`, `items`, `minItems`,
//! `maxItems`, `uniqueItems`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`,
//! `minLength`, `maxLength`, `pattern`, `anyOf`, `oneOf`, `allOf`, `not`; annotations are passed over. Another
//! keyword is refused by name, never passed over; references are not followed.

use fancy_regex::Regex;
use serde_json::Value;

/// Deepest nesting of a schema.
const MAX_DEPTH: usize = 32;

/// Reads a response as JSON, alone or in a fence, and holds it against `schema`.
///
/// # Errors
/// What is broken, and where.
pub fn check_text(schema: &Value, response: &str) -> Result<(), String> {
    let text = fenced(response);
    let value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
    check(schema, &value)
}

/// Inside the code fence, if the response is one.
fn fenced(response: &str) -> &str {
    let text = response.trim();
    text.strip_prefix("```")
        .and_then(|text| text.strip_suffix("```"))
        .and_then(|text| text.split_once('\n'))
        .map_or(text, |(_, inside)| inside.trim())
}

/// Holds a value against `schema`.
///
/// # Errors
/// What is broken, and where; a keyword that this reader does not know.
pub fn check(schema: &Value, value: &Value) -> Result<(), String> {
    at(schema, value, "$", 0)
}

fn at(schema: &Value, value: &Value, path: &str, depth: usize) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err(format!("{path}: the schema is nested deeper than {MAX_DEPTH}"));
    }
    let keywords = match schema {
        Value::Bool(true) => return Ok(()),
        Value::Bool(false) => return Err(format!("{path}: nothing is allowed here")),
        Value::Object(keywords) => keywords,
        _ => return Err(format!("{path}: the schema is no object")),
    };
    let deeper = |schema: &Value, value: &Value, path: &str| at(schema, value, path, depth + 1);
    for (keyword, rule) in keywords {
        let wrong = || format!("{path}: the schema's {keyword} is wrong: {rule}");
        let broken = || Err(format!("{path}: {keyword} is {rule}, not {}", short(value)));
        let number = || rule.as_f64().ok_or_else(wrong);
        let count = || rule.as_u64().ok_or_else(wrong).map(|count| count as usize);
        let list = || rule.as_array().ok_or_else(wrong);
        match keyword.as_str() {
            "$schema" | "$id" | "$comment" | "title" | "description" | "examples" | "default" => {}
            "type" => {
                let names: Vec<&str> = match rule {
                    Value::String(name) => vec![name],
                    Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                    _ => return Err(wrong()),
                };
                if !names.iter().any(|name| is_type(value, name)) {
                    return broken();
                }
            }
            "enum" => {
                if !list()?.iter().any(|one| equal(one, value)) {
                    return broken();
                }
            }
            "const" => {
                if !equal(rule, value) {
                    return broken();
                }
            }
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                let limit = number()?;
                let within = value.as_f64().is_none_or(|value| match keyword.as_str() {
                    "minimum" => value >= limit,
                    "maximum" => value <= limit,
                    "exclusiveMinimum" => value > limit,
                    _ => value < limit,
                });
                if !within {
                    return broken();
                }
            }
            "minLength" | "maxLength" => {
                let limit = count()?;
                let length = value.as_str().map(|text| text.chars().count());
                let few = keyword == "minLength";
                if length.is_some_and(|length| if few { length < limit } else { length > limit }) {
                    return broken();
                }
            }
            "minItems" | "maxItems" => {
                let limit = count()?;
                let length = value.as_array().map(Vec::len);
                let few = keyword == "minItems";
                if length.is_some_and(|length| if few { length < limit } else { length > limit }) {
                    return broken();
                }
            }
            "uniqueItems" => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                if items.len() > 1000 {
                    return Err(format!("{path}: more than 1000 items to hold against each other"));
                }
                let twice = items
                    .iter()
                    .enumerate()
                    .any(|(at, one)| items[..at].iter().any(|other| equal(one, other)));
                if rule == &Value::Bool(true) && twice {
                    return broken();
                }
            }
            "pattern" => {
                let pattern = rule.as_str().ok_or_else(wrong)?;
                let regex = Regex::new(pattern).map_err(|_| wrong())?;
                if let Some(text) = value.as_str()
                    && !regex.is_match(text).map_err(|error| format!("{path}: {error}"))?
                {
                    return broken();
                }
            }
            "required" => {
                for name in list()?.iter().filter_map(Value::as_str) {
                    if value.as_object().is_some_and(|object| !object.contains_key(name)) {
                        return Err(format!("{path}: {name:?} is missing"));
                    }
                }
            }
            "properties" => {
                let properties = rule.as_object().ok_or_else(wrong)?;
                for (name, schema) in properties {
                    if let Some(value) = value.get(name) {
                        deeper(schema, value, &format!("{path}.{name}"))?;
                    }
                }
            }
            "additionalProperties" => {
                let known = keywords.get("properties").and_then(Value::as_object);
                for (name, value) in value.as_object().into_iter().flatten() {
                    if known.is_none_or(|known| !known.contains_key(name)) {
                        deeper(rule, value, &format!("{path}.{name}"))?;
                    }
                }
            }
            "items" => {
                for (index, value) in value.as_array().into_iter().flatten().enumerate() {
                    deeper(rule, value, &format!("{path}[{index}]"))?;
                }
            }
            "allOf" => {
                for schema in list()? {
                    deeper(schema, value, path)?;
                }
            }
            "anyOf" | "oneOf" => {
                let fits = list()?.iter().filter(|one| deeper(one, value, path).is_ok()).count();
                if fits == 0 || (keyword == "oneOf" && fits > 1) {
                    return Err(format!("{path}: fits {fits} schemas of {keyword}"));
                }
            }
            "not" => {
                if deeper(rule, value, path).is_ok() {
                    return Err(format!("{path}: fits what `not` forbids"));
                }
            }
            _ => return Err(format!("{path}: the schema's keyword {keyword:?} is not known here")),
        }
    }
    Ok(())
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "number" => value.is_number(),
        // 1.0 is an integer (draft 6 and later).
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        _ => false,
    }
}

/// Equality of JSON Schema: 1 equals 1.0.
fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(one), Value::Number(two)) => one == two || one.as_f64() == two.as_f64(),
        _ => left == right,
    }
}

fn short(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_breaks_a_schema_is_named() {
        let schema = json!({
            "type": "object",
            "required": ["nombre", "edad"],
            "additionalProperties": false,
            "properties": {
                "nombre": {"type": "string", "minLength": 1},
                "edad": {"type": "integer", "minimum": 0},
                "idiomas": {"type": "array", "items": {"enum": ["es", "pt", "qu"]}, "uniqueItems": true},
            },
        });
        let check = |text: &str, expect: Option<&str>| match (check_text(&schema, text), expect) {
            (Ok(()), None) => {}
            (Err(what), Some(part)) => assert!(what.contains(part), "{text}: {what}"),
            (got, _) => panic!("{text}: {got:?}"),
        };
        check(r#"{"nombre": "Ana", "edad": 3}"#, None);
        check("```json\n{\"nombre\": \"Ana\", \"edad\": 3.0}\n```", None);
        check(r#"{"nombre": "Ana"}"#, Some("\"edad\" is missing"));
        check(r#"{"nombre": "", "edad": 3}"#, Some("$.nombre: minLength"));
        check(r#"{"nombre": "Ana", "edad": -1}"#, Some("minimum"));
        check(r#"{"nombre": "Ana", "edad": "3"}"#, Some("$.edad: type"));
        check(r#"{"nombre": "Ana", "edad": 3, "x": 1}"#, Some("$.x: nothing"));
        check(r#"{"nombre": "Ana", "edad": 3, "idiomas": ["es", "fr"]}"#, Some("$.idiomas[1]"));
        check(r#"{"nombre": "Ana", "edad": 3, "idiomas": ["es", "es"]}"#, Some("uniqueItems"));
        check("Ana", Some("no JSON"));
        assert!(super::check(&json!({"$ref": "#/x"}), &json!(1)).unwrap_err().contains("$ref"));
    }
}
