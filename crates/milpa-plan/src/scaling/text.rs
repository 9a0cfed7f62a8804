//! A fit's report for people.

use std::fmt::{self, Write as _};

use milpa_base::units::si;

use super::{
    interval::Estimate,
    objective::{Objective, Scale},
    report::{Budget, Constant, FitReport, Form, Prediction},
    runs::Count,
};

impl fmt::Display for FitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "form         {}", self.formula)?;
        self.write_basis(f)?;
        self.write_constants(f)?;
        self.write_budgets(f)?;
        for prediction in &self.predictions {
            write_prediction(f, prediction)?;
        }
        for row in &self.influence {
            writeln!(
                f,
                "influence    line {}: residual {:+.2} %; without it the loss predicted farthest out is \
                 {:.4} ({:+.2} half intervals)",
                row.line,
                100.0 * row.relative_residual,
                row.loss_without,
                row.shift
            )?;
        }
        for reason in &self.undetermined {
            writeln!(f, "undetermined {reason}")?;
        }
        for note in &self.notes {
            writeln!(f, "note         {note}")?;
        }
        Ok(())
    }
}

impl FitReport {
    fn write_basis(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let basis = &self.basis;
        let rows = if self.form == Form::Envelope { "points of training curves" } else { "runs" };
        write!(f, "rests on     {} {rows} of {}", basis.fitted, self.file)?;
        if let Some(schedule) = &self.schedule {
            write!(f, " (schedule {schedule})")?;
        }
        writeln!(
            f,
            "\n             N {} to {}, D {} to {}, D/N {} to {}, C {:.2e} to {:.2e} FLOP",
            si(basis.parameters.low),
            si(basis.parameters.high),
            si(basis.tokens.low),
            si(basis.tokens.high),
            short(basis.tokens_per_parameter.low),
            short(basis.tokens_per_parameter.high),
            basis.flops.low,
            basis.flops.high
        )?;
        writeln!(f, "counts       N = {}; C = 6*N*D", self.count.words())?;
        let Some(search) = &self.search else { return Ok(()) };
        let scale = match self.options.scale {
            Scale::Log => "ln(loss)",
            Scale::Linear => "the loss",
        };
        let objective = match self.options.objective {
            Objective::Huber { delta } => format!("sum of Huber({delta}) on {scale}"),
            Objective::Absolute => format!("sum of absolute values on {scale}"),
            Objective::Squares => format!("half the sum of squares on {scale}"),
        };
        write!(
            f,
            "objective    {objective} = {:.6e}; {} of {} searches end there",
            search.objective, search.agreeing, search.searches
        )?;
        if let Some(condition) = search.condition {
            write!(f, "; condition number {condition:.1}")?;
        }
        writeln!(f)?;
        if let Some(median) = self.median_residual {
            writeln!(
                f,
                "residuals    half of the runs within {:.2} % of the curve",
                100.0 * median
            )?;
        }
        Ok(())
    }

    fn write_constants(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resamples = if self.options.resamples == 0 {
            String::new()
        } else {
            format!("95 % interval of {} resamples", self.options.resamples)
        };
        if !self.constants.is_empty() {
            writeln!(f, "constants    {resamples}")?;
        }
        for constant in &self.constants {
            write_constant(f, constant)?;
        }
        if let Some(a) = &self.parameters_exponent {
            writeln!(f, "exponents    N* ~ C^a, a = {}", with_interval(a))?;
        }
        if let Some(b) = &self.tokens_exponent {
            writeln!(f, "             D* ~ C^b, b = {}", with_interval(b))?;
        }
        if let Some(link) = &self.link {
            writeln!(f, "task         {}, {} points", link.formula, link.points)?;
            for constant in &link.constants {
                write_constant(f, constant)?;
            }
        }
        Ok(())
    }

    fn write_budgets(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for budget in &self.budgets {
            write_budget(f, budget)?;
        }
        match &self.ratios[..] {
            [] => Ok(()),
            [one] => {
                let other = match one.count {
                    Count::All => "non_embedding_parameters",
                    Count::NonEmbedding => "parameters",
                };
                writeln!(
                    f,
                    "20x rule     {} tokens per parameter, counting {}; the other count needs the \
                     column `{other}`",
                    short(one.tokens_per_parameter),
                    one.count.words()
                )
            }
            both => {
                write!(f, "20x rule     at the largest budget")?;
                for (index, ratio) in both.iter().enumerate() {
                    write!(
                        f,
                        "{} {} tokens per parameter (N* {}, a = {:.3}) counting {}",
                        if index == 0 { ":" } else { ";" },
                        short(ratio.tokens_per_parameter),
                        si(ratio.parameters),
                        ratio.exponent,
                        ratio.count.words()
                    )?;
                }
                writeln!(f)
            }
        }
    }
}

fn write_constant(f: &mut fmt::Formatter<'_>, constant: &Constant) -> fmt::Result {
    let Constant { name, estimate, determined } = constant;
    if *determined {
        writeln!(f, "  {name:<10} {}", with_interval(estimate))
    } else {
        let Estimate { low, high, .. } = estimate;
        let end = |value: f64| {
            if value.is_finite() { format!("{value:.1e}") } else { "no limit".to_owned() }
        };
        writeln!(f, "  {name:<10} not determined: between {} and {}", end(*low), end(*high))
    }
}

