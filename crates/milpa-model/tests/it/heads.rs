//! Classifiers, reward models and value heads against transformers and trl (`reference/heads_golden.py`), their
//! folders, and new heads on the models that exist.

use std::{collections::BTreeMap, path::Path};

use milpa_base::Seed;
use milpa_model::{
    Decoder, LocalModel, LossRows, OutputHead, ParameterStore, TokenBatch, add_head,
    read_hf_description, read_hf_weights, write_hf_model,
};
use milpa_tensor::{Tape, Tensor};
use safetensors::SafeTensors;

use crate::{
    check_error, device,
    families::{Case, assert_close, cases, gradients, logits, open, summary, uniform, write_case},
    golden, tokenizer, values,
};

fn heads() -> BTreeMap<String, Case> {
    serde_json::from_slice(&golden("heads.json")).unwrap()
}

/// What the head makes of a batch, and the tape that it was recorded on.
fn output(
    decoder: &Decoder,
    parameters: &ParameterStore,
    batch: &TokenBatch<'_>,
) -> (Tape, Tensor) {
    let tape = Tape::recording(device(2));
    let x_btd = decoder.forward_hidden(&tape, parameters, batch).unwrap();
    let out = match decoder.description().head {
        OutputHead::Classifier { .. } => {
            decoder.sequence_scores(&tape, parameters, batch, &x_btd).unwrap()
        }
        _ => decoder.values(&tape, parameters, &x_btd).unwrap(),
    };
    (tape, out)
}

#[test]
fn heads_equal_their_peers() {
    let bytes = golden("heads.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    for (name, case) in heads() {
        let words = |kind: &str| -> Vec<[u8; 4]> {
            file.tensor(&format!("{name}.{kind}")).unwrap().data().as_chunks::<4>().0.to_vec()
        };
        let floats = |kind| words(kind).into_iter().map(f32::from_le_bytes).collect::<Vec<_>>();
        let dir = tempfile::tempdir().unwrap();
        write_case(dir.path(), &case);
        let mut description = read_hf_description(dir.path()).unwrap();
        if description.head == OutputHead::LanguageModel {
            description.head = OutputHead::LanguageModelWithValue;
        }
        let mut parameters = read_hf_weights(dir.path(), &description, &device(2)).unwrap();
        let decoder = Decoder::new(&description, &parameters).unwrap();
        let tokens_bt: Vec<u32> = words("tokens").into_iter().map(u32::from_le_bytes).collect();
        let batch = TokenBatch::new(&tokens_bt, tokens_bt.len() / 2);
        let (tape, out) = output(&decoder, &parameters, &batch);
        assert_close(&name, &tape.read(&out), &floats("output"), 2e-5);

        let seed = uniform(&format!("seed {name}"), out.shape().elements());
        tape.backward_from(&[(&out, &seed)], &mut parameters).unwrap();
        let found = gradients(&description, &parameters);
        assert!(found.keys().eq(case.tensors.keys()), "{name}");
        let sums = floats("gradients");
        let largest = sums.iter().skip(1).step_by(2).fold(0.0_f32, |a, &b| a.max(b));
        for ((tensor, gradient), expect) in found.iter().zip(sums.as_chunks::<2>().0) {
            let (dot, norm) = summary(tensor, gradient);
            let allowed = 1e-4 * f64::from(expect[1]) + 1e-6 * f64::from(largest);
            let what = format!("{name} {tensor}: {dot} {norm} instead of {expect:?}");
            assert!((norm - f64::from(expect[1])).abs() <= allowed, "{what}");
            assert!((dot - f64::from(expect[0])).abs() <= allowed, "{what}");
        }

        let back = tempfile::tempdir().unwrap();
        write_hf_model(back.path(), &description, &parameters, Some(2), Some(1)).unwrap();
        if let Ok(place) = std::env::var("MILPA_HEADS") {
            let dir = Path::new(&place).join(&name);
            std::fs::create_dir_all(&dir).unwrap();
            write_hf_model(&dir, &description, &parameters, Some(2), Some(1)).unwrap();
        }
        let mut again = read_hf_description(back.path()).unwrap();
        if description.head == OutputHead::LanguageModelWithValue {
            assert_eq!(again.head, OutputHead::LanguageModel);
            // As a language model it is read without its value head.
            let plain = read_hf_weights(back.path(), &again, &device(1)).unwrap();
            assert_eq!(plain.len() + 2, parameters.len());
            again.head = OutputHead::LanguageModelWithValue;
        }
        assert_eq!(again.head, description.head, "{name}");
        let saved = read_hf_weights(back.path(), &again, &device(1)).unwrap();
        assert_eq!(values(&saved), values(&parameters), "{name}");
    }
}

