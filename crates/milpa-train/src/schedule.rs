//! Learning-rate schedules as data: pieces, one after the other, and short names for common rows.
//!
//! A schedule says shares of the optimiser's full rate, so it knows neither the rate nor the
//! optimiser. Steps are counted from 0. A piece that rises has reached its end at its last step, so
//! that no step is taken at rate zero; one that falls reaches its end where the next piece begins.

use std::{f64::consts::PI, ops::Range};

use milpa_base::Steps;
use serde::{Deserialize, Serialize};

/// Learning rate as a function of the step, as a share of the optimiser's rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always the full rate.
    Constant {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup: Steps,
    },
    /// A straight line down to `minimum` at the last step.
    Linear {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup: Steps,
        /// Share of the full rate at the end.
        #[serde(default)]
        minimum: f64,
    },
    /// Half a cosine down to `minimum` at the last step (Loshchilov and Hutter 2017,
    /// arXiv:1608.03983). Without warm-up and minimum: η(t) = η_init·(1 + cos(πt/T))/2.
    Cosine {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup: Steps,
        /// Share of the full rate at the end.
        #[serde(default)]
        minimum: f64,
    },
    /// √(warmup/step) after the warm-up (Vaswani et al. 2017, arXiv:1706.03762).
    InverseSqrt {
        /// Steps of linear warm-up, which also say how slowly the rate falls.
        warmup: Steps,
    },
    /// Warm-up, stable, decay (Hu et al. 2024, arXiv:2404.06395): decay to `minimum` over the last
    /// `decay` steps.
    WarmupStableDecay {
        /// Steps of linear warm-up.
        #[serde(default)]
        warmup: Steps,
        /// Steps of decay at the end.
        decay: Steps,
        /// How it decays.
        #[serde(default)]
        shape: Shape,
        /// Share of the full rate at the end.
        #[serde(default)]
        minimum: f64,
    },
    /// Warm-up, stable, decay in cycles, each going on from the decayed weights of the one before at
    /// the full rate (WSD-S; Wen et al. 2024, arXiv:2410.05192).
    WarmupStableDecayCycles {
        /// Steps of linear warm-up, in the first cycle.
        #[serde(default)]
        warmup: Steps,
        /// Steps of each cycle, its decay included; together they are the run.
        cycles: Vec<Steps>,
        /// Steps of decay at the end of each cycle.
        decay: Steps,
        /// How it decays.
        #[serde(default)]
        shape: Shape,
        /// Share of the full rate at the end of each cycle.
        #[serde(default)]
        minimum: f64,
        /// Steps of linear re-warming from `minimum` at the beginning of each cycle but the first.
        #[serde(default)]
        rewarm: Steps,
    },
    /// Each stage of the run has its own row of pieces (`schedule` under `[[train.stage]]`), which
    /// begins where that of the stage before ended.
    Stages,
    /// Any row of pieces, such as a re-warming: `{ shape = "linear", steps = "100 steps",
    /// from = 0.1, to = 1.0 }, { shape = "cosine", to = 0.01 }`.
    Pieces {
        /// One after the other; together they are the run.
        pieces: Vec<Piece>,
    },
}

/// A part of a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    /// The way from its beginning to its end.
    pub shape: Shape,
    /// Its steps. One piece may leave them out: it takes what the others leave of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Steps>,
    /// Share at its beginning; where the piece before ended if left out, and 1 for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<f64>,
    /// Share at its end; a constant piece stays where it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<f64>,
}

/// The way of a piece from its beginning `a` to its end `b`, where `p` goes from 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// `a`.
    Constant,
    /// `b + (a − b)(1 − p)`.
    #[default]
    Linear,
    /// `b + (a − b)(1 + cos πp)/2`.
    Cosine,
    /// `b + (a − b)√(1 − p)`: slow first, steep at the end.
    Sqrt,
    /// `b + (a − b)(1 − √p)`: steep first (Hägele et al. 2024, arXiv:2405.18392).
    OneMinusSqrt,
    /// `a(b/a)ᵖ`.
    Exponential,
    /// `a/√(1 + kp)`, with `k` such that it ends at `b`.
    InverseSqrt,
    /// `1/((1 − p)/a + p/b)`: a straight line in `1/rate`, steep first, which is the decay of WSD-S
    /// (Wen et al. 2024, arXiv:2410.05192).
    InverseLinear,
}

