//! A model behind `milpa-serve` gives the numbers and texts that it gives here.

use std::{ops::ControlFlow, sync::Arc, thread::JoinHandle};

use milpa_base::{
    GenerateRequest, Generation, ModelError, ModelInfo, Piece, Prompt, PromptScores, RollingScore,
    RollingWindows, Sampling, Score, ScoreRequest, Seed, Silent, StopFlag, TextEncoder, TextModel,
    TextRecord,
};
use milpa_client::{EndpointConfig, RemoteModel, messages_prompt};
use milpa_model::{Device, LocalModel, ModelConfig, new_parameters};
use milpa_serve::{ChatFormat, ServeConfig, Server};
use milpa_tokens::{
    ChatTemplate, Context, Message, RenderOptions, Tokenizer, TokenizerConfig, train_tokenizer,
};

const TEXTS: [&str; 2] =
    ["La milpa da maíz, frijol y calabaza. ", "El maíz 🌽 crece en la milpa, ñandú y más. "];
const CONTEXT: usize = 48;

fn tokenizer() -> Tokenizer {
    let mut records = (0..40).map(|i| {
        let text = TEXTS[i % 2].repeat(1 + i % 3);
        Ok(TextRecord { id: i.to_string(), source: "es".to_owned(), text })
    });
    let config = TokenizerConfig { vocab_size: 300, ..TokenizerConfig::default() };
    let context = Context { threads: 1, progress: &Silent, stop: &StopFlag::default() };
    train_tokenizer(&config, &mut records, &context).unwrap().tokenizer
}

fn local() -> LocalModel {
    let config = ModelConfig {
        hidden_size: 64,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        ffn_size: 96,
        vocab_size: 310,
        context_length: CONTEXT,
        // Large weights make predictions that differ from token to token.
        init_std: 0.2,
        ..ModelConfig::default()
    };
    let parameters = new_parameters(&config, Seed(5), &Device::cpu(1)).unwrap();
    LocalModel::from_parts("toy", None, &config, parameters, tokenizer()).unwrap()
}

/// A server with that model, ended when dropped.
struct Served {
    url: String,
    stop: StopFlag,
    thread: Option<JoinHandle<()>>,
}

/// The same model, which does not tell its tokens: as most endpoints do not.
struct WithoutTokens(LocalModel);

impl TextModel for WithoutTokens {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn score(
        &self,
        requests: &[ScoreRequest],
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        self.0.score(requests, on_done)
    }

    fn score_rolling(
        &self,
        texts: &[&str],
        windows: RollingWindows,
        on_done: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        self.0.score_rolling(texts, windows, on_done)
    }

    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        self.0.generate(request, on_piece)
    }

    fn score_prompt(
        &self,
        prompt: &Prompt,
        alternatives: usize,
        with_next: bool,
    ) -> Result<PromptScores, ModelError> {
        self.0.score_prompt(prompt, alternatives, with_next)
    }
}

impl Served {
    fn start() -> Self {
        Self::with(local())
    }

    fn with(model: impl TextModel + 'static) -> Self {
        let config = ServeConfig { bind: "127.0.0.1:0".parse().unwrap(), ..ServeConfig::default() };
        let chat = ChatFormat::new(
            ChatTemplate::named("chatml").unwrap(),
            RenderOptions::for_reply(&tokenizer()),
        );
        let server = Server::bind(config, Arc::new(model), chat).unwrap();
        let (url, stop) = (server.url(), StopFlag::default());
        let flag = stop.clone();
        let thread = std::thread::spawn(move || server.run_blocking(&flag).unwrap());
        Self { url, stop, thread: Some(thread) }
    }

