//! The devices, and what each must be able to do: memory, the kernels that operations are made of, and
//! the steps of optimisers.
//!
//! Sizes are explicit and checked by the operations that call here; ids, targets and positions are
//! host slices. A device decides where buffers live and never changes what is computed. Design:
//! `docs/design/cuda.md`.

use std::{collections::BTreeMap, sync::Arc};

use milpa_kernels::{
    Accumulate, Size,
    attention::AttentionShape,
    loss::ZLoss,
    optim::{AdamW, Lion, Muon},
    quantised::BlockFormat,
    routing::RoutingShape,
};

use crate::{
    buffer::{Buffer, DType, MemoryStats},
    cpu::CpuDevice,
    cuda::CudaDevice,
    error::TensorError,
    profile::{KernelTime, Profile},
};

/// Rows of a buffer, read as a matrix: row `i` begins at `offset + i * stride`.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The values.
    pub buffer: &'a Buffer,
    /// Where row 0 begins.
    pub offset: usize,
    /// Values between the beginnings of two rows.
    pub stride: usize,
}

impl<'a> Matrix<'a> {
    /// Views the whole buffer as dense rows of `columns` values.
    pub fn new(buffer: &'a Buffer, columns: usize) -> Self {
        Self { buffer, offset: 0, stride: columns }
    }
}

/// Rows of a buffer, written as a matrix.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    /// The values.
    pub buffer: &'a mut Buffer,
    /// Where row 0 begins.
    pub offset: usize,
    /// Values between the beginnings of two rows.
    pub stride: usize,
}

impl<'a> MatrixMut<'a> {
    /// Views the whole buffer as dense rows of `columns` values.
    pub fn new(buffer: &'a mut Buffer, columns: usize) -> Self {
        Self { buffer, offset: 0, stride: columns }
    }
}

/// Keys and values of an attention, `[batch, capacity, kv_heads, head_dim]` each.
#[derive(Debug, Clone, Copy)]
pub struct KeyValues<'a> {
    /// The keys.
    pub k: &'a Buffer,
    /// The values.
    pub v: &'a Buffer,
    /// Tokens for which each sequence has room; at least `past + queries`.
    pub capacity: usize,
}

/// A place of computation. Clones share it.
///
/// Kernels behave as their namesakes in `milpa-kernels`, whose scalar twins define them. Results do
/// not depend on the number of threads.
#[derive(Debug, Clone)]
pub enum Device {
    /// Host memory and the threads of this process.
    Cpu(Arc<CpuDevice>),
    /// A GPU; what it cannot do yet ends in an error of the tape.
    Cuda(Arc<CudaDevice>),
}

impl Device {
    /// The CPU with `threads` threads and the widest instruction set of this machine.
    pub fn cpu(threads: usize) -> Self {
        CpuDevice::new(threads).into()
    }

    /// Opens GPU `index` (counted from 0).
    ///
    /// # Errors
    /// If there is no driver or no such GPU, or kernels are not compiled for it.
    pub fn cuda(index: usize) -> Result<Self, TensorError> {
        Ok(Self::Cuda(Arc::new(CudaDevice::open(index)?)))
    }

    /// Fails with what has gone wrong since the last call. Work on a GPU is queued and a call that queues
    /// says nothing; a tape asks after each operation.
    pub fn check(&self) -> Result<(), TensorError> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Cuda(device) => device.check(),
        }
    }

    /// Hands out the time of each kernel since the last call, by its name here; `None` unless the device
    /// was made by [`CpuDevice::profiled`].
    pub fn take_profile(&self) -> Option<BTreeMap<&'static str, KernelTime>> {
        match self {
            Self::Cpu(device) => device.profile().map(Profile::take),
            Self::Cuda(_) => None,
        }
    }

    /// Whether a buffer lies where this device computes.
    pub(crate) fn holds(&self, buffer: &Buffer) -> bool {
        matches!(self, Self::Cuda(_)) == buffer.is_on_gpu()
    }
}

impl From<CpuDevice> for Device {
    fn from(device: CpuDevice) -> Self {
        Self::Cpu(Arc::new(device))
    }
}

