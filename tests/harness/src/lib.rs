//! Network namespaces, captures and processes for the test tiers, the demo and the benchmarks.
//!
//! An oracle independent of what it tests: it looks at the kernel through iproute2, nft and packet sockets, and
//! shares no code with the agent, the plugin or the programs.

mod netns;
mod run;

pub use netns::{Link, NetNs, parse_mac};
pub use run::{DEFAULT_LIMIT, Finished, Run};
