//! Model checking of the allocation protocol, on the code that runs.

pub mod action;
pub mod checker;
pub mod config;
pub mod configs;
pub mod settle;
pub mod state;
pub mod step;
pub mod truth;
