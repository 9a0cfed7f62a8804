//! Matrix products, blocked and packed for the register file and the caches.
//!
//! One tile kernel (a few rows of A against a few vectors of B, all of C in registers) serves every
//! layout: B is packed into column panels, A is read in place (or packed where it is transposed).
//! It works on 32-bit words along `k`: a word is one f32 or a pair of bf16 (`Multiply`), so both
//! precisions share the blocking. The functions here are the f32 ones; [`crate::gemm_bf16`] has the
//! others.
//! Each element of C is computed by one task, over `k` in rising order with blocks that depend on the
//! sizes alone, so the result does not depend on the number of threads.
//!
//! Blocking after Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication (2008).

use crate::cpu::{Cpu, Isa};
use crate::element::Element;
use crate::memory::{LINE, Line};
use crate::pool::{Pool, Shares};
use crate::scratch::with_scratch;
use crate::simd::{Simd, dispatch};
use crate::view::{Accumulate, Mat, MatMut, Size};

/// Longest block of the summed dimension in words: rows of A for a tile then fit a first-level cache,
/// and few sums are passed over C more than once.
pub(crate) const K_BLOCK: usize = 1024;
/// Most words of packed B that a task works on: three quarters of a second-level cache of 1 MiB.
const B_WORDS: usize = 192 * 1024;
/// Multiply-adds below which a product is not shared between threads.
const SMALL_PRODUCT: usize = 256 * 1024;
/// Groups of row tiles whose part of A, where it is stored by columns, is packed at once: a row of A
/// then gives whole cache lines in sequence.
const PACKED_GROUPS: usize = 8;
/// Steps along `k` between two calls for the cache lines that the tiles to come will read.
const AHEAD_STEPS: usize = 16;
/// How many rows before it copies one packing calls for it.
const ROWS_AHEAD: usize = 16;
/// Rows below which a product streams B once instead of packing it.
pub(crate) const FEW_ROWS: usize = 8;

/// `C[m, n] = A[m, k] · B[n, k]ᵀ`: the forward of a linear layer, `y = x·Wᵀ`.
///
/// With at most eight rows (decoding) it streams B once at the speed of memory.
pub fn matmul_nt(
    cpu: &Cpu,
    size: Size,
    a: Mat<'_>,
    b: Mat<'_>,
    c: MatMut<'_>,
    accumulate: Accumulate,
) {
    a.check("A", size.m, size.k);
    b.check("B", size.n, size.k);
    c.check("C", size.m, size.n);
    if size.m <= FEW_ROWS {
        few_rows_nt(cpu, size, a, b, c, accumulate);
    } else {
        matmul(cpu, size, (Layout::Rows, a), (Layout::Columns, b), c, accumulate);
    }
}

/// `C[m, n] = A[m, k] · B[k, n]`: the gradient of a linear layer's input, `dx = dy·W`.
pub fn matmul_nn(
    cpu: &Cpu,
    size: Size,
    a: Mat<'_>,
    b: Mat<'_>,
    c: MatMut<'_>,
    accumulate: Accumulate,
) {
    a.check("A", size.m, size.k);
    b.check("B", size.k, size.n);
    c.check("C", size.m, size.n);
    matmul(cpu, size, (Layout::Rows, a), (Layout::Rows, b), c, accumulate);
}

/// `C[m, n] = A[k, m]ᵀ · B[k, n]`: the gradient of a linear layer's weight, `dW = dyᵀ·x`.
pub fn matmul_tn(
    cpu: &Cpu,
    size: Size,
    a: Mat<'_>,
    b: Mat<'_>,
    c: MatMut<'_>,
    accumulate: Accumulate,
) {
    a.check("A", size.k, size.m);
    b.check("B", size.k, size.n);
    c.check("C", size.m, size.n);
    matmul(cpu, size, (Layout::Columns, a), (Layout::Rows, b), c, accumulate);
}

/// How a factor lies in memory, seen as the `m × k` or `k × n` factor of the product.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Layout {
    /// Row-major as multiplied.
    Rows,
    /// Stored transposed.
    Columns,
}

/// How two words are multiplied lane by lane, and what a word is made of.
///
/// A value of a type that implements it is the proof that its instructions exist.
pub(crate) trait Multiply<S: Simd>: Copy + Send + Sync {
    /// What the factors hold.
    type Element: Element;
    /// Elements of a word: neighbours along `k`.
    const PER_WORD: usize;

    /// Adds the products of the words' elements to a sum of each lane.
    fn step(self, simd: S, a: S::V, b: S::V, sum: S::V) -> S::V;
    /// Runs a body in a function that enables the instructions.
    fn enter<R>(self, simd: S, body: impl FnOnce() -> R) -> R;
    /// The words of up to `LANES` columns; `high` has the columns' second elements where a word has
    /// two, and is empty beyond the end of `k`.
    fn words(self, simd: S, low: &[Self::Element], high: &[Self::Element]) -> S::V;
    /// Views scratch memory as elements.
    fn elements(self, words: &mut [f32]) -> &mut [Self::Element];
    /// One word; `high` as in [`Self::words`].
    fn word(self, low: Self::Element, high: Self::Element) -> f32;
}

/// f32: a word is a value.
#[derive(Clone, Copy)]
pub(crate) struct Single;

impl<S: Simd> Multiply<S> for Single {
    type Element = f32;
    const PER_WORD: usize = 1;

