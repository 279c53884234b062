//! A Kubernetes cluster of real nodes on this one machine: kubelets, containerd, kube-proxy, pods; and Poolward under
//! them.
//!
//! Tests share one cluster ([`site`]), each with namespaces of its own. Needs root and `cargo xtask setup --kubernetes`;
//! without them every test fails.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

extern crate poolward_harness as harness;

mod site;

mod bare;
mod dual_stack;
mod gone;
mod leaks;
mod pages;
mod reach;
mod reboot;
mod selection;
mod services;
mod upgrade;
mod walkthrough;
