//! The store on a real API server: conformance, definitions, finalizers, and what it does when things go wrong.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod cluster;
mod conformance;
mod cut;
mod definitions;
mod history;
mod objects;
mod outage;
mod scripted;
