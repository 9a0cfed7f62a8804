//! Amounts as a person types them: parameters, compute, money, rates.
//!
//! An amount in the wrong unit is refused with the unit that was meant, never taken as a bare
//! number. It knows no exchange rate: the caller gives one.

use std::{fmt, str::FromStr};

use milpa_base::Flops;
use serde::Serialize;

use crate::PlanError;

/// A currency by its three letters of ISO 4217.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Currency(String);

impl Currency {
    /// The United States dollar, in which GPU hours are mostly quoted.
    pub fn usd() -> Self {
        Self("USD".to_owned())
    }

    /// The three letters.
    pub fn code(&self) -> &str {
        &self.0
    }
}

impl FromStr for Currency {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let code = text.trim();
        if code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase()) {
            Ok(Self(code.to_owned()))
        } else {
            Err(bad(text, "a currency", "three capital letters are wanted, such as USD or CLP"))
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An amount of money; without a currency it is in the command's.
#[derive(Debug, Clone, PartialEq)]
pub struct Money {
    /// How much.
    pub amount: f64,
    /// Of what, where it was written.
    pub currency: Option<Currency>,
}

impl FromStr for Money {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wanted = "an amount of money";
        let (number, rest) = number(text, wanted)?;
        let (factor, rest) = magnitude(rest);
        let currency = if rest.is_empty() {
            None
        } else {
            let problem = format!("{} is no currency; write it as \"1.5M USD\"", quoted(rest));
            Some(rest.parse().map_err(|_| bad(text, wanted, &problem))?)
        };
        Ok(Self { amount: number * factor, currency })
    }
}

/// Turns money of any currency into that of the answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// The answer's currency.
    pub currency: Currency,
    /// What one US dollar costs in it, where the user said so.
    pub per_usd: Option<f64>,
}

impl Exchange {
    /// Checks the rate.
    ///
    /// # Errors
    /// A rate that is not a positive number.
    pub fn new(currency: Currency, per_usd: Option<f64>) -> Result<Self, PlanError> {
        let per_usd = if currency == Currency::usd() { Some(1.0) } else { per_usd };
        if per_usd.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            let problem = format!("it says how many {currency} one US dollar costs, above zero");
            return Err(bad(
                &format!("{}", per_usd.unwrap_or_default()),
                "an exchange rate",
                &problem,
            ));
        }
        Ok(Self { currency, per_usd })
    }

    /// The amount in the answer's currency; a bare number is in it already.
    ///
    /// # Errors
    /// An amount of another currency without the rate to turn it.
    pub fn convert(&self, money: &Money) -> Result<f64, PlanError> {
        match &money.currency {
            None => Ok(money.amount),
            Some(given) if *given == self.currency => Ok(money.amount),
            Some(given) if *given == Currency::usd() => self.from_usd(money.amount),
            Some(given) if self.currency == Currency::usd() => Err(bad(
                &format!("{} {given}", money.amount),
                "an amount of USD",
                &format!("write it in USD, or answer in {given} with --currency {given}"),
            )),
            Some(given) => Err(bad(
                &format!("{} {given}", money.amount),
                &format!("an amount of {}", self.currency),
                &format!(
                    "write it in {0} or USD, or answer in {given} with --currency {given}",
                    self.currency
                ),
            )),
        }
    }

    /// US dollars in the answer's currency.
    ///
    /// # Errors
    /// No rate.
    pub fn from_usd(&self, amount: f64) -> Result<f64, PlanError> {
        let rate = self.per_usd.ok_or_else(|| {
            bad(
                &format!("{amount} USD"),
                &format!("an amount of {}", self.currency),
                &format!("say what one US dollar costs with --rate (in {})", self.currency),
            )
        })?;
        Ok(amount * rate)
    }

    /// An amount of the answer's currency in US dollars.
    ///
    /// # Errors
    /// No rate.
    pub fn to_usd(&self, amount: f64) -> Result<f64, PlanError> {
        Ok(amount / self.from_usd(1.0)?)
    }
}

/// What a team may spend.
#[derive(Debug, Clone, PartialEq)]
pub enum Budget {
    /// Computation.
    Compute(Flops),
    /// Money.
    Money(Money),
}

impl FromStr for Budget {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wanted = "a budget";
        let (number, rest) = number(text, wanted)?;
        if let Some(prefix) = rest.strip_suffix("FLOPs").or_else(|| rest.strip_suffix("FLOP")) {
            let factor = match prefix.trim() {
                "" => 1.0,
                "G" => 1e9,
                "T" => 1e12,
                "P" => 1e15,
                "E" => 1e18,
                "Z" => 1e21,
                "Y" => 1e24,
                other => {
                    let problem = format!("{} is no prefix of FLOP", quoted(other));
                    return Err(bad(text, wanted, &problem));
                }
            };
            return Ok(Self::Compute(Flops(number * factor)));
        }
        if rest.ends_with("FLOP/s") || rest.ends_with("FLOPS") {
            return Err(bad(
                text,
                wanted,
                "this is a speed; a budget is FLOP in all, such as \"1e23 FLOP\"",
            ));
        }
        let example = "write compute as \"1e23 FLOP\" or money as \"250k USD\"";
        match text.parse::<Money>() {
            Ok(money) if money.currency.is_some() => Ok(Self::Money(money)),
            Ok(_) => Err(bad(text, wanted, &format!("the unit is missing; {example}"))),
            Err(_) => {
                Err(bad(text, wanted, &format!("it is neither compute nor money; {example}")))
            }
        }
    }
}

