//! Dates and quantities as people of the region write them.
//!
//! A date says no more than its precision; a number has the marks of its country: 1.234,5 in South
//! America, 1,234.5 in Mexico, Central America and the Caribbean's north. Years before our era are
//! not written.

use serde::{Deserialize, Serialize};

use crate::choclo::{
    entity::Id,
    grammar::{Gender, Language, Phrase},
    knowledge::UnitKind,
};

/// How precise a date is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DatePrecision {
    /// A century.
    Century,
    /// A decade.
    Decade,
    /// A year.
    Year,
    /// A month.
    Month,
    /// A day.
    Day,
}

/// A date with its precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Date {
    /// Year of our era; a year within the decade or century where it is less precise.
    pub year: i32,
    /// Month from 1, or 0.
    pub month: u8,
    /// Day from 1, or 0.
    pub day: u8,
    /// How much of it is known.
    pub precision: DatePrecision,
}

const MONTHS: [[&str; 12]; 2] = [
    [
        "enero",
        "febrero",
        "marzo",
        "abril",
        "mayo",
        "junio",
        "julio",
        "agosto",
        "septiembre",
        "octubre",
        "noviembre",
        "diciembre",
    ],
    [
        "janeiro",
        "fevereiro",
        "março",
        "abril",
        "maio",
        "junho",
        "julho",
        "agosto",
        "setembro",
        "outubro",
        "novembro",
        "dezembro",
    ],
];

/// The names of the months, January first.
pub(crate) fn months(language: Language) -> &'static [&'static str; 12] {
    &MONTHS[language.index()]
}

impl Date {
    /// A date of the dump, if it can be written: of our era, with the parts its precision claims.
    pub(crate) fn from_dump(year: i32, month: u8, day: u8, precision: u8) -> Option<Self> {
        let precision = match precision {
            11.. if month > 0 && day > 0 => DatePrecision::Day,
            10 if month > 0 => DatePrecision::Month,
            9 => DatePrecision::Year,
            8 => DatePrecision::Decade,
            7 => DatePrecision::Century,
            _ => return None,
        };
        let month = if precision >= DatePrecision::Month { month } else { 0 };
        let day = if precision == DatePrecision::Day { day } else { 0 };
        (1..=9999).contains(&year).then_some(Self { year, month, day, precision })
    }

    /// The century, counted from 1.
    pub fn century(self) -> i32 {
        (self.year - 1) / 100 + 1
    }

    /// The first year of the decade.
    pub fn decade(self) -> i32 {
        self.year - self.year % 10
    }

    pub(crate) fn phrase(self, language: Language) -> Phrase {
        let month = || months(language)[usize::from(self.month) - 1];
        match self.precision {
            DatePrecision::Day => {
                // The first of a month is an ordinal in Brazil.
                let first = language == Language::Portuguese && self.day == 1;
                let ordinal = if first { "º" } else { "" };
                let text = format!("{}{ordinal} de {} de {}", self.day, month(), self.year);
                let located = (language == Language::Spanish).then(|| format!("el {text}"));
                Phrase { located, ..Phrase::bare(text) }
            }
            DatePrecision::Month => Phrase::bare(format!("{} de {}", month(), self.year)),
            DatePrecision::Year => Phrase::bare(self.year.to_string()),
            DatePrecision::Decade => {
                Phrase::with_article(Gender::Feminine, format!("década de {}", self.decade()))
            }
            DatePrecision::Century => {
                let noun = if language == Language::Spanish { "siglo" } else { "século" };
                Phrase::with_article(Gender::Masculine, format!("{noun} {}", roman(self.century())))
            }
        }
    }
}

/// Roman numerals, for centuries.
pub(crate) fn roman(mut number: i32) -> String {
    const SIGNS: [(i32, &str); 9] = [
        (100, "C"),
        (90, "XC"),
        (50, "L"),
        (40, "XL"),
        (10, "X"),
        (9, "IX"),
        (5, "V"),
        (4, "IV"),
        (1, "I"),
    ];
    let mut text = String::new();
    for (value, sign) in SIGNS {
        while number >= value {
            text.push_str(sign);
            number -= value;
        }
    }
    text
}

