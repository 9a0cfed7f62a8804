//! Whether a budget, a team and some months make a model, by a published rule and by arithmetic.
//!
//! The published rule (SIMG) gives 5 % of a budget to computation and 95 % to people. The better
//! answer takes the people's cost from a salary table, and says which model and how many tokens the
//! rest buys. It knows no market: prices and salaries are the user's or a table's.

use serde::{Deserialize, Serialize};

use crate::{
    amounts::Exchange,
    compute_optimal::{BESIROGLU, EDGE_OF_FIT},
    device::{Device, Dtype},
    error::PlanError,
    sheet::{Cell, Fact, Section, Sheet, Unit, money},
};

/// Share of a budget that the published rule gives to computation.
const SIMG_COMPUTE_SHARE: f64 = 0.05;
/// Budgets at which the published rule changes its answer, in US dollars.
const SIMG_THRESHOLDS_USD: [f64; 3] = [0.5e6, 3e6, 6e6];
/// Utilisation of the dense bf16 peak that public runs from 8B to 70B reached: 0.25 to 0.45.
const UTILISATION: (f64, f64, f64) = (0.25, 0.35, 0.45);
/// Hours in a month, 365.25 · 24 / 12.
const HOURS_PER_MONTH: f64 = 730.5;

/// What a person costs in a country.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Salary {
    /// Name of the country in small letters.
    pub name: String,
    /// Lower end of the monthly cost to the employer, US dollars.
    pub low_usd: f64,
    /// Upper end.
    pub high_usd: f64,
    /// "assumption" or "source".
    pub basis: Basis,
    /// What the row rests on.
    pub source: String,
    /// Day of the figure (ISO 8601).
    pub date: String,
}

/// What a row of a salary table rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Set by hand.
    Assumption,
    /// Published or taken from a payroll.
    Source,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SalaryTable {
    country: Vec<Salary>,
}

/// The salary table that comes with the planner (`data/salaries.toml`): assumptions, marked as such.
pub fn salaries() -> Vec<Salary> {
    read_salaries(include_str!("../data/salaries.toml"), "data/salaries.toml")
        .expect("data/salaries.toml is checked by a test")
}

/// Reads a salary table of a site.
///
/// # Errors
/// TOML that is no such table, and ranges that are none.
pub fn read_salaries(text: &str, path: &str) -> Result<Vec<Salary>, PlanError> {
    let bad = |problem: String| PlanError::BadFile { path: path.to_owned(), problem };
    let table: SalaryTable = toml::from_str(text).map_err(|error| {
        bad(format!(
            "{}; a row needs name, low_usd, high_usd, basis, source and date",
            error.message()
        ))
    })?;
    for row in &table.country {
        if !(row.low_usd > 0.0 && row.low_usd <= row.high_usd && row.high_usd < 1e6) {
            return Err(bad(format!(
                "{}: low_usd {} and high_usd {} are no range of monthly costs in US dollars",
                row.name, row.low_usd, row.high_usd
            )));
        }
    }
    if table.country.is_empty() {
        return Err(bad("it has no [[country]]".to_owned()));
    }
    Ok(table.country)
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct ViabilityQuestion {
    /// All money, in US dollars.
    pub budget_usd: f64,
    /// People.
    pub team: f64,
    /// Months.
    pub months: f64,
    /// Country of the salaries.
    pub country: String,
    /// The salary table.
    pub salaries: Vec<Salary>,
    /// Accelerator that is rented.
    pub device: Device,
    /// Price of one for an hour, US dollars.
    pub usd_per_gpu_hour: f64,
    /// Currency of the answer.
    pub exchange: Exchange,
}

/// Answers by the published rule and by the table.
///
/// # Errors
/// Numbers that make no sense, an unknown country, an exchange without rate.
pub fn plan_viability(question: &ViabilityQuestion) -> Result<Sheet, PlanError> {
    for (name, value) in [
        ("the budget", question.budget_usd),
        ("the team", question.team),
        ("the number of months", question.months),
        ("the price per GPU-hour", question.usd_per_gpu_hour),
    ] {
        if !(value.is_finite() && value > 0.0) {
            return Err(PlanError::OutOfRange { name, value, range: "above 0" });
        }
    }
    let salary = find(&question.salaries, &question.country)?;
    let compute = question.budget_usd * SIMG_COMPUTE_SHARE;
    let mut sections = vec![simg(question)?, deepseek(&question.exchange)?];
    let mut rule = buys("What 5 % for computation buys", compute, question)?;
    rule.note(
        "By the published rule; the salaries of the next part decide whether it is right here.",
    );
    sections.push(rule);
    let person_months = question.team * question.months;
    let rest = |monthly: f64| question.budget_usd - person_months * monthly;
    sections.push(people(question, salary, person_months)?);
    let middle = f64::midpoint(salary.low_usd, salary.high_usd);
    if rest(middle) > 0.0 {
        sections.push(buys("What the money left after the people buys", rest(middle), question)?);
    }
    Ok(Sheet {
        title: format!(
            "Viability: {}, {} people, {} months",
            show(question.budget_usd, &question.exchange)?,
            question.team,
            question.months
        ),
        sections,
    })
}

fn find<'a>(salaries: &'a [Salary], country: &str) -> Result<&'a Salary, PlanError> {
    salaries.iter().find(|row| row.name == country).ok_or_else(|| {
        let known: Vec<&str> = salaries.iter().map(|row| row.name.as_str()).collect();
        let nearest = milpa_base::config::nearest(country, &known)
            .map(|name| format!(", did you mean {name:?}?"))
            .unwrap_or_default();
        PlanError::BadQuestion {
            problem: format!(
                "the salary table has no country {:?}{nearest}",
                country.chars().take(60).collect::<String>()
            ),
            remedy: format!("known are {}; --salaries FILE takes your own table", known.join(", ")),
        }
    })
}

