//! What crosses the agent's unix socket: frames, messages, and the one file descriptor that goes with an ADD.
//!
//! Used by the CNI plugin and `poolwardctl` on one side and the agent on the other. It has no asynchronous
//! code, so that the plugin stays small; the agent uses [`frame`] and [`socket`] on its own streams.
#![forbid(unsafe_code)]

pub mod client;
pub mod frame;
mod message;
pub mod socket;

pub use message::*;
