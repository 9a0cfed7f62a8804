//! Borrowed views that carry the strides of a slice: matrices and per-head token rows.
//!
//! They know nothing of shapes: the operation that takes a view says how many rows it reads and
//! checks that the slice is long enough.

/// Whether a result replaces what the output holds or is added to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// The output is overwritten; its old content is not read.
    No,
    /// The result is added to the output.
    Yes,
}

/// Sizes of a matrix product: `C[m, n]` sums over `k`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// Length of the summed dimension.
    pub k: usize,
}

/// A row-major matrix: row `i` begins at `i * stride`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a, T = f32> {
    /// Elements; the last row may end with its last used column.
    pub data: &'a [T],
    /// Elements between the beginnings of two rows (the leading dimension).
    pub stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Views `data` as rows that begin `stride` elements apart.
    pub fn new(data: &'a [T], stride: usize) -> Self {
        Self { data, stride }
    }

    /// Views `rows` rows of `columns` from row `first` on.
    #[inline(always)]
    pub(crate) fn rows_from(&self, first: usize, rows: usize, columns: usize) -> Self {
        let start = first * self.stride;
        Self { data: &self.data[start..start + (rows - 1) * self.stride + columns], ..*self }
    }

    /// Panics unless `rows × columns` elements can be read.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, rows: usize, columns: usize) {
        check_rows(name, self.data.len(), self.stride, rows, columns);
    }
}

/// A row-major matrix to write: row `i` begins at `i * stride`.
#[derive(Debug)]
pub struct MatMut<'a, T = f32> {
    /// Elements; the last row may end with its last used column.
    pub data: &'a mut [T],
    /// Elements between the beginnings of two rows (the leading dimension).
    pub stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// Views `data` as rows that begin `stride` elements apart.
    pub fn new(data: &'a mut [T], stride: usize) -> Self {
        Self { data, stride }
    }

    /// Panics unless `rows × columns` elements can be written without two rows overlapping.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, rows: usize, columns: usize) {
        check_rows(name, self.data.len(), self.stride, rows, columns);
    }
}

/// Per-head rows of a batch of sequences: element `(b, t, h, d)` lies at
/// `b * batch_stride + t * token_stride + h * head_dim + d`.
///
/// The strides let a view point into a fused QKV buffer or into a key-value cache with spare room.
#[derive(Clone, Copy, Debug)]
pub struct Heads<'a, T = f32> {
    /// Elements, beginning with `(0, 0, 0, 0)`.
    pub data: &'a [T],
    /// Elements between two tokens of a sequence.
    pub token_stride: usize,
    /// Elements between two sequences.
    pub batch_stride: usize,
}

impl<'a, T> Heads<'a, T> {
    /// Views a dense `[batch, tokens, heads, head_dim]` array.
    pub fn dense(data: &'a [T], tokens: usize, heads: usize, head_dim: usize) -> Self {
        let token_stride = heads * head_dim;
        Self { data, token_stride, batch_stride: tokens * token_stride }
    }

    /// Views rows with explicit strides.
    pub fn strided(data: &'a [T], token_stride: usize, batch_stride: usize) -> Self {
        Self { data, token_stride, batch_stride }
    }

    /// Panics unless `batch × tokens` rows of `width` elements can be read.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, batch: usize, tokens: usize, width: usize) {
        let strides = (self.token_stride, self.batch_stride);
        check_heads(name, self.data.len(), strides, batch, tokens, width);
    }
}

/// Per-head rows of a batch of sequences to write; laid out like [`Heads`].
#[derive(Debug)]
pub struct HeadsMut<'a, T = f32> {
    /// Elements, beginning with `(0, 0, 0, 0)`.
    pub data: &'a mut [T],
    /// Elements between two tokens of a sequence.
    pub token_stride: usize,
    /// Elements between two sequences.
    pub batch_stride: usize,
}

impl<'a, T> HeadsMut<'a, T> {
    /// Views a dense `[batch, tokens, heads, head_dim]` array.
    pub fn dense(data: &'a mut [T], tokens: usize, heads: usize, head_dim: usize) -> Self {
        let token_stride = heads * head_dim;
        Self { data, token_stride, batch_stride: tokens * token_stride }
    }

    /// Views rows with explicit strides.
    pub fn strided(data: &'a mut [T], token_stride: usize, batch_stride: usize) -> Self {
        Self { data, token_stride, batch_stride }
    }

    /// Panics unless `batch × tokens` rows of `width` elements can be written without overlap.
    #[track_caller]
    pub(crate) fn check(&self, name: &str, batch: usize, tokens: usize, width: usize) {
        let strides = (self.token_stride, self.batch_stride);
        check_heads(name, self.data.len(), strides, batch, tokens, width);
    }
}

#[inline]
#[track_caller]
fn check_rows(name: &str, length: usize, stride: usize, rows: usize, columns: usize) {
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(
        rows == 1 || stride >= columns,
        "{name}: row stride {stride} is shorter than {columns} columns"
    );
    let needed = (rows - 1).checked_mul(stride).and_then(|start| start.checked_add(columns));
    assert!(
        needed.is_some_and(|needed| needed <= length),
        "{name}: {length} elements cannot hold {rows} rows of {columns} with stride {stride}"
    );
}

#[track_caller]
fn check_heads(
    name: &str,
    length: usize,
    (token_stride, batch_stride): (usize, usize),
    batch: usize,
    tokens: usize,
    width: usize,
) {
    if batch == 0 || tokens == 0 || width == 0 {
        return;
    }
    assert!(
        tokens == 1 || token_stride >= width,
        "{name}: token stride {token_stride} is shorter than a row of {width}"
    );
    let sequence =
        (tokens - 1).checked_mul(token_stride).and_then(|start| start.checked_add(width));
    let sequence = sequence.unwrap_or(usize::MAX);
    assert!(
        batch == 1 || batch_stride >= sequence,
        "{name}: batch stride {batch_stride} is shorter than a sequence of {sequence}"
    );
    let needed =
        (batch - 1).checked_mul(batch_stride).and_then(|start| start.checked_add(sequence));
    assert!(
        needed.is_some_and(|needed| needed <= length),
        "{name}: {length} elements cannot hold {batch} sequences of {tokens} tokens of {width}"
    );
}
