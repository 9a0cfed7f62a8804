//! `milpa plan validate`: the planner's own error, printed as the table that is committed.

use std::path::Path;

use anyhow::{Context as _, Result};
use milpa_plan::{MeasuredRun, read_vtrain, validate as compare};

use crate::context::Context;

/// Compares the planner with published runs, and with vTrain's tables if their folder is given.
pub fn validate(context: &Context, data: Option<&Path>) -> Result<()> {
    let read = |name: &str| -> Result<Vec<MeasuredRun>> {
        let Some(data) = data else { return Ok(Vec::new()) };
        let path = data.join("planner").join(name);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("{} could not be read; --data names the folder above planner/", path.display())
        })?;
        Ok(read_vtrain(&text, &path.display().to_string())?)
    };
    let report = compare(&read("vtrain_multi_dev.csv")?, &read("vtrain_single_dev.csv")?)?;
    context.show(&report, || report.to_string())
}
