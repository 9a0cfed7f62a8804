//! GGUF files: what is written comes back, and hostile bytes give errors.

use std::{fs, path::Path};

use milpa_base::{TextModel, hash_bytes};
use milpa_model::{
    BlockFormat, Decoder, GgufDescription, GgufFile, GgufFormat, GgufType, GgufValue, GgufWriter,
    LocalModel, ModelConfig, ParameterStore, TokenBatch, read_gguf, write_gguf,
};
use milpa_tensor::Tape;
use proptest::prelude::*;

use crate::{check_error, config, device, parameters, tokenizer, values};

fn description() -> GgufDescription {
    GgufDescription {
        name: "toy".to_owned(),
        licence: Some("MIT".to_owned()),
        source_hash: Some(hash_bytes(b"weights")),
        languages: vec!["es".to_owned()],
        chat_template: Some("{{ messages[0].content }}".to_owned()),
    }
}

fn written(config: &ModelConfig) -> Vec<u8> {
    written_as(GgufFormat::Q8_0, config)
}

fn written_as(format: GgufFormat, config: &ModelConfig) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let parameters = parameters(config, &device(1));
    write_gguf(&path, format, config, &parameters, &tokenizer(), &description()).unwrap();
    fs::read(path).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<GgufFile, milpa_model::DecoderError> {
    GgufFile::from_bytes(Path::new("toy.gguf"), bytes)
}

fn logits(config: &ModelConfig, parameters: &ParameterStore) -> Vec<f32> {
    let tape = Tape::inference(parameters.device().clone());
    let decoder = Decoder::new(config, parameters).unwrap();
    let tokens: Vec<u32> = (0..20).map(|i| i * 13 % 300).collect();
    let batch = TokenBatch::new(&tokens, 20);
    let hidden = decoder.forward_hidden(&tape, parameters, &batch).unwrap();
    tape.read(&decoder.logits(&tape, parameters, &hidden, &[0, 7, 19]).unwrap())
}

/// Rows of 256 values, so that every format has its own blocks.
fn wide(qk_norm: bool) -> ModelConfig {
    let base = config(qk_norm);
    ModelConfig { hidden_size: 256, ffn_size: 256, head_dim: None, heads: 4, kv_heads: 2, ..base }
}

#[test]
fn a_model_survives_its_gguf() {
    for qk_norm in [true, false] {
        // 310 tokens: ten embeddings without a token.
        check_round_trip(GgufFormat::Q8_0, &config(qk_norm), 0.006);
        for (format, error) in [
            (GgufFormat::F32, 0.0),
            (GgufFormat::F16, 0.0005),
            (GgufFormat::Bf16, 0.004),
            (GgufFormat::Q8_0, 0.006),
            (GgufFormat::Q6K, 0.02),
            (GgufFormat::Q4KM, 0.08),
            (GgufFormat::Q4_0, 0.1),
        ] {
            check_round_trip(format, &wide(qk_norm), error);
        }
    }
}

/// Each weight comes back within the root mean square error of its format (relative to the root mean
/// square of its matrix), to its old place.
fn check_round_trip(format: GgufFormat, config: &ModelConfig, error: f64) {
    let file = open(written_as(format, config)).unwrap();
    let device = device(2);
    let (description, read, read_tokenizer) = read_gguf(&file, &device).unwrap();
    let read_config = description.to_model_config().unwrap();
    assert_eq!(ModelConfig { init_std: config.init_std, ..read_config }, *config);
    let text = "La milpa <|im_start|> da maíz ñ 🌽\n\n";
    assert_eq!(read_tokenizer.encode(text), tokenizer().encode(text));
    let special = read_tokenizer.encode_with_special(text);
    assert_eq!(special, tokenizer().encode_with_special(text));
    assert_eq!(read_tokenizer.eos_id(), tokenizer().eos_id());

    check_weights(&read, &parameters(config, &device), error);
    let (quantised, plain) = (logits(config, &read), logits(config, &widened(&read)));
    check_close(&quantised, &plain, 1e-4);
}

/// Asserts the root mean square error of each parameter, relative to its root mean square.
pub(crate) fn check_weights(read: &ParameterStore, original: &ParameterStore, error: f64) {
    for ((name, a), (_, b)) in values(read).iter().zip(values(original)) {
        let squares = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>();
        let off = squares(&mut a.iter().zip(&b).map(|(a, b)| a - b));
        let found = (off / squares(&mut b.iter().copied())).sqrt();
        assert!(found <= error, "{name}: {found}");
    }
}

