//! Buffers and the pool they return to.
//!
//! A dropped buffer goes back to the pool of its device and is handed out again for a request of
//! nearly the same length, so a loop that repeats itself stops allocating after its first round.
//! Contents are whatever the last user left: whoever takes a buffer overwrites it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use milpa_kernels::{AlignedValues, as_bf16, as_bf16_mut, bf16, quantised::BlockFormat};

use crate::cuda::CudaMemory;

/// How the values of a buffer are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit floats.
    F32,
    /// The upper halves of 32-bit floats: weights and activations of mixed-precision products.
    BF16,
    /// Blocks of small whole numbers with their scales: weights for inference.
    Quantised(BlockFormat),
}

impl DType {
    /// Whether it is a block format.
    pub fn is_quantised(self) -> bool {
        matches!(self, Self::Quantised(_))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::BF16 => f.write_str("bf16"),
            Self::Quantised(format) => format.fmt(f),
        }
    }
}

/// Values on a device.
pub struct Buffer {
    storage: Storage,
    length: usize,
    pool: Option<Arc<Pool>>,
}

enum Storage {
    /// May be longer than the buffer.
    F32(AlignedValues),
    /// Two values in each float; may be longer than the buffer.
    BF16(AlignedValues),
    Quantised {
        format: BlockFormat,
        bytes: Vec<u8>,
    },
    Cuda(CudaMemory),
}

impl Buffer {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// How the values are stored.
    pub fn dtype(&self) -> DType {
        match &self.storage {
            Storage::F32(_) => DType::F32,
            Storage::BF16(_) => DType::BF16,
            Storage::Quantised { format, .. } => DType::Quantised(*format),
            Storage::Cuda(memory) => memory.dtype(),
        }
    }

    /// Bytes that the values take.
    pub fn bytes(&self) -> usize {
        match &self.storage {
            Storage::F32(_) => self.length * size_of::<f32>(),
            Storage::BF16(_) => self.length * size_of::<bf16>(),
            Storage::Quantised { bytes, .. } => bytes.len(),
            Storage::Cuda(memory) => memory.bytes(),
        }
    }

    /// Wraps memory of a GPU for `length` values.
    pub(crate) fn from_cuda(memory: CudaMemory, length: usize) -> Self {
        Self { storage: Storage::Cuda(memory), length, pool: None }
    }

    /// Whether the values are not in host memory.
    pub(crate) fn is_on_gpu(&self) -> bool {
        matches!(self.storage, Storage::Cuda(_))
    }

    /// The memory of a GPU; `None` for a buffer in host memory.
    pub(crate) fn cuda(&self) -> Option<&CudaMemory> {
        match &self.storage {
            Storage::Cuda(memory) => Some(memory),
            _ => None,
        }
    }

    /// The memory of a GPU, to be written.
    pub(crate) fn cuda_mut(&mut self) -> Option<&mut CudaMemory> {
        match &mut self.storage {
            Storage::Cuda(memory) => Some(memory),
            _ => None,
        }
    }

    /// Wraps whole blocks of `values` values in all; never pooled.
    pub(crate) fn from_blocks(format: BlockFormat, bytes: Vec<u8>, values: usize) -> Self {
        Self { storage: Storage::Quantised { format, bytes }, length: values, pool: None }
    }

    /// The values in host memory.
    #[track_caller]
    pub(crate) fn f32(&self) -> &[f32] {
        match &self.storage {
            Storage::F32(values) => &values[..self.length],
            _ => panic!("a buffer of {:?} where f32 values are needed", self.dtype()),
        }
    }

    /// The values in host memory, to be written.
    #[track_caller]
    pub(crate) fn f32_mut(&mut self) -> &mut [f32] {
        let dtype = self.dtype();
        match &mut self.storage {
            Storage::F32(values) => &mut values[..self.length],
            _ => panic!("a buffer of {dtype:?} where f32 values are needed"),
        }
    }

    /// The values in host memory.
    #[track_caller]
    pub(crate) fn bf16(&self) -> &[bf16] {
        match &self.storage {
            Storage::BF16(words) => &as_bf16(words)[..self.length],
            _ => panic!("a buffer of {:?} where bf16 values are needed", self.dtype()),
        }
    }

    /// The values in host memory, to be written.
    #[track_caller]
    pub(crate) fn bf16_mut(&mut self) -> &mut [bf16] {
        let dtype = self.dtype();
        match &mut self.storage {
            Storage::BF16(words) => &mut as_bf16_mut(words)[..self.length],
            _ => panic!("a buffer of {dtype:?} where bf16 values are needed"),
        }
    }

    /// Format and blocks of a quantised buffer.
    pub(crate) fn blocks(&self) -> Option<(BlockFormat, &[u8])> {
        match &self.storage {
            Storage::Quantised { format, bytes } => Some((*format, bytes)),
            Storage::F32(_) | Storage::BF16(_) | Storage::Cuda(_) => None,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let (Some(pool), Storage::F32(values) | Storage::BF16(values)) =
            (&self.pool, &mut self.storage)
        {
            pool.give_back(std::mem::take(values));
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} × {:?})", self.length, self.dtype())
    }
}

