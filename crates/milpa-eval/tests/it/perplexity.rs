use std::io;

use milpa_base::{Bytes, Seed, StopFlag, TextRecord};
use milpa_eval::{
    EvalError, PerplexityConfig, PerplexityReport, Watch, multiple_choice::Resampling, perplexity,
    perplexity::ResampledUnit, statistics::Method,
};

use crate::models::{Scripted, Unigram, info, near, with_watch};

const RESAMPLING: Resampling = Resampling { replicates: 500, seed: Seed(2) };

fn record(source: &str, id: usize, text: &str) -> TextRecord {
    TextRecord { id: format!("{source}/{id}"), source: source.to_owned(), text: text.to_owned() }
}

fn measure(records: Vec<TextRecord>, max_bytes: u64) -> Result<PerplexityReport, EvalError> {
    let config = PerplexityConfig { max_bytes_per_source: Bytes(max_bytes) };
    let mut records = records.into_iter().map(Ok);
    with_watch(|watch| perplexity(&Unigram::new(), &mut records, &config, RESAMPLING, watch))
}

#[test]
fn every_number_is_the_one_computed_by_hand() {
    // "aab" is 1 + 1 + 2 = 4 bits in 3 bytes; "b b" is 2 + 3 + 2 = 7 bits in 3 bytes, 2 words.
    let records = (0..20)
        .map(|id| record("n", id, if id % 2 == 0 { "aab" } else { "b b" }))
        .chain([record("other", 0, "aaaa"), record("other", 1, "")])
        .collect();
    let report = measure(records, 1 << 20).unwrap();
    let [novels, other] = &report.sources[..] else { panic!("{} sources", report.sources.len()) };

    near(novels.bits_per_byte, 110.0 / 60.0);
    near(novels.byte_perplexity, 2f64.powf(110.0 / 60.0));
    near(novels.token_perplexity.unwrap(), 2f64.powf(110.0 / 60.0));
    near(novels.word_perplexity.unwrap(), 2f64.powf(110.0 / 30.0));
    near(novels.log_likelihood, -110.0 * std::f64::consts::LN_2);
    assert_eq!((novels.bytes, novels.tokens.0, novels.words), (Bytes(60), 60, 30));
    assert_eq!((novels.documents, novels.documents_available, novels.units), (20, 20, 20));
    assert_eq!(novels.resampled, ResampledUnit::Documents);
    let text = "aabb b".repeat(10);
    assert_eq!(novels.text_hash, milpa_base::hash_bytes(text.as_bytes()));
    // Documents have 4 or 7 bits with equal shares: deviation 1.5/3 bits per byte, error 0.5/√20.
    let interval = novels.interval.unwrap();
    assert_eq!(interval.method, Method::Bootstrap);
    let half = (interval.high - interval.low) / 2.0;
    assert!((half / (1.96 * 0.5 / 20f64.sqrt()) - 1.0).abs() < 0.15, "{half}");

    near(other.bits_per_byte, 1.0);
    assert_eq!((other.empty_documents, other.documents, other.units), (1, 1, 1));
    assert_eq!((other.resampled, other.interval), (ResampledUnit::Blocks, None));

    near(report.bits_per_byte, 114.0 / 64.0);
    assert_eq!((report.bytes, report.documents), (Bytes(64), 21));
    assert!(report.interval.unwrap().low < report.bits_per_byte);
}

#[test]
fn few_long_documents_are_cut_alike_and_resampled_by_blocks() {
    // Lines differ, so blocks differ.
    let long: String = (0..40_000).map(|i| if i % 7 < 3 { "aa\n" } else { "b a\n" }).collect();
    let records = vec![record("n", 0, &long), record("n", 1, "aa"), record("n", 2, &long)];
    let report = measure(records, 100_002).unwrap();
    let source = &report.sources[0];
    assert_eq!((source.bytes, source.documents), (Bytes(100_002), 3));
    assert_eq!(source.bytes_available, Bytes(2 * long.len() as u64 + 2));
    assert_eq!((source.resampled, source.units), (ResampledUnit::Blocks, 9));
    assert!(source.interval.is_some());
    let measured = [&long[..50_000], "aa", &long[..50_000]].concat();
    assert_eq!(source.text_hash, milpa_base::hash_bytes(measured.as_bytes()));
    let expect = -crate::models::log_probability(&measured) / std::f64::consts::LN_2 / 100_002.0;
    // Sums of 10⁵ terms in another order: n · 2⁻⁵³ relative at worst.
    assert!((source.bits_per_byte / expect - 1.0).abs() < 2e-11);
    // Both compressors see the repetition.
    assert!(source.xz_bits_per_byte < 0.1 && source.bzip2_bits_per_byte < 0.3);
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let records = || (0..30).map(|id| record("n", id, &"ab ".repeat(id + 1))).collect::<Vec<_>>();
    let run = || {
        let mut report = measure(records(), 1 << 10).unwrap();
        report.wall_seconds = 0.0;
        report
    };
    assert_eq!(run(), run());
}

#[test]
fn a_broken_stream_no_text_and_a_broken_model_are_errors() {
    let config = PerplexityConfig::default();
    let broken = || [Ok(record("n", 0, "aa")), Err(io::Error::other("cut"))].into_iter();
    let model = Unigram::new();
    let error = with_watch(|watch| {
        perplexity(&model, &mut broken(), &config, RESAMPLING, watch).unwrap_err()
    });
    assert!(error.to_string().contains("after 1 documents"), "{error}");

    let error = measure(vec![record("n", 0, "")], 4096).unwrap_err().to_string();
    assert!(error.contains("1 documents were read and none has text"), "{error}");
    assert!(measure(Vec::new(), 4096).is_err());

    let nan = Scripted(info("nan"), |_: &milpa_base::ScoreRequest| f64::NEG_INFINITY);
    let mut records = [Ok(record("n", 0, "aa"))].into_iter();
    let error = with_watch(|watch| {
        perplexity(&nan, &mut records, &config, RESAMPLING, watch).unwrap_err().to_string()
    });
    assert!(error.contains("a log-likelihood of -inf"), "{error}");

    let stop = StopFlag::default();
    stop.stop();
    let watch = Watch { progress: &milpa_base::Silent, stop: &stop };
    let mut records = [Ok(record("n", 0, "aa"))].into_iter();
    let result = perplexity(&model, &mut records, &config, RESAMPLING, watch);
    assert!(matches!(result, Err(EvalError::Interrupted)));
}

#[test]
fn word_perplexity_beyond_all_numbers_is_left_out() {
    let report = measure(vec![record("n", 0, &"z".repeat(2000))], 4096).unwrap();
    assert_eq!(report.sources[0].word_perplexity, None);
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.starts_with("{\"bits_per_byte\":"), "{json}");
    let back: PerplexityReport = serde_json::from_str(&json).unwrap();
    assert_eq!(back.sources[0].word_perplexity, None);
}
