//! Seconds of one optimiser step on a cluster: a closed form with calibrated parameters.
//!
//! Products at an efficiency that falls with small matrices, memory traffic of everything else,
//! launch cost, collectives over links and network, the pipeline's bubble, synchronisation of
//! replicas, optimiser. [`crate::simulate`] runs the same durations through a schedule, event by event.
//! Formulas and their sources: docs/design/planning.md. It knows no memory limit.

use serde::{Deserialize, Serialize};

use crate::{
    Device, Dtype, PlanError,
    cluster_memory::activation_bytes_per_token,
    layout::{ClusterRun, Recompute, Schedule, ZeroStage},
};

/// What measured runs teach about a kind of software on a kind of device.
///
/// All are positive. Efficiencies are relative to the device's dense peak and bandwidths, so that one
/// calibration serves devices of one generation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// Share of the dense peak that large products reach.
    pub gemm_efficiency: f64,
    /// Tokens of a micro-batch at which products take twice as long as large ones.
    pub half_tokens: f64,
    /// Hidden width per tensor-parallel device at which products take twice as long.
    pub half_width: f64,
    /// Share of the dense peak that the attention kernel reaches.
    pub attention_efficiency: f64,
    /// Extra time of attention over a sequence that many devices share, where one would take 1.
    pub context_loss: f64,
    /// Times that each stored activation byte passes the memory in a forward and backward pass.
    pub activation_passes: f64,
    /// Times as much traffic where no compiler fuses elementwise operations.
    pub eager_traffic: f64,
    /// The same of each byte of attention scores, 5 for each score; 0 with a fused kernel, which also
    /// leaves out the half that the causal mask hides.
    pub score_passes: f64,
    /// Seconds to launch a layer's kernels, forward and backward.
    pub launch_seconds: f64,
    /// Share of the node link's bandwidth that collectives reach.
    pub link_efficiency: f64,
    /// Seconds of a collective's step within a node.
    pub link_latency: f64,
    /// Share of the network's bandwidth that collectives reach.
    pub network_efficiency: f64,
    /// Seconds of a message between nodes.
    pub network_latency: f64,
    /// Share of tensor-parallel communication that is hidden where the layout overlaps it.
    pub tensor_overlap: f64,
    /// Share of computation behind which replicas' communication hides.
    pub data_overlap: f64,
    /// Times that 30 bytes for each parameter pass the memory in the optimiser's step.
    pub optimizer_passes: f64,
    /// Seconds of each step spent outside all of this, on one node.
    pub step_overhead: f64,
    /// Exponent of the power limit's share in the peak that it sustains: 1/3 where voltage falls with
    /// the clock (power grows with the cube), 1 where it does not.
    pub power_exponent: f64,
    /// Share of fp8's gain over bf16 that remains after scaling and conversion.
    pub fp8_gain: f64,
}

impl Calibration {
    /// Parameters fitted to measured runs, by their name in `data/calibrations.toml`.
    ///
    /// # Errors
    /// [`PlanError::UnknownCalibration`] names those there are.
    pub fn named(name: &str) -> Result<Self, PlanError> {
        let all = calibrations();
        all.iter().find(|row| row.name == name).map(|row| row.parameters).ok_or_else(|| {
            let known: Vec<&str> = all.iter().map(|row| row.name.as_str()).collect();
            PlanError::UnknownCalibration {
                name: name.chars().take(80).collect(),
                known: known.join(", "),
            }
        })
    }

    /// What today's software with fused attention reaches; what is planned with unless told.
    pub fn fused() -> Self {
        Self::named("fused").expect("data/calibrations.toml is checked by a test")
    }
}

/// Parameters with their name and the runs they were fitted to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedCalibration {
    /// Name, for example `fused`.
    pub name: String,
    /// The runs.
    pub source: String,
    /// The values.
    pub parameters: Calibration,
}

/// The table of calibrations (`data/calibrations.toml`).
pub fn calibrations() -> Vec<NamedCalibration> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Table {
        calibration: Vec<NamedCalibration>,
    }
    let table: Table = toml::from_str(include_str!("../data/calibrations.toml"))
        .expect("data/calibrations.toml is checked by a test");
    table.calibration
}

