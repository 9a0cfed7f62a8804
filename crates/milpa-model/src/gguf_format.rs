//! Which type each tensor of a GGUF file gets: llama.cpp's named formats and mixtures.
//!
//! Norms, biases and routers of experts are always F32. The output layer (or the embedding that serves as one) is worth more bits
//! than the rest, and so are some layers' `attn_v` and `ffn_down`. Rows that are no whole number of
//! blocks fall back to smaller blocks: to Q8_0 where 32 divides them, else to F16.

use std::{fmt, str::FromStr};

use milpa_tensor::BlockFormat;
use serde::{Deserialize, Serialize};

use crate::gguf::GgufType;

/// How the matrices of a GGUF file are stored, by llama.cpp's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GgufFormat {
    /// 32-bit floats: nothing is lost.
    F32,
    /// Half precision.
    F16,
    /// The upper halves of 32-bit floats: nothing is lost of weights trained in bf16.
    #[serde(rename = "BF16")]
    Bf16,
    /// 8.5 bits a weight: blocks of 32 eight-bit values with one scale.
    #[serde(rename = "Q8_0")]
    Q8_0,
    /// 6.6 bits a weight.
    #[serde(rename = "Q6_K")]
    Q6K,
    /// 4.5 bits a weight, and 6.6 for the output layer and half of what is most sensitive.
    #[serde(rename = "Q4_K_M")]
    Q4KM,
    /// 4.5 bits a weight in the plainest blocks, and 6.6 for the output layer.
    #[serde(rename = "Q4_0")]
    Q4_0,
}

impl GgufFormat {
    /// Every format there is, the most exact first.
    pub const ALL: [Self; 7] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q6K, Self::Q4KM, Self::Q4_0];

    /// The name, as in file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q6K => "Q6_K",
            Self::Q4KM => "Q4_K_M",
            Self::Q4_0 => "Q4_0",
        }
    }

    /// llama.cpp's number for it (`general.file_type`).
    pub(crate) fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4KM => 15,
            Self::Q6K => 18,
            Self::Bf16 => 32,
        }
    }

    /// The type of a matrix with rows of `columns` values.
    pub(crate) fn matrix(self, role: MatrixRole, columns: usize) -> GgufType {
        let blocks = match self {
            _ if role == MatrixRole::Router => return GgufType::F32,
            Self::F32 => return GgufType::F32,
            Self::F16 => return GgufType::F16,
            Self::Bf16 => return GgufType::Bf16,
            Self::Q8_0 => BlockFormat::Q8_0,
            Self::Q4_0 if role != MatrixRole::Output => BlockFormat::Q4_0,
            Self::Q4KM if role == MatrixRole::Plain => BlockFormat::Q4K,
            Self::Q6K | Self::Q4KM | Self::Q4_0 => BlockFormat::Q6K,
        };
        [blocks, BlockFormat::Q8_0]
            .into_iter()
            .find(|format| columns.is_multiple_of(format.block_values()))
            .map_or(GgufType::F16, GgufType::Blocks)
    }
}

impl fmt::Display for GgufFormat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for GgufFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|format| format.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is no format of GGUF files written here; these are: {names}")
        })
    }
}

/// What a matrix is worth in a mixture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MatrixRole {
    /// The output layer, or an embedding that serves as one.
    Output,
    /// `attn_v` or `ffn_down` of a layer that is given more bits.
    Sensitive,
    /// What sends tokens to experts.
    Router,
    /// Everything else.
    Plain,
}

impl MatrixRole {
    /// The role of the tensor `name` (as in GGUF) in a model of `layers` layers.
    pub(crate) fn of(name: &str, layers: usize, tied: bool) -> Self {
        if name == "output.weight" || (tied && name == "token_embd.weight") {
            return Self::Output;
        }
        let part = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let more = |layer: &str| layer.parse().is_ok_and(|layer| has_more_bits(layer, layers));
        match part {
            Some((_, "ffn_gate_inp.weight")) => Self::Router,
            // Where v is a part of it, all layers have more bits.
            Some((_, "attn_qkv.weight")) => Self::Sensitive,
            Some((layer, "attn_v.weight" | "ffn_down.weight" | "ffn_down_exps.weight"))
                if more(layer) =>
            {
                Self::Sensitive
            }
            _ => Self::Plain,
        }
    }
}

/// The first and the last eighth of the layers, and each third one between them.
fn has_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for format in GgufFormat::ALL {
            assert_eq!(format.name().parse(), Ok(format));
            let json = serde_json::to_string(&format).unwrap();
            assert_eq!(json, format!("\"{format}\""));
        }
        assert_eq!("q4_k_m".parse(), Ok(GgufFormat::Q4KM));
        assert!("Q5_K".parse::<GgufFormat>().unwrap_err().contains("Q4_K_M"));
    }

    #[test]
    fn sensitive_matrices_get_more_bits() {
        let more: Vec<usize> = (0..16).filter(|&layer| has_more_bits(layer, 16)).collect();
        assert_eq!(more, [0, 1, 4, 7, 10, 13, 14, 15]);
        let kind = |name: &str, tied| GgufFormat::Q4KM.matrix(MatrixRole::of(name, 16, tied), 512);
        let (plain, rich) =
            (GgufType::Blocks(BlockFormat::Q4K), GgufType::Blocks(BlockFormat::Q6K));
        assert_eq!(kind("blk.0.attn_v.weight", false), rich);
        assert_eq!(kind("blk.2.attn_v.weight", false), plain);
        assert_eq!(kind("blk.13.ffn_down.weight", false), rich);
        assert_eq!(kind("blk.0.ffn_up.weight", false), plain);
        assert_eq!(kind("token_embd.weight", false), plain);
        assert_eq!(kind("token_embd.weight", true), rich);
        assert_eq!(kind("output.weight", false), rich);
        assert_eq!(kind("blk.2.attn_qkv.weight", false), rich);
        assert_eq!(kind("blk.0.ffn_down_exps.weight", false), rich);
        assert_eq!(kind("blk.0.ffn_gate_inp.weight", false), GgufType::F32);
    }

    #[test]
    fn short_rows_fall_back_to_smaller_blocks() {
        for format in [GgufFormat::Q6K, GgufFormat::Q4KM] {
            let kind = |columns| format.matrix(MatrixRole::Plain, columns);
            assert_eq!(kind(384), GgufType::Blocks(BlockFormat::Q8_0));
            assert_eq!(kind(40), GgufType::F16);
        }
        let kind = GgufFormat::Q4_0.matrix(MatrixRole::Plain, 96);
        assert_eq!(kind, GgufType::Blocks(BlockFormat::Q4_0));
    }
}
