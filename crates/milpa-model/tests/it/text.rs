//! The local model as a `TextModel`.

use std::ops::ControlFlow;

use milpa_base::{
    FinishReason, GenerateRequest, Generation, ModelError, Piece, RollingWindows, Sampling,
    ScoreRequest, TextModel,
};
use milpa_model::{LocalModel, TokenBatch};
use milpa_tensor::Tape;

use crate::model;

const TEXT: &str = "La milpa da maíz, frijol y calabaza; el maíz crece en la milpa, ñandú y más. \
                    El maíz 🌽 crece y la calabaza cubre el suelo entre las hileras de la milpa.";

/// log p(next | before) for every position of `tokens`, from whole logits.
fn log_probabilities(model: &LocalModel, tokens: &[u32]) -> Vec<Vec<f64>> {
    let tape = Tape::inference(model.device().clone());
    let batch = TokenBatch::new(tokens, tokens.len());
    let hidden = model.decoder().forward_hidden(&tape, model.parameters(), &batch).unwrap();
    let rows: Vec<u32> = (0..tokens.len() as u32).collect();
    let logits = model.decoder().logits(&tape, model.parameters(), &hidden, &rows).unwrap();
    tape.read(&logits)
        .chunks(model.description().vocab_size)
        .map(|row| {
            let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            row.iter().map(|&logit| f64::from(logit) - sum.ln()).collect()
        })
        .collect()
}

fn request(prompt: &str, max_tokens: usize) -> GenerateRequest {
    GenerateRequest {
        prompt: prompt.to_owned(),
        parse_special: false,
        truncate_prompt: false,
        max_tokens,
        sampling: Sampling { temperature: 0.0, ..Sampling::default() },
        stop: Vec::new(),
        logprobs: None,
    }
}

fn generate(model: &LocalModel, request: &GenerateRequest) -> (Generation, Vec<Piece>) {
    let mut pieces = Vec::new();
    let mut on_piece = |piece: &Piece| {
        pieces.push(piece.clone());
        ControlFlow::Continue(())
    };
    let generation = model.generate(request, &mut on_piece).unwrap();
    let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
    assert_eq!(text, generation.text);
    (generation, pieces)
}

#[test]
fn scores_are_sums_of_log_probabilities() {
    let model = model(2);
    let pair = |context: &str, continuation: &str| ScoreRequest {
        context: context.to_owned(),
        continuation: continuation.to_owned(),
        parse_special: false,
    };
    let requests = [
        pair("La milpa da", " maíz"),
        pair("La milpa da ", "maíz"),
        pair("", "La milpa"),
        pair("El maíz crece en la milpa y la calabaza", " cubre"),
        pair("La milpa", ""),
    ];
    let mut done = Vec::new();
    let scores = model.score(&requests, &mut |n| done.push(n)).unwrap();
    assert_eq!(done, [1, 2, 3, 4, 5]);
    let tokenizer = model.tokenizer();
    for (score, request) in scores.iter().zip(&requests) {
        let whole = format!("{}{}", request.context, request.continuation);
        let mut tokens = tokenizer.encode(&whole);
        let mut before = tokenizer.encode(request.context.trim_end()).len();
        if request.context.is_empty() {
            tokens.insert(0, tokenizer.eos_id().unwrap());
            before = 1;
        }
        let rows = log_probabilities(&model, &tokens);
        let expect: f64 = (before..tokens.len()).map(|at| rows[at - 1][tokens[at] as usize]).sum();
        assert!((score.log_likelihood - expect).abs() < 1e-4, "{request:?} {score:?} {expect}");
        assert_eq!(score.tokens, tokens.len() - before);
        assert_eq!(score.truncated_tokens, 0);
        let best = |row: &[f64]| row.iter().copied().fold(f64::MIN, f64::max);
        let greedy = (before..tokens.len())
            .all(|at| rows[at - 1][tokens[at] as usize] == best(&rows[at - 1]));
        assert_eq!(score.is_greedy, greedy);
    }
    // A space at the context's end goes to the continuation.
    assert_eq!(scores[0], scores[1]);
    assert_eq!((scores[4].log_likelihood, scores[4].tokens, scores[4].is_greedy), (0.0, 0, true));
}

#[test]
fn options_of_one_question_score_as_they_do_alone() {
    let model = model(2);
    let context = "La milpa da maíz, frijol y calabaza; el maíz crece en";
    assert!(model.tokenizer().encode(context).len() >= 16);
    let options = [" la milpa", " el suelo", " ñ", "", " la milpa y más"];
    let requests = options.map(|option| ScoreRequest {
        context: context.to_owned(),
        continuation: option.to_owned(),
        parse_special: false,
    });
    let mut done = 0;
    let together = model.score(&requests, &mut |n| done = n).unwrap();
    assert_eq!(done, requests.len());
    for (request, found) in requests.iter().zip(&together) {
        let alone = &model.score(std::slice::from_ref(request), &mut |_| ()).unwrap()[0];
        assert!((alone.log_likelihood - found.log_likelihood).abs() < 1e-4, "{request:?}");
        assert_eq!((alone.tokens, alone.is_greedy), (found.tokens, found.is_greedy));
    }
}