    #[inline(always)]
    fn step(self, simd: S, a: S::V, b: S::V, sum: S::V) -> S::V {
        simd.fma(a, b, sum)
    }
    #[inline(always)]
    fn enter<R>(self, simd: S, body: impl FnOnce() -> R) -> R {
        simd.enter(body)
    }
    #[inline(always)]
    fn words(self, simd: S, low: &[f32], _high: &[f32]) -> S::V {
        simd.read(low)
    }
    #[inline(always)]
    fn elements(self, words: &mut [f32]) -> &mut [f32] {
        words
    }
    #[inline(always)]
    fn word(self, low: f32, _high: f32) -> f32 {
        low
    }
}

/// A product as the tasks see it.
pub(crate) struct Product<'a, E = f32, C = f32> {
    pub(crate) size: Size,
    pub(crate) a: Mat<'a, E>,
    pub(crate) a_layout: Layout,
    pub(crate) b: Mat<'a, E>,
    pub(crate) b_layout: Layout,
    pub(crate) c: &'a Shares<'a, C>,
    /// Where C begins in `c`.
    pub(crate) c_start: usize,
    pub(crate) c_stride: usize,
    pub(crate) accumulate: Accumulate,
}

fn matmul(
    cpu: &Cpu,
    size: Size,
    (a_layout, a): (Layout, Mat<'_>),
    (b_layout, b): (Layout, Mat<'_>),
    c: MatMut<'_>,
    accumulate: Accumulate,
) {
    let Some(c) = with_terms(size, c, accumulate) else { return };
    let c_stride = c.stride;
    let c = &Shares::new(c.data);
    let product = Product { size, a, a_layout, b, b_layout, c, c_start: 0, c_stride, accumulate };
    dispatch!(cpu.isa(), simd => run(simd, Single, Some(cpu.pool()), &product));
}

/// Returns C if there is anything to multiply; a sum without terms is zero.
pub(crate) fn with_terms<C: Element>(
    Size { m, n, k }: Size,
    c: MatMut<'_, C>,
    accumulate: Accumulate,
) -> Option<MatMut<'_, C>> {
    if m == 0 || n == 0 {
        return None;
    }
    if k > 0 {
        return Some(c);
    }
    if accumulate == Accumulate::No {
        (0..m).for_each(|row| c.data[row * c.stride..row * c.stride + n].fill(C::default()));
    }
    None
}

/// `C = A · Bᵀ` on the calling thread, C beginning at `c_start` of a slice that other tasks share.
///
/// # Safety
/// No other task may touch the rows and columns of this C.
pub(crate) unsafe fn matmul_nt_inline(
    isa: Isa,
    size: Size,
    a: Mat<'_>,
    b: Mat<'_>,
    (c, c_start, c_stride): (&Shares<'_, f32>, usize, usize),
) {
    a.check("A", size.m, size.k);
    b.check("B", size.n, size.k);
    let accumulate = Accumulate::No;
    let (a_layout, b_layout) = (Layout::Rows, Layout::Columns);
    let product = Product { size, a, a_layout, b, b_layout, c, c_start, c_stride, accumulate };
    dispatch!(isa, simd => run(simd, Single, None, &product));
}

/// Columns of C divided into panels of one to `TILE.1` vectors, as even as they can be.
#[derive(Clone, Copy)]
struct Panels {
    count: usize,
    /// Vectors of a panel; the first `wider` panels have one more.
    vectors: usize,
    wider: usize,
}

impl Panels {
    #[inline(always)]
    fn new<S: Simd>(columns: usize) -> Self {
        let vectors = columns.div_ceil(S::LANES);
        let count = vectors.div_ceil(S::TILE.1);
        Self { count, vectors: vectors / count, wider: vectors % count }
    }

    /// The first vector of a panel (or the end of the last).
    #[inline(always)]
    fn start(self, panel: usize) -> usize {
        panel * self.vectors + panel.min(self.wider)
    }
}

/// Divides `total` into `parts` as even as possible and returns the bounds of one part.
#[inline(always)]
fn part(total: usize, parts: usize, index: usize) -> (usize, usize) {
    (total * index / parts, total * (index + 1) / parts)
}

#[inline(always)]
pub(crate) fn run<S: Simd, M: Multiply<S>, C: Element>(
    simd: S,
    multiply: M,
    pool: Option<&Pool>,
    product: &Product<'_, M::Element, C>,
) {
    let words = product.size.k.div_ceil(M::PER_WORD);
    let packs_a = product.a_layout == Layout::Columns;
    let plan = Plan::new::<S>(product.size, words, packs_a, pool.map_or(1, Pool::threads));
    let task = |task: usize| {
        let rows = part(plan.row_groups, plan.row_tasks, task % plan.row_tasks);
        let columns = part(plan.panels.count, plan.column_tasks, task / plan.row_tasks);
        let share = Share::new::<S>(&plan, packs_a, rows, columns);
        with_scratch(share.a_words + share.b_words, |scratch| {
            multiply.enter(
                simd,
                #[inline(always)]
                || block(simd, multiply, product, &plan, &share, scratch),
            );
        });
    };
    let tasks = plan.row_tasks * plan.column_tasks;
    match pool {
        Some(pool) => pool.parallel_for(tasks, task),
        None => (0..tasks).for_each(task),
    }
}

/// How a product is divided. The blocks of `k` depend on the sizes alone; the tasks, which do not
/// change any result, also on the number of threads.
struct Plan {
    panels: Panels,
    /// Words.
    k_block: usize,
    /// Pairs of row tiles: A, where packed, is packed by pairs.
    row_groups: usize,
    row_tasks: usize,
    column_tasks: usize,
}

impl Plan {
    #[inline(always)]
    fn new<S: Simd>(Size { m, n, .. }: Size, k: usize, packs_a: bool, threads: usize) -> Self {
        let panels = Panels::new::<S>(n);
        let row_groups = m.div_ceil(2 * S::TILE.0);
        let k_most = (B_WORDS / n.next_multiple_of(S::LANES)).clamp(K_BLOCK / 2, K_BLOCK);
        let k_block = if k <= K_BLOCK { k } else { k.div_ceil(k.div_ceil(k_most)) };
        let panels_at_once = (B_WORDS / (k_block * S::LANES * S::TILE.1)).max(1);
        let fewest = panels.count.div_ceil(panels_at_once);
        let mut plan = Self { panels, k_block, row_groups, row_tasks: 1, column_tasks: fewest };
        if threads == 1 || m * n * k < SMALL_PRODUCT {
            return plan;
        }
        // A task packs its own columns of B (and its rows of A where they are packed): few tasks
        // pack little, many tasks balance well. In units of multiply-adds, from measurement:
        let (b_price, a_price) = (20, if packs_a { 8 } else { 2 });
        let mut lowest = usize::MAX;
        for row_tasks in 1..=row_groups.min(4 * threads) {
            for column_tasks in fewest..=panels.count.min(fewest.max(4 * threads)) {
                let tasks = row_tasks * column_tasks;
                let rows = row_groups.div_ceil(row_tasks) * 2 * S::TILE.0;
                let columns = panels.start(panels.count.div_ceil(column_tasks)) * S::LANES;
                // The last task leaves the other threads idle for an eighth of itself on average.
                let rounds = tasks.div_ceil(threads) * threads * 8 + threads;
                let cost = rows * columns * rounds / 8
                    + b_price * row_tasks * n
                    + a_price * column_tasks * m;
                if cost < lowest {
                    lowest = cost;
                    (plan.row_tasks, plan.column_tasks) = (row_tasks, column_tasks);
                }
            }
        }
        plan
    }
}

/// The part of C that one task computes.
struct Share {
    rows: (usize, usize),
    first_panel: usize,
    end_panel: usize,
    first_vector: usize,
    a_words: usize,
    b_words: usize,
}

impl Share {
    #[inline(always)]
    fn new<S: Simd>(
        plan: &Plan,
        packs_a: bool,
        groups: (usize, usize),
        panels: (usize, usize),
    ) -> Self {
        let group = 2 * S::TILE.0;
        let first_vector = plan.panels.start(panels.0);
        let vectors = plan.panels.start(panels.1) - first_vector;
        Self {
            rows: (groups.0 * group, groups.1 * group),
            first_panel: panels.0,
            end_panel: panels.1,
            first_vector,
            a_words: if packs_a {
                (PACKED_GROUPS * group * plan.k_block).next_multiple_of(LINE)
            } else {
                0
            },
            b_words: vectors * S::LANES * plan.k_block,
        }
    }
}

/// Computes a task's part of C, over all of `k`.
#[inline(always)]
fn block<S: Simd, M: Multiply<S>, C: Element>(
    simd: S,
    multiply: M,
    product: &Product<'_, M::Element, C>,
    plan: &Plan,
    share: &Share,
    scratch: &mut [f32],
) {
    let Size { m, n, k } = product.size;
    // The elements of `k` that some words hold: the last word may be half empty.
    let elements = |first: usize, words: usize| {
        let start = (first * M::PER_WORD).min(k);
        (start, k.min((first + words) * M::PER_WORD) - start)
    };
    let words = k.div_ceil(M::PER_WORD);
    let panels = plan.panels;
    let (tile_rows, group) = (S::TILE.0, 2 * S::TILE.0);
    let (first_row, end_row) = (share.rows.0, m.min(share.rows.1));
    let packs_a = product.a_layout == Layout::Columns;
    let (a_packed, b_packed) = scratch.split_at_mut(share.a_words);
    for k_start in (0..words).step_by(plan.k_block) {
        let depth = plan.k_block.min(words - k_start);
        let k_here = elements(k_start, depth);
        for panel in share.first_panel..share.end_panel {
            let (start, end) = (panels.start(panel), panels.start(panel + 1));
            let width = (end - start) * S::LANES;
            let at = (start - share.first_vector) * S::LANES * depth;
            let to = &mut b_packed[at..at + width * depth];
            let columns = (start * S::LANES, n.min(end * S::LANES));
            match product.b_layout {
                Layout::Rows => pack_rows(simd, multiply, product.b, k_here, columns, width, to),
                Layout::Columns => {
                    pack_columns(simd, multiply, product.b, k_here, columns, width, to);
                }
            }
        }
        let add = k_start > 0 || product.accumulate == Accumulate::Yes;
        let next_k = elements(k_start + depth, plan.k_block.min(words - k_start - depth));
        let mut b_ahead = match product.b_layout {
            Layout::Rows => {
                let first = share.first_vector * S::LANES;
                let columns = (first, n.min(panels.start(share.end_panel) * S::LANES));
                LinesAhead::new::<S, M>(product.b, next_k, columns)
            }
            // Rows of a weight, which are long along `k`: the hardware follows them.
            Layout::Columns => LinesAhead::none(),
        };
        let mut a_ahead = LinesAhead::none();
        for group_row in (first_row..end_row).step_by(group) {
            let group_end = end_row.min(group_row + group);
            let group_index = (group_row - first_row) / group % PACKED_GROUPS;
            if packs_a && group_index == 0 {
                let rows = (group_row, end_row.min(group_row + PACKED_GROUPS * group));
                let to = &mut a_packed[..PACKED_GROUPS * group * depth];
                pack_groups(simd, multiply, product.a, k_here, rows, group, to);
                let next = (rows.1, end_row.min(rows.1 + PACKED_GROUPS * group));
                a_ahead = LinesAhead::new::<S, M>(product.a, k_here, next);
            }
            let a_group = &a_packed[if packs_a { group_index * group * depth } else { 0 }..];
            for row in (group_row..group_end).step_by(tile_rows) {
                let rows = tile_rows.min(group_end - row);
                for panel in share.first_panel..share.end_panel {
                    let (start, end) = (panels.start(panel), panels.start(panel + 1));
                    let b_at = (start - share.first_vector) * S::LANES * depth;
                    let column = start * S::LANES;
                    let columns = (end * S::LANES).min(n) - column;
                    // SAFETY: `Product` was checked to hold m × k, k × n and m × n elements and this
                    // tile lies within them; the packed panels were filled above for `depth` steps;
                    // no other task writes these rows and columns of C.
                    unsafe {
                        let (a, a_stride) = if packs_a {
                            (a_group.as_ptr().add(row - group_row).cast(), group)
                        } else {
                            let at = row * product.a.stride + k_here.0;
                            (product.a.data.as_ptr().add(at), product.a.stride)
                        };
                        let tile = Tile {
                            depth,
                            a,
                            a_stride,
                            b: b_packed.as_ptr().add(b_at),
                            b_stride: (end - start) * S::LANES,
                            c: product
                                .c
                                .pointer()
                                .add(product.c_start + row * product.c_stride + column),
                            c_stride: product.c_stride,
                            add,
                            ahead: if panel > share.first_panel {
                                b_ahead.next()
                            } else if packs_a {
                                a_ahead.next()
                            } else {
                                Ahead::rows(
                                    product.a,
                                    row + tile_rows,
                                    end_row,
                                    tile_rows,
                                    k_here.0,
                                )
                            },
                        };
                        if packs_a {
                            multiply_tile::<S, M, C, true>(
                                simd, multiply, rows, columns, true, &tile,
                            );
                        } else {
                            multiply_tile::<S, M, C, false>(
                                simd, multiply, rows, columns, true, &tile,
                            );
                        }
                    }
                }
            }
        }
    }
}

/// Asks for a cache line; any address is allowed, and a bad one is ignored.
#[inline(always)]
pub(crate) fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Cache lines that a tile calls for while it computes: every [`AHEAD_STEPS`] steps `count` lines
/// that are `stride` bytes apart, the next ones `step` bytes further.
///
/// Activations come from memory. Calls spread over the steps of a tile cost nothing; many at once
/// hold up the tile's own loads.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    start: *const u8,
    stride: usize,
    count: usize,
    step: usize,
}

impl Ahead {
    pub(crate) const NONE: Self = Self { start: std::ptr::null(), stride: 0, count: 0, step: 0 };

    /// Rows of a row-major factor that are read in place: `count` from `row`, as far as there are.
    #[inline(always)]
    fn rows<E>(from: Mat<'_, E>, row: usize, end: usize, count: usize, column: usize) -> Self {
        Self {
            start: from.data.as_ptr().wrapping_add(row * from.stride + column).cast(),
            stride: from.stride * size_of::<E>(),
            count: count.min(end.saturating_sub(row)),
            step: AHEAD_STEPS * size_of::<f32>(),
        }
    }

    /// Calls for the lines of the steps from `p` on, a multiple of [`AHEAD_STEPS`].
    #[inline(always)]
    fn call(&self, p: usize) {
        let start = self.start.wrapping_add(p / AHEAD_STEPS * self.step);
        for index in 0..self.count {
            prefetch_far(start.wrapping_add(index * self.stride));
        }
    }
}

/// A part of a stored factor that will be packed next: one tile calls for one cache line of every
/// word's rows, the next tile for the next line.
struct LinesAhead {
    row: *const u8,
    row_bytes: usize,
    rows_per_word: usize,
    lines: usize,
    /// Lines of a word's rows handed out.
    given: usize,
    words: usize,
}

impl LinesAhead {
    fn none() -> Self {
        let row = std::ptr::null();
        Self { row, row_bytes: 0, rows_per_word: 1, lines: 0, given: 0, words: 0 }
    }

    /// Rows `first..first + depth` of columns `start..end`.
    #[inline(always)]
    fn new<S: Simd, M: Multiply<S>>(
        from: Mat<'_, M::Element>,
        (first, depth): (usize, usize),
        (start, end): (usize, usize),
    ) -> Self {
        Self {
            row: from.data.as_ptr().wrapping_add(first * from.stride + start).cast(),
            row_bytes: from.stride * size_of::<M::Element>(),
            rows_per_word: M::PER_WORD,
            lines: (end.saturating_sub(start) * size_of::<M::Element>()).div_ceil(64) * M::PER_WORD,
            given: 0,
            words: depth / M::PER_WORD,
        }
    }

    #[inline(always)]
    fn next(&mut self) -> Ahead {
        if self.given == self.lines || self.words == 0 {
            return Ahead::NONE;
        }
        let (line, row) = (self.given / self.rows_per_word, self.given % self.rows_per_word);
        self.given += 1;
        let stride = self.rows_per_word * self.row_bytes;
        Ahead {
            start: self.row.wrapping_add(row * self.row_bytes + line * 64),
            stride,
            count: AHEAD_STEPS,
            step: AHEAD_STEPS * stride,
        }
    }
}

/// Asks for a cache line in the second level; any address is allowed, and a bad one is ignored.
#[inline(always)]
fn prefetch_far<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of x86-64, and a prefetch never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Calls for `width` elements of a stored row, which may lie outside.
#[inline(always)]
fn call_row<E>(from: Mat<'_, E>, row: usize, column: usize, width: usize) {
    let start = from.data.as_ptr().wrapping_add(row * from.stride + column);
    for at in (0..width).step_by(64 / size_of::<E>()) {
        prefetch_far(start.wrapping_add(at));
    }
}

/// Copies columns of a row-major factor into a panel of words, `width` in a row, zero beyond them.
#[inline(always)]
pub(crate) fn pack_rows<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    from: Mat<'_, M::Element>,
    (first, depth): (usize, usize),
    (start, end): (usize, usize),
    width: usize,
    to: &mut [f32],
) {
    let whole = (end - start) / S::LANES * S::LANES;
    for (p, out) in (0..depth).step_by(M::PER_WORD).zip(to.chunks_exact_mut(width)) {
        for row in p + ROWS_AHEAD..p + ROWS_AHEAD + M::PER_WORD {
            // At the end the rows of the panel to the right.
            let (row, column) = if row < depth { (row, start) } else { (row - depth, end) };
            call_row(from, first + row, column, width);
        }
        let (low, high) = word_rows::<S, M>(from, (first, depth), p, (start, end));
        let (out, rest) = out.split_at_mut(whole);
        let vectors = || low.chunks_exact(S::LANES).zip(high.chunks_exact(S::LANES));
        if high.is_empty() {
            for (out, low) in out.chunks_exact_mut(S::LANES).zip(low.chunks_exact(S::LANES)) {
                simd.write(out, multiply.words(simd, low, &[]));
            }
        } else {
            for (out, (low, high)) in out.chunks_exact_mut(S::LANES).zip(vectors()) {
                simd.write(out, multiply.words(simd, low, high));
            }
        }
        let (mut low, mut high) = (&low[whole..], high.get(whole..).unwrap_or_default());
        for out in rest.chunks_exact_mut(S::LANES) {
            simd.write(out, multiply.words(simd, low, high));
            (low, high) = (&[], &[]);
        }
    }
}

