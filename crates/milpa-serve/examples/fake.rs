//! A server with a model that only pretends: for the browser test and for trying the page without
//! weights.
//!
//! `fake serve NAME [--bind ADDRESS] [--format continuation|chatml] [--pause-ms N]` takes the same
//! shape of command line as the tool itself, and the key from the same variable, MILPA_API_KEY.

#![allow(clippy::print_stderr)]

use std::{ops::ControlFlow, sync::Arc, thread::sleep, time::Duration};

use milpa_base::{
    Choice, FinishReason, GenerateRequest, Generation, ModelError, ModelInfo, Piece, RollingScore,
    Score, ScoreRequest, StopFlag, TextModel, seed::splitmix64,
};
use milpa_serve::{ChatFormat, ServeConfig, Server};
use milpa_tokens::{ChatTemplate, RenderOptions};

const CONTEXT_LENGTH: usize = 2048;
/// Sentences that answers are put together from.
const SENTENCES: &[&str] = &[
    "En la milpa crecen juntos el maíz, el frijol y la calabaza. ",
    "Cada planta ayuda a las otras: el maíz da sostén, el frijol alimenta la tierra. ",
    "Por la tarde el viento bajaba de la sierra y las hojas hablaban en voz baja. ",
    "A roça acordava cedo, e o café já perfumava a cozinha. ",
    "Nadie tenía prisa; el agua de la acequia llegaba cuando llegaba. ",
    "<b>Esto no es HTML</b> & se muestra tal como está escrito. ",
    "Ñande retãme oĩ heta avati, ha sarakunakunapas llaqtanchikpi wiñan. ",
];

struct Pretender {
    info: ModelInfo,
    pause: Duration,
}

impl Pretender {
    fn unavailable<T>(&self) -> Result<T, ModelError> {
        let model = self.info.name.clone();
        Err(ModelError::Unavailable { capability: "scoring", model })
    }
}

impl TextModel for Pretender {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn score(
        &self,
        _: &[ScoreRequest],
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<Score>, ModelError> {
        self.unavailable()
    }

    fn score_rolling(
        &self,
        _: &[&str],
        _: milpa_base::RollingWindows,
        _: &mut dyn FnMut(usize),
    ) -> Result<Vec<RollingScore>, ModelError> {
        self.unavailable()
    }

    /// A token is a word with its space; the sentences are drawn by the seed.
    fn generate(
        &self,
        request: &GenerateRequest,
        on_piece: &mut dyn FnMut(&Piece) -> ControlFlow<()>,
    ) -> Result<Generation, ModelError> {
        let prompt_tokens = request.prompt.split_whitespace().count();
        if prompt_tokens + request.max_tokens > CONTEXT_LENGTH {
            return Err(ModelError::TooLong {
                prompt_tokens,
                max_tokens: request.max_tokens,
                context_length: CONTEXT_LENGTH,
            });
        }
        let mut state = request.sampling.seed;
        let words = std::iter::from_fn(|| {
            state = splitmix64(state);
            Some(SENTENCES[(state % SENTENCES.len() as u64) as usize])
        })
        .flat_map(|sentence| sentence.split_inclusive(' '))
        .take(request.max_tokens);
        let mut text = String::new();
        let mut completion_tokens = 0;
        let mut finish_reason = FinishReason::Length;
        for word in words {
            sleep(self.pause);
            completion_tokens += 1;
            let before = text.len();
            text.push_str(word);
            let cut = request.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
            if let Some(cut) = cut {
                text.truncate(cut);
            }
            let choice =
                Choice { text: word.to_owned(), bytes: word.as_bytes().to_vec(), logprob: -0.5 };
            let logprobs = request.logprobs.map(|n| (choice.clone(), vec![choice; n.min(1)]));
            let new = text.get(before..).unwrap_or_default().to_owned();
            let piece = Piece { text: new, logprobs: logprobs.into_iter().collect() };
            if on_piece(&piece).is_break() {
                finish_reason = FinishReason::Cancelled;
                break;
            }
            if cut.is_some() {
                finish_reason = FinishReason::Stop;
                break;
            }
        }
        Ok(Generation {
            text,
            finish_reason,
            prompt_tokens,
            truncated_tokens: 0,
            completion_tokens,
        })
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [_serve, name, options @ ..] = arguments.as_slice() else {
        return Err("usage: fake serve NAME [--bind ADDRESS] …".into());
    };
    let mut config = ServeConfig::default();
    if let Ok(key) = std::env::var("MILPA_API_KEY") {
        config.api_key = Some(key.parse()?);
    }
    let (mut format, mut pause_ms) = ("continuation", 25);
    for pair in options.chunks(2) {
        let [option, value] = pair else { return Err("an option needs a value".into()) };
        match option.as_str() {
            "--bind" => config.bind = value.parse()?,
            "--format" => format = value,
            "--pause-ms" => pause_ms = value.parse()?,
            _ => return Err(format!("{option} is not an option").into()),
        }
    }
    let info = ModelInfo {
        name: name.clone(),
        hash: "0".repeat(64),
        context_length: CONTEXT_LENGTH,
        parameters: Some(10_000_000),
    };
    let model = Arc::new(Pretender { info, pause: Duration::from_millis(pause_ms) });
    let template = ChatTemplate::named(format).ok_or("the format is continuation or chatml")?;
    let server = Server::bind(config, model, ChatFormat::new(template, RenderOptions::default()))?;
    eprintln!("listening on {}", server.url());
    server.run_blocking(&StopFlag::default())?;
    Ok(())
}
