//! More tokens for a model: what stays as it was, and what the new rows take.

use std::fs;

use milpa_base::{Kind, Silent, StopFlag, TextModel, TextRecord, manifest::Verify, open_artifact};
use milpa_model::{
    DecoderDescription, FolderContext, LocalModel, ModelConfig, NewRows, WEIGHTS_FILE,
    extend_model, extend_vocabulary, weights_bytes, write_hf_model,
};
use milpa_tokens::{ChatTemplate, Context, ExtendConfig, ExtendedTokenizer, extend_tokenizer};

use crate::{check_error, config, device, parameters, tokenizer};

const OLD: &str = "La milpa da maíz, frijol y calabaza.";

fn extended(add: usize) -> ExtendedTokenizer {
    let text = "coração e pão, coração e chão; não é a mesma plantação. ".repeat(2);
    let record = TextRecord { id: "a".into(), source: "pt".into(), text };
    let context = Context { threads: 1, progress: &Silent, stop: &StopFlag::default() };
    let config = ExtendConfig { add, min_count: 2, sample: None };
    extend_tokenizer(&tokenizer(), &config, &mut [Ok(record)].into_iter(), &context).unwrap()
}

#[test]
fn old_text_loses_only_what_new_rows_take() {
    // Tied and with an output layer of its own; 310 rows for 300 tokens, so that some are padding.
    for tied in [true, false] {
        let config = ModelConfig { tie_embeddings: tied, ..config(true) };
        let extended = extended(14);
        let (old, new) = (tokenizer().vocab_size(), extended.parts.len());
        assert_eq!((old, new), (300, 14));
        let description = DecoderDescription::from(&config);
        let store = parameters(&config, &device(1));
        let method = NewRows::MeanOfParts;
        let (larger, rows) =
            extend_vocabulary(&store, &description, old, &extended.parts, method).unwrap();
        assert_eq!(larger.vocab_size, 314);
        let base = LocalModel::from_parts("base", None, description, store, tokenizer()).unwrap();
        let after = LocalModel::from_parts("after", None, larger, rows, extended.tokenizer.clone())
            .unwrap();
        assert_eq!(extended.tokenizer.encode(OLD), tokenizer().encode(OLD));
        for end in [1, 8, 20] {
            let context = &OLD[..end];
            let [before, after] =
                [&base, &after].map(|model| model.next_token_logprobs(context).unwrap());
            let mass = |logprobs: &[f32]| -> f64 {
                logprobs.iter().map(|logprob| f64::from(*logprob).exp()).sum()
            };
            // Padding rows of the base are gone too.
            let (padding, taken) = (mass(&before[old..]), mass(&after[old..]));
            assert!(taken > 0.0);
            let expected = ((1.0 - taken) / (1.0 - padding)).ln();
            for (id, (before, after)) in before[..old].iter().zip(&after[..old]).enumerate() {
                let change = f64::from(after - before);
                assert!((change - expected).abs() < 1e-5, "{id}: {change} instead of {expected}");
            }
        }
    }
}

#[test]
fn a_folder_is_extended_as_a_model_in_memory() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("base");
    fs::create_dir(&folder).unwrap();
    let config = config(false);
    let store = parameters(&config, &device(1));
    write_hf_model(&folder, &config, &store, Some(0), None).unwrap();
    tokenizer().write_files(&folder, &ChatTemplate::chatml()).unwrap();
    let extended = extended(20);
    let context = FolderContext { threads: 2, progress: &Silent, stop: &StopFlag::default() };
    for method in [NewRows::MeanOfParts, NewRows::MeanOfAll] {
        let out = root.path().join("out");
        let manifest = extend_model(&folder, &extended.tokenizer, method, &out, &context).unwrap();
        let (_, rows) =
            extend_vocabulary(&store, &(&config).into(), 300, &extended.parts, method).unwrap();
        assert_eq!(fs::read(out.join(WEIGHTS_FILE)).unwrap(), weights_bytes(&rows));
        assert_eq!(manifest.counts["new_tokens"], extended.parts.len() as u64);
        assert_eq!(manifest.inputs["tokenizer"], extended.tokenizer.hash());
        open_artifact(&out, Kind::Checkpoint, Verify::Contents).unwrap();
        let model = LocalModel::open(&out, 1).unwrap();
        assert_eq!(model.tokenizer().hash(), extended.tokenizer.hash());
        assert_eq!(model.chat_template(), Some(&ChatTemplate::chatml()));
    }
    let out = root.path().join("other");
    let other = crate::merge::with_tokens(&["<|x|>"]);
    let mut parts = other.to_parts().unwrap();
    parts.merges.swap(3, 4);
    let other = milpa_tokens::Tokenizer::from_parts(&parts).unwrap();
    let result = extend_model(&folder, &other, NewRows::MeanOfParts, &out, &context);
    check_error(result.map(drop), &["does not extend that of the base", "merge 4 is another"]);
    assert!(!out.exists());
}
