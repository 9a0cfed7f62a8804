//! Shapes, devices, memory and the tape of coarse operations with forward and backward