/// The parts of the one or two stored rows whose elements share words; the second is empty beyond
/// the end of `k`.
#[inline(always)]
fn word_rows<S: Simd, M: Multiply<S>>(
    from: Mat<'_, M::Element>,
    (first, depth): (usize, usize),
    p: usize,
    (start, end): (usize, usize),
) -> (&[M::Element], &[M::Element]) {
    let row = |p: usize| &from.data[(first + p) * from.stride + start..][..end - start];
    (row(p), if M::PER_WORD == 2 && p + 1 < depth { row(p + 1) } else { &[] })
}

/// Copies `rows` (columns of the stored factor) into panels of `group` words, going through memory
/// row by stored row.
#[inline(always)]
fn pack_groups<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    from: Mat<'_, M::Element>,
    (first, depth): (usize, usize),
    (start, end): (usize, usize),
    group: usize,
    to: &mut [f32],
) {
    let words = depth.div_ceil(M::PER_WORD);
    for word in 0..words {
        for row in word * M::PER_WORD..(word + 1) * M::PER_WORD {
            call_row(from, first + row + ROWS_AHEAD, start, end - start);
        }
        let (low, high) = word_rows::<S, M>(from, (first, depth), word * M::PER_WORD, (start, end));
        if group == S::LANES && low.len().is_multiple_of(S::LANES) {
            let outs = to[word * group..].chunks_mut(words * group);
            let lows = low.chunks_exact(S::LANES);
            if high.is_empty() {
                for (out, low) in outs.zip(lows) {
                    simd.write(&mut out[..S::LANES], multiply.words(simd, low, &[]));
                }
            } else {
                for ((out, low), high) in outs.zip(lows).zip(high.chunks_exact(S::LANES)) {
                    simd.write(&mut out[..S::LANES], multiply.words(simd, low, high));
                }
            }
            continue;
        }
        for (index, at) in (0..end - start).step_by(group).enumerate() {
            let out = &mut to[(index * words + word) * group..][..group];
            for (lane, out) in (0..group).step_by(S::LANES).zip(out.chunks_mut(S::LANES)) {
                let at = at + lane;
                let count = low.len().saturating_sub(at).min(out.len());
                let low = if count == 0 { &[] } else { &low[at..at + count] };
                let high = high.get(at..at + count).unwrap_or_default();
                simd.write(out, multiply.words(simd, low, high));
            }
        }
    }
}

