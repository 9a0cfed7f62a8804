//! A training on a cluster before it is spent: `milpa plan run` from flags.
//!
//! It puts together what the other modules know, so that each number on the sheet names its formula:
//! FLOPs by convention, loss by a published law, memory and time by their models, failures in closed
//! form, energy and price.

use milpa_base::{Flops, Tokens};

use crate::{
    Batch, Calibration, Device, Exchange, ModelShape, NumberFormats, PlanError, Recompute,
    ZeroStage,
    compute_optimal::{BESIROGLU, EDGE_OF_FIT, HOFFMANN},
    conventions::flops_per_token,
    failures::{Availability, PUBLISHED_RATES, RECOVERIES, availability},
    published_runs,
    search::{Candidate, Search},
    sheet::{Cell, Fact, Section, Sheet, Unit},
    utilisation,
};

/// A model, or the wish for one.
#[derive(Debug, Clone)]
pub enum ModelChoice {
    /// A known shape with its name.
    Shape(String, ModelShape),
    /// About so many parameters, in a shape like Llama 3's.
    Parameters(u64),
    /// What the budget trains best.
    ComputeOptimal,
}

/// How much is trained.
#[derive(Debug, Clone, Copy)]
pub enum Amount {
    /// Tokens.
    Tokens(Tokens),
    /// Compute, as 6ND counts it.
    Compute(Flops),
    /// Money, in the answer's currency.
    Money(f64),
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct ClusterQuestion {
    /// The model.
    pub model: ModelChoice,
    /// How much is trained.
    pub amount: Amount,
    /// The accelerator.
    pub device: Device,
    /// How many of them.
    pub gpus: u64,
    /// Tokens of a sequence.
    pub sequence_length: u64,
    /// Tokens of a step; by a rule if left out.
    pub batch_tokens: Option<Tokens>,
    /// Number formats.
    pub formats: NumberFormats,
    /// Price of one accelerator for an hour, in the answer's currency.
    pub price_per_gpu_hour: Option<f64>,
    /// Energy of the whole site over that of the accelerators.
    pub energy_overhead: f64,
    /// Currency of the answer.
    pub exchange: Exchange,
    /// What measured runs taught about time.
    pub calibration: Calibration,
}

/// Measured over predicted time within which nine of ten published runs lie when their publication
/// is left out of the fit ([`crate::cross_validate_published`]).
const TIME_ERROR: (f64, f64) = (0.87, 1.17);
const TIME_SOURCE: &str =
    "time model, no faster than the best public run near this size; range: see docs/plan.md";

/// Largest budget that is planned, FLOP.
const MOST_FLOPS: f64 = 1e28;
/// Layouts that are shown.
const SHOWN_LAYOUTS: usize = 5;

/// Everything that is decided before the sheet is written.
struct Decided<'a> {
    question: &'a ClusterQuestion,
    name: String,
    shape: ModelShape,
    tokens: f64,
    batch: Batch,
    search: Search,
    layouts: Vec<Candidate>,
    public: Option<PublicRuns>,
    /// Seconds of a step: the time model's for the fastest layout, but no faster than the best public
    /// run near this size.
    seconds: f64,
}

/// What public runs reached, as shares of the dense bf16 peak by PaLM.
struct PublicRuns {
    /// Runs of this format and of half to twice the size.
    count: usize,
    /// The least of them.
    least: f64,
    /// Half of them lie below.
    median: f64,
    /// The most of them.
    most: f64,
    /// The best run of this format and any size.
    best: f64,
}

impl PublicRuns {
    /// The runs near a size; `None` without any.
    fn near(parameters: f64, formats: &NumberFormats) -> Option<Self> {
        let mut near = Vec::new();
        let mut best: f64 = 0.0;
        for measured in published_runs() {
            if measured.run.formats.compute != formats.compute {
                continue;
            }
            let share = utilisation(&measured.run, measured.seconds).palm;
            best = best.max(share);
            if (0.5..=2.0).contains(&(measured.run.model.parameters() as f64 / parameters)) {
                near.push(share);
            }
        }
        near.sort_by(f64::total_cmp);
        Some(Self {
            count: near.len(),
            least: *near.first()?,
            median: near[near.len() / 2],
            most: *near.last()?,
            best,
        })
    }
}

