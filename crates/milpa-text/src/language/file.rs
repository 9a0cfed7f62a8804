//! The file of a language model.

use std::io::Read;

use super::{Label, LanguageModel, MAX_LABELS, MAX_POSTINGS};
use crate::codec::{Input, ModelError, put_varint};

/// First bytes of a model file; the digit is the version of its layout.
const MAGIC: &[u8; 8] = b"MILPALI2";
/// Name of the format in errors.
const KIND: &str = "language model";
/// Largest model that is read, decompressed, in bytes.
const MAX_MODEL_BYTES: u64 = 64 << 20;

impl LanguageModel {
    /// Writes the model; the bytes depend on its content alone.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut raw = Vec::new();
        put_varint(&mut raw, self.labels.len() as u64);
        for (label, weight) in self.labels.iter().zip(&self.expected_weight) {
            let name = label.to_string();
            put_varint(&mut raw, name.len() as u64);
            raw.extend(name.as_bytes());
            raw.extend(weight.to_le_bytes());
        }
        raw.extend(self.weight_step.to_le_bytes());
        raw.extend(self.temperature.to_le_bytes());
        put_varint(&mut raw, self.features.len() as u64);
        let mut before = 0;
        for &feature in &self.features {
            put_varint(&mut raw, u64::from(feature - before));
            before = feature;
        }
        for bounds in self.starts.windows(2) {
            put_varint(&mut raw, u64::from(bounds[1] - bounds[0]));
        }
        // Separate streams compress better than interleaved ones.
        for bounds in self.starts.windows(2) {
            let mut before = 0;
            for &posting in &self.postings[bounds[0] as usize..bounds[1] as usize] {
                put_varint(&mut raw, u64::from((posting >> 4) - before));
                before = posting >> 4;
            }
        }
        let weight = |posting: &u16| (posting & 15) as u8;
        let pairs = self.postings.chunks(2);
        raw.extend(pairs.map(|pair| weight(&pair[0]) | (pair.get(1).map_or(0, weight) << 4)));
        let mut out = MAGIC.to_vec();
        out.extend(zstd::encode_all(&raw[..], 19).expect("memory can be written"));
        out
    }

    /// Reads a model that [`LanguageModel::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let damaged = |what: &str| ModelError::Damaged { kind: KIND, detail: what.to_owned() };
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("wrong first bytes"))?;
        let mut raw = Vec::new();
        zstd::Decoder::new(body)
            .and_then(|decoder| decoder.take(MAX_MODEL_BYTES).read_to_end(&mut raw))
            .map_err(|error| damaged(&error.to_string()))?;
        let mut input = Input { bytes: &raw, kind: KIND };
        let label_count = input.count(1)?;
        if label_count > MAX_LABELS {
            return Err(damaged("too many labels"));
        }
        let (mut labels, mut expected_weight) = (Vec::new(), Vec::new());
        for _ in 0..label_count {
            let label =
                Label::parse(input.string()?).ok_or_else(|| damaged("a label is no code"))?;
            if labels.last().is_some_and(|last| *last >= label) {
                return Err(damaged("labels are not sorted"));
            }
            labels.push(label);
            expected_weight.push(input.float()?);
        }
        let weight_step = input.float()?;
        let temperature = input.float()?;
        if !(weight_step > 0.0 && temperature > 0.0) {
            return Err(damaged("a scale is not positive"));
        }
        let feature_count = input.count(1)?;
        let mut features = Vec::with_capacity(feature_count);
        let mut feature = 0u64;
        for at in 0..feature_count {
            let delta = input.varint()?;
            if at > 0 && delta == 0 {
                return Err(damaged("a feature is doubled"));
            }
            feature = feature.saturating_add(delta);
            features.push(u32::try_from(feature).map_err(|_| damaged("a feature is too large"))?);
        }
        let mut starts = vec![0u32];
        let mut total = 0u64;
        for _ in 0..feature_count {
            let count = input.varint()?;
            total = total.saturating_add(count);
            if count > label_count as u64 || total > input.bytes.len().min(MAX_POSTINGS) as u64 {
                return Err(damaged("more postings than labels or bytes"));
            }
            starts.push(total as u32);
        }
        let mut postings = Vec::with_capacity(total as usize);
        for bounds in starts.windows(2) {
            let mut label = 0u64;
            for at in bounds[0]..bounds[1] {
                let delta = input.varint()?;
                label = label.saturating_add(delta);
                // A label named twice could carry a sum beyond 16 bits.
                if label >= label_count as u64 || (delta == 0 && at > bounds[0]) {
                    return Err(damaged("a posting names no label or one twice"));
                }
                postings.push((label as u16) << 4);
            }
        }
        let packed = input.take((total as usize).div_ceil(2))?;
        for (at, posting) in postings.iter_mut().enumerate() {
            *posting |=
                u16::from(if at % 2 == 0 { packed[at / 2] & 15 } else { packed[at / 2] >> 4 });
        }
        if !input.bytes.is_empty() {
            return Err(damaged("bytes are left over"));
        }
        let postings_of = (features, starts, postings);
        Ok(Self::assemble(labels, postings_of, weight_step, temperature, expected_weight))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::tests::toy;

    #[test]
    fn a_model_survives_writing() {
        let model = toy();
        let again = LanguageModel::from_bytes(&model.to_bytes()).unwrap();
        assert_eq!(again.to_bytes(), model.to_bytes());
        let text = "los niños en la casa";
        assert_eq!(again.identify(text), model.identify(text));
    }

    #[test]
    fn a_damaged_model_is_refused() {
        let bytes = toy().to_bytes();
        assert!(LanguageModel::from_bytes(b"").is_err());
        for cut in [4, 9, 20, bytes.len() - 1] {
            assert!(LanguageModel::from_bytes(&bytes[..cut]).is_err());
        }
        // Damage below the compression must not panic either.
        let raw = zstd::decode_all(&bytes[8..]).unwrap();
        for at in 0..raw.len() {
            let mut broken = raw.clone();
            broken[at] ^= 0x81;
            let mut file = MAGIC.to_vec();
            file.extend(zstd::encode_all(&broken[..], 1).unwrap());
            if let Ok(model) = LanguageModel::from_bytes(&file) {
                model.identify("el perro y los niños");
            }
        }
    }
}
