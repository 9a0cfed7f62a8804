//! GGUF files of every family that llama.cpp knows: what is written comes back, and what llama.cpp would
//! compute differently is refused. `reference/gguf_check.py` holds the same families against llama.cpp.

use std::{fs, path::Path};

use milpa_base::Seed;
use milpa_model::{
    Decoder, DecoderDescription, DecoderError, Family, GgufDescription, GgufFile, GgufFormat,
    GgufType, GgufValue, GgufWriter, LocalModel, OutputHead, ParameterStore, TokenBatch,
    new_parameters, read_gguf, write_gguf,
};
use milpa_tensor::Tape;
use milpa_tokens::{PieceKind, PieceParts, Tokenizer};
use serde_json::{Value, json};

use crate::{
    check_error, device,
    gguf::{check_close, check_weights, widened},
    tokenizer, values,
};

const TOKENS: usize = 40;

/// The least that each family needs, with `fields` instead or besides.
fn description(model_type: &str, fields: Value) -> DecoderDescription {
    let mut config = json!({
        "model_type": model_type,
        "hidden_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 96,
        "vocab_size": 310,
        "max_position_embeddings": 48,
        "initializer_range": 0.2,
    });
    let Value::Object(fields) = fields else { panic!("an object") };
    config.as_object_mut().unwrap().extend(fields);
    DecoderDescription::from_hf_json(config.to_string().as_bytes(), Path::new("config.json"))
        .unwrap()
}

