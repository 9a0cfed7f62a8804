//! The CPU as a [`Device`](crate::Device): buffers in host memory, kernels from `milpa-kernels`.

use std::sync::Arc;

use milpa_kernels::{
    Accumulate, Cpu, Heads, HeadsMut, Isa, Mat, MatMut, Size, activation, attention,
    attention::{AttentionGrads, AttentionInputs, AttentionShape},
    bf16, bias, convert, elementwise, embedding, gemm, gemm_bf16,
    loss::{self, ZLoss},
    magnitude, norm,
    optim::{self, AdamW, Lion, Muon},
    quantised::{self, BlockFormat},
    rope,
    routing::{self, RoutingShape},
    soft_cap,
};

use crate::{
    buffer::{Buffer, DType, MemoryStats, Pool},
    device::{Kernels, KeyValues, Matrix, MatrixMut},
    profile::Profile,
};

/// Host memory and the threads of this process.
///
/// Several threads may use one device at the same time; then the thread pool serves one of them
/// and the others compute alone, with the same results.
#[derive(Debug)]
pub struct CpuDevice {
    cpu: Cpu,
    pool: Arc<Pool>,
    profile: Option<Profile>,
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
        Self { cpu: Cpu::new(threads.max(1), isa), pool: Arc::default(), profile: None }
    }

    /// The same device, summing the time of each kernel for [`Device::take_profile`](crate::Device::take_profile).
    pub fn profiled(self) -> Self {
        Self { profile: Some(Profile::default()), ..self }
    }

    /// The threads and instruction set that kernels run on.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    pub(crate) fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }
}

impl CpuDevice {
    fn widened(&self, x: &Buffer) -> Buffer {
        let mut wide = self.allocate(x.len());
        self.convert(x, &mut wide);
        wide
    }
}

impl Kernels for CpuDevice {
    fn name(&self) -> String {
        format!("cpu ({} threads, {})", self.cpu.threads(), self.cpu.isa())
    }

    fn memory(&self) -> MemoryStats {
        self.pool.stats()
    }

    fn allocate(&self, length: usize) -> Buffer {
        self.pool.take(length)
    }

    fn allocate_as(&self, length: usize, dtype: DType) -> Buffer {
        match dtype {
            DType::F32 => self.pool.take(length),
            DType::BF16 => self.pool.take_bf16(length),
            DType::Quantised(_) => panic!("quantised buffers are made by upload_quantised"),
        }
    }

    fn convert(&self, x: &Buffer, out: &mut Buffer) {
        match (x.dtype(), out.dtype()) {
            (DType::F32, DType::BF16) => convert(&self.cpu, x.f32(), out.bf16_mut()),
            (DType::BF16, DType::F32) => convert(&self.cpu, x.bf16(), out.f32_mut()),
            _ => self.copy(x, out),
        }
    }

    fn upload(&self, values: &[f32]) -> Buffer {
        let mut buffer = self.allocate(values.len());
        self.write(values, &mut buffer);
        buffer
    }

    fn quantise(&self, format: BlockFormat, values: &[f32]) -> Vec<u8> {
        let mut bytes = vec![0; format.row_bytes(values.len())];
        quantised::quantize(&self.cpu, format, values, &mut bytes);
        bytes
    }

    fn upload_quantised(&self, format: BlockFormat, bytes: Vec<u8>) -> Buffer {
        let values = format.values_in(bytes.len()).expect("bytes of whole blocks");
        Buffer::from_blocks(format, bytes, values)
    }

    fn write(&self, values: &[f32], out: &mut Buffer) {
        elementwise::copy(&self.cpu, values, out.f32_mut());
    }

    fn download(&self, buffer: &Buffer, out: &mut [f32]) {
        match (buffer.dtype(), buffer.blocks()) {
            (_, Some((format, bytes))) => quantised::dequantize(&self.cpu, format, bytes, out),
            (DType::BF16, _) => convert(&self.cpu, buffer.bf16(), out),
            _ => out.copy_from_slice(buffer.f32()),
        }
    }

