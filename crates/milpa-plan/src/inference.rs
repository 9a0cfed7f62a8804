//! What serving a model takes: memory, tokens per second and price, against a remote price.
//!
//! Generating a token reads the weights and the keys and values of all earlier tokens once, so it is
//! bound by memory bandwidth until a large batch makes it bound by computation; reading a prompt is
//! bound by computation. It knows no kernel: the share of each bound that software reaches is a
//! range from measurements.

use std::str::FromStr;

use serde::Serialize;

use crate::{
    amounts::{Exchange, bad},
    device::{Device, Dtype, devices},
    error::PlanError,
    shape::ModelShape,
    sheet::{Cell, Fact, Section, Sheet, Unit},
};

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Format {
    /// Name.
    pub name: &'static str,
    /// Bits for one number, scales included.
    pub bits: f64,
    /// Where the bits are printed.
    pub source: &'static str,
}

/// Formats of weights; the bits of the mixtures are those of Llama 3.1 8B.
pub const WEIGHT_FORMATS: [Format; 9] = [
    Format { name: "f32", bits: 32.0, source: "32 bits" },
    Format { name: "bf16", bits: 16.0, source: "16 bits" },
    Format { name: "f16", bits: 16.0, source: "16 bits" },
    Format { name: "fp8", bits: 8.0, source: "8 bits" },
    Format { name: "q8_0", bits: 8.5, source: "34 bytes for 32 numbers" },
    Format { name: "q6_k", bits: 6.5625, source: "210 bytes for 256 numbers" },
    Format { name: "q5_k_m", bits: 5.70, source: "llama.cpp tools/quantize, Llama 3.1 8B" },
    Format { name: "q4_k_m", bits: 4.89, source: "llama.cpp tools/quantize, Llama 3.1 8B" },
    Format { name: "q4_0", bits: 4.5, source: "18 bytes for 32 numbers" },
];

impl FromStr for Format {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let name = text.to_ascii_lowercase();
        WEIGHT_FORMATS.iter().find(|format| format.name == name).copied().ok_or_else(|| {
            let known: Vec<&str> = WEIGHT_FORMATS.iter().map(|format| format.name).collect();
            bad(text, "a number format", &format!("known are {}", known.join(", ")))
        })
    }
}

/// What another sells the same for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RemotePrice {
    /// A million tokens of prompt, in the answer's currency.
    pub input_per_million: f64,
    /// A million generated tokens.
    pub output_per_million: f64,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct InferenceQuestion {
    /// What the model is called.
    pub name: String,
    /// Its sizes.
    pub shape: ModelShape,
    /// The machine's accelerator, or the machine itself.
    pub device: Device,
    /// How many of them share the model.
    pub devices: u64,
    /// How weights are stored.
    pub weights: Format,
    /// How keys and values are stored.
    pub cache: Format,
    /// Tokens of a prompt.
    pub prompt: u64,
    /// Tokens generated after it.
    pub output: u64,
    /// Sequences at once; what fits if left out.
    pub batch: Option<u64>,
    /// Price of one device for an hour, in the answer's currency.
    pub price_per_hour: Option<f64>,
    /// What another sells it for.
    pub remote: Option<RemotePrice>,
    /// Currency of the answer.
    pub exchange: Exchange,
}

/// Share of the memory bandwidth reached while generating: half at depth 2048, 0.77 to 0.87 at the
/// beginning.
const BANDWIDTH_SHARE: (f64, f64) = (0.50, 0.87);
const BANDWIDTH_SOURCE: &str = "0.50 to 0.87 of the bandwidth: llama.cpp on two Zen 5 cores, \
                                Q4_0 to Q8_0, depth 2048 and 0";
/// Share of the peak reached while reading a prompt: quantised on a CPU, and large products on a GPU.
const PEAK_SHARE: (f64, f64) = (0.24, 0.60);
const PEAK_SOURCE: &str = "0.24 to 0.60 of the dense peak: llama.cpp Q4 on two Zen 5 cores (0.24 to \
                           0.27), training of 7B on an H100 (0.60)";
