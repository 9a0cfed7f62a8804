//! A mixture of experts: tokens are grouped by the expert that they were sent to, each expert computes
//! its group at once, and the results are summed by token.
//!
//! Mixtral of Experts, arXiv:2401.04088. Every token is served: no expert has a capacity. Rows within a
//! group keep the order of their tokens, so sums do not depend on the number of threads.
//!
//! The experts' matrices may have changes of low rank (LoRA), whose products are never stored.
//!
//! Legend: n tokens, d model width, e experts, c experts chosen for a token, f width of an expert, r
//! rank of a change; m rows of all groups, n · c.

use std::{ops::Range, sync::Arc};

use milpa_kernels::{Accumulate, Size, routing::RoutingShape};

use crate::{
    buffer::Buffer,
    device::{Device, Matrix, MatrixMut},
    error::TensorError,
    shape::Shape,
    tape::{Gradients, Slot, Tensor},
};

/// Which experts serve which tokens.
#[derive(Debug, Clone)]
pub struct Routing {
    shape: RoutingShape,
    /// The chosen experts `[n, c]`, the one with the largest logit first.
    ids: Arc<[u32]>,
    /// Row of the groups that holds each choice, `[n, c]`.
    places: Arc<[u32]>,
    /// Token of each row of the groups, `[m]`.
    tokens: Arc<[u32]>,
    /// Where each expert's group ends, `[e]`.
    ends: Arc<[usize]>,
}

/// Changes of low rank of the experts' matrices: expert `e` computes with `W[e] + scale · B[e]ᵀ·A[e]`.
#[derive(Debug, Clone, Copy)]
pub struct ExpertChanges<'a> {
    /// `a_erd`, which gate and up share, `b_erf` of the gate and `b_erf` of up.
    pub gate_up: Option<[&'a Tensor; 3]>,
    /// `a_erf` and `b_erd`.
    pub down: Option<[&'a Tensor; 2]>,
    /// Factor of the changes.
    pub scale: f32,
}

/// Which changes are among the inputs of an operation, after the five that are always there.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChangedExperts {
    gate_up: bool,
    down: bool,
    scale: f32,
}

impl ChangedExperts {
    pub(crate) fn of(changes: &ExpertChanges<'_>) -> Self {
        let ExpertChanges { gate_up, down, scale } = changes;
        Self { gate_up: gate_up.is_some(), down: down.is_some(), scale: *scale }
    }

    /// The slots of the changes; `None` for what is not changed.
    fn split<T>(self, inputs: &[T]) -> (Option<&[T]>, Option<&[T]>) {
        let (gate_up, down) = inputs[5..].split_at(if self.gate_up { 3 } else { 0 });
        (self.gate_up.then_some(gate_up), self.down.then_some(down))
    }
}

impl Routing {
    /// Chooses the experts with the largest of the logits `[n, e]`.
    pub(crate) fn choose(
        device: &Device,
        logits: &Buffer,
        shape_ne: &Shape,
        chosen: usize,
        normalise: bool,
    ) -> Result<Self, TensorError> {
        let (tokens, experts) = (shape_ne.rows(), shape_ne.last());
        if chosen == 0 || chosen > experts {
            let problem = format!("{chosen} of {experts} experts cannot be chosen");
            return Err(TensorError::Unsupported { operation: "route", problem });
        }
        let shape = RoutingShape { experts, chosen, normalise };
        let mut ids = vec![0; tokens * chosen];
        device.choose_experts(&shape, logits, &mut ids);
        // Counting sort by expert; the order of tokens within a group stays.
        let mut ends = vec![0; experts];
        for &id in &ids {
            ends[id as usize] += 1;
        }
        let mut next = ends.clone();
        let mut total = 0;
        for (end, next) in ends.iter_mut().zip(&mut next) {
            *next = total;
            total += *end;
            *end = total;
        }
        let (mut places, mut grouped) = (vec![0; ids.len()], vec![0; ids.len()]);
        for (choice, &id) in ids.iter().enumerate() {
            let place = &mut next[id as usize];
            places[choice] = *place as u32;
            grouped[*place] = (choice / chosen) as u32;
            *place += 1;
        }
        let (ids, places) = (ids.into(), places.into());
        Ok(Self { shape, ids, places, tokens: grouped.into(), ends: ends.into() })
    }

    /// The chosen experts of each token, `[n, c]`, the one with the largest logit first.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many tokens each expert serves.
    pub fn loads(&self) -> Vec<usize> {
        self.groups().map(|group| group.len()).collect()
    }

    fn groups(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(self.ends.iter().copied()).map(|(start, end)| start..end)
    }