#[test]
fn long_contexts_lose_their_left() {
    let model = model(1);
    let context = TEXT.repeat(3);
    let request = ScoreRequest {
        context: context.clone(),
        continuation: " maíz".to_owned(),
        parse_special: false,
    };
    let score = &model.score(&[request], &mut |_| ()).unwrap()[0];
    let tokens = model.tokenizer().encode(&format!("{context} maíz"));
    assert_eq!(score.truncated_tokens, tokens.len() - 49);
    let kept = &tokens[tokens.len() - 49..];
    let rows = log_probabilities(&model, &kept[..48]);
    let expect: f64 = (49 - score.tokens..49).map(|at| rows[at - 1][kept[at] as usize]).sum();
    assert!((score.log_likelihood - expect).abs() < 1e-4);
    let request =
        ScoreRequest { context: String::new(), continuation: context, parse_special: false };
    assert!(matches!(model.score(&[request], &mut |_| ()), Err(ModelError::TooLong { .. })));
}

#[test]
fn rolling_scores_predict_each_token_once() {
    let model = model(2);
    let long = TEXT.repeat(2);
    let texts = ["", "La milpa", &long];
    let mut done = Vec::new();
    let scores =
        model.score_rolling(&texts, RollingWindows::default(), &mut |n| done.push(n)).unwrap();
    assert_eq!(done.last(), Some(&3));
    for (score, text) in scores.iter().zip(texts) {
        let mut tokens = vec![model.tokenizer().eos_id().unwrap()];
        model.tokenizer().encode_into(text, &mut tokens);
        assert_eq!((score.tokens, score.bytes), (tokens.len() - 1, text.len()));
        // Windows of 48 inputs, 24 apart; each scores what the one before did not reach.
        let (mut expect, mut scored) = (0.0, 1);
        for begin in (0..).step_by(24) {
            if scored >= tokens.len() {
                break;
            }
            let end = (begin + 49).min(tokens.len());
            let rows = log_probabilities(&model, &tokens[begin..end - 1]);
            expect +=
                (scored..end).map(|at| rows[at - begin - 1][tokens[at] as usize]).sum::<f64>();
            scored = end;
        }
        assert!((score.log_likelihood - expect).abs() < 1e-3, "{score:?} {expect}");
    }
    // A text does not depend on its neighbours.
    let alone = model.score_rolling(&[&long], RollingWindows::default(), &mut |_| ()).unwrap();
    assert!((alone[0].log_likelihood - scores[2].log_likelihood).abs() < 1e-4);
}

#[test]
fn greedy_generation_takes_the_most_probable_token_each_time() {
    let model = model(2);
    let (generation, pieces) =
        generate(&model, &GenerateRequest { logprobs: Some(3), ..request("El maíz", 20) });
    let mut tokens = model.tokenizer().encode("El maíz");
    assert_eq!(generation.prompt_tokens, tokens.len());
    let entries: Vec<_> = pieces.iter().flat_map(|piece| &piece.logprobs).collect();
    let generated = entries.len();
    assert!(generated >= generation.completion_tokens - 1 && generated > 0);
    for (chosen, alternatives) in entries {
        let rows = log_probabilities(&model, &tokens);
        let row = rows.last().unwrap();
        let named = 0..model.tokenizer().vocab_size();
        let best = named.max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        assert_eq!(chosen.bytes, model.tokenizer().token_bytes(best as u32).unwrap());
        assert!((chosen.logprob - row[best]).abs() < 1e-4);
        assert_eq!(alternatives.len(), 3);
        assert!(alternatives.windows(2).all(|pair| pair[0].logprob >= pair[1].logprob));
        tokens.push(best as u32);
    }
}

#[test]
fn the_same_seed_gives_the_same_text() {
    let sampled = |threads: usize, seed: u64| {
        let sampling = Sampling { temperature: 1.0, top_p: 0.9, seed, ..Sampling::default() };
        let model = model(threads);
        generate(&model, &GenerateRequest { sampling, ..request("La", 30) }).0
    };
    assert_eq!(sampled(1, 7), sampled(3, 7));
    assert_ne!(sampled(1, 7).text, sampled(1, 8).text);
}

