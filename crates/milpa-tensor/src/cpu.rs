//! The CPU as a [`Device`]: buffers in host memory, kernels from `milpa-kernels`.

use std::sync::Arc;

use milpa_kernels::{
    Accumulate, Cpu, Heads, HeadsMut, Isa, Mat, MatMut, Size, activation, attention,
    attention::{AttentionGrads, AttentionInputs, AttentionShape},
    elementwise, embedding, gemm, loss, norm,
    optim::{self, AdamW, Muon},
    q8_0, rope,
};

use crate::{
    buffer::{Buffer, MemoryStats, Pool},
    device::{Device, KeyValues, Matrix, MatrixMut},
};

/// Host memory and the threads of this process.
///
/// Several threads may use one device at the same time; then the thread pool serves one of them
/// and the others compute alone, with the same results.
#[derive(Debug)]
pub struct CpuDevice {
    cpu: Cpu,
    pool: Arc<Pool>,
}

impl CpuDevice {
    /// Makes a device with `threads` threads (at least one) and the widest instruction set of this
    /// machine.
    pub fn new(threads: usize) -> Self {
        Self::with_isa(threads, Isa::detect())
    }

    /// Makes a device with an explicit instruction set.
    ///
    /// # Panics
    /// If this machine cannot run `isa`.
    pub fn with_isa(threads: usize, isa: Isa) -> Self {
        Self { cpu: Cpu::new(threads.max(1), isa), pool: Arc::default() }
    }

