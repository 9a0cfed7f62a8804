//! A GPU as a [`Device`](crate::Device): memory, and the kernels of `milpa_kernels::cuda`.
//!
//! One operation is there, RMSNorm with a residual, forward and backward, in f32 and bf16. A kernel that is
//! missing, memory that could not be had and a fault of the driver are noted; nothing is computed from then on
//! until [`CudaDevice::check`] has told the tape. Kernels are queued on one stream, so a buffer that returns to
//! the pool can be handed out at once. Design: `docs/design/cuda.md`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use milpa_kernels::{
    Accumulate, Cpu, Isa, bf16,
    cuda::{self, CudaError, Gpu, norm},
    quantised::{self, BlockFormat},
};

use crate::{
    buffer::{Buffer, DType, MemoryStats},
    device::NotYet,
    error::TensorError,
};

/// A GPU with its stream and a pool of its memory.
#[derive(Debug)]
pub struct CudaDevice {
    gpu: Gpu,
    index: usize,
    pool: Arc<CudaPool>,
    /// The first thing that went wrong since the last check.
    error: Mutex<Option<TensorError>>,
}

impl CudaDevice {
    /// Opens GPU `index`.
    ///
    /// # Errors
    /// If there is no driver or no such GPU, or kernels are not compiled for it.
    pub fn open(index: usize) -> Result<Self, TensorError> {
        let gpu = Gpu::open(index)?;
        Ok(Self { gpu, index, pool: Arc::default(), error: Mutex::default() })
    }

    /// Fails with what has gone wrong since the last call.
    pub(crate) fn check(&self) -> Result<(), TensorError> {
        self.noted().take().map_or(Ok(()), Err)
    }

    pub(crate) fn name(&self) -> String {
        format!("cuda:{} ({})", self.index, self.gpu.info().name)
    }

    pub(crate) fn memory(&self) -> MemoryStats {
        self.pool.lock().stats
    }

    pub(crate) fn allocate(&self, length: usize) -> Buffer {
        self.allocate_as(length, DType::F32)
    }

    pub(crate) fn allocate_as(&self, length: usize, dtype: DType) -> Buffer {
        let values = self.pool.take(length, dtype).unwrap_or_else(|| {
            let made = match dtype {
                DType::F32 => self.gpu.allocate(length).map(Values::F32),
                DType::BF16 => self.gpu.allocate(length).map(Values::Bf16),
                _ => {
                    self.missing("quantised buffer");
                    return Values::Absent(dtype);
                }
            };
            made.unwrap_or_else(|error| {
                self.note(error.into());
                Values::Absent(dtype)
            })
        });
        self.pool.lock().lend(values.bytes());
        let pool = Arc::clone(&self.pool);
        Buffer::from_cuda(CudaMemory { values, pool }, length)
    }

    pub(crate) fn upload(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.allocate(values.len());
        self.write(values, &mut buffer);
        buffer
    }

