//! What a planning command answers: numbers with their unit, interval and source, in sections.
//!
//! Every command of the planner answers with a [`Sheet`], so a number always stands beside the
//! formula or table that it came from, in text as in JSON. It knows no formula itself.

use std::fmt::{self, Write as _};

use milpa_base::units::{binary_bytes, si, si_spaced};
use serde::{Serialize, Serializer};

/// What a number counts.
#[derive(Debug, Clone, PartialEq)]
pub enum Unit {
    /// Trained numbers of a model.
    Parameters,
    /// Tokens.
    Tokens,
    /// Floating-point operations.
    Flop,
    /// Floating-point operations per token.
    FlopPerToken,
    /// Floating-point operations per second.
    FlopPerSecond,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Seconds.
    Seconds,
    /// A share of one, shown in percent.
    Share,
    /// Money of a currency.
    Money(String),
    /// Money for a million tokens.
    MoneyPerMillionTokens(String),
    /// Tokens per second.
    TokensPerSecond,
    /// Kilowatt-hours.
    KilowattHours,
    /// Accelerators.
    Gpus,
    /// Accelerators times hours.
    GpuHours,
    /// Cross-entropy in nats per token.
    NatsPerToken,
    /// People times months.
    PersonMonths,
    /// A learning rate.
    LearningRate,
    /// A whole number of things.
    Count,
    /// A ratio without a unit.
    One,
}

impl Unit {
    /// The unit's name in JSON and in a table's head.
    pub fn name(&self) -> String {
        match self {
            Self::Parameters => "parameters".to_owned(),
            Self::Tokens => "tokens".to_owned(),
            Self::Flop => "FLOP".to_owned(),
            Self::FlopPerToken => "FLOP/token".to_owned(),
            Self::FlopPerSecond => "FLOP/s".to_owned(),
            Self::Bytes => "bytes".to_owned(),
            Self::BytesPerSecond => "bytes/s".to_owned(),
            Self::Seconds => "s".to_owned(),
            Self::Share => "share of 1".to_owned(),
            Self::Money(currency) => currency.clone(),
            Self::MoneyPerMillionTokens(currency) => format!("{currency} per million tokens"),
            Self::TokensPerSecond => "tokens/s".to_owned(),
            Self::KilowattHours => "kWh".to_owned(),
            Self::Gpus => "GPUs".to_owned(),
            Self::GpuHours => "GPU-hours".to_owned(),
            Self::NatsPerToken => "nats/token".to_owned(),
            Self::PersonMonths => "person-months".to_owned(),
            Self::LearningRate => "learning rate".to_owned(),
            Self::Count | Self::One => "1".to_owned(),
        }
    }

    /// The value for a person.
    pub fn show(&self, value: f64) -> String {
        match self {
            Self::Parameters | Self::Tokens => si(value),
            Self::Flop if value >= 1e18 => format!("{value:.3e} FLOP"),
            Self::Flop => format!("{}FLOP", si_spaced(value)),
            Self::FlopPerToken => format!("{value:.3e} FLOP"),
            Self::FlopPerSecond => format!("{}FLOP/s", si_spaced(value)),
            Self::Bytes => binary_bytes(value.max(0.0).round() as u64),
            Self::BytesPerSecond => format!("{}B/s", si_spaced(value)),
            Self::Seconds => span(value),
            Self::Share => percent(value),
            Self::Money(currency) => money(value, currency),
            Self::MoneyPerMillionTokens(currency) => {
                format!("{value:.digits$} {currency}", digits = if value < 0.1 { 4 } else { 2 })
            }
            Self::TokensPerSecond if value < 10.0 => format!("{value:.1} tokens/s"),
            Self::TokensPerSecond => format!("{} tokens/s", grouped(value)),
            Self::KilowattHours if value >= 1e4 => format!("{} MWh", three_digits(value / 1e3)),
            Self::KilowattHours => format!("{} kWh", three_digits(value)),
            Self::Gpus | Self::GpuHours | Self::PersonMonths | Self::Count => grouped(value),
            Self::NatsPerToken => format!("{value:.4}"),
            Self::LearningRate => format!("{value:.2e}"),
            Self::One => three_digits(value),
        }
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.name())
    }
}