/// The same rounded weights in f32: they give the logits of the quantised path up to rounding.
pub(crate) fn widened(quantised: &ParameterStore) -> ParameterStore {
    let mut store = ParameterStore::new(quantised.device().clone());
    for parameter in quantised {
        let values = quantised.read(quantised.id(parameter.name()).unwrap());
        store.add(parameter.name(), parameter.shape().lengths(), &values, true).unwrap();
    }
    store
}

/// Asserts that logits differ by at most `share` of the largest.
#[track_caller]
pub(crate) fn check_close(found: &[f32], expect: &[f32], share: f32) {
    let largest = expect.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
    for (a, b) in found.iter().zip(expect) {
        assert!((a - b).abs() <= share * largest, "{a} {b} of {largest}");
    }
}

#[test]
fn mixtures_are_llama_cpps() {
    let kinds = |format, config: &ModelConfig| {
        let file = open(written_as(format, config)).unwrap();
        let file_type = file.metadata()["general.file_type"].as_u64().unwrap();
        let names =
            ["token_embd", "blk.0.attn_q", "blk.0.attn_v", "blk.1.attn_v", "blk.0.attn_norm"];
        let kind = |name| file.tensors()[&format!("{name}.weight")].kind.name();
        (file_type, names.map(kind))
    };
    let tied = wide(true);
    assert_eq!(kinds(GgufFormat::F32, &tied), (0, ["F32"; 5]));
    assert_eq!(kinds(GgufFormat::F16, &tied), (1, ["F16", "F16", "F16", "F16", "F32"]));
    assert_eq!(kinds(GgufFormat::Bf16, &tied), (32, ["BF16", "BF16", "BF16", "BF16", "F32"]));
    assert_eq!(kinds(GgufFormat::Q6K, &tied), (18, ["Q6_K", "Q6_K", "Q6_K", "Q6_K", "F32"]));
    assert_eq!(kinds(GgufFormat::Q4_0, &tied), (2, ["Q6_K", "Q4_0", "Q4_0", "Q4_0", "F32"]));
    assert_eq!(kinds(GgufFormat::Q4KM, &tied), (15, ["Q6_K", "Q4_K", "Q4_K", "Q6_K", "F32"]));
    assert_eq!(kinds(GgufFormat::Q4KM, &wide(false)).1[0], "Q4_K");
    assert_eq!(kinds(GgufFormat::Q4KM, &config(true)).1[..2], ["Q8_0", "Q8_0"]);
}

#[test]
fn metadata_is_what_llama_cpp_looks_for() {
    let file = open(written(&config(true))).unwrap();
    let text = |key: &str| file.metadata()[key].as_str().unwrap();
    assert_eq!(text("general.architecture"), "qwen3");
    assert_eq!(text("general.license"), "MIT");
    assert_eq!(text("general.source.blake3"), hash_bytes(b"weights").to_string());
    assert_eq!(text("tokenizer.ggml.model"), "gpt2");
    assert_eq!(text("tokenizer.ggml.pre"), "qwen35");
    assert_eq!(text("tokenizer.chat_template"), "{{ messages[0].content }}");
    assert_eq!(file.metadata()["tokenizer.ggml.add_bos_token"], GgufValue::Bool(false));
    assert_eq!(file.metadata()["tokenizer.ggml.tokens"].as_array().unwrap().len(), 310);
    assert_eq!(file.tensors()["token_embd.weight"].kind, GgufType::Blocks(BlockFormat::Q8_0));
    assert_eq!(file.tensors()["blk.0.attn_q_norm.weight"].kind, GgufType::F32);
    assert!(!file.tensors().contains_key("output.weight"));
    let llama = open(written(&config(false))).unwrap();
    assert_eq!(llama.metadata()["general.architecture"].as_str(), Some("llama"));
    assert!(llama.tensors().contains_key("output.weight"));
}

#[test]
fn rows_that_are_no_multiple_of_32_are_stored_in_half_precision() {
    let config = ModelConfig { ffn_size: 40, ..config(true) };
    let file = open(written(&config)).unwrap();
    assert_eq!(file.tensors()["blk.0.ffn_down.weight"].kind, GgufType::F16);
    assert_eq!(file.tensors()["blk.0.ffn_up.weight"].kind, GgufType::Blocks(BlockFormat::Q8_0));
    read_gguf(&file, &device(1)).unwrap();
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    for format in GgufFormat::ALL {
        assert!(written_as(format, &wide(true)) == written_as(format, &wide(true)), "{format}");
    }
}