/// Seconds of one micro-batch's pass through a pipeline stage.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct PassTime {
    /// Matrix products of the layers.
    pub gemm: f64,
    /// Attention scores and weighting.
    pub attention: f64,
    /// Memory traffic of everything else.
    pub elementwise: f64,
    /// Launching kernels, as far as it is not hidden behind them.
    pub launch: f64,
    /// Exposed tensor-parallel communication.
    pub tensor: f64,
    /// Exposed context-parallel communication.
    pub context: f64,
}

impl PassTime {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.compute() + self.tensor + self.context
    }

    /// The sum without communication.
    pub fn compute(&self) -> f64 {
        self.gemm + self.attention + self.elementwise + self.launch
    }

    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            gemm: self.gemm + other.gemm,
            attention: self.attention + other.attention,
            elementwise: self.elementwise + other.elementwise,
            launch: self.launch + other.launch,
            tensor: self.tensor + other.tensor,
            context: self.context + other.context,
        }
    }
}

/// The durations a step is made of; all in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Durations {
    /// Forward pass of a micro-batch through a stage (all its chunks).
    pub forward: PassTime,
    /// Backward pass, with what is computed again.
    pub backward: PassTime,
    /// The part of `backward` that computes weights' gradients, which nothing waits for.
    pub weight_gradient: f64,
    /// Output projection and loss of a micro-batch, forward.
    pub logits_forward: f64,
    /// The same, backward.
    pub logits_backward: f64,
    /// Sending a micro-batch's activations, or their gradients, to the next stage.
    pub transfer: f64,
    /// Replicas' communication of a whole step.
    pub data: f64,
    /// Computation beside which it may run.
    pub data_window: f64,
    /// The optimiser's step.
    pub optimizer: f64,
    /// Everything outside.
    pub overhead: f64,
}

impl Durations {
    /// Seconds of computation that hide replicas' communication.
    pub(crate) fn window(&self, calibration: &Calibration) -> f64 {
        calibration.data_overlap * self.data_window
    }
}

/// Seconds of one step by what they go to; the parts add up to the total.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct StepTime {
    /// Computation and exposed communication of the layers.
    pub layers: PassTime,
    /// Output projection and loss on the last stage, which the others wait for.
    pub logits: f64,
    /// Transfers between stages.
    pub transfer: f64,
    /// Waiting while the pipeline fills and drains.
    pub bubble: f64,
    /// Exposed communication of replicas.
    pub data: f64,
    /// The optimiser's step.
    pub optimizer: f64,
    /// Everything outside.
    pub overhead: f64,
}

impl StepTime {
    /// Seconds of the step.
    pub fn total(&self) -> f64 {
        self.layers.total()
            + self.logits
            + self.transfer
            + self.bubble
            + self.data
            + self.optimizer
            + self.overhead
    }

    /// Seconds of communication that no computation hides.
    pub fn exposed_communication(&self) -> f64 {
        self.layers.tensor + self.layers.context + self.transfer + self.data
    }
}

/// Utilisation of the dense bf16 peak (or the run's own format where the device has no bf16).
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Utilisation {
    /// By `6·(N − input embedding) + 12·L·h·s` FLOPs for each token (`PaLM`).
    pub palm: f64,
    /// By the same with causal attention, half as much.
    pub causal: f64,
    /// Tokens per second of one device.
    pub tokens_per_second_per_device: f64,
}

/// Utilisation at `seconds` for each step.
pub fn utilisation(run: &ClusterRun, seconds: f64) -> Utilisation {
    let tokens = run.batch.tokens() as f64 / seconds / run.layout.devices() as f64;
    let peak = bf16_peak(&run.device, run.formats.compute);
    let length = run.batch.sequence_length;
    Utilisation {
        palm: tokens * run.model.train_flops_per_token_palm(length) / peak,
        causal: tokens * run.model.train_flops_per_token_causal(length) / peak,
        tokens_per_second_per_device: tokens,
    }
}

