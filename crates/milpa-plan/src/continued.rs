//! A plan for continued pre-training: replay, learning rate, schedule and tokens.
//!
//! No public law with constants predicts forgetting, so the planner gives start values with the
//! evidence behind them, and takes small trials of the user's own (`share:forgetting`) as soon as
//! there are any: then the share follows by interpolation between two of them, never beyond.
//! It knows no model; forgetting is the relative rise of a loss that the user measures.

use std::str::FromStr;

use serde::Serialize;

use crate::{
    amounts::bad,
    error::PlanError,
    sheet::{Cell, Fact, Section, Sheet, Unit, percent},
};

/// How far the new text lies from the base model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shift {
    /// Other language.
    Language,
    /// Other domain in a language that the base knows.
    Domain,
}

impl FromStr for Shift {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        match text {
            "language" => Ok(Self::Language),
            "domain" => Ok(Self::Domain),
            _ => Err(bad(text, "a shift", "write \"language\" or \"domain\"")),
        }
    }
}

/// A small trial: with this share of replay the base's loss rose by so much.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Anchor {
    /// Share of replayed text, 0 to 1.
    pub replay: f64,
    /// Relative rise of the loss on general text, 0.02 for 2 %.
    pub forgetting: f64,
}

impl FromStr for Anchor {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        let wanted = "a trial";
        let example = "write share of replay and relative rise of the loss, such as \"0.05:0.03\"";
        let (replay, forgetting) =
            text.split_once(':').ok_or_else(|| bad(text, wanted, example))?;
        let number =
            |part: &str| part.trim().parse::<f64>().map_err(|_| bad(text, wanted, example));
        let anchor = Self { replay: number(replay)?, forgetting: number(forgetting)? };
        if !(0.0..1.0).contains(&anchor.replay) || !(-1.0..10.0).contains(&anchor.forgetting) {
            return Err(bad(text, wanted, "both are shares of one, and replay lies below 1"));
        }
        Ok(anchor)
    }
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct ContinuedQuestion {
    /// What the base is called.
    pub base: String,
    /// Its parameters.
    pub parameters: f64,
    /// Tokens of the run, replay included.
    pub tokens: f64,
    /// Tokens of new text there are, each counted once.
    pub unique_tokens: Option<f64>,
    /// How far the new text lies from the base's.
    pub shift: Shift,
    /// Largest relative rise of the loss on general text, 0.02 for 2 %.
    pub forgetting_limit: f64,
    /// Small trials of the user's own.
    pub trials: Vec<Anchor>,
    /// Full learning rate of the base's pre-training.
    pub base_peak_rate: Option<f64>,
    /// Learning rate with which it ended.
    pub base_final_rate: Option<f64>,
    /// Whether the base's own training text can be had.
    pub base_text_is_open: bool,
}

/// Decay constant of repeated data (Muennighoff et al. 2023).
const REPETITION_DECAY: f64 = 15.387_756;
/// Passes after which repeated text loses much of its worth.
const MANY_EPOCHS: f64 = 4.0;

/// Tokens of new text that `epochs` passes over `unique` ones are worth,
/// `U + U·R*·(1 − e^(−R/R*))` with R repetitions (arXiv:2305.16264).
pub fn effective_tokens(unique: f64, epochs: f64) -> f64 {
    if epochs <= 1.0 {
        return unique * epochs.max(0.0);
    }
    let repetitions = epochs - 1.0;
    unique + unique * REPETITION_DECAY * (1.0 - (-repetitions / REPETITION_DECAY).exp())
}

/// Plans continued pre-training.
///
/// # Errors
/// Numbers that make no sense, and trials between which the limit does not lie.
pub fn plan_continued(question: &ContinuedQuestion) -> Result<Sheet, PlanError> {
    check(question)?;
    let replay = replay(question)?;
    Ok(Sheet {
        title: format!(
            "Continued pre-training of {} on {} tokens, loss on general text at most {} higher",
            question.base,
            Unit::Tokens.show(question.tokens),
            percent(question.forgetting_limit)
        ),
        sections: vec![
            replay_section(question, &replay),
            tokens_section(question, &replay),
            rate_section(question),
            trials_section(question),
            evidence_section(),
        ],
    })
}

