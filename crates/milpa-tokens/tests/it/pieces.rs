//! SentencePiece BPE, Unigram and WordPiece against golden ids of `sentencepiece` and `tokenizers`
//! (`reference/pieces_golden.py`), and what holds for every kind of tokenizer.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_tokens::{ChatTemplate, PieceKind, PieceParts, Tokenizer, TokenizerKind};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{data, train};

const UNIGRAM: &[u8] = include_bytes!("golden/unigram.model");
const BPE: &[u8] = include_bytes!("golden/bpe.model");

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    #[serde(flatten)]
    ids: BTreeMap<String, Vec<Vec<u32>>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/pieces.json")).unwrap()
}

/// Opens the bytes of a `.model` file.
fn model(bytes: &[u8]) -> Result<Tokenizer, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokenizer.model");
    fs::write(&path, bytes).unwrap();
    Tokenizer::open(&path).map_err(|error| error.to_string())
}

/// BERT's tokenizer, made of its published vocabulary.
fn bert(data: &Path) -> Tokenizer {
    let words = data.join("tokenizers/expected_encodings/bert-vocab.txt");
    let words = fs::read_to_string(words).unwrap();
    bert_like(&words.lines().collect::<Vec<_>>())
}

fn bert_like(words: &[&str]) -> Tokenizer {
    let id_of = |text: &str| words.iter().position(|word| *word == text).unwrap();
    let added: Vec<Value> = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        .iter()
        .map(|text| json!({ "id": id_of(text), "content": text, "special": true }))
        .collect();
    let vocab: serde_json::Map<String, Value> =
        words.iter().enumerate().map(|(id, word)| ((*word).to_owned(), id.into())).collect();
    let file = json!({
        "added_tokens": added,
        "normalizer": { "type": "BertNormalizer" },
        "pre_tokenizer": { "type": "BertPreTokenizer" },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "[CLS]", "type_id": 0 } }],
        },
        "decoder": { "type": "WordPiece", "prefix": "##", "cleanup": true },
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        },
    });
    Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), Path::new("bert")).unwrap()
}

fn check_ids(name: &str, tokenizer: &Tokenizer) {
    let golden = golden();
    let texts: Vec<&str> = golden.texts.iter().map(String::as_str).collect();
    for (index, ids) in tokenizer.encode_batch(&texts, 2).iter().enumerate() {
        assert_eq!(ids, &golden.ids[name][index], "{name} {:?}", texts[index]);
    }
    // What is written is read back as the same tokenizer.
    let again = Tokenizer::from_json(tokenizer.json(), Path::new("again")).unwrap();
    assert_eq!(again.hash(), tokenizer.hash());
    assert_eq!(again.encode_batch(&texts, 1), golden.ids[name]);
    assert_eq!((again.bos_id(), again.eos_id()), (tokenizer.bos_id(), tokenizer.eos_id()));
}

#[test]
fn small_models_give_the_ids_of_sentencepiece() {
    let (unigram, bpe) = (model(UNIGRAM).unwrap(), model(BPE).unwrap());
    assert_eq!(unigram.kind(), TokenizerKind::Unigram);
    assert_eq!(bpe.kind(), TokenizerKind::SentencePieceBpe);
    check_ids("unigram", &unigram);
    check_ids("bpe", &bpe);
}

#[test]
fn published_sentencepiece_models_give_the_ids_of_sentencepiece() {
    let Some(data) = data() else { return };
    for (name, file) in [
        ("mistral_v1", "tokenizer.model.v1"),
        ("mistral_v3", "mistral_instruct_tokenizer_240323.model.v3"),
    ] {
        let tokenizer = Tokenizer::open(&data.join("tokenizers/mistral").join(file)).unwrap();
        check_ids(name, &tokenizer);
        assert_eq!((tokenizer.bos_id(), tokenizer.eos_id()), (Some(1), Some(2)));
        for text in golden().texts {
            assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text.replace('▁', " "));
        }
        let again = Tokenizer::from_pieces(&tokenizer.to_pieces().unwrap()).unwrap();
        check_ids(name, &again);
        assert_eq!((again.bos_id(), again.eos_id()), (Some(1), Some(2)));
    }
}