/// As [`pack_rows`] for a factor that is stored transposed: column `j` of the panel is a row.
#[inline(always)]
pub(crate) fn pack_columns<S: Simd, M: Multiply<S>>(
    simd: S,
    multiply: M,
    from: Mat<'_, M::Element>,
    (first, depth): (usize, usize),
    (start, end): (usize, usize),
    width: usize,
    to: &mut [f32],
) {
    let lanes = S::LANES;
    let words = depth.div_ceil(M::PER_WORD);
    let whole_words = depth / M::PER_WORD;
    for column in (0..width).step_by(lanes) {
        let used = lanes.min((end - start).saturating_sub(column));
        let mut word = 0;
        if used == lanes && from.stride.is_multiple_of(M::PER_WORD) {
            let base = (start + column) * from.stride + first;
            let rows = &from.data[base..base + (lanes - 1) * from.stride + depth];
            let stride = from.stride / M::PER_WORD;
            while word + lanes <= whole_words {
                // SAFETY: `rows` spans `lanes` rows of `depth` elements, `whole_words` words; `to`
                // has `words` rows of `width`, of which `lanes` rows from `word` and `lanes`
                // columns from `column` are written.
                unsafe {
                    let to = to[word * width + column..].as_mut_ptr();
                    let from = rows.as_ptr().add(word * M::PER_WORD).cast::<f32>();
                    // The same words of the rows that come next.
                    for lane in lanes..2 * lanes {
                        prefetch_far(from.wrapping_add(lane * stride));
                    }
                    simd.transpose(from, stride, to, width);
                }
                word += lanes;
            }
        }
        for word in word..words {
            for lane in 0..lanes {
                to[word * width + column + lane] = if lane < used {
                    let row = &from.data[(start + column + lane) * from.stride + first..][..depth];
                    let p = word * M::PER_WORD;
                    multiply.word(row[p], row.get(p + 1).copied().unwrap_or_default())
                } else {
                    0.0
                };
            }
        }
    }
}