/// A number with its unit, its interval where one is known, and where it came from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fact {
    /// What it is.
    pub name: String,
    /// The value in `unit`.
    pub value: f64,
    /// What it counts.
    pub unit: Unit,
    /// Lower and upper end, where an interval is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<(f64, f64)>,
    /// The formula or table.
    pub source: String,
}

impl Fact {
    /// A number without an interval.
    pub fn new(name: impl Into<String>, value: f64, unit: Unit, source: impl Into<String>) -> Self {
        Self { name: name.into(), value, unit, interval: None, source: source.into() }
    }

    /// Adds the interval from `low` to `high`.
    pub fn between(self, low: f64, high: f64) -> Self {
        Self { interval: Some((low, high)), ..self }
    }

    fn shown(&self) -> String {
        let value = self.unit.show(self.value);
        match self.interval {
            Some((low, high)) => {
                format!("{value} ({} to {})", self.unit.show(low), self.unit.show(high))
            }
            None => value,
        }
    }
}

/// One cell of a [`Table`].
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// Words.
    Text(String),
    /// A number with its unit.
    Number(f64, Unit),
}

impl Cell {
    /// Words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(value, unit) => unit.show(*value),
        }
    }
}

impl Serialize for Cell {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Text(text) => serializer.serialize_str(text),
            Self::Number(value, _) => serializer.serialize_f64(*value),
        }
    }
}

/// Rows that are compared with each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// Heads of the columns.
    pub columns: Vec<String>,
    /// The rows; numbers are written in JSON in the unit's base (seconds, bytes, shares of 1).
    pub rows: Vec<Vec<Cell>>,
    /// Where the numbers came from.
    pub source: String,
}

/// A part of a [`Sheet`].
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Section {
    /// What it is about.
    pub title: String,
    /// Numbers, each with its source.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
    /// Numbers that are compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<Table>,
    /// What the numbers do not say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Section {
    /// An empty section.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Adds a number.
    pub fn fact(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// Adds a table.
    pub fn table(&mut self, columns: &[&str], rows: Vec<Vec<Cell>>, source: impl Into<String>) {
        let columns = columns.iter().map(|&column| column.to_owned()).collect();
        self.tables.push(Table { columns, rows, source: source.into() });
    }

    /// Adds a sentence.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }
}

/// The answer of a planning command.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Sheet {
    /// What was asked, in a line.
    pub title: String,
    /// The parts.
    pub sections: Vec<Section>,
}

impl Sheet {
    /// The value of a fact by its section's title and its name.
    pub fn value(&self, section: &str, name: &str) -> Option<f64> {
        let section = self.sections.iter().find(|candidate| candidate.title == section)?;
        section.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value)
    }
}

/// Where lines are broken.
const WIDTH: usize = 100;

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for section in &self.sections {
            writeln!(f, "\n{}", section.title)?;
            let names = widest(section.facts.iter().map(|fact| fact.name.as_str()));
            let values: Vec<String> = section.facts.iter().map(Fact::shown).collect();
            let width = widest(values.iter().map(String::as_str));
            for (fact, value) in section.facts.iter().zip(&values) {
                let head = format!("  {:<names$}  {value:<width$}", fact.name);
                let indent = head.chars().count() + 2;
                if indent + fact.source.chars().count() <= WIDTH {
                    writeln!(f, "{head}  {}", fact.source)?;
                } else {
                    writeln!(f, "{}", head.trim_end())?;
                    write_wrapped(f, &fact.source, names + 4)?;
                }
            }
            for table in &section.tables {
                write_table(f, table)?;
            }
            for note in &section.notes {
                write_wrapped(f, note, 2)?;
            }
        }
        Ok(())
    }
}

fn write_table(f: &mut fmt::Formatter<'_>, table: &Table) -> fmt::Result {
    let rows: Vec<Vec<String>> =
        table.rows.iter().map(|row| row.iter().map(Cell::shown).collect()).collect();
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(String::as_str);
            widest(cells.chain([table.columns[column].as_str()]))
        })
        .collect();
    for row in std::iter::once(&table.columns).chain(&rows) {
        let Some((last, cells)) = row.split_last() else { continue };
        let mut line = String::from(" ");
        for (cell, width) in cells.iter().zip(&widths) {
            write!(line, " {cell:<width$} ")?;
        }
        line.push(' ');
        // A long last cell goes on below its column.
        let indent = line.chars().count();
        let room = WIDTH.saturating_sub(indent).max(24);
        for (index, part) in wrap(last, room).iter().enumerate() {
            let head = if index == 0 { line.as_str() } else { "" };
            writeln!(f, "{}", format!("{head:<indent$}{part}").trim_end())?;
        }
    }
    write_wrapped(f, &table.source, 4)
}

