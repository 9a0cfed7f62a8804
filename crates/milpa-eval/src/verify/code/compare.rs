//! Whether what a program gave is what is right.
//!
//! JSON against JSON, and text against text. Everything is exact but what the right answer leaves
//! open: numbers written with a point or an exponent, and white space at the ends of lines.

use serde_json::{Number, Value};

/// Where `given` differs from `right`, as a path such as `[2].name`; `None` where it does not.
///
/// A right number written with a point or an exponent allows a relative difference of `tolerance`
/// (absolute where it is 0.0); others are exact. Kinds never mix: `true` is not 1, `"3"` is not 3.
pub fn difference(right: &Value, given: &Value, tolerance: f64) -> Option<String> {
    let here = || Some(String::new());
    match (right, given) {
        (Value::Number(right), Value::Number(given)) => {
            (!same_number(right, given, tolerance)).then(String::new)
        }
        (Value::Array(right), Value::Array(given)) => {
            if right.len() != given.len() {
                return here();
            }
            right.iter().zip(given).enumerate().find_map(|(at, (right, given))| {
                difference(right, given, tolerance).map(|path| format!("[{at}]{path}"))
            })
        }
        (Value::Object(right), Value::Object(given)) => {
            if right.len() != given.len() {
                return here();
            }
            right.iter().find_map(|(key, right)| {
                let path = match given.get(key) {
                    Some(given) => difference(right, given, tolerance)?,
                    None => String::new(),
                };
                Some(format!(".{key}{path}"))
            })
        }
        (Value::Null, Value::Null) => None,
        (Value::Bool(right), Value::Bool(given)) if right == given => None,
        (Value::String(right), Value::String(given)) if right == given => None,
        _ => here(),
    }
}

fn same_number(right: &Number, given: &Number, tolerance: f64) -> bool {
    if right == given {
        return true;
    }
    let (Some(exact), Some(value)) = (right.as_f64(), given.as_f64()) else { return false };
    if right.is_f64() {
        let room = if exact == 0.0 { tolerance } else { tolerance * exact.abs() };
        return (value - exact).abs() <= room;
    }
    // A whole number: 3.0 is 3 as long as a double tells neighbours apart.
    given.is_f64() && value == exact && exact.abs() < (1_u64 << 53) as f64
}

/// Whether two texts are the same but for white space at the ends of lines and of the text.
pub fn same_text(right: &str, given: &str) -> bool {
    let lines = |text: &'_ str| -> Vec<String> {
        text.trim_end().lines().map(|line| line.trim_end().to_owned()).collect()
    };
    lines(right) == lines(given)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_the_same_or_not() {
        let check = |right: Value, given: &str, expect: Option<&str>| {
            let given = serde_json::from_str(given).unwrap();
            let found = difference(&right, &given, 1e-9);
            assert_eq!(found.as_deref(), expect, "{right} {given}");
        };
        check(json!(3), "3", None);
        check(json!(3), "3.0", None);
        check(json!(3), "3.0000000001", Some(""));
        check(json!(3.0), "3", None);
        check(json!(0.3), "0.30000000000000004", None);
        check(json!(0.3), "0.3000001", Some(""));
        check(json!(1e-12), "0", Some(""));
        check(json!(0.0), "1e-10", None);
        check(json!(9007199254740993_u64), "9007199254740992", Some(""));
        check(json!(9007199254740993_u64), "9007199254740992.0", Some(""));
        check(json!(-1), "18446744073709551615", Some(""));
        check(json!(1), "true", Some(""));
        check(json!("3"), "3", Some(""));
        check(json!(null), "0", Some(""));
        check(json!(null), "[]", Some(""));
        check(json!({"a": [1, 2], "b": null}), r#"{"b":null,"a":[1,2]}"#, None);
        check(json!({"a": [1, 2]}), r#"{"a":[1,3]}"#, Some(".a[1]"));
        check(json!({"a": 1}), r#"{"b":1}"#, Some(".a"));
        check(json!([1]), "[1,1]", Some(""));
        check(json!([]), "{}", Some(""));
        check(json!("á"), r#""a\u0301""#, Some(""));
        assert!(same_text("1 2\n3\n", "1 2 \r\n3"));
        assert!(!same_text("1\n2", "1\n\n2"));
        assert!(!same_text("1", " 1"));
    }
}