fn check(question: &ContinuedQuestion) -> Result<(), PlanError> {
    let positive = |name, value: f64| {
        if value.is_finite() && value > 0.0 {
            Ok(())
        } else {
            Err(PlanError::OutOfRange { name, value, range: "above 0" })
        }
    };
    positive("the number of parameters", question.parameters)?;
    positive("the number of tokens", question.tokens)?;
    for (name, value) in [
        ("the number of new tokens", question.unique_tokens),
        ("the base's full learning rate", question.base_peak_rate),
        ("the base's final learning rate", question.base_final_rate),
    ] {
        value.map_or(Ok(()), |value| positive(name, value))?;
    }
    if !(0.0..1.0).contains(&question.forgetting_limit) {
        return Err(PlanError::OutOfRange {
            name: "the limit on forgetting",
            value: question.forgetting_limit,
            range: "a share from 0 to 1, 0.02 for 2 %",
        });
    }
    if let (Some(peak), Some(last)) = (question.base_peak_rate, question.base_final_rate)
        && last > peak
    {
        return Err(PlanError::BadQuestion {
            problem: format!("the base's final learning rate {last} is above its full one {peak}"),
            remedy: "exchange --base-final-lr and --base-peak-lr".to_owned(),
        });
    }
    Ok(())
}

/// A share of replay with its range.
struct Replay {
    value: f64,
    low: f64,
    high: f64,
    source: String,
}

fn replay(question: &ContinuedQuestion) -> Result<Replay, PlanError> {
    if !question.trials.is_empty() {
        return from_trials(question);
    }
    let of =
        |value, low, high, source: &str| Replay { value, low, high, source: source.to_owned() };
    Ok(if question.forgetting_limit == 0.0 {
        of(
            0.60,
            0.52,
            0.70,
            "no rise at all: 1 - critical mixture ratio 0.298 to 0.478, arXiv:2407.17467 (460M to 3.1B, 20B tokens)",
        )
    } else {
        match question.shift {
            Shift::Language => of(
                0.25,
                0.05,
                0.50,
                "start value for a strong shift, arXiv:2403.08763 (405M and 10B, English to German)",
            ),
            Shift::Domain => of(
                0.05,
                0.01,
                0.25,
                "start value for a weak shift, arXiv:2403.08763 (405M and 10B, English to English)",
            ),
        }
    })
}

/// Interpolates the logarithm of forgetting between the two trials about the limit.
fn from_trials(question: &ContinuedQuestion) -> Result<Replay, PlanError> {
    let mut trials = question.trials.clone();
    trials.sort_by(|a, b| a.replay.total_cmp(&b.replay));
    let limit = question.forgetting_limit;
    let remedy = |text: &str| text.to_owned();
    if trials.windows(2).any(|pair| pair[1].replay == pair[0].replay) {
        return Err(PlanError::BadQuestion {
            problem: "two trials have the same share of replay".to_owned(),
            remedy: remedy("give their mean as one --trial"),
        });
    }
    if trials.windows(2).any(|pair| pair[1].forgetting > pair[0].forgetting) {
        return Err(PlanError::BadQuestion {
            problem: "a trial with more replay forgot more, so the trials are noise at this size"
                .to_owned(),
            remedy: remedy("repeat them with other seeds or more tokens and give the means"),
        });
    }
    let least = trials.last().expect("there is a trial");
    if least.forgetting > limit {
        return Err(PlanError::BadQuestion {
            problem: format!(
                "no trial keeps the limit of {}: the one with {} replay forgot {}",
                percent(limit),
                percent(least.replay),
                percent(least.forgetting)
            ),
            remedy: remedy("try more replay, a lower learning rate or fewer tokens"),
        });
    }
    let Some(pair) = trials.windows(2).find(|pair| pair[0].forgetting > limit) else {
        let first = trials[0];
        return Ok(Replay {
            value: first.replay,
            low: 0.0,
            high: first.replay,
            source: "the smallest trial already keeps the limit; less was not tried".to_owned(),
        });
    };
    let (worse, better) = (pair[0], pair[1]);
    // Forgetting falls about exponentially with replay; at or below zero it is drawn as a line.
    let fraction = if better.forgetting > 0.0 && limit > 0.0 {
        (worse.forgetting / limit).ln() / (worse.forgetting / better.forgetting).ln()
    } else {
        (worse.forgetting - limit) / (worse.forgetting - better.forgetting)
    };
    Ok(Replay {
        value: worse.replay + fraction * (better.replay - worse.replay),
        low: worse.replay,
        high: better.replay,
        source: "between your two trials about the limit".to_owned(),
    })
}