/// Share of the memory that neither weights nor cache may use; an assumption.
const RESERVED: f64 = 0.08;
/// Sequences at once that are shown at most where the memory sets no limit.
const LARGEST_BATCH: u64 = 256;

/// Bytes and FLOPs of a model, by use.
struct Costs<'a> {
    question: &'a InferenceQuestion,
}

impl Costs<'_> {
    fn weight_bytes(&self) -> f64 {
        self.question.shape.parameters() as f64 * self.question.weights.bits / 8.0
    }

    /// Weights that every token reads: all but the input embedding's other rows.
    fn read_bytes(&self) -> f64 {
        self.read_parameters() * self.question.weights.bits / 8.0
    }

    fn read_parameters(&self) -> f64 {
        let shape = &self.question.shape;
        (shape.non_embedding_parameters() + shape.embedding_parameters()) as f64
    }

    fn cache_bytes_per_token(&self) -> f64 {
        let shape = &self.question.shape;
        let numbers = 2 * shape.layers * shape.kv_heads * shape.head_dim;
        numbers as f64 * self.question.cache.bits / 8.0
    }

    fn flops_per_token(&self, depth: f64) -> f64 {
        let shape = &self.question.shape;
        let width = (shape.layers * shape.heads * shape.head_dim) as f64;
        2.0 * self.read_parameters() + 4.0 * width * depth
    }

    fn context(&self) -> f64 {
        (self.question.prompt + self.question.output) as f64
    }

    fn usable_bytes(&self) -> f64 {
        let question = self.question;
        question.device.memory.0 as f64 * question.devices as f64 * (1.0 - RESERVED)
    }

    fn largest_batch(&self) -> u64 {
        let free = self.usable_bytes() - self.weight_bytes();
        let one = self.cache_bytes_per_token() * self.context();
        (free / one).floor().max(0.0) as u64
    }

    fn peak(&self) -> Result<f64, PlanError> {
        let device = &self.question.device;
        let wanted = match self.question.weights.name {
            "fp8" => Dtype::Fp8,
            "f32" => Dtype::Fp32,
            _ => Dtype::Bf16,
        };
        // Quantised weights are widened to what the device multiplies.
        let peak = device.peak(wanted).or_else(|_| device.peak(Dtype::Bf16));
        Ok(peak.or_else(|_| device.peak(Dtype::Fp32))? * self.question.devices as f64)
    }

    /// Seconds in which `batch` sequences each get one token, at the shares given, and whether the
    /// bandwidth is what limits it.
    fn step(
        &self,
        batch: f64,
        bandwidth_share: f64,
        peak_share: f64,
    ) -> Result<(f64, bool), PlanError> {
        let question = self.question;
        // Half of the generated tokens lie behind the middle one.
        let depth = question.prompt as f64 + question.output as f64 / 2.0;
        let bytes = self.read_bytes() + batch * depth * self.cache_bytes_per_token();
        let bandwidth = question.device.memory_bandwidth * question.devices as f64;
        let reading = bytes / (bandwidth * bandwidth_share);
        let computing = batch * self.flops_per_token(depth) / (self.peak()? * peak_share);
        Ok((reading.max(computing), reading >= computing))
    }

    /// Seconds to read one prompt.
    fn prefill(&self, peak_share: f64, bandwidth_share: f64) -> Result<f64, PlanError> {
        let question = self.question;
        let prompt = question.prompt as f64;
        // On the average a token sees half of the prompt.
        let computing = prompt * self.flops_per_token(prompt / 2.0) / (self.peak()? * peak_share);
        let bandwidth = question.device.memory_bandwidth * question.devices as f64;
        Ok(computing.max(self.read_bytes() / (bandwidth * bandwidth_share)))
    }
}