/// Seconds of one step, in closed form; of a checked run.
///
/// `m` micro-batches at the pace of the last stage, and a bubble of (p−1) stage passes: undivided for
/// `GPipe` and 1F1B, divided by v for interleaved; for ZB-H1 weights' gradients fill part of it, as far
/// as `m` micro-batches have any.
pub fn step_time(run: &ClusterRun, calibration: &Calibration) -> StepTime {
    let durations = durations(run, calibration);
    let m = run.micro_batches() as f64;
    let p = run.layout.pipeline as f64;
    let v = run.layout.interleave as f64;
    let pass = durations.forward.plus(&durations.backward);
    let hop = if run.layout.pipeline > 1 { 2.0 * durations.transfer } else { 0.0 };
    let waiting = match run.layout.schedule {
        Schedule::Gpipe | Schedule::OneForwardOneBackward | Schedule::Interleaved => {
            pass.total() / v + hop
        }
        Schedule::ZeroBubble => {
            let filled = 2.0 * durations.weight_gradient;
            (pass.total() - filled.min(pass.total())).max(0.0) + hop
        }
    };
    let times = |seconds: f64| seconds * m;
    StepTime {
        layers: PassTime {
            gemm: times(pass.gemm),
            attention: times(pass.attention),
            elementwise: times(pass.elementwise),
            launch: times(pass.launch),
            tensor: times(pass.tensor),
            context: times(pass.context),
        },
        logits: times(last_stage_excess(run, &durations)),
        transfer: times(hop * v),
        bubble: (p - 1.0) * waiting,
        data: exposed(durations.data, durations.window(calibration)),
        optimizer: durations.optimizer,
        overhead: durations.overhead,
    }
}

/// Seconds by which the last stage, with output projection and loss, is slower than a full one.
///
/// Where the layers do not divide evenly the last stage has one less than the fullest.
pub(crate) fn last_stage_excess(run: &ClusterRun, durations: &Durations) -> f64 {
    let logits = durations.logits_forward + durations.logits_backward;
    if run.model.layers.is_multiple_of(run.layout.pipeline) {
        return logits;
    }
    let stage = durations.forward.total() + durations.backward.total();
    (logits - stage / run.stage_layers() as f64).max(0.0)
}

/// The durations a step is made of; of a checked run.
pub fn durations(run: &ClusterRun, calibration: &Calibration) -> Durations {
    let fabric = Fabric::new(run, calibration);
    let (forward, backward, weight_gradient) = passes(run, calibration, &fabric);
    let (logits_forward, logits_backward) = logits(run, calibration, &fabric);
    let tokens = run.micro_batch_tokens();
    let hidden = run.model.hidden_size as f64;
    let shared = if run.layout.sequence_parallel { run.layout.tensor as f64 } else { 1.0 };
    let transfer =
        if run.layout.pipeline > 1 { fabric.send(2.0 * tokens * hidden / shared) } else { 0.0 };
    let pass = forward.total() + backward.total() + logits_forward + logits_backward;
    let (data, data_window) = replicas(run, &fabric, pass);
    let nodes = (run.layout.devices() as f64 / run.device.devices_per_node as f64).max(1.0);
    let shards = if run.layout.zero == ZeroStage::None { 1.0 } else { run.layout.shards() as f64 };
    Durations {
        forward,
        backward,
        weight_gradient,
        logits_forward,
        logits_backward,
        transfer,
        data,
        data_window,
        optimizer: calibration.optimizer_passes * 30.0 * device_parameters(run)
            / shards
            / run.device.memory_bandwidth,
        overhead: calibration.step_overhead * (1.0 + nodes.log2()),
    }
}