    /// The threads and instruction set that kernels run on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        format!("cpu ({} threads, {})", self.cpu.threads(), self.cpu.isa())
    }

    fn memory(&self) -> MemoryStats {
        self.pool.stats()
    }

    fn allocate(&self, length: usize) -> Buffer {
        self.pool.take(length)
    }

    fn upload(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.allocate(values.len());
        self.write(values, &mut buffer);
        buffer
    }

    fn upload_q8_0(&self, bytes: Vec<u8>) -> Buffer {
        assert!(bytes.len().is_multiple_of(q8_0::BLOCK_BYTES), "whole blocks");
        let values = bytes.len() / q8_0::BLOCK_BYTES * q8_0::BLOCK;
        Buffer::from_q8_0(bytes, values)
    }

    fn write(&self, values: &[f32], out: &mut Buffer) {
        elementwise::copy(&self.cpu, values, out.f32_mut());
    }

    fn download(&self, buffer: &Buffer, out: &mut [f32]) {
        match buffer.q8_0() {
            Some(blocks) => q8_0::dequantize(&self.cpu, blocks, out),
            None => out.copy_from_slice(buffer.f32()),
        }
    }

    fn fill(&self, out: &mut Buffer, value: f32) {
        elementwise::fill(&self.cpu, out.f32_mut(), value);
    }

    fn copy(&self, x: &Buffer, out: &mut Buffer) {
        elementwise::copy(&self.cpu, x.f32(), out.f32_mut());
    }

    fn add(&self, a: &Buffer, b: &Buffer, out: &mut Buffer) {
        elementwise::add(&self.cpu, a.f32(), b.f32(), out.f32_mut());
    }

    fn add_assign(&self, y: &mut Buffer, x: &Buffer) {
        elementwise::add_assign(&self.cpu, y.f32_mut(), x.f32());
    }

    fn gather_rows(&self, dim: usize, table: &Buffer, ids: &[u32], out: &mut Buffer) {
        let Some(blocks) = table.q8_0() else {
            return embedding::gather(&self.cpu, dim, table.f32(), ids, out.f32_mut());
        };
        let row_bytes = q8_0::row_bytes(dim);
        for (&id, row) in ids.iter().zip(out.f32_mut().chunks_exact_mut(dim)) {
            let start = id as usize * row_bytes;
            q8_0::dequantize(&self.cpu, &blocks[start..start + row_bytes], row);
        }
    }

    fn scatter_add_rows(&self, dim: usize, ids: &[u32], dout: &Buffer, dtable: &mut Buffer) {
        embedding::scatter_add(&self.cpu, dim, ids, dout.f32(), dtable.f32_mut());
    }

    fn matmul_nt(&self, size: Size, a: Matrix<'_>, b: Matrix<'_>, c: MatrixMut<'_>) {
        match b.buffer.q8_0() {
            Some(blocks) => {
                assert!(b.offset == 0 && b.stride == size.k, "quantised matrices are dense");
                q8_0::matmul_nt(&self.cpu, size, view(a), blocks, view_mut(c));
            }
            None => {
                gemm::matmul_nt(&self.cpu, size, view(a), view(b), view_mut(c), Accumulate::No);
            }
        }
    }

    fn matmul_nn(
        &self,
        size: Size,
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: MatrixMut<'_>,
        accumulate: Accumulate,
    ) {
        gemm::matmul_nn(&self.cpu, size, view(a), view(b), view_mut(c), accumulate);
    }

    fn matmul_tn(
        &self,
        size: Size,
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: MatrixMut<'_>,
        accumulate: Accumulate,
    ) {
        gemm::matmul_tn(&self.cpu, size, view(a), view(b), view_mut(c), accumulate);
    }

    fn rms_norm(
        &self,
        dim: usize,
        epsilon: f32,
        x: &Buffer,
        weight: &Buffer,
        y: &mut Buffer,
        inverse_rms: &mut Buffer,
    ) {
        let (y, inverse_rms) = (y.f32_mut(), inverse_rms.f32_mut());
        norm::rms_norm_forward(&self.cpu, dim, epsilon, x.f32(), weight.f32(), y, inverse_rms);
    }

    fn add_rms_norm(
        &self,
        dim: usize,
        epsilon: f32,
        residual: &mut Buffer,
        delta: &Buffer,
        weight: &Buffer,
        y: &mut Buffer,
        inverse_rms: &mut Buffer,
    ) {
        norm::add_rms_norm_forward(
            &self.cpu,
            dim,
            epsilon,
            residual.f32_mut(),
            delta.f32(),
            weight.f32(),
            y.f32_mut(),
            inverse_rms.f32_mut(),
        );
    }

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
    ) {
        norm::rms_norm_backward(
            &self.cpu,
            dim,
            x.f32(),
            weight.f32(),
            inverse_rms.f32(),
            dy.f32(),
            dx.f32_mut(),
            accumulate_dx,
            dweight.f32_mut(),
        );
    }

    fn rope(
        &self,
        heads: usize,
        head_dim: usize,
        cos: &Buffer,
        sin: &Buffer,
        positions: &[u32],
        x: &mut Buffer,
    ) {
        let (cos, sin) = (cos.f32(), sin.f32());
        rope::rope_forward(&self.cpu, heads, head_dim, cos, sin, positions, x.f32_mut());
    }

    fn rope_backward(
        &self,
        heads: usize,
        head_dim: usize,
        cos: &Buffer,
        sin: &Buffer,
        positions: &[u32],
        dx: &mut Buffer,
    ) {
        let (cos, sin) = (cos.f32(), sin.f32());
        rope::rope_backward(&self.cpu, heads, head_dim, cos, sin, positions, dx.f32_mut());
    }

    fn swiglu(&self, gate: &Buffer, up: &Buffer, out: &mut Buffer) {
        activation::swiglu_forward(&self.cpu, gate.f32(), up.f32(), out.f32_mut());
    }

    fn swiglu_backward(
        &self,
        gate: &Buffer,
        up: &Buffer,
        dout: &Buffer,
        dgate: &mut Buffer,
        dup: &mut Buffer,
    ) {
        let (dgate, dup) = (dgate.f32_mut(), dup.f32_mut());
        activation::swiglu_backward(&self.cpu, gate.f32(), up.f32(), dout.f32(), dgate, dup);
    }

    fn attention(
        &self,
        shape: &AttentionShape,
        q: &Buffer,
        keys: KeyValues<'_>,
        first_key: Option<&[u32]>,
        out: &mut Buffer,
        log_sum_exp: &mut Buffer,
    ) {
        let inputs = attention_inputs(shape, q, keys, first_key);
        let out = HeadsMut::dense(out.f32_mut(), shape.queries, shape.heads, shape.head_dim);
        attention::forward(&self.cpu, shape, &inputs, out, log_sum_exp.f32_mut());
    }

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
    ) {
        let inputs = attention_inputs(shape, q, keys, first_key);
        let (t, h, kv, dim) = (shape.queries, shape.heads, shape.kv_heads, shape.head_dim);
        let out = Heads::dense(out.f32(), t, h, dim);
        let dout = Heads::dense(dout.f32(), t, h, dim);
        let grads = AttentionGrads {
            dq: HeadsMut::dense(dq.f32_mut(), t, h, dim),
            dk: HeadsMut::dense(dk.f32_mut(), t, kv, dim),
            dv: HeadsMut::dense(dv.f32_mut(), t, kv, dim),
        };
        let log_sum_exp = log_sum_exp.f32();
        attention::backward(&self.cpu, shape, &inputs, out, log_sum_exp, dout, grads);
    }

    fn append(
        &self,
        batch: usize,
        rows: &Buffer,
        out: &mut Buffer,
        batch_stride: usize,
        offset: usize,
    ) {
        let run = rows.len() / batch;
        for (b, source) in rows.f32().chunks_exact(run).enumerate() {
            let start = b * batch_stride + offset;
            out.f32_mut()[start..start + run].copy_from_slice(source);
        }
    }

    fn cross_entropy(
        &self,
        vocab: usize,
        logits: &mut Buffer,
        targets: &[u32],
        gradient_scale: &[f32],
        losses: &mut [f32],
    ) {
        let logits = &mut logits.f32_mut()[..targets.len() * vocab];
        loss::cross_entropy(&self.cpu, vocab, logits, targets, gradient_scale, losses);
    }

    fn log_probabilities(
        &self,
        vocab: usize,
        logits: &Buffer,
        targets: &[u32],
        log_probabilities: &mut [f32],
        is_greedy: &mut [bool],
    ) {
        let logits = &logits.f32()[..targets.len() * vocab];
        loss::log_probabilities(&self.cpu, vocab, logits, targets, log_probabilities, is_greedy);
    }

    fn adamw_step(
        &self,
        settings: &AdamW,
        gradient_scale: f32,
        weights: &mut Buffer,
        gradients: &Buffer,
        first: &mut Buffer,
        second: &mut Buffer,
    ) {
        optim::adamw_step(
            &self.cpu,
            settings,
            gradient_scale,
            weights.f32_mut(),
            gradients.f32(),
            first.f32_mut(),
            second.f32_mut(),
        );
    }

    fn muon_step(
        &self,
        settings: &Muon,
        rows: usize,
        columns: usize,
        gradient_scale: f32,
        weights: &mut Buffer,
        gradients: &Buffer,
        momentum: &mut Buffer,
    ) {
        let mut scratch = self.allocate(optim::muon_scratch(rows, columns));
        optim::muon_step(
            &self.cpu,
            settings,
            rows,
            columns,
            gradient_scale,
            weights.f32_mut(),
            gradients.f32(),
            momentum.f32_mut(),
            scratch.f32_mut(),
        );
    }

    fn grad_norm(&self, gradients: &[&Buffer]) -> f64 {
        let squares = gradients.iter().map(|g| elementwise::sum_of_squares(&self.cpu, g.f32()));
        squares.sum::<f64>().sqrt()
    }

    fn scale_grads(&self, gradient: &mut Buffer, factor: f32) {
        elementwise::scale(&self.cpu, gradient.f32_mut(), factor);
    }
}

fn view(matrix: Matrix<'_>) -> Mat<'_> {
    Mat::new(&matrix.buffer.f32()[matrix.offset..], matrix.stride)
}

fn view_mut(MatrixMut { buffer, offset, stride }: MatrixMut<'_>) -> MatMut<'_> {
    MatMut::new(&mut buffer.f32_mut()[offset..], stride)
}

fn attention_inputs<'a>(
    shape: &AttentionShape,
    q: &'a Buffer,
    keys: KeyValues<'a>,
    first_key: Option<&'a [u32]>,
) -> AttentionInputs<'a> {
    let (kv, dim) = (shape.kv_heads, shape.head_dim);
    AttentionInputs {
        q: Heads::dense(q.f32(), shape.queries, shape.heads, dim),
        k: Heads::dense(keys.k.f32(), keys.capacity, kv, dim),
        v: Heads::dense(keys.v.f32(), keys.capacity, kv, dim),
        first_key,
    }
}