/// Makes of one list of methods: what the CPU implements, a method of [`Device`] that chooses the device
/// once, and what a GPU says for each kernel that it has not. Methods of `CudaDevice` itself come before
/// those of `NotYet`, so a kernel joins by being written there.
macro_rules! devices {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $argument:ident: $kind:ty)* $(,)?) $(-> $out:ty)?;)*) => {
        /// What the CPU does.
        pub(crate) trait Kernels {
            $(fn $name(&self $(, $argument: $kind)*) $(-> $out)?;)*
        }

        impl Device {
            $($(#[$doc])* pub fn $name(&self $(, $argument: $kind)*) $(-> $out)? {
                match self {
                    Self::Cpu(device) => match device.profile() {
                        None => device.$name($($argument),*),
                        Some(profile) => {
                            profile.time(stringify!($name), || device.$name($($argument),*))
                        }
                    },
                    Self::Cuda(device) => device.$name($($argument),*),
                }
            })*
        }

        /// What a GPU does not do yet; what returns something is always there.
        #[expect(dead_code, reason = "a GPU's own methods come before those of the same name here")]
        pub(crate) trait NotYet {
            /// Notes that a kernel is missing.
            fn missing(&self, kernel: &'static str);
            $(not_yet!(fn $name(&self $(, $argument: $kind)*) $(-> $out)?);)*
        }
    };
}

macro_rules! not_yet {
    (fn $name:ident(&self $(, $argument:ident: $kind:ty)*)) => {
        fn $name(&self $(, $argument: $kind)*) {
            let _ = ($($argument),*);
            self.missing(stringify!($name));
        }
    };
    ($($other:tt)*) => {};
}

