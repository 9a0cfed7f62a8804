//! Where the time goes, by kernel: calls and seconds of each method of a device.
//!
//! Time is wall-clock time of the thread that calls, so what a kernel does on several threads counts once. It
//! knows no shapes; who wants rates multiplies by what the model needs.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Calls and time of one kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelTime {
    /// How often it was called.
    pub calls: u64,
    /// Time between call and return, all calls together.
    pub time: Duration,
}

/// Sums of the kernels' times.
#[derive(Debug, Default)]
pub(crate) struct Profile(Mutex<BTreeMap<&'static str, KernelTime>>);

impl Profile {
    /// Runs `kernel` and adds its time to `name`.
    pub(crate) fn time<T>(&self, name: &'static str, kernel: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = kernel();
        let time = begin.elapsed();
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = sums.entry(name).or_default();
        sum.calls += 1;
        sum.time += time;
        result
    }

    /// Hands out the sums and begins again from nothing.
    pub(crate) fn take(&self) -> BTreeMap<&'static str, KernelTime> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use crate::{CpuDevice, Device};

    #[test]
    fn calls_are_counted_by_kernel_and_handed_out_once() {
        let device = Device::from(CpuDevice::new(1).profiled());
        let a = device.upload(&[1.0, 2.0]);
        let mut sum = device.allocate(2);
        device.add(&a, &a, &mut sum);
        device.add(&a, &a, &mut sum);
        let times = device.take_profile().unwrap();
        assert_eq!((times["add"].calls, times["upload"].calls), (2, 1));
        assert!(!times.contains_key("write"), "what a kernel calls itself is not counted twice");
        assert!(device.take_profile().unwrap().is_empty());
        assert!(Device::cpu(1).take_profile().is_none());
    }
}
