//! What runs of one's own taught: calibration, the plan kept beside a run, the ledger of its costs.
//!
//! Types and arithmetic only; the binary reads metrics and clocks and writes the files. Times and
//! energies lie outside every hash.

use serde::{Deserialize, Serialize};

use crate::{
    compute_optimal::BESIROGLU,
    error::PlanError,
    local::Plan,
    sheet::{Fact, Section, Unit},
};

/// What a finished run measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRun {
    /// Name of the run: its folder's.
    pub run: String,
    /// Processor it ran on.
    pub processor: String,
    /// Threads.
    pub threads: usize,
    /// What products were computed in: "f32" or "bf16".
    pub precision: String,
    /// All parameters.
    pub parameters: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Steps that were timed, the first of each process left out.
    pub steps: usize,
    /// Share of the measured peak (causal FLOPs): tenth, half and ninety per cent of the steps.
    pub utilisation: Quantiles,
    /// Seconds of training over seconds of its steps: validation, checkpoints and start.
    pub overhead: f64,
    /// Most bytes of tensors held over the planned ones, where a plan was kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_ratio: Option<f64>,
    /// Final loss, nats per token of its own text and tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

/// Three points of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantiles {
    /// One value in ten lies below.
    pub low: f64,
    /// Half of the values lie below.
    pub median: f64,
    /// One value in ten lies above.
    pub high: f64,
}

impl Quantiles {
    /// Those of a sample; `None` without values.
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |share: f64| values[(last as f64 * share).round() as usize];
        Some(Self { low: at(0.1), median: at(0.5), high: at(0.9) })
    }
}

/// The runs that a plan is calibrated by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnRuns {
    /// The runs, in the order of their names.
    #[serde(default, rename = "run")]
    pub runs: Vec<OwnRun>,
}

/// What a plan takes from a [`OwnRuns`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Expected {
    /// Share of the peak, validation and checkpoints included.
    pub utilisation: Quantiles,
    /// How many runs it is from.
    pub runs: usize,
}

impl OwnRuns {
    /// Reads a calibration file.
    ///
    /// # Errors
    /// TOML that is none, and numbers that no run can have measured.
    pub fn parse(text: &str, path: &str) -> Result<Self, PlanError> {
        let bad = |problem: String| PlanError::BadFile { path: path.to_owned(), problem };
        let calibration: Self = toml::from_str(text).map_err(|error| {
            bad(format!("{}; remove it and run milpa plan calibrate again", error.message()))
        })?;
        for run in &calibration.runs {
            let Quantiles { low, median, high } = run.utilisation;
            if !(0.0 < low && low <= median && median <= high && high < 10.0 && run.overhead >= 1.0)
            {
                return Err(bad(format!(
                    "{}: its utilisation or overhead is no measurement",
                    run.run
                )));
            }
        }
        Ok(calibration)
    }

    /// The file's text.
    pub fn to_toml(&self) -> String {
        let head = "# Written by milpa plan calibrate; milpa plan run reads it. Remove a run that misleads.\n\n";
        let runs = toml::to_string(self).expect("strings and numbers are TOML");
        format!("{head}{runs}")
    }

    /// Adds a run in place of an earlier one of the same name.
    pub fn add(&mut self, run: OwnRun) {
        self.runs.retain(|known| known.run != run.run);
        self.runs.push(run);
        self.runs.sort_by(|a, b| a.run.cmp(&b.run));
    }

