//! The node's kernel state: what it shall be, what it is, and the operations that make the one out of the other.
//!
//! Responsible for pods' interfaces, addresses and routes, for the blackholes of own blocks, for the routes to what
//! other nodes serve and the tunnel they may go through, for where the eBPF programs run and what their maps hold, for the nftables table, and for the few switches that pods need.
//! [`Dataplane`] is the way in.
//!
//! Not responsible for who gets which address (`ipam`), for what pools and blocks there are (`store`), or for the
//! programs themselves (`bpf`).
//!
//! Everything of ours is recognisable by itself, so that nothing foreign is ever touched:
//!
//! | object | by |
//! |---|---|
//! | host's end of a pod's pair | its alias ([`model::Identity`]) |
//! | routes | their protocol number |
//! | nexthop objects | a range of numbers, and their protocol number |
//! | this node's own address | its label on `lo` |
//! | tunnel device | its name and kind |
//! | nftables table | its name |
//! | programs, maps, links | the directory of their pins |
#![forbid(unsafe_code)]

mod activity;
mod check;
mod dataplane;
mod desired;
mod events;
#[cfg(feature = "fake")]
pub mod fake;
mod interpreter;
mod kernel;
mod leftovers;
mod object;
mod op;
mod plan;
mod reconcile;
mod report;
mod settings;
#[cfg(test)]
mod tests;
mod wiring;

pub use activity::Epoch;
pub use bpf::{AttachMode, PoolCounters, SCHEMA_VERSION as MAP_SCHEMA_VERSION, is_bpffs};
pub use check::Difference;
pub use dataplane::{Dataplane, KernelPod, WireError, unload_programs};
pub use desired::{DesiredState, Peer, Pool, RemoteRange};
pub use events::{Event, Events};
pub use kernel::KernelError;
pub use leftovers::Leftovers;
pub use model::Mac;
pub use plan::Unrouted;
pub use report::{DataplaneError, Report, Uplink, UplinkSource};
pub use settings::{EncapBackend, Settings};
pub use wiring::{GATEWAY_IPV4, GATEWAY_IPV6, PodWiring, Wired};