/// Plans serving.
///
/// # Errors
/// Sizes of zero, prices that are none, and a model that does not fit, with what would be enough.
pub fn plan_inference(question: &InferenceQuestion) -> Result<Sheet, PlanError> {
    check(question)?;
    let costs = Costs { question };
    let largest = costs.largest_batch();
    let batch = question.batch.unwrap_or(largest.clamp(1, LARGEST_BATCH));
    if largest < batch {
        return Err(too_large(&costs, batch));
    }
    let mut sections = vec![memory_section(&costs, largest, batch), speed_section(&costs, batch)?];
    if let Some(price) = question.price_per_hour {
        sections.push(price_section(&costs, batch, price)?);
    }
    Ok(Sheet {
        title: format!(
            "Serving {} in {} on {} x {}, {} tokens of prompt and {} of answer",
            question.name,
            question.weights.name,
            question.devices,
            question.device.label,
            question.prompt,
            question.output
        ),
        sections,
    })
}

fn check(question: &InferenceQuestion) -> Result<(), PlanError> {
    question.shape.check()?;
    for (name, value) in [
        ("the number of devices", question.devices),
        ("the prompt", question.prompt),
        ("the answer", question.output),
        ("the batch", question.batch.unwrap_or(1)),
    ] {
        if !(1..=100_000_000).contains(&value) {
            let range = "between 1 and 100 million";
            return Err(PlanError::OutOfRange { name, value: value as f64, range });
        }
    }
    let remote = question.remote.map_or([None; 2], |remote| {
        [Some(remote.input_per_million), Some(remote.output_per_million)]
    });
    for price in [question.price_per_hour, remote[0], remote[1]].into_iter().flatten() {
        if !(price.is_finite() && price >= 0.0) {
            return Err(PlanError::OutOfRange {
                name: "a price",
                value: price,
                range: "0 or more",
            });
        }
    }
    if question.remote.is_some() && question.price_per_hour.is_none() {
        return Err(PlanError::BadQuestion {
            problem: "a remote price has nothing to stand against".to_owned(),
            remedy: "say what one device costs in an hour with --price-per-gpu-hour".to_owned(),
        });
    }
    Ok(())
}

/// The refusal of a model that does not fit, with devices and formats that would do.
fn too_large(costs: &Costs<'_>, batch: u64) -> PlanError {
    let question = costs.question;
    let needed =
        costs.weight_bytes() + batch as f64 * costs.context() * costs.cache_bytes_per_token();
    let one = question.device.memory.0 as f64 * (1.0 - RESERVED);
    let mut enough = vec![format!("{} x {}", (needed / one).ceil(), question.device.name)];
    let smaller = WEIGHT_FORMATS.iter().find(|format| {
        let question = InferenceQuestion { weights: **format, ..question.clone() };
        format.bits < costs.question.weights.bits
            && Costs { question: &question }.largest_batch() >= batch
    });
    if let Some(format) = smaller {
        enough.push(format!("weights in {}", format.name));
    }
    if costs.largest_batch() > 0 {
        enough.push(format!("a batch of {}", costs.largest_batch()));
    }
    if let Some(device) = devices().iter().find(|device| {
        device.memory.0 as f64 * (1.0 - RESERVED) * question.devices as f64 >= needed
    }) {
        enough.push(format!("{} x {}", question.devices, device.name));
    }
    PlanError::FitsNowhere {
        model: format!("{} in {} with a batch of {batch}", question.name, question.weights.name),
        gpus: question.devices,
        device: question.device.name.clone(),
        reason: format!(
            "it needs {}, and {} are there",
            Unit::Bytes.show(needed),
            Unit::Bytes.show(costs.usable_bytes())
        ),
        enough: format!("enough would be {}", enough.join(", or ")),
    }
}

