//! The dataplane crate against the real kernel, in network namespaces of its own.
//!
//! What it claims to have done is looked at through `ip`, `nft`, `bpftool`, `ping` and captured packets, never through
//! itself. Needs root; without it every test fails.

mod fixture;
mod latency;
mod nat;
mod reconcile;
mod wiring;