/// A unit: item, symbol, size in metres or square metres.
struct Unit {
    id: Id,
    symbol: &'static str,
    kind: UnitKind,
    factor: f64,
}

const UNITS: [Unit; 9] = [
    Unit { id: 11573, symbol: "m", kind: UnitKind::Length, factor: 1.0 },
    Unit { id: 828224, symbol: "km", kind: UnitKind::Length, factor: 1e3 },
    Unit { id: 3710, symbol: "ft", kind: UnitKind::Length, factor: 0.3048 },
    Unit { id: 253276, symbol: "mi", kind: UnitKind::Length, factor: 1609.344 },
    Unit { id: 25343, symbol: "m²", kind: UnitKind::Area, factor: 1.0 },
    Unit { id: 35852, symbol: "ha", kind: UnitKind::Area, factor: 1e4 },
    Unit { id: 712226, symbol: "km²", kind: UnitKind::Area, factor: 1e6 },
    Unit { id: 232291, symbol: "mi²", kind: UnitKind::Area, factor: 2_589_988.110_336 },
    Unit { id: 81292, symbol: "ac", kind: UnitKind::Area, factor: 4_046.856_422_4 },
];

/// The factor to metres or square metres and the symbol of a unit of `kind`.
pub(crate) fn unit(id: Id, kind: UnitKind) -> Option<(f64, &'static str)> {
    if kind == UnitKind::None {
        return (id == 0).then_some((1.0, ""));
    }
    UNITS.iter().find(|unit| unit.id == id && unit.kind == kind).map(|u| (u.factor, u.symbol))
}

/// The size of the unit with this symbol in metres or square metres.
pub(crate) fn factor_of(symbol: &str) -> Option<f64> {
    UNITS.iter().find(|unit| unit.symbol == symbol).map(|unit| unit.factor)
}

/// A number with the marks of its country; at most two decimals.
pub(crate) fn number(amount: f64, decimal_point: bool) -> String {
    let (decimal, group) = if decimal_point { ('.', ',') } else { (',', '.') };
    let plain = format!("{:.2}", amount.abs());
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut text = String::new();
    if amount < 0.0 {
        text.push('−');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            text.push(group);
        }
        text.push(digit);
    }
    let fraction = fraction.trim_end_matches('0');
    if !fraction.is_empty() {
        text.push(decimal);
        text.push_str(fraction);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_say_no_more_than_is_known() {
        let check = |precision, expect: [&str; 2]| {
            let date = Date::from_dump(1927, 3, 6, precision).unwrap();
            assert_eq!(Language::ALL.map(|language| date.phrase(language).text), expect);
        };
        check(11, ["6 de marzo de 1927", "6 de março de 1927"]);
        check(10, ["marzo de 1927", "março de 1927"]);
        check(9, ["1927", "1927"]);
        check(8, ["década de 1920", "década de 1920"]);
        check(7, ["siglo XX", "século XX"]);
        let first = Date::from_dump(1565, 3, 1, 11).unwrap();
        let texts = Language::ALL.map(|language| first.phrase(language).text);
        assert_eq!(texts, ["1 de marzo de 1565", "1º de março de 1565"]);
        assert_eq!(Date::from_dump(1927, 0, 0, 11), None);
        assert_eq!(Date::from_dump(-44, 3, 15, 11), None);
        assert_eq!(Date::from_dump(1900, 0, 0, 7).unwrap().century(), 19);
    }

    #[test]
    fn numbers_have_the_marks_of_their_country() {
        let check = |amount, point, expect| assert_eq!(number(amount, point), expect);
        check(1234567.0, false, "1.234.567");
        check(1234.5, true, "1,234.5");
        check(999.0, true, "999");
        check(-0.25, false, "−0,25");
    }
}