/// Operands of one tile: `C += A · B` over `depth` words.
///
/// Row `i` of A begins at element `i * a_stride`; where A is stored by columns, its word `p` is the
/// word `p * a_stride + i`. B has `b_stride` words for each of A's.
pub(crate) struct Tile<E = f32, C = f32> {
    pub(crate) depth: usize,
    pub(crate) a: *const E,
    pub(crate) a_stride: usize,
    pub(crate) b: *const f32,
    pub(crate) b_stride: usize,
    pub(crate) c: *mut C,
    pub(crate) c_stride: usize,
    /// Whether C is added to (true) or overwritten.
    pub(crate) add: bool,
    pub(crate) ahead: Ahead,
}

impl<E, C> Clone for Tile<E, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<E, C> Copy for Tile<E, C> {}

/// Multiplies a tile of at most `TILE.0` rows and `TILE.1` vectors.
///
/// A function of its own, entered anew: inlined into each of its callers, its many loops took
/// minutes to compile.
///
/// # Safety
/// The pointers of `tile` are valid for `rows`, `columns` and `depth` with their strides, C does not
/// overlap A or B, and nothing else writes C. B is readable to the end of the last vector, or
/// `columns` are fewer than a vector.
#[inline(never)]
unsafe fn multiply_tile<S: Simd, M: Multiply<S>, C: Element, const A_COLUMNS: bool>(
    simd: S,
    multiply: M,
    rows: usize,
    columns: usize,
    padded: bool,
    tile: &Tile<M::Element, C>,
) {
    let vectors = columns.div_ceil(S::LANES);
    let last = columns - (vectors - 1) * S::LANES;
    let masked = !padded && last < S::LANES;
    debug_assert!(!masked || vectors == 1, "a vector that is not readable is multiplied alone");
    macro_rules! cases {
        ($(($rows:literal, $vectors:literal, $masked:literal))*) => {
            multiply.enter(
                simd,
                #[inline(always)]
                || {
                    let mut tile = *tile;
                    let mut left = rows;
                    while left > 0 {
                        // What is not a whole tile: by powers of two.
                        let rows = if left >= S::TILE.0 { S::TILE.0 } else { 1 << left.ilog2() };
                        match (rows, vectors, masked) {
                            $(($rows, $vectors, $masked) => {
                                let whole = $rows == S::TILE.0;
                                let part = $rows < S::TILE.0 && ($rows as usize).is_power_of_two();
                                if (whole || part) && $vectors <= S::TILE.1 {
                                    // SAFETY: passed on.
                                    unsafe {
                                        tile_kernel::<S, M, C, $rows, $vectors, $masked, A_COLUMNS>(
                                            simd, multiply, last, &tile,
                                        );
                                    }
                                }
                            })*
                            _ => unreachable!("a tile of {rows} rows and {vectors} vectors"),
                        }
                        left -= rows;
                        if left > 0 {
                            tile = tile.below::<S, M, A_COLUMNS>(rows);
                            tile.ahead = Ahead::NONE;
                        }
                    }
                },
            );
        };
    }
    cases! {
        (8, 3, false) (8, 2, false) (8, 1, false) (8, 1, true)
        (6, 3, false) (6, 2, false) (6, 1, false) (6, 1, true)
        (5, 3, false) (5, 2, false) (5, 1, false) (5, 1, true)
        (4, 3, false) (4, 2, false) (4, 1, false) (4, 1, true)
        (2, 3, false) (2, 2, false) (2, 1, false) (2, 1, true)
        (1, 3, false) (1, 2, false) (1, 1, false) (1, 1, true)
    }
}