    /// On the host, where the blocks are to lie.
    #[expect(clippy::unused_self, reason = "called as a method of any device")]
    pub(crate) fn quantise(&self, format: BlockFormat, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; format.row_bytes(values.len())];
        quantised::quantize(&Cpu::new(1, Isa::detect()), format, values, &mut bytes);
        bytes
    }

    pub(crate) fn upload_quantised(&self, format: BlockFormat, bytes: Vec<u8>) -> Buffer {
        drop(bytes);
        self.allocate_as(0, DType::Quantised(format))
    }

    pub(crate) fn write(&self, values: &[f32], out: &mut Buffer) {
        self.run("write", || match values_of_mut(out) {
            Some(Values::F32(out)) => Some(self.gpu.write(values, out)),
            _ => None,
        });
    }

    /// Copies to the host; not-a-numbers where that fails.
    pub(crate) fn download(&self, buffer: &Buffer, out: &mut [f32]) {
        out.fill(f32::NAN);
        self.run("download", || match values_of(buffer) {
            Some(Values::F32(values)) => {
                Some(self.gpu.download(values).map(|values| out.copy_from_slice(&values)))
            }
            Some(Values::Bf16(values)) => Some(self.gpu.download(values).map(|values| {
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value.to_f32());
            })),
            _ => None,
        });
    }

    /// Through the host, until there is a kernel.
    pub(crate) fn fill(&self, out: &mut Buffer, value: f32) {
        let values = vec![value; out.len()];
        self.write(&values, out);
    }

    pub(crate) fn copy(&self, x: &Buffer, out: &mut Buffer) {
        self.run("copy", || match (values_of(x), values_of_mut(out)) {
            (Some(Values::F32(x)), Some(Values::F32(out))) => Some(self.gpu.copy(x, out)),
            (Some(Values::Bf16(x)), Some(Values::Bf16(out))) => Some(self.gpu.copy(x, out)),
            _ => None,
        });
    }

    pub(crate) fn rms_norm(
        &self,
        dim: usize,
        epsilon: f32,
        x: &Buffer,
        weight: &Buffer,
        y: &mut Buffer,
        inverse_rms: &mut Buffer,
    ) {
        self.run("rms_norm", || {
            let (weight, inverse_rms) = (f32_of(weight)?, f32_of_mut(inverse_rms)?);
            let gpu = &self.gpu;
            match (values_of(x)?, values_of_mut(y)?) {
                (Values::F32(x), Values::F32(y)) => {
                    Some(norm::rms_norm_forward(gpu, dim, epsilon, x, weight, y, inverse_rms))
                }
                (Values::Bf16(x), Values::Bf16(y)) => {
                    Some(norm::rms_norm_forward(gpu, dim, epsilon, x, weight, y, inverse_rms))
                }
                _ => None,
            }
        });
    }

    pub(crate) fn add_rms_norm(
        &self,
        dim: usize,
        epsilon: f32,
        residual: &mut Buffer,
        delta: &Buffer,
        weight: &Buffer,
        y: &mut Buffer,
        inverse_rms: &mut Buffer,
    ) {
        // The tape's residual is f32; the kernel's bf16 form wants one in bf16.
        self.run("add_rms_norm", || {
            let (residual, delta, y) = (f32_of_mut(residual)?, f32_of(delta)?, f32_of_mut(y)?);
            let (weight, inverse_rms) = (f32_of(weight)?, f32_of_mut(inverse_rms)?);
            let gpu = &self.gpu;
            Some(norm::add_rms_norm_forward(
                gpu,
                dim,
                epsilon,
                residual,
                delta,
                weight,
                y,
                inverse_rms,
            ))
        });
    }

    pub(crate) fn rms_norm_backward(
        &self,
        dim: usize,
        x: &Buffer,
        weight: &Buffer,
        inverse_rms: &Buffer,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate_dx: Accumulate,
        dweight: &mut Buffer,
    ) {
        let rows = inverse_rms.len();
        let length = match x.dtype() {
            DType::BF16 => norm::backward_partial_len::<bf16>(rows, dim),
            _ => norm::backward_partial_len::<f32>(rows, dim),
        };
        let mut partial = self.allocate(length);
        self.run("rms_norm_backward", || {
            let (weight, inverse_rms) = (f32_of(weight)?, f32_of(inverse_rms)?);
            let (dweight, partial) = (f32_of_mut(dweight)?, f32_of_mut(&mut partial)?);
            let gpu = &self.gpu;
            match (values_of(x)?, values_of(dy)?, values_of_mut(dx)?) {
                (Values::F32(x), Values::F32(dy), Values::F32(dx)) => {
                    Some(norm::rms_norm_backward(
                        gpu,
                        dim,
                        x,
                        weight,
                        inverse_rms,
                        dy,
                        dx,
                        accumulate_dx,
                        dweight,
                        partial,
                    ))
                }
                (Values::Bf16(x), Values::Bf16(dy), Values::Bf16(dx)) => {
                    Some(norm::rms_norm_backward(
                        gpu,
                        dim,
                        x,
                        weight,
                        inverse_rms,
                        dy,
                        dx,
                        accumulate_dx,
                        dweight,
                        partial,
                    ))
                }
                _ => None,
            }
        });
    }

    /// Not a number, and noted as missing.
    pub(crate) fn grad_norm(&self, _: &[&Buffer]) -> f64 {
        self.missing("grad_norm");
        f64::NAN
    }

    /// Queues work if nothing has gone wrong; `None`: there is no kernel for these buffers.
    fn run(&self, kernel: &'static str, work: impl FnOnce() -> Option<Result<(), CudaError>>) {
        if self.noted().is_some() {
            return;
        }
        match work() {
            Some(Ok(())) => {}
            Some(Err(error)) => self.note(error.into()),
            None => self.note(TensorError::Unsupported {
                operation: kernel,
                problem: "not on CUDA yet for these types, or a buffer lies on another device"
                    .to_owned(),
            }),
        }
    }

    fn note(&self, error: TensorError) {
        self.noted().get_or_insert(error);
    }

    fn noted(&self) -> MutexGuard<'_, Option<TensorError>> {
        // No code panics while it holds this lock.
        self.error.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NotYet for CudaDevice {
    fn missing(&self, kernel: &'static str) {
        self.note(TensorError::Unsupported {
            operation: kernel,
            problem: "not on CUDA yet; compute on the CPU".to_owned(),
        });
    }
}

