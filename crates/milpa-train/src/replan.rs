//! The recipe's stages with what changed on the way: shares of replay that the controller moved, and
//! batches that were passed over by going back.
//!
//! Changes fall between two batches of the data, and nothing before them becomes other. Batches that are
//! passed over are planned once more right behind them, with their stages' mixtures, so that each step of
//! a stage reads what the stage says, whatever was passed over before it. It opens nothing.

use milpa_base::Steps;
use serde::{Deserialize, Serialize};

use crate::{config::TrainConfig, control::ReplayChange, stages::StageConfig};

/// Batches that were read and passed over by going back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PassedOver {
    /// The first batch after them, counted from 0.
    pub batch: u64,
    /// How many they are.
    pub batches: u64,
}

/// The recipe's stages as they are drawn. Stages are cut where something falls; one that goes on is named
/// after the step that its batch would be.
///
/// # Errors
/// Stages that do not add up.
pub(crate) fn with_changes(
    config: &TrainConfig,
    changes: &[ReplayChange],
    passed_over: &[PassedOver],
) -> Result<TrainConfig, String> {
    let mut changed = config.clone();
    if config.stages.is_empty() {
        return Ok(changed);
    }
    let steps = config.stage_steps()?;
    for (stage, steps) in changed.stages.iter_mut().zip(steps) {
        (stage.steps, stage.tokens, stage.share) = (Some(Steps(steps)), None, None);
    }
    let limit = config.forgetting.as_ref().and_then(|forgetting| forgetting.limit.as_ref());
    let mut passed_over = passed_over.iter().peekable();
    for change in changes {
        while let Some(passed) = passed_over.next_if(|passed| passed.batch <= change.batch) {
            plan_again(&mut changed, *passed);
        }
        let Some(limit) = limit else { continue };
        let first = cut(&mut changed.stages, change.batch);
        for stage in &mut changed.stages[first..] {
            stage.replay.insert(limit.replay.clone(), change.replay);
        }
    }
    passed_over.for_each(|passed| plan_again(&mut changed, *passed));
    Ok(changed)
}

/// Puts the batches that were passed over behind themselves once more.
fn plan_again(config: &mut TrainConfig, passed: PassedOver) {
    let PassedOver { batch, batches } = passed;
    let at = cut(&mut config.stages, batch);
    let (mut end, mut again) = (0, Vec::new());
    for stage in &config.stages[..at] {
        let begin = end;
        end += length(stage);
        let within = end.saturating_sub(begin.max(batch.saturating_sub(batches)));
        if within > 0 {
            let mut copy = renamed(stage, batch + again.iter().map(length).sum::<u64>());
            copy.steps = Some(Steps(within));
            again.push(copy);
        }
    }
    // What was read beyond the plan's end, of its last stage, needs no place in it.
    let added = again.iter().map(length).sum::<u64>();
    if let Some(rest) = config.stages.get_mut(at)
        && rest.name.contains(FROM_STEP)
    {
        *rest = renamed(rest, batch + added);
    }
    config.stages.splice(at..at, again);
    config.steps.0 += added;
}

/// Cuts the stage within which `batch` lies; the number of the first stage that begins there or later.
fn cut(stages: &mut Vec<StageConfig>, batch: u64) -> usize {
    let mut begin = 0;
    for index in 0..stages.len() {
        if begin >= batch {
            return index;
        }
        let end = begin + length(&stages[index]);
        if batch < end {
            let mut rest = renamed(&stages[index], batch);
            rest.steps = Some(Steps(end - batch));
            stages[index].steps = Some(Steps(batch - begin));
            stages.insert(index + 1, rest);
            return index + 1;
        }
        begin = end;
    }
    stages.len()
}

/// What stands in a name before the step from which a part of a stage is drawn.
const FROM_STEP: &str = " from step ";

fn renamed(stage: &StageConfig, batch: u64) -> StageConfig {
    let name = stage.name.split(FROM_STEP).next().unwrap_or(&stage.name);
    StageConfig { name: format!("{name}{FROM_STEP}{}", batch + 1), ..stage.clone() }
}

fn length(stage: &StageConfig) -> u64 {
    stage.steps.map_or(0, |steps| steps.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "steps = 30
        sequence_length = 16
        batch_size = 4
        checkpoint_every = 5
        validate_every = 5
        schedule = { kind = 'constant' }
        optimizer = { kind = 'adam_w', learning_rate = 0.01 }
        [[stage]]
        name = 'first'
        steps = 10
        [[stage]]
        name = 'second'
        batch_size = 2
        [[replay]]
        name = 'general'
        tokens = 'general'
        share = 0.1
        [forgetting]
        every = 5
        general = 'general'
        limit = { percent = 10.0, replay = 'general' }";

    /// Stages as name, steps and share of replay.
    fn check(
        changes: &[(u64, f64)],
        passed_over: &[(u64, u64)],
        expect: &[(&str, u64, Option<f64>)],
    ) {
        let config: TrainConfig = toml::from_str(RECIPE).unwrap();
        let changes: Vec<_> =
            changes.iter().map(|&(batch, replay)| ReplayChange { batch, replay }).collect();
        let passed_over: Vec<_> =
            passed_over.iter().map(|&(batch, batches)| PassedOver { batch, batches }).collect();
        let changed = with_changes(&config, &changes, &passed_over).unwrap();
        let found: Vec<_> = changed
            .stages
            .iter()
            .map(|stage| (&*stage.name, length(stage), stage.replay.get("general").copied()))
            .collect();
        assert_eq!(found, expect, "{changes:?} {passed_over:?}");
        assert_eq!(changed.steps.0, expect.iter().map(|(_, steps, _)| steps).sum::<u64>());
        assert_eq!(changed.stage_steps().unwrap().len(), expect.len());
    }

    #[test]
    fn stages_are_cut_where_replay_changes() {
        check(&[], &[], &[("first", 10, None), ("second", 20, None)]);
        check(
            &[(4, 0.2), (10, 0.3), (15, 0.1)],
            &[],
            &[
                ("first", 4, None),
                ("first from step 5", 6, Some(0.2)),
                ("second", 5, Some(0.3)),
                ("second from step 16", 15, Some(0.1)),
            ],
        );
    }

    #[test]
    fn what_is_passed_over_is_planned_again() {
        // Within a stage, which becomes longer.
        check(
            &[],
            &[(8, 3)],
            &[
                ("first", 8, None),
                ("first from step 9", 3, None),
                ("first from step 12", 2, None),
                ("second", 20, None),
            ],
        );
        // Over the end of a stage: the rest of it, and what was read of the next.
        check(
            &[],
            &[(12, 4)],
            &[
                ("first", 10, None),
                ("second", 2, None),
                ("first from step 13", 2, None),
                ("second from step 15", 2, None),
                ("second from step 17", 18, None),
            ],
        );
        // At the end of a stage, and twice.
        check(
            &[],
            &[(10, 2), (12, 1)],
            &[
                ("first", 10, None),
                ("first from step 11", 2, None),
                ("first from step 13", 1, None),
                ("second", 20, None),
            ],
        );
    }

    #[test]
    fn changes_come_in_the_order_of_the_batches() {
        check(
            &[(5, 0.2), (20, 0.4)],
            &[(8, 3)],
            &[
                ("first", 5, None),
                ("first from step 6", 3, Some(0.2)),
                ("first from step 9", 3, Some(0.2)),
                ("first from step 12", 2, Some(0.2)),
                ("second", 7, Some(0.2)),
                ("second from step 21", 13, Some(0.4)),
            ],
        );
    }
}