impl<E: Element, C> Tile<E, C> {
    /// The same tile `rows` further down.
    #[inline(always)]
    fn below<S: Simd, M: Multiply<S>, const A_COLUMNS: bool>(&self, rows: usize) -> Self {
        let a_step = rows * if A_COLUMNS { M::PER_WORD } else { self.a_stride };
        Self {
            a: self.a.wrapping_add(a_step),
            c: self.c.wrapping_add(rows * self.c_stride),
            ..*self
        }
    }

    /// The same tile `columns` further to the right.
    #[inline(always)]
    fn right(&self, columns: usize) -> Self {
        Self { b: self.b.wrapping_add(columns), c: self.c.wrapping_add(columns), ..*self }
    }
}

/// Multiplies small row-major factors without packing: any number of rows and columns.
///
/// # Safety
/// As [`multiply_tile`] for all `rows` and `columns`; B need not be readable beyond `columns`.
#[inline(always)]
pub(crate) unsafe fn multiply_small<S: Simd, M: Multiply<S>, C: Element, const A_COLUMNS: bool>(
    simd: S,
    multiply: M,
    rows: usize,
    columns: usize,
    whole: &Tile<M::Element, C>,
) {
    let columns_of = |start: usize, width: usize| {
        for row in (0..rows).step_by(S::TILE.0) {
            let tile = whole.right(start).below::<S, M, A_COLUMNS>(row);
            let rows = S::TILE.0.min(rows - row);
            // SAFETY: the tile lies within the whole, whose pointers are valid by the contract.
            unsafe {
                multiply_tile::<S, M, C, A_COLUMNS>(simd, multiply, rows, width, false, &tile);
            }
        }
    };
    let readable = columns / S::LANES * S::LANES;
    if readable > 0 {
        let panels = Panels::new::<S>(readable);
        for panel in 0..panels.count {
            let start = panels.start(panel) * S::LANES;
            columns_of(start, panels.start(panel + 1) * S::LANES - start);
        }
    }
    if readable < columns {
        columns_of(readable, columns - readable);
    }
}