/// Forward and backward pass of a micro-batch through a stage, and the weights' part of backward.
fn passes(
    run: &ClusterRun,
    calibration: &Calibration,
    fabric: &Fabric,
) -> (PassTime, PassTime, f64) {
    let (model, layout) = (&run.model, &run.layout);
    let tokens = run.micro_batch_tokens();
    let tensor = layout.tensor as f64;
    let layers = run.stage_layers() as f64;
    let bf16 = sustained_peak(run, calibration);
    let fused = calibration.score_passes == 0.0;

    let narrow = 1.0
        + calibration.half_tokens / tokens
        + calibration.half_width * tensor / model.hidden_size as f64;
    let gemm = 2.0 * model.layer_matrix_parameters() as f64 * tokens
        / tensor
        / (linear_peak(run, calibration) * calibration.gemm_efficiency)
        * narrow;

    let length = run.batch.sequence_length as f64;
    let width = (model.heads * model.head_dim) as f64;
    let visible = if fused { 0.5 } else { 1.0 };
    let attention_flops = 4.0 * tokens * length * width * visible / tensor;
    let attention = if fused {
        attention_flops
            / (bf16 * calibration.attention_efficiency * layout.attention.relative_speed())
            * (1.0 + calibration.context_loss * (1.0 - 1.0 / layout.context as f64))
    } else {
        attention_flops / (bf16 * calibration.gemm_efficiency) * narrow
    };

    // A third of the traffic forward, two thirds backward.
    let bandwidth = run.device.memory_bandwidth;
    let unfused = if layout.compiled { 1.0 } else { calibration.eager_traffic };
    let elementwise = calibration.activation_passes
        * unfused
        * tokens
        * activation_bytes_per_token(run, Recompute::Selective)
        / 3.0
        / bandwidth;
    let scores = calibration.score_passes * 5.0 * tokens * length * model.heads as f64
        / tensor
        / 3.0
        / bandwidth;

    let again = match layout.recompute {
        Recompute::None | Recompute::Selective => 0.0,
        Recompute::Alternate => 0.5,
        Recompute::Full => 1.0,
    };
    // A fused kernel's backward computes the scores again, 2.5 times the forward's products.
    let attention_backward = if fused { 2.5 } else { 2.0 }
        + match layout.recompute {
            Recompute::None => 0.0,
            Recompute::Selective | Recompute::Alternate => f64::from(u8::from(!fused)),
            Recompute::Full => 1.0,
        };
    // Two all-reduces a layer each way, half of each a gather and half a sum; with whole layers
    // computed again, forward's once more.
    let repeats = f64::from(u8::from(layout.recompute == Recompute::Full));
    let half = 0.5 * fabric.tensor_all_reduce(2.0 * tokens * model.hidden_size as f64);
    let (gathers, sums) = column_inputs(run);
    let forward_halves = gathers + 2.0;
    let backward_halves = sums + 2.0 + repeats * forward_halves;
    let ring = fabric.context_gather(
        2.0 * 2.0 * tokens * (model.kv_heads * model.head_dim) as f64
            / tensor.min(model.kv_heads as f64),
    );

    let layer = |gemms: f64, attentions: f64, traffic: f64, rings: f64, halves: f64| {
        let busy = gemms * gemm + attentions * attention + traffic * (elementwise + scores);
        let launch = calibration.launch_seconds * traffic / 3.0;
        let exposed_ring = exposed(rings * ring, calibration.data_overlap * attentions * attention);
        PassTime {
            gemm: layers * gemms * gemm,
            attention: layers * (attentions * attention + traffic * scores),
            elementwise: layers * traffic * elementwise,
            // Whichever is longer, launching or computing, with a soft corner.
            launch: layers * (soft_maximum(busy, launch) - busy),
            tensor: layers * halves * half,
            context: layers * exposed_ring,
        }
    };
    let forward = layer(1.0, 1.0, 1.0, 1.0, forward_halves);
    let backward =
        layer(2.0 + again, attention_backward, 2.0 + again, 1.0 + repeats, backward_halves);
    (forward, backward, layers * gemm)
}

/// Gathers of a layer's inputs to column-parallel products in its forward pass, and sums of their
/// gradients in its backward pass.
///
/// One for each block where products of one input share it. Where each product has its own, a
/// compiler merges equal gathers; the sums differ and stay.
fn column_inputs(run: &ClusterRun) -> (f64, f64) {
    let products = if run.model.gated_ffn { 5.0 } else { 4.0 };
    match (run.layout.joint_inputs, run.layout.compiled) {
        (true, _) => (2.0, 2.0),
        (false, true) => (2.0, products),
        (false, false) => (products, products),
    }
}

fn soft_maximum(a: f64, b: f64) -> f64 {
    (a.powi(4) + b.powi(4)).powf(0.25)
}

