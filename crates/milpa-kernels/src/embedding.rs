//! Rows of a table by id, and the scatter-add that is its gradient.

use crate::cpu::Cpu;
use crate::reference;

/// Copies row `ids[i]` of `table[vocab, dim]` to row `i` of `out[ids.len(), dim]`.
pub fn gather(_cpu: &Cpu, dim: usize, table: &[f32], ids: &[u32], out: &mut [f32]) {
    reference::embedding_forward(dim, table, ids, out);
}

/// Adds row `i` of `dout[ids.len(), dim]` to row `ids[i]` of `dtable[vocab, dim]`.
pub fn scatter_add(_cpu: &Cpu, dim: usize, ids: &[u32], dout: &[f32], dtable: &mut [f32]) {
    reference::embedding_backward(dim, ids, dout, dtable);
}
