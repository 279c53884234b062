//! Several nodes, each with the real agent and plugin in a network namespace, and a real Kubernetes API server: every
//! promise of many nodes, end to end.
//!
//! All tests share one control plane, and each has a network and objects of its own ([`site`]). They believe nobody:
//! what crosses the underlay is counted, and in mode Always dropped, by a witness that knows only the pods' ranges. Needs
//! root and `cargo xtask setup --kubernetes`; without them every test fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

extern crate poolward_harness as harness;

mod site;
mod traffic;

mod control_run;
mod host_local;
mod membership;
mod mesh;
mod outage;
mod path;
mod quiet;
mod restored;
mod role;
mod scarcity;
mod tags;