/// Output projection and loss of a micro-batch: forward, backward.
///
/// Where devices do not share logits each gathers all of them in bf16, and reads and writes them.
fn logits(run: &ClusterRun, calibration: &Calibration, fabric: &Fabric) -> (f64, f64) {
    let all = run.micro_batch_tokens() * run.model.vocab_size as f64;
    let logits = all / run.layout.tensor as f64;
    let (held, gather) = if run.layout.vocabulary_parallel {
        (logits, 0.0)
    } else {
        (all, fabric.tensor_gather(2.0 * all))
    };
    let product = 2.0 * logits * run.model.hidden_size as f64
        / (sustained_peak(run, calibration) * calibration.gemm_efficiency);
    let traffic = 4.0 * held * calibration.activation_passes / run.device.memory_bandwidth;
    (product + traffic + gather, 2.0 * (product + traffic))
}

/// Replicas' communication in a step, and the computation beside which it may run.
///
/// Once a step: all-reduce of gradients (ZeRO-0), or reduce-scatter of gradients and all-gather of
/// weights. Each micro-batch: reduce-scatter of gradients (ZeRO-2), and two gathers of weights (ZeRO-3).
/// What moves once a step can hide behind one micro-batch's passes, otherwise behind all.
fn replicas(run: &ClusterRun, fabric: &Fabric, pass: f64) -> (f64, f64) {
    if run.layout.shards() == 1 {
        return (0.0, 0.0);
    }
    let parameters = device_parameters(run);
    let gradients = fabric.replica_gather(parameters * run.formats.gradient_bytes as f64);
    let weights = fabric.replica_gather(parameters * run.formats.weight_bytes as f64);
    let m = run.micro_batches() as f64;
    let (moving, window) = match run.layout.zero {
        ZeroStage::None => (2.0 * gradients, pass),
        ZeroStage::Optimizer | ZeroStage::ParametersGathered => (gradients + weights, pass),
        ZeroStage::Gradients => (m * gradients + weights, m * pass),
        ZeroStage::Parameters => (m * (gradients + 2.0 * weights), m * pass),
        ZeroStage::ParametersSummed => (gradients + m * 2.0 * weights, m * pass),
    };
    (moving, window)
}

/// Communication that is not hidden behind `window` seconds of computation; a tenth never is.
pub(crate) fn exposed(moving: f64, window: f64) -> f64 {
    (0.1 * moving).max(moving - window)
}

/// Parameters of the fullest stage on one tensor-parallel device.
fn device_parameters(run: &ClusterRun) -> f64 {
    let model = &run.model;
    let tensor = run.layout.tensor as f64;
    let embedding = model.embedding_parameters() as f64;
    let input = if run.layout.vocabulary_parallel { embedding / tensor } else { embedding };
    let output =
        if run.layout.pipeline == 1 && !model.tie_embeddings { embedding / tensor } else { 0.0 };
    (run.stage_layers() * model.layer_parameters()) as f64 / tensor + input + output
}

/// Sustained peak of the linear layers' products, with what fp8 keeps of its gain.
fn linear_peak(run: &ClusterRun, calibration: &Calibration) -> f64 {
    let bf16 = bf16_peak(&run.device, run.formats.compute);
    let peak = match run.device.peak_flops_per_second.get(&run.formats.compute) {
        Some(fp8) if run.formats.compute == Dtype::Fp8 => {
            bf16 * (1.0 + (fp8 / bf16 - 1.0) * calibration.fp8_gain)
        }
        Some(peak) => *peak,
        None => bf16,
    };
    peak * sustained_share(run, calibration)
}

/// Sustained peak of what stays in bf16.
fn sustained_peak(run: &ClusterRun, calibration: &Calibration) -> f64 {
    bf16_peak(&run.device, run.formats.compute) * sustained_share(run, calibration)
}

fn sustained_share(run: &ClusterRun, calibration: &Calibration) -> f64 {
    run.device.power_share.powf(calibration.power_exponent)
}

