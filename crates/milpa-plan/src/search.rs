//! The best layouts of a training on so many devices: every layout that fits, the fastest first.
//!
//! It asks the memory and the time model for each candidate and knows neither. The space: tensor
//! parallel within a node, pipelines of 1F1B or interleaved chunks, context parallel for long
//! sequences, ZeRO-1 and ZeRO-3, attention or whole layers computed again.

use serde::Serialize;

use crate::{
    Batch, Calibration, ClusterRun, Device, Layout, ModelShape, NumberFormats, PlanError,
    Recompute, Schedule, ZeroStage, cluster_memory, cluster_memory::ClusterMemory, devices,
    step_time,
};

/// A training for which layouts are sought.
#[derive(Debug, Clone)]
pub struct Search {
    /// What the model is called.
    pub name: String,
    /// The model.
    pub model: ModelShape,
    /// The device.
    pub device: Device,
    /// How many there are.
    pub gpus: u64,
    /// Sequences of a step.
    pub batch: Batch,
    /// Number formats.
    pub formats: NumberFormats,
}

/// A layout with what it takes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The layout.
    pub layout: Layout,
    /// Bytes on the fullest device.
    pub memory: ClusterMemory,
    /// Seconds of a step.
    pub seconds: f64,
}

/// Sequences from which context parallelism is tried, in tokens.
const LONG_SEQUENCE: u64 = 32_768;
/// GPUs up to which a refusal seeks how many would be enough.
const MOST_GPUS: u64 = 1 << 17;

impl Search {
    /// The run with a layout.
    pub fn run(&self, layout: Layout) -> ClusterRun {
        ClusterRun {
            model: self.model,
            device: self.device.clone(),
            layout,
            batch: self.batch,
            formats: self.formats,
        }
    }

    /// The fastest layouts that fit, at most `count`, one for each (tensor, pipeline, context).
    ///
    /// # Errors
    /// Nothing fits ([`PlanError::FitsNowhere`] says what would be enough), or no layout divides the
    /// model and the batch.
    pub fn best(
        &self,
        calibration: &Calibration,
        count: usize,
    ) -> Result<Vec<Candidate>, PlanError> {
        self.model.check()?;
        if self.gpus == 0 || self.gpus > MOST_GPUS {
            return Err(PlanError::OutOfRange {
                name: "the number of GPUs",
                value: self.gpus as f64,
                range: "from 1 to 131 072",
            });
        }
        let mut smallest: Option<ClusterMemory> = None;
        let mut fitting: Vec<Candidate> = Vec::new();
        let mut problem = None;
        for layout in self.layouts() {
            let run = self.run(layout);
            if let Err(error) = run.check() {
                problem = Some(error);
                continue;
            }
            let memory = cluster_memory(&run);
            if smallest.is_none_or(|least| memory.total() < least.total()) {
                smallest = Some(memory);
            }
            if memory.total() <= self.device.memory {
                let seconds = step_time(&run, calibration).total();
                fitting.push(Candidate { layout, memory, seconds });
            }
        }
        let Some(smallest) = smallest else {
            return Err(problem.unwrap_or_else(|| self.no_layout()));
        };
        if fitting.is_empty() {
            return Err(self.fits_nowhere(&smallest));
        }
        // Equal times go to the layout that is simpler and leaves more memory.
        fitting.sort_by(|a, b| {
            let order = a.seconds.total_cmp(&b.seconds);
            order.then(a.memory.total().cmp(&b.memory.total()))
        });
        let mut best: Vec<Candidate> = Vec::new();
        for candidate in fitting {
            let key = |layout: &Layout| (layout.tensor, layout.pipeline, layout.context);
            if !best.iter().any(|other| key(&other.layout) == key(&candidate.layout)) {
                best.push(candidate);
            }
            if best.len() == count {
                break;
            }
        }
        Ok(best)
    }

    fn layouts(&self) -> Vec<Layout> {
        let mut layouts = Vec::new();
        let tensors = divisors(self.gpus, self.device.devices_per_node.min(8));
        let contexts = if self.batch.sequence_length >= LONG_SEQUENCE {
            divisors(self.gpus, 16)
        } else {
            vec![1]
        };
        for &tensor in &tensors {
            for &context in &contexts {
                let Some(rest) = exact(self.gpus, tensor * context) else { continue };
                for pipeline in divisors(rest, self.model.layers.min(64)) {
                    let data = rest / pipeline;
                    let base = Layout {
                        data,
                        tensor,
                        pipeline,
                        context,
                        sequence_parallel: tensor > 1,
                        ..Layout::SINGLE
                    };
                    self.vary(base, &mut layouts);
                }
            }
        }
        layouts
    }

    /// All micro-batches, ZeRO stages, recomputations and interleavings of given degrees.
    fn vary(&self, base: Layout, layouts: &mut Vec<Layout>) {
        let zeros: &[ZeroStage] = match (base.shards(), base.pipeline) {
            (1, _) => &[ZeroStage::None],
            (_, 1) => &[ZeroStage::Optimizer, ZeroStage::Parameters, ZeroStage::ParametersSummed],
            // ZeRO-3 in a pipeline gathers the weights for every micro-batch.
            _ => &[ZeroStage::Optimizer],
        };
        let interleaves: &[u64] = if base.pipeline > 1 { &[1, 2, 4] } else { &[1] };
        for micro_batch in [1, 2, 4, 8, 16] {
            if !self.batch.sequences.is_multiple_of(base.data * micro_batch) {
                continue;
            }
            for &zero in zeros {
                for recompute in [Recompute::Selective, Recompute::Full] {
                    for &interleave in interleaves {
                        let schedule = if interleave > 1 {
                            Schedule::Interleaved
                        } else {
                            Schedule::OneForwardOneBackward
                        };
                        layouts.push(Layout {
                            zero,
                            recompute,
                            micro_batch,
                            interleave,
                            schedule,
                            ..base
                        });
                    }
                }
            }
        }
    }