    /// Number of tokens.
    fn len(&self) -> usize {
        self.ids.len() / self.shape.chosen
    }

    pub(crate) fn weights_shape(&self, logits: &Shape) -> Result<Vec<Shape>, String> {
        if (logits.rows(), logits.last()) != (self.len(), self.shape.experts) {
            let (n, e) = (self.len(), self.shape.experts);
            return Err(format!("the choice was made for {n} tokens and {e} experts"));
        }
        Shape::new(&[self.len(), self.shape.chosen])
            .map(|shape| vec![shape])
            .map_err(|error| error.to_string())
    }

    pub(crate) fn output_shape(
        &self,
        changed: ChangedExperts,
        inputs: &[Tensor],
        shapes: &[Shape],
    ) -> Result<Vec<Shape>, String> {
        let [x, weights, gate, up, down, ..] = shapes else {
            return Err("five inputs are needed".to_owned());
        };
        if inputs.iter().any(|input| input.dtype().is_quantised()) {
            return Err("the weights of experts must not be quantised".to_owned());
        }
        let (d, e) = (x.last(), self.shape.experts);
        let &[_, f, _] = gate.lengths() else {
            return Err("the experts' weights must be [experts, outputs, inputs]".to_owned());
        };
        if x.rows() != self.len()
            || weights.lengths() != [self.len(), self.shape.chosen]
            || gate.lengths() != [e, f, d]
            || up.lengths() != [e, f, d]
            || down.lengths() != [e, d, f]
            || d == 0
            || f == 0
        {
            let (n, c) = (self.len(), self.shape.chosen);
            return Err(format!(
                "x must have {n} rows, the weights be [{n}, {c}], gate and up \
                                [{e}, f, {d}], down [{e}, {d}, f]"
            ));
        }
        let (gate_up, down) = changed.split(shapes);
        for (shapes, inputs, outputs) in [(gate_up, d, f), (down, f, d)] {
            let Some([a, rest @ ..]) = shapes else { continue };
            let &[_, r, _] = a.lengths() else {
                return Err("changes of experts must be [experts, rank, width]".to_owned());
            };
            let fits = |b: &Shape| b.lengths() == [e, r, outputs];
            if r == 0 || a.lengths() != [e, r, inputs] || !rest.iter().all(fits) {
                return Err(format!("a change must be [{e}, r, {inputs}] and [{e}, r, {outputs}]"));
            }
        }
        Ok(vec![*x])
    }

    pub(crate) fn weights(&self, device: &Device, logits: &Buffer, weights: &mut Buffer) {
        device.routing_weights(&self.shape, logits, &self.ids, weights);
    }

    pub(crate) fn weights_backward(
        &self,
        device: &Device,
        logits: &Buffer,
        weights: &Buffer,
        dweights: &Buffer,
    ) -> Buffer {
        let mut dlogits = device.allocate(logits.len());
        let shape = &self.shape;
        device.routing_weights_backward(shape, logits, &self.ids, weights, dweights, &mut dlogits);
        dlogits
    }

    /// Writes the output; returns inputs, gates, ups and outputs of the groups for the backward, and what
    /// each A makes of its inputs.
    pub(crate) fn experts(
        &self,
        changed: ChangedExperts,
        device: &Device,
        inputs: &[Slot],
        out: &mut Buffer,
    ) -> Vec<Buffer> {
        let [x, weights, w_gate, w_up, w_down, ..] = inputs else { return Vec::new() };
        let (gate_up, down) = changed.split(inputs);
        let scale = changed.scale;
        let (d, f, m) = (x.shape.last(), w_gate.shape.lengths()[1], self.tokens.len());
        let mut x_md = device.allocate(m * d);
        device.gather_rows(d, x.buffer(), &self.tokens, &mut x_md);
        let (mut gate_mf, mut up_mf) = (device.allocate(m * f), device.allocate(m * f));
        for (w_efd, out_mf) in [(w_gate, &mut gate_mf), (w_up, &mut up_mf)] {
            self.for_each_group(|expert, rows| {
                let size = Size { m: rows.len(), n: f, k: d };
                let x_rd = part(&x_md, rows.start, d);
                let w_fd = part(w_efd.buffer(), expert * f, d);
                device.matmul_nt(size, x_rd, w_fd, part_mut(out_mf, rows.start, f));
            });
        }
        let mut reduced = Vec::new();
        if let Some([a, b_gate, b_up]) = gate_up {
            let x_mr = self.reduce(device, a, scale, &x_md);
            self.expand(device, b_gate, &x_mr, &mut gate_mf);
            self.expand(device, b_up, &x_mr, &mut up_mf);
            reduced.push(x_mr);
        }
        let mut inner_mf = device.allocate(m * f);
        device.swiglu(&gate_mf, &up_mf, &mut inner_mf);
        let mut y_md = device.allocate(m * d);
        self.for_each_group(|expert, rows| {
            let size = Size { m: rows.len(), n: d, k: f };
            let inner_rf = part(&inner_mf, rows.start, f);
            let w_df = part(w_down.buffer(), expert * d, f);
            device.matmul_nt(size, inner_rf, w_df, part_mut(&mut y_md, rows.start, d));
        });
        if let Some([a, b]) = down {
            let inner_mr = self.reduce(device, a, scale, &inner_mf);
            self.expand(device, b, &inner_mr, &mut y_md);
            reduced.push(inner_mr);
        }
        device.combine(d, self.shape.chosen, &self.places, weights.buffer(), &y_md, out);
        let mut saved = vec![x_md, gate_mf, up_mf, y_md];
        saved.append(&mut reduced);
        saved
    }

