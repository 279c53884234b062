//! Pods.
pub mod gate;