#[test]
fn a_batch_writes_what_each_writes_alone() {
    let model = model(2);
    let mut requests: Vec<_> = (0..5)
        .map(|seed| GenerateRequest {
            sampling: Sampling { temperature: 1.0, seed, ..Sampling::default() },
            ..request("La milpa da", 12)
        })
        .collect();
    requests[1].max_tokens = 0;
    requests[2].max_tokens = 3;
    let (whole, _) = generate(&model, &requests[3]);
    requests[3].stop.push(whole.text.chars().skip(2).take(2).collect());
    let alone: Vec<Generation> =
        requests.iter().map(|request| generate(&model, request).0).collect();
    assert_eq!(model.generate_batch(&requests, &|| false).unwrap(), alone);
    assert!(alone[3].completion_tokens < 12, "{alone:?}");
    assert_ne!(alone[0].text, alone[4].text);
    assert_eq!(model.generate_batch(&[], &|| false).unwrap(), []);

    let stopped = model.generate_batch(&requests, &|| true).unwrap();
    assert_eq!(stopped[4].finish_reason, FinishReason::Cancelled);
    requests[2].prompt = "La milpa da maíz y frijol".to_owned();
    let error = model.generate_batch(&requests, &|| false).unwrap_err().to_string();
    assert!(error.contains("have the same number of tokens"), "{error}");
}

#[test]
fn generation_ends_at_stop_texts_limits_and_wishes() {
    let model = model(1);
    let sampling = Sampling { temperature: 1.0, seed: 4, ..Sampling::default() };
    let free = GenerateRequest { sampling, ..request("La milpa", 30) };
    let (whole, _) = generate(&model, &free);
    assert!(whole.text.chars().count() > 8, "{whole:?}");
    // A stop text of a few characters from the middle, wherever tokens end.
    let middle: String = whole.text.chars().skip(4).take(3).collect();
    let stopped = GenerateRequest { stop: vec![middle.clone()], ..free.clone() };
    let (stopped, _) = generate(&model, &stopped);
    assert_eq!(stopped.finish_reason, FinishReason::Stop);
    assert_eq!(stopped.text, whole.text[..whole.text.find(&middle).unwrap()]);
    assert!(stopped.completion_tokens <= whole.completion_tokens);

    let (short, _) = generate(&model, &GenerateRequest { max_tokens: 3, ..free.clone() });
    assert_eq!((short.finish_reason, short.completion_tokens), (FinishReason::Length, 3));
    let (none, _) = generate(&model, &GenerateRequest { max_tokens: 0, ..free.clone() });
    assert_eq!((none.text.as_str(), none.completion_tokens), ("", 0));

    let mut calls = 0;
    let cancelled = model.generate(&free, &mut |_| {
        calls += 1;
        if calls == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(cancelled.unwrap().finish_reason, FinishReason::Cancelled);
    assert_eq!(calls, 2);
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let model = model(1);
    let refused = |request: &GenerateRequest| {
        model.generate(request, &mut |_| ControlFlow::Continue(())).unwrap_err()
    };
    let error = refused(&request("La milpa", 100));
    assert!(matches!(error, ModelError::TooLong { context_length: 48, .. }), "{error}");
    refused(&request("La milpa", usize::MAX));
    let empty_stop = GenerateRequest { stop: vec![String::new()], ..request("La", 3) };
    assert!(matches!(refused(&empty_stop), ModelError::BadRequest(_)));
    let sampling = Sampling { top_p: 7.0, ..Sampling::default() };
    let error = refused(&GenerateRequest { sampling, ..request("La", 3) });
    assert!(error.to_string().contains("top_p is 7"), "{error}");
}

#[test]
fn special_tokens_are_read_only_on_request() {
    let model = model(1);
    let prompt = "<|im_start|>user\nLa<|im_end|>";
    let (plain, _) = generate(&model, &request(prompt, 1));
    let special = GenerateRequest { parse_special: true, ..request(prompt, 1) };
    let (special, _) = generate(&model, &special);
    assert_eq!(plain.prompt_tokens, model.tokenizer().encode(prompt).len());
    assert_eq!(special.prompt_tokens, model.tokenizer().encode_with_special(prompt).len());
    assert!(special.prompt_tokens < plain.prompt_tokens);
}

#[test]
fn the_next_token_distribution_sums_to_one() {
    let model = model(1);
    for context in ["", "La milpa da", &TEXT.repeat(3)] {
        let row = model.next_token_logprobs(context).unwrap();
        assert_eq!(row.len(), model.description().vocab_size);
        let sum: f64 = row.iter().map(|&p| f64::from(p).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-5);
    }
}

#[test]
fn several_threads_may_ask_at_once() {
    let model = model(2);
    let sampling = Sampling { temperature: 1.0, seed: 2, ..Sampling::default() };
    let request = GenerateRequest { sampling, ..request("El maíz", 25) };
    let expect = generate(&model, &request).0;
    std::thread::scope(|scope| {
        let jobs: Vec<_> = (0..4).map(|_| scope.spawn(|| generate(&model, &request).0)).collect();
        for job in jobs {
            assert_eq!(job.join().unwrap(), expect);
        }
    });
}
