//! Checkpoint to a measured bundle that can be served
