//! `milpa plan viability`: whether a budget, a team and some months make a model.

use anyhow::{Context as _, Result};
use milpa_plan::{
    Currency, Device, Exchange, Money, ViabilityQuestion, plan_viability, read_salaries, salaries,
};

use super::{exchange, show};
use crate::{cli::ViabilityArgs, context::Context};

/// Answers by the published rule and by a salary table.
pub fn viability(context: &Context, arguments: &ViabilityArgs) -> Result<()> {
    let dollars = Exchange::new(Currency::usd(), None)?;
    let exchange = exchange(&arguments.money)?;
    let price: Money = arguments.price_per_gpu_hour.parse()?;
    let usd_per_gpu_hour = match &price.currency {
        Some(currency) if *currency == exchange.currency => exchange.to_usd(price.amount)?,
        _ => dollars.convert(&price)?,
    };
    let salaries = match &arguments.salaries {
        None => salaries(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            read_salaries(&text, &path.display().to_string())?
        }
    };
    let sheet = plan_viability(&ViabilityQuestion {
        budget_usd: dollars.convert(&arguments.budget_usd.parse()?)?,
        team: arguments.team,
        months: arguments.months,
        country: arguments.country.clone(),
        salaries,
        device: Device::named(&arguments.hardware)?,
        usd_per_gpu_hour,
        exchange,
    })?;
    show(context, &sheet)
}
