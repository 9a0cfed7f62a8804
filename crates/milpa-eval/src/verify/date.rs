//! Dates in Spanish, Portuguese, English and digits.
//!
//! `6 de marzo de 1927`, `06/03/1927`, `1927-03-06`, `marzo de 1927`, `1927`, `March 6, 1927`.
//! Digits between slashes are day first in the region; another order is named. It knows no calendar
//! but the Gregorian, and no era but ours.

use serde::{Deserialize, Serialize};

use crate::verify::{
    Place, Reason, Verdict,
    answer::{Marked, marked},
};

/// What `6/3/1927` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DateOrder {
    /// The sixth of March.
    #[default]
    DayFirst,
    /// The third of June.
    MonthFirst,
}

/// A date, a month or a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    /// Year.
    pub year: i32,
    /// Month from 1.
    pub month: Option<u8>,
    /// Day from 1.
    pub day: Option<u8>,
}

impl std::fmt::Display for Date {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{:04}", self.year)?;
        for part in [self.month, self.day].into_iter().flatten() {
            write!(formatter, "-{part:02}")?;
        }
        Ok(())
    }
}

const MONTHS: [[&str; 3]; 12] = [
    ["enero", "janeiro", "january"],
    ["febrero", "fevereiro", "february"],
    ["marzo", "março", "march"],
    ["abril", "abril", "april"],
    ["mayo", "maio", "may"],
    ["junio", "junho", "june"],
    ["julio", "julho", "july"],
    ["agosto", "agosto", "august"],
    ["septiembre", "setembro", "september"],
    ["octubre", "outubro", "october"],
    ["noviembre", "novembro", "november"],
    ["diciembre", "dezembro", "december"],
];

pub(super) fn judge(gold: &str, response: &str, order: DateOrder, place: Place) -> Verdict {
    let Some(right) = read_date(gold, order) else {
        return Verdict::unreadable(Reason::UnreadableGold { gold: gold.to_owned() });
    };
    let text = match (place, marked(response)) {
        (Place::Whole, _) => response,
        (_, Some(Marked::Alone(text) | Marked::Sentence(text))) => text,
        (Place::Marked, None) => return Verdict::unreadable(Reason::NoAnswer),
        (Place::MarkedOrLast, None) => response.trim().lines().last().unwrap_or(""),
    };
    let Some(given) = read_date(text, order) else {
        return Verdict::unreadable(Reason::NoAnswer);
    };
    let differs = |right: Option<u8>, given: Option<u8>| matches!((right, given), (Some(right), Some(given)) if right != given);
    if given.year != right.year
        || differs(right.month, given.month)
        || differs(right.day, given.day)
    {
        return Verdict::incorrect(Reason::Different {
            given: given.to_string(),
            gold: right.to_string(),
        });
    }
    let parts = |date: Date| u8::from(date.month.is_some()) + u8::from(date.day.is_some());
    if parts(given) < parts(right) {
        return Verdict::incorrect(Reason::LessPrecise);
    }
    Verdict::correct(Reason::Equal)
}

/// The one date of a text; `None` where there is none, more than one, or what cannot be a day.
pub fn read_date(text: &str, order: DateOrder) -> Option<Date> {
    if text.len() > 4096 {
        return None;
    }
    let lower = text.to_lowercase();
    let words: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    // A decade, a century or a year before our era is no year.
    let other = ["década", "decada", "siglo", "século", "seculo", "century", "bc", "ac"];
    if words.iter().any(|word| other.contains(word))
        || lower.contains("a. c")
        || lower.contains("a.c")
    {
        return None;
    }
    let named: Vec<u8> = words
        .iter()
        .filter_map(|word| {
            let at = MONTHS.iter().position(|names| {
                names.contains(word) || (*word == "setiembre" && names[0] == "septiembre")
            })?;
            Some(at as u8 + 1)
        })
        .collect();
    let numbers: Vec<(&str, i32)> = words
        .iter()
        .filter_map(|word| {
            let digits = word.trim_end_matches(['º', 'ª', 't', 'h', 's', 'r', 'd', 'n', 'o']);
            let length = digits.len();
            Some((digits, digits.parse().ok().filter(|_| (1..=4).contains(&length))?))
        })
        .collect();
    if words.iter().any(|word| word.len() > 4 && word.bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let is_year = |(digits, _): (&str, i32)| digits.len() >= 3;
    let date = match (named.as_slice(), numbers.as_slice()) {
        ([month], [year]) if is_year(*year) => {
            Date { year: year.1, month: Some(*month), day: None }
        }
        ([month], [day, year]) if !is_year(*day) && is_year(*year) => {
            Date { year: year.1, month: Some(*month), day: Some(day.1 as u8) }
        }
        ([], [year, month, day]) if is_year(*year) && !is_year(*month) && !is_year(*day) => {
            Date { year: year.1, month: Some(month.1 as u8), day: Some(day.1 as u8) }
        }
        ([], [first, second, year]) if is_year(*year) && !is_year(*first) && !is_year(*second) => {
            let (day, month) = match order {
                DateOrder::DayFirst => (first.1, second.1),
                DateOrder::MonthFirst => (second.1, first.1),
            };
            Date { year: year.1, month: Some(month as u8), day: Some(day as u8) }
        }
        ([], [year]) if is_year(*year) => Date { year: year.1, month: None, day: None },
        _ => return None,
    };
    let leap = date.year % 4 == 0 && (date.year % 100 != 0 || date.year % 400 == 0);
    let days = match date.month {
        Some(2) => 28 + u8::from(leap),
        Some(4 | 6 | 9 | 11) => 30,
        None | Some(1..=12) => 31,
        Some(_) => return None,
    };
    date.day.is_none_or(|day| (1..=days).contains(&day)).then_some(date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_the_forms_of_the_region() {
        for (text, expect) in [
            ("6 de marzo de 1927", Some("1927-03-06")),
            ("1º de março de 1927", Some("1927-03-01")),
            ("06/03/1927", Some("1927-03-06")),
            ("1927-03-06", Some("1927-03-06")),
            ("March 6, 1927", Some("1927-03-06")),
            ("marzo de 1927", Some("1927-03")),
            ("setiembre de 1821", Some("1821-09")),
            ("en 1927", Some("1927")),
            ("31/02/1927", None),
            ("29 de febrero de 2024", Some("2024-02-29")),
            ("29 de febrero de 2023", None),
            ("1927 o 1928", None),
            ("la década de 1920", None),
            ("300 a. C.", None),
            ("nunca", None),
        ] {
            let read = read_date(text, DateOrder::DayFirst).map(|date| date.to_string());
            assert_eq!(read.as_deref(), expect, "{text:?}");
        }
    }
}