    /// `scale · x·A[e]ᵀ` for the rows of each group.
    fn reduce(&self, device: &Device, a_eri: &Slot, scale: f32, x_mi: &Buffer) -> Buffer {
        let (r, i) = (a_eri.shape.lengths()[1], a_eri.shape.last());
        let mut x_mr = device.allocate(self.tokens.len() * r);
        self.for_each_group(|expert, rows| {
            let size = Size { m: rows.len(), n: r, k: i };
            let (x, a) = (part(x_mi, rows.start, i), part(a_eri.buffer(), expert * r, i));
            device.matmul_nt(size, x, a, part_mut(&mut x_mr, rows.start, r));
        });
        device.scale_grads(&mut x_mr, scale);
        x_mr
    }

    /// `out += x·B[e]` for the rows of each group.
    fn expand(&self, device: &Device, b_ero: &Slot, x_mr: &Buffer, out_mo: &mut Buffer) {
        let (r, o) = (b_ero.shape.lengths()[1], b_ero.shape.last());
        self.for_each_group(|expert, rows| {
            let size = Size { m: rows.len(), n: o, k: r };
            let (x, b) = (part(x_mr, rows.start, r), part(b_ero.buffer(), expert * r, o));
            let out = part_mut(out_mo, rows.start, o);
            device.matmul_nn(size, x, b, out, Accumulate::Yes);
        });
    }

    /// Adds to the gradients of a change, `A` first, given what its `B`s sent out; returns the gradient
    /// of `x·A[e]ᵀ`, from which [`Self::expand`] with `A` makes that of x.
    fn change_backward(
        &self,
        device: &Device,
        gradients: &mut Gradients<'_>,
        a_eri: &Slot,
        outputs: &[(&Slot, &Buffer)],
        (x_mi, x_mr): (&Buffer, &Buffer),
        scale: f32,
    ) -> Buffer {
        let (r, i) = (a_eri.shape.lengths()[1], a_eri.shape.last());
        let mut dx_mr = device.allocate(x_mr.len());
        device.fill(&mut dx_mr, 0.0);
        for &(b_ero, dout_mo) in outputs {
            let o = b_ero.shape.last();
            self.weight_gradient(device, gradients, b_ero, (x_mr, r), (dout_mo, o));
            let mut own_mr = device.allocate(x_mr.len());
            self.for_each_group(|expert, rows| {
                let size = Size { m: rows.len(), n: r, k: o };
                let dout = part(dout_mo, rows.start, o);
                let b = part(b_ero.buffer(), expert * r, o);
                device.matmul_nt(size, dout, b, part_mut(&mut own_mr, rows.start, r));
            });
            device.add_assign(&mut dx_mr, &own_mr);
        }
        device.scale_grads(&mut dx_mr, scale);
        self.weight_gradient(device, gradients, a_eri, (&dx_mr, r), (x_mi, i));
        dx_mr
    }