fn show(usd: f64, exchange: &Exchange) -> Result<String, PlanError> {
    Ok(money(exchange.from_usd(usd)?, exchange.currency.code()))
}

fn currency(exchange: &Exchange) -> Unit {
    Unit::Money(exchange.currency.code().to_owned())
}

fn simg(question: &ViabilityQuestion) -> Result<Section, PlanError> {
    let exchange = &question.exchange;
    let compute = question.budget_usd * SIMG_COMPUTE_SHARE;
    let people = question.budget_usd - compute;
    let mut section = Section::new("By the published rule (SIMG)");
    let unit = currency(exchange);
    section.fact(Fact::new(
        "computation",
        exchange.from_usd(compute)?,
        unit.clone(),
        "5 % of the budget",
    ));
    section.fact(Fact::new(
        "people",
        exchange.from_usd(people)?,
        unit.clone(),
        "95 % of the budget",
    ));
    section.fact(Fact::new(
        "per person and month",
        exchange.from_usd(people / (question.team * question.months))?,
        unit,
        "95 % of the budget / (team · months)",
    ));
    let thresholds = SIMG_THRESHOLDS_USD
        .iter()
        .map(|usd| show(*usd, exchange))
        .collect::<Result<Vec<_>, _>>()?;
    let band = SIMG_THRESHOLDS_USD.iter().filter(|usd| question.budget_usd >= **usd).count();
    section.note(match band {
        0 => format!("The budget is below the rule's lowest threshold, {}.", thresholds[0]),
        3 => format!("The budget is at or above the rule's highest threshold, {}.", thresholds[2]),
        _ => format!(
            "The budget lies between the rule's thresholds {} and {} (they are {}).",
            thresholds[band - 1],
            thresholds[band],
            thresholds.join(", ")
        ),
    });
    Ok(section)
}

fn deepseek(exchange: &Exchange) -> Result<Section, PlanError> {
    let mut section = Section::new("The DeepSeek figures that the rule is sold with");
    let unit = currency(exchange);
    section.fact(Fact::new(
        "R1, the quoted figure",
        exchange.from_usd(294e3)?,
        unit.clone(),
        "reinforcement learning alone, on top of the finished V3 base model",
    ));
    section.fact(Fact::new(
        "V3 base, its last run",
        exchange.from_usd(2.788e6 * 2.0)?,
        unit,
        "2.788M H800-hours at 2 USD (arXiv:2412.19437, table 1)",
    ));
    section.note(
        "Left out of both: people, data, experiments and failed runs before the last one, evaluation, \
         and the purchase of the machines. Who starts without a base model does not pay 294 000 USD \
         but the base as well.",
    );
    Ok(section)
}

