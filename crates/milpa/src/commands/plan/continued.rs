//! `milpa plan continued`: replay, learning rate, schedule and tokens of continued pre-training.

use anyhow::Result;
use milpa_plan::{ContinuedQuestion, PlanError, plan_continued};

use super::{model, show, tokens};
use crate::{cli::ContinuedArgs, context::Context};

/// Plans continued pre-training.
pub fn continued(context: &Context, arguments: &ContinuedArgs) -> Result<()> {
    let (base, shape) = model(&arguments.base)?;
    let count = |text: &str| tokens(text).map(|tokens| tokens.0 as f64);
    let trials = arguments.trial.iter().map(|text| text.parse()).collect::<Result<_, PlanError>>();
    let sheet = plan_continued(&ContinuedQuestion {
        base,
        parameters: shape.parameters() as f64,
        tokens: count(&arguments.tokens)?,
        unique_tokens: arguments.new_tokens.as_deref().map(count).transpose()?,
        shift: arguments.shift.parse()?,
        forgetting_limit: arguments.forgetting,
        trials: trials?,
        base_peak_rate: arguments.base_peak_lr,
        base_final_rate: arguments.base_final_lr,
        base_text_is_open: arguments.base_text_open,
    })?;
    show(context, &sheet)
}