    /// What runs of this precision taught, those of this processor if there are any; `None`
    /// without a run.
    pub fn expected(&self, precision: &str, processor: &str, threads: usize) -> Option<Expected> {
        let of_precision: Vec<&OwnRun> =
            self.runs.iter().filter(|run| run.precision == precision).collect();
        let here: Vec<&OwnRun> = of_precision
            .iter()
            .filter(|run| run.processor == processor && run.threads == threads)
            .copied()
            .collect();
        let runs = if here.is_empty() { of_precision } else { here };
        let net = |run: &OwnRun, share: f64| share / run.overhead;
        let all = |pick: fn(&Quantiles) -> f64| {
            runs.iter().map(|run| net(run, pick(&run.utilisation))).collect::<Vec<f64>>()
        };
        let medians = Quantiles::of(all(|quantiles| quantiles.median))?;
        let least = all(|quantiles| quantiles.low).into_iter().fold(f64::INFINITY, f64::min);
        let most = all(|quantiles| quantiles.high).into_iter().fold(0.0, f64::max);
        Some(Expected {
            utilisation: Quantiles { low: least, median: medians.median, high: most },
            runs: runs.len(),
        })
    }
}

impl OwnRuns {
    /// The middle loss of runs of half to twice the parameters and tokens; `None` without any.
    pub fn loss_near(&self, parameters: u64, tokens: u64) -> Option<f64> {
        let near = |a: u64, b: u64| (0.5..=2.0).contains(&(a as f64 / b.max(1) as f64));
        let runs = self.runs.iter();
        let runs = runs.filter(|run| near(run.parameters, parameters) && near(run.tokens, tokens));
        Quantiles::of(runs.filter_map(|run| run.loss).collect()).map(|losses| losses.median)
    }
}

/// Parameters from which the published law is asked for a loss: the smallest that it was fitted on.
const LEAST_PARAMETERS: f64 = 4e7;
/// Tokens from which it is asked.
const LEAST_TOKENS: f64 = 1e9;

/// A plan as it was when the run began, kept to be compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedRun {
    /// Processor.
    pub processor: String,
    /// Threads.
    pub threads: usize,
    /// What products are computed in: "f32" or "bf16".
    pub precision: String,
    /// All parameters.
    pub parameters: u64,
    /// Tokens.
    pub tokens: u64,
    /// FLOPs (causal).
    pub flops: f64,
    /// Peak that the time was planned with, FLOP/s.
    pub peak_flops_per_second: f64,
    /// Seconds of training itself.
    pub seconds: f64,
    /// Seconds of holding models against the base, the base and the candidates at the end included, where
    /// the recipe asks for it; they come on top.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measuring_seconds: Option<f64>,
    /// Range of the seconds of training itself, where runs were there to say.
    pub seconds_interval: Option<(f64, f64)>,
    /// Bytes of tensors.
    pub memory_bytes: u64,
    /// Final loss in nats per token, where runs of one's own or the published law say one.
    pub loss: Option<f64>,
    /// Whether the loss is that of runs of one's own.
    pub loss_is_own: bool,
    /// Price of the machine for an hour with its currency, where it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<(f64, String)>,
}

impl PlannedRun {
    /// What to keep of a plan for `precision` on `threads` threads of `processor`, with the loss of
    /// runs of one's own near its size.
    pub fn of(
        plan: &Plan,
        precision: &str,
        processor: &str,
        threads: usize,
        own_loss: Option<f64>,
    ) -> Self {
        // The loss is that of all that was read, by another run too.
        let tokens = (plan.tokens_before.0 + plan.tokens.0) as f64;
        let parameters = plan.parameters as f64;
        let known = parameters >= LEAST_PARAMETERS && tokens >= LEAST_TOKENS;
        Self {
            processor: processor.to_owned(),
            threads,
            precision: precision.to_owned(),
            parameters: plan.parameters,
            tokens: plan.tokens.0,
            flops: plan.flops,
            peak_flops_per_second: plan.machine.peak_flops_per_second,
            seconds: plan.seconds,
            measuring_seconds: None,
            seconds_interval: plan.seconds_interval,
            memory_bytes: plan.memory.total().0,
            loss: own_loss.or_else(|| known.then(|| BESIROGLU.loss(parameters, tokens))),
            loss_is_own: own_loss.is_some(),
            price_per_hour: None,
        }
    }