/// The innermost kernel, with all of C in registers.
///
/// # Safety
/// As [`multiply_tile`] for `ROWS` rows and `VECTORS` vectors, of the last of which `last` lanes;
/// `MASKED` reads those lanes of B alone.
#[inline(always)]
unsafe fn tile_kernel<
    S: Simd,
    M: Multiply<S>,
    C: Element,
    const ROWS: usize,
    const VECTORS: usize,
    const MASKED: bool,
    const A_COLUMNS: bool,
>(
    simd: S,
    multiply: M,
    last: usize,
    tile: &Tile<M::Element, C>,
) {
    let &Tile { depth, a, a_stride, b, b_stride, c, c_stride, add, ahead } = tile;
    let mask = simd.mask(last);
    let mut sums = [[simd.zero(); VECTORS]; ROWS];
    if add {
        for row in 0..ROWS {
            for line in 0..(VECTORS * S::LANES).div_ceil(LINE) {
                prefetch(c.wrapping_add(row * c_stride + line * LINE));
            }
        }
    }
    // SAFETY: every address is within the operands by the contract of `multiply_tile`.
    unsafe {
        let (mut a, mut b) = (a, b);
        for first in (0..depth).step_by(AHEAD_STEPS) {
            ahead.call(first);
            for _ in first..depth.min(first + AHEAD_STEPS) {
                let mut b_now = [simd.zero(); VECTORS];
                for v in 0..VECTORS {
                    let from = b.add(v * S::LANES);
                    b_now[v] = if MASKED { simd.load_masked(mask, from) } else { simd.load(from) };
                }
                for row in 0..ROWS {
                    let word = if A_COLUMNS {
                        a.cast::<f32>().add(row)
                    } else {
                        a.add(row * a_stride).cast::<f32>()
                    };
                    let a_now = simd.splat(word.read_unaligned());
                    for v in 0..VECTORS {
                        sums[row][v] = multiply.step(simd, a_now, b_now[v], sums[row][v]);
                    }
                }
                a = a.wrapping_add(M::PER_WORD * if A_COLUMNS { a_stride } else { 1 });
                b = b.wrapping_add(b_stride);
            }
        }
        if !MASKED && last == S::LANES && size_of::<C>() == size_of::<f32>() {
            for row in 0..ROWS {
                for v in 0..VECTORS {
                    let c = c.add(row * c_stride + v * S::LANES);
                    let sum = sums[row][v];
                    C::store(simd, c, if add { simd.add(C::load(simd, c), sum) } else { sum });
                }
            }
            return;
        }
        // Through memory: where the loop below is not unrolled, the compiler would keep the sums
        // there during the steps too.
        let mut kept = [[Line::ZERO; VECTORS]; ROWS];
        for row in 0..ROWS {
            for v in 0..VECTORS {
                simd.store(kept[row][v].0.as_mut_ptr(), sums[row][v]);
            }
        }
        for row in 0..ROWS {
            for v in 0..VECTORS {
                let c = c.add(row * c_stride + v * S::LANES);
                let lanes = if v + 1 < VECTORS { S::LANES } else { last };
                let mut sum = simd.load(kept[row][v].0.as_ptr());
                if lanes == S::LANES {
                    if add {
                        sum = simd.add(C::load(simd, c), sum);
                    }
                    C::store(simd, c, sum);
                } else {
                    if add {
                        sum = simd.add(C::load_part(simd, lanes, c), sum);
                    }
                    C::store_part(simd, lanes, c, sum);
                }
            }
        }
    }
}

