//! `milpa doctor`: what this machine can do, measured.

use anyhow::Result;
use milpa_base::{
    Bytes,
    units::{binary_bytes, si_spaced},
};
use serde::Serialize;

use crate::context::Context;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Findings {
    /// Version of milpa.
    pub version: &'static str,
    /// Operating system and architecture.
    pub system: String,
    /// Name of the processor, where the system tells.
    pub processor: String,
    /// Threads that milpa would use.
    pub threads: usize,
    /// Instruction set that the kernels use.
    pub instructions: String,
    /// Measured peak of f32 fused multiply-adds, all threads, in FLOP/s.
    pub f32_flops_per_second: f64,
    /// The same for products of bf16 with sums in f32, where the processor has them.
    pub bf16_flops_per_second: Option<f64>,
    /// Measured read bandwidth of main memory, all threads, in bytes/s.
    pub memory_bytes_per_second: f64,
    /// Main memory, where the system tells.
    pub memory: Option<Bytes>,
    /// Memory that is free for a new process, where the system tells.
    pub memory_available: Option<Bytes>,
    /// CUDA devices that the driver shows; `None` without a driver.
    pub gpus: Option<Vec<Gpu>>,
    /// One-minute load average when the measurement began.
    pub load: Option<f64>,
    /// What may get in the way.
    pub warnings: Vec<String>,
}

/// A CUDA device.
#[derive(Debug, Serialize)]
pub struct Gpu {
    /// The vendor's name.
    pub name: String,
    /// Its memory.
    pub memory: Bytes,
    /// Compute capability, such as "9.0".
    pub compute_capability: String,
    /// Whether there are kernels for it.
    pub has_kernels: bool,
}

/// Measures and shows.
pub fn doctor(context: &Context) -> Result<()> {
    let findings = examine(context);
    context.show(&findings, || {
        let mut text = format!(
            "milpa      {}\nsystem     {}\nprocessor  {}\nthreads    {} ({})\n\
             f32 peak   {}FLOP/s (fused multiply-add, dense, measured now)\n\
             bf16 peak  {}\n\
             memory     {}B/s read, measured now\n",
            findings.version,
            findings.system,
            findings.processor,
            findings.threads,
            findings.instructions,
            si_spaced(findings.f32_flops_per_second),
            findings.bf16_flops_per_second.map_or_else(
                || "no instructions for it: bf16 is no faster than f32 here".to_owned(),
                |peak| format!("{}FLOP/s (products of bf16, sums in f32)", si_spaced(peak)),
            ),
            si_spaced(findings.memory_bytes_per_second),
        );
        if let (Some(all), Some(free)) = (findings.memory, findings.memory_available) {
            text += &format!("           {all}, {free} available\n");
        }
        text += &gpus_text(findings.gpus.as_deref());
        for warning in &findings.warnings {
            text += &format!("WARN       {warning}\n");
        }
        text
    })
}

/// Measures this machine.
pub fn examine(context: &Context) -> Findings {
    let load = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse().ok());
    let peak = crate::commands::train::measure_peak(context);
    let (memory, memory_available) = memory();
    let mut warnings = Vec::new();
    if load.is_some_and(|load| load > 0.5 * context.threads as f64) {
        warnings.push(format!(
            "other work is running (load {:.1}): the measured speeds are below what the machine can do",
            load.unwrap_or_default()
        ));
    }
    if memory_available.is_some_and(|free| free < Bytes(2 << 30)) {
        warnings.push(format!(
            "only {} of memory are available; the novelas recipe needs about 2 GiB",
            binary_bytes(memory_available.unwrap_or_default().0)
        ));
    }
    Findings {
        version: env!("CARGO_PKG_VERSION"),
        system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        processor: processor(),
        threads: context.threads,
        instructions: peak.instructions,
        f32_flops_per_second: peak.f32_flops_per_second,
        bf16_flops_per_second: peak.bf16_flops_per_second,
        memory_bytes_per_second: peak.memory_bytes_per_second,
        memory,
        memory_available,
        gpus: gpus(),
        load,
        warnings,
    }
}

/// Asks the CUDA driver for its devices, where there is one.
fn gpus() -> Option<Vec<Gpu>> {
    let gpus = milpa_kernels::cuda::Gpu::list().ok()?;
    let gpu = |info: milpa_kernels::cuda::GpuInfo| Gpu {
        has_kernels: info.is_supported(),
        compute_capability: format!("{}.{}", info.compute_capability.0, info.compute_capability.1),
        memory: Bytes(info.memory_bytes),
        name: info.name,
    };
    Some(gpus.into_iter().map(gpu).collect())
}

fn gpus_text(gpus: Option<&[Gpu]>) -> String {
    let unused = "this version computes on the CPU";
    let Some(gpus) = gpus else { return format!("gpu        no CUDA driver; {unused}\n") };
    let mut text = String::new();
    for gpu in gpus {
        let Gpu { name, memory, compute_capability, has_kernels } = gpu;
        let kernels = if *has_kernels { "" } else { ", no kernels for it" };
        let what = format!("{name}, {memory}, compute capability {compute_capability}{kernels}");
        text += &format!("gpu        {what}; {unused}\n");
    }
    if gpus.is_empty() { format!("gpu        none; {unused}\n") } else { text }
}

/// Name of the processor, "unknown" where the system does not tell.
pub fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned())
}

/// All memory and what is available, where Linux tells.
pub fn memory() -> (Option<Bytes>, Option<Bytes>) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(Bytes(kibibytes << 10))
    };
    (field("MemTotal:"), field("MemAvailable:"))
}