fn memory_section(costs: &Costs<'_>, largest: u64, batch: u64) -> Section {
    let question = costs.question;
    let mut section = Section::new("Memory");
    section.fact(Fact::new(
        "parameters",
        question.shape.parameters() as f64,
        Unit::Parameters,
        "all, by the shape",
    ));
    section.fact(Fact::new(
        "weights",
        costs.weight_bytes(),
        Unit::Bytes,
        format!("N · {} bits ({})", question.weights.bits, question.weights.source),
    ));
    section.fact(Fact::new(
        "cache of one token",
        costs.cache_bytes_per_token(),
        Unit::Bytes,
        format!("2 · layers · key/value heads · head width · {} bits", question.cache.bits),
    ));
    let context = costs.context();
    section.fact(Fact::new(
        "cache of one sequence",
        costs.cache_bytes_per_token() * context,
        Unit::Bytes,
        format!("{context} tokens"),
    ));
    section.fact(Fact::new(
        "usable",
        costs.usable_bytes(),
        Unit::Bytes,
        "memory - 8 % for buffers (an assumption)",
    ));
    section.fact(Fact::new(
        "sequences that fit",
        largest as f64,
        Unit::Count,
        "(usable - weights) / cache of one",
    ));
    section.fact(Fact::new(
        "used",
        costs.weight_bytes() + batch as f64 * context * costs.cache_bytes_per_token(),
        Unit::Bytes,
        format!("weights + cache of {batch} sequences"),
    ));
    section
}

fn speed_section(costs: &Costs<'_>, batch: u64) -> Result<Section, PlanError> {
    let mut section = Section::new("Speed");
    let prompt = costs.question.prompt as f64;
    let slow = costs.prefill(PEAK_SHARE.0, BANDWIDTH_SHARE.0)?;
    let fast = costs.prefill(PEAK_SHARE.1, BANDWIDTH_SHARE.1)?;
    let middle = (slow * fast).sqrt();
    section.fact(
        Fact::new(
            "reading a prompt",
            prompt / middle,
            Unit::TokensPerSecond,
            "peak · share / (2N + 4·L·h·depth)",
        )
        .between(prompt / slow, prompt / fast),
    );
    section.fact(
        Fact::new(
            "first token after",
            middle,
            Unit::Seconds,
            "prompt / speed, nothing else waiting",
        )
        .between(fast, slow),
    );
    let mut rows = Vec::new();
    let mut batches: Vec<u64> = [1, 4, 16, 64].into_iter().filter(|&size| size < batch).collect();
    batches.push(batch);
    for size in batches {
        let (slow, _) = costs.step(size as f64, BANDWIDTH_SHARE.0, PEAK_SHARE.0)?;
        let (fast, by_reading) = costs.step(size as f64, BANDWIDTH_SHARE.1, PEAK_SHARE.1)?;
        let all = |seconds: f64| Cell::Number(size as f64 / seconds, Unit::TokensPerSecond);
        rows.push(vec![
            Cell::Number(size as f64, Unit::Count),
            all(slow),
            all(fast),
            Cell::Number(1.0 / slow, Unit::TokensPerSecond),
            Cell::Number(1.0 / fast, Unit::TokensPerSecond),
            Cell::text(if by_reading { "bandwidth" } else { "computation" }),
        ]);
    }
    section.table(
        &["at once", "all, from", "to", "each, from", "to", "bound by"],
        rows,
        "generating: max(bytes read / bandwidth, FLOPs / peak), each at its share",
    );
    section.note(format!("{BANDWIDTH_SOURCE}; {PEAK_SOURCE}. Both ranges are wide on purpose: measure with milpa serve."));
    if costs.question.devices > 1 {
        section.note("Traffic between the devices is not counted: the lower ends are nearer.");
    }
    Ok(section)
}