fn people(
    question: &ViabilityQuestion,
    salary: &Salary,
    person_months: f64,
) -> Result<Section, PlanError> {
    let exchange = &question.exchange;
    let unit = currency(exchange);
    let (low, high) = (salary.low_usd, salary.high_usd);
    let middle = f64::midpoint(low, high);
    let mut section = Section::new(format!("With salaries of {}", salary.name));
    let basis = match salary.basis {
        Basis::Assumption => {
            format!("ASSUMPTION of {}, from no survey; see --salaries", salary.date)
        }
        Basis::Source => format!("{}, {}", salary.source, salary.date),
    };
    section.fact(Fact::new("person-months", person_months, Unit::PersonMonths, "team · months"));
    section.fact(
        Fact::new("cost of one", exchange.from_usd(middle)?, unit.clone(), basis)
            .between(exchange.from_usd(low)?, exchange.from_usd(high)?),
    );
    let cost = |monthly: f64| exchange.from_usd(person_months * monthly);
    section.fact(
        Fact::new("people", cost(middle)?, unit.clone(), "person-months · cost of one")
            .between(cost(low)?, cost(high)?),
    );
    let rest = |monthly: f64| question.budget_usd - person_months * monthly;
    section.fact(
        Fact::new("left", exchange.from_usd(rest(middle))?, unit, "budget - people")
            .between(exchange.from_usd(rest(high))?, exchange.from_usd(rest(low))?),
    );
    let share = |monthly: f64| (rest(monthly) / question.budget_usd).max(0.0);
    section.fact(
        Fact::new("left, as a share", share(middle), Unit::Share, "the rule says 5 %")
            .between(share(high), share(low)),
    );
    if rest(middle) <= 0.0 {
        let enough = person_months * middle / (1.0 - SIMG_COMPUTE_SHARE);
        section.note(format!(
            "The people alone cost more than the budget. Enough would be {} (5 % of it for \
             computation), or {:.0} person-months.",
            show(enough, exchange)?,
            (question.budget_usd * (1.0 - SIMG_COMPUTE_SHARE) / middle).floor()
        ));
    }
    section.note("Data, office, storage and travel are not counted: what is left pays them too.");
    Ok(section)
}

/// Models that some money for computation buys.
fn buys(title: &str, usd: f64, question: &ViabilityQuestion) -> Result<Section, PlanError> {
    let exchange = &question.exchange;
    let device = &question.device;
    let peak = device.peak(Dtype::Bf16).or_else(|_| device.peak(Dtype::Fp32))?;
    let hours = usd / question.usd_per_gpu_hour;
    let (low, middle, high) = UTILISATION;
    let flops = |utilisation: f64| hours * 3600.0 * peak * utilisation;
    let mut section = Section::new(title);
    section.fact(Fact::new(
        "money",
        exchange.from_usd(usd)?,
        currency(exchange),
        "from the part above",
    ));
    section.fact(Fact::new(
        "GPU-hours",
        hours,
        Unit::GpuHours,
        format!(
            "{}, {} each (--price-per-gpu-hour)",
            device.name,
            show(question.usd_per_gpu_hour, exchange)?
        ),
    ));
    section.fact(Fact::new(
        "GPUs for all months",
        hours / (question.months * HOURS_PER_MONTH),
        Unit::One,
        "GPU-hours / (months · 730.5)",
    ));
    section.fact(
        Fact::new(
            "compute",
            flops(middle),
            Unit::Flop,
            "dense peak · MFU 0.25 to 0.45 (public runs, 8B to 70B)",
        )
        .between(flops(low), flops(high)),
    );
    let best = [low, middle, high].map(|share| BESIROGLU.optimum(flops(share)));
    section.fact(
        Fact::new(
            "compute-optimal size",
            best[1].parameters,
            Unit::Parameters,
            "6ND, Besiroglu 2024",
        )
        .between(best[0].parameters, best[2].parameters),
    );
    section.fact(
        Fact::new("its tokens", best[1].tokens, Unit::Tokens, "the same")
            .between(best[0].tokens, best[2].tokens),
    );
    let mut rows = Vec::new();
    for (name, parameters) in [("1B", 1e9), ("8B", 8e9), ("70B", 70e9)] {
        let tokens = |share: f64| flops(share) / (6.0 * parameters);
        let per_parameter = tokens(middle) / parameters;
        rows.push(vec![
            Cell::text(name),
            Cell::Number(tokens(middle), Unit::Tokens),
            Cell::text(format!(
                "{} to {}",
                Unit::Tokens.show(tokens(low)),
                Unit::Tokens.show(tokens(high))
            )),
            Cell::Number(per_parameter, Unit::One),
            Cell::text(verdict(per_parameter, tokens(middle))),
        ]);
    }
    section.table(
        &["model", "tokens", "range", "per parameter", "enough for"],
        rows,
        "compute / 6N; from the beginning at about 20 tokens per parameter, continued from 10B tokens on",
    );
    if flops(middle) > EDGE_OF_FIT {
        section
            .note("The compute lies beyond the runs that the law was fitted on (about 1e22 FLOP).");
    }
    Ok(section)
}