#[test]
fn quantised_norms_are_widened() {
    // Nobody writes such files, but the format allows them: a norm in Q8_0 instead of F32.
    let config = config(true);
    let (device, bytes) = (device(1), written(&config));
    let file = open(bytes).unwrap();
    let mut writer = GgufWriter::default();
    file.metadata().iter().for_each(|(key, value)| writer.metadata(key, value.clone()));
    let mut data = Vec::new();
    for (name, tensor) in file.tensors() {
        let norm = name == "output_norm.weight";
        let kind = if norm { GgufType::Blocks(BlockFormat::Q8_0) } else { tensor.kind };
        writer.tensor(name, &tensor.shape, kind);
        let values = file.values(tensor);
        data.push(if norm {
            device.quantise(BlockFormat::Q8_0, &values)
        } else {
            file.data(tensor).to_vec()
        });
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |index| data[index].clone()).unwrap();
    let (_, read, _) = read_gguf(&open(bytes).unwrap(), &device).unwrap();
    assert!(logits(&config, &read).iter().all(|logit| logit.is_finite()));
}

#[test]
fn a_gguf_opens_as_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.gguf");
    for format in GgufFormat::ALL {
        let bytes = written_as(format, &wide(true));
        fs::write(&path, &bytes).unwrap();
        for place in [&path, &dir.path().to_owned()] {
            let model = LocalModel::open(place, 1).unwrap();
            assert_eq!(model.info().name, "toy");
            assert_eq!(model.info().hash, hash_bytes(&bytes).to_string());
            assert!(model.chat_template().is_some());
            let scores = model.next_token_logprobs("La milpa").unwrap();
            let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{format}: {sum}");
        }
    }
}

/// A file with one f32 tensor of `[2, 3]` and some metadata.
fn small() -> Vec<u8> {
    let mut writer = GgufWriter::default();
    writer.metadata("a.list", GgufValue::Array(vec![GgufValue::I32(1), GgufValue::I32(2)]));
    writer.metadata("a.text", GgufValue::String("x".to_owned()));
    writer.tensor("t", &[2, 3], GgufType::F32);
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |_| vec![0; 24]).unwrap();
    bytes
}

/// Replaces the only occurrence of `from` by `to`.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

#[test]
fn hostile_numbers_are_errors() {
    let small = small();
    assert_eq!(open(small.clone()).unwrap().tensors()["t"].shape, [2, 3]);
    let huge = u64::MAX.to_le_bytes();
    let many = (1_u64 << 40).to_le_bytes();
    let at = |offset: usize, value: &[u8]| {
        let mut bytes = small.clone();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        bytes
    };
    check_error(open(at(0, b"GGML")), &["toy.gguf", "does not begin with GGUF"]);
    check_error(open(at(4, &[2])), &["its version is 2"]);
    for count in [&huge, &many] {
        check_error(open(at(8, count)), &["tensors with"]);
        check_error(open(at(16, count)), &["key-value pairs with"]);
        check_error(open(at(24, count)), &["longer than it can be"]);
    }
    // The list: type 5 (i32), two elements.
    let list = [&5_u32.to_le_bytes()[..], &2_u64.to_le_bytes()].concat();
    for count in [&huge, &many] {
        let hostile = [&5_u32.to_le_bytes()[..], count].concat();
        check_error(open(replaced(&small, &list, &hostile)), &["array elements", "a.list"]);
    }
    let nested = [&9_u32.to_le_bytes()[..], &2_u64.to_le_bytes()].concat();
    check_error(open(replaced(&small, &list, &nested)), &["9 is no type"]);
    // The tensor: name, 2 dimensions, 3 and 2, type 0, offset 0.
    let tensor = |dimensions: u32, lengths: [u64; 2], kind: u32, offset: u64| {
        let lengths = lengths.map(u64::to_le_bytes).concat();
        [&b"t"[..], &dimensions.to_le_bytes(), &lengths, &kind.to_le_bytes(), &offset.to_le_bytes()]
            .concat()
    };
    let good = tensor(2, [3, 2], 0, 0);
    for (bad, expect) in [
        (tensor(5, [3, 2], 0, 0), "has 5 dimensions"),
        (tensor(0, [3, 2], 0, 0), "has 0 dimensions"),
        (tensor(2, [u64::MAX, 2], 0, 0), "cannot have"),
        (tensor(2, [1 << 32, 1 << 32], 0, 0), "cannot have"),
        (tensor(2, [3, 1 << 40], 0, 0), "ends beyond the file"),
        (tensor(2, [3, 2], 13, 0), "ggml type 13"),
        (tensor(2, [3, 2], 31, 0), "ggml type 31"),
        (tensor(2, [3, 2], 8, 0), "Q8_0 cannot have"),
        (tensor(2, [16, 2], 2, 0), "Q4_0 cannot have"),
        (tensor(2, [128, 2], 12, 0), "Q4_K cannot have"),
        (tensor(2, [255, 2], 14, 0), "Q6_K cannot have"),
        // The small file ends after 32 bytes of data: blocks that do not fit are refused.
        (tensor(2, [32, 2], 2, 0), "ends beyond the file"),
        (tensor(2, [256, 1], 12, 0), "ends beyond the file"),
        (tensor(2, [256, 1], 14, 0), "ends beyond the file"),
        (tensor(2, [1 << 60, 1 << 8], 12, 0), "cannot have"),
        (tensor(2, [1 << 60, 1], 14, 0), "ends beyond the file"),
        (tensor(2, [3, 2], 0, 1), "out of alignment"),
        (tensor(2, [3, 2], 0, 1 << 20), "ends beyond the file"),
        (tensor(2, [3, 2], 0, u64::MAX - 31), "ends beyond the file"),
    ] {
        check_error(open(replaced(&small, &good, &bad)), &[expect]);
    }
    check_error(open(replaced(&small, b"a.text", b"a.list")), &["a.list", "stands twice"]);
    check_error(open(replaced(&small, b"a.text", b"\xff.text")), &["not UTF-8"]);
    // The last eight bytes only pad the data to the alignment.
    for cut in 0..small.len() - 8 {
        assert!(open(small[..cut].to_vec()).is_err(), "cut at {cut}");
    }
}