impl Shape {
    /// The value after `done` of `length` steps on the way from `from` to `to`.
    fn at(self, from: f64, to: f64, done: f64, length: f64) -> f64 {
        let progress = done / length;
        // The part of the way that is left; not 1 − progress, which rounds twice.
        let rest = (length - done) / length;
        let left = match self {
            Self::Constant => return from,
            Self::Exponential => return from * (to / from).powf(progress),
            Self::InverseSqrt => {
                return from / (1.0 + ((from / to).powi(2) - 1.0) * progress).sqrt();
            }
            Self::InverseLinear => return 1.0 / (rest / from + progress / to),
            Self::Linear if to > from => return from + (to - from) * progress,
            Self::Linear => rest,
            Self::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
            Self::Sqrt => rest.sqrt(),
            Self::OneMinusSqrt => 1.0 - progress.sqrt(),
        };
        to + (from - to) * left
    }

    /// Whether it is a quotient of its ends, so that neither can be zero.
    fn divides(self) -> bool {
        matches!(self, Self::Exponential | Self::InverseSqrt | Self::InverseLinear)
    }
}

/// A schedule that fits a run: the share at each step.
#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Segment {
    shape: Shape,
    start: u64,
    steps: u64,
    from: f64,
    to: f64,
}

impl Curve {
    /// The share of the full learning rate at `step`, counted from 0; after the run, that of its
    /// end.
    pub fn share_at(&self, step: u64) -> f64 {
        let after = self.segments.partition_point(|segment| segment.start <= step);
        let segment = &self.segments[after.saturating_sub(1)];
        let rises = u64::from(segment.to > segment.from);
        let done = (step.saturating_sub(segment.start) + rises).min(segment.steps);
        segment.shape.at(segment.from, segment.to, done as f64, segment.steps as f64)
    }

    /// The stretches at one rate above zero: steps done where each begins and where it ends. Two that
    /// follow each other at the same rate are one.
    pub(crate) fn plateaus(&self) -> Vec<Range<u64>> {
        let mut plateaus = Vec::<(Range<u64>, f64)>::new();
        for &Segment { start, steps, from, to, .. } in &self.segments {
            if from.to_bits() != to.to_bits() || from <= 0.0 {
                continue;
            }
            match plateaus.last_mut() {
                Some((before, share))
                    if before.end == start && share.to_bits() == from.to_bits() =>
                {
                    before.end = start + steps;
                }
                _ => plateaus.push((start..start + steps, from)),
            }
        }
        plateaus.into_iter().map(|(steps, _)| steps).collect()
    }
}

/// Segments as they are put together.
struct Row {
    segments: Vec<Segment>,
    /// The share at their end.
    share: f64,
    /// The steps of all of them.
    steps: u64,
}

impl Row {
    fn new() -> Self {
        Self { segments: Vec::new(), share: 1.0, steps: 0 }
    }

    /// Adds pieces of these lengths.
    fn append(&mut self, pieces: &[Piece], lengths: Vec<u64>) -> Result<(), String> {
        for (index, (piece, steps)) in pieces.iter().zip(lengths).enumerate() {
            let from = piece.from.unwrap_or(self.share);
            let to = piece.to.unwrap_or(from);
            check_ends(piece, from, to).map_err(|problem| {
                format!("piece {} ({}) {problem}", index + 1, name(piece.shape))
            })?;
            self.share = to;
            if steps > 0 {
                let start = self.steps;
                self.segments.push(Segment { shape: piece.shape, start, steps, from, to });
                self.steps += steps;
            }
        }
        Ok(())
    }