/// Values in the memory of a GPU, which return to their pool.
pub(crate) struct CudaMemory {
    values: Values,
    pool: Arc<CudaPool>,
}

enum Values {
    F32(cuda::Buffer<f32>),
    Bf16(cuda::Buffer<bf16>),
    /// What could not be had.
    Absent(DType),
}

impl Values {
    fn dtype(&self) -> DType {
        match self {
            Self::F32(_) => DType::F32,
            Self::Bf16(_) => DType::BF16,
            Self::Absent(dtype) => *dtype,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::Bf16(values) => values.len(),
            Self::Absent(_) => 0,
        }
    }

    fn bytes(&self) -> usize {
        let size = if self.dtype() == DType::F32 { size_of::<f32>() } else { size_of::<bf16>() };
        self.len() * size
    }
}

impl CudaMemory {
    pub(crate) fn dtype(&self) -> DType {
        self.values.dtype()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.values.bytes()
    }
}

impl Drop for CudaMemory {
    fn drop(&mut self) {
        let values = std::mem::replace(&mut self.values, Values::Absent(DType::F32));
        self.pool.give_back(values);
    }
}

fn values_of(buffer: &Buffer) -> Option<&Values> {
    buffer.cuda().map(|memory| &memory.values)
}

fn values_of_mut(buffer: &mut Buffer) -> Option<&mut Values> {
    buffer.cuda_mut().map(|memory| &mut memory.values)
}

fn f32_of(buffer: &Buffer) -> Option<&cuda::Buffer<f32>> {
    match values_of(buffer)? {
        Values::F32(values) => Some(values),
        _ => None,
    }
}

fn f32_of_mut(buffer: &mut Buffer) -> Option<&mut cuda::Buffer<f32>> {
    match values_of_mut(buffer)? {
        Values::F32(values) => Some(values),
        _ => None,
    }
}

/// Free memory of a GPU. Kernels want exact lengths, so memory serves buffers of its own length alone.
#[derive(Default)]
struct CudaPool(Mutex<PoolState>);

#[derive(Default)]
struct PoolState {
    free: BTreeMap<(usize, bool), Vec<Values>>,
    stats: MemoryStats,
}

impl CudaPool {
    fn take(&self, length: usize, dtype: DType) -> Option<Values> {
        let mut state = self.lock();
        let values = state.free.get_mut(&(length, dtype == DType::BF16)).and_then(Vec::pop);
        match &values {
            Some(values) => state.stats.idle_bytes -= values.bytes(),
            None => state.stats.allocations += 1,
        }
        values
    }

    fn give_back(&self, values: Values) {
        if let Values::Absent(_) = values {
            return;
        }
        let mut state = self.lock();
        state.stats.live_bytes -= values.bytes();
        // Workloads of changing lengths must not pile up memory that nothing fits into.
        let most = 2 * state.stats.peak_live_bytes;
        while state.stats.idle_bytes + values.bytes() > most && state.drop_largest() {}
        state.stats.idle_bytes += values.bytes();
        state.free.entry((values.len(), values.dtype() == DType::BF16)).or_default().push(values);
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    fn lend(&mut self, bytes: usize) {
        self.stats.live_bytes += bytes;
        self.stats.peak_live_bytes = self.stats.peak_live_bytes.max(self.stats.live_bytes);
    }

    fn drop_largest(&mut self) -> bool {
        let Some(mut entry) = self.free.last_entry() else { return false };
        let dropped = entry.get_mut().pop();
        if entry.get().is_empty() {
            entry.remove();
        }
        self.stats.idle_bytes -= dropped.map_or(0, |values| values.bytes());
        true
    }
}

impl std::fmt::Debug for CudaPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CudaPool({:?})", self.lock().stats)
    }
}