    /// Planned beside measured.
    pub fn compare(&self, measured: &Outcome) -> Section {
        let mut section = Section::new("Training, planned and measured");
        let mut pair = |name: &str, planned: Fact, value: Option<f64>, source: &str| {
            let unit = planned.unit.clone();
            section.fact(planned);
            if let Some(value) = value {
                section.fact(Fact::new(format!("{name}, measured"), value, unit, source));
            }
        };
        let source = match self.seconds_interval {
            Some(_) => "FLOPs / (peak · utilisation of calibrated runs)",
            None => "FLOPs / (peak · 0.6), no calibrated run",
        };
        // What is measured is the time of whole processes, measuring against the base included.
        let (measuring, source) = match self.measuring_seconds {
            Some(seconds) => (seconds, format!("{source}; with measuring forgetting, below")),
            None => (0.0, source.to_owned()),
        };
        let seconds = self.seconds + measuring;
        let time = Fact::new("time, planned", seconds, Unit::Seconds, source);
        let time = match self.seconds_interval {
            Some((low, high)) => time.between(low + measuring, high + measuring),
            None => time,
        };
        pair("time", time, measured.seconds, &measured.seconds_source);
        if let Some(seconds) = self.measuring_seconds {
            let name = "measuring forgetting";
            let source =
                "tokens of text · 2 · parameters / (peak in f32 · utilisation), without tasks";
            let planned = Fact::new(format!("{name}, planned"), seconds, Unit::Seconds, source);
            let source = "`seconds` of the lines of kind forgetting, and of kind measured: the base and the \
                          candidates at the end";
            pair(name, planned, measured.measuring_seconds, source);
        }
        let memory = Fact::new(
            "memory, planned",
            self.memory_bytes as f64,
            Unit::Bytes,
            "weights, gradients, optimizer, a checkpoint's copy, activations",
        );
        pair(
            "memory",
            memory,
            measured.memory_bytes,
            "most bytes of tensors and their copies held",
        );
        let law = if self.loss_is_own {
            "calibrated runs of half to twice the parameters and tokens"
        } else {
            "Besiroglu 2024: another text and tokenizer, a rough sign"
        };
        let measured_loss = "mean of the last fiftieth of the steps";
        match (self.loss, measured.loss) {
            (Some(loss), measured) => {
                let planned = Fact::new("loss, planned", loss, Unit::NatsPerToken, law);
                pair("loss", planned, measured, measured_loss);
            }
            (None, Some(loss)) => {
                let source = format!("{measured_loss}; too small for the law to plan one");
                pair("", Fact::new("loss, measured", loss, Unit::NatsPerToken, source), None, "");
            }
            (None, None) => {}
        }
        if let Some((price, currency)) = &self.price_per_hour {
            let money = Unit::Money(currency.clone());
            let cost = |seconds: f64| price * seconds / 3600.0;
            let planned = Fact::new("cost, planned", cost(seconds), money, "time · price per hour");
            pair("cost", planned, measured.seconds.map(cost), "time · price per hour");
        }
        section
    }
}

/// What came of a planned run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Outcome {
    /// Seconds of training, holding models against the base included.
    pub seconds: Option<f64>,
    /// Where they were read.
    pub seconds_source: String,
    /// Seconds of holding models against the base, the base and the candidates at the end included.
    pub measuring_seconds: Option<f64>,
    /// Most bytes of tensors held.
    pub memory_bytes: Option<f64>,
    /// Final loss in nats per token.
    pub loss: Option<f64>,
}

/// One entry of a run's ledger: a process that worked at a stage, whether it ended well or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerEntry {
    /// The stage.
    pub stage: String,
    /// Seconds since 1970 when it began.
    pub began: u64,
    /// Seconds it took.
    pub seconds: f64,
    /// Whether the stage ended.
    pub complete: bool,
    /// Threads used.
    pub threads: usize,
    /// Processor.
    pub processor: String,
    /// Energy of the whole machine's processors in joules, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joules: Option<f64>,
    /// Price of the machine for an hour with its currency, where it was said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<(f64, String)>,
}

