//! What the machine's own kernel cannot show: run in guest kernels by `cargo xtask test vm`, beside the packet tables
//! (`tests/bpf`) and the pod tests (`tests/dataplane`), which run there as they are.
//!
//! On a machine whose kernel has ipip it runs too, in network namespaces of its own; on others it fails.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, its helpers too")]

mod loading;