/// The bf16 peak for 8- and 16-bit formats, else (and where there is none) the format's own.
fn bf16_peak(device: &Device, compute: Dtype) -> f64 {
    let peaks = &device.peak_flops_per_second;
    let short = matches!(compute, Dtype::Fp8 | Dtype::Bf16 | Dtype::Fp16);
    let wanted = if short { Dtype::Bf16 } else { compute };
    peaks
        .get(&wanted)
        .or_else(|| peaks.get(&compute))
        .or_else(|| peaks.values().next())
        .copied()
        .unwrap_or(f64::NAN)
}

/// Bandwidths between the members of each group. Tensor-parallel devices are neighbours, then
/// context, data, and pipeline stages, as Megatron and `TorchTitan` lay them.
struct Fabric {
    link: f64,
    link_latency: f64,
    network: f64,
    network_latency: f64,
    per_node: f64,
    switched: bool,
    tensor: f64,
    context: f64,
    shards: f64,
    /// Share of tensor-parallel communication that stays visible.
    tensor_visible: f64,
}

impl Fabric {
    fn new(run: &ClusterRun, calibration: &Calibration) -> Self {
        let layout = &run.layout;
        let hidden = if layout.overlap_tensor { calibration.tensor_overlap } else { 0.0 };
        Self {
            link: run.device.link_bandwidth * calibration.link_efficiency,
            link_latency: calibration.link_latency,
            network: run.device.network_bandwidth * calibration.network_efficiency,
            network_latency: calibration.network_latency,
            per_node: run.device.devices_per_node as f64,
            switched: run.device.link_switched,
            tensor: layout.tensor as f64,
            context: layout.context as f64,
            shards: layout.shards() as f64,
            tensor_visible: 1.0 - hidden,
        }
    }

    /// A ring over `size` members, `stride` devices apart: bandwidth of one member and latency of one
    /// step. Where the ring leaves the node, each of its members there brings its own adapter.
    fn ring(&self, size: f64, stride: f64) -> (f64, f64) {
        if size * stride <= self.per_node {
            // Without a switch a device reaches each neighbour over its share of the links only.
            let others = (self.per_node - 1.0).max(1.0);
            let share = if self.switched { 1.0 } else { (size - 1.0) / others };
            return (self.link * share, self.link_latency);
        }
        let here = (self.per_node / stride).floor().clamp(1.0, size);
        let outside = here * self.network;
        let bandwidth = if here > 1.0 { outside.min(self.link) } else { outside };
        (bandwidth, self.network_latency)
    }

    /// Ring all-gather or reduce-scatter of `bytes` in all: (n−1)/n of them pass each member.
    fn gather(&self, bytes: f64, size: f64, stride: f64) -> f64 {
        if size <= 1.0 {
            return 0.0;
        }
        let (bandwidth, latency) = self.ring(size, stride);
        (size - 1.0) / size * bytes / bandwidth + latency * size.log2()
    }

    /// An all-reduce (or reduce-scatter and all-gather) of `bytes`, as far as it is not hidden.
    fn tensor_all_reduce(&self, bytes: f64) -> f64 {
        if self.tensor <= 1.0 {
            return 0.0;
        }
        let (bandwidth, latency) = self.ring(self.tensor, 1.0);
        let moving = 2.0 * (self.tensor - 1.0) / self.tensor * bytes / bandwidth;
        moving * self.tensor_visible + latency * self.tensor.log2()
    }

    /// An all-gather of `bytes` in all by the tensor-parallel devices.
    fn tensor_gather(&self, bytes: f64) -> f64 {
        self.gather(bytes, self.tensor, 1.0)
    }

    /// Keys and values of the whole sequence, `bytes` from each member.
    fn context_gather(&self, bytes: f64) -> f64 {
        self.gather(bytes * self.context, self.context, self.tensor)
    }

    fn replica_gather(&self, bytes: f64) -> f64 {
        self.gather(bytes, self.shards, self.tensor)
    }