/// Plans a training on a cluster.
///
/// # Errors
/// Questions that contradict themselves, and a model that fits in no layout.
pub fn plan_cluster(question: &ClusterQuestion) -> Result<Sheet, PlanError> {
    check(question)?;
    let decided = decide(question)?;
    let mut sections = vec![
        decided.model(),
        decided.compute(),
        decided.loss(),
        decided.layouts(),
        decided.memory(),
        decided.time(),
        decided.failures()?,
    ];
    sections.push(decided.cost()?);
    Ok(Sheet {
        title: format!(
            "{} on {} tokens with {} x {}",
            decided.name,
            Unit::Tokens.show(decided.tokens),
            question.gpus,
            question.device.label
        ),
        sections,
    })
}

fn check(question: &ClusterQuestion) -> Result<(), PlanError> {
    let amount = match question.amount {
        Amount::Tokens(tokens) => ("the number of tokens", tokens.0 as f64),
        Amount::Compute(flops) => ("the budget", flops.0),
        Amount::Money(money) => ("the budget", money),
    };
    let price = ("the price per GPU-hour", question.price_per_gpu_hour.unwrap_or(1.0));
    let overhead = ("the energy overhead", question.energy_overhead);
    for (name, value) in [amount, price, overhead] {
        if !(value.is_finite() && value > 0.0) {
            return Err(PlanError::OutOfRange { name, value, range: "above 0" });
        }
    }
    if matches!(question.amount, Amount::Money(_)) && question.price_per_gpu_hour.is_none() {
        return Err(PlanError::BadQuestion {
            problem: "a budget in money buys no compute without a price".to_owned(),
            remedy: "say what a GPU costs in an hour with --price-per-gpu-hour".to_owned(),
        });
    }
    if matches!(
        (&question.model, question.amount),
        (ModelChoice::ComputeOptimal, Amount::Tokens(_))
    ) {
        return Err(PlanError::BadQuestion {
            problem: "tokens alone say neither model nor budget".to_owned(),
            remedy: "add --model or --parameters, or give --budget instead of --tokens".to_owned(),
        });
    }
    if matches!(question.amount, Amount::Compute(flops) if flops.0 > MOST_FLOPS) {
        return Err(PlanError::OutOfRange {
            name: "the budget in FLOP",
            value: amount.1,
            range: "at most 1e28",
        });
    }
    if !(1..=1 << 24).contains(&question.sequence_length) {
        return Err(PlanError::OutOfRange {
            name: "the sequence length",
            value: question.sequence_length as f64,
            range: "from 1 to 16 777 216",
        });
    }
    Ok(())
}

fn decide(question: &ClusterQuestion) -> Result<Decided<'_>, PlanError> {
    match &question.model {
        ModelChoice::Shape(name, shape) => with_shape(question, name.clone(), *shape),
        ModelChoice::Parameters(count) => {
            let shape = shape_of(*count);
            with_shape(question, described(&shape), shape)
        }
        ModelChoice::ComputeOptimal => {
            // Money buys tokens at a speed that depends on the size: a few rounds settle both.
            let mut parameters = match question.amount {
                Amount::Compute(flops) => BESIROGLU.optimum(flops.0).parameters,
                _ => 1e9,
            };
            for _ in 0..6 {
                let shape = shape_of(parameters.round() as u64);
                let decided = with_shape(question, described(&shape), shape)?;
                let flops = 6.0 * shape.parameters() as f64 * decided.tokens;
                let best = BESIROGLU.optimum(flops).parameters;
                if (best / parameters - 1.0).abs() < 0.01 {
                    return Ok(decided);
                }
                parameters = best;
            }
            let shape = shape_of(parameters.round() as u64);
            with_shape(question, described(&shape), shape)
        }
    }
}

fn described(shape: &ModelShape) -> String {
    format!("A model of {} parameters", Unit::Parameters.show(shape.parameters() as f64))
}

fn with_shape(
    question: &ClusterQuestion,
    name: String,
    shape: ModelShape,
) -> Result<Decided<'_>, PlanError> {
    let batch = batch(question, &shape)?;
    let search = Search {
        name: name.clone(),
        model: shape,
        device: question.device.clone(),
        gpus: question.gpus,
        batch,
        formats: question.formats,
    };
    let layouts = search.best(&question.calibration, SHOWN_LAYOUTS)?;
    let public = PublicRuns::near(shape.parameters() as f64, &question.formats);
    let best_public =
        public.as_ref().map_or(0.0, |runs| seconds_at(&search, &layouts[0], runs.most));
    let seconds = layouts[0].seconds.max(best_public);
    let tokens = match question.amount {
        Amount::Tokens(tokens) => tokens.0 as f64,
        Amount::Compute(flops) => flops.0 / (6.0 * shape.parameters() as f64),
        Amount::Money(money) => {
            let hours = money / question.price_per_gpu_hour.unwrap_or(f64::INFINITY);
            let run = search.run(layouts[0].layout);
            let speed = utilisation(&run, seconds).tokens_per_second_per_device;
            hours * 3600.0 * speed * typical(question.gpus)?.goodput()
        }
    };
    if tokens < batch.tokens() as f64 {
        return Err(PlanError::BadQuestion {
            problem: format!(
                "{} tokens are less than one step of {}",
                Unit::Tokens.show(tokens),
                Unit::Tokens.show(batch.tokens() as f64)
            ),
            remedy: "train on more, or lower --batch-tokens".to_owned(),
        });
    }
    Ok(Decided { question, name, shape, tokens, batch, search, layouts, public, seconds })
}