    fn fill(&self, out: &mut Buffer, value: f32) {
        elementwise::fill(&self.cpu, out.f32_mut(), value);
    }

    fn copy(&self, x: &Buffer, out: &mut Buffer) {
        match x.dtype() {
            DType::BF16 => elementwise::copy(&self.cpu, x.bf16(), out.bf16_mut()),
            DType::F32 | DType::Quantised(_) => {
                elementwise::copy(&self.cpu, x.f32(), out.f32_mut());
            }
        }
    }

    fn add(&self, a: &Buffer, b: &Buffer, out: &mut Buffer) {
        match b.dtype() {
            DType::BF16 => elementwise::add(&self.cpu, a.f32(), b.bf16(), out.f32_mut()),
            DType::F32 | DType::Quantised(_) => {
                elementwise::add(&self.cpu, a.f32(), b.f32(), out.f32_mut());
            }
        }
    }

    fn add_assign(&self, y: &mut Buffer, x: &Buffer) {
        match x.dtype() {
            DType::BF16 => elementwise::add_assign(&self.cpu, y.f32_mut(), x.bf16()),
            DType::F32 | DType::Quantised(_) => {
                elementwise::add_assign(&self.cpu, y.f32_mut(), x.f32());
            }
        }
    }

    fn gather_rows(&self, dim: usize, table: &Buffer, ids: &[u32], out: &mut Buffer) {
        let Some((format, bytes)) = table.blocks() else {
            return embedding::gather(&self.cpu, dim, table.f32(), ids, out.f32_mut());
        };
        let row_bytes = format.row_bytes(dim);
        for (&id, row) in ids.iter().zip(out.f32_mut().chunks_exact_mut(dim)) {
            let start = id as usize * row_bytes;
            quantised::dequantize(&self.cpu, format, &bytes[start..start + row_bytes], row);
        }
    }

    fn scatter_add_rows(&self, dim: usize, ids: &[u32], dout: &Buffer, dtable: &mut Buffer) {
        embedding::scatter_add(&self.cpu, dim, ids, dout.f32(), dtable.f32_mut());
    }

