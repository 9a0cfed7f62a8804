//! What can go wrong in training, said so that a person knows what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use milpa_base::{ArtifactError, ManifestError};
use milpa_eval::EvalError;
use milpa_model::DecoderError;
use milpa_tensor::TensorError;
use milpa_tokens::TokensError;

use crate::trainer::Summary;

fn kept(checkpoint: Option<&Path>) -> String {
    checkpoint.map_or_else(String::new, |path| {
        format!("the last checkpoint below it is {}\n", path.display())
    })
}

/// An error of training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A file cannot be read or written.
    #[error("cannot use {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A checkpoint cannot be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A checkpoint is missing or damaged.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A checkpoint cannot be copied.
    #[error(transparent)]
    Copy(#[from] milpa_base::CopyError),
    /// The model cannot be computed.
    #[error(transparent)]
    Model(#[from] DecoderError),
    /// The device refused.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The token shards do not fit.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// A checkpoint does not hold what its manifest promises.
    #[error("the checkpoint {path} cannot be resumed: {message}")]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// A base that cannot be gone on from.
    #[error("the base {path} cannot be gone on from: {message}")]
    Base {
        /// Its folder.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// The adapter does not fit the run.
    #[error("train.lora: {0}")]
    Adapter(String),
    /// Forgetting cannot be measured.
    #[error("train.forgetting: {message}")]
    Forgetting {
        /// Why not.
        message: String,
    },
    /// A measurement failed.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The run forgets more than the recipe allows, and nothing is left to be done about it.
    #[error(
        "stopped after step {step}: {reason}. {}hint: raise train.forgetting.limit.percent or \
         largest_replay, give the replay more text or epochs, or a set nearer to what the base knew, or \
         lower train.optimizer's learning rate",
        kept(checkpoint.as_deref())
    )]
    ForgetsTooMuch {
        /// Steps done.
        step: u64,
        /// What was measured.
        reason: String,
        /// The last checkpoint below the limit.
        checkpoint: Option<PathBuf>,
    },
    /// The run is complete, and nothing that it could end with lies below the recipe's limit.
    #[error(
        "the training is complete, but it forgot more than train.forgetting.limit allows: of all that it \
         could end with, {chosen:?} forgot least, {forgetting}, and the limit is {percent} %. {path} has \
         all numbers\nhint: allow more replay (largest_replay, or more text and epochs for it), a lower \
         learning rate, more steps at a low rate, or a wider limit; to use what was trained as it is, take \
         it from {checkpoint}",
        path = path.display(),
        checkpoint = checkpoint.display()
    )]
    AboveLimit {
        /// What forgot least.
        chosen: String,
        /// How much it forgot, with its interval.
        forgetting: String,
        /// The limit, %.
        percent: f64,
        /// The report.
        path: PathBuf,
        /// What was chosen all the same.
        checkpoint: PathBuf,
        /// What the run came to.
        summary: Box<Summary>,
    },
    /// The schedule does not fit the run.
    #[error("train.schedule: {0}")]
    Schedule(String),
    /// The learning rates cannot be carried over from another width.
    #[error("train.mup: {0}")]
    Mup(String),
    /// The stages do not fit the run.
    #[error("train.stage: {0}")]
    Stages(String),
    /// A folder holds a run with another plan.
    #[error(
        "{path} holds {step} steps of a run with another plan or other data:\n  {differences}\nhint: \
         put it back to go on as it was; --extend keeps what is trained and goes on with the new plan; \
         --anew sets it aside and begins anew, as does another --out"
    )]
    OtherPlan {
        /// The training folder.
        path: PathBuf,
        /// Steps done.
        step: u64,
        /// What is other, one line each.
        differences: String,
    },
    /// A run cannot be gone on with by another plan.
    #[error(
        "the run in {path} cannot be gone on with by this plan: {message}; begin anew with --anew or \
         another --out"
    )]
    CannotExtend {
        /// The training folder, or the checkpoint to fork.
        path: PathBuf,
        /// Why not.
        message: String,
    },
    /// A run would begin at a checkpoint, but its folder holds one already.
    #[error(
        "{path} holds a run that did not begin at {from}: choose another --out for the fork, or leave \
         --fork out to go on with that run"
    )]
    Occupied {
        /// The training folder.
        path: PathBuf,
        /// The checkpoint to fork.
        from: PathBuf,
    },
    /// The run went back, and its data does not last for what is left.
    #[error(
        "the run went back to step {step} and passed over data, and what is left does not last for it: {problem}. \
         Raise its epochs, or give the stage other sources, and go on with --extend"
    )]
    OutOfEpochs {
        /// The step to which it went back.
        step: u64,
        /// What does not last.
        problem: String,
    },
    /// The loss is no longer a number.
    #[error(
        "the loss of step {step} is {loss} and the norm of its gradient {gradient_norm}: training \
         diverged ({origin}); lower train.optimizer's learning rate or lengthen the warm-up, then run again"
    )]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// The norm of the gradient.
        gradient_norm: f64,
        /// What was not finite first.
        origin: String,
    },
    /// Going back did not help.
    #[error(
        "the loss and the gradient stayed outliers up to step {step} (loss {loss}, norm of the \
         gradient {gradient_norm}) after going back {rollbacks} times: lower train.optimizer's \
         learning rate, look at the data of these steps, or raise train.stability.sigmas, then run \
         again"
    )]
    Unstable {
        /// The step, counted from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The norm of its gradient.
        gradient_norm: f64,
        /// How often the run went back.
        rollbacks: u64,
    },
    /// A stop was asked for; the state is saved.
    #[error("stopped after step {step} of {steps}; the state is saved in {checkpoint}")]
    Interrupted {
        /// Steps done.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Where the state is.
        checkpoint: PathBuf,
    },
    /// A folder cannot be the second one for a run's checkpoints.
    #[error("{path} cannot be the mirror: {message}")]
    Mirror {
        /// The folder.
        path: PathBuf,
        /// Why not, and what to do.
        message: String,
    },
}

impl TrainError {
    /// Whether the recipe, or what it is run on, cannot be right: to begin again is in vain.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Base { .. }
            | Self::Adapter(_)
            | Self::Forgetting { .. }
            | Self::Schedule(_)
            | Self::Mup(_)
            | Self::Stages(_)
            | Self::OtherPlan { .. }
            | Self::CannotExtend { .. }
            | Self::Occupied { .. }
            | Self::Mirror { .. } => true,
            Self::Tokens(error) => error.is_usage(),
            Self::Eval(error) => error.is_usage(),
            _ => false,
        }
    }
}