fn seconds_at(search: &Search, candidate: &Candidate, share: f64) -> f64 {
    let run = search.run(candidate.layout);
    candidate.seconds * utilisation(&run, candidate.seconds).palm / share
}

/// Sequences of a step: as asked, or by the OLMo ladder's rule in a multiple of the GPUs.
fn batch(question: &ClusterQuestion, shape: &ModelShape) -> Result<Batch, PlanError> {
    let sequence_length = question.sequence_length;
    let sequences = match question.batch_tokens {
        Some(tokens) if tokens.0 == 0 || !tokens.0.is_multiple_of(sequence_length) => {
            let whole = (tokens.0 / sequence_length).max(1) * sequence_length;
            return Err(PlanError::BadQuestion {
                problem: format!(
                    "a step of {} tokens is no whole number of sequences of {sequence_length}",
                    tokens.0
                ),
                remedy: format!("take {whole}"),
            });
        }
        Some(tokens) => tokens.0 / sequence_length,
        None => {
            let size = shape.non_embedding_parameters() as f64 / 108e6;
            let tokens = 2048.0 * 160.0 * size.powf(2.0 / 3.0);
            let wanted = (tokens / sequence_length as f64).max(1.0);
            let gpus = question.gpus;
            if wanted >= gpus as f64 {
                // A power of two for every replica.
                gpus * (wanted / gpus as f64).log2().round().exp2() as u64
            } else {
                // More GPUs than sequences: a divisor, at most twice what the rule wants.
                let most = (2.0 * wanted) as u64;
                (1..=most.min(gpus)).rev().find(|&size| gpus.is_multiple_of(size)).unwrap_or(1)
            }
        }
    };
    Ok(Batch { sequence_length, sequences })
}

/// What failures of the typical published rate cost, with checkpoints that stall 60 s.
fn typical(gpus: u64) -> Result<Availability, PlanError> {
    availability(nodes(gpus), PUBLISHED_RATES[1].per_thousand_node_days, &RECOVERIES[1].1)
}

/// Nodes of eight, as the failure rates count them.
fn nodes(gpus: u64) -> f64 {
    (gpus as f64 / 8.0).max(1.0)
}

/// A shape like Llama 3's with about so many parameters: heads of 128, four queries for each key, a
/// gated feed-forward of 3.5 times the width, about 128 of width for each layer.
pub fn shape_of(parameters: u64) -> ModelShape {
    let large = parameters >= 3_000_000_000;
    let build = |layers: u64, width: u64| {
        let heads = (width / 128).max(1);
        let shape = ModelShape::gpt(width, layers, heads, if large { 128_256 } else { 32_768 }, 0);
        ModelShape {
            head_dim: width / heads,
            kv_heads: if heads.is_multiple_of(4) { heads / 4 } else { heads },
            ffn_size: (width * 7 / 2).next_multiple_of(128),
            gated_ffn: true,
            biases: false,
            tie_embeddings: !large,
            ..shape
        }
    };
    let mut best = (f64::INFINITY, build(1, 128));
    for step in 1..=512 {
        // Four heads of 128 at a time; small models take what is nearest.
        let width = if large { 512 * step } else { 64 * step };
        for layers in 2..=192 {
            let shape = build(layers, width);
            let miss = (shape.parameters() as f64 / parameters as f64).ln().abs();
            let form = (width as f64 / (128.0 * layers as f64)).ln().abs();
            let cost = miss + 0.05 * form;
            if cost < best.0 {
                best = (cost, shape);
            }
        }
    }
    best.1
}

