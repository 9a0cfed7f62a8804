//! `milpa plan inference`: memory, speed and price of serving a model.

use anyhow::Result;
use milpa_base::Bytes;
use milpa_plan::{Device, InferenceQuestion, RemotePrice, plan_inference};

use super::{exchange, model, price, show};
use crate::{
    cli::InferenceArgs,
    commands::{doctor, train},
    context::Context,
};

/// Plans serving.
pub fn inference(context: &Context, arguments: &InferenceArgs) -> Result<()> {
    let (name, shape) = model(&arguments.model)?;
    let exchange = exchange(&arguments.money)?;
    let money = |text: &Option<String>| price(text.as_deref(), &exchange);
    let remote = match (money(&arguments.remote_input)?, money(&arguments.remote_output)?) {
        (Some(input_per_million), Some(output_per_million)) => {
            Some(RemotePrice { input_per_million, output_per_million })
        }
        _ => None,
    };
    let device = if arguments.hardware == "this-machine" {
        this_machine(context)
    } else {
        Device::named(&arguments.hardware)?
    };
    let sheet = plan_inference(&InferenceQuestion {
        name,
        shape,
        device,
        devices: arguments.gpus,
        weights: arguments.weights.parse()?,
        cache: arguments.cache.parse()?,
        prompt: arguments.prompt,
        output: arguments.answer,
        batch: arguments.batch,
        price_per_hour: money(&arguments.price_per_gpu_hour)?,
        remote,
        exchange,
    })?;
    show(context, &sheet)
}

fn this_machine(context: &Context) -> Device {
    let peak = train::measure_peak(context);
    Device::measured(
        format!("{} ({} threads, measured now)", doctor::processor(), context.threads),
        peak.f32_flops_per_second,
        peak.bf16_flops_per_second,
        peak.memory_bytes_per_second,
        doctor::memory().0.unwrap_or(Bytes(8 << 30)),
    )
}