/// What each family has that others have not.
fn families() -> Vec<DecoderDescription> {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
    let long = json!({"rope_type": "longrope", "short_factor": vec![1.1; 8],
        "long_factor": vec![1.7; 8]});
    vec![
        description("llama", json!({"rope_scaling": llama3, "tie_word_embeddings": true})),
        description(
            "llama",
            json!({"attention_bias": true, "mlp_bias": true,
            "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        ),
        description("llama", json!({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})),
        description("mistral", json!({"sliding_window": null})),
        description("mistral", json!({"sliding_window": 48})),
        description("qwen2", json!({})),
        description("qwen3", json!({"rope_scaling": yarn})),
        description("gemma2", json!({"query_pre_attn_scalar": 16, "sliding_window": 8})),
        description(
            "gemma3_text",
            json!({"query_pre_attn_scalar": 16, "sliding_window": 8,
            "num_hidden_layers": 7, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
        ),
        description("olmo2", json!({})),
        description("smollm3", json!({})),
        description("phi3", json!({"partial_rotary_factor": 0.75})),
        description("phi3", json!({"original_max_position_embeddings": 16, "rope_scaling": long})),
        description("mixtral", json!({"num_local_experts": 4})),
        description(
            "qwen3_moe",
            json!({"num_experts": 6, "num_experts_per_tok": 2,
            "moe_intermediate_size": 32, "norm_topk_prob": true}),
        ),
    ]
}

/// New weights whose norms and biases are not all alike.
fn rough_parameters(description: &DecoderDescription) -> ParameterStore {
    let mut parameters = new_parameters(description, Seed(5), &device(1)).unwrap();
    let vectors: Vec<_> = parameters
        .iter()
        .filter(|parameter| parameter.shape().lengths().len() == 1)
        .map(|parameter| parameters.id(parameter.name()).unwrap())
        .collect();
    for id in vectors {
        let seed = Seed(id.index() as u64);
        let values: Vec<f32> = (0..parameters.get(id).shape().elements() as u64)
            .map(|i| 1.0 + 0.3 * seed.normal_at(i) as f32)
            .collect();
        parameters.write(id, &values).unwrap();
    }
    parameters
}

fn write(
    path: &Path,
    format: GgufFormat,
    description: &DecoderDescription,
) -> Result<(), DecoderError> {
    let parameters = rough_parameters(description);
    write_gguf(path, format, description, &parameters, &tokenizer(), &GgufDescription::default())
}

fn logits(decoder: &Decoder, parameters: &ParameterStore) -> Vec<f32> {
    let tape = Tape::inference(parameters.device().clone());
    let tokens: Vec<u32> = (0..TOKENS as u32).map(|i| i * 13 % 300).collect();
    let hidden =
        decoder.forward_hidden(&tape, parameters, &TokenBatch::new(&tokens, TOKENS)).unwrap();
    let rows: Vec<u32> = (0..TOKENS as u32).collect();
    tape.read(&decoder.logits(&tape, parameters, &hidden, &rows).unwrap())
}

#[test]
fn every_family_survives_its_gguf() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for description in families() {
        let family = description.family;
        write(&path, GgufFormat::F32, &description).unwrap();
        let original = rough_parameters(&description);
        let (read_description, read, _) =
            read_gguf(&GgufFile::open(&path).unwrap(), &device(1)).unwrap();
        let expect = match family {
            Family::Mistral => Family::Llama,
            family => family,
        };
        assert_eq!(read_description.family, expect);
        assert!(values(&read) == values(&original), "{family:?}: other weights");
        let expect = logits(&Decoder::new(&description, &original).unwrap(), &original);
        let found = logits(&Decoder::new(&read_description, &read).unwrap(), &read);
        check_close(&found, &expect, 1e-5);
        // What was read is written as the same bytes.
        let again = dir.path().join("again.gguf");
        let about = GgufDescription::default();
        write_gguf(&again, GgufFormat::F32, &read_description, &read, &tokenizer(), &about)
            .unwrap();
        assert!(fs::read(&path).unwrap() == fs::read(&again).unwrap(), "{family:?}");
    }
}

#[test]
fn every_family_opens_in_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for description in families() {
        write(&path, GgufFormat::Q8_0, &description).unwrap();
        let model = LocalModel::open(&path, 1).unwrap();
        let read = model.parameters();
        check_weights(read, &rough_parameters(&description), 0.006);
        let expect = logits(model.decoder(), &widened(read));
        check_close(&logits(model.decoder(), read), &expect, 1e-4);
    }
}

#[test]
fn what_llama_cpp_computes_otherwise_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 16});
    for (model_type, fields, expect) in [
        ("mistral", json!({"sliding_window": 16}), "sliding window of a mistral model"),
        ("phi3", json!({"sliding_window": 16}), "sliding window of a phi3 model"),
        (
            "qwen3",
            json!({"use_sliding_window": true, "sliding_window": 16, "max_window_layers": 2}),
            "sliding window of a qwen3 model",
        ),
        ("qwen3", json!({"attention_bias": true}), "biases of a qwen3 model"),
        ("qwen2", json!({"rope_scaling": llama3}), "rotary embeddings of a qwen2 model"),
        ("gemma2", json!({"query_pre_attn_scalar": 20}), "query_pre_attn_scalar of a gemma2 model"),
        (
            "gemma2",
            json!({"query_pre_attn_scalar": 16, "attn_logit_softcapping": null}),
            "attention soft cap of a gemma2 model",
        ),
        (
            "gemma3_text",
            json!({"query_pre_attn_scalar": 16, "sliding_window_pattern": 2}),
            "sliding window of a gemma3_text model",
        ),
        ("smollm3", json!({"no_rope_layers": [1, 0, 1, 1]}), "rotary embeddings of a smollm3"),
        (
            "qwen3_moe",
            json!({"num_experts": 4, "num_experts_per_tok": 2}),
            "experts of a qwen3_moe",
        ),
        (
            "qwen3_moe",
            json!({"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": true,
                "mlp_only_layers": [0]}),
            "layers with experts of a qwen3_moe model",
        ),
        ("llama", json!({"hidden_act": "gelu_pytorch_tanh"}), "activation of a llama model"),
    ] {
        let path = dir.path().join("model.gguf");
        let result = write(&path, GgufFormat::F32, &description(model_type, fields));
        check_error(result, &[expect, "llama.cpp would compute it with"]);
        assert!(!path.exists());
    }
}

#[test]
fn only_language_models_are_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    for (head, expect) in [
        (OutputHead::LanguageModelWithValue, "the head = a value of each token"),
        (OutputHead::classifier(3, None), "the head = scores of 3 labels"),
    ] {
        let description = DecoderDescription { head, ..description("llama", json!({})) };
        let result = write(&path, GgufFormat::F32, &description);
        check_error(result, &["model.gguf", expect, "a GGUF file holds language models alone"]);
        assert!(!path.exists());
    }
}

/// The header of a file with other metadata, and its tensors.
fn with_metadata(path: &Path, key: &str, value: GgufValue) -> GgufFile {
    let file = GgufFile::open(path).unwrap();
    let mut writer = GgufWriter::default();
    let others = file.metadata().iter().filter(|(other, _)| *other != key);
    others.for_each(|(key, value)| writer.metadata(key, value.clone()));
    writer.metadata(key, value);
    let mut data = Vec::new();
    for (name, tensor) in file.tensors() {
        writer.tensor(name, &tensor.shape, tensor.kind);
        data.push(file.data(tensor).to_vec());
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |index| data[index].clone()).unwrap();
    GgufFile::from_bytes(Path::new("changed.gguf"), bytes).unwrap()
}

