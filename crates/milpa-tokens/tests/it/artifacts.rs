//! Tokenizer and token artifacts on disk: written, opened, refused.

use std::{collections::BTreeMap, fs, path::Path};

use milpa_base::{Kind, TextRecord, manifest::Verify, open_artifact};
use milpa_tokens::{
    ChatTemplate, Message, RenderOptions, Split, TokenDataset, Tokenizer, TokenizerConfig,
    TokensConfig, TokensError, Utf8Stream, encode_shards, inspect_tokenizer,
};
use proptest::prelude::*;

use crate::{TEXTS, record, train, with_context};

pub(crate) fn encode(
    out: &Path,
    tokenizer: &Tokenizer,
    train: Vec<TextRecord>,
    validation: Vec<TextRecord>,
    threads: usize,
) -> Result<milpa_base::Manifest, TokensError> {
    with_context(threads, |context| {
        encode_shards(
            out,
            &TokensConfig::default(),
            tokenizer,
            &mut train.into_iter().map(Ok),
            &mut validation.into_iter().map(Ok),
            BTreeMap::new(),
            vec!["CC0-1.0".to_owned()],
            context,
        )
    })
}

fn corpus() -> Vec<TextRecord> {
    TEXTS.iter().enumerate().map(|(n, text)| record(["a/x", "b"][n % 2], n, text)).collect()
}

#[test]
fn a_tokenizer_artifact_opens_as_it_was_written() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("tokenizer");
    let trained = train(300);
    let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
    trained.write(&dir, &config, BTreeMap::new(), Vec::new()).unwrap();
    open_artifact(&dir, Kind::Tokenizer, Verify::Contents).unwrap();

    let opened = Tokenizer::open(&dir).unwrap();
    assert_eq!(opened.hash(), trained.tokenizer.hash());
    assert_eq!(opened.vocab_size(), 300);
    assert_eq!(opened.eos_id(), Some(0));
    assert_eq!(opened.bos_id(), None);
    assert_eq!(opened.start_id(), Some(0));
    assert_eq!(opened.special_ids(), [0, 1, 2]);
    assert_eq!(opened.stop_ids(), [0, 2]);
    assert_eq!(opened.token_id("<|im_end|>"), Some(2));
    assert_eq!(opened.chat_template(), Some(&ChatTemplate::continuation()));
    assert_eq!(Tokenizer::open(&dir.join("tokenizer.json")).unwrap().hash(), opened.hash());

    // GGUF stores parts; from them the same file is made again.
    assert_eq!(Tokenizer::from_parts(&opened.to_parts().unwrap()).unwrap().json(), opened.json());

    let json = dir.join("tokenizer.json");
    let damaged = fs::read_to_string(&json).unwrap().replacen("\"Ġ", "\"ġ", 1);
    fs::write(&json, damaged).unwrap();
    let error = Tokenizer::open(&dir).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json is damaged"), "{error}");
    let error = Tokenizer::open(root.path()).unwrap_err().to_string();
    assert!(error.contains("holds no tokenizer"), "{error}");
}

#[test]
fn special_tokens_are_read_only_when_asked() {
    let tokenizer = train(300).tokenizer;
    let text = "a<|im_end|>b<|endoftext|>";
    let plain = tokenizer.encode(text);
    assert!(plain.iter().all(|&id| !tokenizer.is_special(id)));
    assert_eq!(tokenizer.decode(&plain), text);
    let special = tokenizer.encode_with_special(text);
    assert_eq!(special.iter().filter(|&&id| tokenizer.is_special(id)).count(), 2);
    assert_eq!(tokenizer.decode(&special), text);

    // What a user writes can never become a special token of a rendered conversation.
    let messages = [Message::new("user", text), Message::new("assistant", "ok")];
    let options = RenderOptions::for_reply(&tokenizer);
    let rendered = ChatTemplate::chatml().render(&messages, &options).unwrap();
    let ids = tokenizer.encode_with_special(&rendered);
    assert_eq!(ids.iter().filter(|&&id| tokenizer.is_special(id)).count(), 2 + 2 + 1);
}

proptest! {
    #[test]
    fn any_text_survives(text in "\\PC{0,60}|(?s:.{0,60})", cut in 0usize..4) {
        thread_local! {
            static TOKENIZER: Tokenizer = train(400).tokenizer;
        }
        TOKENIZER.with(|tokenizer| {
            let ids = tokenizer.encode(&text);
            prop_assert_eq!(&tokenizer.decode(&ids), &text);
            let mut stream = Utf8Stream::default();
            let mut streamed = String::new();
            for &id in &ids {
                streamed += &stream.push(tokenizer.token_bytes(id).unwrap());
            }
            streamed += &stream.finish();
            prop_assert_eq!(&streamed, &text);
            // Any ids decode to something.
            tokenizer.decode(&ids[cut.min(ids.len())..]);
            Ok(())
        })?;
    }
}

