//! Quantities with their unit: no bare number crosses a crate.
//!
//! In TOML a quantity is a text with its unit (`"20M tokens"`, `"24 GiB"`) or, for counts, a plain
//! integer. Decimal prefixes (k, M, B, G, T) are powers of 1000; binary ones (KiB, MiB, GiB, TiB)
//! are powers of 1024.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is no quantity of the wanted unit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}; write it as {example:?}")]
pub struct BadQuantity {
    text: String,
    expected: &'static str,
    example: &'static str,
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $example:literal, $units:expr, $show:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl FromStr for $name {
            type Err = BadQuantity;

            fn from_str(text: &str) -> Result<Self, BadQuantity> {
                parse_quantity(text, $units).map(Self).ok_or_else(|| BadQuantity {
                    text: text.chars().take(80).collect(),
                    expected: $expected,
                    example: $example,
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let show: fn(u64) -> String = $show;
                f.write_str(&show(self.0))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} such as {:?}", $expected, $example)
                    }
                    fn visit_u64<E: de::Error>(self, value: u64) -> Result<$name, E> {
                        Ok($name(value))
                    }
                    fn visit_i64<E: de::Error>(self, value: i64) -> Result<$name, E> {
                        u64::try_from(value).map($name).map_err(|_| {
                            E::custom(format!("{value} is negative; expected {}", $expected))
                        })
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }
    };
}

quantity!(
    /// A number of tokens.
    Tokens, "a number of tokens", "20M tokens", &["tokens", "token"],
    |n| format!("{} tokens", si(n as f64))
);
quantity!(
    /// A number of bytes.
    Bytes, "a number of bytes", "24 GiB", &["bytes", "byte", "B"],
    |n| binary_bytes(n)
);
quantity!(
    /// A number of optimiser steps.
    Steps, "a number of steps", "1200 steps", &["steps", "step"],
    |n| format!("{n} steps")
);

/// A number of floating-point operations (a multiply-add counts two).
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flops(pub f64);

impl fmt::Display for Flops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}FLOP", si_spaced(self.0))
    }
}

/// Writes a count with a decimal prefix: 950, 12.9k, 4.50M, 1.24B.
pub fn si(value: f64) -> String {
    let (scaled, prefix) = match value.abs() {
        v if v >= 1e12 => (value / 1e12, "T"),
        v if v >= 1e9 => (value / 1e9, "B"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    if prefix.is_empty() && value.fract() == 0.0 {
        format!("{value}")
    } else {
        format!("{}{prefix}", three_digits(scaled))
    }
}

/// Writes a value for a unit symbol that follows: "80.8 M", "1.20 T".
pub fn si_spaced(value: f64) -> String {
    let (scaled, prefix) = match value.abs() {
        v if v >= 1e18 => (value / 1e18, "E"),
        v if v >= 1e15 => (value / 1e15, "P"),
        v if v >= 1e12 => (value / 1e12, "T"),
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e3 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    format!("{} {prefix}", three_digits(scaled))
}

/// Writes bytes with a binary prefix: 521 B, 1.33 GiB.
pub fn binary_bytes(bytes: u64) -> String {
    let value = bytes as f64;
    for (prefix, power) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << power {
            return format!("{} {prefix}", three_digits(value / (1u64 << power) as f64));
        }
    }
    format!("{bytes} B")
}

/// Writes seconds for people: "42 s", "3 min 05 s", "2 h 10 min".
pub fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Reads "number [prefix] [unit]"; the result must be a whole number.
fn parse_quantity(text: &str, units: &[&str]) -> Option<u64> {
    let text = text.trim();
    let split =
        text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '_')).unwrap_or(text.len());
    let number: f64 = text[..split].replace('_', "").parse().ok()?;
    let mut rest = text[split..].trim();
    if let Some(without) =
        units.iter().filter(|unit| unit.len() > 1).find_map(|unit| rest.strip_suffix(unit))
    {
        rest = without.trim_end();
    }
    let bytes = units.contains(&"B");
    let factor = match rest {
        "" => 1.0,
        "B" if bytes => 1.0,
        "k" | "K" if !bytes => 1e3,
        "M" if !bytes => 1e6,
        "B" | "G" if !bytes => 1e9,
        "T" if !bytes => 1e12,
        "kB" | "KB" if bytes => 1e3,
        "MB" if bytes => 1e6,
        "GB" if bytes => 1e9,
        "TB" if bytes => 1e12,
        "KiB" if bytes => 1024.0,
        "MiB" if bytes => 1024.0 * 1024.0,
        "GiB" if bytes => 1024.0 * 1024.0 * 1024.0,
        "TiB" if bytes => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let value = number * factor;
    // 2^53: beyond it an f64 no longer holds every whole number.
    (value.fract().abs() < 1e-6 && value < 9.007_199_254_740_992e15).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: FromStr + fmt::Debug>(text: &str, expect: Option<u64>, get: fn(T) -> u64) {
        assert_eq!(text.parse::<T>().ok().map(get), expect, "{text:?}");
    }

    #[test]
    fn quantities_are_read_with_their_unit() {
        check::<Tokens>("20M tokens", Some(20_000_000), |t| t.0);
        check::<Tokens>("1.5k", Some(1500), |t| t.0);
        check::<Tokens>("2B tokens", Some(2_000_000_000), |t| t.0);
        check::<Tokens>("20 MiB", None, |t| t.0);
        check::<Tokens>("20 M bytes", None, |t| t.0);
        check::<Bytes>("24 GiB", Some(24 << 30), |b| b.0);
        check::<Bytes>("1 MB", Some(1_000_000), |b| b.0);
        check::<Bytes>("17 B", Some(17), |b| b.0);
        check::<Bytes>("3 tokens", None, |b| b.0);
        check::<Steps>("1_200 steps", Some(1200), |s| s.0);
        check::<Steps>("-3", None, |s| s.0);
        check::<Steps>("1.5 steps", None, |s| s.0);
    }

    #[test]
    fn quantities_are_shown_with_their_unit() {
        assert_eq!(Tokens(4_500_000).to_string(), "4.50M tokens");
        assert_eq!(Bytes(521 << 20).to_string(), "521 MiB");
        assert_eq!(Flops(80.8e6).to_string(), "80.8 MFLOP");
        assert_eq!(duration(185.2), "3 min 05 s");
        assert_eq!(duration(7810.0), "2 h 10 min");
        assert_eq!(si(950.0), "950");
    }
}