/// Reads a number of parameters, such as "7B" or "70e9".
///
/// # Errors
/// Another unit, a negative number, or more than 10¹⁵.
pub fn parameters(text: &str) -> Result<u64, PlanError> {
    let wanted = "a number of parameters";
    let (number, rest) = number(text, wanted)?;
    let (factor, rest) = magnitude(rest);
    match rest {
        "" | "parameters" | "params" => {}
        word => {
            let problem = format!("{} is another unit; write it as \"7B\"", quoted(word));
            return Err(bad(text, wanted, &problem));
        }
    }
    let value = number * factor;
    if (1.0..=1e15).contains(&value) {
        Ok(value.round() as u64)
    } else {
        Err(bad(text, wanted, "it must lie between 1 and 1000T"))
    }
}

/// Reads the number that an amount begins with; what follows it is returned trimmed.
fn number<'a>(text: &'a str, wanted: &str) -> Result<(f64, &'a str), PlanError> {
    let (value, rest) =
        leading_number(text).ok_or_else(|| bad(text, wanted, "it does not begin with a number"))?;
    if value < 0.0 {
        return Err(bad(text, wanted, "it is negative"));
    }
    if !value.is_finite() || value > 1e40 {
        return Err(bad(text, wanted, "it is too large"));
    }
    Ok((value, rest))
}

/// The number that a text begins with, digits perhaps grouped by `_`, and what follows, trimmed.
pub(crate) fn leading_number(text: &str) -> Option<(f64, &str)> {
    let trimmed = text.trim();
    let bytes = trimmed.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut end = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    while digit(end) || matches!(bytes.get(end), Some(b'.' | b'_')) {
        end += 1;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'-' | b'+')));
        if digit(end + 1 + sign) {
            end += 1 + sign;
            while digit(end) {
                end += 1;
            }
        }
    }
    let value = trimmed[..end].replace('_', "").parse().ok()?;
    Some((value, trimmed[end..].trim()))
}

/// What a letter such as the `B` of "7B" multiplies a count by, and what follows it.
pub(crate) fn magnitude(rest: &str) -> (f64, &str) {
    let mut letters = rest.chars();
    let Some(first) = letters.next() else { return (1.0, rest) };
    let after = letters.as_str();
    let factor = match first {
        'k' | 'K' => 1e3,
        'M' => 1e6,
        'B' | 'G' => 1e9,
        'T' => 1e12,
        'P' => 1e15,
        'E' => 1e18,
        'Z' => 1e21,
        _ => return (1.0, rest),
    };
    // "MXN" is a currency and "B tokens" has a magnitude: it stands alone or before a space.
    if after.is_empty() || after.starts_with(' ') { (factor, after.trim()) } else { (1.0, rest) }
}

fn quoted(word: &str) -> String {
    format!("{:?}", word.chars().take(40).collect::<String>())
}

/// The error for a text that is not what was wanted.
pub(crate) fn bad(text: &str, wanted: &str, problem: &str) -> PlanError {
    PlanError::BadAmount {
        text: text.chars().take(80).collect(),
        wanted: wanted.to_owned(),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr<Err = PlanError> + fmt::Debug>(text: &str, part: &str) {
        let error = text.parse::<T>().unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }

    #[test]
    fn a_budget_is_compute_or_money() {
        let check =
            |text: &str, expect: Budget| assert_eq!(text.parse::<Budget>().unwrap(), expect);
        check("1e23 FLOP", Budget::Compute(Flops(1e23)));
        check("840 ZFLOP", Budget::Compute(Flops(840e21)));
        check("840M PFLOP".replace("M ", "e6 ").as_str(), Budget::Compute(Flops(8.4e23)));
        let money = |amount, code: &str| {
            Budget::Money(Money { amount, currency: Some(code.parse().unwrap()) })
        };
        check("250k USD", money(250e3, "USD"));
        check("1.5M EUR", money(1.5e6, "EUR"));
        check("900 MXN", money(900.0, "MXN"));
    }

    #[test]
    fn mixed_units_are_refused_by_name() {
        refused::<Budget>("7B tokens", "neither compute nor money");
        refused::<Budget>("1e15 FLOP/s", "this is a speed");
        refused::<Budget>("1e23", "the unit is missing");
        refused::<Budget>("-3 USD", "it is negative");
        refused::<Money>("3 dollars", "no currency");
        let check = |text: &str, part: &str| {
            let error = parameters(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("7B tokens", "\"tokens\" is another unit");
        check("24 GiB", "\"GiB\" is another unit");
        check("-7B", "it is negative");
        check("siete", "does not begin with a number");
        check("1e300", "too large");
        assert_eq!(parameters("7B").unwrap(), 7_000_000_000);
        assert_eq!(parameters("70e9 parameters").unwrap(), 70_000_000_000);
    }

    #[test]
    fn money_is_turned_only_by_a_given_rate() {
        let pesos: Currency = "CLP".parse().unwrap();
        let price: Money = "3 USD".parse().unwrap();
        let rate = Exchange::new(pesos.clone(), Some(950.0)).unwrap();
        assert_eq!(rate.convert(&price).unwrap(), 2850.0);
        assert_eq!(rate.to_usd(2850.0).unwrap(), 3.0);
        let none = Exchange::new(pesos.clone(), None).unwrap();
        assert!(none.convert(&price).unwrap_err().to_string().contains("--rate"));
        assert_eq!(none.convert(&"100".parse().unwrap()).unwrap(), 100.0);
        assert!(Exchange::new(pesos, Some(-1.0)).is_err());
    }
}