    fn curve(self) -> Result<Curve, String> {
        let Self { segments, .. } = self;
        if segments.is_empty() {
            return Err("it has no pieces: give it at least one".to_owned());
        }
        if segments.iter().all(|segment| segment.from <= 0.0 && segment.to <= 0.0) {
            return Err(
                "its rate is 0 at every step, so nothing is learned: give a piece a `to` above 0, such as 1"
                    .to_owned(),
            );
        }
        Ok(Curve { segments })
    }
}

impl Schedule {
    /// Lays the schedule over a run of `steps`.
    ///
    /// # Errors
    /// If its pieces are not as long as the run or a share is none: what to change.
    pub fn over(&self, steps: Steps) -> Result<Curve, String> {
        if let Self::InverseSqrt { warmup: Steps(0) } = self {
            return Err("inverse_sqrt falls as its warmup says: give it at least 1 step".to_owned());
        }
        let pieces = self.pieces(steps)?;
        let lengths = lengths(&pieces, steps.0, "train.steps is", "train.steps")?;
        self.check_warmup(steps)?;
        let mut row = Row::new();
        row.append(&pieces, lengths)?;
        row.curve()
    }

    /// Refuses a warm-up after which nothing is left of what the schedule is called after.
    fn check_warmup(&self, steps: Steps) -> Result<(), String> {
        match self {
            Self::Constant { warmup }
            | Self::Linear { warmup, .. }
            | Self::Cosine { warmup, .. }
            | Self::InverseSqrt { warmup }
                if *warmup == steps =>
            {
                Err(format!(
                    "its warmup takes all {} steps and leaves none for what follows it: shorten it, or \
                     raise train.steps",
                    steps.0
                ))
            }
            _ => Ok(()),
        }
    }

    /// Lays the pieces of each stage over its steps.
    ///
    /// # Errors
    /// As [`Schedule::over`], with the stage's name.
    pub(crate) fn over_stages<'a>(
        stages: impl Iterator<Item = (&'a str, &'a [Piece], u64)>,
    ) -> Result<Curve, String> {
        let mut row = Row::new();
        for (name, pieces, steps) in stages {
            let within = |problem: String| format!("the schedule of stage {name:?}: {problem}");
            if pieces.is_empty() {
                return Err(within(
                    "it has no pieces; give it some, such as [{ shape = \"constant\" }]".to_owned(),
                ));
            }
            let lengths = lengths(pieces, steps, "the stage has", "the steps of the stage");
            lengths.and_then(|lengths| row.append(pieces, lengths)).map_err(within)?;
        }
        row.curve()
    }

    /// The pieces that a name stands for.
    fn pieces(&self, steps: Steps) -> Result<Vec<Piece>, String> {
        let rest = |shape, to| Piece { shape, steps: None, from: Some(1.0), to };
        let warm = |warmup| Piece {
            shape: Shape::Linear,
            steps: Some(warmup),
            from: Some(0.0),
            to: Some(1.0),
        };
        let falling =
            |shape, steps, to| Piece { shape, steps: Some(steps), from: Some(1.0), to: Some(to) };
        Ok(match self {
            Self::Constant { warmup } => vec![warm(*warmup), rest(Shape::Constant, None)],
            Self::Linear { warmup, minimum } => {
                vec![warm(*warmup), rest(Shape::Linear, Some(*minimum))]
            }
            Self::Cosine { warmup, minimum } => {
                vec![warm(*warmup), rest(Shape::Cosine, Some(*minimum))]
            }
            Self::InverseSqrt { warmup } => {
                let end = (warmup.0 as f64 / steps.0 as f64).sqrt().min(1.0);
                vec![warm(*warmup), rest(Shape::InverseSqrt, Some(end))]
            }
            Self::WarmupStableDecay { warmup, decay, shape, minimum } => {
                vec![warm(*warmup), rest(Shape::Constant, None), falling(*shape, *decay, *minimum)]
            }
            Self::WarmupStableDecayCycles { warmup, cycles, decay, shape, minimum, rewarm } => {
                if cycles.is_empty() {
                    return Err(format!(
                        "cycles is empty: give the steps of each, together those of train.steps, such as \
                         [{}]",
                        steps.0
                    ));
                }
                let mut pieces = Vec::new();
                for (index, cycle) in cycles.iter().enumerate() {
                    let up = if index == 0 {
                        warm(*warmup)
                    } else {
                        Piece { from: Some(*minimum), ..warm(*rewarm) }
                    };
                    let rising = up.steps.unwrap_or_default();
                    let taken = rising.0.saturating_add(decay.0);
                    let stable = cycle.0.checked_sub(taken).ok_or_else(|| {
                        format!(
                            "warm-up and decay take {taken} of the {} steps of cycle {}: lengthen \
                             the cycle or shorten them",
                            cycle.0,
                            index + 1
                        )
                    })?;
                    let stable = Piece {
                        shape: Shape::Constant,
                        steps: Some(Steps(stable)),
                        from: Some(1.0),
                        to: None,
                    };
                    pieces.extend([up, stable, falling(*shape, *decay, *minimum)]);
                }
                pieces
            }
            Self::Stages => {
                return Err("kind = \"stages\" needs [[train.stage]] tables, each with its \
                            schedule"
                    .to_owned());
            }
            Self::Pieces { pieces } => pieces.clone(),
        })
    }
}