/// `C = A · Bᵀ` for few rows of A: dot products with each row of B, which is read once.
fn few_rows_nt(
    cpu: &Cpu,
    size: Size,
    a: Mat<'_>,
    b: Mat<'_>,
    c: MatMut<'_>,
    accumulate: Accumulate,
) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    let c_stride = c.stride;
    let out = Shares::new(c.data);
    // About 16 thousand products per task: far more than a task costs to hand out.
    let columns = (16 * 1024 / k.max(1)).clamp(4, 256) / DOT_TILE * DOT_TILE;
    let isa = cpu.isa();
    cpu.pool().parallel_for(n.div_ceil(columns), |task| {
        let (start, end) = (task * columns, n.min((task + 1) * columns));
        let mut one = |row: usize, column: usize, value: f32| {
            // SAFETY: in range (C was checked), and this task alone writes its columns.
            unsafe {
                let at = out.pointer().add(row * c_stride + column);
                *at = if accumulate == Accumulate::Yes { *at + value } else { value };
            }
        };
        dispatch!(isa, simd => dot_rows(simd, m, k, a, b, (start, end), &mut one));
    });
}

#[inline(always)]
fn dot_rows<S: Simd>(
    simd: S,
    m: usize,
    k: usize,
    a: Mat<'_>,
    b: Mat<'_>,
    (start, end): (usize, usize),
    out: &mut impl FnMut(usize, usize, f32),
) {
    let mut column = start;
    while column < end {
        let columns = if end - column >= DOT_TILE { DOT_TILE } else { 1 };
        let mut row = 0;
        while row < m {
            let rows = if m - row >= DOT_TILE { DOT_TILE } else { 1 };
            let mut dots = [0.0; DOT_TILE * DOT_TILE];
            let b = b.rows_from(column, columns, k);
            let a = a.rows_from(row, rows, k);
            dot_tile(simd, k, (b, columns), (a, rows), &mut dots);
            for j in 0..columns {
                for i in 0..rows {
                    out(row + i, column + j, dots[j * rows + i]);
                }
            }
            row += rows;
        }
        column += columns;
    }
}

/// Rows on either side of a tile of dot products.
pub(crate) const DOT_TILE: usize = 4;

/// Dot products of each of one or four rows with each of one or four others, `dots[row][other]`.
///
/// Each is summed in the same order, whatever the others are.
#[inline(always)]
pub(crate) fn dot_tile<S: Simd>(
    simd: S,
    k: usize,
    (rows, row_count): (Mat<'_>, usize),
    (others, other_count): (Mat<'_>, usize),
    dots: &mut [f32; DOT_TILE * DOT_TILE],
) {
    rows.check("rows", row_count, k);
    others.check("others", other_count, k);
    // SAFETY: both views were just checked.
    unsafe {
        match (row_count, other_count) {
            (4, 4) => dots_of::<S, 4, 4>(simd, k, rows, others, dots),
            (4, 1) => dots_of::<S, 4, 1>(simd, k, rows, others, dots),
            (1, 4) => dots_of::<S, 1, 4>(simd, k, rows, others, dots),
            (1, 1) => dots_of::<S, 1, 1>(simd, k, rows, others, dots),
            _ => unreachable!("a tile of {row_count} by {other_count} dot products"),
        }
    }
}

/// # Safety
/// `rows` holds `R` rows and `others` `N` rows of `k`.
#[inline(always)]
unsafe fn dots_of<S: Simd, const R: usize, const N: usize>(
    simd: S,
    k: usize,
    rows: Mat<'_>,
    others: Mat<'_>,
    dots: &mut [f32; DOT_TILE * DOT_TILE],
) {
    let (row_start, other_start) = (rows.data.as_ptr(), others.data.as_ptr());
    let mut sums = [[simd.zero(); N]; R];
    let whole = k / S::LANES * S::LANES;
    for at in (0..k).step_by(S::LANES) {
        let mask = simd.mask((k - at).min(S::LANES));
        // SAFETY: a full vector ends at or before `k`, and a partial one reads to `k` exactly.
        unsafe {
            let load =
                |from: *const f32, index: usize, stride: usize| from.add(index * stride + at);
            let mut x = [simd.zero(); N];
            for i in 0..N {
                let from = load(other_start, i, others.stride);
                x[i] = if at < whole { simd.load(from) } else { simd.load_masked(mask, from) };
            }
            for r in 0..R {
                let from = load(row_start, r, rows.stride);
                // The rows that come next: streams are too short for the hardware to guess.
                prefetch(from.wrapping_add(R * rows.stride));
                let row = if at < whole { simd.load(from) } else { simd.load_masked(mask, from) };
                for i in 0..N {
                    sums[r][i] = simd.fma(row, x[i], sums[r][i]);
                }
            }
        }
    }
    for r in 0..R {
        for i in 0..N {
            dots[r * N + i] = simd.sum(sums[r][i]);
        }
    }
}