fn price_section(costs: &Costs<'_>, batch: u64, price: f64) -> Result<Section, PlanError> {
    let question = costs.question;
    let currency = question.exchange.currency.code();
    let per_million = Unit::MoneyPerMillionTokens(currency.to_owned());
    let money = Unit::Money(currency.to_owned());
    let per_second = price * question.devices as f64 / 3600.0;
    let mut section = Section::new("Price per million tokens");
    let (step_slow, _) = costs.step(batch as f64, BANDWIDTH_SHARE.0, PEAK_SHARE.0)?;
    let (step_fast, _) = costs.step(batch as f64, BANDWIDTH_SHARE.1, PEAK_SHARE.1)?;
    let prefill_slow = costs.prefill(PEAK_SHARE.0, BANDWIDTH_SHARE.0)?;
    let prefill_fast = costs.prefill(PEAK_SHARE.1, BANDWIDTH_SHARE.1)?;
    let input = |prefill: f64| per_second * prefill / question.prompt as f64 * 1e6;
    let output = |step: f64| per_second * step / batch as f64 * 1e6;
    let middle = |a: f64, b: f64| (a * b).sqrt();
    section.fact(
        Fact::new(
            "prompt",
            input(middle(prefill_slow, prefill_fast)),
            per_million.clone(),
            "price per second / speed, machine always busy",
        )
        .between(input(prefill_fast), input(prefill_slow)),
    );
    section.fact(
        Fact::new(
            "answer",
            output(middle(step_slow, step_fast)),
            per_million.clone(),
            format!("the same, {batch} sequences at once"),
        )
        .between(output(step_fast), output(step_slow)),
    );
    let busy = |prefill: f64, step: f64| prefill + step / batch as f64 * question.output as f64;
    let (slow, fast) = (busy(prefill_slow, step_slow), busy(prefill_fast, step_fast));
    let day = 86_400.0;
    section.fact(Fact::new(
        "the machine, a day",
        per_second * day,
        money.clone(),
        "price · 24 h, busy or not",
    ));
    section.fact(
        Fact::new(
            "requests it can take a day",
            day / middle(slow, fast),
            Unit::Count,
            "86 400 s / (prompt + answer of one)",
        )
        .between(day / slow, day / fast),
    );
    let Some(remote) = question.remote else { return Ok(section) };
    let request = (remote.input_per_million * question.prompt as f64
        + remote.output_per_million * question.output as f64)
        / 1e6;
    section.fact(Fact::new(
        "remote, one request",
        request,
        money.clone(),
        "prompt and answer at the prices given",
    ));
    let own = |seconds: f64| per_second * seconds;
    section.fact(
        Fact::new("own, one request", own(middle(slow, fast)), money, "machine always busy")
            .between(own(fast), own(slow)),
    );
    let even = per_second * day / request;
    section.fact(Fact::new(
        "as cheap as remote from",
        even,
        Unit::Count,
        "requests a day: the machine's day / remote request",
    ));
    section.fact(
        Fact::new(
            "that is a load of",
            even * middle(slow, fast) / day,
            Unit::Share,
            "of what the machine can take",
        )
        .between(even * fast / day, even * slow / day),
    );
    section.note(if even * fast > day {
        "The remote price is below the machine's even when it never idles."
    } else if even * slow > day {
        "Whether the machine can be cheaper lies inside the range: measure its speed first."
    } else {
        "With more requests than that, every day, the own machine is cheaper; people's time is not counted."
    });
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amounts::Currency;
    use milpa_base::Bytes;

    /// Llama 3.2 1B's shape.
    const ONE_BILLION: ModelShape = ModelShape {
        hidden_size: 2048,
        layers: 16,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        ffn_size: 8192,
        gated_ffn: true,
        vocab_size: 128_256,
        positions: 0,
        biases: false,
        qk_norm: false,
        tie_embeddings: true,
    };

    fn question() -> InferenceQuestion {
        InferenceQuestion {
            name: "1B".to_owned(),
            shape: ONE_BILLION,
            device: Device::measured(
                "two Zen 5 cores",
                0.53e12,
                Some(1.05e12),
                45.8e9,
                Bytes(24 << 30),
            ),
            devices: 1,
            weights: "q8_0".parse().unwrap(),
            cache: "f16".parse().unwrap(),
            prompt: 1,
            output: 24,
            batch: Some(1),
            price_per_hour: Some(0.10),
            remote: None,
            exchange: Exchange::new(Currency::usd(), None).unwrap(),
        }
    }

    #[test]
    fn bounds_are_those_that_were_published_for_a_two_core_machine() {
        // Q8_0: 1.313 GB and 35 tokens/s at most; llama.cpp reached 30.2.
        let question = question();
        let costs = Costs { question: &question };
        assert!((costs.weight_bytes() / 1.313e9 - 1.0).abs() < 0.001, "{}", costs.weight_bytes());
        let (seconds, by_reading) = costs.step(1.0, 1.0, 1.0).unwrap();
        assert!((1.0 / seconds - 35.0).abs() < 0.3 && by_reading, "{}", 1.0 / seconds);
        let (slow, fast) = (
            costs.step(1.0, BANDWIDTH_SHARE.0, 1.0).unwrap().0,
            costs.step(1.0, BANDWIDTH_SHARE.1, 1.0).unwrap().0,
        );
        assert!((1.0 / slow..1.0 / fast).contains(&30.2));
        // bf16 reads prompts at 540 tokens/s at most (0.973B parameters, the last projection once).
        let flops = 2.0 * ONE_BILLION.non_embedding_parameters() as f64;
        assert!((1.05e12 / flops - 540.0).abs() < 2.0);
    }

    #[test]
    fn depth_costs_bandwidth() {
        // L·2·kv heads·head width·2 bytes a token: 32 KiB for this shape.
        let question = question();
        assert_eq!(Costs { question: &question }.cache_bytes_per_token(), 32_768.0);
        let deep = InferenceQuestion { prompt: 2048, ..question.clone() };
        let step = |question: &InferenceQuestion| Costs { question }.step(1.0, 1.0, 1.0).unwrap().0;
        assert!(step(&deep) > step(&question) * 1.04);
    }

    #[test]
    fn a_large_batch_is_bound_by_computation() {
        let h200 = InferenceQuestion {
            shape: ModelShape::published("llama3-8b").unwrap(),
            device: Device::named("h200").unwrap(),
            weights: "bf16".parse().unwrap(),
            prompt: 512,
            output: 128,
            batch: None,
            ..question()
        };
        let costs = Costs { question: &h200 };
        assert!(costs.step(1.0, 0.87, 0.6).unwrap().1);
        assert!(!costs.step(4000.0, 0.87, 0.6).unwrap().1);
        assert!(plan_inference(&h200).unwrap().to_string().contains("sequences that fit"));
    }

    #[test]
    fn a_model_that_fits_nowhere_says_what_would_be_enough() {
        let huge = InferenceQuestion {
            name: "llama3-405b".to_owned(),
            shape: ModelShape::published("llama3-405b").unwrap(),
            device: Device::named("h200").unwrap(),
            devices: 4,
            weights: "bf16".parse().unwrap(),
            prompt: 2000,
            ..question()
        };
        let error = plan_inference(&huge).unwrap_err().to_string();
        assert!(error.contains("enough would be 6 x h200, or weights in fp8"), "{error}");
    }

    #[test]
    fn a_remote_price_gives_the_load_from_which_one_pays_less() {
        let remote = RemotePrice { input_per_million: 0.1, output_per_million: 0.4 };
        let asked =
            InferenceQuestion { prompt: 1000, output: 200, remote: Some(remote), ..question() };
        let sheet = plan_inference(&asked).unwrap();
        let value = |name| sheet.value("Price per million tokens", name).unwrap();
        assert!((value("remote, one request") - 0.000_18).abs() < 1e-12);
        assert!((value("as cheap as remote from") - 2.4 / 0.000_18).abs() < 1e-6);
        let none = InferenceQuestion { price_per_hour: None, ..asked };
        assert!(plan_inference(&none).unwrap_err().to_string().contains("--price-per-gpu-hour"));
    }
}