fn replay_section(question: &ContinuedQuestion, replay: &Replay) -> Section {
    let mut section = Section::new("Replay of general text");
    let fact = Fact::new("share of replay", replay.value, Unit::Share, replay.source.clone());
    section.fact(fact.between(replay.low, replay.high));
    if question.shift == Shift::Language {
        section.fact(
            Fact::new(
                "share of English",
                0.20,
                Unit::Share,
                "part of the replay; arXiv:2506.00288 (Basque)",
            )
            .between(0.05, 0.25),
        );
    }
    section.note(if question.base_text_is_open {
        "Replay the base's own training text, with its code and mathematics."
    } else {
        "The base's text is closed: replay open text like it (web, code, mathematics) and text that the \
         base writes itself (arXiv:2605.26097: nearly no forgetting at high rates)."
    });
    if question.trials.is_empty() {
        section.note(
            "Without trials this is where to start, not what will happen: the limit decides only between \
             \"none at all\" and \"little\". No public law has constants that carry over.",
        );
    }
    section
}

fn tokens_section(question: &ContinuedQuestion, replay: &Replay) -> Section {
    let new = question.tokens * (1.0 - replay.value);
    let mut section = Section::new("Tokens");
    section.fact(
        Fact::new("new text", new, Unit::Tokens, "tokens · (1 - replay)")
            .between(question.tokens * (1.0 - replay.high), question.tokens * (1.0 - replay.low)),
    );
    section.fact(
        Fact::new("replayed", question.tokens - new, Unit::Tokens, "tokens · replay")
            .between(question.tokens * replay.low, question.tokens * replay.high),
    );
    section.fact(Fact::new(
        "per parameter",
        question.tokens / question.parameters,
        Unit::One,
        "tokens / N",
    ));
    section.fact(Fact::new(
        "compute",
        6.0 * question.parameters * question.tokens,
        Unit::Flop,
        "6ND, without attention; milpa plan run says more",
    ));
    if let Some(unique) = question.unique_tokens {
        let epochs = new / unique;
        let source = "new text / distinct tokens";
        section.fact(Fact::new("passes over it", epochs, Unit::One, source));
        section.fact(Fact::new(
            "worth in fresh tokens",
            effective_tokens(unique, epochs),
            Unit::Tokens,
            "U + U·R*·(1 - exp(-R/R*)), R* = 15.39 (arXiv:2305.16264)",
        ));
        if epochs > MANY_EPOCHS {
            section.note(format!(
                "More than 4 passes: the repeated text is worth little. Enough would be {} distinct \
                 tokens, or a run of {}.",
                Unit::Tokens.show(new / MANY_EPOCHS),
                Unit::Tokens.show(unique * MANY_EPOCHS / (1.0 - replay.value))
            ));
        }
    }
    section
}

/// Where a cosine from 1 to 1/100 passes 1/5, as a share of the run.
fn blend_switch() -> f64 {
    let height: f64 = (0.2 - 0.01) / (1.0 - 0.01);
    (2.0 * height - 1.0).acos() / std::f64::consts::PI
}