#[test]
fn pieces_come_apart_and_together() {
    let mut pieces = vec![
        ("<unk>".to_owned(), 0.0, PieceKind::Unknown),
        ("<s>".to_owned(), 0.0, PieceKind::Control),
        ("</s>".to_owned(), 0.0, PieceKind::Control),
    ];
    pieces.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 0.0, PieceKind::Byte)));
    let normal = ["▁", "a", "b", "ab", "▁a", "▁ab"];
    pieces.extend(
        (0_u8..)
            .zip(normal)
            .map(|(index, text)| (text.to_owned(), -f32::from(index), PieceKind::Normal)),
    );
    let parts = PieceParts { pieces, space_before: true, eos: Some(2), bos: Some(1) };
    let tokenizer = Tokenizer::from_pieces(&parts).unwrap();
    assert_eq!(tokenizer.to_pieces().unwrap(), parts);
    // ▁ a b merge to ▁ ab, which has the better score, and then to ▁ab; é is two bytes.
    assert_eq!(tokenizer.encode("ab bé"), [264, 259, 261, 3 + 0xC3, 3 + 0xA9]);
    assert_eq!(tokenizer.decode(&[264, 259, 261, 3 + 0xC3, 3 + 0xA9]), "ab bé");

    let check = |change: &dyn Fn(&mut PieceParts), expect: &str| {
        let mut changed = parts.clone();
        change(&mut changed);
        let error = Tokenizer::from_pieces(&changed).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    };
    check(&|parts| parts.pieces[0].2 = PieceKind::Control, "0 unknown pieces");
    check(&|parts| parts.pieces[9].0 = "byte".to_owned(), "is no byte");
    check(&|parts| parts.pieces[9].2 = PieceKind::Normal, "not every byte");
    check(&|parts| parts.pieces[260].1 = f32::NAN, "score NaN");
    check(&|parts| parts.pieces[260].0 = "b".to_owned(), "two pieces");
    // What is normalised or of another kind, GGUF cannot say.
    for bytes in [UNIGRAM, BPE] {
        let error = model(bytes).unwrap().to_pieces().unwrap_err().to_string();
        assert!(error.contains("is neither"), "{error}");
    }
}

#[test]
fn bert_gives_its_published_ids() {
    let Some(data) = data() else { return };
    let tokenizer = bert(&data);
    check_ids("bert", &tokenizer);
    assert_eq!(tokenizer.bos_id(), Some(101));
    let folder = data.join("tokenizers/expected_encodings");
    let read = |name: &str| -> Value {
        serde_json::from_slice(&fs::read(folder.join(name)).unwrap()).unwrap()
    };
    let check = |text: &Value, ids: &Value| {
        let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (101, 102));
        assert_eq!(tokenizer.encode(text.as_str().unwrap()), ids[1..ids.len() - 1], "{text}");
    };
    let fixture = read("bert_uncased_encoded.json");
    check(&fixture["text"], &fixture["token_ids"]);
    let cases = read("tokenizer_tests.json");
    let mut checked = 0;
    for case in ["bert-base-uncased", "google-bert/bert-base-uncased"] {
        for case in cases[case].as_array().unwrap() {
            check(&case["input"], &case["encoded"]["input_ids"]);
            let ids: Vec<u32> =
                serde_json::from_value(case["encoded"]["input_ids"].clone()).unwrap();
            // transformers takes spaces away once more, across tokens.
            let plain = tokenizer.decode(&ids).replace(" ' ", "'");
            assert_eq!(plain, case["decoded_with_special"].as_str().unwrap());
            checked += 1;
        }
    }
    assert_eq!(checked, 36);
}

