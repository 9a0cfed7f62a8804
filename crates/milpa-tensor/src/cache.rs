//! The key-value cache of a decoder: what attention has seen, layer by layer.

use std::sync::Arc;

use crate::{buffer::Buffer, device::Device};

/// Keys and values of the tokens so far, for `batch` sequences of equal length.
#[derive(Debug)]
pub struct KvCache {
    /// Keys and values of each layer, `[batch, capacity, width]`.
    pub(crate) layers: Vec<(Buffer, Buffer)>,
    batch: usize,
    capacity: usize,
    /// `kv_heads * head_dim`.
    width: usize,
    length: usize,
}

impl KvCache {
    /// Makes an empty cache with room for `capacity` tokens in each of `batch` sequences.
    pub fn new(
        device: &Arc<dyn Device>,
        layers: usize,
        batch: usize,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Self {
        let width = kv_heads * head_dim;
        let elements = batch * capacity * width;
        let layer = |_| (device.allocate(elements), device.allocate(elements));
        let layers = (0..layers).map(layer).collect();
        Self { layers, batch, capacity, width, length: 0 }
    }

    /// Tokens in each sequence so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Tokens for which each sequence has room.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// `kv_heads * head_dim`.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Counts `tokens` more as seen, after every layer has appended them.
    ///
    /// # Panics
    /// If there is no room for them.
    pub fn advance(&mut self, tokens: usize) {
        assert!(tokens <= self.capacity - self.length, "a cache of {} tokens", self.capacity);
        self.length += tokens;
    }

    /// Forgets all tokens but the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}