impl Decided<'_> {
    fn best(&self) -> &Candidate {
        &self.layouts[0]
    }

    fn steps(&self) -> f64 {
        (self.tokens / self.batch.tokens() as f64).ceil()
    }

    /// From the time model's fast end, no faster than the best public run of any size, to its slow end
    /// or the middle of public runs of this size, whichever is slower.
    fn step_range(&self) -> (f64, f64) {
        let model = self.best().seconds;
        let (mut low, mut high) = (model * TIME_ERROR.0, self.seconds * TIME_ERROR.1);
        if let Some(public) = &self.public {
            low = low.max(self.seconds_at(public.best));
            high = high.max(self.seconds_at(public.median));
        }
        (low.min(self.seconds), high)
    }

    /// Seconds of a step at a utilisation (PaLM).
    fn seconds_at(&self, share: f64) -> f64 {
        seconds_at(&self.search, self.best(), share)
    }

    fn model(&self) -> Section {
        let shape = &self.shape;
        let mut section = Section::new("Model");
        section.fact(Fact::new(
            "parameters (N)",
            shape.parameters() as f64,
            Unit::Parameters,
            "all, by the shape",
        ));
        let embedding = (shape.embedding_parameters() + shape.positions * shape.hidden_size) as f64;
        section.fact(Fact::new(
            "without embeddings",
            shape.non_embedding_parameters() as f64,
            Unit::Parameters,
            "neither input embedding nor output projection",
        ));
        section.fact(Fact::new("one embedding", embedding, Unit::Parameters, "vocabulary · width"));
        section.note(format!(
            "{} layers of width {}, {} heads ({} for keys and values), feed-forward {}, vocabulary {}.",
            shape.layers, shape.hidden_size, shape.heads, shape.kv_heads, shape.ffn_size, shape.vocab_size
        ));
        section
    }

    fn compute(&self) -> Section {
        let length = self.batch.sequence_length;
        let flops = flops_per_token(&self.shape, length);
        let mut section = Section::new("Compute");
        let attention = format!("at {length} tokens per sequence");
        let rows = [
            ("6N", flops.six_all, "all parameters; what scaling laws and budgets count".to_owned()),
            ("6Ne", flops.six_without_embedding, "without the input embedding".to_owned()),
            ("6Ne + 12Lhs", flops.palm, format!("PaLM, {attention}; what MFU is quoted with")),
            ("6Ne + 6Lhs", flops.causal, "the half that the causal mask leaves".to_owned()),
            (
                "4/3 of PaLM",
                flops.palm_recomputed,
                "what is computed with full recomputation".to_owned(),
            ),
        ];
        let rows = rows.into_iter().map(|(name, value, what)| {
            vec![
                Cell::text(name),
                Cell::Number(value, Unit::FlopPerToken),
                Cell::Number(value * self.tokens, Unit::Flop),
                Cell::text(what),
            ]
        });
        section.table(
            &["convention", "per token", "whole run", "counts"],
            rows.collect(),
            "Ne: without input embedding, with output projection; h: width of all heads; a multiply-add is 2 FLOP",
        );
        section
    }

    fn loss(&self) -> Section {
        let parameters = self.shape.parameters() as f64;
        let budget = 6.0 * parameters * self.tokens;
        let mut section = Section::new("Loss and alternatives");
        let fact = |name: &str, parameters: f64, tokens: f64| {
            let law = "E + A/N^a + B/D^b, Besiroglu 2024; interval of E alone";
            let fact = Fact::new(name, BESIROGLU.loss(parameters, tokens), Unit::NatsPerToken, law);
            match BESIROGLU.loss_interval(parameters, tokens) {
                Some((low, high)) => fact.between(low, high),
                None => fact,
            }
        };
        section.fact(fact("predicted loss", parameters, self.tokens));
        section.fact(Fact::new(
            "tokens per parameter",
            self.tokens / parameters,
            Unit::One,
            "D / N, all parameters",
        ));
        let best = BESIROGLU.optimum(budget);
        let size = Fact::new(
            "compute-optimal size",
            best.parameters,
            Unit::Parameters,
            "the same compute 6ND; 95 % by its exponent 0.513 ± 0.039",
        );
        section.fact(match BESIROGLU.optimum_interval(budget) {
            Some((low, high)) => size.between(low, high),
            None => size,
        });
        section.fact(Fact::new("its tokens", best.tokens, Unit::Tokens, "6ND / 6N"));
        let hoffmann = HOFFMANN.optimum(budget);
        section.fact(Fact::new(
            "by Hoffmann 2022",
            hoffmann.parameters,
            Unit::Parameters,
            "constants of a fit that stopped early; still quoted",
        ));
        let mut rows = vec![self.alternative("this plan", parameters, self.tokens)];
        rows.push(self.alternative("compute-optimal", best.parameters, best.tokens));
        for part in [2.0, 4.0] {
            let size = best.parameters / part;
            rows.push(self.alternative(
                &format!("1/{part} of its size, same compute"),
                size,
                budget / (6.0 * size),
            ));
        }
        let target = BESIROGLU.loss(parameters, self.tokens);
        for part in [2.0, 4.0] {
            let size = parameters / part;
            if let Some(tokens) = tokens_for_loss(size, target) {
                rows.push(self.alternative(
                    &format!("1/{part} of this size, same loss"),
                    size,
                    tokens,
                ));
            }
        }
        section.table(
            &["alternative", "N", "D", "D/N", "loss", "compute 6ND", "to serve"],
            rows,
            "loss by Besiroglu 2024 in nats per token of its text and tokenizer; to serve: 2N, this plan = 100 %",
        );
        if budget > EDGE_OF_FIT {
            section.note(format!(
                "Extrapolated: the budget is {:.0} times the largest run that the law was fitted on (about \
                 1e22 FLOP). Differences between rows are surer than the losses.",
                budget / EDGE_OF_FIT
            ));
        }
        section
    }

    fn alternative(&self, name: &str, parameters: f64, tokens: f64) -> Vec<Cell> {
        vec![
            Cell::text(name),
            Cell::Number(parameters, Unit::Parameters),
            Cell::Number(tokens, Unit::Tokens),
            Cell::Number(tokens / parameters, Unit::One),
            Cell::Number(BESIROGLU.loss(parameters, tokens), Unit::NatsPerToken),
            Cell::Number(6.0 * parameters * tokens, Unit::Flop),
            Cell::Number(parameters / self.shape.parameters() as f64, Unit::Share),
        ]
    }

    fn layouts(&self) -> Section {
        let mut section = Section::new("Layouts that fit, fastest first");
        let rows = self.layouts.iter().map(|candidate| {
            let layout = &candidate.layout;
            let run = self.search.run(*layout);
            let reached = utilisation(&run, candidate.seconds);
            let pipeline = if layout.interleave > 1 {
                format!("{} (v {})", layout.pipeline, layout.interleave)
            } else {
                layout.pipeline.to_string()
            };
            vec![
                Cell::text(layout.data.to_string()),
                Cell::text(layout.tensor.to_string()),
                Cell::text(pipeline),
                Cell::text(layout.context.to_string()),
                Cell::text(zero_name(layout.zero)),
                Cell::text(recompute_name(layout.recompute)),
                Cell::text(layout.micro_batch.to_string()),
                Cell::Number(candidate.memory.total().0 as f64, Unit::Bytes),
                Cell::Number(candidate.seconds, Unit::Seconds),
                Cell::Number(reached.tokens_per_second_per_device, Unit::TokensPerSecond),
                Cell::Number(reached.palm, Unit::Share),
            ]
        });
        section.table(
            &["data", "tensor", "pipeline", "context", "ZeRO", "recompute", "micro", "memory", "step", "per GPU", "MFU"],
            rows.collect(),
            "best of each (tensor, pipeline, context); time and memory models of docs/design/planning.md; MFU by PaLM",
        );
        section
    }

    fn memory(&self) -> Section {
        let memory = &self.best().memory;
        let device = &self.question.device;
        let mut section = Section::new("Memory of the fullest GPU, fastest layout");
        let mut fact = |name: &str, bytes: u64, source: &str| {
            if bytes > 0 {
                section.fact(Fact::new(name, bytes as f64, Unit::Bytes, source));
            }
        };
        let formats = &self.question.formats;
        let states =
            |pick: fn(&crate::States) -> u64| pick(&memory.layers) + pick(&memory.embeddings);
        let bytes = |value: u64| format!("{value} bytes each, shared by ZeRO, tensor, pipeline");
        fact("weights", states(|states| states.weights.0), &bytes(formats.weight_bytes));
        fact("gradients", states(|states| states.gradients.0), &bytes(formats.gradient_bytes));
        fact("optimizer", states(|states| states.optimizer.0), &bytes(formats.matrix_state_bytes));
        fact("gathered weights", memory.gathered.0, "ZeRO-3: the layer at work and the next");
        fact("activations", memory.activations.0, "Korthikanti 2022, with gated feed-forward");
        fact("recomputation", memory.workspace.0, "one layer at once");
        fact("logits", memory.logits.0, "of one micro-batch, with gradients");
        fact("fragmentation", memory.fragmentation.0, "3 % of the tensors (an estimate)");
        fact("driver", memory.runtime.0, "context and communication buffers (an estimate)");
        fact("sum", memory.total().0, "fits");
        fact(
            "free",
            device.memory.0 - memory.total().0,
            &format!("of {} ({})", device.memory, device.name),
        );
        section
    }

    fn time(&self) -> Section {
        let run = self.search.run(self.best().layout);
        let seconds = self.seconds;
        let (low, high) = self.step_range();
        let (fast, slow) = (utilisation(&run, low), utilisation(&run, high));
        let middle = utilisation(&run, seconds);
        let mut section = Section::new("Time");
        section.fact(Fact::new(
            "tokens per step",
            self.batch.tokens() as f64,
            Unit::Tokens,
            match self.question.batch_tokens {
                Some(_) => "as asked",
                None => "OLMo ladder: 327 680·(N/108M)^(2/3), fitted to the GPUs",
            },
        ));
        section.fact(Fact::new("steps", self.steps(), Unit::Count, "tokens / tokens per step"));
        section.fact(Fact::new("a step", seconds, Unit::Seconds, TIME_SOURCE).between(low, high));
        section.fact(
            Fact::new(
                "speed of a GPU",
                middle.tokens_per_second_per_device,
                Unit::TokensPerSecond,
                "tokens per step / (GPUs · step)",
            )
            .between(slow.tokens_per_second_per_device, fast.tokens_per_second_per_device),
        );
        section.fact(
            Fact::new("MFU, PaLM", middle.palm, Unit::Share, "6Ne+12Lhs over the dense bf16 peak")
                .between(slow.palm, fast.palm),
        );
        section.fact(
            Fact::new("MFU, causal", middle.causal, Unit::Share, "6Ne+6Lhs over the same")
                .between(slow.causal, fast.causal),
        );
        if let Some(public) = &self.public {
            let source = format!(
                "{} published runs of half to twice the size, same format (data/published.csv)",
                public.count
            );
            section.fact(
                Fact::new("MFU of public runs", public.median, Unit::Share, source)
                    .between(public.least, public.most),
            );
        }
        if self.best().layout.recompute == Recompute::Full {
            section.fact(Fact::new(
                "HFU, PaLM",
                middle.palm * 4.0 / 3.0,
                Unit::Share,
                "recomputation counted",
            ));
        }
        section.fact(
            Fact::new("without failures", self.steps() * seconds, Unit::Seconds, "steps · step")
                .between(self.steps() * low, self.steps() * high),
        );
        let model = self.best().seconds;
        if model < seconds {
            section.note(format!(
                "The time model expects {} a step of the fastest layout (MFU {}). No public run of this size \
                 has reached that, so the plan counts on the best of them.",
                Unit::Seconds.show(model),
                Unit::Share.show(utilisation(&run, model).palm)
            ));
        }
        section
    }

    fn failures(&self) -> Result<Section, PlanError> {
        let mut section = Section::new("Failures and checkpoints");
        let parameters = self.shape.parameters() as f64;
        section.fact(Fact::new(
            "a checkpoint",
            parameters * 14.0,
            Unit::Bytes,
            "14 bytes each: bf16 weights, fp32 master copy and two moments",
        ));
        let mut rows = Vec::new();
        for rate in &PUBLISHED_RATES {
            let mut row = vec![
                Cell::text(rate.per_thousand_node_days.to_string()),
                Cell::Number(
                    crate::failures::mean_seconds_to_failure(
                        nodes(self.question.gpus),
                        rate.per_thousand_node_days,
                    ),
                    Unit::Seconds,
                ),
            ];
            for (_, recovery) in &RECOVERIES {
                let found =
                    availability(nodes(self.question.gpus), rate.per_thousand_node_days, recovery);
                row.push(Cell::text(match found {
                    Ok(found) => format!(
                        "{}, {}",
                        Unit::Seconds.show(found.interval_seconds),
                        Unit::Share.show(found.waste)
                    ),
                    Err(_) => "no progress".to_owned(),
                }));
            }
            rows.push(row);
        }
        section.table(
            &[
                "per 1000 node-days",
                "one every",
                "asynchronous 0.5 s",
                "blocking 60 s",
                "blocking 300 s",
            ],
            rows,
            "interval by Daly 2006 and share of time lost; restart 10, 15, 30 min; nodes of 8 GPUs",
        );
        for rate in &PUBLISHED_RATES {
            section.note(format!("{} is {}.", rate.per_thousand_node_days, rate.source));
        }
        let typical = typical(self.question.gpus)?;
        let (low, high) = self.step_range();
        let (good, bad) = self.goodput_range()?;
        section.fact(
            Fact::new("goodput", typical.goodput(), Unit::Share, "1 - lost; 6.5, blocking 60 s")
                .between(bad, good),
        );
        let days = |step: f64, goodput: f64| self.steps() * step / goodput;
        section.fact(
            Fact::new(
                "calendar time",
                days(self.seconds, typical.goodput()),
                Unit::Seconds,
                "without failures / goodput; no evaluations",
            )
            .between(days(low, good), days(high, bad)),
        );
        Ok(section)
    }

    /// Best and worst share of useful time over the published rates.
    fn goodput_range(&self) -> Result<(f64, f64), PlanError> {
        let at = |rate: usize, recovery: usize| {
            availability(
                nodes(self.question.gpus),
                PUBLISHED_RATES[rate].per_thousand_node_days,
                &RECOVERIES[recovery].1,
            )
        };
        Ok((at(0, 0)?.goodput(), at(2, 1)?.goodput()))
    }

    fn cost(&self) -> Result<Section, PlanError> {
        let question = self.question;
        let (low, high) = self.step_range();
        let (good, bad) = self.goodput_range()?;
        let gpus = question.gpus as f64;
        let hours = |step: f64, goodput: f64| gpus * self.steps() * step / goodput / 3600.0;
        let middle = hours(self.seconds, typical(question.gpus)?.goodput());
        let range = (hours(low, good), hours(high, bad));
        let mut section = Section::new("Energy and price");
        section.fact(
            Fact::new("GPU-hours", middle, Unit::GpuHours, "GPUs · calendar time")
                .between(range.0, range.1),
        );
        let watts = question.device.power_watts * question.energy_overhead;
        if watts > 0.0 {
            let energy = |hours: f64| hours * watts / 1e3;
            let source = format!(
                "{} W at full power · {} (--energy-overhead: hosts, cooling)",
                question.device.power_watts, question.energy_overhead
            );
            section.fact(
                Fact::new("energy", energy(middle), Unit::KilowattHours, source)
                    .between(energy(range.0), energy(range.1)),
            );
        }
        let Some(price) = question.price_per_gpu_hour else {
            section.note("With --price-per-gpu-hour this says the price.");
            return Ok(section);
        };
        let code = question.exchange.currency.code();
        let unit = Unit::Money(code.to_owned());
        section.fact(
            Fact::new(
                "price",
                middle * price,
                unit.clone(),
                format!("GPU-hours · {}", unit.show(price)),
            )
            .between(range.0 * price, range.1 * price),
        );
        if code != "USD"
            && let Ok(rate) = question.exchange.from_usd(1.0)
        {
            let dollars = Unit::Money("USD".to_owned());
            section.fact(
                Fact::new(
                    "the same",
                    middle * price / rate,
                    dollars,
                    format!("at {rate} {code} for one"),
                )
                .between(range.0 * price / rate, range.1 * price / rate),
            );
        }
        section.note("Storage, network, people and runs before this one are not counted.");
        Ok(section)
    }
}