devices! {
    /// Names the device for reports, such as `cpu (2 threads, avx512)`.
    fn name(&self) -> String;

    /// Says how much memory is in use.
    fn memory(&self) -> MemoryStats;

    /// Hands out a buffer of `length` f32 values with unspecified content.
    fn allocate(&self, length: usize) -> Buffer;

    /// Hands out a buffer of `length` values of `dtype` (f32 or bf16) with unspecified content.
    fn allocate_as(&self, length: usize, dtype: DType) -> Buffer;

    /// `out = x`, widened or rounded where the types (f32 or bf16) differ.
    fn convert(&self, x: &Buffer, out: &mut Buffer);

    /// Makes a buffer from host values.
    fn upload(&self, values: &[f32]) -> Buffer;

    /// Rounds host values (whole blocks) into blocks in host memory.
    fn quantise(&self, format: BlockFormat, values: &[f32]) -> Vec<u8>;

    /// Makes a buffer of quantised values; `bytes` holds whole blocks.
    fn upload_quantised(&self, format: BlockFormat, bytes: Vec<u8>) -> Buffer;

    /// Replaces the values of an f32 buffer of the same length.
    fn write(&self, values: &[f32], out: &mut Buffer);

    /// Copies values to the host, widening quantised ones; `out` has the buffer's length.
    fn download(&self, buffer: &Buffer, out: &mut [f32]);

    /// `out = value`.
    fn fill(&self, out: &mut Buffer, value: f32);

    /// `out = x`, of one type.
    fn copy(&self, x: &Buffer, out: &mut Buffer);

    /// `out = a + b`; `b` may be bf16.
    fn add(&self, a: &Buffer, b: &Buffer, out: &mut Buffer);

    /// `y += x`; `x` may be bf16.
    fn add_assign(&self, y: &mut Buffer, x: &Buffer);

    /// Row `i` of `out` becomes row `ids[i]` of `table[_, dim]`, which may be quantised.
    fn gather_rows(&self, dim: usize, table: &Buffer, ids: &[u32], out: &mut Buffer);

    /// Adds row `i` of `dout` to row `ids[i]` of `dtable[_, dim]`, in rising order of `i`.
    fn scatter_add_rows(&self, dim: usize, ids: &[u32], dout: &Buffer, dtable: &mut Buffer);

    /// `C[m, n] = A[m, k] · B[n, k]ᵀ`; B may be quantised (then it is dense and C is overwritten).
    ///
    /// Of this and the two other products, A and B have one type. Where that is bf16, sums are f32
    /// and C is f32 or, unless it is added to, bf16.
    fn matmul_nt(&self, size: Size, a: Matrix<'_>, b: Matrix<'_>, c: MatrixMut<'_>);

    /// `C[m, n] = A[m, k] · B[k, n]`, or added to C.
    fn matmul_nn(
        &self,
        size: Size,
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: MatrixMut<'_>,
        accumulate: Accumulate,
    );

    /// `C[m, n] = A[k, m]ᵀ · B[k, n]`, or added to C.
    fn matmul_tn(
        &self,
        size: Size,
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: MatrixMut<'_>,
        accumulate: Accumulate,
    );

    /// `y = x / rms(x) · weight` for rows of `dim`; saves `1/rms`. `x` and `y` are f32 or bf16, `y`
    /// f32 only where `x` is.
    fn rms_norm(
        &self,
        dim: usize,
        epsilon: f32,
        x: &Buffer,
        weight: &Buffer,
        y: &mut Buffer,
        inverse_rms: &mut Buffer,
    );

    /// `residual += delta`, then `y = norm(residual)`; `delta` and `y` have one type, the rest is f32.
    fn add_rms_norm(
        &self,
        dim: usize,
        epsilon: f32,
        residual: &mut Buffer,
        delta: &Buffer,
        weight: &Buffer,
        y: &mut Buffer,
        inverse_rms: &mut Buffer,
    );

    /// Backward of [`Device::rms_norm`]: writes or adds `dx`, adds to `dweight`; `x`, `dy` and `dx`
    /// have one type.
    fn rms_norm_backward(
        &self,
        dim: usize,
        x: &Buffer,
        weight: &Buffer,
        inverse_rms: &Buffer,
        dy: &Buffer,
        dx: &mut Buffer,
        accumulate_dx: Accumulate,
        dweight: &mut Buffer,
    );

    /// Rotates the first `rotary_dim` elements of each head of `x[tokens, heads, head_dim]` (f32 or
    /// bf16) in place by the tables' angles at `positions`.
    fn rope(
        &self,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        cos: &Buffer,
        sin: &Buffer,
        positions: &[u32],
        x: &mut Buffer,
    );

    /// Rotates the other way.
    fn rope_backward(
        &self,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        cos: &Buffer,
        sin: &Buffer,
        positions: &[u32],
        dx: &mut Buffer,
    );

    /// `out = silu(gate) · up`; all of one type, f32 or bf16, as in its backward.
    fn swiglu(&self, gate: &Buffer, up: &Buffer, out: &mut Buffer);

    /// Backward of [`Device::swiglu`]: overwrites `dgate` and `dup`.
    fn swiglu_backward(
        &self,
        gate: &Buffer,
        up: &Buffer,
        dout: &Buffer,
        dgate: &mut Buffer,
        dup: &mut Buffer,
    );

    /// Causal grouped-query attention of `q[batch, queries, heads, head_dim]`; `first_key` bounds
    /// what each query sees; saves the log-sum-exp `[batch, heads, queries]`. Everything else has one
    /// type, f32 or bf16, as in the backward.
    fn attention(
        &self,
        shape: &AttentionShape,
        q: &Buffer,
        keys: KeyValues<'_>,
        first_key: Option<&[u32]>,
        out: &mut Buffer,
        log_sum_exp: &mut Buffer,
    );

    /// Backward of [`Device::attention`] for dense keys and `past = 0`: overwrites `dq`, `dk`, `dv`.
    fn attention_backward(
        &self,
        shape: &AttentionShape,
        q: &Buffer,
        keys: KeyValues<'_>,
        first_key: Option<&[u32]>,
        out: &Buffer,
        log_sum_exp: &Buffer,
        dout: &Buffer,
        dq: &mut Buffer,
        dk: &mut Buffer,
        dv: &mut Buffer,
    );

    /// Copies `batch` runs of `rows.len() / batch` values to `out`, run `b` to
    /// `b * batch_stride + offset`: how new keys and values enter a cache.
    fn append(
        &self,
        batch: usize,
        rows: &Buffer,
        out: &mut Buffer,
        batch_stride: usize,
        offset: usize,
    );

    /// Replaces the first `targets.len()` rows of `logits[_, vocab]` by
    /// `(softmax − onehot(target)) · gradient_scale[row]` and writes each row's loss. With
    /// `gradients` (bf16) the replacement goes there instead, and `logits` is left without meaning.
    /// With a [`ZLoss`] the gradient is that of both terms.
    fn cross_entropy(
        &self,
        vocab: usize,
        logits: &mut Buffer,
        targets: &[u32],
        gradient_scale: &[f32],
        losses: &mut [f32],
        z_loss: Option<ZLoss<'_>>,
        gradients: Option<&mut Buffer>,
    );

    /// Writes `log softmax(logits)[target]` of the first `targets.len()` rows, and whether greedy
    /// decoding would choose the target.
    fn log_probabilities(
        &self,
        vocab: usize,
        logits: &Buffer,
        targets: &[u32],
        log_probabilities: &mut [f32],
        is_greedy: &mut [bool],
    );

    /// One AdamW step on `weights` from `gradients · gradient_scale`.
    fn adamw_step(
        &self,
        settings: &AdamW,
        gradient_scale: f32,
        weights: &mut Buffer,
        gradients: &Buffer,
        first: &mut Buffer,
        second: &mut Buffer,
    );

    /// One Lion step on `weights` from `gradients · gradient_scale`.
    fn lion_step(
        &self,
        settings: &Lion,
        gradient_scale: f32,
        weights: &mut Buffer,
        gradients: &Buffer,
        momentum: &mut Buffer,
    );

    /// One Muon step on a matrix `weights[rows, columns]` from `gradients · gradient_scale`.
    fn muon_step(
        &self,
        settings: &Muon,
        rows: usize,
        columns: usize,
        gradient_scale: f32,
        weights: &mut Buffer,
        gradients: &Buffer,
        momentum: &mut Buffer,
    );

    /// The Euclidean norm of all gradients together, summed in double precision and in order.
    fn grad_norm(&self, gradients: &[&Buffer]) -> f64;

    /// `gradient *= factor`.
    fn scale_grads(&self, gradient: &mut Buffer, factor: f32);

    /// `out = gelu(gate) · up` with the tanh approximation of GELU.
    fn geglu(&self, gate: &Buffer, up: &Buffer, out: &mut Buffer);

    /// Backward of [`Device::geglu`]: overwrites `dgate` and `dup`.
    fn geglu_backward(
        &self,
        gate: &Buffer,
        up: &Buffer,
        dout: &Buffer,
        dgate: &mut Buffer,
        dup: &mut Buffer,
    );

    /// Adds `bias` to each row of `x`.
    fn add_bias(&self, bias: &Buffer, x: &mut Buffer);

    /// Adds the sum of the rows of `dy` to `dbias`.
    fn add_bias_backward(&self, dy: &Buffer, dbias: &mut Buffer);

    /// `x = cap · tanh(x / cap)`.
    fn soft_cap(&self, cap: f32, x: &mut Buffer);

    /// `dy *= 1 − (y / cap)²`, `y` being the result of [`Device::soft_cap`].
    fn soft_cap_backward(&self, cap: f32, y: &Buffer, dy: &mut Buffer);

    /// Lengths of the rows of `weight + scale · b · a`; `weight` may be quantised.
    fn adapted_norms(
        &self,
        scale: f32,
        weight: &Buffer,
        a: &Buffer,
        b: &Buffer,
        norms: &mut Buffer,
    );

    /// `out = x · magnitude / norms` by columns.
    fn magnitude(&self, norms: &Buffer, magnitude: &Buffer, x: &Buffer, out: &mut Buffer);

    /// Backward of [`Device::magnitude`] for constant norms: `dy` becomes the gradient of `x`; adds to
    /// `dmagnitude`.
    fn magnitude_backward(
        &self,
        norms: &Buffer,
        magnitude: &Buffer,
        x: &Buffer,
        dy: &mut Buffer,
        dmagnitude: &mut Buffer,
    );

    /// Writes the experts with the largest `logits[tokens, experts]` to `ids[tokens, chosen]`.
    fn choose_experts(&self, shape: &RoutingShape, logits: &Buffer, ids: &mut [u32]);

    /// Writes the weights `[tokens, chosen]` of the experts `ids`.
    fn routing_weights(
        &self,
        shape: &RoutingShape,
        logits: &Buffer,
        ids: &[u32],
        weights: &mut Buffer,
    );

    /// Backward of [`Device::routing_weights`]: overwrites `dlogits`.
    fn routing_weights_backward(
        &self,
        shape: &RoutingShape,
        logits: &Buffer,
        ids: &[u32],
        weights: &Buffer,
        dweights: &Buffer,
        dlogits: &mut Buffer,
    );

    /// `out[t] = Σⱼ weights[t, j] · rows[places[t, j]]` over `chosen` rows of `dim` for each token.
    fn combine(
        &self,
        dim: usize,
        chosen: usize,
        places: &[u32],
        weights: &Buffer,
        rows: &Buffer,
        out: &mut Buffer,
    );

    /// Backward of [`Device::combine`]: overwrites `drows` and `dweights`.
    fn combine_backward(
        &self,
        dim: usize,
        chosen: usize,
        places: &[u32],
        weights: &Buffer,
        rows: &Buffer,
        dout: &Buffer,
        drows: &mut Buffer,
        dweights: &mut Buffer,
    );
}
