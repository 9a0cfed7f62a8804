//! `milpa plan run`: a recipe's training on this machine, or any training on a cluster.

use std::path::Path;

use anyhow::Result;
use milpa_base::Tokens;
use milpa_plan::{
    Amount, Budget, Calibration, ClusterQuestion, Device, Dtype, ModelChoice, NumberFormats,
    PlanError, latamgpt, plan_cluster,
};
use milpa_train::model_shape;

use super::{exchange, model, price, show, tokens};
use crate::{cli::RunArgs, commands::train, context::Context};

/// Plans a training.
pub fn run(context: &Context, arguments: &RunArgs) -> Result<()> {
    if let Some(name) = &arguments.as_published {
        return as_published(context, name);
    }
    match (&arguments.recipe, &arguments.hardware) {
        (Some(recipe), None) => local(context, recipe, arguments.calibration.as_deref()),
        (None, None) => Err(question(
            "there is nothing to plan on",
            "give a recipe, or --hardware with --model, --parameters or --budget",
        )
        .into()),
        (recipe, Some(hardware)) => {
            let sheet = plan_cluster(&cluster(context, recipe.as_deref(), hardware, arguments)?)?;
            show(context, &sheet)
        }
    }
}

fn question(problem: &str, remedy: &str) -> PlanError {
    PlanError::BadQuestion { problem: problem.to_owned(), remedy: remedy.to_owned() }
}

fn as_published(context: &Context, name: &str) -> Result<()> {
    if name != "latamgpt" {
        return Err(question(
            &format!("there is no published arithmetic of {name:?} here"),
            "known is latamgpt",
        )
        .into());
    }
    show(context, &latamgpt()?)
}

fn local(context: &Context, path: &Path, calibration: Option<&Path>) -> Result<()> {
    let recipe = context.recipe(&path.into())?;
    let plan = train::check_plan_by(context, &recipe, None, calibration)?;
    context.show(&plan, || plan.to_string())
}

fn cluster(
    context: &Context,
    recipe: Option<&Path>,
    hardware: &str,
    arguments: &RunArgs,
) -> Result<ClusterQuestion> {
    let exchange = exchange(&arguments.money)?;
    let device = Device::named(hardware)?;
    let mut asked = ClusterQuestion {
        model: choice(arguments)?,
        amount: Amount::Tokens(Tokens(0)),
        formats: formats(&device, arguments.precision.as_deref())?,
        device,
        gpus: arguments.gpus,
        sequence_length: arguments.sequence_length,
        batch_tokens: arguments.batch_tokens.as_deref().map(tokens).transpose()?,
        price_per_gpu_hour: price(arguments.price_per_gpu_hour.as_deref(), &exchange)?,
        energy_overhead: arguments.energy_overhead,
        exchange,
        calibration: Calibration::fused(),
    };
    if let Some(path) = recipe {
        let recipe = context.recipe(&path.into())?.recipe;
        let shape = model_shape(recipe.description()?);
        let step = (recipe.train.batch_size * recipe.train.sequence_length) as u64;
        asked.model = ModelChoice::Shape(recipe.name, shape);
        asked.amount = Amount::Tokens(Tokens(recipe.train.steps.0 * step));
        asked.sequence_length = recipe.train.sequence_length as u64;
        asked.batch_tokens = Some(Tokens(step));
        return Ok(asked);
    }
    asked.amount = match (&arguments.tokens, &arguments.budget) {
        (Some(text), _) => Amount::Tokens(tokens(text)?),
        (None, Some(text)) => match text.parse()? {
            Budget::Compute(flops) => Amount::Compute(flops),
            Budget::Money(money) => Amount::Money(asked.exchange.convert(&money)?),
        },
        (None, None) => {
            return Err(question(
                "how much is trained is missing",
                "add --tokens, such as --tokens 300B, or --budget, such as --budget \"1e23 FLOP\"",
            )
            .into());
        }
    };
    Ok(asked)
}

fn choice(arguments: &RunArgs) -> Result<ModelChoice> {
    Ok(match (&arguments.model, &arguments.parameters) {
        (Some(text), _) => {
            let (name, shape) = model(text)?;
            ModelChoice::Shape(name, shape)
        }
        (None, Some(text)) => ModelChoice::Parameters(milpa_plan::parameters(text)?),
        (None, None) => ModelChoice::ComputeOptimal,
    })
}

fn formats(device: &Device, precision: Option<&str>) -> Result<NumberFormats, PlanError> {
    let formats = match precision {
        Some("bf16") => NumberFormats::MIXED,
        Some("fp8") => NumberFormats { compute: Dtype::Fp8, ..NumberFormats::MIXED },
        Some("fp32") => NumberFormats::FP32,
        Some(other) => {
            return Err(PlanError::BadAmount {
                text: other.chars().take(40).collect(),
                wanted: "a precision".to_owned(),
                problem: "known are bf16, fp8, fp32".to_owned(),
            });
        }
        None if device.peak(Dtype::Bf16).is_ok() => NumberFormats::MIXED,
        None => NumberFormats::FP32,
    };
    device.peak(formats.compute)?;
    Ok(formats)
}