    /// Why no layout was even tried: more replicas than sequences.
    fn no_layout(&self) -> PlanError {
        PlanError::BadQuestion {
            problem: format!(
                "a batch of {} sequences cannot be shared among {} GPUs in any layout",
                self.batch.sequences, self.gpus
            ),
            remedy: format!(
                "take a batch of {} tokens, or another number of GPUs",
                self.gpus * self.batch.sequence_length
            ),
        }
    }

    /// The refusal, with numbers of GPUs and devices that would do.
    fn fits_nowhere(&self, smallest: &ClusterMemory) -> PlanError {
        let mut enough = Vec::new();
        let mut gpus = self.gpus;
        while gpus < MOST_GPUS {
            gpus *= 2;
            let sequences = self.batch.sequences.max(gpus);
            let batch = Batch { sequences: sequences.next_multiple_of(gpus), ..self.batch };
            if (Self { gpus, batch, ..self.clone() }).fits() {
                enough.push(format!("{gpus} x {}", self.device.name));
                break;
            }
        }
        let other = devices().into_iter().find(|device| {
            device.memory > self.device.memory
                && device.peak(self.formats.compute).is_ok()
                && Self { device: device.clone(), ..self.clone() }.fits()
        });
        enough.extend(other.map(|device| format!("{} x {}", self.gpus, device.name)));
        PlanError::FitsNowhere {
            model: self.name.clone(),
            gpus: self.gpus,
            device: self.device.name.clone(),
            reason: format!(
                "the smallest layout takes {} on each, and each has {}",
                smallest.total(),
                self.device.memory
            ),
            enough: if enough.is_empty() {
                "a smaller model would be enough".to_owned()
            } else {
                format!("enough would be {}", enough.join(", or "))
            },
        }
    }

    fn fits(&self) -> bool {
        self.layouts().into_iter().any(|layout| {
            let run = self.run(layout);
            run.check().is_ok() && cluster_memory(&run).total() <= self.device.memory
        })
    }
}

/// Divisors of `number` up to `most`, ascending.
fn divisors(number: u64, most: u64) -> Vec<u64> {
    (1..=most.min(number)).filter(|&divisor| number.is_multiple_of(divisor)).collect()
}

fn exact(number: u64, divisor: u64) -> Option<u64> {
    number.is_multiple_of(divisor).then(|| number / divisor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(model: &str, device: &str, gpus: u64) -> Search {
        Search {
            name: model.to_owned(),
            model: ModelShape::published(model).unwrap(),
            device: Device::named(device).unwrap(),
            gpus,
            batch: Batch { sequence_length: 8192, sequences: 512 },
            formats: NumberFormats::MIXED,
        }
    }

    #[test]
    fn the_best_layouts_fit_and_come_fastest_first() {
        let search = search("llama3-70b", "h200", 256);
        let best = search.best(&Calibration::fused(), 5).unwrap();
        assert_eq!(best.len(), 5);
        for pair in best.windows(2) {
            assert!(pair[0].seconds <= pair[1].seconds);
        }
        for candidate in &best {
            assert_eq!(candidate.layout.devices(), 256);
            assert!(candidate.memory.total() <= search.device.memory);
        }
        // No layout of the whole space is faster than the first.
        let first = best[0].seconds;
        for layout in search.layouts() {
            let run = search.run(layout);
            if run.check().is_ok() && cluster_memory(&run).total() <= search.device.memory {
                assert!(step_time(&run, &Calibration::fused()).total() >= first);
            }
        }
    }

    #[test]
    fn a_model_that_fits_nowhere_says_what_would_be_enough() {
        let error = search("llama3-405b", "h100-sxm", 8).best(&Calibration::fused(), 5);
        let text = error.unwrap_err().to_string();
        assert!(text.contains("does not fit on 8 x h100-sxm"), "{text}");
        // 405.9B parameters at 16 bytes are 6.5 TB: more than 64 of 80 GB, fewer than 256.
        assert!(text.contains("enough would be 128 x h100-sxm"), "{text}");
        let error = search("llama3-70b", "rtx4090", 0).best(&Calibration::fused(), 5);
        assert!(error.unwrap_err().to_string().contains("must be from 1"), "GPUs");
    }

    #[test]
    fn a_small_model_needs_no_parallelism_but_replicas() {
        let best = search("gpt2", "h100-sxm", 8).best(&Calibration::fused(), 1);
        let mut search = search("gpt2", "h100-sxm", 8);
        search.batch.sequence_length = 1024;
        let layout = search.best(&Calibration::fused(), 1).unwrap()[0].layout;
        assert_eq!((layout.tensor, layout.pipeline, layout.data), (1, 1, 8));
        assert!(best.is_ok());
    }
}