#[test]
fn repeated_tensors_and_odd_alignments_are_errors() {
    let mut writer = GgufWriter::default();
    for _ in 0..2 {
        writer.tensor("t", &[4], GgufType::F32);
    }
    let mut bytes = Vec::new();
    writer.write_to(&mut bytes, &mut |_| vec![0; 16]).unwrap();
    check_error(open(bytes), &["the tensor \"t\" stands twice"]);
    for alignment in [0, 7, 24, u32::MAX] {
        let mut writer = GgufWriter::default();
        writer.metadata("general.alignment", GgufValue::U32(alignment));
        let mut bytes = Vec::new();
        writer.write_to(&mut bytes, &mut |_| Vec::new()).unwrap();
        check_error(open(bytes), &["general.alignment is"]);
    }
}

#[test]
fn models_of_other_kinds_are_refused_by_name() {
    let bytes = written(&config(true));
    let changed = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        open(replaced(&bytes, from.as_bytes(), to.as_bytes()))
            .and_then(|file| read_gguf(&file, &device(1)).map(|_| ()))
    };
    check_error(changed("qwen35", "qwen99"), &["tokenizer.ggml.pre", "qwen99"]);
    check_error(changed("gpt2", "bert"), &["tokenizer.ggml.model", "bert"]);
    check_error(changed("qwen3.block_count", "qwen3.block_xxxxx"), &["block_count is missing"]);
    check_error(changed("blk.1.ffn_up.weight", "blk.1.ffn_xx.weight"), &["blk.1.ffn_up.weight"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever bytes are changed in the header, opening ends in a value or an error.
    #[test]
    fn changed_bytes_never_panic(
        changes in proptest::collection::vec((0.0..1.0_f64, any::<u8>()), 1..6),
        cut in proptest::option::of(0.0..1.0_f64),
        tail in any::<bool>(),
        mixed in any::<bool>(),
    ) {
        use std::sync::OnceLock;
        static WHOLE: OnceLock<[Vec<u8>; 2]> = OnceLock::new();
        let whole = WHOLE.get_or_init(|| {
            let small = ModelConfig { layers: 1, ..config(true) };
            let mixed = ModelConfig { layers: 1, ..wide(true) };
            [written(&small), written_as(GgufFormat::Q4KM, &mixed)]
        });
        let mut bytes = whole[usize::from(mixed)].clone();
        // Metadata and tensor descriptions take the first part of the file.
        let reach = if tail { bytes.len() } else { 2200 };
        for (place, value) in changes {
            let at = (place * reach as f64) as usize;
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        if let Ok(file) = open(bytes) {
            for tensor in file.tensors().values() {
                prop_assert!(file.values(tensor).len() == tensor.shape.iter().product::<usize>());
            }
            let _ = read_gguf(&file, &device(1));
        }
    }
}
