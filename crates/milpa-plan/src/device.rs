//! Accelerators and processors as data: what a device computes, holds and moves.
//!
//! Peaks are always dense, by number format; the figure with sparsity is kept only to explain data
//! sheets. It knows no model. The table is `data/devices.toml`; a processor that `milpa doctor`
//! measured becomes a [`Device`] by [`Device::measured`].

use std::collections::BTreeMap;

use milpa_base::Bytes;
use serde::{Deserialize, Serialize};

use crate::PlanError;

/// Number format of the products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32-bit float on vector units.
    Fp32,
    /// 32-bit storage, 19-bit products.
    Tf32,
    /// 16-bit IEEE float.
    Fp16,
    /// 16-bit float with 8 exponent bits.
    Bf16,
    /// 8-bit float.
    Fp8,
}

impl Dtype {
    /// Its name as written in tables and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Tf32 => "tf32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }
}

/// A device and the machine it usually stands in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Device {
    /// Name in the table, for example `h200`.
    pub name: String,
    /// Full name.
    pub label: String,
    /// Dense peak in FLOP/s by number format.
    pub peak_flops_per_second: BTreeMap<Dtype, f64>,
    /// The bf16 figure that data sheets print with 2:4 sparsity, in FLOP/s. Never planned with.
    pub sparse_bf16_flops_per_second: Option<f64>,
    /// Memory a program sees.
    pub memory: Bytes,
    /// Memory bandwidth in bytes per second.
    pub memory_bandwidth: f64,
    /// What joins the devices of one node.
    pub link: String,
    /// Bytes per second in one direction that one device moves within its node.
    pub link_bandwidth: f64,
    /// Whether two devices alone have all of that bandwidth (a switch), or their share of it.
    pub link_switched: bool,
    /// Devices in one node.
    pub devices_per_node: u64,
    /// Bytes per second in one direction that one device moves between nodes.
    pub network_bandwidth: f64,
    /// Share of the part's full power that a lowered limit leaves; 1 without one.
    pub power_share: f64,
    /// Board power in watts.
    pub power_watts: f64,
    /// Where the figures are printed, or how they were measured.
    pub source: String,
    /// Day the source was read or the measurement made (ISO 8601).
    pub read: String,
}

impl Device {
    /// A device of the table by name.
    ///
    /// # Errors
    /// [`PlanError::UnknownDevice`] names the nearest one.
    pub fn named(name: &str) -> Result<Self, PlanError> {
        let mut all = devices();
        if let Some(index) = all.iter().position(|device| device.name == name) {
            return Ok(all.swap_remove(index));
        }
        let known: Vec<&str> = all.iter().map(|device| device.name.as_str()).collect();
        Err(PlanError::UnknownDevice {
            name: name.chars().take(80).collect(),
            nearest: milpa_base::config::nearest(name, &known).map(str::to_owned),
            known: known.join(", "),
        })
    }

    /// A processor as measured: peak in FLOP/s for f32 (and for bf16 where it has such units),
    /// memory bandwidth in bytes per second, memory.
    ///
    /// It stands alone in its node; the network is 10 Gb/s. Its power is not measured and 0.
    pub fn measured(
        label: impl Into<String>,
        fp32_flops_per_second: f64,
        bf16_flops_per_second: Option<f64>,
        memory_bandwidth: f64,
        memory: Bytes,
    ) -> Self {
        let mut peak_flops_per_second = BTreeMap::from([(Dtype::Fp32, fp32_flops_per_second)]);
        peak_flops_per_second.extend(bf16_flops_per_second.map(|peak| (Dtype::Bf16, peak)));
        Self {
            name: "this-machine".to_owned(),
            label: label.into(),
            peak_flops_per_second,
            sparse_bf16_flops_per_second: None,
            memory,
            memory_bandwidth,
            link: "none".to_owned(),
            link_bandwidth: 0.0,
            link_switched: true,
            devices_per_node: 1,
            network_bandwidth: 1.25e9,
            power_share: 1.0,
            power_watts: 0.0,
            source: "measured on this machine by milpa doctor".to_owned(),
            read: String::new(),
        }
    }

    /// Dense peak in FLOP/s.
    ///
    /// # Errors
    /// [`PlanError::NoSuchPrecision`] names the formats there are.
    pub fn peak(&self, dtype: Dtype) -> Result<f64, PlanError> {
        self.peak_flops_per_second.get(&dtype).copied().ok_or_else(|| {
            let known: Vec<&str> = self.peak_flops_per_second.keys().map(|d| d.name()).collect();
            PlanError::NoSuchPrecision {
                device: self.label.clone(),
                dtype: dtype.name().to_owned(),
                known: known.join(", "),
            }
        })
    }
}

/// The table of devices (`data/devices.toml`), in its order.
pub fn devices() -> Vec<Device> {
    let table: Table = toml::from_str(include_str!("../data/devices.toml"))
        .expect("data/devices.toml is checked by a test");
    table.device.into_iter().map(Row::into_device).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    device: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    label: String,
    peak_tflops: BTreeMap<Dtype, f64>,
    sparse_bf16_tflops: Option<f64>,
    memory_gib: f64,
    memory_gb_per_second: f64,
    link: String,
    link_gb_per_second: f64,
    link_switched: Option<bool>,
    devices_per_node: u64,
    network_gb_per_second: f64,
    power_share: Option<f64>,
    power_watts: f64,
    source: String,
    read: String,
}

impl Row {
    fn into_device(self) -> Device {
        Device {
            name: self.name,
            label: self.label,
            peak_flops_per_second: self
                .peak_tflops
                .into_iter()
                .map(|(dtype, tflops)| (dtype, tflops * 1e12))
                .collect(),
            sparse_bf16_flops_per_second: self.sparse_bf16_tflops.map(|tflops| tflops * 1e12),
            memory: Bytes((self.memory_gib * (1u64 << 30) as f64) as u64),
            memory_bandwidth: self.memory_gb_per_second * 1e9,
            link: self.link,
            link_bandwidth: self.link_gb_per_second * 1e9,
            link_switched: self.link_switched.unwrap_or(true),
            devices_per_node: self.devices_per_node,
            network_bandwidth: self.network_gb_per_second * 1e9,
            power_share: self.power_share.unwrap_or(1.0),
            power_watts: self.power_watts,
            source: self.source,
            read: self.read,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_dense_and_no_larger_than_the_sparse_figure_explains() {
        for device in devices() {
            for (dtype, peak) in &device.peak_flops_per_second {
                assert!(*peak > 0.0, "{} {}", device.name, dtype.name());
            }
            assert!(!device.source.is_empty() && device.memory.0 > 0 && device.power_watts > 0.0);
            if let Some(sparse) = device.sparse_bf16_flops_per_second {
                let ratio = sparse / device.peak(Dtype::Bf16).unwrap();
                assert!((1.98..2.03).contains(&ratio), "{}: {ratio}", device.name);
            }
        }
    }

    #[test]
    fn unknown_devices_and_formats_are_refused_with_what_there_is() {
        let error = Device::named("h200-sxm").unwrap_err().to_string();
        assert!(error.contains("did you mean \"h"), "{error}");
        let error = Device::named("a100-80g").unwrap().peak(Dtype::Fp8).unwrap_err().to_string();
        assert!(error.contains("it has fp32, tf32, fp16, bf16"), "{error}");
        let cpu = Device::measured("two cores", 200e9, None, 20e9, Bytes(8 << 30));
        assert!(cpu.peak(Dtype::Bf16).is_err());
    }
}