/// What a device's pool holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes of the buffers in use.
    pub live_bytes: usize,
    /// Most bytes ever in use at once.
    pub peak_live_bytes: usize,
    /// Bytes kept for reuse.
    pub idle_bytes: usize,
    /// Times that memory was asked of the system.
    pub allocations: u64,
}

/// Memory that is always kept for reuse, however little was ever in use.
const MIN_IDLE_BYTES: usize = 64 << 20;

/// Free memory of a device, by length.
#[derive(Debug, Default)]
pub(crate) struct Pool(Mutex<PoolState>);

#[derive(Debug, Default)]
struct PoolState {
    free: BTreeMap<usize, Vec<AlignedValues>>,
    stats: MemoryStats,
}

impl Pool {
    /// Hands out a buffer of `length` bf16 with unspecified content.
    pub(crate) fn take_bf16(self: &Arc<Self>, length: usize) -> Buffer {
        let mut buffer = self.take(length.div_ceil(2));
        let Storage::F32(words) = &mut buffer.storage else { return buffer };
        let words = std::mem::take(words);
        buffer.storage = Storage::BF16(words);
        buffer.length = length;
        buffer
    }

    /// Hands out a buffer of `length` f32 with unspecified content.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let reused = {
            let mut state = self.lock();
            let reused = state.take_free(length);
            let values = reused.as_ref().map_or(length, |values| values.len());
            state.stats.live_bytes += values * size_of::<f32>();
            state.stats.peak_live_bytes = state.stats.peak_live_bytes.max(state.stats.live_bytes);
            state.stats.allocations += u64::from(reused.is_none());
            reused
        };
        let values = reused.unwrap_or_else(|| AlignedValues::zeros(length));
        Buffer { storage: Storage::F32(values), length, pool: Some(Arc::clone(self)) }
    }

    pub(crate) fn stats(&self) -> MemoryStats {
        self.lock().stats
    }

    fn give_back(&self, values: AlignedValues) {
        let bytes = values.len() * size_of::<f32>();
        let mut state = self.lock();
        state.stats.live_bytes -= bytes;
        if bytes == 0 {
            return;
        }
        // Workloads of changing lengths must not pile up memory that nothing fits into.
        let limit = (2 * state.stats.peak_live_bytes).max(MIN_IDLE_BYTES);
        while state.stats.idle_bytes + bytes > limit && state.drop_largest() {}
        state.stats.idle_bytes += bytes;
        state.free.entry(values.len()).or_default().push(values);
    }

    fn lock(&self) -> MutexGuard<'_, PoolState> {
        // No code panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PoolState {
    /// Takes the shortest free memory of at least `length` values that wastes at most an eighth.
    fn take_free(&mut self, length: usize) -> Option<AlignedValues> {
        let longest = length + length / 8;
        let (_, list) = self.free.range_mut(length..=longest).find(|(_, list)| !list.is_empty())?;
        let values = list.pop()?;
        self.stats.idle_bytes -= values.len() * size_of::<f32>();
        Some(values)
    }

    fn drop_largest(&mut self) -> bool {
        let Some(mut entry) = self.free.last_entry() else { return false };
        let dropped = entry.get_mut().pop();
        if entry.get().is_empty() {
            entry.remove();
        }
        self.stats.idle_bytes -= dropped.map_or(0, |values| values.len() * size_of::<f32>());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_memory_is_handed_out_again() {
        let pool = Arc::new(Pool::default());
        drop(pool.take(100));
        drop(pool.take(95));
        assert_eq!(pool.stats().allocations, 1);
        drop(pool.take(50));
        assert_eq!(pool.stats().allocations, 2);
        assert_eq!(pool.stats().live_bytes, 0);
        assert_eq!(pool.stats().idle_bytes, 600);
        assert_eq!(pool.take(95).len(), 95);
    }

    #[test]
    fn both_types_share_the_memory() {
        let pool = Arc::new(Pool::default());
        let mut halves = pool.take_bf16(101);
        halves.bf16_mut().fill(bf16::ONE);
        assert_eq!((halves.len(), halves.bytes(), halves.dtype()), (101, 202, DType::BF16));
        drop(halves);
        assert_eq!(pool.take(51).len(), 51);
        assert_eq!(pool.stats().allocations, 1);
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = Arc::new(Pool::default());
        for i in 0..40 {
            drop(pool.take(1_000_000 + 200_000 * i));
        }
        let stats = pool.stats();
        assert!(stats.idle_bytes <= (2 * stats.peak_live_bytes).max(MIN_IDLE_BYTES), "{stats:?}");
        assert_eq!(stats.live_bytes, 0);
    }
}