    /// The model there, with its tokenizer at hand or without.
    fn model(&self, encoder: Option<Tokenizer>) -> RemoteModel {
        let encoder = encoder.map(|encoder| Box::new(encoder) as Box<dyn TextEncoder>);
        RemoteModel::connect(EndpointConfig::new(self.url.parse().unwrap()), encoder).unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Contexts and continuations of all kinds: none, with spaces, cut within a word and a character's
/// neighbourhood, too long for the model.
fn pairs() -> Vec<ScoreRequest> {
    let long = TEXTS.concat().repeat(9);
    [
        ("La milpa da", " maíz"),
        ("La milpa da ", "frijol y calabaza."),
        ("", "El maíz crece"),
        ("El ma", "íz 🌽 crece"),
        ("ñandú\n\n", "y más"),
        ("La milpa", ""),
        (&long, " calabaza"),
    ]
    .map(|(context, continuation)| ScoreRequest {
        context: context.to_owned(),
        continuation: continuation.to_owned(),
        parse_special: false,
    })
    .to_vec()
}

#[test]
fn scores_are_the_same_here_and_there() {
    let (here, served) = (local(), Served::start());
    let long = TEXTS.concat().repeat(5);
    let texts = ["", "La milpa", long.as_str()];
    for encoder in [None, Some(tokenizer())] {
        let there = served.model(encoder);
        assert_eq!(
            there.info(),
            &ModelInfo {
                name: format!("toy at {}", served.url.trim_start_matches("http://")),
                ..here.info().clone()
            }
        );
        let mut done = 0;
        let found = there.score(&pairs(), &mut |count| done = count).unwrap();
        assert_eq!(done, pairs().len());
        for (found, expect) in found.iter().zip(here.score(&pairs(), &mut |_| {}).unwrap()) {
            let difference = (found.log_likelihood - expect.log_likelihood).abs();
            assert!(difference < 1e-5, "{found:?} {expect:?}");
            let counts = |score: &Score| (score.is_greedy, score.tokens, score.truncated_tokens);
            assert_eq!(counts(found), counts(&expect));
        }
        for windows in [RollingWindows::Overlapping, RollingWindows::Disjoint] {
            let expect = here.score_rolling(&texts, windows, &mut |_| {}).unwrap();
            let found = there.score_rolling(&texts, windows, &mut |_| {}).unwrap();
            for (found, expect) in found.iter().zip(expect) {
                let difference = (found.log_likelihood - expect.log_likelihood).abs();
                // Hundreds of nats, in f32 here.
                assert!(difference < 1e-5 + 6e-7 * expect.log_likelihood.abs(), "{difference}");
                assert_eq!((found.tokens, found.bytes), (expect.tokens, expect.bytes));
            }
        }
        assert_eq!(
            there.prompt_tokens("La milpa", false).unwrap(),
            here.prompt_tokens("La milpa", false).unwrap()
        );
        let record = there.endpoint().unwrap();
        assert_eq!((record.retries, record.problems.len()), (0, 0));
        assert_eq!(record.reported_models.keys().collect::<Vec<_>>(), ["toy"]);
    }
}

#[test]
fn scores_are_the_same_where_tokens_are_not_told() {
    let (here, served) = (local(), Served::with(WithoutTokens(local())));
    let there = served.model(None);
    assert!(there.encoder().is_none());
    // Cut between words; a text from its start needs a token before it, one too long is refused.
    let whole_words = |pair: &ScoreRequest| {
        !pair.context.is_empty() && pair.context != "El ma" && pair.context.len() < 99
    };
    let pairs: Vec<ScoreRequest> = pairs().into_iter().filter(whole_words).collect();
    assert_eq!(pairs.len(), 4);
    let found = there.score(&pairs, &mut |_| {}).unwrap();
    for (found, expect) in found.iter().zip(here.score(&pairs, &mut |_| {}).unwrap()) {
        assert!(
            (found.log_likelihood - expect.log_likelihood).abs() < 1e-5,
            "{found:?} {expect:?}"
        );
        assert_eq!((found.is_greedy, found.tokens), (expect.is_greedy, expect.tokens));
    }
    let one = |context: &str, continuation: &str| {
        let pair = ScoreRequest {
            context: context.to_owned(),
            continuation: continuation.to_owned(),
            parse_special: false,
        };
        there.score(&[pair], &mut |_| {})
    };
    assert!(matches!(one("", "El maíz"), Err(ModelError::Unavailable { .. })));
    assert!(matches!(one(&TEXTS.concat().repeat(9), " más"), Err(ModelError::BadRequest(_))));
    // A token over the cut counts as the harness has it: the context's tokens are counted alone.
    assert!(one("El ma", "íz crece").unwrap()[0].log_likelihood < 0.0);
}

#[test]
fn texts_are_the_same_here_and_there() {
    let (here, served) = (local(), Served::start());
    let request = |prompt: &str, temperature: f32, truncate_prompt: bool| GenerateRequest {
        prompt: prompt.to_owned(),
        parse_special: false,
        truncate_prompt,
        max_tokens: 12,
        sampling: Sampling { temperature, top_k: 7, seed: u64::MAX - 2, ..Sampling::default() },
        stop: vec!["xyz".to_owned()],
        logprobs: None,
    };
    let long = TEXTS.concat().repeat(9);
    let requests = [
        request("La milpa", 0.0, false),
        request("La milpa", 0.9, false),
        request("ñandú ", 1.3, true),
        request(&long, 0.0, true),
    ];
    let expect = here.generate_many(&requests, &|| false, &mut |_| {}).unwrap();
    for encoder in [None, Some(tokenizer())] {
        let there = served.model(encoder);
        assert_eq!(there.generate_many(&requests, &|| false, &mut |_| {}).unwrap(), expect);
        let too_long = request(&long, 0.0, false);
        let error = there.generate(&too_long, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(error, Err(ModelError::BadRequest(_))), "{error:?}");
    }
    // A conversation: the server's template writes what the local one would.
    let template = ChatTemplate::named("chatml").unwrap();
    let prompt = template
        .render(&[Message::new("user", "hola")], &RenderOptions::for_reply(here.tokenizer()))
        .unwrap();
    let chat =
        |prompt: String| GenerateRequest { parse_special: true, ..request(&prompt, 0.0, false) };
    let expect = here.generate(&chat(prompt), &mut |_| ControlFlow::Continue(())).unwrap();
    let messages = chat(messages_prompt([("user", "hola")]));
    let there = served.model(None);
    let found = there.generate(&messages, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(found, expect);
}