#[test]
fn token_files_hold_each_document_and_do_not_depend_on_threads() {
    let root = tempfile::tempdir().unwrap();
    let tokenizer = train(300).tokenizer;
    let (one, four) = (root.path().join("one"), root.path().join("four"));
    let mut texts = corpus();
    texts.push(record("b", 99, ""));
    let first = encode(&one, &tokenizer, texts.clone(), corpus(), 1).unwrap();
    let second = encode(&four, &tokenizer, texts, corpus(), 4).unwrap();
    assert_eq!(first, second);
    open_artifact(&one, Kind::Tokens, Verify::Contents).unwrap();

    let dataset = TokenDataset::open(&one, &tokenizer).unwrap();
    let counts = dataset.counts(Split::Train);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["a/x", "b"]);
    assert_eq!(counts["b"].documents, 3);
    assert_eq!(
        counts["b"].text_bytes,
        [1, 3, 5].iter().map(|&n: &usize| TEXTS[n].len() as u64).sum::<u64>()
    );
    assert_eq!(dataset.total_tokens(Split::Train), counts.values().map(|c| c.tokens).sum::<u64>());
    assert_eq!(first.counts["train_tokens"], dataset.total_tokens(Split::Train));
    for (n, text) in TEXTS.iter().enumerate() {
        let source = ["a/x", "b"][n % 2];
        let ids = dataset.document(Split::Validation, source, n as u64 / 2).unwrap().unwrap();
        assert_eq!(ids.last(), tokenizer.eos_id().as_ref());
        assert_eq!(tokenizer.decode(&ids[..ids.len() - 1]), *text);
    }
    assert!(dataset.document(Split::Train, "b", 3).unwrap().is_none());
    assert!(dataset.document(Split::Train, "c", 0).unwrap().is_none());
}

#[test]
fn tokens_of_another_tokenizer_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("tokens");
    let (tokenizer, other) = (train(300).tokenizer, train(301).tokenizer);
    encode(&dir, &tokenizer, corpus(), corpus(), 1).unwrap();
    let error = TokenDataset::open(&dir, &other).unwrap_err();
    assert!(matches!(error, TokensError::OtherTokenizer { .. }));
    assert!(error.to_string().contains(&tokenizer.hash().short()), "{error}");
    assert!(error.to_string().contains("encode the corpus again"), "{error}");
}

#[test]
fn damaged_token_files_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let tokenizer = train(300).tokenizer;
    let check = |change: &dyn Fn(&Path), expect: &str| {
        let dir = root.path().join("tokens");
        encode(&dir, &tokenizer, corpus(), corpus(), 1).unwrap();
        change(&dir);
        let error = TokenDataset::open(&dir, &tokenizer)
            .and_then(|dataset| dataset.windows(Split::Train, 8, 1000)?.batch(0..1000))
            .unwrap_err()
            .to_string();
        assert!(error.contains(expect), "{expect:?} is not in {error}");
    };
    let patch = |dir: &Path, name: &str, at: usize, bytes: &[u8]| {
        let path = dir.join(name);
        let mut content = fs::read(&path).unwrap();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(path, content).unwrap();
    };
    check(&|dir| patch(dir, "train-b.tokens", 0, b"X"), "MILPATOK");
    check(&|dir| patch(dir, "train-b.tokens", 12, &[0xFF; 4]), "the id 4294967295");
    check(&|dir| patch(dir, "train-b.tokens", 16, &[0xFF; 8]), "do not hold");
    check(&|dir| patch(dir, "train-b.tokens", 40, &[0; 8]), "encode the corpus again");
    check(&|dir| patch(dir, "train-b.tokens", 70, &[0xFF; 2]), "holds the id 65535");
    check(&|dir| patch(dir, "train-b.docs", 16, &[0; 8]), "does not end with the tokens");
    check(&|dir| patch(dir, "index.json", 0, b"["), "index.json is damaged");
    check(&|dir| fs::remove_file(dir.join("train-b.docs")).unwrap(), "is missing");
    check(
        &|dir| {
            let file = fs::OpenOptions::new().write(true).open(dir.join("train-b.tokens"));
            file.unwrap().set_len(70).unwrap();
        },
        "bytes instead of",
    );
}

#[test]
fn a_corpus_without_text_is_an_error_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("tokens");
    let tokenizer = train(300).tokenizer;
    let error = encode(&dir, &tokenizer, Vec::new(), corpus(), 1).unwrap_err();
    assert!(matches!(error, TokensError::NoText(_)));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn the_report_measures_each_source() {
    let tokenizer = train(300).tokenizer;
    let mut records = corpus().into_iter().map(Ok);
    let report =
        with_context(2, |context| inspect_tokenizer(&tokenizer, &mut records, context).unwrap());
    assert_eq!(report.vocab_size, 300);
    assert_eq!(report.sources.len(), 2);
    let source = &report.sources[1];
    assert_eq!(source.source, "b");
    let tokens: usize = [1, 3, 5].iter().map(|&n| tokenizer.encode(TEXTS[n]).len()).sum();
    assert_eq!(source.tokens, tokens as u64);
    assert_eq!(
        source.words,
        [1, 3, 5].iter().map(|&n: &usize| TEXTS[n].split_whitespace().count() as u64).sum::<u64>()
    );
    assert!((source.bytes_per_token - source.text_bytes as f64 / tokens as f64).abs() < 1e-12);
    assert!(report.used_share > 0.1 && report.used_share < 1.0);
    let shown = report.to_string();
    assert!(shown.contains("bytes/token") && shown.contains("<|im_end|> 2"), "{shown}");

    // With bytes alone every wide character is cut.
    let bytes = train(259).tokenizer;
    let mut records = [record("s", 0, "ñ日a")].into_iter().map(Ok);
    let report =
        with_context(1, |context| inspect_tokenizer(&bytes, &mut records, context).unwrap());
    assert_eq!(report.sources[0].cut_share, 1.0);
    assert_eq!(report.sources[0].example, "<C3>|<B1>|<E6>|<97>|<A5>|a");
}
