//! The real agent, plugin and `poolwardctl` in network namespaces: every promise of one node, end to end.
//!
//! Each test has a node, a firewall and an outside of its own ([`site`]) and believes nobody: what pods get is read
//! by `ip`, what the node does by `nft` and `bpftool`, what leaves it by captures at the firewall. Needs root; without
//! it every test fails.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod attach;
mod background;
mod dual_stack;
mod frames;
mod kernel;
mod manifest;
mod random;
mod site;
mod traffic;

mod bad_input;
mod check;
mod choice;
mod cni_add_del;
mod cni_check;
mod cni_gc_status;
mod crash;
mod journal;
mod leaks;
mod macvlan;
mod node_life;
mod other_plugins;
mod pools;
mod races;
mod repair;
mod second_agent;
mod spoofing;
mod stop;
mod upkeep;
mod walkthrough;
mod wishes;