fn rate_section(question: &ContinuedQuestion) -> Section {
    let mut section = Section::new("Learning rate and schedule");
    let switch = blend_switch();
    let rate = |name: &str, value, source: &str| Fact::new(name, value, Unit::LearningRate, source);
    if let Some(last) = question.base_final_rate {
        section.fact(rate(
            "start rate",
            last,
            "the base's final rate, no warm-up (arXiv:2407.07263)",
        ));
        section.fact(rate(
            "end rate",
            last / 100.0,
            "a hundredth of it, by half a cosine (the same)",
        ));
    } else {
        section.note(
            "With --base-final-lr this says the rates: start at the base's final rate without warm-up and \
             go to a hundredth of it by half a cosine (arXiv:2407.07263).",
        );
    }
    if let Some(peak) = question.base_peak_rate {
        section.fact(
            rate(
                "or re-warm to",
                peak / 2.0,
                "half to all of the base's full rate, 1 % of the steps (arXiv:2403.08763)",
            )
            .between(peak / 2.0, peak),
        );
    }
    section.fact(Fact::new(
        "change of blend at",
        switch,
        Unit::Share,
        "of the tokens: where the cosine passes a fifth; then text rich in questions and answers",
    ));
    section.fact(
        Fact::new(
            "or decay over the last",
            0.10,
            Unit::Share,
            "of the tokens, if the rate is constant (WSD, arXiv:2404.06395)",
        )
        .between(0.10, 0.20),
    );
    section.note(
        "A constant rate with a decay at the end lets the number of tokens be changed on the way. \
         Re-warming learns more and forgets more; it needs the upper half of the replay's range.",
    );
    section
}

fn trials_section(question: &ContinuedQuestion) -> Section {
    let mut section = Section::new("Before the run");
    let one = question.tokens * 0.015;
    section.fact(
        Fact::new(
            "tokens of one trial",
            one,
            Unit::Tokens,
            "1 to 2 % of the run, learning rate decayed",
        )
        .between(question.tokens * 0.01, question.tokens * 0.02),
    );
    section.fact(Fact::new("tokens of 3 trials", 3.0 * one, Unit::Tokens, "replay 1, 5 and 25 %"));
    section.note(
        "Then: milpa plan continued ... --trial 0.01:F --trial 0.05:F --trial 0.25:F, where F is the \
         relative rise of bits per byte on general text. A short trial forgets less than the run will: \
         keep measuring, and stop or raise the replay when the rise, with its interval, passes the limit.",
    );
    section.note(
        "Score the base, this checkpoint and the tuned model on the same questions: perplexity does not \
         see the loss of in-context learning (arXiv:2506.00288), and LatamGPT's 70B lost 15.7 points of \
         MMLU-ProX in Spanish against Llama 3.1 70B Instruct, with no checkpoint between to tell why.",
    );
    section
}

