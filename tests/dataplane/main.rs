//! The dataplane crate against the real kernel, in network namespaces of its own.
//!
//! What it claims to have done is looked at through `ip`, `nft`, `bpftool`, `ping` and captured packets, never through
//! itself. Needs root; without it every test fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod events;
mod fixture;
mod nat;
mod overlay;
mod reconcile;
mod routes;
mod wiring;