/// The real costs of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The entries, oldest first.
    pub entries: Vec<LedgerEntry>,
}

impl Ledger {
    /// Seconds spent on a stage, by all processes.
    pub fn seconds(&self, stage: &str) -> Option<f64> {
        let mut spent = self.entries.iter().filter(|entry| entry.stage == stage).peekable();
        spent.peek()?;
        Some(spent.map(|entry| entry.seconds).sum())
    }

    /// The sums for a person.
    pub fn section(&self) -> Section {
        let mut section = Section::new("Costs (ledger)");
        let total: f64 = self.entries.iter().map(|entry| entry.seconds).sum();
        section.fact(Fact::new(
            "time",
            total,
            Unit::Seconds,
            format!("{} entries", self.entries.len()),
        ));
        let lost: f64 =
            self.entries.iter().filter(|entry| !entry.complete).map(|entry| entry.seconds).sum();
        if lost > 0.0 {
            section.fact(Fact::new(
                "of it cut off",
                lost,
                Unit::Seconds,
                "stages that did not end; training resumes",
            ));
        }
        let joules: Vec<f64> = self.entries.iter().filter_map(|entry| entry.joules).collect();
        if joules.is_empty() {
            section.note("Energy: not readable on this machine (/sys/class/powercap).");
        } else {
            let source = if joules.len() == self.entries.len() {
                "RAPL: all processors of the machine, whoever used them"
            } else {
                "RAPL, of the entries where it was readable"
            };
            let energy = joules.iter().sum::<f64>() / 3.6e6;
            section.fact(Fact::new("energy", energy, Unit::KilowattHours, source));
        }
        let mut currencies: Vec<&str> = self
            .entries
            .iter()
            .filter_map(|entry| Some(entry.price_per_hour.as_ref()?.1.as_str()))
            .collect();
        currencies.sort_unstable();
        currencies.dedup();
        for currency in &currencies {
            let priced = self.entries.iter().filter_map(|entry| {
                let (price, of) = entry.price_per_hour.as_ref()?;
                (of == currency).then_some(price * entry.seconds / 3600.0)
            });
            let unit = Unit::Money((*currency).to_owned());
            section.fact(Fact::new("price", priced.sum(), unit, "hours · price per hour"));
        }
        if currencies.is_empty() {
            section.note("Price: none was given (milpa run --price-per-hour \"0.50 USD\").");
        }
        section
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, median: f64) -> OwnRun {
        OwnRun {
            run: name.to_owned(),
            processor: "EPYC".to_owned(),
            threads: 2,
            precision: "f32".to_owned(),
            parameters: 10,
            tokens: 100,
            steps: 50,
            utilisation: Quantiles { low: median - 0.1, median, high: median + 0.1 },
            overhead: 1.25,
            memory_ratio: None,
            loss: Some(3.1),
        }
    }

    #[test]
    fn measured_runs_replace_the_constant_and_give_a_range() {
        let mut calibration = OwnRuns::default();
        assert_eq!(calibration.expected("f32", "EPYC", 2), None);
        calibration.add(run("a", 0.5));
        calibration.add(run("b", 0.6));
        calibration.add(run("a", 0.7));
        assert_eq!(calibration.runs.len(), 2);
        let expected = calibration.expected("f32", "another", 8).unwrap();
        assert_eq!(expected.runs, 2);
        assert!((expected.utilisation.low - 0.5 / 1.25).abs() < 1e-12);
        assert!((expected.utilisation.high - 0.8 / 1.25).abs() < 1e-12);
        assert_eq!(calibration.loss_near(15, 150), Some(3.1));
        assert_eq!(calibration.loss_near(30, 150), None);
        assert_eq!(calibration.expected("bf16", "EPYC", 2), None);
        let again = OwnRuns::parse(&calibration.to_toml(), "calibration.toml").unwrap();
        assert_eq!(again, calibration);
    }