    /// Adds to the gradients of `[x, weights, gate, up, down]` and of the changes.
    pub(crate) fn experts_backward(
        &self,
        changed: ChangedExperts,
        device: &Device,
        inputs: &[Slot],
        saved: &[Buffer],
        dout: &Buffer,
        gradients: &mut Gradients<'_>,
    ) {
        let ([x, weights, w_gate, w_up, w_down, ..], [x_md, gate_mf, up_mf, y_md, reduced @ ..]) =
            (inputs, saved)
        else {
            return;
        };
        let (gate_up, down) = changed.split(inputs);
        let scale = changed.scale;
        let (d, f, m) = (x.shape.last(), w_gate.shape.lengths()[1], self.tokens.len());
        let mut dy_md = device.allocate(m * d);
        let mut dweights = device.allocate(weights.buffer().len());
        device.combine_backward(
            d,
            self.shape.chosen,
            &self.places,
            weights.buffer(),
            y_md,
            dout,
            &mut dy_md,
            &mut dweights,
        );
        gradients.pass(weights, Arc::new(dweights));

        let mut inner_mf = device.allocate(m * f);
        device.swiglu(gate_mf, up_mf, &mut inner_mf);
        self.weight_gradient(device, gradients, w_down, (&dy_md, d), (&inner_mf, f));
        let ddown = match (down, reduced.last()) {
            (Some([a, b]), Some(inner_mr)) => {
                let inner = (&inner_mf, inner_mr);
                let d_mr = self.change_backward(device, gradients, a, &[(b, &dy_md)], inner, scale);
                Some((a, d_mr))
            }
            _ => None,
        };
        let mut dinner_mf = inner_mf;
        self.for_each_group(|expert, rows| {
            let size = Size { m: rows.len(), n: f, k: d };
            let dy_rd = part(&dy_md, rows.start, d);
            let w_df = part(w_down.buffer(), expert * d, f);
            let out = part_mut(&mut dinner_mf, rows.start, f);
            device.matmul_nn(size, dy_rd, w_df, out, Accumulate::No);
        });
        if let Some((a, d_mr)) = ddown {
            self.expand(device, a, &d_mr, &mut dinner_mf);
        }
        let (mut dgate_mf, mut dup_mf) = (device.allocate(m * f), device.allocate(m * f));
        device.swiglu_backward(gate_mf, up_mf, &dinner_mf, &mut dgate_mf, &mut dup_mf);
        self.weight_gradient(device, gradients, w_gate, (&dgate_mf, f), (x_md, d));
        self.weight_gradient(device, gradients, w_up, (&dup_mf, f), (x_md, d));
        let dgate_up = match (gate_up, reduced.first()) {
            (Some([a, b_gate, b_up]), Some(x_mr)) => {
                let outputs = [(b_gate, &dgate_mf), (b_up, &dup_mf)];
                let x = (x_md, x_mr);
                let d_mr = self.change_backward(device, gradients, a, &outputs, x, scale);
                Some((a, d_mr))
            }
            _ => None,
        };
        if !x.needs_grad {
            return;
        }
        let mut dx_md = dy_md;
        for (w_efd, dout_mf, accumulate) in
            [(w_gate, &dgate_mf, Accumulate::No), (w_up, &dup_mf, Accumulate::Yes)]
        {
            self.for_each_group(|expert, rows| {
                let size = Size { m: rows.len(), n: d, k: f };
                let dout_rf = part(dout_mf, rows.start, f);
                let w_fd = part(w_efd.buffer(), expert * f, d);
                let out = part_mut(&mut dx_md, rows.start, d);
                device.matmul_nn(size, dout_rf, w_fd, out, accumulate);
            });
        }
        if let Some((a, d_mr)) = dgate_up {
            self.expand(device, a, &d_mr, &mut dx_md);
        }
        let mut dx = gradients.take_zeroed(x);
        device.scatter_add_rows(d, &self.tokens, &dx_md, &mut dx);
        gradients.put(x, dx);
    }

    /// `dw[e] += doutᵀ · input` over the rows of each expert's group.
    fn weight_gradient(
        &self,
        device: &Device,
        gradients: &mut Gradients<'_>,
        w: &Slot,
        (dout, outputs): (&Buffer, usize),
        (input, inputs): (&Buffer, usize),
    ) {
        if !w.needs_grad {
            return;
        }
        // Zeroed first: an expert without tokens has a gradient of zeros.
        let mut dw = gradients.take_zeroed(w);
        self.for_each_group(|expert, rows| {
            let size = Size { m: outputs, n: inputs, k: rows.len() };
            let dout = part(dout, rows.start, outputs);
            let input = part(input, rows.start, inputs);
            let out = part_mut(&mut dw, expert * outputs, inputs);
            device.matmul_tn(size, dout, input, out, Accumulate::Yes);
        });
        gradients.put(w, dw);
    }

    /// Calls `body` with each expert that serves tokens and the rows of its group.
    fn for_each_group(&self, mut body: impl FnMut(usize, Range<usize>)) {
        for (expert, rows) in self.groups().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            body(expert, rows);
        }
    }
}

/// Rows of a dense matrix from row `first` on.
fn part(buffer: &Buffer, first: usize, columns: usize) -> Matrix<'_> {
    Matrix { buffer, offset: first * columns, stride: columns }
}

fn part_mut(buffer: &mut Buffer, first: usize, columns: usize) -> MatrixMut<'_> {
    MatrixMut { buffer, offset: first * columns, stride: columns }
}