fn evidence_section() -> Section {
    let mut section = Section::new("Evidence");
    let row = |finding: &str, source: &str| vec![Cell::text(finding), Cell::text(source)];
    section.table(
        &["finding", "source"],
        vec![
            row(
                "15B after 8T tokens: two blends, +9 % over continuing on the old text",
                "2407.07263",
            ),
            row(
                "replay 5 % (weak shift) or 25 % (strong) equals training again; 1 % helps much",
                "2403.08763",
            ),
            row(
                "little replay is worth more than more parameters; much replay is not",
                "2508.01908",
            ),
            row(
                "1 % of pre-training text stops forgetting in fine-tuning; a law in N, D, share",
                "2502.06042",
            ),
            row(
                "domain share 30 to 48 % without any rise, 460M to 3.1B; grows with N",
                "2407.17467",
            ),
            row("loss at each step = shift + annealing of the rate", "2505.07796"),
            row(
                "law with the base's tokens per parameter, English and Arabic to French",
                "2510.23198",
            ),
            row(
                "without English: loss equal, downstream 28.9 for 34.1; in-context learning gone",
                "2506.00288",
            ),
            row("replay written by the base itself", "2605.26097"),
            row(
                "LoRA learns and forgets on the same curve; r = 256 does not close the gap",
                "2405.09673",
            ),
            row(
                "Llama 3.1 8B and 70B, 165B tokens, Finnish: large gain, English kept",
                "Poro 2, 2025",
            ),
        ],
        "arXiv numbers; from abstracts and excerpts, models from 405M to 70B: none is your case",
    );
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question() -> ContinuedQuestion {
        ContinuedQuestion {
            base: "llama3-8b".to_owned(),
            parameters: 8.03e9,
            tokens: 100e9,
            unique_tokens: Some(10e9),
            shift: Shift::Language,
            forgetting_limit: 0.02,
            trials: Vec::new(),
            base_peak_rate: Some(3e-4),
            base_final_rate: Some(3e-6),
            base_text_is_open: false,
        }
    }

    fn share(question: &ContinuedQuestion) -> f64 {
        let sheet = plan_continued(question).unwrap();
        sheet.value("Replay of general text", "share of replay").unwrap()
    }

    #[test]
    fn start_values_are_those_of_the_evidence() {
        assert_eq!(share(&question()), 0.25);
        assert_eq!(share(&ContinuedQuestion { shift: Shift::Domain, ..question() }), 0.05);
        assert_eq!(share(&ContinuedQuestion { forgetting_limit: 0.0, ..question() }), 0.60);
    }

    #[test]
    fn trials_of_ones_own_decide_between_themselves() {
        let trials = |texts: &[&str]| ContinuedQuestion {
            trials: texts.iter().map(|text| text.parse().unwrap()).collect(),
            ..question()
        };
        // Falls by e between 5 and 25 % from 0.02·√e: the limit lies in the middle.
        let half = 0.02 * 0.5f64.exp();
        let texts = [format!("0.25:{}", 0.02 / 0.5f64.exp()), format!("0.05:{half}")];
        let found = share(&trials(&[&texts[0], &texts[1]]));
        assert!((found - 0.15).abs() < 1e-9, "{found}");
        let refused = |texts: &[&str], part: &str| {
            let error = plan_continued(&trials(texts)).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        refused(&["0.05:0.09", "0.25:0.04"], "no trial keeps the limit of 2.0 %");
        refused(&["0.05:0.01", "0.25:0.04"], "noise at this size");
        assert!("0.05".parse::<Anchor>().is_err() && "5:0.1".parse::<Anchor>().is_err());
    }

    #[test]
    fn repeated_text_is_worth_less() {
        assert_eq!(effective_tokens(10.0, 0.5), 5.0);
        // 100 tokens from 25 distinct ones: U = 25, R = 3.
        let worth = effective_tokens(25.0, 4.0);
        assert!(
            (worth - (25.0 + 25.0 * 15.387_756 * (1.0 - (-3.0f64 / 15.387_756).exp()))).abs()
                < 1e-9
        );
        assert!(worth < 100.0 && worth > 90.0);
        let text = plan_continued(&question()).unwrap().to_string();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains("Enough would be 18.8B distinct tokens, or a run of 53.3B"),
            "{text}"
        );
    }

    #[test]
    fn the_blend_changes_where_the_cosine_passes_a_fifth() {
        let t = blend_switch();
        let rate = 0.01 + 0.99 * (1.0 + (std::f64::consts::PI * t).cos()) / 2.0;
        assert!((rate - 0.2).abs() < 1e-12 && (t - 0.711).abs() < 1e-3);
    }

    #[test]
    fn impossible_questions_are_refused() {
        let check = |question: ContinuedQuestion, part: &str| {
            let error = plan_continued(&question).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(ContinuedQuestion { tokens: -1.0, ..question() }, "the number of tokens is -1");
        check(ContinuedQuestion { forgetting_limit: 2.0, ..question() }, "0.02 for 2 %");
        check(ContinuedQuestion { base_final_rate: Some(1.0), ..question() }, "exchange");
    }
}