#[test]
fn a_model_gets_another_head_and_stays_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    write_case(dir.path(), &cases()["llama2"]);
    let (description, mut parameters) = open(dir.path(), 1);
    let before = values(&parameters);
    let tokens = [3, 1, 4, 1, 5];
    let plain = Decoder::new(&description, &parameters).unwrap();
    let expect = logits(&plain, &parameters, &tokens, 5);

    let head = OutputHead::LanguageModelWithValue;
    let valued = add_head(&description, head, Seed(1), &mut parameters).unwrap();
    let decoder = Decoder::new(&valued, &parameters).unwrap();
    assert_eq!(logits(&decoder, &parameters, &tokens, 5), expect);
    let (tape, out) = output(&decoder, &parameters, &TokenBatch::new(&tokens, 5));
    assert_eq!(out.shape().lengths(), [1, 5]);
    assert!(tape.read(&out).iter().any(|value| *value != 0.0));

    let reward = OutputHead::classifier(1, None);
    let reward = add_head(&description, reward, Seed(1), &mut parameters).unwrap();
    assert_eq!(&values(&parameters)[..before.len()], before);
    let decoder = Decoder::new(&reward, &parameters).unwrap();
    let (_, out) = output(&decoder, &parameters, &TokenBatch::new(&tokens, 5));
    assert_eq!(out.shape().lengths(), [1, 1]);
    let back = tempfile::tempdir().unwrap();
    write_hf_model(back.path(), &reward, &parameters, None, None).unwrap();
    let (again, saved) = open(back.path(), 1);
    assert_eq!(again.head, reward.head);
    assert_eq!(saved.len(), before.len(), "a score in the place of the output layer");
}

#[test]
fn a_head_is_not_asked_for_what_it_does_not_give() {
    let dir = tempfile::tempdir().unwrap();
    write_case(dir.path(), &heads()["qwen3"]);
    let (description, parameters) = open(dir.path(), 1);
    let classifier = Decoder::new(&description, &parameters).unwrap();
    let tape = Tape::inference(device(1));
    let batch = TokenBatch::new(&[3, 1, 4, 1], 2);
    let x_btd = classifier.forward_hidden(&tape, &parameters, &batch).unwrap();
    check_error(classifier.logits(&tape, &parameters, &x_btd, &[0]), &["no logits of tokens"]);
    let rows = LossRows::mean(&[1, 2, 3, 4]);
    check_error(classifier.loss(&tape, &parameters, &batch, &rows), &["no logits of tokens"]);
    check_error(classifier.values(&tape, &parameters, &x_btd), &["no value of each token"]);
    let model = LocalModel::from_parts("scores", None, &description, parameters, tokenizer());
    check_error(model, &["gives no text"]);

    write_case(dir.path(), &cases()["llama2"]);
    let (description, mut parameters) = open(dir.path(), 1);
    let plain = Decoder::new(&description, &parameters).unwrap();
    let scores = plain.sequence_scores(&tape, &parameters, &batch, &x_btd);
    check_error(scores, &["no scores of sequences"]);
    let none = OutputHead::classifier(0, None);
    check_error(add_head(&description, none, Seed(1), &mut parameters), &["head", "0 labels"]);
    let head = OutputHead::classifier(2, None);
    let unpadded = add_head(&description, head, Seed(1), &mut parameters).unwrap();
    let unpadded = Decoder::new(&unpadded, &parameters).unwrap();
    let scores = unpadded.sequence_scores(&tape, &parameters, &batch, &x_btd);
    check_error(scores, &["2 sequences", "pad_token"]);
}