    #[test]
    fn runs_of_this_processor_come_first() {
        let mut calibration = OwnRuns::default();
        calibration.add(run("here", 0.5));
        calibration.add(OwnRun { processor: "other".to_owned(), ..run("there", 0.2) });
        let expected = calibration.expected("f32", "EPYC", 2).unwrap();
        assert_eq!((expected.runs, expected.utilisation.median), (1, 0.4));
    }

    #[test]
    fn a_file_that_measures_nothing_is_refused() {
        let check = |text: &str, part: &str| {
            let error = OwnRuns::parse(text, "calibration.toml").unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check("[[run]]\nname = 3", "run milpa plan calibrate again");
        let mut calibration = OwnRuns::default();
        calibration.add(OwnRun { overhead: 0.0, ..run("a", 0.5) });
        check(&calibration.to_toml(), "is no measurement");
    }

    #[test]
    fn measuring_is_planned_and_measured_where_a_run_has_a_base() {
        let mut planned = PlannedRun {
            processor: "EPYC".to_owned(),
            threads: 2,
            precision: "f32".to_owned(),
            parameters: 10,
            tokens: 100,
            flops: 1e9,
            peak_flops_per_second: 1e11,
            seconds: 60.0,
            measuring_seconds: Some(20.0),
            seconds_interval: None,
            memory_bytes: 1 << 20,
            loss: None,
            loss_is_own: false,
            price_per_hour: None,
        };
        let outcome = Outcome {
            seconds: Some(70.0),
            seconds_source: "ledger.jsonl".to_owned(),
            measuring_seconds: Some(24.0),
            ..Outcome::default()
        };
        let value = |planned: &PlannedRun, name: &str| {
            let section = planned.compare(&outcome);
            section.facts.into_iter().find(|fact| fact.name == name).map(|fact| fact.value)
        };
        assert_eq!(value(&planned, "measuring forgetting, planned"), Some(20.0));
        assert_eq!(value(&planned, "measuring forgetting, measured"), Some(24.0));
        // Like with like: both times, and the costs by them, have the measuring in them.
        planned.price_per_hour = Some((36.0, "USD".to_owned()));
        planned.seconds_interval = Some((50.0, 75.0));
        assert_eq!(value(&planned, "time, planned"), Some(80.0));
        assert_eq!(value(&planned, "time, measured"), Some(70.0));
        assert_eq!(value(&planned, "cost, planned"), Some(0.8));
        assert_eq!(value(&planned, "cost, measured"), Some(0.7));
        let section = planned.compare(&outcome);
        let time = section.facts.iter().find(|fact| fact.name == "time, planned").unwrap();
        assert_eq!(time.interval, Some((70.0, 95.0)));
        planned.measuring_seconds = None;
        assert_eq!(value(&planned, "time, planned"), Some(60.0));
        assert_eq!(value(&planned, "measuring forgetting, measured"), None);
        let before: PlannedRun =
            serde_json::from_str(&serde_json::to_string(&planned).unwrap()).unwrap();
        assert_eq!(before, planned, "plans of earlier versions are read");
    }

    #[test]
    fn a_ledger_adds_up_what_every_process_took() {
        let entry = |seconds, complete, joules, price: Option<f64>| LedgerEntry {
            stage: "train".to_owned(),
            began: 1_700_000_000,
            seconds,
            complete,
            threads: 2,
            processor: "EPYC".to_owned(),
            joules,
            price_per_hour: price.map(|price| (price, "USD".to_owned())),
        };
        let ledger = Ledger {
            entries: vec![
                entry(1800.0, false, None, Some(0.5)),
                entry(3600.0, true, Some(7.2e6), Some(0.5)),
            ],
        };
        assert_eq!(ledger.seconds("train"), Some(5400.0));
        assert_eq!(ledger.seconds("corpus"), None);
        let section = ledger.section();
        let value = |name: &str| {
            section.facts.iter().find(|fact| fact.name == name).map(|fact| fact.value).unwrap()
        };
        assert_eq!((value("energy"), value("price"), value("of it cut off")), (2.0, 0.75, 1800.0));
    }
}
