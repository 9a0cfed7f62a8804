//! A fit's plots: loss over compute with the frontier, runs of equal compute, predicted against
//! measured.

use milpa_base::plot::{Layer, Mark, ScatterPlot};
use milpa_base::units::si;

use super::{interval::Estimate, law::RunSize, report::FitReport};

/// Sizes that get a colour and a name of their own.
const NAMED_SIZES: usize = 6;

impl FitReport {
    /// The plots by file name, as SVG.
    pub fn plots(&self) -> Vec<(&'static str, String)> {
        let mut plots = vec![("loss-by-compute.svg", self.loss_by_compute().to_svg())];
        if let Some(plot) = self.equal_compute() {
            plots.push(("isoflop.svg", plot.to_svg()));
        }
        if let Some(plot) = self.optimal_sizes() {
            plots.push(("optimal-size.svg", plot.to_svg()));
        }
        if let Some(plot) = self.predicted_by_measured() {
            plots.push(("predicted-by-measured.svg", plot.to_svg()));
        }
        plots
    }

    fn loss_name(&self) -> &'static str {
        if self.form == super::Form::Ladder { "task loss" } else { "loss (nats per token)" }
    }

    /// Each run's loss over its compute, the law's lowest loss, and the budgets.
    fn loss_by_compute(&self) -> ScatterPlot {
        let mut layers = self.runs_by_size(|size, loss| (size.flops(), loss));
        let farthest = self.budgets.iter().map(|b| b.flops).fold(self.basis.flops.high, f64::max);
        if let Some(law) = &self.drawn.law {
            let (low, high) = (self.basis.flops.low.ln(), farthest.ln());
            let at = |i: i32| (low + (high - low) * f64::from(i) / 80.0).exp();
            let best = |flops: f64| {
                let size = law.optimum_value(flops, None)?;
                Some((flops, law.loss_value(size)))
            };
            let points: Vec<(f64, f64)> = (0..=80).filter_map(|i| best(at(i))).collect();
            let within = points.partition_point(|point| point.0 <= self.basis.flops.high * 1.0001);
            let beyond = points[within.saturating_sub(1)..].to_vec();
            let inside = points[..within].to_vec();
            layers.push(text_layer("compute-optimal", inside, Mark::Line));
            layers.push(text_layer("beyond the data", beyond, Mark::Dashed));
        }
        if let Some(frontier) = &self.drawn.frontier {
            let best = frontier.best.iter().map(|best| (best.flops, best.loss)).collect();
            layers.push(text_layer("best found", best, Mark::Line));
        }
        for budget in &self.budgets {
            if let Some(loss) = budget.loss.filter(Estimate::has_interval) {
                let bar = vec![(budget.flops, loss.low), (budget.flops, loss.high)];
                layers.push(text_layer("", bar, Mark::Line));
            }
        }
        ScatterPlot {
            title: "Loss by compute".into(),
            x_label: "C = 6ND (FLOP)".into(),
            y_label: self.loss_name().into(),
            x_logarithmic: true,
            y_logarithmic: true,
            layers,
        }
    }

    /// Runs of equal compute with their parabolas and lowest points.
    fn equal_compute(&self) -> Option<ScatterPlot> {
        let frontier = self.drawn.frontier.as_ref().filter(|f| !f.groups.is_empty())?;
        let mut layers = Vec::new();
        for (index, group) in frontier.groups.iter().filter(|g| g.runs.len() >= 3).enumerate() {
            let points: Vec<(f64, f64)> =
                group.runs.iter().map(|run| (run.parameters, run.loss)).collect();
            if let (Some([c0, c1, c2]), None) = (group.parabola, group.left_out) {
                let low = points[0].0.ln() - group.middle;
                let high = points[points.len() - 1].0.ln() - group.middle;
                let at = |i: i32| {
                    let x = low + (high - low) * f64::from(i) / 40.0;
                    ((x + group.middle).exp(), c0 + x * (c1 + x * c2))
                };
                let line = (0..=40).map(at).collect();
                layers.push(Layer {
                    name: String::new(),
                    points: line,
                    mark: Mark::Line,
                    colour: Some(index),
                });
            }
            layers.push(Layer {
                name: format!("{:.1e} FLOP", group.flops),
                points,
                mark: Mark::Dots,
                colour: Some(index),
            });
        }
        let lowest = frontier.best.iter().map(|best| (best.parameters, best.loss)).collect();
        layers.push(text_layer("lowest points", lowest, Mark::Dashed));
        Some(ScatterPlot {
            title: "Runs of equal compute".into(),
            x_label: format!("N ({})", self.count.words()),
            y_label: self.loss_name().into(),
            x_logarithmic: true,
            y_logarithmic: false,
            layers,
        })
    }

    /// The best sizes over compute with their line, for the approaches without a law.
    fn optimal_sizes(&self) -> Option<ScatterPlot> {
        let frontier = self.drawn.frontier.as_ref()?;
        let farthest = self.budgets.iter().map(|b| b.flops).fold(self.basis.flops.high, f64::max);
        let line = [self.basis.flops.low, farthest]
            .map(|flops| (flops, frontier.parameters.at(flops.ln()).exp()));
        let dots = Layer {
            name: "best found".into(),
            points: frontier.best.iter().map(|best| (best.flops, best.parameters)).collect(),
            mark: Mark::Dots,
            colour: Some(0),
        };
        let name = format!("N* ~ C^{:.3}", frontier.parameters.slope);
        Some(ScatterPlot {
            title: "Compute-optimal size".into(),
            x_label: "C (FLOP)".into(),
            y_label: format!("N* ({})", self.count.words()),
            x_logarithmic: true,
            y_logarithmic: true,
            layers: vec![dots, text_layer(&name, line.to_vec(), Mark::Dashed)],
        })
    }

    /// The law's losses against the measured ones, of fitted and of held-out runs.
    fn predicted_by_measured(&self) -> Option<ScatterPlot> {
        let law = self.drawn.law.as_ref()?;
        let mut layers = self.runs_by_size(|size, loss| (loss, law.loss_value(size)));
        let held_out: Vec<(f64, f64)> = self
            .predictions
            .iter()
            .filter_map(|p| Some((p.measured_loss?, p.loss.value)))
            .collect();
        let all = || layers.iter().flat_map(|layer| &layer.points).chain(&held_out);
        let low = all().map(|p| p.0.min(p.1)).fold(f64::INFINITY, f64::min);
        let high = all().map(|p| p.0.max(p.1)).fold(0.0, f64::max);
        if !held_out.is_empty() {
            layers.push(text_layer("held out", held_out, Mark::Dots));
        }
        layers.push(text_layer("equal", vec![(low, low), (high, high)], Mark::Dashed));
        Some(ScatterPlot {
            title: "Predicted against measured".into(),
            x_label: format!("measured {}", self.loss_name()),
            y_label: format!("predicted {}", self.loss_name()),
            x_logarithmic: false,
            y_logarithmic: false,
            layers,
        })
    }

    /// Fitted runs as dots, coloured by N where there are few sizes and else by thirds of N.
    fn runs_by_size(&self, place: impl Fn(RunSize, f64) -> (f64, f64)) -> Vec<Layer> {
        let mut sizes: Vec<f64> = self.drawn.runs.iter().map(|(s, _)| s.parameters).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup_by(|a, b| (*a / *b - 1.0).abs() < 0.02);
        let few = sizes.len() <= NAMED_SIZES;
        let groups = if few { sizes.len() } else { NAMED_SIZES };
        let group_of = |parameters: f64| {
            let rank =
                sizes.partition_point(|&size| size < parameters * 0.979).min(sizes.len() - 1);
            rank * groups / sizes.len()
        };
        (0..groups)
            .map(|group| {
                let inside: Vec<&(RunSize, f64)> = self
                    .drawn
                    .runs
                    .iter()
                    .filter(|(size, _)| group_of(size.parameters) == group)
                    .collect();
                let ends = inside.iter().map(|(size, _)| size.parameters);
                let low = ends.clone().fold(f64::INFINITY, f64::min);
                let high = ends.fold(0.0, f64::max);
                let name = if few || high < low * 1.02 {
                    format!("N {}", si(low))
                } else {
                    format!("N {}–{}", si(low), si(high))
                };
                let points = inside.iter().map(|(size, loss)| place(*size, *loss)).collect();
                Layer { name, points, mark: Mark::Dots, colour: Some(group) }
            })
            .collect()
    }
}

fn text_layer(name: &str, points: Vec<(f64, f64)>, mark: Mark) -> Layer {
    Layer { name: name.to_owned(), points, mark, colour: None }
}
