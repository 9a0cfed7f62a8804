//! `milpa plan`: what a run, a fit or a machine takes, before it is spent.

mod calibrate;
mod continued;
mod fit;
mod inference;
mod run;
mod simulate;
mod validate;
mod viability;

use std::path::Path;

use anyhow::{Context as _, Result};
use milpa_base::Tokens;
use milpa_model::ModelConfig;
use milpa_plan::{Currency, Exchange, ModelShape, Money, PlanError, shape_of, sheet::Sheet};
use milpa_train::model_shape;

use crate::{
    cli::{MoneyArgs, PlanCommand},
    context::Context,
    ledger::HourlyPrice,
};

/// One of the planning commands.
pub fn plan(context: &Context, command: PlanCommand) -> Result<()> {
    match command {
        PlanCommand::Fit(arguments) => fit::fit(context, &arguments),
        PlanCommand::Run(arguments) => run::run(context, &arguments),
        PlanCommand::Viability(arguments) => viability::viability(context, &arguments),
        PlanCommand::Continued(arguments) => continued::continued(context, &arguments),
        PlanCommand::Inference(arguments) => inference::inference(context, &arguments),
        PlanCommand::Calibrate(arguments) => calibrate::calibrate(context, &arguments),
        PlanCommand::Simulate(arguments) => simulate::simulate(context, &arguments),
        PlanCommand::Validate { data } => validate::validate(context, data.as_deref()),
    }
}

fn show(context: &Context, sheet: &Sheet) -> Result<()> {
    context.show(sheet, || sheet.to_string())
}

/// A model by its published name, by the path of a `config.json`, or by a size; with its name.
fn model(text: &str) -> Result<(String, ModelShape)> {
    let path = Path::new(text);
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    if path.is_file() {
        let shape = read_shape(&path)?;
        return Ok((text.to_owned(), shape));
    }
    if text.contains('/') || path.extension().is_some_and(|extension| extension == "json") {
        let problem = format!("there is no file {}", path.display());
        let remedy = "give a config.json, the folder of a model, or a published model's name";
        return Err(PlanError::BadQuestion { problem, remedy: remedy.to_owned() }.into());
    }
    if let Ok(parameters) = milpa_plan::parameters(text) {
        return Ok((format!("a model of {text}"), shape_of(parameters)));
    }
    Ok((text.to_owned(), ModelShape::published(text)?))
}

fn read_shape(path: &Path) -> Result<ModelShape> {
    /// Longest `config.json` that is read.
    const MOST_BYTES: u64 = 1 << 20;
    let describe = || format!("cannot read {}", path.display());
    let length = std::fs::metadata(path).with_context(describe)?.len();
    anyhow::ensure!(length <= MOST_BYTES, "{} is no config.json: {length} bytes", path.display());
    let bytes = std::fs::read(path).with_context(describe)?;
    Ok(model_shape(&ModelConfig::from_hf_json(&bytes, path)?))
}

/// The price of this machine for an hour, with its currency.
pub fn hourly_price(text: Option<&str>) -> Result<HourlyPrice, PlanError> {
    let Some(text) = text else { return Ok(None) };
    let money: Money = text.parse()?;
    let currency = money.currency.unwrap_or_else(Currency::usd);
    Ok(Some((money.amount, currency.code().to_owned())))
}

fn exchange(arguments: &MoneyArgs) -> Result<Exchange, PlanError> {
    Exchange::new(arguments.currency.parse()?, arguments.rate)
}

/// An amount in the answer's currency.
fn price(text: Option<&str>, exchange: &Exchange) -> Result<Option<f64>, PlanError> {
    text.map(|text| exchange.convert(&text.parse::<Money>()?)).transpose()
}

fn tokens(text: &str) -> Result<Tokens, PlanError> {
    text.parse().map_err(|_: milpa_base::units::BadQuantity| PlanError::BadAmount {
        text: text.chars().take(80).collect(),
        wanted: "a number of tokens".to_owned(),
        problem: if text.trim_start().starts_with('-') {
            "it is negative".to_owned()
        } else {
            "write it as \"300B\" or \"300B tokens\"".to_owned()
        },
    })
}
