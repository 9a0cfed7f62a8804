//! The key-value cache of a decoder: what attention has seen, layer by layer.

use crate::{
    buffer::Buffer,
    device::{Device, KeyValues},
};

/// Tokens for which memory is taken at the start.
const FIRST_ROOM: usize = 256;

/// Keys and values of the tokens so far, for `batch` sequences of equal length.
///
/// Memory grows with the tokens, up to the capacity.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<Layer>,
    batch: usize,
    capacity: usize,
    /// `kv_heads * head_dim`.
    width: usize,
    length: usize,
}

/// Keys and values of a layer, `[batch, room, width]`.
#[derive(Debug)]
struct Layer {
    keys: Buffer,
    values: Buffer,
    room: usize,
}

impl KvCache {
    /// Makes an empty cache with room for `capacity` tokens in each of `batch` sequences.
    pub fn new(
        device: &Device,
        layers: usize,
        batch: usize,
        capacity: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> Self {
        let width = kv_heads * head_dim;
        let room = capacity.min(FIRST_ROOM);
        let layers = (0..layers).map(|_| Layer::new(device, batch, room, width)).collect();
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

    /// Tokens that each sequence may have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// `kv_heads * head_dim`.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Counts `tokens` more as seen, after every layer has appended them.
    ///
    /// # Panics
    /// If the capacity does not allow them.
    pub fn advance(&mut self, tokens: usize) {
        assert!(tokens <= self.capacity - self.length, "a cache of {} tokens", self.capacity);
        self.length += tokens;
    }

    /// Forgets all tokens but the first `length`.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// Writes `tokens` new rows of each sequence behind those that are counted, and returns all.
    /// The caller has checked that the capacity allows them.
    pub(crate) fn append(
        &mut self,
        device: &Device,
        layer: usize,
        tokens: usize,
        keys: &Buffer,
        values: &Buffer,
    ) -> KeyValues<'_> {
        let (batch, width) = (self.batch, self.width);
        let needed = self.length + tokens;
        let layer = &mut self.layers[layer];
        if needed > layer.room {
            let room = needed.next_power_of_two().min(self.capacity);
            let mut larger = Layer::new(device, batch, room, width);
            device.append(batch, &layer.keys, &mut larger.keys, room * width, 0);
            device.append(batch, &layer.values, &mut larger.values, room * width, 0);
            *layer = larger;
        }
        let (stride, offset) = (layer.room * width, self.length * width);
        device.append(batch, keys, &mut layer.keys, stride, offset);
        device.append(batch, values, &mut layer.values, stride, offset);
        KeyValues { k: &layer.keys, v: &layer.values, capacity: layer.room }
    }
}

impl Layer {
    fn new(device: &Device, batch: usize, room: usize, width: usize) -> Self {
        let elements = batch * room * width;
        Self { keys: device.allocate(elements), values: device.allocate(elements), room }
    }
}