/// The steps of each piece, the open one's included.
/// `whole` and `key` are how messages call the row's own steps.
fn lengths(pieces: &[Piece], steps: u64, whole: &str, key: &str) -> Result<Vec<u64>, String> {
    let given = |piece: &Piece| piece.steps.map_or(0, |steps| steps.0);
    let sum = pieces.iter().map(given).fold(0, u64::saturating_add);
    let open = pieces.iter().filter(|piece| piece.steps.is_none()).count();
    match open {
        _ if sum > steps => Err(format!(
            "its pieces take {sum} steps, but {whole} {steps}: shorten them by {} steps or set {key} \
             to {sum}",
            sum - steps
        )),
        0 if sum < steps => Err(format!(
            "its pieces take {sum} steps, but {whole} {steps}: lengthen them by {} steps, leave out \
             the steps of one piece, which then takes the rest, or set {key} to {sum}",
            steps - sum
        )),
        0 | 1 => Ok(pieces
            .iter()
            .map(|piece| piece.steps.map_or(steps - sum, |steps| steps.0))
            .collect()),
        _ => Err(format!(
            "{open} of its pieces have no steps: at most one can take what the others leave"
        )),
    }
}

fn check_ends(piece: &Piece, from: f64, to: f64) -> Result<(), String> {
    if let Some(bad) = [from, to].into_iter().find(|share| !(0.0..=1.0).contains(share)) {
        return Err(format!("has the share {bad}: shares of the full rate are 0 to 1"));
    }
    if piece.shape == Shape::Constant {
        return if from.to_bits() == to.to_bits() {
            Ok(())
        } else {
            Err(format!(
                "goes from {from} to {to}: leave out `to`, or choose linear, cosine, sqrt, \
                 one_minus_sqrt, exponential, inverse_sqrt or inverse_linear"
            ))
        };
    }
    if piece.to.is_none() {
        return Err("does not say where it ends: give it `to`, a share of the full rate".to_owned());
    }
    if piece.shape.divides() && (from <= 0.0 || to <= 0.0) {
        return Err(format!(
            "goes from {from} to {to}, but never reaches zero: begin and end above it, such as 0.01"
        ));
    }
    Ok(())
}