fn write_budget(f: &mut fmt::Formatter<'_>, budget: &Budget) -> fmt::Result {
    let far = if budget.beyond_compute > 1.0 + 1e-9 {
        format!("{} times beyond the largest run", short(budget.beyond_compute))
    } else {
        "within the data's compute".to_owned()
    };
    writeln!(f, "budget       {:.3e} FLOP, {far}", budget.flops)?;
    let (Some(parameters), Some(tokens)) = (&budget.parameters, &budget.tokens) else {
        return writeln!(
            f,
            "  the law has no compute-optimal size here: its loss only falls with N"
        );
    };
    let ratio = budget.tokens_per_parameter.map(|ratio| short(ratio.value)).unwrap_or_default();
    let beyond = |factor: Option<f64>, what: &str| match factor {
        Some(factor) if factor > 1.0 => {
            format!(" ({} times the {what} in the data)", short(factor))
        }
        _ => String::new(),
    };
    writeln!(
        f,
        "  N*         {}{}",
        counted(parameters),
        beyond(budget.beyond_parameters, "largest N")
    )?;
    writeln!(
        f,
        "  D*         {}, {ratio} tokens per parameter{}",
        counted(tokens),
        beyond(budget.beyond_tokens, "most tokens")
    )?;
    if let Some(loss) = &budget.loss {
        writeln!(f, "  loss       {}", with_interval(loss))?;
    }
    Ok(())
}

fn write_prediction(f: &mut fmt::Formatter<'_>, prediction: &Prediction) -> fmt::Result {
    let mut text = format!(
        "predicted    N {} D {}: loss {}",
        si(prediction.size.parameters),
        si(prediction.size.tokens),
        with_interval(&prediction.loss)
    );
    let against = |text: &mut String, predicted: f64, measured: f64| {
        let error = 100.0 * (predicted / measured - 1.0);
        let _ = write!(text, ", measured {measured:.4} ({error:+.2} %)");
    };
    if let Some(measured) = prediction.measured_loss {
        against(&mut text, prediction.loss.value, measured);
    }
    if let Some(accuracy) = &prediction.accuracy {
        let _ = write!(text, "; accuracy {}", with_interval(accuracy));
        if let Some(measured) = prediction.measured_accuracy {
            against(&mut text, accuracy.value, measured);
        }
    }
    if let Some(line) = prediction.line {
        let _ = write!(text, "; line {line}");
    }
    if prediction.beyond_compute > 1.0 {
        let _ =
            write!(text, "; {} times the largest run's compute", short(prediction.beyond_compute));
    }
    writeln!(f, "{text}")
}

/// A value with as many digits as its interval allows.
fn with_interval(estimate: &Estimate) -> String {
    let Estimate { value, low, high } = *estimate;
    if !estimate.has_interval() {
        return if value.abs() >= 1e5 { format!("{value:.4e}") } else { significant(value, 5) };
    }
    if !low.is_finite() || !high.is_finite() {
        return format!("{} (from {} without an upper limit)", short(value), short(low));
    }
    if value.abs() >= 1e5 {
        return format!("{value:.2e} ({low:.2e} to {high:.2e})");
    }
    if high - low < 1e-7 {
        return format!("{} (fixed by the form)", significant(value, 4));
    }
    let half = (high - low) / 2.0;
    let decimals = (1.0 - half.log10().floor()).clamp(0.0, 7.0) as usize;
    format!("{value:.decimals$} ({low:.decimals$} to {high:.decimals$})")
}

/// A number of parameters or tokens.
fn counted(estimate: &Estimate) -> String {
    let Estimate { value, low, high } = *estimate;
    match (estimate.has_interval(), high.is_finite()) {
        (false, _) => si(value),
        (true, true) => format!("{} ({} to {})", si(value), si(low), si(high)),
        (true, false) => format!("{} (from {} without an upper limit)", si(value), si(low)),
    }
}

/// Three significant digits.
fn short(value: f64) -> String {
    if value.abs() >= 1e5 || (value != 0.0 && value.abs() < 1e-3) {
        format!("{value:.1e}")
    } else {
        significant(value, 3)
    }
}

fn significant(value: f64, digits: i32) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let decimals = (digits - 1 - value.abs().log10().floor() as i32).max(0) as usize;
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_end_where_the_interval_begins() {
        let check = |value, low, high, expect: &str| {
            assert_eq!(with_interval(&Estimate { value, low, high }), expect);
        };
        check(482.00572, 285.2, 743.6, "482 (285 to 744)");
        check(1.81686, 1.76931, 1.87099, "1.817 (1.769 to 1.871)");
        check(0.34781, 0.3171, 0.3732, "0.348 (0.317 to 0.373)");
        check(1.81686, f64::NAN, f64::NAN, "1.8169");
        check(2.0e9, 1.0e9, 4.0e9, "2.00e9 (1.00e9 to 4.00e9)");
        check(3.0, 2.0, f64::INFINITY, "3.00 (from 2.00 without an upper limit)");
    }
}
