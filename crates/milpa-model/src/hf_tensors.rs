//! How the parameters of a decoder lie in Hugging Face files: one tensor each as a rule, several fused
//! into one in Phi-3, experts one by one.
//!
//! Gemma's files hold norm weights less one; the decoder's parameters are the factors themselves. Going
//! there and back changes no factor: `fl(1 + w) − 1` is exact, and `1 +` gives the same factor again.

use crate::{
    decoder::{ParameterSpec, parameter_specs},
    description::{DecoderDescription, Experts, Family},
};

/// A tensor of a file, made of parts of parameters one after another.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileTensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) parts: Vec<Part>,
    /// Whether the file holds the parameter's values less one.
    pub(crate) less_one: bool,
}

/// Values `start..start + count` of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub(crate) parameter: String,
    pub(crate) start: usize,
    pub(crate) count: usize,
}

/// Lists the tensors of a description's files in the order of its parameters.
pub(crate) fn file_tensors(description: &DecoderDescription) -> Vec<FileTensor> {
    let specs = parameter_specs(description);
    let gemma = matches!(description.family, Family::Gemma2 | Family::Gemma3);
    let mut tensors: Vec<FileTensor> = Vec::with_capacity(specs.len());
    for spec in specs {
        if let ([_, rows, columns], Some(experts)) = (&spec.shape[..], description.experts) {
            experts_of(description.family, &spec, experts, [*rows, *columns], &mut tensors);
            continue;
        }
        let part = whole(&spec);
        let name = stored_name(description.family, &spec.name);
        match tensors.last_mut() {
            // Parameters that are fused follow one another.
            Some(last) if last.name == name => {
                last.shape[0] += spec.shape[0];
                last.parts.push(part);
            }
            _ => {
                let less_one = gemma && spec.shape.len() == 1 && name.ends_with("norm.weight");
                tensors.push(FileTensor { name, shape: spec.shape, parts: vec![part], less_one });
            }
        }
    }
    tensors
}

fn whole(spec: &ParameterSpec) -> Part {
    Part { parameter: spec.name.clone(), start: 0, count: spec.shape.iter().product() }
}

/// One tensor for each expert of a stack `[experts, rows, columns]`.
fn experts_of(
    family: Family,
    spec: &ParameterSpec,
    experts: Experts,
    shape: [usize; 2],
    tensors: &mut Vec<FileTensor>,
) {
    let (layer, kind) = spec.name.split_once(".mlp.experts.").unwrap_or((&spec.name, ""));
    let (folder, kind) = match (family, kind) {
        (Family::Mixtral, "gate_proj.weight") => ("block_sparse_moe", "w1.weight"),
        (Family::Mixtral, "up_proj.weight") => ("block_sparse_moe", "w3.weight"),
        (Family::Mixtral, "down_proj.weight") => ("block_sparse_moe", "w2.weight"),
        (_, kind) => ("mlp", kind),
    };
    let count = shape.iter().product();
    for expert in 0..experts.count {
        let part = Part { parameter: spec.name.clone(), start: expert * count, count };
        tensors.push(FileTensor {
            name: format!("{layer}.{folder}.experts.{expert}.{kind}"),
            shape: shape.to_vec(),
            parts: vec![part],
            less_one: false,
        });
    }
}

/// The tensor in which a parameter is stored.
fn stored_name(family: Family, name: &str) -> String {
    let fused = [
        ("self_attn.q_proj", "self_attn.qkv_proj"),
        ("self_attn.k_proj", "self_attn.qkv_proj"),
        ("self_attn.v_proj", "self_attn.qkv_proj"),
        ("mlp.gate_proj", "mlp.gate_up_proj"),
        ("mlp.up_proj", "mlp.gate_up_proj"),
    ];
    let renamed: &[(&str, &str)] = match family {
        Family::Phi3 => &fused,
        Family::Mixtral => &[("mlp.gate.weight", "block_sparse_moe.gate.weight")],
        _ => &[],
    };
    match renamed.iter().find(|(ours, _)| name.contains(ours)) {
        Some((ours, theirs)) => name.replace(ours, theirs),
        None => name.to_owned(),
    }
}
