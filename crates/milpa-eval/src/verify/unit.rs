//! Units of measure in Spanish, Portuguese and English, and their size in the unit of their kind.
//!
//! Factors are exact (SI brochure; the inch and its kin by the agreement of 1959, the pound too).
//! It converts no temperatures, whose scales have different zeros, and knows no numbers.

use crate::verify::rational::Rational;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// In metres.
    Length,
    /// In square metres.
    Area,
    /// In litres.
    Volume,
    /// In grams.
    Mass,
    /// In seconds.
    Time,
    /// In metres a second.
    Speed,
    /// In degrees.
    Angle,
    /// In degrees Celsius.
    Celsius,
}

/// A unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Its symbol.
    pub symbol: &'static str,
    /// What it measures.
    pub kind: Quantity,
    factor: (i128, i128),
}

impl Unit {
    /// `value` in the unit of its kind; `None` where it does not fit.
    pub fn to_base(self, value: Rational) -> Option<Rational> {
        value.times(Rational::new(self.factor.0, self.factor.1)?)
    }
}

use Quantity as Q;

/// Symbol, kind, factor, names in small letters.
type Row = (&'static str, Quantity, (i128, i128), &'static [&'static str]);

const UNITS: [Row; 33] = [
    ("mm", Q::Length, (1, 1000), &["milímetro", "milimetro", "millimeter", "millimetre"]),
    ("cm", Q::Length, (1, 100), &["centímetro", "centimetro", "centimeter", "centimetre"]),
    ("m", Q::Length, (1, 1), &["metro", "meter", "metre", "mt"]),
    (
        "km",
        Q::Length,
        (1000, 1),
        &["kilómetro", "kilometro", "quilômetro", "quilometro", "kilometer", "kilometre"],
    ),
    ("in", Q::Length, (254, 10_000), &["pulgada", "polegada", "inch", "inche"]),
    ("ft", Q::Length, (3048, 10_000), &["pie", "pé", "foot", "feet"]),
    ("mi", Q::Length, (1_609_344, 1000), &["milla", "milha", "mile"]),
    ("cm²", Q::Area, (1, 10_000), &["cm2", "cm^2"]),
    ("m²", Q::Area, (1, 1), &["m2", "m^2"]),
    ("km²", Q::Area, (1_000_000, 1), &["km2", "km^2"]),
    ("ha", Q::Area, (10_000, 1), &["hectárea", "hectarea", "hectare"]),
    ("mL", Q::Volume, (1, 1000), &["ml", "mililitro", "milliliter", "cm³", "cm3", "cm^3"]),
    ("L", Q::Volume, (1, 1), &["l", "litro", "liter", "litre", "dm³", "dm3"]),
    ("m³", Q::Volume, (1000, 1), &["m3", "m^3"]),
    ("mg", Q::Mass, (1, 1000), &["miligramo", "miligrama", "milligram"]),
    ("g", Q::Mass, (1, 1), &["gr", "gramo", "grama", "gram"]),
    ("kg", Q::Mass, (1000, 1), &["kilo", "quilo", "kilogramo", "quilograma", "kilogram"]),
    ("t", Q::Mass, (1_000_000, 1), &["tonelada", "tonne"]),
    ("lb", Q::Mass, (45_359_237, 100_000), &["libra", "pound"]),
    ("ms", Q::Time, (1, 1000), &["milisegundo", "milissegundo", "millisecond"]),
    ("s", Q::Time, (1, 1), &["seg", "segundo", "second"]),
    ("min", Q::Time, (60, 1), &["minuto", "minute"]),
    ("h", Q::Time, (3600, 1), &["hr", "hora", "hour"]),
    ("d", Q::Time, (86_400, 1), &["día", "dia", "day"]),
    ("week", Q::Time, (604_800, 1), &["semana"]),
    ("m/s", Q::Speed, (1, 1), &["mps"]),
    ("km/h", Q::Speed, (5, 18), &["kmh", "kph"]),
    ("mi/h", Q::Speed, (44_704, 100_000), &["mph"]),
    ("°", Q::Angle, (1, 1), &["grado", "grau", "degree"]),
    ("rad", Q::Angle, (0, 0), &["radián", "radian", "radiano"]),
    ("°C", Q::Celsius, (1, 1), &["celsius"]),
    ("°F", Q::Celsius, (0, 0), &["fahrenheit"]),
    ("K", Q::Celsius, (0, 0), &["kelvin"]),
];

/// The unit of a symbol or a name, singular or plural.
pub fn unit_of(text: &str) -> Option<Unit> {
    let text = text.trim().trim_end_matches('.');
    if text.len() > 32 {
        return None;
    }
    let found = |row: &Row| Unit { symbol: row.0, kind: row.1, factor: row.2 };
    // Symbols first and as written: m is no M, and mL no m.
    if let Some(row) = UNITS.iter().find(|row| row.0 == text) {
        return Some(found(row));
    }
    let lower = text.to_lowercase();
    let singular = lower.strip_suffix('s').unwrap_or(&lower);
    let spanish = lower.strip_suffix("es").unwrap_or(&lower);
    UNITS
        .iter()
        .find(|row| {
            row.3.iter().any(|name| [lower.as_str(), singular, spanish].contains(name))
                || (row.0.len() > 1 && row.0.is_ascii() && row.0 == lower)
        })
        .map(found)
}

/// The unit at the beginning of what follows a number.
pub fn unit_after(rest: &str) -> Option<Unit> {
    let rest = rest.trim_start_matches([' ', '\u{a0}', '\u{202f}', '\u{2009}']);
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '²' | '³' | '/' | '^' | '°');
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let (word, after) = rest.split_at(end);
    let unit = unit_of(word)?;
    let mut next = after.trim_start().split(|c: char| !c.is_alphabetic());
    let next = next.next().unwrap_or("").to_lowercase();
    let symbol = match (unit.symbol, next.as_str()) {
        ("m", "cuadrado" | "cuadrados" | "quadrado" | "quadrados") => "m²",
        ("cm", "cuadrado" | "cuadrados" | "quadrado" | "quadrados") => "cm²",
        ("km", "cuadrado" | "cuadrados" | "quadrado" | "quadrados") => "km²",
        ("m", "cúbico" | "cúbicos" | "cubico" | "cubicos") => "m³",
        ("°", "celsius" | "centígrados" | "c") => "°C",
        (symbol, _) => symbol,
    };
    unit_of(symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_by_symbol_and_name() {
        for (text, expect) in [
            ("km", Some("km")),
            (" kilómetros de largo", Some("km")),
            ("metros cuadrados", Some("m²")),
            ("m^2", Some("m²")),
            ("km/h", Some("km/h")),
            ("libras", Some("lb")),
            ("huevos", None),
            ("", None),
        ] {
            assert_eq!(unit_after(text).map(|unit| unit.symbol), expect, "{text:?}");
        }
        let kilometre = unit_of("km").unwrap();
        assert_eq!(kilometre.to_base(Rational::ONE), Rational::whole(1000));
    }
}