fn verdict(tokens_per_parameter: f64, tokens: f64) -> &'static str {
    if tokens > 15e12 {
        "more tokens than FineWeb has (15T)"
    } else if tokens_per_parameter >= 60.0 {
        "a small model trained long, cheap to serve"
    } else if tokens_per_parameter >= 15.0 {
        "training from the beginning"
    } else if tokens >= 1e11 {
        "continued pre-training, as LatamGPT's 300B"
    } else if tokens >= 1e10 {
        "a modest continued pre-training"
    } else {
        "fine-tuning only"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::Currency;

    fn question() -> ViabilityQuestion {
        ViabilityQuestion {
            budget_usd: 3e6,
            team: 20.0,
            months: 18.0,
            country: "chile".to_owned(),
            salaries: salaries(),
            device: Device::named("h200").unwrap(),
            usd_per_gpu_hour: 3.0,
            exchange: Exchange::new(Currency::usd(), None).unwrap(),
        }
    }

    #[test]
    fn the_published_rule_comes_out() {
        let sheet = plan_viability(&question()).unwrap();
        let value = |name: &str| sheet.value("By the published rule (SIMG)", name).unwrap();
        assert_eq!(value("computation"), 150_000.0);
        assert_eq!(value("people"), 2_850_000.0);
        let text = sheet.to_string();
        assert!(text.contains("between the rule's thresholds 3.00M USD and 6.00M USD"), "{text}");
        assert!(text.contains("294 000 USD"), "{text}");
        assert!(text.contains("5.58M USD"), "{text}");
        assert!(text.contains("ASSUMPTION"), "{text}");
    }

    #[test]
    fn money_becomes_hours_and_tokens() {
        let sheet = plan_viability(&question()).unwrap();
        let title = "What 5 % for computation buys";
        assert_eq!(sheet.value(title, "GPU-hours"), Some(50_000.0));
        let flops = sheet.value(title, "compute").unwrap();
        assert!((flops / (50_000.0 * 3600.0 * 989.4e12 * 0.35) - 1.0).abs() < 1e-9);
        let size = sheet.value(title, "compute-optimal size").unwrap();
        let tokens = sheet.value(title, "its tokens").unwrap();
        assert!((6.0 * size * tokens / flops - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_budget_below_the_salaries_says_what_would_be_enough() {
        let poor = ViabilityQuestion { budget_usd: 0.4e6, ..question() };
        let text = plan_viability(&poor).unwrap().to_string();
        assert!(text.contains("below the rule's lowest threshold, 500 000 USD"), "{text}");
        // 360 person-months at 5250 USD.
        assert!(text.contains("Enough would be 1.99M USD"), "{text}");
        assert!(!text.contains("What the money left"), "{text}");
    }

    #[test]
    fn bad_questions_are_refused() {
        let check = |question: ViabilityQuestion, part: &str| {
            let error = plan_viability(&question).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(ViabilityQuestion { months: -1.0, ..question() }, "must be above 0");
        check(
            ViabilityQuestion { country: "chiel".to_owned(), ..question() },
            "did you mean \"chile\"",
        );
        let bad = "[[country]]\nname = \"x\"\nlow_usd = 5\nhigh_usd = 1\nbasis = \"source\"\nsource = \"\"\ndate = \"\"";
        let error = read_salaries(bad, "mine.toml").unwrap_err().to_string();
        assert!(error.contains("are no range"), "{error}");
        assert!(read_salaries("[[country]]\nnom = 1", "mine.toml").is_err());
    }
}