/// Tokens with which `parameters` reach a loss; `None` where no number of tokens does.
fn tokens_for_loss(parameters: f64, loss: f64) -> Option<f64> {
    let law = BESIROGLU;
    let left = loss - law.e - law.a / parameters.powf(law.alpha);
    (left > 0.0).then(|| (law.b / left).powf(1.0 / law.beta))
}

fn zero_name(zero: ZeroStage) -> &'static str {
    match zero {
        ZeroStage::None => "0",
        ZeroStage::Optimizer => "1",
        ZeroStage::Gradients => "2",
        ZeroStage::Parameters => "3",
        ZeroStage::ParametersSummed => "3, summed",
        ZeroStage::ParametersGathered => "3, kept",
    }
}

fn recompute_name(recompute: Recompute) -> &'static str {
    match recompute {
        Recompute::None => "none",
        Recompute::Selective => "attention",
        Recompute::Alternate => "alternate",
        Recompute::Full => "layers",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::Currency;

    fn question() -> ClusterQuestion {
        ClusterQuestion {
            model: ModelChoice::Shape(
                "llama3-8b".to_owned(),
                ModelShape::published("llama3-8b").unwrap(),
            ),
            amount: Amount::Tokens(Tokens(100_000_000_000)),
            device: Device::named("h200").unwrap(),
            gpus: 64,
            sequence_length: 8192,
            batch_tokens: None,
            formats: NumberFormats::MIXED,
            price_per_gpu_hour: Some(3.0),
            energy_overhead: 1.0,
            exchange: Exchange::new(Currency::usd(), None).unwrap(),
            calibration: Calibration::fused(),
        }
    }

    #[test]
    fn time_speed_hours_and_price_agree_with_each_other() {
        let sheet = plan_cluster(&question()).unwrap();
        let value = |section: &str, name: &str| sheet.value(section, name).unwrap();
        let step = value("Time", "a step");
        let tokens = value("Time", "tokens per step");
        assert!((value("Time", "speed of a GPU") / (tokens / 64.0 / step) - 1.0).abs() < 1e-9);
        let hours = value("Energy and price", "GPU-hours");
        let calendar = value("Failures and checkpoints", "calendar time");
        assert!((hours / (64.0 * calendar / 3600.0) - 1.0).abs() < 1e-9);
        assert!((value("Energy and price", "price") / (hours * 3.0) - 1.0).abs() < 1e-9);
        // 700 W each.
        assert!((value("Energy and price", "energy") / (hours * 0.7) - 1.0).abs() < 1e-9);
        let free = value("Memory of the fullest GPU, fastest layout", "free");
        let sum = value("Memory of the fullest GPU, fastest layout", "sum");
        assert_eq!(free + sum, question().device.memory.0 as f64);
    }

    #[test]
    fn a_budget_of_compute_finds_the_size_that_the_law_wants() {
        let asked = ClusterQuestion {
            model: ModelChoice::ComputeOptimal,
            amount: Amount::Compute(Flops(1e22)),
            ..question()
        };
        let sheet = plan_cluster(&asked).unwrap();
        let size = sheet.value("Model", "parameters (N)").unwrap();
        let best = sheet.value("Loss and alternatives", "compute-optimal size").unwrap();
        assert!((size / best - 1.0).abs() < 0.05, "{size:e} {best:e}");
    }

    #[test]
    fn a_budget_of_money_is_what_the_plan_then_costs() {
        let asked = ClusterQuestion {
            model: ModelChoice::ComputeOptimal,
            amount: Amount::Money(250_000.0),
            ..question()
        };
        let sheet = plan_cluster(&asked).unwrap();
        let price = sheet.value("Energy and price", "price").unwrap();
        assert!((price / 250_000.0 - 1.0).abs() < 0.01, "{price}");
    }

    #[test]
    fn a_smaller_model_needs_more_tokens_for_the_same_loss() {
        let loss = BESIROGLU.loss(8e9, 160e9);
        let tokens = tokens_for_loss(4e9, loss).unwrap();
        assert!(tokens > 160e9);
        assert!((BESIROGLU.loss(4e9, tokens) - loss).abs() < 1e-12);
        assert_eq!(tokens_for_loss(1e6, loss), None);
    }

    #[test]
    fn shapes_made_for_a_size_have_it() {
        for parameters in
            [10_000_000, 124_000_000, 1_000_000_000, 7_000_000_000, 70_000_000_000, 400_000_000_000]
        {
            let shape = shape_of(parameters);
            shape.check().unwrap();
            let ratio = shape.parameters() as f64 / parameters as f64;
            assert!((ratio - 1.0).abs() < 0.05, "{parameters}: {ratio} {shape:?}");
        }
    }

    #[test]
    fn the_range_of_time_is_that_of_publications_left_out() {
        let errors = crate::cross_validate_published(
            &crate::published_runs(),
            crate::LeftOutRuns::Publication,
        )
        .unwrap();
        let mut ratios: Vec<f64> =
            errors.rows.iter().map(|row| row.measured / row.predicted).collect();
        ratios.sort_by(f64::total_cmp);
        let at = |share: f64| ratios[((ratios.len() - 1) as f64 * share).round() as usize];
        let (low, high) = (at(0.05), at(0.95));
        assert!((low - TIME_ERROR.0).abs() < 0.02, "{low}");
        assert!((high - TIME_ERROR.1).abs() < 0.02, "{high}");
    }

    #[test]
    fn contradictions_are_refused() {
        let check = |question: ClusterQuestion, part: &str| {
            let error = plan_cluster(&question).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(
            ClusterQuestion { price_per_gpu_hour: None, amount: Amount::Money(1.0), ..question() },
            "--price-per-gpu-hour",
        );
        check(
            ClusterQuestion { model: ModelChoice::ComputeOptimal, ..question() },
            "give --budget",
        );
        check(ClusterQuestion { batch_tokens: Some(Tokens(10_000)), ..question() }, "take 8192");
        check(
            ClusterQuestion { amount: Amount::Tokens(Tokens(5)), ..question() },
            "less than one step",
        );
        check(ClusterQuestion { amount: Amount::Tokens(Tokens(0)), ..question() }, "above 0");
    }
}