fn name(shape: Shape) -> &'static str {
    match shape {
        Shape::Constant => "constant",
        Shape::Linear => "linear",
        Shape::Cosine => "cosine",
        Shape::Sqrt => "sqrt",
        Shape::OneMinusSqrt => "one_minus_sqrt",
        Shape::Exponential => "exponential",
        Shape::InverseSqrt => "inverse_sqrt",
        Shape::InverseLinear => "inverse_linear",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(schedule: &Schedule, expect: &[(u64, f64)]) {
        let curve = schedule.over(Steps(100)).unwrap();
        for (step, share) in expect {
            let got = curve.share_at(*step);
            assert!((got - share).abs() < 1e-12, "{schedule:?} at {step}: {got}, not {share}");
        }
    }

    #[test]
    fn schedules_take_their_shape() {
        let warmup = Steps(10);
        check(&Schedule::Constant { warmup }, &[(0, 0.1), (9, 1.0), (99, 1.0)]);
        check(&Schedule::Linear { warmup, minimum: 0.1 }, &[(0, 0.1), (10, 1.0), (55, 0.55)]);
        check(
            &Schedule::Cosine { warmup, minimum: 0.1 },
            &[(4, 0.5), (10, 1.0), (55, 0.55), (100, 0.1)],
        );
        check(
            &Schedule::InverseSqrt { warmup },
            &[(0, 0.1), (10, 1.0), (40, 0.5), (90, 1.0 / 3.0)],
        );
        let stable =
            |shape| Schedule::WarmupStableDecay { warmup, decay: Steps(20), shape, minimum: 0.0 };
        check(&stable(Shape::Linear), &[(0, 0.1), (50, 1.0), (80, 1.0), (90, 0.5), (99, 0.05)]);
        check(&stable(Shape::Sqrt), &[(80, 1.0), (95, 0.5)]);
        check(&stable(Shape::OneMinusSqrt), &[(80, 1.0), (85, 0.5), (100, 0.0)]);
        check(
            &Schedule::WarmupStableDecayCycles {
                warmup,
                cycles: vec![Steps(40), Steps(60)],
                decay: Steps(20),
                shape: Shape::Linear,
                minimum: 0.5,
                rewarm: Steps(5),
            },
            &[(9, 1.0), (20, 1.0), (30, 0.75), (40, 0.6), (44, 1.0), (80, 1.0), (90, 0.75)],
        );
    }

    /// The formula of the slides, without warm-up and without a floor.
    #[test]
    fn a_cosine_without_warm_up_is_the_slides_formula() {
        let curve = Schedule::Cosine { warmup: Steps(0), minimum: 0.0 }.over(Steps(1000)).unwrap();
        for t in 0..1000_u64 {
            let formula = 0.5 * (1.0 + (PI * t as f64 / 1000.0).cos());
            // The product and the quotient in the cosine are rounded in another order.
            assert!((curve.share_at(t) - formula).abs() < 1e-15, "step {t}");
        }
    }

    #[test]
    fn what_does_not_add_up_says_what_to_change() {
        let refused = |text: &str, expect: &str| {
            let schedule: Schedule = toml::from_str(text).unwrap();
            let message = schedule.over(Steps(100)).unwrap_err();
            assert!(message.contains(expect), "{text}: {message}");
        };
        refused(
            "kind = 'cosine'\nwarmup = '120 steps'",
            "take 120 steps, but train.steps is 100: shorten them by 20 steps",
        );
        refused("kind = 'inverse_sqrt'\nwarmup = '0 steps'", "at least 1 step");
        refused("kind = 'pieces'\npieces = []", "but train.steps is 100");
        for kind in ["constant", "linear", "cosine", "inverse_sqrt"] {
            refused(&format!("kind = '{kind}'\nwarmup = 100"), "warmup takes all 100 steps");
        }
        refused(
            "kind = 'warmup_stable_decay_cycles'\ncycles = []\ndecay = 20",
            "cycles is empty: give the steps of each",
        );
        let pieces = |pieces: &str, expect: &str| {
            refused(&format!("kind = 'pieces'\npieces = [{pieces}]"), expect);
        };
        pieces("{ shape = 'constant', steps = 60 }", "lengthen them by 40 steps");
        pieces("{ shape = 'constant' }, { shape = 'linear', to = 0.0 }", "2 of its pieces");
        pieces("{ shape = 'linear' }", "piece 1 (linear) does not say where it ends");
        pieces("{ shape = 'linear', to = 1.5 }", "share 1.5");
        pieces("{ shape = 'linear', to = nan }", "share NaN");
        for shape in ["exponential", "inverse_sqrt", "inverse_linear"] {
            pieces(&format!("{{ shape = '{shape}', to = 0.0 }}"), "never reaches zero");
        }
        pieces("{ shape = 'constant', from = 0.0 }", "its rate is 0 at every step");
        pieces("{ shape = 'constant', from = 0.1, to = 0.2 }", "leave out `to`");
        refused(
            "kind = 'warmup_stable_decay_cycles'\ncycles = [50, 10, 40]\ndecay = 20",
            "take 20 of the 10 steps of cycle 2",
        );
        refused(
            "kind = 'warmup_stable_decay_cycles'\ncycles = [50, 20]\ndecay = 20",
            "take 70 steps, but train.steps is 100",
        );
        refused(
            "kind = 'warmup_stable_decay_cycles'\ncycles = [50, 18446744073709551615]\ndecay = 20",
            "but train.steps is 100",
        );
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            Just(Shape::Linear),
            Just(Shape::Cosine),
            Just(Shape::Sqrt),
            Just(Shape::OneMinusSqrt),
            Just(Shape::Exponential),
            Just(Shape::InverseSqrt),
            Just(Shape::InverseLinear),
        ]
    }

    proptest! {
        /// Pieces that begin where the one before ended: the curve begins and ends as it says,
        /// stays between the ends of its pieces and never leaps.
        #[test]
        fn pieces_meet(rows in prop::collection::vec((shape(), 1..50_u64, 0.01..1.0_f64), 1..6)) {
            let pieces: Vec<Piece> = rows.iter().map(|&(shape, steps, to)| Piece {
                shape, steps: Some(Steps(steps)), from: None, to: Some(to),
            }).collect();
            let total = rows.iter().map(|row| row.1).sum();
            let curve = Schedule::Pieces { pieces }.over(Steps(total)).unwrap();
            let (mut from, mut start) = (1.0_f64, 0);
            for &(shape, steps, to) in &rows {
                let mut before = from;
                for at in 0..steps {
                    let share = curve.share_at(start + at);
                    let slack = 1e-12;
                    prop_assert!(share >= from.min(to) - slack && share <= from.max(to) + slack);
                    prop_assert!((share - before) * (to - from) >= -slack, "{shape:?} turns back");
                    before = share;
                }
                if to > from {
                    prop_assert!((before - to).abs() < 1e-12, "a rise ends at its last step");
                } else {
                    prop_assert!((curve.share_at(start) - from).abs() < 1e-12, "a fall begins at from");
                }
                (from, start) = (to, start + steps);
            }
            prop_assert!((curve.share_at(total) - from).abs() < 1e-12);
            prop_assert_eq!(curve.share_at(total).to_bits(), curve.share_at(u64::MAX).to_bits());
        }

        /// The piece without steps takes what is left, wherever it stands.
        #[test]
        fn the_open_piece_takes_the_rest(open in 0..3_usize, first in 1..30_u64, second in 1..30_u64) {
            let mut pieces = vec![Piece { shape: Shape::Linear, steps: Some(Steps(first)), from: None, to: Some(0.5) },
                Piece { shape: Shape::Cosine, steps: Some(Steps(second)), from: None, to: Some(0.1) }];
            pieces.insert(open, Piece { shape: Shape::Constant, steps: None, from: None, to: None });
            let open_curve = Schedule::Pieces { pieces: pieces.clone() }.over(Steps(100)).unwrap();
            pieces[open].steps = Some(Steps(100 - first - second));
            prop_assert_eq!(open_curve, Schedule::Pieces { pieces }.over(Steps(100)).unwrap());
        }
    }
}
