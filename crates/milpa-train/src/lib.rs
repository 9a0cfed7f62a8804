//! Pre-training: schedule, optimiser, checkpoints, resume