    /// From one stage to the next.
    fn send(&self, bytes: f64) -> f64 {
        if self.tensor * self.shards >= self.per_node {
            bytes / self.network + self.network_latency
        } else {
            bytes / self.link + self.link_latency
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Layout, ModelShape, NumberFormats};

    fn run(layout: Layout) -> ClusterRun {
        let sequences = 64 * layout.data * layout.micro_batch;
        let run = ClusterRun {
            model: ModelShape::published("llama3-70b").unwrap(),
            device: Device::named("h100-sxm").unwrap(),
            layout,
            batch: Batch { sequence_length: 8192, sequences },
            formats: NumberFormats::MIXED,
        };
        run.check().unwrap();
        run
    }

    #[test]
    fn parts_add_up_and_the_bubble_is_that_of_its_schedule() {
        let calibration = Calibration::fused();
        let layout = Layout { data: 2, tensor: 4, pipeline: 8, ..Layout::SINGLE };
        let plain = run(layout);
        let time = step_time(&plain, &calibration);
        let d = durations(&plain, &calibration);
        let pass = d.forward.total() + d.backward.total();
        assert!((time.bubble / (7.0 * (pass + 2.0 * d.transfer)) - 1.0).abs() < 1e-12);
        let check = |schedule, interleave, below: f64| {
            let other = run(Layout { interleave, schedule, ..layout });
            let bubble = step_time(&other, &calibration).bubble;
            assert!(bubble <= below * time.bubble, "{schedule:?} {bubble} {}", time.bubble);
        };
        check(Schedule::Interleaved, 5, 0.25);
        check(Schedule::ZeroBubble, 1, 0.7);
    }

    #[test]
    fn more_work_and_less_bandwidth_never_take_less_time() {
        let calibration = Calibration::fused();
        let layout = Layout {
            data: 8,
            tensor: 8,
            zero: ZeroStage::Parameters,
            recompute: Recompute::Full,
            ..Layout::SINGLE
        };
        let base = step_time(&run(layout), &calibration).total();
        let mut slower = run(layout);
        slower.device.network_bandwidth /= 4.0;
        assert!(step_time(&slower, &calibration).total() >= base);
        let mut slower = run(layout);
        slower.device.link_bandwidth /= 2.0;
        assert!(step_time(&slower, &calibration).total() > base);
        let mut larger = run(layout);
        larger.model.layers += 10;
        assert!(step_time(&larger, &calibration).total() > base);
        let none = run(Layout { recompute: Recompute::Selective, ..layout });
        assert!(step_time(&none, &calibration).total() < base);
    }

    #[test]
    fn inputs_gathered_one_by_one_and_whole_logits_take_longer() {
        let calibration = Calibration::fused();
        let joint = run(Layout { tensor: 8, recompute: Recompute::Full, ..Layout::SINGLE });
        let with = |change: fn(&mut Layout)| {
            let mut run = joint.clone();
            change(&mut run.layout);
            step_time(&run, &calibration)
        };
        let tensor = |time: StepTime| time.layers.tensor;
        let base = with(|_| ());
        // 6 gathers and 6 sums become 6 and 9 with a compiler, which merges gathers, 12 and 9 without.
        let compiled = with(|layout| layout.joint_inputs = false);
        assert!((tensor(compiled) / tensor(base) - 15.0 / 12.0).abs() < 1e-9);
        let eager = with(|layout| (layout.joint_inputs, layout.compiled) = (false, false));
        assert!((tensor(eager) / tensor(base) - 21.0 / 12.0).abs() < 1e-9);
        assert!(eager.layers.elementwise > compiled.layers.elementwise);
        assert!(with(|layout| layout.vocabulary_parallel = false).logits > 2.0 * base.logits);
    }

    #[test]
    fn without_limits_on_bandwidth_no_communication_is_exposed() {
        let mut calibration = Calibration::fused();
        calibration.link_latency = 0.0;
        calibration.network_latency = 0.0;
        let mut run = run(Layout {
            data: 8,
            tensor: 8,
            pipeline: 2,
            context: 2,
            zero: ZeroStage::Parameters,
            ..Layout::SINGLE
        });
        run.device.link_bandwidth = f64::INFINITY;
        run.device.network_bandwidth = f64::INFINITY;
        assert_eq!(step_time(&run, &calibration).exposed_communication(), 0.0);
    }

    #[test]
    fn the_table_of_calibrations_is_read() {
        assert!(calibrations().len() >= 2);
        assert!(Calibration::named("none").unwrap_err().to_string().contains("fused"));
    }
}