#[test]
fn gpt2_gives_its_published_ids() {
    let Some(data) = data() else { return };
    let tokenizer = Tokenizer::open(&data.join("tokenizers/gpt2")).unwrap();
    let cases = data.join("tokenizers/expected_encodings/tokenizer_tests.json");
    let cases: Value = serde_json::from_slice(&fs::read(cases).unwrap()).unwrap();
    for case in cases["distilgpt2"].as_array().unwrap() {
        let ids: Vec<u32> = serde_json::from_value(case["encoded"]["input_ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(case["input"].as_str().unwrap()), ids, "{case}");
    }
}

/// Text that spells every special token of `tokenizer`, alone, side by side and inside words.
fn check_specials(tokenizer: &Tokenizer, unknown: Option<u32>) {
    assert!(!tokenizer.special_ids().is_empty());
    let names: Vec<String> =
        tokenizer.special_ids().iter().map(|&id| tokenizer.decode(&[id])).collect();
    let text = format!("hola {} a{}b {}", names.join(" "), names.join("x"), names.concat());
    let found = |ids: &[u32]| {
        ids.iter().filter(|&&id| tokenizer.is_special(id) && Some(id) != unknown).count()
    };
    assert_eq!(found(&tokenizer.encode(&text)), 0, "{}", tokenizer.kind().name());
    let asked = names.len() - usize::from(unknown.is_some());
    assert_eq!(found(&tokenizer.encode_with_special(&text)), 3 * asked);
}

#[test]
fn special_tokens_come_out_of_text_only_when_asked() {
    check_specials(&train(300).tokenizer, None);
    let unknown = |tokenizer: &Tokenizer| tokenizer.token_id("<unk>");
    for bytes in [UNIGRAM, BPE] {
        let tokenizer = model(bytes).unwrap();
        check_specials(&tokenizer, unknown(&tokenizer));
    }
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[", "]", "cl", "##s", "hola", "a"];
    let tokenizer = bert_like(&words);
    check_specials(&tokenizer, tokenizer.token_id("[UNK]"));
    // Where special tokens have pieces of their own, as Hugging Face's files list them.
    let file = json!({
        "added_tokens": [{ "id": 0, "content": "<s>", "special": true }],
        "pre_tokenizer": null,
        "model": {
            "type": "Unigram", "unk_id": 5,
            "vocab": [["<s>", 0.0], ["<", -3.0], ["s", -3.0], [">", -3.0], ["a", -1.0], ["?", -9.0]],
        },
    });
    let tokenizer =
        Tokenizer::from_json(&serde_json::to_vec(&file).unwrap(), Path::new("u")).unwrap();
    assert_eq!(tokenizer.encode("a<s>"), [4, 1, 2, 3]);
    assert_eq!(tokenizer.encode_with_special("a<s>"), [4, 0]);
}

#[test]
fn texts_come_back() {
    let tokenizer = model(BPE).unwrap();
    for text in ["La milpa junta el maíz", "Ko'ẽ porã 日本 👩\u{200d}🌾", "a<s>b", "ya maíz"]
    {
        assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
    }
    assert_eq!(model(UNIGRAM).unwrap().decode(&[]), "");
}

#[test]
fn a_sentencepiece_model_becomes_a_folder_that_opens() {
    let tokenizer = model(BPE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    tokenizer.write_files(dir.path(), &ChatTemplate::chatml()).unwrap();
    let opened = Tokenizer::open(dir.path()).unwrap();
    assert_eq!(opened.hash(), tokenizer.hash());
    assert_eq!((opened.bos_id(), opened.eos_id()), (Some(1), Some(2)));
    assert!(opened.to_parts().unwrap_err().to_string().contains("byte-level"));
}

#[test]
fn damaged_models_are_refused_with_a_reason() {
    let check = |bytes: &[u8], expect: &str| {
        let error = model(bytes).unwrap_err();
        assert!(error.contains(expect), "{error}");
    };
    check(b"", "no pieces");
    check(&BPE[..BPE.len() / 2], "cut off");
    check(b"\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01", "cut off");
    check(b"\x0A\x03\x0A\x01a", "0 unknown pieces");
    check(b"\x0A\x05\x0A\x01a\x18\x09", "type 9");
    check(b"\x0A\x03\x0A\x01\xFF", "UTF-8");
    check(b"\x12\x02\x18\x03", "words or characters");
    // Any byte may be another: an error or a tokenizer, never a panic.
    for (index, bytes) in [UNIGRAM, BPE].into_iter().enumerate() {
        for at in (index..bytes.len()).step_by(41) {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x55;
            if let Ok(tokenizer) = model(&changed) {
                tokenizer.decode(&tokenizer.encode("Ko'ẽ porã, <sep> ﬁ ①\u{3000} maíz"));
            }
        }
    }
}

#[test]
fn long_texts_without_spaces_take_little_time() {
    let text = "a".repeat(1 << 20);
    for bytes in [UNIGRAM, BPE] {
        let tokenizer = model(bytes).unwrap();
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text)), text);
    }
    assert_eq!(bert_like(&["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]).encode(&text), [1]);
}