fn widest<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or(0)
}

fn write_wrapped(f: &mut fmt::Formatter<'_>, text: &str, indent: usize) -> fmt::Result {
    wrap(text, WIDTH - indent).iter().try_for_each(|line| writeln!(f, "{:indent$}{line}", ""))
}

/// Breaks a text between words into lines of at most `width` characters where words allow it; at
/// least one line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one line at least");
        if line.is_empty() {
            *line += word;
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            *line += word;
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

/// A time from milliseconds to years: "38.6 days", "14 min", "11.2 s".
pub fn span(seconds: f64) -> String {
    match seconds {
        s if s < 1.0 => format!("{} ms", three_digits(s * 1e3)),
        s if s < 300.0 => format!("{} s", three_digits(s)),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s if s < 1000.0 * 86_400.0 => format!("{} days", three_digits(s / 86_400.0)),
        s => format!("{} years", grouped(s / (365.25 * 86_400.0))),
    }
}

/// A share of one in percent, with digits where it is small.
pub fn percent(share: f64) -> String {
    let percent = share * 100.0;
    match percent.abs() {
        p if p < 1.0 => format!("{percent:.2} %"),
        p if p < 10.0 || (98.0..100.0).contains(&p) => format!("{percent:.1} %"),
        _ => format!("{percent:.0} %"),
    }
}

/// An amount of money: "1.75M USD", "48 000 USD", "0.30 USD".
pub fn money(amount: f64, currency: &str) -> String {
    match amount.abs() {
        a if a >= 1e6 => format!("{} {currency}", si(amount)),
        a if a >= 1e3 => format!("{} {currency}", grouped(amount)),
        // Two digits of what one request costs.
        a if a > 0.0 && a < 0.1 => {
            format!("{amount:.digits$} {currency}", digits = (1.0 - a.log10()).ceil() as usize)
        }
        _ => format!("{amount:.2} {currency}"),
    }
}

/// A whole number in groups of three: "87 500".
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 && digits.len() > 4 {
            text.push(' ');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => grouped(value),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let check = |unit: Unit, value: f64, expect: &str| assert_eq!(unit.show(value), expect);
        check(Unit::Seconds, 38.56 * 86_400.0, "38.6 days");
        check(Unit::Seconds, 853.0, "14 min");
        check(Unit::Seconds, 0.004, "4.00 ms");
        check(Unit::Share, 0.0142, "1.4 %");
        check(Unit::Share, 0.002, "0.20 %");
        check(Unit::Money("USD".to_owned()), 262_500.0, "262 500 USD");
        check(Unit::Money("CLP".to_owned()), 1.75e9, "1.75B CLP");
        check(Unit::Money("USD".to_owned()), 0.000_08, "0.000080 USD");
        check(Unit::Share, 0.991, "99.1 %");
        check(Unit::Flop, 8.4e23, "8.400e23 FLOP");
        check(Unit::GpuHours, 1234.0, "1234");
        check(Unit::TokensPerSecond, 49.3, "49 tokens/s");
    }

    #[test]
    fn every_number_stands_beside_its_source() {
        let mut section = Section::new("Compute");
        let fact = Fact::new("all", 8.4e23, Unit::Flop, "6N (Kaplan 2020)").between(8e23, 9e23);
        section.fact(fact);
        section.table(
            &["GPUs", "time"],
            vec![vec![Cell::text("256"), Cell::Number(86_400.0 * 3.0, Unit::Seconds)]],
            "measured",
        );
        section.note("word ".repeat(40));
        let sheet = Sheet { title: "A plan".to_owned(), sections: vec![section] };
        let text = sheet.to_string();
        assert!(text.contains("8.400e23 FLOP (8.000e23 FLOP to 9.000e23 FLOP)  6N"), "{text}");
        assert!(text.contains("256   3.00 days\n    measured"), "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH), "{text}");
        assert_eq!(sheet.value("Compute", "all"), Some(8.4e23));
    }
}