#[test]
fn keys_that_may_change_numbers_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    write(&path, GgufFormat::F32, &description("llama", json!({}))).unwrap();
    let text = |text: &str| GgufValue::String(text.to_owned());
    for (key, value, expect) in [
        ("general.architecture", text("mamba"), "this decoder reads llama, qwen2"),
        ("llama.logit_scale", GgufValue::F32(2.0), "may change the numbers"),
        ("llama.rope.scaling.type", text("ntk"), "none, linear, yarn and longrope"),
        ("llama.rope.scaling.attn_factor", GgufValue::F32(2.0), "none, linear, yarn and longrope"),
        ("llama.rope.dimension_count", GgufValue::U32(8), "whole heads are rotated"),
        ("llama.attention.value_length", GgufValue::U32(8), "must have the same length"),
        ("llama.expert_count", GgufValue::U32(4), "expert_used_count is missing"),
        ("llama.block_count", GgufValue::U32(1 << 20), "it claims 1048576 layers"),
        ("llama.block_count", GgufValue::U32(5), "it has no tensor \"blk.4"),
        ("llama.attention.head_count", GgufValue::Array(vec![]), "a list of 0, not a size"),
    ] {
        let result = read_gguf(&with_metadata(&path, key, value), &device(1));
        check_error(result.map(|_| ()), &[expect]);
    }
    // A window is read and applied, though llama.cpp leaves it out in this architecture.
    let file = with_metadata(&path, "llama.attention.sliding_window", GgufValue::U32(9));
    let (description, _, _) = read_gguf(&file, &device(1)).unwrap();
    assert!(description.layers.iter().all(|layer| layer.window == Some(9)));
}

#[test]
fn routers_stay_exact() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let mixtral = description("mixtral", json!({"num_local_experts": 4, "hidden_size": 256}));
    write(&path, GgufFormat::Q4KM, &mixtral).unwrap();
    let file = GgufFile::open(&path).unwrap();
    let kind = |name: &str| file.tensors()[name].kind;
    assert_eq!(kind("blk.0.ffn_gate_inp.weight"), GgufType::F32);
    assert_eq!(kind("blk.0.ffn_gate_exps.weight").name(), "Q4_K");
    assert_eq!(file.tensors()["blk.0.ffn_gate_exps.weight"].shape, [4, 96, 256]);
}

/// Pieces of SentencePiece, as Llama 2, Mistral, Gemma and Phi-3 have them.
fn piece_tokenizer() -> Tokenizer {
    let mut pieces = vec![
        ("<unk>".to_owned(), 0.0, PieceKind::Unknown),
        ("<s>".to_owned(), 0.0, PieceKind::Control),
        ("</s>".to_owned(), 0.0, PieceKind::Control),
    ];
    pieces.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, PieceKind::Byte)));
    let normal = ["▁", "a", "b", "ab", "▁a", "▁ab"].map(|text| (text.to_owned(), -1.5));
    pieces.extend(normal.map(|(text, score)| (text, score, PieceKind::Normal)));
    let parts = PieceParts { pieces, space_before: true, eos: Some(2), bos: Some(1) };
    Tokenizer::from_pieces(&parts).unwrap()
}

#[test]
fn pieces_of_sentencepiece_survive() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let (description, tokenizer) = (description("mistral", json!({})), piece_tokenizer());
    let parameters = rough_parameters(&description);
    let about = GgufDescription::default();
    write_gguf(&path, GgufFormat::F16, &description, &parameters, &tokenizer, &about).unwrap();
    let file = GgufFile::open(&path).unwrap();
    // 265 pieces for 310 embeddings.
    assert_eq!(file.metadata()["tokenizer.ggml.scores"].as_array().unwrap().len(), 310);
    let (_, _, read) = read_gguf(&file, &device(1)).unwrap();
    assert_eq!(read.to_pieces().unwrap(), tokenizer.to_pieces().unwrap());
    assert_eq!((read.bos_id(), read.eos_id()), (Some(1), Some(2)));
    assert_eq!(read.encode("ab bé</s>"), tokenizer.encode("ab bé</s>"));

    let short = GgufValue::Array(vec![GgufValue::F32(0.0)]);
    let strange = GgufValue::Array(vec![GgufValue::I32(9); 310]);
    for (key, value, expect) in [
        ("tokenizer.ggml.scores", short.clone(), "no number for each token"),
        ("tokenizer.ggml.token_type", short, "no kind for each token"),
        ("tokenizer.ggml.token_type", strange, "no kind for each token"),
        ("tokenizer.ggml.eos_token_id", GgufValue::U32(300), "which is no token"),
    ] {
        let result = read_gguf(&with_metadata(&path, key, value), &device(1));
        check_error(result.map(|_| ()), &[expect]);
    }
}
