//! GGUF files: what is written comes back, and hostile bytes give errors.

use std::{fs, path::Path, sync::Arc};

use milpa_base::{TextModel, hash_bytes};
use milpa_model::{
    Decoder, GgufDescription, GgufFile, GgufType, GgufValue, GgufWriter, LocalModel, ModelConfig,
    ParameterStore, TokenBatch, read_gguf, write_gguf,
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
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let parameters = parameters(config, &device(1));
    write_gguf(&path, config, &parameters, &tokenizer(), &description()).unwrap();
    fs::read(path).unwrap()
}

fn open(bytes: Vec<u8>) -> Result<GgufFile, milpa_model::DecoderError> {
    GgufFile::from_bytes(Path::new("toy.gguf"), bytes)
}

fn logits(config: &ModelConfig, parameters: &ParameterStore) -> Vec<f32> {
    let tape = Tape::inference(Arc::clone(parameters.device()));
    let decoder = Decoder::new(config, parameters).unwrap();
    let tokens: Vec<u32> = (0..20).map(|i| i * 13 % 300).collect();
    let batch = TokenBatch::new(&tokens, 20);
    let hidden = decoder.forward_hidden(&tape, parameters, &batch).unwrap();
    tape.read(&decoder.logits(&tape, parameters, &hidden, &[0, 7, 19]).unwrap())
}

#[test]
fn a_model_survives_its_gguf() {
    for qk_norm in [true, false] {
        // 310 tokens: ten embeddings without a token.
        let config = config(qk_norm);
        let file = open(written(&config)).unwrap();
        let device = device(2);
        let (read_config, read, read_tokenizer) = read_gguf(&file, &device).unwrap();
        assert_eq!(ModelConfig { init_std: config.init_std, ..read_config }, config);
        let text = "La milpa <|im_start|> da maíz ñ 🌽\n\n";
        assert_eq!(read_tokenizer.encode(text), tokenizer().encode(text));
        let special = read_tokenizer.encode_with_special(text);
        assert_eq!(special, tokenizer().encode_with_special(text));
        assert_eq!(read_tokenizer.eos_id(), tokenizer().eos_id());

        // Rounding is to 1/127 of the largest of 32 values; heads are in their old places again.
        let original = parameters(&config, &device);
        for ((name, a), (_, b)) in values(&read).iter().zip(values(&original)) {
            let largest = b.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            for (a, b) in a.iter().zip(b) {
                assert!((a - b).abs() <= largest / 250.0, "{name}: {a} {b}");
            }
        }
        // The same rounded weights in f32 give nearly the same logits as the quantised path.
        let mut widened = ParameterStore::new(Arc::clone(&device));
        for parameter in &read {
            let values = read.read(read.id(parameter.name()).unwrap());
            let shape = parameter.shape();
            widened.add(parameter.name(), shape.lengths(), &values, true).unwrap();
        }
        let (quantised, plain) = (logits(&config, &read), logits(&config, &widened));
        let largest = plain.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        for (a, b) in quantised.iter().zip(&plain) {
            assert!((a - b).abs() < 0.03 * largest, "{a} {b} of {largest}");
        }
    }
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
    assert_eq!(file.tensors()["token_embd.weight"].kind, GgufType::Q8_0);
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
    assert_eq!(file.tensors()["blk.0.ffn_up.weight"].kind, GgufType::Q8_0);
    read_gguf(&file, &device(1)).unwrap();
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    assert_eq!(written(&config(true)), written(&config(true)));
}

#[test]
fn a_gguf_opens_as_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("toy.gguf");
    let bytes = written(&config(true));
    fs::write(&path, &bytes).unwrap();
    for place in [&path, &dir.path().to_owned()] {
        let model = LocalModel::open(place, 1).unwrap();
        assert_eq!(model.info().name, "toy");
        assert_eq!(model.info().hash, hash_bytes(&bytes).to_string());
        assert!(model.chat_template().is_some());
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
        (tensor(2, [3, 2], 12, 0), "ggml type 12"),
        (tensor(2, [3, 2], 8, 0), "cannot have"),
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
    ) {
        use std::sync::OnceLock;
        static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
        let mut bytes = WHOLE.get_or_init(|| written(&ModelConfig { layers: 1, ..config(true) })).clone();
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
