//! The programs on a real kernel: every verdict by single test runs, then attaching, adopting and replacing
//! with real traffic. Needs root and a bpffs at `/sys/fs/bpf`; fails without.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod arp;
mod attach;
mod bench;
mod dump;
mod frames;
mod from_uplink;
mod ipv4;
mod ipv6;
mod maps;
mod nodes;
mod path_mtu;
mod sources;
mod tagging;
mod tcx;
mod to_uplink;
mod traffic;
mod underlay;
mod uplink;
