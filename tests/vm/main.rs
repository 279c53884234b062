//! What the machine's own kernel cannot show: run in guest kernels by `cargo xtask test vm`, beside the packet tables
//! (`tests/bpf`) and the pod tests (`tests/dataplane`), which run there as they are.
//!
//! Both backends of encapsulation stand beside a node that knows nothing of us: the kernel's own `tunl0`, and routes
//! through it. What that one puts on the wire for a packet, and what it makes of one, is what is expected of ours.
//!
//! On a machine whose kernel has ipip it runs too, in network namespaces of its own; on others it fails.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests are tests")]

mod decapsulation;
mod device;
mod encapsulation;
mod loading;
mod packet;
mod traffic;
mod world;