    fn matmul_nt(&self, size: Size, a: Matrix<'_>, b: Matrix<'_>, c: MatrixMut<'_>) {
        if let Some((format, bytes)) = b.buffer.blocks() {
            assert!(b.offset == 0 && b.stride == size.k, "quantised matrices are dense");
            return quantised::matmul_nt(&self.cpu, format, size, view(a), bytes, view_mut(c));
        }
        let (cpu, accumulate) = (&self.cpu, Accumulate::No);
        match (b.buffer.dtype(), c.buffer.dtype()) {
            (DType::BF16, DType::BF16) => {
                gemm_bf16::matmul_nt(cpu, size, halves(a), halves(b), halves_mut(c), accumulate);
            }
            (DType::BF16, _) => {
                gemm_bf16::matmul_nt(cpu, size, halves(a), halves(b), view_mut(c), accumulate);
            }
            _ => gemm::matmul_nt(cpu, size, view(a), view(b), view_mut(c), accumulate),
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
        let cpu = &self.cpu;
        match (b.buffer.dtype(), c.buffer.dtype()) {
            (DType::BF16, DType::BF16) => {
                gemm_bf16::matmul_nn(cpu, size, halves(a), halves(b), halves_mut(c), accumulate);
            }
            (DType::BF16, _) => {
                gemm_bf16::matmul_nn(cpu, size, halves(a), halves(b), view_mut(c), accumulate);
            }
            _ => gemm::matmul_nn(cpu, size, view(a), view(b), view_mut(c), accumulate),
        }
    }

    fn matmul_tn(
        &self,
        size: Size,
        a: Matrix<'_>,
        b: Matrix<'_>,
        c: MatrixMut<'_>,
        accumulate: Accumulate,
    ) {
        match b.buffer.dtype() {
            DType::BF16 => {
                let (a, b, c) = (halves(a), halves(b), view_mut(c));
                gemm_bf16::matmul_tn(&self.cpu, size, a, b, c, accumulate);
            }
            _ => gemm::matmul_tn(&self.cpu, size, view(a), view(b), view_mut(c), accumulate),
        }
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
        let (cpu, weight, inverse_rms) = (&self.cpu, weight.f32(), inverse_rms.f32_mut());
        match (x.dtype(), y.dtype()) {
            (DType::BF16, _) => {
                let y = y.bf16_mut();
                norm::rms_norm_forward(cpu, dim, epsilon, x.bf16(), weight, y, inverse_rms);
            }
            (_, DType::BF16) => {
                let y = y.bf16_mut();
                norm::rms_norm_forward(cpu, dim, epsilon, x.f32(), weight, y, inverse_rms);
            }
            _ => {
                let y = y.f32_mut();
                norm::rms_norm_forward(cpu, dim, epsilon, x.f32(), weight, y, inverse_rms);
            }
        }
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
        let (cpu, weight, inverse_rms) = (&self.cpu, weight.f32(), inverse_rms.f32_mut());
        let sum = residual.f32_mut();
        match delta.dtype() {
            DType::BF16 => {
                let (delta, y) = (delta.bf16(), y.bf16_mut());
                norm::add_rms_norm_forward(cpu, dim, epsilon, sum, delta, weight, y, inverse_rms);
            }
            DType::F32 | DType::Quantised(_) => {
                let (delta, y) = (delta.f32(), y.f32_mut());
                norm::add_rms_norm_forward(cpu, dim, epsilon, sum, delta, weight, y, inverse_rms);
            }
        }
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
        let (cpu, weight, inverse) = (&self.cpu, weight.f32(), inverse_rms.f32());
        let dweight = dweight.f32_mut();
        match x.dtype() {
            DType::BF16 => {
                let (x, dy, dx) = (x.bf16(), dy.bf16(), dx.bf16_mut());
                norm::rms_norm_backward(
                    cpu,
                    dim,
                    x,
                    weight,
                    inverse,
                    dy,
                    dx,
                    accumulate_dx,
                    dweight,
                );
            }
            DType::F32 | DType::Quantised(_) => {
                let (x, dy, dx) = (x.f32(), dy.f32(), dx.f32_mut());
                norm::rms_norm_backward(
                    cpu,
                    dim,
                    x,
                    weight,
                    inverse,
                    dy,
                    dx,
                    accumulate_dx,
                    dweight,
                );
            }
        }
    }

    fn rope(
        &self,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        cos: &Buffer,
        sin: &Buffer,
        positions: &[u32],
        x: &mut Buffer,
    ) {
        let (cos, sin) = (cos.f32(), sin.f32());
        let (cpu, turned) = (&self.cpu, rotary_dim);
        match x.dtype() {
            DType::BF16 => {
                let x = x.bf16_mut();
                rope::rope_forward(cpu, heads, head_dim, turned, cos, sin, positions, x);
            }
            DType::F32 | DType::Quantised(_) => {
                let x = x.f32_mut();
                rope::rope_forward(cpu, heads, head_dim, turned, cos, sin, positions, x);
            }
        }
    }

    fn rope_backward(
        &self,
        heads: usize,
        head_dim: usize,
        rotary_dim: usize,
        cos: &Buffer,
        sin: &Buffer,
        positions: &[u32],
        dx: &mut Buffer,
    ) {
        let (cos, sin) = (cos.f32(), sin.f32());
        let (cpu, turned) = (&self.cpu, rotary_dim);
        match dx.dtype() {
            DType::BF16 => {
                let dx = dx.bf16_mut();
                rope::rope_backward(cpu, heads, head_dim, turned, cos, sin, positions, dx);
            }
            DType::F32 | DType::Quantised(_) => {
                let dx = dx.f32_mut();
                rope::rope_backward(cpu, heads, head_dim, turned, cos, sin, positions, dx);
            }
        }
    }

    fn swiglu(&self, gate: &Buffer, up: &Buffer, out: &mut Buffer) {
        let cpu = &self.cpu;
        match out.dtype() {
            DType::BF16 => {
                activation::swiglu_forward(cpu, gate.bf16(), up.bf16(), out.bf16_mut());
            }
            DType::F32 | DType::Quantised(_) => {
                activation::swiglu_forward(cpu, gate.f32(), up.f32(), out.f32_mut());
            }
        }
    }

    fn swiglu_backward(
        &self,
        gate: &Buffer,
        up: &Buffer,
        dout: &Buffer,
        dgate: &mut Buffer,
        dup: &mut Buffer,
    ) {
        let cpu = &self.cpu;
        match dout.dtype() {
            DType::BF16 => {
                let (gate, up, dout) = (gate.bf16(), up.bf16(), dout.bf16());
                activation::swiglu_backward(cpu, gate, up, dout, dgate.bf16_mut(), dup.bf16_mut());
            }
            DType::F32 | DType::Quantised(_) => {
                let (gate, up, dout) = (gate.f32(), up.f32(), dout.f32());
                activation::swiglu_backward(cpu, gate, up, dout, dgate.f32_mut(), dup.f32_mut());
            }
        }
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
        let paired = shape.head_dim.is_multiple_of(2);
        if out.dtype() == DType::BF16 && paired {
            let inputs =
                attention_inputs(shape, [q, keys.k, keys.v].map(Buffer::bf16), keys, first_key);
            let out = HeadsMut::dense(out.bf16_mut(), shape.queries, shape.heads, shape.head_dim);
            let log_sum_exp = log_sum_exp.f32_mut();
            return attention::forward_bf16(&self.cpu, shape, &inputs, out, log_sum_exp);
        }
        if out.dtype() == DType::BF16 {
            let [q, k, v] = [q, keys.k, keys.v].map(|x| self.widened(x));
            let mut wide = self.allocate(out.len());
            let keys = KeyValues { k: &k, v: &v, ..keys };
            self.attention(shape, &q, keys, first_key, &mut wide, log_sum_exp);
            return self.convert(&wide, out);
        }
        let inputs = attention_inputs(shape, [q, keys.k, keys.v].map(Buffer::f32), keys, first_key);
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
        let paired = shape.head_dim.is_multiple_of(2);
        if dout.dtype() == DType::BF16 && paired {
            let inputs =
                attention_inputs(shape, [q, keys.k, keys.v].map(Buffer::bf16), keys, first_key);
            let [out, dout] = [out, dout]
                .map(|x| Heads::dense(x.bf16(), shape.queries, shape.heads, shape.head_dim));
            let grads = attention_grads(shape, [dq, dk, dv].map(Buffer::bf16_mut));
            let log_sum_exp = log_sum_exp.f32();
            return attention::backward_bf16(
                &self.cpu,
                shape,
                &inputs,
                out,
                log_sum_exp,
                dout,
                grads,
            );
        }
        if dout.dtype() == DType::BF16 {
            let [q, k, v, out, dout] = [q, keys.k, keys.v, out, dout].map(|x| self.widened(x));
            let [mut dq_wide, mut dk_wide, mut dv_wide] =
                [&*dq, &*dk, &*dv].map(|x| self.allocate(x.len()));
            let keys = KeyValues { k: &k, v: &v, ..keys };
            self.attention_backward(
                shape,
                &q,
                keys,
                first_key,
                &out,
                log_sum_exp,
                &dout,
                &mut dq_wide,
                &mut dk_wide,
                &mut dv_wide,
            );
            for (wide, narrow) in [(dq_wide, dq), (dk_wide, dk), (dv_wide, dv)] {
                self.convert(&wide, narrow);
            }
            return;
        }
        let inputs = attention_inputs(shape, [q, keys.k, keys.v].map(Buffer::f32), keys, first_key);
        let [out, dout] =
            [out, dout].map(|x| Heads::dense(x.f32(), shape.queries, shape.heads, shape.head_dim));
        let grads = attention_grads(shape, [dq, dk, dv].map(Buffer::f32_mut));
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
        z_loss: Option<ZLoss<'_>>,
        gradients: Option<&mut Buffer>,
    ) {
        let elements = targets.len() * vocab;
        let logits = &mut logits.f32_mut()[..elements];
        let (cpu, scale) = (&self.cpu, gradient_scale);
        match gradients {
            None => loss::cross_entropy(cpu, vocab, logits, targets, scale, losses, z_loss),
            Some(gradients) => {
                let gradients = &mut gradients.bf16_mut()[..elements];
                loss::cross_entropy_into(
                    cpu, vocab, logits, targets, scale, losses, z_loss, gradients,
                );
            }
        }
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

    fn lion_step(
        &self,
        settings: &Lion,
        gradient_scale: f32,
        weights: &mut Buffer,
        gradients: &Buffer,
        momentum: &mut Buffer,
    ) {
        optim::lion_step(
            &self.cpu,
            settings,
            gradient_scale,
            weights.f32_mut(),
            gradients.f32(),
            momentum.f32_mut(),
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

    fn geglu(&self, gate: &Buffer, up: &Buffer, out: &mut Buffer) {
        let cpu = &self.cpu;
        match out.dtype() {
            DType::BF16 => activation::geglu_forward(cpu, gate.bf16(), up.bf16(), out.bf16_mut()),
            DType::F32 | DType::Quantised(_) => {
                activation::geglu_forward(cpu, gate.f32(), up.f32(), out.f32_mut());
            }
        }
    }

    fn geglu_backward(
        &self,
        gate: &Buffer,
        up: &Buffer,
        dout: &Buffer,
        dgate: &mut Buffer,
        dup: &mut Buffer,
    ) {
        let cpu = &self.cpu;
        match dout.dtype() {
            DType::BF16 => {
                let (gate, up, dout) = (gate.bf16(), up.bf16(), dout.bf16());
                activation::geglu_backward(cpu, gate, up, dout, dgate.bf16_mut(), dup.bf16_mut());
            }
            DType::F32 | DType::Quantised(_) => {
                let (gate, up, dout) = (gate.f32(), up.f32(), dout.f32());
                activation::geglu_backward(cpu, gate, up, dout, dgate.f32_mut(), dup.f32_mut());
            }
        }
    }

    fn add_bias(&self, bias: &Buffer, x: &mut Buffer) {
        bias::bias_forward(&self.cpu, bias.f32(), x.f32_mut());
    }

    fn add_bias_backward(&self, dy: &Buffer, dbias: &mut Buffer) {
        bias::bias_backward(&self.cpu, dy.f32(), dbias.f32_mut());
    }

    fn soft_cap(&self, cap: f32, x: &mut Buffer) {
        soft_cap::soft_cap_forward(&self.cpu, cap, x.f32_mut());
    }

    fn soft_cap_backward(&self, cap: f32, y: &Buffer, dy: &mut Buffer) {
        soft_cap::soft_cap_backward(&self.cpu, cap, y.f32(), dy.f32_mut());
    }

    fn adapted_norms(
        &self,
        scale: f32,
        weight: &Buffer,
        a: &Buffer,
        b: &Buffer,
        norms: &mut Buffer,
    ) {
        let (a, b, norms) = (a.f32(), b.f32(), norms.f32_mut());
        if weight.dtype() == DType::F32 {
            return magnitude::adapted_norms(&self.cpu, scale, weight.f32(), a, b, norms);
        }
        let mut wide = self.allocate(weight.len());
        self.download(weight, wide.f32_mut());
        magnitude::adapted_norms(&self.cpu, scale, wide.f32(), a, b, norms);
    }

    fn magnitude(&self, norms: &Buffer, magnitude: &Buffer, x: &Buffer, out: &mut Buffer) {
        let (norms, magnitude) = (norms.f32(), magnitude.f32());
        magnitude::magnitude_forward(&self.cpu, norms, magnitude, x.f32(), out.f32_mut());
    }

    fn magnitude_backward(
        &self,
        norms: &Buffer,
        magnitude: &Buffer,
        x: &Buffer,
        dy: &mut Buffer,
        dmagnitude: &mut Buffer,
    ) {
        let (norms, magnitude) = (norms.f32(), magnitude.f32());
        let (dy, dmagnitude) = (dy.f32_mut(), dmagnitude.f32_mut());
        magnitude::magnitude_backward(&self.cpu, norms, magnitude, x.f32(), dy, dmagnitude);
    }

    fn choose_experts(&self, shape: &RoutingShape, logits: &Buffer, ids: &mut [u32]) {
        routing::choose_experts(&self.cpu, shape, logits.f32(), ids);
    }

    fn routing_weights(
        &self,
        shape: &RoutingShape,
        logits: &Buffer,
        ids: &[u32],
        weights: &mut Buffer,
    ) {
        let weights = weights.f32_mut();
        routing::routing_weights_forward(&self.cpu, shape, logits.f32(), ids, weights);
    }

    fn routing_weights_backward(
        &self,
        shape: &RoutingShape,
        logits: &Buffer,
        ids: &[u32],
        weights: &Buffer,
        dweights: &Buffer,
        dlogits: &mut Buffer,
    ) {
        routing::routing_weights_backward(
            &self.cpu,
            shape,
            logits.f32(),
            ids,
            weights.f32(),
            dweights.f32(),
            dlogits.f32_mut(),
        );
    }

    fn combine(
        &self,
        dim: usize,
        chosen: usize,
        places: &[u32],
        weights: &Buffer,
        rows: &Buffer,
        out: &mut Buffer,
    ) {
        let (weights, rows, out) = (weights.f32(), rows.f32(), out.f32_mut());
        routing::combine_forward(&self.cpu, dim, chosen, places, weights, rows, out);
    }

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
    ) {
        routing::combine_backward(
            &self.cpu,
            dim,
            chosen,
            places,
            weights.f32(),
            rows.f32(),
            dout.f32(),
            drows.f32_mut(),
            dweights.f32_mut(),
        );
    }
}

fn halves(matrix: Matrix<'_>) -> Mat<'_, bf16> {
    Mat::new(&matrix.buffer.bf16()[matrix.offset..], matrix.stride)
}

fn halves_mut(MatrixMut { buffer, offset, stride }: MatrixMut<'_>) -> MatMut<'_, bf16> {
    MatMut::new(&mut buffer.bf16_mut()[offset..], stride)
}

fn view(matrix: Matrix<'_>) -> Mat<'_> {
    Mat::new(&matrix.buffer.f32()[matrix.offset..], matrix.stride)
}

fn view_mut(MatrixMut { buffer, offset, stride }: MatrixMut<'_>) -> MatMut<'_> {
    MatMut::new(&mut buffer.f32_mut()[offset..], stride)
}

fn attention_inputs<'a, E>(
    shape: &AttentionShape,
    [q, k, v]: [&'a [E]; 3],
    keys: KeyValues<'_>,
    first_key: Option<&'a [u32]>,
) -> AttentionInputs<'a, E> {
    let (kv, dim) = (shape.kv_heads, shape.head_dim);
    AttentionInputs {
        q: Heads::dense(q, shape.queries, shape.heads, dim),
        k: Heads::dense(k, keys.capacity, kv, dim),
        v: Heads::dense(v, keys.capacity, kv, dim),
        first_key,
    }
}

fn attention_grads<'a, E>(
    shape: &AttentionShape,
    [dq, dk, dv]: [&'a mut [E]; 3],
) -> AttentionGrads<'a, E> {
    let (t, kv, dim) = (shape.queries, shape.kv_heads, shape.head_dim);
    AttentionGrads {
        dq: HeadsMut::dense(dq, t, shape.heads, dim),
        dk: HeadsMut::dense(dk, t, kv, dim),
        dv: HeadsMut::dense(dv, t, kv, dim),
    }
}
