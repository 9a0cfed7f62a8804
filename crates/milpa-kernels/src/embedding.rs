//! Rows of a table by id, and the scatter-add that is its gradient.
//!
//! The gradient is divided by rows of the table: a task goes through all ids and adds those of its
//! rows, in order, so the sums do not depend on the number of threads.

use crate::cpu::Cpu;
use crate::pool::Shares;
use crate::simd::{Simd, dispatch};

/// Elements of a task of the gather.
const TASK: usize = 16 * 1024;

/// Copies row `ids[i]` of `table[vocab, dim]` to row `i` of `out[ids.len(), dim]`.
///
/// # Panics
/// If an id is not below `vocab`.
pub fn gather(cpu: &Cpu, dim: usize, table: &[f32], ids: &[u32], out: &mut [f32]) {
    check(dim, table, ids, out);
    let out = Shares::new(out);
    cpu.pool().for_ranges(ids.len(), (TASK / dim).max(1), |rows| {
        // SAFETY: each task has its own rows.
        let out = unsafe { out.part(rows.start * dim..rows.end * dim) };
        for (out, &id) in out.chunks_exact_mut(dim).zip(&ids[rows]) {
            out.copy_from_slice(&table[id as usize * dim..(id as usize + 1) * dim]);
        }
    });
}

/// Adds row `i` of `dout[ids.len(), dim]` to row `ids[i]` of `dtable[vocab, dim]`, in rising `i`.
///
/// # Panics
/// If an id is not below `vocab`.
pub fn scatter_add(cpu: &Cpu, dim: usize, ids: &[u32], dout: &[f32], dtable: &mut [f32]) {
    check(dim, dtable, ids, dout);
    let vocab = dtable.len() / dim;
    let tasks = cpu.threads();
    let table = Shares::new(dtable);
    cpu.pool().parallel_for(tasks, |task| {
        let rows = vocab * task / tasks..vocab * (task + 1) / tasks;
        // SAFETY: each task has its own rows of the table.
        let part = unsafe { table.part(rows.start * dim..rows.end * dim) };
        dispatch!(cpu.isa(), simd => add_rows(simd, dim, ids, rows.start, dout, part));
    });
}

#[inline(always)]
fn add_rows<S: Simd>(
    simd: S,
    dim: usize,
    ids: &[u32],
    first_row: usize,
    dout: &[f32],
    part: &mut [f32],
) {
    for (&id, from) in ids.iter().zip(dout.chunks_exact(dim)) {
        let Some(row) = (id as usize).checked_sub(first_row) else { continue };
        let Some(to) = part.get_mut(row * dim..(row + 1) * dim) else { continue };
        for (to, from) in to.chunks_mut(S::LANES).zip(from.chunks(S::LANES)) {
            let sum = simd.add(simd.read(to), simd.read(from));
            simd.write(to, sum);
        }
    }
}

#[track_caller]
fn check(dim: usize, table: &[f32], ids: &[u32], rows: &[f32]) {
    assert!(dim > 0 && table.len().is_multiple_of(dim), "table: [vocab, dim]");
    assert_eq!(rows.len(), ids.len() * dim, "one row of {dim} for each id");
    let vocab = table.len() / dim;
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocab) {
        panic!("id {id} is beyond a vocabulary of {vocab}");
    }
}
